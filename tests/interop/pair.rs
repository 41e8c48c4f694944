//! A standin (n1) and a keepalived (n2) that speak the same dialect, and a client that looks on.

use std::time::{Duration, Instant};

use crate::hosts::holders::Watch;
use crate::hosts::wire::{Adverts, Packet, who_has};
use crate::hosts::{Daemon, Host, Lan, ms, wait_for, wait_or_tell, wait_until};

/// What two routers must agree on to understand each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    pub(crate) version: u8,
    pub(crate) ipv6: bool,
    pub(crate) unicast: bool,
    pub(crate) password: Option<&'static str>,
    pub(crate) interval_ms: u64,
}

impl Dialect {
    pub(crate) const V3: Self =
        Self { version: 3, ipv6: false, unicast: false, password: None, interval_ms: 100 };
    pub(crate) const V2: Self = Self { version: 2, interval_ms: 1000, ..Self::V3 };

    pub(crate) fn interval(self) -> Duration {
        ms(self.interval_ms)
    }

    /// Skew_Time of a priority (RFC 9568 §6.1; for whole seconds RFC 3768 §6.1 is the same).
    pub(crate) fn skew(self, priority: u32) -> Duration {
        self.interval() * (256 - priority) / 256
    }

    pub(crate) fn vip(self) -> &'static str {
        if self.ipv6 { "fd00:41::41" } else { "192.168.1.41" }
    }

    fn prefixed(self) -> &'static str {
        if self.ipv6 { "fd00:41::41/64" } else { "192.168.1.41/24" }
    }

    fn node(self, number: u8) -> String {
        if self.ipv6 { format!("fd00:41::{number}") } else { format!("192.168.1.{number}") }
    }

    /// The cluster file; `more` is added to the VIP's table.
    pub(crate) fn toml(self, priority: u32, more: &str) -> String {
        let mode = if self.unicast { "unicast" } else { "multicast" };
        let password =
            self.password.map_or_else(String::new, |word| format!("password = \"{word}\"\n"));
        format!(
            "cluster = \"interop\"\n\
             [node.n1]\naddress = \"{}\"\npriority = {priority}\n\
             [node.n2]\naddress = \"{}\"\npriority = 100\nvrrp_only = true\n\
             [vip.web]\nvirtual_router_id = 41\naddresses = [\"{}\"]\nversion = {}\n\
             mode = \"{mode}\"\nadvert_interval = \"{}ms\"\n{password}{more}\n",
            self.node(189),
            self.node(190),
            self.prefixed(),
            self.version,
            self.interval_ms,
        )
    }

    /// keepalived's side at priority 100; `more` is added to the instance, `before` stands in front.
    pub(crate) fn conf(self, before: &str, more: &str) -> String {
        let interval = format!("{}.{}", self.interval_ms / 1000, self.interval_ms % 1000 / 100);
        let interval = interval.trim_end_matches(".0");
        let unicast = if self.unicast {
            let (own, peer) = (self.node(190), self.node(189));
            format!("unicast_src_ip {own}\n unicast_peer {{\n {peer}\n }}")
        } else {
            String::new()
        };
        let password = self.password.map_or_else(String::new, |word| {
            format!("authentication {{\n auth_type PASS\n auth_pass {word}\n }}")
        });
        format!(
            "global_defs {{\n router_id n2\n script_user root\n}}\n{before}\n\
             vrrp_instance web {{\n state BACKUP\n interface eth0\n virtual_router_id 41\n \
             priority 100\n version {}\n advert_int {interval}\n {unicast}\n {password}\n {more}\n \
             virtual_ipaddress {{\n {}\n }}\n}}\n",
            self.version,
            self.prefixed(),
        )
    }
}

/// Three hosts on a segment.
pub(crate) struct Scene {
    pub(crate) dialect: Dialect,
    pub(crate) lan: Lan,
    pub(crate) n1: Host,
    pub(crate) n2: Host,
    pub(crate) client: Host,
    pub(crate) adverts: Adverts,
    watch: Watch,
    /// When the act that is being judged began.
    act: Instant,
}

impl Scene {
    pub(crate) fn new(dialect: Dialect) -> Self {
        let lan = Lan::new();
        let n1 = lan.host("n1", &["192.168.1.189/24", "fd00:41::189/64"]);
        let n2 = lan.host("n2", &["192.168.1.190/24", "fd00:41::190/64"]);
        let client = lan.host("client", &["192.168.1.7/24", "fd00:41::7/64"]);
        let adverts = Adverts::capture(&lan);
        let watch = Watch::new(dialect.vip(), &[&n1, &n2]);
        Self { dialect, lan, n1, n2, client, adverts, watch, act: Instant::now() }
    }

    /// Everything from here on is judged together.
    pub(crate) fn begin(&mut self) {
        self.act = Instant::now();
    }

    pub(crate) fn standin(&self, priority: u32, more: &str) -> Daemon {
        self.n1.standin(&self.dialect.toml(priority, &format!("checks = []\n{more}")))
    }

    pub(crate) fn keepalived(&self, more: &str) -> Daemon {
        self.n2.keepalived(&self.dialect.conf("", more))
    }

    fn host(&self, number: u8) -> &Host {
        if number == 1 { &self.n1 } else { &self.n2 }
    }

    /// The VIP is on n1 or n2 alone within the time, by the kernels' word.
    #[track_caller]
    pub(crate) fn moves_to(&self, number: u8, within: Duration) {
        let tell = || format!("the VIP to be on n{number} alone; {}", self.known());
        let there = || (self.watch.now() == [usize::from(number - 1)]).then_some(());
        wait_or_tell(tell, within, there);
    }

    /// n1 or n2 has the VIP within the time, whoever else has it.
    #[track_caller]
    pub(crate) fn claims(&self, number: u8, within: Duration) {
        let tell = || format!("n{number} to have the VIP; {}", self.known());
        let there = || self.watch.now().contains(&usize::from(number - 1)).then_some(());
        wait_or_tell(tell, within, there);
    }

    /// All that a failed assertion may want to show.
    pub(crate) fn known(&self) -> String {
        let log = |host: &Host, of| host.read(&format!("/run/logs/{of}"));
        let packets: Vec<_> = self.adverts.since(self.act);
        format!(
            "{:?}\nchanges {:#?}\nact {:?}, packets {:#?}\nn1 logged\n{}\nn2 logged\n{}",
            self.dialect,
            self.watch.changes(),
            self.act,
            packets,
            log(&self.n1, "standin"),
            log(&self.n2, "keepalived") + &log(&self.n2, "standin")
        )
    }

    /// Only n1 or n2 advertises and only it answers for the VIP, for a few intervals from now on.
    #[track_caller]
    pub(crate) fn stays_on(&self, number: u8) {
        let (host, other) = (self.host(number), self.host(3 - number));
        // What the other one said last is still under way, and a burst of the new one follows.
        std::thread::sleep(ms(150));
        let settled = Instant::now();
        std::thread::sleep((self.dialect.interval() * 3 / 2).max(ms(300)));
        // tcpdump may be behind.
        let tell = || format!("{} to advertise; {}", host.name, self.known());
        let from = |host: &Host| {
            let packets = self.adverts.since(settled);
            packets.iter().filter(|packet| packet.is_from(host)).count()
        };
        wait_or_tell(tell, ms(1500), || (from(host) >= 1).then_some(()));
        assert_eq!(from(other), 0, "{} is silent; {}", other.name, self.known());
        let answers = who_has(&self.client, self.dialect.vip(), ms(80));
        assert_eq!(answers.into_iter().collect::<Vec<_>>(), [host.mac()], "{:?}", self.dialect);
        assert_eq!(self.watch.now(), [usize::from(number - 1)], "{}", self.known());
    }

    /// Since [`Scene::begin`] the two kernels shared the VIP for no longer than this.
    #[track_caller]
    pub(crate) fn overlapped_at_most(&self, bound: Duration) {
        let overlap = self.watch.overlap(self.act);
        assert!(overlap <= bound, "{overlap:?} in {:?}: {:?}", self.dialect, self.watch.changes());
    }

    /// Since [`Scene::begin`] nobody had it for no longer than this.
    #[track_caller]
    pub(crate) fn vacant_at_most(&self, bound: Duration) {
        let vacant = self.watch.vacancy(self.act);
        assert!(vacant <= bound, "{vacant:?} in {:?}: {:?}", self.dialect, self.watch.changes());
    }

    /// The adverts of a host since [`Scene::begin`].
    pub(crate) fn heard_from(&self, number: u8) -> Vec<Packet> {
        let host = self.host(number);
        self.adverts.since(self.act).into_iter().filter(|packet| packet.is_from(host)).collect()
    }

    /// The third host heard this host say priority 0 since [`Scene::begin`].
    #[track_caller]
    pub(crate) fn said_goodbye(&self, number: u8) {
        let what = format!("priority 0 of n{number} ({:?})", self.dialect);
        wait_until(&what, ms(1000), || {
            self.heard_from(number).iter().any(|packet| packet.priority() == Some(0))
        });
    }

    /// The silence on the wire between the old active's last advert and the new one's first.
    pub(crate) fn silence(&self, from: u8, to: u8) -> Duration {
        let first = || self.heard_from(to).first().map(|packet| packet.at);
        let first = wait_for("the new active's first advert", ms(1000), first);
        let before = |packet: &Packet| packet.at <= first;
        let last = self.heard_from(from).into_iter().rfind(before);
        first.saturating_duration_since(last.map_or(self.act, |packet| packet.at))
    }
}
