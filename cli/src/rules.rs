//! The policy in force: the bundle in the state folder, held against its signed list, and never older than the log has seen.
//!
//! Must never decide by rules that somebody changed after they were signed. A bundle that does not load refuses everything.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use jiff::Timestamp;
use policy::{Bundle, Engine, Listing};
use schemas::{Code, Document as _, Envelope, ExitCode, Record, RecordBody, Role, SecretKey, TrustRoot, Verified};

use crate::home::{Home, write_durably};
use crate::problem::{Problem, chain};

/// Folders of a bundle.
const FOLDERS: [&str; 4] = ["policies", "exceptions", "invariants", "cases"];

/// Name of the signed list in the folder of a bundle.
pub(crate) const LIST: &str = "bundle.json";

/// Largest file of a bundle.
const MAX_BYTES: u64 = 4 << 20;

/// Everything is refused: the policy is not good.
pub(crate) fn refuse(text: impl std::fmt::Display) -> Problem {
    Problem::new(
        ExitCode::Refused,
        Code::POLICY_ERROR,
        format!("the policy is not good, and nothing runs without one: {text}"),
        "mend the files in a copy of .backout/policy, then backout policy sign COPY --as ONE --as ANOTHER",
    )
}

/// Reads the files of a bundle, whether they are signed or not.
pub(crate) fn read(folder: &Path) -> Result<Bundle, Problem> {
    if !folder.is_dir() {
        let title = format!("{} is no folder of a bundle", folder.display());
        return Err(Problem::usage(title, "name a folder that has policies/*.cedar, or leave it out"));
    }
    let failed = |path: &Path, error: std::io::Error| refuse(format!("{}: {error}", path.display()));
    let mut files = BTreeMap::new();
    for name in FOLDERS {
        let inner = folder.join(name);
        let entries = match std::fs::read_dir(&inner) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&inner, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| failed(&inner, error))?;
            let file = entry.file_name().to_string_lossy().into_owned();
            if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
                return Err(refuse(format!("{name}/{file} is no plain file")));
            }
            let path = entry.path();
            let mut text = String::new();
            std::fs::File::open(&path)
                .and_then(|opened| opened.take(MAX_BYTES + 1).read_to_string(&mut text))
                .map_err(|error| failed(&path, error))?;
            if text.len() as u64 > MAX_BYTES {
                return Err(refuse(format!("{} is larger than {MAX_BYTES} bytes", path.display())));
            }
            files.insert(format!("{name}/{file}"), text);
        }
    }
    Bundle::new(files).map_err(refuse)
}

/// The signed list of a bundle in a folder, verified.
fn listing(folder: &Path, trust: &TrustRoot) -> Result<Verified<Listing>, Problem> {
    let path = folder.join(LIST);
    let bytes = std::fs::read(&path).map_err(|error| refuse(format!("{}: {error}", path.display())))?;
    let envelope = Envelope::from_json(&bytes).map_err(|error| refuse(chain(&error)))?;
    envelope.verify(trust, &Role::Policy, Timestamp::now()).map_err(|error| refuse(chain(&error)))
}

/// The newest bundle that the log has seen in force.
fn pinned(records: &[Record]) -> Option<(u64, schemas::Digest)> {
    records.iter().rev().find_map(|record| match &record.fact {
        RecordBody::PolicyPinned { serial, digest } => Some((*serial, *digest)),
        _ => None,
    })
}

/// The engine over the policy in force, as of now.
pub(crate) fn in_force(home: &Home, records: &[Record], trust: &TrustRoot) -> Result<Engine, Problem> {
    let bundle = bundle_in_force(home, records, trust)?;
    bundle.engine(Timestamp::now()).map_err(|error| refuse(chain(&error)))
}

/// The policy in force, its signatures and its serial checked.
pub(crate) fn bundle_in_force(home: &Home, records: &[Record], trust: &TrustRoot) -> Result<Bundle, Problem> {
    let folder = home.path("policy");
    let bundle = read(&folder)?;
    let signed = listing(&folder, trust)?;
    let (listing, digest) = (signed.document(), signed.digest());
    bundle.check(listing).map_err(refuse)?;
    match pinned(records) {
        Some((serial, _)) if listing.serial < serial => {
            return Err(refuse(format!("its serial is {}, and {serial} was in force already", listing.serial)));
        }
        Some((serial, seen)) if listing.serial == serial && seen != digest => {
            return Err(refuse(format!("another bundle with serial {serial} was in force already")));
        }
        _ => {}
    }
    Ok(bundle)
}

/// Signs a bundle and puts it in force: written into the state folder, pinned in the log. Returns its serial.
pub(crate) fn put_in_force(
    home: &Home,
    bundle: &Bundle,
    serial: u64,
    proved: bool,
    keys: &[SecretKey],
) -> Result<u64, Problem> {
    let listing = bundle.listing(serial, proved);
    let payload = serde_json::to_vec(&listing).unwrap_or_default();
    let envelope = Envelope::sign(Listing::PAYLOAD_TYPE, &payload, &keys.iter().collect::<Vec<_>>());
    let trust = home.trust()?;
    envelope
        .verify::<Listing>(trust.document(), &Role::Policy, Timestamp::now())
        .map_err(|error| Problem::identity(chain(&error), "backout policy sign --as ONE --as ANOTHER"))?;
    let folder = home.path("policy");
    let failed =
        |path: &Path, error: std::io::Error| Problem::failure(&format!("cannot write {}", path.display()), &error);
    for name in FOLDERS {
        let inner = folder.join(name);
        std::fs::create_dir_all(&inner).map_err(|error| failed(&inner, error))?;
        for entry in std::fs::read_dir(&inner).map_err(|error| failed(&inner, error))? {
            let path = entry.map_err(|error| failed(&inner, error))?.path();
            let file = format!("{name}/{}", path.file_name().unwrap_or_default().to_string_lossy());
            if !bundle.files().contains_key(&file) {
                std::fs::remove_file(&path).map_err(|error| failed(&path, error))?;
            }
        }
    }
    for (name, text) in bundle.files() {
        let path = folder.join(name);
        write_durably(&path, text.as_bytes(), 0o644).map_err(|error| failed(&path, error))?;
    }
    home.keep(bundle.digest(), &bundle.names())?;
    for text in bundle.files().values() {
        home.keep(schemas::Digest::of(text.as_bytes()), text.as_bytes())?;
    }
    let path = folder.join(LIST);
    write_durably(&path, &envelope.to_json(), 0o644).map_err(|error| failed(&path, error))?;
    home.note(RecordBody::PolicyPinned { serial, digest: schemas::Digest::of(&payload) })?;
    Ok(serial)
}

/// The policy in force as it was signed, whatever became of its folder since: from the list of it and the texts that were kept.
pub(crate) fn signed(home: &Home, trust: &TrustRoot) -> Result<Bundle, Problem> {
    let listing = listing(&home.path("policy"), trust)?;
    let mut files = BTreeMap::new();
    for (name, digest) in &listing.document().files {
        let text = String::from_utf8(home.plain(*digest)?).map_err(refuse)?;
        files.insert(name.clone(), text);
    }
    Bundle::new(files).map_err(refuse)
}

/// The serial of the next bundle.
pub(crate) fn next_serial(records: &[Record]) -> u64 {
    pinned(records).map_or(1, |(serial, _)| serial + 1)
}
