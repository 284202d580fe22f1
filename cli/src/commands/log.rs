//! `backout log`: the records, in order, as they stand in the audit log.

use clap::Args;
use schemas::{ExitCode, Record};

use crate::commands::recover::find;
use crate::flow;
use crate::home::Home;
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The session or run; all records where left out
    run: Option<String>,
}

pub(crate) fn run(args: &LogArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let journal = home.journal()?;
    let mut records = flow::records(&journal)?;
    if let Some(name) = &args.run {
        let run = find(&records, name)?.run;
        records.retain(|record| record.subject.as_ref().is_some_and(|subject| subject.run == run));
    }
    for record in &records {
        output.event("record", record);
    }
    let head = journal.head();
    output.result(&serde_json::json!({"size": head.size, "root": head.root, "records": records}), || {
        let mut out: String = records.iter().map(line).collect();
        out.push_str(&format!("{} records, root {}\n", head.size, head.root));
        out
    });
    Ok(ExitCode::Done)
}

fn line(record: &Record) -> String {
    let fact = serde_json::to_value(&record.fact).unwrap_or_default();
    let (name, body) = fact
        .as_object()
        .and_then(|object| object.iter().next())
        .map(|(name, body)| (name.clone(), body.clone()))
        .unwrap_or_default();
    let mut said: Vec<String> = Vec::new();
    for (key, value) in body.as_object().into_iter().flatten() {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Object(_) => continue,
            serde_json::Value::Array(items) if items.len() > 4 => format!("[{} items]", items.len()),
            other => other.to_string(),
        };
        said.push(format!("{key}={}", text.chars().take(60).collect::<String>()));
    }
    format!("{:>6} {} {name} {}\n", record.seq, record.time, said.join(" "))
}
