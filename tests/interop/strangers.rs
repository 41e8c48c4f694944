//! Hosts that are no nodes: owners of the address, senders of adverts, peers that speak wrongly.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use standin_core::plan::{ChecksumStyle, Version};
use standin_core::types::{Family, IntervalCs, Priority, Vrid};
use standin_core::wire::vrrp::{self, MULTICAST_V4, MULTICAST_V6, Outgoing};
use standin_linux::advert::AdvertSender;
use standin_linux::spawn;

use crate::hosts::wire::who_has;
use crate::hosts::{self, Host, Story, ms, together};
use crate::pair::{Dialect, Scene};

/// Sends adverts every 50 ms from a host's `eth0` until it is dropped.
struct Speaker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Speaker {
    fn start(host: &Host, source: &str, vip: &str, priority: u8) -> Self {
        let pid = host.pid;
        let (source, vip): (IpAddr, IpAddr) = (source.parse().unwrap(), vip.parse().unwrap());
        let stop: Arc<AtomicBool> = Arc::default();
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            spawn::enter_network(spawn::network_of(pid).unwrap().as_fd()).unwrap();
            let index =
                std::fs::read_to_string(format!("/proc/{pid}/root/sys/class/net/eth0/ifindex"));
            let index = index.unwrap().trim().parse().unwrap();
            let family = Family::of(source);
            let mut sender = AdvertSender::open(family, index, "eth0", source).unwrap();
            let destination = match family {
                Family::V4 => MULTICAST_V4.into(),
                Family::V6 => MULTICAST_V6.into(),
            };
            let mut payload = Vec::new();
            let out = Outgoing {
                version: Version::V3,
                vrid: Vrid::new(41).unwrap(),
                priority: Priority(priority),
                interval: IntervalCs::new(5).unwrap(),
                addresses: &[vip],
                password: None,
                checksum: ChecksumStyle::WithPseudoHeader,
                source,
                destination,
            };
            vrrp::emit(&out, &mut payload);
            while !until.load(Ordering::Relaxed) {
                sender.send([(destination, payload.as_slice())]).unwrap();
                std::thread::sleep(ms(50));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// On the day of installation the address is live on an old machine that says no VRRP.
fn an_owner_is_not_robbed(dialect: Dialect) {
    let mut scene = Scene::new(dialect);
    let prefixed = if dialect.ipv6 { "fd00:41::41/64 nodad" } else { "192.168.1.41/24" };
    scene.client.ip(&format!("addr add {prefixed} dev eth0"));
    let asker = scene.lan.host("asker", &["192.168.1.8/24", "fd00:41::8/64"]);
    scene.begin();
    let _standin = scene.standin(150, "");
    let mac = scene.client.mac();
    scene.n1.wait_said("foreign_owner", &mac, ms(5000));
    let shown = scene.n1.vip().unwrap();
    assert_eq!(shown.get("foreign_owner").unwrap().as_str(), Some(mac.as_str()), "{shown:#}");
    // Longer than it waits before it looks again.
    for _ in 0..6 {
        let answers = who_has(&asker, dialect.vip(), ms(1000));
        assert!(answers.iter().eq([&mac]), "{answers:?}");
        assert!(!scene.n1.has(dialect.vip()), "robbed");
    }
    assert!(scene.heard_from(1).is_empty(), "{:#?}", scene.heard_from(1));

    scene.client.ip(&format!("addr del {} dev eth0", prefixed.trim_end_matches(" nodad")));
    scene.n1.wait_has(dialect.vip(), true, ms(8000));
    scene.n1.wait_said("foreign_owner_gone", "", ms(1000));
    std::thread::sleep(ms(100));
    let answers = who_has(&asker, dialect.vip(), ms(100));
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), [scene.n1.mac()]);
}

/// A sender that is no node says priority 255, then 0: nothing moves, and it is named.
fn a_stranger_moves_nothing(dialect: Dialect) {
    let mut scene = Scene::new(dialect);
    let source = if dialect.ipv6 { "fe80::ff:fe00:3" } else { "192.168.1.7" };
    let _keepalived = scene.keepalived("");
    scene.moves_to(2, ms(3000));
    let _standin = scene.standin(50, "failback = \"0s\"");
    scene.n1.wait_role("backup", ms(3000));
    scene.stays_on(2);

    // While backup: neither a goodbye in nobody's name nor a better claim is heeded.
    scene.begin();
    let goodbyes = Speaker::start(&scene.client, source, dialect.vip(), 0);
    std::thread::sleep(ms(1500));
    drop(goodbyes);
    assert!(scene.heard_from(1).is_empty(), "{:#?}", scene.heard_from(1));
    scene.n1.wait_said("stranger", source, ms(1000));

    // While active: keepalived obeys the stranger, as anybody could make it do; standin doesn't.
    scene.n2.run("ip link set eth0 down");
    scene.moves_to(1, ms(3000));
    scene.n1.wait_said("transition", "backup -> active", ms(2000));
    let transitions = scene.n1.transitions();
    let stranger = Speaker::start(&scene.client, source, dialect.vip(), 255);
    std::thread::sleep(ms(1500));
    assert!(scene.n1.has(dialect.vip()), "a stranger took it");
    let answers = who_has(&scene.client, dialect.vip(), ms(100));
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), [scene.n1.mac()]);
    assert_eq!(scene.n1.transitions(), transitions, "{:#?}", scene.n1.events());
    drop(stranger);
}

/// `accept_unknown = true`: the same stranger is obeyed.
fn a_stranger_is_obeyed_where_the_file_says_so() {
    let scene = Scene::new(Dialect::V3);
    let _standin = scene.standin(150, "accept_unknown = true");
    scene.n1.wait_has(scene.dialect.vip(), true, ms(3000));
    let stranger = Speaker::start(&scene.client, "192.168.1.7", scene.dialect.vip(), 255);
    scene.n1.wait_has(scene.dialect.vip(), false, ms(1000));
    scene.n1.wait_said("transition", "192.168.1.7", ms(1000));
    drop(stranger);
    scene.n1.wait_has(scene.dialect.vip(), true, ms(2000));
}

/// VRRP version 2 peers whose interval or password differs are named and not obeyed.
fn a_peer_that_differs(theirs: Dialect, word: &str) {
    let mut scene = Scene::new(Dialect { password: Some("s3cret-8"), ..Dialect::V2 });
    let _standin = scene.standin(50, "failback = \"0s\"");
    scene.n1.wait_has(scene.dialect.vip(), true, ms(6000));
    scene.begin();
    let _keepalived = scene.n2.keepalived(&theirs.conf("", ""));
    scene.claims(2, ms(9000));
    scene.n1.wait_said("ignored", word, ms(3000));
    std::thread::sleep(ms(2500));
    assert!(scene.n1.has(scene.dialect.vip()), "obeyed: {:#?}", scene.n1.events());
    let ignored = scene.n1.vip().unwrap();
    let ignored = ignored.pointer("/counters/adverts_ignored").unwrap().as_u64();
    assert!(ignored >= Some(1), "{ignored:?}");
}

#[test]
fn an_owner_is_not_robbed_and_a_stranger_is_not_obeyed() {
    if hosts::skipped() {
        return;
    }
    let ipv6 = Dialect { ipv6: true, ..Dialect::V3 };
    let v2 = Dialect::V2;
    let password = Dialect { password: Some("s3cret-8"), ..v2 };
    let stories: Vec<(&str, Story)> = vec![
        ("owner, IPv4", Box::new(|| an_owner_is_not_robbed(Dialect::V3))),
        ("owner, IPv6", Box::new(move || an_owner_is_not_robbed(ipv6))),
        ("stranger, IPv4", Box::new(|| a_stranger_moves_nothing(Dialect::V3))),
        ("stranger, IPv6", Box::new(move || a_stranger_moves_nothing(ipv6))),
        ("stranger obeyed", Box::new(a_stranger_is_obeyed_where_the_file_says_so)),
        (
            "interval",
            Box::new(move || {
                a_peer_that_differs(Dialect { interval_ms: 2000, ..password }, "every 2 s");
            }),
        ),
        (
            "password",
            Box::new(move || {
                a_peer_that_differs(Dialect { password: Some("another1"), ..v2 }, "password");
            }),
        ),
        ("no password", Box::new(move || a_peer_that_differs(v2, "password"))),
    ];
    together(stories.into_iter().map(|(name, run)| (name.to_owned(), run)).collect());
}
