//! What `/proc` and pidfds say about processes that the test starts itself.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod space;

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::thread::{CapabilitySet, UnshareFlags};
use space::{alone, ip};
use standin_linux::process::{self, PidFd};

/// A process that waits until it is killed, which happens at the end of the test at the latest.
struct Waiting(Child);

impl Waiting {
    fn begin(program: &str, name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.arg0(name).args(arguments).stdin(Stdio::null());
        let waiting = Self(command.spawn().unwrap());
        // Between fork and exec it is still called as this test.
        let deadline = Instant::now() + Duration::from_secs(10);
        while process::command_line(waiting.0.id()).unwrap().first().map(String::as_str)
            != Some(name)
        {
            assert!(Instant::now() < deadline, "{program} wasn't executed");
            sleep(Duration::from_millis(5));
        }
        waiting
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_shows_its_program_arguments_name_and_parent() {
    let child = Waiting::begin("/bin/sleep", "a title of its own", &["600"]);
    let pid = child.0.id();
    assert_eq!(process::command_line(pid).unwrap(), ["a title of its own", "600"]);
    assert_eq!(process::title(pid).unwrap(), "a title of its own 600");
    assert_eq!(process::name(pid).unwrap(), "sleep");
    assert_eq!(process::parent(pid), Some(std::process::id()));
    assert!(process::children(std::process::id()).contains(&pid));
    assert!(process::all_pids().contains(&pid));
    assert!(process::same_mount_namespace(pid));
    assert!(process::start_time_ticks(pid) >= process::start_time_ticks(std::process::id()));
    let program = std::fs::canonicalize("/bin/sleep").unwrap();
    assert_eq!(process::executable(pid).unwrap(), program);
}

#[test]
fn a_name_with_parentheses_and_blanks_hides_no_field() {
    let directory = std::env::temp_dir().join(format!("standin-process-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let program = directory.join("a) R 1 (b");
    // Not std::fs::copy: a child that another test forks meanwhile would hold the file open for
    // writing until it executes, and a file that is written to can't be executed.
    assert!(Command::new("cp").arg("/bin/sleep").arg(&program).status().unwrap().success());
    let child = Waiting::begin(program.to_str().unwrap(), "sleep", &["600"]);
    assert_eq!(process::name(child.0.id()).unwrap(), "a) R 1 (b");
    assert_eq!(process::parent(child.0.id()), Some(std::process::id()));
    // The program is replaced under it, as an upgrade does.
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(process::executable(child.0.id()).unwrap(), program);
}

#[test]
fn a_long_command_line_is_cut() {
    // sleep(1) adds its arguments up.
    let long = "0".repeat(100_000);
    let child = Waiting::begin("/bin/sleep", "sleep", &["600", &long]);
    let words = process::command_line(child.0.id()).unwrap();
    assert_eq!(words.len(), 3);
    assert_eq!(words.join(" ").len(), 64 * 1024);
}

#[test]
fn a_pidfd_signals_and_tells_the_end() {
    let mut child = Waiting::begin("/bin/sleep", "sleep", &["600"]);
    let pidfd = PidFd::open(child.0.id()).unwrap();
    assert!(pidfd.alive());
    assert_eq!(pidfd.signal(-1).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    pidfd.signal(libc::SIGTERM).unwrap();
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut ended, Some(&wait)).unwrap(), 1);
    // Not yet reaped, and not alive.
    assert!(!pidfd.alive());
    assert_eq!(process::command_line(child.0.id()).unwrap(), Vec::<String>::new());
    assert_eq!(process::title(child.0.id()), None);
    assert_eq!(child.0.wait().unwrap().signal(), Some(libc::SIGTERM));
    assert!(!pidfd.alive());
    assert_eq!(pidfd.signal(libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn what_is_not_there_has_nothing_to_show() {
    // Above the largest number that the kernel gives (PID_MAX_LIMIT).
    for pid in [0, 4_194_305, u32::MAX] {
        assert!(PidFd::open(pid).is_err());
        assert!(process::executable(pid).is_err() && process::command_line(pid).is_err());
        assert_eq!((process::title(pid), process::name(pid)), (None, None));
        assert_eq!((process::parent(pid), process::start_time_ticks(pid)), (None, None));
        assert!(process::children(pid.max(1_000_000)).is_empty());
        assert!(!process::same_mount_namespace(pid));
        assert!(process::listening_tcp(pid).is_err());
    }
    assert_eq!(process::parent(1), None);
}

#[test]
fn another_mount_namespace_is_another() {
    alone(|| {
        let here = std::process::id();
        // The process's main thread stays outside; this thread moves.
        assert!(process::same_mount_namespace(here));
        // SAFETY: FILES is not among the flags; only this thread changes, and it ends here.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        assert!(!process::same_mount_namespace(here));
    });
}

#[test]
fn listeners_are_told_from_connections_and_from_other_processes_sockets() {
    let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
    let any = TcpListener::bind("0.0.0.0:0").unwrap();
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let _connected = TcpStream::connect(v4.local_addr().unwrap()).unwrap();
    let _accepted = v4.accept().unwrap();
    let child = Waiting::begin("/bin/sleep", "sleep", &["600"]);
    let mut expected: Vec<SocketAddr> =
        [&v4, &any, &v6].iter().map(|socket| socket.local_addr().unwrap()).collect();
    expected.sort();
    assert_eq!(process::listening_tcp(std::process::id()).unwrap(), expected);
    // Close-on-exec: the child lives in the same network and has none of them.
    assert_eq!(process::listening_tcp(child.0.id()).unwrap(), []);
}

#[test]
fn capabilities_that_are_not_in_effect_are_missing() {
    alone(|| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        for (dropped, name) in [
            (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
            (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
            (CapabilitySet::SYS_NICE, "CAP_SYS_NICE"),
            (CapabilitySet::IPC_LOCK, "CAP_IPC_LOCK"),
        ] {
            assert!(!process::missing_capabilities().contains(&name));
            // Still permitted, no longer effective.
            sets.effective.remove(dropped);
            rustix::thread::set_capabilities(None, sets).unwrap();
            assert!(process::missing_capabilities().contains(&name));
        }
        let all = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_NICE", "CAP_IPC_LOCK"];
        assert_eq!(process::missing_capabilities(), all);
    });
}

#[test]
fn local_addresses_are_those_of_both_families_in_this_namespace() {
    alone(|| {
        assert_eq!(process::local_addresses().unwrap(), Vec::<std::net::IpAddr>::new());
        ip("link set lo up");
        ip("addr add 10.1.0.1/24 dev lo");
        let mut all: Vec<String> =
            process::local_addresses().unwrap().iter().map(ToString::to_string).collect();
        all.sort();
        assert_eq!(all, ["10.1.0.1", "127.0.0.1", "::1"]);
    });
}

#[test]
fn the_hosts_name_is_unames() {
    let name = Command::new("uname").arg("-n").output().unwrap().stdout;
    assert_eq!(process::hostname(), String::from_utf8(name).unwrap().trim());
}
