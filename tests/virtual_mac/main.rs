//! VIPs with a MAC of their own, as clients and other hosts on the segment see them.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

#[path = "../hosts/mod.rs"]
mod hosts;
mod left_behind;
mod pair;

use std::time::Instant;

use hosts::wire::{Adverts, who_has};
use hosts::{ms, skipped, wait_until};
use pair::{MAC_V4, MAC_V6, Pair, VIP, VIP_V6, neighbour};

#[test]
fn clients_keep_the_mac_over_a_takeover() {
    if skipped() {
        return;
    }
    let mut pair = Pair::new("");
    let adverts = Adverts::capture(&pair.lan);
    for (vip, mac) in [(VIP, MAC_V4), (VIP_V6, MAC_V6)] {
        assert_eq!(pair.ask(vip).as_deref(), Some("n1"));
        assert_eq!(neighbour(&pair.client, vip).as_deref(), Some(mac));
        let answers = who_has(&pair.client, vip, ms(300));
        assert!(answers.iter().eq([mac]), "{vip} is at {answers:?}");
    }
    // The node's own address is where it was, and nobody else has it.
    for own in ["192.168.1.189", "fd00:41::189"] {
        let answers = who_has(&pair.client, own, ms(300));
        assert!(answers.iter().eq([&pair.n1.mac()]), "{own} is at {answers:?}");
    }
    let began = Instant::now();
    pair.n1.kill();
    let mut gone = Vec::new();
    for (vip, mac) in [(VIP, MAC_V4), (VIP_V6, MAC_V6)] {
        wait_until("n2 to answer", ms(3000), || pair.ask(vip).as_deref() == Some("n2"));
        gone.push(began.elapsed());
        assert_eq!(neighbour(&pair.client, vip).as_deref(), Some(mac));
        let answers = who_has(&pair.client, vip, ms(300));
        assert!(answers.iter().eq([mac]), "{vip} is at {answers:?}");
    }
    println!("n2 answered after {gone:?}");
    // RFC 9568 §7.2: adverts come from the virtual MAC and the node's own address.
    std::thread::sleep(ms(300));
    let seen = adverts.since(began);
    let from = |mac: &str, source: &str| {
        seen.iter().any(|it| it.line.contains(&format!("{mac} >")) && it.line.contains(source))
    };
    assert!(from(MAC_V4, "192.168.1.190 > 224.0.0.18"), "{seen:#?}");
    assert!(from(MAC_V6, "> ff02::12"), "{seen:#?}");
    assert!(!seen.iter().any(|it| it.is_from(&pair.n2)), "{seen:#?}");
}
