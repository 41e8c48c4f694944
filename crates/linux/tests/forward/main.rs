//! A VIP moves between hosts, and the connections to it go on.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod lan;
mod load;
mod packets;
#[path = "../space/mod.rs"]
mod space;

use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use lan::{Lan, VIP4, VIP6, move_vip, switch_over};
use load::{Habit, Load, serve};
use space::alone_and_timed;

fn vips() -> [IpAddr; 2] {
    [VIP4.parse().unwrap(), VIP6.parse().unwrap()]
}

/// Of each family.
const CLIENTS: [(Habit, usize); 3] =
    [(Habit::KeepAlive, 64), (Habit::Short, 16), (Habit::Download, 4)];

/// How long the clients go on before and after each step.
const PHASE: Duration = Duration::from_millis(400);

/// There and back under load, in both families, with these rules on both nodes.
fn there_and_back(firewall: &str) {
    let lan = Lan::new(2);
    let [n1, n2] = &lan.nodes[..] else { unreachable!() };
    for node in [n1, n2] {
        serve(node);
        if !firewall.is_empty() {
            node.sh(firewall);
        }
    }
    n1.hold(&vips());
    n1.announce(&vips());
    let before = [n1.state(), n2.state()];
    let mut loads = Vec::new();
    for vip in vips() {
        for (habit, clients) in CLIENTS {
            loads.push((vip, habit, Load::begin(&lan.client, vip, habit, clients)));
        }
    }
    sleep(PHASE);
    let mut there = switch_over(n1, n2, &vips());
    sleep(PHASE);
    let progress = n2.run(|| there.progress().unwrap());
    println!("there: {progress:?}");
    // Back while connections of both nodes go on.
    let mut back = n1.forward_to(n2, &vips());
    move_vip(n2, n1, &vips());
    n1.leave(&vips());
    n2.run(|| there.end().unwrap());
    sleep(PHASE);
    println!("back: {:?}", n1.run(|| back.progress().unwrap()));
    for (vip, habit, load) in loads {
        let seen = load.end();
        println!(
            "{vip} {habit:?}: {} requests, {} failed, longest gap {:?}, by {:?}",
            seen.requests,
            seen.failures.len(),
            seen.gap,
            seen.answered
        );
        assert!(seen.failures.is_empty(), "{vip} {habit:?}: {:?}", seen.failures);
    }
    n1.run(|| back.end().unwrap());
    n2.leave(&vips());
    for (node, before) in [n1, n2].into_iter().zip(before) {
        let after = node.state();
        let changed: Vec<_> = before
            .lines()
            .filter(|line| !after.contains(line))
            .chain(after.lines().filter(|line| !before.contains(line)))
            .collect();
        assert!(before == after, "{}: {changed:#?}", node.name);
    }
}

#[test]
fn nothing_is_lost_without_a_firewall() {
    alone_and_timed(|| there_and_back(""));
}

/// As docker and firewalld set it.
#[test]
fn nothing_is_lost_where_nothing_is_forwarded() {
    alone_and_timed(|| {
        there_and_back(
            "sysctl -qw net.ipv4.ip_forward=1
            nft 'add table inet host
            add chain inet host forward { type filter hook forward priority 0; policy drop; }
            add table ip nat
            add chain ip nat post { type nat hook postrouting priority 100; }
            add rule ip nat post ip saddr 172.17.0.0/16 masquerade'",
        );
    });
}

#[test]
fn nothing_is_lost_where_unknown_connections_are_invalid() {
    alone_and_timed(|| {
        there_and_back(
            "sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0
            nft 'add table inet host
            add chain inet host in { type filter hook input priority 0; policy drop; }
            add rule inet host in iif lo accept
            add rule inet host in ct state invalid drop
            add rule inet host in ct state established,related accept
            add rule inet host in meta l4proto { icmp, icmpv6 } accept
            add rule inet host in tcp dport 80 tcp flags syn ct state new accept
            add chain inet host forward { type filter hook forward priority 0; policy drop; }
            add chain inet host out { type filter hook output priority 0; }
            add rule inet host out ct state invalid drop'",
        );
    });
}

#[test]
fn nothing_is_lost_where_nothing_is_tracked() {
    alone_and_timed(|| {
        there_and_back(
            "nft 'add table inet host
            add chain inet host pre { type filter hook prerouting priority raw; }
            add rule inet host pre notrack
            add chain inet host out { type filter hook output priority raw; }
            add rule inet host out notrack'",
        );
    });
}

#[test]
fn nothing_is_lost_where_sources_are_looked_at() {
    alone_and_timed(|| {
        there_and_back(
            "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1
            nft 'add table inet host
            add chain inet host pre { type filter hook prerouting priority raw; }
            add rule inet host pre fib saddr . iif oif missing drop'",
        );
    });
}
