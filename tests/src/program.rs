//! The real program, built once, and a state folder to run it on.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The path of the built `backout`.
pub fn backout() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut dir = std::env::current_exe().unwrap();
        dir.pop();
        dir.pop();
        let release = dir.ends_with("release");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "-p", "cli"]).args(release.then_some("--release"));
        assert!(build.status().unwrap().success(), "the program does not build");
        dir.join("backout")
    })
}

/// A folder with a state folder in it and an environment `test` whose root is `world`.
pub struct Bench {
    dir: tempfile::TempDir,
}

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// The last JSON line.
    pub value: Value,
    /// Standard error.
    pub stderr: String,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    /// A new one.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("world")).unwrap();
        let bench = Self { dir };
        let ran = bench.run(&["init", bench.path("world").to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{ran:?}");
        for name in ["sample.plan.json", "sample.draft.json"] {
            std::fs::remove_file(bench.path("world").join(name)).unwrap();
        }
        let root = bench.path("world").canonicalize().unwrap();
        bench.site(&format!("[environments.test]\nroots = [{root:?}]\nallow_irreversible = false\n"));
        let ran = bench.run(&[
            "key",
            "new",
            "tester",
            "--role",
            "agent",
            "--environment",
            "test",
            "--duty",
            "change",
            "--duty",
            "operate",
        ]);
        assert_eq!(ran.code, 0, "{ran:?}");
        for name in ["vera", "walt"] {
            assert_eq!(bench.run(&["key", "new", name, "--role", "approver:test"]).code, 0);
        }
        bench
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the site configuration.
    pub fn site(&self, text: &str) {
        std::fs::write(self.path("state/backout.toml"), text).unwrap();
    }

    /// Writes the inventory.
    pub fn inventory(&self, text: &str) {
        std::fs::write(self.path("state/inventory.toml"), text).unwrap();
    }

    /// The program with its state folder, its answer in JSON lines.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(backout());
        command.args(["--format", "jsonl", "--dir"]).arg(self.path("state")).args(words);
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it.
    pub fn run(&self, words: &[&str]) -> Ran {
        ran(&self.command(words).output().unwrap())
    }

    /// Signs a plan and leaves it as `NAME.plan.json`.
    pub fn sign(&self, name: &str, plan: &Value) -> PathBuf {
        self.sign_as(name, plan, "tester")
    }

    /// Signs a plan with a key.
    pub fn sign_as(&self, name: &str, plan: &Value, key: &str) -> PathBuf {
        let draft = self.path(&format!("{name}.draft.json"));
        std::fs::write(&draft, serde_json::to_vec(plan).unwrap()).unwrap();
        let ran = self.run(&["plan", "sign", draft.to_str().unwrap(), "--as", key]);
        assert_eq!(ran.code, 0, "{ran:?}");
        self.path(&format!("{name}.plan.json"))
    }

    /// Signs and gates a plan that needs no approval; returns the manifest.
    pub fn gated(&self, name: &str, plan: &Value) -> String {
        let file = self.sign(name, plan);
        let ran = self.run(&["gate", file.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.value["manifest"].as_str().unwrap().to_owned()
    }
}

/// Reads what a finished command said.
pub fn ran(output: &Output) -> Ran {
    let text = String::from_utf8_lossy(&output.stdout);
    let value = text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), value, stderr }
}
