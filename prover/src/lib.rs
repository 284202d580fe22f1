//! What a bundle can never do, and what another one does differently, by proof and not by example.
//!
//! The policies are compiled to SMT (cedar-policy-symcc) and given to cvc5, a program of its own. An answer of "unknown" and an error of the solver
//! are failures: this crate must never call something proved that the solver did not say is so.

mod diff;
mod prove;
mod solve;
mod substitute;

pub use diff::{Difference, Direction, diff};
pub use prove::{Proof, Violation, prove};
pub use solve::{ProverError, find_solver};
