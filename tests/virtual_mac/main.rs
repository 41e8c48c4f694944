//! VIPs with a MAC of their own, as clients and other hosts on the segment see them.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod beside;
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
    let settled = Instant::now();
    std::thread::sleep(ms(300));
    let seen = adverts.since(settled);
    let from = |mac: &str, source: &str| {
        seen.iter().any(|it| it.line.contains(&format!("{mac} >")) && it.line.contains(source))
    };
    assert!(from(MAC_V4, "192.168.1.190 > 224.0.0.18"), "{seen:#?}");
    assert!(from(MAC_V6, "> ff02::12"), "{seen:#?}");
    assert!(!seen.iter().any(|it| it.is_from(&pair.n2)), "{seen:#?}");
}

/// Unicast adverts may cross routers and come from the node itself; the MAC is announced as ever.
#[test]
fn unicast_adverts_come_from_the_node_and_the_mac_moves() {
    if skipped() {
        return;
    }
    let pair = Pair::new("mode = \"unicast\"");
    let adverts = Adverts::capture(&pair.lan);
    assert_eq!(pair.ask(VIP).as_deref(), Some("n1"));
    assert_eq!(neighbour(&pair.client, VIP).as_deref(), Some(MAC_V4));
    pair.lan.isolate(&pair.n1);
    let began = Instant::now();
    wait_until("n2 to answer", ms(3000), || pair.ask(VIP).as_deref() == Some("n2"));
    println!("n2 answered after {:?}", began.elapsed());
    assert_eq!(neighbour(&pair.client, VIP).as_deref(), Some(MAC_V4));
    std::thread::sleep(ms(300));
    let seen = adverts.since(began);
    assert!(seen.iter().any(|it| it.is_from(&pair.n2)), "{seen:#?}");
    // Together again the better one keeps it, and clients find it.
    pair.lan.rejoin(&pair.n1);
    wait_until("one to yield", ms(5000), || pair.n1.role() != pair.n2.role());
    let holder = if pair.n1.role() == "active" { "n1" } else { "n2" };
    wait_until("it to answer", ms(1000), || pair.ask(VIP).as_deref() == Some(holder));
}

/// Three adverts of nobody but the active carry the MAC: a backup never does.
#[test]
fn a_backup_never_sends_from_the_virtual_mac() {
    if skipped() {
        return;
    }
    let mut pair = Pair::new("");
    let frames = Adverts::matching(&pair.lan, &format!("ether src {MAC_V4} or ether src {MAC_V6}"));
    let began = Instant::now();
    // It looks who answers, asks and is asked.
    std::thread::sleep(ms(1000));
    assert!(!frames.since(began).is_empty(), "the active does");
    assert_eq!(pair.first.take().unwrap().stop(), Some(0));
    pair.n2.wait_role("active", pair::SOON);
    std::thread::sleep(ms(200));
    // What n1 sends from now on would bring n2's clients to it.
    pair.lan.isolate(&pair.n2);
    let ended = Instant::now();
    std::thread::sleep(ms(1500));
    let seen = frames.since(ended + ms(50));
    assert!(seen.is_empty(), "{seen:#?}");
}

#[test]
fn the_setting_changes_while_the_vip_is_held() {
    if skipped() {
        return;
    }
    let pair = Pair::new("");
    let with = pair::file("");
    let without = with.replace("virtual_mac = true", "virtual_mac = false");
    for (file, mac) in [(&without, pair.n1.mac()), (&with, MAC_V4.to_owned())] {
        for node in [&pair.n1, &pair.n2] {
            node.write("/etc/standin/standin.toml", file);
            node.run(&format!("{} reload", hosts::STANDIN));
        }
        wait_until("clients to know", ms(3000), || {
            pair.ask(VIP).as_deref() == Some("n1")
                && neighbour(&pair.client, VIP).as_deref() == Some(mac.as_str())
        });
        assert_eq!(pair.ask(VIP_V6).as_deref(), Some("n1"));
        let links = if mac == MAC_V4 { 2 } else { 0 };
        wait_until("the links", ms(1000), || pair::own_links(&pair.n1).len() == links);
    }
}
