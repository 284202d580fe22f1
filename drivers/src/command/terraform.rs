//! What a saved Terraform plan would do, from `terraform show -json`: changes, and the harm that needs no delete.
//!
//! Format: <https://developer.hashicorp.com/terraform/internals/json-format>, `format_version` 1. Must never call a plan harmless that it could
//! not read: an unknown action is an error.

use std::collections::BTreeSet;

use kernel::{DriverError, Scope, StepSpec};
use schemas::{ChangeKind, Class, Hazard, Resource, ResourceChange};
use serde::Deserialize;
use serde_json::Value;

use super::Command;
use super::beside::Beside;
use super::lower::cwd_of;
use super::params::Run;

/// Milliseconds for Terraform to show a plan.
const SHOW_TIMEOUT_MS: u64 = 60_000;

/// Most resources of a plan.
const MAX_RESOURCES: usize = 100_000;

#[derive(Deserialize)]
struct Plan {
    format_version: String,
    #[serde(default)]
    errored: bool,
    #[serde(default)]
    resource_changes: Vec<ResourceChangeJson>,
}

#[derive(Deserialize)]
struct ResourceChangeJson {
    address: String,
    #[serde(default)]
    mode: String,
    #[serde(rename = "type")]
    kind: String,
    change: ChangeJson,
}

#[derive(Deserialize)]
struct ChangeJson {
    actions: Vec<String>,
    #[serde(default)]
    before: Value,
    #[serde(default)]
    after: Value,
}

/// What a plan comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) changes: Vec<ResourceChange>,
    pub(super) hazards: BTreeSet<Hazard>,
    /// Whether it destroys, replaces or forgets anything: then its class is irreversible.
    pub(super) destroys: bool,
}

impl Planned {
    /// Restored state is not restored resources: nothing that was destroyed comes back.
    pub(super) fn class(&self, least: Class) -> Class {
        if self.destroys { Class::Irreversible } else { least }
    }
}

/// What a saved plan would do, where the step applies one: Terraform itself is asked, which only reads the file. The file must be declared in
/// `reads`, so that a plan that is exchanged after it was approved is noticed.
pub(super) fn saved_plan(by: &Command, step: &StepSpec) -> Result<Option<Planned>, DriverError> {
    if step.lowered.way_back.entry.as_deref() != Some("terraform-apply") {
        return Ok(None);
    }
    let params: Run = step.params()?;
    let named = params.argv.iter().skip(2).find(|word| !word.starts_with('-'));
    let (Some(program), Some(plan)) = (params.argv.first(), named) else { return Ok(None) };
    let cwd = cwd_of(&params, &step.facts).map_err(DriverError::Refused)?;
    let file = Resource::file(cwd.join(plan).display().to_string());
    if !step.lowered.reads.iter().any(|read| read.contains(&file)) {
        return Err(DriverError::Refused(format!("the saved plan {plan} must be declared in reads")));
    }
    let argv = [program.as_str(), "show", "-json", "-no-color", plan].map(str::to_owned);
    let scope = Scope::to_look("assess");
    let output = by.side(
        &Beside { cwd: &cwd, facts: &step.facts, writes: &[], timeout_ms: SHOW_TIMEOUT_MS },
        &argv,
        None,
        &scope,
    )?;
    if output.cut {
        return Err(DriverError::Refused("what the Terraform plan would do is too long to read".to_owned()));
    }
    let planned = read(&output.printed).map_err(|text| DriverError::Refused(format!("the Terraform plan: {text}")))?;
    Ok(Some(planned))
}

/// Reads the output of `terraform show -json PLAN`.
pub(super) fn read(json: &[u8]) -> Result<Planned, String> {
    let plan: Plan = serde_json::from_slice(json).map_err(|error| format!("the plan is not readable: {error}"))?;
    if !plan.format_version.starts_with("1.") {
        return Err(format!("its format {} is not known", plan.format_version));
    }
    if plan.errored {
        return Err("planning failed: it is not whole".to_owned());
    }
    if plan.resource_changes.len() > MAX_RESOURCES {
        return Err(format!("more than {MAX_RESOURCES} resources"));
    }
    let mut out = Planned::default();
    for resource in plan.resource_changes.iter().filter(|resource| resource.mode != "data") {
        let actions: Vec<&str> = resource.change.actions.iter().map(String::as_str).collect();
        let change = match actions.as_slice() {
            ["no-op" | "read"] => continue,
            ["create"] => ChangeKind::Created,
            ["update"] => ChangeKind::Updated,
            ["delete"] | ["forget"] => ChangeKind::Deleted,
            ["delete", "create"] | ["create", "delete"] => {
                out.hazards.insert(Hazard::Replacement);
                ChangeKind::Deleted
            }
            other => return Err(format!("{}: the actions {other:?} are not known", resource.address)),
        };
        out.destroys |= change == ChangeKind::Deleted;
        out.hazards.extend(hazards(&resource.kind, change, &resource.change.before, &resource.change.after));
        let uri = format!("terraform:{}", resource.address);
        out.changes.push(ResourceChange { resource: uri, change, bytes: None, rows: None, digest: None });
    }
    Ok(out)
}

/// The harm of one change.
fn hazards(kind: &str, change: ChangeKind, before: &Value, after: &Value) -> BTreeSet<Hazard> {
    let mut out = BTreeSet::new();
    let deleted = change == ChangeKind::Deleted;
    for (part, hazard, only_deleted) in [
        ("route53_record", Hazard::DnsChange, false),
        ("dns_record", Hazard::DnsChange, false),
        ("_dns_", Hazard::DnsChange, false),
        ("cloudflare_record", Hazard::DnsChange, false),
        ("lifecycle_configuration", Hazard::RetentionCut, false),
        ("lb_listener", Hazard::EnvironmentSwap, false),
        ("elastic_beanstalk_environment", Hazard::EnvironmentSwap, false),
        ("metric_alarm", Hazard::AlarmDisabled, true),
        ("monitor_metric_alert", Hazard::AlarmDisabled, true),
        ("monitoring_alert_policy", Hazard::AlarmDisabled, true),
        ("backup_", Hazard::BackupDisabled, true),
        ("_backup", Hazard::BackupDisabled, true),
        ("cloudtrail", Hazard::AuditDisabled, true),
        ("flow_log", Hazard::AuditDisabled, true),
        ("logging_", Hazard::AuditDisabled, true),
        ("public_access_block", Hazard::PublicExposure, true),
        ("object_lock", Hazard::ProtectionDisabled, true),
    ] {
        if kind.contains(part) && (deleted || !only_deleted) {
            out.insert(hazard);
        }
    }
    if !deleted {
        compare("", kind, before, after, &mut out);
    }
    out
}

/// Walks what is planned beside what is there, by the name of each field and of what it stands in. What disappears is walked as well.
fn compare(parent: &str, name: &str, before: &Value, after: &Value, out: &mut BTreeSet<Hazard>) {
    let nothing = serde_json::Map::new();
    match (before.as_object(), after.as_object()) {
        (None, None) => {}
        (was, is) => {
            let (was, is) = (was.unwrap_or(&nothing), is.unwrap_or(&nothing));
            for field in was.keys().chain(is.keys().filter(|field| !was.contains_key(*field))) {
                let of = |side: &serde_json::Map<String, Value>| side.get(field).cloned().unwrap_or_default();
                compare(name, field, &of(was), &of(is), out);
            }
            return;
        }
    }
    let items = |value: &Value| value.as_array().map_or(0, Vec::len);
    if before.is_array() || after.is_array() {
        for at in 0..items(before).max(items(after)) {
            let of = |side: &Value| side.get(at).cloned().unwrap_or_default();
            compare(parent, name, &of(before), &of(after), out);
        }
        return;
    }
    out.extend(of_field(parent, name, before, after));
}

fn of_field(parent: &str, name: &str, before: &Value, after: &Value) -> Option<Hazard> {
    let (was, is) = (before.as_bool(), after.as_bool());
    // Left out is off.
    let switched_off = was == Some(true) && is != Some(true);
    let switched_on = was != Some(true) && is == Some(true);
    match (parent, name) {
        (
            _,
            "deletion_protection"
            | "disable_api_termination"
            | "termination_protection"
            | "deletion_protection_enabled",
        ) if switched_off => return Some(Hazard::ProtectionDisabled),
        (_, "force_destroy" | "skip_final_snapshot") if switched_on => return Some(Hazard::ProtectionDisabled),
        (_, "publicly_accessible" | "map_public_ip_on_launch") if switched_on => return Some(Hazard::PublicExposure),
        (_, "block_public_acls" | "block_public_policy" | "ignore_public_acls" | "restrict_public_buckets")
            if switched_off =>
        {
            return Some(Hazard::PublicExposure);
        }
        (_, "enable_logging" | "enable_log_file_validation") if switched_off => return Some(Hazard::AuditDisabled),
        (_, "actions_enabled") if switched_off => return Some(Hazard::AlarmDisabled),
        (_, "point_in_time_recovery_enabled") if switched_off => return Some(Hazard::BackupDisabled),
        (within, "enabled") if switched_off && (within.contains("backup") || within.contains("recovery")) => {
            return Some(Hazard::BackupDisabled);
        }
        (within, "enabled") if switched_off && within.contains("versioning") => return Some(Hazard::BackupDisabled),
        (within, "enabled") if switched_off && within.contains("logging") => return Some(Hazard::AuditDisabled),
        (within, "status") if within.contains("versioning") && before == "Enabled" && after != "Enabled" => {
            return Some(Hazard::BackupDisabled);
        }
        _ => {}
    }
    if let Some(hazard) = shorter(parent, name, before, after) {
        return Some(hazard);
    }
    let text = after.as_str().filter(|text| before.as_str() != Some(text))?;
    match text {
        "0.0.0.0/0" | "::/0" | "allUsers" | "allAuthenticatedUsers" => return Some(Hazard::PublicExposure),
        "Suspended" if name == "status" => return Some(Hazard::BackupDisabled),
        _ if name == "acl" && text.starts_with("public") => return Some(Hazard::PublicExposure),
        _ => {}
    }
    // A policy document inside a text.
    let document: Value = serde_json::from_str(text).ok().filter(Value::is_object)?;
    of_document(&document)
}

/// Whether something is kept for a shorter time. Where a number of days is 0, logs are kept for ever.
fn shorter(parent: &str, name: &str, before: &Value, after: &Value) -> Option<Hazard> {
    let expires = name.ends_with("days") && (parent.contains("expiration") || parent.contains("lifecycle"));
    if !name.contains("retention") && !expires {
        return None;
    }
    let was = before.as_f64()?;
    let is = after.as_f64().unwrap_or(0.0);
    let (backup, for_ever) = (name.contains("backup"), name == "retention_in_days");
    match (was, is) {
        (was, is) if was == is => None,
        (_, is) if is == 0.0 && backup => Some(Hazard::BackupDisabled),
        (was, _) if was == 0.0 && for_ever => Some(Hazard::RetentionCut),
        (_, is) if is == 0.0 && for_ever => None,
        (was, is) if is < was => Some(Hazard::RetentionCut),
        _ => None,
    }
}

fn of_document(document: &Value) -> Option<Hazard> {
    let statements = match document.get("Statement")? {
        Value::Array(items) => items.iter().collect::<Vec<_>>(),
        one => vec![one],
    };
    let is_star = |value: &Value| match value {
        Value::String(text) => text == "*",
        Value::Array(items) => items.iter().any(|item| item == "*"),
        Value::Object(fields) => fields
            .values()
            .any(|inner| inner == "*" || inner.as_array().is_some_and(|items| items.iter().any(|item| item == "*"))),
        _ => false,
    };
    let allows =
        statements.into_iter().filter(|statement| statement.get("Effect").and_then(Value::as_str) == Some("Allow"));
    let mut worst = None;
    for statement in allows {
        if statement.get("Principal").is_some_and(is_star) {
            return Some(Hazard::PublicExposure);
        }
        if statement.get("Action").is_some_and(is_star) || statement.get("NotAction").is_some() {
            worst = Some(Hazard::WildcardGrant);
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(kind: &str, actions: &[&str], before: Value, after: Value) -> Vec<u8> {
        json!({"format_version": "1.2", "resource_changes": [
            {"address": format!("{kind}.x"), "mode": "managed", "type": kind, "name": "x",
             "change": {"actions": actions, "before": before, "after": after}}]})
        .to_string()
        .into_bytes()
    }

    fn hazards_of(kind: &str, actions: &[&str], before: Value, after: Value) -> Vec<Hazard> {
        read(&plan(kind, actions, before, after)).unwrap().hazards.into_iter().collect()
    }

    #[test]
    fn what_is_destroyed_replaced_or_forgotten_does_not_come_back() {
        let read = |actions: &[&str]| read(&plan("aws_db_instance", actions, json!({}), json!({}))).unwrap();
        for actions in [&["delete"][..], &["forget"], &["delete", "create"], &["create", "delete"]] {
            let planned = read(actions);
            assert_eq!(planned.class(Class::PartiallyReversible), Class::Irreversible, "{actions:?}");
            assert_eq!(planned.changes[0].change, ChangeKind::Deleted);
        }
        assert_eq!(read(&["delete", "create"]).hazards, BTreeSet::from([Hazard::Replacement]));
        assert_eq!(read(&["update"]).class(Class::PartiallyReversible), Class::PartiallyReversible);
        assert!(read(&["no-op"]).changes.is_empty() && read(&["read"]).changes.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_never_harmless() {
        for bad in [
            b"{".to_vec(),
            b"{}".to_vec(),
            json!({"format_version": "2.0"}).to_string().into_bytes(),
            json!({"format_version": "1.2", "errored": true}).to_string().into_bytes(),
            plan("x", &["explode"], json!({}), json!({})),
            plan("x", &[], json!({}), json!({})),
        ] {
            assert!(read(&bad).is_err());
        }
    }

    #[test]
    fn harm_that_needs_no_delete_is_seen() {
        let policy = |principal: &str, action: &str| json!({"policy": json!({"Statement": [{"Effect": "Allow", "Principal": principal, "Action": action, "Resource": "*"}]}).to_string()});
        for (kind, actions, before, after, hazard) in [
            ("aws_route53_record", &["update"][..], json!({}), json!({}), Hazard::DnsChange),
            (
                "aws_db_instance",
                &["update"],
                json!({"backup_retention_period": 7}),
                json!({"backup_retention_period": 1}),
                Hazard::RetentionCut,
            ),
            (
                "aws_db_instance",
                &["update"],
                json!({"backup_retention_period": 7}),
                json!({"backup_retention_period": 0}),
                Hazard::BackupDisabled,
            ),
            (
                "aws_db_instance",
                &["update"],
                json!({"deletion_protection": true}),
                json!({"deletion_protection": false}),
                Hazard::ProtectionDisabled,
            ),
            (
                "aws_s3_bucket",
                &["update"],
                json!({"force_destroy": false}),
                json!({"force_destroy": true}),
                Hazard::ProtectionDisabled,
            ),
            (
                "aws_db_instance",
                &["update"],
                json!({"publicly_accessible": false}),
                json!({"publicly_accessible": true}),
                Hazard::PublicExposure,
            ),
            ("aws_s3_bucket_acl", &["create"], Value::Null, json!({"acl": "public-read"}), Hazard::PublicExposure),
            (
                "aws_security_group",
                &["update"],
                json!({"ingress": []}),
                json!({"ingress": [{"cidr_blocks": ["0.0.0.0/0"]}]}),
                Hazard::PublicExposure,
            ),
            ("aws_iam_policy", &["create"], Value::Null, policy("arn:x", "*"), Hazard::WildcardGrant),
            ("aws_s3_bucket_policy", &["create"], Value::Null, policy("*", "s3:GetObject"), Hazard::PublicExposure),
            ("aws_s3_bucket_lifecycle_configuration", &["create"], Value::Null, json!({}), Hazard::RetentionCut),
            ("aws_cloudwatch_metric_alarm", &["delete"], json!({}), Value::Null, Hazard::AlarmDisabled),
            (
                "aws_cloudtrail",
                &["update"],
                json!({"enable_logging": true}),
                json!({"enable_logging": false}),
                Hazard::AuditDisabled,
            ),
            ("aws_backup_plan", &["delete"], json!({}), Value::Null, Hazard::BackupDisabled),
            ("aws_lb_listener", &["update"], json!({}), json!({}), Hazard::EnvironmentSwap),
        ] {
            assert!(hazards_of(kind, actions, before, after).contains(&hazard), "{kind} {hazard:?}");
        }
        let calm = json!({"deletion_protection": true, "backup_retention_period": 7, "acl": "private"});
        assert_eq!(hazards_of("aws_db_instance", &["update"], calm.clone(), calm), []);
    }

    #[test]
    fn what_disappears_or_is_kept_for_a_shorter_time_is_harm_like_what_is_switched_off() {
        for (kind, before, after, hazard) in [
            ("aws_db_instance", json!({"deletion_protection": true}), json!({}), Hazard::ProtectionDisabled),
            (
                "aws_s3_bucket_versioning",
                json!({"versioning_configuration": [{"status": "Enabled"}]}),
                json!({"versioning_configuration": []}),
                Hazard::BackupDisabled,
            ),
            (
                "aws_dynamodb_table",
                json!({"point_in_time_recovery": [{"enabled": true}]}),
                json!({"point_in_time_recovery": [{"enabled": false}]}),
                Hazard::BackupDisabled,
            ),
            (
                "aws_s3_bucket",
                json!({"lifecycle_rule": [{"expiration": [{"days": 365}]}]}),
                json!({"lifecycle_rule": [{"expiration": [{"days": 1}]}]}),
                Hazard::RetentionCut,
            ),
            (
                "aws_cloudwatch_log_group",
                json!({"retention_in_days": 0}),
                json!({"retention_in_days": 1}),
                Hazard::RetentionCut,
            ),
        ] {
            assert!(hazards_of(kind, &["update"], before, after).contains(&hazard), "{kind} {hazard:?}");
        }
        let longer = hazards_of(
            "aws_cloudwatch_log_group",
            &["update"],
            json!({"retention_in_days": 1}),
            json!({"retention_in_days": 0}),
        );
        assert_eq!(longer, [], "for ever is longer");
    }
}
