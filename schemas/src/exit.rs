//! Exit codes: a public contract. Must never change the meaning of a number.

/// How the program ended, for a script. See the table in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Committed, allowed, or nothing to do.
    Done = 0,
    /// Unexpected failure, for example an I/O error.
    Failure = 1,
    /// Wrong usage or an invalid plan.
    Usage = 2,
    /// Signature, identity or authorisation failed.
    Identity = 3,
    /// A step failed and everything was rolled back.
    RolledBack = 4,
    /// Refused by policy.
    Refused = 5,
    /// Valid, waiting for approvals.
    Waiting = 6,
    /// Plan, policy or world changed since approval.
    Stale = 7,
    /// Stopped by a person or cancelled.
    Stopped = 8,
    /// Timed out.
    TimedOut = 9,
    /// A step failed and the way back is incomplete.
    Stuck = 10,
    /// The log or a snapshot failed its integrity check.
    Integrity = 11,
    /// A bug in backout.
    Bug = 255,
}

impl ExitCode {
    /// Every code, in the order of the numbers.
    pub const ALL: [Self; 13] = [
        Self::Done,
        Self::Failure,
        Self::Usage,
        Self::Identity,
        Self::RolledBack,
        Self::Refused,
        Self::Waiting,
        Self::Stale,
        Self::Stopped,
        Self::TimedOut,
        Self::Stuck,
        Self::Integrity,
        Self::Bug,
    ];

    /// The number that the process exits with.
    pub fn number(self) -> u8 {
        self as u8
    }
}
