//! What a driver may know of the run, and the tokens without which it must not act.

use std::fmt;
use std::sync::Arc;

use schemas::{Deed, Envelope};

use crate::driver::{Cancel, StepSpec};

/// What a driver may know of the run.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Id of the run.
    pub run: String,
    /// When to end.
    pub cancel: Cancel,
    /// After a crash, the last instant (Unix milliseconds) at which the process that drove the run was seen alive. What
    /// changed later cannot be laid at its door.
    pub alive_until_ms: Option<i64>,
    /// Who says what a token covers.
    pub authority: Arc<dyn Authority>,
}

impl Scope {
    /// A scope in which everything may be looked at and nothing done: no token is good here.
    pub fn to_look(run: &str) -> Self {
        Self { run: run.to_owned(), cancel: Cancel::default(), alive_until_ms: None, authority: Arc::new(Nobody) }
    }

    /// Spends the token on acting.
    pub fn may_apply(&self, step: &StepSpec, token: Token) -> Result<(), TokenError> {
        self.authority.authorise(token, step, Deed::Apply)
    }

    /// Spends the token on putting back.
    pub fn may_undo(&self, step: &StepSpec, token: Token) -> Result<(), TokenError> {
        self.authority.authorise(token, step, Deed::Undo)
    }
}

/// The right to do one thing once, signed. It is moved into the act that it is spent on, and cannot be copied.
pub struct Token(Envelope);

impl Token {
    /// A token from its signed form. It is worth nothing until an authority takes it.
    pub fn new(envelope: Envelope) -> Self {
        Self(envelope)
    }

    /// Its signed form.
    pub fn envelope(&self) -> &Envelope {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Takes tokens.
pub trait Authority: fmt::Debug + Send + Sync {
    /// Spends a token on one deed of a step. An error means that nothing may be done.
    fn authorise(&self, token: Token, step: &StepSpec, deed: Deed) -> Result<(), TokenError>;
}

/// Takes no token at all.
#[derive(Debug)]
struct Nobody;

impl Authority for Nobody {
    fn authorise(&self, _: Token, step: &StepSpec, _: Deed) -> Result<(), TokenError> {
        Err(TokenError::Covers { id: "here".to_owned(), what: format!("doing anything with step {}", step.id) })
    }
}

/// Why a token is not good for what was tried.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// It is not the runner's word.
    #[error("the token for step {step} is not good: {reason}")]
    Forged {
        /// The step.
        step: String,
        /// Why.
        reason: String,
    },
    /// It is for something else.
    #[error("the token {id} does not cover {what}")]
    Covers {
        /// The token.
        id: String,
        /// What was tried.
        what: String,
    },
    /// The gate never allowed that much.
    #[error("the gate did not allow {what}")]
    Ceiling {
        /// What was tried.
        what: String,
    },
    /// Its time is over, or has not come.
    #[error("the token {id} is good from {from} until {until}, and it is {now}")]
    Time {
        /// The token.
        id: String,
        /// When it was given.
        from: String,
        /// When it ends.
        until: String,
        /// Now.
        now: String,
    },
    /// It was used.
    #[error("the token {id} was spent")]
    Spent {
        /// The token.
        id: String,
    },
    /// The step cannot be undone, and the token does not say that it may act all the same.
    #[error("the token {id} is not for what cannot be undone, and step {step} cannot be")]
    Irreversible {
        /// The token.
        id: String,
        /// The step.
        step: String,
    },
}
