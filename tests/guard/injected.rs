//! Promise 3 when the engine panics: a thread of the running daemon is made to call a function that panics,
//! as a debugger would do it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::faults::cleared_up;
use super::hosts::holders::Watch;
use super::hosts::{skipped, wait_until};
use super::{Pair, VIP, exists};

/// What a division by zero calls, in debug builds and in others. It takes the place of the source that is to blame.
const PANICS: &str = "panic_const_div_by_zero";

/// Leaf functions may have values below the stack's end (System V ABI, x86-64, "red zone").
const RED_ZONE: u64 = 128;

/// Makes a thread call `function`, which panics, in the place where it is.
fn panic_in(thread: Pid, function: u64) {
    ptrace::attach(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    let mut registers = ptrace::getregs(thread).unwrap();
    let write = |at: u64, word: u64| ptrace::write(thread, at as *mut _, word as i64).unwrap();
    // `core::panic::Location`: file, its length, line and column.
    let location = (registers.rsp - RED_ZONE - 64) & !15;
    write(location, location + 32);
    write(location + 8, 8);
    write(location + 16, 7 << 32 | 41);
    write(location + 32, u64::from_ne_bytes(*b"injected"));
    // A call: its way back is where the thread was.
    registers.rsp = location - 8;
    write(registers.rsp, registers.rip);
    registers.rdi = location;
    registers.rip = function;
    // The kernel doesn't take up the system call that was broken off.
    registers.orig_rax = u64::MAX;
    ptrace::setregs(thread, registers).unwrap();
    ptrace::detach(thread, None).unwrap();
}

/// Where a function of the program is in `process`.
fn address_of(process: u32, name: &str) -> u64 {
    let program = env!("CARGO_BIN_EXE_standin");
    let listed = Command::new("nm").arg(program).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let line = listed.lines().find(|line| line.contains(name));
    let offset = line.unwrap_or_else(|| panic!("{program} has no {name}")).split(' ').next();
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let base = maps.split('-').next();
    let number = |text: Option<&str>| u64::from_str_radix(text.unwrap(), 16).unwrap();
    number(base) + number(offset)
}

fn thread_called(process: u32, name: &str) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let is = |comm: &str| comm.trim() == &name[..name.len().min(15)];
    let task = tasks.find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|it| is(&it)));
    Pid::from_raw(task.unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap())
}

#[test]
fn a_panic_in_the_engine_or_the_address_thread_ends_the_daemon_and_its_addresses_at_once() {
    if skipped() {
        return;
    }
    for name in ["standin-engine", "standin-address"] {
        let pair = Pair::new();
        let (_, daemon) = pair.processes();
        let thread = thread_called(daemon, name);
        let function = address_of(daemon, PANICS);
        let watch = Watch::new(VIP, &[&pair.n1, &pair.n2]);
        let began = Instant::now();
        panic_in(thread, function);
        wait_until("the daemon to end", Duration::from_secs(5), || !exists(daemon));
        let said = pair.first.log();
        assert!(said.contains(&format!("a bug in standin, thread {name}")), "{said}");
        assert!(said.contains("injected:41:7"), "{said}");
        cleared_up(&pair, &format!("panic in {name}"), &watch, began, daemon);
    }
}
