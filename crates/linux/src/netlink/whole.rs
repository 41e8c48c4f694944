//! Addresses with everything that the kernel says of them, so that one can be put back as it was.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NlasIterator, Parseable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressHeaderFlags, AddressMessage,
    AddressProtocol, CacheInfo,
};
use standin_core::types::{Family, Prefix};

use super::address::{Address, FOR_EVER, HEADER_LEN, broadcast};
use super::{Rtnl, socket};

/// An address with its label, broadcast address, scope, lifetimes and flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub address: Address,
    message: AddressMessage,
}

/// What is told of an address when it is put on an interface, and not worked out by the kernel.
const TOLD: AddressFlags = AddressFlags::Noprefixroute
    .union(AddressFlags::Nodad)
    .union(AddressFlags::Homeaddress)
    .union(AddressFlags::Mcautojoin)
    .union(AddressFlags::Managetempaddr);

impl Whole {
    fn from_message(kind: u16, payload: &[u8]) -> Option<Self> {
        let address = Address::from_message(kind, payload)?;
        let mut message = AddressMessage::default();
        message.header = AddressHeader::parse(payload).ok()?;
        message.header.flags = AddressHeaderFlags::empty();
        for attribute in NlasIterator::new(payload.get(HEADER_LEN..)?).map_while(Result::ok) {
            let kept = match AddressAttribute::parse(&attribute) {
                Ok(AddressAttribute::Flags(flags)) => AddressAttribute::Flags(flags & TOLD),
                // When it was made and changed is the kernel's to say.
                Ok(AddressAttribute::CacheInfo(times)) => {
                    AddressAttribute::CacheInfo(lifetimes(times.ifa_preferred, times.ifa_valid))
                }
                Ok(AddressAttribute::Other(_)) | Err(_) => continue,
                Ok(other) => other,
            };
            message.attributes.push(kept);
        }
        Some(Self { address, message })
    }

    /// The same with another address of the same length: what a host gets in the place of this one.
    #[must_use]
    pub fn renamed(&self, prefix: Prefix) -> Self {
        let mut renamed = self.clone();
        renamed.address.prefix = prefix;
        renamed.message.header.prefix_len = prefix.prefix_len();
        for attribute in &mut renamed.message.attributes {
            match attribute {
                AddressAttribute::Local(address) | AddressAttribute::Address(address) => {
                    *address = prefix.address();
                }
                AddressAttribute::Broadcast(address) => {
                    if let (IpAddr::V4(own), len) = (prefix.address(), prefix.prefix_len())
                        && let Some(last) = broadcast(own, len)
                    {
                        *address = last;
                    }
                }
                _ => {}
            }
        }
        renamed
    }

    /// The same without end, and with the mark `protocol` (0: none).
    #[must_use]
    pub fn permanent(&self, protocol: u8) -> Self {
        let times = lifetimes(FOR_EVER, FOR_EVER);
        let mut permanent = self.clone();
        (permanent.address.valid_lft, permanent.address.protocol) = (None, protocol);
        permanent.message.attributes.retain(|attribute| {
            !matches!(attribute, AddressAttribute::CacheInfo(_) | AddressAttribute::Protocol(_))
        });
        permanent.message.attributes.push(AddressAttribute::CacheInfo(times));
        permanent
            .message
            .attributes
            .push(AddressAttribute::Protocol(AddressProtocol::from(protocol)));
        permanent
    }

    /// The same; the kernel takes it away after so many seconds, unless it is put again by then.
    #[must_use]
    pub fn lasting(&self, valid_s: u32) -> Self {
        let mut lasting = self.clone();
        lasting.address.valid_lft = Some(valid_s);
        for attribute in &mut lasting.message.attributes {
            if let AddressAttribute::CacheInfo(times) = attribute {
                *times = lifetimes(times.ifa_preferred.min(valid_s), valid_s);
            }
        }
        lasting
    }

    /// The same, but never the source of the host's own connections; for IPv6 alone (RFC 6724 rule 3).
    #[must_use]
    pub fn deprecated(&self) -> Self {
        let mut deprecated = self.clone();
        for attribute in &mut deprecated.message.attributes {
            if let AddressAttribute::CacheInfo(times) = attribute {
                times.ifa_preferred = 0;
            }
        }
        deprecated
    }

    /// The address alone, without its subnet: what keeps it local while the other is away.
    #[must_use]
    pub fn bridge(&self) -> Option<Self> {
        let address = self.address.prefix.address();
        let len = if Family::of(address) == Family::V4 { 32 } else { 128 };
        let mut bridge = self.permanent(self.address.protocol).renamed(Prefix::new(address, len)?);
        bridge
            .message
            .attributes
            .retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
        Some(bridge)
    }

    /// What `ip address` calls it, `eth0:1` say; IPv4 alone.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Label(label) => Some(label.as_str()),
            _ => None,
        })
    }

    /// The same with this label.
    #[must_use]
    pub fn labelled(&self, label: Option<&str>) -> Self {
        let mut labelled = self.clone();
        let attributes = &mut labelled.message.attributes;
        attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Label(_)));
        attributes.extend(label.map(|label| AddressAttribute::Label(label.to_owned())));
        labelled
    }

    /// The same, with a route to its subnet that the kernel keeps, or without.
    #[must_use]
    pub fn with_prefix_route(&self, there: bool) -> Self {
        let mut changed = self.clone();
        let attributes = &mut changed.message.attributes;
        attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Flags(_)));
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Noprefixroute, !there);
        attributes.push(AddressAttribute::Flags(flags));
        changed
    }

    /// The same on another link.
    #[must_use]
    pub fn on(&self, index: u32) -> Self {
        let mut moved = self.clone();
        moved.address.index = index;
        moved.message.header.index = index;
        moved
    }

    /// The same; the kernel doesn't ask first whether another host has it. IPv6 alone.
    #[must_use]
    pub fn unasked(&self) -> Self {
        let mut unasked = self.clone();
        let attributes = &mut unasked.message.attributes;
        let known = attributes.iter_mut().find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(flags),
            _ => None,
        });
        match known {
            Some(flags) => *flags |= AddressFlags::Nodad,
            None => attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
        }
        unasked
    }

    /// Whether the kernel keeps no route to the subnet for it: NetworkManager makes its own.
    #[must_use]
    pub fn has_no_prefix_route(&self) -> bool {
        self.message.attributes.iter().any(|attribute| {
            matches!(attribute, AddressAttribute::Flags(flags)
                if flags.contains(AddressFlags::Noprefixroute))
        })
    }
}

fn lifetimes(preferred_s: u32, valid_s: u32) -> CacheInfo {
    let mut times = CacheInfo::default();
    (times.ifa_preferred, times.ifa_valid) = (preferred_s, valid_s);
    times
}

impl Rtnl {
    /// As [`Rtnl::addresses`], with all that the kernel says of them.
    ///
    /// # Errors
    /// As [`Rtnl::links`].
    pub fn whole_addresses(&mut self) -> io::Result<Vec<Whole>> {
        let every = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(&every, Whole::from_message)
    }

    /// Puts an address on its interface; one that is there already gets these lifetimes and this mark.
    ///
    /// An IPv4 address that is new comes behind all others of its subnet.
    ///
    /// # Errors
    /// What the kernel says, and those of [`Rtnl::links`].
    pub fn put(&mut self, whole: &Whole) -> io::Result<()> {
        self.ask(
            RouteNetlinkMessage::NewAddress(whole.message.clone()),
            socket::CHANGE | NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// What the kernel says (`EADDRNOTAVAIL`: it isn't there), and those of [`Rtnl::links`].
    pub fn take_away(&mut self, whole: &Whole) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::DelAddress(whole.message.clone()), socket::CHANGE)
    }
}
