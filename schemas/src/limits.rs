//! Constant limits on every input. Must never be raised by anything that an input says.

/// The limits that every document is held to before it is parsed.
#[derive(Clone, Copy, Debug)]
pub struct Limits;

impl Limits {
    /// Largest plan payload in bytes.
    pub const PLAN_BYTES: usize = 64 * 1024 * 1024;
    /// Largest envelope in bytes: base64 of the largest payload, with room for signatures.
    pub const ENVELOPE_BYTES: usize = Self::PLAN_BYTES / 3 * 4 + 64 * 1024;
    /// Largest receipt payload in bytes.
    pub const RECEIPT_BYTES: usize = Self::PLAN_BYTES;
    /// Largest approval or manifest payload in bytes, so that a KMS can sign it.
    pub const STATEMENT_BYTES: usize = 4096;
    /// Most signatures on one envelope.
    pub const SIGNATURES: usize = 16;
    /// Most steps in a plan.
    pub const STEPS: usize = 200_000;
    /// Most needs of one step.
    pub const NEEDS: usize = 1_000;
    /// Deepest nesting of any JSON.
    pub const DEPTH: usize = 32;
    /// Longest string in bytes, file contents included.
    pub const STRING_BYTES: usize = 8 * 1024 * 1024;
    /// Longest path in bytes (`PATH_MAX` of Linux less one).
    pub const PATH_BYTES: usize = 4095;
    /// Longest identifier in bytes.
    pub const ID_BYTES: usize = 64;
    /// Longest file name in bytes (`NAME_MAX` of Linux).
    pub const NAME_BYTES: usize = 255;
    /// Longest timeout of a step in milliseconds: one day.
    pub const TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;
    /// Largest integer that every JSON reader agrees on: 2^53.
    pub const INTEGER: u64 = 1 << 53;
}
