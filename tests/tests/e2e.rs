//! The program as its users meet it: every exit code, what stale and forged documents come to, stops, and bad input.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{BufRead as _, BufReader};

use serde_json::{Value, json};
use tests::program::{Bench, ran};

fn plan(session: &str, steps: Value) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "test", "steps": steps})
}

fn write(path: &str, content: &str) -> Value {
    json!({"id": "w", "uses": "file.write", "with": {"path": path, "content": content}})
}

#[test]
fn code_0_is_committed_and_one_manifest_is_one_run() {
    let bench = Bench::new();
    let manifest = bench.gated("a", &plan("a", json!([write("x", "1\n")])));
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
    let again = bench.run(&["run", &manifest]);
    assert_eq!((again.code, again.value["type"].as_str()), (7, Some("stale")));
}

#[test]
fn code_2_is_usage_and_an_invalid_plan() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["no-such-verb"]).code, 2);
    let file = bench.path("bad.json");
    std::fs::write(&file, b"{\"session\": 1, \"x\": 2}").unwrap();
    let checked = bench.run(&["plan", "check", file.to_str().unwrap()]);
    assert_eq!(checked.code, 2);
    assert!(checked.value["findings"].as_array().unwrap().len() > 1, "{checked:?}");
}

#[test]
fn code_3_is_a_signature_that_is_not_good() {
    let bench = Bench::new();
    let file = bench.sign("a", &plan("a", json!([write("x", "1\n")])));
    let text = std::fs::read_to_string(&file).unwrap();
    let envelope: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in [("payload", json!("e30=")), ("payloadType", json!("text/x")), ("signatures", json!([]))] {
        let mut forged = envelope.clone();
        forged[key] = value;
        std::fs::write(&file, forged.to_string()).unwrap();
        assert_eq!(bench.run(&["gate", file.to_str().unwrap()]).code, 3, "{key}");
    }
    let draft = bench.path("b.draft.json");
    std::fs::write(&draft, plan("b", json!([write("x", "1\n")])).to_string()).unwrap();
    let signed = bench.run(&["plan", "sign", draft.to_str().unwrap(), "--as", "deploy-bot"]);
    assert_eq!(signed.code, 3, "another than the named agent cannot sign");
    let key = std::fs::read_to_string(bench.path("state/keys/deploy-bot.key")).unwrap();
    let key = schemas::SecretKey::from_pem(&key).unwrap();
    let payload_type = <schemas::Plan as schemas::Document>::PAYLOAD_TYPE;
    let envelope = schemas::Envelope::sign(payload_type, &std::fs::read(&draft).unwrap(), &[&key]);
    std::fs::write(&file, envelope.to_json()).unwrap();
    assert_eq!(bench.run(&["gate", file.to_str().unwrap()]).code, 3, "signed by another than the named agent");
}

#[test]
fn code_4_is_rolled_back_and_5_is_refused() {
    let bench = Bench::new();
    let mut failing = plan("a", json!([write("x", "1\n")]));
    failing["checks"] = json!([{"uses": "file.absent", "with": {"path": "x"}}]);
    let manifest = bench.gated("a", &failing);
    let failed = bench.run(&["run", &manifest]);
    assert_eq!((failed.code, failed.value["end"].as_str()), (4, Some("rolled_back")));
    assert!(!bench.path("world/x").exists());
    let own = bench.path("state/journal.db");
    let refused = bench.sign(
        "b",
        &plan(
            "b",
            json!([{"id": "c", "uses": "command.run", "with": {"argv": ["unknown-program"], "contain": "none"}}]),
        ),
    );
    assert_eq!(bench.run(&["gate", refused.to_str().unwrap()]).code, 5);
    assert!(own.exists());
}

fn approved_plan() -> Value {
    let step = json!({"id": "set", "uses": "command.run", "with": {"argv": ["sh", "-c", "echo 9 > n"], "writes": ["n"], "present": ["grep", "-q", "9", "n"]},
        "undo": {"argv": ["sh", "-c", "echo 3 > n"]}});
    plan("a", json!([step]))
}

#[test]
fn code_6_waits_for_people_and_who_asks_is_none_of_them() {
    let bench = Bench::new();
    std::fs::write(bench.path("world/n"), "3\n").unwrap();
    let file = bench.sign("a", &approved_plan());
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    assert_eq!(gated.code, 6, "{gated:?}");
    let manifest = gated.value["manifest"].as_str().unwrap().to_owned();
    assert_eq!(bench.run(&["run", &manifest]).code, 6);
    assert_eq!(bench.run(&["approve", &manifest, "--as", "tester"]).code, 3, "the agent's key is no approver's");
    assert_eq!(bench.run(&["approve", &manifest, "--as", "vera"]).code, 0);
    assert_eq!(bench.run(&["approve", &manifest, "--as", "walt", "--reject", "--reason", "no"]).code, 0);
    assert_eq!(bench.run(&["run", &manifest]).code, 5, "one reject vetoes");
    assert_eq!(std::fs::read_to_string(bench.path("world/n")).unwrap(), "3\n");
}

#[test]
fn code_7_is_a_world_a_site_or_a_trust_root_that_changed_since_the_gate() {
    let bench = Bench::new();
    std::fs::write(bench.path("world/x"), "before\n").unwrap();
    let manifest = bench.gated("a", &plan("a", json!([write("x", "1\n")])));
    std::fs::write(bench.path("world/x"), "changed\n").unwrap();
    let stale = bench.run(&["run", &manifest]);
    assert_eq!((stale.code, stale.value["end"].as_str()), (7, Some("refused")), "{stale:?}");
    assert_eq!(std::fs::read_to_string(bench.path("world/x")).unwrap(), "changed\n");

    let manifest = bench.gated("b", &plan("b", json!([write("x", "1\n")])));
    let site = std::fs::read_to_string(bench.path("state/backout.toml")).unwrap();
    bench.site(&(site + "# touched\n"));
    assert_eq!(bench.run(&["run", &manifest]).code, 7);
    let manifest = bench.gated("c", &plan("c", json!([write("x", "1\n")])));
    assert_eq!(bench.run(&["key", "new", "late", "--role", "witness"]).code, 0);
    assert_eq!(bench.run(&["run", &manifest]).code, 7);
}

#[test]
fn code_8_is_stopped_with_a_journal_that_recover_can_finish() {
    let bench = Bench::new();
    let steps = json!([write("x", "1\n"), {"id": "wait", "uses": "command.run", "needs": ["w"], "with": {"argv": ["sleep", "60"]}}]);
    let manifest = bench.gated("a", &plan("a", steps));
    let mut child = bench.command(&["run", &manifest]).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if line.contains("apply_started") && line.contains("\"sleep\"") {
            break;
        }
    }
    let started = std::time::Instant::now();
    // Two signals: the second ends what is in flight at once.
    for _ in 0..2 {
        let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        std::thread::park_timeout(std::time::Duration::from_millis(200));
    }
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(8));
    assert!(started.elapsed().as_secs() < 7);
    assert_eq!(bench.run(&["status"]).value["runs"][0]["end"], "held");
    assert_eq!(bench.run(&["run", &manifest]).code, 1, "an unfinished run comes first");
    let recovered = bench.run(&["recover"]);
    assert_eq!((recovered.code, recovered.value["end"].as_str()), (4, Some("rolled_back")), "{recovered:?}");
    assert!(!bench.path("world/x").exists());
}

#[test]
fn code_9_is_out_of_time_and_everything_is_back() {
    let bench = Bench::new();
    let steps = json!([write("x", "1\n"), {"id": "wait", "uses": "command.run", "needs": ["w"], "timeout_ms": 200, "with": {"argv": ["sleep", "60"]}}]);
    let manifest = bench.gated("a", &plan("a", steps));
    let timed_out = bench.run(&["run", &manifest]);
    assert_eq!((timed_out.code, timed_out.value["end"].as_str()), (9, Some("rolled_back")), "{timed_out:?}");
}

#[test]
fn code_10_is_stuck_and_a_mended_world_unsticks_it() {
    let bench = Bench::new();
    let manifest = bench.gated("a", &plan("a", json!([write("x", "1\n")])));
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
    std::fs::write(bench.path("world/x"), "mine\n").unwrap();
    let refused = bench.run(&["undo", "a"]);
    assert_eq!((refused.code, refused.value["type"].as_str()), (7, Some("clobber")), "{refused:?}");
    let stuck = bench.run(&["undo", "a", "--around"]);
    assert_eq!((stuck.code, stuck.value["end"].as_str()), (10, Some("stuck")), "{stuck:?}");
    assert_eq!(std::fs::read_to_string(bench.path("world/x")).unwrap(), "mine\n");
    std::fs::remove_file(bench.path("world/x")).unwrap();
    let recovered = bench.run(&["recover", "a"]);
    assert_eq!(recovered.value["end"], "rolled_back", "{recovered:?}");
}

#[test]
fn code_11_is_a_journal_or_a_document_that_is_not_what_was_written() {
    let bench = Bench::new();
    let manifest = bench.gated("a", &plan("a", json!([write("x", "1\n")])));
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
    let db = rusqlite::Connection::open(bench.path("state/journal.db")).unwrap();
    db.execute("UPDATE records SET body = replace(body, 'gated', 'gatid') WHERE seq = 3", []).unwrap();
    drop(db);
    for words in [&["status"][..], &["verify"], &["run", "a"], &["recover"], &["undo", "a"]] {
        assert_eq!(bench.run(words).code, 11, "{words:?}");
    }
}

#[test]
fn bad_bytes_are_findings_and_never_a_panic() {
    let bench = Bench::new();
    let file = bench.path("bad.json");
    let deep = "[".repeat(200_000);
    let many: Vec<u8> = std::iter::repeat_n(b' ', 70 << 20).collect();
    let cases: [&[u8]; 7] =
        [b"", b"\xff\xfe", b"{\"a\":1,\"a\":2}", deep.as_bytes(), b"{\"payloadType\":\"x\"}", b"nul", &many];
    for case in cases {
        std::fs::write(&file, case).unwrap();
        for verb in [&["plan", "check"][..], &["gate"]] {
            let words = [verb, &[file.to_str().unwrap()]].concat();
            let ran = ran(&bench.command(&words).output().unwrap());
            assert!(matches!(ran.code, 2 | 3), "{verb:?} on {} bytes: {ran:?}", case.len());
        }
    }
    assert_eq!(bench.run(&["status"]).value["runs"], json!([]));
}

#[test]
fn a_second_run_waits_or_is_refused_and_never_interleaves() {
    let bench = Bench::new();
    let steps = json!([{"id": "wait", "uses": "command.run", "with": {"argv": ["sleep", "2"]}}]);
    let (first, second) =
        (bench.gated("a", &plan("a", steps)), bench.gated("b", &plan("b", json!([write("x", "1\n")]))));
    let mut child = bench.command(&["run", &first]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().contains("apply_started") {}
    let refused = bench.run(&["run", &second, "--wait", "0"]);
    assert_eq!(refused.value["type"], "journal-busy", "{refused:?}");
    let waited = bench.run(&["run", &second, "--wait", "30"]);
    assert_eq!(waited.code, 0, "{waited:?}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_plan_named_without_a_folder_is_signed_beside_itself() {
    let bench = Bench::new();
    std::fs::write(bench.path("bare.draft.json"), plan("a", json!([write("x", "1\n")])).to_string()).unwrap();
    let signed = bench.run(&["plan", "sign", "bare.draft.json", "--as", "tester"]);
    assert_eq!(signed.code, 0, "{signed:?}");
    assert!(bench.path("bare.plan.json").exists());
}

#[test]
fn an_end_without_its_receipt_gets_it_from_recover() {
    let bench = Bench::new();
    let steps = json!([{"id": "wait", "uses": "command.run", "with": {"argv": ["sleep", "1"]}}]);
    let manifest = bench.gated("a", &plan("a", steps));
    let (key, away) = (bench.path("state/keys/runner.key"), bench.path("state/runner.key"));
    let mut child = bench.command(&["run", &manifest]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().contains("apply_started") {}
    std::fs::rename(&key, &away).unwrap();
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(3), "the end is in the log and nobody could sign the receipt");
    std::fs::rename(&away, &key).unwrap();
    assert_eq!(bench.run(&["show", "a"]).value["receipt"], Value::Null);
    let recovered = bench.run(&["recover"]);
    assert_eq!((recovered.code, recovered.value["end"].as_str()), (0, Some("committed")), "{recovered:?}");
    assert_eq!(bench.run(&["verify"]).value["receipts"], 1);
}

#[test]
fn a_receipt_that_says_what_the_log_does_not_is_found_whoever_signed_it() {
    use journal::{Entry, Journal as _, LogSigner, SqliteJournal};
    use schemas::{Digest, Document as _, End, Envelope, Receipt, RecordBody, SecretKey, Statement};
    let bench = Bench::new();
    let mut failing = plan("a", json!([write("x", "1\n")]));
    failing["checks"] = json!([{"uses": "file.absent", "with": {"path": "x"}}]);
    let manifest = bench.gated("a", &failing);
    assert_eq!(bench.run(&["run", &manifest]).code, 4);
    let key = |name: &str| {
        let text = std::fs::read_to_string(bench.path(&format!("state/keys/{name}.key"))).unwrap();
        SecretKey::from_pem(&text).unwrap()
    };
    let path = bench.path("state/journal.db");
    let signer = LogSigner::new(&key("log")).unwrap();
    let mut journal = SqliteJournal::open_to_write(&path, signer).unwrap();
    let records = journal.records(None).unwrap();
    let subject = records.last().unwrap().subject.clone().unwrap();
    let RecordBody::Receipted { receipt } = records.last().unwrap().fact else { panic!("no receipt") };
    let kept = bench.path(&format!("state/documents/{}.json", receipt.hex()));
    let payload = Envelope::from_json(&std::fs::read(kept).unwrap()).unwrap().unverified_payload().unwrap();
    let mut forged = Statement::<Receipt>::from_payload(&payload).unwrap();
    forged.predicate.end = End::Committed;
    let payload = forged.to_payload();
    let envelope = Envelope::sign(Statement::<Receipt>::PAYLOAD_TYPE, &payload, &[&key("runner")]);
    let digest = Digest::of(&payload);
    std::fs::write(bench.path(&format!("state/documents/{}.json", digest.hex())), envelope.to_json()).unwrap();
    let entry = Entry { subject: Some(subject.into()), fact: RecordBody::Receipted { receipt: digest } };
    journal.append(jiff::Timestamp::now(), &[entry]).unwrap();
    drop(journal);
    let verified = bench.run(&["verify"]);
    assert_eq!(verified.code, 11, "{verified:?}");
}

#[test]
fn a_site_that_changed_since_does_not_hide_or_strand_an_old_run() {
    let bench = Bench::new();
    let manifest = bench.gated("a", &plan("a", json!([write("x", "1\n")])));
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
    std::fs::create_dir(bench.path("elsewhere")).unwrap();
    bench.site(&format!("[environments.other]\nroots = [{:?}]\n", bench.path("elsewhere")));
    assert_eq!(bench.run(&["show", "a"]).code, 0);
    assert_eq!(bench.run(&["undo", "a"]).value["end"], "rolled_back");
    assert!(!bench.path("world/x").exists());
}

#[test]
fn steps_that_a_replay_keeps_keep_their_changes_in_the_receipt() {
    let bench = Bench::new();
    let fails = json!({"id": "f", "uses": "command.run", "needs": ["w"], "with": {"argv": ["false"]}});
    let passes = json!({"id": "f", "uses": "command.run", "needs": ["w"], "with": {"argv": ["true"]}});
    let manifest = bench.gated("a", &plan("a", json!([write("x", "1\n"), fails])));
    assert_eq!(bench.run(&["run", &manifest, "--on-failure", "hold"]).code, 8);
    let corrected = bench.sign("b", &plan("b", json!([write("x", "1\n"), passes])));
    let gated = bench.run(&["gate", "--replay", "a", corrected.to_str().unwrap()]);
    assert_eq!(gated.code, 0, "{gated:?}");
    let replayed = bench.run(&["replay", "a", gated.value["manifest"].as_str().unwrap()]);
    assert_eq!((replayed.code, replayed.value["end"].as_str()), (0, Some("committed")), "{replayed:?}");
    assert_eq!(replayed.value["steps"][0]["changes"][0]["change"], "created", "{replayed:?}");
    assert_eq!(bench.run(&["verify"]).code, 0);
}

#[test]
fn a_write_ahead_log_that_is_deleted_after_a_crash_is_found() {
    let bench = Bench::new();
    let steps = json!([write("x", "1\n"), {"id": "wait", "uses": "command.run", "needs": ["w"], "with": {"argv": ["sleep", "60"]}}]);
    let manifest = bench.gated("a", &plan("a", steps));
    let mut child = bench.command(&["run", &manifest]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().contains("\"sleep\"") {}
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = std::fs::read(bench.path("state/journal.db-wal")).unwrap();
    std::fs::remove_file(bench.path("state/journal.db-wal")).unwrap();
    for words in [&["verify"][..], &["status"], &["recover"], &["run", &manifest]] {
        assert_eq!(bench.run(words).code, 11, "{words:?}");
    }
    std::fs::write(bench.path("state/journal.db-wal"), kept).unwrap();
    let _ = std::fs::remove_file(bench.path("state/journal.db-shm"));
    assert_eq!(bench.run(&["recover"]).value["end"], "rolled_back");
}
