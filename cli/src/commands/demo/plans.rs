//! The plans of the demo, as an agent would write them.

use serde_json::{Value, json};

fn plan(session: &str, intent: &str, steps: Value, checks: Value) -> Value {
    json!({"session": session, "agent": "deploy-bot", "environment": "production", "intent": intent, "steps": steps, "checks": checks})
}

fn app_toml(version: &str) -> String {
    format!("[app]\nname = \"shop\"\nrelease = \"{version}\"\nbanner = \"welcome\"\n")
}

/// Commit and push, schema migration, bulk update, config write, file move, a command.
pub(crate) fn release(session: &str, version: &str, tier: &str) -> Value {
    let steps = json!([
        {"id": "config", "uses": "file.write", "with": {"path": "conf/app.toml", "content": app_toml(version)}, "expect": {"updated": 1}},
        {"id": "limits", "uses": "file.replace", "with": {"path": "conf/limits.conf", "find": "max_connections = 100", "replace": "max_connections = 200"}},
        {"id": "banner", "uses": "file.move", "with": {"from": "conf/banner.txt", "to": "conf/archive/banner.txt"}},
        {"id": "migrate", "uses": "sqlite.execute", "with": {"database": "data/shop.db", "statements": [
            "ALTER TABLE customers ADD COLUMN tier TEXT NOT NULL DEFAULT 'standard'", "CREATE INDEX customers_by_tier ON customers(tier)"]}},
        {"id": "tiers", "uses": "sqlite.execute", "needs": ["migrate"], "with": {"database": "data/shop.db", "statements": [
            format!("UPDATE customers SET tier = '{tier}' WHERE id % 10 = 0")]},
         "expect": {"rows": {"customers": {"updated": 1000, "inserted": 0, "deleted": 0}}}},
        {"id": "version", "uses": "file.write", "with": {"path": "app/VERSION", "content": format!("{version}\n")}},
        {"id": "commit", "uses": "git.commit", "needs": ["version"], "with": {"repo": "app", "paths": ["VERSION"], "message": format!("Release {version}")}},
        {"id": "push", "uses": "git.push", "needs": ["commit", "tiers", "config"], "with": {"repo": "app", "remote": "origin", "branch": "main"}},
        {"id": "search", "uses": "command.run", "needs": ["config"], "with": {"argv": ["sed", "-i", "s/search=off/search=on/", "conf/services.conf"], "writes": ["conf/services.conf"]},
         "expect": {"updated": 1}},
    ]);
    let checks = json!([
        {"uses": "sqlite.query", "with": {"database": "data/shop.db", "query": format!("SELECT count(*) FROM customers WHERE tier = '{tier}'"), "equals": "1000"}},
        {"uses": "command.succeeds", "with": {"argv": ["grep", "-q", "cache=on", "conf/services.conf"]}}
    ]);
    plan(session, "Release with customer tiers", steps, checks)
}

/// The same kinds of steps, and a check that does not pass.
pub(crate) fn failing(session: &str) -> Value {
    let steps = json!([
        {"id": "config", "uses": "file.write", "with": {"path": "conf/app.toml", "content": app_toml("1.5.1")}},
        {"id": "prices", "uses": "sqlite.execute", "with": {"database": "data/shop.db", "statements": [
            "UPDATE products SET price_cents = price_cents * 2 WHERE id <= 1500", "INSERT INTO orders (customer, placed, total_cents) VALUES (1, '2026-11-01', 1)"]},
         "expect": {"rows": {"products": {"updated": 1500}}}},
        {"id": "archive", "uses": "file.move", "with": {"from": "conf/archive/banner.txt", "to": "conf/banner.old"}},
        {"id": "private", "uses": "file.chmod", "with": {"path": "conf/limits.conf", "mode": "0640"}},
        {"id": "link", "uses": "file.symlink", "with": {"path": "conf/current.toml", "target": "limits.conf"}},
        {"id": "version", "uses": "file.write", "with": {"path": "app/VERSION", "content": "1.5.1\n"}},
        {"id": "commit", "uses": "git.commit", "needs": ["version"], "with": {"repo": "app", "paths": ["VERSION"], "message": "Release 1.5.1"}},
        {"id": "push", "uses": "git.push", "needs": ["commit"], "with": {"repo": "app", "remote": "origin", "branch": "main"}},
        {"id": "tune", "uses": "command.run", "with": {"argv": ["sed", "-i", "s/cache=on/cache=off/", "conf/services.conf"], "writes": ["conf/services.conf"]}},
    ]);
    let checks =
        json!([{"uses": "command.succeeds", "with": {"argv": ["grep", "-q", "cache=on", "conf/services.conf"]}}]);
    plan(session, "Double the prices", steps, checks)
}

/// Two things that nobody may do.
pub(crate) fn wildcard() -> Value {
    let steps = json!([
        {"id": "tidy", "uses": "file.delete", "with": {"glob": "conf/site-*.conf"}},
        {"id": "free-space", "uses": "file.delete", "with": {"paths": ["backups/shop-nightly.db"]}},
        {"id": "scrub", "uses": "command.run", "with": {"argv": ["sh", "-c", "rm -rf data"], "writes": ["data"]}},
    ]);
    plan("cleanup", "Clean up stale data", steps, json!([]))
}

/// A plan that takes long enough to be killed.
pub(crate) fn slow(session: &str, version: &str) -> Value {
    let steps = json!([
        {"id": "config", "uses": "file.write", "with": {"path": "conf/app.toml", "content": app_toml(version)}},
        {"id": "raise", "uses": "sqlite.execute", "with": {"database": "data/shop.db", "statements": ["UPDATE products SET price_cents = price_cents + 1 WHERE id <= 800"]}},
        {"id": "version", "uses": "file.write", "with": {"path": "app/VERSION", "content": format!("{version}\n")}},
        {"id": "commit", "uses": "git.commit", "needs": ["version"], "with": {"repo": "app", "paths": ["VERSION"], "message": format!("Release {version}")}},
        {"id": "wait", "uses": "command.run", "needs": ["config", "raise", "commit"], "with": {"argv": ["sleep", "30"]}},
        {"id": "push", "uses": "git.push", "needs": ["wait"], "with": {"repo": "app", "remote": "origin", "branch": "main"}},
    ]);
    plan(session, "A release that takes its time", steps, json!([]))
}

/// A plan whose last step fails unless `find` is in the file.
pub(crate) fn resize(session: &str, find: &str) -> Value {
    let to = "search=resized";
    let steps = json!([
        {"id": "limits", "uses": "file.replace", "with": {"path": "conf/limits.conf", "find": "max_connections = 200", "replace": "max_connections = 400"}},
        {"id": "note", "uses": "file.write", "with": {"path": "conf/resize.txt", "content": "resized\n"}, "needs": ["limits"], "expect": {"created": 1}},
        {"id": "services", "uses": "command.run", "needs": ["note"],
         "with": {"argv": ["sed", "-i", format!("s/{find}/{to}/"), "conf/services.conf"], "writes": ["conf/services.conf"]},
         "verify": [{"uses": "file.contains", "with": {"path": "conf/services.conf", "text": to}}]},
    ]);
    plan(session, "More connections, another search", steps, json!([]))
}
