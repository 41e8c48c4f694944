//! A live machine's own address becomes a VIP and its own again, while clients are served.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod cutover;
#[path = "../hosts/mod.rs"]
mod hosts;
mod vacant;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Stdio};
use std::time::Duration;

use hosts::{Host, Lan, STANDIN, skipped, wait_until};

const FILE: &str = r#"
cluster = "edge"
[node.o1]
address = "192.168.1.189"
priority = 150
[node.n1]
address = "192.168.1.190"
[vip.web]
virtual_router_id = 41
addresses = ["192.168.1.41/24"]
checks = []
"#;

const NGINX: &str = "\
user root;
daemon off;
worker_processes 1;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
  access_log off;
  keepalive_requests 10000000;
  server { listen 80; listen [::]:80; location / { return 200 ok; } }
}
";

const INTERFACES: &str = "\
# production, hands off
auto lo
iface lo inet loopback
source interfaces.d/*
";

const ETH0: &str = "\
auto eth0
iface eth0 inet static
    address 192.168.1.41   # never read by ifupdown, kept all the same
    netmask 255.255.255.0
    gateway 192.168.1.7
    up ip route add 10.0.0.0/8 via 192.168.1.7 src 192.168.1.41
";

const NETWORK: &str = "\
[Match]
Name=eth0
[Network]
# production, hands off
Address=192.168.1.41/24
Gateway=192.168.1.7
[Route]
Destination=10.0.0.0/8
Gateway=192.168.1.7
PreferredSource=192.168.1.41
";

/// The machine that serves production, and a client.
struct Live {
    o1: Host,
    client: Host,
    _lan: Lan,
}

impl Live {
    fn new() -> Self {
        let lan = Lan::new();
        let o1 = lan.host("o1", &["192.168.1.41/24", "192.168.1.42/24", "fd00::41/64"]);
        let client = lan.host("client", &["192.168.1.7/24", "fd00::7/64"]);
        o1.sysctl("net/ipv4/conf/eth0/promote_secondaries", "0");
        o1.ip("route add default via 192.168.1.7");
        o1.ip("route add 10.0.0.0/8 via 192.168.1.7 src 192.168.1.41");
        o1.write("/etc/nginx/nginx.conf", NGINX);
        o1.write("/etc/standin/standin.toml", FILE);
        Self { o1, client, _lan: lan }
    }
}

/// Clients that never rest: keep-alive requests, and a ping each millisecond.
struct Load {
    wrk: (Child, File),
    ping: (Child, File),
}

impl Load {
    fn begin(client: &Host, to: &str, seconds: u64) -> Self {
        let begin = |program: &str, words: &str| {
            // A pipe would be full of pings.
            let out = tempfile::tempfile().unwrap();
            let mut command = client.command(program);
            command.args(words.split(' ')).stdout(out.try_clone().unwrap());
            (command.stderr(Stdio::null()).spawn().unwrap(), out)
        };
        let host = if to.contains(':') { format!("[{to}]") } else { to.to_owned() };
        let wrk = begin("wrk", &format!("-t1 -c16 -d{seconds}s --timeout 1s http://{host}/"));
        let ping = begin("ping", &format!("-i 0.001 -w {seconds} -n {to}"));
        Self { wrk, ping }
    }

    /// Nothing failed; says how much was asked.
    fn end(self) -> String {
        let text = |(mut child, mut out): (Child, File)| {
            child.wait().unwrap();
            let mut text = String::new();
            out.rewind().unwrap();
            out.read_to_string(&mut text).unwrap();
            text
        };
        let (wrk, ping) = (text(self.wrk), text(self.ping));
        assert!(wrk.contains("requests in"), "{wrk}");
        assert!(!wrk.contains("Socket errors") && !wrk.contains("Non-2xx"), "{wrk}");
        // The last one may be under way when the time is over.
        let seen = |line: &str| line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok();
        let seen: BTreeSet<usize> = ping.lines().filter_map(seen).collect();
        let lost: Vec<usize> = (1..=seen.len()).filter(|it| !seen.contains(it)).collect();
        assert!(seen.len() > 100 && lost.is_empty(), "{lost:?} of {} pings", seen.len());
        let line = |text: &str, word: &str| {
            text.lines().find(|line| line.contains(word)).unwrap_or_default().trim().to_owned()
        };
        format!("{}; {}", line(&wrk, "requests in"), line(&ping, "packet loss"))
    }
}

/// Addresses in their order and routes, as people see them; how long a lifetime still lasts isn't.
fn state(host: &Host) -> String {
    let addresses = host.ip("-o addr show dev eth0 scope global");
    format!("{addresses}{}", host.ip("route show table all type unicast"))
}

fn nginx(host: &Host) -> hosts::Daemon {
    let nginx = host.launch("nginx", "nginx");
    wait_until("nginx", Duration::from_secs(5), || host.read("/run/nginx.pid").len() > 1);
    nginx
}

fn adopt(host: &Host, words: &str) -> String {
    host.run(&format!("{STANDIN} adopt {words}"))
}

#[test]
fn a_live_address_is_adopted_held_and_given_back_without_a_request_lost() {
    if skipped() {
        return;
    }
    let lock = File::create(std::env::temp_dir().join("standin-timed-tests.lock")).unwrap();
    lock.lock().unwrap();
    let live = Live::new();
    let o1 = &live.o1;
    o1.run("mkdir -p /etc/network/interfaces.d /etc/systemd/network");
    o1.write("/etc/network/interfaces", INTERFACES);
    o1.write("/etc/network/interfaces.d/eth0", ETH0);
    o1.write("/etc/systemd/network/10-eth0.network", NETWORK);
    o1.run("chmod 640 /etc/systemd/network/10-eth0.network");
    o1.run("chown 0:42 /etc/systemd/network/10-eth0.network");
    let nginx = nginx(o1);
    let before = state(o1);
    let load = Load::begin(&live.client, "192.168.1.41", 8);

    let shown = adopt(o1, "192.168.1.41 --vip web --new-address 192.168.1.189/24 --dry-run");
    assert!(shown.contains("+    address 192.168.1.189   # never"), "{shown}");
    assert!(shown.contains("+Address=192.168.1.189/24"), "{shown}");
    assert!(shown.contains("change  route 10.0.0.0/8 via 192.168.1.7 src"), "{shown}");
    assert_eq!(state(o1), before, "a dry run");
    let said = adopt(o1, "192.168.1.41 --vip web --new-address 192.168.1.189/24 --yes");
    // What networkd has read already it would bring up again.
    assert!(said.contains("networkctl reload") && !said.contains("nmcli"), "{said}");
    let addresses = o1.ip("-o -4 addr show dev eth0");
    let order: Vec<&str> =
        addresses.lines().map(|line| line.split_whitespace().nth(3).unwrap()).collect();
    assert_eq!(order, ["192.168.1.189/24", "192.168.1.42/24", "192.168.1.41/24"]);
    let route = o1.ip("route get 10.1.2.3");
    assert!(route.contains("src 192.168.1.189"), "{route}");
    let route = o1.ip("route get 192.0.2.1");
    assert!(route.contains("src 192.168.1.189"), "{route}");
    assert!(o1.read("/etc/network/interfaces.d/eth0").contains("address 192.168.1.189 "));
    assert!(
        o1.read("/etc/systemd/network/10-eth0.network").contains("PreferredSource=192.168.1.189\n")
    );

    let daemon = o1.launch("standin", &format!("{STANDIN} run --node o1"));
    o1.wait_role("active", Duration::from_secs(5));
    let held = o1.ip("-o -4 addr show dev eth0 to 192.168.1.41");
    assert!(held.contains("secondary") && held.contains("valid_lft 2sec"), "{held}");
    // Longer than the lifetime of an address that nobody renews.
    std::thread::sleep(Duration::from_millis(2500));

    let undo = o1.launch("undo", &format!("{STANDIN} adopt --undo --yes"));
    wait_until("undo to wait for the daemon", Duration::from_secs(3), || {
        undo.log().contains("Waiting for standin to stop")
    });
    assert_eq!(daemon.stop(), Some(0));
    wait_until("undo to be done", Duration::from_secs(3), || undo.log().contains("done: "));
    assert_eq!(state(o1), before);
    assert_eq!(o1.read("/etc/network/interfaces"), INTERFACES);
    assert_eq!(o1.read("/etc/network/interfaces.d/eth0"), ETH0);
    assert_eq!(o1.read("/etc/systemd/network/10-eth0.network"), NETWORK);
    let about = o1.run("stat -c %a:%u:%g /etc/systemd/network/10-eth0.network");
    assert_eq!(about.trim(), "640:0:42");
    assert_eq!(o1.run("cat /proc/sys/net/ipv4/conf/eth0/promote_secondaries").trim(), "0");
    eprintln!("adopt, hold, undo: {}", load.end());
    drop(nginx);
}

/// What is told when it is refused.
fn refused(host: &Host, words: &str) -> String {
    let output = host.try_run(&format!("{STANDIN} adopt {words}"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_ipv6_address_is_adopted_under_a_running_daemon_and_given_back() {
    if skipped() {
        return;
    }
    let live = Live::new();
    let o1 = &live.o1;
    let file = FILE
        .replace("\"192.168.1.189\"", "[\"192.168.1.189\", \"fd00::189\"]")
        .replace("\"192.168.1.190\"", "[\"192.168.1.190\", \"fd00::190\"]")
        .replace("192.168.1.41/24", "fd00::41/64");
    o1.ip("-6 route add fd01::/64 via fd00::7 src fd00::41");
    // The kernel waits a second for who else may have the new one.
    o1.sysctl("net/ipv6/conf/eth0/accept_dad", "1");
    let _nginx = nginx(o1);
    let before = state(o1);
    let load = Load::begin(&live.client, "fd00::41", 9);
    let daemon = o1.standin(&file);
    let words = "fd00::41 --vip web --new-address fd00::189/64 --yes --no-files";
    adopt(o1, words);
    let again = refused(o1, words);
    assert!(again.contains("adopted already"), "{again}");
    o1.wait_role("active", Duration::from_secs(5));
    let held = o1.ip("-6 -o addr show dev eth0 to fd00::41");
    assert!(held.contains("deprecated") && held.contains("valid_lft 2sec"), "{held}");
    assert!(o1.ip("route get fd01::1").contains("src fd00::189"));
    std::thread::sleep(Duration::from_millis(2500));
    let undo = o1.launch("undo", &format!("{STANDIN} adopt --undo --yes"));
    wait_until("undo to wait for the daemon", Duration::from_secs(3), || {
        undo.log().contains("Waiting for standin to stop")
    });
    assert_eq!(daemon.stop(), Some(0));
    wait_until("undo to be done", Duration::from_secs(5), || undo.log().contains("done: "));
    let plain = |text: &str| text.replace(" nodad", "");
    assert_eq!(plain(&state(o1)), plain(&before));
    eprintln!("IPv6: {}", load.end());
}

#[test]
fn what_cannot_be_finished_is_put_back() {
    if skipped() {
        return;
    }
    let live = Live::new();
    let o1 = &live.o1;
    // As NetworkManager has it: the route to the subnet is its own.
    o1.ip("addr flush dev eth0 scope global");
    o1.ip("addr add 192.168.1.41/24 dev eth0 noprefixroute");
    o1.ip("route add 192.168.1.0/24 dev eth0 proto kernel scope link src 192.168.1.41 metric 100");
    o1.ip("route add default via 192.168.1.7 metric 100");
    o1.run("mkdir -p /etc/systemd/network /etc/network");
    o1.write("/etc/network/interfaces", "auto lo\n");
    o1.write("/etc/systemd/network/10-eth0.network", NETWORK);
    let before = state(o1);
    let words = "192.168.1.41 --vip web --new-address 192.168.1.189/24 --yes";

    live.client.ip("addr add 192.168.1.189/24 dev eth0");
    let said = refused(o1, words);
    assert!(said.contains("answers for 192.168.1.189"), "{said}");
    live.client.ip("addr del 192.168.1.189/24 dev eth0");

    o1.write(
        "/etc/network/interfaces",
        "iface eth0 inet static\n up ip addr add 192.168.1.41/24\n",
    );
    let said = refused(o1, words);
    assert!(said.contains("/etc/network/interfaces:2:17"), "{said}");
    o1.write("/etc/network/interfaces", "auto lo\n");

    o1.run("mount --bind /etc/systemd/network /etc/systemd/network");
    o1.run("mount -o remount,bind,ro /etc/systemd/network");
    let said = refused(o1, words);
    assert!(said.contains("10-eth0.network") && said.contains("put back as it was"), "{said}");
    assert_eq!(state(o1), before);
    assert_eq!(o1.run("ls -A /var/lib/standin/adopt"), "");
    o1.run("umount /etc/systemd/network");

    adopt(o1, words);
    let routes = o1.ip("route show");
    let own = "192.168.1.0/24 dev eth0 proto kernel scope link src 192.168.1.189 metric 100";
    assert!(routes.contains(own) && !routes.contains("192.168.1.41"), "{routes}");
    // Somebody goes on working on the file.
    let edited = o1.read("/etc/systemd/network/10-eth0.network") + "DNS=192.168.1.2\n";
    o1.write("/etc/systemd/network/10-eth0.network", &edited);
    let said = refused(o1, "--undo --yes");
    assert!(said.contains("was changed since"), "{said}");
    let after = edited.replace("DNS=192.168.1.2\n", "");
    o1.write("/etc/systemd/network/10-eth0.network", &after);
    adopt(o1, "--undo --yes");
    assert_eq!(state(o1), before);
    assert_eq!(o1.read("/etc/systemd/network/10-eth0.network"), NETWORK);
}

#[test]
fn an_undo_that_is_interrupted_leaves_nothing_that_would_stay_when_the_vip_goes() {
    if skipped() {
        return;
    }
    let live = Live::new();
    let o1 = &live.o1;
    adopt(o1, "192.168.1.41 --vip web --new-address 192.168.1.189/24 --yes --no-files");
    let _daemon = o1.launch("standin", &format!("{STANDIN} run --node o1"));
    o1.wait_role("active", Duration::from_secs(5));
    let own = || o1.ip("-o -4 addr show dev eth0 permanent");
    let before = own();
    let begin = |label: &str| {
        let undo = o1.launch(label, &format!("{STANDIN} adopt --undo --yes"));
        wait_until("undo to wait for the daemon", Duration::from_secs(3), || {
            undo.log().contains("Waiting for standin to stop")
        });
        // Longer than the address stays that nobody keeps here.
        std::thread::sleep(Duration::from_secs(6));
        assert!(o1.ip("-o -4 addr show dev eth0").contains("192.168.1.41/32"));
        undo
    };

    let undo = begin("ctrl-c");
    undo.signal(2);
    wait_until("the undo to end", Duration::from_secs(2), || undo.log().contains("interrupted"));
    assert!(undo.log().contains("nothing was undone"), "{}", undo.log());
    assert!(!o1.ip("-o -4 addr show dev eth0").contains("192.168.1.41/32"));

    begin("killed").signal(9);
    wait_until("the address without its subnet to go", Duration::from_secs(8), || {
        !o1.ip("-o -4 addr show dev eth0").contains("192.168.1.41/32")
    });
    assert_eq!(own(), before);
    assert_eq!(o1.role(), "active");
}

#[test]
fn an_undo_while_another_node_holds_the_vip_is_refused_before_standin_has_to_stop() {
    if skipped() {
        return;
    }
    let live = Live::new();
    let o1 = &live.o1;
    adopt(o1, "192.168.1.41 --vip web --new-address 192.168.1.189/24 --yes --no-files");
    o1.ip("addr del 192.168.1.41/24 dev eth0");
    live.client.ip("addr add 192.168.1.41/24 dev eth0");
    let _daemon = o1.launch("standin", &format!("{STANDIN} run --node o1"));
    o1.wait_role("backup", Duration::from_secs(5));
    let said = refused(o1, "--undo --yes");
    assert!(said.contains(&live.client.mac()), "{said}");
    assert!(said.contains("nothing was undone") && !said.contains("Waiting"), "{said}");
    assert!(!o1.has("192.168.1.41"));
    assert_eq!(o1.role(), "backup");
}

#[test]
fn an_undo_finds_again_what_a_run_that_was_killed_had_in_its_hands() {
    if skipped() {
        return;
    }
    let live = Live::new();
    let o1 = &live.o1;
    let before = state(o1);
    adopt(o1, "192.168.1.41 --vip web --new-address 192.168.1.189/24 --yes --no-files");
    // SIGKILL between two steps of the new order.
    o1.ip("addr del 192.168.1.42/24 dev eth0");
    o1.ip("addr add 192.168.1.42/32 dev eth0");
    o1.ip("addr add 192.168.1.189/32 dev eth0");
    adopt(o1, "--undo --yes");
    assert_eq!(state(o1), before);
}
