//! What a person reads, word for word: a change of it is a change that somebody looked at.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use tests::program::Bench;

/// A command for people; its output with everything that is never twice the same masked.
fn said(bench: &Bench, words: &[&str]) -> String {
    let mut command = bench.command(words);
    let output = command.args(["--format", "pretty"]).env("NO_COLOR", "1").output().unwrap();
    let code = output.status.code().unwrap();
    let text = |bytes: Vec<u8>| masked(bench, &String::from_utf8(bytes).unwrap());
    format!("{}{}exit {code}\n", text(output.stdout), text(output.stderr))
}

fn masked(bench: &Bench, text: &str) -> String {
    let here = bench.path("").canonicalize().unwrap().display().to_string();
    let text = text.replace(here.trim_end_matches('/'), "HERE");
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("\n") + "\n"
}

/// Ids, digests, instants and durations.
fn word(word: &str) -> String {
    // The root of the log, in base64.
    if word.trim_end_matches(',').len() == 44 && word.trim_end_matches(',').ends_with('=') {
        return "ROOT".to_owned();
    }
    let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let hex = |text: &str| text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mask = match core {
        core if core.starts_with("run-") && core.len() == 30 => "RUN",
        core if hex(core.trim_start_matches("sha256:").trim_start_matches("blake3:")) => "DIGEST",
        core if core.len() > 18 && core.starts_with("20") && core.contains('T') => "INSTANT",
        _ => return word.to_owned(),
    };
    word.replace(core, mask)
}

fn plan(session: &str, steps: Value) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "Change the banner", "steps": steps})
}

#[test]
fn the_way_of_a_plan_reads_as_it_did() {
    let bench = Bench::new();
    let steps = json!([
        {"id": "text", "uses": "file.write", "with": {"path": "banner.txt", "content": "open\n"}, "expect": {"created": 1}},
        {"id": "mode", "uses": "file.chmod", "with": {"path": "banner.txt", "mode": "0600"}, "needs": ["text"],
         "verify": [{"uses": "command.succeeds", "with": {"argv": ["grep", "-q", "open", "banner.txt"]}}]}
    ]);
    let file = bench.sign("banner", &plan("banner", steps));
    let name = file.to_str().unwrap();
    let mut told = String::new();
    for words in
        [&["plan", "check", name][..], &["plan", "show", name], &["gate", name], &["run", "banner"], &["status"]]
    {
        told += &format!("$ backout {}\n{}\n", words.join(" ").replace(name, "banner.plan.json"), said(&bench, words));
    }
    std::fs::write(bench.path("world/banner.txt"), "closed\n").unwrap();
    for words in [&["undo", "banner"][..], &["undo", "banner", "--around"], &["recover"]] {
        told += &format!("$ backout {}\n{}\n", words.join(" "), said(&bench, words));
    }
    insta::assert_snapshot!(told);
}

#[test]
fn refusals_read_as_they_did() {
    let bench = Bench::new();
    let steps = json!([
        {"id": "a", "uses": "command.run", "with": {"argv": ["deploy", "--now"], "contain": "none"}},
        {"id": "b", "uses": "file.delete", "with": {"paths": ["missing"]}, "needs": ["a"]}
    ]);
    let pivot = bench.sign("pivot", &plan("pivot", steps));
    let unknown = bench.sign(
        "unknown",
        &plan(
            "unknown",
            json!([{"id": "a", "uses": "command.run", "with": {"argv": ["deploy", "--now"], "contain": "none"}}]),
        ),
    );
    let mut told = String::new();
    for file in [&pivot, &unknown] {
        told += &said(&bench, &["gate", file.to_str().unwrap()]);
    }
    told += &said(&bench, &["run", "nothing"]);
    told += &said(&bench, &["show", "nothing"]);
    insta::assert_snapshot!(told);
}
