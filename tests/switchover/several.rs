//! More than one VIP, and more than two nodes.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread::{JoinHandle, sleep, spawn};

use standin_linux::spawn::{enter_network, network_of};

use super::cluster::{Cluster, FILE, SOON, UnderWay, VIP, VIP_V6, is_active, steps};
use super::hosts::{Host, Lan, STANDIN, ms, wait_until};
use super::load::{Habit, Load};
use super::unharmed;

const VIPS: usize = 3;

/// Three VIPs there at once, and back while the first drains still run.
pub(crate) fn vips_move_at_once(more: &str) {
    let cluster = Cluster::with(2, VIPS, "60s", more);
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    let _daemons = cluster.start();
    let all = |node| (0..VIPS).all(|place| is_active(node, place));
    wait_until("n1 to have all", SOON, || all(n1));
    let before = cluster.states();
    let mut loads = Vec::new();
    for place in 0..VIPS {
        for vip in [format!("192.168.1.{}", 41 + place), format!("fd00:41::{}", 41 + place)] {
            for habit in [Habit::KeepAlive, Habit::Short] {
                let load = Load::begin(&cluster.client, vip.parse().unwrap(), habit, 3);
                loads.push((vip.clone(), habit, load));
            }
        }
    }
    sleep(ms(500));
    let names = ["web", "web2", "web3"];
    let there = names.map(|name| UnderWay::begin(n1, name));
    wait_until("n2 to have all", SOON, || all(n2));
    sleep(ms(500));
    cluster.wait_ready();
    let back = names.map(|name| UnderWay::begin(n2, name));
    wait_until("n1 to have all again", SOON, || all(n1));
    sleep(ms(2500));
    for (vip, habit, load) in loads {
        unharmed(&format!("{vip} {habit:?}"), &load.end());
    }
    there.into_iter().for_each(|command| command.ends_moved_back("n2"));
    for command in back {
        let (code, story, error) = command.end();
        assert_eq!(code, Some(0), "{story:?}{error}");
    }
    cluster.wait_states(&before);
    if !more.is_empty() {
        // What a node needs for a virtual MAC shows where the VIP is.
        return;
    }
    // All of them once more, by one command.
    n1.run(&format!("{STANDIN} maintenance on"));
    wait_until("n2 to have all by maintenance", SOON, || all(n2));
    n1.run(&format!("{STANDIN} maintenance off"));
    cluster.wait_states(&before);
}

/// n1 → n2 → n3 → n1, each before the drain before it is over: connections stay where they began.
pub(crate) fn nodes_form_a_chain(more: &str) {
    let cluster = Cluster::with(3, 1, "60s", more);
    let [n1, n2, n3] = &cluster.nodes[..] else { unreachable!() };
    let _daemons = cluster.start();
    let before = cluster.states();
    let vips = [VIP, VIP_V6].map(|vip| vip.parse::<IpAddr>().unwrap());
    let begin = |habit, count| vips.map(|vip| Load::begin(&cluster.client, vip, habit, count));
    let short = begin(Habit::Short, 3);
    let on_first = begin(Habit::KeepAlive, 3);
    sleep(ms(300));
    let first = UnderWay::begin(n1, "web n2");
    n2.wait_role("active", SOON);
    cluster.wait_ready();
    sleep(ms(300));
    let on_second = begin(Habit::WebSocket, 2);
    sleep(ms(300));
    // Shorter than the one before it: n2 goes on for n1's clients all the same.
    let second = UnderWay::begin(n2, "web n3 --drain 30s");
    n3.wait_role("active", SOON);
    sleep(ms(1000));
    for load in on_second {
        let seen = load.end();
        unharmed("on n2", &seen);
        assert_eq!(seen.answered, ["n2"]);
    }
    // n2 has nothing left of its own by now.
    sleep(ms(3000));
    cluster.wait_ready();
    let on_third = begin(Habit::KeepAlive, 2);
    sleep(ms(300));
    let third = UnderWay::begin(n3, "web n1");
    n1.wait_role("active", SOON);
    sleep(ms(1500));
    for (loads, who) in [(on_first, "n1"), (on_third, "n3")] {
        for load in loads {
            let seen = load.end();
            unharmed(who, &seen);
            assert_eq!(seen.answered, [who]);
        }
    }
    short.into_iter().for_each(|load| unharmed("short", &load.end()));
    first.ends_moved_back("n3");
    for command in [second, third] {
        let (code, story, error) = command.end();
        assert_eq!((code, steps(&story).last()), (Some(0), Some(&"done")), "{story:?}{error}");
    }
    cluster.wait_states(&before);
}

/// A client that hears of the way back a second late: n2, which has none of its connections, hands its
/// packets on until then.
pub(crate) fn a_client_may_learn_late() {
    let cluster = Cluster::new(2, 1, "60s");
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    let _daemons = cluster.start();
    let before = cluster.states();
    let keeps = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::KeepAlive, 4);
    sleep(ms(300));
    let there = UnderWay::begin(n1, "web");
    n2.wait_role("active", SOON);
    sleep(ms(300));
    cluster.wait_ready();
    let mac = n2.mac();
    cluster.client.ip(&format!("neigh replace {VIP} lladdr {mac} dev eth0 nud permanent"));
    let back = UnderWay::begin(n2, "web");
    n1.wait_role("active", SOON);
    sleep(ms(1000));
    cluster.client.ip(&format!("neigh del {VIP} dev eth0"));
    sleep(ms(300));
    let seen = keeps.end();
    unharmed("keep-alive", &seen);
    assert_eq!(seen.answered, ["n1"]);
    there.ends_moved_back("n2");
    let (code, story, error) = back.end();
    assert_eq!(code, Some(0), "{story:?}{error}");
    cluster.wait_states(&before);
}

/// UDP to port 443 goes to whoever has the VIP, where nginx has no QUIC: the table doesn't touch it.
pub(crate) fn udp_of_others_moves_at_once() {
    let cluster = Cluster::new(2, 1, "60s");
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    let _daemons = cluster.start();
    let before = cluster.states();
    let servers = [n1, n2].map(udp_server);
    let keeps = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::KeepAlive, 2);
    sleep(ms(300));
    assert_eq!(udp_answers(&cluster.client, 20), ["n1"; 20]);
    let there = UnderWay::begin(n1, "web");
    n2.wait_role("active", SOON);
    wait_until("n1 to keep the VIP for its clients", SOON, || {
        n1.ip("-o address show dev lo").contains(VIP)
    });
    sleep(ms(500));
    // As QUIC's packets begin, too: nobody said that this is QUIC.
    assert_eq!(udp_answers(&cluster.client, 20), ["n2"; 20]);
    unharmed("keep-alive", &keeps.end());
    let (code, story, error) = there.end();
    assert_eq!(code, Some(0), "{story:?}{error}");
    cluster.wait_states(&before);
    for (server, to) in servers.into_iter().zip([n1, n2]) {
        udp_send(to, "127.0.0.1", &[0]);
        server.join().unwrap();
    }
}

/// Says whose it is, until it gets a zero.
fn udp_server(host: &Host) -> JoinHandle<()> {
    let (pid, name) = (host.pid, host.name.clone());
    let (ready, listens) = std::sync::mpsc::channel();
    let server = spawn(move || {
        enter_network(network_of(pid).unwrap().as_fd()).unwrap();
        let socket = UdpSocket::bind("0.0.0.0:443").unwrap();
        ready.send(()).unwrap();
        let mut bytes = [0; 8];
        loop {
            let (_, from) = socket.recv_from(&mut bytes).unwrap();
            if bytes[0] == 0 {
                return;
            }
            socket.send_to(name.as_bytes(), from).unwrap();
        }
    });
    listens.recv().unwrap();
    server
}

/// Sends datagrams from one port each, of every form that QUIC knows, and hands back the answers.
fn udp_answers(client: &Host, count: usize) -> Vec<String> {
    let forms = [0xc0, 0x40, 0xe0, 0x80, 0x01];
    (0..count).map(|at| udp_send(client, VIP, &[forms[at % forms.len()]])).collect()
}

fn udp_send(from: &Host, to: &str, bytes: &[u8]) -> String {
    let (pid, to, bytes) = (from.pid, format!("{to}:443"), bytes.to_vec());
    let client = spawn(move || {
        enter_network(network_of(pid).unwrap().as_fd()).unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(ms(if bytes == [0] { 1 } else { 3000 }))).unwrap();
        socket.send_to(&bytes, to).unwrap();
        let mut answer = [0; 8];
        // Its source is the server's own address: it was bound to all.
        let read = socket.recv_from(&mut answer).map_or(0, |(read, _)| read);
        String::from_utf8_lossy(&answer[..read]).into_owned()
    });
    client.join().unwrap()
}

/// The old node, which keeps the VIP for its clients, doesn't answer for it over the second cable either.
pub(crate) fn a_second_cable_is_no_rival() {
    let cluster = Cluster::new(2, 1, "60s");
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    let beside = Lan::new();
    for node in &cluster.nodes {
        beside.plug(node, "eth1");
        node.sysctl("net/ipv6/conf/eth1/accept_dad", "0");
        node.ip("link set eth1 up");
        let file = node.read(FILE);
        let more = file.replace("drain_timeout", "heartbeat = [\"eth1\"]\ndrain_timeout");
        assert_ne!(file, more);
        node.write(FILE, &more);
    }
    for node in &cluster.nodes {
        wait_until("the second cable to have its address", SOON, || {
            node.ip("-o -6 address show dev eth1 scope link -tentative").contains("fe80")
        });
    }
    let _daemons = cluster.start();
    let before = cluster.states();
    let keeps = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::KeepAlive, 2);
    sleep(ms(300));
    let moving = UnderWay::begin(n1, "web n2");
    n2.wait_role("active", SOON);
    // It asks after two seconds, and who answered for three more would be a rival.
    sleep(ms(7_500));
    assert_eq!(n2.role(), "active", "{}", n2.run(&format!("{STANDIN} events -n 9")));
    assert!(!n2.said("rival", "n1"), "{}", n2.run(&format!("{STANDIN} events -n 9")));
    unharmed("keep-alive", &keeps.end());
    let (code, story, error) = moving.end();
    assert_eq!(code, Some(0), "{story:?}{error}");
    cluster.wait_states(&before);
}
