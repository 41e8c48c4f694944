//! Adverts are lost one way, or both, and all else passes: one node ends up active, and it is said why.

use super::hosts::{ms, skipped};
use super::segment::{SOON, Segment};

/// Three adverts of silence, three seconds of a rival that doesn't go, and a loaded machine.
const SETTLED: std::time::Duration = ms(10_000);

const FROM_N1: &str = r#"iifname "p1" oifname "p2" ip protocol 112"#;
const FROM_N2: &str = r#"iifname "p2" oifname "p1" ip protocol 112"#;

#[test]
fn when_the_actives_adverts_are_lost_the_backup_yields_to_its_answers() {
    if skipped() {
        return;
    }
    let segment = Segment::new();
    let _daemons = segment.start("");
    segment.lose(&[FROM_N1]);
    segment.n2.wait_role("active", SOON);
    segment.n1.wait_said("one_way", "n1 hears n2, n2 does not hear n1 (adverts, IPv4)", SETTLED);
    let took = segment.wait_holders(&["n1"], SETTLED);
    eprintln!("adverts lost one way: n1 alone has it {took:?} after that was said");
    segment.n2.wait_said("transition", "its adverts aren't heard", SOON);
    segment.stay(&["n1"], 3_000);
    // The shadow notices the end of what it shadows.
    segment.lan.isolate(&segment.n1);
    segment.n2.wait_role("active", SOON);
}

#[test]
fn when_the_backups_adverts_are_lost_nothing_happens_until_they_matter() {
    if skipped() {
        return;
    }
    let segment = Segment::new();
    let (first, _second) = segment.start("");
    segment.lose(&[FROM_N2]);
    segment.stay(&["n1"], 1_000);
    assert_eq!(first.stop(), Some(0));
    segment.wait_holders(&["n2"], SOON);
    // n1 comes back and is told nothing: the address is in use, though.
    let _again = segment.n1.standin(&segment.n1.read("/etc/standin/standin.toml"));
    segment.n1.wait_said("foreign_owner", &segment.n2.mac(), SOON);
    segment.stay(&["n2"], 1_000);
    segment.heal();
    segment.n1.wait_role("backup", SOON);
    segment.stay(&["n2"], 1_000);
}

#[test]
fn when_all_adverts_are_lost_one_of_two_actives_yields() {
    if skipped() {
        return;
    }
    let segment = Segment::new();
    let _daemons = segment.start("");
    segment.lose(&[FROM_N1, FROM_N2]);
    segment.n2.wait_role("active", SOON);
    let took = segment.wait_holders(&["n1"], SETTLED);
    eprintln!("all adverts lost: n1 alone has it after {took:?}");
    segment.stay(&["n1"], 3_000);
    segment.heal();
    segment.stay(&["n1"], 1_000);
}

/// Both answer from the same MAC: there is only one node that the other one can be.
#[test]
fn of_two_actives_with_one_virtual_mac_one_yields() {
    if skipped() {
        return;
    }
    let segment = Segment::new();
    let _daemons = segment.start("virtual_mac = true");
    segment.lose(&[FROM_N1, FROM_N2]);
    segment.n2.wait_role("active", SOON);
    let took = segment.wait_holders(&["n1"], SETTLED);
    eprintln!("all adverts lost, one MAC: n1 alone has it after {took:?}");
    segment.stay(&["n1"], 3_000);
    segment.heal();
    segment.stay(&["n1"], 1_000);
}

#[test]
fn who_still_answers_after_a_takeover_is_seen_by_a_backup() {
    if skipped() {
        return;
    }
    let segment = Segment::new();
    let (first, _second) = segment.start("");
    // It says nothing by itself, as a switch that answers from an old table.
    segment.gateway.ip("addr add 192.168.1.41/32 dev eth0");
    assert_eq!(first.stop(), Some(0));
    segment.wait_holders(&["n2"], SOON);
    let _again = segment.n1.standin(&segment.n1.read("/etc/standin/standin.toml"));
    segment.n1.wait_said("stale_mac", &segment.gateway.mac(), SETTLED);
    segment.n1.wait_said("stale_mac", "told n2 to announce it again", SOON);
    segment.stay(&["n2"], 1_000);
}

#[test]
fn a_stranger_that_takes_the_address_is_named_and_clients_are_called_back() {
    if skipped() {
        return;
    }
    let segment = Segment::new();
    let _daemons = segment.start("");
    Segment::resolve(&segment.client);
    segment.gateway.ip("addr add 192.168.1.41/24 dev eth0");
    segment.gateway.run("arping -c 1 -A -I eth0 192.168.1.41");
    segment.n1.wait_said("address_conflict", &segment.gateway.mac(), SOON);
    let right = segment.n1.mac();
    super::hosts::wait_until("the client to know who has it", SOON, || {
        Segment::cached(&segment.client).as_deref() == Some(right.as_str())
    });
    segment.stay(&["n1"], 1_000);
}
