//! The peer link on whole hosts: init, join, what each node shows of the other, and who is refused.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod cluster_file;
mod flood;
mod handover;
#[path = "../hosts/mod.rs"]
mod hosts;
mod told;

use std::io::Write;
use std::process::{Output, Stdio};
use std::time::Duration;

use hosts::{Daemon, Host, Lan, STANDIN, ms, skipped, wait_for, wait_until};
use serde_json::Value;

const N1: &str = "192.168.1.189";
const N2: &str = "192.168.1.190";
const FILE: &str = "/etc/standin/standin.toml";
const VIP: &str = "192.168.1.41";

/// A link comes up within its longest wait between two attempts, also on a loaded machine.
const SOON: Duration = Duration::from_secs(20);

struct Pair {
    n1: Host,
    n2: Host,
    lan: Lan,
}

impl Pair {
    fn new() -> Self {
        let lan = Lan::new();
        let n1 = lan.host("n1", &[&format!("{N1}/24")]);
        let n2 = lan.host("n2", &[&format!("{N2}/24")]);
        Self { n1, n2, lan }
    }

    /// Makes the cluster on n1; hands back the token.
    fn init(&self) -> String {
        let line = self.n1.run(&format!(
            "{STANDIN} init --cluster edge --node n1={N1} --vip web=192.168.1.41/24"
        ));
        assert_eq!(line.lines().count(), 1, "{line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..3], ["standin", "join", N1], "{line}");
        assert_eq!(words[4..], ["--node", "NAME=ADDRESS"], "{line}");
        words[3].to_owned()
    }

    fn join(&self, token: &str) -> Output {
        self.n2.try_run(&format!("{STANDIN} join {N1} {token} --node n2={N2}"))
    }

    /// Initialised and joined without a daemon anywhere; then both are started.
    fn running(&self) -> (Daemon, Daemon) {
        good(&self.join(&self.init()));
        self.start()
    }

    /// Starts n1, and n2 when n1 is active.
    fn start(&self) -> (Daemon, Daemon) {
        let first = daemon(&self.n1);
        // Of two equal nodes that are started at once, either may be the first to claim.
        self.n1.wait_has(VIP, true, SOON);
        (first, daemon(&self.n2))
    }
}

fn daemon(host: &Host) -> Daemon {
    // Nothing here is about nginx.
    let file = host.read(FILE);
    if file.contains("[nginx]") {
        host.write(FILE, &file.replace("\n[nginx]\n", "checks = []\n"));
    }
    host.launch("standin", &format!("{STANDIN} run --node {}", host.name))
}

#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains(why), "{said}");
}

/// What the node says of its link with the peer.
fn link(host: &Host, peer: &str) -> Option<Value> {
    let status = host.try_status()?;
    let peers = status["peers"].as_array()?;
    peers.iter().find(|it| it["name"] == peer).map(|it| it["link"].clone())
}

fn connected(host: &Host, peer: &str) -> bool {
    link(host, peer).is_some_and(|link| link["state"] == "connected")
}

#[track_caller]
fn wait_connected(pair: &Pair) {
    wait_until(
        &format!(
            "both to see each other; n1: {:?}; n2: {:?}; logs\n{}\n{}",
            link(&pair.n1, "n2"),
            link(&pair.n2, "n1"),
            pair.n1.read("/run/logs/standin"),
            pair.n2.read("/run/logs/standin"),
        ),
        SOON,
        || connected(&pair.n1, "n2") && connected(&pair.n2, "n1"),
    );
}

/// Whoever opens it waits for a word of this one, which doesn't come (fanotify(7)).
const HOLDS: &str = "import ctypes,os,sys,time; c=ctypes.CDLL(None); f=c.fanotify_init(4,os.O_RDONLY); \
                     c.fanotify_mark(f,1,ctypes.c_uint64(0x10000),-100,sys.argv[1].encode()); \
                     open('/run/held','w').close(); time.sleep(20)";

#[test]
fn a_reload_while_the_keys_disk_hangs_is_refused_and_holds_nobody() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let _daemons = pair.running();
    wait_connected(&pair);
    pair.n1.write("/run/holds.py", HOLDS);
    let _holder = pair.n1.launch("holder", "python3 /run/holds.py /var/lib/standin/keys/node.pem");
    wait_until("the disk hangs", SOON, || pair.n1.try_run("test -e /run/held").status.success());
    let said = pair.n1.try_run(&format!("{STANDIN} reload"));
    let why = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success() && why.contains("the keys in /var/lib/standin"), "{said:?}");
    assert!(connected(&pair.n1, "n2"), "status answers, and the link goes on");
}

#[test]
fn a_pair_is_made_without_daemons_and_each_node_shows_both() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (_first, second) = pair.running();
    assert_eq!(pair.n1.read(FILE), pair.n2.read(FILE));
    wait_connected(&pair);
    for (host, other) in [(&pair.n1, "n2"), (&pair.n2, "n1")] {
        let link = wait_for("a summary and a ping", SOON, || {
            let link = link(host, other)?;
            let whole = link["vips"][0]["name"] == "web" && link["round_trip_ms"].is_f64();
            whole.then_some(link)
        });
        assert_eq!(link["same_file"], true, "{link}");
        assert!(link["round_trip_ms"].as_f64().unwrap() < 1000.0, "{link}");
        assert!(link["clock_difference_ms"].as_f64().unwrap().abs() < 1000.0, "{link}");
        let page = host.run(&format!("{STANDIN} status"));
        assert!(page.contains("link connected") && page.contains("round trip"), "{page}");
    }
    wait_until("n2 to show what n1 is", SOON, || {
        link(&pair.n2, "n1").is_some_and(|link| link["vips"][0]["role"] == "active")
    });
    // Keys are root's, and nothing else shows them.
    assert_eq!(pair.n2.run("stat -c %a /var/lib/standin/keys").trim(), "700");
    assert_eq!(pair.n2.run("stat -c %a /var/lib/standin/keys/authority.key").trim(), "600");
    // A peer that ends is seen at once; one that comes back is dialled again.
    second.crash();
    wait_until("n1 to miss n2", SOON, || !connected(&pair.n1, "n2"));
    pair.n1.wait_said("link_down", "n2", SOON);
    let _second = daemon(&pair.n2);
    wait_connected(&pair);
}

#[test]
fn a_node_joins_while_daemons_run() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let unused = pair.init();
    let _first = daemon(&pair.n1);
    wait_until("the first daemon alone", SOON, || {
        pair.n1.try_status().is_some() && pair.n1.run("ss -Hltn sport = :8412").lines().count() == 1
    });
    let token = pair.n1.run(&format!("{STANDIN} token"));
    assert_eq!(token.lines().count(), 1);
    assert_ne!(token.trim(), unused);
    // n2 runs by a file of its own; it is kept.
    let old = "cluster = \"old\"\n[node.n2]\naddress = \"192.168.1.190\"\n";
    pair.n2.write(FILE, old);
    let _second = pair.n2.launch("standin", &format!("{STANDIN} run --node n2"));
    wait_until("the second daemon", SOON, || pair.n2.try_status().is_some());
    let page = pair.n2.run(&format!("{STANDIN} status --json"));
    assert!(page.contains("\"link\":null"), "{page}");
    let mut join = pair.n2.command(STANDIN);
    join.args(["join", N1, "-", "--node", "n2=192.168.1.190", "--priority", "120"]);
    let mut join =
        join.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    join.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let said = good(&join.wait_with_output().unwrap());
    assert!(said.contains("has taken it"), "{said}");
    assert_eq!(pair.n2.read(&format!("{FILE}.before-join.1")), old);
    assert!(pair.n1.read(FILE).contains("priority = 120"));
    assert_eq!(pair.n1.read(FILE), pair.n2.read(FILE));
    wait_connected(&pair);
    pair.n1.wait_said("joined", "n2", SOON);
}

#[test]
fn a_pair_can_be_made_by_a_program() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let read = |said: String| serde_json::from_str::<Value>(&said).unwrap();
    let made = read(pair.n1.run(&format!(
        "{STANDIN} init --cluster edge --node n1={N1} --vip web=192.168.1.41/24 --json"
    )));
    assert_eq!((&made["cluster"], &made["node"]), (&"edge".into(), &"n1".into()), "{made}");
    assert_eq!((&made["file"], &made["valid_s"]), (&FILE.into(), &900.into()), "{made}");
    let token = read(pair.n1.run(&format!("{STANDIN} token --json")));
    assert_eq!(token["valid_s"], 900, "{token}");
    let token = token["token"].as_str().unwrap();
    assert_ne!(made["token"], token);
    let join = format!("{STANDIN} join {N1} {token} --node n2={N2} --json");
    let joined = read(good(&pair.n2.try_run(&join)));
    assert_eq!((&joined["cluster"], &joined["node"]), (&"edge".into(), &"n2".into()), "{joined}");
    assert_eq!(
        (&joined["kept"], &joined["shares_files"]),
        (&Value::Null, &true.into()),
        "{joined}"
    );
    let _daemons = pair.start();
    wait_connected(&pair);
    let reloaded = read(pair.n1.run(&format!("{STANDIN} reload --json")));
    assert!(reloaded["text"].is_string(), "{reloaded}");
}

#[test]
fn a_token_that_is_wrong_used_or_expired_lets_nobody_in() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let token = pair.init();
    let keys = "/var/lib/standin/keys";
    refused(&pair.join("nonsense"), "no token");
    // Another secret with the right id, and the authority's fingerprint of another cluster.
    let other_secret = flipped(&token, 20);
    refused(&pair.join(&other_secret), "the token is wrong");
    refused(&pair.join(&flipped(&token, 60)), "it was told nothing");
    // One that has expired.
    let tokens = pair.n1.read(&format!("{keys}/tokens.json"));
    let mut expired: Value = serde_json::from_str(&tokens).unwrap();
    expired[0]["ends_unix_s"] = 1.into();
    pair.n1.write(&format!("{keys}/tokens.json"), &expired.to_string());
    wait_until("the process that serves tokens to end", SOON, || {
        pair.n1.run("ss -Hltn sport = :8412").is_empty()
    });
    refused(&pair.join(&token), "nobody serves the token");
    let second = pair.n1.run(&format!("{STANDIN} token"));
    refused(&pair.join(&token), "the token is wrong");
    assert!(!pair.n2.try_run(&format!("test -e {keys}")).status.success(), "nothing was written");
    good(&pair.join(second.trim()));
    // Used: by the machine itself, and by whoever stole it.
    refused(&pair.join(second.trim()), "already");
    pair.n2.run(&format!("mv {keys} /var/lib/standin/moved"));
    let _first = daemon(&pair.n1);
    wait_until("the first daemon", SOON, || pair.n1.try_status().is_some());
    refused(&pair.join(second.trim()), "the token is wrong");
    // Five tries, then it is none any more.
    let third = pair.n1.run(&format!("{STANDIN} token"));
    let thief = format!("{STANDIN} join {N1} {} --node n2={N2}", third.trim());
    for _ in 0..5 {
        refused(&pair.n2.try_run(&thief), "joined already");
    }
    refused(&pair.n2.try_run(&thief), "the token is wrong");
    // A second init changes nothing.
    let before = pair.n1.read(FILE);
    let init = format!("{STANDIN} init --cluster b --node n1={N1} --vip w=192.168.1.42/24");
    refused(&pair.n1.try_run(&init), "already");
    assert_eq!(pair.n1.read(FILE), before);
}

/// The token with one letter changed.
fn flipped(token: &str, at: usize) -> String {
    let other = if token.as_bytes()[at] == b'a' { "b" } else { "a" };
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}

#[test]
fn a_certificate_of_another_authority_and_a_node_not_in_the_file_are_refused() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (_first, _second) = pair.running();
    wait_connected(&pair);
    // n3 has a cluster of its own, and the file of this one.
    let n3 = pair.lan.host("n3", &["192.168.1.191/24"]);
    n3.run(&format!(
        "{STANDIN} init --cluster edge --node n0=192.168.1.191 --vip web=192.168.1.41/24"
    ));
    let section = |host: &Host, name: &str| {
        let file = host.read(FILE);
        let at = file.find(&format!("[node.{name}]")).unwrap();
        file[at..].split("\n\n").next().unwrap().to_owned()
    };
    let own = section(&n3, "n0");
    n3.write(FILE, &pair.n2.read(FILE).replace("[vip.web]", &format!("{own}\n\n[vip.web]")));
    // Its certificate, offered by a client that believes whoever answers.
    let said = flood::offer(&n3, N2);
    assert!(said.contains("DecryptError") || said.contains("UnknownCA"), "{said}");
    let _third = n3.launch("standin", &format!("{STANDIN} run --node n0"));
    pair.n2.wait_said("link_refused", "another authority", SOON);
    wait_until("n0 to see why", SOON, || {
        link(&n3, "n2").is_some_and(|it| {
            it["state"] == "down"
                && it["problem"].as_str().is_some_and(|it| it.contains("authority"))
        })
    });
    let again = pair.n2.events().iter().filter(|it| it["kind"] == "link_refused").count();
    assert_eq!(again, 1, "said once");
    assert!(pair.n2.try_status().unwrap()["link"]["refused"].as_u64().unwrap() > 1);
    // A node that the file doesn't have any more is put out, and can't come back.
    let file = pair.n1.read(FILE);
    let gone = section(&pair.n1, "n2");
    pair.n1.write(FILE, &file.replace(&gone, ""));
    pair.n1.run(&format!("{STANDIN} reload"));
    wait_until("n2 to be put out", SOON, || !connected(&pair.n2, "n1"));
    // Under another name the key is still none of the file's.
    let other = gone.replace("[node.n2]", "[node.n9]");
    let other = other.lines().filter(|it| !it.starts_with("fingerprint"));
    let other = other.collect::<Vec<_>>().join("\n");
    pair.n1.write(FILE, &file.replace(&gone, &other));
    pair.n1.run(&format!("{STANDIN} reload"));
    std::thread::sleep(ms(500));
    assert_eq!(link(&pair.n1, "n9").unwrap()["state"], "no certificate");
    assert!(!connected(&pair.n2, "n1"));
}

#[test]
fn a_link_that_is_cut_is_seen_and_comes_back() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (_first, _second) = pair.running();
    wait_connected(&pair);
    pair.lan.isolate(&pair.n2);
    wait_until("both to miss each other", SOON, || {
        !connected(&pair.n1, "n2") && !connected(&pair.n2, "n1")
    });
    let problem = link(&pair.n1, "n2").unwrap()["problem"].as_str().unwrap_or_default().to_owned();
    assert!(!problem.is_empty());
    pair.lan.rejoin(&pair.n2);
    wait_until("the link to heal", Duration::from_secs(20), || {
        connected(&pair.n1, "n2") && connected(&pair.n2, "n1")
    });
}

#[test]
fn nothing_listens_without_keys() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let file = "cluster = \"edge\"\n[node.n1]\naddress = \"192.168.1.189\"\n[node.n2]\n\
                address = \"192.168.1.190\"\n[vip.web]\nvirtual_router_id = 41\n\
                addresses = [\"192.168.1.41/24\"]\nchecks = []\n";
    let _first = pair.n1.standin(file);
    pair.n1.wait_role("active", SOON);
    assert_eq!(pair.n1.run("ss -Hltn"), "");
    let page = pair.n1.run(&format!("{STANDIN} status"));
    assert!(page.contains("no peer link (standin init makes one)"), "{page}");
    refused(&pair.n1.try_run(&format!("{STANDIN} token")), "standin init");
}
