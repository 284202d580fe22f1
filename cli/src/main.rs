//! `backout`: the command line. The only place where kinds, journal, policy and executor meet.
//!
//! Data goes to standard output, everything else to standard error. Must never end with a code that hides how it ended.

mod commands;
mod flow;
mod home;
mod look;
mod output;
mod problem;
mod site;
mod standing;

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    let cli = match commands::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let usage = error.use_stderr();
            return std::process::ExitCode::from(if usage { schemas::ExitCode::Usage.number() } else { 0 });
        }
    };
    let output = output::Output::new(&cli.global);
    let code = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| commands::run(&cli, &output))) {
        Ok(Ok(code)) => code,
        Ok(Err(problem)) => {
            output.problem(&problem);
            problem.exit
        }
        Err(_) => schemas::ExitCode::Bug,
    };
    let code = if output.lost() && code == schemas::ExitCode::Done { schemas::ExitCode::Failure } else { code };
    std::process::ExitCode::from(code.number())
}
