//! Two nodes with nginx and a VIP of both families, and a client that asks it.

use std::time::Duration;

use crate::hosts::{Daemon, Host, Lan, STANDIN, ms, wait_until};

pub(crate) const VIP: &str = "192.168.1.41";
pub(crate) const VIP_V6: &str = "fd00:41::41";
pub(crate) const MAC_V4: &str = "00:00:5e:00:01:29";
pub(crate) const MAC_V6: &str = "00:00:5e:00:02:29";

/// A busy machine starts slowly.
pub(crate) const SOON: Duration = Duration::from_secs(10);

const NGINX: &str = r#"user root;
worker_processes 1;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
events { worker_connections 1024; }
http {
  access_log off;
  server { listen 80; listen [::]:80; location / { return 200 "$hostname"; } }
}
"#;

/// `more` is added to the VIP's table.
pub(crate) fn file(more: &str) -> String {
    format!(
        "cluster = \"edge\"\n\
         [node.n1]\naddress = [\"192.168.1.189\", \"fd00:41::189\"]\npriority = 150\n\
         [node.n2]\naddress = [\"192.168.1.190\", \"fd00:41::190\"]\n\
         [vip.web]\nvirtual_router_id = 41\nvirtual_mac = true\n\
         addresses = [\"{VIP}/24\", \"{VIP_V6}/64\"]\nchecks = []\n{more}\n"
    )
}

pub(crate) struct Pair {
    pub(crate) n1: Host,
    pub(crate) n2: Host,
    pub(crate) client: Host,
    pub(crate) first: Option<Daemon>,
    pub(crate) second: Option<Daemon>,
    pub(crate) lan: Lan,
}

impl Pair {
    /// Hosts on which no daemon runs.
    pub(crate) fn without_daemons() -> Self {
        let lan = Lan::new();
        let n1 = lan.host("n1", &["192.168.1.189/24", "fd00:41::189/64"]);
        let n2 = lan.host("n2", &["192.168.1.190/24", "fd00:41::190/64"]);
        let client = lan.host("client", &["192.168.1.7/24", "fd00:41::7/64"]);
        for node in [&n1, &n2] {
            node.write("/etc/nginx/nginx.conf", NGINX);
            node.run("/usr/sbin/nginx");
        }
        Self { n1, n2, client, first: None, second: None, lan }
    }

    /// n1 is active, and n2 follows it.
    pub(crate) fn new(more: &str) -> Self {
        let mut pair = Self::without_daemons();
        pair.start(&file(more));
        pair
    }

    pub(crate) fn start(&mut self, file: &str) {
        self.first = Some(self.n1.standin(file));
        self.n1.wait_role("active", SOON);
        self.second = Some(self.n2.standin(file));
        wait_until("n2 to follow n1", SOON, || {
            self.n2.vip().is_some_and(|vip| vip["holder"] == "n1")
        });
    }

    /// Who answers a request to `vip` within half a second.
    pub(crate) fn ask(&self, vip: &str) -> Option<String> {
        let host = if vip.contains(':') { format!("[{vip}]") } else { vip.to_owned() };
        let answer = self.client.try_run(&format!("curl -sS -g -m 0.5 http://{host}/"));
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
    }
}

/// The MAC to which `host` sends what is for `address`.
pub(crate) fn neighbour(host: &Host, address: &str) -> Option<String> {
    let shown = host.ip(&format!("neigh show {address} dev eth0"));
    let mut words = shown.split_whitespace().skip_while(|word| *word != "lladdr");
    words.nth(1).map(str::to_owned)
}

/// The links of ours on `host`.
pub(crate) fn own_links(host: &Host) -> Vec<String> {
    let shown = host.ip("-o link show type macvlan");
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
    shown.lines().filter_map(name).collect()
}

/// What an administrator would see of the host's network.
pub(crate) fn state(host: &Host) -> String {
    let mut sh = host.command("sh");
    sh.args([
        "-ec",
        "ip -o link | sed 's/qlen.*//'
         ip -o address | sed 's/_lft [0-9]*sec/_lft Nsec/g'
         for family in 4 6; do
           ip -$family route show table all | grep -v multicast | sort
           ip -$family rule
         done
         nft list ruleset
         ip maddress show dev eth0 | sed 's/users [0-9]*//'
         grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_* \
           2>/dev/null | grep -v 'stable_secret' | sort",
    ]);
    String::from_utf8(sh.output().unwrap().stdout).unwrap()
}

/// Waits until nothing of the host's network differs from `before`.
#[track_caller]
pub(crate) fn wait_state(host: &Host, before: &str) {
    let tell = || {
        let now = state(host);
        let new: Vec<_> = now.lines().filter(|line| !before.contains(line)).collect();
        let gone: Vec<_> = before.lines().filter(|line| !now.contains(line)).collect();
        format!("{} to be as before; new: {new:#?}; gone: {gone:#?}", host.name)
    };
    crate::hosts::wait_or_tell(tell, ms(3000), || (state(host) == before).then_some(()));
}

pub(crate) fn release(host: &Host) -> String {
    host.run(&format!("{STANDIN} release"))
}
