//! `cargo xtask container`: what README and docs/cutover.md tell an operator to do, on machines with
//! a real systemd and real network daemons, seen by a client that asks all the while.

pub(crate) mod client;
mod machine;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::Seen;
use machine::{Lan, Machine, Shelf};

/// How long the client asks before and after what is done to the machines.
const AROUND: Duration = Duration::from_millis(700);

/// A daemon that is killed is missed for less; a client's lost SYN comes again after a second.
const TAKEOVER_MS: u128 = 1000;

/// What a client asked of the node that died: one request each 5 ms, a millisecond long.
const UNDER_WAY: usize = 2;

/// The pair's own addresses, as the README has them.
const NODES: [(&str, &str); 2] = [("n1", "192.168.1.189"), ("n2", "192.168.1.190")];

const VIP: &str = "192.168.1.41/24";

/// The guard, as systemd knows it.
const MAIN: &str = "$(systemctl show standin --property MainPID --value)";

pub(crate) fn run() -> Result<()> {
    crate::packages::install_also(&[("debootstrap", "debootstrap")])?;
    let shelf = Shelf::open()?;
    let began = Instant::now();
    let readme = fs::read_to_string(crate::root().join("README.md"))?;
    pair(&shelf, &readme)?;
    for daemon in &NETWORK_DAEMONS {
        adopt(&shelf, &readme, daemon).with_context(|| daemon.name)?;
    }
    println!("all as promised, in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// The first block of shell below a headline of the README.
fn block<'a>(readme: &'a str, headline: &str, number: usize) -> Result<&'a str> {
    let section = readme.split_once(&format!("\n## {headline}\n")).context("its headline")?.1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1).filter_map(|it| it.split("```").next());
    blocks.into_iter().nth(number).with_context(|| format!("README, {headline}: its commands"))
}

/// Everything of "Install", word for word, but for the build.
fn install(machine: &Machine<'_>, readme: &str) -> Result<()> {
    let commands = block(readme, "Install", 0)?;
    let (build, rest) = commands.split_once('\n').context("its lines")?;
    ensure!(build.starts_with("cargo build"), "the README's first command is another one: {build}");
    let copy = |from: &Path, to: &str| {
        let mut cp = std::process::Command::new("cp");
        crate::run(cp.arg("--recursive").arg(from).arg(machine.root.join(to)))
    };
    fs::create_dir_all(machine.root.join("srv/target/release"))?;
    copy(&crate::built("standin"), "srv/target/release/standin")?;
    copy(&crate::root().join("dist"), "srv/dist")?;
    machine.sh(&format!("cd /srv; {rest}")).map(drop)
}

/// Does something to the machines while the client asks, and says what it saw.
fn meanwhile(lan: &Lan, what: &str, act: impl FnOnce() -> Result<()>) -> Result<Seen> {
    let client: Child = lan
        .asking()
        .arg(std::env::current_exe()?)
        .arg("container-client")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    std::thread::sleep(AROUND);
    let done = act();
    std::thread::sleep(AROUND);
    // It ends with its stdin, which this closes.
    let output = client.wait_with_output()?;
    done.with_context(|| what.to_owned())?;
    let seen = Seen::of(&String::from_utf8_lossy(&output.stdout))?;
    println!(
        "{what}: {} requests, {} failed, {} ms without an answer at most, {} connections broken",
        seen.asked, seen.failed, seen.gap_ms, seen.broken
    );
    Ok(seen)
}

fn unbroken(seen: &Seen) -> Result<()> {
    ensure!(seen.failed == 0, "requests failed");
    ensure!(seen.broken == 0, "connections broke");
    Ok(())
}

fn quick(seen: &Seen) -> Result<()> {
    ensure!(seen.failed <= UNDER_WAY, "more requests failed than were under way");
    ensure!(seen.gap_ms < TAKEOVER_MS, "nobody answered for {} ms", seen.gap_ms);
    Ok(())
}

fn holds(machine: &Machine<'_>) -> bool {
    machine.sh("ip -4 -o address show dev eth0").is_ok_and(|all| all.contains(VIP))
}

fn pair(shelf: &Shelf, readme: &str) -> Result<()> {
    let lan = Lan::new()?;
    let mut machines = Vec::new();
    for ((name, address), mac) in NODES.into_iter().zip(11..) {
        let root = shelf.system(name)?;
        ifupdown(&root, address)?;
        let machine = Machine::boot(&lan, &root, name, mac)?;
        install(&machine, readme)?;
        machines.push(machine);
    }
    let [n1, n2] = &mut machines[..] else { unreachable!("two were made") };
    let headline = "A pair in five minutes";
    let said = n1.sh(block(readme, headline, 0)?)?;
    let join = said.lines().find(|line| line.starts_with("standin join")).context("the token")?;
    let join = join.split(" --node").next().unwrap_or_default();
    let second = block(readme, headline, 1)?;
    let node = second.split_once(" --node").context("the README's join")?.1;
    n2.sh(&format!("{join} --node{node}"))?;
    n1.until("standin status | grep -q 'n2  serves 1 of 1  current'")?;
    n2.until("standin sync status | grep -q '^n2 .* current'")?;

    n1.sh("sed -i 's/# multi_accept on;/multi_accept on;/' /etc/nginx/nginx.conf")?;
    n1.until("standin sync status | grep -q '^n2  *2  *2  *2  *2  *current'")?;
    n1.sh("standin apply nginx && standin sync status | grep -q '^n1  *2  *2  *2  *2  *current'")?;
    n2.sh("grep -q '^[[:space:]]multi_accept on' /etc/nginx/nginx.conf")?;

    service(&lan, n1, n2)?;
    // n2 is active by now.
    ensure!(holds(n2), "n2 should be active");
    unbroken(&meanwhile(&lan, "systemctl reboot of the active", || {
        let took = n2.reboot()?;
        println!("n2 was back after {:.1} s", took.as_secs_f64());
        n2.until("standin status")
    })?)?;
    ensure!(holds(n1) && !holds(n2), "n1 should be active");
    drop(machines);
    NODES.iter().try_for_each(|(name, _)| shelf.remove(name))
}

/// What systemd and its operator do to the daemon; begins and ends with n1, and n2 active.
fn service(lan: &Lan, n1: &Machine<'_>, n2: &Machine<'_>) -> Result<()> {
    ensure!(holds(n1), "n1 should be active");
    unbroken(&meanwhile(lan, "systemctl reload", || n1.sh("systemctl reload standin").map(drop))?)?;
    unbroken(&meanwhile(lan, "systemctl reload with another binary", || {
        n1.sh(&format!(
            "before={MAIN}; install -m 755 /srv/target/release/standin /usr/bin/standin; systemctl \
             reload standin; test {MAIN} = $before"
        ))?;
        n1.until("standin events | grep -q 'took over in place'")?;
        n1.until(&format!("! ls -l /proc/{MAIN}/exe | grep -q deleted"))
    })?)?;
    unbroken(&meanwhile(lan, "kill -9 of the active's guard", || {
        n1.sh(&format!("kill -9 {MAIN}"))?;
        n1.until(&format!("test $(cat /proc/{MAIN}/comm) = standin-guard"))?;
        n1.sh("test $(systemctl show standin --property NRestarts --value) = 0").map(drop)
    })?)?;
    ensure!(holds(n1), "n1 should still be active");
    unbroken(&meanwhile(lan, "systemctl restart of the active", || {
        n1.sh("systemctl restart standin").map(drop)
    })?)?;
    ensure!(holds(n2) && !holds(n1), "n2 should be active");
    quick(&meanwhile(lan, "kill -9 of the active's daemon", || {
        n2.sh(&format!("kill -9 $(pgrep --parent {MAIN})"))?;
        n2.until("standin events | grep -q 'died (signal 9)'")
    })?)?;
    ensure!(holds(n1) && !holds(n2), "n1 should be active");
    quick(&meanwhile(lan, "kill -9 of all of the active's processes", || {
        n1.sh("echo 1 > /sys/fs/cgroup/system.slice/standin.service/cgroup.kill")?;
        n1.until("test $(systemctl show standin --property NRestarts --value) = 1")?;
        n1.until("standin status | grep -q 'this node  backup'")
    })?)?;
    // A backup has nothing to lose, so that the guard leaves this to systemd (WatchdogSec=).
    n1.sh(&format!("kill -STOP $(pgrep --parent {MAIN})"))?;
    n1.until("test $(systemctl show standin --property NRestarts --value) = 2")?;
    n1.until("standin status | grep -q 'this node  backup'")?;
    n1.until("standin status | grep -q 'link connected'")
}

/// What gives a machine its address, and what its operator says after the file was changed.
struct NetworkDaemon {
    name: &'static str,
    prepare: fn(&Path, &str) -> Result<()>,
    file: &'static str,
    anew: &'static str,
    /// Whether the interface itself goes down, and each connection's address with it for a while.
    goes_down: bool,
}

const NETWORK_DAEMONS: [NetworkDaemon; 2] = [
    NetworkDaemon {
        name: "ifupdown",
        prepare: ifupdown,
        file: "/etc/network/interfaces",
        anew: "ifdown eth0 && ifup eth0",
        goes_down: true,
    },
    NetworkDaemon {
        name: "systemd-networkd",
        prepare: networkd,
        file: "/etc/systemd/network/eth0.network",
        // One after the other: a networkd that is restarted while it has taken everything away
        // leaves the machine without its address for as long as it takes to start.
        anew: "networkctl reload; sleep 1; networkctl reconfigure eth0; sleep 1; systemctl restart \
               systemd-networkd",
        goes_down: false,
    },
];

fn ifupdown(root: &Path, address: &str) -> Result<()> {
    let text = format!(
        "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n    address \
         {address}/24\n    gateway 192.168.1.1\n    up ip route add 10.0.0.0/8 via 192.168.1.1 src \
         {address}\n"
    );
    Ok(fs::write(root.join("etc/network/interfaces"), text)?)
}

fn networkd(root: &Path, address: &str) -> Result<()> {
    let text = format!(
        "[Match]\nName=eth0\n\n[Network]\nIPv6AcceptRA=no\nAddress={address}/24\nGateway=192.168.1.1\n\n\
         [Route]\nDestination=10.0.0.0/8\nGateway=192.168.1.1\nPreferredSource={address}\n"
    );
    fs::write(root.join("etc/systemd/network/eth0.network"), text)?;
    fs::write(root.join("etc/network/interfaces"), "auto lo\niface lo inet loopback\n")?;
    let mut enable = std::process::Command::new("systemctl");
    enable.arg("--quiet").arg("--root").arg(root).args(["enable", "systemd-networkd"]);
    crate::run(&mut enable)
}

/// docs/cutover.md, A3 and A4 and their way back, on the live machine alone.
fn adopt(shelf: &Shelf, readme: &str, daemon: &NetworkDaemon) -> Result<()> {
    let lan = Lan::new()?;
    let root = shelf.system("o1")?;
    (daemon.prepare)(&root, "192.168.1.41")?;
    let mut o1 = Machine::boot(&lan, &root, "o1", 31)?;
    install(&o1, readme)?;
    fs::create_dir_all(root.join("etc/standin"))?;
    o1.write("/etc/standin/standin.toml", CLUSTER)?;
    let (file, network) = (o1.read(daemon.file)?, network(&o1)?);
    unbroken(&meanwhile(&lan, &format!("adopt, {}", daemon.name), || {
        o1.sh(&format!(
            "standin adopt {} --vip web --new-address 192.168.1.189/24 --yes; standin check; \
             systemctl enable --now --quiet standin",
            VIP.trim_end_matches("/24")
        ))?;
        o1.until("standin status | grep -q 'this node  active'")
    })?)?;
    let anew = meanwhile(&lan, &format!("{}, read anew", daemon.name), || {
        o1.sh(daemon.anew)?;
        o1.until("ip -4 -o address show dev eth0 | grep -q 189/24")?;
        o1.until("ip -4 -o address show dev eth0 | grep -q '41/24.* secondary'")
    })?;
    unbroken(&anew)?;
    ensure!(daemon.goes_down || anew.gap_ms < 200, "for {} ms nobody answered", anew.gap_ms);
    o1.reboot()?;
    o1.until("standin status | grep -q 'this node  active'")?;
    o1.sh("ip -4 -o address show dev eth0 | grep -q '41/24.* secondary'")?;
    unbroken(&meanwhile(&lan, &format!("adopt --undo, {}", daemon.name), || {
        o1.sh("standin adopt --undo --yes").map(drop)
    })?)?;
    ensure!(o1.read(daemon.file)? == file, "{} isn't as it was", daemon.file);
    let now = self::network(&o1)?;
    ensure!(now == network, "addresses and routes aren't as they were:\n{network}\n{now}");
    drop(o1);
    shelf.remove("o1")
}

const CLUSTER: &str = "cluster = \"edge\"\n[node.o1]\naddress = \"192.168.1.189\"\n[node.n2]\naddress = \
                       \"192.168.1.190\"\n[vip.web]\nvirtual_router_id = 41\naddresses = \
                       [\"192.168.1.41/24\"]\n[nginx]\n";

/// Addresses in their order, and routes.
fn network(machine: &Machine<'_>) -> Result<String> {
    machine.sh("ip -4 -o address show dev eth0 | sed 's/ *valid_lft.*//'; ip -4 route")
}
