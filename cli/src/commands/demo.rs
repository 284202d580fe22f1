//! placeholder
use clap::Args;
use schemas::ExitCode;
use crate::output::Output;
use crate::problem::Problem;
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {}
pub(crate) fn run(_args: &DemoArgs, _output: &Output) -> Result<ExitCode, Problem> { Ok(ExitCode::Done) }
