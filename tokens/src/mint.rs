//! Where tokens are made, directly before they are spent.

use kernel::{StepSpec, Token, TokenError};
use schemas::{Deed, Document as _, Envelope, Grant, SecretKey};

use crate::warrant::Warrant;
use crate::{Clock, LIFE};

/// Makes the tokens of one run in one process. It holds the runner's key.
pub struct Mint {
    pub(crate) runner: SecretKey,
    pub(crate) warrant: Warrant,
    pub(crate) run: String,
    pub(crate) executor: String,
    pub(crate) clock: Clock,
}

impl Mint {
    /// Narrows the ceiling over `step` to act number `act`: this deed, these resources, this process, the next seconds.
    pub fn attenuate(&self, step: &StepSpec, deed: Deed, act: u64) -> Result<Grant, TokenError> {
        let over = || TokenError::Ceiling { what: format!("{deed:?} of step {} as it is", step.id).to_lowercase() };
        let reach = step.reach();
        if !self.warrant.allows(step.ix, reach, deed) {
            return Err(over());
        }
        let issued = (self.clock)();
        Ok(Grant {
            run: self.run.clone(),
            act,
            manifest: self.warrant.manifest,
            plan: self.warrant.plan,
            step: step.id.clone(),
            uses: step.uses.clone(),
            deed,
            resources: step.lowered.writes.iter().map(ToString::to_string).collect(),
            reach,
            irreversible: deed == Deed::Apply && self.warrant.allows_irreversible(step.ix),
            executor: self.executor.clone(),
            issued,
            expires: issued + LIFE,
        })
    }

    /// A token for act number `act`.
    pub fn mint(&self, step: &StepSpec, deed: Deed, act: u64) -> Result<Token, TokenError> {
        Ok(self.sign(&self.attenuate(step, deed, act)?))
    }

    /// Signs a grant, whatever it says: only a checker makes it worth anything.
    pub(crate) fn sign(&self, grant: &Grant) -> Token {
        // INVARIANT: a grant is strings, numbers and lists of them, which always serialize.
        let payload = serde_json::to_vec(grant).unwrap_or_default();
        Token::new(Envelope::sign(Grant::PAYLOAD_TYPE, &payload, &[&self.runner]))
    }
}
