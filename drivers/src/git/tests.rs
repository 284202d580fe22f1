//! The laws, on a local repository and a real remote.

use std::fs;
use std::path::Path;

use git2::{Repository, RepositoryInitOptions, Signature};
use serde_json::json;

use crate::laws::{World, does_not_clobber, keeps_the_laws};

/// A clone with a remote: `main` at two commits, `side` with one of its own, a tag.
fn world() -> World {
    let world = World::new();
    let mut bare = RepositoryInitOptions::new();
    Repository::init_opts(world.at("remote.git"), bare.bare(true).initial_head("main")).unwrap();
    let mut options = RepositoryInitOptions::new();
    let repo = Repository::init_opts(world.at("app"), options.initial_head("main")).unwrap();
    commit(&world, &repo, "main.py", "one\n", "HEAD");
    let first = repo.head().unwrap().peel_to_commit().unwrap();
    commit(&world, &repo, "main.py", "two\n", "HEAD");
    let who = Signature::now("t", "t@localhost").unwrap();
    let blob = repo.blob(b"side\n").unwrap();
    let mut builder = repo.treebuilder(Some(&first.tree().unwrap())).unwrap();
    builder.insert("side.py", blob, 0o100_644).unwrap();
    let tree = repo.find_tree(builder.write().unwrap()).unwrap();
    repo.commit(Some("refs/heads/side"), &who, &who, "side", &tree, &[&first]).unwrap();
    repo.tag_lightweight("v1", first.as_object(), false).unwrap();
    let url = world.at("remote.git");
    let mut remote = repo.remote("origin", url.to_str().unwrap()).unwrap();
    remote.push(&["refs/heads/main:refs/heads/main"], None).unwrap();
    fs::write(world.at("app/main.py"), "three\n").unwrap();
    world
}

fn commit(world: &World, repo: &Repository, file: &str, text: &str, head: &str) {
    fs::write(world.at("app").join(file), text).unwrap();
    let mut index = repo.index().unwrap();
    index.add_path(Path::new(file)).unwrap();
    index.write().unwrap();
    let tree = repo.find_tree(index.write_tree().unwrap()).unwrap();
    let who = Signature::now("t", "t@localhost").unwrap();
    let parent = repo.head().ok().and_then(|head| head.peel_to_commit().ok());
    repo.commit(Some(head), &who, &who, text, &tree, &parent.iter().collect::<Vec<_>>()).unwrap();
}

fn refs(path: &Path) -> String {
    let repo = Repository::open(path).unwrap();
    let mut out: Vec<String> = repo
        .references()
        .unwrap()
        .flatten()
        .map(|r| format!("{} {:?}", String::from_utf8_lossy(r.name_bytes()), r.target()))
        .filter(|text| !text.starts_with("refs/backout/"))
        .collect();
    out.sort();
    out.join("\n")
}

/// Refs here and there, the index, the work tree.
fn state(world: &World) -> String {
    let repo = Repository::open(world.at("app")).unwrap();
    let index = super::index_digest(&repo).unwrap();
    format!("{}\n{}\n{index}\n{}", refs(&world.at("app")), refs(&world.at("remote.git")), world.digest())
}

#[test]
fn every_operation_keeps_the_laws() {
    for (operation, with, clean) in [
        ("commit", json!({"repo": "app", "paths": ["main.py"], "message": "three"}), false),
        ("merge", json!({"repo": "app", "from": "side"}), true),
        ("revert", json!({"repo": "app", "commit": "main"}), true),
        ("branch_create", json!({"repo": "app", "name": "new", "at": "main"}), false),
        ("branch_move", json!({"repo": "app", "name": "side", "at": "main"}), false),
        ("branch_delete", json!({"repo": "app", "name": "side"}), false),
        ("tag_create", json!({"repo": "app", "name": "v2", "at": "main"}), false),
        ("tag_move", json!({"repo": "app", "name": "v1", "at": "main"}), false),
        ("tag_delete", json!({"repo": "app", "name": "v1"}), false),
    ] {
        let world = world();
        if clean {
            fs::write(world.at("app/main.py"), "two\n").unwrap();
        }
        let step = world.step(&format!("git.{operation}"), with);
        keeps_the_laws(&world, &step, &state);
    }
}

#[test]
fn a_push_keeps_the_laws_also_when_forced() {
    let pushed = world();
    let repo = Repository::open(pushed.at("app")).unwrap();
    commit(&pushed, &repo, "main.py", "four\n", "HEAD");
    let step = pushed.step("git.push", json!({"repo": "app", "remote": "origin", "branch": "main"}));
    keeps_the_laws(&pushed, &step, &state);

    let forced = world();
    let repo = Repository::open(forced.at("app")).unwrap();
    let first = repo.find_reference("refs/tags/v1").unwrap().target().unwrap();
    repo.reference("refs/heads/main", first, true, "back").unwrap();
    let step = forced.step("git.push", json!({"repo": "app", "remote": "origin", "branch": "main", "force": true}));
    keeps_the_laws(&forced, &step, &state);
}

#[test]
fn a_push_is_not_taken_back_when_somebody_pushed_since() {
    let world = world();
    let repo = Repository::open(world.at("app")).unwrap();
    commit(&world, &repo, "main.py", "four\n", "HEAD");
    let step = world.step("git.push", json!({"repo": "app", "remote": "origin", "branch": "main"}));
    let somebody = |world: &World| {
        let remote = Repository::open(world.at("remote.git")).unwrap();
        let tip = remote.find_reference("refs/heads/main").unwrap().peel_to_commit().unwrap();
        let who = Signature::now("x", "x@localhost").unwrap();
        remote.commit(Some("refs/heads/main"), &who, &who, "theirs", &tip.tree().unwrap(), &[&tip]).map(drop).unwrap();
    };
    does_not_clobber(&world, &step, &somebody, &state);
}

#[test]
fn a_merge_over_changes_that_are_not_committed_is_refused() {
    let world = world();
    fs::write(world.at("app/side.py"), "untracked\n").unwrap();
    let step = world.step("git.merge", json!({"repo": "app", "from": "side"}));
    assert!(world.driver(&step).prepare(&step, world.scope()).is_err());
    assert_eq!(fs::read_to_string(world.at("app/side.py")).unwrap(), "untracked\n");
}

#[test]
fn a_ref_that_is_already_there_can_be_undone_and_stays() {
    let world = world();
    let step = world.step("git.tag_move", json!({"repo": "app", "name": "v1", "at": "refs/tags/v1"}));
    crate::laws::keeps_the_laws_of_nothing(&world, &step, &state);
}

#[test]
fn a_remote_that_is_named_by_a_relative_path_is_reached() {
    let world = world();
    Repository::open(world.at("app")).unwrap().remote_set_url("origin", "../remote.git").unwrap();
    let step = world.step("git.push", json!({"repo": "app", "remote": "origin", "branch": "side"}));
    keeps_the_laws(&world, &step, &state);
}

/// Whether a step on this world is refused when it is looked at.
fn is_refused(world: &World, operation: &str, with: serde_json::Value) -> bool {
    let step = || world.step(&format!("git.{operation}"), with.clone());
    let quiet = std::panic::catch_unwind(std::panic::AssertUnwindSafe(step));
    quiet.is_err()
}

#[test]
fn a_repository_that_leads_out_of_its_place_is_refused() {
    let branch = |repo: &str| json!({"repo": repo, "name": "side"});
    let world = world();
    let outside = tempfile::tempdir().unwrap();
    let config = |world: &World| Repository::open(world.at("app")).unwrap().config().unwrap();
    config(&world).set_str("core.worktree", outside.path().to_str().unwrap()).unwrap();
    assert!(is_refused(&world, "branch_delete", branch("app")), "core.worktree");
    config(&world).remove("core.worktree").unwrap();
    std::os::unix::fs::symlink("app", world.at("link")).unwrap();
    assert!(is_refused(&world, "branch_delete", branch("link")), "a symlink");
    fs::create_dir(world.at("other")).unwrap();
    fs::write(world.at("other/.git"), format!("gitdir: {}\n", world.at("app/.git").display())).unwrap();
    assert!(is_refused(&world, "branch_delete", branch("other")), "a .git file");
    assert!(!is_refused(&world, "branch_delete", branch("app")));
}

#[test]
fn a_commit_never_reads_through_a_symlink() {
    let world = world();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret\n").unwrap();
    std::os::unix::fs::symlink(outside.path(), world.at("app/link")).unwrap();
    assert!(is_refused(&world, "commit", json!({"repo": "app", "paths": ["link/secret"], "message": "x"})));
    assert!(is_refused(&world, "commit", json!({"repo": "app", "paths": ["sub/.git/config"], "message": "x"})));
}

#[test]
fn a_program_that_the_configuration_names_for_a_remote_is_never_run() {
    let world = world();
    let touched = world.at("touched");
    let text = format!("touch {}; git-upload-pack", touched.display());
    let mut config = Repository::open(world.at("app")).unwrap().config().unwrap();
    for key in ["remote.origin.uploadpack", "remote.origin.receivepack", "core.sshCommand", "core.fsmonitor"] {
        config.set_str(key, &text).unwrap();
    }
    let step = world.step("git.push", json!({"repo": "app", "remote": "origin", "branch": "side"}));
    keeps_the_laws(&world, &step, &state);
    assert!(!touched.exists());
}

#[test]
fn an_undo_on_another_branch_than_the_one_it_changed_refuses() {
    let world = world();
    let repo = Repository::open(world.at("app")).unwrap();
    repo.checkout_head(Some(git2::build::CheckoutBuilder::new().force())).unwrap();
    let step = world.step("git.merge", json!({"repo": "app", "from": "side"}));
    let switch = |world: &World| {
        let repo = Repository::open(world.at("app")).unwrap();
        let head = repo.head().unwrap().peel_to_commit().unwrap();
        repo.branch("feature", &head, false).unwrap();
        repo.set_head("refs/heads/feature").unwrap();
    };
    does_not_clobber(&world, &step, &switch, &state);
}

#[test]
fn a_branch_that_was_deleted_comes_back_with_its_reflog_and_nothing_of_ours_stays() {
    let world = world();
    let log = world.at("app/.git/logs/refs/heads/side");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    let zero = "0".repeat(40);
    let tip = Repository::open(world.at("app")).unwrap().refname_to_id("refs/heads/side").unwrap();
    fs::write(&log, format!("{zero} {tip} t <t@localhost> 1 +0000\tthe only trace\n")).unwrap();
    let kept = fs::read(&log).unwrap();
    let step = world.step("git.branch_delete", json!({"repo": "app", "name": "side"}));
    keeps_the_laws(&world, &step, &state);
    assert_eq!(fs::read(&log).unwrap(), kept);
    let repo = Repository::open(world.at("app")).unwrap();
    let ours = repo.references_glob("refs/backout/*").unwrap().count();
    assert_eq!(ours, 0);
}

#[test]
fn refs_that_stand_for_others_or_are_checked_out_elsewhere_are_refused() {
    let world = world();
    let repo = Repository::open(world.at("app")).unwrap();
    repo.reference_symbolic("refs/heads/alias", "refs/heads/side", false, "x").unwrap();
    let step = world.step("git.branch_delete", json!({"repo": "app", "name": "alias"}));
    assert!(world.driver(&step).prepare(&step, world.scope()).is_err());
    repo.worktree(
        "linked",
        &world.at("linked"),
        Some(git2::WorktreeAddOptions::new().reference(Some(&repo.find_reference("refs/heads/side").unwrap()))),
    )
    .unwrap();
    assert!(is_refused(&world, "branch_delete", json!({"repo": "app", "name": "side"})));
}

#[test]
fn a_merge_that_writes_other_bytes_than_it_stores_is_refused() {
    for (name, text) in [("side.py eol=crlf", ".gitattributes"), ("core.autocrlf", "config")] {
        let world = world();
        let repo = Repository::open(world.at("app")).unwrap();
        repo.checkout_head(Some(git2::build::CheckoutBuilder::new().force())).unwrap();
        match text {
            "config" => repo.config().unwrap().set_str(name, "true").unwrap(),
            file => fs::write(world.at("app").join(file), format!("{name}\n")).unwrap(),
        }
        assert!(is_refused(&world, "merge", json!({"repo": "app", "from": "side"})), "{name}");
    }
}
