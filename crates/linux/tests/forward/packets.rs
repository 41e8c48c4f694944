//! What becomes of single packets, of the table, and of sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use standin_core::types::{Family, Mac};
use standin_linux::forward::{self, Forwarding, Leftover, Neighbour, Order, Refusal};
use standin_linux::neighbour::NeighbourSocket;
use standin_linux::netlink::{Change, Rtnl};
use standin_linux::sockets::{Sockets, TcpState};

use super::lan::{Host, Lan, VIP4, VIP6, move_vip, switch_over};
use super::load::{PORT, ask, connect, serve};
use super::space::{self, alone, alone_and_timed};
use super::vips;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// An IPv4 or IPv6 packet in an Ethernet frame; what is inside has a checksum that isn't true, so
/// that a host that has it in the end says nothing.
fn frame(from: &Host, to: Mac, vip: IpAddr, ttl: u8, (protocol, inside): (u8, Vec<u8>)) -> Vec<u8> {
    let length = u16::try_from(inside.len()).unwrap();
    let mut frame = [to.0, from.mac().0].concat();
    match (from.v4(), from.v6(), vip) {
        (IpAddr::V4(source), _, IpAddr::V4(vip)) => {
            frame.extend([8, 0]);
            let mut header = vec![0x45, 0];
            header.extend((20 + length).to_be_bytes());
            header.extend([0, 1, 0x40, 0, ttl, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(vip.octets());
            let words = header.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
            let sum: u32 = words.sum();
            let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        }
        (_, IpAddr::V6(source), IpAddr::V6(vip)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([protocol, ttl]);
            frame.extend(source.octets());
            frame.extend(vip.octets());
        }
        _ => unreachable!(),
    }
    frame.extend(inside);
    frame
}

/// A segment of a connection that nobody knows.
fn segment(flags: u8) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff];
    segment.extend([0xde, 0xad, 0, 0]);
    segment
}

fn datagram(port: u16, first: u8) -> Vec<u8> {
    let mut datagram = vec![0x9c, 0x41];
    datagram.extend(port.to_be_bytes());
    datagram.extend([0, 8 + 32, 0xde, 0xad]);
    datagram.push(first);
    datagram.extend([7; 31]);
    datagram
}

/// Counts the frames to the VIP that come into the switch.
fn count_at(switch: &Host) {
    switch.sh(&format!(
        "nft 'add table bridge count
        add chain bridge count pre {{ type filter hook prerouting priority 0; }}
        add rule bridge count pre ip daddr {VIP4} meta l4proto {{ tcp, udp, icmp }} counter
        add rule bridge count pre ip6 daddr {VIP6} meta l4proto {{ tcp, udp }} counter'"
    ));
}

/// How many have come so far.
fn counted(switch: &Host) -> u32 {
    // The frames that a packet becomes are sent on within the call that sends it; a host that is
    // asked for a neighbour's MAC takes a moment longer.
    std::thread::sleep(Duration::from_millis(30));
    let text = switch.sh("nft list table bridge count");
    let words: Vec<_> = text.split_whitespace().collect();
    words
        .windows(2)
        .filter(|two| two[0] == "packets")
        .map(|two| two[1].parse::<u32>().unwrap())
        .sum()
}

fn send(from: &Host, frame: &[u8]) {
    let index = from.index();
    from.run(|| NeighbourSocket::open(index).unwrap().send(frame).unwrap());
}

#[test]
fn one_packet_becomes_two_and_no_more() {
    alone(|| {
        let lan = Lan::new(2);
        let [n1, n2] = &lan.nodes[..] else { unreachable!() };
        n1.hold(&vips());
        // They point at each other, as two commands at once would leave them.
        let mut there = switch_over(n1, n2, &vips());
        let mut back = n1.forward_to(n2, &vips());
        count_at(&lan.switch);
        let mut before = 0;
        let mut frames = |packet: (u8, Vec<u8>), vip: IpAddr, ttl| {
            send(&lan.client, &frame(&lan.client, n2.mac(), vip, ttl, packet));
            let now = counted(&lan.switch);
            let new = now - before;
            before = now;
            new
        };
        let mut looped = 0;
        for vip in vips() {
            let mut frames = |packet, ttl| frames(packet, vip, ttl);
            assert_eq!(frames((TCP, segment(0x10)), 64), 2, "{vip}: of a connection");
            assert_eq!(frames((TCP, segment(0x10)), 2), 2, "{vip}: just far enough");
            assert_eq!(frames((TCP, segment(0x10)), 1), 1, "{vip}: too far");
            looped += 1;
            assert_eq!(frames((TCP, segment(0x12)), 64), 2, "{vip}: an answer");
            assert_eq!(frames((TCP, segment(0x02)), 64), 1, "{vip}: a new connection");
            assert_eq!(frames((TCP, segment(0x10)), 64), 1, "{vip}: that connection");
            assert_eq!(frames((UDP, datagram(443, 0x40)), 64), 1, "{vip}: other UDP");
        }
        let vip = vips()[0];
        let error = [3, 4, 0, 0, 0, 0, 0, 0];
        assert_eq!(frames((ICMP, error.to_vec()), vip, 64), 2, "an error is for both");
        let echo = [8, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(frames((ICMP, echo.to_vec()), vip, 64), 1, "an echo request");
        let (n1s, n2s) = (n1.run(|| back.progress()), n2.run(|| there.progress()));
        assert_eq!(n2s.unwrap().looped, looped);
        assert_eq!(n1s.unwrap().packets, 0, "sent back where it came from");
    });
}

#[test]
fn a_ring_of_three_nodes_ends() {
    alone(|| {
        let lan = Lan::new(3);
        let [n1, n2, n3] = &lan.nodes[..] else { unreachable!() };
        n1.hold(&vips());
        let mut all = [(n1, n2), (n2, n3), (n3, n1)].map(|(from, to)| from.forward_to(to, &vips()));
        n2.hold(&vips());
        n3.hold(&vips());
        count_at(&lan.switch);
        send(&lan.client, &frame(&lan.client, n1.mac(), vips()[0], 8, (TCP, segment(0x10))));
        assert_eq!(counted(&lan.switch), 8);
        let looped: u64 = all.iter_mut().map(|one| one.progress().unwrap().looped).sum();
        assert_eq!(looped, 1);
    });
}

#[test]
fn quic_of_unknown_connections_goes_to_the_old_node() {
    alone(|| {
        let lan = Lan::new(2);
        let [n1, n2] = &lan.nodes[..] else { unreachable!() };
        n1.hold(&vips());
        let forwarding = n2.try_forward_to(n1, &vips(), &[443]).unwrap();
        move_vip(n1, n2, &vips());
        let servers: Vec<_> = [n1, n2]
            .into_iter()
            .map(|node| {
                node.run(|| {
                    let socket = UdpSocket::bind("[::]:443").unwrap();
                    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    socket
                })
            })
            .collect();
        let who = |place: usize| {
            let mut buffer = [0; 64];
            let heard: Vec<_> =
                servers.iter().map(|socket| socket.recv_from(&mut buffer).is_ok()).collect();
            assert_eq!(heard.iter().filter(|heard| **heard).count(), 1, "{place}: {heard:?}");
            if heard[0] { "n1" } else { "n2" }
        };
        for vip in vips() {
            let to = SocketAddr::new(vip, 443);
            let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let clients = lan.client.run(|| [any; 2].map(|any| UdpSocket::bind(any).unwrap()));
            let say = |client: usize, first: u8| {
                let mut datagram = [7; 40];
                datagram[0] = first;
                clients[client].send_to(&datagram, to).unwrap();
            };
            let (short, handshake, initial) = (0x5a, 0xe3, 0xc1);
            for (place, (client, first, whose)) in [
                (0, short, "n1"),
                (0, handshake, "n1"),
                (1, initial, "n2"),
                (1, short, "n2"),
                (1, handshake, "n2"),
                (0, short, "n1"),
                // Without the fixed bit it isn't QUIC.
                (0, 0x1a, "n2"),
            ]
            .into_iter()
            .enumerate()
            {
                say(client, first);
                assert_eq!(who(place), whose, "{vip}: {place}");
            }
        }
        drop(forwarding);
    });
}

#[test]
fn connections_go_on_over_a_chain_of_three_nodes() {
    alone_and_timed(|| {
        let lan = Lan::new(3);
        let [n1, n2, n3] = &lan.nodes[..] else { unreachable!() };
        lan.nodes.iter().for_each(serve);
        n1.hold(&vips());
        let mut forwardings = Vec::new();
        let mut open: Vec<(TcpStream, &str)> = Vec::new();
        for (from, to) in [(None, n1), (Some(n1), n2), (Some(n2), n3)] {
            if let Some(from) = from {
                forwardings.push(switch_over(from, to, &vips()));
            }
            for vip in vips() {
                let stream = lan.client.run(|| connect(SocketAddr::new(vip, PORT)).unwrap());
                open.push((stream, to.name));
            }
            for (stream, name) in &open {
                assert_eq!(ask(stream).unwrap().trim(), *name, "now at {}", to.name);
            }
        }
        // And back to the first, which must know its own by then.
        let last = switch_over(n3, n1, &vips());
        n1.leave(&vips());
        for (stream, name) in &open {
            // A chain has one way: what n2 has is reached through n3.
            assert_eq!(ask(stream).unwrap().trim(), *name, "back at n1");
        }
        drop((forwardings, last));
    });
}

#[test]
fn an_old_node_without_an_ipv6_address_is_reached_by_its_link_local_one() {
    alone(|| {
        let lan = Lan::new(2);
        let [n1, n2] = &lan.nodes[..] else { unreachable!() };
        [n1, n2].into_iter().for_each(serve);
        let vip = &vips()[1..];
        n1.hold(vip);
        let stream = lan.client.run(|| connect(SocketAddr::new(vip[0], PORT)).unwrap());
        let address = n1.link_local();
        let index = n2.index();
        let forwarding = n2.run(|| {
            let mac = Rtnl::open().unwrap().neighbour(index, address, Duration::from_secs(5));
            let old = [Neighbour { address, mac: mac.unwrap().unwrap() }];
            let order = Order { name: "web", addresses: vip, index, old: &old, quic_ports: &[] };
            Forwarding::begin(&order).unwrap()
        });
        move_vip(n1, n2, vip);
        assert_eq!(ask(&stream).unwrap().trim(), "n1");
        drop(forwarding);
    });
}

#[test]
fn connections_that_a_node_opens_from_the_vip_are_its_own() {
    alone(|| {
        let lan = Lan::new(2);
        let [n1, n2] = &lan.nodes[..] else { unreachable!() };
        serve(&lan.client);
        n1.hold(&vips());
        let forwarding = switch_over(n1, n2, &vips());
        for (vip, server) in vips().into_iter().zip([lan.client.v4(), lan.client.v6()]) {
            let stream = n2.run(|| {
                let domain =
                    if vip.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
                let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
                socket.bind(&SocketAddr::new(vip, 0).into()).unwrap();
                let to = SocketAddr::new(server, PORT);
                socket.connect_timeout(&to.into(), Duration::from_secs(3)).unwrap();
                TcpStream::from(socket)
            });
            assert_eq!(ask(&stream).unwrap().trim(), "client", "{vip}");
        }
        drop(forwarding);
    });
}

#[test]
fn a_connection_to_itself_is_left_alone() {
    alone(|| {
        let lan = Lan::new(2);
        let [n1, n2] = &lan.nodes[..] else { unreachable!() };
        serve(n2);
        n1.hold(&vips());
        let forwarding = switch_over(n1, n2, &vips());
        for vip in vips() {
            let stream = n2.run(|| connect(SocketAddr::new(vip, PORT)).unwrap());
            assert_eq!(ask(&stream).unwrap().trim(), "n2", "{vip}");
        }
        drop(forwarding);
    });
}

fn nobody(address: &str, mac: u8) -> Neighbour {
    Neighbour { address: address.parse().unwrap(), mac: Mac([2, 0, 0, 0, 0, mac]) }
}

fn order<'a>(name: &'a str, addresses: &'a [IpAddr], old: &'a [Neighbour]) -> Order<'a> {
    Order { name, addresses, index: 1, old, quic_ports: &[] }
}

fn ruleset() -> String {
    let output = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_probe_leaves_no_trace() {
    alone(|| {
        for family in Family::BOTH {
            forward::probe(family).unwrap();
        }
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn a_table_ends_with_its_owner_and_a_foreign_flush_spares_it() {
    alone(|| {
        let old = [nobody("10.9.0.1", 1), nobody("fd09::1", 1)];
        let vips = vips();
        let forwarding = Forwarding::begin(&order("web", &vips, &old)).unwrap();
        std::process::Command::new("nft").args(["flush", "ruleset"]).status().unwrap();
        let shown = ruleset();
        assert!(shown.contains("table ip standin_web"), "{shown}");
        assert!(shown.contains("table ip6 standin_web"), "{shown}");
        // It isn't a leftover as long as its owner lives.
        assert_eq!(forward::remove_leftovers().unwrap(), []);
        let again = Forwarding::begin(&order("web", &vips, &old)).unwrap_err();
        assert!(matches!(again, Refusal::Table { .. }), "{again}");
        assert_eq!(ruleset(), shown, "a refusal changed something");
        drop(forwarding);
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn what_has_no_owner_is_found_by_its_name_and_marks() {
    alone(|| {
        let old = [nobody("10.9.0.1", 1), nobody("fd09::1", 1)];
        let vips = vips();
        let foreign = "add table ip standin_mine; add table ip6 other";
        std::process::Command::new("nft").arg(foreign).status().unwrap();
        let before = ruleset();
        let forwarding = Forwarding::begin_with(&order("web", &vips, &old), false).unwrap();
        // As a program that is killed on a kernel without owners.
        std::mem::forget(forwarding);
        // And on one that keeps no comments.
        let counters = ["forwarded", "looped", "returned"]
            .map(|name| format!("add counter ip standin_old {name}"))
            .join("; ");
        let old = format!("add table ip standin_old; {counters}");
        std::process::Command::new("nft").arg(old).status().unwrap();
        let leftover = |family, name: &str| Leftover { family, name: name.to_owned() };
        let expected = [
            leftover(Family::V4, "standin_web"),
            leftover(Family::V6, "standin_web"),
            leftover(Family::V4, "standin_old"),
        ];
        assert_eq!(forward::remove_leftovers().unwrap(), expected);
        assert_eq!(ruleset(), before);
    });
}

#[test]
fn a_second_one_of_the_same_name_is_refused_and_leaves_the_first_alone() {
    alone(|| {
        let vips = vips();
        let old = [nobody("10.9.0.1", 1), nobody("fd09::1", 1)];
        // As on a kernel without owners, which lets anybody remove a table.
        let mut first = Forwarding::begin_with(&order("web", &vips, &old), false).unwrap();
        let shown = ruleset();
        let again = Forwarding::begin_with(&order("web", &vips, &old), false).unwrap_err();
        assert!(matches!(again, Refusal::Table { errno: 17, .. }), "{again}");
        assert_eq!(ruleset(), shown);
        assert_eq!(first.progress().unwrap().packets, 0);
        first.end().unwrap();
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn an_order_that_cannot_be_met_is_refused_in_words() {
    alone(|| {
        let vips = vips();
        let one = [nobody("10.9.0.1", 1)];
        let refusal = Forwarding::begin(&order("web", &vips, &one)).unwrap_err();
        assert!(!refusal.is_unsupported());
        assert_eq!(
            refusal.to_string(),
            "the VIP has IPv6 addresses, and the old node has none on its link"
        );
        let mut forwarding = Forwarding::begin(&order("web", &vips[..1], &one)).unwrap();
        assert_eq!(forwarding.progress().unwrap().packets, 0);
        forwarding.end().unwrap();
    });
}

/// Opens connections to itself, and hands both ends over.
fn crowd(address: IpAddr, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(SocketAddr::new(address, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    (0..count).map(|_| (TcpStream::connect(to).unwrap(), listener.accept().unwrap().0)).collect()
}

#[test]
fn sockets_are_counted_and_ended() {
    alone(|| {
        space::ip("link set lo up");
        let mut rtnl = Rtnl::open().unwrap();
        let keep = vips().map(|address| Change::Keep { index: 1, address, valid_s: 600 });
        rtnl.change_and_wait(&keep, &mut Vec::new(), Duration::from_secs(1)).unwrap();
        let mut sockets = Sockets::open().unwrap();
        for vip in vips() {
            let crowd = crowd(vip, 10);
            // Both ends have the address here.
            assert_eq!(sockets.count(&[vip], TcpState::OPEN).unwrap(), 20, "{vip}");
            let other = if vip.is_ipv4() { "127.0.0.1" } else { "::1" };
            assert_eq!(sockets.count(&[other.parse().unwrap()], TcpState::CONNECTED).unwrap(), 0);
            // The reset of one end ends the other, too.
            let ended = sockets.end(&[vip], TcpState::OPEN).unwrap();
            assert!((10..=20).contains(&ended), "{vip}: {ended}");
            assert_eq!(sockets.count(&[vip], TcpState::UNFINISHED).unwrap(), 0, "{vip}");
            assert!(ask(&crowd[0].0).is_err(), "{vip}");
        }
    });
}

#[test]
fn sockets_of_several_addresses_are_counted_in_one_walk() {
    alone(|| {
        space::ip("link set lo up");
        let addresses: Vec<IpAddr> =
            (1..=9).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect();
        let sought: Vec<IpAddr> =
            addresses.iter().copied().chain([Ipv6Addr::LOCALHOST.into()]).collect();
        let _crowds: Vec<_> = sought.iter().map(|address| crowd(*address, 1)).collect();
        let mut sockets = Sockets::open().unwrap();
        // Both ends of ::1; elsewhere the client's end is 127.0.0.1.
        assert_eq!(sockets.count(&sought, TcpState::OPEN).unwrap(), 20);
        assert_eq!(sockets.count(&sought[1..], TcpState::OPEN).unwrap(), 10);
        assert_eq!(sockets.count(&sought[3..5], TcpState::OPEN).unwrap(), 2);
        let many: Vec<IpAddr> =
            (0..1_000).map(|last| Ipv4Addr::from(0x0a00_0000 + last).into()).collect();
        let many: Vec<IpAddr> = many.into_iter().chain(sought).collect();
        assert_eq!(sockets.count(&many, TcpState::OPEN).unwrap(), 20);
        assert_eq!(sockets.count(&[], TcpState::OPEN).unwrap(), 0);
    });
}

#[test]
fn an_ipv4_connection_to_an_ipv6_socket_is_an_ipv4_connection() {
    alone(|| {
        space::ip("link set lo up");
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _server = listener.accept().unwrap();
        let mut found = Vec::new();
        let local = "127.0.0.1".parse().unwrap();
        let mut sockets = Sockets::open().unwrap();
        sockets.tcp(&[local], TcpState::OPEN, &mut |socket| found.push(*socket)).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|socket| socket.local.port() == port));
        assert!(found.iter().all(|socket| socket.remote.ip() == local));
    });
}

#[test]
fn many_connections_are_noted_before_the_vip_comes() {
    alone_and_timed(|| {
        space::ip("link set lo up");
        let vips = vips();
        let mut rtnl = Rtnl::open().unwrap();
        let keep = vips.map(|address| Change::Keep { index: 1, address, valid_s: 600 });
        rtnl.change_and_wait(&keep, &mut Vec::new(), Duration::from_secs(1)).unwrap();
        let _crowd = vips.map(|vip| crowd(vip, 3000));
        let old = [nobody("10.9.0.1", 1), nobody("fd09::1", 1)];
        let begun = Instant::now();
        let forwarding = Forwarding::begin(&order("web", &vips, &old)).unwrap();
        println!("12,000 connections noted in {:?}", begun.elapsed());
        let shown = ruleset();
        assert_eq!(shown.matches("timeout 2h").count() - 2, 12_000);
        forwarding.end().unwrap();
    });
}
