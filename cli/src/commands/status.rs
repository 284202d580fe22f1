//! `backout status`: every run and how it stands.

use clap::Args;
use schemas::{End, ExitCode};

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
    let running = journal.live_writer();
    let end_of = |line: &RunLine| match (&line.end, running) {
        (Some((end, ..)), _) => end.as_str().to_owned(),
        (None, Some(pid)) => format!("running (process {pid})"),
        (None, None) if line.halted => "held".to_owned(),
        (None, None) => "unfinished".to_owned(),
    };
    let value: Vec<serde_json::Value> = shown
        .iter()
        .map(|line| {
            let (exit, reason) = line.end.as_ref().map_or((None, ""), |(_, exit, reason)| (Some(*exit), reason.as_str()));
            serde_json::json!({"run": line.run, "session": line.session, "environment": line.environment, "opened": line.opened,
                "end": end_of(line), "exit_code": exit, "reason": reason})
        })
        .collect();
    output.result(&serde_json::json!({"runs": value}), || {
        if shown.is_empty() {
            return "no run yet\nnext: backout gate PLAN\n".to_owned();
        }
        let row = |line: &&RunLine| {
            let reason = line.end.as_ref().map_or("", |(_, _, reason)| reason.as_str());
            let reason: String = reason.chars().take(60).collect();
            let opened = line.opened.chars().take(19).collect();
            vec![line.run.clone(), line.session.clone(), line.environment.clone(), opened, end_of(line), reason]
        };
        let mut out =
            table(&["run", "session", "environment", "opened", "end", "reason"], shown.iter().map(row).collect());
        let stuck = shown.iter().rev().find(|line| matches!(line.end, Some((End::Stuck, ..))));
        if unfinished {
            out.push_str(match running {
                Some(_) => "next: backout show SESSION, while it runs\n",
                None => "next: backout recover puts back what is unfinished; --resume goes on where nothing failed\n",
            });
        } else if let Some(stuck) = stuck {
            out.push_str(&format!("next: backout show {} says what is left\n", stuck.session));
        }
        out
    });
    Ok(ExitCode::Done)
}
