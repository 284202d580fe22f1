//! Parameters of git steps, as the plan writes them.

use schemars::JsonSchema;
use serde::Deserialize;

/// `git.commit`: named files of the work tree onto the branch that is checked out.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Commit {
    /// The work tree.
    pub(super) repo: String,
    /// Files relative to it, as they are when the step runs; a file that is gone is removed from the branch.
    pub(super) paths: Vec<String>,
    /// The commit message.
    pub(super) message: String,
    /// Name of the author; `backout` where left out.
    pub(super) author: Option<String>,
    /// E-mail address of the author.
    pub(super) email: Option<String>,
}

/// `git.merge`: another branch or commit into the branch that is checked out.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Merge {
    /// The work tree.
    pub(super) repo: String,
    /// What is merged: a branch, a tag or a commit.
    pub(super) from: String,
    /// Message of the merge commit, where one is needed.
    pub(super) message: Option<String>,
}

/// `git.revert`: a commit that takes another one back.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revert {
    /// The work tree.
    pub(super) repo: String,
    /// The commit to take back.
    pub(super) commit: String,
    /// Message of the new commit.
    pub(super) message: Option<String>,
}

/// `git.branch_create`, `git.branch_move`, `git.tag_create`, `git.tag_move`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetRef {
    /// The repository, bare or not.
    pub(super) repo: String,
    /// Short name of the branch or tag.
    pub(super) name: String,
    /// Where it is to point: a branch, a tag or a commit.
    pub(super) at: String,
}

/// `git.branch_delete`, `git.tag_delete`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteRef {
    /// The repository, bare or not.
    pub(super) repo: String,
    /// Short name of the branch or tag.
    pub(super) name: String,
}

/// `git.push`: a branch to a remote, always with a lease on what was seen there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Push {
    /// The repository.
    pub(super) repo: String,
    /// Name of the remote.
    pub(super) remote: String,
    /// Short name of the branch, here and there.
    pub(super) branch: String,
    /// Whether commits of the remote may be dropped.
    #[serde(default)]
    pub(super) force: bool,
}

/// `git.ref`, a check: a ref points to this commit, or is not there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RefCheck {
    /// The repository.
    pub(super) repo: String,
    /// Full name, as `refs/heads/main`.
    #[serde(rename = "ref")]
    pub(super) name: String,
    /// The commit, or another ref whose commit it must be; left out, the ref must not exist.
    pub(super) commit: Option<String>,
}
