//! The first of the two commands that the README promises.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::process::Command;

use serde_json::Value;
use tests::program::backout;

#[test]
fn the_demo_plays_all_five_stories_and_can_leave_them_there() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept");
    let mut demo = Command::new(backout());
    let output = demo.args(["demo", "--format", "json", "--keep"]).arg(&kept).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let events = told["events"].as_array().unwrap();
    let ends = |verb: &str| -> Vec<String> {
        let of = events.iter().filter(|event| event["command"][0] == verb);
        of.filter_map(|event| event["result"]["end"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(ends("run"), ["committed", "rolled_back"], "a commit, a rollback; the held run has no end yet");
    assert_eq!(ends("recover"), ["rolled_back", "stuck"]);
    assert_eq!(ends("replay"), ["committed"]);
    assert!(events.iter().any(|event| event["exit_code"] == 5), "a refusal");
    let verified = Command::new(backout()).arg("verify").current_dir(&kept).status().unwrap();
    assert!(verified.success());
}
