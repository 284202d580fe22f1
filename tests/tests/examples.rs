//! Every example is a test: its world is made, its plan goes through all stages, and its end is the expected one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use serde_json::Value;
use tests::program::Bench;

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn play(dir: &Path) {
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    let read = |file: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap() };
    let (plan, expect) = (read("plan.json"), read("expect.json"));
    let bench = Bench::new();
    let root = bench.path("world").canonicalize().unwrap();
    let root = root.display();
    bench.site(&format!(
        "[environments.test]\nroots = [\"{root}\"]\n[environments.production]\nroots = [\"{root}\"]\nproduction = true\nbackups = [\"file:{root}/backups\"]\n"
    ));
    bench.run(&[
        "key",
        "new",
        "prod-bot",
        "--owner",
        "tester",
        "--role",
        "agent",
        "--environment",
        "production",
        "--duty",
        "change",
    ]);
    copy(&dir.join("world"), &bench.path("world"));
    if let Ok(sql) = std::fs::read_to_string(dir.join("app.sql")) {
        rusqlite::Connection::open(bench.path("world/app.db")).unwrap().execute_batch(&sql).unwrap();
    }
    let file = bench.sign_as(&name, &plan, if plan["environment"] == "production" { "prod-bot" } else { "tester" });
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    assert_eq!(Value::from(gated.code), expect["gate"], "{name}: {gated:?}");
    for code in expect["codes"].as_array().into_iter().flatten() {
        let found = gated.value["findings"].as_array().unwrap().iter().any(|finding| finding["code"] == *code);
        assert!(found, "{name}: {code} is missing in {gated:?}");
    }
    if expect["run"].is_null() {
        return;
    }
    let manifest = gated.value["manifest"].as_str().unwrap().to_owned();
    for person in expect["approve"].as_array().into_iter().flatten() {
        let approved = bench.run(&["approve", &manifest, "--as", person.as_str().unwrap()]);
        assert_eq!(approved.code, 0, "{name}: {approved:?}");
    }
    let ran = bench.run(&["run", &manifest]);
    assert_eq!(Value::from(ran.code), expect["run"], "{name}: {ran:?}");
    assert_eq!(ran.value["end"], expect["end"], "{name}: {ran:?}");
    assert_eq!(bench.run(&["verify"]).code, 0, "{name}");
}

#[test]
fn every_example_ends_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples");
    let mut played = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.path().join("plan.json").exists()) {
        play(&entry.path());
        played += 1;
    }
    assert!(played >= 5, "{played}");
}
