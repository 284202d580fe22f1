//! The laws, for rows and for schema; nondeterministic statements, foreign rows, forbidden statements.

use rusqlite::Connection;
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
