//! Ways round the gate that a review found: each is refused now.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tests::program::{Bench, Ran};

fn bench(inventory: &str, files: &[&str]) -> Bench {
    let bench = Bench::new();
    bench.inventory(inventory);
    for name in files {
        let path = bench.path("world").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x=1\n").unwrap();
    }
    bench
}

fn gate(bench: &Bench, session: &str, steps: Value) -> Ran {
    let plan =
        json!({"session": session, "agent": "tester", "environment": "test", "intent": "get round", "steps": steps});
    let file = bench.sign(session, &plan);
    bench.run(&["gate", file.to_str().unwrap()])
}

fn command(argv: &[&str], cwd: &str, writes: &[&str]) -> Value {
    let mut with = json!({"argv": argv, "writes": writes, "contain": "none"});
    if !cwd.is_empty() {
        with["cwd"] = json!(cwd);
    }
    json!([{"id": "c", "uses": "command.run", "with": with}])
}

fn is_refused(ran: &Ran, code: &str) -> bool {
    let found = ran.value["findings"].as_array().cloned().unwrap_or_default();
    ran.code == 5 && found.iter().any(|finding| finding["code"] == code)
}

#[test]
fn a_folder_hides_no_secret_no_protected_file_and_no_backup_in_it() {
    let bench = bench(
        "[[resource]]\nmatch = [\"file:/**/keys/**\"]\nprotected = true\n\
         [[resource]]\nmatch = [\"file:/**/archive/**\"]\ntype = \"backup\"\n",
        &["dir/.env", "dir/plain", "keys/k1", "archive/a"],
    );
    let edit = gate(&bench, "edit", command(&["sed", "-i", "s/1/2/", ".env"], "dir", &["dir"]));
    assert!(is_refused(&edit, "policy-denied"), "{edit:?}");
    let remove = gate(&bench, "remove", command(&["rm", "-r", "dir"], "", &["dir"]));
    assert!(is_refused(&remove, "policy-denied"), "{remove:?}");
    let protected = gate(&bench, "protected", command(&["mv", "keys", "keyz"], "", &["keys", "keyz"]));
    assert!(is_refused(&protected, "policy-protected"), "{protected:?}");
    let backup = gate(&bench, "backup", command(&["mv", "archive", "arch2"], "", &["archive", "arch2"]));
    assert!(is_refused(&backup, "policy-own-way-back"), "{backup:?}");
}

#[test]
fn a_step_before_it_hides_nothing_either() {
    let bench = bench("", &["dir/.env"]);
    let steps = json!([
        {"id": "first", "uses": "file.write", "with": {"path": "dir/zz", "content": "x\n"}},
        {"id": "then", "uses": "file.move", "with": {"from": "dir", "to": "dir2"}, "needs": ["first"]}
    ]);
    let ran = gate(&bench, "moved", steps);
    assert!(is_refused(&ran, "policy-denied"), "{ran:?}");
}

#[test]
fn a_secret_is_not_copied_to_where_everybody_reads_it() {
    let bench = bench("", &["dir/.env"]);
    let ran = gate(
        &bench,
        "copy",
        json!([{"id": "c", "uses": "file.copy", "with": {"from": "dir/.env", "to": "public.txt"}}]),
    );
    assert!(is_refused(&ran, "policy-denied"), "{ran:?}");
}

#[test]
fn a_delete_counts_what_lies_beneath_and_what_a_step_before_it_touched() {
    let limit = "[[limit]]\nname = \"deletes\"\nper = \"agent\"\nat_most = 1\nverbs = [\"delete\"]\n";
    let bench = bench(limit, &["tree/a", "tree/b", "one"]);
    let tree = gate(&bench, "tree", command(&["rm", "-rf", "tree"], "", &["tree"]));
    assert!(is_refused(&tree, "limit"), "{tree:?}");
    let steps = json!([
        {"id": "mode", "uses": "file.chmod", "with": {"path": "one", "mode": "0600"}},
        {"id": "gone", "uses": "file.delete", "with": {"paths": ["one"]}, "needs": ["mode"]},
        {"id": "more", "uses": "file.delete", "with": {"paths": ["tree/a"]}}
    ]);
    let both = gate(&bench, "both", steps);
    assert!(is_refused(&both, "limit"), "{both:?}");
}

#[test]
fn what_was_rolled_back_is_nobodys_own() {
    let limit = "[[limit]]\nname = \"deletes\"\nper = \"agent\"\nat_most = 0\nverbs = [\"delete\"]\n";
    let bench = bench(limit, &[]);
    let write = json!({"session": "own", "agent": "tester", "environment": "test", "intent": "make",
        "steps": [{"id": "w", "uses": "file.write", "with": {"path": "r", "content": "x\n"}}],
        "checks": [{"uses": "file.absent", "with": {"path": "r"}}]});
    let manifest = bench.gated("own", &write);
    assert_eq!(bench.run(&["run", &manifest]).code, 4);
    std::fs::write(bench.path("world/r"), "a person's\n").unwrap();
    let ran = gate(&bench, "own", json!([{"id": "d", "uses": "file.delete", "with": {"paths": ["r"]}}]));
    assert!(is_refused(&ran, "limit"), "{ran:?}");
}

#[test]
fn people_for_an_unknown_check_stand_in_the_decisions() {
    let bench = bench("", &["a"]);
    let root = bench.path("world").canonicalize().unwrap();
    bench.site(&format!("[environments.test]\nroots = [{root:?}]\nallow_irreversible = true\n"));
    let steps = json!([{"id": "w", "uses": "file.write", "with": {"path": "a", "content": "y\n"},
        "verify": [{"uses": "command.succeeds", "with": {"argv": ["sh", "-c", "true"]}}]}]);
    let ran = gate(&bench, "look", steps);
    assert_eq!((ran.code, &ran.value["people"]), (6, &json!(2)), "{ran:?}");
    let documents = std::fs::read_dir(bench.path("state/documents")).unwrap().flatten();
    let decisions: Value = documents
        .filter_map(|entry| serde_json::from_slice::<Value>(&std::fs::read(entry.path()).ok()?).ok())
        .find(|it| it["phase"] == "gate")
        .unwrap();
    assert_eq!(decisions["plan"]["rules"], json!(["NEED-unknown-check/1"]), "{decisions}");
}

#[test]
fn a_hook_of_a_bare_repository_is_nobodys_file() {
    let bench = bench("", &["bare.git/HEAD", "bare.git/objects/x", "bare.git/refs/x"]);
    for (session, path) in
        [("hook", "bare.git/hooks/pre-receive"), ("ref", "bare.git/refs/heads/main"), ("config", "bare.git/config")]
    {
        let steps = json!([{"id": "w", "uses": "file.write", "with": {"path": path, "content": "#!/bin/sh\n", "mode": "0755"}}]);
        let ran = gate(&bench, session, steps);
        assert!(is_refused(&ran, "probe-failed"), "{path}: {ran:?}");
    }
    let by_command =
        gate(&bench, "command", command(&["cp", "bare.git/HEAD", "bare.git/hooks"], "", &["bare.git/hooks"]));
    assert!(is_refused(&by_command, "probe-failed"), "{by_command:?}");
}

fn git(bench: &Bench, words: &[&str]) -> String {
    let done = std::process::Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"])
        .args(words)
        .current_dir(bench.path("world/app"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{words:?}");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_branch_that_would_lose_commits_is_forced_wherever_it_lies() {
    let bench = bench("", &[]);
    std::fs::create_dir(bench.path("world/app")).unwrap();
    git(&bench, &["init", "-q"]);
    for message in ["one", "two"] {
        git(&bench, &["commit", "-q", "--allow-empty", "-m", message]);
    }
    let (old, new) = (git(&bench, &["rev-parse", "HEAD~1"]), git(&bench, &["rev-parse", "HEAD"]));
    git(&bench, &["checkout", "-q", "-b", "side", &old]);
    let moved = |name: &str, at: &str| json!([{"id": "m", "uses": "git.branch_move", "with": {"repo": "app", "name": name, "at": at}}]);
    let back = gate(&bench, "back", moved("main", &old));
    assert!(is_refused(&back, "policy-force-push"), "{back:?}");
    git(&bench, &["checkout", "-q", "main"]);
    git(&bench, &["branch", "-f", "side", &old]);
    let forward = gate(&bench, "forward", moved("side", &new));
    assert!(matches!(forward.code, 0 | 6), "{forward:?}");
}

#[test]
fn a_secret_is_one_however_its_name_is_written() {
    let bench = bench("", &["conf/.ENV", "conf/Server.KEY"]);
    for path in ["conf/.ENV", "conf/Server.KEY"] {
        let ran =
            gate(&bench, "case", json!([{"id": "w", "uses": "file.write", "with": {"path": path, "content": "x\n"}}]));
        assert!(is_refused(&ran, "policy-denied"), "{path}: {ran:?}");
    }
}

#[test]
fn a_list_of_many_names_is_a_share_like_a_pattern() {
    let names: Vec<String> = (0..12).map(|at| format!("data/f{at}")).collect();
    let files: Vec<&str> = names.iter().map(String::as_str).collect();
    let bench = bench("", &files);
    let root = bench.path("world").canonicalize().unwrap();
    bench.site(&format!("[environments.test]\nroots = [{root:?}]\nproduction = true\n"));
    let delete = |paths: &[&str]| json!([{"id": "d", "uses": "file.delete", "with": {"paths": paths}}]);
    let all = gate(&bench, "all", delete(&files));
    assert!(is_refused(&all, "policy-share"), "{all:?}");
    let detail = all.value["findings"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("12 of 12 (100 %; max_delete_share is 20 %)"), "{detail}");
    assert_eq!(gate(&bench, "few", delete(&files[..2])).code, 6);
}

#[test]
fn a_command_that_names_a_secret_reads_it_declared_or_not() {
    let bench = bench("", &["conf/.env", "conf/plain"]);
    let words: [(&[&str], &str); 5] = [
        (&["cat", ".env"], "conf"),
        (&["cat", "conf/../conf/.env"], ""),
        (&["grep", "x", "conf/.env"], ""),
        (&["cp", "conf/.env", "pub.txt"], ""),
        (&["head", "--lines=1", "conf/.env"], ""),
    ];
    for (argv, cwd) in words {
        let writes: &[&str] = if argv[0] == "cp" { &["pub.txt"] } else { &[] };
        let ran = gate(&bench, "secret", command(argv, cwd, writes));
        assert!(is_refused(&ran, "policy-denied"), "{argv:?}: {ran:?}");
    }
    let plain = gate(&bench, "plain", command(&["cat", "conf/plain"], "", &[]));
    assert_eq!(plain.code, 0, "{plain:?}");
}

#[test]
fn a_pattern_reaches_the_names_that_it_matches_and_not_the_folder_where_it_begins() {
    let world = tempfile::tempdir().unwrap();
    std::fs::write(world.path().join("a.tmp"), "x\n").unwrap();
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(tests::program::backout());
        command.args(["--format", "jsonl"]).args(words).current_dir(world.path());
        tests::program::ran(&command.output().unwrap())
    };
    assert_eq!(run(&["init"]).code, 0);
    for (glob, code) in [("*.tmp", 0), (".backout/*", 5)] {
        let plan = json!({"session": "t", "agent": "deploy-bot", "environment": "staging", "intent": "tidy",
            "steps": [{"id": "d", "uses": "file.delete", "with": {"glob": glob}}]});
        std::fs::write(world.path().join("p.json"), plan.to_string()).unwrap();
        assert_eq!(run(&["plan", "sign", "p.json", "--as", "deploy-bot"]).code, 0);
        let ran = run(&["gate", "p.plan.json"]);
        assert_eq!(ran.code, code, "{glob}: {ran:?}");
    }
}

#[test]
fn a_refusal_directly_before_a_run_is_on_record_with_its_decisions() {
    let bench = bench("", &[]);
    let steps = json!([{"id": "w", "uses": "file.write", "with": {"path": "x", "content": "1\n"}}]);
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(1_500);
    let from = until.round(jiff::Unit::Second).unwrap() + jiff::SignedDuration::from_secs(1);
    let local = from.to_zoned(jiff::tz::TimeZone::UTC).datetime();
    bench.inventory(&format!("[[freeze]]\nname = \"soon\"\nfrom = \"{local}\"\nuntil = \"9000-01-01T00:00\"\n"));
    let manifest = gate(&bench, "s", steps).value["manifest"].as_str().unwrap().to_owned();
    while jiff::Timestamp::now() < from {
        std::thread::yield_now();
    }
    let refused = bench.run(&["run", &manifest]);
    assert!(is_refused(&refused, "policy-freeze"), "{refused:?}");
    let decisions = refused.value["decisions"].as_str().unwrap().to_owned();
    let log = bench.command(&["log"]).output().unwrap();
    assert!(String::from_utf8(log.stdout).unwrap().contains(&decisions), "it is on record");
    let file = bench.path("state/documents").join(format!("{}.json", decisions.trim_start_matches("sha256:")));
    let kept: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let id = kept["steps"][0]["id"].as_str().unwrap();
    let explained = bench.run(&["policy", "explain", id]);
    assert_eq!((explained.code, &explained.value["reproduced"]), (0, &json!(true)), "{explained:?}");
}

#[test]
fn an_unknown_command_that_names_backouts_own_files_is_refused_whatever_the_site_allows() {
    let bench = bench("", &[]);
    let root = bench.path("world").canonicalize().unwrap();
    bench.site(&format!("[environments.test]\nroots = [{root:?}]\nallow_irreversible = true\n"));
    let state = bench.path("state").canonicalize().unwrap();
    let journal = state.join("journal.db");
    for words in [
        ["sh", "-c", &format!("rm -rf {}", state.display())],
        ["sh", "-c", &format!("echo x >{}", journal.display())],
        ["mystery", "--file", &format!("{}/keys/log.key", state.display())],
        ["mystery", "--in", &state.parent().unwrap().display().to_string()],
    ] {
        let ran = gate(&bench, "own", command(&words, "", &["x"]));
        assert!(is_refused(&ran, "policy-own-way-back"), "{words:?}: {ran:?}");
    }
    let elsewhere = gate(&bench, "else", command(&["mystery", "--in", "x"], "", &["x"]));
    assert_eq!(elsewhere.code, 6, "{elsewhere:?}");
}
