//! Parameters of file steps, as the plan writes them.

use schemars::JsonSchema;
use serde::Deserialize;

/// `file.write`: the whole content of a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Write {
    /// Absolute, or relative to the environment's first root.
    pub(super) path: String,
    /// Content as text.
    pub(super) content: Option<String>,
    /// Content as base64, for bytes that are not text.
    pub(super) content_base64: Option<String>,
    /// Permission bits in octal, as `0644`; an existing file keeps its own where this is left out.
    pub(super) mode: Option<String>,
}

/// `file.append`: text at the end of an existing file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Append {
    /// The file.
    pub(super) path: String,
    /// What is added.
    pub(super) content: String,
}

/// `file.replace`: one text for another in an existing file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Replace {
    /// The file.
    pub(super) path: String,
    /// Literal text that must be there.
    pub(super) find: String,
    /// What takes its place.
    pub(super) replace: String,
    /// How often `find` must be there; 1 where left out.
    pub(super) count: Option<u64>,
}

/// `file.move` and `file.copy`: the target must not exist.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FromTo {
    /// A file, a symlink or a folder with all that is in it.
    pub(super) from: String,
    /// Its new name; the folder that it is in must exist.
    pub(super) to: String,
}

/// `file.delete`: named files, or those that a pattern matches when the plan is assessed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Delete {
    /// Files, symlinks, or with `recursive` folders.
    #[serde(default)]
    pub(super) paths: Vec<String>,
    /// A pattern with `*`, `**`, `?`, `[…]`, `{…}`; `*` does not cross `/`.
    pub(super) glob: Option<String>,
    /// Whether folders may go with all that is in them.
    #[serde(default)]
    pub(super) recursive: bool,
}

/// `file.chmod`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Chmod {
    /// A file or folder.
    pub(super) path: String,
    /// Permission bits in octal, as `0755`.
    pub(super) mode: String,
}

/// `file.symlink`: a new symlink, or a new target for an existing one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Symlink {
    /// The link.
    pub(super) path: String,
    /// What it points to; not resolved.
    pub(super) target: String,
}

/// `file.digest`, a check: the file is there with this content.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DigestCheck {
    /// The file.
    pub(super) path: String,
    /// SHA-256 of its content.
    pub(super) sha256: schemas::Digest,
}

/// `file.contains`, a check: the file is there and holds this text.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ContainsCheck {
    /// The file.
    pub(super) path: String,
    /// Text that must be in it.
    pub(super) text: String,
}

/// `file.exists` and `file.absent`, checks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PathCheck {
    /// The name.
    pub(super) path: String,
}
