//! What is refused whatever the rules say: a step that can reach what its own way back or record depends on.

use schemas::{Class, Code, Finding, Resource, WhoCanAct};

use crate::request::{SiteFacts, StepFacts};
use crate::touch::Known;

/// The rule of this file; no bundle can take it away.
pub(crate) const OWN_WAY_BACK: &str = "HOST-own-way-back/1";

/// Refusals of one step. `changed` is everything that the plan changes.
pub(crate) fn refused(step: &StepFacts<'_>, site: &SiteFacts, touched: &[Known], changed: &[&str]) -> Vec<Finding> {
    let of = |detail: String, hint: &str| {
        Finding::error(Code::POLICY_OWN_WAY_BACK, format!("/steps/{}", step.ix), detail, hint)
            .of_step(&step.assessed.id)
            .for_whom(WhoCanAct::Forbidden)
            .by_rule(OWN_WAY_BACK)
    };
    let mut out = Vec::new();
    if let Some(reached) = first_reached(step, &site.own) {
        let detail = format!("it could change {reached}, which its own way back or record depends on");
        out.push(of(detail, "leave backout's own files alone"));
    }
    let backup = first_reached(step, &site.backups).map(ToString::to_string);
    let backup = backup.or_else(|| {
        let is_backup =
            |known: &&Known| known.described.backup_of_all || site.inventory.is_backup_of(&known.touch.uri, changed);
        touched.iter().find(is_backup).map(|known| known.touch.uri.clone())
    });
    if let Some(reached) = backup {
        let detail = format!("it could change {reached}, which is a backup of what the plan changes, or of everything");
        out.push(of(detail, "backups are changed by people who own them, in a plan of their own"));
    }
    out
}

fn first_reached<'a>(step: &StepFacts<'_>, protected: &'a [Resource]) -> Option<&'a Resource> {
    // A pattern acts on the names that it was expanded to, and on no others beneath the folder where it begins.
    let pinned: Vec<Resource> = step.assessed.pinned.iter().map(|path| Resource::file(path.as_str())).collect();
    let writes = if step.assessed.by_wildcard && !pinned.is_empty() { &pinned } else { step.writes };
    // Words of a command are no declaration: one that nobody knows may do anything with what it names or what lies in it.
    let unknown = step.class() == Class::Irreversible;
    let named: Vec<Resource> = step.names.iter().filter_map(|name| name.parse().ok()).collect();
    let is_named =
        |resource: &Resource| named.iter().any(|name| resource.contains(name) || (unknown && name.overlaps(resource)));
    protected.iter().find(|resource| writes.iter().any(|write| write.overlaps(resource)) || is_named(resource))
}
