//! No VIP outlives its daemon: each process of a node killed or stopped, as others see it.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod faults;
#[path = "../hosts/mod.rs"]
mod hosts;
#[cfg(target_arch = "x86_64")]
mod injected;
mod memory;
mod upgrade;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use hosts::holders::Watch;
use hosts::wire::{Adverts, Packet};
use hosts::{Daemon, Host, Lan, skipped, wait_for, wait_until};
use standin_linux::spawn;

const VIP: &str = "192.168.1.41";

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
"#;

/// A pair on which n1 is active.
struct Pair {
    n1: Host,
    n2: Host,
    first: Daemon,
    second: Daemon,
    lan: Lan,
}

impl Pair {
    fn new() -> Self {
        let lan = Lan::new();
        let n1 = lan.host("n1", &["192.168.1.189/24"]);
        let n2 = lan.host("n2", &["192.168.1.190/24"]);
        n1.sysctl("net/ipv4/conf/eth0/promote_secondaries", "0");
        let first = n1.standin(FILE);
        n1.wait_has(VIP, true, Duration::from_secs(5));
        let second = n2.standin(FILE);
        wait_until("n2 to follow n1", Duration::from_secs(5), || {
            n2.vip().is_some_and(|vip| vip["holder"] == "n1")
        });
        Self { n1, n2, first, second, lan }
    }

    /// The guard and the daemon of n1.
    fn processes(&self) -> (u32, u32) {
        let guard = self.first.pid;
        (guard, wait_for("a daemon", Duration::from_secs(2), || child(guard)))
    }

    /// The number that n1 itself gives a process.
    fn inside(&self, pid: u32) -> u32 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    }

    /// How long n1 still had the address, and how long nobody had it.
    fn after(&self, watch: &Watch, began: Instant) -> (Duration, Duration) {
        self.n2.wait_has(VIP, true, Duration::from_secs(5));
        let left = watch.changes().into_iter().find(|it| it.at >= began && !it.hosts.contains(&0));
        let left = left.map_or(Duration::ZERO, |it| it.at.saturating_duration_since(began));
        (left, watch.vacancy(began))
    }
}

fn child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn exists(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn a_killed_daemon_loses_its_addresses_at_once_and_comes_back() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (guard, daemon) = pair.processes();
    let watch = Watch::new(VIP, &[&pair.n1, &pair.n2]);
    let began = Instant::now();
    spawn::kill(daemon, 9).unwrap();
    let (left, vacant) = pair.after(&watch, began);
    eprintln!("daemon killed: address gone after {left:?}, nobody had it for {vacant:?}");
    assert!(left < Duration::from_millis(100), "{left:?}");
    assert!(vacant < Duration::from_millis(250), "n2 was told: {vacant:?}");
    assert_eq!(watch.overlap(began), Duration::ZERO);
    assert!(exists(guard));
    wait_until("another daemon", Duration::from_secs(3), || {
        child(guard).is_some_and(|new| new != daemon) && pair.n1.role() == "backup"
    });
    pair.n1.wait_said("daemon_died", "(signal 9)", Duration::from_secs(3));
    let setting = pair.n1.run("cat /proc/sys/net/ipv4/conf/eth0/promote_secondaries");
    assert_eq!(setting.trim(), "0", "put back by the guard");
    // `check` goes by the name where it asks who has the ports of the link and the API.
    let name = fs::read_to_string(format!("/proc/{}/comm", child(guard).unwrap())).unwrap();
    assert_eq!(name.trim(), "standin");
}

/// What an operator has ordered holds until it is ended: a node that is out of service stays so.
#[test]
fn a_death_ends_no_order() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (guard, daemon) = pair.processes();
    pair.n1.run("/run/bin/standin maintenance on --for 1h --now");
    pair.n2.wait_role("active", Duration::from_secs(3));
    spawn::kill(daemon, 9).unwrap();
    wait_until("another daemon", Duration::from_secs(3), || {
        child(guard).is_some_and(|new| new != daemon) && pair.n1.role() == "backup"
    });
    pair.n1.wait_said("maintenance_order", "ordered of the daemon before", Duration::from_secs(3));
    let left = pair.n1.try_status().unwrap()["maintenance"].clone();
    assert!(left["remaining_s"].as_f64().is_some_and(|left| left > 3500.0), "{left}");
    pair.n1.run("/run/bin/standin maintenance off");
    assert!(pair.n1.try_status().unwrap()["maintenance"].is_null());
    assert!(!pair.n1.run("ls /run/standin").contains("orders"));
    // A stop ends it.
    pair.n1.run("/run/bin/standin maintenance on");
    assert_eq!(pair.first.stop(), Some(0));
    let _again = pair.n1.standin(FILE);
    pair.n1.wait_role("backup", Duration::from_secs(5));
    assert!(pair.n1.try_status().unwrap()["maintenance"].is_null());
}

#[test]
fn a_killed_guard_is_replaced_and_the_address_stays() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (guard, daemon) = pair.processes();
    let watch = Watch::new(VIP, &[&pair.n1, &pair.n2]);
    let began = Instant::now();
    spawn::kill(guard, 9).unwrap();
    pair.n1.wait_said("guard_replaced", "another one", Duration::from_secs(3));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(watch.vacancy(began), Duration::ZERO);
    assert_eq!(watch.now(), [0]);
    // The new one guards as well as the old one did.
    let began = Instant::now();
    spawn::kill(daemon, 9).unwrap();
    let (left, _) = pair.after(&watch, began);
    assert!(left < Duration::from_millis(100), "{left:?}");
    wait_until("another daemon", Duration::from_secs(3), || pair.n1.role() == "backup");
}

#[test]
fn when_all_processes_are_killed_the_kernel_ends_it() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (guard, daemon) = pair.processes();
    let watch = Watch::new(VIP, &[&pair.n1]);
    let began = Instant::now();
    // The guard first: it would clear up behind the daemon.
    spawn::kill(guard, 9).unwrap();
    spawn::kill(daemon, 9).unwrap();
    pair.n1.wait_has(VIP, false, Duration::from_secs(4));
    let left = watch.changes().last().unwrap().at.saturating_duration_since(began);
    eprintln!("everything killed: address gone after {left:?}");
    assert!(left < Duration::from_secs(3), "{left:?}");
}

#[test]
fn settings_that_guard_and_daemon_left_are_put_back_by_whoever_comes_next() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let setting = || pair.n1.run("cat /proc/sys/net/ipv4/conf/eth0/promote_secondaries");
    assert_eq!(setting().trim(), "1");
    let kill = |guard: u32| {
        let daemon = child(guard).unwrap();
        // A daemon that runs would have another guard in a moment.
        spawn::kill(daemon, 19).unwrap();
        spawn::kill(guard, 9).unwrap();
        spawn::kill(daemon, 9).unwrap();
        wait_until("both to be gone", Duration::from_secs(1), || !exists(guard) && !exists(daemon));
    };
    kill(pair.first.pid);
    assert_eq!(setting().trim(), "1", "nobody is left who could put it back");
    let again = pair.n1.standin(FILE);
    pair.n1.wait_role("backup", Duration::from_secs(5));
    wait_until("the setting to be put back", Duration::from_secs(2), || setting().trim() == "0");
    assert_eq!(pair.second.stop(), Some(0));
    pair.n1.wait_has(VIP, true, Duration::from_secs(5));
    assert_eq!(setting().trim(), "1");
    kill(again.pid);
    let said = pair.n1.run("/run/bin/standin release --json");
    let put_back = "\"setting\":\"net/ipv4/conf/eth0/promote_secondaries\",\"value\":\"0\"";
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.iter().all(|line| line.starts_with("{\"")), "{said}");
    assert!(lines.iter().any(|line| line.contains(put_back)), "{said}");
    assert_eq!(setting().trim(), "0");
}

#[test]
fn a_stopped_daemon_loses_its_addresses() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (guard, daemon) = pair.processes();
    let left = loses_its_addresses_when_stopped(&pair, daemon);
    eprintln!("daemon stopped: address gone after {left:?}");
    wait_until("another daemon", Duration::from_secs(3), || {
        child(guard).is_some_and(|new| new != daemon) && pair.n1.role() == "backup"
    });
    // Not that somebody has killed it.
    pair.n1.wait_said("daemon_died", "hung, or was stopped", Duration::from_secs(3));
}

/// A guard that came in another's place isn't the daemon's parent, and nobody tells it of a stop.
#[test]
fn a_stopped_daemon_loses_its_addresses_also_with_a_guard_that_is_not_its_parent() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (guard, daemon) = pair.processes();
    spawn::kill(guard, 9).unwrap();
    pair.n1.wait_said("guard_replaced", "", Duration::from_secs(3));
    let left = loses_its_addresses_when_stopped(&pair, daemon);
    eprintln!("daemon of another guard stopped: address gone after {left:?}");
    pair.n1.wait_role("backup", Duration::from_secs(3));
}

/// How long the address was still there.
fn loses_its_addresses_when_stopped(pair: &Pair, daemon: u32) -> Duration {
    let watch = Watch::new(VIP, &[&pair.n1, &pair.n2]);
    let began = Instant::now();
    spawn::kill(daemon, 19).unwrap();
    let (left, _) = pair.after(&watch, began);
    assert!(left < Duration::from_millis(250), "{left:?}");
    assert_eq!(watch.overlap(began), Duration::ZERO);
    assert!(!exists(daemon), "the stopped one must not wake up again");
    left
}

#[test]
fn a_daemon_that_is_stopped_for_a_moment_lives_on() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (guard, daemon) = pair.processes();
    stop_for_moments(&pair, daemon);
    spawn::kill(guard, 9).unwrap();
    pair.n1.wait_said("guard_replaced", "", Duration::from_secs(3));
    stop_for_moments(&pair, daemon);
}

fn stop_for_moments(pair: &Pair, daemon: u32) {
    for _ in 0..20 {
        spawn::kill(daemon, 19).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        spawn::kill(daemon, 18).unwrap();
        std::thread::sleep(Duration::from_millis(110));
    }
    assert!(exists(daemon));
    assert!(pair.n1.has(VIP));
}

#[test]
fn leftovers_are_removed_by_hand_but_not_under_a_daemon() {
    if skipped() {
        return;
    }
    let lan = Lan::new();
    let n1 = lan.host("n1", &["192.168.1.189/24"]);
    // As a standin left them that was killed on a kernel without owners of tables.
    let table = |family: &str| {
        let comment = "standin: switchover, gone when it is over";
        n1.write(
            "/run/tables.nft",
            &format!(
                "table {family} standin_web {{\n comment \"{comment}\"\n}}\ntable {family} mine {{\n}}\n"
            ),
        );
        n1.run("nft -f /run/tables.nft");
    };
    table("ip6");
    let daemon = n1.standin(FILE);
    n1.wait_has(VIP, true, Duration::from_secs(5));
    assert_eq!(n1.run("nft list tables").trim(), "table ip6 mine");
    let refused = n1.try_run("/run/bin/standin release");
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    assert!(n1.has(VIP));
    let (guard, child) = (daemon.pid, child(daemon.pid).unwrap());
    // A daemon that is stopped gets itself no other guard.
    for (process, signal) in [(child, 19), (guard, 9), (child, 9)] {
        spawn::kill(process, signal).unwrap();
    }
    wait_until("both to be gone", Duration::from_secs(1), || !exists(guard) && !exists(child));
    table("ip");
    let said = n1.run("/run/bin/standin release");
    assert!(said.contains("removed nftables table ip standin_web"), "{said}");
    assert_eq!(n1.run("nft list tables").trim(), "table ip6 mine\ntable ip mine");
    assert!(said.contains("192.168.1.41/24"), "{said}");
    assert!(!n1.has(VIP));
    assert!(n1.run("/run/bin/standin release").contains("nothing"));
}

#[test]
fn a_stop_goes_through_the_guard_and_leaves_nothing() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (_, daemon) = pair.processes();
    assert_eq!(pair.first.stop(), Some(0));
    assert!(!exists(daemon));
    assert!(!pair.n1.has(VIP));
    pair.n2.wait_has(VIP, true, Duration::from_secs(1));
}

#[test]
fn a_newer_program_is_taken_up_in_place() {
    if !skipped() {
        taken_up_in_place(FILE);
    }
}

#[test]
fn a_newer_program_finds_the_link_of_a_virtual_mac() {
    if !skipped() {
        taken_up_in_place(&FILE.replace("checks = []", "checks = []\nvirtual_mac = true"));
    }
}

fn taken_up_in_place(file: &str) {
    let lan = Lan::new();
    let n1 = lan.host("n1", &["192.168.1.189/24"]);
    let n2 = lan.host("n2", &["192.168.1.190/24"]);
    n1.write("/etc/standin/standin.toml", file);
    n1.run("cp /run/bin/standin /run/standin-program");
    let first = n1.launch("standin", "/run/standin-program run");
    n1.wait_has(VIP, true, Duration::from_secs(5));
    let _second = n2.standin(file);
    wait_until("n2 to follow n1", Duration::from_secs(5), || {
        n2.vip().is_some_and(|vip| vip["holder"] == "n1")
    });
    let guard = first.pid;
    let daemon = wait_for("a daemon", Duration::from_secs(2), || child(guard));
    let program = |pid: u32| fs::metadata(format!("/proc/{pid}/exe")).map(|file| file.ino()).ok();
    let before = program(daemon);
    let packets = Adverts::capture(&lan);
    let watch = Watch::new(VIP, &[&n1, &n2]);
    let began = Instant::now();
    n1.run("cp /run/bin/standin /run/standin-newer");
    n1.run("mv /run/standin-newer /run/standin-program");
    n1.run("/run/bin/standin reload");
    wait_until("both processes to run the new program", Duration::from_secs(5), || {
        [guard, daemon].iter().all(|pid| program(*pid).is_some_and(|new| Some(new) != before))
    });
    n1.wait_said("upgraded", "took over in place", Duration::from_secs(3));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(watch.vacancy(began), Duration::ZERO);
    assert_eq!(watch.now(), [0]);
    assert_eq!(n2.transitions(), 1, "only its start");
    let adverts = packets.since(began);
    let priorities: Vec<_> = adverts.iter().filter_map(Packet::priority).collect();
    assert!(priorities.iter().all(|priority| *priority == 150), "{priorities:?}");
    let pause = adverts.windows(2).map(|two| two[1].at.saturating_duration_since(two[0].at)).max();
    eprintln!("upgrade: longest pause between adverts {pause:?}");
    assert!(pause.is_some_and(|pause| pause < Duration::from_millis(300)), "{pause:?}");
    // The new guard guards the new daemon.
    let began = Instant::now();
    spawn::kill(daemon, 9).unwrap();
    n2.wait_has(VIP, true, Duration::from_secs(2));
    assert_eq!(watch.overlap(began), Duration::ZERO);
    assert_eq!(first.stop(), Some(0));
}

#[test]
fn a_file_that_is_refused_ends_the_guard_with_its_code() {
    if skipped() {
        return;
    }
    let lan = Lan::new();
    let n1 = lan.host("n1", &["192.168.1.189/24"]);
    n1.write("/etc/standin/standin.toml", "cluster = 7\n");
    let output = n1.try_run("/run/bin/standin run");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn it_refuses_to_start_beside_a_keepalived_with_the_same_router_id() {
    if skipped() {
        return;
    }
    let lan = Lan::new();
    let n1 = lan.host("n1", &["192.168.1.189/24"]);
    let conf = "vrrp_instance VI_1 {\n interface eth0\n virtual_router_id 41\n priority 100\n \
                virtual_ipaddress {\n 192.168.1.41/24\n }\n}\n";
    let _keepalived = n1.keepalived(conf);
    n1.wait_has(VIP, true, Duration::from_secs(10));
    n1.write("/etc/standin/standin.toml", FILE);
    let output = n1.try_run("/run/bin/standin run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("keepalived") && said.contains("virtual_router_id 41"), "{said}");
}
