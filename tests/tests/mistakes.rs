//! Mistakes that a new user made with the policy, the inventory and the keys: each is told, none is silently something else.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tests::program::{Bench, Ran};

fn write(session: &str, path: &str) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "err",
        "steps": [{"id": "w", "uses": "file.write", "with": {"path": path, "content": "1\n"}}]})
}

fn gate(bench: &Bench, name: &str, plan: &Value) -> Ran {
    let file = bench.sign(name, plan);
    bench.run(&["gate", file.to_str().unwrap()])
}

fn title(ran: &Ran) -> &str {
    ran.value["title"].as_str().unwrap_or_default()
}

#[test]
fn an_edit_in_place_is_compared_with_what_was_signed() {
    let bench = Bench::new();
    let folder = bench.path("state/policy");
    let rule = "@id(\"DENY-conf/1\")\n@why(\"no\")\nforbid (principal, action == Backout::Action::\"update\", resource is Backout::File)\n\
                when { resource.name like \"*.conf\" };\n";
    std::fs::write(folder.join("policies/50-conf.cedar"), rule).unwrap();
    let found = bench.run(&["policy", "diff", folder.to_str().unwrap()]);
    assert_eq!((found.code, found.value["tighter"].as_u64()), (0, Some(1)), "{found:?}");
    assert_eq!(bench.run(&["policy", "show", "DENY-conf/1", "--from", folder.to_str().unwrap()]).code, 0);
    assert_eq!(bench.run(&["policy", "show", "DENY-conf/1"]).code, 2, "it is not in force");
}

#[test]
fn nobodys_word_is_asked_for_what_cannot_run_any_more() {
    let bench = Bench::new();
    let stale = gate(&bench, "s", &write("s", "a")).value["manifest"].as_str().unwrap().to_owned();
    bench.inventory("# changed\n");
    let listed = bench.run(&["approvals"]);
    assert_eq!(listed.value["manifests"][0]["state"], "stale", "{listed:?}");
    assert_eq!(bench.run(&["approve", &stale, "--as", "vera"]).code, 7);
    let ran = gate(&bench, "t", &write("t", "b")).value["manifest"].as_str().unwrap().to_owned();
    assert_eq!(bench.run(&["run", &ran]).code, 0);
    let late = bench.run(&["approve", &ran, "--as", "vera"]);
    assert!(late.code == 7 && title(&late).contains("was run already"), "{late:?}");
}

#[test]
fn who_said_no_is_listed() {
    let bench = Bench::new();
    let manifest = gate(&bench, "s", &write("s", "a")).value["manifest"].as_str().unwrap().to_owned();
    assert_eq!(bench.run(&["reject", &manifest, "--as", "vera"]).code, 0);
    let listed = bench.run(&["approvals", "--all"]);
    let one = &listed.value["manifests"][0];
    assert_eq!((&one["state"], &one["approved_by"]), (&json!("rejected"), &json!(["vera (no)"])), "{listed:?}");
}

#[test]
fn an_inventory_that_protects_nothing_by_a_typing_error_does_not_load() {
    let bench = Bench::new();
    for (text, says) in [
        ("[[resource]]\nmatch = [\"fiel:/**/*.conf\"]\nprotected = true\n", "matches nothing"),
        (
            "[[freeze]]\nname = \"f\"\nfrom = \"2020-01-01T00:00\"\nuntil = \"9000-01-01T00:00\"\nenvironments = [\"prod\"]\n",
            "names the environment",
        ),
        ("[[resource]]\nmatch = [\"file:/b\"]\ntype = \"file\"\nbackup_of = [\"sqlite:/**\"]\n", "of another type"),
    ] {
        bench.inventory(text);
        let refused = gate(&bench, "s", &write("s", "a"));
        assert!(refused.code == 5 && title(&refused).contains(says), "{text}: {refused:?}");
    }
}

#[test]
fn what_is_a_backup_of_something_is_a_backup() {
    let bench = Bench::new();
    bench.inventory("[[resource]]\nmatch = [\"file:/**/copies/*\"]\nbackup_of = [\"sqlite:/**/shop.db\"]\n");
    std::fs::create_dir(bench.path("world/copies")).unwrap();
    std::fs::write(bench.path("world/copies/shop.bak"), "1\n").unwrap();
    let refused = gate(&bench, "s", &write("s", "copies/shop.bak"));
    assert_eq!((refused.code, refused.value["type"].as_str()), (5, Some("policy-own-way-back")), "{refused:?}");
}

#[test]
fn a_rule_that_names_other_evidence_than_it_tests_does_not_load() {
    let bench = Bench::new();
    let folder = bench.path("bundle/policies");
    std::fs::create_dir_all(&folder).unwrap();
    let rule = |need: &str, test: &str| {
        format!(
            "@id(\"NEED-x/1\")\n@need(\"{need}\")\n@why(\"x\")\nforbid (principal, action == Backout::Action::\"update\", resource is Backout::File)\n\
             when {{ resource.shared }}\nunless {{ {test} }};\n"
        )
    };
    let check = |text: String| {
        std::fs::write(folder.join("x.cedar"), text).unwrap();
        bench.run(&["policy", "check", bench.path("bundle").to_str().unwrap()])
    };
    for (need, test) in [
        ("approvals>=1", "context.evidence.approvals >= 2"),
        ("approvals>=2", "context.evidence.approvals >= 1"),
        ("drill", "context.evidence.snapshot"),
        ("approvals>=1", "context.evidence.approvals >= 1 && context.evidence.teams.contains(\"dba\")"),
        ("role:dba", "context.evidence.teams.contains(\"dbas\")"),
    ] {
        let refused = check(rule(need, test));
        assert!(refused.code == 5 && title(&refused).contains("and tests for"), "{need} {test}: {refused:?}");
    }
    let good = check(rule(
        "approvals>=1;role:dba",
        "context.evidence.approvals >= 1 && context.evidence.teams.contains(\"dba\")",
    ));
    assert_eq!(good.code, 0, "{good:?}");
    let misspelt =
        check(rule("drill", "context.evidence.drill").replace("resource.shared", "resource.tier == \"production\""));
    assert!(title(&misspelt).contains("policies/x.cedar") && title(&misspelt).contains("NEED-x/1"), "{misspelt:?}");
    let broken = check("\n\npermit (principal, action, resource)\n".to_owned());
    assert!(title(&broken).contains("policies/x.cedar:"), "{broken:?}");
}

#[test]
fn an_import_gives_nobody_a_secret() {
    let bench = Bench::new();
    let file = bench.path("claw.json");
    let policy = json!({"name": "p", "defaultEffect": "deny", "rules": [{"id": "r2", "effect": "require_approval",
        "condition": {"all": [{"field": "action.type", "operator": "eq", "value": "file.write"}]}}]});
    std::fs::write(&file, policy.to_string()).unwrap();
    let imported = bench.run(&["policy", "import", "safeclaw", file.to_str().unwrap()]);
    let text = imported.value["text"].as_str().unwrap();
    assert!(text.contains("!(resource is Backout::Secret)"), "{imported:?}");
    let remarks = imported.value["remarks"].to_string();
    assert!(remarks.contains("defaultEffect deny") && remarks.contains("leave out secrets"), "{remarks}");
}

#[test]
fn keys_that_could_do_nothing_or_too_much_are_refused() {
    let bench = Bench::new();
    let idle = bench.run(&["key", "new", "idle", "--role", "agent"]);
    assert!(idle.code == 2 && title(&idle).contains("may do nothing"), "{idle:?}");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(bench.path("id"))
        .status();
    assert!(made.unwrap().success());
    let public = bench.path("id.pub");
    let agent = bench.run(&["key", "add", public.to_str().unwrap(), "--owner", "sam", "--role", "agent"]);
    assert_eq!(agent.code, 2, "{agent:?}");
    let private =
        bench.run(&["key", "add", bench.path("id").to_str().unwrap(), "--owner", "sam", "--role", "operator"]);
    assert!(private.code == 2 && title(&private).contains("private key"), "{private:?}");
    assert_eq!(
        bench.run(&["key", "add", public.to_str().unwrap(), "--owner", "sam", "--role", "approver:test"]).code,
        0
    );
}

#[test]
fn a_revoked_key_counts_no_more() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["key", "revoke", "nobody"]).code, 2);
    let before = bench.gated("s", &write("s", "a"));
    let revoked = bench.run(&["key", "revoke", "tester"]);
    let listed = revoked.value["keys"].as_array().unwrap();
    assert!(listed.iter().any(|key| key["owner"] == "tester" && key["revoked_at"].is_string()), "{revoked:?}");
    assert_eq!(bench.run(&["run", &before]).code, 7);
    let file = bench.sign("t", &write("t", "a"));
    assert_eq!(bench.run(&["gate", file.to_str().unwrap()]).code, 3);
    assert_eq!(bench.run(&["key", "revoke", "tester"]).code, 2, "it is revoked already");
}

#[test]
fn a_wrong_expectation_says_what_it_would_change() {
    let bench = Bench::new();
    let mut plan = write("s", "a");
    plan["steps"][0]["expect"] = json!({"updated": 1});
    let refused = gate(&bench, "s", &plan);
    let detail = refused.value["findings"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("it would change: created file:"), "{detail}");
}

#[test]
fn a_persons_revoked_key_approves_nothing_more() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["key", "revoke", "vera"]).code, 0);
    let step = json!({"id": "t", "uses": "command.run", "with": {"argv": ["sh", "-c", "echo 4 > n"], "present": ["test", "-e", "n"],
        "writes": ["n"]}, "undo": {"argv": ["rm", "n"]}});
    let mut plan = write("s", "a");
    plan["steps"] = json!([step]);
    let manifest = gate(&bench, "s", &plan).value["manifest"].as_str().unwrap().to_owned();
    let late = bench.run(&["approve", &manifest, "--as", "vera"]);
    assert!(late.code == 3 && title(&late).contains("was revoked at"), "{late:?}");
    assert_eq!(bench.run(&["run", &manifest]).code, 6);
    assert_eq!(bench.run(&["approve", &manifest, "--as", "walt"]).code, 0);
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
}

#[test]
fn a_name_that_nothing_has_stops_nothing_and_says_so() {
    let bench = Bench::new();
    for words in [["--kind", "comand"], ["--environment", "prodd"], ["--agent", "nosuchbot"]] {
        let ran = bench.run(&["stop", words[0], words[1], "--reason", "r"]);
        assert_eq!(ran.code, 2, "{ran:?}");
        let title = ran.value["title"].as_str().unwrap();
        assert!(title.contains("nothing was stopped") && title.contains(words[1]), "{ran:?}");
    }
    let ran = bench.run(&["incident", "start", "nosuch", "--reason", "r"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert_eq!(bench.run(&["stops"]).code, 0, "nothing stands");
    assert_eq!(bench.run(&["stop", "--session", "later", "--reason", "a session that has not begun"]).code, 0);
    // What is printed next can be typed.
    assert_eq!(bench.run(&["stop", "--all", "--reason", "r"]).code, 0);
}

#[test]
fn what_a_failed_step_said_can_be_read_afterwards_and_a_held_run_is_not_rolled_back() {
    let bench = Bench::new();
    let plan = |session: &str| {
        json!({"session": session, "agent": "tester", "environment": "test", "intent": "fail", "steps": [
        {"id": "c", "uses": "command.run", "with": {"argv": ["sh", "-c", "echo no such luck >&2; exit 9"], "writes": ["a"]}}]})
    };
    for (session, words, code) in [("r", &["run"][..], 4), ("h", &["run", "--on-failure", "hold"], 8)] {
        let file = bench.sign(session, &plan(session));
        let gated = bench.run(&["gate", file.to_str().unwrap()]);
        let manifest = gated.value["manifest"].as_str().unwrap_or_else(|| panic!("{gated:?}"));
        assert_eq!(bench.run(&["approve", manifest, "--as", "vera"]).code, 0);
        let ran = bench.run(&[words, &[manifest]].concat());
        assert_eq!(ran.code, code, "{ran:?}");
        let shown = bench.run(&["show", session]);
        assert!(shown.value["said"]["0"].as_str().unwrap_or_default().contains("no such luck"), "{shown:?}");
        assert!(shown.value["reason"].as_str().unwrap_or_default().contains("exited with 9"), "{shown:?}");
    }
}
