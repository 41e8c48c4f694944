//! ARP over Ethernet (RFC 826): who has an IPv4 address, and that we have it (RFC 5227).

use std::net::Ipv4Addr;

use super::{bytes_at, ethernet, u16_at};
use crate::types::Mac;

/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |        Hardware type          |         Protocol type         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Hardware len  | Protocol len  |           Operation           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |            Sender MAC (6), sender address (4)                 |
/// |            Target MAC (6), target address (4)                 |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
mod field {
    pub(super) const OPERATION: usize = 6;
    pub(super) const SENDER_MAC: usize = 8;
    pub(super) const SENDER: usize = 14;
    pub(super) const TARGET_MAC: usize = 18;
    pub(super) const TARGET: usize = 24;
}

/// Hardware type 1 (Ethernet), protocol type IPv4, lengths 6 and 4: the only kind there is today.
const ETHERNET_IPV4: [u8; 6] = [0x00, 0x01, 0x08, 0x00, 6, 4];

/// An ARP frame without the padding that the network card adds.
pub const FRAME_LEN: usize = ethernet::HEADER_LEN + 28;

/// What an ARP packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Request,
    Reply,
    Other(u16),
}

impl Operation {
    const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Request,
            2 => Self::Reply,
            other => Self::Other(other),
        }
    }

    const fn code(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
            Self::Other(code) => code,
        }
    }
}

/// One ARP packet and who sent its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub operation: Operation,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target_mac: Mac,
    pub target: Ipv4Addr,
    /// May differ from `sender_mac`: a bridge, a proxy, or a forger.
    pub ethernet_source: Mac,
}

/// Reads a whole Ethernet frame; `None` when it isn't ARP for IPv4 over Ethernet.
///
/// Bytes behind the packet are the network's padding and are ignored.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Arp> {
    let (ethernet_source, packet) = ethernet::parse(frame, ethernet::ETHERTYPE_ARP)?;
    if !packet.starts_with(&ETHERNET_IPV4) {
        return None;
    }
    Some(Arp {
        operation: Operation::from_code(u16_at(packet, field::OPERATION)?),
        sender_mac: bytes_at(packet, field::SENDER_MAC).map(Mac)?,
        sender: bytes_at::<4>(packet, field::SENDER)?.into(),
        target_mac: bytes_at(packet, field::TARGET_MAC).map(Mac)?,
        target: bytes_at::<4>(packet, field::TARGET)?.into(),
        ethernet_source,
    })
}

/// Asks whether somebody has `target` without saying that we do (RFC 5227 §2.1.1).
pub fn probe(frame: &mut Vec<u8>, mac: Mac, target: Ipv4Addr) {
    request(frame, mac, Ipv4Addr::UNSPECIFIED, target);
}

/// Asks everyone for the MAC of `target` in the name of `sender`.
pub fn request(frame: &mut Vec<u8>, mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) {
    emit(
        frame,
        Mac::BROADCAST,
        &Arp {
            operation: Operation::Request,
            sender_mac: mac,
            sender,
            target_mac: Mac::ZERO,
            target,
            ethernet_source: mac,
        },
    );
}

/// Tells everyone that `mac` has `address` now (gratuitous ARP, RFC 5227 §2.3).
///
/// A request, not a reply: caches that only learn from one of the two learn from requests. The
/// target MAC, which the RFC leaves open, is broadcast as in keepalived's, so that whatever
/// obeyed a keepalived obeys this.
pub fn announcement(frame: &mut Vec<u8>, mac: Mac, address: Ipv4Addr) {
    emit(
        frame,
        Mac::BROADCAST,
        &Arp {
            operation: Operation::Request,
            sender_mac: mac,
            sender: address,
            target_mac: Mac::BROADCAST,
            target: address,
            ethernet_source: mac,
        },
    );
}

/// Answers `to` alone that `mac` has `sender`.
pub fn reply(frame: &mut Vec<u8>, mac: Mac, sender: Ipv4Addr, to_mac: Mac, to: Ipv4Addr) {
    emit(
        frame,
        to_mac,
        &Arp {
            operation: Operation::Reply,
            sender_mac: mac,
            sender,
            target_mac: to_mac,
            target: to,
            ethernet_source: mac,
        },
    );
}

fn emit(frame: &mut Vec<u8>, destination: Mac, arp: &Arp) {
    ethernet::begin(frame, destination, arp.ethernet_source, ethernet::ETHERTYPE_ARP);
    frame.extend_from_slice(&ETHERNET_IPV4);
    frame.extend_from_slice(&arp.operation.code().to_be_bytes());
    frame.extend_from_slice(&arp.sender_mac.0);
    frame.extend_from_slice(&arp.sender.octets());
    frame.extend_from_slice(&arp.target_mac.0);
    frame.extend_from_slice(&arp.target.octets());
}
