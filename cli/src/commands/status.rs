//! `backout status`: every run and how it stands.

use clap::Args;
use schemas::ExitCode;

use crate::commands::recover::{RunLine, runs};
use crate::home::Home;
use crate::output::{Output, table};
use crate::problem::Problem;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// How many runs, newest last
    #[arg(long, default_value_t = 20)]
    last: usize,
}

pub(crate) fn run(args: &StatusArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let journal = home.journal()?;
    let all = runs(&crate::flow::records(&journal)?);
    let shown: Vec<&RunLine> = all.iter().skip(all.len().saturating_sub(args.last)).collect();
    let unfinished = all.iter().any(|line| line.end.is_none());
    let end_of = |line: &RunLine| line.end.as_ref().map_or("unfinished", |(end, ..)| end.as_str()).to_owned();
    let value: Vec<serde_json::Value> = shown
        .iter()
        .map(|line| {
            let (exit, reason) = line.end.as_ref().map_or((None, ""), |(_, exit, reason)| (Some(*exit), reason.as_str()));
            serde_json::json!({"run": line.run, "session": line.session, "environment": line.environment, "opened": line.opened,
                "end": end_of(line), "exit_code": exit, "reason": reason})
        })
        .collect();
    output.result(&value, || {
        if shown.is_empty() {
            return "no run yet\nnext: backout gate PLAN\n".to_owned();
        }
        let row = |line: &&RunLine| {
            let reason = line.end.as_ref().map_or("", |(_, _, reason)| reason.as_str());
            let reason: String = reason.chars().take(60).collect();
            vec![line.run.clone(), line.session.clone(), line.environment.clone(), end_of(line), reason]
        };
        let mut out = table(&["run", "session", "environment", "end", "reason"], shown.iter().map(row).collect());
        if unfinished {
            out.push_str("next: backout recover\n");
        }
        out
    });
    Ok(ExitCode::Done)
}
