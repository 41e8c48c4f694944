//! Planned moves of VIPs under load, on whole hosts with real nginx: nobody notices, and nothing is left.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod cluster;
mod drill;
mod elsewhere;
#[path = "../hosts/mod.rs"]
mod hosts;
mod http2;
mod load;
mod several;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Instant;

use cluster::{
    Cluster, LISTENS, SOON, UnderWay, VIP, VIP_V6, knows_eligible, nginx_conf, steps, switchover,
    wait_state,
};
use hosts::{Host, STANDIN, Story, ms, skipped, together, wait_for, wait_until};
use load::{CROWD, Habit, Load, Seen};
use standin_linux::spawn;

/// Every kind of client, in both families; `share` of the whole crowd.
fn crowd(cluster: &Cluster, share: usize) -> Vec<(IpAddr, Habit, Load)> {
    let mut loads = Vec::new();
    for vip in [VIP, VIP_V6].map(|it| it.parse::<IpAddr>().unwrap()) {
        for (habit, count) in CROWD {
            let load = Load::begin(&cluster.client, vip, habit, count.div_ceil(share));
            loads.push((vip, habit, load));
        }
    }
    loads
}

#[track_caller]
fn unharmed(what: &str, seen: &Seen) {
    let Seen { requests, failures, closed, .. } = seen;
    let first: Vec<_> = failures.iter().take(5).collect();
    let count = failures.len();
    assert!(count == 0, "{what}: {count} of {requests} requests failed: {first:?}, …");
    assert_eq!(*closed, 0, "{what}: connections that were in use were closed");
    assert!(*requests > 0, "{what} did nothing");
}

/// All kinds of clients, over both families, there and back, with such rules on both nodes.
fn clients_notice_nothing(more: &str, rules: &str, share: usize) {
    let cluster = Cluster::with(2, 1, "60s", more);
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    if !rules.is_empty() {
        for node in &cluster.nodes {
            let mut sh = node.command("sh");
            let output = sh.args(["-ec", rules]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let _daemons = cluster.start();
    let before = cluster.states();
    let loads = crowd(&cluster, share);
    sleep(ms(1000));
    // The command watches the drain as well; nobody waits for it here.
    let there = UnderWay::begin(n1, "web");
    n2.wait_role("active", SOON);
    sleep(ms(2500));
    assert!(n1.ip("-o address show dev lo").contains(VIP), "n1 still serves its clients");
    cluster.wait_ready();
    let back = UnderWay::begin(n2, "web");
    n1.wait_role("active", SOON);
    sleep(ms(2000));
    for (vip, habit, load) in loads {
        let seen = load.end();
        println!("{vip} {habit:?}: {} requests, longest gap {:?}", seen.requests, seen.gap);
        unharmed(&format!("{vip} {habit:?}"), &seen);
        let nodes = match habit {
            Habit::Short | Habit::Download => vec!["n1", "n2"],
            // Each client's connection stayed where it was.
            _ => vec!["n1"],
        };
        assert_eq!(seen.answered, nodes, "{vip} {habit:?}");
    }
    println!("the client sent {} segments again", sent_again(&cluster.client));
    there.ends_moved_back("n2");
    let (code, story, error) = back.end();
    assert_eq!(code, Some(0), "{story:?}{error}");
    cluster.wait_states(&before);
}

/// TCP segments that a host has sent more than once: those that were lost, and on a busy machine more.
fn sent_again(host: &Host) -> String {
    let counters = host.run("cat /proc/net/snmp");
    let mut tcp = counters.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (tcp.next().unwrap(), tcp.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "RetransSegs").unwrap().1.to_owned()
}

/// As docker and firewalld set it.
const FORWARDS_NOTHING: &str = "sysctl -qw net.ipv4.ip_forward=1
    nft 'add table inet host
    add chain inet host forward { type filter hook forward priority 0; policy drop; }
    add table ip nat
    add chain ip nat post { type nat hook postrouting priority 100; }
    add rule ip nat post ip saddr 172.17.0.0/16 masquerade'";

const DROPS_INVALID: &str = "sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0
    nft 'add table inet host
    add chain inet host in { type filter hook input priority 0; policy drop; }
    add rule inet host in iif lo accept
    add rule inet host in meta l4proto 112 accept
    add rule inet host in ct state invalid drop
    add rule inet host in ct state established,related accept
    add rule inet host in meta l4proto { icmp, icmpv6 } accept
    add rule inet host in tcp dport { 80, 443, 8412 } tcp flags syn ct state new accept
    add chain inet host forward { type filter hook forward priority 0; policy drop; }
    add chain inet host out { type filter hook output priority 0; }
    add rule inet host out ct state invalid drop'";

const TRACKS_NOTHING: &str = "nft 'add table inet host
    add chain inet host pre { type filter hook prerouting priority raw; }
    add rule inet host pre notrack
    add chain inet host out { type filter hook output priority raw; }
    add rule inet host out notrack'";

const LOOKS_AT_SOURCES: &str =
    "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1
    nft 'add table inet host
    add chain inet host pre { type filter hook prerouting priority raw; }
    add rule inet host pre fib saddr . iif oif missing drop'";

/// Without the rule: packets to a virtual MAC come in by another link than answers leave by.
const LOOKS_AT_SOURCES_BY_SYSCTL: &str =
    "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1";

const VIRTUAL_MAC: &str = "virtual_mac = true";

/// At the end of the drain nginx closes what is idle and finishes what is under way; the clients ask
/// again, and fail at nothing.
fn what_is_left_is_closed_and_counted() {
    let cluster = Cluster::new(2, 1, "60s");
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    let _daemons = cluster.start();
    let before = cluster.states();
    let idle = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::KeepAlive, 4);
    let tls = Load::begin(&cluster.client, VIP_V6.parse().unwrap(), Habit::Http2, 2);
    let endless = {
        let pid = cluster.client.pid;
        std::thread::spawn(move || {
            spawn::enter_network(spawn::network_of(pid).unwrap().as_fd()).unwrap();
            let to: SocketAddr = format!("{VIP}:80").parse().unwrap();
            load::ask(&load::connect(to).unwrap(), "/endless")
        })
    };
    sleep(ms(500));
    let began = Instant::now();
    let story = switchover(n1, "n2 --drain 1s");
    assert!(began.elapsed() > ms(1000), "{story:?}");
    assert_eq!(steps(&story)[..3], ["preparing", "moved", "draining"], "{story:?}");
    let last = story.last().unwrap();
    assert_eq!(last["step"], "done");
    assert_eq!((last["ended"].as_u64(), last["cut"].as_u64()), (Some(6), Some(1)), "{last}");
    sleep(ms(300));
    for (load, count) in [(idle, 4), (tls, 2)] {
        let seen = load.end();
        assert!(seen.failures.is_empty(), "{:?}", seen.failures);
        // With a FIN; a request that crosses it is answered by a reset, and asked once more.
        assert_eq!(seen.closed, count, "each was closed once");
        assert_eq!(seen.answered, ["n1", "n2"]);
    }
    assert!(endless.join().unwrap().is_err(), "it would have gone on for minutes");
    cluster.wait_states(&before);
    // The node is as good as before, and a switchover takes it back.
    cluster.wait_ready();
    let story = switchover(n2, "--now");
    assert_eq!(story.last().unwrap()["cut"], 0);
    // An nginx that refuses its files goes on with its clients, and nothing else is claimed.
    cluster.wait_ready();
    n1.write("/etc/nginx/nginx.conf", &(nginx_conf(LISTENS) + "nonsense;\n"));
    let idle = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::KeepAlive, 2);
    sleep(ms(500));
    let moving = UnderWay::begin(n1, "web n2 --drain 1s");
    n1.wait_said("switchover", "n1's nginx refuses its configuration (unknown directive", SOON);
    sleep(ms(300));
    unharmed("idle", &idle.end());
    let (code, story, error) = moving.end();
    assert_eq!(code, Some(0), "{story:?}{error}");
    let last = story.last().unwrap()["text"].as_str().unwrap();
    assert!(
        last.ends_with("2 of those that were left ended by themselves; none was cut"),
        "{last}"
    );
}

/// What isn't ready stays where it is, and the reason is said.
fn what_is_not_ready_stays() {
    let cluster = Cluster::new(2, 1, "5s");
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    let _daemons = cluster.start();
    let before = cluster.states();
    let refused = |host: &Host, words: &str, why: &str| {
        let output = host.try_run(&format!("{STANDIN} switchover {words}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words}: {output:?}");
        assert!(said.contains(why), "{words}: {said}");
    };
    refused(n1, "nope", "no VIP is called nope");
    refused(n1, "web n9", "no peer is called n9");
    refused(n1, "web n1", "n1 has web already");
    refused(n2, "web n1", "n1 has web already");
    refused(n2, "web n9", "no peer is called n9");
    refused(n2, "web --abort", "no part in a switchover of web");
    n2.run(&format!("{STANDIN} maintenance on"));
    wait_until("n1 to know", SOON, || !knows_eligible(n1, "n2"));
    refused(n1, "web", "maintenance");
    refused(n2, "web", "maintenance");
    // With nobody else to take it, the node that goes out of service holds it all the same.
    let output = n1.try_run(&format!("{STANDIN} maintenance on --json"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("web STAYS HERE") && said.contains("n2 is ineligible"), "{said}");
    let web = &cluster::lines(&String::from_utf8_lossy(&output.stdout))[0]["vips"][0];
    assert_eq!(
        (&web["vip"], &web["stays"], &web["holder"]),
        (&"web".into(), &true.into(), &"n1".into())
    );
    n1.run(&format!("{STANDIN} maintenance off"));
    wait_until("n1 to be in service", SOON, || {
        n1.try_status().is_some_and(|it| it["vips"][0]["eligible"] == true)
    });
    n2.run(&format!("{STANDIN} maintenance off"));
    cluster.wait_ready();
    n2.write("/etc/nginx/nginx.conf", &nginx_conf("listen 80; listen [::]:80;"));
    n2.run("/usr/sbin/nginx -s reload");
    wait_until("n2's nginx to let go", SOON, || !n2.run("ss -ltn").contains(":443"));
    refused(n1, "web", "443");
    n2.drop_incoming("meta l4proto 112");
    let lost = || n1.try_status().is_some_and(|it| it["vips"][0]["lost"][0]["to"] == "n2");
    wait_until("n1 to know that n2 doesn't hear it", SOON, lost);
    refused(n1, "web n2", "n2 hasn't heard n1's adverts for ");
    refused(n2, "web", "maintenance on` on n1 moves");
    n2.drop_nothing();
    assert_eq!(cluster.states(), before);
    assert!(n1.has(VIP) && n1.role() == "active");
}

/// A stop and maintenance move the VIP away first.
fn a_stop_and_maintenance_lose_nothing() {
    let cluster = Cluster::new(2, 1, "60s");
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    let mut daemons = cluster.start().into_iter();
    let (mut first, _second) = (daemons.next().unwrap(), daemons.next().unwrap());
    let short = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::Short, 8);
    let large = Load::begin(&cluster.client, VIP_V6.parse().unwrap(), Habit::Download, 4);
    sleep(ms(500));
    let said = n1.run(&format!("{STANDIN} maintenance on"));
    assert!(said.contains("web → n2, ") && said.contains("on this node"), "{said}");
    n2.wait_role("active", SOON);
    assert!(!n1.ip("-o address show dev eth0").contains(VIP));
    n1.run(&format!("{STANDIN} maintenance off"));
    cluster.wait_ready();
    wait_until("the first drain to end", SOON, || n1.said("switchover", "no connection was cut"));
    switchover(n2, "");
    n1.wait_role("active", SOON);
    cluster.wait_ready();
    first.signal(15);
    n2.wait_role("active", SOON);
    wait_until("the daemon to end once its clients have finished", SOON, || !first.runs());
    sleep(ms(300));
    unharmed("short", &short.end());
    unharmed("large", &large.end());
}

/// A move that was given more time than a stop has keeps nobody; what can't be moved is given up in order.
fn a_stop_ends_in_order_beside_a_long_move() {
    let cluster = Cluster::new(2, 2, "1s");
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    for node in &cluster.nodes {
        let file = node.read(cluster::FILE);
        let alone = "virtual_router_id = 42\n";
        let text = file.replace(alone, &format!("{alone}nodes = [\"n1\"]\n"));
        assert_ne!(text, file);
        node.write(cluster::FILE, &text);
    }
    let mut daemons = cluster.start().into_iter();
    let (mut first, _second) = (daemons.next().unwrap(), daemons.next().unwrap());
    let before = cluster.states();
    let keeps = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::KeepAlive, 2);
    sleep(ms(300));
    let long = UnderWay::begin(n1, "web n2 --drain 10m");
    n2.wait_role("active", SOON);
    first.signal(15);
    wait_until("the daemon to end", ms(60_000), || !first.runs());
    let events = n1.read("/var/lib/standin/events.jsonl");
    let given_up =
        |line: &str| line.contains("\"vip\":\"web2\"") && line.contains("\"to\":\"idle\"");
    assert!(events.lines().any(given_up), "{}\n{events}", n1.read("/run/logs/standin"));
    wait_state(n1, &before[0]);
    drop(keeps.end());
    assert_ne!(long.end().0, Some(0));
}

/// Whoever is killed in the middle leaves nothing behind, and the command says what is known.
fn a_kill_in_the_middle_leaves_no_trace() {
    let cluster = Cluster::new(2, 1, "60s");
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    let mut daemons = cluster.start().into_iter();
    let (first, second) = (daemons.next().unwrap(), daemons.next().unwrap());
    let before = cluster.states();
    let keeps = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::KeepAlive, 2);
    sleep(ms(300));
    let watching = UnderWay::begin(n1, "web");
    n2.wait_role("active", SOON);
    wait_until("the VIP to stay for its sockets", SOON, || {
        n1.ip("-o address show dev lo").contains(VIP)
    });
    // The guard puts everything back; what it would start again is killed with it.
    let daemon = daemon_of(first.pid);
    spawn::kill(daemon, 9).unwrap();
    wait_state(n1, &before[0]);
    let (code, story, error) = watching.end();
    assert_eq!(code, Some(5), "{story:?}{error}");
    let known = "the daemon has gone, and n2 had web already; see `standin status` on n2";
    assert!(error.contains(known), "{error}");
    wait_state(n2, &before[1]);
    drop(keeps.end());
    // Now the one that took it.
    cluster.wait_ready();
    let keeps = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::KeepAlive, 2);
    sleep(ms(300));
    let watching = UnderWay::begin(n2, "web");
    n1.wait_role("active", SOON);
    spawn::kill(daemon_of(first.pid), 9).unwrap();
    wait_state(n1, &before[0]);
    drop(keeps.end());
    // Whoever waits for the move, to reboot n2 say, must not go on: n2 has the VIP.
    let (code, story, error) = watching.end();
    assert_eq!((code, steps(&story).last()), (Some(1), Some(&"failed")), "{story:?}{error}");
    // Its guard says goodbye for it, which may be lost.
    let why = ["error: n1 gave it up (priority 0)", "error: n1 has been silent for "];
    assert!(why.iter().any(|why| error.contains(why)), "{error}");
    assert!(error.contains(": web is on n2 again, its connections with it"), "{error}");
    assert_eq!(n2.role(), "active");
    wait_state(n2, &before[1]);
    drop(second);
}

/// The daemon below its guard.
fn daemon_of(guard: u32) -> u32 {
    wait_for("a daemon", SOON, || {
        let listed =
            std::fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).ok()?;
        listed.split_whitespace().next()?.parse().ok()
    })
}

/// One after the other: each is load enough.
fn alone(run: impl FnOnce()) {
    static ORDER: Mutex<()> = Mutex::new(());
    // One that failed has nothing to do with the next one.
    let _order = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
    if !skipped() {
        run();
    }
}

#[test]
fn no_client_notices_a_move_there_and_back() {
    alone(|| clients_notice_nothing("", "", 1));
}

#[test]
fn no_client_notices_it_whatever_the_host_does_with_packets() {
    alone(|| {
        let story = |rules: &'static str| -> Story {
            Box::new(move || clients_notice_nothing("", rules, 8))
        };
        together(vec![
            ("nothing is forwarded".into(), story(FORWARDS_NOTHING)),
            ("invalid is dropped".into(), story(DROPS_INVALID)),
            ("nothing is tracked".into(), story(TRACKS_NOTHING)),
            ("sources are looked at".into(), story(LOOKS_AT_SOURCES)),
        ]);
    });
}

#[test]
fn clients_notice_nothing_of_a_mac_that_moves() {
    alone(|| clients_notice_nothing(VIRTUAL_MAC, "", 1));
}

#[test]
fn no_firewall_stands_in_the_way_of_a_mac_that_moves() {
    alone(|| {
        let story = |rules: &'static str| -> Story {
            Box::new(move || clients_notice_nothing(VIRTUAL_MAC, rules, 8))
        };
        together(vec![
            ("nothing is forwarded".into(), story(FORWARDS_NOTHING)),
            ("invalid is dropped".into(), story(DROPS_INVALID)),
            ("nothing is tracked".into(), story(TRACKS_NOTHING)),
            ("sources are looked at".into(), story(LOOKS_AT_SOURCES_BY_SYSCTL)),
        ]);
    });
}

#[test]
fn several_macs_move_and_nothing_is_left_of_them() {
    alone(|| {
        together(vec![
            ("several".into(), Box::new(|| several::vips_move_at_once(VIRTUAL_MAC))),
            ("a chain".into(), Box::new(|| several::nodes_form_a_chain(VIRTUAL_MAC))),
        ]);
    });
}

#[test]
fn a_move_ends_as_it_should() {
    alone(|| {
        together(vec![
            ("the rest is closed".into(), Box::new(what_is_left_is_closed_and_counted)),
            ("not ready".into(), Box::new(what_is_not_ready_stays)),
            ("stop and maintenance".into(), Box::new(a_stop_and_maintenance_lose_nothing)),
            ("killed".into(), Box::new(a_kill_in_the_middle_leaves_no_trace)),
            ("beside a long move".into(), Box::new(a_stop_ends_in_order_beside_a_long_move)),
        ]);
    });
}

#[test]
fn a_move_is_called_off_and_ordered_elsewhere() {
    alone(|| {
        together(vec![
            ("called off".into(), Box::new(elsewhere::called_off_all_is_as_before)),
            ("can't come back".into(), Box::new(elsewhere::what_cannot_come_back_stays_there)),
            ("ordered elsewhere".into(), Box::new(elsewhere::ordered_from_any_node)),
            ("live drill".into(), Box::new(drill::a_live_drill_measures_and_brings_the_vip_back)),
        ]);
    });
}

#[test]
fn several_vips_and_several_nodes() {
    alone(|| {
        together(vec![
            ("several at once".into(), Box::new(|| several::vips_move_at_once(""))),
            ("a chain".into(), Box::new(|| several::nodes_form_a_chain(""))),
            ("a late client".into(), Box::new(several::a_client_may_learn_late)),
            ("udp".into(), Box::new(several::udp_of_others_moves_at_once)),
            ("a second cable".into(), Box::new(several::a_second_cable_is_no_rival)),
        ]);
    });
}
