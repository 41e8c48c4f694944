//! A second cable between the nodes: in a cut of the segment that carries the VIP, one has it.

use super::hosts::{Daemon, Lan, ms, skipped};
use super::segment::{SOON, Segment};

/// Two that became active without the second cable settle it within this: three seconds, and questions.
const SETTLED: std::time::Duration = ms(12_000);

struct Paths {
    segment: Segment,
    beside: Lan,
    _daemons: (Daemon, Daemon),
}

impl Paths {
    fn new(more: &str) -> Self {
        let segment = Segment::new();
        let beside = Lan::new();
        for (host, mac) in [(&segment.n1, "02:00:00:00:01:01"), (&segment.n2, "02:00:00:00:01:02")]
        {
            // Without an address, and with the settings of a careful administrator.
            beside.plug(host, "eth1");
            host.ip(&format!("link set eth1 address {mac}"));
            host.sysctl("net/ipv4/conf/eth1/rp_filter", "1");
            host.ip("link set eth1 up");
        }
        let daemons = segment.start(&format!("heartbeat = [\"eth1\"]\n{more}"));
        Self { segment, beside, _daemons: daemons }
    }
}

#[test]
fn a_cut_of_the_segment_alone_makes_no_two_actives() {
    if skipped() {
        return;
    }
    let paths = Paths::new("");
    let segment = &paths.segment;
    segment.cut_between_the_nodes();
    segment.n2.wait_said("seen_by_heartbeat", "adverts of n1 don't come, but it has the VIP", SOON);
    segment.n2.wait_said("seen_by_heartbeat", "on eth1", SOON);
    segment.stay(&["n1"], 4_000);
    assert_eq!(segment.n2.role(), "backup");
    // The one that is followed there dies.
    paths.beside.isolate(&segment.n1);
    segment.wait_holders(&["n1", "n2"], SOON);
    segment.heal();
    segment.wait_holders(&["n1"], SOON);
}

#[test]
fn a_cut_of_both_makes_two_until_one_of_them_heals() {
    if skipped() {
        return;
    }
    let paths = Paths::new("");
    let segment = &paths.segment;
    paths.beside.isolate(&segment.n1);
    segment.stay(&["n1"], 500);
    segment.cut_between_the_nodes();
    segment.wait_holders(&["n1", "n2"], SOON);
    paths.beside.rejoin(&segment.n1);
    let took = segment.wait_holders(&["n1"], SETTLED);
    eprintln!("the second cable is back: n1 alone has it after {took:?}");
    segment.stay(&["n1"], 3_000);
}

#[test]
fn a_dead_host_is_replaced_as_quickly_as_without() {
    if skipped() {
        return;
    }
    let mut paths = Paths::new("");
    let began = std::time::Instant::now();
    paths.segment.n1.kill();
    paths.segment.n2.wait_has(super::segment::VIP, true, SOON);
    let took = began.elapsed();
    eprintln!("host killed: n2 has it after {took:?}");
    assert!(took < ms(1_500), "{took:?}");
}

#[test]
fn with_a_witness_the_node_in_the_dark_gives_up_although_it_is_seen() {
    if skipped() {
        return;
    }
    let paths = Paths::new(super::segment::WITNESS);
    let segment = &paths.segment;
    segment.lan.isolate(&segment.n1);
    segment.wait_holders(&["n2"], SETTLED);
    segment.stay(&["n2"], 2_000);
    segment.lan.rejoin(&segment.n1);
    segment.stay(&["n2"], 2_000);
}
