//! A VIP that another node has taken over as planned: it stays on the loopback link for as long as
//! sockets of this host use it, and nobody on the network hears of that.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use standin_core::types::{Prefix, VipId};
use standin_linux::netlink::Change;

use super::held::Held;
use super::host::{Wanted, want_no_answer_for_others};
use super::{Addresses, LIFETIME_S, Watched};

/// In every network namespace.
const LOOPBACK: u32 = 1;

/// The interface goes on serving while the kernel makes the address on lo usable. Tried on Linux 6.18
/// with 50 runnable threads on two CPUs: one in ten took more than 100 ms, and an address that leaves the
/// interface before that loses packets. It is less than what a lifetime has in hand.
const ROUTED_WITHIN: Duration = Duration::from_secs(1);

/// VIPs that stay, and the interfaces that mustn't answer for them.
#[derive(Default)]
pub(super) struct Stays {
    addresses: BTreeMap<VipId, Vec<IpAddr>>,
    interfaces: BTreeSet<String>,
}

impl Stays {
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    pub(super) fn holds(&self, vip: VipId) -> bool {
        self.addresses.contains_key(&vip)
    }

    /// Notes that the VIP stays, and that `interfaces` mustn't answer for it over ARP: that of the VIP,
    /// and those over which peers ask who has it. (For IPv6 no interface answers for the address of
    /// another one.)
    fn begin(
        &mut self,
        vip: VipId,
        interfaces: impl Iterator<Item = String>,
        addresses: impl Iterator<Item = IpAddr>,
    ) {
        self.addresses.insert(vip, addresses.collect());
        self.interfaces.extend(interfaces);
    }

    /// Forgets the VIP; says which addresses have to go.
    pub(super) fn end(&mut self, vip: VipId) -> Vec<(u32, Prefix)> {
        let ended = self.addresses.remove(&vip).unwrap_or_default();
        if self.addresses.is_empty() {
            self.interfaces.clear();
        }
        ended.into_iter().map(key).collect()
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Adds what the interfaces need as long as something stays.
    pub(super) fn want(&self, wanted: &mut Wanted) {
        if !self.addresses.is_empty() {
            let interfaces = self.interfaces.iter();
            interfaces.for_each(|interface| want_no_answer_for_others(wanted, interface));
        }
    }

    pub(super) fn has(&self, wanted: (u32, Prefix)) -> bool {
        self.keys().any(|one| one == wanted)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (u32, Prefix)> + '_ {
        self.addresses.values().flatten().copied().map(key)
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.addresses.values().flatten().copied().map(change)
    }

    pub(super) fn changes_of(&self, vip: VipId) -> Vec<Change> {
        self.addresses.get(&vip).into_iter().flatten().copied().map(change).collect()
    }
}

const fn key(address: IpAddr) -> (u32, Prefix) {
    (LOOPBACK, Prefix::host(address))
}

pub(super) const fn change(address: IpAddr) -> Change {
    Change::Keep { index: LOOPBACK, address, valid_s: LIFETIME_S }
}

impl Addresses {
    /// Puts a VIP that is about to go where only this host's sockets find it.
    pub(super) fn stay(&mut self, vip: VipId, held: &Held) -> io::Result<()> {
        let there = |watched: &&Watched| watched.link.is_some();
        let names = self.watched.iter().filter(there).map(|watched| watched.name.clone());
        self.stays.begin(vip, names, held.addresses());
        let failed = self.agree(Some(held));
        if let Some((path, error)) = failed.into_iter().next() {
            // It would answer in the other node's place.
            self.complain(format!("connections to the VIP are cut: {path}: {error}"));
            self.stays.end(vip);
            self.end_links(held.links.clone());
            return Ok(());
        }
        self.silence(&held.links);
        self.linger(&held.links);
        let going: Vec<_> = held.keys().collect();
        self.record(&going);
        let mut results = Vec::new();
        let changes = self.stays.changes_of(vip);
        self.rtnl.change_and_wait(&changes, &mut results, ROUTED_WITHIN)?;
        if let Some(errno) = results.iter().filter_map(|result| result.err()).next() {
            self.complain(format!("connections to the VIP are cut: errno {errno} on lo"));
        }
        Ok(())
    }
}
