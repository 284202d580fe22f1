//! What a git step comes to: refs that move, and for a checked-out branch an index and files that follow.

use std::path::{Path, PathBuf};

use git2::{Commit as GitCommit, Index, Oid, Repository, Signature, Time, Tree as GitTree};
use kernel::{DriverError, StepSpec};
use serde::{Deserialize, Serialize};

use super::params::{Commit, DeleteRef, Merge, Push, Revert, SetRef};
use super::place::{self, Held};
use super::remote;

/// One ref, here or at a remote. Ids are in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefMove {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) remote: Option<String>,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

/// The whole change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GitChange {
    pub(super) refs: Vec<RefMove>,
    /// Tree of the checked-out branch before and after, where it moves.
    pub(super) trees: Option<(String, String)>,
    /// Files of the work tree that follow, relative to it.
    pub(super) files: Vec<PathBuf>,
    /// Whether the files themselves are written (merge, revert) or only the index (commit).
    pub(super) checkout: bool,
}

pub(super) fn failed(doing: &str) -> impl Fn(git2::Error) -> DriverError {
    let doing = doing.to_owned();
    move |error| DriverError::Tool(format!("cannot {doing}: {}", error.message()))
}

/// Works the change out. Objects that it needs are written to `repo`, which the caller may have given a store in memory.
pub(super) fn work_out(step: &StepSpec, repo: &Repository, time_s: i64) -> Result<GitChange, DriverError> {
    match step.operation() {
        "commit" => commit(&step.params()?, repo, time_s),
        "merge" => merge(&step.params()?, repo, time_s),
        "revert" => revert(&step.params()?, repo, time_s),
        "push" => push(&step.params()?, repo),
        "branch_delete" => delete_ref(&step.params()?, repo, "refs/heads/"),
        "tag_delete" => delete_ref(&step.params()?, repo, "refs/tags/"),
        operation => {
            let params: SetRef = step.params()?;
            let (kind, is_new) =
                operation.split_once('_').map_or(("branch", true), |(kind, verb)| (kind, verb == "create"));
            set_ref(&params, repo, if kind == "tag" { "refs/tags/" } else { "refs/heads/" }, is_new)
        }
    }
}

/// Full name and commit of the branch that is checked out; `None` for one without commits.
pub(super) fn head(repo: &Repository) -> Result<(String, Option<Oid>), DriverError> {
    let head = repo.find_reference("HEAD").map_err(failed("read HEAD"))?;
    let name = head.symbolic_target().ok().flatten().map(str::to_owned);
    let Some(name) = name else { return Err(DriverError::Refused("HEAD is detached: check a branch out".to_owned())) };
    let oid = repo.refname_to_id(&name).ok();
    Ok((name, oid))
}

fn signature(name: &str, email: &str, time_s: i64) -> Result<Signature<'static>, DriverError> {
    Signature::new(name, email, &Time::new(time_s, 0)).map_err(failed("sign a commit"))
}

fn tree_of<'r>(repo: &'r Repository, oid: Oid) -> Result<GitTree<'r>, DriverError> {
    repo.find_commit(oid).and_then(|commit| commit.tree()).map_err(failed("read a tree"))
}

fn commit(params: &Commit, repo: &Repository, time_s: i64) -> Result<GitChange, DriverError> {
    let (branch, parent) = head(repo)?;
    let workdir =
        repo.workdir().ok_or_else(|| DriverError::Refused("a bare repository has no work tree".to_owned()))?;
    let mut index = Index::new().map_err(failed("make an index"))?;
    let old = parent.map(|oid| tree_of(repo, oid)).transpose()?;
    if let Some(tree) = &old {
        index.read_tree(tree).map_err(failed("read a tree"))?;
    }
    let paths: Vec<PathBuf> = params.paths.iter().map(PathBuf::from).collect();
    for path in &paths {
        stage(repo, workdir, &mut index, path)?;
    }
    let tree = index.write_tree_to(repo).and_then(|oid| repo.find_tree(oid)).map_err(failed("write a tree"))?;
    if old.as_ref().is_some_and(|old| old.id() == tree.id()) {
        return Err(DriverError::Refused(
            "the files are the same as on the branch: there is nothing to commit".to_owned(),
        ));
    }
    let name = params.author.as_deref().unwrap_or("backout");
    let author = signature(name, params.email.as_deref().unwrap_or("backout@localhost"), time_s)?;
    let parents = parent.map(|oid| repo.find_commit(oid)).transpose().map_err(failed("read a commit"))?;
    let parents: Vec<&GitCommit<'_>> = parents.iter().collect();
    let made =
        repo.commit(None, &author, &author, &params.message, &tree, &parents).map_err(failed("make a commit"))?;
    let old_tree = old.map_or(Oid::ZERO_SHA1, |tree| tree.id());
    Ok(GitChange {
        refs: vec![moved(branch, parent, Some(made))],
        trees: Some((old_tree.to_string(), tree.id().to_string())),
        files: paths,
        checkout: false,
    })
}

/// Puts a file of the work tree into an index that is not the repository's own.
fn stage(repo: &Repository, workdir: &Path, index: &mut Index, path: &Path) -> Result<(), DriverError> {
    let own = path.components().any(|part| part.as_os_str() == ".git");
    if !snapshots::is_plain_relative(path) || own {
        return Err(DriverError::Refused(format!("{} is not a path in the work tree", path.display())));
    }
    let (bytes, mode) = match place::held(workdir, path)? {
        Held::Nothing => return index.remove_path(path).map_err(failed("remove a file from the index")),
        Held::Blob(bytes, mode) => (bytes, mode),
        Held::Other => {
            return Err(DriverError::Refused(format!("{} is neither a file nor a symlink", path.display())));
        }
    };
    let id = repo.blob(&bytes).map_err(failed("store a file"))?;
    index.add(&entry(path, id, mode)).map_err(failed("add a file to the index"))
}

fn entry(path: &Path, id: Oid, mode: u32) -> git2::IndexEntry {
    use std::os::unix::ffi::OsStrExt as _;
    let zero = git2::IndexTime::new(0, 0);
    let path = path.as_os_str().as_bytes().to_vec();
    git2::IndexEntry {
        ctime: zero,
        mtime: zero,
        dev: 0,
        ino: 0,
        mode,
        uid: 0,
        gid: 0,
        file_size: 0,
        id,
        flags: 0,
        flags_extended: 0,
        path,
    }
}

fn merge(params: &Merge, repo: &Repository, time_s: i64) -> Result<GitChange, DriverError> {
    let (branch, ours) = head(repo)?;
    let ours = ours.ok_or_else(|| DriverError::Refused("the branch has no commit".to_owned()))?;
    let theirs = resolve(repo, &params.from)?;
    let (ours_commit, theirs_commit) = (commit_at(repo, ours)?, commit_at(repo, theirs)?);
    if ours == theirs || repo.graph_descendant_of(ours, theirs).map_err(failed("compare commits"))? {
        return Err(DriverError::Refused(format!("{} is merged already", params.from)));
    }
    if repo.graph_descendant_of(theirs, ours).map_err(failed("compare commits"))? {
        return checked_out(repo, branch, ours, theirs);
    }
    let mut index = repo.merge_commits(&ours_commit, &theirs_commit, None).map_err(failed("merge"))?;
    let tree = clean_tree(repo, &mut index, "the merge")?;
    let author = signature("backout", "backout@localhost", time_s)?;
    let message = params.message.clone().unwrap_or_else(|| format!("Merge {}", params.from));
    let made = repo
        .commit(None, &author, &author, &message, &tree, &[&ours_commit, &theirs_commit])
        .map_err(failed("make a commit"))?;
    checked_out(repo, branch, ours, made)
}

fn revert(params: &Revert, repo: &Repository, time_s: i64) -> Result<GitChange, DriverError> {
    let (branch, ours) = head(repo)?;
    let ours = ours.ok_or_else(|| DriverError::Refused("the branch has no commit".to_owned()))?;
    let (ours_commit, bad) = (commit_at(repo, ours)?, commit_at(repo, resolve(repo, &params.commit)?)?);
    if bad.parent_count() != 1 {
        return Err(DriverError::Refused("only a commit with one parent can be reverted".to_owned()));
    }
    let mut index = repo.revert_commit(&bad, &ours_commit, 0, None).map_err(failed("revert"))?;
    let tree = clean_tree(repo, &mut index, "the revert")?;
    let author = signature("backout", "backout@localhost", time_s)?;
    let message = params.message.clone().unwrap_or_else(|| format!("Revert {}", bad.id()));
    let made =
        repo.commit(None, &author, &author, &message, &tree, &[&ours_commit]).map_err(failed("make a commit"))?;
    checked_out(repo, branch, ours, made)
}

fn clean_tree<'r>(repo: &'r Repository, index: &mut Index, what: &str) -> Result<GitTree<'r>, DriverError> {
    if index.has_conflicts() {
        return Err(DriverError::Refused(format!("{what} has conflicts: resolve them in a commit of your own")));
    }
    index.write_tree_to(repo).and_then(|oid| repo.find_tree(oid)).map_err(failed("write a tree"))
}

fn commit_at(repo: &Repository, oid: Oid) -> Result<GitCommit<'_>, DriverError> {
    repo.find_commit(oid).map_err(failed("read a commit"))
}

/// The checked-out branch goes from one commit to another, and the work tree with it.
fn checked_out(repo: &Repository, branch: String, from: Oid, to: Oid) -> Result<GitChange, DriverError> {
    let (old, new) = (tree_of(repo, from)?, tree_of(repo, to)?);
    let diff = repo.diff_tree_to_tree(Some(&old), Some(&new), None).map_err(failed("compare trees"))?;
    let mut files: Vec<PathBuf> = diff
        .deltas()
        .flat_map(|delta| [delta.old_file().path().map(Path::to_owned), delta.new_file().path().map(Path::to_owned)])
        .flatten()
        .collect();
    files.sort();
    files.dedup();
    refuse_what_is_not_written_as_stored(repo, &diff, &files)?;
    Ok(GitChange {
        refs: vec![moved(branch, Some(from), Some(to))],
        trees: Some((old.id().to_string(), new.id().to_string())),
        files,
        checkout: true,
    })
}

/// A submodule is no file, and a file that a filter rewrites on its way to the work tree is not what its blob says.
fn refuse_what_is_not_written_as_stored(
    repo: &Repository,
    diff: &git2::Diff<'_>,
    files: &[PathBuf],
) -> Result<(), DriverError> {
    let link = git2::FileMode::Commit;
    if let Some(delta) = diff.deltas().find(|delta| delta.old_file().mode() == link || delta.new_file().mode() == link)
    {
        let path = delta.new_file().path().unwrap_or(Path::new("")).display();
        return Err(DriverError::Refused(format!("{path} is a submodule, which this kind does not move")));
    }
    let converts =
        repo.config().and_then(|config| config.get_string("core.autocrlf")).is_ok_and(|value| value != "false");
    let filtered = |path: &&PathBuf| {
        ["filter", "eol", "crlf", "text", "ident", "working-tree-encoding"].iter().any(|name| {
            let value = repo.get_attr(path, name, git2::AttrCheckFlags::FILE_THEN_INDEX).ok().flatten();
            !matches!(git2::AttrValue::from_string(value), git2::AttrValue::Unspecified | git2::AttrValue::False)
        })
    };
    match files.iter().find(|path| converts || filtered(path)) {
        None => Ok(()),
        Some(path) => {
            let text = format!("{} is rewritten by a filter or its line ends when it is checked out", path.display());
            Err(DriverError::Refused(text))
        }
    }
}

fn set_ref(params: &SetRef, repo: &Repository, prefix: &str, is_new: bool) -> Result<GitChange, DriverError> {
    let name = full_name(prefix, &params.name)?;
    let before = repo.refname_to_id(&name).ok();
    let after = resolve(repo, &params.at)?;
    match (before, is_new) {
        (Some(_), true) => return Err(DriverError::Refused(format!("{name} exists already"))),
        (None, false) => return Err(DriverError::Refused(format!("{name} does not exist"))),
        _ => refuse_checked_out(repo, &name)?,
    }
    Ok(GitChange { refs: vec![moved(name, before, Some(after))], ..GitChange::default() })
}

fn delete_ref(params: &DeleteRef, repo: &Repository, prefix: &str) -> Result<GitChange, DriverError> {
    let name = full_name(prefix, &params.name)?;
    let before = repo.refname_to_id(&name).map_err(failed(&format!("find {name}")))?;
    refuse_checked_out(repo, &name)?;
    Ok(GitChange { refs: vec![moved(name, Some(before), None)], ..GitChange::default() })
}

fn refuse_checked_out(repo: &Repository, name: &str) -> Result<(), DriverError> {
    let is_head = !repo.is_bare() && head(repo).is_ok_and(|(head, _)| head == name);
    if is_head || place::is_checked_out_elsewhere(repo, name) {
        Err(DriverError::Refused(format!("{name} is checked out")))
    } else {
        Ok(())
    }
}

fn full_name(prefix: &str, short: &str) -> Result<String, DriverError> {
    let name = format!("{prefix}{short}");
    if git2::Reference::is_valid_name(&name) {
        Ok(name)
    } else {
        Err(DriverError::Refused(format!("{short:?} cannot name a ref")))
    }
}

fn push(params: &Push, repo: &Repository) -> Result<GitChange, DriverError> {
    let name = full_name("refs/heads/", &params.branch)?;
    let after = repo.refname_to_id(&name).map_err(failed(&format!("find {name}")))?;
    let before = remote::read(repo, &params.remote, &name)?;
    if let Some(before) = before.filter(|_| !params.force) {
        let known = repo.find_commit(before).is_ok();
        if !known || !(before == after || repo.graph_descendant_of(after, before).map_err(failed("compare commits"))?) {
            return Err(DriverError::Refused(format!(
                "{} of {} has commits that this branch has not",
                name, params.remote
            )));
        }
    }
    let remote = Some(params.remote.clone());
    Ok(GitChange { refs: vec![RefMove { remote, ..moved(name, before, Some(after)) }], ..GitChange::default() })
}

fn moved(name: String, before: Option<Oid>, after: Option<Oid>) -> RefMove {
    let text = |oid: Option<Oid>| oid.map(|oid| oid.to_string());
    RefMove { name, remote: None, before: text(before), after: text(after) }
}

/// The commit that a branch, tag or id names.
pub(super) fn resolve(repo: &Repository, name: &str) -> Result<Oid, DriverError> {
    repo.revparse_single(name)
        .and_then(|object| object.peel_to_commit())
        .map(|commit| commit.id())
        .map_err(failed(&format!("find {name}")))
}
