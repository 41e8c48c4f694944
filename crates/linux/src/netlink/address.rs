//! What an address is, and the messages that hold and drop one.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NlasIterator, Parseable};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressProtocol, AddressScope,
    CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use standin_core::types::Prefix;

use super::{Change, socket};

pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;

/// The mark (`IFA_PROTO`) on every address that standin added.
///
/// Kernels before 5.18 don't know the attribute and skip it.
pub const PROTOCOL: u8 = 0x73;

/// The mark on an address of the host's own that `standin adopt` has made ready to be a VIP: it is
/// permanent, and no leftover.
pub const ADOPTED: u8 = 0x74;

pub(super) const HEADER_LEN: usize = 8;
pub(super) const FOR_EVER: u32 = u32::MAX;

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Of its link.
    pub index: u32,
    pub prefix: Prefix,
    /// Duplicate address detection is under way: the kernel doesn't answer for it yet.
    pub tentative: bool,
    /// Duplicate address detection found another host that has it: the kernel doesn't use it.
    pub dad_failed: bool,
    /// IPv4: another address of its subnet came first and gives the host's connections their source.
    pub secondary: bool,
    /// Who added it (`IFA_PROTO`): [`PROTOCOL`], a number of the kernel's, or 0 for "didn't say".
    pub protocol: u8,
    /// Seconds until the kernel removes it; `None` for never.
    pub valid_lft: Option<u32>,
}

impl Address {
    /// `None` for a message that names no IP address.
    pub(super) fn from_message(kind: u16, payload: &[u8]) -> Option<Self> {
        if !matches!(kind, RTM_NEWADDR | RTM_DELADDR) {
            return None;
        }
        let header = AddressHeader::parse(payload).ok()?;
        // The attribute below holds all flags; old kernels send only these eight.
        let mut flags = AddressFlags::from_bits_retain(u32::from(header.flags.bits()));
        let (mut local, mut remote, mut protocol, mut valid_lft) = (None, None, 0, None);
        for attribute in NlasIterator::new(payload.get(HEADER_LEN..)?).map_while(Result::ok) {
            match AddressAttribute::parse(&attribute) {
                Ok(AddressAttribute::Local(address)) => local = Some(address),
                Ok(AddressAttribute::Address(address)) => remote = Some(address),
                Ok(AddressAttribute::Flags(all)) => flags = all,
                Ok(AddressAttribute::Protocol(number)) => protocol = number.into(),
                Ok(AddressAttribute::CacheInfo(times)) => {
                    valid_lft = (times.ifa_valid != FOR_EVER).then_some(times.ifa_valid);
                }
                _ => {}
            }
        }
        // On a point-to-point link IFA_ADDRESS is the far end; IPv6 without a far end has it alone.
        let prefix = Prefix::new(local.or(remote)?, header.prefix_len)?;
        Some(Self {
            index: header.index,
            prefix,
            tentative: flags.contains(AddressFlags::Tentative),
            dad_failed: flags.contains(AddressFlags::Dadfailed),
            // The same bit means "temporary" (RFC 8981) for IPv6.
            secondary: prefix.address().is_ipv4() && flags.contains(AddressFlags::Secondary),
            protocol,
            valid_lft,
        })
    }
}

/// Whether an address needs a route of its own to the subnet on its link, because no address of
/// the node's brings one.
pub(super) fn is_alone(index: u32, prefix: Prefix, all: &[Address]) -> bool {
    !all.iter().any(|other| {
        other.index == index
            && other.protocol != PROTOCOL
            && other.prefix.address() != prefix.address()
            && other.prefix.contains(prefix.address())
    })
}

/// The request flags and the message that make `change`; `with_route`: the address brings the route to
/// its subnet. A held IPv4 address always does.
pub(super) fn change_message(change: Change, with_route: bool) -> (u16, RouteNetlinkMessage) {
    match change {
        Change::Hold { index, prefix, valid_s } => {
            let mut message = about(index, prefix);
            message.attributes.extend(hold_attributes(prefix, valid_s, with_route));
            (
                socket::CHANGE | NLM_F_CREATE | NLM_F_REPLACE,
                RouteNetlinkMessage::NewAddress(message),
            )
        }
        Change::Serve { index, prefix, valid_s, .. } => {
            let mut message = about(index, prefix);
            message.attributes.extend(hold_attributes(prefix, valid_s, with_route));
            if prefix.address().is_ipv4() {
                message.header.scope = AddressScope::Host;
                if !with_route {
                    // The base's own route goes on being the way to the subnet. Since Linux 4.18.
                    message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
                }
            }
            (
                socket::CHANGE | NLM_F_CREATE | NLM_F_REPLACE,
                RouteNetlinkMessage::NewAddress(message),
            )
        }
        Change::Keep { index, address, valid_s } => {
            let prefix = Prefix::host(address);
            let mut message = about(index, prefix);
            message.header.scope = AddressScope::Host;
            message.attributes.extend(hold_attributes(prefix, valid_s, false));
            (
                socket::CHANGE | NLM_F_CREATE | NLM_F_REPLACE,
                RouteNetlinkMessage::NewAddress(message),
            )
        }
        Change::Drop { index, prefix } => {
            (socket::CHANGE, RouteNetlinkMessage::DelAddress(about(index, prefix)))
        }
    }
}

fn about(index: u32, prefix: Prefix) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match prefix.address() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = prefix.prefix_len();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(prefix.address()));
    message.attributes.push(AddressAttribute::Address(prefix.address()));
    message
}

fn hold_attributes(prefix: Prefix, valid_s: u32, with_route: bool) -> Vec<AddressAttribute> {
    let mut times = CacheInfo::default();
    times.ifa_valid = valid_s;
    let mut attributes = vec![AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL))];
    match prefix.address() {
        IpAddr::V4(address) => {
            // Tried on Linux 6.18: with 0 the address is called "deprecated" and is chosen as the
            // source all the same. Only being secondary keeps an IPv4 VIP from that.
            times.ifa_preferred = valid_s;
            attributes
                .extend(broadcast(address, prefix.prefix_len()).map(AddressAttribute::Broadcast));
        }
        IpAddr::V6(_) => {
            // RFC 6724 rule 3: never the source while the node has another address.
            times.ifa_preferred = 0;
            // Tried on Linux 6.18: when the node's own address has a lifetime (DHCPv6, router
            // advertisements), a VIP that brings its route gives the lifetime of the VIP to the
            // route that they share, and two seconds after the VIP the node has lost its subnet.
            let mut flags = AddressFlags::Nodad;
            flags.set(AddressFlags::Noprefixroute, !with_route);
            attributes.push(AddressAttribute::Flags(flags));
        }
    }
    attributes.push(AddressAttribute::CacheInfo(times));
    attributes
}

/// The last address of the subnet; `None` for /31 and /32, which have no broadcast (RFC 3021).
pub(super) fn broadcast(address: Ipv4Addr, prefix_len: u8) -> Option<Ipv4Addr> {
    if prefix_len >= 31 {
        return None;
    }
    let hosts = u32::MAX.checked_shr(u32::from(prefix_len))?;
    Some(Ipv4Addr::from_bits(address.to_bits() | hosts))
}
