//! A segment whose switch can be told what to lose: two nodes, a gateway, and a neighbour.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use standin_linux::spawn;
use std::os::fd::AsFd;

use super::hosts::{Daemon, Host, Lan, ms, wait_until};

pub(crate) const VIP: &str = "192.168.1.41";

/// Both nodes, without checks; `{}` is what else the VIP has.
const FILE: &str = r#"
cluster = "edge"
[node.n1]
address = "192.168.1.189"
priority = 150
[node.n2]
address = "192.168.1.190"
[vip.web]
virtual_router_id = 41
addresses = ["192.168.1.41/24"]
checks = []
{}
"#;

/// A witness that decides within half a second.
pub(crate) const WITNESS: &str = r#"witness = ["gw"]
[check.gw]
type = "ping"
to = "192.168.1.1"
interval = "200ms"
timeout = "150ms""#;

/// A takeover by silence, on a loaded machine.
pub(crate) const SOON: Duration = Duration::from_secs(5);

pub(crate) struct Segment {
    pub(crate) lan: Lan,
    pub(crate) n1: Host,
    pub(crate) n2: Host,
    pub(crate) gateway: Host,
    /// Somebody who uses the VIP.
    pub(crate) client: Host,
}

impl Segment {
    pub(crate) fn new() -> Self {
        let lan = Lan::new();
        let n1 = lan.host("n1", &["192.168.1.189/24"]);
        let n2 = lan.host("n2", &["192.168.1.190/24"]);
        let gateway = lan.host("gw", &["192.168.1.1/24"]);
        let client = lan.host("client", &["192.168.1.7/24"]);
        Self { lan, n1, n2, gateway, client }
    }

    /// Starts both, n1 first; n1 is active and n2 follows it.
    pub(crate) fn start(&self, more: &str) -> (Daemon, Daemon) {
        let file = FILE.replace("{}", more);
        let first = self.n1.standin(&file);
        self.n1.wait_role("active", SOON);
        let second = self.n2.standin(&file);
        wait_until("n2 to follow n1", SOON, || {
            self.n2.vip().is_some_and(|vip| vip["holder"] == "n1")
        });
        // A witness may not have been asked yet.
        wait_until("n2 to be eligible", SOON, || {
            self.n2.vip().is_some_and(|vip| vip["standing"] == "eligible")
        });
        (first, second)
    }

    /// Has the switch drop what matches each of these, until [`Segment::heal`].
    pub(crate) fn lose(&self, matching: &[&str]) {
        let rules: String = matching.iter().map(|rule| format!("{rule} drop\n")).collect();
        self.nft(&format!(
            "table bridge loss {{\n chain cut {{\n type filter hook forward priority 0\n \
             {rules} }}\n}}"
        ));
    }

    pub(crate) fn heal(&self) {
        self.nft("delete table bridge loss");
    }

    fn nft(&self, rules: &str) {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped());
        spawn::in_network(&mut nft, self.lan.switch().as_fd());
        let mut child = nft.spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{rules}\n").as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "nft: {rules}");
    }

    /// A cut between the nodes; everybody else is heard by both and hears both.
    pub(crate) fn cut_between_the_nodes(&self) {
        self.lose(&[r#"iifname "p1" oifname "p2""#, r#"iifname "p2" oifname "p1""#]);
    }

    /// A client's view, refreshed every few milliseconds as by its traffic: the MAC to which it
    /// would send.
    pub(crate) fn cached(host: &Host) -> Option<String> {
        let line = host.ip(&format!("neigh show {VIP}"));
        let mut words = line.split_whitespace();
        words.find(|word| *word == "lladdr")?;
        words.next().map(str::to_owned)
    }

    /// Makes a host learn the VIP's MAC.
    pub(crate) fn resolve(host: &Host) {
        host.try_run(&format!("ping -c 1 -W 1 {VIP}"));
    }

    /// Which of the nodes have the VIP in their kernels.
    pub(crate) fn holders(&self) -> Vec<&str> {
        let vip: IpAddr = VIP.parse().unwrap();
        let nodes = [&self.n1, &self.n2];
        let has = |host: &&&Host| super::hosts::holders::local_addresses(host.pid).contains(&vip);
        nodes.iter().filter(has).map(|host| host.name.as_str()).collect()
    }

    #[track_caller]
    pub(crate) fn wait_holders(&self, wanted: &[&str], within: Duration) -> Duration {
        let what = format!(
            "the holders to be {wanted:?}; they are {:?}; logs\n{}\n{}",
            self.holders(),
            self.n1.read("/run/logs/standin"),
            self.n2.read("/run/logs/standin")
        );
        wait_until(&what, within, || self.holders() == wanted)
    }

    /// Asserts that the holders stay the same for a while.
    #[track_caller]
    pub(crate) fn stay(&self, wanted: &[&str], for_ms: u64) {
        for _ in 0..for_ms / 20 {
            assert_eq!(self.holders(), wanted);
            std::thread::sleep(ms(20));
        }
    }
}
