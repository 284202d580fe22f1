//! What people are shown, what their word is good for, and what is told when something changed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tests::program::{Bench, Ran};

fn plan(session: &str, steps: Value) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "be looked at", "steps": steps})
}

fn write(id: &str, path: &str) -> Value {
    json!({"id": id, "uses": "file.write", "with": {"path": path, "content": "1\n"}})
}

/// A command that leaves residue: one person is asked.
fn touched(id: &str, path: &str) -> Value {
    json!({"id": id, "uses": "command.run", "with": {"argv": ["sh", "-c", format!("echo 4 > {path}")], "present": ["test", "-e", path],
        "writes": [path]}, "undo": {"argv": ["rm", path]}})
}

fn gate(bench: &Bench, name: &str, plan: &Value) -> Ran {
    let file = bench.sign(name, plan);
    bench.run(&["gate", file.to_str().unwrap()])
}

fn name_of(ran: &Ran) -> String {
    assert!(matches!(ran.code, 0 | 6), "{ran:?}");
    ran.value["manifest"].as_str().unwrap().to_owned()
}

/// A site where what cannot be undone may run, once two people say so.
fn daring() -> Bench {
    let bench = Bench::new();
    let root = bench.path("world").canonicalize().unwrap();
    bench.site(&format!("[environments.test]\nroots = [{root:?}]\nallow_irreversible = true\n"));
    bench
}

/// What is on the screen of a person who is asked.
fn shown(bench: &Bench, manifest: &str, name: &str) -> String {
    let mut command = bench.command(&["approve", manifest, "--as", name]);
    let output = command.args(["--format", "pretty"]).output().unwrap();
    String::from_utf8(output.stderr).unwrap()
}

/// Puts the policy of the folder in force with one more file.
fn with_rule(bench: &Bench, file: &str, text: &str, case: &Value) -> Ran {
    let path = bench.path("state/policy").join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    if case.is_object() {
        std::fs::write(bench.path("state/policy/cases/own.json"), json!({"cases": [case]}).to_string()).unwrap();
    }
    bench.run(&["policy", "sign", "--as", "ada", "--as", "grace"])
}

#[test]
fn an_approver_sees_what_is_final_and_the_rest_in_a_line() {
    let bench = daring();
    let mut steps =
        vec![json!({"id": "final", "uses": "command.run", "with": {"argv": ["unknown-program"], "contain": "none"},
        "needs": ["w0", "w1", "w2", "w3", "w4", "w5", "w6"]})];
    steps.extend((0..7).map(|ix| write(&format!("w{ix}"), &format!("f{ix}"))));
    let manifest = name_of(&gate(&bench, "shown", &plan("shown", json!(steps))));
    let text = shown(&bench, &manifest, "vera");
    assert!(text.contains("CANNOT BE UNDONE: final"), "{text}");
    assert!(text.contains("asks anybody about: 7 (7 "), "{text}");
    assert!(
        text.contains("NEED-irreversible/1 asks because of final: two people approve what cannot be undone"),
        "{text}"
    );
    assert!(text.contains("2 of 2 approvals in role approver:test are missing"), "{text}");
    assert!(!text.contains("\nw3 ["), "a trivial step is not shown whole: {text}");
}

#[test]
fn the_rules_say_how_long_a_word_is_good() {
    let bench = daring();
    let irreversible =
        json!([{"id": "final", "uses": "command.run", "with": {"argv": ["unknown-program"], "contain": "none"}}]);
    let severe = name_of(&gate(&bench, "severe", &plan("severe", irreversible)));
    let mild = name_of(&gate(&bench, "mild", &plan("mild", json!([touched("t", "n")]))));
    for (manifest, minutes) in [(&severe, 15), (&mild, 30)] {
        let file = bench.path("payload");
        let printed = bench.run(&["approve", manifest, "--print-payload", file.to_str().unwrap()]);
        assert_eq!(printed.value["minutes"], minutes, "{printed:?}");
        let text = String::from_utf8(std::fs::read(&file).unwrap()).unwrap();
        let said: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
        let time = |key: &str| said["predicate"][key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert_eq!(time("expires").duration_since(time("issued")).as_mins(), minutes);
    }
}

#[test]
fn a_stale_manifest_says_what_changed() {
    let bench = Bench::new();
    let manifest = name_of(&gate(&bench, "s", &plan("s", json!([write("a", "a")]))));
    bench.inventory("# nothing to say\n");
    let ran = bench.run(&["run", &manifest]);
    let title = ran.value["title"].as_str().unwrap();
    assert_eq!(ran.code, 7);
    assert!(title.contains("inventory.toml, line 1: it was") && title.contains("\"# nothing to say\""), "{title}");

    let manifest = name_of(&gate(&bench, "s2", &plan("s2", json!([write("a", "a")]))));
    assert_eq!(bench.run(&["key", "new", "nina", "--role", "approver:test"]).code, 0);
    let ran = bench.run(&["run", &manifest]);
    let title = ran.value["title"].as_str().unwrap();
    assert!(ran.code == 7 && title.contains("of nina is new"), "{ran:?}");

    let manifest = name_of(&gate(&bench, "s3", &plan("s3", json!([write("a", "a")]))));
    let rule = "@id(\"DENY-mail/1\")\n@why(\"no mail\")\nforbid (principal, action, resource)\nwhen { resource is Backout::File && resource.name like \"*/no-such-mail\" };\n";
    let idle = with_rule(&bench, "policies/50-own.cedar", rule, &Value::Null);
    assert!(idle.code == 2 && idle.value["title"].as_str().unwrap().contains("decides no case"), "{idle:?}");
    let case = json!({"name": "no mail", "set": {"resource.name": "file:/srv/no-such-mail"}, "expect": "deny", "rules": ["DENY-mail/1"]});
    let signed = with_rule(&bench, "policies/50-own.cedar", rule, &case);
    assert_eq!(signed.code, 0, "{signed:?}");
    let ran = bench.run(&["run", &manifest]);
    let title = ran.value["title"].as_str().unwrap();
    assert!(ran.code == 7 && title.contains("policies/50-own.cedar is new"), "{ran:?}");
}

#[test]
fn a_plan_that_follows_another_shows_only_what_is_new() {
    let bench = daring();
    let first = plan("first", json!([touched("a", "na"), touched("b", "nb"), touched("old", "no")]));
    let manifest = name_of(&gate(&bench, "first", &first));
    assert_eq!(bench.run(&["reject", &manifest, "--as", "vera", "--reason", "b is wrong"]).code, 0);
    let mut second = plan("second", json!([touched("a", "na"), touched("b", "nbb"), touched("c", "nc")]));
    let bytes = std::fs::read(bench.path("first.draft.json")).unwrap();
    second["parent"] = json!(schemas::Digest::of(&bytes));
    let gated = gate(&bench, "second", &second);
    let follows = &gated.value["follows"];
    assert_eq!(follows["became"], "vera rejected", "{gated:?}");
    assert_eq!(
        (&follows["same"], &follows["changed"], &follows["new"], &follows["gone"]),
        (&json!(["a"]), &json!(["b"]), &json!(["c"]), &json!(["old"]))
    );
    let shown = shown(&bench, &name_of(&gated), "walt");
    assert!(shown.contains("\na [partially_reversible] as in the plan before: runs rm na; runs sh -c"), "{shown}");
    assert!(shown.contains("\nb [") && shown.contains("\nc ["), "{shown}");

    // The same words that would do something else are something else.
    std::fs::write(bench.path("world/na"), "there\n").unwrap();
    second["session"] = json!("third");
    let again = gate(&bench, "third", &second);
    assert_eq!(again.value["follows"]["changed"], json!(["a", "b"]), "{again:?}");
}

#[test]
fn what_cannot_be_undone_is_shown_whole_each_time_and_nothing_counts_as_reviewed_that_nobody_saw() {
    let bench = daring();
    let argv = json!(["mystery", "--wipe", "--everything"]);
    let danger = json!([{"id": "danger", "uses": "command.run", "with": {"argv": argv, "contain": "none"}}]);
    let manifest = name_of(&gate(&bench, "first", &plan("first", danger.clone())));
    let digest_of = |name: &str| json!(schemas::Digest::of(&std::fs::read(bench.path(name)).unwrap()));
    let mut second = plan("second", danger);
    second["parent"] = digest_of("first.draft.json");
    let gated = gate(&bench, "second", &second);
    assert_eq!(gated.value["follows"]["reviewed"], false, "no person spoke: {gated:?}");
    assert_eq!(bench.run(&["reject", &manifest, "--as", "vera"]).code, 0);
    second["session"] = json!("third");
    let gated = gate(&bench, "third", &second);
    assert_eq!(gated.value["follows"]["reviewed"], true, "{gated:?}");
    let text = shown(&bench, &name_of(&gated), "walt");
    assert!(text.contains("mystery --wipe --everything"), "{text}");

    let quiet = name_of(&gate(&bench, "quiet", &plan("quiet", json!([write("w", "q")]))));
    assert_eq!(bench.run(&["approve", &quiet, "--as", "vera"]).code, 0);
    let mut checked = plan("checked", json!([write("w", "q")]));
    checked["parent"] = digest_of("quiet.draft.json");
    checked["checks"] = json!([{"uses": "file.exists", "with": {"path": "q"}}]);
    assert_eq!(gate(&bench, "checked", &checked).value["follows"]["checks_changed"], true);
}

#[test]
fn a_refused_plan_can_be_followed_explained_and_simulated() {
    let bench = Bench::new();
    let refused = gate(
        &bench,
        "r",
        &plan("r", json!([{"id": "c", "uses": "command.run", "with": {"argv": ["unknown"], "contain": "none"}}])),
    );
    assert_eq!(refused.code, 5);
    let simulated = bench.run(&["policy", "simulate", bench.path("state/policy").to_str().unwrap()]);
    assert_eq!((simulated.value["decisions"].as_u64(), &simulated.value["different"]), (Some(2), &json!([])));
    let open = bench.path("open/policies");
    std::fs::create_dir_all(&open).unwrap();
    std::fs::write(open.join("open.cedar"), "@id(\"ALLOW-all/1\")\npermit (principal, action, resource);\n").unwrap();
    let simulated = bench.run(&["policy", "simulate", bench.path("open").to_str().unwrap()]);
    let different = simulated.value["different"].as_array().unwrap();
    assert!(different.iter().any(|it| it["before"] == "deny" && it["after"] == "allow"), "{simulated:?}");
    let mut second = plan("second", json!([write("c", "c")]));
    second["parent"] = json!(schemas::Digest::of(&std::fs::read(bench.path("r.draft.json")).unwrap()));
    let gated = gate(&bench, "second", &second);
    assert_eq!(gated.value["follows"]["became"], "was refused: policy-irreversible", "{gated:?}");
    assert_eq!(gated.value["follows"]["reviewed"], false, "no person has seen it");
}

#[test]
fn an_exception_is_narrow_ends_and_lifts_no_forbid() {
    let bench = Bench::new();
    let grant = |expires: &str, id: &str| {
        format!(
            "@id(\"{id}\")\n@owner(\"ada\")\n@why(\"the migration of December\")\n@expires(\"{expires}\")\n\
             permit (principal == Backout::Agent::\"tester\", action in [Backout::Action::\"update\", Backout::Action::\"inspect\"], resource is Backout::Secret)\n\
             when {{ resource.environment == \"test\" }};\n"
        )
    };
    std::fs::write(bench.path("world/.env"), "a=1\n").unwrap();
    let asked = |session: &str| plan(session, json!([write("e", ".env")]));
    assert_eq!(gate(&bench, "before", &asked("before")).code, 5);
    let soon = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48)).to_string();
    let late =
        with_rule(&bench, "exceptions/december.cedar", &grant("2099-01-01T00:00:00Z", "EXC-env/1"), &Value::Null);
    assert!(late.code == 2 && late.value["title"].as_str().unwrap().contains("more than 90 days"), "{late:?}");
    let signed = with_rule(&bench, "exceptions/december.cedar", &grant(&soon, "EXC-env/1"), &Value::Null);
    assert_eq!(signed.code, 0, "{signed:?}");
    let during = gate(&bench, "during", &asked("during"));
    assert_eq!(during.code, 6, "permitted, and the rule about secrets still asks: {during:?}");
    let signed =
        with_rule(&bench, "exceptions/december.cedar", &grant("2020-01-01T00:00:00Z", "EXC-env/2"), &Value::Null);
    assert_eq!(signed.code, 0, "{signed:?}");
    assert_eq!(gate(&bench, "after", &asked("after")).code, 5, "it ended");

    let wide = "@id(\"EXC-all/1\")\n@owner(\"ada\")\n@why(\"all\")\n@expires(\"2099-01-01T00:00:00Z\")\npermit (principal, action, resource);\n";
    let forbid = grant("2099-01-01T00:00:00Z", "EXC-f/1").replace("permit (", "forbid (");
    let endless = grant("2099-01-01T00:00:00Z", "EXC-e/1").replace("@expires(\"2099-01-01T00:00:00Z\")\n", "");
    let or_true = grant(&soon, "EXC-o/1").replace("== \"test\" }", "== \"test\" || true }");
    let itself = grant(&soon, "EXC-i/1").replace("== \"test\"", "== resource.environment");
    let test = "when { resource.environment == \"test\" }";
    let not = grant(&soon, "EXC-n/1").replace(test, "when { !(resource.environment == \"test\") }");
    let unless = grant(&soon, "EXC-u/1").replace("when {", "unless {");
    let named = "principal == Backout::Agent::\"tester\"";
    let anybody = grant(&soon, "EXC-a/1").replace(named, "principal is Backout::Agent");
    for bad in [wide.to_owned(), forbid, endless, or_true, itself, not, unless, anybody] {
        let refused = with_rule(&bench, "exceptions/december.cedar", &bad, &Value::Null);
        assert_eq!(refused.value["type"], "policy-error", "{bad}: {refused:?}");
    }
}

#[test]
fn a_way_back_that_was_seen_to_work_is_rehearsed() {
    let bench = Bench::new();
    let rule = "@id(\"NEED-drill/1\")\n@need(\"drill\")\n@why(\"what was never put back is not done\")\n\
                forbid (principal, action in Backout::Action::\"mutate\", resource is Backout::File)\n\
                when { resource.name like \"*/drilled\" }\n\
                unless { context.evidence.drill };\n";
    let before = bench.gated("rehearsal", &plan("rehearsal", json!([write("a", "a")])));
    assert_eq!(bench.run(&["run", &before]).code, 0);
    let case = json!({"name": "never rehearsed", "set": {"resource.name": "file:/srv/drilled"}, "expect": "hold",
        "rules": ["NEED-drill/1"], "needs": ["drill"]});
    let signed = with_rule(&bench, "policies/60-drill.cedar", rule, &case);
    assert_eq!(signed.code, 0, "{signed:?}");
    let refused = gate(&bench, "b", &plan("b", json!([write("b", "drilled")])));
    assert_eq!((refused.code, refused.value["type"].as_str()), (5, Some("policy-evidence")), "{refused:?}");
    assert_eq!(bench.run(&["undo", "rehearsal"]).code, 0);
    let gated = gate(&bench, "c", &plan("c", json!([write("b", "drilled")])));
    assert_eq!(gated.code, 0, "{gated:?}");
}
