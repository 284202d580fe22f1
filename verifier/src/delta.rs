//! Effects are declared: what changed lies within the declared writes and equals the declared delta. An extra change is a
//! failure like a missing one.

use schemas::{Bounds, Change, ChangeKind, Expectation, Resource, ResourceChange, RowCount};

/// Everything about `changes` that was not declared; empty if all was.
pub fn undeclared(writes: &[Resource], expect: Option<&Expectation>, changes: &[Change]) -> Vec<String> {
    let mut out = Vec::new();
    for change in changes {
        let declared =
            change.resource.parse::<Resource>().is_ok_and(|found| writes.iter().any(|write| write.contains(&found)));
        if !declared {
            out.push(format!("{} changed and was not declared", change.resource));
        }
    }
    out.extend(expect.into_iter().flat_map(|expect| outside(expect, changes)));
    out
}

/// What a step would change and did not declare, or declared and would not change, as far as it could be assessed.
pub fn unexpected(expect: Option<&Expectation>, changes: &[ResourceChange]) -> Vec<String> {
    let Some(expect) = expect else { return Vec::new() };
    let seen = |change: &ResourceChange| {
        let ResourceChange { resource, change, rows, .. } = change.clone();
        Change { resource, change, before: None, after: None, rows }
    };
    outside(expect, &changes.iter().map(seen).collect::<Vec<_>>())
}

/// Bounds that these changes do not keep.
fn outside(expect: &Expectation, changes: &[Change]) -> Vec<String> {
    let mut out = Vec::new();
    let count = |kind| changes.iter().filter(|change| change.change == kind && change.rows.is_none()).count() as u64;
    for (what, bounds, kind) in [
        ("created", expect.created, ChangeKind::Created),
        ("updated", expect.updated, ChangeKind::Updated),
        ("deleted", expect.deleted, ChangeKind::Deleted),
    ] {
        out.extend(broken(bounds, count(kind)).map(|text| format!("{text} resources {what}")));
    }
    for (table, rows) in &expect.rows {
        let suffix = format!("#{table}");
        let found = changes.iter().find(|change| change.resource.ends_with(&suffix)).and_then(|change| change.rows);
        let found = found.unwrap_or(RowCount::default());
        for (what, bounds, number) in [
            ("inserted", rows.inserted, found.inserted),
            ("updated", rows.updated, found.updated),
            ("deleted", rows.deleted, found.deleted),
        ] {
            out.extend(broken(bounds, number).map(|text| format!("{text} rows of {table} {what}")));
        }
    }
    out
}

fn broken(bounds: Option<Bounds>, found: u64) -> Option<String> {
    bounds.filter(|bounds| !bounds.holds(found)).map(|bounds| format!("{bounds} declared, {found} found:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(resource: &str, change: ChangeKind) -> Change {
        Change { resource: resource.to_owned(), change, before: None, after: None, rows: None }
    }

    #[test]
    fn a_change_outside_the_declared_writes_is_told() {
        let writes = [Resource::file("/srv/app/conf")];
        let changes =
            [change("file:/srv/app/conf/x", ChangeKind::Created), change("file:/srv/app/data", ChangeKind::Updated)];
        assert_eq!(undeclared(&writes, None, &changes), ["file:/srv/app/data changed and was not declared"]);
    }

    #[test]
    fn too_many_and_too_few_changes_are_told() {
        let writes = [Resource::file("/srv")];
        let expect = Expectation {
            created: Some(Bounds::Exactly(1)),
            deleted: Some(Bounds::Exactly(0)),
            ..Expectation::default()
        };
        let none = undeclared(&writes, Some(&expect), &[]);
        assert_eq!(none, ["exactly 1 declared, 0 found: resources created"]);
        let two = [change("file:/srv/a", ChangeKind::Created), change("file:/srv/b", ChangeKind::Deleted)];
        assert_eq!(undeclared(&writes, Some(&expect), &two), ["exactly 0 declared, 1 found: resources deleted"]);
    }

    #[test]
    fn rows_are_held_against_their_bounds() {
        let writes = [Resource::whole("sqlite", "/db")];
        let rows = schemas::ExpectRows { updated: Some(Bounds::Between { min: 1, max: 5 }), ..Default::default() };
        let expect = Expectation { rows: [("t".to_owned(), rows)].into(), ..Expectation::default() };
        let mut found = change("sqlite:/db#t", ChangeKind::Updated);
        found.rows = Some(RowCount { updated: 6, ..RowCount::default() });
        assert_eq!(undeclared(&writes, Some(&expect), &[found]).len(), 1);
    }
}
