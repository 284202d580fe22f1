//! Gate and runner for single steps: each step that a token is asked for is a plan of its own, under a ceiling that fits it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use kernel::{Authority, StepSpec, Token, TokenError};
use schemas::{
    Ceiling, Class, Deed, Digest, Document as _, Envelope, Manifest, Role, SecretKey, Statement, Subject, TrustRoot,
    TrustedKey,
};
use serde_json::json;
use tokens::{Checker, Mint, Warrant};

pub(crate) const RUN: &str = "run-law";

#[derive(Default)]
pub(crate) struct Issuer {
    pairs: Mutex<HashMap<Digest, Arc<(Mint, Checker)>>>,
    acts: AtomicU64,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issuer")
    }
}

impl Issuer {
    pub(crate) fn token(&self, step: &StepSpec, run: &str, deed: Deed) -> Token {
        let pair = if run == RUN { self.pair(step) } else { Arc::new(pair(step, run)) };
        pair.0.mint(step, deed, self.acts.fetch_add(1, Ordering::SeqCst)).unwrap()
    }

    fn pair(&self, step: &StepSpec) -> Arc<(Mint, Checker)> {
        self.pairs.lock().unwrap().entry(step.reach()).or_insert_with(|| Arc::new(pair(step, RUN))).clone()
    }
}

impl Authority for Issuer {
    fn authorise(&self, token: Token, step: &StepSpec, deed: Deed) -> Result<(), TokenError> {
        self.pair(step).1.authorise(token, step, deed)
    }
}

fn pair(step: &StepSpec, run: &str) -> (Mint, Checker) {
    let (gate, runner) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
    let soon = Timestamp::now() + SignedDuration::from_hours(1);
    let mut trust = TrustRoot::new(1, soon);
    for (key, role) in [(&gate, Role::Gate), (&runner, Role::Runner)] {
        let trusted = TrustedKey::ed25519(key.public_hex(), &role.to_string(), soon);
        trust.enrol(trusted, &role).unwrap();
    }
    let decisions = Digest::of(b"decisions");
    let manifest: Manifest = serde_json::from_value(json!({
        "session": "law", "requester": "law", "environment": "test", "plan": decisions, "assessment": decisions,
        "decisions": decisions, "policy": decisions, "site": decisions, "trust_version": 1, "verdict": "allow", "steps": 1,
        "classes": {}, "approvals": {"people": 0, "role": "approver:test", "minutes": 30}, "issued": Timestamp::now(), "expires": soon,
        "nonce": "0"
    }))
    .unwrap();
    let payload = Statement::new(vec![Subject::new("plan", decisions)], manifest).to_payload();
    let envelope = Envelope::sign(Statement::<Manifest>::PAYLOAD_TYPE, &payload, &[&gate]);
    let verified = envelope.verify(&trust, &Role::Gate, Timestamp::now()).unwrap();
    let ceiling = Ceiling { reach: step.reach(), irreversible: step.lowered.class == Class::Irreversible };
    let warrant = Warrant::signed(&verified, decisions, Arc::new(vec![ceiling])).unwrap();
    tokens::pair(runner, &trust, warrant, run, 0).unwrap()
}
