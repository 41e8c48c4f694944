//! Neighbour discovery over Ethernet (RFC 4861): who has an IPv6 address, and that we have it.
//!
//! Only neighbour solicitations and advertisements; routers and redirects are the kernel's.

use std::net::Ipv6Addr;

use super::checksum::Sum;
use super::{bytes_at, ethernet, put_u16, u16_at};
use crate::types::Mac;

/// The IPv6 header (RFC 8200 §3), offsets within the frame's payload.
///
/// ```text
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |Version| Traffic class |              Flow label               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |        Payload length         |  Next header  |   Hop limit   |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                  Source (16), destination (16)                |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
mod ip {
    pub(super) const PAYLOAD_LEN: usize = 4;
    pub(super) const NEXT_HEADER: usize = 6;
    pub(super) const HOP_LIMIT: usize = 7;
    pub(super) const SOURCE: usize = 8;
    pub(super) const DESTINATION: usize = 24;
    pub(super) const HEADER_LEN: usize = 40;
}

/// A neighbour solicitation or advertisement (RFC 4861 §4.3, §4.4).
///
/// ```text
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |     Type      |     Code      |           Checksum            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |R|S|O|                     Reserved                            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                          Target (16)                          |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |   Options: type, length in units of 8 bytes, data ...
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-
/// ```
mod icmp {
    pub(super) const TYPE: usize = 0;
    pub(super) const CODE: usize = 1;
    pub(super) const CHECKSUM: usize = 2;
    pub(super) const FLAGS: usize = 4;
    pub(super) const TARGET: usize = 8;
    pub(super) const OPTIONS: usize = 24;
}

const NEXT_HEADER_ICMPV6: u8 = 58;
/// RFC 4861 §7.1: anything less has crossed a router.
const HOP_LIMIT: u8 = 255;
const TYPE_SOLICITATION: u8 = 135;
const TYPE_ADVERTISEMENT: u8 = 136;
const FLAG_ROUTER: u8 = 0x80;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_SOURCE_MAC: u8 = 1;
const OPTION_TARGET_MAC: u8 = 2;
const OPTION_UNIT: usize = 8;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The longest frame written here: one link-layer option.
pub const MAX_FRAME_LEN: usize =
    ethernet::HEADER_LEN + ip::HEADER_LEN + icmp::OPTIONS + OPTION_UNIT;

/// One neighbour solicitation or advertisement and who sent its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ndp {
    /// `source` is unspecified in duplicate address detection.
    Solicitation {
        source: Ipv6Addr,
        target: Ipv6Addr,
        ethernet_source: Mac,
        source_mac: Option<Mac>,
    },
    Advertisement {
        source: Ipv6Addr,
        target: Ipv6Addr,
        target_mac: Option<Mac>,
        ethernet_source: Mac,
        solicited: bool,
        override_: bool,
    },
}

/// Reads a whole Ethernet frame; `None` when it is neither of the two, or not a valid one by
/// RFC 4861 §7.1 (hop limit 255, checksum, lengths, target, options).
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Ndp> {
    let (ethernet_source, packet) = ethernet::parse(frame, ethernet::ETHERTYPE_IPV6)?;
    let header: &[u8; ip::HEADER_LEN] = packet.first_chunk()?;
    if header[0] >> 4 != 6
        || header[ip::NEXT_HEADER] != NEXT_HEADER_ICMPV6
        || header[ip::HOP_LIMIT] != HOP_LIMIT
    {
        return None;
    }
    let len = u16_at(packet, ip::PAYLOAD_LEN)?;
    let source = Ipv6Addr::from(bytes_at::<16>(packet, ip::SOURCE)?);
    let destination = Ipv6Addr::from(bytes_at::<16>(packet, ip::DESTINATION)?);
    let message = packet.get(ip::HEADER_LEN..)?.get(..usize::from(len))?;

    let fixed: &[u8; icmp::OPTIONS] = message.first_chunk()?;
    let sum = Sum::pseudo_header_v6(source, destination, NEXT_HEADER_ICMPV6, len);
    let target = Ipv6Addr::from(bytes_at::<16>(message, icmp::TARGET)?);
    if fixed[icmp::CODE] != 0 || target.is_multicast() || !sum.bytes(message).is_intact() {
        return None;
    }
    let options = Options::parse(message.get(icmp::OPTIONS..)?)?;

    match fixed[icmp::TYPE] {
        TYPE_SOLICITATION => {
            if source.is_unspecified()
                && (destination != solicited_node(target) || options.source_mac.is_some())
            {
                return None;
            }
            let source_mac = options.source_mac;
            Some(Ndp::Solicitation { source, target, ethernet_source, source_mac })
        }
        TYPE_ADVERTISEMENT => {
            let flags = fixed[icmp::FLAGS];
            let solicited = flags & FLAG_SOLICITED != 0;
            if solicited && destination.is_multicast() {
                return None;
            }
            Some(Ndp::Advertisement {
                source,
                target,
                target_mac: options.target_mac,
                ethernet_source,
                solicited,
                override_: flags & FLAG_OVERRIDE != 0,
            })
        }
        _ => None,
    }
}

/// The two options that matter; of several alike the first counts.
struct Options {
    source_mac: Option<Mac>,
    target_mac: Option<Mac>,
}

impl Options {
    /// `None` when an option has no length or is cut off (RFC 4861 §4.6).
    fn parse(mut rest: &[u8]) -> Option<Self> {
        let mut found = Self { source_mac: None, target_mac: None };
        while let [kind, units, ..] = *rest {
            let len = usize::from(units) * OPTION_UNIT;
            if len == 0 {
                return None;
            }
            let (option, behind) = rest.split_at_checked(len)?;
            // A link-layer address of another length isn't Ethernet's.
            let mac = if units == 1 { bytes_at(option, 2).map(Mac) } else { None };
            match kind {
                OPTION_SOURCE_MAC => found.source_mac = found.source_mac.or(mac),
                OPTION_TARGET_MAC => found.target_mac = found.target_mac.or(mac),
                _ => {}
            }
            rest = behind;
        }
        if rest.is_empty() { Some(found) } else { None }
    }
}

/// Asks whether somebody has `target` without saying that we do: duplicate address detection's
/// solicitation from the unspecified address (RFC 4862 §5.4.2).
pub fn probe(frame: &mut Vec<u8>, mac: Mac, target: Ipv6Addr) {
    let group = solicited_node(target);
    let source = Ipv6Addr::UNSPECIFIED;
    emit(
        frame,
        mac,
        source,
        group,
        &Message { kind: TYPE_SOLICITATION, flags: 0, target, option: None },
    );
}

/// Asks for the MAC of `target` in the name of `source`.
pub fn solicitation(frame: &mut Vec<u8>, mac: Mac, source: Ipv6Addr, target: Ipv6Addr) {
    let group = solicited_node(target);
    let option = Some(OPTION_SOURCE_MAC);
    emit(frame, mac, source, group, &Message { kind: TYPE_SOLICITATION, flags: 0, target, option });
}

/// Tells everyone that `mac` has `address` now (unsolicited advertisement, RFC 4861 §7.2.6).
///
/// `router` must be true on hosts that forward: hosts that hear a router without this flag
/// stop using it as one.
pub fn announcement(frame: &mut Vec<u8>, mac: Mac, address: Ipv6Addr, router: bool) {
    let flags = if router { FLAG_ROUTER | FLAG_OVERRIDE } else { FLAG_OVERRIDE };
    let option = Some(OPTION_TARGET_MAC);
    let message = Message { kind: TYPE_ADVERTISEMENT, flags, target: address, option };
    emit(frame, mac, address, ALL_NODES, &message);
}

struct Message {
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    /// The type of the option that carries the sender's MAC.
    option: Option<u8>,
}

/// Sends to a multicast `group`; no other destination is needed here.
fn emit(frame: &mut Vec<u8>, mac: Mac, source: Ipv6Addr, group: Ipv6Addr, message: &Message) {
    const PLAIN_LEN: u16 = 24;
    const LEN_WITH_OPTION: u16 = 32;
    let len = if message.option.is_some() { LEN_WITH_OPTION } else { PLAIN_LEN };

    ethernet::begin(frame, multicast_mac(group), mac, ethernet::ETHERTYPE_IPV6);
    frame.extend_from_slice(&[6 << 4, 0, 0, 0]);
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(&[NEXT_HEADER_ICMPV6, HOP_LIMIT]);
    frame.extend_from_slice(&source.octets());
    frame.extend_from_slice(&group.octets());

    let start = frame.len();
    frame.extend_from_slice(&[message.kind, 0, 0, 0, message.flags, 0, 0, 0]);
    frame.extend_from_slice(&message.target.octets());
    if let Some(option) = message.option {
        frame.extend_from_slice(&[option, 1]);
        frame.extend_from_slice(&mac.0);
    }
    let sum = Sum::pseudo_header_v6(source, group, NEXT_HEADER_ICMPV6, len);
    let checksum = sum.bytes(&frame[start..]).checksum();
    put_u16(frame, start + icmp::CHECKSUM, checksum);
}

/// `ff02::1:ffXX:XXXX`, the group that the owner of `target` listens on (RFC 4291 §2.7.1).
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// `33:33` and the group's last four bytes (RFC 2464 §7).
fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}
