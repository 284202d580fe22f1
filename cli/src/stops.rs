//! The folder of stops: what is stopped, and what operators have lifted. A file, so that stopping works when nothing else does.
//!
//! Must never say that nothing is stopped where it cannot tell: a missing folder, a file that does not parse and a lift that does not verify
//! all stop.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use executor::{Brake, Braked};
use jiff::Timestamp;
use schemas::{
    Code, Covers, Digest, Envelope, ExitCode, Lift, Record, RecordBody, Role, RunSubject, Statement, Stop, Then,
    TrustRoot, Verified,
};

use crate::home::Home;
use crate::problem::{Problem, chain};

/// Most bytes of a stop or of what lifts it.
const MAX_BYTES: u64 = 64 << 10;

/// Most stops that are read: more are one stop of everything.
const MAX_STOPS: usize = 1_000;

/// A stop that stands.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) stop: Stop,
    pub(crate) digest: Digest,
    pub(crate) path: PathBuf,
}

/// Every stop that stands, oldest first. `Err` says why that cannot be told, which stops everything.
pub(crate) fn standing(folder: &Path, trust: &TrustRoot) -> Result<Vec<Standing>, String> {
    let failed = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, &error))? {
        names.push(entry.map_err(|error| failed(folder, &error))?.path());
    }
    names.retain(|path| path.to_string_lossy().ends_with(".stop.json"));
    names.sort();
    if names.len() > MAX_STOPS {
        return Err(format!("{} stops are more than {MAX_STOPS}", names.len()));
    }
    let mut out = Vec::new();
    for path in names {
        let bytes = read(&path).map_err(|error| failed(&path, &error))?;
        let stop: Stop = schemas::parse_strict(&bytes, MAX_BYTES as usize).map_err(|error| failed(&path, &error))?;
        let digest = Digest::of(&bytes);
        if !is_lifted(&path, &stop, digest, trust) {
            out.push(Standing { stop, digest, path });
        }
    }
    Ok(out)
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where what lifts a stop lies.
pub(crate) fn lift_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().replace(".stop.json", ".lift.json");
    path.with_file_name(name)
}

/// Puts a stop that was lifted, with what lifted it, out of the way: a key that ends later brings no stop back.
pub(crate) fn put_away(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(".")).join("lifted");
    std::fs::create_dir_all(&folder)?;
    // First the stop: what is left of a lift alone stops nothing and lifts nothing.
    for from in [path.to_owned(), lift_of(path)] {
        std::fs::rename(&from, folder.join(from.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

/// How many operators must sign: two lift a stop of everything.
pub(crate) fn needed(covers: &Covers) -> usize {
    if covers.is_all() { 2 } else { 1 }
}

/// Whether enough operators signed that this very stop may end.
fn is_lifted(path: &Path, stop: &Stop, digest: Digest, trust: &TrustRoot) -> bool {
    let Some(envelope) = read(&lift_of(path)).ok().and_then(|bytes| Envelope::from_json(&bytes).ok()) else {
        return false;
    };
    check_lift(&envelope, stop, digest, trust).is_ok()
}

/// Verifies what is to lift a stop.
pub(crate) fn check_lift(
    envelope: &Envelope,
    stop: &Stop,
    digest: Digest,
    trust: &TrustRoot,
) -> Result<Vec<String>, String> {
    // Keys count as of now and never by the signer's clock; a stop that was lifted is out of the way by then.
    let verified: Verified<Statement<Lift>> =
        envelope.verify(trust, &Role::Operator, Timestamp::now()).map_err(|error| chain(&error))?;
    let owners: BTreeSet<&str> = verified.signers().iter().map(|signer| signer.owner.as_str()).collect();
    let said = verified.document();
    if said.sole_subject() != Some(digest) || said.predicate.stop != stop.id {
        return Err("it is for another stop".to_owned());
    }
    if said.predicate.issued < stop.time {
        return Err("it is older than the stop".to_owned());
    }
    let needed = needed(&stop.covers);
    if owners.len() < needed {
        return Err(format!("{} of {needed} operators signed", owners.len()));
    }
    Ok(owners.into_iter().map(str::to_owned).collect())
}

/// Refuses what is stopped.
pub(crate) fn refuse_stopped<'a>(
    home: &Home,
    records: &[Record],
    subject: &RunSubject,
    kinds: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), Problem> {
    let trust = home.trust()?;
    let refuse = |text: String, next: String| Err(Problem::new(ExitCode::Stopped, Code::STOPPED, text, next));
    let stops = match standing(&home.path(FOLDER), trust.document()) {
        Ok(stops) => stops,
        Err(error) => {
            let text = format!("nobody can tell what is stopped, so everything is: {error}");
            return refuse(text, "mend or make the folder .backout/stops; backout stops lists what stands".to_owned());
        }
    };
    if let Some(id) = lost(home, records) {
        let text = format!("stop {id} is on record, was never lifted, and its file is gone");
        return refuse(text, "backout stop --all anew; whoever took the file away is the next question".to_owned());
    }
    let Some(it) = stops.iter().find(|it| it.stop.covers.covers(subject, kinds.clone())) else { return Ok(()) };
    let Stop { id, covers, by, time, reason, .. } = &it.stop;
    refuse(format!("{} is stopped since {time} by {by}: {reason}", covers.text()), how_to_lift(id, covers))
}

/// The command that lifts a stop.
pub(crate) fn how_to_lift(id: &str, covers: &Covers) -> String {
    let another = if covers.is_all() { " --as ANOTHER" } else { "" };
    format!("backout resume {id} --as OPERATOR{another} --reason TEXT, once it may go on")
}

/// A stop of the log whose file somebody took away.
fn lost(home: &Home, records: &[Record]) -> Option<String> {
    let lifted: BTreeSet<&str> = records
        .iter()
        .filter_map(|record| match &record.fact {
            RecordBody::Lifted { id, .. } => Some(id.as_str()),
            _ => None,
        })
        .collect();
    records.iter().find_map(|record| match &record.fact {
        RecordBody::Stopped { id, .. } if !lifted.contains(id.as_str()) => {
            let path = home.path(FOLDER).join(format!("{id}.stop.json"));
            (!path.is_file()).then(|| id.clone())
        }
        _ => None,
    })
}

/// Name of the folder.
pub(crate) const FOLDER: &str = "stops";

/// The stops as a run sees them: asked before each act, and whenever the folder changes.
pub(crate) struct Watch {
    pub(crate) folder: PathBuf,
    pub(crate) trust: TrustRoot,
    pub(crate) subject: RunSubject,
    pub(crate) kinds: BTreeSet<String>,
}

impl Brake for Watch {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn braked(&self) -> Option<Braked> {
        match standing(&self.folder, &self.trust) {
            Err(error) => Some(Braked { cause: format!("nobody can tell what is stopped: {error}"), undo: false }),
            Ok(stops) => {
                let kinds = || self.kinds.iter().map(String::as_str);
                let found = stops.iter().find(|it| it.stop.covers.covers(&self.subject, kinds()))?;
                let Stop { id, reason, by, then, .. } = &found.stop;
                Some(Braked { cause: format!("stop {id} by {by}: {reason}"), undo: *then == Then::Undo })
            }
        }
    }
}
