//! The JSON Schemas (draft 2020-12) that are published in `schemas/published/`, made from the types.
//!
//! Must never be edited by hand: `cargo xtask schemas` writes them and a test compares.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::{Approval, Assessment, Decisions, Envelope, Grant, Manifest, Plan, Receipt, Record, Statement, TrustRoot};

const BASE: &str = "https://backout.dev/schemas/";

/// A document that a run of backout wrote, shown in its schema.
macro_rules! example {
    ($file:literal) => {
        include_str!(concat!("../examples/", $file))
    };
}

/// What the fields of records and of a trust root say, by their names: one name means one thing wherever it stands.
const FIELDS: &[(&str, &str)] = &[
    ("approval", "SHA-256 of the approval"),
    ("approvals", "SHA-256 of each approval that counted"),
    ("argv", "The resolved program and its arguments"),
    ("assessment", "SHA-256 of the assessment"),
    ("by", "Who asked for it: a user id of the operating system"),
    ("cause", "A person, a signal or a clock"),
    ("changes", "What changed, as observed"),
    ("checks", "The checks that passed, with what they saw"),
    ("class", "How reversible the step is, as computed"),
    ("codes", "Codes of the findings"),
    ("cwd", "The resolved working directory"),
    ("decision", "SHA-256 of the decision of the policy"),
    ("decisions", "SHA-256 of the decisions"),
    ("detail", "What was seen, in a sentence"),
    ("digest", "SHA-256 of the document"),
    ("done", "What the driver says: a claim, not a fact about the world"),
    ("elapsed_ms", "Milliseconds that it took"),
    ("end", "How the run ended"),
    ("exit_code", "The exit code"),
    ("findings", "SHA-256 of the findings"),
    ("id", "Id of the step"),
    ("keep", "Indices of the steps that stay"),
    ("keyids", "Who may sign in the role"),
    ("keys", "Keys by their ids"),
    ("kept", "Steps that stay as they are: old index, new index"),
    ("manifest", "SHA-256 of the manifest"),
    ("message", "What the driver says, in a sentence"),
    ("nonce", "128 random bits in hex"),
    ("on_failure", "What to do after the first failure"),
    ("output", "SHA-256 of what the program printed"),
    ("owner", "Who signed"),
    ("plan", "SHA-256 of the plan"),
    ("reason", "Why, in a sentence"),
    ("reasons", "Why not, each in a sentence"),
    ("receipt", "SHA-256 of the receipt"),
    ("reject", "Whether it is a no"),
    ("roles", "Who may sign what"),
    ("seen", "What an observation saw"),
    ("stale", "Whether the world was not as assessed"),
    ("step", "Index of the step in the plan, from 0"),
    ("steps", "Number of steps"),
    ("stopped", "Whether a stop ended it"),
    ("threshold", "How many distinct owners must sign"),
    ("timed_out", "Whether the time was over"),
    ("token", "Id of the execution token, never the token"),
    ("uses", "Kind and operation"),
    ("version", "Version of the trust root"),
    ("why", "Whether somebody asked or a recovery"),
];

/// Every published schema with the name of its file.
pub fn published() -> Vec<(&'static str, Value)> {
    vec![
        ("plan.v1.json", shown::<Plan>("plan.v1.json", example!("plan.v1.json"))),
        ("assessment.v1.json", shown::<Assessment>("assessment.v1.json", example!("assessment.v1.json"))),
        ("manifest.v1.json", shown::<Statement<Manifest>>("manifest.v1.json", example!("manifest.v1.json"))),
        ("decisions.v1.json", shown::<Decisions>("decisions.v1.json", example!("decisions.v1.json"))),
        ("grant.v1.json", shown::<Grant>("grant.v1.json", example!("grant.v1.json"))),
        ("approval.v1.json", shown::<Statement<Approval>>("approval.v1.json", example!("approval.v1.json"))),
        ("record.v1.json", shown::<Record>("record.v1.json", example!("record.v1.json"))),
        ("receipt.v1.json", shown::<Statement<Receipt>>("receipt.v1.json", example!("receipt.v1.json"))),
        ("trust-root.v1.json", shown::<TrustRoot>("trust-root.v1.json", example!("trust-root.v1.json"))),
        ("envelope.v1.json", shown::<Envelope>("envelope.v1.json", example!("envelope.v1.json"))),
    ]
}

/// A schema with an example, every property described.
fn shown<T: JsonSchema>(file: &str, example: &str) -> Value {
    let mut value = named::<T>(file);
    describe(&mut value);
    let example: Value = serde_json::from_str(example).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        let more = object.entry("examples").or_insert_with(|| json!([]));
        if let Some(list) = more.as_array_mut() {
            list.push(example);
        }
    }
    value
}

/// Describes properties that their types do not: by what their name means, or as the kind of fact that they hold.
fn describe(value: &mut Value) {
    if let Some(properties) = value.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties {
            let said = FIELDS.iter().find(|(known, _)| known == name).map(|(_, text)| *text);
            if let Some(object) = property.as_object_mut().filter(|object| !object.contains_key("description")) {
                object.insert("description".to_owned(), json!(said.unwrap_or("The fact")));
            }
        }
    }
    match value {
        Value::Object(object) => object.values_mut().for_each(describe),
        Value::Array(items) => items.iter_mut().for_each(describe),
        _ => {}
    }
}

/// The schema of any type, with `$id` from `file`.
pub fn schema_of_type<T: JsonSchema>(file: &str) -> Value {
    named::<T>(file)
}

fn named<T: JsonSchema>(file: &str) -> Value {
    let schema: Schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    let mut value = schema.to_value();
    if let Some(object) = value.as_object_mut() {
        object.insert("$id".to_owned(), json!(format!("{BASE}{file}")));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_published_schemas_equal_the_types() {
        for (file, schema) in published() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("published").join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let committed: Value = serde_json::from_str(&text).unwrap_or_default();
            assert_eq!(committed, schema, "{file}: run `cargo xtask schemas`");
        }
    }

    #[test]
    fn every_published_schema_is_valid_and_its_examples_fit_it() {
        for (file, schema) in published() {
            jsonschema::meta::validate(&schema).unwrap_or_else(|error| panic!("{file}: {error}"));
            let validator = jsonschema::validator_for(&schema).unwrap();
            let examples = schema["examples"].as_array().cloned().unwrap_or_default();
            assert!(!examples.is_empty(), "{file} shows no example");
            for example in &examples {
                assert!(validator.is_valid(example), "{file}: {example}");
            }
        }
    }

    #[test]
    fn every_property_is_described() {
        fn walk(file: &str, value: &Value) {
            for (name, property) in value["properties"].as_object().into_iter().flatten() {
                assert!(!property.is_object() || property.get("description").is_some(), "{file}: {name}");
            }
            value.as_object().into_iter().flatten().for_each(|(_, inner)| walk(file, inner));
            value.as_array().into_iter().flatten().for_each(|inner| walk(file, inner));
        }
        published().iter().for_each(|(file, schema)| walk(file, schema));
    }

    #[test]
    fn every_object_refuses_unknown_fields() {
        fn walk(file: &str, value: &Value) {
            if let Some(object) = value.as_object() {
                let closed = object.contains_key("additionalProperties");
                assert!(!object.contains_key("properties") || closed, "{file}: {value}");
                object.values().for_each(|inner| walk(file, inner));
            }
            value.as_array().into_iter().flatten().for_each(|inner| walk(file, inner));
        }
        published().iter().for_each(|(file, schema)| walk(file, schema));
    }
}
