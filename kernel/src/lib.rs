//! The run as a sans-IO state machine, the graph of its steps, and the contract of drivers.
//!
//! This crate must never read a clock, a file or randomness, and must never wait.
//!
//! - [`Graph`]: which step needs which.
//! - [`next`]: the transition table of one step.
//! - [`Run`]: `handle(event)` changes it, `effects()` says what the shell must do next. Recovery is the same fold.
//! - [`Kind`] and [`Driver`]: what a kind of step must be able to do.

mod driver;
mod event;
mod frontier;
mod graph;
mod run;
mod token;
mod transition;

pub use driver::{
    AfterImage, Ahead, BeforeImage, Bell, Cancel, CheckOutcome, Conflict, Driver, DriverError, DriverSet, Facts, Kind,
    Leaves, Left, Lowered, Output, SideCommand, Sighting, StepSpec, TriedOut, UndoError, parameters,
};
pub use event::{Event, RunFact, StepFact};
pub use graph::{Graph, GraphError, StepIx};
pub use run::{Effect, IllegalEvent, MAX_UNDO_ATTEMPTS, Mode, Run};
pub use schemas::{End, Resource, ResourceError};
pub use token::{Authority, Scope, Token, TokenError};
pub use transition::{Claim, Seen, StepState, UndoClaim, next};
