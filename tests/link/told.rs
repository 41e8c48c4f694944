//! Adverts are lost one way and the network hides who answers: the peer link names it, and settles it.

use std::net::IpAddr;
use std::os::fd::AsFd;

use standin_core::plan::{ChecksumStyle, Version};
use standin_core::types::{Family, IntervalCs, Priority, Vrid};
use standin_core::wire::vrrp::{self, MULTICAST_V4, Outgoing};
use standin_linux::advert::AdvertSender;
use standin_linux::spawn;

use super::hosts::{Host, STANDIN, ms, skipped, wait_until};
use super::{Pair, SOON, VIP, wait_connected};

/// Three seconds of two that say that they are active, and a loaded machine.
const SETTLED: std::time::Duration = ms(12_000);

/// Answers no ARP, as behind a switch that inspects it; `more` is dropped, too.
fn hide(host: &Host, other: &Host, address: &str, more: &str) {
    host.ip(&format!("neigh replace {address} lladdr {} dev eth0 nud permanent", other.mac()));
    host.nft(&format!(
        "table arp hidden {{\n chain in {{\n type filter hook input priority 0\n drop\n }}\n}}\n\
         table inet loss {{\n chain in {{\n type filter hook input priority -300\n {more}\n }}\n}}"
    ));
}

fn lost(host: &Host) -> Option<(String, String)> {
    let vip = host.vip()?;
    let word = |key: &str| Some(vip["lost"].get(0)?[key].as_str()?.to_owned());
    Some((word("from")?, word("to")?))
}

#[test]
fn of_two_actives_that_hear_no_adverts_and_no_answers_one_yields_and_the_direction_is_named() {
    if skipped() {
        return;
    }
    let mut pair = Pair::new();
    let (_first, _second) = pair.running();
    wait_connected(&pair);
    wait_until("n2 to be eligible", SOON, || {
        pair.n2.vip().is_some_and(|vip| vip["standing"] == "eligible" && vip["holder"] == "n1")
    });
    hide(&pair.n1, &pair.n2, "192.168.1.190", "");
    hide(&pair.n2, &pair.n1, "192.168.1.189", "ip protocol 112 drop");
    pair.n2.wait_role("active", SOON);
    // Both name the same direction.
    for host in [&pair.n1, &pair.n2] {
        host.wait_said("adverts_lost", "adverts of n1 don't reach n2", SETTLED);
    }
    // By the link, or by announcements that were seen; the questions after them find no answer.
    pair.n2.wait_role("backup", SETTLED);
    for _ in 0..250 {
        assert!(pair.n1.has(VIP) && !pair.n2.has(VIP));
        std::thread::sleep(ms(20));
    }
    assert_eq!(lost(&pair.n2), Some(("n1".to_owned(), "n2".to_owned())));
    let said = pair.n2.run(&format!("{STANDIN} status"));
    assert!(said.contains("adverts of n1 haven't reached n2 for"), "{said}");
    // What is followed by the link is replaced when it says nothing any more.
    pair.n1.kill();
    pair.n2.wait_has(VIP, true, SETTLED);
}

#[test]
fn a_forged_priority_0_moves_nothing_while_the_link_says_that_all_is_well() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (first, _second) = pair.running();
    wait_connected(&pair);
    wait_until("n2 to follow n1", SOON, || {
        pair.n2.vip().is_some_and(|vip| vip["standing"] == "eligible" && vip["holder"] == "n1")
    });
    let before = (pair.n1.transitions(), pair.n2.transitions());
    let mallory = pair.lan.host("mallory", &[]);
    mallory.sysctl("net/ipv4/conf/all/arp_ignore", "8");
    mallory.ip("addr add 192.168.1.189/32 dev lo");
    std::thread::sleep(ms(500));
    forge(&mallory, 30);
    assert_eq!((pair.n1.transitions(), pair.n2.transitions()), before);
    // Who really leaves is believed.
    first.crash();
    pair.n2.wait_has(VIP, true, SOON);
}

/// Says in n1's name that it has left, thirty times a second.
fn forge(mallory: &Host, count: usize) {
    let pid = mallory.pid;
    let source: IpAddr = "192.168.1.189".parse().unwrap();
    let said = std::thread::spawn(move || {
        spawn::enter_network(spawn::network_of(pid).unwrap().as_fd()).unwrap();
        let index = std::fs::read_to_string(format!("/proc/{pid}/root/sys/class/net/eth0/ifindex"));
        let index = index.unwrap().trim().parse().unwrap();
        let mut payload = Vec::new();
        let out = Outgoing {
            version: Version::V3,
            vrid: Vrid::new(41).unwrap(),
            priority: Priority::RELEASE,
            interval: IntervalCs::new(10).unwrap(),
            addresses: &[VIP.parse().unwrap()],
            password: None,
            checksum: ChecksumStyle::WithPseudoHeader,
            source,
            destination: MULTICAST_V4.into(),
        };
        vrrp::emit(&out, &mut payload);
        let mut sender = AdvertSender::open(Family::V4, index, "eth0", source).unwrap();
        for _ in 0..count {
            sender.send([(MULTICAST_V4.into(), payload.as_slice())]).unwrap();
            std::thread::sleep(ms(30));
        }
    });
    said.join().unwrap();
}
