//! What is done to what, in the closed words that policy, library and limits share. Must never grow a word that means two things.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Looks and changes nothing.
    Inspect,
    /// Makes what was not there.
    Create,
    /// Changes what is there.
    Update,
    /// Takes away what is there.
    Delete,
    /// Takes rows out of a table.
    DeleteRows,
    /// Changes the schema of a table, or infrastructure as a whole.
    Migrate,
    /// Runs a program of which no better word is known.
    #[default]
    Execute,
    /// Restarts, stops or starts a service.
    Restart,
    /// Changes how much of a service runs.
    Scale,
    /// Puts another version of a service in place.
    Deploy,
    /// Puts an earlier version of a service back.
    RollBack,
    /// Puts data back from a backup.
    Restore,
    /// Changes a credential.
    Rotate,
    /// Gives somebody a right.
    Grant,
    /// Makes something public, for good.
    Publish,
    /// Sends something to somebody.
    Send,
    /// Moves a ref of a remote repository forward.
    Push,
    /// Moves a ref of a remote repository anywhere.
    ForcePush,
}

/// What it is done to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Thing {
    /// A file or folder.
    File,
    /// A ref of a git repository.
    Ref,
    /// A table, or a database as a whole.
    Table,
    /// Something that runs: a deployment, a unit, a container.
    Service,
    /// A resource of a cloud or a cluster.
    Infra,
    /// A credential, a key, a secret configuration.
    Secret,
    /// A backup of something else.
    Backup,
    /// Something that leaves the house: a mail, a call to somebody else's interface, a package.
    Message,
    /// A program whose effect nobody describes better.
    #[default]
    Program,
}

/// Harm that needs no delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hazard {
    /// Old versions, logs or backups are kept for a shorter time, or deleted by a rule later.
    RetentionCut,
    /// Names lead elsewhere.
    DnsChange,
    /// A right for everybody or for everything.
    WildcardGrant,
    /// Something becomes public.
    PublicExposure,
    /// What served one environment serves another.
    EnvironmentSwap,
    /// Nobody is alarmed any more.
    AlarmDisabled,
    /// No backups are taken any more.
    BackupDisabled,
    /// What is done is recorded no more.
    AuditDisabled,
    /// A protection against deletion or overwriting is taken off.
    ProtectionDisabled,
    /// Something is deleted and made anew under its name.
    Replacement,
}

impl Verb {
    /// All verbs, in order.
    pub const ALL: [Self; 18] = [
        Self::Inspect,
        Self::Create,
        Self::Update,
        Self::Delete,
        Self::DeleteRows,
        Self::Migrate,
        Self::Execute,
        Self::Restart,
        Self::Scale,
        Self::Deploy,
        Self::RollBack,
        Self::Restore,
        Self::Rotate,
        Self::Grant,
        Self::Publish,
        Self::Send,
        Self::Push,
        Self::ForcePush,
    ];

    /// The name in documents and policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::DeleteRows => "delete_rows",
            Self::Migrate => "migrate",
            Self::Execute => "execute",
            Self::Restart => "restart",
            Self::Scale => "scale",
            Self::Deploy => "deploy",
            Self::RollBack => "roll_back",
            Self::Restore => "restore",
            Self::Rotate => "rotate",
            Self::Grant => "grant",
            Self::Publish => "publish",
            Self::Send => "send",
            Self::Push => "push",
            Self::ForcePush => "force_push",
        }
    }

    /// Whether data can be lost by it.
    pub fn destroys(self) -> bool {
        matches!(self, Self::Delete | Self::DeleteRows | Self::ForcePush)
    }
}

impl Thing {
    /// All things, in order.
    pub const ALL: [Self; 9] = [
        Self::File,
        Self::Ref,
        Self::Table,
        Self::Service,
        Self::Infra,
        Self::Secret,
        Self::Backup,
        Self::Message,
        Self::Program,
    ];

    /// The name in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Ref => "ref",
            Self::Table => "table",
            Self::Service => "service",
            Self::Infra => "infra",
            Self::Secret => "secret",
            Self::Backup => "backup",
            Self::Message => "message",
            Self::Program => "program",
        }
    }

    /// The name of its entity type in policies.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::File => "File",
            Self::Ref => "Ref",
            Self::Table => "Table",
            Self::Service => "Service",
            Self::Infra => "Infra",
            Self::Secret => "Secret",
            Self::Backup => "Backup",
            Self::Message => "Message",
            Self::Program => "Program",
        }
    }
}

impl Hazard {
    /// All hazards, in order.
    pub const ALL: [Self; 10] = [
        Self::RetentionCut,
        Self::DnsChange,
        Self::WildcardGrant,
        Self::PublicExposure,
        Self::EnvironmentSwap,
        Self::AlarmDisabled,
        Self::BackupDisabled,
        Self::AuditDisabled,
        Self::ProtectionDisabled,
        Self::Replacement,
    ];

    /// The name in documents and policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RetentionCut => "retention_cut",
            Self::DnsChange => "dns_change",
            Self::WildcardGrant => "wildcard_grant",
            Self::PublicExposure => "public_exposure",
            Self::EnvironmentSwap => "environment_swap",
            Self::AlarmDisabled => "alarm_disabled",
            Self::BackupDisabled => "backup_disabled",
            Self::AuditDisabled => "audit_disabled",
            Self::ProtectionDisabled => "protection_disabled",
            Self::Replacement => "replacement",
        }
    }
}

/// What a command does, as the library knows it: for the gate, which never reads a command's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub on: Thing,
    /// The name of what it is done to, as `k8s:shop/checkout`; the program where nothing better is known.
    pub named: String,
    /// Harm beyond that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hazards: Vec<Hazard>,
}
