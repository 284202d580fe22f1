//! Execution tokens: minted by gate and runner together, good for one act, in one process, for seconds.
//!
//! The gate puts a [`Ceiling`](schemas::Ceiling) over each step and signs them all, by way of the manifest. The runner attenuates a ceiling to
//! a [`Grant`](schemas::Grant) for one act and signs that. A driver acts only when a [`Checker`] found both to cover exactly what it is about
//! to do. The form is a plain signed document and not a biscuit; `mint`, `attenuate` and `authorise` are all that anybody
//! sees of it. Must never let a secret key or a token into an error.

mod checker;
mod mint;
mod warrant;

#[cfg(test)]
mod tests;

pub use checker::Checker;
pub use mint::Mint;
pub use warrant::{Warrant, ceilings};

use jiff::{SignedDuration, Timestamp};
use schemas::{Role, SecretKey, TrustRoot, TrustedKey};

/// How long a token is good. It is minted directly before it is spent.
pub const LIFE: SignedDuration = SignedDuration::from_secs(30);

/// How far the clock may be set back between minting and spending.
const SLACK: SignedDuration = SignedDuration::from_secs(5);

/// Where the time comes from.
pub(crate) type Clock = fn() -> Timestamp;

/// A mint and the checker that takes its tokens, for one run in this process. `first` is the number of acts that are on
/// record: no token of theirs is taken again.
pub fn pair(
    runner: SecretKey,
    trust: &TrustRoot,
    warrant: Warrant,
    run: &str,
    first: u64,
) -> Result<(Mint, Checker), PairError> {
    pair_at(runner, trust, warrant, run, first, Timestamp::now)
}

/// A pair for the way back alone. It signs with a key of this process: no key that expired, was revoked or is away keeps
/// anybody from putting back what is on record.
pub fn pair_to_undo(warrant: Warrant, run: &str, first: u64) -> Result<(Mint, Checker), PairError> {
    let own = SecretKey::generate().map_err(|_| PairError::NoRandomness)?;
    let end = Timestamp::now() + SignedDuration::from_hours(24 * 365);
    let mut trust = TrustRoot::new(1, end);
    let key = TrustedKey::ed25519(own.public_hex(), "this process", end);
    trust.enrol(key, &Role::Runner).map_err(|error| PairError::Runner(error.to_string()))?;
    pair(own, &trust, warrant.only_to_undo(), run, first)
}

/// Why there can be no tokens.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness")]
    NoRandomness,
    /// The runner's key is not good.
    #[error("the runner's key is not good: {0}")]
    Runner(String),
}

pub(crate) fn pair_at(
    runner: SecretKey,
    trust: &TrustRoot,
    warrant: Warrant,
    run: &str,
    first: u64,
    clock: Clock,
) -> Result<(Mint, Checker), PairError> {
    let mut bits = [0u8; 16];
    getrandom::fill(&mut bits).map_err(|_| PairError::NoRandomness)?;
    let executor: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
    let started = clock();
    trust.check_key(&Role::Runner, runner.id(), started).map_err(|error| PairError::Runner(error.to_string()))?;
    let mint = Mint { runner, warrant: warrant.clone(), run: run.to_owned(), executor: executor.clone(), clock };
    let checker = Checker::new(trust.clone(), warrant, (run.to_owned(), executor), first, clock);
    Ok((mint, checker))
}
