//! Limits: how much a session, an agent or an environment may change over all of its plans. The journal is where it is counted.
//!
//! A run reserves what its plan would use when it is opened, under the journal's lease, so that two runs never use one budget; a run that ended with
//! nothing done gives it back.

use jiff::{SignedDuration, Timestamp};
use schemas::{Class, Code, Finding, Thing, Used, Verb, WhoCanAct};
use serde::{Deserialize, Serialize};

/// Whose use is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// All runs of one session.
    Session,
    /// All runs that one agent asked for.
    Agent,
    /// All runs in one environment.
    Environment,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// Resources.
    #[default]
    Resources,
    /// Rows that are updated or deleted.
    Rows,
}

/// One limit, as people write it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Its name.
    pub name: String,
    /// Whose use is summed.
    pub per: Per,
    /// The most.
    pub at_most: u64,
    /// What is counted.
    #[serde(default)]
    pub counts: Counted,
    /// Hours to look back; everything where left out.
    pub within_hours: Option<u32>,
    /// What is done; anything where left out.
    #[serde(default)]
    pub verbs: Vec<Verb>,
    /// To what; anything where left out.
    #[serde(default)]
    pub types: Vec<Thing>,
    /// By steps of these classes; any where left out.
    #[serde(default)]
    pub classes: Vec<Class>,
    /// In these environments; in all where left out.
    #[serde(default)]
    pub environments: Vec<String>,
}

/// What one run reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was opened.
    pub time: Timestamp,
    /// Its session.
    pub session: String,
    /// Who asked.
    pub agent: String,
    /// Where.
    pub environment: String,
    /// How much.
    pub used: Vec<Used>,
}

/// An operator's word that a limit is higher for one subject, for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raise {
    /// The limit.
    pub limit: String,
    /// The session, agent or environment.
    pub subject: String,
    /// How much more.
    pub by: u64,
    /// Until when.
    pub expires: Timestamp,
}

/// What is left of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// The limit.
    pub limit: String,
    /// Whose.
    pub per: Per,
    /// The session, agent or environment.
    pub subject: String,
    /// Used so far, runs in flight included.
    pub used: u64,
    /// The most, as raised.
    pub at_most: u64,
}

impl Limit {
    fn subject<'a>(&self, entry: &'a Entry) -> &'a str {
        match self.per {
            Per::Session => &entry.session,
            Per::Agent => &entry.agent,
            Per::Environment => &entry.environment,
        }
    }

    fn applies(&self, entry: &Entry) -> bool {
        self.environments.is_empty() || self.environments.contains(&entry.environment)
    }

    fn amount(&self, used: &[Used]) -> u64 {
        let counts = |it: &&Used| {
            (self.verbs.is_empty() || self.verbs.contains(&it.verb))
                && (self.types.is_empty() || self.types.contains(&it.thing))
                && (self.classes.is_empty() || self.classes.contains(&it.class))
        };
        let amount = |it: &Used| match self.counts {
            Counted::Resources => it.count,
            Counted::Rows => it.rows,
        };
        used.iter().filter(counts).fold(0, |sum, it| sum.saturating_add(amount(it)))
    }

    fn budget(&self, subject: &str, ledger: &[Entry], raises: &[Raise], now: Timestamp) -> Budget {
        let since = self.within_hours.map(|hours| now - SignedDuration::from_hours(i64::from(hours)));
        let counts = |entry: &&Entry| {
            self.applies(entry) && self.subject(entry) == subject && since.is_none_or(|since| entry.time > since)
        };
        let used = ledger.iter().filter(counts).fold(0u64, |sum, entry| sum.saturating_add(self.amount(&entry.used)));
        let raised = raises.iter().filter(|it| it.limit == self.name && it.subject == subject && now < it.expires);
        let at_most = raised.fold(self.at_most, |sum, raise| sum.saturating_add(raise.by));
        Budget { limit: self.name.clone(), per: self.per, subject: subject.to_owned(), used, at_most }
    }
}

/// What is left of every limit, for every subject that used something.
pub fn budgets(limits: &[Limit], ledger: &[Entry], raises: &[Raise], now: Timestamp) -> Vec<Budget> {
    let mut out = Vec::new();
    for limit in limits {
        let entries = ledger.iter().filter(|entry| limit.applies(entry));
        let subjects: std::collections::BTreeSet<&str> = entries.map(|entry| limit.subject(entry)).collect();
        out.extend(subjects.into_iter().map(|subject| limit.budget(subject, ledger, raises, now)));
    }
    out
}

/// Every limit that a plan would exceed, on top of what the ledger holds.
pub fn over(limits: &[Limit], ledger: &[Entry], raises: &[Raise], plan: &Entry, now: Timestamp) -> Vec<Finding> {
    let mut out = Vec::new();
    for limit in limits.iter().filter(|limit| limit.applies(plan)) {
        let wanted = limit.amount(&plan.used);
        let budget = limit.budget(limit.subject(plan), ledger, raises, now);
        if wanted == 0 || budget.used.saturating_add(wanted) <= budget.at_most {
            continue;
        }
        let left = budget.at_most.saturating_sub(budget.used);
        let detail = format!(
            "{} for {}: {} of {} are used, {left} are left, and the plan would use {wanted}",
            limit.name, budget.subject, budget.used, budget.at_most
        );
        let hint = format!(
            "backout limits raise {} --for {} --by {} --as OPERATOR",
            limit.name,
            budget.subject,
            wanted - left.min(wanted)
        );
        out.push(Finding::error(Code::LIMIT, "", detail, hint).for_whom(WhoCanAct::NeedsApproval).by_rule(&limit.name));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn entry(session: &str, time: &str, deletes: u64) -> Entry {
        let used = Used {
            verb: Verb::Delete,
            thing: Thing::File,
            class: Class::ReversibleWithBackup,
            count: deletes,
            rows: 0,
        };
        Entry {
            time: at(time),
            session: session.to_owned(),
            agent: "bot".to_owned(),
            environment: "prod".to_owned(),
            used: vec![used],
        }
    }

    fn limit(text: &str) -> Limit {
        toml::from_str(text).unwrap()
    }

    const NOW: &str = "2026-11-21T12:00:00Z";

    #[test]
    fn a_limit_counts_across_plans_and_by_whom_it_says() {
        let five = limit("name = \"five\"\nper = \"session\"\nat_most = 5\nverbs = [\"delete\"]");
        let ledger = [entry("s", NOW, 3), entry("t", NOW, 5)];
        let refused = |limit: &Limit, plan: &Entry, raises: &[Raise]| {
            !over(std::slice::from_ref(limit), &ledger, raises, plan, at(NOW)).is_empty()
        };
        assert!(!refused(&five, &entry("s", NOW, 2), &[]));
        assert!(refused(&five, &entry("s", NOW, 3), &[]));
        let per_agent = limit("name = \"all\"\nper = \"agent\"\nat_most = 9\nverbs = [\"delete\"]");
        assert!(!refused(&per_agent, &entry("u", NOW, 1), &[]), "another session name is no way round");
        assert!(refused(&per_agent, &entry("u", NOW, 2), &[]));
        let restarts = limit("name = \"restarts\"\nper = \"session\"\nat_most = 0\nverbs = [\"restart\"]");
        assert!(!refused(&restarts, &entry("s", NOW, 9), &[]), "it counts other things");
    }

    #[test]
    fn what_is_longer_ago_than_the_limit_looks_back_is_not_counted() {
        let daily = limit("name = \"daily\"\nper = \"agent\"\nat_most = 5\nwithin_hours = 24");
        let ledger = [entry("s", "2026-11-20T11:59:59Z", 5), entry("s", "2026-11-20T12:00:01Z", 3)];
        assert_eq!(budgets(&[daily], &ledger, &[], at(NOW)).first().map(|budget| budget.used), Some(3));
    }

    #[test]
    fn a_raise_is_for_one_subject_and_a_while() {
        let five = limit("name = \"five\"\nper = \"session\"\nat_most = 5");
        let raise = |subject: &str, expires: &str| Raise {
            limit: "five".to_owned(),
            subject: subject.to_owned(),
            by: 10,
            expires: at(expires),
        };
        let refused =
            |raises: &[Raise]| !over(std::slice::from_ref(&five), &[], raises, &entry("s", NOW, 6), at(NOW)).is_empty();
        assert!(refused(&[]));
        assert!(!refused(&[raise("s", "2026-11-21T13:00:00Z")]));
        assert!(refused(&[raise("t", "2026-11-21T13:00:00Z")]), "somebody else's");
        assert!(refused(&[raise("s", NOW)]), "over");
    }
}
