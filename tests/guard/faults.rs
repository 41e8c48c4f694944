//! Promise 3 under faults that leave nobody to clear up in order: an abort, bad memory, a whole control
//! group killed, frozen and thawed. Judged by the kernel's addresses and by who answers ARP.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::hosts::holders::Watch;
use super::hosts::wire::who_has;
use super::hosts::{Host, Lan, ms, skipped, wait_until};
use super::{Pair, VIP, child, exists};
use standin_linux::spawn;

/// The guard clears up at once; the test machine may be loaded.
const AT_ONCE: Duration = ms(150);

/// When nobody is left to clear up, the kernel does.
const BY_THE_KERNEL: Duration = Duration::from_secs(3);

/// A control group of version 1 that goes with the test.
pub(super) struct Group(PathBuf);

impl Group {
    /// `None`, said loudly, where the machine has no such hierarchy that may be written.
    pub(super) fn new(controller: &str) -> Option<Self> {
        let name = format!("standin-test-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = Path::new("/sys/fs/cgroup").join(controller).join(name.replace(['(', ')'], "-"));
        if fs::create_dir(&path).is_err() {
            eprintln!("SKIPPED: no writable control group hierarchy for {controller}");
            return None;
        }
        Some(Self(path))
    }

    pub(super) fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    pub(super) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }

    pub(super) fn add(&self, pid: u32) {
        self.write("cgroup.procs", &pid.to_string());
    }

    fn members(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Who is still in it would keep it; the test may have failed halfway.
        let _thawed = fs::write(self.0.join("freezer.state"), "THAWED");
        self.members().into_iter().for_each(|pid| drop(spawn::kill(pid, 9)));
        let began = Instant::now();
        while fs::remove_dir(&self.0).is_err() && began.elapsed() < ms(2_000) {
            std::thread::sleep(ms(10));
        }
    }
}

/// n2 alone answers for the VIP, on the wire and by both kernels.
#[track_caller]
fn only_n2_answers(lan: &Lan, n1: &Host, n2: &Host) {
    let client = lan.host("client", &["192.168.1.7/24"]);
    assert_eq!(who_has(&client, VIP, ms(300)), [n2.mac()].into());
    assert!(!n1.has(VIP) && n2.has(VIP));
}

/// The daemon died: gone at once, the peer has it, and another daemon is a backup.
#[track_caller]
pub(super) fn cleared_up(pair: &Pair, what: &str, watch: &Watch, began: Instant, daemon: u32) {
    let (left, vacant) = pair.after(watch, began);
    eprintln!("{what}: address gone after {left:?}, nobody had it for {vacant:?}");
    assert!(left < AT_ONCE, "{left:?}");
    assert_eq!(watch.overlap(began), Duration::ZERO);
    let guard = pair.first.pid;
    wait_until("another daemon", Duration::from_secs(5), || {
        child(guard).is_some_and(|new| new != daemon) && pair.n1.role() == "backup"
    });
    only_n2_answers(&pair.lan, &pair.n1, &pair.n2);
}

/// A panic of the engine or of the address thread ends in abort(3): this signal, whichever thread it
/// comes from.
#[test]
fn a_daemon_that_aborts_loses_its_addresses_at_once() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (_, daemon) = pair.processes();
    let watch = Watch::new(VIP, &[&pair.n1, &pair.n2]);
    let began = Instant::now();
    spawn::kill(daemon, 6).unwrap();
    cleared_up(&pair, "abort", &watch, began, daemon);
}

#[test]
fn a_daemon_that_touches_bad_memory_loses_its_addresses_at_once() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (_, daemon) = pair.processes();
    let watch = Watch::new(VIP, &[&pair.n1, &pair.n2]);
    let began = Instant::now();
    // Rust's own handler takes the first for a question about the stack, and the default back.
    spawn::kill(daemon, 11).unwrap();
    wait_until("the daemon to end", Duration::from_secs(2), || {
        let _gone = spawn::kill(daemon, 11);
        !exists(daemon)
    });
    cleared_up(&pair, "segmentation fault", &watch, began, daemon);
}

#[test]
fn when_the_whole_group_is_killed_the_kernel_ends_it_and_the_peer_answers() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (guard, daemon) = pair.processes();
    let Some(group) = Group::new("pids") else { return };
    group.add(guard);
    group.add(daemon);
    let watch = Watch::new(VIP, &[&pair.n1, &pair.n2]);
    let began = Instant::now();
    // As systemd does it: until nobody is left.
    while !group.members().is_empty() {
        group.members().into_iter().for_each(|pid| drop(spawn::kill(pid, 9)));
    }
    let (left, vacant) = pair.after(&watch, began);
    pair.n1.wait_has(VIP, false, BY_THE_KERNEL);
    let left = watch.changes().last().map_or(left, |it| it.at.saturating_duration_since(began));
    eprintln!("the group killed: n1 had it for {left:?} more, nobody for {vacant:?}");
    assert!(left < BY_THE_KERNEL, "{left:?}");
    only_n2_answers(&pair.lan, &pair.n1, &pair.n2);
}

#[test]
fn a_node_that_was_frozen_as_a_whole_wakes_up_as_a_backup() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (guard, daemon) = pair.processes();
    let Some(group) = Group::new("freezer") else { return };
    group.add(guard);
    group.add(daemon);
    let watch = Watch::new(VIP, &[&pair.n1, &pair.n2]);
    let began = Instant::now();
    group.write("freezer.state", "FROZEN");
    pair.n1.wait_has(VIP, false, BY_THE_KERNEL + ms(500));
    // The watch looks by itself, a little later perhaps.
    let mut gone = None;
    wait_until("the watch to have seen it", Duration::from_secs(2), || {
        gone = watch.changes().into_iter().find(|it| it.at >= began && !it.hosts.contains(&0));
        gone.is_some()
    });
    let left = gone.map(|it| it.at.saturating_duration_since(began)).unwrap();
    eprintln!("frozen: n1 had it for {left:?} more");
    assert!(left < BY_THE_KERNEL, "{left:?}");
    only_n2_answers(&pair.lan, &pair.n1, &pair.n2);
    let thawed = Instant::now();
    group.write("freezer.state", "THAWED");
    wait_until("n1 to be a backup", Duration::from_secs(5), || pair.n1.role() == "backup");
    std::thread::sleep(ms(500));
    assert_eq!(watch.overlap(thawed), Duration::ZERO, "it asserts nothing when it wakes up");
    only_n2_answers(&pair.lan, &pair.n1, &pair.n2);
}

#[test]
fn a_restart_hands_over_and_comes_back_as_a_backup() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let watch = Watch::new(VIP, &[&pair.n1, &pair.n2]);
    let began = Instant::now();
    assert_eq!(pair.first.stop(), Some(0));
    let _again = pair.n1.standin(super::FILE);
    pair.n1.wait_role("backup", Duration::from_secs(5));
    pair.n2.wait_has(VIP, true, Duration::from_secs(2));
    let vacant = watch.vacancy(began);
    eprintln!("restart: nobody had it for {vacant:?}");
    assert!(vacant < ms(250), "{vacant:?}");
    assert_eq!(watch.overlap(began), Duration::ZERO);
    only_n2_answers(&pair.lan, &pair.n1, &pair.n2);
}
