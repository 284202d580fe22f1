//! Bytes to a plan: strict JSON, then the typed form; where that fails, the schema says everything that is wrong.

use std::sync::OnceLock;

use jsonschema::Validator;
use schemas::{Code, Finding, Limits, Plan, StrictError, is_valid_id, strict_check};
use serde_json::Value;

/// Whether bytes look like an envelope and not like a bare plan.
pub fn is_envelope(bytes: &[u8]) -> bool {
    let head = bytes.get(..bytes.len().min(4096)).unwrap_or(bytes);
    let text = String::from_utf8_lossy(head);
    text.contains("\"payloadType\"") && !text.contains("\"steps\"")
}

/// Parses the payload of a plan. The error is every finding.
pub fn parse(bytes: &[u8]) -> Result<Plan, Vec<Finding>> {
    if let Err(error) = strict_check(bytes, Limits::PLAN_BYTES) {
        let hint = match error {
            StrictError::TooLarge { .. } => "split the plan".to_owned(),
            _ => "write strict JSON: UTF-8, no duplicate keys, whole numbers".to_owned(),
        };
        return Err(vec![Finding::error(Code::PLAN_NOT_JSON, "", error.to_string(), hint)]);
    }
    // The strict check came first: the typed parse alone would let duplicate keys of parameters through.
    match serde_json::from_slice::<Plan>(bytes) {
        Ok(plan) => Ok(plan),
        Err(error) => Err(explain(bytes, &error.to_string())),
    }
}

/// All that the schema has to say; if it says nothing, what the parser said.
fn explain(bytes: &[u8], said: &str) -> Vec<Finding> {
    static SCHEMA: OnceLock<Option<Validator>> = OnceLock::new();
    let plan_schema =
        || schemas::published().into_iter().find(|(name, _)| *name == "plan.v1.json").map(|(_, schema)| schema);
    let validator = SCHEMA.get_or_init(|| jsonschema::validator_for(&plan_schema()?).ok());
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let mut findings = validator.as_ref().map(|validator| violations(validator, &value, "")).unwrap_or_default();
    if findings.is_empty() {
        findings.push(Finding::error(Code::PLAN_SCHEMA, "", said, "backout schema plan shows the whole schema"));
    }
    findings
}

/// Most findings that one document is worth.
const MOST: usize = 200;

/// Every place where `value` does not fit, as findings below `prefix`.
pub(crate) fn violations(validator: &Validator, value: &Value, prefix: &str) -> Vec<Finding> {
    let finding = |error: jsonschema::ValidationError<'_>| {
        let mut detail = error.to_string();
        if detail.len() > 300 {
            detail = detail.chars().take(300).chain("…".chars()).collect();
        }
        let place = format!("{prefix}{}", error.instance_path());
        Finding::error(Code::PLAN_SCHEMA, place, detail, "backout schema plan shows the whole schema")
    };
    validator.iter_errors(value).take(MOST).map(finding).collect()
}

/// Counts, lengths and names.
pub(crate) fn limits(plan: &Plan) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut over = |place: &str, detail: String| {
        out.push(Finding::error(Code::PLAN_LIMIT, place, detail, "see the limits in the schema's description"));
    };
    for (place, name) in [("/session", &plan.session), ("/agent", &plan.agent), ("/environment", &plan.environment)] {
        if !is_valid_id(name) {
            over(
                place,
                format!(
                    "{:?} is not a name: letters, digits, `.`, `_`, `-`, at most {} bytes",
                    cut(name),
                    Limits::ID_BYTES
                ),
            );
        }
    }
    if plan.steps.is_empty() {
        over("/steps", "a plan has at least one step".to_owned());
    }
    if plan.steps.len() > Limits::STEPS {
        over("/steps", format!("{} steps are more than {}", plan.steps.len(), Limits::STEPS));
    }
    for (ix, step) in plan.steps.iter().enumerate() {
        if !is_valid_id(&step.id) {
            over(&format!("/steps/{ix}/id"), format!("{:?} is not a name", cut(&step.id)));
        }
        if step.needs.len() > Limits::NEEDS {
            over(&format!("/steps/{ix}/needs"), format!("{} needs are more than {}", step.needs.len(), Limits::NEEDS));
        }
        if step.timeout_ms.is_some_and(|timeout| timeout == 0 || timeout > Limits::TIMEOUT_MS) {
            over(&format!("/steps/{ix}/timeout_ms"), format!("a timeout is 1 to {} ms", Limits::TIMEOUT_MS));
        }
    }
    out
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_schema_error_is_told_at_once_with_its_pointer() {
        let text = r#"{"session":"s","agent":1,"environment":"e","intent":"i","steps":[{"id":"a","uses":"x.y","with":{},"nedds":[]},{"id":2,"uses":"x.y","with":{}}]}"#;
        let places: Vec<String> = parse(text.as_bytes()).unwrap_err().into_iter().map(|f| f.pointer).collect();
        for place in ["/agent", "/steps/0", "/steps/1/id"] {
            assert!(places.iter().any(|found| found == place), "{place} is missing in {places:?}");
        }
    }

    #[test]
    fn duplicate_keys_in_parameters_are_refused() {
        let text = r#"{"session":"s","agent":"a","environment":"e","intent":"i","steps":[{"id":"a","uses":"x.y","with":{"p":1,"p":2}}]}"#;
        assert_eq!(parse(text.as_bytes()).unwrap_err()[0].code, Code::PLAN_NOT_JSON);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_edit_of_a_plan_makes_it_panic(at in 0usize..200, byte in any::<u8>()) {
            let mut text = br#"{"session":"s","agent":"a","environment":"e","intent":"i","steps":[{"id":"a","uses":"x.y","with":{"p":1}}]}"#.to_vec();
            let at = at % text.len();
            text[at] = byte;
            let _ = parse(&text).map(|plan| limits(&plan));
        }
    }
}
