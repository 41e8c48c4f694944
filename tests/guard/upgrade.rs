//! What comes while a daemon begins, or goes on as a newer program, is not lost and is no end of it.

use std::fs;
use std::time::{Duration, Instant};

use super::hosts::holders::Watch;
use super::hosts::{Daemon, Host, Lan, ms, skipped, wait_for, wait_until};
use super::{FILE, VIP, child, exists};
use standin_linux::fork::SIGHUP;
use standin_linux::process;

/// Signals that are caught, as the kernel shows them of a process.
fn catches(pid: u32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
    let caught = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
    caught & (1 << (signal - 1)) != 0
}

#[test]
fn a_reload_that_comes_before_the_daemon_is_ready_does_not_end_it() {
    if skipped() {
        return;
    }
    let lan = Lan::new();
    let n1 = lan.host("n1", &[]);
    n1.write("/etc/standin/standin.toml", FILE);
    let first = n1.launch("standin", "/run/bin/standin run --node n1");
    wait_until("it to wait for its address", Duration::from_secs(5), || {
        first.log().contains("waiting: ")
    });
    let daemon = wait_for("a daemon", Duration::from_secs(2), || child(first.pid));
    assert!(!catches(daemon, SIGHUP), "else this test shows nothing");
    first.signal(SIGHUP);
    std::thread::sleep(ms(300));
    assert!(exists(daemon), "{}", first.log());
    n1.run("ip address add 192.168.1.189/24 dev eth0");
    n1.wait_has(VIP, true, Duration::from_secs(5));
    // What waited is not lost: the file may have changed since it was read.
    n1.wait_said("reload_order", "SIGHUP", Duration::from_secs(3));
    assert_eq!(child(first.pid), Some(daemon));
    assert_eq!(first.stop(), Some(0));
}

const SOON: Duration = Duration::from_secs(5);

/// A host alone.
fn alone(lan: &Lan) -> Host {
    lan.host("n1", &["192.168.1.189/24"])
}

/// Runs a program of its own, which can be replaced.
fn launch(n1: &Host) -> Daemon {
    n1.run("cp /run/bin/standin /run/standin-program");
    n1.launch("standin", "/run/standin-program run")
}

/// The same by this file, until it has the VIP, which takes a check of a second some more.
fn active(n1: &Host, file: &str, within: Duration) -> Daemon {
    n1.write("/etc/standin/standin.toml", file);
    let first = launch(n1);
    n1.wait_has(VIP, true, within);
    first
}

/// Where others can't write.
const SCRIPT: &str = "/run/s/slow";

fn script(n1: &Host, text: &str) {
    n1.run("mkdir -m 0755 /run/s");
    n1.write(SCRIPT, text);
    n1.run("chmod 0755 /run/s/slow");
}

/// Another file lies where the program does.
fn replace_program(n1: &Host) {
    n1.run("cp /run/bin/standin /run/standin-newer");
    n1.run("mv /run/standin-newer /run/standin-program");
}

#[test]
fn reloads_while_a_newer_program_is_taken_up_cost_nothing() {
    if skipped() {
        return;
    }
    let lan = Lan::new();
    let n1 = alone(&lan);
    let first = active(&n1, FILE, SOON);
    let daemon = wait_for("a daemon", Duration::from_secs(2), || child(first.pid));
    let watch = Watch::new(VIP, &[&n1]);
    let began = Instant::now();
    replace_program(&n1);
    // As an operator does who isn't sure, or a timer beside him.
    while began.elapsed() < ms(2_000) {
        first.signal(SIGHUP);
        std::thread::sleep(ms(2));
    }
    n1.wait_said("upgraded", "took over in place", Duration::from_secs(3));
    assert!(exists(daemon), "{}", first.log());
    assert_eq!(child(first.pid), Some(daemon));
    assert_eq!(watch.vacancy(began), Duration::ZERO);
    assert!(!n1.said("daemon_died", ""), "{}", first.log());
    assert_eq!(first.stop(), Some(0));
}

#[test]
fn a_stop_right_after_the_reload_that_takes_a_newer_program_up_is_heard() {
    if skipped() {
        return;
    }
    let lan = Lan::new();
    let n1 = alone(&lan);
    let first = active(&n1, FILE, SOON);
    replace_program(&n1);
    // Its answer comes before the newer program is tried.
    n1.run("/run/bin/standin reload");
    assert_eq!(first.stop(), Some(0));
    assert!(!n1.has(VIP));
}

#[test]
fn notify_scripts_that_run_are_waited_for() {
    if skipped() {
        return;
    }
    let lan = Lan::new();
    let waits =
        "#!/bin/sh\nwhile [ -e /run/hold ]; do sleep 0.05; done\necho \"$3\" >> /run/told\n";
    let file = format!("{FILE}[notify]\nactive = [\"{SCRIPT}\"]\n");
    let n1 = alone(&lan);
    script(&n1, waits);
    n1.write("/run/hold", "");
    let first = active(&n1, &file, SOON);
    replace_program(&n1);
    n1.run("/run/bin/standin reload");
    n1.wait_said("upgrade_refused", "notify scripts", Duration::from_secs(3));
    n1.run("rm /run/hold");
    wait_until("the script to end", Duration::from_secs(3), || {
        fs::read_to_string(n1.outside("/run/told")).is_ok_and(|told| told == "MASTER\n")
    });
    wait_until("the newer program", Duration::from_secs(5), || {
        // It is away for a moment.
        let _asked = n1.try_run("/run/bin/standin reload");
        n1.said("upgraded", "took over in place")
    });
    assert_eq!(first.stop(), Some(0));
}

#[test]
fn a_check_script_that_runs_meanwhile_leaves_no_zombie() {
    if skipped() {
        return;
    }
    let lan = Lan::new();
    let n1 = alone(&lan);
    script(&n1, "#!/bin/sh\nsleep 0.8\n");
    let check = "[check.slow]\ntype = \"script\"\ncommand = [\"/run/s/slow\"]\ninterval = \"1s\"\n\
                 timeout = \"900ms\"\n";
    let file = FILE.replace("checks = []", "checks = [\"slow\"]") + check;
    let first = active(&n1, &file, Duration::from_secs(8));
    let daemon = wait_for("a daemon", Duration::from_secs(2), || child(first.pid));
    replace_program(&n1);
    // It begins the check anew, and with that the script.
    n1.run("/run/bin/standin reload");
    n1.wait_said("upgraded", "took over in place", Duration::from_secs(3));
    std::thread::sleep(ms(1_500));
    let zombie = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") Z ")
    };
    // Its own scripts are reaped a moment after their end, too.
    wait_until("all to be reaped", Duration::from_secs(3), || {
        !process::children(daemon).iter().any(zombie)
    });
    assert_eq!(first.stop(), Some(0));
}

#[test]
fn a_cluster_file_that_is_applied_takes_up_no_newer_program() {
    if skipped() {
        return;
    }
    let lan = Lan::new();
    let n1 = alone(&lan);
    n1.run(
        "/run/bin/standin init --no-sync --cluster edge --node n1=192.168.1.189 --vip web=192.168.1.41/24",
    );
    let first = launch(&n1);
    wait_until("it to answer", Duration::from_secs(5), || n1.try_status().is_some());
    replace_program(&n1);
    let file = n1.read("/etc/standin/standin.toml");
    n1.write("/run/new.toml", &format!("# Another one.\n{file}"));
    n1.run("/run/bin/standin apply cluster /run/new.toml");
    n1.wait_said("file_applied", "", Duration::from_secs(3));
    // Longer than the trial of a program takes.
    std::thread::sleep(ms(1_000));
    assert!(!n1.said("upgraded", ""), "who applies it may still be telling the others");
    n1.run("/run/bin/standin reload");
    n1.wait_said("upgraded", "took over in place", Duration::from_secs(3));
    assert_eq!(first.stop(), Some(0));
}
