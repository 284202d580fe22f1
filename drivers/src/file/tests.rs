//! The laws, for every operation on files; and what file steps refuse.

use schemas::Share;
use std::fs;

use serde_json::json;

use crate::laws::{World, does_not_clobber, keeps_the_laws};

fn world() -> World {
    let world = World::new();
    fs::create_dir_all(world.at("conf/sub")).unwrap();
    fs::write(world.at("conf/a.txt"), "one\ntwo\n").unwrap();
    fs::write(world.at("conf/sub/b.txt"), "b\n").unwrap();
    fs::write(world.at("conf/sub/c.log"), "c\n").unwrap();
    std::os::unix::fs::symlink("a.txt", world.at("conf/link")).unwrap();
    world
}

#[test]
fn every_operation_keeps_the_laws() {
    for (uses, with) in [
        ("file.write", json!({"path": "conf/a.txt", "content": "new\n"})),
        ("file.write", json!({"path": "conf/new.txt", "content_base64": "AAEC", "mode": "0600"})),
        ("file.append", json!({"path": "conf/a.txt", "content": "three\n"})),
        ("file.replace", json!({"path": "conf/a.txt", "find": "two", "replace": "2"})),
        ("file.move", json!({"from": "conf/a.txt", "to": "conf/moved.txt"})),
        ("file.move", json!({"from": "conf/sub", "to": "conf/elsewhere"})),
        ("file.copy", json!({"from": "conf/sub", "to": "conf/copy"})),
        ("file.delete", json!({"paths": ["conf/a.txt"]})),
        ("file.delete", json!({"paths": ["conf/sub"], "recursive": true})),
        ("file.delete", json!({"glob": "conf/**/*.log"})),
        ("file.chmod", json!({"path": "conf/a.txt", "mode": "0600"})),
        ("file.symlink", json!({"path": "conf/link", "target": "sub/b.txt"})),
        ("file.symlink", json!({"path": "conf/link2", "target": "nowhere"})),
    ] {
        let world = world();
        let step = world.step(uses, with);
        keeps_the_laws(&world, &step, &|world| world.digest());
    }
}

#[test]
fn an_undo_never_overwrites_somebody_elses_change() {
    for (uses, with) in [
        ("file.write", json!({"path": "conf/a.txt", "content": "new\n"})),
        ("file.delete", json!({"paths": ["conf/a.txt"]})),
        ("file.chmod", json!({"path": "conf/a.txt", "mode": "0600"})),
    ] {
        let world = world();
        let step = world.step(uses, with);
        let edit = |world: &World| fs::write(world.at("conf/a.txt"), "by a person\n").unwrap();
        does_not_clobber(&world, &step, &edit, &|world| world.digest());
    }
}

#[test]
fn a_symlink_in_the_way_is_never_followed() {
    let world = world();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("a.txt"), "outside\n").unwrap();
    let step = world.step("file.write", json!({"path": "conf/sub/b.txt", "content": "new\n"}));
    let (driver, scope) = (world.driver(&step), world.scope());
    let before = driver.prepare(&step, scope).unwrap();
    fs::remove_dir_all(world.at("conf/sub")).unwrap();
    std::os::unix::fs::symlink(outside.path(), world.at("conf/sub")).unwrap();
    assert!(driver.apply(&step, &before, world.token(&step, false), scope).is_err());
    assert_eq!(fs::read_to_string(outside.path().join("a.txt")).unwrap(), "outside\n");
    assert!(!outside.path().join("b.txt").exists());
}

#[test]
fn what_cannot_be_done_is_said_when_it_is_looked_at() {
    let world = world();
    for (uses, with) in [
        ("file.append", json!({"path": "conf/none.txt", "content": "x"})),
        ("file.replace", json!({"path": "conf/a.txt", "find": "absent", "replace": "x"})),
        ("file.move", json!({"from": "conf/a.txt", "to": "conf/sub/b.txt"})),
        ("file.delete", json!({"paths": ["conf/sub"]})),
    ] {
        let probed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.step(uses, with)));
        assert!(probed.is_err(), "{uses}");
    }
}

#[test]
fn a_step_that_changes_nothing_can_be_undone() {
    for (uses, with) in [
        ("file.write", json!({"path": "conf/a.txt", "content": "one\ntwo\n"})),
        ("file.replace", json!({"path": "conf/a.txt", "find": "two", "replace": "two"})),
        ("file.chmod", json!({"path": "conf/a.txt", "mode": "0644"})),
        ("file.symlink", json!({"path": "conf/link", "target": "a.txt"})),
    ] {
        let world = world();
        fs::set_permissions(world.at("conf/a.txt"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let step = world.step(uses, with);
        crate::laws::keeps_the_laws_of_nothing(&world, &step, &|world| {
            world.digest();
            fs::read_to_string(world.at("conf/a.txt")).unwrap()
        });
    }
}

#[test]
fn bytes_that_a_person_put_back_by_hand_are_nobodys_conflict_and_the_time_is_put_back_too() {
    for by_hand in ["one\ntwo\n", "new\n"] {
        let world = world();
        let exact = world.digest();
        let step = world.step("file.write", json!({"path": "conf/a.txt", "content": "new\n"}));
        let (driver, scope) = (world.driver(&step), world.scope());
        let before = driver.prepare(&step, scope).unwrap();
        driver.apply(&step, &before, world.token(&step, false), scope).unwrap();
        let kernel::Sighting::Present { after, .. } = driver.observe(&step, &before, None, scope) else {
            panic!("not there")
        };
        fs::write(world.at("conf/a.txt"), by_hand).unwrap();
        driver.undo(&step, &before, Some(&after), world.token(&step, true), scope).unwrap();
        assert_eq!(world.digest(), exact, "{by_hand:?}");
    }
}

#[test]
fn a_file_that_was_only_touched_is_not_stale() {
    let world = world();
    let step = world.step("file.write", json!({"path": "conf/a.txt", "content": "new\n"}));
    let assessed = world.driver(&step).probe(&step, &[]).unwrap();
    let file = fs::File::options().write(true).open(world.at("conf/a.txt")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let before = world.driver(&step).prepare(&step, world.scope()).unwrap();
    assert_eq!(assessed.fingerprints, before.fingerprints);
}

fn probed(world: &World, with: serde_json::Value) -> Result<schemas::StepAssessment, kernel::DriverError> {
    let step = world.step("file.delete", with);
    world.driver(&step).probe(&step, &[])
}

#[test]
fn a_recursive_delete_says_how_much_it_takes_of_what_lies_beside() {
    let world = world();
    assert_eq!(
        probed(&world, json!({"paths": ["conf/sub"], "recursive": true})).unwrap().share.map(Share::percent),
        Some(50)
    );
    assert_eq!(
        probed(&world, json!({"paths": ["conf"], "recursive": true})).unwrap().share.map(Share::percent),
        Some(100)
    );
    assert_eq!(probed(&world, json!({"paths": ["conf/a.txt"]})).unwrap().share, None);
}

#[test]
fn a_delete_whose_names_depend_on_an_earlier_step_is_refused() {
    let world = world();
    let prior = world.step("file.write", json!({"path": "conf/sub/d.log", "content": "x"}));
    for with in [json!({"glob": "conf/**/*.log"}), json!({"paths": ["conf/sub"], "recursive": true})] {
        let step = world.step("file.delete", with.clone());
        assert!(world.driver(&step).probe(&step, &[&prior]).is_err(), "{with}");
    }
    let step = world.step("file.delete", json!({"paths": ["conf/sub/c.log"]}));
    assert!(world.driver(&step).probe(&step, &[&prior]).is_ok());
}

#[test]
fn what_a_folder_hands_down_to_new_names_is_no_part_of_a_step() {
    let world = world();
    // A setgid folder of another group, with a default ACL (version 2, six entries of eight bytes).
    let folder = world.at("conf");
    std::os::unix::fs::chown(&folder, None, Some(12_345)).unwrap();
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o2775)).unwrap();
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 7, 1), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let set = rustix::fs::setxattr(&folder, "system.posix_acl_default", &acl, rustix::fs::XattrFlags::empty());
    assert!(set.is_ok() || set == Err(rustix::io::Errno::NOTSUP));
    for (uses, with) in [
        ("file.write", json!({"path": "conf/new.txt", "content": "new\n"})),
        ("file.copy", json!({"from": "conf/sub", "to": "conf/copy"})),
        ("file.write", json!({"path": "conf/a.txt", "content": "changed\n"})),
    ] {
        let step = world.step(uses, with);
        keeps_the_laws(&world, &step, &|world| world.digest());
    }
}
