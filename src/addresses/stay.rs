//! A VIP that another node has taken over as planned: it stays on the loopback link for as long as
//! sockets of this host use it, and nobody on the network hears of that.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use standin_core::types::{Prefix, VipId};
use standin_linux::netlink::Change;
use standin_linux::sysctl::{self, Settings};

use super::{Addresses, Held, LIFETIME_S, Watched};

/// In every network namespace.
const LOOPBACK: u32 = 1;

/// The interface goes on serving while the kernel makes the address on lo usable. Tried on Linux 6.18
/// with 50 runnable threads on two CPUs: one in ten took more than 100 ms, and an address that leaves the
/// interface before that loses packets. It is less than what a lifetime has in hand.
const ROUTED_WITHIN: Duration = Duration::from_secs(1);

/// VIPs that stay, and the settings that keep this host from answering for them.
#[derive(Default)]
pub(super) struct Stays {
    addresses: BTreeMap<VipId, Vec<IpAddr>>,
    settings: Settings,
}

impl Stays {
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    pub(super) fn holds(&self, vip: VipId) -> bool {
        self.addresses.contains_key(&vip)
    }

    /// Notes that the VIP stays, and keeps `interfaces` from answering for it over ARP: that of the VIP,
    /// and those over which peers ask who has it. (For IPv6 no interface answers for the address of
    /// another one.)
    pub(super) fn begin<'a>(
        &mut self,
        vip: VipId,
        interfaces: impl Iterator<Item = &'a str>,
        prefixes: &[Prefix],
    ) -> io::Result<()> {
        self.addresses.insert(vip, prefixes.iter().map(|prefix| prefix.address()).collect());
        for interface in interfaces {
            // Asked for an address of another interface it says nothing, and asks in its own name.
            for (name, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
                let path = format!("net/ipv4/conf/{interface}/{name}");
                // More may be set already, and the kernel goes by the greater of this and `all`.
                let now = sysctl::read(&path)?.parse::<u8>().unwrap_or(0);
                if now < 1 || (name == "arp_announce" && now < 2) {
                    self.settings.set(&path, value)?;
                }
            }
        }
        Ok(())
    }

    /// Forgets the VIP; says which addresses have to go.
    pub(super) fn end(&mut self, vip: VipId) -> Vec<(u32, Prefix)> {
        self.addresses.remove(&vip).unwrap_or_default().into_iter().map(key).collect()
    }

    pub(super) fn forget(&mut self) {
        self.addresses.clear();
    }

    /// Puts the settings back once nothing stays; says which couldn't be.
    pub(super) fn undo(&mut self) -> Vec<(String, io::Error)> {
        if self.addresses.is_empty() { self.settings.undo() } else { Vec::new() }
    }

    pub(super) fn settings(&self) -> &[sysctl::Change] {
        self.settings.changes()
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
        let names = self.watched.iter().filter(there).map(|watched| watched.name.as_str());
        if let Err(error) = self.stays.begin(vip, names, &held.prefixes) {
            // It would answer in the other node's place.
            self.complain(format!("connections to the VIP are cut: {error}"));
            self.stays.end(vip);
            return Ok(());
        }
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
