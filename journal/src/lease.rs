//! The writer's lease: one process writes at a time, and one that was away too long finds itself fenced.
//!
//! Must never be a bare lock: a holder that is dead loses it. One that lives keeps it whatever the clock says, until a recovery
//! ends it because it was silent for a term.

use std::sync::OnceLock;

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::error::JournalError;

/// How long a lease lasts unless it is renewed, in milliseconds of the time since boot.
pub(crate) const TERM_MS: i64 = 10_000;

/// A process, in terms that survive the reuse of its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub started: u64,
    /// Which boot of the machine.
    pub boot: String,
}

impl Holder {
    /// This process.
    pub fn me() -> Self {
        let pid = std::process::id();
        Self { pid, started: start_of(pid).unwrap_or(0), boot: boot_id().to_owned() }
    }
}

/// Whether the process still exists.
pub fn is_alive(holder: &Holder) -> bool {
    holder.boot == boot_id() && start_of(holder.pid) == Some(holder.started)
}

/// Which boot of the machine this is.
pub fn boot_id() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    })
}

/// Start time of a live process; `None` if there is none, or only its zombie.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// What is done about a holder that lives and was silent for a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silent {
    /// It keeps the lease: it may only be slow.
    Keeps,
    /// It is ended with SIGKILL, so that it cannot go on acting once it wakes.
    IsEnded,
}

/// Milliseconds since boot, asleep or not: a clock that nobody sets.
pub fn boottime_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

fn holder_of(db: &Connection) -> rusqlite::Result<Option<(Holder, i64, i64)>> {
    db.query_row("SELECT pid, started, boot, epoch, expires_ms FROM lease", [], |row| {
        let holder = Holder { pid: row.get(0)?, started: row.get::<_, i64>(1)? as u64, boot: row.get(2)? };
        Ok((holder, row.get(3)?, row.get(4)?))
    })
    .optional()
}

/// The process that holds the lease, if it lives and is not this one.
pub(crate) fn live_holder(db: &Connection) -> Option<u32> {
    let (holder, ..) = holder_of(db).ok()??;
    (is_alive(&holder) && holder != Holder::me()).then_some(holder.pid)
}

/// Takes the lease, or says who holds it. The returned epoch fences earlier holders.
pub(crate) fn acquire(db: &mut Connection, silent: Silent) -> Result<i64, JournalError> {
    let failed = JournalError::sqlite("leased");
    let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(&failed)?;
    let now_ms = boottime_ms();
    let mut epoch = 1;
    if let Some((holder, held_epoch, expires_ms)) = holder_of(&tx).map_err(&failed)? {
        if holder != Holder::me() && is_alive(&holder) {
            let pid = holder.pid;
            let silent_for_s = (now_ms - expires_ms + TERM_MS).max(0) / 1000;
            if now_ms < expires_ms || silent == Silent::Keeps {
                return Err(JournalError::Busy { pid, silent_for_s });
            }
            end(&holder).map_err(|source| JournalError::Io { doing: "taken over from a silent process", source })?;
        }
        epoch = held_epoch + 1;
    }
    let me = Holder::me();
    tx.execute(
        "INSERT OR REPLACE INTO lease (one, pid, started, boot, epoch, expires_ms) VALUES (1, ?1, ?2, ?3, ?4, ?5)",
        params![me.pid, me.started as i64, me.boot, epoch, now_ms + TERM_MS],
    )
    .map_err(&failed)?;
    tx.commit().map_err(&failed)?;
    Ok(epoch)
}

/// Ends a process and waits until it is gone. The descriptor keeps its id from being given to another meanwhile.
fn end(holder: &Holder) -> std::io::Result<()> {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let Some(pid) = Pid::from_raw(holder.pid as i32) else { return Ok(()) };
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    if !is_alive(holder) {
        return Ok(());
    }
    pidfd_send_signal(&fd, Signal::KILL)?;
    for _ in 0..500 {
        if !is_alive(holder) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(std::io::Error::other(format!("process {} does not end", holder.pid)))
}

/// Checks inside a transaction that the lease is still of `epoch`.
pub(crate) fn check(db: &Connection, epoch: i64) -> Result<(), JournalError> {
    let failed = JournalError::sqlite("checked for its lease");
    let mut statement = db.prepare_cached("SELECT epoch FROM lease").map_err(&failed)?;
    let found: Option<i64> = statement.query_row([], |row| row.get(0)).optional().map_err(&failed)?;
    if found == Some(epoch) { Ok(()) } else { Err(JournalError::Fenced) }
}

/// Prolongs the lease by a term.
pub(crate) fn renew(db: &Connection, epoch: i64) -> Result<(), JournalError> {
    let failed = JournalError::sqlite("kept leased");
    let until = boottime_ms() + TERM_MS;
    let changed =
        db.execute("UPDATE lease SET expires_ms = ?1 WHERE epoch = ?2", params![until, epoch]).map_err(failed)?;
    if changed == 1 { Ok(()) } else { Err(JournalError::Fenced) }
}

/// Gives the lease up, if it is still ours.
pub(crate) fn release(db: &Connection, epoch: i64) -> Result<(), JournalError> {
    db.execute("UPDATE lease SET expires_ms = 0, pid = 0 WHERE epoch = ?1", [epoch])
        .map(|_| ())
        .map_err(JournalError::sqlite("released"))
}
