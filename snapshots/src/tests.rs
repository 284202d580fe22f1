//! What a snapshot promises, tried on real folders.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::{Node, Root, SnapshotError, SnapshotRef, Store, Tree, restore, scan};

struct World {
    dir: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn root(&self) -> Root {
        Root::open(&self.at("")).unwrap()
    }

    fn capture(&self) -> (SnapshotRef, Tree) {
        self.store.capture(&self.root(), &[PathBuf::new()], None).unwrap()
    }

    fn look(&self) -> Tree {
        scan(&self.root(), &[PathBuf::new()], None).unwrap()
    }

    fn put_back(&self, wanted: &SnapshotRef) -> Result<Tree, SnapshotError> {
        restore(&self.store, &self.root(), &[PathBuf::new()], wanted, &self.look(), "test")
    }

    /// One of everything.
    fn fill(&self) {
        fs::create_dir_all(self.at("conf/empty")).unwrap();
        fs::write(self.at("conf/app.toml"), "a = 1\n").unwrap();
        fs::write(self.at("conf/zero"), "").unwrap();
        fs::write(self.at("tool"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(self.at("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("conf/app.toml", self.at("link")).unwrap();
        symlink("/nowhere", self.at("dangling")).unwrap();
        fs::hard_link(self.at("tool"), self.at("conf/tool")).unwrap();
        let sparse = fs::File::create(self.at("sparse")).unwrap();
        sparse.set_len(10 << 20).unwrap();
        sparse.write_all_at(b"data", 5 << 20).unwrap();
        rustix::fs::setxattr(self.at("conf/app.toml"), "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
        rustix::fs::setxattr(self.at("conf"), "user.folder", b"too", rustix::fs::XattrFlags::empty()).unwrap();
    }
}

#[test]
fn everything_comes_back_after_everything_is_gone() {
    let world = World::new();
    world.fill();
    let (wanted, before) = world.capture();
    for name in ["tool", "link", "dangling", "sparse"] {
        fs::remove_file(world.at(name)).unwrap();
    }
    fs::remove_dir_all(world.at("conf")).unwrap();
    fs::write(world.at("conf"), "a file where a folder was").unwrap();
    fs::create_dir(world.at("link")).unwrap();
    fs::write(world.at("link/new"), "x").unwrap();
    world.put_back(&wanted).unwrap();
    assert_eq!(world.look().digest(), before.digest());
    assert_eq!(fs::metadata(world.at("tool")).unwrap().ino(), fs::metadata(world.at("conf/tool")).unwrap().ino());
    assert!(fs::metadata(world.at("sparse")).unwrap().blocks() * 512 < 1 << 20, "holes stay holes");
}

#[test]
fn each_kind_of_small_change_is_seen_and_put_back() {
    type Change = fn(&World);
    let changes: [(&str, Change); 10] = [
        ("content", |w| fs::write(w.at("conf/app.toml"), "a = 2\n").unwrap()),
        ("mode", |w| fs::set_permissions(w.at("conf/zero"), fs::Permissions::from_mode(0o600)).unwrap()),
        ("folder mode", |w| fs::set_permissions(w.at("conf/empty"), fs::Permissions::from_mode(0o700)).unwrap()),
        ("attribute", |w| rustix::fs::removexattr(w.at("conf/app.toml"), "user.note").unwrap()),
        ("new attribute", |w| {
            rustix::fs::setxattr(w.at("tool"), "user.x", b"y", rustix::fs::XattrFlags::empty()).unwrap();
        }),
        ("time", |w| {
            fs::File::open(w.at("conf/zero")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }),
        ("link target", |w| {
            fs::remove_file(w.at("link")).unwrap();
            symlink("conf/zero", w.at("link")).unwrap();
        }),
        ("split hard link", |w| {
            fs::remove_file(w.at("conf/tool")).unwrap();
            fs::write(w.at("conf/tool"), "#!/bin/sh\n").unwrap();
        }),
        ("new name", |w| fs::write(w.at("conf/new"), "x").unwrap()),
        ("written through a hard link", |w| fs::write(w.at("conf/tool"), "changed").unwrap()),
    ];
    for (name, change) in changes {
        let world = World::new();
        world.fill();
        let (wanted, before) = world.capture();
        change(&world);
        assert_ne!(world.look().digest(), before.digest(), "{name} is not seen");
        world.put_back(&wanted).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(world.look().digest(), before.digest(), "{name}");
    }
}

#[test]
fn what_cannot_be_captured_whole_is_refused_by_name() {
    let world = World::new();
    world.fill();
    let socket = std::os::unix::net::UnixListener::bind(world.at("socket")).unwrap();
    let refused = |world: &World| world.store.capture(&world.root(), &[PathBuf::new()], None).unwrap_err().to_string();
    assert!(refused(&world).contains("socket is a socket"), "{}", refused(&world));
    drop(socket);
    fs::remove_file(world.at("socket")).unwrap();
    fs::hard_link(world.at("tool"), world.dir.path().join("outside")).unwrap();
    assert!(refused(&world).contains("hard links outside"), "{}", refused(&world));
}

#[test]
fn a_refused_capture_leaves_no_file_in_the_store() {
    let world = World::new();
    world.fill();
    let _socket = std::os::unix::net::UnixListener::bind(world.at("zz")).unwrap();
    world.store.capture(&world.root(), &[PathBuf::new()], None).unwrap_err();
    assert_eq!(fs::read_dir(world.store.folder()).unwrap().count(), 0);
}

#[test]
fn an_unchanged_tree_is_captured_without_reading_and_a_change_with_an_old_time_is_still_seen() {
    let world = World::new();
    world.fill();
    std::thread::sleep(std::time::Duration::from_millis(80));
    let (first, before) = world.capture();
    let (_, again) = world.store.capture(&world.root(), &[PathBuf::new()], Some(&first)).unwrap();
    assert_eq!(again.digest(), before.digest());
    let file = world.at("conf/app.toml");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "a = 3\n").unwrap();
    fs::File::open(&file).unwrap().set_modified(modified).unwrap();
    let (_, changed) = world.store.capture(&world.root(), &[PathBuf::new()], Some(&first)).unwrap();
    assert_ne!(changed.digest(), before.digest());
}

#[test]
fn a_damaged_store_is_found_before_anything_is_put_back() {
    let world = World::new();
    world.fill();
    let (wanted, _) = world.capture();
    fs::write(world.at("conf/app.toml"), "a = 2\n").unwrap();
    let after = world.look();
    for pack in fs::read_dir(world.store.folder()).unwrap() {
        let path = pack.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
        fs::write(&path, bytes).unwrap();
    }
    assert!(matches!(world.put_back(&wanted), Err(SnapshotError::Integrity { .. })));
    assert_eq!(world.look().digest(), after.digest());
}

#[test]
fn an_absent_path_is_captured_as_absent_and_putting_back_removes_it() {
    let world = World::new();
    world.fill();
    let paths = [PathBuf::from("made/by/step"), PathBuf::from("conf/app.toml")];
    let (wanted, tree) = world.store.capture(&world.root(), &paths, None).unwrap();
    assert_eq!(tree.get(Path::new("made/by/step")).unwrap().node, Node::Absent);
    fs::create_dir_all(world.at("made/by")).unwrap();
    fs::write(world.at("made/by/step"), "x").unwrap();
    let now = scan(&world.root(), &paths, None).unwrap();
    restore(&world.store, &world.root(), &paths, &wanted, &now, "test").unwrap();
    assert!(!world.at("made/by/step").exists());
}

/// A small tree by chance: names, types and contents from few choices, so that they collide.
fn arbitrary_ops() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    prop::collection::vec((0u8..7, 0u8..12, 0u8..4), 1..40)
}

fn play(world: &World, ops: &[(u8, u8, u8)]) {
    for (op, name, value) in ops {
        let path = world.at(&format!("d{}/n{}", name % 3, name));
        let _ = match op {
            0 => fs::create_dir_all(&path),
            1 => fs::write(&path, vec![*value; usize::from(*value) * 1000]),
            2 => symlink(format!("n{value}"), &path),
            3 => fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)),
            4 => fs::set_permissions(&path, fs::Permissions::from_mode(0o700 + u32::from(*value))),
            5 => fs::hard_link(world.at(&format!("d{}/n{value}", name % 3)), &path),
            _ => fs::create_dir_all(world.at(&format!("d{}", name % 3))),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_comes_back_from_any_change(before in arbitrary_ops(), change in arbitrary_ops()) {
        let world = World::new();
        for folder in ["d0", "d1", "d2"] {
            fs::create_dir(world.at(folder)).unwrap();
        }
        play(&world, &before);
        let (wanted, tree) = world.capture();
        play(&world, &change);
        world.put_back(&wanted).unwrap();
        prop_assert_eq!(world.look().digest(), tree.digest());
    }
}

#[test]
fn what_somebody_writes_after_the_last_look_is_never_replaced() {
    for name in ["kept", "gone", "new"] {
        let dir = tempfile::tempdir().unwrap();
        let world = dir.path().join("world");
        fs::create_dir(&world).unwrap();
        for name in ["kept", "gone"] {
            fs::write(world.join(name), "before\n").unwrap();
        }
        let store = Store::open(&dir.path().join("store")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let paths = [PathBuf::from("world")];
        let (reference, _) = store.capture(&root, &paths, None).unwrap();
        fs::write(world.join("kept"), "the step\n").unwrap();
        fs::remove_file(world.join("gone")).unwrap();
        fs::write(world.join("new"), "the step\n").unwrap();
        let now = scan(&root, &paths, None).unwrap();
        fs::write(world.join(name), "somebody\n").unwrap();
        let outcome = restore(&store, &root, &paths, &reference, &now, "t");
        assert!(matches!(outcome, Err(SnapshotError::Meanwhile { .. })), "{name}: {outcome:?}");
        assert_eq!(fs::read_to_string(world.join(name)).unwrap(), "somebody\n");
    }
}

#[test]
fn a_content_that_is_not_what_was_stored_is_never_put_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("world")).unwrap();
    let path = dir.path().join("world/f");
    fs::write(&path, "before\n".repeat(1000)).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let root = Root::open(dir.path()).unwrap();
    let paths = [PathBuf::from("world")];
    let (reference, _) = store.capture(&root, &paths, None).unwrap();
    fs::write(&path, "after\n").unwrap();
    for entry in fs::read_dir(dir.path().join("store")).unwrap().flatten() {
        let mut bytes = fs::read(entry.path()).unwrap();
        bytes[100] ^= 1;
        fs::write(entry.path(), bytes).unwrap();
    }
    let now = scan(&root, &paths, None).unwrap();
    assert!(matches!(restore(&store, &root, &paths, &reference, &now, "t"), Err(SnapshotError::Integrity { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
    assert_eq!(fs::read_dir(dir.path().join("world")).unwrap().count(), 1, "nothing temporary stays");
}
