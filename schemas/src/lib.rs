//! The documents that cross a trust boundary or a crash, as Rust types and as published JSON Schemas.
//!
//! This crate must never do I/O and never decide anything: it parses, checks shapes, signs and verifies bytes.

mod act;
mod approval;
mod assessment;
mod blast;
mod codes;
mod digest;
mod envelope;
mod exit;
mod extension;
mod finding;
mod grant;
mod keys;
mod limits;
mod manifest;
mod plan;
mod published;
mod receipt;
mod record;
mod resource;
mod sshsig;
mod statement;
mod stop;
mod strict;
mod trust;

pub use act::{Act, Hazard, Thing, Verb};
pub use approval::{Approval, Verdict};
pub use assessment::{
    Assessment, Change, ChangeKind, Confidence, Effectiveness, ResourceChange, RowCount, Share, StepAssessment, UNSEEN,
    WayBack,
};
pub use blast::{Blast, Counts};
pub use codes::Code;
pub use digest::{Digest, DigestError};
pub use envelope::{Document, Envelope, EnvelopeError, Signature, SignatureKind, Signer, Verified, VerifyError, pae};
pub use exit::ExitCode;
pub use extension::Extension;
pub use finding::{Finding, Severity, WhoCanAct, sort_findings};
pub use grant::{Ceiling, Deed, Grant};
pub use keys::{KeyError, KeyId, SecretKey, public_from_hex};
pub use limits::Limits;
pub use manifest::{ApprovalsRequired, Decision, Decisions, GateVerdict, Manifest, Ruling};
pub use plan::{
    Bounds, Capture, Check, Class, ExpectRows, Expectation, OnFailure, Plan, PlanStep, UndoCommand, is_valid_id,
    pointer,
};
pub use published::{published, schema_of_type};
pub use receipt::{End, Receipt, StepReceipt};
pub use record::{Record, RecordBody, RunSubject, SeenWord, UndoReason, Used};
pub use resource::{Resource, ResourceError};
pub use sshsig::{SshSigError, SshSignature, public_of_ssh};
pub use statement::{Predicate, Statement, Subject};
pub use stop::{Covers, Lift, Stop, Then};
pub use strict::{StrictError, parse_strict, strict_check};
pub use trust::{Role, TrustError, TrustRoot, TrustedKey};
