//! The checkers of processes and kernels are shown each flaw that they are there for.

use std::panic::{AssertUnwindSafe, catch_unwind};

use standin_sim::campaign::{Campaign, panicked};
use standin_sim::clock::SECOND;
use standin_sim::host::Flaw;
use standin_sim::random::Random;

const CAMPAIGN: Campaign = Campaign { seed: 20_261_129, fewest_nodes: 2, most_nodes: 4 };

/// Cases that a canary may need until it meets its fault.
const CASES: u64 = 400;

const LENGTH: u64 = 600 * SECOND;

/// What is said of case `case` when the processes or kernels of all machines are broken like this.
fn said(flaw: Flaw, case: u64) -> Option<String> {
    let mut world = CAMPAIGN.world(case);
    if world.scene.hosts.is_none() {
        world.scene.populate(Random::of_case(1, case));
    }
    for host in world.scene.hosts.iter_mut().flat_map(|hosts| &mut hosts.all) {
        host.flaw = flaw;
    }
    match catch_unwind(AssertUnwindSafe(|| world.run_until(LENGTH))) {
        Ok(ended) => ended.err().map(|broken| broken.what),
        Err(panic) => Some(panicked(world.scene.now, panic.as_ref())),
    }
}

fn is_caught(flaw: Flaw, by: &str) {
    let mut others = Vec::new();
    for case in 0..CASES {
        match said(flaw, case) {
            Some(what) if what.contains(by) => return,
            other => others.extend(other),
        }
    }
    panic!("{flaw:?} wasn't caught by {by:?}; said was {others:#?}");
}

#[test]
fn honest_processes_are_not_accused() {
    for case in 0..CASES / 40 {
        assert_eq!(said(Flaw::None, case), None, "case {case}");
    }
}

#[test]
fn promise_3_sees_a_guard_that_takes_nothing_away() {
    is_caught(Flaw::NeverBuries, "P3: ");
}

#[test]
fn promise_3_sees_a_guard_that_does_not_look() {
    is_caught(Flaw::NeverLooks, "P3: ");
}

#[test]
fn promise_3_sees_lifetimes_that_do_not_end() {
    is_caught(Flaw::Immortal, "P3: ");
}

#[test]
fn promise_3_sees_a_ledger_that_is_written_too_late() {
    is_caught(Flaw::RecordsLate, "P3: ");
}

#[test]
fn promise_1_sees_a_goodbye_before_the_addresses_are_gone() {
    is_caught(Flaw::GoodbyeFirst, "says goodbye and");
}

#[test]
fn promise_2_sees_a_guard_that_tells_nobody() {
    is_caught(Flaw::Silent, "told nobody");
}

#[test]
fn promise_2_sees_a_guard_that_starts_no_daemon() {
    is_caught(Flaw::NeverStarts, "starts no other daemon");
}

#[test]
fn promise_8_sees_settings_that_nobody_puts_back() {
    is_caught(Flaw::KeepsSettings, "P8: ");
}

#[test]
fn promise_8_sees_settings_that_are_lost_with_guard_and_daemon() {
    is_caught(Flaw::LosesFile, "P8: ");
}

#[test]
fn promise_9_sees_settings_that_are_put_back_before_the_addresses_go() {
    is_caught(Flaw::SettingsFirst, "P9: ");
}
