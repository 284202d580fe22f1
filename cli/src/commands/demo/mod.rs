//! `backout demo`: a small production, five stories, every one played by this very program as a user would play it.

mod plans;
mod world;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;
use schemas::ExitCode;
use serde_json::{Value, json};

use self::world::{Digests, World};
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave everything in this folder, which must be empty or missing
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// The stage: the world, the program, and what was said.
struct Stage<'a> {
    world: World,
    program: PathBuf,
    output: &'a Output,
    events: Vec<Value>,
}

/// What a command of the program came to.
struct Played {
    code: i32,
    value: Value,
}

pub(crate) fn run(args: &DemoArgs, output: &Output) -> Result<ExitCode, Problem> {
    let temporary = tempfile::Builder::new().prefix("backout-demo-").tempdir();
    let temporary = temporary.map_err(|error| Problem::failure("cannot make a temporary folder", &error))?;
    let dir = match &args.keep {
        None => temporary.path().to_owned(),
        Some(dir) => {
            std::fs::create_dir_all(dir)
                .map_err(|error| Problem::failure(&format!("cannot create {}", dir.display()), &error))?;
            let empty = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
            if !empty {
                return Err(Problem::usage(format!("{} is not empty", dir.display()), "backout demo --keep NEWFOLDER"));
            }
            dir.canonicalize().map_err(|error| Problem::failure("cannot use the folder", &error))?
        }
    };
    let failed = |error: Box<dyn std::error::Error>| Problem::failure("the demo", error.as_ref());
    let started = std::time::Instant::now();
    let world = World::make(&dir).map_err(failed)?;
    let program = std::env::current_exe().map_err(|error| Problem::failure("cannot find this program", &error))?;
    let mut stage = Stage { world, program, output, events: Vec::new() };
    stage.play().map_err(failed)?;
    if args.keep.is_some() {
        stage.say(&format!("everything is in {0}: cd {0}, then backout status", dir.display()));
    }
    stage.say(&format!("\nthe demo took {:.1} s", started.elapsed().as_secs_f64()));
    let events = std::mem::take(&mut stage.events);
    output.result(&json!({"events": events}), String::new);
    Ok(ExitCode::Done)
}

type Told = Result<(), Box<dyn std::error::Error>>;

impl Stage<'_> {
    fn play(&mut self) -> Told {
        let root = self.world.prod("").display().to_string();
        let root = root.trim_end_matches('/').to_owned();
        let site = format!(
            "[environments.production]\nroots = [{root:?}]\nproduction = true\nbackups = [\"file:{root}/backups\"]\n"
        );
        super::init::make(self.world.dir.join(".backout"), &site, &["production".to_owned()])
            .map_err(|problem| problem.title)?;
        self.say("a small production: a git remote and its clone, 100,000 rows in SQLite, a configuration tree");
        self.story_commit()?;
        self.story_rollback()?;
        self.story_refusal()?;
        self.story_crash()?;
        self.story_replay()
    }

    fn story_commit(&mut self) -> Told {
        self.title("1. nine steps in a graph: checked, gated, approved, run, committed");
        let manifest = self.gate("release", &plans::release("release", "1.5.0", "gold"))?;
        self.approve(&manifest)?;
        let ran = self.expect(&["run", &manifest], 0)?;
        self.say_end(&ran);
        self.say_steps(&ran);
        Ok(())
    }

    fn story_rollback(&mut self) -> Told {
        self.title("2. the same kind of plan, and its last check fails: everything is put back, proved by digest");
        let before = self.world.digests()?;
        let manifest = self.gate("release-2", &plans::failing("release-2"))?;
        self.approve(&manifest)?;
        let ran = self.expect(&["run", &manifest], 4)?;
        self.say_end(&ran);
        self.prove(&before)
    }

    fn story_refusal(&mut self) -> Told {
        self.title("3. a wildcard delete in production, and a plan that would delete its own backups: refused");
        self.write_plan("cleanup", &plans::wildcard())?;
        let refused = self.expect(&["gate", "cleanup.plan.json"], 5)?;
        let findings = refused.value.get("findings").and_then(Value::as_array).cloned().unwrap_or_default();
        for finding in &findings {
            let text = |key: &str| finding.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
            self.say(&format!("   {} (step {}): {}", text("code"), text("step"), text("detail")));
        }
        self.say("   exit 5, all reasons at once, nothing touched");
        Ok(())
    }

    fn story_crash(&mut self) -> Told {
        self.title("4. kill -9 in the middle, then recover");
        let before = self.world.digests()?;
        let manifest = self.gate("crash", &plans::slow("crash", "1.6.0"))?;
        self.approve(&manifest)?;
        self.kill_during(&manifest, "wait")?;
        let recovered = self.expect(&["recover"], 4)?;
        self.say_doubt(&recovered);
        self.say_end(&recovered);
        self.prove(&before)?;
        self.say("   and once more, but somebody edits a touched file before recover:");
        let manifest = self.gate("crash-2", &plans::slow("crash-2", "1.7.0"))?;
        self.approve(&manifest)?;
        self.kill_during(&manifest, "wait")?;
        let path = self.world.prod("conf/app.toml");
        std::fs::write(&path, "edited by a person at 2 AM\n")?;
        let stuck = self.expect(&["recover"], 10)?;
        self.say_end(&stuck);
        let kept = std::fs::read_to_string(&path)? == "edited by a person at 2 AM\n";
        self.say(&format!("   the person's edit was kept: {kept}"));
        Ok(())
    }

    fn story_replay(&mut self) -> Told {
        self.title("5. replay from last-known-good: the corrected plan goes on from the last verified step");
        let manifest = self.gate("resize", &plans::resize("resize", "search=maybe"))?;
        self.approve(&manifest)?;
        let held = self.expect(&["run", &manifest, "--on-failure", "hold"], 8)?;
        self.say(&format!("   held: {}", held.value.get("reason").and_then(Value::as_str).unwrap_or("")));
        let manifest = self.gate_with("resize", &plans::resize("resize", "search=on"), &["--replay", "resize"])?;
        self.approve(&manifest)?;
        let replayed = self.expect(&["replay", "resize", &manifest], 0)?;
        self.say_end(&replayed);
        let verified = self.expect(&["verify"], 0)?;
        let number = |key: &str| verified.value.get(key).and_then(Value::as_u64).unwrap_or(0);
        self.say(&format!("   the log verifies: {} records, {} receipts", number("records"), number("receipts")));
        Ok(())
    }

    /// Runs this program on the demo's state folder; its answer is JSON.
    fn command(&self, words: &[&str], format: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--format", format, "--dir"]).arg(self.world.dir.join(".backout")).args(words);
        command.current_dir(&self.world.dir).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
        command
    }

    fn expect(&mut self, words: &[&str], code: i32) -> Result<Played, Box<dyn std::error::Error>> {
        let out = self.command(words, "jsonl").output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let value = lines.last().cloned().unwrap_or_default();
        let played = Played { code: out.status.code().unwrap_or(-1), value };
        self.events.push(json!({"command": words, "exit_code": played.code, "result": played.value}));
        let told = lines.iter().find(|line| line.get("event").and_then(Value::as_str) == Some("recovering"));
        if let Some(told) = told {
            self.events.push(told.clone());
        }
        if played.code == code {
            return Ok(played);
        }
        Err(format!("backout {} ended with {} and not {code}: {}", words.join(" "), played.code, played.value).into())
    }

    fn write_plan(&self, name: &str, plan: &Value) -> Told {
        let draft = self.world.dir.join(format!("{name}.draft.json"));
        std::fs::write(&draft, serde_json::to_string_pretty(plan)?)?;
        let signed =
            self.command(&["plan", "sign", &draft.display().to_string(), "--as", "deploy-bot"], "json").output()?;
        if signed.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&signed.stdout).into_owned().into()) }
    }

    /// Signs and gates a plan; returns the manifest's name.
    fn gate(&mut self, name: &str, plan: &Value) -> Result<String, Box<dyn std::error::Error>> {
        self.gate_with(name, plan, &[])
    }

    fn gate_with(&mut self, name: &str, plan: &Value, more: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
        self.write_plan(name, plan)?;
        let file = format!("{name}.plan.json");
        let gated = self.expect(&[&["gate", &file], more].concat(), 6)?;
        let manifest = gated.value.get("manifest").and_then(Value::as_str).unwrap_or("").to_owned();
        let steps = plan.get("steps").and_then(Value::as_array).map_or(0, Vec::len);
        self.say(&format!(
            "   gate: {steps} steps, manifest {}, one approval needed",
            manifest.chars().skip(7).take(12).collect::<String>()
        ));
        Ok(manifest)
    }

    fn approve(&mut self, manifest: &str) -> Told {
        self.expect(&["approve", manifest, "--as", "ada", "--reason", "looked at it"], 0)?;
        self.say("   ada approved");
        Ok(())
    }

    /// Starts a run and kills it as soon as the record of step `at` is durable.
    fn kill_during(&mut self, manifest: &str, at: &str) -> Told {
        let mut child = self.command(&["run", manifest], "jsonl").spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        for line in lines {
            let value: Value = serde_json::from_str(&line?)?;
            let started = value.pointer("/fact/apply_started").and_then(|fact| fact.get("id")).and_then(Value::as_str);
            if started == Some(at) {
                break;
            }
        }
        child.kill()?;
        child.wait()?;
        self.say(&format!("   SIGKILL while step {at} runs"));
        Ok(())
    }

    fn prove(&mut self, before: &Digests) -> Told {
        let after = self.world.digests()?;
        for (what, was, is) in [
            ("files", &before.tree, &after.tree),
            ("refs", &before.refs, &after.refs),
            ("rows", &before.rows, &after.rows),
        ] {
            if was != is {
                return Err(format!("{what} are not as before: {was} and {is}").into());
            }
        }
        let short = |text: &str| text.split_once(':').map_or("", |(_, hex)| hex).chars().take(12).collect::<String>();
        self.say(&format!(
            "   equal to before: files {}, refs {}, rows {}",
            short(&after.tree),
            short(&after.refs),
            short(&after.rows)
        ));
        Ok(())
    }

    fn say_end(&mut self, played: &Played) {
        let text = |key: &str| played.value.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        let reason = text("reason");
        let because = if reason.is_empty() { String::new() } else { format!(" because {reason}") };
        self.say(&format!("   {} (exit {}){because}", text("end"), played.code));
        for step in played.value.get("steps").and_then(Value::as_array).into_iter().flatten() {
            if let Some(left) = step.get("left").and_then(Value::as_str) {
                let id = step.get("id").and_then(Value::as_str).unwrap_or("");
                self.say(&format!("     {id}: {}", left.chars().take(150).collect::<String>()));
            }
        }
    }

    fn say_steps(&mut self, played: &Played) {
        let steps = played.value.get("steps").and_then(Value::as_array).cloned().unwrap_or_default();
        let changes: usize = steps.iter().filter_map(|step| step.get("changes")?.as_array().map(Vec::len)).sum();
        let ids: Vec<&str> = steps.iter().filter_map(|step| step.get("id")?.as_str()).collect();
        self.say(&format!("   verified: {}; {changes} resources changed as declared", ids.join(", ")));
    }

    fn say_doubt(&mut self, _played: &Played) {
        let told = self
            .events
            .iter()
            .rev()
            .find(|event| event.get("event").and_then(Value::as_str) == Some("recovering"))
            .cloned();
        let Some(told) = told else { return };
        let list = |key: &str| {
            let names = told.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        self.say(&format!("   done: {} | unknown: {} | not done: {}", list("done"), list("unknown"), list("not_done")));
    }

    fn title(&mut self, text: &str) {
        self.say("");
        self.say(text);
    }

    fn say(&mut self, text: &str) {
        if self.output.is_pretty() {
            self.output.print_line(text);
        }
    }
}
