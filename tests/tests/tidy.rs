//! The house rules that a program can check: dependencies point one way, every code has its page, files keep their heads.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, out);
        } else if name.ends_with(".rs") {
            out.push(path);
        }
    }
}

#[test]
fn dependencies_are_those_of_the_table_in_the_architecture_page() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: Vec<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let mut needs: Vec<String> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
            .filter(|name| ours.contains(&name.as_str()))
            .collect();
        needs.sort();
        found.insert(package["name"].as_str().unwrap().to_owned(), needs);
    }
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let told: BTreeMap<String, Vec<String>> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once("` | needs "))
        .map(|(name, needs)| {
            let mut needs: Vec<String> = needs
                .trim_end_matches('|')
                .split(',')
                .map(|need| need.trim().to_owned())
                .filter(|need| need != "nothing")
                .collect();
            needs.sort();
            (name.to_owned(), needs)
        })
        .collect();
    assert_eq!(found, told);
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let mut pages: Vec<String> = std::fs::read_dir(root().join("schemas/errors"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    pages.sort();
    let mut codes: Vec<String> = schemas::Code::ALL.iter().map(|code| code.to_string()).collect();
    codes.sort();
    assert_eq!(pages, codes);
}

#[test]
fn every_source_file_begins_with_what_it_is_for_and_none_is_over_800_lines() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 50);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} has no head", file.display());
        assert!(text.lines().count() <= 800, "{} has {} lines", file.display(), text.lines().count());
    }
}

#[test]
fn no_function_is_over_90_lines() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function =
                line.contains("fn ") && line.trim_end().ends_with('{') && !line.trim_start().starts_with("//");
            if !is_function {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let end = lines[at..].iter().position(|line| *line == close).unwrap_or(0);
            assert!(end <= 90, "{}:{} has {end} lines", file.display(), at + 1);
        }
    }
}

#[test]
fn test_names_are_claims_and_no_test_sleeps() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    for file in files.iter().filter(|file| !file.ends_with("tests/tidy.rs")) {
        let text = std::fs::read_to_string(file).unwrap();
        for (at, _) in text.match_indices("#[test]") {
            let name = text[at..].split_once("fn ").unwrap().1.split_once('(').unwrap().0;
            assert!(name.matches('_').count() >= 2, "{}: {name} is not a claim", file.display());
        }
    }
}
