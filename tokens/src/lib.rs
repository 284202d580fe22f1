//! Execution tokens: minted by gate and runner together, good for one act, in one process, for seconds.
//!
//! The gate puts a [`Ceiling`] over each step and signs them all, by way of the manifest. The runner attenuates a ceiling to
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

/// How long a token is good. It is minted directly before it is spent.
pub const LIFE: SignedDuration = SignedDuration::from_secs(30);

/// How far the clock may be set back between minting and spending.
const SLACK: SignedDuration = SignedDuration::from_secs(5);

/// Where the time comes from.
pub(crate) type Clock = fn() -> Timestamp;

/// A mint and the checker that takes its tokens, for one run in this process. `first` is the number of acts that are on
/// record: no token of theirs is taken again.
pub fn pair(
    runner: schemas::SecretKey,
    trust: &schemas::TrustRoot,
    warrant: Warrant,
    run: &str,
    first: u64,
) -> Result<(Mint, Checker), PairError> {
    pair_at(runner, trust, warrant, run, first, Timestamp::now)
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
    runner: schemas::SecretKey,
    trust: &schemas::TrustRoot,
    warrant: Warrant,
    run: &str,
    first: u64,
    clock: Clock,
) -> Result<(Mint, Checker), PairError> {
    let mut bits = [0u8; 16];
    getrandom::fill(&mut bits).map_err(|_| PairError::NoRandomness)?;
    let executor: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
    let started = clock();
    trust
        .check_key(&schemas::Role::Runner, runner.id(), started)
        .map_err(|error| PairError::Runner(error.to_string()))?;
    let mint = Mint { runner, warrant: warrant.clone(), run: run.to_owned(), executor: executor.clone(), clock };
    let checker = Checker::new(trust.clone(), warrant, (run.to_owned(), executor), first, clock);
    Ok((mint, checker))
}
