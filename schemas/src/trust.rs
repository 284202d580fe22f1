//! The trust root: which key belongs to whom and may sign what, until when (in the style of TUF).
//!
//! Must never count keys where it should count people: thresholds are over distinct owners.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::VerifyingKey;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::envelope::Document;
use crate::keys::{KeyError, KeyId, public_from_hex};
use crate::strict::{StrictError, parse_strict};

/// What a key may sign. One key per purpose.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Signs trust roots.
    Root,
    /// Signs plans.
    Agent,
    /// Signs manifests.
    Gate,
    /// Signs approvals for one environment.
    Approver(String),
    /// Stops and resumes.
    Operator,
    /// Signs receipts.
    Runner,
    /// Signs checkpoints of the log and nothing else.
    Log,
    /// Cosigns checkpoints.
    Witness,
    /// Signs bundles of policies.
    Policy,
    /// Signs nothing by itself: the approvals of its members count as this team's word.
    Team(String),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Agent => f.write_str("agent"),
            Self::Gate => f.write_str("gate"),
            Self::Approver(environment) => write!(f, "approver:{environment}"),
            Self::Operator => f.write_str("operator"),
            Self::Runner => f.write_str("runner"),
            Self::Log => f.write_str("log"),
            Self::Witness => f.write_str("witness"),
            Self::Policy => f.write_str("policy"),
            Self::Team(name) => write!(f, "team:{name}"),
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "root" => Ok(Self::Root),
            "agent" => Ok(Self::Agent),
            "gate" => Ok(Self::Gate),
            "operator" => Ok(Self::Operator),
            "runner" => Ok(Self::Runner),
            "log" => Ok(Self::Log),
            "witness" => Ok(Self::Witness),
            "policy" => Ok(Self::Policy),
            other => match other.split_once(':') {
                Some(("approver", environment)) if !environment.is_empty() => {
                    Ok(Self::Approver(environment.to_owned()))
                }
                Some(("team", name)) if crate::plan::is_valid_id(name) => Ok(Self::Team(name.to_owned())),
                _ => Err(format!(
                    "no role {other:?}: root, agent, gate, approver:<environment>, operator, runner, log, witness, policy, team:<name>"
                )),
            },
        }
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Role {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Role".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^(root|agent|gate|operator|runner|log|witness|policy|approver:.+|team:.+)$"
        })
    }
}

/// One key of the trust root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustedKey {
    /// 64 hex digits of the Ed25519 public key.
    pub public: String,
    /// Always `ed25519`.
    pub scheme: String,
    /// The person or service that holds it. Thresholds count these.
    pub owner: String,
    /// From this instant on its signatures do not count.
    pub not_after: Timestamp,
    /// Revoked from this instant on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// The environments that an agent's key is bound to; empty means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<String>,
    /// What an agent's key is for, in the words of the policy, as `change` or `backups`; empty means nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub duties: Vec<String>,
}

impl TrustedKey {
    /// An Ed25519 key of `owner`, by the 64 hex digits of its public half, bound to nothing.
    pub fn ed25519(public: String, owner: &str, not_after: Timestamp) -> Self {
        Self {
            public,
            scheme: "ed25519".to_owned(),
            owner: owner.to_owned(),
            not_after,
            revoked_at: None,
            environments: Vec::new(),
            duties: Vec::new(),
        }
    }
}

/// Who holds a role, and how many distinct owners are needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Holders {
    keyids: Vec<KeyId>,
    threshold: usize,
}

/// A versioned, expiring list of keys and roles, signed by the root role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustRoot {
    /// Rises by one with each change.
    pub version: u64,
    /// From this instant on nothing verifies under it.
    pub expires: Timestamp,
    keys: BTreeMap<KeyId, TrustedKey>,
    roles: BTreeMap<String, Holders>,
}

/// A key that may be used now.
pub(crate) struct UsableKey<'a> {
    pub(crate) public: VerifyingKey,
    pub(crate) owner: &'a str,
}

/// Why a key does not count, or a trust root is not good.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TrustError {
    /// The trust root is too old.
    #[error("the trust root version {version} expired at {expires}")]
    RootExpired {
        /// Version.
        version: u64,
        /// When.
        expires: Timestamp,
    },
    /// The key has no such role.
    #[error("key {keyid} is not in role {role}")]
    NotInRole {
        /// Key.
        keyid: KeyId,
        /// Role.
        role: String,
    },
    /// The key's time is over.
    #[error("the key of {owner} expired at {at}")]
    Expired {
        /// Owner.
        owner: String,
        /// When.
        at: Timestamp,
    },
    /// The key was revoked.
    #[error("the key of {owner} was revoked at {at}")]
    Revoked {
        /// Owner.
        owner: String,
        /// When.
        at: Timestamp,
    },
    /// The key itself is not good.
    #[error("the key {keyid} is not usable")]
    Key {
        /// Key.
        keyid: KeyId,
        /// Why.
        source: KeyError,
    },
    /// An id does not belong to its key, or a role names an unknown key.
    #[error("{0}")]
    Inconsistent(String),
}

impl Document for TrustRoot {
    const PAYLOAD_TYPE: &'static str = "application/vnd.backout.trust-root.v1+json";
    const MAX_BYTES: usize = 1 << 20;

    fn from_payload(payload: &[u8]) -> Result<Self, StrictError> {
        let root: Self = parse_strict(payload, Self::MAX_BYTES)?;
        root.check().map_err(|error| StrictError::Malformed { message: error.to_string() })?;
        Ok(root)
    }
}

impl TrustRoot {
    /// An empty root.
    pub fn new(version: u64, expires: Timestamp) -> Self {
        Self { version, expires, keys: BTreeMap::new(), roles: BTreeMap::new() }
    }

    /// Enrols a key in a role. Weak keys are refused.
    pub fn enrol(&mut self, key: TrustedKey, role: &Role) -> Result<KeyId, TrustError> {
        let public = public_from_hex(&key.public).map_err(|error| TrustError::Inconsistent(error.to_string()))?;
        let keyid = KeyId::of(&public);
        self.keys.entry(keyid).or_insert(key);
        let holders =
            self.roles.entry(role.to_string()).or_insert_with(|| Holders { keyids: Vec::new(), threshold: 1 });
        if !holders.keyids.contains(&keyid) {
            holders.keyids.push(keyid);
        }
        Ok(keyid)
    }

    /// Revokes keys from an instant on; those that are revoked already stay so. Returns how many.
    pub fn revoke(&mut self, is_one: impl Fn(KeyId, &str) -> bool, at: Timestamp) -> usize {
        let mut count = 0;
        for (keyid, key) in &mut self.keys {
            if key.revoked_at.is_none() && is_one(*keyid, &key.owner) {
                key.revoked_at = Some(at);
                count += 1;
            }
        }
        count
    }

    /// Sets how many distinct owners of `role` must sign.
    pub fn set_threshold(&mut self, role: &Role, threshold: usize) {
        if let Some(holders) = self.roles.get_mut(&role.to_string()) {
            holders.threshold = threshold;
        }
    }

    /// How many distinct owners of `role` must sign; 1 for a role that nobody holds.
    pub fn threshold(&self, role: &Role) -> usize {
        self.roles.get(&role.to_string()).map_or(1, |holders| holders.threshold)
    }

    /// The key with this id, whatever its state.
    pub fn key(&self, keyid: KeyId) -> Option<&TrustedKey> {
        self.keys.get(&keyid)
    }

    /// All keys with their roles, for listing.
    pub fn listing(&self) -> Vec<(KeyId, &TrustedKey, Vec<String>)> {
        self.keys
            .iter()
            .map(|(keyid, key)| {
                let roles = self.roles.iter().filter(|(_, holders)| holders.keyids.contains(keyid));
                (*keyid, key, roles.map(|(name, _)| name.clone()).collect())
            })
            .collect()
    }

    /// Whether somebody holds a key that signs plans.
    pub fn is_agent(&self, owner: &str) -> bool {
        self.holders(&Role::Agent).iter().filter_map(|keyid| self.keys.get(keyid)).any(|key| key.owner == owner)
    }

    /// Teams that a person is in, by keys that are good at an instant.
    pub fn teams_of(&self, owner: &str, at: Timestamp) -> Vec<String> {
        let is_member = |holders: &Holders| {
            let keys = holders.keyids.iter().filter_map(|keyid| self.keys.get(keyid));
            let good = |key: &&TrustedKey| at < key.not_after && key.revoked_at.is_none_or(|revoked| at < revoked);
            keys.filter(good).any(|key| key.owner == owner)
        };
        let teams = self.roles.iter().filter_map(|(name, holders)| Some((name.strip_prefix("team:")?, holders)));
        teams.filter(|(_, holders)| is_member(holders)).map(|(name, _)| name.to_owned()).collect()
    }

    /// The ids that hold `role`.
    pub fn holders(&self, role: &Role) -> &[KeyId] {
        self.roles.get(&role.to_string()).map_or(&[], |holders| &holders.keyids)
    }

    /// Whether a key counts in a role at time `at`.
    pub fn check_key(&self, role: &Role, keyid: KeyId, at: Timestamp) -> Result<(), TrustError> {
        self.key_for(role, keyid, at).map(|_| ())
    }

    pub(crate) fn key_for(&self, role: &Role, keyid: KeyId, at: Timestamp) -> Result<UsableKey<'_>, TrustError> {
        if at >= self.expires {
            return Err(TrustError::RootExpired { version: self.version, expires: self.expires });
        }
        if !self.holders(role).contains(&keyid) {
            return Err(TrustError::NotInRole { keyid, role: role.to_string() });
        }
        let Some(key) = self.keys.get(&keyid) else {
            return Err(TrustError::Inconsistent(format!("role {role} names a key {keyid} that is not listed")));
        };
        if at >= key.not_after {
            return Err(TrustError::Expired { owner: key.owner.clone(), at: key.not_after });
        }
        if let Some(revoked) = key.revoked_at.filter(|revoked| at >= *revoked) {
            return Err(TrustError::Revoked { owner: key.owner.clone(), at: revoked });
        }
        let public = public_from_hex(&key.public).map_err(|source| TrustError::Key { keyid, source })?;
        Ok(UsableKey { public, owner: &key.owner })
    }

    /// Checks that ids belong to their keys and that each key serves one purpose.
    fn check(&self) -> Result<(), TrustError> {
        for (keyid, key) in &self.keys {
            let public = public_from_hex(&key.public).map_err(|source| TrustError::Key { keyid: *keyid, source })?;
            if KeyId::of(&public) != *keyid {
                return Err(TrustError::Inconsistent(format!("the id {keyid} does not belong to its key")));
            }
            if key.scheme != "ed25519" {
                return Err(TrustError::Inconsistent(format!("key {keyid} has the unknown scheme {:?}", key.scheme)));
            }
        }
        let mut log_keys = Vec::new();
        for (name, holders) in &self.roles {
            let role: Role = name.parse().map_err(TrustError::Inconsistent)?;
            if holders.threshold == 0 {
                return Err(TrustError::Inconsistent(format!("role {name} has threshold 0")));
            }
            if role == Role::Log {
                log_keys.clone_from(&holders.keyids);
            }
        }
        for (name, holders) in self.roles.iter().filter(|(name, _)| *name != "log") {
            if let Some(keyid) = holders.keyids.iter().find(|keyid| log_keys.contains(keyid)) {
                return Err(TrustError::Inconsistent(format!("the log key {keyid} also holds the role {name}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::keys::SecretKey;

    pub(crate) const NOW: &str = "2026-11-01T12:00:00Z";

    pub(crate) fn trust_with(keys: &[(&SecretKey, &str, Role)]) -> TrustRoot {
        let far: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let mut trust = TrustRoot::new(1, far);
        for (key, owner, role) in keys {
            trust.enrol(trusted(key, owner), role).unwrap();
        }
        trust
    }

    fn trusted(key: &SecretKey, owner: &str) -> TrustedKey {
        TrustedKey::ed25519(key.public_hex(), owner, "2029-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn expired_and_revoked_keys_do_not_count() {
        let key = SecretKey::from_seed([3; 32]);
        let mut trust = trust_with(&[(&key, "ada", Role::Gate)]);
        assert!(trust.key_for(&Role::Gate, key.id(), NOW.parse().unwrap()).is_ok());
        let late = "2029-06-01T00:00:00Z".parse().unwrap();
        assert!(matches!(trust.key_for(&Role::Gate, key.id(), late), Err(TrustError::Expired { .. })));
        let very_late = "2031-01-01T00:00:00Z".parse().unwrap();
        assert!(matches!(trust.key_for(&Role::Gate, key.id(), very_late), Err(TrustError::RootExpired { .. })));
        trust.keys.get_mut(&key.id()).unwrap().revoked_at = Some("2026-10-01T00:00:00Z".parse().unwrap());
        assert!(matches!(trust.key_for(&Role::Gate, key.id(), NOW.parse().unwrap()), Err(TrustError::Revoked { .. })));
    }

    #[test]
    fn a_log_key_with_a_second_purpose_is_refused() {
        let key = SecretKey::from_seed([3; 32]);
        let trust = trust_with(&[(&key, "log", Role::Log), (&key, "log", Role::Gate)]);
        let bytes = serde_json::to_vec(&trust).unwrap();
        assert!(TrustRoot::from_payload(&bytes).is_err());
    }

    #[test]
    fn a_key_under_a_foreign_id_is_refused() {
        let (one, two) = (SecretKey::from_seed([3; 32]), SecretKey::from_seed([4; 32]));
        let trust = trust_with(&[(&one, "ada", Role::Gate)]);
        let text = serde_json::to_string(&trust).unwrap().replace(&one.id().to_string(), &two.id().to_string());
        assert!(TrustRoot::from_payload(text.as_bytes()).is_err());
    }
}
