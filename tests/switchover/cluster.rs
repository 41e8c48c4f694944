//! Nodes with a real nginx, members of one cluster, and a client beside them.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::hosts::{Daemon, Host, Lan, STANDIN, child_of, wait_for, wait_or_tell, wait_until};
use super::load::Echo;

pub(crate) const VIP: &str = "192.168.1.41";
pub(crate) const VIP_V6: &str = "fd00:41::41";
pub(crate) const FILE: &str = "/etc/standin/standin.toml";

/// A link comes up within its longest wait between two attempts, also on a loaded machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Makes the test's certificate; the host needs `/etc/nginx`.
const CERTIFICATE: &str = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
                           -keyout /etc/nginx/key.pem -out /etc/nginx/cert.pem -subj /CN=web -days 30";

pub(crate) const LISTENS: &str =
    "listen 80; listen [::]:80; listen 443 ssl http2; listen [::]:443 ssl http2;";

pub(crate) fn nginx_conf(listens: &str) -> String {
    format!(
        "user root;
worker_processes 2;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000;
  root /etc/nginx/pages;
  add_header X-Node $hostname;
  ssl_certificate /etc/nginx/cert.pem;
  ssl_certificate_key /etc/nginx/key.pem;
  ssl_protocols TLSv1.3;
  server {{
    {listens}
    location = / {{ return 200 \"$hostname\\n\"; }}
    location = /large {{ limit_rate 100k; }}
    location = /endless {{ limit_rate 1k; }}
    location = /socket {{
      proxy_pass http://127.0.0.1:{echo};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
    }}
  }}
}}
",
        echo = Echo::PORT
    )
}

/// Nodes n1, n2, …, in this order of priority; `web` is the first VIP.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Host>,
    pub(crate) client: Host,
    _echoes: Vec<Echo>,
    _lan: Lan,
}

impl Cluster {
    /// Hosts with nginx; no daemon runs. Further VIPs are called `web2`, `web3`, ….
    pub(crate) fn new(nodes: usize, vips: usize, drain: &str) -> Self {
        Self::with(nodes, vips, drain, "")
    }

    /// As [`Cluster::new`]; `more` stands in the table of each VIP.
    pub(crate) fn with(nodes: usize, vips: usize, drain: &str, more: &str) -> Self {
        let lan = Lan::new();
        let host = |number: usize| {
            lan.host(&format!("n{number}"), &[&format!("{}/24", own(number)), &own_v6(number)])
        };
        let nodes: Vec<Host> = (1..=nodes).map(host).collect();
        let client = lan.host("client", &["192.168.1.7/24", "fd00:41::7/64"]);
        // Else it runs out of ports, as many connections as its clients make and close.
        client.sysctl("net/ipv4/ip_local_port_range", "1024 65535");
        client.sysctl("net/ipv4/tcp_tw_reuse", "1");
        nodes[0].run(CERTIFICATE);
        for node in &nodes {
            for file in ["key.pem", "cert.pem"] {
                let path = format!("/etc/nginx/{file}");
                node.write(&path, &nodes[0].read(&path));
            }
            node.run("mkdir /etc/nginx/pages");
            for page in ["large", "endless"] {
                node.write(&format!("/etc/nginx/pages/{page}"), &"x".repeat(150_000));
            }
            node.write("/etc/nginx/nginx.conf", &nginx_conf(LISTENS));
            node.run("/usr/sbin/nginx");
        }
        let echoes = nodes.iter().map(Echo::begin).collect();
        let cluster = Self { nodes, client, _echoes: echoes, _lan: lan };
        cluster.join(vips, &format!("drain_timeout = \"{drain}\"\nhold_down = \"1s\"\n{more}\n"));
        cluster
    }

    fn join(&self, vips: usize, more: &str) {
        let first = &self.nodes[0];
        let line = first.run(&format!(
            "{STANDIN} init --no-sync --cluster edge --node n1={} --vip web={VIP}/24",
            both(1)
        ));
        let mut token = line.split_whitespace().nth(3).unwrap().to_owned();
        let file = first.read(FILE);
        let addresses = format!("[\"{VIP}/24\", \"{VIP_V6}/64\"]");
        let web = file.replace(&format!("[\"{VIP}/24\"]"), &format!("{addresses}\n{more}"));
        assert_ne!(file, web, "{file}");
        // A probe that a loaded machine answers late says nothing here.
        let mut text = web.replace("[nginx]", "[nginx]\ninterval = \"1s\"\ntimeout = \"2s\"");
        for number in 2..=vips {
            text += &format!(
                "\n[vip.web{number}]\nvirtual_router_id = {}\naddresses = [\"192.168.1.{}/24\", \
                 \"fd00:41::{}/64\"]\n{more}",
                40 + number,
                40 + number,
                40 + number
            );
        }
        first.write(FILE, &text);
        for (at, node) in self.nodes.iter().enumerate().skip(1) {
            let number = at + 1;
            node.run(&format!(
                "{STANDIN} join {} {token} --node n{number}={} --priority {}",
                own(1),
                both(number),
                120 - number
            ));
            if number < self.nodes.len() {
                token = first.run(&format!("{STANDIN} token")).trim().to_owned();
            }
        }
        let text = first.read(FILE);
        self.nodes.iter().for_each(|node| node.write(FILE, &text));
    }

    /// Starts all daemons; n1 is active then.
    pub(crate) fn start(&self) -> Vec<Daemon> {
        let daemon =
            |host: &Host| host.launch("standin", &format!("{STANDIN} run --node {}", host.name));
        let mut daemons = vec![daemon(&self.nodes[0])];
        self.nodes[0].wait_role("active", SOON);
        daemons.extend(self.nodes.iter().skip(1).map(daemon));
        self.wait_ready();
        daemons
    }

    /// All nodes are eligible, and know it of each other.
    #[track_caller]
    pub(crate) fn wait_ready(&self) {
        let each = |knows: &dyn Fn(&Host, &Host) -> bool| {
            self.nodes.iter().all(|node| {
                self.nodes.iter().all(|other| node.name == other.name || knows(node, other))
            })
        };
        wait_until("all to know each other as eligible", SOON, || {
            each(&|node, other| knows_eligible(node, &other.name))
        });
    }

    pub(crate) fn states(&self) -> Vec<String> {
        self.nodes.iter().map(state).collect()
    }

    #[track_caller]
    pub(crate) fn wait_states(&self, before: &[String]) {
        for (node, before) in self.nodes.iter().zip(before) {
            wait_state(node, before);
        }
    }
}

pub(crate) fn own(number: usize) -> String {
    format!("192.168.1.{}", 188 + number)
}

fn own_v6(number: usize) -> String {
    format!("fd00:41::{}/64", 188 + number)
}

fn both(number: usize) -> String {
    format!("{},fd00:41::{}", own(number), 188 + number)
}

pub(crate) fn knows_eligible(host: &Host, peer: &str) -> bool {
    host.try_status().is_some_and(|status| {
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let link = peers.iter().find(|it| it["name"] == peer).map(|it| &it["link"]["vips"]);
        let all_eligible = |vips: &Value| {
            let vips = vips.as_array().cloned().unwrap_or_default();
            !vips.is_empty() && vips.iter().all(|vip| vip["standing"] == "eligible")
        };
        link.is_some_and(all_eligible) && status["vips"][0]["eligible"] == true
    })
}

/// Everything of the network that an administrator would see, but for the VIPs where they are.
pub(crate) fn state(host: &Host) -> String {
    let mut sh = host.command("sh");
    sh.args([
        "-ec",
        "ip -o address | sed 's/_lft [0-9]*sec/_lft Nsec/g' | grep -v '41::4[0-9]/64\\|1\\.4[0-9]/24'
         for family in 4 6; do
           ip -$family route show table all | grep -v '^ff00::\\|multicast\\|41::4[0-9] \\|1\\.4[0-9] ' |
             sort
           ip -$family rule
         done
         nft list ruleset
         grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_* \
           /proc/sys/net/netfilter 2>/dev/null |
           grep -v 'stable_secret\\|_count:\\|promote_secondaries' | sort",
    ]);
    String::from_utf8(sh.output().unwrap().stdout).unwrap()
}

/// Waits until nothing of the network differs from `before`.
#[track_caller]
pub(crate) fn wait_state(host: &Host, before: &str) {
    let tell = || {
        let now = state(host);
        let new = now.lines().filter(|line| !before.contains(line));
        let gone = before.lines().filter(|line| !now.contains(line));
        format!(
            "{} to be as before; new: {:?}; gone: {:?}",
            host.name,
            new.collect::<Vec<_>>(),
            gone.collect::<Vec<_>>()
        )
    };
    wait_or_tell(tell, SOON, || (state(host) == before).then_some(()));
}

/// Whether this node has a VIP, by its place.
pub(crate) fn is_active(host: &Host, place: usize) -> bool {
    host.try_status().is_some_and(|status| status["vips"][place]["role"] == "active")
}

/// A switchover from its beginning to its end.
#[track_caller]
pub(crate) fn switchover(host: &Host, more: &str) -> Vec<Value> {
    let output = host.try_run(&format!("{STANDIN} switchover web --json {more}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    lines(&said)
}

pub(crate) fn lines(said: &str) -> Vec<Value> {
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn steps(story: &[Value]) -> Vec<&str> {
    story.iter().filter_map(|line| line["step"].as_str()).collect()
}

/// A switchover that goes on while the test does something else.
pub(crate) struct UnderWay(std::process::Child, u32);

impl UnderWay {
    pub(crate) fn begin(host: &Host, words: &str) -> Self {
        let mut command = host.command(STANDIN);
        command.arg("switchover").args(words.split_whitespace()).arg("--json");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let outer = child.id();
        let pid = wait_for("the command to start", SOON, || child_of(outer));
        Self(child, pid)
    }

    pub(crate) fn interrupt(&self) {
        standin_linux::spawn::kill(self.1, 2).unwrap();
    }

    /// Moved away, and moved back by another command before its drain was over: it says so, and fails.
    #[track_caller]
    pub(crate) fn ends_moved_back(self, to: &str) {
        let (code, story, error) = self.end();
        assert_eq!((code, steps(&story).last()), (Some(1), Some(&"failed")), "{story:?}{error}");
        let why = format!("{to} gave it up");
        assert!(
            error.contains(&why) && error.contains(" again, its connections with it"),
            "{error}"
        );
    }

    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<Value>, String) {
        let child = &mut self.0;
        wait_until("the command to end", SOON, || child.try_wait().unwrap().is_some());
        let output = self.0.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), lines(&said), error)
    }
}
