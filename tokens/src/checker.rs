//! Where tokens are spent.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use kernel::{Authority, StepSpec, Token, TokenError};
use schemas::{Class, Deed, Grant, Role, TrustRoot, Verified};

use crate::warrant::Warrant;
use crate::{Clock, SLACK};

/// Takes the tokens of one run in one process, each once.
pub struct Checker {
    trust: TrustRoot,
    warrant: Warrant,
    run: String,
    executor: String,
    /// The runner's key counts if it did when the process began: a way back is not lost to a date.
    started: Timestamp,
    /// Acts with lower numbers are on record.
    first: u64,
    spent: Mutex<HashSet<u64>>,
    pub(crate) clock: Clock,
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checker").field("run", &self.run).finish_non_exhaustive()
    }
}

impl Checker {
    pub(crate) fn new(
        trust: TrustRoot,
        warrant: Warrant,
        (run, executor): (String, String),
        first: u64,
        clock: Clock,
    ) -> Self {
        Self { trust, warrant, run, executor, started: clock(), first, spent: Mutex::default(), clock }
    }

    fn covers(&self, grant: &Grant, step: &StepSpec, deed: Deed) -> Result<(), &'static str> {
        let is = |right: bool, what| if right { Ok(()) } else { Err(what) };
        is(grant.run == self.run, "another run")?;
        is(grant.manifest == self.warrant.manifest && grant.plan == self.warrant.plan, "another plan")?;
        is(grant.executor == self.executor, "another process")?;
        is(grant.step == step.id, "another step")?;
        is(grant.uses == step.uses, "another operation")?;
        is(grant.deed == deed, "another deed")?;
        let writes = &step.lowered.writes;
        let same = grant.resources.len() == writes.len()
            && grant.resources.iter().zip(writes).all(|(granted, write)| *granted == write.to_string());
        is(same, "other resources")?;
        is(grant.reach == step.reach(), "other inputs")
    }
}

impl Authority for Checker {
    fn authorise(&self, token: Token, step: &StepSpec, deed: Deed) -> Result<(), TokenError> {
        let forged = |reason: String| TokenError::Forged { step: step.id.clone(), reason };
        let verified: Verified<Grant> = token
            .envelope()
            .verify(&self.trust, &Role::Runner, self.started)
            .map_err(|error| forged(error.to_string()))?;
        let grant = verified.document();
        let id = grant.id();
        self.covers(grant, step, deed).map_err(|what| TokenError::Covers { id: id.clone(), what: what.to_owned() })?;
        let is_over = grant.irreversible && !self.warrant.allows_irreversible(step.ix);
        if is_over || !self.warrant.allows(step.ix, grant.reach, deed) {
            return Err(TokenError::Ceiling { what: format!("what step {} is about to do", step.id) });
        }
        if deed == Deed::Apply && step.lowered.class == Class::Irreversible && !grant.irreversible {
            return Err(TokenError::Irreversible { id, step: step.id.clone() });
        }
        let now = (self.clock)();
        if now >= grant.expires || now + SLACK < grant.issued {
            let (from, until, now) = (grant.issued.to_string(), grant.expires.to_string(), now.to_string());
            return Err(TokenError::Time { id, from, until, now });
        }
        let fresh =
            grant.act >= self.first && self.spent.lock().unwrap_or_else(PoisonError::into_inner).insert(grant.act);
        if fresh { Ok(()) } else { Err(TokenError::Spent { id }) }
    }
}
