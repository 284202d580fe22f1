//! What a decision costs: `cargo run --release -p policy --example decide`. Every question is different, so that none is answered from memory.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::Instant;

use policy::{Ask, Bundle};

/// The default bundle with guards of its kind up to `count` rules: each for an environment of its own.
fn bundle(count: usize) -> Bundle {
    let mut files: BTreeMap<String, String> = Bundle::shipped().files().clone();
    let own = Bundle::shipped().rules().unwrap().rules.len();
    let verbs = ["create", "update", "delete", "restart", "deploy", "push", "send", "execute", "migrate", "rotate"];
    let rule = |at: usize| {
        let verb = verbs[at % verbs.len()];
        format!(
            "@id(\"MORE-{at}/1\") @why(\"more\") forbid (principal, action == Backout::Action::\"{verb}\", resource)\n\
             when {{ resource.environment == \"e{at}\" && context.risk == Backout::Risk::\"high\" && !context.evidence_free }};\n"
        )
        .replace(" && !context.evidence_free", "")
    };
    files.insert("policies/50-more.cedar".to_owned(), (own..count).map(rule).collect());
    Bundle::new(files).unwrap()
}

fn main() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("../../examples/policies/deletes.json")).unwrap();
    let base: Ask = serde_json::from_value(serde_json::json!({"step": cases["base"]})).unwrap();
    for count in [46, 100, 1_000] {
        let bundle = bundle(count);
        let started = Instant::now();
        let engine = bundle.engine(jiff::Timestamp::now()).unwrap();
        let load_ms = started.elapsed().as_secs_f64() * 1e3;
        let asks: Vec<Ask> = (0..20_000)
            .map(|at| {
                let mut ask = base.clone();
                if let Ask::Step(step) = &mut ask {
                    step.resource.name = format!("file:/srv/{at}");
                    step.context.class = schemas::Class::ALL[at % 5];
                }
                ask
            })
            .collect();
        let started = Instant::now();
        let mut held = 0;
        for ask in &asks {
            let answered = engine.answer(ask);
            let _ = ask.digest();
            held += usize::from(answered.ruling == schemas::Ruling::Hold);
        }
        let each_us = started.elapsed().as_secs_f64() * 1e6 / asks.len() as f64;
        println!("{count} rules: load {load_ms:.1} ms, {each_us:.1} us a decision, {held} of {} held", asks.len());
    }
}
