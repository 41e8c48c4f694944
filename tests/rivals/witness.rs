//! A cut with a witness: the side that sees it serves, the other one gives up.

use super::hosts::{ms, skipped};
use super::segment::{SOON, Segment, WITNESS};

/// Two failed probes 200 ms apart and 850 ms without an answer of the peer; the machine is loaded.
const GIVES_UP: std::time::Duration = ms(3_000);

#[test]
fn the_side_of_the_active_that_sees_no_witness_gives_up() {
    if skipped() {
        return;
    }
    let segment = Segment::new();
    let _daemons = segment.start(WITNESS);
    segment.lan.isolate(&segment.n1);
    let took = segment.wait_holders(&["n2"], GIVES_UP);
    eprintln!("a cut: n2 alone has it after {took:?}");
    segment.n1.wait_said("transition", "no witness is seen and n2 doesn't answer", SOON);
    segment.stay(&["n2"], 1_000);
    segment.lan.rejoin(&segment.n1);
    segment.n1.wait_role("backup", SOON);
    segment.stay(&["n2"], 1_000);
}

#[test]
fn the_side_of_the_backup_that_sees_no_witness_ends_with_nothing() {
    if skipped() {
        return;
    }
    let segment = Segment::new();
    let _daemons = segment.start(WITNESS);
    segment.lan.isolate(&segment.n2);
    std::thread::sleep(GIVES_UP);
    segment.wait_holders(&["n1"], SOON);
    segment.stay(&["n1"], 2_000);
    segment.lan.rejoin(&segment.n2);
    segment.stay(&["n1"], 1_000);
}

#[test]
fn a_witness_that_is_gone_for_all_moves_nothing_and_bars_nobody_who_is_handed_the_vip() {
    if skipped() {
        return;
    }
    let segment = Segment::new();
    let (first, _second) = segment.start(WITNESS);
    segment.lan.isolate(&segment.gateway);
    segment.n1.wait_said("check", "check gw fails", SOON);
    segment.n2.wait_said("check", "check gw fails", SOON);
    segment.stay(&["n1"], 2_000);
    assert_eq!(segment.n2.vip().unwrap()["standing"], "eligible");
    assert_eq!(first.stop(), Some(0));
    segment.wait_holders(&["n2"], SOON);
    segment.stay(&["n2"], 2_000);
}

#[test]
fn when_neither_side_sees_a_witness_nobody_serves_until_the_cut_heals() {
    if skipped() {
        return;
    }
    let segment = Segment::new();
    let _daemons = segment.start(WITNESS);
    segment.lan.isolate(&segment.gateway);
    segment.cut_between_the_nodes();
    segment.wait_holders(&[], SOON);
    segment.stay(&[], 1_000);
    segment.heal();
    let took = super::hosts::wait_until("one to have it", SOON, || segment.holders().len() == 1);
    eprintln!("healed without a witness: somebody has it after {took:?}");
}
