//! Signs of life: a small file that the running process writes many times a second, so that after kill -9 it is known until
//! when its steps could have acted. It survives the process, not the machine; after a power cut it is merely older.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Notes that the process lives at `now_ms` (Unix milliseconds).
pub fn show_life(path: &Path, now_ms: i64) -> std::io::Result<()> {
    let file = File::options().create(true).write(true).truncate(false).mode(0o600).open(path)?;
    file.write_all_at(format!("{now_ms:020}\n").as_bytes(), 0)
}

/// When the last process of this state folder was seen alive.
pub fn last_sign_of_life(path: &Path) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
