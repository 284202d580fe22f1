//! From what was recorded and seen to what can be said: verification of steps, receipts, replay.
//!
//! This crate must never change the world, and looks at it in one file only (`look.rs`).

mod account;
mod delta;
mod look;
mod receipt;
mod replay;

pub use account::Account;
pub use delta::{undeclared, unexpected};
pub use look::{Verification, run_checks, verify};
pub use receipt::{ReceiptInput, receipt};
pub use replay::{Kept, is_same, keepable};
