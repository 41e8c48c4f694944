//! The cutover of docs/cutover.md, way A, and all of it undone, while clients are served throughout.

use std::time::{Duration, Instant};

use crate::hosts::{Daemon, Host, Lan, STANDIN, skipped, wait_until};
use crate::{Load, NETWORK, NGINX, adopt, nginx, state};

const FILE: &str = "/etc/standin/standin.toml";

/// It takes 7 s on two busy cores.
const LOAD: Duration = Duration::from_secs(20);

/// A link comes up within its longest wait between two attempts, also on a loaded machine.
const SOON: Duration = Duration::from_secs(20);

fn host(lan: &Lan, name: &str, address: &str) -> Host {
    let host = lan.host(name, &[address]);
    // nginx's own default: connections end, and so does a drain, before anything has to be closed.
    let often = NGINX.replace("keepalive_requests 10000000;", "keepalive_requests 1000;");
    host.write("/etc/nginx/nginx.conf", &often);
    host
}

fn standin(host: &Host) -> Daemon {
    host.launch("standin", &format!("{STANDIN} run --node {}", host.name))
}

fn wait_holder(hosts: &[&Host], holder: &str) {
    for host in hosts {
        let what = format!("{} to see {holder} hold it", host.name);
        wait_until(&what, SOON, || host.vip().is_some_and(|vip| vip["holder"] == holder));
    }
}

/// Who is ready for a switchover may be known a moment later.
fn switchover(from: &Host, to: &str) {
    wait_until(&format!("a switchover to {to}"), SOON, || {
        let done = from.try_run(&format!("{STANDIN} switchover web {to}"));
        eprint!("{}", String::from_utf8_lossy(&done.stderr));
        done.status.success()
    });
}

#[test]
fn a_live_machine_hands_over_to_a_new_pair_and_gets_everything_back() {
    if skipped() {
        return;
    }
    let lan = Lan::new();
    let o1 = host(&lan, "o1", "192.168.1.41/24");
    let n1 = host(&lan, "n1", "192.168.1.189/24");
    let n2 = host(&lan, "n2", "192.168.1.190/24");
    let client = lan.host("client", &["192.168.1.7/24"]);
    o1.ip("route add default via 192.168.1.7");
    o1.run("mkdir -p /etc/systemd/network /etc/network");
    o1.write("/etc/network/interfaces", "auto lo\n");
    o1.write("/etc/systemd/network/10-eth0.network", NETWORK);
    let _nginx = [&o1, &n1, &n2].map(nginx);
    let began = Instant::now();
    let load = Load::begin(&client, "192.168.1.41", LOAD.as_secs());

    let line = n1.run(&format!(
        "{STANDIN} init --no-sync --cluster edge --node n1=192.168.1.189 --vip web=192.168.1.41/24"
    ));
    let token = line.split_whitespace().nth(3).unwrap();
    let file =
        n1.read(FILE).replace("\n[nginx]\n", "checks = []\ndrain_timeout = \"20s\"\n[nginx]\n");
    n1.write(FILE, &file);
    n2.run(&format!("{STANDIN} join 192.168.1.189 {token} --node n2=192.168.1.190"));
    o1.ip("address add 192.168.1.188/24 dev eth0");
    let before = state(&o1);
    let token = n1.run(&format!("{STANDIN} token"));
    let token = token.trim();
    o1.run(&format!("{STANDIN} join 192.168.1.189 {token} --node o1=192.168.1.188 --priority 50"));
    n2.write(FILE, &n1.read(FILE));
    let (first, second) = (standin(&n1), standin(&n2));
    n1.wait_said("foreign_owner", &o1.mac(), SOON);

    adopt(&o1, "192.168.1.41 --vip web --new-address 192.168.1.188/24 --yes");
    let old = standin(&o1);
    wait_holder(&[&o1, &n1, &n2], "o1");
    switchover(&o1, "n1");
    wait_holder(&[&o1, &n1, &n2], "n1");
    switchover(&n1, "o1");
    wait_holder(&[&o1, &n1, &n2], "o1");
    assert_eq!((second.stop(), first.stop()), (Some(0), Some(0)));
    let undo = o1.launch("undo", &format!("{STANDIN} adopt --undo --yes"));
    wait_until("undo to wait for the daemon", SOON, || {
        undo.log().contains("Waiting for standin to stop")
    });
    assert_eq!(old.stop(), Some(0));
    wait_until("undo to be done", SOON, || undo.log().contains("done: "));
    assert_eq!(state(&o1), before);
    assert_eq!(o1.read("/etc/systemd/network/10-eth0.network"), NETWORK);
    let took = began.elapsed();
    assert!(took < LOAD, "the clients had gone when it was done: {took:?}");
    eprintln!("cutover there and back in {took:?}: {}", load.end());
}
