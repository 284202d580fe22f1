//! The test kit: what more than one test target needs. Nothing of the product may depend on it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

pub mod cage;
pub mod model;
pub mod program;
pub mod world;
