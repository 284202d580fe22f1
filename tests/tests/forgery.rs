//! Forged, borrowed, replayed and mangled words: none of them counts, and each is refused by its own name.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tests::program::{Bench, Ran};

const TYPE: &str = "application/vnd.in-toto+json";
const NAMESPACE: &str = "approval@backout";

/// A site where changes need people, who sign with SSH keys.
struct Forge {
    bench: Bench,
    manifest: String,
    cases: std::cell::RefCell<Vec<String>>,
}

fn keygen(words: &[&str], input: Option<&[u8]>) -> Vec<u8> {
    use std::io::Write as _;
    let mut child = Command::new("ssh-keygen")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.unwrap_or_default()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{words:?}");
    done.stdout
}

/// DSSE, protocol.md.
fn pae(kind: &str, payload: &[u8]) -> Vec<u8> {
    [format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).as_bytes(), payload].concat()
}

impl Forge {
    fn new() -> Self {
        let bench = Bench::new();
        let root = bench.path("world").canonicalize().unwrap();
        bench.site(&format!(
            "[environments.test]\nroots = [{root:?}]\n[environments.prod]\nroots = [{root:?}]\nproduction = true\n"
        ));
        let agent = ["key", "new", "bot", "--role", "agent", "--environment", "prod", "--duty", "change"];
        assert_eq!(bench.run(&agent).code, 0);
        for (name, kind) in [
            ("eve", "ed25519"),
            ("eve-2", "ed25519"),
            ("adam", "ed25519"),
            ("bot-key", "ed25519"),
            ("stage", "ed25519"),
            ("mallory", "ed25519"),
            ("rsa", "rsa"),
            ("ec", "ecdsa"),
        ] {
            let file = bench.path(name);
            keygen(&["-q", "-t", kind, "-N", "", "-C", "", "-f", file.to_str().unwrap()], None);
        }
        for (name, owner, role) in [
            ("eve", "eve", "approver:prod"),
            ("eve-2", "eve", "approver:prod"),
            ("adam", "adam", "approver:prod"),
            ("bot-key", "bot", "approver:prod"),
            ("stage", "stage", "approver:test"),
        ] {
            let public = bench.path(&format!("{name}.pub"));
            let words = ["key", "add", public.to_str().unwrap(), "--owner", owner, "--role", role];
            assert_eq!(bench.run(&words).code, 0, "{name}");
        }
        // A second agent whose key got the approver's role by mistake.
        let mistake = [
            "key",
            "new",
            "other-bot",
            "--role",
            "agent",
            "--role",
            "approver:prod",
            "--environment",
            "prod",
            "--duty",
            "change",
        ];
        assert_eq!(bench.run(&mistake).code, 0);
        std::fs::write(bench.path("world/x"), "x\n").unwrap();
        let manifest = gated(&bench, "first");
        Self { bench, manifest, cases: Default::default() }
    }

    /// What is to be signed, as the program writes it.
    fn statement(&self) -> Value {
        let file = self.bench.path("payload");
        let words = ["approve", &self.manifest, "--print-payload", file.to_str().unwrap()];
        assert_eq!(self.bench.run(&words).code, 0);
        let bytes = std::fs::read(file).unwrap();
        let start = bytes.iter().position(|byte| *byte == b'{').unwrap();
        serde_json::from_slice(&bytes[start..]).unwrap()
    }

    fn sign(&self, key: &str, namespace: &str, message: &[u8]) -> Vec<u8> {
        let key: PathBuf = self.bench.path(key);
        keygen(&["-Y", "sign", "-n", namespace, "-f", key.to_str().unwrap()], Some(message))
    }

    fn submit(&self, signed: &[u8], signature: &[u8]) -> Ran {
        let (payload, sig) = (self.bench.path("p"), self.bench.path("s"));
        std::fs::write(&payload, signed).unwrap();
        std::fs::write(&sig, signature).unwrap();
        let words =
            ["approve", &self.manifest, "--payload", payload.to_str().unwrap(), "--signature", sig.to_str().unwrap()];
        self.bench.run(&words)
    }

    /// Refused, by this name, and nothing is on record.
    fn refused(&self, what: &str, code: &str, ran: &Ran) {
        assert_eq!(ran.value["type"].as_str(), Some(code), "{what}: {ran:?}");
        assert!(matches!(ran.code, 2 | 3 | 7), "{what}: {ran:?}");
        let run = self.bench.run(&["run", &self.manifest]);
        assert_eq!(run.code, 6, "{what}: it still waits: {run:?}");
        self.cases.borrow_mut().push(format!("{code}: {what}"));
    }

    /// A statement that is not as it should be, signed properly by somebody who may approve.
    fn changed(&self, what: &str, code: &str, change: impl FnOnce(&mut Value)) {
        let mut statement = self.statement();
        change(&mut statement);
        let message = pae(TYPE, statement.to_string().as_bytes());
        let ran = self.submit(&message, &self.sign("eve", NAMESPACE, &message));
        self.refused(what, code, &ran);
    }
}

fn gated(bench: &Bench, session: &str) -> String {
    let plan = json!({"session": session, "agent": "bot", "environment": "prod", "intent": "delete",
        "steps": [{"id": "d", "uses": "file.delete", "with": {"paths": ["x"]}}]});
    let file = bench.sign_as(session, &plan, "bot");
    let ran = bench.run(&["gate", file.to_str().unwrap()]);
    assert_eq!(ran.code, 6, "{ran:?}");
    ran.value["manifest"].as_str().unwrap().to_owned()
}

/// What is said.
fn words(forge: &Forge) {
    let other = gated(&forge.bench, "second");
    let said = |value: Value| move |statement: &mut Value| statement["predicate"] = value;
    forge.changed("for another manifest", "approval-manifest", |it| {
        it["subject"][0]["digest"]["sha256"] = json!(other.trim_start_matches("sha256:"));
    });
    forge.changed("for two manifests", "approval-manifest", |it| {
        let again = it["subject"][0].clone();
        it["subject"].as_array_mut().unwrap().push(again);
    });
    forge.changed("for none", "approval-manifest", |it| it["subject"] = json!([]));
    forge.changed("for a digest in capitals", "approval-manifest", |it| {
        let upper = it["subject"][0]["digest"]["sha256"].as_str().unwrap().to_uppercase();
        it["subject"][0]["digest"]["sha256"] = json!(upper);
    });
    forge.changed("for the plan", "approval-manifest", |it| {
        it["subject"][0]["digest"]["sha256"] = json!("0".repeat(64))
    });
    for environment in ["test", "production", "PROD", "prod ", ""] {
        forge.changed(&format!("for environment {environment:?}"), "approval-environment", |it| {
            it["predicate"]["environment"] = json!(environment);
        });
    }
    for (what, issued, expires) in [
        ("expired", "2020-01-01T00:00:00Z", "2020-01-01T00:20:00Z"),
        ("from the future", "2090-01-01T00:00:00Z", "2090-01-01T00:20:00Z"),
        ("for ever", "2020-01-01T00:00:00Z", "2090-01-01T00:00:00Z"),
        ("that ends before it begins", "2026-01-01T01:00:00Z", "2026-01-01T00:00:00Z"),
    ] {
        forge.changed(what, "approval-time", |it| {
            it["predicate"]["issued"] = json!(issued);
            it["predicate"]["expires"] = json!(expires);
        });
    }
    for version in [0, 1, 99] {
        forge.changed(&format!("under trust root {version}"), "approval-trust", |it| {
            it["predicate"]["trust_version"] = json!(version);
        });
    }
    for nonce in ["", "0", "zz", &"g".repeat(32), &"A".repeat(32), &"0".repeat(33)] {
        forge.changed(&format!("nonce {nonce:?}"), "approval-nonce", |it| it["predicate"]["nonce"] = json!(nonce));
    }
    forge.changed("another predicate", "signature", |it| it["predicateType"] = json!("https://backout.dev/receipt/v1"));
    forge.changed("another statement", "signature", |it| it["_type"] = json!("https://in-toto.io/Statement/v2"));
    forge.changed("a verdict of its own", "signature", |it| it["predicate"]["verdict"] = json!("maybe"));
    forge.changed("a field more", "signature", |it| it["predicate"]["also"] = json!(1));
    forge.changed("a field less", "signature", |it| drop(it["predicate"].as_object_mut().unwrap().remove("nonce")));
    forge.changed("a number that is none", "signature", |it| it["predicate"]["trust_version"] = json!(3.5));
    forge.changed("a number beyond 2^53", "signature", |it| {
        it["predicate"]["trust_version"] = json!(9_007_199_254_740_993_u64)
    });
    forge.changed("a manifest in place of an approval", "signature", said(json!({"session": "first"})));
    forge.changed("a list", "signature", said(json!([])));
    forge.changed("nothing", "signature", said(Value::Null));
}

/// Bytes that were signed are not those that are submitted, or are read in two ways.
fn bytes(forge: &Forge) {
    let text = forge.statement().to_string();
    let message = pae(TYPE, text.as_bytes());
    let signature = forge.sign("eve", NAMESPACE, &message);
    let edited = |from: &str, to: &str| pae(TYPE, text.replacen(from, to, 1).as_bytes());
    for (what, bytes) in [
        ("one byte of the payload edited", edited("\"approve\"", "\"approvE\"")),
        ("a space more", edited("{", "{ ")),
        ("the reason edited", edited("\"reason\":\"\"", "\"reason\":\"x\"")),
        ("the last byte edited", edited("first", "firsT").into_iter().chain(*b" ").take(message.len()).collect()),
    ] {
        if bytes != message {
            let ran = forge.submit(&bytes, &signature);
            let code = ran.value["type"].as_str().unwrap_or_default().to_owned();
            assert!(["signature", "usage"].contains(&code.as_str()), "{what}: {ran:?}");
            forge.refused(what, &code, &ran);
        }
    }
    let twice = text.replacen("\"verdict\":", "\"verdict\":\"reject\",\"verdict\":", 1);
    let doubled = pae(TYPE, twice.as_bytes());
    forge.refused("a key twice", "signature", &forge.submit(&doubled, &forge.sign("eve", NAMESPACE, &doubled)));
    let deep = pae(TYPE, format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)).as_bytes());
    forge.refused("nesting without end", "signature", &forge.submit(&deep, &forge.sign("eve", NAMESPACE, &deep)));
    let confused = pae("application/vnd.backout.plan.v1+json", text.as_bytes());
    forge.refused(
        "signed as another type",
        "usage",
        &forge.submit(&confused, &forge.sign("eve", NAMESPACE, &confused)),
    );
    let lying = String::from_utf8(message.clone()).unwrap().replacen(
        &format!(" {} {{", text.len()),
        &format!(" {} {{", text.len() - 1),
        1,
    );
    forge.refused(
        "a length that lies",
        "usage",
        &forge.submit(lying.as_bytes(), &forge.sign("eve", NAMESPACE, lying.as_bytes())),
    );
    forge.refused(
        "the bare payload, without its type",
        "usage",
        &forge.submit(text.as_bytes(), &forge.sign("eve", NAMESPACE, text.as_bytes())),
    );
    let of_payload = forge.sign("eve", NAMESPACE, text.as_bytes());
    forge.refused("a signature over the bare payload", "signature", &forge.submit(&message, &of_payload));
}

/// Who signed, and how.
fn signers(forge: &Forge) {
    let message = pae(TYPE, forge.statement().to_string().as_bytes());
    for namespace in ["file", "git", "approval", "approval@Backout", "approval@backout ", "plan@backout"] {
        let ran = forge.submit(&message, &forge.sign("eve", namespace, &message));
        forge.refused(&format!("in namespace {namespace:?}"), "signature", &ran);
    }
    for (what, key) in [
        ("by a key that nobody enrolled", "mallory"),
        ("by an approver of another environment", "stage"),
        ("by an RSA key", "rsa"),
        ("by an ECDSA key", "ec"),
    ] {
        forge.refused(what, "signature", &forge.submit(&message, &forge.sign(key, NAMESPACE, &message)));
    }
    forge.refused(
        "by who asked, with a key for people",
        "approval-requester",
        &forge.submit(&message, &forge.sign("bot-key", NAMESPACE, &message)),
    );
    let run = |words: &[&str]| forge.bench.run(&[&["approve", &forge.manifest], words].concat());
    forge.refused(
        "by another agent whose key is an approver's by mistake",
        "approval-agent",
        &run(&["--as", "other-bot"]),
    );
    forge.refused("by the agent that asked", "signature", &run(&["--as", "bot"]));
    for name in ["gate", "runner", "log", "root"] {
        forge.refused(&format!("by the {name} key"), "signature", &run(&["--as", name]));
    }
    let good = String::from_utf8(forge.sign("eve", NAMESPACE, &message)).unwrap();
    let other = String::from_utf8(forge.sign("mallory", NAMESPACE, &message)).unwrap();
    let body = |armored: &str| armored.lines().filter(|line| !line.starts_with("-----")).collect::<String>();
    let armor = |body: &str| format!("-----BEGIN SSH SIGNATURE-----\n{body}\n-----END SSH SIGNATURE-----\n");
    // The first 76 bytes hold the magic, the version and the key: eve's name on mallory's signature.
    let borrowed = armor(&(body(&good)[..96].to_owned() + &body(&other)[96..]));
    let flipped = {
        let mut text = body(&good);
        let at = text.len() - 10;
        let new = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
        text.replace_range(at..=at, new);
        armor(&text)
    };
    for (what, signature) in [
        ("under a borrowed name", borrowed),
        ("with one character edited", flipped),
        ("cut short", good[..good.len() / 2].to_owned()),
        ("twice in one file", good.clone() + &good),
        ("with something before it", format!("x\n{good}")),
        ("without its armor", body(&good)),
        ("with something after it", good.clone() + "x"),
        ("empty", String::new()),
        ("too large", "A".repeat(5_000)),
    ] {
        forge.refused(&format!("a signature {what}"), "signature", &forge.submit(&message, signature.as_bytes()));
    }
}

#[test]
fn no_forged_word_counts_and_each_is_refused_by_its_name() {
    let forge = Forge::new();
    words(&forge);
    bytes(&forge);
    signers(&forge);
    let cases = forge.cases.borrow().clone();
    println!("{} forgeries refused", cases.len());
    assert!(cases.len() >= 60, "{}", cases.len());
    // The same statement is good once, and once alone.
    let message = pae(TYPE, forge.statement().to_string().as_bytes());
    let signature = forge.sign("eve", NAMESPACE, &message);
    assert_eq!(forge.submit(&message, &signature).code, 0);
    let again = forge.submit(&message, &forge.sign("adam", NAMESPACE, &message));
    assert_eq!(again.value["type"].as_str(), Some("approval-nonce"), "{again:?}");
    assert_eq!(forge.bench.run(&["run", &forge.manifest]).code, 0);
}

#[test]
fn two_keys_of_one_person_are_one_person() {
    let forge = Forge::new();
    // An irreversible step that the site allows needs two people.
    let root = forge.bench.path("world").canonicalize().unwrap();
    forge
        .bench
        .site(&format!("[environments.prod]\nroots = [{root:?}]\nproduction = true\nallow_irreversible = true\n"));
    let plan = json!({"session": "two", "agent": "bot", "environment": "prod", "intent": "run",
        "steps": [{"id": "c", "uses": "command.run", "with": {"argv": ["sh", "-c", "true"], "contain": "none"}}]});
    let file = forge.bench.sign_as("two", &plan, "bot");
    let gate = forge.bench.run(&["gate", file.to_str().unwrap()]);
    assert_eq!((gate.code, &gate.value["people"]), (6, &json!(2)), "{gate:?}");
    let manifest = gate.value["manifest"].as_str().unwrap();
    let approve = |key: &str, confirm: &str| {
        let key = forge.bench.path(key);
        forge.bench.run(&["approve", manifest, "--ssh", key.to_str().unwrap(), "--confirm", confirm])
    };
    assert_eq!(approve("eve", "another").code, 2, "the session's name must be typed");
    assert_eq!(forge.bench.run(&["approve", manifest, "--ssh", forge.bench.path("eve").to_str().unwrap()]).code, 2);
    assert_eq!(approve("eve", "two").code, 0);
    assert_eq!(approve("eve-2", "two").code, 0);
    let run = forge.bench.run(&["run", manifest]);
    let codes: BTreeSet<&str> =
        run.value["findings"].as_array().unwrap().iter().filter_map(|finding| finding["code"].as_str()).collect();
    assert_eq!((run.code, codes), (6, BTreeSet::from(["approval-same-person", "approvals-missing"])), "{run:?}");
    let waiting = forge.bench.run(&["approvals"]);
    let mine = waiting.value["manifests"].as_array().unwrap().iter().find(|it| it["session"] == "two").unwrap();
    assert_eq!((&mine["state"], &mine["approved_by"]), (&json!("waiting"), &json!(["eve"])));
    assert_eq!(approve("adam", "two").code, 0);
    assert_eq!(forge.bench.run(&["run", manifest]).code, 0);
}

#[test]
fn what_is_signed_here_verifies_with_ssh_keygen_and_not_in_another_namespace() {
    let forge = Forge::new();
    let key = forge.bench.path("eve");
    assert_eq!(forge.bench.run(&["approve", &forge.manifest, "--ssh", key.to_str().unwrap()]).code, 0);
    let documents = std::fs::read_dir(forge.bench.path("state/documents")).unwrap().flatten();
    let envelope: Value = documents
        .filter_map(|entry| serde_json::from_slice::<Value>(&std::fs::read(entry.path()).ok()?).ok())
        .find(|it| it["signatures"][0]["kind"] == "sshsig")
        .unwrap();
    let decode = |text: &Value| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap()
    };
    let (payload, armored) = (decode(&envelope["payload"]), decode(&envelope["signatures"][0]["sig"]));
    let message = pae(envelope["payloadType"].as_str().unwrap(), &payload);
    let signature = forge.bench.path("kept.sig");
    std::fs::write(&signature, armored).unwrap();
    let public = std::fs::read_to_string(forge.bench.path("eve.pub")).unwrap();
    let allowed = forge.bench.path("allowed");
    let verifies = |namespace: &str, line: &str| {
        use std::io::Write as _;
        std::fs::write(&allowed, line).unwrap();
        let mut child = Command::new("ssh-keygen")
            .args([
                "-Y",
                "verify",
                "-I",
                "eve",
                "-n",
                namespace,
                "-f",
                allowed.to_str().unwrap(),
                "-s",
                signature.to_str().unwrap(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&message).unwrap();
        child.wait().unwrap().success()
    };
    assert!(verifies(NAMESPACE, &format!("eve {public}")));
    assert!(!verifies("file", &format!("eve {public}")), "another namespace");
    assert!(!verifies(NAMESPACE, &format!("eve valid-before=\"20200101\" {public}")), "an expired key");
    assert!(!verifies(
        NAMESPACE,
        &std::fs::read_to_string(forge.bench.path("adam.pub")).map(|key| format!("eve {key}")).unwrap()
    ));
}
