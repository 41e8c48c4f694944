//! A host stays reachable on its own address, whatever happens to the VIPs on it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use standin_linux::spawn;

use crate::hosts::wire::who_has;
use crate::hosts::{self, Host, Lan, Story, ms, together, wait_until};

const V4: &str = "192.168.1.41";
const V6: &str = "fd00:41::41";
const OWN4: &str = "192.168.1.189";
const OWN6: &str = "fd00:41::189";

const TOML: &str = "cluster = \"safety\"\n\
    [node.n1]\naddress = [\"192.168.1.189\", \"fd00:41::189\"]\npriority = 150\n\
    [node.n2]\naddress = [\"192.168.1.190\", \"fd00:41::190\"]\npriority = 100\n\
    [vip.web]\nvirtual_router_id = 41\n\
    addresses = [\"192.168.1.41/24\", \"fd00:41::41/64\"]\nchecks = []\n";

/// The address that the host's own connections to `target` come from.
fn source_towards(host: &Host, target: &str) -> IpAddr {
    let (pid, target): (u32, IpAddr) = (host.pid, target.parse().unwrap());
    let ask = move || {
        spawn::enter_network(spawn::network_of(pid).unwrap().as_fd()).unwrap();
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(SocketAddr::new(target, 9)).unwrap();
        socket.local_addr().unwrap().ip()
    };
    std::thread::spawn(ask).join().unwrap()
}

/// What must be the same before, during and after.
fn routes(host: &Host) -> Vec<String> {
    let own = |line: &str| !line.contains(V4) && !line.contains(V6);
    let sort = |text: String| {
        let mut lines: Vec<String> =
            text.lines().filter(|line| own(line)).map(|line| line.trim().to_owned()).collect();
        lines.sort();
        lines
    };
    let mut all = sort(host.ip("-4 route show table main"));
    all.extend(sort(host.ip("-6 route show table main")));
    all
}

struct Safe<'a> {
    host: &'a Host,
    routes: Vec<String>,
    promote: String,
}

impl<'a> Safe<'a> {
    fn new(host: &'a Host) -> Self {
        Self { host, routes: routes(host), promote: promote(host) }
    }

    /// The host's own address, routes and sources are what they were.
    #[track_caller]
    fn check(&self, when: &str) {
        assert!(self.host.has(OWN4) && self.host.has(OWN6), "{when}: the host's own addresses");
        assert_eq!(routes(self.host), self.routes, "{when}: routes");
        for (target, own) in
            [("192.168.1.7", OWN4), ("10.9.9.9", OWN4), ("fd00:41::7", OWN6), ("fd00:99::9", OWN6)]
        {
            let source = source_towards(self.host, target);
            assert_eq!(source.to_string(), own, "{when}: the source of connections to {target}");
        }
    }

    /// And the setting that standin needed is put back.
    #[track_caller]
    fn check_undone(&self, when: &str) {
        self.check(when);
        assert_eq!(promote(self.host), self.promote, "{when}: promote_secondaries");
    }
}

fn promote(host: &Host) -> String {
    host.run("sysctl -n net.ipv4.conf.eth0.promote_secondaries").trim().to_owned()
}

fn has_both(host: &Host, has: bool) {
    for address in [V4, V6] {
        host.wait_has(address, has, ms(3500));
    }
}

/// Takeover, put-back, release, stop, crash: nothing of the host's own is lost.
fn own_addresses_and_routes(promote: &str, names_source: bool) {
    let lan = Lan::new();
    let n1 = lan.host("n1", &["192.168.1.189/24", "fd00:41::189/64"]);
    let client = lan.host("client", &["192.168.1.7/24", "fd00:41::7/64"]);
    for scope in ["all", "eth0"] {
        n1.sysctl(&format!("net/ipv4/conf/{scope}/promote_secondaries"), promote);
    }
    let (src4, src6) =
        if names_source { (" src 192.168.1.189", " src fd00:41::189") } else { ("", "") };
    n1.ip(&format!("-4 route add default via 192.168.1.1 dev eth0{src4}"));
    n1.ip(&format!("-6 route add default via fd00:41::1 dev eth0{src6}"));
    let safe = Safe::new(&n1);
    safe.check("before");

    let daemon = n1.standin(TOML);
    has_both(&n1, true);
    safe.check("while active");
    let shown = n1.ip("-4 addr show dev eth0");
    let vip = shown.lines().find(|line| line.contains(V4)).unwrap();
    assert!(vip.contains("secondary"), "{shown}");
    let shown = n1.ip("-6 addr show dev eth0");
    let vip = shown.split(V6).nth(1).unwrap().lines().take(2).collect::<Vec<_>>().join(" ");
    assert!(vip.contains("preferred_lft 0sec"), "{shown}");

    for (vip, prefixed) in [(V4, "192.168.1.41/24"), (V6, "fd00:41::41/64")] {
        n1.ip(&format!("addr del {prefixed} dev eth0"));
        wait_until("the VIP to be back", ms(500), || n1.has(vip));
        n1.wait_said("address_restored", vip, ms(1000));
        safe.check("after a put-back");
    }
    assert_eq!(n1.role(), "active");
    assert_eq!(n1.transitions(), 2, "a put-back is no transition: {:#?}", n1.events());
    for address in [V4, V6] {
        let answers = who_has(&client, address, ms(80));
        assert_eq!(answers.into_iter().collect::<Vec<_>>(), [n1.mac()]);
    }

    let mut order = n1.command("standin");
    let mut order = order.args(["maintenance", "on"]).spawn().unwrap();
    // Nobody else takes it, so it is held again as a last resort, after a silence.
    has_both(&n1, false);
    safe.check("after a release");
    has_both(&n1, true);
    assert_eq!(order.wait().unwrap().code(), Some(1), "it says that the VIP stays");
    n1.run("standin maintenance off");
    safe.check("after a second takeover");

    assert_eq!(daemon.stop(), Some(0));
    has_both(&n1, false);
    safe.check_undone("after a stop");

    let daemon = n1.standin(TOML);
    has_both(&n1, true);
    daemon.crash();
    has_both(&n1, false);
    safe.check("after a crash");
}

/// The host's own addresses come after the VIP: a VIP that was there first doesn't become what the
/// host speaks from.
fn own_address_comes_later() {
    let lan = Lan::new();
    let n1 = lan.host("n1", &["10.0.0.1/24"]);
    let file = TOML
        .replace("[\"192.168.1.189\", \"fd00:41::189\"]", "\"10.0.0.1\"")
        .replace("[\"192.168.1.190\", \"fd00:41::190\"]", "\"10.0.0.2\"")
        .replace("\"192.168.1.41/24\", \"fd00:41::41/64\"", "\"192.168.1.41/24\"");
    let daemon = n1.standin(&file);
    n1.wait_has(V4, true, ms(3000));
    n1.ip("addr add 192.168.1.189/24 dev eth0");
    let vip_is_second = || {
        let shown = n1.ip("-4 addr show dev eth0");
        let line = |address: &str| {
            shown.lines().find(|line| line.contains(address)).unwrap_or("").to_owned()
        };
        line(&format!("{V4}/")).contains("secondary")
            && !line("192.168.1.189/").contains("secondary")
    };
    wait_until("the host's own address to be primary", ms(500), vip_is_second);
    assert_eq!(source_towards(&n1, "192.168.1.7").to_string(), OWN4);
    daemon.stop();
    n1.wait_has(V4, false, ms(500));
    assert!(n1.has(OWN4), "{}", n1.ip("addr"));
    assert_eq!(source_towards(&n1, "192.168.1.7").to_string(), OWN4);
}

/// With duplicate address detection switched on the VIP answers as soon as it is taken.
fn no_wait_for_duplicates() {
    let lan = Lan::new();
    let n1 = lan.bare_host("n1");
    lan.plug(&n1, "eth0");
    n1.sysctl("net/ipv6/conf/eth0/accept_dad", "1");
    n1.sysctl("net/ipv6/conf/eth0/dad_transmits", "3");
    n1.ip("link set eth0 up");
    n1.ip("addr add 192.168.1.189/24 dev eth0");
    n1.ip("addr add fd00:41::189/64 dev eth0");
    let client = lan.host("client", &["192.168.1.7/24", "fd00:41::7/64"]);
    let _daemon = n1.standin(TOML);
    n1.wait_has(V6, true, ms(9000));
    let flags =
        |shown: &str| shown.split(V6).nth(1).unwrap_or("").lines().next().unwrap_or("").to_owned();
    let shown = flags(&n1.ip("-6 addr show dev eth0"));
    assert!(shown.contains("nodad") && !shown.contains("tentative"), "{shown}");
    // Three probes a second apart would have been under way.
    let answers = who_has(&client, V6, ms(100));
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), [n1.mac()]);
}

#[test]
fn the_hosts_own_addresses_routes_and_sources_survive() {
    if hosts::skipped() {
        return;
    }
    let mut stories: Vec<(String, Story)> = vec![
        ("own address comes later".into(), Box::new(own_address_comes_later)),
        ("no wait for duplicates".into(), Box::new(no_wait_for_duplicates)),
    ];
    for promote in ["0", "1"] {
        for names_source in [false, true] {
            let name = format!("promote_secondaries={promote}, src: {names_source}");
            let story = move || own_addresses_and_routes(promote, names_source);
            stories.push((name, Box::new(story)));
        }
    }
    together(stories);
}
