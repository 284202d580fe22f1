//! Resource URIs: the one vocabulary in which kinds, policy and conflicts speak of the world.
//!
//! `file:/srv/app/x`, `git:/srv/repo#refs/heads/main`, `sqlite:/srv/app.db#orders`. Must never be compared as raw text where
//! one may contain the other: use [`Resource::overlaps`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A resource: a scheme, a path, and a part of it where the scheme has parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    scheme: String,
    path: String,
    part: Option<String>,
}

/// Why a text is not a resource.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a resource is scheme:path or scheme:path#part, not {0:?}")]
pub struct ResourceError(String);

impl Resource {
    /// A file or folder by absolute path; a folder stands for all that is in it.
    pub fn file(path: impl Into<String>) -> Self {
        Self { scheme: "file".to_owned(), path: path.into(), part: None }
    }

    /// A part of something with parts: a ref of a repository, a table of a database.
    pub fn part(scheme: &str, path: impl Into<String>, part: impl Into<String>) -> Self {
        Self { scheme: scheme.to_owned(), path: path.into(), part: Some(part.into()) }
    }

    /// The whole of something.
    pub fn whole(scheme: &str, path: impl Into<String>) -> Self {
        Self { scheme: scheme.to_owned(), path: path.into(), part: None }
    }

    /// Every scheme that a kind of step or an entry of the library names a thing by.
    pub const SCHEMES: &'static [&'static str] = &[
        "aws",
        "cargo",
        "compose",
        "cron",
        "docker",
        "file",
        "git",
        "github",
        "helm",
        "heroku",
        "host",
        "http",
        "https",
        "k8s",
        "mail",
        "npm",
        "program",
        "redis",
        "remote",
        "sqlite",
        "sysctl",
        "systemd",
        "terraform",
        "vercel",
    ];

    /// The scheme.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The part.
    pub fn fragment(&self) -> Option<&str> {
        self.part.as_deref()
    }

    /// Whether one contains or equals the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.scheme == "file", other.scheme == "file") {
            (true, true) => is_within(&self.path, &other.path) || is_within(&other.path, &self.path),
            (true, false) => other.is_reached_by_file(&self.path),
            (false, true) => self.is_reached_by_file(&other.path),
            (false, false) => {
                let same_part = self.part.is_none() || other.part.is_none() || self.part == other.part;
                self.scheme == other.scheme && self.path == other.path && same_part
            }
        }
    }

    /// Whether a file or folder holds this resource, or is a part of how it is stored.
    fn is_reached_by_file(&self, file: &str) -> bool {
        let beneath = |folder: &str| is_within(file, &format!("{}/{folder}", self.path));
        is_within(&self.path, file)
            || match self.scheme.as_str() {
                "sqlite" => ["-wal", "-shm", "-journal"].iter().any(|end| file == format!("{}{end}", self.path)),
                // The folder of a work tree, and what a bare repository has in its place.
                "git" => [".git", "objects", "refs", "packed-refs", "HEAD", "config"].into_iter().any(beneath),
                _ => false,
            }
    }

    /// Whether everything of `inner` is in this one.
    pub fn contains(&self, inner: &Self) -> bool {
        if self.scheme == "file" {
            return is_within(&inner.path, &self.path);
        }
        self.scheme == inner.scheme && self.path == inner.path && (self.part.is_none() || self.part == inner.part)
    }
}

/// Whether `path` is `folder` or below it, by whole components.
fn is_within(path: &str, folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path in which no `#` stands, so that the first one begins the part.
fn escaped(path: &str) -> String {
    path.replace('%', "%25").replace('#', "%23")
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            _ if self.scheme == "file" => write!(f, "file:{}", self.path),
            Some(part) => write!(f, "{}:{}#{part}", self.scheme, escaped(&self.path)),
            None => write!(f, "{}:{}", self.scheme, escaped(&self.path)),
        }
    }
}

impl FromStr for Resource {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let bad = || ResourceError(text.chars().take(80).collect());
        let (scheme, rest) = text.split_once(':').ok_or_else(bad)?;
        if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) || rest.is_empty()
        {
            return Err(bad());
        }
        // A file name may hold a `#`; only other schemes have parts.
        let (path, part) = match rest.split_once('#') {
            Some((path, part)) if scheme != "file" => (path, Some(part.to_owned())),
            _ => (rest, None),
        };
        let path = if scheme == "file" { path.to_owned() } else { path.replace("%23", "#").replace("%25", "%") };
        Ok(Self { scheme: scheme.to_owned(), path, part })
    }
}

impl Serialize for Resource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Resource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlaps(a: &str, b: &str) -> bool {
        let (a, b): (Resource, Resource) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(a.overlaps(&b), b.overlaps(&a), "{a} {b}");
        a.overlaps(&b)
    }

    #[test]
    fn a_folder_overlaps_what_is_in_it_and_not_its_namesakes() {
        assert!(overlaps("file:/srv/app", "file:/srv/app/x"));
        assert!(overlaps("file:/srv/app/", "file:/srv/app"));
        assert!(!overlaps("file:/srv/app", "file:/srv/app2"));
        assert!(overlaps("file:/", "file:/srv"));
    }

    #[test]
    fn parts_overlap_when_equal_or_when_one_is_the_whole() {
        assert!(overlaps("sqlite:/db#a", "sqlite:/db#a"));
        assert!(!overlaps("sqlite:/db#a", "sqlite:/db#b"));
        assert!(overlaps("sqlite:/db#a", "sqlite:/db"));
        assert!(!overlaps("sqlite:/db#a", "git:/db#a"));
    }

    #[test]
    fn a_folder_overlaps_a_database_in_it() {
        assert!(overlaps("file:/srv", "sqlite:/srv/app.db#a"));
        assert!(overlaps("file:/srv/app.db", "sqlite:/srv/app.db#a"));
        assert!(!overlaps("file:/srv/app.db/x", "sqlite:/srv/app.db#a"));
        assert!(overlaps("file:/srv/app.db-journal", "sqlite:/srv/app.db"));
        assert!(overlaps("file:/srv/repo/.git/refs/heads/x", "git:/srv/repo#refs/heads/x"));
        assert!(!overlaps("file:/srv/repo/main.py", "git:/srv/repo#refs/heads/x"));
    }

    #[test]
    fn a_resource_survives_being_written_and_read() {
        let odd = Resource::part("sqlite", "/a#1%/b.db", "t");
        assert_eq!(odd.to_string().parse::<Resource>().unwrap(), odd);
        for text in ["file:/a#b", "git:/r#refs/heads/x", "k8s:ns/deploy/x"] {
            assert_eq!(text.parse::<Resource>().unwrap().to_string(), text);
        }
        assert!("/srv".parse::<Resource>().is_err());
        assert!("FILE:/x".parse::<Resource>().is_err());
    }
}
