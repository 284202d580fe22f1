//! Real commands leave the same tree whether they run natively or over a layer that is then committed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::path::Path;
use std::process::{Command, Output};

use snapshots::{Below, Effect, Entry, Hash, Layer, Node, Root, SnapshotError, Tree, scan};
use tests::cage::{Cage, Came};

/// What both worlds hold at first.
const WORLD: &str = r#"
mkdir -p src/deep/er empty data 'with space'
for n in 1 2 3 4 5; do printf 'line one\nx=%s\nline three\n' $n > src/f$n.c; done
printf 'alpha\nbeta\ngamma\n' > data/list.txt; head -c 200000 /dev/zero | tr '\0' 'z' > data/big.bin
printf '#!/bin/sh\necho hi\n' > src/run.sh; chmod 755 src/run.sh; chmod 600 data/list.txt; chmod 2775 empty
ln -s ../data/list.txt src/link; ln -s nowhere src/dangling; printf x > 'with space/a b'; : > src/deep/er/leaf
printf 'a: b\n\tcat b > a\nb:\n\techo made > b\n' > Makefile
printf '%s\n' '--- a/data/list.txt' '+++ b/data/list.txt' '@@ -1,3 +1,3 @@' ' alpha' '-beta' '+BETA' ' gamma' > fix.patch
tar cf pack.tar src; gzip -kn data/list.txt; (cd src && zip -qX ../pack.zip f1.c f2.c run.sh)
sqlite3 app.db 'create table t(a); insert into t values(1),(2),(3);'
python3 -c "import os; os.setxattr('data/list.txt', 'user.note', b'kept')"
git init -q -b main repo && cd repo && git config user.email a@b && git config user.name n && cp ../src/*.c . && git add . &&
GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' git commit -q -m one --date '2020-01-01T00:00:00Z' && git branch side && cd ..
find . -exec touch -h -d '2021-02-03 04:05:06' {} +
"#;

/// The commands, one a line.
const COMMANDS: &[&str] = &[
    "tar xf pack.tar -C empty",
    "tar xpf pack.tar --strip-components=1",
    "tar cf new.tar --sort=name data && tar tf new.tar > listing",
    "tar xf pack.tar --overwrite && rm pack.tar",
    "rsync -a src/ copy/",
    "rsync -a --delete empty/ src/",
    "rsync -aX --inplace data/ src/",
    "sed -i 's/x=1/x=9/' src/f1.c",
    "sed -i.bak '/line/d' src/*.c",
    "git -C repo checkout -q side && printf more >> repo/f1.c && git -C repo stash -q",
    "cd repo && git mv f1.c g1.c && git rm -q f2.c",
    "cd repo && echo 1 > junk && git clean -fdxq",
    "cd repo && echo 2 > f3.c && git add f3.c && git reset -q --hard",
    "cd repo && git tag v1 && git branch -D side",
    "cd repo && git config core.ignorecase true",
    "make -s",
    "make -s b && rm Makefile",
    "find src -name '*.c' -delete",
    "find . -path ./repo -prune -o -type f -exec chmod 640 {} +",
    "cp -a src again",
    "cp -r src/. empty/",
    "cp --remove-destination src/f1.c src/f2.c",
    "cp -al src/deep linked",
    "mv src moved",
    "mv src/f1.c src/f2.c && mv data/big.bin .",
    "mv 'with space' without && mv without/'a b' without/ab",
    "patch -s -p1 < fix.patch",
    "patch -s -b -p1 < fix.patch",
    "sqlite3 app.db 'insert into t values (4); delete from t where a = 1'",
    "sqlite3 app.db 'pragma journal_mode=wal; create table u(x)' > out",
    "python3 -c \"open('new.txt','w').write('x'); import os; os.rename('new.txt','src/new.txt')\"",
    "python3 -c \"import shutil; shutil.move('src','data/src'); shutil.rmtree('empty')\"",
    "python3 -c \"import os; os.link('src/f1.c','src/hard'); os.symlink('f1.c','src/soft'); os.truncate('src/f2.c', 3)\"",
    "python3 -c \"import os; os.utime('src/f1.c', (1, 86400*365)); os.setxattr('src/f2.c','user.a',b'1')\"",
    "python3 -c \"import os; os.removexattr('data/list.txt','user.note')\"",
    "python3 -c \"f=open('sparse','wb'); f.seek(1<<20); f.write(b'end')\"",
    "perl -pi -e 's/beta/delta/' data/list.txt",
    "perl -e 'rename \"src/f1.c\", \"src/z.c\"; unlink \"src/f2.c\"; mkdir \"p\"; chmod 0700, \"p\"'",
    "perl -ne 'print if /a/' data/list.txt > data/only",
    "unzip -qo pack.zip -d out",
    "zip -qXr all.zip data",
    "gunzip -f data/list.txt.gz",
    "gzip -n data/big.bin",
    "find src | cpio -pdm --quiet spread",
    "dpkg-deb --build --root-owner-group deb x.deb 2>/dev/null; mkdir deb && echo y > deb/y",
    "install -D -m 700 src/run.sh bin/tool/run",
    "ln -sfn ../data src/link && ln -s x 'with space/l'",
    "chmod -R go-rwx src && chmod g+s data",
    "touch -d '2001-01-01' src/f1.c && touch -h -d '2001-01-01' src/link && touch data",
    "truncate -s 1M data/big.bin && truncate -s 0 data/list.txt",
    "dd if=/dev/zero of=data/big.bin bs=1k seek=3 count=2 conv=notrunc status=none",
    "split -b 50k data/big.bin part. && cat part.* > whole && rm part.*",
    "sort -r -o data/list.txt data/list.txt",
    "awk '{print NR, $0}' data/list.txt > numbered && tee -a data/list.txt < numbered > /dev/null",
    "rm -rf src data empty && mkdir src && echo new > src/f1.c",
    "rm -r src/deep && mkdir -p src/deep/er/more && rmdir empty",
    "rm src/link && mkdir src/link && echo in > src/link/x",
    "rm -rf src/deep && echo now a file > src/deep",
    "mkdir -p a/b/c && chmod 500 a/b && mkfifo pipe && rm pipe",
    "csplit -s -f cut data/list.txt 2 && base64 data/list.txt > coded",
];

fn natively(world: &Path, line: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(world).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.output().unwrap()
}

fn native(world: &Path, line: &str) {
    let output = natively(world, line);
    assert!(output.status.success(), "{line}: {output:?}");
}

fn tree(world: &Path) -> Tree {
    scan(&Root::open(world).unwrap(), &[std::path::PathBuf::new()], None).unwrap()
}

/// Everything of an entry, with its time to the second: a time that both commands made themselves is "now".
fn told(world: &Path, entry: &Entry, since: i64) -> String {
    let meta = &entry.meta;
    let time = if meta.mtime_s >= since { "now".to_owned() } else { meta.mtime_s.to_string() };
    let node = match &entry.node {
        // By its bytes: the name of a content depends on its holes, which the kernel may fill when it copies a file up.
        Node::File(_) => format!("file {}", Hash::of(&std::fs::read(world.join(&entry.path)).unwrap())),
        other => format!("{other:?}"),
    };
    format!("{} {node} {:o} {}:{} {time} {:?}", entry.path.display(), meta.mode, meta.uid, meta.gid, meta.xattrs)
}

/// What a program writes with the time, inode or random numbers in it differs from run to run natively as well.
fn is_its_own(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/.git/")
        && (text.ends_with("/index")
            || text.contains("/logs/")
            || text.contains("/objects/")
            || text.contains("/refs/stash")
            || text.ends_with("ORIG_HEAD"))
        || text.ends_with(".zip")
        || text.starts_with("app.db")
}

fn compare(cage: &Cage, line: &str) {
    let since = jiff::Timestamp::now().as_second() - 1;
    native(&cage.path("native"), line);
    let came = cage.sh(line);
    assert_eq!(came.code(), 0, "{line}: {came:?}");
    assert!(came.tried().is_empty(), "{line}: {came:?}");
    commit(cage, &came, line);
    assert_same(cage, line, since);
}

fn commit(cage: &Cage, came: &Came, line: &str) {
    let world = cage.path("world");
    let committed = Layer::read(&came.upper, &cage.path("world")).unwrap().commit(
        &Root::open(&world).unwrap(),
        &tree(&world),
        "test",
    );
    committed.unwrap_or_else(|error| panic!("{line}: {error}"));
}

/// Both worlds are the same.
fn assert_same(cage: &Cage, line: &str, since: i64) {
    let (natural, world) = (cage.path("native"), cage.path("world"));
    let each = |at: &Path| -> Vec<String> {
        let tree = tree(at);
        let names = tree.entries.iter();
        names
            .map(
                |entry| if is_its_own(&entry.path) { entry.path.display().to_string() } else { told(at, entry, since) },
            )
            .collect()
    };
    let short =
        |lines: Vec<String>| -> Vec<String> { lines.into_iter().filter(|line| !line.contains("/objects/")).collect() };
    let (ours, theirs) = (short(each(&world)), short(each(&natural)));
    let only = |one: &[String], other: &[String]| -> Vec<String> {
        one.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    let (more, less) = (only(&ours, &theirs), only(&theirs, &ours));
    assert!(more.is_empty() && less.is_empty(), "{line}\ncommitted {more:#?}\nnatively {less:#?}");
}

fn prepare(cage: &Cage) {
    for name in ["native", "world"] {
        let folder = cage.path(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
    }
    native(&cage.path("native"), WORLD);
    native(&cage.path("native"), "cp -a . ../world");
}

#[test]
fn forty_commands_and_more_leave_what_they_leave_natively() {
    for line in COMMANDS {
        let cage = Cage::new();
        prepare(&cage);
        compare(&cage, line);
    }
}

/// What a layer does, as a plan is pinned to it.
fn pins(effects: &[Effect]) -> Vec<String> {
    let was = |effect: &Effect| match &effect.before.node {
        Node::File(content) => content.hash.to_string(),
        Node::HardLink(_) => String::new(),
        _ => effect.before.content_fingerprint(),
    };
    let pin = |it: &Effect| format!("{} {} {}", it.path.display(), was(it), it.after.content_fingerprint());
    effects.iter().map(pin).collect()
}

/// The second of two commands, tried out on top of the first, does what it does when the first was committed.
#[test]
fn a_command_on_top_of_another_that_nobody_committed_does_what_it_does_afterwards() {
    let (mut compared, mut refused) = (0, 0);
    for pair in COMMANDS.windows(2) {
        let (line, since) = (pair.join("  THEN  "), jiff::Timestamp::now().as_second() - 1);
        let cage = Cage::new();
        prepare(&cage);
        native(&cage.path("native"), pair[0]);
        if !natively(&cage.path("native"), pair[1]).status.success() {
            continue;
        }
        let root = Root::open(&cage.path("world")).unwrap();
        let first = cage.sh(pair[0]);
        let mut below = Below::new(&root);
        let effects = Layer::read(&first.upper, &cage.path("world")).unwrap().effects(&below).unwrap();
        below.lay(&effects);
        let second = cage.sh_on(pair[1], std::slice::from_ref(&first.upper));
        assert_eq!(second.code(), 0, "{line}: {second:?}");
        let tried = Layer::read(&second.upper, &cage.path("world")).unwrap().effects(&below);
        let seen = below.scan(&[std::path::PathBuf::new()]).unwrap().content_digest();
        commit(&cage, &first, &line);
        assert_eq!(seen, tree(&cage.path("world")).content_digest(), "{line}");
        let done = Layer::read(&second.upper, &cage.path("world")).unwrap().effects(&Below::new(&root));
        // Refused before is refused afterwards, for the same reason.
        let told = |found: Result<Vec<Effect>, SnapshotError>| {
            found.map(|found| pins(&found)).map_err(|error| error.to_string())
        };
        let (tried, done) = (told(tried), told(done));
        assert_eq!(tried, done, "{line}");
        if done.is_err() {
            refused += 1;
            continue;
        }
        commit(&cage, &second, &line);
        assert_same(&cage, &line, since);
        compared += 1;
    }
    assert!(compared >= 45 && refused <= 3, "{compared} {refused}");
}

#[test]
fn what_was_committed_holds_the_same_rows() {
    let cage = Cage::new();
    prepare(&cage);
    compare(&cage, "sqlite3 app.db 'insert into t values (4); delete from t where a = 1'");
    let rows = |name: &str| {
        let db = rusqlite::Connection::open(cage.path(name).join("app.db")).unwrap();
        db.query_row("select group_concat(a) from t", [], |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!((rows("world"), rows("native")), ("2,3,4".to_owned(), "2,3,4".to_owned()));
}

#[test]
fn a_file_with_other_names_is_not_split_from_them() {
    let cage = Cage::new();
    let world = cage.path("world");
    std::fs::hard_link(world.join("file"), world.join("other")).unwrap();
    let came = cage.sh("echo more >> file");
    let root = Root::open(&world).unwrap();
    let found = Layer::read(&came.upper, &cage.path("world")).unwrap().effects(&Below::new(&root));
    assert!(matches!(found, Err(SnapshotError::LinksLeaveScope { .. })), "{found:?}");
}

#[test]
fn a_change_that_came_meanwhile_keeps_the_whole_layer_from_being_committed() {
    let cage = Cage::new();
    let world = cage.path("world");
    let was = tree(&world);
    let came = cage.sh("echo a > a; echo b >> file");
    std::fs::write(world.join("file"), "somebody else\n").unwrap();
    let committed =
        Layer::read(&came.upper, &cage.path("world")).unwrap().commit(&Root::open(&world).unwrap(), &was, "test");
    assert!(matches!(committed, Err(SnapshotError::Meanwhile { .. })), "{committed:?}");
    assert!(!world.join("a").exists() && cage.still("world/file", "somebody else\n"));
}
