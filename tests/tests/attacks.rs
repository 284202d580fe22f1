//! What an agent, an operator or somebody in between tries, on the real program: nothing of it may end in a wrong claim.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use schemas::{Digest, Envelope, SecretKey};
use serde_json::{Value, json};
use tests::program::{Bench, Ran};

fn plan(session: &str, steps: Value) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "attack", "steps": steps})
}

fn gate(bench: &Bench, plan: &Value) -> Ran {
    let file = bench.sign("attack", plan);
    bench.run(&["gate", file.to_str().unwrap()])
}

fn codes(ran: &Ran) -> Vec<String> {
    let findings = ran.value["findings"].as_array().cloned().unwrap_or_default();
    findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

/// A file outside the roots that nothing may change.
fn victim(bench: &Bench) -> PathBuf {
    let path = bench.path("victim");
    std::fs::write(&path, "untouched\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    path
}

fn is_untouched(bench: &Bench) -> bool {
    let path = bench.path("victim");
    std::fs::read_to_string(&path).unwrap() == "untouched\n"
        && std::fs::metadata(&path).unwrap().permissions().mode() & 0o777 == 0o644
}

fn command(argv: Value, writes: Value) -> Value {
    json!([{"id": "c", "uses": "command.run", "with": {"argv": argv, "writes": writes}}])
}

#[test]
fn a_check_that_may_do_anything_is_refused_like_a_step() {
    let bench = Bench::new();
    let touch = json!(["sh", "-c", format!("echo pwned > {}", bench.path("pwned").display())]);
    let step = json!({"id": "w", "uses": "file.write", "with": {"path": "x", "content": "1\n"}});
    let check = json!([{"uses": "command.succeeds", "with": {"argv": touch}}]);
    let mut at_the_end = plan("a", json!([step]));
    at_the_end["checks"] = check.clone();
    let mut verified = plan("b", json!([step]));
    verified["steps"][0]["verify"] = check;
    let present = plan("c", json!([{"id": "p", "uses": "command.run", "with": {"argv": ["true"], "present": touch}}]));
    for attack in [at_the_end, verified, present] {
        let refused = gate(&bench, &attack);
        assert_eq!((refused.code, codes(&refused)), (5, vec!["policy-irreversible".to_owned()]), "{refused:?}");
    }
    assert!(!bench.path("pwned").exists());
}

#[test]
fn an_approver_sees_what_runs_beside_the_steps() {
    let bench = Bench::new();
    let root = bench.path("world").canonicalize().unwrap();
    bench.site(&format!("[environments.test]\nroots = [{root:?}]\nallow_irreversible = true\n"));
    let mut asked = plan("a", json!([{"id": "w", "uses": "file.write", "with": {"path": "x", "content": "1\n"}}]));
    asked["steps"][0]["verify"] = json!([{"uses": "command.succeeds", "with": {"argv": ["probe", "--deep"]}}]);
    asked["checks"] = json!([{"uses": "command.succeeds", "with": {"argv": ["canary"]}}]);
    let file = bench.sign("a", &asked);
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    assert_eq!((gated.code, gated.value["people"].as_u64()), (6, Some(2)), "{gated:?}");
    let mut shown = bench.command(&["plan", "show", file.to_str().unwrap()]);
    shown.args(["--format", "pretty"]);
    let text = String::from_utf8(shown.output().unwrap().stdout).unwrap();
    assert!(text.contains("probe --deep (NOT known to only read)") && text.contains("canary"), "{text}");
}

#[test]
fn a_program_that_only_has_the_name_of_a_known_one_is_unknown() {
    let bench = Bench::new();
    let path = bench.path("world/cat");
    std::fs::write(&path, "#!/bin/sh\ntouch /tmp/never\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let uncontained = json!([{"id": "c", "uses": "command.run", "with": {"argv": [path, "x"], "contain": "none"}}]);
    let refused = gate(&bench, &plan("a", uncontained));
    assert_eq!((refused.code, codes(&refused)), (5, vec!["policy-irreversible".to_owned()]));
}

#[test]
fn words_of_known_commands_reach_neither_outside_nor_backouts_own_files() {
    let bench = Bench::new();
    let victim = victim(&bench);
    let world = bench.path("world");
    std::fs::write(world.join("f"), "x\n").unwrap();
    std::fs::create_dir(world.join("repo")).unwrap();
    std::fs::create_dir(world.join("repo/.git")).unwrap();
    std::os::unix::fs::symlink(bench.path(""), world.join("out")).unwrap();
    std::os::unix::fs::symlink(&victim, world.join("link")).unwrap();
    let state = bench.path("state").canonicalize().unwrap();
    let key = state.join("keys/root.key");
    let words: [(Value, Value); 12] = [
        (json!(["sed", "-i", format!("1e touch {}", bench.path("pwned").display()), "f"]), json!(["f"])),
        (json!(["sed", "-i", format!("w {}", victim.display()), "f"]), json!(["f"])),
        (json!(["rm", "out/victim"]), json!(["out"])),
        (json!(["chmod", "777", "link"]), json!(["link"])),
        (json!(["truncate", "-s", "0", "link"]), json!(["link"])),
        (json!(["cp", key, "f"]), json!(["f"])),
        (json!(["cp", victim, "f"]), json!(["f"])),
        (json!(["cat", key]), json!([])),
        (json!(["cat", "out/state/keys/root.key"]), json!([])),
        (json!(["grep", "-r", "PRIVATE", ".."]), json!([])),
        (json!(["sed", "-i", "s/a/b/", "repo/.git/config"]), json!(["repo"])),
        (json!(["git", "clean", "-fdx"]), json!(["f"])),
    ];
    for (argv, writes) in words {
        let outcome = gate(&bench, &plan("a", command(argv.clone(), writes)));
        // What the words of a known command do not tell was tried out, and does nothing but what the layer shows; or waits for people.
        assert!(matches!(outcome.code, 0 | 2 | 5 | 6), "{argv}: {outcome:?}");
        if outcome.code == 0 {
            bench.run(&["run", outcome.value["manifest"].as_str().unwrap()]);
        }
        assert!(is_untouched(&bench) && !bench.path("pwned").exists(), "{argv}");
        assert_eq!(std::fs::read_to_string(world.join("f")).unwrap(), "x\n", "{argv}");
        std::fs::write(world.join("f"), "x\n").unwrap();
    }
    let env = json!([{"id": "c", "uses": "command.run", "with": {"argv": ["git", "status"], "cwd": "repo",
        "env": {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": "touch"}}}]);
    // Tried out over a layer, which is all that it can harm.
    assert!(matches!(gate(&bench, &plan("a", env)).code, 0 | 5 | 6));
    let cwd = json!([{"id": "c", "uses": "command.run", "with": {"argv": ["rm", "victim"], "cwd": "out", "writes": ["out"]}}]);
    assert_eq!(gate(&bench, &plan("a", cwd)).code, 5);
    assert!(is_untouched(&bench) && !bench.path("pwned").exists());
}

#[test]
fn a_link_that_is_put_under_a_known_command_after_the_gate_is_not_followed() {
    let bench = Bench::new();
    victim(&bench);
    std::fs::create_dir(bench.path("world/d")).unwrap();
    std::fs::write(bench.path("world/d/victim"), "x\n").unwrap();
    let manifest = bench.gated("a", &plan("a", command(json!(["truncate", "-s", "0", "d/victim"]), json!(["d"]))));
    std::fs::remove_dir_all(bench.path("world/d")).unwrap();
    std::os::unix::fs::symlink(bench.path(""), bench.path("world/d")).unwrap();
    let ran = bench.run(&["run", &manifest]);
    assert!(matches!(ran.code, 4 | 7), "{ran:?}");
    assert!(is_untouched(&bench));
}

/// A deployment that switches a root by a symlink.
fn switched() -> Bench {
    let bench = Bench::new();
    for release in ["r5", "r6"] {
        std::fs::create_dir(bench.path(release)).unwrap();
        let db = rusqlite::Connection::open(bench.path(release).join("app.db")).unwrap();
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 1);").unwrap();
    }
    std::os::unix::fs::symlink("r5", bench.path("current")).unwrap();
    bench.site(&format!("[environments.test]\nroots = [{:?}]\n", bench.path("current")));
    bench
}

fn value(bench: &Bench, release: &str) -> i64 {
    let db = rusqlite::Connection::open(bench.path(release).join("app.db")).unwrap();
    db.query_row("SELECT v FROM t", [], |row| row.get(0)).unwrap()
}

#[test]
fn an_undo_acts_where_the_run_acted_wherever_a_root_leads_now() {
    let bench = switched();
    let step = json!([{"id": "s", "uses": "sqlite.execute", "with": {"database": "app.db", "statements": ["UPDATE t SET v = 2"]}}]);
    let manifest = bench.gated("a", &plan("a", step.clone()));
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
    let approved = bench.gated("b", &plan("b", step));
    std::fs::remove_file(bench.path("current")).unwrap();
    std::os::unix::fs::symlink("r6", bench.path("current")).unwrap();
    assert_eq!(bench.run(&["run", &approved]).code, 7, "what was approved was approved for the other release");
    let db = rusqlite::Connection::open(bench.path("r6/app.db")).unwrap();
    db.execute("UPDATE t SET v = 2", []).unwrap();
    drop(db);
    let undone = bench.run(&["undo", "a"]);
    assert_eq!(undone.value["end"], "rolled_back", "{undone:?}");
    assert_eq!((value(&bench, "r5"), value(&bench, "r6")), (1, 2));
}

fn write(path: &str, content: &str) -> Value {
    json!([{"id": "w", "uses": "file.write", "with": {"path": path, "content": content}}])
}

#[test]
fn a_trust_root_that_the_pinned_one_did_not_sign_is_refused() {
    use schemas::{Digest, Document as _, Envelope, Role, SecretKey, TrustRoot, TrustedKey};
    let bench = Bench::new();
    let path = bench.path("state/trust-root.json");
    let genuine = std::fs::read(&path).unwrap();
    let payload = Envelope::from_json(&genuine).unwrap().unverified_payload().unwrap();
    let now = TrustRoot::from_payload(&payload).unwrap();
    let attacker = SecretKey::from_seed([7; 32]);
    for version in [now.version, now.version + 1, 99] {
        let mut forged = now.clone();
        forged.version = version;
        let key = TrustedKey {
            public: attacker.public_hex(),
            scheme: "ed25519".to_owned(),
            owner: "mallory".to_owned(),
            not_after: jiff::Timestamp::now() + jiff::SignedDuration::from_hours(9),
            revoked_at: None,
            environments: vec!["test".to_owned()],
            duties: Vec::new(),
        };
        forged.enrol(key.clone(), &Role::Root).unwrap();
        forged.enrol(key, &Role::Agent).unwrap();
        let payload = serde_json::to_vec(&forged).unwrap();
        let envelope = Envelope::sign(TrustRoot::PAYLOAD_TYPE, &payload, &[&attacker]);
        std::fs::write(&path, envelope.to_json()).unwrap();
        std::fs::write(bench.path(&format!("state/documents/{}.json", Digest::of(&payload).hex())), envelope.to_json())
            .unwrap();
        for words in [&["status"][..], &["verify"], &["recover"]] {
            assert_eq!(bench.run(words).code, 3, "version {version} {words:?}");
        }
    }
    std::fs::write(&path, genuine).unwrap();
    assert_eq!(bench.run(&["key", "new", "late", "--role", "witness"]).code, 0);
    assert_eq!(bench.run(&["verify"]).code, 0, "the next one that the root key signed is good");
}

#[test]
fn a_no_outlives_its_document_and_a_new_gate() {
    let bench = Bench::new();
    std::fs::write(bench.path("world/n"), "3\n").unwrap();
    let step = json!([{"id": "set", "uses": "command.run", "with": {"argv": ["sh", "-c", "echo 9 > n"], "writes": ["n"], "present": ["grep", "-q", "9", "n"]},
        "undo": {"argv": ["sh", "-c", "echo 3 > n"]}}]);
    let file = bench.sign("a", &plan("a", step));
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    let manifest = gated.value["manifest"].as_str().unwrap().to_owned();
    let said = |words: &[&str]| bench.run(&[&["approve", &manifest], words].concat());
    let yes = said(&["--as", "vera"]);
    let no = said(&["--as", "walt", "--reject", "--reason", "not tonight"]);
    let document = |ran: &Ran| {
        let digest = ran.value["approval"].as_str().unwrap();
        bench.path(&format!("state/documents/{}.json", digest.trim_start_matches("sha256:")))
    };
    std::fs::copy(document(&yes), document(&no)).unwrap();
    let ran = bench.run(&["run", &manifest]);
    assert_eq!((ran.code, ran.value["type"].as_str()), (5, Some("rejected")), "{ran:?}");
    let again = bench.run(&["gate", file.to_str().unwrap()]);
    assert_eq!((again.code, again.value["type"].as_str()), (5, Some("rejected")), "{again:?}");
    assert_eq!(std::fs::read_to_string(bench.path("world/n")).unwrap(), "3\n");
}

#[test]
fn an_approval_whose_document_was_exchanged_is_no_approval() {
    let bench = Bench::new();
    std::fs::write(bench.path("world/n"), "3\n").unwrap();
    let step = |to: &str| {
        json!([{"id": "set", "uses": "command.run", "with": {"argv": ["sh", "-c", format!("echo {to} > n")], "writes": ["n"], "present": ["grep", "-q", to, "n"]},
        "undo": {"argv": ["sh", "-c", "echo 3 > n"]}}])
    };
    let gated = |name: &str, to: &str| {
        let file = bench.sign(name, &plan(name, step(to)));
        bench.run(&["gate", file.to_str().unwrap()]).value["manifest"].as_str().unwrap().to_owned()
    };
    let (small, large) = (gated("a", "4"), gated("b", "9"));
    let yes = bench.run(&["approve", &small, "--as", "vera"]);
    let other = bench.run(&["approve", &large, "--as", "walt"]);
    let document = |ran: &Ran| {
        let digest = ran.value["approval"].as_str().unwrap();
        bench.path(&format!("state/documents/{}.json", digest.trim_start_matches("sha256:")))
    };
    std::fs::copy(document(&yes), document(&other)).unwrap();
    assert_eq!(bench.run(&["run", &large]).code, 3);
}

#[test]
fn a_replay_does_not_build_on_a_kept_step_that_somebody_took_away() {
    for gone in [true, false] {
        let bench = Bench::new();
        let steps = |second: &str| json!([write("x", "1\n")[0], {"id": "f", "uses": "command.run", "needs": ["w"], "with": {"argv": [second]}}]);
        let manifest = bench.gated("a", &plan("a", steps("false")));
        assert_eq!(bench.run(&["run", &manifest, "--on-failure", "hold"]).code, 8);
        let corrected = bench.sign("b", &plan("b", steps("true")));
        let gated = bench.run(&["gate", "--replay", "a", corrected.to_str().unwrap()]);
        match gone {
            true => std::fs::remove_file(bench.path("world/x")).unwrap(),
            false => std::fs::write(bench.path("world/x"), "foreign\n").unwrap(),
        }
        let replayed = bench.run(&["replay", "a", gated.value["manifest"].as_str().unwrap()]);
        assert_eq!((replayed.code, replayed.value["type"].as_str()), (7, Some("clobber")), "{replayed:?}");
        assert_eq!(bench.run(&["status"]).value["runs"][0]["end"], "held");
    }
}

#[test]
fn snapshots_that_are_gone_or_changed_are_found_before_an_undo_needs_them() {
    let bench = Bench::new();
    std::fs::write(bench.path("world/x"), "before\n").unwrap();
    let manifest = bench.gated("a", &plan("a", write("x", "1\n")));
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
    assert_eq!(bench.run(&["verify"]).value["before_images"], 1);
    for entry in std::fs::read_dir(bench.path("state/snapshots")).unwrap().flatten() {
        let mut bytes = std::fs::read(entry.path()).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
        std::fs::write(entry.path(), bytes).unwrap();
    }
    assert_eq!(bench.run(&["verify"]).code, 11);
}

#[test]
fn an_older_run_is_not_torn_apart_and_says_which_run_to_undo_first() {
    let bench = Bench::new();
    let both =
        json!([write("x", "1\n")[0], {"id": "f", "uses": "file.write", "with": {"path": "f", "content": "1\n"}}]);
    let first = bench.gated("first", &plan("first", both));
    assert_eq!(bench.run(&["run", &first]).code, 0);
    let second = bench.gated("second", &plan("second", write("f", "2\n")));
    assert_eq!(bench.run(&["run", &second]).code, 0);
    let refused = bench.run(&["undo", "first"]);
    assert_eq!((refused.code, refused.value["type"].as_str()), (7, Some("clobber")), "{refused:?}");
    assert!(refused.value["next"].as_str().unwrap().contains("backout undo second"), "{refused:?}");
    assert!(bench.path("world/x").exists(), "nothing was touched");
    for session in ["second", "first"] {
        assert_eq!(bench.run(&["undo", session]).value["end"], "rolled_back");
    }
    assert!(!bench.path("world/x").exists() && !bench.path("world/f").exists());
}

#[test]
fn a_kept_plan_that_another_agent_signed_lends_nobody_its_duties() {
    let bench = Bench::new();
    let words = ["key", "new", "mighty", "--role", "agent", "--environment", "test", "--duty", "backups"];
    assert_eq!(bench.run(&words).code, 0);
    let asked = plan("lent", json!([{"id": "w", "uses": "file.write", "with": {"path": "x", "content": "1\n"}}]));
    let manifest = bench.gated("lent", &asked);
    let signed = Envelope::from_json(&std::fs::read(bench.path("lent.plan.json")).unwrap()).unwrap();
    let payload = signed.unverified_payload().unwrap();
    let mighty = SecretKey::from_pem(&std::fs::read_to_string(bench.path("state/keys/mighty.key")).unwrap()).unwrap();
    let swapped = Envelope::sign(&signed.payload_type, &payload, &[&mighty]);
    let kept = bench.path("state/documents").join(format!("{}.json", Digest::of(&payload).hex()));
    assert!(kept.exists());
    std::fs::write(kept, swapped.to_json()).unwrap();
    let ran = bench.run(&["run", &manifest]);
    assert_eq!((ran.code, bench.path("world/x").exists()), (3, false), "{ran:?}");
}
