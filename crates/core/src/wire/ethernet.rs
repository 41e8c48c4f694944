//! The Ethernet header in front of ARP, NDP and adverts from a virtual MAC.
//!
//! Packet sockets hand frames over without their VLAN tag, so none is read here.

use super::{bytes_at, u16_at};
use crate::types::Mac;

/// ```text
///  0         6         12    14
/// +---------+---------+-----+--------
/// | to      | from    | type| payload
/// +---------+---------+-----+--------
/// ```
mod field {
    pub(super) const SOURCE: usize = 6;
    pub(super) const ETHERTYPE: usize = 12;
}

pub(super) const HEADER_LEN: usize = 14;
pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_ARP: u16 = 0x0806;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// The sender and the payload of a frame of type `ethertype`.
pub(super) fn parse(frame: &[u8], ethertype: u16) -> Option<(Mac, &[u8])> {
    if u16_at(frame, field::ETHERTYPE)? != ethertype {
        return None;
    }
    let source = bytes_at(frame, field::SOURCE).map(Mac)?;
    Some((source, frame.get(HEADER_LEN..)?))
}

/// Clears `frame` and writes the header.
pub(super) fn begin(frame: &mut Vec<u8>, destination: Mac, source: Mac, ethertype: u16) {
    frame.clear();
    frame.extend_from_slice(&destination.0);
    frame.extend_from_slice(&source.0);
    frame.extend_from_slice(&ethertype.to_be_bytes());
}
