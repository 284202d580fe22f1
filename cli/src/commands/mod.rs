//! The verbs, one file each.

mod approvals;
mod approve;
mod demo;
mod doctor;
mod gate;
mod incident;
mod init;
mod key;
mod limits;
mod log;
pub(crate) mod plan;
mod policy;
pub(crate) mod progress;
mod recover;
mod replay;
mod run;
mod schema;
mod show;
mod status;
mod stop;
mod undo;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use schemas::ExitCode;

use crate::home::Home;
use crate::output::{Format, Output};
use crate::problem::Problem;
pub(crate) use recover::find as find_run;

/// The transactional runner for changes that AI agents make to real systems.
#[derive(Debug, Parser)]
#[command(
    name = "backout",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 committed or allowed, 2 usage or invalid plan, \
3 identity, 4 rolled back, 5 refused, 6 waiting for approvals, 7 stale, 8 stopped, 9 timed out, 10 STUCK, 11 integrity, 255 bug"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The state folder; the nearest .backout where left out
    #[arg(long, global = true, env = "BACKOUT_DIR", value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// How to print
    #[arg(long, global = true, default_value = "pretty")]
    pub(crate) format: Format,
    /// Never ask anything
    #[arg(long, global = true)]
    pub(crate) no_input: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a state folder with keys, a trust root, a site and a signed sample plan
    Init(init::InitArgs),
    /// Make and list keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Check, sign, show and draw plans
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Check, test, sign and question the rules
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Look at the world, decide, and issue a manifest
    Gate(gate::GateArgs),
    /// Approve or reject a manifest
    Approve(approve::ApproveArgs),
    /// Reject a manifest: one no vetoes it
    Reject(approve::RejectArgs),
    /// Show what is used of every limit, or raise one
    Limits(limits::LimitsArgs),
    /// List what waits for approval, who has spoken, and what is missing
    Approvals(approvals::ApprovalsArgs),
    /// Run a manifest
    Run(run::RunArgs),
    /// Stop what runs and keep it from starting, also after a restart
    Stop(stop::StopArgs),
    /// List what is stopped
    Stops,
    /// Lift a stop: operators sign that it may go on
    Resume(stop::ResumeArgs),
    /// List runs
    Status(status::StatusArgs),
    /// List records
    Log(log::LogArgs),
    /// Show a run: steps, effects, receipt
    Show(show::ShowArgs),
    /// Put back what a run did
    Undo(undo::UndoArgs),
    /// Take over runs that a crash or a stop left
    Recover(recover::RecoverArgs),
    /// Continue a halted run with a corrected plan from the last verified step
    Replay(replay::ReplayArgs),
    /// Verify the log, every receipt and the before-images that an undo would need
    Verify(verify::VerifyArgs),
    /// Tell what this machine can do, what that costs in promises, and the fix
    Doctor,
    /// The first minutes after something went wrong: stop, preserve, assess, contain, plan
    #[command(subcommand)]
    Incident(incident::IncidentCommand),
    /// Print a JSON Schema
    Schema(schema::SchemaArgs),
    /// Make a small production in a temporary folder and show all of it
    Demo(demo::DemoArgs),
}

/// Runs the command.
pub(crate) fn run(cli: &Cli, output: &Output) -> Result<ExitCode, Problem> {
    let home = || Home::find(cli.global.dir.as_deref());
    match &cli.command {
        Command::Init(args) => init::run(args, cli.global.dir.as_deref(), output),
        Command::Key(command) => key::run(command, &home()?, output),
        Command::Plan(command) => plan::run(command, &home, output),
        Command::Policy(command) => policy::run(command, &home, output),
        Command::Gate(args) => gate::run(args, &home()?, output),
        Command::Approve(args) => approve::run(args, &home()?, output),
        Command::Reject(args) => approve::reject(args, &home()?, output),
        Command::Limits(args) => limits::run(args, &home()?, output),
        Command::Approvals(args) => approvals::run(args, &home()?, output),
        Command::Run(args) => run::run(args, &home()?, output),
        Command::Stop(args) => stop::stop(args, &home()?, output),
        Command::Stops => stop::list(&home()?, output),
        Command::Resume(args) => stop::resume(args, &home()?, output),
        Command::Status(args) => status::run(args, &home()?, output),
        Command::Log(args) => log::run(args, &home()?, output),
        Command::Show(args) => show::run(args, &home()?, output),
        Command::Undo(args) => undo::run(args, &home()?, output),
        Command::Recover(args) => recover::run(args, &home()?, output),
        Command::Replay(args) => replay::run(args, &home()?, output),
        Command::Verify(args) => verify::run(args, &home()?, output),
        Command::Doctor => doctor::run(&home()?, output),
        Command::Incident(command) => incident::run(command, &home()?, output),
        Command::Schema(args) => schema::run(args, output),
        Command::Demo(args) => demo::run(args, output),
    }
}

/// Reads a file that the user named, or standard input for `-`, up to `limit` bytes.
pub(crate) fn read_input(path: &std::path::Path, limit: usize) -> Result<Vec<u8>, Problem> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| {
        Problem::usage(format!("cannot read {}: {error}", path.display()), "name an existing file")
    };
    let mut bytes = Vec::new();
    let limit_u64 = limit as u64 + 1;
    if path.as_os_str() == "-" {
        std::io::stdin().take(limit_u64).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(limit_u64).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() > limit {
        return Err(Problem::usage(format!("{} is larger than {limit} bytes", path.display()), "split the plan"));
    }
    Ok(bytes)
}
