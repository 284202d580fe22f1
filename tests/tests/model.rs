//! The kernel under every interleaving. The seeded bugs test the checker itself.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing)]

use schemas::OnFailure;
use tests::model::{Budget, Bug, Checker, Report, graphs};

const SMALL: Budget = Budget { crashes: 2, failures: 2, stops: 1, foreign: 1, pending: 3 };
const MIDDLE: Budget = Budget { crashes: 2, failures: 1, stops: 1, foreign: 1, pending: 1 };

/// Four steps: each of failure, stop and foreign change, with two crashes.
const LARGE: [Budget; 3] = [
    Budget { crashes: 2, failures: 1, stops: 0, foreign: 0, pending: 1 },
    Budget { crashes: 2, failures: 0, stops: 1, foreign: 0, pending: 1 },
    Budget { crashes: 2, failures: 0, stops: 0, foreign: 1, pending: 1 },
];

fn check_all(count: usize, budget: Budget, on_failure: OnFailure) -> usize {
    let mut states = 0;
    for needs in graphs(count) {
        for pivot in [false, true] {
            let mut pivots = vec![false; count];
            pivots[count - 1] = pivot;
            let report = Checker::new(&needs, &pivots, on_failure, Bug::None).check(budget);
            assert_eq!(report.violation, None, "{needs:?} pivot {pivot}");
            states += report.states;
        }
    }
    states
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
fn no_interleaving_of_four_steps_breaks_a_law() {
    let states: usize = LARGE.iter().map(|budget| check_all(4, *budget, OnFailure::Undo)).sum();
    println!("states visited with four steps: {states}");
    assert!(states > 100_000);
}

#[test]
#[ignore = "takes long: cargo xtask model"]
fn no_interleaving_of_four_steps_with_everything_at_once_breaks_a_law() {
    let states = check_all(4, MIDDLE, OnFailure::Undo);
    println!("states visited with four steps and everything at once: {states}");
    assert!(states > 1_000_000);
}

fn hunt(bug: Bug) -> Report {
    for count in 1..=3 {
        for needs in graphs(count) {
            let mut pivots = vec![false; count];
            pivots[count - 1] = true;
            for pivots in [vec![false; count], pivots] {
                let report = Checker::new(&needs, &pivots, OnFailure::Undo, bug).check(Budget { pending: 2, ..MIDDLE });
                if report.violation.is_some() {
                    return report;
                }
            }
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
