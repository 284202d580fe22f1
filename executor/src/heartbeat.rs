//! Signs of life: a small file that the running process writes many times a second, so that after kill -9 it is known until
//! when its steps could have acted. It survives the process, not the machine; after a power cut it is merely older.
//!
//! Must never say more than it knows: a file that is missing, that does not parse or that speaks of another time than the
//! clock does says that the process was never seen alive, so that nothing is laid at its door.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Milliseconds by which wall clock and time since boot may have drifted apart before the wall clock counts as set.
const DRIFT_MS: i64 = 2_000;
/// The process was never seen alive.
const NEVER: i64 = i64::MIN;

/// One sign of life: when, by the wall clock and by the time since that boot.
#[derive(Debug, PartialEq, Eq)]
struct Sign {
    wall_ms: i64,
    boot_ms: i64,
    boot: String,
}

impl Sign {
    fn at(wall_ms: i64) -> Self {
        Self { wall_ms, boot_ms: journal::boottime_ms(), boot: journal::boot_id().to_owned() }
    }

    fn text(&self) -> String {
        format!("{:020} {:020} {}\n", self.wall_ms, self.boot_ms, self.boot)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let (wall, boot, id) = (words.next()?, words.next()?, words.next()?);
        Some(Self { wall_ms: wall.parse().ok()?, boot_ms: boot.parse().ok()?, boot: id.to_owned() })
    }

    /// Until when the process was alive, in terms of the clock as it is `now`.
    fn alive_until(&self, now: &Self) -> i64 {
        let plausible = match self.boot == now.boot {
            true => ((now.wall_ms - self.wall_ms) - (now.boot_ms - self.boot_ms)).abs() <= DRIFT_MS,
            false => self.wall_ms <= now.wall_ms,
        };
        if plausible { self.wall_ms } else { NEVER }
    }
}

/// Notes that the process lives at `now_ms` (Unix milliseconds).
pub fn show_life(path: &Path, now_ms: i64) -> std::io::Result<()> {
    let file = File::options().create(true).write(true).truncate(false).mode(0o600).open(path)?;
    file.write_all_at(Sign::at(now_ms).text().as_bytes(), 0)
}

/// Until when (Unix milliseconds) the last process of this state folder was alive, as far as its signs can be trusted at `now_ms`.
pub fn last_sign_of_life(path: &Path, now_ms: i64) -> i64 {
    let sign = std::fs::read_to_string(path).ok().and_then(|text| Sign::parse(&text));
    sign.map_or(NEVER, |sign| sign.alive_until(&Sign::at(now_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(wall_ms: i64, boot_ms: i64, boot: &str) -> Sign {
        Sign { wall_ms, boot_ms, boot: boot.to_owned() }
    }

    #[test]
    fn a_sign_survives_being_written_and_read() {
        let written = sign(1_795_275_489_000, 77, "b");
        assert_eq!(Sign::parse(&written.text()), Some(written));
    }

    #[test]
    fn a_clock_that_was_set_makes_every_sign_worthless() {
        let then = sign(10_000, 500, "b");
        assert_eq!(then.alive_until(&sign(15_000, 5_500, "b")), 10_000);
        assert_eq!(then.alive_until(&sign(600_000, 5_500, "b")), NEVER, "forward");
        assert_eq!(then.alive_until(&sign(1_000, 5_500, "b")), NEVER, "back");
        assert_eq!(then.alive_until(&sign(15_000, 10, "another boot")), 10_000);
        assert_eq!(then.alive_until(&sign(1_000, 10, "another boot")), NEVER);
    }

    #[test]
    fn a_file_that_is_missing_or_nonsense_is_no_sign() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heartbeat");
        assert_eq!(last_sign_of_life(&path, 0), NEVER);
        std::fs::write(&path, "99999999999999999999").unwrap();
        assert_eq!(last_sign_of_life(&path, 0), NEVER);
    }
}
