//! Each checker of the shared files' world is shown a shell that breaks its promise, and has to say so.

use standin_sim::sync::Sabotage;
use standin_sim::sync::campaign::run;

const SEED: u64 = 20_261_122;

/// Cases that a canary may need until it meets its fault.
const CASES: u64 = 120;

fn is_caught(sabotage: Sabotage, by: &str) {
    let mut others = Vec::new();
    for case in 0..CASES {
        match run(SEED, case, sabotage, false) {
            Err(failure) if failure.what.contains(by) => return,
            Err(failure) => others.push(failure.what),
            Ok(_) => {}
        }
    }
    panic!("{sabotage:?} wasn't caught by {by:?}; said was {others:#?}");
}

#[test]
fn an_honest_shell_is_not_accused() {
    for case in 0..CASES / 8 {
        let said = run(SEED, case, Sabotage::None, true);
        said.unwrap_or_else(|failure| panic!("case {case}: {}{}", failure.trace, failure.what));
    }
}

#[test]
fn promise_4_sees_a_reload_in_the_middle_of_a_swap() {
    is_caught(Sabotage::LoadsHalf, "nginx is told to load half of a change");
}

#[test]
fn promise_4_sees_a_start_that_finishes_nothing() {
    is_caught(Sabotage::NeverRecovers, "nginx starts with half of a change");
}

#[test]
fn promise_4_sees_a_tree_that_its_test_refuses() {
    is_caught(Sabotage::SkipsTests, "goes live, and its test refuses it");
}

#[test]
fn promise_4_sees_a_tree_that_nobody_approved() {
    is_caught(Sabotage::SkipsApproval, "goes live without approval");
}

#[test]
fn promise_5_sees_what_is_overwritten_and_not_in_the_history() {
    is_caught(Sabotage::ForgetsTrees, "isn't in its history");
}

#[test]
fn promise_5_sees_a_swap_over_an_edit_of_just_now() {
    is_caught(Sabotage::SwapsBlindly, "is overwritten, and isn't in the history");
}

#[test]
fn promise_5_sees_a_generation_that_a_crash_made_forgotten() {
    is_caught(Sabotage::SavesNothing, "and forgot it");
}

#[test]
fn a_proof_that_is_none_is_seen() {
    is_caught(Sabotage::InventsProofs, "proof: ");
}

#[test]
fn convergence_sees_offers_that_get_lost() {
    is_caught(Sabotage::LosesOffers, "convergence: ");
}

#[test]
fn convergence_sees_an_order_to_undo_that_gets_lost() {
    is_caught(Sabotage::LosesUndo, "which was undone");
}

#[test]
fn an_old_offer_that_is_followed_is_seen() {
    is_caught(Sabotage::RepeatsOffers, "stale: ");
}

#[test]
fn a_mass_deletion_that_is_shipped_unasked_is_seen() {
    is_caught(Sabotage::HidesLosses, "deletion: ");
}

#[test]
fn work_that_is_done_while_it_is_held_is_seen() {
    is_caught(Sabotage::IgnoresHold, "hold: ");
}

#[test]
fn promise_6_sees_a_spin() {
    is_caught(Sabotage::Spins, "P6: ");
}
