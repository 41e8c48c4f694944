//! Who holds which VIP, by the kernel's own word: each host's local addresses, read every few ms.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use standin_linux::netlink::Rtnl;
use standin_linux::spawn;

/// The resolution of every statement about overlap.
pub(super) const POLL: Duration = Duration::from_millis(4);

/// A drill of an hour with a flap every 10 ms would fit.
const CHANGES_KEPT: usize = 1 << 20;

/// A VIP that came to a host or went from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) at: Instant,
    pub(super) node: usize,
    pub(super) address: IpAddr,
    pub(super) holds: bool,
}

/// Watches until it is dropped.
pub(super) struct Holders {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    addresses: Vec<IpAddr>,
    /// Pid 1 of each node; `None` while the host is down.
    pids: Mutex<Vec<Option<u32>>>,
    /// The state now, `[node][address]`, and every change since the start.
    seen: Mutex<(Vec<Vec<bool>>, Vec<Change>)>,
    stop: AtomicBool,
}

impl Holders {
    pub(super) fn watch(nodes: usize, addresses: Vec<IpAddr>) -> Self {
        let state = vec![vec![false; addresses.len()]; nodes];
        let shared = Arc::new(Shared {
            addresses,
            pids: Mutex::new(vec![None; nodes]),
            seen: Mutex::new((state, Vec::new())),
            stop: AtomicBool::new(false),
        });
        let watched = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !watched.stop.load(Ordering::Relaxed) {
                watched.look();
                std::thread::sleep(POLL);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Says where a node's pid 1 is from now on.
    pub(super) fn set_pid(&self, node: usize, pid: Option<u32>) {
        let mut pids = self.shared.pids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = pids.get_mut(node) {
            *slot = pid;
        }
    }

    /// The nodes that hold `address` now.
    pub(super) fn of(&self, address: IpAddr) -> Vec<usize> {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = self.shared.addresses.iter().position(|it| *it == address) else {
            return Vec::new();
        };
        let holds = |node: &Vec<bool>| node.get(index).copied().unwrap_or(false);
        (0..seen.0.len()).filter(|node| seen.0.get(*node).is_some_and(holds)).collect()
    }

    /// What changed after `since`, oldest first.
    pub(super) fn changes(&self, since: Instant) -> Vec<Change> {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.1.iter().filter(|change| change.at >= since).copied().collect()
    }

    /// The longest time after `since` in which more than one node held one of the addresses.
    ///
    /// `connected` says which nodes count: one that is cut off can't know better.
    pub(super) fn overlap(&self, since: Instant, connected: &[bool]) -> Duration {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut longest = Duration::ZERO;
        for (index, address) in self.shared.addresses.iter().enumerate() {
            // Back from the present to the state at `since`, then forward again.
            let mut holds: Vec<bool> =
                seen.0.iter().map(|node| node.get(index).copied().unwrap_or(false)).collect();
            let changes: Vec<&Change> =
                seen.1.iter().filter(|it| it.at >= since && it.address == *address).collect();
            for change in changes.iter().rev() {
                if let Some(slot) = holds.get_mut(change.node) {
                    *slot = !change.holds;
                }
            }
            let many = |holds: &[bool]| {
                holds.iter().zip(connected).filter(|(holds, counts)| **holds && **counts).count()
                    > 1
            };
            let mut began = many(&holds).then_some(since);
            for change in changes {
                if let Some(slot) = holds.get_mut(change.node) {
                    *slot = change.holds;
                }
                match (many(&holds), began) {
                    (true, None) => began = Some(change.at),
                    (false, Some(start)) => {
                        longest = longest.max(change.at.saturating_duration_since(start));
                        began = None;
                    }
                    _ => {}
                }
            }
            if let Some(start) = began {
                longest = longest.max(now.saturating_duration_since(start));
            }
        }
        longest
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only reads; if it panicked, its last word stands.
            let _ended = thread.join();
        }
    }
}

impl Shared {
    fn look(&self) {
        let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all: Vec<Vec<IpAddr>> =
            pids.iter().map(|pid| pid.map(local_addresses).unwrap_or_default()).collect();
        for address in &self.addresses {
            let having = all.iter().filter(|local| local.contains(address)).count();
            if having < 2 {
                continue;
            }
            // After a planned move one of them only keeps it for its sockets.
            for (local, pid) in all.iter_mut().zip(&pids) {
                if let Some(pid) = pid.filter(|_| local.contains(address))
                    && only_on_loopback(pid, *address)
                {
                    local.retain(|one| one != address);
                }
            }
        }
        for (node, local) in all.into_iter().enumerate() {
            let at = Instant::now();
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let (state, changes) = &mut *seen;
            for (index, address) in self.addresses.iter().enumerate() {
                let holds = local.contains(address);
                let Some(slot) = state.get_mut(node).and_then(|node| node.get_mut(index)) else {
                    continue;
                };
                if *slot != holds {
                    *slot = holds;
                    if changes.len() < CHANGES_KEPT {
                        changes.push(Change { at, node, address: *address, holds });
                    }
                }
            }
        }
    }
}

/// Whether a process's host has the address on its loopback link alone; the calling thread stays in that
/// host's network.
fn only_on_loopback(pid: u32, address: IpAddr) -> bool {
    const LOOPBACK: u32 = 1;
    let network = spawn::network_of(pid);
    let entered = network.and_then(|network| spawn::enter_network(network.as_fd()));
    let found = entered.and_then(|()| Rtnl::open()?.addresses());
    found.is_ok_and(|found| {
        let mut there = found.iter().filter(|one| one.prefix.address() == address).peekable();
        there.peek().is_some() && there.all(|one| one.index == LOOPBACK)
    })
}

/// The local addresses of the network namespace of a process; none when it is gone.
fn local_addresses(pid: u32) -> Vec<IpAddr> {
    let read = |name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let mut found = ipv4_locals(&read("fib_trie"));
    found.extend(ipv6_locals(&read("if_inet6")));
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

/// 32 hexadecimal digits at the beginning of each line.
fn ipv6_locals(if_inet6: &str) -> Vec<IpAddr> {
    let digits = if_inet6.lines().filter_map(|line| line.split(' ').next());
    digits
        .filter_map(|digits| u128::from_str_radix(digits, 16).ok())
        .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_told_from_networks_and_broadcasts() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.168.1.0\n        /24 link UNICAST\n\
                    Local:\n     |-- 192.168.1.41\n        /32 host LOCAL\n     |-- 192.168.1.255\n        \
                    /32 link BROADCAST\n";
        assert_eq!(ipv4_locals(trie), ["192.168.1.41".parse::<IpAddr>().unwrap()]);
        let inet6 = "fd000041000000000000000000000189 02 40 00 80     eth0\n";
        assert_eq!(ipv6_locals(inet6), ["fd00:41::189".parse::<IpAddr>().unwrap()]);
    }

    fn seen(changes: Vec<Change>, state: Vec<Vec<bool>>, address: IpAddr) -> Holders {
        let shared = Shared {
            addresses: vec![address],
            pids: Mutex::new(vec![None; state.len()]),
            seen: Mutex::new((state, changes)),
            stop: AtomicBool::new(true),
        };
        Holders { shared: Arc::new(shared), thread: None }
    }

    #[test]
    fn overlap_counts_only_nodes_that_are_connected() {
        let address: IpAddr = "192.168.1.41".parse().unwrap();
        let start = Instant::now();
        let later = |ms| start + Duration::from_millis(ms);
        let changes = vec![
            Change { at: later(10), node: 1, address, holds: true },
            Change { at: later(30), node: 0, address, holds: false },
        ];
        let holders = seen(changes, vec![vec![false], vec![true]], address);
        assert_eq!(holders.overlap(start, &[true, true]), Duration::from_millis(20));
        assert_eq!(holders.overlap(start, &[false, true]), Duration::ZERO);
        assert_eq!(holders.of(address), [1]);
    }
}
