//! A small world with all four kinds of step in it, and a plan that changes it, for tests that break things.

use std::path::Path;

use serde_json::{Value, json};
use snapshots::{Root, scan};

use crate::program::Bench;

/// Steps of all four kinds, some of them ordered.
pub fn plan(session: &str, round: usize) -> Value {
    json!({
        "session": session, "agent": "tester", "environment": "test", "intent": "be killed",
        "steps": [
            {"id": "write", "uses": "file.write", "with": {"path": "conf/a.txt", "content": format!("round {round}\n")}},
            {"id": "append", "uses": "file.append", "with": {"path": "conf/log.txt", "content": format!("line {round}\n")}},
            {"id": "move", "uses": "file.move", "needs": ["write"], "with": {"from": "conf/from.txt", "to": "conf/to.txt"}},
            {"id": "rows", "uses": "sqlite.execute", "with": {"database": "app.db", "statements": [
                "UPDATE t SET v = v + 1 WHERE id % 2 = 0", format!("INSERT INTO t (id, v) VALUES (NULL, {round})")]}},
            {"id": "schema", "uses": "sqlite.execute", "needs": ["rows"], "with": {"database": "app.db", "statements": [
                "CREATE TABLE extra (x)", "INSERT INTO extra VALUES (1)"]}},
            {"id": "version", "uses": "file.write", "with": {"path": "repo/VERSION", "content": format!("{round}\n")}},
            {"id": "commit", "uses": "git.commit", "needs": ["version"], "with": {"repo": "repo", "paths": ["VERSION"], "message": "next"}},
            {"id": "tag", "uses": "git.tag_create", "needs": ["commit"], "with": {"repo": "repo", "name": "next", "at": "main"}},
            {"id": "edit", "uses": "command.run", "needs": ["append"],
             "with": {"argv": ["sed", "-i", "s/x=1/x=2/", "conf/x.conf"], "writes": ["conf/x.conf"]}},
            {"id": "look", "uses": "command.run", "needs": ["edit", "move"], "with": {"argv": ["true"]}}
        ]
    })
}

/// What the plan needs: files, a database with 200 rows, a repository.
pub fn make_world(bench: &Bench) {
    let at = |path: &str| bench.path("world").join(path);
    std::fs::create_dir(at("conf")).unwrap();
    for (name, text) in [("conf/log.txt", "first\n"), ("conf/from.txt", "moved\n"), ("conf/x.conf", "x=1\n")] {
        std::fs::write(at(name), text).unwrap();
    }
    let db = rusqlite::Connection::open(at("app.db")).unwrap();
    db.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v INTEGER);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO t SELECT i, i FROM n;",
    )
    .unwrap();
    let mut options = git2::RepositoryInitOptions::new();
    let repo = git2::Repository::init_opts(at("repo"), options.initial_head("main")).unwrap();
    std::fs::write(at("repo/VERSION"), "0\n").unwrap();
    let mut index = repo.index().unwrap();
    index.add_path(Path::new("VERSION")).unwrap();
    index.write().unwrap();
    let tree = repo.find_tree(index.write_tree().unwrap()).unwrap();
    let who = git2::Signature::now("t", "t@localhost").unwrap();
    repo.commit(Some("HEAD"), &who, &who, "first", &tree, &[]).unwrap();
}

/// Everything that the plan touches, as one text: files with all attributes, refs, rows.
pub fn digest(bench: &Bench) -> String {
    told(bench, true)
}

/// Likewise, without the times of folders, which are not exact where a step was stuck while others were undone.
pub fn digest_of_contents(bench: &Bench) -> String {
    told(bench, false)
}

fn told(bench: &Bench, folder_times: bool) -> String {
    let world = bench.path("world");
    let tree = scan(&Root::open(&world).unwrap(), &["conf".into(), "repo/VERSION".into()], None).unwrap();
    // Name by name, so that a difference can be read.
    let files: Vec<String> = tree
        .entries
        .iter()
        .map(|entry| {
            let timed = folder_times || entry.node != snapshots::Node::Folder;
            let print = if timed { entry.fingerprint() } else { entry.content_fingerprint() };
            format!("{} {print}", entry.path.display())
        })
        .collect();
    let repo = git2::Repository::open(world.join("repo")).unwrap();
    let mut refs: Vec<String> = repo
        .references()
        .unwrap()
        .flatten()
        .map(|r| format!("{}={:?}", String::from_utf8_lossy(r.name_bytes()), r.target()))
        .filter(|text| !text.starts_with("refs/backout/"))
        .collect();
    refs.sort();
    let db = rusqlite::Connection::open(world.join("app.db")).unwrap();
    let mut rows = String::new();
    for sql in [
        "SELECT sql, 0 FROM sqlite_schema ORDER BY 1",
        "SELECT id, v FROM t ORDER BY 1",
        "SELECT name, seq FROM sqlite_sequence",
    ] {
        let mut statement = db.prepare(sql).unwrap();
        let mut found = statement.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            rows += &format!("{:?}|{:?}\n", row.get_ref(0).unwrap(), row.get_ref(1).unwrap());
        }
    }
    format!("{files:?} {refs:?} {}", schemas::Digest::of(rows.as_bytes()))
}
