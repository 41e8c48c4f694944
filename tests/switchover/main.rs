//! Planned moves of a VIP under load, on whole hosts with real nginx: nobody notices, and nothing is left.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

#[path = "../hosts/mod.rs"]
mod hosts;
mod load;

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hosts::{
    Daemon, Host, Lan, STANDIN, ms, skipped, together, wait_for, wait_or_tell, wait_until,
};
use load::{Habit, Load, Seen};
use serde_json::Value;
use standin_linux::spawn;

const N1: &str = "192.168.1.189";
const N2: &str = "192.168.1.190";
const N1_V6: &str = "fd00:41::189";
const N2_V6: &str = "fd00:41::190";
const VIP: &str = "192.168.1.41";
const VIP_V6: &str = "fd00:41::41";
const FILE: &str = "/etc/standin/standin.toml";

/// A link comes up within its longest wait between two attempts, also on a loaded machine.
const SOON: Duration = Duration::from_secs(20);

/// Clients of each kind and family.
const KEEP_ALIVE: usize = 32;
const SHORT: usize = 32;
const DOWNLOADS: usize = 4;

/// Makes the test's certificate; the host needs `/etc/nginx`.
const CERTIFICATE: &str = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
                           -keyout /etc/nginx/key.pem -out /etc/nginx/cert.pem -subj /CN=web -days 30";

fn nginx_conf(listens: &str) -> String {
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
  server {{
    {listens}
    location = / {{ return 200 \"$hostname\\n\"; }}
    location = /large {{ limit_rate 100k; }}
    location = /endless {{ limit_rate 1k; }}
  }}
}}
"
    )
}

const LISTENS: &str = "listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;";

struct Pair {
    _lan: Lan,
    client: Host,
    n1: Host,
    n2: Host,
}

/// Both daemons.
struct Running {
    first: Daemon,
    second: Daemon,
}

impl Pair {
    /// Hosts with nginx, members of one cluster; no daemon runs.
    fn new(drain: &str) -> Self {
        let lan = Lan::new();
        let host = |name: &str, v4: &str, v6: &str| {
            lan.host(name, &[&format!("{v4}/24"), &format!("{v6}/64")])
        };
        let n1 = host("n1", N1, N1_V6);
        let n2 = host("n2", N2, N2_V6);
        let client = host("client", "192.168.1.7", "fd00:41::7");
        let pair = Self { _lan: lan, client, n1, n2 };
        pair.n1.run(CERTIFICATE);
        for file in ["key.pem", "cert.pem"] {
            let path = format!("/etc/nginx/{file}");
            pair.n2.write(&path, &pair.n1.read(&path));
        }
        for host in [&pair.n1, &pair.n2] {
            host.run("mkdir /etc/nginx/pages");
            for page in ["large", "endless"] {
                host.write(&format!("/etc/nginx/pages/{page}"), &"x".repeat(150_000));
            }
            host.write("/etc/nginx/nginx.conf", &nginx_conf(LISTENS));
            host.run("/usr/sbin/nginx");
        }
        pair.join(drain);
        pair
    }

    fn join(&self, drain: &str) {
        let line = self.n1.run(&format!(
            "{STANDIN} init --no-sync --cluster edge --node n1={N1},{N1_V6} --vip web={VIP}/24"
        ));
        let token = line.split_whitespace().nth(3).unwrap().to_owned();
        let file = self.n1.read(FILE);
        let addresses = format!("[\"{VIP}/24\", \"{VIP_V6}/64\"]");
        let both = file.replace(&format!("[\"{VIP}/24\"]"), &addresses);
        assert_ne!(file, both, "{file}");
        let more = format!("{addresses}\ndrain_timeout = \"{drain}\"\nhold_down = \"1s\"\n");
        // A probe that a loaded machine answers late says nothing here.
        let patient = both.replace("[nginx]", "[nginx]\ninterval = \"1s\"\ntimeout = \"2s\"");
        self.n1.write(FILE, &patient.replacen(&addresses, &more, 1));
        self.n2.run(&format!("{STANDIN} join {N1} {token} --node n2={N2},{N2_V6}"));
    }

    fn start(&self) -> Running {
        let daemon =
            |host: &Host| host.launch("standin", &format!("{STANDIN} run --node {}", host.name));
        let first = daemon(&self.n1);
        self.n1.wait_role("active", SOON);
        let second = daemon(&self.n2);
        self.wait_ready();
        Running { first, second }
    }

    /// Both nodes are eligible, and know it of each other.
    fn wait_ready(&self) {
        wait_until("both to know each other as eligible", SOON, || {
            knows_eligible(&self.n1, "n2") && knows_eligible(&self.n2, "n1")
        });
    }

    fn states(&self) -> [String; 2] {
        [state(&self.n1), state(&self.n2)]
    }

    #[track_caller]
    fn wait_states(&self, before: &[String; 2]) {
        wait_state(&self.n1, &before[0]);
        wait_state(&self.n2, &before[1]);
    }

    fn loads(&self) -> Vec<(IpAddr, Habit, Load)> {
        let mut loads = Vec::new();
        for vip in [VIP, VIP_V6].map(|it| it.parse::<IpAddr>().unwrap()) {
            for (habit, count) in [
                (Habit::KeepAlive, KEEP_ALIVE),
                (Habit::Short, SHORT),
                (Habit::Download, DOWNLOADS),
            ] {
                loads.push((vip, habit, Load::begin(&self.client, vip, habit, count)));
            }
        }
        loads
    }

    /// TLS, with connections that live as long as the run does.
    fn tls(&self, seconds: u32) -> Child {
        let mut wrk = self.client.command("wrk");
        wrk.args(["-t1", "-c8", &format!("-d{seconds}"), &format!("https://{VIP}/")]);
        wrk.stdout(Stdio::piped()).spawn().unwrap()
    }
}

fn knows_eligible(host: &Host, peer: &str) -> bool {
    host.try_status().is_some_and(|status| {
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let link = peers.iter().find(|it| it["name"] == peer).map(|it| &it["link"]["vips"][0]);
        link.is_some_and(|vip| vip["standing"] == "eligible")
            && status["vips"][0]["eligible"] == true
    })
}

/// Everything of the network that an administrator would see, but for the VIP where it is.
fn state(host: &Host) -> String {
    let mut sh = host.command("sh");
    sh.args([
        "-ec",
        "ip -o address | sed 's/_lft [0-9]*sec/_lft Nsec/g' | grep -v '41::41/64\\|1.41/24'
         for family in 4 6; do
           ip -$family route show table all | grep -v '^ff00::\\|multicast\\|41::41\\|1\\.41 ' | sort
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
fn wait_state(host: &Host, before: &str) {
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

fn switchover(host: &Host, more: &str) -> Vec<Value> {
    let output = host.try_run(&format!("{STANDIN} switchover web --json {more}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn unharmed(what: &str, seen: &Seen) {
    assert!(seen.failures.is_empty(), "{what}: {} requests, {:?}", seen.requests, seen.failures);
    assert!(seen.requests > 0, "{what} did nothing");
}

/// 64 keep-alive and 64 short clients, long downloads and TLS, over both families, there and back.
fn clients_notice_nothing() {
    let pair = Pair::new("60s");
    let _running = pair.start();
    let before = pair.states();
    let loads = pair.loads();
    let tls = pair.tls(8);
    sleep(ms(1000));
    // The command watches the drain as well; nobody waits for it here.
    let command = |host: &Host| {
        let mut command = host.command(STANDIN);
        command.args(["switchover", "web", "--json"]).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut there = command(&pair.n1);
    pair.n2.wait_role("active", SOON);
    sleep(ms(2500));
    assert!(pair.n1.ip("-o address show dev lo").contains(VIP), "n1 still serves its clients");
    pair.wait_ready();
    let mut back = command(&pair.n2);
    pair.n1.wait_role("active", SOON);
    sleep(ms(2000));
    let mut output = String::new();
    tls.wait_with_output().unwrap().stdout.as_slice().read_to_string(&mut output).unwrap();
    assert!(output.contains("requests in") && !output.contains("errors"), "{output}");
    for (vip, habit, load) in loads {
        let seen = load.end();
        println!("{vip} {habit:?}: {} requests, longest gap {:?}", seen.requests, seen.gap);
        unharmed(&format!("{vip} {habit:?}"), &seen);
        let nodes = match habit {
            // Each client's connection stayed where it was.
            Habit::KeepAlive => vec!["n1"],
            _ => vec!["n1", "n2"],
        };
        assert_eq!(seen.answered, nodes, "{vip} {habit:?}");
    }
    for child in [&mut there, &mut back] {
        assert!(wait_for("the drain to end", SOON, || child.try_wait().unwrap()).success());
    }
    pair.wait_states(&before);
}

/// At the end of the drain nginx closes what is idle and finishes what is under way.
fn what_is_left_is_closed_and_counted() {
    let pair = Pair::new("60s");
    let _running = pair.start();
    let before = pair.states();
    let idle = Load::begin(&pair.client, VIP.parse().unwrap(), Habit::KeepAlive, 4);
    let endless = {
        let pid = pair.client.pid;
        std::thread::spawn(move || {
            spawn::enter_network(spawn::network_of(pid).unwrap().as_fd()).unwrap();
            let to: SocketAddr = format!("{VIP}:80").parse().unwrap();
            load::ask(&load::connect(to).unwrap(), "/endless")
        })
    };
    sleep(ms(500));
    let began = Instant::now();
    let story = switchover(&pair.n1, "n2 --drain 1s");
    assert!(began.elapsed() > ms(1000), "{story:?}");
    let steps: Vec<&str> = story.iter().map(|it| it["step"].as_str().unwrap()).collect();
    assert_eq!(steps[..3], ["preparing", "moved", "draining"], "{story:?}");
    let last = story.last().unwrap();
    assert_eq!(last["step"], "done");
    assert_eq!((last["ended"].as_u64(), last["cut"].as_u64()), (Some(4), Some(1)), "{last}");
    let seen = idle.end();
    assert_eq!(seen.failures.len(), 4, "each was closed once: {:?}", seen.failures);
    // One may have sent its next request just then.
    let closed = seen.failures.iter().filter(|why| why.contains("end of file"));
    assert!(closed.count() >= 3, "{:?}", seen.failures);
    assert!(endless.join().unwrap().is_err(), "it would have gone on for minutes");
    pair.wait_states(&before);
    // The node is as good as before, and a switchover takes it back.
    pair.wait_ready();
    let story = switchover(&pair.n2, "--now");
    assert_eq!(story.last().unwrap()["cut"], 0);
}

/// What isn't ready stays where it is, and the reason is said.
fn what_is_not_ready_stays() {
    let pair = Pair::new("5s");
    let _running = pair.start();
    let before = pair.states();
    let refused = |host: &Host, words: &str, why: &str| {
        let output = host.try_run(&format!("{STANDIN} switchover {words}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words}: {output:?}");
        assert!(said.contains(why), "{words}: {said}");
    };
    refused(&pair.n1, "nope", "no VIP is called nope");
    refused(&pair.n1, "web n9", "no peer is called n9");
    refused(&pair.n2, "web", "n1 has web");
    pair.n2.run(&format!("{STANDIN} maintenance on"));
    wait_until("n1 to know", SOON, || !knows_eligible(&pair.n1, "n2"));
    refused(&pair.n1, "web", "maintenance");
    pair.n2.run(&format!("{STANDIN} maintenance off"));
    pair.wait_ready();
    pair.n2.write("/etc/nginx/nginx.conf", &nginx_conf("listen 80; listen [::]:80;"));
    pair.n2.run("/usr/sbin/nginx -s reload");
    wait_until("n2's nginx to let go", SOON, || !pair.n2.run("ss -ltn").contains(":443"));
    refused(&pair.n1, "web", "443");
    assert_eq!(pair.states(), before);
    assert!(pair.n1.has(VIP) && pair.n1.role() == "active");
}

/// A stop and maintenance move the VIP away first.
fn a_stop_and_maintenance_lose_nothing() {
    let pair = Pair::new("60s");
    let Running { first, second: _second } = pair.start();
    let short = Load::begin(&pair.client, VIP.parse().unwrap(), Habit::Short, 8);
    let large = Load::begin(&pair.client, VIP_V6.parse().unwrap(), Habit::Download, 4);
    sleep(ms(500));
    pair.n1.run(&format!("{STANDIN} maintenance on"));
    pair.n2.wait_role("active", SOON);
    assert!(!pair.n1.ip("-o address show dev eth0").contains(VIP));
    pair.n1.run(&format!("{STANDIN} maintenance off"));
    pair.wait_ready();
    wait_until("the first drain to end", SOON, || {
        pair.n1.said("switchover", "no connection was cut")
    });
    switchover(&pair.n2, "");
    pair.n1.wait_role("active", SOON);
    pair.wait_ready();
    first.signal(15);
    pair.n2.wait_role("active", SOON);
    let mut first = first;
    wait_until("the daemon to end once its clients have finished", SOON, || !first.runs());
    sleep(ms(300));
    unharmed("short", &short.end());
    unharmed("large", &large.end());
}

/// Whoever is killed in the middle leaves nothing behind.
fn a_kill_in_the_middle_leaves_no_trace() {
    let pair = Pair::new("60s");
    let Running { first, second } = pair.start();
    let before = pair.states();
    let keeps = Load::begin(&pair.client, VIP.parse().unwrap(), Habit::KeepAlive, 2);
    sleep(ms(300));
    let mut command = pair.n1.command(STANDIN);
    let mut watching = command
        .args(["switchover", "web"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    pair.n2.wait_role("active", SOON);
    wait_until("the VIP to stay for its sockets", SOON, || {
        pair.n1.ip("-o address show dev lo").contains(VIP)
    });
    // The guard puts everything back; what it would start again is killed with it.
    let daemon = daemon_of(first.pid);
    spawn::kill(daemon, 9).unwrap();
    wait_state(&pair.n1, &before[0]);
    wait_until("the command to notice", SOON, || watching.try_wait().unwrap().is_some());
    wait_state(&pair.n2, &before[1]);
    drop(keeps.end());
    // Now the one that took it.
    pair.wait_ready();
    let keeps = Load::begin(&pair.client, VIP.parse().unwrap(), Habit::KeepAlive, 2);
    sleep(ms(300));
    let mut command = pair.n2.command(STANDIN);
    let mut watching = command
        .args(["switchover", "web"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    pair.n1.wait_role("active", SOON);
    spawn::kill(daemon_of(first.pid), 9).unwrap();
    wait_state(&pair.n1, &before[0]);
    drop(keeps.end());
    wait_until("the drain to end", SOON, || watching.try_wait().unwrap().is_some());
    wait_state(&pair.n2, &before[1]);
    drop(second);
}

/// The daemon below its guard.
fn daemon_of(guard: u32) -> u32 {
    wait_for("a daemon", SOON, || {
        let listed =
            std::fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).ok()?;
        listed.split_whitespace().next()?.parse().ok()
    })
}

#[test]
fn planned_moves() {
    if skipped() {
        return;
    }
    clients_notice_nothing();
    together(vec![
        ("the rest is closed".into(), Box::new(what_is_left_is_closed_and_counted)),
        ("not ready".into(), Box::new(what_is_not_ready_stays)),
        ("stop and maintenance".into(), Box::new(a_stop_and_maintenance_lose_nothing)),
        ("killed".into(), Box::new(a_kill_in_the_middle_leaves_no_trace)),
    ]);
}
