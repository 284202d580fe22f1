//! The small production of the demo: a bare git remote with a clone, a database of 100,000 rows, a configuration tree.

use std::error::Error;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use git2::{IndexAddOption, Repository, RepositoryInitOptions, Signature};
use rusqlite::Connection;
use schemas::Digest;
use snapshots::{Root, scan};

type Made<T> = Result<T, Box<dyn Error>>;

/// Where everything is.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
}

/// Three digests of the world, and one sentence about them.
#[derive(Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Digests {
    pub(crate) tree: String,
    pub(crate) refs: String,
    pub(crate) rows: String,
}

impl World {
    /// Makes it in `dir`, which must be empty.
    pub(crate) fn make(dir: &Path) -> Made<Self> {
        let world = Self { dir: dir.to_owned() };
        for folder in ["prod/conf/archive", "prod/data", "prod/backups", "prod/bin"] {
            std::fs::create_dir_all(dir.join(folder))?;
        }
        world.make_config()?;
        world.make_repository()?;
        make_database(&world.prod("data/shop.db"))?;
        std::fs::copy(world.prod("data/shop.db"), world.prod("backups/shop-nightly.db"))?;
        Ok(world)
    }

    pub(crate) fn prod(&self, path: &str) -> PathBuf {
        self.dir.join("prod").join(path)
    }

    fn make_config(&self) -> Made<()> {
        let write = |path: &str, text: &str| std::fs::write(self.prod(path), text);
        write("conf/app.toml", "[app]\nname = \"shop\"\nrelease = \"1.4.0\"\nbanner = \"welcome\"\n")?;
        write("conf/limits.conf", "max_connections = 100\ntimeout_s = 30\n")?;
        write("conf/services.conf", "cache=on\nsearch=off\n")?;
        write("conf/banner.txt", "Summer sale!\n")?;
        write("conf/secret.key", "not a real key\n")?;
        write("bin/healthcheck", "#!/bin/sh\ngrep -q cache=on conf/services.conf\n")?;
        for n in 0..40 {
            write(&format!("conf/site-{n:02}.conf"), &format!("server_name shop{n}.example\n"))?;
        }
        std::fs::set_permissions(self.prod("conf/secret.key"), std::fs::Permissions::from_mode(0o600))?;
        std::fs::set_permissions(self.prod("bin/healthcheck"), std::fs::Permissions::from_mode(0o755))?;
        std::os::unix::fs::symlink("app.toml", self.prod("conf/current.toml"))?;
        Ok(())
    }

    fn make_repository(&self) -> Made<()> {
        let mut options = RepositoryInitOptions::new();
        options.bare(true).initial_head("main");
        Repository::init_opts(self.dir.join("remote.git"), &options)?;
        let mut options = RepositoryInitOptions::new();
        options.initial_head("main");
        let repo = Repository::init_opts(self.prod("app"), &options)?;
        std::fs::write(self.prod("app/VERSION"), "1.4.0\n")?;
        std::fs::write(self.prod("app/main.py"), "print('shop')\n")?;
        let mut index = repo.index()?;
        index.add_all(["*"], IndexAddOption::DEFAULT, None)?;
        index.write()?;
        let tree = repo.find_tree(index.write_tree()?)?;
        let who = Signature::now("Ada", "ada@example.com")?;
        repo.commit(Some("HEAD"), &who, &who, "First release", &tree, &[])?;
        let url = self.dir.join("remote.git");
        repo.remote("origin", &url.display().to_string())?.push(&["refs/heads/main:refs/heads/main"], None)?;
        Ok(())
    }

    /// Configuration tree, refs here and at the remote, and all rows of the database.
    pub(crate) fn digests(&self) -> Made<Digests> {
        let root = Root::open(&self.prod(""))?;
        let tree = scan(&root, &["conf".into(), "bin".into(), "app/VERSION".into()], None)?.digest().to_string();
        let refs =
            Digest::of(format!("{}{}", refs(&self.prod("app"))?, refs(&self.dir.join("remote.git"))?).as_bytes());
        Ok(Digests { tree, refs: refs.to_string(), rows: rows(&self.prod("data/shop.db"))?.to_string() })
    }
}

fn refs(repo: &Path) -> Made<String> {
    let repo = Repository::open(repo)?;
    let mut out = Vec::new();
    for reference in repo.references()? {
        let reference = reference?;
        // Our own refs keep the way back alive; they are not part of the repository's state.
        let name = String::from_utf8_lossy(reference.name_bytes()).into_owned();
        if !name.starts_with("refs/backout/") {
            out.push(format!("{name} {:?}\n", reference.target()));
        }
    }
    out.sort();
    Ok(out.concat())
}

/// SHA-256 over the schema and every row of every table.
fn rows(path: &Path) -> Made<Digest> {
    let db = Connection::open(path)?;
    let mut text = String::new();
    let mut tables = Vec::new();
    let mut statement = db.prepare("SELECT type, name, ifnull(sql, '') FROM sqlite_schema ORDER BY name")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (kind, name, sql): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        text.push_str(&format!("{kind} {name} {sql}\n"));
        if kind == "table" {
            tables.push(name);
        }
    }
    for table in tables {
        let mut statement = db.prepare(&format!("SELECT * FROM \"{table}\" ORDER BY 1"))?;
        let width = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            for at in 0..width {
                text.push_str(&format!("{:?}|", row.get_ref(at)?));
            }
            text.push('\n');
        }
    }
    Ok(Digest::of(text.as_bytes()))
}

fn make_database(path: &Path) -> Made<()> {
    let mut db = Connection::open(path)?;
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    let tx = db.transaction()?;
    tx.execute_batch(
        "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE);
         CREATE TABLE products (id INTEGER PRIMARY KEY, title TEXT NOT NULL, price_cents INTEGER NOT NULL);
         CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, customer INTEGER NOT NULL REFERENCES customers(id),
             placed TEXT NOT NULL, total_cents INTEGER NOT NULL);
         CREATE TABLE items (order_id INTEGER NOT NULL REFERENCES orders(id), product INTEGER NOT NULL REFERENCES products(id),
             quantity INTEGER NOT NULL, PRIMARY KEY (order_id, product)) WITHOUT ROWID;
         CREATE TABLE price_changes (product INTEGER, old_cents INTEGER, new_cents INTEGER);
         CREATE INDEX orders_by_customer ON orders(customer);
         CREATE TRIGGER log_price AFTER UPDATE OF price_cents ON products
             BEGIN INSERT INTO price_changes VALUES (OLD.id, OLD.price_cents, NEW.price_cents); END;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
             INSERT INTO customers SELECT i, 'Customer ' || i, 'c' || i || '@example.com' FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO products SELECT i, 'Product ' || i, 100 + (i * 37) % 9000 FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
             INSERT INTO orders SELECT i, 1 + (i * 7) % 10000, '2026-0' || (1 + i % 9) || '-01', (i * 13) % 50000 FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 58000)
             INSERT INTO items SELECT 1 + i / 2, 1 + (i * 11) % 2000, 1 + i % 5 FROM n;",
    )?;
    tx.commit()?;
    Ok(())
}
