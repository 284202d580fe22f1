//! The imperative shell around the kernel: what to dispatch, when to commit, how to stop, how to take over after a crash.
//!
//! This crate must make no decision of its own: what happens next is the kernel's word, what is seen is the drivers'.

mod conductor;
mod fold;
mod heartbeat;
mod sentry;
mod shell;
mod work;

pub use conductor::{Conductor, Order, Slots, Tick};
pub use fold::{Cause, FoldError, Folded, Loaded, Loader, Names, fold};
pub use heartbeat::{last_sign_of_life, show_life};
pub use shell::{ExecutorError, Finished, Shell, Stop};
pub use work::{Brake, Braked, Hands, Message, Warden, Work};
