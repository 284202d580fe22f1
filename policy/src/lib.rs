//! The gate's decisions: what was assessed goes in, decisions with ids and all reasons come out.
//!
//! This crate must never look at the world, know a kind of step, or allow what no rule allows.
//!
//! [`Engine`] is the seam: the rules of [`BuiltIn`] are few and fixed; an engine with policies as code takes its place
//! behind the same trait.

mod approvals;
mod builtin;
mod request;

pub use approvals::{Counted, Vote, count};
pub use builtin::BuiltIn;
pub use request::{Outcome, Request, SiteFacts, StepFacts, Unknown};

use schemas::Digest;

/// What decides.
pub trait Engine {
    /// Names the rules: the same digest means the same decisions.
    fn digest(&self) -> Digest;
    /// Decides about a plan as a whole and each of its steps.
    fn decide(&self, request: &Request<'_>) -> Outcome;
}
