//! The writer's lease: one process writes at a time, and one that was away too long finds itself fenced.
//!
//! Must never be a bare lock: a holder that is dead, or silent for a term, loses it.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::error::JournalError;

/// How long a lease lasts unless it is renewed, in milliseconds.
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
        Self { pid, started: start_of(pid).unwrap_or(0), boot: boot_id() }
    }
}

/// Whether the process still exists.
pub fn is_alive(holder: &Holder) -> bool {
    holder.boot == boot_id() && start_of(holder.pid) == Some(holder.started)
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
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

/// Takes the lease, or says who holds it. The returned epoch fences earlier holders.
pub(crate) fn acquire(db: &mut Connection, now: Timestamp) -> Result<i64, JournalError> {
    let failed = JournalError::sqlite("leased");
    let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(&failed)?;
    let row = tx
        .query_row("SELECT pid, started, boot, epoch, expires_ms FROM lease", [], |row| {
            let holder = Holder { pid: row.get(0)?, started: row.get::<_, i64>(1)? as u64, boot: row.get(2)? };
            Ok((holder, row.get::<_, i64>(3)?, row.get::<_, i64>(4)?))
        })
        .optional()
        .map_err(&failed)?;
    let now_ms = now.as_millisecond();
    let mut epoch = 1;
    if let Some((holder, held_epoch, expires_ms)) = row {
        let me = holder == Holder::me();
        if !me && is_alive(&holder) && now_ms < expires_ms {
            let until = Timestamp::from_millisecond(expires_ms).map_or_else(|_| "later".to_owned(), |t| t.to_string());
            return Err(JournalError::Busy { pid: holder.pid, until });
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

/// Checks inside a transaction that the lease is still of `epoch`.
pub(crate) fn check(db: &Connection, epoch: i64) -> Result<(), JournalError> {
    let failed = JournalError::sqlite("checked for its lease");
    let mut statement = db.prepare_cached("SELECT epoch FROM lease").map_err(&failed)?;
    let found: Option<i64> = statement.query_row([], |row| row.get(0)).optional().map_err(&failed)?;
    if found == Some(epoch) { Ok(()) } else { Err(JournalError::Fenced) }
}

/// Prolongs the lease by a term.
pub(crate) fn renew(db: &Connection, epoch: i64, now: Timestamp) -> Result<(), JournalError> {
    let failed = JournalError::sqlite("kept leased");
    let until = now.as_millisecond() + TERM_MS;
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
