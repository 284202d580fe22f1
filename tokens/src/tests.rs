//! Every way in which a token can fail to cover what is done with it.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kernel::{Authority as _, Facts, Lowered, Resource, StepIx, StepSpec, Token, TokenError};
use schemas::{
    Ceiling, Class, Deed, Digest, Document as _, Effectiveness, Envelope, Grant, Manifest, Role, SecretKey, Statement,
    Subject, TrustRoot, TrustedKey, WayBack,
};

use crate::{Checker, Mint, PairError, Warrant, pair, pair_at, pair_to_undo};

const DECISIONS: &[u8] = b"decisions";

fn step() -> StepSpec {
    let roots = vec!["/w".into()];
    StepSpec {
        ix: StepIx(0),
        id: "s".to_owned(),
        uses: "file.write".to_owned(),
        with: serde_json::value::RawValue::from_string("{}".to_owned()).unwrap(),
        expect: None,
        undo: None,
        verify: Vec::new(),
        timeout_ms: None,
        lowered: Lowered {
            reads: Vec::new(),
            writes: vec![Resource::file("/w/x")],
            class: Class::ReversibleWithState,
            way_back: WayBack { effectiveness: Effectiveness::Full, how: String::new(), entry: None },
            argv: Vec::new(),
            cwd: None,
            act: None,
            side: Vec::new(),
        },
        pinned: Vec::new(),
        facts: Arc::new(Facts {
            environment: "test".to_owned(),
            roots,
            protected: Vec::new(),
            backups: Vec::new(),
            contains: false,
        }),
    }
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// The gate has key 1, the runner key 2, an agent key 3.
fn trust() -> TrustRoot {
    let mut trust = TrustRoot::new(1, "2100-01-01T00:00:00Z".parse().unwrap());
    for (seed, role, until) in [
        (1, Role::Gate, "2099-01-01T00:00:00Z"),
        (2, Role::Runner, "2030-01-01T00:00:10Z"),
        (3, Role::Agent, "2099-01-01T00:00:00Z"),
    ] {
        let trusted = TrustedKey::ed25519(key(seed).public_hex(), &role.to_string(), until.parse().unwrap());
        trust.enrol(trusted, &role).unwrap();
    }
    trust
}

fn warrant_over(ceiling: Ceiling) -> Warrant {
    let digest = Digest::of(DECISIONS);
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "session": "t", "requester": "t", "environment": "test", "plan": digest, "assessment": digest,
        "decisions": digest, "policy": digest, "site": digest, "trust_version": 1, "verdict": "allow", "steps": 1,
        "classes": {}, "approvals": {"people": 0, "role": "approver:test", "minutes": 30}, "issued": "2029-01-01T00:00:00Z",
        "expires": "2031-01-01T00:00:00Z", "nonce": "0"
    }))
    .unwrap();
    let payload = Statement::new(vec![Subject::new("plan", digest)], manifest).to_payload();
    let envelope = Envelope::sign(Statement::<Manifest>::PAYLOAD_TYPE, &payload, &[&key(1)]);
    let verified = envelope.verify(&trust(), &Role::Gate, "2030-01-01T00:00:00Z".parse().unwrap()).unwrap();
    assert!(Warrant::signed(&verified, Digest::of(b"other decisions"), Arc::new(vec![ceiling])).is_none());
    Warrant::signed(&verified, digest, Arc::new(vec![ceiling])).unwrap()
}

fn warrant() -> Warrant {
    warrant_over(Ceiling { reach: step().reach(), irreversible: false })
}

fn start() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

fn made(warrant: Warrant, run: &str, first: u64) -> (Mint, Checker) {
    pair_at(key(2), &trust(), warrant, run, first, start).unwrap()
}

fn tried(checker: &Checker, token: Token) -> Result<(), TokenError> {
    checker.authorise(token, &step(), Deed::Apply)
}

#[test]
fn a_token_covers_its_act_once() {
    let (mint, checker) = made(warrant(), "r", 0);
    let token = mint.mint(&step(), Deed::Apply, 0).unwrap();
    let copy = Token::new(token.envelope().clone());
    assert_eq!(tried(&checker, token), Ok(()));
    assert_eq!(tried(&checker, copy), Err(TokenError::Spent { id: "r.0".to_owned() }));
    assert_eq!(tried(&checker, mint.mint(&step(), Deed::Apply, 1).unwrap()), Ok(()));
}

type Changes<'a> = [(&'a str, &'a dyn Fn(&mut Grant)); 9];

#[test]
fn a_grant_with_one_field_changed_covers_nothing_though_the_runner_signed_it() {
    let (mint, checker) = made(warrant(), "r", 0);
    let good = mint.attenuate(&step(), Deed::Apply, 0).unwrap();
    let other = || Digest::of(b"other");
    let changes: Changes<'_> = [
        ("another run", &|grant| grant.run = "q".to_owned()),
        ("another plan", &|grant| grant.manifest = other()),
        ("another plan", &|grant| grant.plan = other()),
        ("another process", &|grant| grant.executor = "0".repeat(32)),
        ("another step", &|grant| grant.step = "t".to_owned()),
        ("another operation", &|grant| grant.uses = "file.delete".to_owned()),
        ("another deed", &|grant| grant.deed = Deed::Undo),
        ("other resources", &|grant| grant.resources.push("file:/w/y".to_owned())),
        ("other inputs", &|grant| grant.reach = other()),
    ];
    for (what, change) in changes {
        let mut grant = good.clone();
        change(&mut grant);
        let id = grant.id();
        assert_eq!(tried(&checker, mint.sign(&grant)), Err(TokenError::Covers { id, what: what.to_owned() }));
    }
    assert_eq!(tried(&checker, mint.sign(&good)), Ok(()), "none of them spent it");
}

#[test]
fn whatever_a_step_does_is_in_its_reach() {
    let good = step().reach();
    let changes: [&dyn Fn(&mut StepSpec); 10] = [
        &|step| step.id = "t".to_owned(),
        &|step| step.uses = "file.append".to_owned(),
        &|step| step.with = serde_json::value::RawValue::from_string("{\"a\":1}".to_owned()).unwrap(),
        &|step| step.timeout_ms = Some(1),
        &|step| step.pinned.push("/w/y".to_owned()),
        &|step| step.lowered.writes.clear(),
        &|step| step.lowered.argv.push("rm".to_owned()),
        &|step| step.lowered.cwd = Some("/w".to_owned()),
        &|step| step.lowered.class = Class::Irreversible,
        &|step| {
            step.facts = Arc::new(Facts { environment: "prod".to_owned(), ..(*step.facts).clone() });
        },
    ];
    let (mint, checker) = made(warrant(), "r", 0);
    for change in changes {
        let mut changed = step();
        change(&mut changed);
        assert_ne!(changed.reach(), good);
        assert!(matches!(mint.mint(&changed, Deed::Apply, 0), Err(TokenError::Ceiling { .. })));
        let token = mint.mint(&step(), Deed::Apply, 0).unwrap();
        assert!(matches!(checker.authorise(token, &changed, Deed::Apply), Err(TokenError::Covers { .. })));
    }
}

#[test]
fn a_token_is_the_runners_word_in_its_own_form() {
    let (mint, checker) = made(warrant(), "r", 0);
    let grant = mint.attenuate(&step(), Deed::Apply, 0).unwrap();
    let payload = serde_json::to_vec(&grant).unwrap();
    let by = |seed| Token::new(Envelope::sign(Grant::PAYLOAD_TYPE, &payload, &[&key(seed)]));
    let mut edited = mint.sign(&grant).envelope().clone();
    edited.payload.insert(0, 'A');
    let untyped = Envelope::sign("application/vnd.in-toto+json", &payload, &[&key(2)]);
    for token in [by(1), by(3), by(9), Token::new(edited), Token::new(untyped)] {
        assert!(matches!(tried(&checker, token), Err(TokenError::Forged { .. })));
    }
    assert_eq!(tried(&checker, by(2)), Ok(()));
}

#[test]
fn a_token_of_the_process_before_is_not_good_after_a_restart() {
    let (before, _) = made(warrant(), "r", 0);
    let (after, checker) = made(warrant(), "r", 1);
    let stolen = before.attenuate(&step(), Deed::Apply, 0).unwrap();
    assert!(matches!(tried(&checker, before.sign(&stolen)), Err(TokenError::Covers { .. })));
    let recorded = after.attenuate(&step(), Deed::Apply, 0).unwrap();
    assert_eq!(tried(&checker, after.sign(&recorded)), Err(TokenError::Spent { id: "r.0".to_owned() }));
}

#[test]
fn a_token_is_good_for_seconds() {
    let (mint, checker) = made(warrant(), "r", 0);
    let good = mint.attenuate(&step(), Deed::Apply, 0).unwrap();
    for by in [-crate::LIFE, SignedDuration::from_secs(6)] {
        let (issued, expires) = (good.issued + by, good.expires + by);
        let grant = Grant { issued, expires, ..good.clone() };
        assert!(matches!(tried(&checker, mint.sign(&grant)), Err(TokenError::Time { .. })), "{by}");
    }
}

#[test]
fn what_cannot_be_undone_needs_a_token_that_says_so_and_the_gate_must_have() {
    let mut fatal = step();
    fatal.lowered.class = Class::Irreversible;
    let (mint, checker) = made(warrant_over(Ceiling { reach: fatal.reach(), irreversible: false }), "r", 0);
    let grant = mint.attenuate(&fatal, Deed::Apply, 0).unwrap();
    let outcome = checker.authorise(mint.sign(&grant), &fatal, Deed::Apply);
    assert!(matches!(outcome, Err(TokenError::Irreversible { .. })), "{outcome:?}");
    let bold = Grant { irreversible: true, ..grant };
    let outcome = checker.authorise(mint.sign(&bold), &fatal, Deed::Apply);
    assert!(matches!(outcome, Err(TokenError::Ceiling { .. })), "{outcome:?}");
    let (mint, checker) = made(warrant_over(Ceiling { reach: fatal.reach(), irreversible: true }), "r", 0);
    assert_eq!(checker.authorise(mint.mint(&fatal, Deed::Apply, 0).unwrap(), &fatal, Deed::Apply), Ok(()));
}

#[test]
fn without_the_gates_signature_a_run_only_goes_back_and_needs_no_key_for_that() {
    let digest = Digest::of(DECISIONS);
    let (mint, checker) = pair_to_undo(Warrant::to_undo(digest, digest), "r", 0).unwrap();
    assert!(matches!(mint.mint(&step(), Deed::Apply, 0), Err(TokenError::Ceiling { .. })));
    let token = mint.mint(&step(), Deed::Undo, 0).unwrap();
    assert_eq!(checker.authorise(token, &step(), Deed::Undo), Ok(()));
    let (mint, checker) = pair_to_undo(warrant(), "r", 0).unwrap();
    assert!(mint.mint(&step(), Deed::Apply, 0).is_err(), "whatever warrant it is made of");
    let token = mint.mint(&step(), Deed::Undo, 0).unwrap();
    assert_eq!(checker.authorise(token, &step(), Deed::Undo), Ok(()));
}

#[test]
fn a_runner_that_is_not_one_makes_no_tokens_and_one_whose_time_ends_meanwhile_goes_on() {
    for seed in [1, 3, 9] {
        let outcome = pair_at(key(seed), &trust(), warrant(), "r", 0, start);
        assert!(matches!(outcome, Err(PairError::Runner(_))));
    }
    // Its key ends ten seconds after the process began.
    let late = || start() + SignedDuration::from_secs(11);
    assert!(matches!(pair_at(key(2), &trust(), warrant(), "r", 0, late), Err(PairError::Runner(_))));
    let (mut mint, mut checker) = made(warrant(), "r", 0);
    (mint.clock, checker.clock) = (late, late);
    assert_eq!(tried(&checker, mint.mint(&step(), Deed::Apply, 0).unwrap()), Ok(()));
}

#[test]
fn two_pairs_are_two_processes() {
    let soon = Timestamp::now() + SignedDuration::from_hours(1);
    let mut trust = TrustRoot::new(1, soon);
    let trusted = TrustedKey::ed25519(key(2).public_hex(), "runner", soon);
    trust.enrol(trusted, &Role::Runner).unwrap();
    let (one, _) = pair(key(2), &trust, warrant(), "r", 0).unwrap();
    let (_, other) = pair(key(2), &trust, warrant(), "r", 0).unwrap();
    assert!(matches!(tried(&other, one.mint(&step(), Deed::Apply, 0).unwrap()), Err(TokenError::Covers { .. })));
}
