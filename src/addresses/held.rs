//! A VIP that this host holds: which address is on which link.

use std::net::IpAddr;

use standin_core::types::{Prefix, Vrid};
use standin_linux::netlink::Change;

use super::LIFETIME_S;
use super::own_link::OwnLink;
use crate::guard::ledger::Goodbye;

pub(super) struct Held {
    /// The VIP's interface.
    pub(super) interface: String,
    pub(super) index: u32,
    /// Set where the VIP has a MAC of its own.
    pub(super) virtual_mac: Option<Vrid>,
    /// Those that carry the addresses, if the interface doesn't itself: one for each family.
    pub(super) links: Vec<OwnLink>,
    pub(super) places: Vec<Place>,
    pub(super) goodbyes: Vec<Goodbye>,
}

/// An address, and the link that has it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) index: u32,
    /// The interface's, if the link stands on that.
    pub(super) base: Option<u32>,
    pub(super) prefix: Prefix,
}

impl Place {
    pub(super) const fn change(self) -> Change {
        let Self { index, prefix, .. } = self;
        match self.base {
            None => Change::Hold { index, prefix, valid_s: LIFETIME_S },
            Some(base) => Change::Serve { index, base, prefix, valid_s: LIFETIME_S },
        }
    }

    const fn key(self) -> (u32, Prefix) {
        (self.index, self.prefix)
    }
}

impl Held {
    pub(super) fn has(&self, key: (u32, Prefix)) -> bool {
        self.place(key).is_some()
    }

    pub(super) fn place(&self, key: (u32, Prefix)) -> Option<Place> {
        self.places.iter().copied().find(|place| place.key() == key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (u32, Prefix)> + '_ {
        self.places.iter().map(|place| place.key())
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.places.iter().map(|place| place.prefix.address())
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.places.iter().map(|place| place.change())
    }
}
