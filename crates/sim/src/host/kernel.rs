//! What a kernel keeps: addresses on two links, with lifetimes, and settings.

use std::collections::BTreeMap;
use std::net::IpAddr;

use standin_core::guard::Key;
use standin_core::types::Prefix;

use crate::clock::Nanos;

/// The link that carries the VIPs.
pub const ETH0: u32 = 2;

pub const PROMOTE: &str = "net/ipv4/conf/eth0/promote_secondaries";
pub const ARP_IGNORE: &str = "net/ipv4/conf/eth0/arp_ignore";

#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub key: Key,
    /// Added by a standin.
    pub ours: bool,
    /// When its lifetime ends if nobody renews it.
    pub expires: Option<Nanos>,
}

#[derive(Clone, Debug)]
pub struct Kernel {
    /// In the kernel's order: the first of a subnet is its primary.
    pub addresses: Vec<Address>,
    settings: BTreeMap<String, String>,
    /// As the operator has set them.
    pub meant: BTreeMap<String, String>,
    own: Option<Key>,
    /// Pending ends of lifetimes with another token are void.
    pub token: u32,
}

impl Kernel {
    #[must_use]
    pub fn new(own: Option<IpAddr>) -> Self {
        let own = own.and_then(|own| Some((ETH0, Prefix::new(own, 24)?)));
        let mut this = Self {
            addresses: Vec::new(),
            settings: BTreeMap::new(),
            meant: BTreeMap::new(),
            own,
            token: 0,
        };
        this.own_comes();
        this
    }

    pub fn own_comes(&mut self) {
        if let Some(key) = self.own
            && !self.has(key)
        {
            self.addresses.push(Address { key, ours: false, expires: None });
        }
    }

    pub fn own_goes(&mut self) {
        if let Some(key) = self.own {
            self.remove(key);
        }
    }

    #[must_use]
    pub fn has_own(&self) -> bool {
        self.own.is_none_or(|key| self.has(key))
    }

    #[must_use]
    pub fn has(&self, key: Key) -> bool {
        self.addresses.iter().any(|one| one.key == key)
    }

    /// Adds or renews an address of a standin.
    pub fn hold(&mut self, key: Key) {
        match self.addresses.iter_mut().find(|one| one.key == key) {
            Some(known) => known.expires = None,
            None => self.addresses.push(Address { key, ours: true, expires: None }),
        }
    }

    /// Removes an address; the end of a primary takes its secondaries along, unless they are promoted.
    pub fn remove(&mut self, key: Key) -> bool {
        let Some(place) = self.addresses.iter().position(|one| one.key == key) else {
            return false;
        };
        let first = self.addresses.iter().position(|one| same_subnet(one.key, key));
        self.addresses.remove(place);
        if first == Some(place) && self.setting(PROMOTE) == "0" {
            self.addresses.retain(|one| !same_subnet(one.key, key));
        }
        true
    }

    /// A VIP that is the primary of the subnet of the host's own address.
    #[must_use]
    pub fn before_own(&self) -> Option<Key> {
        let own = self.own.filter(|own| self.has(*own))?;
        let first = self.addresses.iter().find(|one| same_subnet(one.key, own))?;
        first.ours.then_some(first.key)
    }

    pub fn ours(&self) -> impl Iterator<Item = Key> + '_ {
        self.addresses.iter().filter(|one| one.ours).map(|one| one.key)
    }

    #[must_use]
    pub fn setting(&self, path: &str) -> &str {
        self.settings.get(path).map_or("0", String::as_str)
    }

    pub fn set(&mut self, path: &str, value: &str) {
        self.settings.insert(path.to_owned(), value.to_owned());
    }

    /// A setting that isn't as the operator has left it: which, what it is, what it should be.
    #[must_use]
    pub fn changed(&self) -> Option<(&str, &str, &str)> {
        let meant = |path: &str| self.meant.get(path).map_or("0", String::as_str);
        self.settings
            .iter()
            .map(|(path, value)| (path.as_str(), value.as_str(), meant(path)))
            .find(|(_, value, meant)| value != meant)
    }

    /// The machine begins anew, with what the operator has set.
    pub fn boots(&mut self, own: bool) {
        self.addresses.clear();
        self.settings = self.meant.clone();
        self.token += 1;
        if own {
            self.own_comes();
        }
    }
}

/// Primaries and secondaries are IPv4's.
fn same_subnet((index, a): Key, (other, b): Key) -> bool {
    a.address().is_ipv4()
        && index == other
        && a.prefix_len() == b.prefix_len()
        && a.contains(b.address())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> (Kernel, Key) {
        let kernel = Kernel::new(Some(IpAddr::from([10, 0, 0, 1])));
        (kernel, (ETH0, "10.0.0.100/24".parse().unwrap()))
    }

    #[test]
    fn the_end_of_a_primary_takes_its_secondaries_along_unless_they_are_promoted() {
        for (promote, survives) in [("0", false), ("1", true)] {
            let (mut kernel, vip) = kernel();
            kernel.set(PROMOTE, promote);
            kernel.own_goes();
            kernel.hold(vip);
            kernel.own_comes();
            assert_eq!(kernel.before_own(), Some(vip));
            kernel.remove(vip);
            assert_eq!(kernel.has_own(), survives);
        }
    }

    #[test]
    fn a_secondary_goes_alone() {
        let (mut kernel, vip) = kernel();
        kernel.hold(vip);
        assert_eq!(kernel.before_own(), None);
        assert!(kernel.remove(vip) && kernel.has_own() && !kernel.remove(vip));
    }
}
