//! Rows as they were and as they are: captured by temporary triggers, reduced to one net change for each row.
//!
//! Must never lose a value's type: 1, 1.0 and '1' are three values.

use std::collections::BTreeMap;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

/// A table, as far as rows of it can be captured and put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    /// Columns that hold values, generated ones left out.
    pub(super) columns: Vec<String>,
    /// Columns that name a row: the hidden row id, or the primary key of a table without one.
    pub(super) key: Vec<String>,
}

/// A row's values: its key first, then its columns.
pub(super) type Values = Vec<Value>;

/// What happened to one row in the end.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RowChange {
    pub(super) table: String,
    pub(super) before: Option<Values>,
    pub(super) after: Option<Values>,
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The tables of a database that can be captured row by row.
pub(super) struct Known {
    pub(super) tables: Vec<Table>,
    /// Whether these are all.
    pub(super) all: bool,
}

/// All tables of the database.
pub(super) fn tables(db: &Connection) -> rusqlite::Result<Known> {
    let sql = "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
               AND type IN ('table', 'virtual') ORDER BY name";
    let mut statement = db.prepare(sql)?;
    let listed: Vec<(String, String, bool)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_, _>>()?;
    let mut out = Known { tables: Vec::new(), all: true };
    for (name, kind, without_rowid) in listed {
        let found = if kind == "virtual" { None } else { table(db, name, without_rowid)? };
        out.all &= found.is_some();
        out.tables.extend(found);
    }
    Ok(out)
}

fn table(db: &Connection, name: String, without_rowid: bool) -> rusqlite::Result<Option<Table>> {
    let mut statement = db.prepare("SELECT name, hidden, pk FROM pragma_table_xinfo(?1) ORDER BY cid")?;
    let listed: Vec<(String, i64, i64)> =
        statement.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_, _>>()?;
    let columns: Vec<String> =
        listed.iter().filter(|(_, hidden, _)| *hidden == 0).map(|(name, ..)| name.clone()).collect();
    let key = if without_rowid {
        let mut key: Vec<(i64, String)> =
            listed.iter().filter(|(_, _, pk)| *pk > 0).map(|(name, _, pk)| (*pk, name.clone())).collect();
        key.sort();
        key.into_iter().map(|(_, name)| name).collect()
    } else {
        let taken = |alias: &str| listed.iter().any(|(name, ..)| name.eq_ignore_ascii_case(alias));
        match ["rowid", "_rowid_", "oid"].into_iter().find(|alias| !taken(alias)) {
            Some(alias) => vec![alias.to_owned()],
            None => return Ok(None),
        }
    };
    Ok(Some(Table { name, columns, key }))
}

impl Table {
    fn width(&self) -> usize {
        self.key.len() + self.columns.len()
    }

    fn list(&self, prefix: &str) -> String {
        self.key
            .iter()
            .chain(&self.columns)
            .map(|name| format!("{prefix}{}", quoted(name)))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn key_is(&self) -> String {
        // Whatever collation the column has: a key that differs in its case names another row of the past.
        self.key.iter().map(|name| format!("{} IS ? COLLATE BINARY", quoted(name))).collect::<Vec<_>>().join(" AND ")
    }

    /// The row with this key as it is now.
    pub(super) fn row(&self, db: &Connection, key: &[Value]) -> rusqlite::Result<Option<Values>> {
        use rusqlite::OptionalExtension as _;
        let sql = format!("SELECT {} FROM main.{} WHERE {}", self.list(""), quoted(&self.name), self.key_is());
        let mut statement = db.prepare_cached(&sql)?;
        statement.query_row(params_from_iter(key), |row| values(row, 0, self.width())).optional()
    }

    pub(super) fn delete(&self, db: &Connection, key: &[Value]) -> rusqlite::Result<()> {
        let sql = format!("DELETE FROM main.{} WHERE {}", quoted(&self.name), self.key_is());
        db.prepare_cached(&sql)?.execute(params_from_iter(key)).map(|_| ())
    }

    /// Gives a row that is now `from` the values of `to`, which has the same key.
    pub(super) fn update(&self, db: &Connection, to: &[Value], from: &[Value]) -> rusqlite::Result<()> {
        let skip = self.key.len();
        let pairs = self.columns.iter().zip(to.iter().skip(skip).zip(from.iter().skip(skip)));
        let differing: Vec<(&String, &Value)> =
            pairs.filter(|(_, (to, from))| to != from).map(|(name, (to, _))| (name, to)).collect();
        if differing.is_empty() {
            return Ok(());
        }
        let columns: Vec<String> = differing.iter().map(|(name, _)| format!("{} = ?", quoted(name))).collect();
        let sql = format!("UPDATE main.{} SET {} WHERE {}", quoted(&self.name), columns.join(", "), self.key_is());
        let values = differing.iter().map(|(_, value)| *value).chain(self.key_of(to));
        db.prepare_cached(&sql)?.execute(params_from_iter(values)).map(|_| ())
    }

    pub(super) fn insert(&self, db: &Connection, row: &[Value]) -> rusqlite::Result<()> {
        // The columns of a key that are listed among the values are inserted once.
        let named: Vec<(String, &Value)> = self.key.iter().chain(&self.columns).cloned().zip(row).collect();
        let mut once: Vec<(String, &Value)> = Vec::new();
        for (name, value) in named {
            if !once.iter().any(|(known, _)| *known == name) {
                once.push((name, value));
            }
        }
        let names = once.iter().map(|(name, _)| quoted(name)).collect::<Vec<_>>().join(", ");
        let marks = vec!["?"; once.len()].join(", ");
        let sql = format!("INSERT INTO main.{} ({names}) VALUES ({marks})", quoted(&self.name));
        db.prepare_cached(&sql)?.execute(params_from_iter(once.iter().map(|(_, value)| *value))).map(|_| ())
    }

    pub(super) fn key_of<'a>(&self, row: &'a [Value]) -> &'a [Value] {
        row.get(..self.key.len()).unwrap_or(&[])
    }
}

fn values(row: &Row<'_>, from: usize, count: usize) -> rusqlite::Result<Values> {
    (from..from + count).map(|at| row.get::<_, Value>(at)).collect()
}

/// How the names of our own temporary tables and triggers begin.
pub(super) const LOG: &str = "backout_log_";

/// Puts triggers on all tables that log every change of a row.
pub(super) fn watch(db: &Connection, tables: &[Table]) -> rusqlite::Result<()> {
    for (number, table) in tables.iter().enumerate() {
        let log = format!("{LOG}{number}");
        let columns: Vec<String> = (0..table.width() * 2).map(|at| format!("c{at}")).collect();
        let nulls = vec!["NULL"; table.width()].join(", ");
        let (old, new) = (table.list("OLD."), table.list("NEW."));
        let name = quoted(&table.name);
        let mut sql = format!("CREATE TEMP TABLE {log} (op INTEGER, {});", columns.join(", "));
        for (op, event, row) in [
            (0, "INSERT", format!("{nulls}, {new}")),
            (1, "UPDATE", format!("{old}, {new}")),
            (2, "DELETE", format!("{old}, {nulls}")),
        ] {
            sql.push_str(&format!(
                "CREATE TEMP TRIGGER {log}_{event} AFTER {event} ON main.{name} BEGIN INSERT INTO {log} VALUES ({op}, {row}); END;"
            ));
        }
        db.execute_batch(&sql)?;
    }
    Ok(())
}

/// What the triggers logged, reduced to the net change of each row.
pub(super) fn logged(db: &Connection, tables: &[Table]) -> rusqlite::Result<Vec<RowChange>> {
    let mut out = Vec::new();
    for (number, table) in tables.iter().enumerate() {
        let mut rows: BTreeMap<Vec<u8>, (Option<Values>, Option<Values>)> = BTreeMap::new();
        let width = table.width();
        let mut statement = db.prepare(&format!("SELECT * FROM temp.backout_log_{number} ORDER BY rowid"))?;
        let mut log = statement.query([])?;
        while let Some(row) = log.next()? {
            let op: i64 = row.get(0)?;
            let old = if op == 0 { None } else { Some(values(row, 1, width)?) };
            let new = if op == 2 { None } else { Some(values(row, 1 + width, width)?) };
            if let Some(old) = old {
                let slot = rows.entry(encoded(table.key_of(&old))).or_insert_with(|| (Some(old.clone()), None));
                slot.1 = None;
            }
            if let Some(new) = new {
                let key = encoded(table.key_of(&new));
                rows.entry(key).or_insert((None, None)).1 = Some(new);
            }
        }
        let net = rows.into_values().filter(|(before, after)| before != after);
        out.extend(net.map(|(before, after)| RowChange { table: table.name.clone(), before, after }));
    }
    Ok(out)
}

/// Removes what [`watch`] made.
pub(super) fn unwatch(db: &Connection, tables: &[Table]) -> rusqlite::Result<()> {
    for number in 0..tables.len() {
        let drop = |event: &str| format!("DROP TRIGGER IF EXISTS temp.backout_log_{number}_{event};");
        let triggers: String = ["INSERT", "UPDATE", "DELETE"].iter().map(|event| drop(event)).collect();
        db.execute_batch(&format!("{triggers} DROP TABLE IF EXISTS temp.backout_log_{number};"))?;
    }
    Ok(())
}

/// Values as bytes: a tag, a length, the bytes. Equal bytes mean equal values of equal types.
pub(super) fn encoded(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        let (tag, bytes): (u8, Vec<u8>) = match value {
            Value::Null => (0, Vec::new()),
            Value::Integer(number) => (1, number.to_le_bytes().to_vec()),
            Value::Real(number) => (2, number.to_bits().to_le_bytes().to_vec()),
            Value::Text(text) => (3, text.clone().into_bytes()),
            Value::Blob(bytes) => (4, bytes.clone()),
        };
        out.push(tag);
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

/// Reads what [`encoded`] wrote.
pub(super) fn decoded(mut input: &[u8]) -> Option<Values> {
    let mut out = Vec::new();
    while let Some((tag, rest)) = input.split_first() {
        let (head, rest) = rest.split_at_checked(4)?;
        let len = u32::from_le_bytes(head.try_into().ok()?) as usize;
        let (bytes, rest) = rest.split_at_checked(len)?;
        out.push(match tag {
            0 => Value::Null,
            1 => Value::Integer(i64::from_le_bytes(bytes.try_into().ok()?)),
            2 => Value::Real(f64::from_bits(u64::from_le_bytes(bytes.try_into().ok()?))),
            3 => Value::Text(String::from_utf8(bytes.to_vec()).ok()?),
            4 => Value::Blob(bytes.to_vec()),
            _ => return None,
        });
        input = rest;
    }
    Some(out)
}

/// Changes as bytes, for the snapshot store.
pub(super) fn pack(changes: &[RowChange]) -> Vec<u8> {
    let mut out = Vec::new();
    for change in changes {
        let mut field = |bytes: &[u8]| {
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        };
        field(change.table.as_bytes());
        for row in [&change.before, &change.after] {
            // A row has at least its key, so that an empty field means that there is none.
            field(&row.as_ref().map(|row| encoded(row)).unwrap_or_default());
        }
    }
    out
}

/// Reads what [`pack`] wrote.
pub(super) fn unpack(mut input: &[u8]) -> Option<Vec<RowChange>> {
    let mut field = || {
        let (head, rest) = input.split_at_checked(4)?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(head.try_into().ok()?) as usize)?;
        input = rest;
        Some(bytes)
    };
    let mut out = Vec::new();
    while let Some(table) = field() {
        let table = String::from_utf8(table.to_vec()).ok()?;
        let (before, after) = (field()?, field()?);
        let row = |bytes: &[u8]| if bytes.is_empty() { Some(None) } else { decoded(bytes).map(Some) };
        out.push(RowChange { table, before: row(before)?, after: row(after)? });
    }
    input.is_empty().then_some(out)
}

/// BLAKE3 over the schema and all rows: equal for equal contents, whatever the file looks like.
pub(super) fn content_digest(db: &Connection) -> rusqlite::Result<String> {
    let mut hasher = blake3::Hasher::new();
    feed_rows(db, SCHEMA, &mut hasher)?;
    for pragma in ["PRAGMA main.user_version", "PRAGMA main.application_id"] {
        feed_rows(db, pragma, &mut hasher)?;
    }
    let names = "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow') \
                 AND name NOT IN ('sqlite_schema') AND name NOT LIKE 'sqlite\\_stat%' ESCAPE '\\' ORDER BY name";
    let mut statement = db.prepare(names)?;
    let names: Vec<(String, bool)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (name, without_rowid) in names {
        feed(&mut hasher, 3, name.as_bytes());
        let (list, order) = match table(db, name.clone(), without_rowid)? {
            Some(table) => (table.list(""), table.key.iter().map(|k| quoted(k)).collect::<Vec<_>>().join(", ")),
            None => ("*".to_owned(), "1".to_owned()),
        };
        feed_rows(db, &format!("SELECT {list} FROM main.{} ORDER BY {order}", quoted(&name)), &mut hasher)?;
    }
    Ok(format!("blake3:{}", hasher.finalize().to_hex()))
}

const SCHEMA: &str = "SELECT type, name, tbl_name, ifnull(sql, '') FROM main.sqlite_schema ORDER BY type, name";

/// BLAKE3 over the schema alone.
pub(super) fn schema_digest(db: &Connection) -> rusqlite::Result<String> {
    let mut hasher = blake3::Hasher::new();
    feed_rows(db, SCHEMA, &mut hasher)?;
    Ok(format!("blake3:{}", hasher.finalize().to_hex()))
}

/// Feeds every value with its type and length, and every row with its end.
fn feed_rows(db: &Connection, sql: &str, hasher: &mut blake3::Hasher) -> rusqlite::Result<()> {
    use rusqlite::types::ValueRef;
    let mut statement = db.prepare(sql)?;
    let width = statement.column_count();
    let mut rows = statement.query([])?;
    // One buffer for many rows: feeding a hash a few bytes at a time is slow.
    let mut buffer = Vec::with_capacity(96 * 1024);
    let put = |tag: u8, bytes: &[u8], buffer: &mut Vec<u8>| {
        buffer.push(tag);
        buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        buffer.extend_from_slice(bytes);
    };
    while let Some(row) = rows.next()? {
        for at in 0..width {
            match row.get_ref(at)? {
                ValueRef::Null => put(0, &[], &mut buffer),
                ValueRef::Integer(number) => put(1, &number.to_le_bytes(), &mut buffer),
                ValueRef::Real(number) => put(2, &number.to_bits().to_le_bytes(), &mut buffer),
                ValueRef::Text(text) => put(3, text, &mut buffer),
                ValueRef::Blob(bytes) => put(4, bytes, &mut buffer),
            }
        }
        put(5, &[], &mut buffer);
        if buffer.len() > 64 * 1024 {
            hasher.update(&buffer);
            buffer.clear();
        }
    }
    hasher.update(&buffer);
    Ok(())
}

fn feed(hasher: &mut blake3::Hasher, tag: u8, bytes: &[u8]) {
    hasher.update(&[tag]).update(&(bytes.len() as u32).to_le_bytes()).update(bytes);
}

/// The counters of AUTOINCREMENT, which no trigger sees.
pub(super) fn sequences(db: &Connection) -> rusqlite::Result<BTreeMap<String, i64>> {
    let there: bool =
        db.query_row("SELECT count(*) FROM main.sqlite_schema WHERE name = 'sqlite_sequence'", [], |row| row.get(0))?;
    if !there {
        return Ok(BTreeMap::new());
    }
    let mut statement = db.prepare("SELECT name, seq FROM main.sqlite_sequence")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Puts the counters back to `wanted`.
pub(super) fn set_sequences(db: &Connection, wanted: &BTreeMap<String, i64>) -> rusqlite::Result<()> {
    let now = sequences(db)?;
    for name in now.keys().filter(|name| !wanted.contains_key(*name)) {
        db.execute("DELETE FROM main.sqlite_sequence WHERE name = ?1", [name])?;
    }
    for (name, seq) in wanted.iter().filter(|(name, seq)| now.get(*name) != Some(seq)) {
        let changed =
            db.execute("UPDATE main.sqlite_sequence SET seq = ?2 WHERE name = ?1", rusqlite::params![name, seq])?;
        if changed == 0 {
            db.execute("INSERT INTO main.sqlite_sequence (name, seq) VALUES (?1, ?2)", rusqlite::params![name, seq])?;
        }
    }
    Ok(())
}
