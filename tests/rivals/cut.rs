//! A cut without a witness makes two actives; once it heals there is one, and neighbours know it.

use std::time::{Duration, Instant};

use super::hosts::{skipped, wait_until};
use super::segment::{SOON, Segment};

/// The promise: neighbours are right this long after the cut has healed.
const RIGHT: Duration = Duration::from_secs(1);

#[test]
fn after_a_cut_one_is_active_and_the_neighbours_are_right_within_a_second() {
    if skipped() {
        return;
    }
    let segment = Segment::new();
    let _daemons = segment.start("");
    segment.cut_between_the_nodes();
    segment.wait_holders(&["n1", "n2"], SOON);
    for host in [&segment.client, &segment.gateway] {
        Segment::resolve(host);
        wait_until("a neighbour to know the VIP", SOON, || Segment::cached(host).is_some());
    }
    let healed = Instant::now();
    segment.heal();
    let right = segment.n1.mac();
    for host in [&segment.client, &segment.gateway] {
        wait_until("a neighbour to know who has it", SOON, || {
            Segment::cached(host).as_deref() == Some(right.as_str())
        });
    }
    segment.wait_holders(&["n1"], SOON);
    let took = healed.elapsed();
    eprintln!("healed: one holder, and the neighbours are right after {took:?}");
    assert!(took < RIGHT, "{took:?}");
    segment.stay(&["n1"], 1_000);
    for host in [&segment.client, &segment.gateway] {
        assert_eq!(Segment::cached(host), Some(right.clone()));
    }
}
