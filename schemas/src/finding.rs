//! Problems in somebody's document: found all at once, in a stable order, each with what to do next.
//!
//! Must never be used for failures of backout itself: those are errors.

use serde::Serialize;

use crate::codes::Code;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing runs.
    Error,
    /// It runs; somebody should look.
    Warning,
}

/// Who can do something about a refusal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhoCanAct {
    /// The agent, by changing the plan.
    Retryable,
    /// A person, by approving.
    NeedsApproval,
    /// Nobody: no approval can change it.
    Forbidden,
}

/// One problem. Member names follow RFC 9457 where it has one (`detail`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Stable code, the name of its page.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// Id of the step, where one is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// JSON pointer (RFC 6901) into the document.
    pub pointer: String,
    /// What was found.
    pub detail: String,
    /// What would be allowed, or how to mend it.
    pub hint: String,
    /// Who can act.
    pub who: WhoCanAct,
    /// Ids of the rules that decided, where a policy did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
}

impl Finding {
    /// An error that the author of the document can mend.
    pub fn error(code: Code, pointer: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            step: None,
            pointer: pointer.into(),
            detail: detail.into(),
            hint: hint.into(),
            who: WhoCanAct::Retryable,
            rules: Vec::new(),
        }
    }

    /// The same finding as a warning.
    pub fn warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }

    /// The same finding about a step.
    pub fn of_step(self, step: impl Into<String>) -> Self {
        Self { step: Some(step.into()), ..self }
    }

    /// The same finding, and who can act on it.
    pub fn for_whom(self, who: WhoCanAct) -> Self {
        Self { who, ..self }
    }

    /// The same finding with the rule that decided.
    pub fn by_rule(mut self, rule: impl Into<String>) -> Self {
        self.rules.push(rule.into());
        self
    }
}

/// Brings findings into their stable order: errors first, then by place, then by code; exact repeats are dropped.
pub fn sort_findings(findings: &mut Vec<Finding>) {
    findings.sort_by(|a, b| {
        let key = |f: &Finding| (f.severity, natural(&f.pointer), f.code, f.detail.clone());
        key(a).cmp(&key(b))
    });
    findings.dedup();
}

/// Splits a pointer so that `/steps/10` comes after `/steps/9`.
fn natural(pointer: &str) -> Vec<(u64, String)> {
    pointer
        .split('/')
        .map(|part| part.parse::<u64>().map_or((0, part.to_owned()), |n| (n + 1, String::new())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_come_in_document_order_and_once() {
        let make = |pointer: &str| Finding::error(Code::CYCLE, pointer, "d", "h");
        let mut all = vec![make("/steps/10"), make("/steps/9"), make("/steps/9"), make("/steps/1").warning()];
        sort_findings(&mut all);
        let places: Vec<&str> = all.iter().map(|f| f.pointer.as_str()).collect();
        assert_eq!(places, ["/steps/9", "/steps/10", "/steps/1"]);
    }
}
