//! `backout limits`: what is used of every limit, and an operator's word that one is higher for a while.

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use policy::Budget;
use schemas::{Digest, Document as _, Envelope, ExitCode, Extension, RecordBody, Role, Statement, Subject};

use crate::flow;
use crate::home::Home;
use crate::ledger;
use crate::output::{Output, table};
use crate::problem::{Problem, chain};

#[derive(Debug, Args)]
pub(crate) struct LimitsArgs {
    #[command(subcommand)]
    command: Option<LimitsCommand>,
}

#[derive(Debug, Subcommand)]
enum LimitsCommand {
    /// Raise a limit for one session, agent or environment, signed by an operator
    Raise {
        /// Name of the limit
        limit: String,
        /// The session, agent or environment
        #[arg(long = "for", value_name = "SUBJECT")]
        subject: String,
        /// How much more
        #[arg(long)]
        by: u64,
        /// The operator's key
        #[arg(long = "as", value_name = "KEY")]
        name: String,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
        /// For how many hours
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=168))]
        hours: u32,
    },
}

pub(crate) fn run(args: &LimitsArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    match &args.command {
        None => list(home, output),
        Some(LimitsCommand::Raise { limit, subject, by, name, reason, hours }) => {
            let site = home.site()?;
            if !site.inventory()?.limits().iter().any(|known| known.name == *limit) {
                return Err(Problem::usage(format!("no limit is called {limit:?}"), "inventory.toml has the limits"));
            }
            if *by == 0 {
                return Err(Problem::usage("a raise by 0 raises nothing", "backout limits raise --by N"));
            }
            let issued = Timestamp::now();
            let expires = issued + SignedDuration::from_hours(i64::from(*hours));
            let extension = Extension {
                limit: limit.clone(),
                subject: subject.clone(),
                by: *by,
                reason: reason.clone(),
                issued,
                expires,
                nonce: flow::nonce()?,
            };
            let payload = Statement::new(vec![Subject::new("site", site.digest())], extension).to_payload();
            let envelope = Envelope::sign(Statement::<Extension>::PAYLOAD_TYPE, &payload, &[&home.key(name)?]);
            let trust = home.trust()?;
            let verified = envelope
                .verify::<Statement<Extension>>(trust.document(), &Role::Operator, issued)
                .map_err(|error| Problem::identity(chain(&error), "backout key list shows who is an operator"))?;
            let owner = verified.signers().first().map(|signer| signer.owner.clone()).unwrap_or_default();
            let document = Digest::of(&payload);
            home.keep(document, &envelope.to_json())?;
            let (limit, subject) = (limit.clone(), subject.clone());
            let limits = (limit.clone(), subject.clone());
            home.note(RecordBody::LimitRaised { limit, subject, by: *by, expires, document, owner })?;
            output.note(&format!("raised {} for {} by {by} until {expires}", limits.0, limits.1));
            list(home, output)
        }
    }
}

fn list(home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let records = flow::records(&home.journal()?)?;
    let (site, trust) = (home.site()?, home.trust()?);
    let inventory = site.inventory()?;
    let (entries, raises) = (ledger::entries(&records), ledger::raises(home, &records, trust.document())?);
    let budgets = policy::budgets(inventory.limits(), &entries, &raises, Timestamp::now());
    output.result(&serde_json::json!({"budgets": budgets}), || {
        if inventory.limits().is_empty() {
            return "inventory.toml has no limits\n".to_owned();
        }
        let row = |budget: &Budget| {
            let left = budget.at_most.saturating_sub(budget.used);
            vec![
                budget.limit.clone(),
                budget.subject.clone(),
                budget.used.to_string(),
                budget.at_most.to_string(),
                left.to_string(),
            ]
        };
        table(&["limit", "for", "used", "at most", "left"], budgets.iter().map(row).collect())
    });
    Ok(ExitCode::Done)
}
