//! Who has an address, read off ARP and NDP alike.

use std::net::{IpAddr, Ipv4Addr};

use super::arp::{self, Operation};
use super::ndp::{self, Ndp};
use crate::types::Mac;

/// What one frame says about one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub address: IpAddr,
    /// The MAC that has the address, or that asks for it while [`Kind::Probing`].
    pub mac: Mac,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The sender says that it has the address: it uses, announces or defends it.
    Claimed,
    /// The sender wants the address and asks whether it is free (RFC 5227 §2.1.1, RFC 4862 §5.4).
    Probing,
}

/// Reads a whole Ethernet frame; `None` when it says nothing about who has an address.
///
/// The MAC is the one that others will put into their caches: what ARP or the link-layer option
/// names, else the sender of the frame.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Sighting> {
    arp::parse(frame).and_then(from_arp).or_else(|| ndp::parse(frame).and_then(from_ndp))
}

fn from_arp(arp: arp::Arp) -> Option<Sighting> {
    let mac = arp.sender_mac;
    match arp.operation {
        Operation::Request if arp.sender == Ipv4Addr::UNSPECIFIED => {
            Some(Sighting { address: arp.target.into(), mac, kind: Kind::Probing })
        }
        Operation::Request | Operation::Reply if arp.sender != Ipv4Addr::UNSPECIFIED => {
            Some(Sighting { address: arp.sender.into(), mac, kind: Kind::Claimed })
        }
        _ => None,
    }
}

fn from_ndp(ndp: Ndp) -> Option<Sighting> {
    let (address, mac, kind) = match ndp {
        Ndp::Solicitation { source, target, ethernet_source, .. } if source.is_unspecified() => {
            (target, ethernet_source, Kind::Probing)
        }
        Ndp::Solicitation { source, source_mac, ethernet_source, .. } => {
            (source, source_mac.unwrap_or(ethernet_source), Kind::Claimed)
        }
        Ndp::Advertisement { target, target_mac, ethernet_source, .. } => {
            (target, target_mac.unwrap_or(ethernet_source), Kind::Claimed)
        }
    };
    Some(Sighting { address: address.into(), mac, kind })
}
