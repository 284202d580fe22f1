//! `backout`: the command line. The only place where kinds, journal, policy and executor meet.
//!
//! Data goes to standard output, everything else to standard error. Must never end with a code that hides how it ended.

mod brief;
mod changed;
mod commands;
mod flow;
mod home;
mod judge;
mod ledger;
mod lineage;
mod look;
mod output;
mod problem;
mod revoke;
mod rules;
mod site;
mod standing;
mod stops;
mod votes;

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    // Before anything else, and with nothing of the rest: this process stays small.
    if std::env::args_os().nth(1).is_some_and(|word| word == launcher::WORD) {
        return std::process::ExitCode::from(launcher::serve());
    }
    let cli = match commands::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let usage = error.use_stderr();
            return std::process::ExitCode::from(if usage { schemas::ExitCode::Usage.number() } else { 0 });
        }
    };
    let output = output::Output::new(&cli.global);
    let code = guarded(&output, || commands::run(&cli, &output));
    let code = if output.lost() && code == schemas::ExitCode::Done { schemas::ExitCode::Failure } else { code };
    std::process::ExitCode::from(code.number())
}

/// The exit code of a command; a panic is a bug of ours, and is called that.
fn guarded(
    output: &output::Output,
    command: impl FnOnce() -> Result<schemas::ExitCode, problem::Problem>,
) -> schemas::ExitCode {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(command)) {
        Ok(Ok(code)) => code,
        Ok(Err(problem)) => {
            output.problem(&problem);
            problem.exit
        }
        Err(_) => schemas::ExitCode::Bug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_255_is_a_bug_and_code_1_a_failure() {
        let cli = commands::Cli::parse_from(["backout", "--format", "jsonl", "schema"]);
        let output = output::Output::new(&cli.global);
        assert_eq!(guarded(&output, || panic!("a bug")).number(), 255);
        let failed = || Err(problem::Problem::failure("a test", &std::io::Error::other("no disk")));
        assert_eq!(guarded(&output, failed).number(), 1);
        assert_eq!(guarded(&output, || Ok(schemas::ExitCode::Done)).number(), 0);
    }
}
