//! What a step touches, in the words of policy: from the assessment and from what the library knows, never from the plan's own words.

use schemas::{ChangeKind, Hazard, Resource, ResourceChange, RowCount, Thing, Verb};

use crate::inventory::Described;
use crate::request::StepFacts;

/// One thing that is done to one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Touch {
    /// What is done.
    pub(crate) verb: Verb,
    /// To what kind of thing, before the inventory has its say.
    pub(crate) thing: Thing,
    /// Its URI.
    pub(crate) uri: String,
    /// Rows, for a table.
    pub(crate) rows: RowCount,
    /// Bytes, where they are known.
    pub(crate) bytes: u64,
}

/// A touch with what the inventory says of it.
pub(crate) struct Known {
    pub(crate) touch: Touch,
    pub(crate) described: Described,
}

impl Known {
    /// What it is done to, once the inventory has had its say.
    pub(crate) fn thing(&self) -> Thing {
        self.described.thing.unwrap_or(self.touch.thing)
    }

    /// What is done, in a word that fits.
    pub(crate) fn verb(&self) -> Verb {
        fitting(self.touch.verb, self.thing())
    }
}

/// Everything that a step touches; never empty.
pub(crate) fn touches(step: &StepFacts<'_>) -> Vec<Touch> {
    let act = step.act;
    let mut out: Vec<Touch> = Vec::new();
    let acts_on_files = act.is_some_and(|act| act.on == Thing::File);
    if let Some(act) = act.filter(|_| !acts_on_files) {
        out.push(Touch::plain(act.verb, act.on, act.named.clone()));
    }
    let named = act.map(|act| act.named.as_str());
    for change in step.assessed.changes.iter().filter(|change| Some(change.resource.as_str()) != named) {
        out.extend(of_change(change));
    }
    // A branch that loses commits is one that is forced, wherever it lies.
    if step.assessed.hazards.contains(&Hazard::Replacement) {
        let forced = out.iter_mut().filter(|touch| touch.thing == Thing::Ref && touch.verb == Verb::Update);
        forced.for_each(|touch| touch.verb = Verb::ForcePush);
    }
    // What is declared and was not seen to change may change all the same.
    if step.assessed.changes.is_empty() {
        let verb = act.filter(|_| acts_on_files).map_or(Verb::Update, |act| act.verb);
        let writes = step.writes.iter().filter(|write| Some(write.to_string().as_str()) != named);
        out.extend(writes.map(|write| Touch::plain(verb, thing_of(write), write.to_string())));
    }
    if out.is_empty() {
        out.push(Touch::plain(Verb::Inspect, Thing::File, String::new()));
    }
    out
}

/// Hazards of a step.
pub(crate) fn hazards(step: &StepFacts<'_>) -> impl Iterator<Item = Hazard> {
    let known = step.act.into_iter().flat_map(|act| act.hazards.iter().copied());
    known.chain(step.assessed.hazards.iter().copied())
}

fn of_change(change: &ResourceChange) -> Vec<Touch> {
    let resource: Option<Resource> = change.resource.parse().ok();
    let thing = resource.as_ref().map_or(Thing::Infra, thing_of);
    let bytes = change.bytes.unwrap_or(0);
    let touch = |verb| Touch { bytes, ..Touch::plain(verb, thing, change.resource.clone()) };
    let is_schema = resource.as_ref().and_then(Resource::fragment) == Some("sqlite_schema");
    match (change.change, change.rows) {
        (ChangeKind::Updated, None) if is_schema => vec![touch(Verb::Migrate)],
        (ChangeKind::Updated, Some(rows)) => {
            let mut out = Vec::new();
            if rows.inserted + rows.updated > 0 || rows.deleted == 0 {
                out.push(Touch { rows: RowCount { deleted: 0, ..rows }, ..touch(Verb::Update) });
            }
            if rows.deleted > 0 {
                let deleted = RowCount { inserted: 0, updated: 0, deleted: rows.deleted };
                out.push(Touch { rows: deleted, ..touch(Verb::DeleteRows) });
            }
            out
        }
        (ChangeKind::Created, _) => vec![touch(Verb::Create)],
        (ChangeKind::Updated, None) => vec![touch(Verb::Update)],
        (ChangeKind::Deleted, _) => vec![touch(Verb::Delete)],
    }
}

impl Touch {
    /// A touch of which nothing more is known.
    pub(crate) fn plain(verb: Verb, thing: Thing, uri: String) -> Self {
        Self { verb, thing, uri, rows: RowCount::default(), bytes: 0 }
    }
}

fn thing_of(resource: &Resource) -> Thing {
    match resource.scheme() {
        "file" => Thing::File,
        "git" => Thing::Ref,
        "sqlite" => Thing::Table,
        _ => Thing::Infra,
    }
}

/// The verb with which a thing of another kind than it seemed is changed: a secret that is a file is updated or deleted like one.
pub(crate) fn fitting(verb: Verb, thing: Thing) -> Verb {
    let fits = match verb {
        Verb::Inspect => true,
        Verb::Create | Verb::Update | Verb::Delete => !matches!(thing, Thing::Message | Thing::Program),
        Verb::DeleteRows => thing == Thing::Table,
        Verb::Migrate => matches!(thing, Thing::Table | Thing::Infra),
        Verb::Execute => thing == Thing::Program,
        Verb::Restart | Verb::Scale | Verb::Deploy | Verb::RollBack => thing == Thing::Service,
        Verb::Restore => matches!(thing, Thing::File | Thing::Table | Thing::Service),
        Verb::Rotate => thing == Thing::Secret,
        Verb::Grant => matches!(thing, Thing::Infra | Thing::Secret),
        Verb::Publish | Verb::Send => thing == Thing::Message,
        Verb::Push | Verb::ForcePush => thing == Thing::Ref,
    };
    match (fits, verb.destroys()) {
        (true, _) => verb,
        (false, true) => Verb::Delete,
        (false, false) => Verb::Update,
    }
}
