//! Limits over all plans of a session, an agent or an environment, on the real program.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tests::program::{Bench, Ran};

const LIMIT: &str = "[[limit]]\nname = \"deletes\"\nper = \"session\"\nat_most = 2\nverbs = [\"delete\"]\n";

fn plan(session: &str, steps: Value) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "delete", "steps": steps})
}

fn delete(path: &str) -> Value {
    json!({"id": path, "uses": "file.delete", "with": {"paths": [path]}})
}

fn bench(files: &[&str]) -> Bench {
    let bench = Bench::new();
    bench.inventory(LIMIT);
    for name in files {
        std::fs::write(bench.path("world").join(name), "x\n").unwrap();
    }
    bench
}

fn gate(bench: &Bench, plan: &Value) -> Ran {
    let file = bench.sign("limited", plan);
    bench.run(&["gate", file.to_str().unwrap()])
}

fn run(bench: &Bench, plan: &Value) -> i32 {
    let gated = gate(bench, plan);
    assert_eq!(gated.code, 0, "{gated:?}");
    bench.run(&["run", gated.value["manifest"].as_str().unwrap()]).code
}

fn is_limited(ran: &Ran) -> bool {
    (ran.code, ran.value["type"].as_str()) == (5, Some("limit"))
}

#[test]
fn several_small_plans_do_not_do_what_one_large_plan_may_not() {
    let bench = bench(&["a", "b", "c", "d"]);
    assert!(is_limited(&gate(&bench, &plan("s", json!([delete("a"), delete("b"), delete("c")])))));
    assert_eq!(run(&bench, &plan("s", json!([delete("a")]))), 0);
    assert_eq!(run(&bench, &plan("s", json!([delete("b")]))), 0);
    assert!(is_limited(&gate(&bench, &plan("s", json!([delete("c")])))));
    assert_eq!(run(&bench, &plan("other", json!([delete("c")]))), 0, "per session");
    let shown = bench.run(&["limits"]);
    let mine = shown.value["budgets"].as_array().unwrap().iter().find(|it| it["subject"] == "s").unwrap();
    assert_eq!((&mine["used"], &mine["at_most"]), (&json!(2), &json!(2)));
}

#[test]
fn two_manifests_that_each_fit_do_not_run_both() {
    let bench = bench(&["a", "b", "c", "d"]);
    let gated = |names: [&str; 2]| {
        let steps: Vec<Value> = names.iter().map(|name| delete(name)).collect();
        gate(&bench, &plan("s", json!(steps))).value["manifest"].as_str().unwrap().to_owned()
    };
    let (one, two) = (gated(["a", "b"]), gated(["c", "d"]));
    assert_eq!(bench.run(&["run", &one]).code, 0);
    assert!(is_limited(&bench.run(&["run", &two])));
    assert!(bench.path("world/c").exists());
}

#[test]
fn what_came_to_nothing_is_given_back() {
    let bench = bench(&["a", "b", "c"]);
    let mut failing = plan("s", json!([delete("a"), delete("b")]));
    failing["checks"] = json!([{"uses": "file.exists", "with": {"path": "a"}}]);
    assert_eq!(run(&bench, &failing), 4);
    assert_eq!(run(&bench, &plan("s", json!([delete("a"), delete("b")]))), 0);
}

#[test]
fn what_the_session_made_uses_up_nothing() {
    let bench = bench(&["a"]);
    let write = |name: &str| json!({"id": name, "uses": "file.write", "with": {"path": name, "content": "x\n"}});
    assert_eq!(run(&bench, &plan("s", json!([write("m"), write("n"), write("o")]))), 0);
    assert_eq!(run(&bench, &plan("s", json!([delete("m"), delete("n"), delete("o")]))), 0);
    let others = gate(&bench, &plan("t", json!([delete("a")])));
    assert_eq!(others.code, 0);
}

#[test]
fn an_operator_raises_a_limit_and_nobody_else() {
    let bench = bench(&["a", "b", "c"]);
    let three = plan("s", json!([delete("a"), delete("b"), delete("c")]));
    let raise = |key: &str, subject: &str| {
        bench.run(&["limits", "raise", "deletes", "--for", subject, "--by", "1", "--as", key]).code
    };
    for key in ["tester", "vera", "gate", "log"] {
        assert_eq!(raise(key, "s"), 3, "{key}");
    }
    assert_eq!(raise("ada", "t"), 0);
    assert!(is_limited(&gate(&bench, &three)), "it was raised for somebody else");
    assert_eq!(raise("ada", "s"), 0);
    assert_eq!(run(&bench, &three), 0);
    assert_eq!(bench.run(&["verify"]).code, 0);
}
