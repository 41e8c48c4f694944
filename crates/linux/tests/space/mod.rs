//! A network namespace for one test.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]
#![allow(dead_code, reason = "each test program uses its part")]

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;

use rustix::thread::UnshareFlags;
use standin_core::types::Prefix;
use standin_linux::netlink::{Address, Rtnl};
use standin_linux::sysctl;

fn skipped() -> bool {
    let skipped = !rustix::process::geteuid().is_root();
    if skipped {
        eprintln!("SKIPPED: needs root");
    }
    skipped
}

/// Runs a test in a thread that has an empty network of its own.
pub(crate) fn alone(test: impl FnOnce() + Send + 'static) {
    if skipped() {
        return;
    }
    let outside = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let inside = thread::spawn(move || {
        // SAFETY: FILES is not among the flags; only this thread changes, and it ends here.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        assert_ne!(fs::read_link("/proc/thread-self/ns/net").unwrap(), outside);
        test();
    });
    if let Err(panic) = inside.join() {
        resume_unwind(panic);
    }
}

/// Runs a test as [`alone`], and not at the same time as any other that measures time: they share
/// the kernel's rtnl lock and two cores.
pub(crate) fn alone_and_timed(test: impl FnOnce() + Send + 'static) {
    if skipped() {
        return;
    }
    let lock = File::create(std::env::temp_dir().join("standin-timed-tests.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    alone(test);
}

/// Runs `ip` with blank-separated arguments in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes the pair of links `va` and `vb`, up, without waits for duplicate addresses.
pub(crate) fn wire() {
    ip("link set lo up");
    ip("link add va type veth peer name vb");
    for link in ["va", "vb"] {
        sysctl::write(&format!("net/ipv6/conf/{link}/accept_dad"), "0").unwrap();
        ip(&format!("link set {link} up"));
    }
}

pub(crate) fn index_of(name: &str) -> u32 {
    let links = Rtnl::open().unwrap().links().unwrap();
    links.iter().find(|link| link.name == name).unwrap().index
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(crate) fn find(address: &str) -> Option<Address> {
    let address: IpAddr = address.parse().unwrap();
    let all = Rtnl::open().unwrap().addresses().unwrap();
    all.into_iter().find(|one| one.prefix.address() == address)
}

/// The address that the kernel gives to a connection to `target`.
pub(crate) fn source_towards(target: &str) -> IpAddr {
    let target = SocketAddr::new(target.parse().unwrap(), 9);
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(target).unwrap();
    socket.local_addr().unwrap().ip()
}
