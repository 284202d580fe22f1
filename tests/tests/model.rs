//! The kernel under every interleaving. The seeded bugs test the checker itself.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicUsize, Ordering};

use schemas::OnFailure;
use tests::model::{Budget, Bug, Checker, Report, Shape, shapes};

const SMALL: Budget = Budget { crashes: 2, failures: 2, stops: 1, foreign: 1, pending: 3 };
const MIDDLE: Budget = Budget { crashes: 2, failures: 1, stops: 1, foreign: 1, pending: 1 };
const LARGE: Budget = Budget { pending: 0, ..MIDDLE };

fn checker(shape: &Shape, on_failure: OnFailure, bug: Bug) -> Checker {
    Checker::new(&shape.needs, &shape.pivots(), on_failure, bug)
}

/// Checks every shape, several at a time, and counts the states.
fn check_all(count: usize, budget: Budget, on_failure: OnFailure) -> usize {
    let (shapes, taken, states) = (shapes(count), AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(shape) = shapes.get(taken.fetch_add(1, Ordering::Relaxed)) {
            let report = checker(shape, on_failure, Bug::None).check(budget);
            assert_eq!(report.violation, None, "{shape:?}");
            states.fetch_add(report.states, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    states.into_inner()
}

#[test]
fn every_shape_is_there_once() {
    let plain = |count| shapes(count).iter().filter(|shape| shape.pivot.is_none()).count();
    // Acyclic graphs up to isomorphism: https://oeis.org/A003087.
    assert_eq!([plain(1), plain(2), plain(3), plain(4)], [1, 2, 6, 31]);
    assert_eq!(shapes(2).len(), 5, "two apart with and without a pivot, and a chain with one at either end or none");
}

#[test]
fn no_interleaving_of_up_to_two_steps_breaks_a_law() {
    let states: usize = [1, 2].iter().map(|count| check_all(*count, SMALL, OnFailure::Undo)).sum();
    let held = check_all(2, SMALL, OnFailure::Hold);
    println!("states visited: {states} with undo, {held} with hold");
    assert!(states > 10_000 && held > 10_000);
}

#[test]
fn no_interleaving_of_three_steps_breaks_a_law() {
    let states = check_all(3, MIDDLE, OnFailure::Undo);
    println!("states visited with three steps: {states}");
    assert!(states > 100_000);
}

#[test]
fn one_lost_record_leads_nowhere_that_a_crash_in_the_act_does_not() {
    for shape in [1, 2, 3].into_iter().flat_map(shapes).filter(|shape| shape.pivot.is_none()) {
        let checker = checker(&shape, OnFailure::Undo, Bug::None);
        assert!(checker.settled(MIDDLE) == checker.settled(LARGE), "{shape:?}");
    }
}

#[test]
fn no_interleaving_of_four_steps_with_everything_at_once_breaks_a_law() {
    let states = check_all(4, LARGE, OnFailure::Undo);
    println!("states visited with four steps: {states}");
    assert!(states > 1_000_000);
}

fn hunt(bug: Bug) -> Report {
    for shape in [1, 2, 3].into_iter().flat_map(shapes) {
        let report = checker(&shape, OnFailure::Undo, bug).check(Budget { pending: 2, ..MIDDLE });
        if report.violation.is_some() {
            return report;
        }
    }
    Report { states: 0, violation: None }
}

#[test]
fn every_seeded_bug_is_found() {
    for bug in [
        Bug::ActsBeforeDurable,
        Bug::BelievesFailure,
        Bug::BelievesUndo,
        Bug::Clobbers,
        Bug::IgnoresNeeds,
        Bug::IgnoresPivots,
        Bug::VerifiesAnything,
        Bug::ForgetsAfterCrash,
        Bug::UnclearIsPresent,
    ] {
        let report = hunt(bug);
        println!("{bug:?} found after {} states: {:?}", report.states, report.violation);
        assert!(report.violation.is_some(), "{bug:?} is not found");
    }
}

#[test]
fn the_transition_table_is_what_it_was() {
    use kernel::{Claim, Seen, StepFact as F, StepState, UndoClaim, next};
    let facts = [
        F::Prepared,
        F::PrepareFailed,
        F::ApplyStarted,
        F::ApplyWithdrawn,
        F::ApplyReturned(Claim::Done),
        F::ApplyReturned(Claim::Failed),
        F::Sighted(Seen::Absent),
        F::Sighted(Seen::Present),
        F::Sighted(Seen::Partial),
        F::Sighted(Seen::Unclear),
        F::VerifyPassed,
        F::VerifyFailed,
        F::UndoStarted,
        F::UndoReturned(UndoClaim::Done),
        F::UndoReturned(UndoClaim::Failed),
        F::UndoReturned(UndoClaim::Clobber),
        F::UndoSighted(Seen::Absent),
        F::UndoSighted(Seen::Present),
        F::UndoSighted(Seen::Partial),
        F::UndoSighted(Seen::Unclear),
        F::Crashed,
        F::Retried,
    ];
    let mut table = String::new();
    for state in StepState::ALL {
        for fact in facts {
            let name = |starting, last| next(state, fact, starting, last).map(StepState::as_str);
            let (forward, back, last) = (name(true, false), name(false, false), name(false, true));
            let Some(to) = back else { continue };
            let mut line = format!("{:<13} {:<26} -> {to}", state.as_str(), format!("{fact:?}"));
            if forward != back {
                line += &format!("; while starting: {}", forward.unwrap_or("illegal"));
            }
            if last != back {
                line += &format!("; last attempt: {}", last.unwrap_or("illegal"));
            }
            table += &(line + "\n");
        }
    }
    insta::assert_snapshot!(table);
}
