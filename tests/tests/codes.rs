//! Every code that a finding or a problem can have is provoked once on the real program, by what it is for.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::program::{Bench, Ran};

fn plan(steps: Value) -> Value {
    json!({"session": "s", "agent": "tester", "environment": "test", "intent": "provoke", "steps": steps})
}

fn write(id: &str, path: &str) -> Value {
    json!({"id": id, "uses": "file.write", "with": {"path": path, "content": "x\n"}})
}

fn command(argv: Value) -> Value {
    json!({"id": "c", "uses": "command.run", "with": {"argv": argv, "contain": "none"}})
}

/// The codes that an answer names.
fn codes(ran: &Ran) -> Vec<String> {
    let of = |list: &str| ran.value[list].as_array().cloned().unwrap_or_default();
    let found = of("findings").into_iter().chain(of("warnings"));
    let mut out: Vec<String> = found.filter_map(|finding| finding["code"].as_str().map(str::to_owned)).collect();
    out.extend(ran.value["type"].as_str().map(str::to_owned));
    out
}

fn check(bench: &Bench, bytes: &[u8]) -> Vec<String> {
    let file = bench.path("checked.json");
    std::fs::write(&file, bytes).unwrap();
    codes(&bench.run(&["plan", "check", file.to_str().unwrap()]))
}

fn gate(bench: &Bench, plan: &Value) -> Vec<String> {
    let file = bench.sign_as("gated", plan, plan["agent"].as_str().unwrap());
    codes(&bench.run(&["gate", file.to_str().unwrap()]))
}

/// Plans that `plan check` refuses or warns of, with the code of each.
fn plans() -> Vec<(&'static str, Vec<u8>)> {
    let of = |steps: Value| plan(steps).to_string().into_bytes();
    let with = |mut step: Value, key: &str, value: Value| {
        step[key] = value;
        step
    };
    let circle = json!([with(write("a", "a"), "needs", json!(["b"])), with(write("b", "b"), "needs", json!(["a"]))]);
    let reads = json!({"id": "r", "uses": "file.copy", "with": {"from": "a", "to": "b"}});
    let mut elsewhere = plan(json!([write("a", "a")]));
    elsewhere["environment"] = json!("nowhere");
    let mut expired = plan(json!([write("a", "a")]));
    expired["expires"] = json!("2020-01-01T00:00:00Z");
    let late = with(write("a", "a"), "needs", json!(["c"]));
    vec![
        ("plan-not-json", b"{".to_vec()),
        ("plan-schema", b"{\"x\": 1}".to_vec()),
        ("plan-limit", of(json!([write(&"x".repeat(65), "a")]))),
        ("duplicate-id", of(json!([write("a", "a"), write("a", "b")]))),
        ("unknown-need", of(json!([with(write("a", "a"), "needs", json!(["b"]))]))),
        ("cycle", of(circle)),
        ("unknown-kind", of(json!([{"id": "a", "uses": "file.teleport", "with": {}}]))),
        ("step-parameters", of(json!([{"id": "a", "uses": "file.write", "with": {"pth": "a"}}]))),
        ("path-outside-roots", of(json!([write("a", "../../etc/passwd")]))),
        ("write-conflict", of(json!([write("a", "a"), write("b", "a")]))),
        ("read-race", of(json!([write("a", "a"), reads]))),
        ("pivot-order", of(json!([command(json!(["unknown-program"])), late]))),
        ("class-claim", of(json!([with(command(json!(["unknown-program"])), "class", json!("trivially_reversible"))]))),
        ("undo-unbound", of(json!([command(json!(["rm", "x"]))]))),
        ("unknown-environment", elsewhere.to_string().into_bytes()),
        ("expired", expired.to_string().into_bytes()),
    ]
}

/// A site with a production environment that an agent of its own may plan for.
fn production(bench: &Bench) {
    let root = bench.path("world").canonicalize().unwrap();
    let backups = root.join("backups");
    std::fs::create_dir(&backups).unwrap();
    bench.site(&format!(
        "[environments.test]\nroots = [{root:?}]\n[environments.frozen]\nroots = [{root:?}]\n[environments.closed]\nroots = [{root:?}]\n\
         [environments.prod]\nroots = [{root:?}]\nproduction = true\nbackups = [\"file:{}\"]\n",
        backups.display()
    ));
    bench.inventory(
        "[[resource]]\nmatch = [\"file:/**/protected/*\"]\nprotected = true\n\
         [[resource]]\nmatch = [\"file:/**/archive/*\"]\ntype = \"backup\"\nbackup_of = [\"sqlite:/**/shop.db\"]\n\
         [[resource]]\nmatch = [\"file:/**/escalate/*\"]\nboundary = \"outside\"\n\
         [[freeze]]\nname = \"for ever\"\nfrom = \"2020-01-01T00:00\"\nuntil = \"9000-01-01T00:00\"\nenvironments = [\"frozen\"]\n\
         [[limit]]\nname = \"none\"\nper = \"environment\"\nat_most = 0\nverbs = [\"delete\"]\nenvironments = [\"test\"]\n\
         [[window]]\nenvironments = [\"closed\"]\ndays = []\nfrom = \"08:00\"\nuntil = \"09:00\"\n",
    );
    for (name, environment, duty) in [
        ("prod-bot", "prod", "change"),
        ("idle-bot", "test", "nothing"),
        ("keeper", "test", "backups"),
        ("cold-bot", "frozen", "change"),
        ("shut-bot", "closed", "change"),
    ] {
        let words = ["key", "new", name, "--role", "agent", "--environment", environment, "--duty", duty];
        assert_eq!(bench.run(&words).code, 0, "{name}");
    }
}

/// Plans that the gate refuses, with the code of each.
fn refusals(bench: &Bench) -> Vec<(&'static str, Value)> {
    production(bench);
    for name in ["one", "two", "three"] {
        std::fs::create_dir_all(bench.path("world/folder/sub")).unwrap();
        std::fs::write(bench.path("world/folder/sub").join(name), "x\n").unwrap();
    }
    let prod = |steps: Value| {
        let mut plan = plan(steps);
        plan["agent"] = json!("prod-bot");
        plan["environment"] = json!("prod");
        plan
    };
    let mut foreign = prod(json!([write("a", "a")]));
    foreign["agent"] = json!("tester");
    let delete = |with: Value| json!([{"id": "d", "uses": "file.delete", "with": with}]);
    let mut own = command(json!(["sh", "-c", "x"]));
    own["with"]["present"] = json!(["true"]);
    own["undo"] = json!({"argv": ["sh", "-c", "y"]});
    let as_agent = |agent: &str, environment: &str| {
        let mut plan = plan(json!([write("a", "a")]));
        plan["agent"] = json!(agent);
        plan["environment"] = json!(environment);
        plan
    };
    let mut keeper = plan(delete(json!({"paths": ["archive/old"]})));
    keeper["agent"] = json!("keeper");
    std::fs::create_dir(bench.path("world/archive")).unwrap();
    std::fs::write(bench.path("world/archive/old"), "x\n").unwrap();
    let mut expects = write("a", "a");
    expects["expect"] = json!({"created": 5});
    vec![
        (
            "probe-failed",
            plan(
                json!([{"id": "r", "uses": "file.replace", "with": {"path": "missing", "find": "a", "replace": "b"}}]),
            ),
        ),
        ("expectation", plan(json!([expects]))),
        ("policy-irreversible", plan(json!([command(json!(["unknown-program"]))]))),
        ("policy-wildcard-delete", prod(delete(json!({"glob": "folder/**"})))),
        ("policy-share", prod(delete(json!({"paths": ["folder"], "recursive": true})))),
        ("policy-own-way-back", prod(json!([write("a", "backups/x")]))),
        ("policy-environment", foreign),
        ("policy-unseen", prod(json!([own]))),
        ("policy-evidence", keeper),
        ("limit", plan(delete(json!({"paths": ["folder"], "recursive": true})))),
        ("policy-denied", as_agent("idle-bot", "test")),
        ("policy-freeze", as_agent("cold-bot", "frozen")),
        ("policy-window", as_agent("shut-bot", "closed")),
        ("policy-protected", plan(json!([write("a", "protected/a")]))),
        ("policy-boundary", plan(json!([write("a", "escalate/a")]))),
        ("policy-hazard", prod(json!([command(json!(["iptables-restore", "rules"]))]))),
        ("policy-force-push", prod(json!([command(json!(["git", "push", "--force-with-lease", "origin", "main"]))]))),
    ]
}

/// What is told about runs, keys and files, with the code of each.
fn problems(bench: &Bench, seen: &mut BTreeSet<String>) {
    let mut note = |code: &str, ran: &Ran| {
        assert!(codes(ran).iter().any(|found| found == code), "{code}: {ran:?}");
        seen.insert(code.to_owned());
    };
    note("usage", &bench.run(&["show", "nothing"]));
    note("signature", &bench.run(&["plan", "sign", "checked.json", "--as", "nobody"]));
    std::fs::write(bench.path("world/n"), "3\n").unwrap();
    let step = json!({"id": "set", "uses": "command.run", "with": {"argv": ["sh", "-c", "echo 9 > n"], "writes": ["n"], "present": ["grep", "-q", "9", "n"]},
        "undo": {"argv": ["sh", "-c", "echo 3 > n"]}});
    let file = bench.sign("asks", &plan(json!([step])));
    let manifest = bench.run(&["gate", file.to_str().unwrap()]).value["manifest"].as_str().unwrap().to_owned();
    note("approvals-missing", &bench.run(&["run", &manifest]));
    assert_eq!(bench.run(&["approve", &manifest, "--as", "vera", "--reject"]).code, 0);
    note("rejected", &bench.run(&["run", &manifest]));
    let done = bench.gated("done", &plan(json!([write("w", "x")])));
    assert_eq!(bench.run(&["run", &done]).code, 0);
    note("stale", &bench.run(&["run", &done]));
    let mut keyed = plan(json!([write("k", "keyed")]));
    std::fs::remove_dir(bench.path("state/stops")).unwrap();
    let fast = bench.gated("fast", &plan(json!([write("f", "fast")])));
    note("stopped", &bench.run(&["run", &fast]));
    std::fs::create_dir(bench.path("state/stops")).unwrap();
    let mut orphan = keyed.clone();
    orphan["parent"] = json!(format!("sha256:{}", "0".repeat(64)));
    note("unknown-parent", &bench.run(&["gate", bench.sign("orphan", &orphan).to_str().unwrap()]));
    keyed["idempotency_key"] = json!("once");
    assert_eq!(bench.run(&["gate", bench.sign("k1", &keyed).to_str().unwrap()]).code, 0);
    keyed["intent"] = json!("another");
    note("idempotency", &bench.run(&["gate", bench.sign("k2", &keyed).to_str().unwrap()]));
    std::fs::write(bench.path("world/x"), "mine\n").unwrap();
    note("clobber", &bench.run(&["undo", "s"]));
    let held = bench.gated("held", &plan(json!([{"id": "f", "uses": "command.run", "with": {"argv": ["false"]}}])));
    assert_eq!(bench.run(&["run", &held, "--on-failure", "hold"]).code, 8);
    note("journal-busy", &bench.run(&["run", &held]));
    std::fs::write(bench.path("state/policy/policies/10-permits.cedar"), "permit (principal, action, resource);")
        .unwrap();
    let other = bench.sign("other", &plan(json!([write("o", "other")])));
    note("policy-error", &bench.run(&["gate", other.to_str().unwrap()]));
    std::fs::rename(bench.path("state/backout.toml"), bench.path("away.toml")).unwrap();
    note("failure", &bench.run(&["plan", "check", file.to_str().unwrap()]));
    std::fs::remove_file(bench.path("state/journal.head")).unwrap();
    note("integrity", &bench.run(&["status"]));
}

#[test]
fn every_code_is_what_its_fault_is_called() {
    let mut seen = BTreeSet::new();
    let bench = Bench::new();
    for (code, bytes) in plans() {
        let found = check(&bench, &bytes);
        assert!(found.iter().any(|found| found == code), "{code}: {found:?}");
        seen.insert(code.to_owned());
    }
    for (code, plan) in refusals(&bench) {
        let found = gate(&bench, &plan);
        assert!(found.iter().any(|found| found == code), "{code}: {found:?}");
        seen.insert(code.to_owned());
    }
    problems(&bench, &mut seen);
    // Those of single approvals are provoked by forged ones, in `forgery.rs`.
    let all: BTreeSet<String> =
        schemas::Code::ALL.iter().map(ToString::to_string).filter(|code| !code.starts_with("approval-")).collect();
    assert_eq!(seen, all);
}

#[test]
fn a_check_in_the_place_of_a_step_is_told_where_it_belongs() {
    let bench = Bench::new();
    let file = bench.path("checked.json");
    let step = json!([{"id": "c", "uses": "file.contains", "with": {"path": "a", "text": "x"}}]);
    std::fs::write(&file, plan(step).to_string()).unwrap();
    let ran = bench.run(&["plan", "check", file.to_str().unwrap()]);
    assert!(ran.value["findings"][0]["hint"].as_str().unwrap().contains("verify"), "{ran:?}");
}
