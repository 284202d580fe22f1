//! The inventory: what people say of resources. Which are secrets, backups of others, shared, protected; the calendar; the legal holds.
//!
//! Written by people, never by a plan. Must never make a resource less than what several entries together say: of two the stricter counts.

use std::collections::{BTreeMap, BTreeSet};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use jiff::civil::{DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use schemas::{Resource, Thing, Verb};
use serde::Deserialize;

use crate::ask::{Boundary, CalendarFacts, Mode};
use crate::limits::Limit;

/// What everybody's inventory begins with.
const SHIPPED: &str = include_str!("../default/inventory.toml");

/// Most entries.
const MAX_ENTRIES: usize = 20_000;

/// The inventory as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    mode: Option<Mode>,
    #[serde(default)]
    resource: Vec<Entry>,
    #[serde(default)]
    freeze: Vec<Freeze>,
    #[serde(default)]
    window: Vec<Window>,
    #[serde(default)]
    legal_hold: Option<Register>,
    #[serde(default)]
    limit: Vec<Limit>,
}

/// What is said of the resources that a pattern matches.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Patterns over URIs: `*` within a part of a path, `**` across.
    #[serde(rename = "match")]
    patterns: Vec<String>,
    /// Environments where it holds; all where left out.
    #[serde(default)]
    environments: Vec<String>,
    #[serde(rename = "type")]
    thing: Option<Thing>,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    sensitive: bool,
    #[serde(default)]
    protected: bool,
    #[serde(default)]
    shared: bool,
    /// Patterns of what it is a backup of.
    #[serde(default)]
    backup_of: Vec<String>,
    /// What depends on it.
    #[serde(default)]
    dependents: BTreeSet<String>,
    /// The repair boundary for every kind of change.
    #[serde(default)]
    boundary: Boundary,
    /// The repair boundary for one.
    #[serde(default)]
    boundaries: BTreeMap<Verb, Boundary>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Freeze {
    name: String,
    from: DateTime,
    until: DateTime,
    #[serde(default)]
    time_zone: Option<String>,
    #[serde(default)]
    environments: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    days: Vec<Day>,
    from: Time,
    until: Time,
    #[serde(default)]
    time_zone: Option<String>,
    environments: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// The legal-hold register, as it was asked last.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    /// When somebody asked it.
    asked: Timestamp,
    /// Hours for which the answer is good.
    good_for_hours: u32,
    /// What is held.
    #[serde(default)]
    held: Vec<String>,
}

/// Why an inventory does not load.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InventoryError(pub String);

/// A resource as the inventory knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Whether any entry speaks of it.
    pub known: bool,
    /// What it is, where an entry says so.
    pub thing: Option<Thing>,
    /// Who owns it.
    pub owner: Option<String>,
    /// Whether it is sensitive.
    pub sensitive: bool,
    /// Whether people alone change it.
    pub protected: bool,
    /// Whether others share it.
    pub shared: bool,
    /// What depends on it.
    pub dependents: BTreeSet<String>,
    /// Whether it is a backup, and of what nobody said: then of everything.
    pub backup_of_all: bool,
    pub(crate) boundary: Boundary,
    pub(crate) boundaries: BTreeMap<Verb, Boundary>,
}

impl Described {
    /// Where a change stands to the repair boundary.
    pub fn boundary(&self, verb: Verb) -> Boundary {
        self.boundaries.get(&verb).copied().unwrap_or(self.boundary)
    }
}

/// The inventory, ready to be asked.
#[derive(Clone, Debug)]
pub struct Inventory {
    mode: Mode,
    entries: Vec<Entry>,
    patterns: GlobSet,
    /// The entry of each pattern.
    owners: Vec<usize>,
    backups: Vec<(GlobSet, GlobSet)>,
    freezes: Vec<(Freeze, TimeZone)>,
    windows: Vec<(Window, TimeZone)>,
    register: Option<(Register, GlobSet)>,
    limits: Vec<Limit>,
}

impl Inventory {
    /// Reads a site's inventory and puts the shipped entries behind it.
    pub fn parse(text: &str) -> Result<Self, InventoryError> {
        let fail = |error: &dyn std::fmt::Display| InventoryError(error.to_string());
        let mut written: Written = toml::from_str(text).map_err(|error| fail(&error))?;
        let shipped: Written = toml::from_str(SHIPPED).map_err(|error| fail(&error))?;
        written.resource.extend(shipped.resource);
        if written.resource.len() > MAX_ENTRIES {
            return Err(InventoryError(format!("{} entries, and {MAX_ENTRIES} are the most", written.resource.len())));
        }
        for entry in &mut written.resource {
            if !entry.backup_of.is_empty() {
                entry.thing.get_or_insert(Thing::Backup);
            }
        }
        let mut owners = Vec::new();
        let mut patterns = GlobSetBuilder::new();
        let mut backups = Vec::new();
        for (at, entry) in written.resource.iter().enumerate() {
            if entry.patterns.is_empty() {
                return Err(InventoryError(format!("resource entry {} has no match", at + 1)));
            }
            for pattern in &entry.patterns {
                known_scheme(pattern)?;
                patterns.add(glob(pattern, entry.thing == Some(Thing::Secret))?);
                owners.push(at);
            }
            if entry.thing.is_some_and(|thing| thing != Thing::Backup) && !entry.backup_of.is_empty() {
                return Err(InventoryError(format!("resource entry {} is a backup_of, and of another type", at + 1)));
            }
            entry.backup_of.iter().try_for_each(|pattern| known_scheme(pattern))?;
            if !entry.backup_of.is_empty() {
                backups.push((set(&entry.patterns)?, set(&entry.backup_of)?));
            }
        }
        let zoned = |name: &Option<String>| {
            name.as_deref().map_or(Ok(TimeZone::UTC), |name| TimeZone::get(name).map_err(|error| fail(&error)))
        };
        let freezes = written.freeze.into_iter().map(|freeze| zoned(&freeze.time_zone).map(|zone| (freeze, zone)));
        let windows = written.window.into_iter().map(|window| zoned(&window.time_zone).map(|zone| (window, zone)));
        let freezes: Vec<_> = freezes.collect::<Result<_, _>>()?;
        if let Some((freeze, _)) = freezes.iter().find(|(freeze, _)| freeze.until <= freeze.from) {
            return Err(InventoryError(format!("the freeze {} ends before it begins", freeze.name)));
        }
        for (at, limit) in written.limit.iter().enumerate() {
            let same = written.limit.iter().skip(at + 1).any(|other| other.name == limit.name);
            if same || !schemas::is_valid_id(&limit.name) {
                return Err(InventoryError(format!("the limit {:?} has no name of its own", limit.name)));
            }
        }
        Ok(Self {
            limits: written.limit,
            mode: written.mode.unwrap_or(Mode::Normal),
            patterns: patterns.build().map_err(|error| fail(&error))?,
            entries: written.resource,
            owners,
            backups,
            freezes,
            windows: windows.collect::<Result<_, _>>()?,
            register: written
                .legal_hold
                .map(|register| set(&register.held).map(|held| (register, held)))
                .transpose()?,
        })
    }

    /// Every environment that it names, with where.
    pub fn environments(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let entries = self.entries.iter().flat_map(|it| &it.environments).map(|name| (name.as_str(), "[[resource]]"));
        let freezes =
            self.freezes.iter().flat_map(|(it, _)| &it.environments).map(|name| (name.as_str(), "[[freeze]]"));
        let windows =
            self.windows.iter().flat_map(|(it, _)| &it.environments).map(|name| (name.as_str(), "[[window]]"));
        let limits = self.limits.iter().flat_map(|it| &it.environments).map(|name| (name.as_str(), "[[limit]]"));
        entries.chain(freezes).chain(windows).chain(limits)
    }

    /// The limits.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// Whether an incident is open.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What is said of a resource in an environment: all entries that match, together.
    pub fn describe(&self, uri: &str, environment: &str) -> Described {
        let mut out = Described::default();
        let hits = spellings(uri).into_iter().flat_map(|uri| self.patterns.matches(uri));
        let mut at: Vec<usize> = hits.filter_map(|hit| self.owners.get(hit).copied()).collect();
        at.sort_unstable();
        at.dedup();
        for entry in at.into_iter().filter_map(|at| self.entries.get(at)) {
            if !entry.environments.is_empty() && !entry.environments.iter().any(|name| name == environment) {
                continue;
            }
            out.known = true;
            out.thing = out.thing.or(entry.thing);
            out.owner = out.owner.or_else(|| entry.owner.clone());
            out.sensitive |= entry.sensitive || matches!(entry.thing, Some(Thing::Secret | Thing::Backup));
            out.protected |= entry.protected;
            out.shared |= entry.shared;
            out.dependents.extend(entry.dependents.iter().cloned());
            out.backup_of_all |= entry.thing == Some(Thing::Backup) && entry.backup_of.is_empty();
            out.boundary = out.boundary.max(entry.boundary);
            for (verb, boundary) in &entry.boundaries {
                let own = out.boundaries.entry(*verb).or_default();
                *own = (*own).max(*boundary);
            }
        }
        out
    }

    /// Whether `uri` holds backups of one of `changed`.
    pub fn is_backup_of(&self, uri: &str, changed: &[&str]) -> bool {
        self.backups.iter().any(|(these, of)| matches(these, uri) && changed.iter().any(|other| matches(of, other)))
    }

    /// What the calendar says of an instant.
    pub fn calendar(&self, environment: &str, now: Timestamp) -> CalendarFacts {
        let applies = |names: &[String]| names.is_empty() || names.iter().any(|name| name == environment);
        let frozen = self.freezes.iter().filter(|(freeze, _)| applies(&freeze.environments)).any(|(freeze, zone)| {
            let local = now.to_zoned(zone.clone()).datetime();
            freeze.from <= local && local < freeze.until
        });
        let mut windows = self.windows.iter().filter(|(window, _)| applies(&window.environments)).peekable();
        let none = windows.peek().is_none();
        let window = none || windows.any(|(window, zone)| window.is_open(now, zone));
        CalendarFacts { frozen, window }
    }

    /// The freezes that hold, each with its end, for a refusal.
    pub(crate) fn freezes_at(&self, environment: &str, now: Timestamp) -> String {
        let holds = |(freeze, zone): &&(Freeze, TimeZone)| {
            let local = now.to_zoned(zone.clone()).datetime();
            let here = freeze.environments.is_empty() || freeze.environments.iter().any(|name| name == environment);
            here && freeze.from <= local && local < freeze.until
        };
        let told = |(freeze, _): &(Freeze, TimeZone)| {
            let zone = freeze.time_zone.as_deref().unwrap_or("UTC");
            format!(", in the freeze {:?} until {} {zone}", freeze.name, freeze.until)
        };
        self.freezes.iter().filter(holds).map(told).collect()
    }

    /// Whether the register was asked lately and holds none of these.
    pub fn legal_hold_clear(&self, resources: &[&str], now: Timestamp) -> bool {
        self.register.as_ref().is_some_and(|(register, held)| {
            let end = register.asked + SignedDuration::from_hours(i64::from(register.good_for_hours));
            register.asked <= now && now < end && !resources.iter().any(|uri| matches(held, uri))
        })
    }
}

impl Window {
    /// A window that ends before it begins goes on after midnight, and belongs to the day on which it began.
    fn is_open(&self, now: Timestamp, zone: &TimeZone) -> bool {
        let local = now.to_zoned(zone.clone());
        let (today, time) = (local.weekday(), local.time());
        let on = |day: Weekday| self.days.iter().any(|wanted| wanted.weekday() == day);
        if self.from <= self.until {
            return on(today) && self.from <= time && time < self.until;
        }
        (on(today) && self.from <= time) || (on(today.wrapping_sub(1)) && time < self.until)
    }
}

impl Day {
    fn weekday(self) -> Weekday {
        match self {
            Self::Mon => Weekday::Monday,
            Self::Tue => Weekday::Tuesday,
            Self::Wed => Weekday::Wednesday,
            Self::Thu => Weekday::Thursday,
            Self::Fri => Weekday::Friday,
            Self::Sat => Weekday::Saturday,
            Self::Sun => Weekday::Sunday,
        }
    }
}

/// A pattern that can match nothing protects nothing, and nobody would notice.
fn known_scheme(pattern: &str) -> Result<(), InventoryError> {
    let scheme = pattern.split(':').next().unwrap_or_default();
    if Resource::SCHEMES.contains(&scheme) || scheme.contains(['*', '?', '{', '[']) {
        return Ok(());
    }
    let known = Resource::SCHEMES.join(", ");
    Err(InventoryError(format!("{pattern:?} matches nothing: a pattern begins with one of {known}, and a colon")))
}

/// The ways in which one resource is named: a database is a file, and a file may be a database.
fn spellings(uri: &str) -> Vec<String> {
    let mut out = vec![uri.to_owned()];
    if let Ok(resource) = uri.parse::<Resource>() {
        let path = resource.path();
        match resource.scheme() {
            "file" => out.push(format!("sqlite:{path}")),
            "sqlite" => out.extend([format!("file:{path}"), format!("sqlite:{path}")]),
            "git" => out.extend([format!("file:{path}"), format!("git:{path}")]),
            _ => {}
        }
    }
    out.dedup();
    out
}

/// Whether a resource is meant by one of the patterns, under any of its names.
fn matches(set: &GlobSet, uri: &str) -> bool {
    spellings(uri).iter().any(|uri| set.is_match(uri))
}

/// `.ENV` is as much a secret as `.env`: patterns of secrets are blind to case.
fn glob(pattern: &str, any_case: bool) -> Result<globset::Glob, InventoryError> {
    if !pattern.contains(':') {
        return Err(InventoryError(format!("{pattern:?} is no pattern over URIs, as file:/srv/app/**")));
    }
    let odd = |part: &str| part.contains("**") && part != "**";
    if pattern.split('/').any(odd) {
        return Err(InventoryError(format!("{pattern:?}: ** stands for whole parts of a path, as in file:/srv/**/x")));
    }
    let built = GlobBuilder::new(pattern).literal_separator(true).case_insensitive(any_case).build();
    built.map_err(|error| InventoryError(error.to_string()))
}

fn set(patterns: &[String]) -> Result<GlobSet, InventoryError> {
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        builder.add(glob(pattern, false)?);
    }
    builder.build().map_err(|error| InventoryError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn of_several_entries_the_stricter_counts() {
        let inventory = Inventory::parse(
            "[[resource]]\nmatch = [\"file:/srv/**\"]\nowner = \"shop\"\nboundary = \"at\"\n\
             [[resource]]\nmatch = [\"file:/srv/keys/*\"]\nprotected = true\nboundary = \"inside\"\n",
        )
        .unwrap();
        let key = inventory.describe("file:/srv/keys/a", "production");
        assert!(key.known && key.protected && key.boundary(Verb::Update) == Boundary::At);
        assert!(!inventory.describe("file:/srv/x", "production").protected);
        assert!(!inventory.describe("file:/other", "production").known);
    }

    #[test]
    fn a_database_is_a_file_and_a_file_may_be_a_database() {
        let file = Inventory::parse("[[resource]]\nmatch = [\"file:/srv/prot/**\"]\nprotected = true\n").unwrap();
        assert!(file.describe("sqlite:/srv/prot/p.db#t", "e").protected);
        let database =
            Inventory::parse("[[resource]]\nmatch = [\"sqlite:/srv/shop.db*\"]\nprotected = true\n").unwrap();
        assert!(database.describe("file:/srv/shop.db", "e").protected);
        let text = "[[resource]]\nmatch = [\"file:/srv/backups/*\"]\ntype = \"backup\"\nbackup_of = [\"sqlite:/srv/shop.db*\"]\n";
        let backups = Inventory::parse(text).unwrap();
        assert!(backups.is_backup_of("file:/srv/backups/a", &["file:/srv/shop.db"]));
        assert!(!backups.is_backup_of("file:/srv/backups/a", &["file:/srv/other.db"]));
    }

    #[test]
    fn what_is_secret_everywhere_is_shipped() {
        let inventory = Inventory::parse("").unwrap();
        for uri in [
            "file:/srv/app/.env.production",
            "file:/home/u/.aws/credentials",
            "file:/home/u/.kube/config",
            "file:/srv/kubeconfig",
            "file:/home/u/.ssh/id_ed25519",
            "file:/etc/ssl/private/site.key",
        ] {
            assert_eq!(inventory.describe(uri, "staging").thing, Some(Thing::Secret), "{uri}");
        }
        assert_eq!(inventory.describe("file:/srv/app/environment.txt", "staging").thing, None);
    }

    #[test]
    fn a_freeze_holds_in_its_own_time_zone() {
        let inventory = Inventory::parse(
            "[[freeze]]\nname = \"year end\"\nfrom = \"2026-12-18T00:00\"\nuntil = \"2027-01-04T00:00\"\n\
             time_zone = \"Europe/Vienna\"\nenvironments = [\"production\"]\n",
        )
        .unwrap();
        let frozen = |environment, now| inventory.calendar(environment, at(now)).frozen;
        assert!(!frozen("production", "2026-12-17T22:59:59Z") && frozen("production", "2026-12-17T23:00:00Z"));
        assert!(frozen("production", "2027-01-03T22:59:59Z") && !frozen("production", "2027-01-03T23:00:00Z"));
        assert!(!frozen("staging", "2026-12-24T12:00:00Z"));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_began() {
        let inventory = Inventory::parse(
            "[[window]]\ndays = [\"fri\"]\nfrom = \"22:00\"\nuntil = \"02:00\"\nenvironments = [\"production\"]\n",
        )
        .unwrap();
        let open = |environment, now| inventory.calendar(environment, at(now)).window;
        assert!(open("production", "2026-11-20T22:00:00Z"), "friday night");
        assert!(open("production", "2026-11-21T01:59:00Z"), "and what follows");
        assert!(!open("production", "2026-11-21T22:30:00Z"), "saturday night");
        assert!(!open("production", "2026-11-20T01:00:00Z"), "the night before");
        assert!(open("staging", "2026-11-21T22:30:00Z"), "no window is declared there");
    }

    #[test]
    fn a_hold_a_stale_register_or_none_is_not_clear() {
        let text = "[legal_hold]\nasked = \"2026-11-20T10:00:00Z\"\ngood_for_hours = 24\nheld = [\"file:/srv/backups/case-*\"]\n";
        let inventory = Inventory::parse(text).unwrap();
        let clear = |uri: &str, now| inventory.legal_hold_clear(&[uri], at(now));
        assert!(clear("file:/srv/backups/old", "2026-11-21T09:59:00Z"));
        assert!(!clear("file:/srv/backups/old", "2026-11-21T10:00:00Z"), "stale");
        assert!(!clear("file:/srv/backups/old", "2026-11-20T09:00:00Z"), "from the future");
        assert!(!clear("file:/srv/backups/case-7", "2026-11-20T11:00:00Z"), "held");
        assert!(!Inventory::parse("").unwrap().legal_hold_clear(&[], at("2026-11-20T11:00:00Z")), "nobody asked");
    }

    #[test]
    fn an_inventory_with_a_mistake_does_not_load() {
        for bad in [
            "[[resource]]\nmatch = []",
            "[[resource]]\nmatch = [\"/srv\"]",
            "[[resource]]\nmatch = [\"file:/srv/[\"]",
            "[[resource]]\nmatch = [\"file:**/x\"]",
            "[[resource]]\nmatch = [\"file:/srv\"]\nprotect = true",
            "[[freeze]]\nname = \"x\"\nfrom = \"2027-01-01T00:00\"\nuntil = \"2026-01-01T00:00\"",
            "[[freeze]]\nname = \"x\"\nfrom = \"2026-01-01T00:00\"\nuntil = \"2027-01-01T00:00\"\ntime_zone = \"Mars/Base\"",
            "[[window]]\ndays = [\"someday\"]\nfrom = \"08:00\"\nuntil = \"09:00\"\nenvironments = []",
        ] {
            assert!(Inventory::parse(bad).is_err(), "{bad}");
        }
    }
}
