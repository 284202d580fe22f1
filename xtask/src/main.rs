//! `cargo xtask`: everything that a contributor or a CI job runs. Must never need anything that was installed by hand.

mod bench;
mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let outcome = match verb.as_str() {
        "test" => run::test(),
        "schemas" => run::schemas(),
        "crash" => run::crash(&rest),
        "bench" => bench::bench(&rest),
        _ => Err("cargo xtask test | schemas | crash [KILLS] | bench [runs|snapshots|contain|stops]".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            run::say(&message);
            ExitCode::FAILURE
        }
    }
}
