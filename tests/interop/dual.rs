//! One VIP with an IPv4 and an IPv6 address is one decision, between standins and beside keepalived.

use std::time::{Duration, Instant};

use crate::hosts::holders::Watch;
use crate::hosts::wire::{Adverts, who_has};
use crate::hosts::{self, Host, Lan, Story, ms, together, wait_or_tell};

const V4: &str = "192.168.1.41";
const V6: &str = "fd00:41::41";
const SLACK: Duration = ms(700);

struct Pair {
    lan: Lan,
    n1: Host,
    n2: Host,
    client: Host,
    adverts: Adverts,
    watches: [Watch; 2],
}

impl Pair {
    fn new() -> Self {
        let lan = Lan::new();
        let n1 = lan.host("n1", &["192.168.1.189/24", "fd00:41::189/64"]);
        let n2 = lan.host("n2", &["192.168.1.190/24", "fd00:41::190/64"]);
        let client = lan.host("client", &["192.168.1.7/24", "fd00:41::7/64"]);
        let adverts = Adverts::capture(&lan);
        let watches = [V4, V6].map(|address| Watch::new(address, &[&n1, &n2]));
        Self { lan, n1, n2, client, adverts, watches }
    }

    /// Both addresses are on n1 (0) or n2 (1) alone.
    #[track_caller]
    fn moves_to(&self, place: usize, within: Duration) {
        let tell = || {
            format!(
                "both on {place}: {:#?}\n{}\n{}\n{}",
                self.watches.each_ref().map(Watch::changes),
                self.n1.read("/run/logs/standin"),
                self.n2.read("/run/logs/standin"),
                self.n2.read("/run/logs/keepalived")
            )
        };
        let there = || self.watches.iter().all(|watch| watch.now() == [place]).then_some(());
        wait_or_tell(tell, within, there);
        let host = if place == 0 { &self.n1 } else { &self.n2 };
        std::thread::sleep(ms(100));
        for address in [V4, V6] {
            let answers = who_has(&self.client, address, ms(80));
            assert_eq!(answers.into_iter().collect::<Vec<_>>(), [host.mac()], "{address}");
        }
    }

    #[track_caller]
    fn overlapped_at_most(&self, since: Instant, bound: Duration) {
        for watch in &self.watches {
            assert!(watch.overlap(since) <= bound, "{:#?}", watch.changes());
        }
    }
}

fn toml(peer: &str, more: &str) -> String {
    format!(
        "cluster = \"dual\"\n\
         [node.n1]\naddress = [\"192.168.1.189\", \"fd00:41::189\"]\npriority = 150\n\
         [node.n2]\naddress = [\"192.168.1.190\", \"fd00:41::190\"]\npriority = 100\n{peer}\n\
         [vip.web]\nvirtual_router_id = 41\naddresses = [\"{V4}/24\", \"{V6}/64\"]\nchecks = []\n\
         {more}\n"
    )
}

/// Losing one family moves nothing and is named; losing both is silence.
fn one_deaf_family() {
    let pair = Pair::new();
    let file = toml("", "");
    let _n1 = pair.n1.standin(&file);
    pair.moves_to(0, ms(3000));
    let _n2 = pair.n2.standin(&file);
    pair.n2.wait_role("backup", ms(3000));
    std::thread::sleep(ms(500));

    for (cut, family) in [("ip6 nexthdr 112", "IPv6"), ("ip protocol 112", "IPv4")] {
        let transitions = pair.n2.transitions();
        pair.n2.drop_incoming(cut);
        pair.n2.wait_said("deaf", family, ms(4000));
        std::thread::sleep(ms(500));
        pair.moves_to(0, ms(10));
        pair.n2.drop_nothing();
        pair.n2.wait_said("heard_again", family, ms(2000));
        assert_eq!(pair.n2.transitions(), transitions, "{:#?}", pair.n2.events());
    }

    pair.n2.drop_incoming("meta l4proto 112");
    let silence = pair.n2.wait_has(V4, true, ms(400) + SLACK);
    assert!(silence >= ms(200), "{silence:?}");
    pair.n2.wait_has(V6, true, ms(100));
    // n1 hears n2, answers it, and so both have it until n2 hears again.
    pair.n2.drop_nothing();
    pair.moves_to(0, ms(300) + SLACK);
}

/// Beside a keepalived with two instances in a sync group both families move together.
fn beside_a_sync_group(failback: &str) {
    let pair = Pair::new();
    let instance = |name: &str, vip: &str| {
        format!(
            "vrrp_instance {name} {{\n state BACKUP\n interface eth0\n virtual_router_id 41\n \
             priority 100\n version 3\n advert_int 0.1\n virtual_ipaddress {{\n {vip}\n }}\n}}\n"
        )
    };
    let conf = format!(
        "global_defs {{\n router_id n2\n}}\n\
         vrrp_sync_group web {{\n group {{\n web4\n web6\n }}\n}}\n{}{}",
        instance("web4", "192.168.1.41/24"),
        instance("web6", "fd00:41::41/64")
    );
    let file = toml("vrrp_only = true", failback);

    let keepalived = pair.n2.keepalived(&conf);
    pair.moves_to(1, ms(4000));
    let began = Instant::now();
    let standin = pair.n1.standin(&file);
    if failback.contains("never") {
        pair.n1.wait_role("backup", ms(3000));
        std::thread::sleep(ms(1000));
        pair.moves_to(1, ms(10));
        keepalived.stop();
        pair.moves_to(0, ms(400) + SLACK);
        pair.overlapped_at_most(began, ms(400));
        return;
    }
    pair.moves_to(0, ms(3000));
    pair.overlapped_at_most(began, ms(400));
    for family in ["IPv4", "IPv6"] {
        let packets = pair.adverts.since(Instant::now() - ms(300));
        let said = |line: &str| {
            line.contains(&format!("ethertype {family} ")) && line.contains("prio 150")
        };
        assert!(packets.iter().any(|packet| said(&packet.line)), "{family}: {packets:#?}");
    }

    let began = Instant::now();
    standin.stop();
    pair.moves_to(1, ms(400) + SLACK);
    pair.overlapped_at_most(began, ms(400));
    let goodbyes: Vec<_> = pair.adverts.since(began);
    let goodbyes = goodbyes.iter().filter(|it| it.priority() == Some(0)).count();
    assert!(goodbyes >= 2, "one in each family");

    let _standin = pair.n1.standin(&file);
    pair.moves_to(0, ms(3000));
    pair.lan.cut(&pair.n1);
    pair.moves_to(1, ms(500) + SLACK);
    pair.lan.heal(&pair.n1);
    pair.moves_to(0, ms(3000));
}

#[test]
fn a_dual_stack_vip_is_one_decision() {
    if hosts::skipped() {
        return;
    }
    let stories: Vec<(&str, Story)> = vec![
        ("one deaf family", Box::new(one_deaf_family)),
        ("sync group, failback", Box::new(|| beside_a_sync_group("failback = \"0s\""))),
        ("sync group, never", Box::new(|| beside_a_sync_group("failback = \"never\""))),
    ];
    together(stories.into_iter().map(|(name, run)| (name.to_owned(), run)).collect());
}
