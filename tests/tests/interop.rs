//! What is signed here verifies with other people's programs, and what they sign is taken here: OpenSSL and securesystemslib.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemas::{Envelope, SecretKey, TrustRoot, pae};
use serde_json::{Value, json};
use tests::program::Bench;

/// Verifies one envelope with securesystemslib, whose own idea of the key's id must be ours: DSSE, protocol.md.
const VERIFY: &str = r#"
import base64, hashlib, json, sys
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Signature, SSlibKey

given = json.load(sys.stdin)
envelope, public = given["envelope"], given["public"]
kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
metadata = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}}
keyid = hashlib.sha256(encode_canonical(metadata).encode()).hexdigest()
signature = envelope["signatures"][0]
assert signature["keyid"] == keyid, (signature["keyid"], keyid)
key = SSlibKey.from_dict(signature["keyid"], metadata)
key.verify_signature(Signature(signature["keyid"], base64.b64decode(signature["sig"]).hex()), message)
"#;

/// Signs bytes with securesystemslib as the key with this seed.
const SIGN: &str = r#"
import base64, json, sys
from securesystemslib.signer import SSlibSigner

given = json.load(sys.stdin)
keydict = {"keytype": "ed25519", "scheme": "ed25519", "keyid": given["keyid"],
           "keyval": {"public": given["public"], "private": given["private"]}}
signature = SSlibSigner(keydict).sign(base64.b64decode(given["message"]))
print(base64.b64encode(bytes.fromhex(signature.signature)).decode())
"#;

fn python(script: &str, input: &Value) -> Result<String, String> {
    // Debian's own Python, which has Debian's packages.
    let mut child = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    match done.status.success() {
        true => Ok(String::from_utf8(done.stdout).unwrap().trim().to_owned()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

fn openssl(folder: &Path, words: &[&str]) -> bool {
    let done = Command::new("openssl").args(words).current_dir(folder).output().unwrap();
    done.status.success()
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A site with one run: every kind of signed document is there.
fn site() -> Bench {
    let bench = Bench::new();
    let plan = json!({"session": "s", "agent": "tester", "environment": "test", "intent": "sign",
        "steps": [{"id": "w", "uses": "file.write", "with": {"path": "x", "content": "1\n"}}]});
    let manifest = bench.gated("s", &plan);
    assert_eq!(bench.run(&["approve", &manifest, "--as", "vera"]).code, 0);
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
    bench
}

/// Every kept envelope with the public key that signed it, by what it is.
fn envelopes(bench: &Bench) -> Vec<(String, Envelope, String)> {
    let read = |path: &Path| Envelope::from_json(&std::fs::read(path).unwrap()).ok();
    let root = read(&bench.path("state/trust-root.json")).unwrap();
    let trust: TrustRoot = serde_json::from_slice(&root.unverified_payload().unwrap()).unwrap();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(bench.path("state/documents")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(bench.path("state/policy/bundle.json"));
    let mut out = Vec::new();
    for envelope in files.iter().filter_map(|file| read(file)) {
        let payload: Value = serde_json::from_slice(&envelope.unverified_payload().unwrap()).unwrap();
        let what = payload["predicateType"].as_str().unwrap_or(&envelope.payload_type).to_owned();
        let public = trust.key(envelope.signatures[0].keyid).unwrap().public.clone();
        out.push((what, envelope, public));
    }
    let mut kinds: Vec<&str> = out.iter().map(|(what, ..)| what.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "application/vnd.backout.plan.v1+json",
            "application/vnd.backout.policy.v1+json",
            "application/vnd.backout.trust-root.v1+json",
            "https://backout.dev/approval/v1",
            "https://backout.dev/manifest/v1",
            "https://backout.dev/receipt/v1",
        ]
    );
    out
}

#[test]
fn every_kind_of_envelope_verifies_with_securesystemslib_and_not_when_a_byte_is_changed() {
    let bench = site();
    for (what, envelope, public) in envelopes(&bench) {
        let mut given = json!({"envelope": envelope, "public": public});
        python(VERIFY, &given).unwrap_or_else(|error| panic!("{what}: {error}"));
        given["envelope"]["payloadType"] = json!("application/other");
        assert!(python(VERIFY, &given).unwrap_err().contains("Failed to verify"), "{what}");
    }
}

#[test]
fn every_kind_of_envelope_verifies_with_openssl() {
    let bench = site();
    let folder = bench.path("openssl");
    std::fs::create_dir(&folder).unwrap();
    for (what, envelope, public) in envelopes(&bench) {
        let key: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&public[2 * at..2 * at + 2], 16).unwrap()).collect();
        // RFC 8410: the algorithm's identifier, then the key.
        let der = [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00][..], &key].concat();
        std::fs::write(folder.join("key.der"), der).unwrap();
        std::fs::write(folder.join("message"), pae(&envelope.payload_type, &envelope.unverified_payload().unwrap()))
            .unwrap();
        std::fs::write(folder.join("sig.b64"), format!("{}\n", envelope.signatures[0].sig)).unwrap();
        assert!(openssl(&folder, &["base64", "-d", "-A", "-in", "sig.b64", "-out", "sig"]));
        let verify = [
            "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-sigfile", "sig", "-in",
            "message",
        ];
        assert!(openssl(&folder, &verify), "{what}");
        std::fs::write(folder.join("message"), pae("application/other", &envelope.unverified_payload().unwrap()))
            .unwrap();
        assert!(!openssl(&folder, &verify), "{what}, changed");
    }
}

/// The plan's bytes, and the key that is to sign them.
fn to_sign(bench: &Bench) -> (Vec<u8>, SecretKey) {
    let plan = json!({"session": "theirs", "agent": "tester", "environment": "test", "intent": "sign elsewhere",
        "steps": [{"id": "w", "uses": "file.write", "with": {"path": "x", "content": "1\n"}}]});
    let pem = std::fs::read_to_string(bench.path("state/keys/tester.key")).unwrap();
    (plan.to_string().into_bytes(), SecretKey::from_pem(&pem).unwrap())
}

fn is_gated(bench: &Bench, payload: &[u8], keyid: &str, sig: &str) -> i32 {
    let envelope = json!({"payloadType": "application/vnd.backout.plan.v1+json", "payload": base64(payload),
        "signatures": [{"keyid": keyid, "sig": sig}]});
    let file = bench.path("theirs.json");
    std::fs::write(&file, envelope.to_string()).unwrap();
    bench.run(&["gate", file.to_str().unwrap()]).code
}

#[test]
fn a_plan_that_openssl_signed_is_gated() {
    let bench = Bench::new();
    let (payload, key) = to_sign(&bench);
    let folder = bench.path("state/keys");
    std::fs::write(folder.join("message"), pae("application/vnd.backout.plan.v1+json", &payload)).unwrap();
    assert!(openssl(&folder, &["pkeyutl", "-sign", "-rawin", "-inkey", "tester.key", "-in", "message", "-out", "sig"]));
    let sig = base64(&std::fs::read(folder.join("sig")).unwrap());
    assert_eq!(is_gated(&bench, &payload, &key.id().to_string(), &sig), 0);
    assert_eq!(is_gated(&bench, &[&payload[..], b" "].concat(), &key.id().to_string(), &sig), 3, "one byte more");
}

#[test]
fn a_plan_that_securesystemslib_signed_is_gated() {
    let bench = Bench::new();
    let (payload, key) = to_sign(&bench);
    // The seed stands in the last 32 bytes of the PKCS#8 form (RFC 8410).
    let folder = bench.path("state/keys");
    assert!(openssl(&folder, &["pkey", "-in", "tester.key", "-outform", "DER", "-out", "tester.der"]));
    let der = std::fs::read(folder.join("tester.der")).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let at = der.windows(2).position(|pair| pair == [0x04, 0x20]).unwrap() + 2;
    let given = json!({"keyid": key.id().to_string(), "public": key.public_hex(), "private": hex(&der[at..at + 32]),
        "message": base64(&pae("application/vnd.backout.plan.v1+json", &payload))});
    let sig = python(SIGN, &given).unwrap();
    assert_eq!(is_gated(&bench, &payload, &key.id().to_string(), &sig), 0);
}
