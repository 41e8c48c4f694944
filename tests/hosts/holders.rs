//! Who holds an address by the kernel's own word, watched every few milliseconds.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Host;

/// The resolution of every statement about overlap.
const POLL: Duration = Duration::from_millis(4);

/// The hosts, by their places in the list, that held the address from `at` on.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    pub(crate) at: Instant,
    pub(crate) hosts: Vec<usize>,
}

/// Watches one address on some hosts until it is dropped.
pub(crate) struct Watch {
    seen: Arc<Mutex<Vec<Holding>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn new(address: &str, hosts: &[&Host]) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let pids: Vec<u32> = hosts.iter().map(|host| host.pid).collect();
        let seen: Arc<Mutex<Vec<Holding>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let (record, until) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let holds = |pid: u32| local_addresses(pid).contains(&address);
                let hosts: Vec<usize> = (0..pids.len()).filter(|it| holds(pids[*it])).collect();
                let mut seen = record.lock().unwrap();
                if seen.last().is_none_or(|last| last.hosts != hosts) {
                    seen.push(Holding { at: Instant::now(), hosts });
                }
                drop(seen);
                std::thread::sleep(POLL);
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// Every change so far, oldest first; the first one is the state at the beginning.
    pub(crate) fn changes(&self) -> Vec<Holding> {
        self.seen.lock().unwrap().clone()
    }

    /// Who holds it now.
    pub(crate) fn now(&self) -> Vec<usize> {
        self.changes().last().map(|last| last.hosts.clone()).unwrap_or_default()
    }

    /// The longest time, after `since`, for which `many` was true of the number of holders.
    fn longest(&self, since: Instant, many: impl Fn(usize) -> bool) -> Duration {
        let changes = self.changes();
        let ends = changes.iter().skip(1).map(|next| next.at).chain([Instant::now()]);
        let spans = changes.iter().zip(ends).filter(|(holding, _)| many(holding.hosts.len()));
        spans
            .map(|(holding, end)| end.saturating_duration_since(holding.at.max(since)))
            .max()
            .unwrap_or_default()
    }

    /// The longest time after `since` in which two hosts or more held it.
    pub(crate) fn overlap(&self, since: Instant) -> Duration {
        self.longest(since, |count| count > 1)
    }

    /// The longest time after `since` in which nobody held it.
    pub(crate) fn vacancy(&self, since: Instant) -> Duration {
        self.longest(since, |count| count == 0)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// The local addresses of the network of a process; none when it is gone.
pub(crate) fn local_addresses(pid: u32) -> Vec<IpAddr> {
    let read = |name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let mut found = ipv4_locals(&read("fib_trie"));
    let inet6 = read("if_inet6");
    let digits = inet6.lines().filter_map(|line| line.split(' ').next());
    let v6 = digits.filter_map(|digits| u128::from_str_radix(digits, 16).ok());
    found.extend(v6.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))));
    found
}

/// `|-- ADDRESS` lines that are followed by `/32 host LOCAL`.
fn ipv4_locals(fib_trie: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in fib_trie.lines().map(str::trim_start) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = leaf
        {
            found.push(IpAddr::V4(address));
        }
    }
    found
}
