//! Promise 3 when memory runs out: by the kernel's hand, by a refused allocation, and by the panic that
//! a refused thread is.
//!
//! The panic is a real one, made from outside: while a process may have no more address space, tokio
//! panics when it can't start a helper thread, and this happens on the control plane's own thread. One of the
//! engine is made by a debugger's means: see `injected.rs`.

use std::time::{Duration, Instant};

use super::faults::{Group, cleared_up};
use super::hosts::holders::Watch;
use super::hosts::{STANDIN, ms, skipped, wait_until};
use super::{Pair, VIP, exists};

/// Helper threads of the control plane end after ten seconds without work.
const HELPERS_END: Duration = Duration::from_secs(12);

#[test]
fn a_daemon_that_the_kernel_kills_for_memory_loses_its_addresses_at_once() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (_, daemon) = pair.processes();
    let Some(group) = Group::new("memory") else { return };
    // What it has stays with the group that it comes from; each new page counts.
    group.add(daemon);
    group.write("memory.limit_in_bytes", "131072");
    let watch = Watch::new(VIP, &[&pair.n1, &pair.n2]);
    // Each follower costs room in the daemon.
    let mut followers = Vec::new();
    let mut killed = None;
    for _ in 0..200 {
        let mut command = pair.n1.command(STANDIN);
        command.args(["events", "--follow"]).stdout(std::process::Stdio::null());
        followers.push(command.stderr(std::process::Stdio::null()).spawn().unwrap());
        std::thread::sleep(ms(10));
        if group.read("memory.oom_control").contains("oom_kill 1") {
            killed = Some(Instant::now());
            break;
        }
    }
    let ended = wait_until("the daemon to end", Duration::from_secs(2), || !exists(daemon));
    for mut follower in followers {
        let _gone = follower.kill();
        let _ended = follower.wait();
    }
    let killed = killed.expect("the kernel found no memory for it, and killed it");
    // It was seen a look later at most.
    let began = killed - ms(15);
    eprintln!("out of memory: it had ended {ended:?} later");
    cleared_up(&pair, "out of memory", &watch, began, daemon);
}

#[test]
fn a_panic_in_the_control_plane_ends_the_daemon_and_its_addresses_at_once() {
    if skipped() {
        return;
    }
    let pair = Pair::new();
    let (_, daemon) = pair.processes();
    std::thread::sleep(HELPERS_END);
    let watch = Watch::new(VIP, &[&pair.n1, &pair.n2]);
    // No more address space than it has: it can't have a stack for another thread.
    pair.n1.run(&format!("prlimit --pid {} --as=1", pair.inside(daemon)));
    let began = Instant::now();
    let _no_answer = pair.n1.try_run(&format!("{STANDIN} status"));
    wait_until("the daemon to end", Duration::from_secs(5), || !exists(daemon));
    let said = pair.first.log();
    assert!(said.contains("a bug in standin, thread main"), "it panicked: {said}");
    cleared_up(&pair, "panic in the control plane", &watch, began, daemon);
}
