//! What the journal says was used up: the ledger of runs, the raises of limits, the resources that a session made.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use policy::{Entry, Mode, Raise, SessionFacts};
use schemas::{
    ChangeKind, End, Envelope, Extension, Record, RecordBody, Role, SeenWord, Statement, TrustRoot, Used, Verb,
};

use crate::home::Home;
use crate::problem::{Problem, chain};

/// What every run reserved, but those that ended with nothing done.
pub(crate) fn entries(records: &[Record]) -> Vec<Entry> {
    entries_but(records, "")
}

/// What every other run than `run` reserved.
pub(crate) fn entries_but(records: &[Record], run: &str) -> Vec<Entry> {
    let mut open: BTreeMap<&str, Entry> = BTreeMap::new();
    for record in records {
        let Some(subject) = &record.subject else { continue };
        match &record.fact {
            RecordBody::RunOpened { reserved, .. } if subject.run != run => {
                let entry = Entry {
                    time: record.time,
                    session: subject.session.clone(),
                    agent: subject.agent.clone(),
                    environment: subject.environment.clone(),
                    used: reserved.clone(),
                };
                open.insert(&subject.run, entry);
            }
            RecordBody::Amended { reserved, .. } => {
                if let Some(entry) = open.get_mut(subject.run.as_str()) {
                    entry.used.clone_from(reserved);
                }
            }
            RecordBody::Ended { end: End::RolledBack | End::Refused, .. } => drop(open.remove(subject.run.as_str())),
            _ => {}
        }
    }
    open.into_values().collect()
}

/// The counters of a session, for the policy.
pub(crate) fn session(entries: &[Entry], session: &str, mode: Mode) -> SessionFacts {
    let used = entries.iter().filter(|entry| entry.session == session).flat_map(|entry| &entry.used);
    let mut facts = SessionFacts { mode, writes: 0, deletes: 0, restarts: 0, rows: 0 };
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    for Used { verb, count, rows, .. } in used {
        facts.writes = facts.writes.saturating_add(number(*count));
        facts.rows = facts.rows.saturating_add(number(*rows));
        if verb.destroys() {
            facts.deletes = facts.deletes.saturating_add(number(*count));
        }
        if *verb == Verb::Restart {
            facts.restarts = facts.restarts.saturating_add(number(*count));
        }
    }
    facts
}

/// Resources that committed runs of a session made, by the same agent in the same environment, and that nobody took away since.
pub(crate) fn made_by(records: &[Record], session: &str, agent: &str, environment: &str) -> BTreeSet<String> {
    let mut making: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut made: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for record in records {
        let Some(subject) = &record.subject else { continue };
        let run = subject.run.as_str();
        let own = subject.session == session && subject.agent == agent && subject.environment == environment;
        match &record.fact {
            RecordBody::Verified { changes, .. } => {
                for change in changes {
                    // Whoever made or deleted it last: what was ours is ours no more.
                    if change.change != ChangeKind::Updated {
                        for set in made.values_mut() {
                            set.remove(&change.resource);
                        }
                    }
                    if own && change.change == ChangeKind::Created {
                        making.entry(run).or_default().insert(change.resource.clone());
                    }
                }
            }
            RecordBody::Ended { end: End::Committed, .. } => {
                if let Some(set) = making.remove(run) {
                    made.insert(run, set);
                }
            }
            RecordBody::UndoRequested { .. } | RecordBody::KeepRequested { .. } => {
                making.remove(run);
                made.remove(run);
            }
            _ => {}
        }
    }
    made.into_values().flatten().collect()
}

/// Days for which a rehearsal of a way back counts.
const DRILL_DAYS: i64 = 90;

/// Ways back that were seen to work in an environment not long ago: steps that were undone and then observed as before.
pub(crate) fn drilled(records: &[Record], environment: &str, now: Timestamp) -> BTreeSet<String> {
    let since = now - SignedDuration::from_hours(24 * DRILL_DAYS);
    let mut acting: BTreeMap<(&str, u32), String> = BTreeMap::new();
    let mut out = BTreeSet::new();
    for record in records.iter().filter(|record| record.time >= since) {
        let Some(subject) = record.subject.as_ref().filter(|subject| subject.environment == environment) else {
            continue;
        };
        match &record.fact {
            RecordBody::ApplyStarted { step, uses, argv, .. } => {
                acting.insert((&subject.run, *step), policy::way_back(uses, argv));
            }
            RecordBody::UndoSighted { step, seen: SeenWord::Absent, .. } => {
                out.extend(acting.get(&(subject.run.as_str(), *step)).cloned());
            }
            _ => {}
        }
    }
    out
}

/// Every raise of a limit, its operator's signature verified as of the time when it went on record.
pub(crate) fn raises(home: &Home, records: &[Record], trust: &TrustRoot) -> Result<Vec<Raise>, Problem> {
    let mut out = Vec::new();
    for record in records {
        let RecordBody::LimitRaised { document, limit, subject, by, expires, .. } = &record.fact else { continue };
        if Timestamp::now() >= *expires {
            continue;
        }
        let bad = |text: String| {
            Problem::identity(format!("a raise of the limit {limit} is not good: {text}"), "backout limits")
        };
        let envelope = Envelope::from_json(&home.document(*document)?).map_err(|error| bad(chain(&error)))?;
        let verified = envelope
            .verify::<Statement<Extension>>(trust, &Role::Operator, record.time)
            .map_err(|error| bad(chain(&error)))?;
        let said = &verified.document().predicate;
        if verified.digest() != *document
            || (&said.limit, &said.subject, &said.by, &said.expires) != (limit, subject, by, expires)
        {
            return Err(bad("it is not what the log names".to_owned()));
        }
        out.push(Raise { limit: limit.clone(), subject: subject.clone(), by: *by, expires: *expires });
    }
    Ok(out)
}
