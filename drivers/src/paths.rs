//! Paths as plans write them: absolute or relative to the first root, always beneath a root of the environment.
//!
//! Must never touch the file system: what a path leads to is the business of `openat2` when it is used.

use std::path::{Component, Path, PathBuf};

use kernel::{DriverError, Facts, Resource};
use schemas::{Code, Finding, Limits};

/// A path split at the root that it lies beneath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The root.
    pub(crate) root: PathBuf,
    /// The rest; empty for the root itself.
    pub(crate) relative: PathBuf,
}

impl Place {
    /// The absolute path.
    pub(crate) fn absolute(&self) -> PathBuf {
        if self.relative.as_os_str().is_empty() { self.root.clone() } else { self.root.join(&self.relative) }
    }

    /// As a resource.
    pub(crate) fn resource(&self) -> Resource {
        Resource::file(self.absolute().display().to_string())
    }
}

/// Where `path` lies, or why it may not be used.
pub(crate) fn place(path: &str, facts: &Facts) -> Result<Place, String> {
    if path.is_empty() || path.len() > Limits::PATH_BYTES || path.contains('\0') {
        return Err(format!("a path has 1 to {} bytes and no NUL", Limits::PATH_BYTES));
    }
    let path = Path::new(path);
    let plain = |part: Component<'_>| match part {
        Component::Normal(name) => name.len() <= Limits::NAME_BYTES,
        Component::RootDir => true,
        Component::CurDir | Component::ParentDir | Component::Prefix(_) => false,
    };
    let stays = path.components().all(plain) && !path.to_string_lossy().split('/').any(|part| part == ".");
    if !stays {
        return Err(format!(
            "{} has a part that is `.`, `..` or longer than {} bytes",
            path.display(),
            Limits::NAME_BYTES
        ));
    }
    if let Some(own) = path.iter().find(|part| is_not_a_plans(&part.to_string_lossy())) {
        let why = if own == ".git" { "only the kind git changes" } else { "backout names its own files by" };
        return Err(format!("{} has the part {}, which {why}", path.display(), own.display()));
    }
    let absolute = match (path.is_absolute(), facts.roots.first()) {
        (true, _) => path.to_owned(),
        (false, Some(root)) => root.join(path),
        (false, None) => return Err("the environment has no root".to_owned()),
    };
    let inner = facts.roots.iter().filter_map(|root| Some((root, absolute.strip_prefix(root).ok()?)));
    match inner.max_by_key(|(root, _)| root.as_os_str().len()) {
        Some((root, relative)) => Ok(Place { root: root.clone(), relative: relative.components().collect() }),
        None => Err(format!("{} is outside the roots of environment {}", absolute.display(), facts.environment)),
    }
}

/// Names that no plan may use: what configures git may run programs, and what is not yet a file is no file.
fn is_not_a_plans(name: &str) -> bool {
    name == ".git" || name.starts_with(".backout-tmp-")
}

/// [`place`] for lowering: what is wrong becomes a finding at `pointer`.
pub(crate) fn place_or_finding(path: &str, facts: &Facts, step: &str, pointer: String) -> Result<Place, Box<Finding>> {
    place(path, facts).map_err(|detail| {
        let roots: Vec<String> = facts.roots.iter().map(|root| root.display().to_string()).collect();
        let hint = format!("use a path beneath {}", roots.join(" or "));
        Box::new(Finding::error(Code::PATH_OUTSIDE_ROOTS, pointer, detail, hint).of_step(step))
    })
}

/// [`place`] for acting, where lowering has said yes before.
pub(crate) fn placed(path: &str, facts: &Facts) -> Result<Place, DriverError> {
    place(path, facts).map_err(DriverError::Refused)
}

/// A snapshot error in the words of the driver contract.
pub(crate) fn snapshot_failed(error: snapshots::SnapshotError) -> DriverError {
    match error {
        snapshots::SnapshotError::Io { doing, path, source } => {
            DriverError::Io { doing: format!("{doing} {}", path.display()), source }
        }
        other => DriverError::Refused(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            environment: "test".to_owned(),
            roots: vec!["/srv/app".into(), "/srv/app/data".into()],
            protected: Vec::new(),
            backups: Vec::new(),
            contains: false,
        }
    }

    #[test]
    fn a_path_is_split_at_its_innermost_root() {
        assert_eq!(place("x/y", &facts()).unwrap().absolute(), Path::new("/srv/app/x/y"));
        assert_eq!(place("/srv/app/data/z", &facts()).unwrap().relative, Path::new("z"));
    }

    #[test]
    fn paths_that_leave_or_hide_are_refused() {
        let long = "x".repeat(300);
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "/srv/app/../x",
            "/srv/application",
            "./x",
            "a/./b",
            "a\0b",
            "repo/.git/config",
            "x/.backout-tmp-run-1",
            &long,
        ] {
            assert!(place(bad, &facts()).is_err(), "{bad}");
        }
    }
}
