//! The JSON Schemas (draft 2020-12) that are published in `schemas/published/`, made from the types.
//!
//! Must never be edited by hand: `cargo xtask schemas` writes them and a test compares.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::{Approval, Assessment, Decisions, Envelope, Manifest, Plan, Receipt, Record, Statement, TrustRoot};

const BASE: &str = "https://backout.dev/schemas/";

/// Every published schema with the name of its file.
pub fn published() -> Vec<(&'static str, Value)> {
    vec![
        ("plan.v1.json", named::<Plan>("plan.v1.json")),
        ("assessment.v1.json", named::<Assessment>("assessment.v1.json")),
        ("manifest.v1.json", named::<Statement<Manifest>>("manifest.v1.json")),
        ("decisions.v1.json", named::<Decisions>("decisions.v1.json")),
        ("approval.v1.json", named::<Statement<Approval>>("approval.v1.json")),
        ("record.v1.json", named::<Record>("record.v1.json")),
        ("receipt.v1.json", named::<Statement<Receipt>>("receipt.v1.json")),
        ("trust-root.v1.json", named::<TrustRoot>("trust-root.v1.json")),
        ("envelope.v1.json", named::<Envelope>("envelope.v1.json")),
    ]
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
            for example in schema["examples"].as_array().into_iter().flatten() {
                assert!(validator.is_valid(example), "{file}: {example}");
            }
        }
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
