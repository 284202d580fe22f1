//! `backout schema`: the published schemas, and those of each kind's operations and checks.

use clap::Args;
use schemas::ExitCode;

use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// plan, assessment, manifest, approval, record, receipt, trust-root, envelope, decisions, or KIND.OPERATION; a list where left out
    name: Option<String>,
}

pub(crate) fn run(args: &SchemaArgs, output: &Output) -> Result<ExitCode, Problem> {
    // No kind looks at its store before it acts.
    let folder = tempfile::tempdir().map_err(|error| Problem::failure("cannot make a temporary folder", &error))?;
    let store = snapshots::Store::open(folder.path()).map_err(|error| Problem::snapshot(&error))?;
    let drivers = drivers::all(&store, None);
    let checks = drivers.iter().flat_map(|driver| {
        driver.checks().iter().map(|check| format!("{}.{check}", driver.name())).collect::<Vec<_>>()
    });
    let published = schemas::published();
    let documents = published.iter().map(|(file, _)| file.trim_end_matches(".v1.json").to_owned());
    let mut names: Vec<String> = documents.chain(drivers.names()).chain(checks).collect();
    names.sort();
    let Some(name) = &args.name else {
        output
            .result(&serde_json::json!({"schemas": names}), || names.iter().map(|name| format!("{name}\n")).collect());
        return Ok(ExitCode::Done);
    };
    let document =
        published.into_iter().find(|(file, _)| file.trim_end_matches(".v1.json") == name).map(|(_, schema)| schema);
    let operation = name.split_once('.').map_or("", |(_, operation)| operation);
    let of_kind =
        drivers.for_step(name).or_else(|| drivers.for_check(name)).and_then(|driver| driver.schema(operation));
    match document.or(of_kind) {
        Some(schema) => {
            output.result(&schema, || serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n");
            Ok(ExitCode::Done)
        }
        None => Err(Problem::usage(format!("no schema is called {name:?}"), format!("one of {}", names.join(", ")))),
    }
}
