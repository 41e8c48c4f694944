//! Each checker is shown a shell that breaks its promise, and has to say so.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use standin_sim::campaign::{Campaign, panicked};
use standin_sim::clock::SECOND;
use standin_sim::machine::Sabotage;
use standin_sim::scenario;

const CAMPAIGN: Campaign = Campaign { seed: 20_261_122, fewest_nodes: 2, most_nodes: 4 };

/// Cases that a canary may need until it meets its fault.
const CASES: u64 = 120;

const LENGTH: u64 = 240 * SECOND;

/// What is said of case `case` when every shell is broken like this.
fn said(sabotage: Sabotage, case: u64) -> Option<String> {
    let mut world = CAMPAIGN.world(case);
    for machine in &mut world.scene.machines {
        machine.sabotage = sabotage;
    }
    match catch_unwind(AssertUnwindSafe(|| world.run_until(LENGTH))) {
        Ok(ended) => ended.err().map(|broken| broken.what),
        Err(panic) => Some(panicked(world.scene.now, panic.as_ref())),
    }
}

fn is_caught(sabotage: Sabotage, by: &str) {
    let mut others = Vec::new();
    for case in 0..CASES {
        match said(sabotage, case) {
            Some(what) if what.contains(by) => return,
            other => others.extend(other),
        }
    }
    panic!("{sabotage:?} wasn't caught by {by:?}; said was {others:#?}");
}

#[test]
fn an_honest_shell_is_not_accused() {
    for case in 0..CASES / 6 {
        assert_eq!(said(Sabotage::None, case), None, "case {case}");
    }
}

#[test]
fn promise_1_sees_addresses_that_stay_after_a_release() {
    is_caught(Sabotage::KeepsAddresses, "P1: ");
}

#[test]
fn promise_1_sees_nodes_that_do_not_advertise() {
    is_caught(Sabotage::NeverAdvertises, "P1: ");
}

#[test]
fn promise_2_sees_a_holder_without_addresses() {
    is_caught(Sabotage::HoldsNothing, "no eligible node holds");
}

#[test]
fn promise_2_sees_a_failed_check_that_nobody_told_the_core() {
    is_caught(Sabotage::HidesFailures, "and it is eligible for");
}

#[test]
fn promise_3_sees_a_process_that_ends_with_addresses() {
    is_caught(Sabotage::KeepsAddresses, "P3: ");
}

#[test]
fn promise_6_sees_a_spin() {
    is_caught(Sabotage::NeverTicks, "P6: ");
}

#[test]
fn promise_6_sees_effects_without_bound() {
    is_caught(Sabotage::Repeats, "effects, more than");
}

#[test]
fn promise_6_sees_a_panic() {
    is_caught(Sabotage::Panics, "P6: a panic");
}

#[test]
fn promise_7_sees_another_reason_than_the_true_one() {
    is_caught(Sabotage::ChangesReasons, "P7: ");
}

#[test]
fn promise_7_sees_a_transition_that_nobody_told() {
    is_caught(Sabotage::LosesTransitions, "P7: ");
}

#[test]
fn promise_7_sees_a_tick_before_the_packets_that_waited() {
    is_caught(Sabotage::TicksFirst, "had reached the socket");
}

#[test]
fn promise_7_sees_adverts_that_are_lost_in_the_shell() {
    is_caught(Sabotage::LosesAdverts, "had reached the socket");
}

#[test]
fn promise_7_sees_a_late_handover_that_is_obeyed() {
    is_caught(Sabotage::ObeysLate, "it said so too long ago");
}

#[test]
fn a_robbed_foreign_owner_is_seen() {
    is_caught(Sabotage::LooksAway, "a foreign host answered");
}

#[test]
fn a_client_that_is_sent_astray_is_seen() {
    is_caught(Sabotage::NeverAnnounces, "clients: ");
}

#[test]
fn a_vip_that_moves_back_although_it_never_should_is_seen() {
    is_caught(Sabotage::FailsBack, "failback = \"never\"");
}

#[test]
fn a_holder_without_witness_in_a_cut_is_seen() {
    is_caught(Sabotage::InventsWitness, "witness: ");
}

#[test]
fn promise_1_sees_two_holders_that_overlook_each_other() {
    // Rare among what is drawn: no advert passes either way, and no other fault ends it.
    let file = "cluster = \"edge\"\n[nginx]\n[node.n1]\naddress = \"10.0.0.1\"\n[node.n2]\n\
                address = \"10.0.0.2\"\n[vip.web]\nvirtual_router_id = 41\naddresses = [\"10.0.0.100/24\"]\n";
    let story =
        "later n2\nat 1s start n2\nat 3s mute n1 -> n2\nat 3s mute n2 -> n1\nat 60s nothing\n";
    let text = format!("{file}---\n{story}");
    assert!(scenario::run(&text).is_ok());
    let failure = scenario::run_with(&text, Sabotage::OverlooksRivals).unwrap_err();
    assert!(failure.what.contains("see each other's address"), "{}", failure.what);
}
