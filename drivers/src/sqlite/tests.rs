//! The laws, for rows and for schema; nondeterministic statements, foreign rows, forbidden statements.

use rusqlite::Connection;
use schemas::Share;
use serde_json::json;

use super::rows::content_digest;
use crate::laws::{World, does_not_clobber, keeps_the_laws};

fn world() -> World {
    let world = World::new();
    let db = Connection::open(world.at("app.db")).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v, w TEXT UNIQUE);
         CREATE TABLE child (t INTEGER REFERENCES t(id) ON DELETE CASCADE, n REAL);
         CREATE TABLE pairs (a TEXT, b INTEGER, c BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID;
         CREATE TABLE plain (x);
         CREATE TABLE log (what);
         CREATE TRIGGER logged AFTER UPDATE ON t BEGIN INSERT INTO log VALUES ('t' || OLD.id); END;
         INSERT INTO t (v, w) VALUES (1, 'a'), (2.5, 'b'), ('3', 'c'), (NULL, 'd'), (x'00ff', 'e');
         INSERT INTO child VALUES (1, 1.5), (2, 2), (1, 3);
         INSERT INTO pairs VALUES ('x', 1, x'01'), ('x', 2, NULL);
         INSERT INTO plain VALUES ('p'), ('q');",
    )
    .unwrap();
    world
}

fn content(world: &World) -> String {
    content_digest(&Connection::open(world.at("app.db")).unwrap()).unwrap()
}

fn statements(world: &World, list: &[&str]) -> kernel::StepSpec {
    world.step("sqlite.execute", json!({"database": "app.db", "statements": list}))
}

#[test]
fn every_kind_of_change_keeps_the_laws() {
    for list in [
        &["UPDATE t SET v = 7 WHERE id <= 3"][..],
        &["DELETE FROM t WHERE id = 1"],
        &["INSERT INTO t (v, w) VALUES (9, 'z')"],
        &["INSERT OR REPLACE INTO t (id, v, w) VALUES (2, 'r', 'b')"],
        &["UPDATE pairs SET b = b + 10", "DELETE FROM plain WHERE x = 'p'"],
        &["UPDATE t SET id = 50 WHERE id = 5"],
        &["INSERT INTO plain VALUES (random())"],
        &["ALTER TABLE t ADD COLUMN extra DEFAULT 5"],
        &["CREATE TABLE fresh (x); INSERT INTO fresh VALUES (1)"],
        &["DROP TABLE child"],
        &["CREATE INDEX by_v ON t(v)", "UPDATE t SET v = 1"],
    ] {
        let world = world();
        let step = statements(&world, list);
        keeps_the_laws(&world, &step, &content);
    }
}

#[test]
fn an_undo_never_overwrites_rows_that_somebody_changed() {
    for list in [&["UPDATE t SET v = 7 WHERE id <= 3"][..], &["ALTER TABLE t ADD COLUMN extra DEFAULT 5"]] {
        let world = world();
        let step = statements(&world, list);
        let change = |world: &World| {
            Connection::open(world.at("app.db"))
                .unwrap()
                .execute("UPDATE t SET v = 'mine' WHERE id = 2", [])
                .map(drop)
                .unwrap();
        };
        does_not_clobber(&world, &step, &change, &content);
    }
}

#[test]
fn rows_of_others_stay_when_ours_go_back() {
    let world = world();
    let step = statements(&world, &["UPDATE t SET v = 7 WHERE id <= 3"]);
    let (driver, scope) = (world.driver(&step), world.scope());
    let before = driver.prepare(&step, scope).unwrap();
    driver.apply(&step, &before, world.token(&step, false), scope).unwrap();
    let db = Connection::open(world.at("app.db")).unwrap();
    db.execute("INSERT INTO plain VALUES ('theirs')", []).unwrap();
    driver.undo(&step, &before, None, world.token(&step, true), scope).unwrap();
    let theirs: i64 = db.query_row("SELECT count(*) FROM plain WHERE x = 'theirs'", [], |row| row.get(0)).unwrap();
    let back: i64 = db.query_row("SELECT count(*) FROM t WHERE v = 7", [], |row| row.get(0)).unwrap();
    assert_eq!((theirs, back), (1, 0));
}

#[test]
fn statements_about_the_connection_are_refused() {
    for text in
        ["COMMIT", "ATTACH 'x' AS y", "PRAGMA journal_mode = DELETE", "VACUUM", "SELECT load_extension('x')", "BEGIN"]
    {
        let world = world();
        let before = content(&world);
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| statements(&world, &[text])));
        assert!(tried.is_err(), "{text}");
        assert_eq!(content(&world), before, "{text}");
    }
}

#[test]
fn rows_beyond_their_bounds_are_never_committed() {
    let world = world();
    let before = content(&world);
    let step = json!({"id": "s", "uses": "sqlite.execute", "expect": {"rows": {"t": {"updated": {"max": 2}}}},
        "with": {"database": "app.db", "statements": ["UPDATE t SET v = 7"]}});
    let step = world.step_of(step);
    let (driver, scope) = (world.driver(&step), world.scope());
    let image = driver.prepare(&step, scope).unwrap();
    assert!(driver.apply(&step, &image, world.token(&step, false), scope).is_err());
    assert_eq!(content(&world), before);
}

#[test]
fn statements_that_change_nothing_can_be_undone() {
    for list in [
        &["UPDATE t SET v = 7 WHERE id > 1000"][..],
        &["UPDATE child SET n = n"],
        &["CREATE TABLE IF NOT EXISTS t (x)"],
    ] {
        let world = world();
        let step = statements(&world, list);
        crate::laws::keeps_the_laws_of_nothing(&world, &step, &content);
    }
}

fn probe(world: &World, list: &[&str], expect: serde_json::Value) -> Result<schemas::StepAssessment, String> {
    let step = json!({"id": "s", "uses": "sqlite.execute", "expect": expect, "with": {"database": "app.db", "statements": list}});
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.step_of(step)));
    let step = made.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())?;
    world.driver(&step).probe(&step, &[]).map_err(|error| error.to_string())
}

fn deleted(assessed: &schemas::StepAssessment, table: &str) -> u64 {
    let suffix = format!("#{table}");
    let found = assessed.changes.iter().find(|change| change.resource.ends_with(&suffix));
    found.and_then(|change| change.rows).map_or(0, |rows| rows.deleted)
}

#[test]
fn statements_cannot_reach_what_counts_their_effects() {
    for attack in [
        "DELETE FROM temp.backout_log_0",
        "DELETE FROM backout_log_0",
        "DROP TABLE temp.backout_log_0",
        "CREATE TEMP TABLE hidden (x)",
        "CREATE TEMP TRIGGER quiet BEFORE DELETE ON t BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TABLE backout_log_9 (x)",
        "CREATE TRIGGER backout_log_0_x AFTER DELETE ON t BEGIN DELETE FROM log; END",
    ] {
        let world = world();
        let before = content(&world);
        assert!(probe(&world, &["DELETE FROM t", attack], json!(null)).is_err(), "{attack}");
        assert_eq!(content(&world), before, "{attack}");
    }
    let world = world();
    let hidden = probe(&world, &["DROP TRIGGER temp.backout_log_0_DELETE", "DELETE FROM child"], json!(null));
    assert!(hidden.is_err() || deleted(&hidden.unwrap(), "child") == 3);
}

#[test]
fn rows_that_no_trigger_sees_are_counted() {
    let world = world();
    let counted = |list: &[&str]| probe(&world, list, json!(null)).unwrap();
    assert_eq!(deleted(&counted(&["DROP TABLE child"]), "child"), 3);
    assert_eq!(counted(&["DROP TABLE child"]).share.map(Share::percent), Some(100));
    assert_eq!(deleted(&counted(&["INSERT OR REPLACE INTO t (id, v, w) VALUES (1, 9, 'b')"]), "t"), 2);
    assert_eq!(deleted(&counted(&["ALTER TABLE child RENAME TO kids"]), "child"), 0);
    let rebuilt = [
        "CREATE TABLE n (x)",
        "INSERT INTO n SELECT x FROM plain LIMIT 1",
        "DROP TABLE plain",
        "ALTER TABLE n RENAME TO plain",
    ];
    assert_eq!(deleted(&counted(&rebuilt), "plain"), 1);
    let same = ["DROP TABLE plain", "CREATE TABLE plain (x)"];
    assert!(counted(&same).changes.iter().any(|change| change.resource.ends_with("#sqlite_schema")));
}

#[test]
fn a_virtual_table_hides_no_other_table() {
    let world = world();
    Connection::open(world.at("app.db")).unwrap().execute_batch("CREATE VIRTUAL TABLE text USING fts5(body)").unwrap();
    assert_eq!(deleted(&probe(&world, &["DELETE FROM plain"], json!(null)).unwrap(), "plain"), 2);
}

#[test]
fn an_expectation_about_a_table_that_nobody_can_count_is_refused() {
    let world = world();
    for name in ["T", "nope"] {
        let expect = json!({"rows": {name: {"deleted": 0}}});
        assert!(probe(&world, &["DELETE FROM child"], expect).is_err(), "{name}");
    }
}

#[test]
fn the_inventory_of_a_migration_has_its_rows() {
    let world = world();
    let step = statements(&world, &["CREATE INDEX by_v ON t(v)", "DELETE FROM plain"]);
    let (driver, scope) = (world.driver(&step), world.scope());
    let before = driver.prepare(&step, scope).unwrap();
    driver.apply(&step, &before, world.token(&step, false), scope).unwrap();
    let kernel::Sighting::Present { changes, .. } = driver.observe(&step, &before, None, scope) else {
        panic!("absent")
    };
    assert!(changes.iter().any(|c| c.resource.ends_with("#plain") && c.rows.is_some_and(|rows| rows.deleted == 2)));
}

#[test]
fn a_statement_without_end_is_ended_and_leaves_the_database_free() {
    let world = world();
    let endless =
        "INSERT INTO plain WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let step = json!({"id": "s", "uses": "sqlite.execute", "timeout_ms": 200, "with": {"database": "app.db", "statements": [endless]}});
    let started = std::time::Instant::now();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.step_of(step))).is_err());
    assert!(started.elapsed().as_secs() < 20);
    Connection::open(world.at("app.db")).unwrap().execute("DELETE FROM plain", []).unwrap();
}

#[test]
fn an_undo_never_leaves_rows_that_refer_to_nothing() {
    let world = world();
    let step = statements(&world, &["INSERT INTO t (id, v, w) VALUES (70, 1, 'p')"]);
    let child = |world: &World| {
        let db = Connection::open(world.at("app.db")).unwrap();
        db.execute("INSERT INTO child VALUES (70, 1)", []).unwrap();
    };
    does_not_clobber(&world, &step, &child, &content);
}

#[test]
fn a_commit_during_the_undo_from_a_backup_is_never_lost() {
    for mode in ["WAL", "DELETE"] {
        let world = world();
        let writer = Connection::open(world.at("app.db")).unwrap();
        writer.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(())).unwrap();
        writer.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        writer
            .execute_batch(
                "CREATE TABLE bulk (x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
            INSERT INTO bulk SELECT hex(randomblob(500)) FROM n; CREATE TABLE seen (n)",
            )
            .unwrap();
        let step = statements(&world, &["ALTER TABLE plain ADD COLUMN extra"]);
        let (driver, scope) = (world.driver(&step), world.scope());
        let before = driver.prepare(&step, scope).unwrap();
        driver.apply(&step, &before, world.token(&step, false), scope).unwrap();
        // Somebody writes while the backup is unpacked.
        let store = world.store();
        let (outcome, written) = std::thread::scope(|threads| {
            let write = threads.spawn(move || {
                let started = std::time::Instant::now();
                let unpacking = || {
                    let mut names = std::fs::read_dir(&store).unwrap().flatten();
                    names.any(|entry| entry.file_name().to_string_lossy().starts_with(".backout-tmp-"))
                };
                while !unpacking() && started.elapsed().as_secs() < 20 {}
                i64::from(writer.execute("INSERT INTO seen VALUES (1)", []).is_ok())
            });
            let outcome = driver.undo(&step, &before, None, world.token(&step, true), scope);
            (outcome, write.join().unwrap())
        });
        assert!(matches!(outcome, Ok(()) | Err(kernel::UndoError::Clobber(_))), "{mode}: {outcome:?}");
        let db = Connection::open(world.at("app.db")).unwrap();
        let there: i64 = db.query_row("SELECT count(*) FROM seen", [], |row| row.get(0)).unwrap();
        assert_eq!(there, written, "{mode}");
    }
}

#[test]
fn a_key_that_changes_its_case_comes_back() {
    let world = world();
    let db = Connection::open(world.at("app.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE names (n TEXT PRIMARY KEY COLLATE NOCASE, v) WITHOUT ROWID; INSERT INTO names VALUES ('Ada', 1)",
    )
    .unwrap();
    drop(db);
    let step = statements(&world, &["UPDATE names SET n = 'ADA'"]);
    keeps_the_laws(&world, &step, &content);
}
