//! The laws, for commands that the library knows and for commands with a way back of their own.

use std::fs;

use kernel::{Claim, Sighting};
use schemas::{Class, Code};
use serde_json::{Value, json};

use crate::laws::{World, does_not_clobber, keeps_the_laws};

fn world() -> World {
    let world = World::new();
    fs::create_dir(world.at("conf")).unwrap();
    fs::write(world.at("conf/x.conf"), "x=1\n").unwrap();
    fs::write(world.at("state"), "3\n").unwrap();
    world
}

fn digest(world: &World) -> String {
    world.digest()
}

#[test]
fn a_known_command_on_declared_files_keeps_the_laws() {
    for (argv, writes) in [
        (json!(["sed", "-i", "s/x=1/x=2/", "conf/x.conf"]), json!(["conf/x.conf"])),
        (json!(["chmod", "0600", "conf/x.conf"]), json!(["conf"])),
        (json!(["cp", "conf/x.conf", "conf/y.conf"]), json!(["conf"])),
        (json!(["truncate", "--size=0", "conf/x.conf"]), json!(["conf/x.conf"])),
    ] {
        let world = world();
        let step = world.step("command.run", json!({"argv": argv, "writes": writes}));
        // Commands rewrite files with new times: what counts is what is in them.
        let contents = |world: &World| {
            let list = |name: &str| {
                fs::metadata(world.at(name)).map(|meta| (meta.permissions(), fs::read(world.at(name)).unwrap()))
            };
            format!("{:?} {:?}", list("conf/x.conf").ok(), list("conf/y.conf").ok())
        };
        keeps_the_laws(&world, &step, &contents);
        let exact = World::digest(&world);
        let before = world.driver(&step).prepare(&step, world.scope()).unwrap();
        world.driver(&step).apply(&step, &before, world.token(&step, false), world.scope()).unwrap();
        world.driver(&step).undo(&step, &before, None, world.token(&step, true), world.scope()).unwrap();
        assert_eq!(world.digest(), exact, "undo is exact to the time");
    }
}

fn counter() -> Value {
    json!({"id": "s", "uses": "command.run", "with": {"argv": ["sh", "-c", "echo 9 > state"]},
        "undo": {"argv": ["sh", "-c", "echo {old} > state"], "capture": [{"name": "old", "argv": ["cat", "state"], "regex": "^(\\d+)"}]}})
}

#[test]
fn a_way_back_of_the_plan_uses_what_was_captured() {
    let world = world();
    let step = world.step_of(counter());
    assert_eq!(step.lowered.class, Class::PartiallyReversible);
    let contents = |world: &World| fs::read_to_string(world.at("state")).unwrap();
    keeps_the_laws(&world, &step, &contents);
}

#[test]
fn an_undo_never_overwrites_somebody_elses_change() {
    let known = world();
    let step = known
        .step("command.run", json!({"argv": ["sed", "-i", "s/x=1/x=2/", "conf/x.conf"], "writes": ["conf/x.conf"]}));
    does_not_clobber(&known, &step, &|world| fs::write(world.at("conf/x.conf"), "mine\n").unwrap(), &digest);
    let own = world();
    let step = own.step_of(counter());
    does_not_clobber(&own, &step, &|world| fs::write(world.at("state"), "77\n").unwrap(), &digest);
}

#[test]
fn what_nobody_can_see_is_unclear_and_never_absent() {
    let world = world();
    let step = world.step("command.run", json!({"argv": ["sh", "-c", "exit 1"]}));
    assert_eq!(step.lowered.class, Class::Irreversible);
    let before = world.driver(&step).prepare(&step, world.scope()).unwrap();
    assert!(world.driver(&step).apply(&step, &before, world.token(&step, false), world.scope()).is_err());
    let seen = world.driver(&step).observe(&step, &before, Some(Claim::Failed), world.scope());
    assert!(matches!(seen, Sighting::Unclear { .. }), "{seen:?}");
}

#[test]
fn a_change_after_the_last_sign_of_life_is_nobodys_to_undo() {
    let world = world();
    let step = world
        .step("command.run", json!({"argv": ["sed", "-i", "s/x=1/x=2/", "conf/x.conf"], "writes": ["conf/x.conf"]}));
    let before = world.driver(&step).prepare(&step, world.scope()).unwrap();
    fs::write(world.at("conf/x.conf"), "later\n").unwrap();
    let late = kernel::Scope { alive_until_ms: Some(1), ..world.scope().clone() };
    assert!(matches!(world.driver(&step).observe(&step, &before, None, &late), Sighting::Unclear { .. }));
}

#[test]
fn a_way_back_that_cannot_be_bound_is_refused_before_the_run() {
    let world = world();
    for step in [
        json!({"id": "s", "uses": "command.run", "with": {"argv": ["rm", "conf/x.conf"]}}),
        json!({"id": "s", "uses": "command.run", "with": {"argv": ["rm", "state"], "writes": ["conf"]}}),
        json!({"id": "s", "uses": "command.run", "with": {"argv": ["x"]}, "undo": {"argv": ["y", "{nobody}"]}}),
        json!({"id": "s", "uses": "command.run", "with": {"argv": ["x"]}, "undo": {"argv": ["y"]}}),
    ] {
        let parsed = serde_json::from_value(step.clone()).unwrap();
        let found = super::lower::lower(&parsed, 0, &world.facts()).unwrap_err();
        assert_eq!(found[0].code, Code::UNDO_UNBOUND, "{step}");
    }
}

#[test]
fn the_way_back_of_an_effect_that_was_there_before_takes_nothing_away() {
    let world = world();
    fs::write(world.at("flag"), "on\n").unwrap();
    let step = world.step_of(json!({"id": "s", "uses": "command.run",
        "with": {"argv": ["sh", "-c", "echo on > flag"], "present": ["grep", "-q", "on", "flag"]},
        "undo": {"argv": ["rm", "flag"]}}));
    crate::laws::keeps_the_laws_of_nothing(&world, &step, &|world| {
        fs::read_to_string(world.at("flag")).unwrap_or_default()
    });
}

#[test]
fn a_captured_value_holds_no_complaint_and_is_never_cut() {
    let own = |program: &str| {
        json!({"id": "s", "uses": "command.run", "with": {"argv": ["sh", "-c", "echo 9 > state"]},
            "undo": {"argv": ["sh", "-c", "printf '%s\n' \"{old}\" > state"], "capture": [{"name": "old", "argv": ["sh", "-c", program], "regex": "(?s)(.+)\n"}]}})
    };
    let world = world();
    let step = world.step_of(own("cat state; echo warning: deprecated >&2"));
    keeps_the_laws(&world, &step, &|world| fs::read_to_string(world.at("state")).unwrap());
    let step = world.step_of(own("cat state; head -c 2000000 /dev/zero | tr '\\0' x"));
    assert!(world.driver(&step).prepare(&step, world.scope()).is_err());
}
