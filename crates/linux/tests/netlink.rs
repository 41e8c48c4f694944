//! Addresses as the kernel holds and drops them, in namespaces of their own.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod space;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use space::{alone, alone_and_timed, find, index_of, ip, prefix, source_towards, wire};
use standin_core::types::Prefix;
use standin_linux::netlink::{Change, PROTOCOL, Rtnl};
use standin_linux::sysctl;

const FOR_EVER: u32 = u32::MAX;

fn hold(rtnl: &mut Rtnl, index: u32, address: &str, valid_s: u32) {
    let mut results = Vec::new();
    let change = Change::Hold { index, prefix: prefix(address), valid_s };
    rtnl.change(&[change], &mut results).unwrap();
    assert_eq!(results, [Ok(())], "{address}");
}

fn drop_address(rtnl: &mut Rtnl, index: u32, address: &str) {
    let mut results = Vec::new();
    rtnl.change(&[Change::Drop { index, prefix: prefix(address) }], &mut results).unwrap();
    assert_eq!(results, [Ok(())], "{address}");
}

/// As `hold`, and waits until the kernel is done with it.
fn hold_until_usable(rtnl: &mut Rtnl, index: u32, address: &str, valid_s: u32) {
    let mut results = Vec::new();
    let change = Change::Hold { index, prefix: prefix(address), valid_s };
    rtnl.change_and_wait(&[change], &mut results, Duration::from_secs(10)).unwrap();
    assert_eq!(results, [Ok(())], "{address}");
}

fn thousand() -> Vec<Prefix> {
    let v4 = (0..500).map(|n| prefix(&format!("10.64.{}.{}/32", n / 250, n % 250 + 1)));
    let v6 = (1..=500).map(|n| prefix(&format!("fd00:64::{n:x}/128")));
    v4.chain(v6).collect()
}

#[test]
fn a_thousand_addresses_are_held_renewed_and_dropped() {
    alone_and_timed(|| {
        wire();
        let index = index_of("va");
        let mut rtnl = Rtnl::open().unwrap();
        let mut results = Vec::new();
        let holds: Vec<Change> = thousand()
            .into_iter()
            .map(|prefix| Change::Hold { index, prefix, valid_s: 60 })
            .collect();
        let drops: Vec<Change> =
            thousand().into_iter().map(|prefix| Change::Drop { index, prefix }).collect();
        for (what, changes, left) in
            [("held", &holds, 1000), ("renewed", &holds, 1000), ("dropped", &drops, 0)]
        {
            let begun = Instant::now();
            rtnl.change(changes, &mut results).unwrap();
            println!("1,000 addresses {what} in {:?}", begun.elapsed());
            assert_eq!(results, vec![Ok(()); 1000], "{what}");
            let begun = Instant::now();
            let all = rtnl.addresses().unwrap();
            println!("all addresses read in {:?}", begun.elapsed());
            let ours = all.iter().filter(|one| one.protocol == PROTOCOL);
            assert_eq!(ours.count(), left, "{what}");
        }
    });
}

#[test]
fn each_change_has_its_own_result_also_across_batches() {
    alone(|| {
        wire();
        let index = index_of("va");
        let mut changes: Vec<Change> = thousand()
            .into_iter()
            .take(300)
            .map(|prefix| Change::Hold { index, prefix, valid_s: 60 })
            .collect();
        let missing = prefix("10.99.0.1/32");
        changes[7] = Change::Drop { index, prefix: missing };
        changes[127] = Change::Hold { index, prefix: missing, valid_s: 0 };
        changes[128] = Change::Hold { index: 4_000_000, prefix: missing, valid_s: 60 };
        changes[299] = Change::Drop { index, prefix: missing };
        let mut results = vec![Ok(()); 5];
        Rtnl::open().unwrap().change(&changes, &mut results).unwrap();
        let mut expected = vec![Ok(()); 300];
        expected[7] = Err(libc::EADDRNOTAVAIL);
        expected[127] = Err(libc::EINVAL);
        expected[128] = Err(libc::ENODEV);
        expected[299] = Err(libc::EADDRNOTAVAIL);
        assert_eq!(results, expected);
    });
}

#[test]
fn a_held_address_says_what_it_is() {
    alone(|| {
        wire();
        let index = index_of("va");
        let mut rtnl = Rtnl::open().unwrap();
        for address in ["10.1.0.40/24", "10.1.1.40/31", "10.1.2.40/32", "fd00::40/64"] {
            hold(&mut rtnl, index, address, 60);
            let found = find(address.split('/').next().unwrap()).unwrap();
            assert_eq!((found.index, found.prefix), (index, prefix(address)));
            assert_eq!((found.protocol, found.secondary), (PROTOCOL, false));
            assert_eq!((found.tentative, found.dad_failed), (false, false));
            assert!(matches!(found.valid_lft, Some(58..=60)), "{found:?}");
        }
        let shown = ip("-4 addr show dev va");
        assert!(shown.contains("10.1.0.40/24 brd 10.1.0.255"), "{shown}");
        assert_eq!(shown.matches("brd").count(), 1, "{shown}");
        assert_eq!(find("127.0.0.1").unwrap().valid_lft, None);
    });
}

#[test]
fn links_say_what_they_are() {
    alone(|| {
        wire();
        ip("link set va address 02:00:00:00:00:0a mtu 1400");
        let links = Rtnl::open().unwrap().links().unwrap();
        let find = |name: &str| links.iter().find(|link| link.name == name).unwrap();
        let (lo, va) = (find("lo"), find("va"));
        assert!(lo.loopback && lo.up && !va.loopback && va.up);
        assert_eq!(va.mac.unwrap().to_string(), "02:00:00:00:00:0a");
        assert_eq!(va.mtu, 1400);
        ip("link set vb down");
        let links = Rtnl::open().unwrap().links().unwrap();
        // Still switched on itself, but without a carrier.
        assert!(!links.iter().find(|link| link.name == "va").unwrap().up);
    });
}

#[test]
fn an_address_is_gone_two_seconds_after_its_last_renewal() {
    alone_and_timed(|| {
        wire();
        let index = index_of("va");
        let mut rtnl = Rtnl::open().unwrap();
        let vips = ["10.1.0.40/24", "fd00::40/64"];
        let hosts = ["10.1.0.40", "fd00::40"];
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            vips.iter().for_each(|vip| hold(&mut rtnl, index, vip, 2));
            sleep(Duration::from_millis(500));
            hosts.iter().for_each(|vip| assert!(find(vip).is_some(), "{vip} didn't live"));
        }
        vips.iter().for_each(|vip| hold(&mut rtnl, index, vip, 2));
        let last = Instant::now();
        for vip in hosts {
            while find(vip).is_some() {
                assert!(last.elapsed() < Duration::from_secs(10), "{vip} never ended");
                sleep(Duration::from_millis(20));
            }
            println!("{vip} was gone {:?} after its last renewal", last.elapsed());
            assert!(last.elapsed() > Duration::from_millis(1500), "{vip}");
            assert!(last.elapsed() < Duration::from_millis(3500), "{vip}");
        }
    });
}

#[test]
fn an_established_connection_survives_renewals_and_not_the_end_of_the_address() {
    alone_and_timed(|| {
        wire();
        let index = index_of("va");
        let mut rtnl = Rtnl::open().unwrap();
        hold(&mut rtnl, index, "10.1.0.40/24", 60);
        hold_until_usable(&mut rtnl, index, "fd00::40/64", 60);
        let mut pairs: Vec<(TcpStream, TcpStream)> = ["10.1.0.40:0", "[fd00::40]:0"]
            .iter()
            .map(|vip| {
                let listener = TcpListener::bind(vip).unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                (client, listener.accept().unwrap().0)
            })
            .collect();
        let mut word = [0; 4];
        for _ in 0..10 {
            hold(&mut rtnl, index, "10.1.0.40/24", 2);
            hold(&mut rtnl, index, "fd00::40/64", 2);
            sleep(Duration::from_millis(400));
            for (client, server) in &mut pairs {
                server.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                client.write_all(b"ping").unwrap();
                server.read_exact(&mut word).unwrap();
            }
        }
        // The same exchange fails once the address is gone: the test can tell.
        drop_address(&mut rtnl, index, "10.1.0.40/24");
        drop_address(&mut rtnl, index, "fd00::40/64");
        for (client, server) in &mut pairs {
            let sent = client.write_all(b"ping");
            assert!(sent.is_err() || server.read_exact(&mut word).is_err());
        }
    });
}

#[test]
fn a_vip_stays_secondary_and_no_source_after_renewals() {
    alone(|| {
        wire();
        let index = index_of("va");
        ip("addr add 10.1.0.1/24 dev va");
        let mut rtnl = Rtnl::open().unwrap();
        for _ in 0..5 {
            hold(&mut rtnl, index, "10.1.0.40/24", 2);
            hold(&mut rtnl, index, "10.1.0.39/24", 2);
            let ours = rtnl.addresses().unwrap();
            let order: Vec<(String, bool)> = ours
                .iter()
                .filter(|one| one.index == index && one.prefix.address().is_ipv4())
                .map(|one| (one.prefix.to_string(), one.secondary))
                .collect();
            let expected = [("10.1.0.1/24", false), ("10.1.0.40/24", true), ("10.1.0.39/24", true)];
            assert_eq!(order, expected.map(|(address, flag)| (address.to_owned(), flag)));
            assert_eq!(source_towards("10.1.0.41").to_string(), "10.1.0.1");
        }
    });
}

#[test]
fn the_end_of_a_primary_takes_its_secondaries_along_unless_they_are_promoted() {
    alone(|| {
        wire();
        let index = index_of("va");
        let mut rtnl = Rtnl::open().unwrap();
        for (promote, survives) in [("0", false), ("1", true)] {
            sysctl::write("net/ipv4/conf/va/promote_secondaries", promote).unwrap();
            sysctl::write("net/ipv4/conf/all/promote_secondaries", promote).unwrap();
            // The VIP came first, so that the node's own address is the secondary.
            hold(&mut rtnl, index, "10.1.0.40/24", 60);
            ip("addr add 10.1.0.1/24 dev va");
            assert!(find("10.1.0.1").unwrap().secondary);
            drop_address(&mut rtnl, index, "10.1.0.40/24");
            assert_eq!(find("10.1.0.1").is_some(), survives, "promote_secondaries={promote}");
        }
        assert!(!find("10.1.0.1").unwrap().secondary);
        assert_eq!(source_towards("10.1.0.7").to_string(), "10.1.0.1");
    });
}

#[test]
fn the_expiry_of_a_primary_vip_leaves_the_node_its_address_when_secondaries_are_promoted() {
    alone_and_timed(|| {
        wire();
        let index = index_of("va");
        sysctl::write("net/ipv4/conf/va/promote_secondaries", "1").unwrap();
        hold(&mut Rtnl::open().unwrap(), index, "10.1.0.40/24", 1);
        ip("addr add 10.1.0.1/24 dev va");
        let begun = Instant::now();
        while find("10.1.0.40").is_some() {
            assert!(begun.elapsed() < Duration::from_secs(10));
            sleep(Duration::from_millis(50));
        }
        assert!(!find("10.1.0.1").unwrap().secondary);
        assert_eq!(source_towards("10.1.0.7").to_string(), "10.1.0.1");
    });
}

#[test]
fn an_ipv6_vip_is_usable_at_once_where_others_wait_for_duplicate_detection() {
    alone(|| {
        ip("link add va type veth peer name vb");
        ip("link set va up");
        ip("link set vb up");
        sysctl::write("net/ipv6/conf/va/accept_dad", "1").unwrap();
        let index = index_of("va");
        ip("addr add fd00::1/64 dev va");
        assert!(find("fd00::1").unwrap().tentative, "no duplicate detection here");
        assert!(TcpListener::bind("[fd00::1]:0").is_err());
        hold(&mut Rtnl::open().unwrap(), index, "fd00::40/64", 60);
        TcpListener::bind("[fd00::40]:0").unwrap();
        assert!(!find("fd00::40").unwrap().tentative);
    });
}

#[test]
fn an_ipv6_vip_takes_connections_as_soon_as_it_was_waited_for() {
    alone_and_timed(|| {
        wire();
        let index = index_of("va");
        let mut rtnl = Rtnl::open().unwrap();
        let mut waits = Vec::new();
        for n in 1..=200 {
            let vip = format!("fd00::40:{n:x}");
            let asked = Instant::now();
            hold_until_usable(&mut rtnl, index, &format!("{vip}/64"), 60);
            waits.push(asked.elapsed());
            let listener = TcpListener::bind(format!("[{vip}]:0")).unwrap();
            let address = listener.local_addr().unwrap();
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).unwrap();
        }
        waits.sort();
        println!("usable after: median {:?}, worst {:?}", waits[100], waits[199]);
    });
}

#[test]
fn an_ipv6_vip_is_not_the_source_of_the_hosts_own_connections() {
    alone(|| {
        wire();
        let index = index_of("va");
        ip("addr add fd00::1/64 dev va nodad");
        let mut rtnl = Rtnl::open().unwrap();
        hold(&mut rtnl, index, "fd00::40/64", 60);
        hold(&mut rtnl, index, "fd00::40/64", 60);
        // To this neighbour the VIP has the longer common prefix (RFC 6724 rule 8) ...
        assert_eq!(source_towards("fd00::41").to_string(), "fd00::1");
        // ... and is the source once it is preferred: the test can tell.
        ip("addr replace fd00::40/64 dev va nodad noprefixroute valid_lft 60 preferred_lft 60");
        assert_eq!(source_towards("fd00::41").to_string(), "fd00::40");
    });
}

/// The seconds that the route to the subnet has left.
fn subnet_route_expires() -> u32 {
    let shown = ip("-6 route show dev va fd00::/64");
    let mut words = shown.split_whitespace().skip_while(|word| *word != "expires");
    let seconds = words.nth(1).and_then(|word| word.strip_suffix("sec"));
    seconds.unwrap_or_else(|| panic!("no route that expires: {shown:?}")).parse().unwrap()
}

#[test]
fn an_ipv6_vip_leaves_the_route_of_the_nodes_own_subnet_alone() {
    alone(|| {
        wire();
        let index = index_of("va");
        // As DHCPv6 and router advertisements give it.
        ip("addr add fd00::1/64 dev va nodad valid_lft 1000 preferred_lft 1000");
        assert!(subnet_route_expires() > 900);
        let mut rtnl = Rtnl::open().unwrap();
        hold(&mut rtnl, index, "fd00::40/64", 2);
        hold(&mut rtnl, index, "fd00::40/64", 2);
        assert!(subnet_route_expires() > 900);
        drop_address(&mut rtnl, index, "fd00::40/64");
        assert!(subnet_route_expires() > 900);
    });
}

#[test]
fn an_ipv6_vip_alone_in_its_subnet_brings_the_route_until_the_node_has_its_own() {
    alone(|| {
        wire();
        let index = index_of("va");
        let mut rtnl = Rtnl::open().unwrap();
        hold(&mut rtnl, index, "fd00::40/64", 20);
        assert!(subnet_route_expires() <= 20);
        hold(&mut rtnl, index, "fd00::40/64", 60);
        assert!((50..=60).contains(&subnet_route_expires()));
        ip("addr add fd00::1/64 dev va nodad valid_lft 1000 preferred_lft 1000");
        hold(&mut rtnl, index, "fd00::40/64", 60);
        hold(&mut rtnl, index, "fd00::40/64", 60);
        assert!(subnet_route_expires() > 900);
        drop_address(&mut rtnl, index, "fd00::40/64");
        assert!(subnet_route_expires() > 900);
    });
}

#[test]
fn an_address_can_be_held_for_ever() {
    alone(|| {
        wire();
        hold(&mut Rtnl::open().unwrap(), index_of("va"), "10.1.0.40/24", FOR_EVER);
        assert_eq!(find("10.1.0.40").unwrap().valid_lft, None);
    });
}

#[test]
fn holding_a_permanent_address_gives_it_an_end() {
    alone(|| {
        wire();
        ip("addr add 10.1.0.40/24 dev va");
        ip("addr add fd00::40/64 dev va nodad");
        let (index, mut rtnl) = (index_of("va"), Rtnl::open().unwrap());
        hold(&mut rtnl, index, "10.1.0.40/24", 60);
        hold(&mut rtnl, index, "fd00::40/128", 60);
        assert!(find("10.1.0.40").unwrap().valid_lft.is_some());
        let v6 = find("fd00::40").unwrap();
        assert_eq!((v6.prefix, v6.valid_lft.is_some()), (prefix("fd00::40/64"), true));
    });
}
