//! The state folder `.backout`: keys, trust root, site, documents, journal, snapshots. One folder, one journal, one writer.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use drivers::Confinement;
use jiff::Timestamp;
use journal::{Entry, Journal as _, LogSigner, LogVerifier, SqliteJournal};
use kernel::DriverSet;
use schemas::{Digest, Document as _, Envelope, RecordBody, Resource, Role, SecretKey, TrustRoot, Verified};
use snapshots::Store;

use crate::problem::Problem;
use crate::site::Site;

/// The state folder.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    /// Made when the first command is looked at.
    confinement: OnceLock<Arc<Confinement>>,
}

impl Home {
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir, confinement: OnceLock::new() }
    }

    /// The state folder that is given, or the nearest `.backout` from here upwards.
    pub(crate) fn find(given: Option<&Path>) -> Result<Self, Problem> {
        let missing = || match given {
            None => Problem::usage("there is no .backout folder here or above", "backout init, or --dir FOLDER"),
            Some(dir) => Problem::usage(format!("{} is no state folder", dir.display()), "backout init makes one"),
        };
        let dir = match given {
            Some(dir) if !dir.join("trust-root.json").is_file() && dir.join(".backout").is_dir() => {
                dir.join(".backout")
            }
            Some(dir) => dir.to_owned(),
            None => {
                let here =
                    std::env::current_dir().map_err(|error| Problem::failure("cannot tell where I am", &error))?;
                here.ancestors().map(|dir| dir.join(".backout")).find(|dir| dir.is_dir()).ok_or_else(missing)?
            }
        };
        let dir = dir.canonicalize().map_err(|_| missing())?;
        if dir.join("trust-root.json").is_file() { Ok(Self::at(dir)) } else { Err(missing()) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the folders, readable by their owner alone.
    pub(crate) fn make_folders(&self) -> Result<(), Problem> {
        for name in ["keys", "documents", "outputs", "snapshots", "stops", "layers"] {
            let path = self.dir.join(name);
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|error| Problem::failure(&format!("cannot create {}", path.display()), &error))?;
        }
        Ok(())
    }

    /// What backout itself lives on: no plan may reach it.
    pub(crate) fn own(&self) -> Vec<Resource> {
        vec![Resource::file(self.dir.display().to_string())]
    }

    pub(crate) fn site(&self) -> Result<Site, Problem> {
        Site::read(&self.dir)
    }

    pub(crate) fn store(&self) -> Result<Store, Problem> {
        Store::open(&self.path("snapshots")).map_err(|error| Problem::snapshot(&error))
    }

    pub(crate) fn drivers(&self) -> Result<DriverSet, Problem> {
        Ok(drivers::all(&self.store()?, Some(self.confinement()?)))
    }

    /// Where commands are run so that they reach no further than they may.
    pub(crate) fn confinement(&self) -> Result<Arc<Confinement>, Problem> {
        // By its magic link: what runs is this program, whatever lies under its name by now.
        Ok(self.confinement.get_or_init(|| Arc::new(Confinement::new("/proc/self/exe", self.path("layers")))).clone())
    }

    /// Whether this machine can contain the commands of a plan; without any nobody needs to know.
    pub(crate) fn contains(&self, plan: &schemas::Plan) -> Result<bool, Problem> {
        let asks = plan.steps.iter().any(|step| step.uses.starts_with("command."));
        Ok(asks && self.confinement()?.ability().is_ok())
    }

    /// The trust root in force: signed by its own root role, and not older than the newest that the log has seen.
    pub(crate) fn trust(&self) -> Result<Verified<TrustRoot>, Problem> {
        let path = self.path("trust-root.json");
        let bytes = std::fs::read(&path)
            .map_err(|error| Problem::failure(&format!("cannot read {}", path.display()), &error))?;
        let refuse = |text: String| {
            Problem::identity(
                format!("the trust root is not good: {text}"),
                "restore trust-root.json from a copy that its root keys signed",
            )
        };
        let envelope = Envelope::from_json(&bytes).map_err(|error| refuse(crate::problem::chain(&error)))?;
        let payload = envelope.unverified_payload().map_err(|error| refuse(error.to_string()))?;
        let root = TrustRoot::from_payload(&payload).map_err(|error| refuse(error.to_string()))?;
        envelope.verify(&root, &Role::Root, Timestamp::now()).map_err(|error| refuse(crate::problem::chain(&error)))
    }

    /// Who checks the log: the key of the log role.
    pub(crate) fn log_verifier(&self, trust: &TrustRoot) -> Result<LogVerifier, Problem> {
        let key = trust.holders(&Role::Log).first().and_then(|keyid| trust.key(*keyid));
        let Some(key) = key else {
            return Err(Problem::identity("the trust root names no log key", "enrol one"));
        };
        LogVerifier::new(&key.public).map_err(|error| Problem::journal(&error))
    }

    /// The private key `name`.
    pub(crate) fn key(&self, name: &str) -> Result<SecretKey, Problem> {
        let path = self.path("keys").join(format!("{name}.key"));
        let missing = |error: std::io::Error| {
            Problem::identity(
                format!("there is no key {name} in {}: {error}", self.path("keys").display()),
                "backout key list",
            )
        };
        let pem = std::fs::read_to_string(&path).map_err(missing)?;
        SecretKey::from_pem(&pem)
            .map_err(|error| Problem::identity(format!("{}: {error}", path.display()), "backout key new NAME"))
    }

    /// Opens the journal to read; the whole log is checked.
    pub(crate) fn journal(&self) -> Result<SqliteJournal, Problem> {
        let trust = self.trust()?;
        let verifier = self.log_verifier(trust.document())?;
        let journal = SqliteJournal::open_to_read(&self.path("journal.db"), verifier)
            .map_err(|error| Problem::journal(&error))?;
        self.check_pin(&journal, &trust)?;
        Ok(journal)
    }

    /// Takes the journal's lease, waiting up to `wait` for another run, and checks the whole log.
    pub(crate) fn journal_to_write(&self, wait: std::time::Duration) -> Result<SqliteJournal, Problem> {
        self.journal_once_free(wait, SqliteJournal::open_to_write)
    }

    /// Like [`Self::journal_to_write`]; a runner that lives but was silent for a term is ended first.
    pub(crate) fn journal_to_recover(&self, wait: std::time::Duration) -> Result<SqliteJournal, Problem> {
        self.journal_once_free(wait, SqliteJournal::open_to_recover)
    }

    fn journal_once_free(
        &self,
        wait: std::time::Duration,
        open: fn(&Path, LogSigner) -> Result<SqliteJournal, journal::JournalError>,
    ) -> Result<SqliteJournal, Problem> {
        let trust = self.trust()?;
        let started = std::time::Instant::now();
        loop {
            let signer = LogSigner::new(&self.key("log")?).map_err(|error| Problem::journal(&error))?;
            match open(&self.path("journal.db"), signer) {
                Err(journal::JournalError::Busy { .. }) if started.elapsed() < wait => {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                Err(error) => return Err(Problem::journal(&error)),
                Ok(journal) => {
                    self.check_pin(&journal, &trust)?;
                    return Ok(journal);
                }
            }
        }
    }

    /// The trust root is the one that the log has pinned last, or the one that directly follows it.
    fn check_pin(&self, journal: &SqliteJournal, trust: &Verified<TrustRoot>) -> Result<(), Problem> {
        let mut newest: Option<(u64, Digest)> = None;
        let scanned = journal.scan(0, |_, body| {
            // It belongs to no run, so that its fact comes directly after number and time.
            let start = body.get(..128).unwrap_or(body);
            if start.windows(14).any(|part| part == b"\"trust_pinned\"")
                && let Ok(record) = serde_json::from_slice::<schemas::Record>(body)
                && let RecordBody::TrustPinned { version, digest } = record.fact
            {
                newest = newest.max(Some((version, digest)));
            }
            Ok(())
        });
        scanned.map_err(|error| Problem::journal(&error))?;
        let here = (trust.document().version, trust.digest());
        match newest {
            Some(newest) if newest.1 == here.1 => Ok(()),
            None if here.0 == 1 => Ok(()),
            Some(newest) if here.0 == newest.0 + 1 => self.check_succession(newest.1, trust),
            _ => {
                let seen = newest.map_or(0, |(version, _)| version);
                Err(Problem::identity(
                    format!(
                        "the log has seen trust root version {seen} and this is another one, of version {}",
                        here.0
                    ),
                    "restore the newest trust-root.json",
                ))
            }
        }
    }

    /// A trust root that follows another is signed by the root keys of that other one, as in TUF: its own keys vouch for nothing.
    fn check_succession(&self, pinned: Digest, trust: &Verified<TrustRoot>) -> Result<(), Problem> {
        let refuse = |text: String| {
            let title =
                format!("trust root version {} does not follow the pinned one: {text}", trust.document().version);
            Problem::identity(title, "restore trust-root.json from a copy that the pinned root keys signed")
        };
        let before = TrustRoot::from_payload(&self.payload(pinned)?).map_err(|error| refuse(error.to_string()))?;
        let path = self.path("trust-root.json");
        let bytes = std::fs::read(&path)
            .map_err(|error| Problem::failure(&format!("cannot read {}", path.display()), &error))?;
        let envelope = Envelope::from_json(&bytes).map_err(|error| refuse(crate::problem::chain(&error)))?;
        let followed: Verified<TrustRoot> = envelope
            .verify(&before, &Role::Root, Timestamp::now())
            .map_err(|error| refuse(crate::problem::chain(&error)))?;
        if followed.digest() == trust.digest() { Ok(()) } else { Err(refuse("it changed meanwhile".to_owned())) }
    }

    /// Until when the last runner of this folder was alive, in Unix milliseconds.
    pub(crate) fn alive_until_ms(&self) -> i64 {
        executor::last_sign_of_life(&self.path("heartbeat"), Timestamp::now().as_millisecond())
    }

    /// Appends one fact that belongs to no run.
    pub(crate) fn note(&self, fact: RecordBody) -> Result<(), Problem> {
        self.note_within(fact, std::time::Duration::from_secs(15))
    }

    /// Appends one fact if nobody else has the journal.
    pub(crate) fn note_now(&self, fact: RecordBody) -> Result<(), Problem> {
        self.note_within(fact, std::time::Duration::ZERO)
    }

    fn note_within(&self, fact: RecordBody, wait: std::time::Duration) -> Result<(), Problem> {
        let mut journal = self.journal_to_write(wait)?;
        let entry = Entry { subject: None, fact };
        journal.append(Timestamp::now(), &[entry]).map_err(|error| Problem::journal(&error))?;
        journal.release().map_err(|error| Problem::journal(&error))
    }

    /// Keeps a document under its digest, durably.
    pub(crate) fn keep(&self, digest: Digest, bytes: &[u8]) -> Result<(), Problem> {
        let path = self.path("documents").join(format!("{}.json", digest.hex()));
        write_durably(&path, bytes, 0o600)
            .map_err(|error| Problem::failure(&format!("cannot write {}", path.display()), &error))
    }

    /// A document by digest: its stored bytes, not yet held against the digest.
    pub(crate) fn document(&self, digest: Digest) -> Result<Vec<u8>, Problem> {
        let path = self.path("documents").join(format!("{}.json", digest.hex()));
        std::fs::read(&path).map_err(|error| Problem::failure(&format!("cannot read {}", path.display()), &error))
    }

    /// The payload of a kept envelope, held against its digest.
    pub(crate) fn payload(&self, digest: Digest) -> Result<Vec<u8>, Problem> {
        let broken = |text: &str| {
            let title = format!("document {} is not what was kept: {text}", digest.short());
            Problem::new(
                schemas::ExitCode::Integrity,
                schemas::Code::INTEGRITY,
                title,
                "restore .backout/documents from a copy",
            )
        };
        let envelope = Envelope::from_json(&self.document(digest)?).map_err(|_| broken("not an envelope"))?;
        let payload = envelope.unverified_payload().map_err(|_| broken("not base64"))?;
        if Digest::of(&payload) == digest { Ok(payload) } else { Err(broken("another digest")) }
    }

    /// A kept document that is no envelope, held against its digest.
    pub(crate) fn plain(&self, digest: Digest) -> Result<Vec<u8>, Problem> {
        let bytes = self.document(digest)?;
        if Digest::of(&bytes) == digest {
            return Ok(bytes);
        }
        let title = format!("document {} is not what was kept", digest.short());
        Err(Problem::new(
            schemas::ExitCode::Integrity,
            schemas::Code::INTEGRITY,
            title,
            "restore .backout/documents from a copy",
        ))
    }
}

/// Writes a file so that after a crash it is there whole or not at all.
pub(crate) fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    // The parent of a bare name is empty, and means here.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = folder.join(format!(".{}.tmp", ulid::Ulid::generate()));
    let mut file = std::fs::File::options().write(true).create_new(true).mode(mode).open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.and_then(|()| std::fs::File::open(folder)?.sync_all())
}

/// Who runs this program, as the operating system knows it: a name in the environment could be anybody's.
pub(crate) fn who() -> String {
    let uid = std::fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
    uid.map_or_else(|_| "somebody".to_owned(), |uid| format!("uid {uid}"))
}
