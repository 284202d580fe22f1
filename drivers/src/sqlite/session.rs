//! A connection for one step: statements run inside one transaction under an authorizer, with every change of a row logged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use kernel::{Cancel, DriverError};
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OpenFlags};
use schemas::{ExpectRows, Expectation, RowCount};

use super::rows::{
    LOG, RowChange, Table, content_digest, logged, schema_digest, sequences, set_sequences, tables, unwatch, watch,
};

/// What the statements did, before anybody decides whether it stays.
#[derive(Debug)]
pub(super) struct Effects {
    /// Net changes by row.
    pub(super) changes: Vec<RowChange>,
    /// Whether undoing them row by row was tried and gave the very content that was there.
    pub(super) row_by_row: bool,
    /// Whether the schema changed.
    pub(super) schema_changed: bool,
    pub(super) sequences_before: BTreeMap<String, i64>,
    pub(super) sequences_after: BTreeMap<String, i64>,
    /// Digests of the whole content.
    pub(super) digest_before: String,
    pub(super) digest_after: String,
    /// Rows changed, by table: those of the log, and those that went with a dropped table or were replaced, which no trigger sees.
    pub(super) counts: BTreeMap<String, RowCount>,
    /// Rows in each table before, for shares.
    pub(super) rows_before: BTreeMap<String, u64>,
    /// Tables that were there before or are there now and whose rows can be counted.
    pub(super) countable: BTreeSet<String>,
    /// Triggers of the database on tables that changed.
    pub(super) triggers: Vec<String>,
}

/// Opens a database that exists and is not a symlink.
pub(super) fn open(path: &Path, foreign_keys: bool) -> Result<Connection, DriverError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = Connection::open_with_flags(path, flags).map_err(failed("open", path))?;
    db.busy_timeout(Duration::from_secs(5)).map_err(failed("open", path))?;
    db.pragma_update(None, "foreign_keys", foreign_keys).map_err(failed("open", path))?;
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed("read", path))?;
    Ok(db)
}

pub(super) fn failed(doing: &str, path: &Path) -> impl Fn(rusqlite::Error) -> DriverError {
    let doing = format!("cannot {doing} {}", path.display());
    move |error| DriverError::Tool(format!("{doing}: {error}"))
}

/// Statements may change data and schema, and nothing about the connection or the file.
fn authorize(context: AuthContext<'_>) -> Authorization {
    // The log of changes is written by our own triggers and by nobody else.
    let by_the_log = context.accessor.is_some_and(|name| name.starts_with(LOG));
    if context.database_name == Some("temp") && !by_the_log && !drops_a_trigger(&context.action) {
        return Authorization::Deny;
    }
    match context.action {
        AuthAction::CreateTrigger { trigger_name: name, .. }
        | AuthAction::CreateTable { table_name: name }
        | AuthAction::CreateView { view_name: name }
            if name.starts_with("backout") =>
        {
            Authorization::Deny
        }
        AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::Pragma { .. } => Authorization::Deny,
        AuthAction::Function { function_name } if function_name.eq_ignore_ascii_case("load_extension") => {
            Authorization::Deny
        }
        AuthAction::Unknown { .. } => Authorization::Deny,
        _ => Authorization::Allow,
    }
}

/// SQLite drops the triggers of a table with it. Whether one of ours went alone is looked at afterwards.
fn drops_a_trigger(action: &AuthAction<'_>) -> bool {
    match action {
        AuthAction::DropTempTrigger { .. } => true,
        AuthAction::Delete { table_name }
        | AuthAction::Read { table_name, .. }
        | AuthAction::Update { table_name, .. } => {
            table_name.eq_ignore_ascii_case("sqlite_temp_master")
                || table_name.eq_ignore_ascii_case("sqlite_temp_schema")
        }
        _ => false,
    }
}

/// Ends what runs on a connection after so many milliseconds, or when somebody stops it.
pub(super) fn limit(db: &mut Connection, milliseconds: u64, cancel: Option<Cancel>) {
    let started = std::time::Instant::now();
    let over = move || {
        started.elapsed() > Duration::from_millis(milliseconds) || cancel.as_ref().is_some_and(Cancel::is_cancelled)
    };
    // Without the handler statements only lack their limit.
    let _ = db.progress_handler(10_000, Some(over));
}

fn unguarded(db: &mut Connection) -> rusqlite::Result<()> {
    db.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)
}

/// Runs the statements inside the open transaction and says what they did. With `prove`, undoes them row by row, compares, and
/// leaves the transaction as it found it.
pub(super) fn run(
    db: &mut Connection,
    statements: &[String],
    path: &Path,
    prove: bool,
) -> Result<Effects, DriverError> {
    let sql = failed("run the statements on", path);
    let known = tables(db).map_err(&sql)?;
    let (digest_before, schema_before) = (content_digest(db).map_err(&sql)?, schema_digest(db).map_err(&sql)?);
    let sequences_before = sequences(db).map_err(&sql)?;
    let watched = known.tables.as_slice();
    let rows_before = row_counts(db, watched).map_err(&sql)?;
    watch(db, watched).map_err(&sql)?;
    db.authorizer(Some(authorize)).map_err(&sql)?;
    let ran = statements.iter().enumerate().try_for_each(|(number, text)| {
        db.execute_batch(text).map_err(|error| DriverError::Refused(format!("statement {}: {error}", number + 1)))
    });
    unguarded(db).map_err(&sql)?;
    ran?;
    let fates = fates(db, watched).map_err(&sql)?;
    let changes = logged(db, watched).map_err(&sql)?;
    unwatch(db, watched).map_err(&sql)?;
    let now = tables(db).map_err(&sql)?.tables;
    let rows_after = row_counts(db, &now).map_err(&sql)?;
    let counts = whole_counts(&changes, &rows_before, &rows_after, &fates);
    let all = rows_before.keys().chain(rows_after.keys());
    let countable = all.filter(|name| !fates.rebuilt.contains(*name)).cloned().collect();
    let schema_changed = !fates.rebuilt.is_empty() || schema_digest(db).map_err(&sql)? != schema_before;
    let digest_after = content_digest(db).map_err(&sql)?;
    let sequences_after = sequences(db).map_err(&sql)?;
    let triggers = triggers_on(db, &changes).map_err(&sql)?;
    let mut effects = Effects {
        changes,
        row_by_row: false,
        schema_changed,
        sequences_before,
        sequences_after,
        digest_before,
        digest_after,
        counts,
        rows_before,
        countable,
        triggers,
    };
    if prove && !schema_changed && known.all {
        let undone = take_back(db, watched, &effects.changes, &effects.sequences_before);
        effects.row_by_row = undone.is_ok() && content_digest(db).map_err(&sql)? == effects.digest_before;
    }
    Ok(effects)
}

/// Puts rows back inside the open transaction, whose connection has triggers and foreign keys switched off.
pub(super) fn take_back(
    db: &Connection,
    tables: &[Table],
    changes: &[RowChange],
    sequences: &BTreeMap<String, i64>,
) -> rusqlite::Result<()> {
    let triggers = db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false);
    db.pragma_update(None, "defer_foreign_keys", true)?;
    let outcome = triggers.and_then(|_| put_rows(db, tables, changes)).and_then(|()| set_sequences(db, sequences));
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    outcome
}

fn put_rows(db: &Connection, tables: &[Table], changes: &[RowChange]) -> rusqlite::Result<()> {
    let of = |change: &RowChange| tables.iter().find(|table| table.name == change.table);
    // A row that is in both is updated in place, and only where it differs: for a key that is removed or set, even to what it
    // was, SQLite searches every table that refers to it.
    for change in changes {
        match (of(change), &change.before, &change.after) {
            (Some(table), Some(before), Some(after)) => table.update(db, before, after)?,
            (Some(table), None, Some(after)) => table.delete(db, table.key_of(after))?,
            _ => {}
        }
    }
    for change in changes {
        if let (Some(table), Some(before), None) = (of(change), &change.before, &change.after) {
            table.insert(db, before)?;
        }
    }
    Ok(())
}

fn row_counts(db: &Connection, tables: &[Table]) -> rusqlite::Result<BTreeMap<String, u64>> {
    let count = |table: &Table| {
        let sql = format!("SELECT count(*) FROM main.{}", super::rows::quoted(&table.name));
        db.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(|count| (table.name.clone(), count as u64))
    };
    tables.iter().map(count).collect()
}

fn triggers_on(db: &Connection, changes: &[RowChange]) -> rusqlite::Result<Vec<String>> {
    let mut statement =
        db.prepare("SELECT name, tbl_name FROM main.sqlite_schema WHERE type = 'trigger' ORDER BY name")?;
    let all: Vec<(String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let touched = |table: &String| changes.iter().any(|change| change.table == *table);
    Ok(all.into_iter().filter(|(_, table)| touched(table)).map(|(name, _)| name).collect())
}

/// Rows changed, by table.
pub(super) fn counts(changes: &[RowChange]) -> BTreeMap<String, RowCount> {
    let mut out: BTreeMap<String, RowCount> = BTreeMap::new();
    for change in changes {
        let count = out.entry(change.table.clone()).or_default();
        match (&change.before, &change.after) {
            (None, _) => count.inserted += 1,
            (Some(_), None) => count.deleted += 1,
            (Some(_), Some(_)) => count.updated += 1,
        }
    }
    out
}

/// Adds what no trigger sees: rows that went with their table, and rows that `REPLACE` took away.
fn whole_counts(
    changes: &[RowChange],
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    fates: &Fates,
) -> BTreeMap<String, RowCount> {
    let mut out = counts(changes);
    for (table, was) in before {
        let rebuilt = fates.rebuilt.contains(table);
        let count = out.get(table).copied().filter(|_| !rebuilt).unwrap_or_default();
        let is = fates.names.get(table).and_then(|name| after.get(name)).copied().unwrap_or(0);
        let expected = (was + count.inserted).saturating_sub(count.deleted);
        let unseen = expected.saturating_sub(is);
        if unseen > 0 {
            out.entry(table.clone()).or_default().deleted += unseen;
        }
    }
    out
}

/// What became of the watched tables.
struct Fates {
    /// The name that each has now, where it is still there.
    names: BTreeMap<String, String>,
    /// Tables that were dropped and made anew: nothing logged what happened to their rows.
    rebuilt: BTreeSet<String>,
}

fn fates(db: &Connection, watched: &[Table]) -> rusqlite::Result<Fates> {
    let mut out = Fates { names: BTreeMap::new(), rebuilt: BTreeSet::new() };
    let there: BTreeSet<String> = tables(db)?.tables.into_iter().map(|table| table.name).collect();
    for (number, table) in watched.iter().enumerate() {
        // A trigger goes with its table, and follows it to a new name.
        let sql = "SELECT tbl_name FROM temp.sqlite_schema WHERE type = 'trigger' AND substr(name, 1, length(?1)) = ?1";
        let mut statement = db.prepare_cached(sql)?;
        let triggers: Vec<String> =
            statement.query_map([format!("{LOG}{number}_")], |row| row.get(0))?.collect::<Result<_, _>>()?;
        match triggers.as_slice() {
            [now, _, _] => drop(out.names.insert(table.name.clone(), now.clone())),
            _ if there.contains(&table.name) => {
                out.names.insert(table.name.clone(), table.name.clone());
                out.rebuilt.insert(table.name.clone());
            }
            _ => {}
        }
    }
    Ok(out)
}

/// Rows that refer to nothing: table, row and the table referred to.
pub(super) fn violations(db: &Connection) -> rusqlite::Result<BTreeSet<(String, i64, String)>> {
    let mut statement = db.prepare("PRAGMA main.foreign_key_check")?;
    let found =
        statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?.unwrap_or(0), row.get(2)?)))?;
    found.collect()
}

/// A table that is declared and that nobody can count.
pub(super) fn unknown_table(expect: Option<&Expectation>, effects: &Effects) -> Option<String> {
    let name = expect?.rows.keys().find(|name| !effects.countable.contains(*name))?;
    let known: Vec<&str> = effects.countable.iter().map(String::as_str).collect();
    Some(format!("expect names the table {name:?}, whose rows cannot be counted; there are {}", known.join(", ")))
}

/// Which declared bounds on rows are broken; a table that is not declared is not bounded here.
pub(super) fn broken_bounds(expect: Option<&Expectation>, effects: &Effects) -> Option<String> {
    if let Some(unknown) = unknown_table(expect, effects) {
        return Some(unknown);
    }
    let (expect, counts) = (expect?, &effects.counts);
    for (table, bounds) in &expect.rows {
        let found = counts.get(table).copied().unwrap_or_default();
        let ExpectRows { inserted, updated, deleted } = bounds;
        for (what, bound, number) in [
            ("inserted", inserted, found.inserted),
            ("updated", updated, found.updated),
            ("deleted", deleted, found.deleted),
        ] {
            if let Some(bound) = bound.filter(|bound| !bound.holds(number)) {
                return Some(format!("{number} rows of {table} would be {what} and {bound} were declared"));
            }
        }
    }
    None
}
