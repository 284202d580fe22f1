//! Entries and their loading. Must never load an entry whose way back has a placeholder that nothing fills.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use schemas::{Act, Class, Effectiveness, Hazard, Thing, Verb};
use serde::Deserialize;

use crate::matcher::{Match, bind, find, placeholders};

/// The shipped entries, one file for each family of tools.
const FILES: &[(&str, &str)] = &[
    ("cloud", include_str!("../entries/cloud.toml")),
    ("containers", include_str!("../entries/containers.toml")),
    ("databases", include_str!("../entries/databases.toml")),
    ("files", include_str!("../entries/files.toml")),
    ("git", include_str!("../entries/git.toml")),
    ("kubernetes", include_str!("../entries/kubernetes.toml")),
    ("machine", include_str!("../entries/machine.toml")),
    ("outside", include_str!("../entries/outside.toml")),
    ("reading", include_str!("../entries/reading.toml")),
];

/// What backout itself puts back, without a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restore {
    /// Nothing.
    #[default]
    None,
    /// The declared writes, from their snapshot.
    Snapshot,
    /// There is nothing to put back: the command only reads.
    ReadOnly,
}

/// A value taken from a command's output before the step runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// The placeholder that it fills.
    pub name: String,
    /// What to run; must only read.
    pub argv: Vec<String>,
    /// JSON pointer (RFC 6901) into the output.
    pub pointer: Option<String>,
    /// Regular expression whose first group is the value.
    pub regex: Option<String>,
}

/// A known command.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Stable name.
    pub id: String,
    /// Words of the command in order; `{name:type}` binds, `{name:type...}` binds the rest.
    pub words: Vec<String>,
    /// Flags that must be there. `-n|--namespace={ns:name}` takes a value, `--force` does not.
    #[serde(default)]
    pub flags: Vec<String>,
    /// Flags that may be there, in the same form.
    #[serde(default)]
    pub optional: Vec<String>,
    /// Whether flags that are not listed are allowed.
    #[serde(default)]
    pub any_flags: bool,
    /// What it does, in a sentence.
    pub does: String,
    /// What is done.
    pub verb: Verb,
    /// To what.
    #[serde(default)]
    pub on: Thing,
    /// The name of what it is done to, with placeholders; the program where it is left out.
    #[serde(default)]
    pub named: String,
    /// Harm that needs no delete.
    #[serde(default)]
    pub hazards: Vec<Hazard>,
    /// How reversible it is.
    pub class: Class,
    /// How much the way back gives back.
    pub effectiveness: Effectiveness,
    /// What backout itself puts back.
    #[serde(default)]
    pub restore: Restore,
    /// The binding that names files which must lie in the declared writes.
    pub targets: Option<String>,
    /// Flags with which a target that is a symlink is changed itself and not followed; `*` for always.
    #[serde(default)]
    pub keeps_links: Vec<String>,
    /// What to find out before it runs.
    #[serde(default)]
    pub capture: Vec<Capture>,
    /// The compensating command; empty where there is none.
    #[serde(default)]
    pub undo: Vec<String>,
    /// The captured value that the compensating command reads from its standard input.
    pub undo_stdin: Option<String>,
    /// A command that exits 0 while the step's effect is there and 1 when it is not.
    #[serde(default)]
    pub present: Vec<String>,
    /// When the way back is safe.
    pub safe_when: String,
    /// What else to know.
    #[serde(default)]
    pub notes: String,
    /// Commands that it describes.
    pub positive: Vec<String>,
    /// Commands that it must not describe.
    #[serde(default)]
    pub negative: Vec<String>,
}

/// All entries.
#[derive(Debug)]
pub struct Library {
    entries: Vec<Entry>,
}

/// Why the library does not load. It is data of ours, so this is a defect of the build.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// A file does not parse.
    #[error("library file {file} does not parse")]
    Parse {
        /// Which.
        file: &'static str,
        /// Why.
        source: toml::de::Error,
    },
    /// An entry says something that cannot be.
    #[error("library entry {id}: {what}")]
    Entry {
        /// Which.
        id: String,
        /// What.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    entry: Vec<Entry>,
}

impl Library {
    /// Loads and checks the shipped entries.
    pub fn load() -> Result<Self, LibraryError> {
        let mut entries: Vec<Entry> = Vec::new();
        for (file, text) in FILES {
            let parsed: File = toml::from_str(text).map_err(|source| LibraryError::Parse { file, source })?;
            entries.extend(parsed.entry);
        }
        let mut ids = BTreeSet::new();
        for entry in &entries {
            check(entry).map_err(|what| LibraryError::Entry { id: entry.id.clone(), what })?;
            if !ids.insert(&entry.id) {
                return Err(LibraryError::Entry { id: entry.id.clone(), what: "the id is taken".to_owned() });
            }
        }
        Ok(Self { entries })
    }

    /// The shipped library, loaded once. A library that does not load knows no command, which makes all of them irreversible.
    pub fn shipped() -> &'static Self {
        static SHIPPED: OnceLock<Library> = OnceLock::new();
        SHIPPED.get_or_init(|| Self::load().unwrap_or(Self { entries: Vec::new() }))
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry that describes `argv` most closely; of two equally close ones the one with the worse class.
    pub fn find(&self, argv: &[String]) -> Option<Match<'_>> {
        find(&self.entries, argv)
    }
}

impl Match<'_> {
    /// What the command does, for the gate. A placeholder that is bound to many values, or to none, leaves the entry's own words.
    pub fn act(&self) -> Act {
        let entry = self.entry;
        let bound = bind(std::slice::from_ref(&entry.named), &self.bindings).unwrap_or_default().concat();
        let named = match (bound.is_empty(), entry.words.first()) {
            (true, Some(program)) => format!("program:{program}"),
            // git takes `heads/main` and `refs/heads/main` for `main`.
            _ => bound.replace("refs/heads/refs/heads/", "refs/heads/").replace("refs/heads/heads/", "refs/heads/"),
        };
        Act { verb: entry.verb, on: entry.on, named, hazards: entry.hazards.clone() }
    }
}

fn check(entry: &Entry) -> Result<(), String> {
    let mut filled: BTreeSet<String> =
        entry.words.iter().chain(&entry.flags).chain(&entry.optional).flat_map(|word| placeholders(word)).collect();
    for capture in &entry.capture {
        require(&filled, &capture.argv)?;
        if capture.pointer.is_some() == capture.regex.is_some() {
            return Err(format!("capture {} needs a pointer or a regex", capture.name));
        }
        if let Some(regex) = &capture.regex {
            regex::Regex::new(regex).map_err(|error| error.to_string())?;
        }
        filled.insert(capture.name.clone());
    }
    require(&filled, &entry.undo)?;
    require(&filled, std::slice::from_ref(&entry.named))?;
    require(&filled, &entry.present)?;
    if let Some(name) = entry.undo_stdin.iter().find(|name| !filled.contains(*name)) {
        return Err(format!("nothing fills {{{name}}}"));
    }
    let has_way_back = !entry.undo.is_empty() || entry.restore != Restore::None;
    match (has_way_back, entry.class) {
        (false, Class::Irreversible | Class::PartiallyReversible) | (true, _) => Ok(()),
        (false, class) => Err(format!("class {} without a way back", class.as_str())),
    }
}

/// Every placeholder of `argv` is filled; one that comes from an optional flag takes its whole argument with it.
fn require(filled: &BTreeSet<String>, argv: &[String]) -> Result<(), String> {
    match argv.iter().flat_map(|word| placeholders(word)).find(|name| !filled.contains(name)) {
        Some(name) => Err(format!("nothing fills {{{name}}}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn every_entry_describes_its_positive_examples_and_not_its_negative_ones() {
        let library = Library::load().unwrap();
        for entry in library.entries() {
            assert!(!entry.positive.is_empty(), "{} has no example", entry.id);
            for line in &entry.positive {
                let found = library.find(&argv(line)).map(|found| found.entry.id.as_str());
                assert_eq!(found, Some(entry.id.as_str()), "{line}");
            }
            for line in &entry.negative {
                let found = library.find(&argv(line)).map(|found| found.entry.id.as_str());
                assert_ne!(found, Some(entry.id.as_str()), "{line}");
            }
        }
    }

    #[test]
    fn every_undo_can_be_bound_for_every_positive_example() {
        let library = Library::load().unwrap();
        for entry in library.entries() {
            for line in &entry.positive {
                let mut found = library.find(&argv(line)).unwrap();
                for capture in &entry.capture {
                    bind(&capture.argv, &found.bindings).unwrap_or_else(|name| panic!("{}: {name}", entry.id));
                    found.bindings.insert(capture.name.clone(), vec!["1".to_owned()]);
                }
                bind(&entry.undo, &found.bindings).unwrap_or_else(|name| panic!("{line}: {name} is not bound"));
            }
        }
    }

    #[test]
    fn an_entry_with_a_placeholder_that_nothing_fills_is_refused() {
        let mut entry = Library::load().unwrap().entries()[0].clone();
        entry.undo = argv("tool --to={nobody}");
        assert_eq!(check(&entry), Err("nothing fills {nobody}".to_owned()));
    }

    #[test]
    fn a_reversible_class_needs_a_way_back() {
        let mut entry = Library::load().unwrap().entries()[0].clone();
        entry.undo.clear();
        entry.restore = Restore::None;
        entry.class = Class::TriviallyReversible;
        assert!(check(&entry).is_err());
    }
}
