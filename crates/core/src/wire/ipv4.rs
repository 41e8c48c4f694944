//! The IPv4 header in front of an advert, for senders that write it themselves.

use std::net::Ipv4Addr;

use super::checksum::Sum;
use super::vrrp::{HOP_LIMIT, PROTOCOL, TRAFFIC_CLASS};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// Five words of four bytes: no options.
const VERSION: u8 = 0x45;
/// Whole, and never to be cut: an identification means nothing then (RFC 6864 §4.1).
const DONT_FRAGMENT: u16 = 0x4000;

/// The header of an advert whose VRRP message has `length` bytes (RFC 791 §3.1).
#[must_use]
pub fn header(source: Ipv4Addr, destination: Ipv4Addr, length: usize) -> [u8; HEADER_LEN] {
    // An advert has at most 80 addresses: a length always fits.
    let total = u16::try_from(HEADER_LEN + length).unwrap_or(u16::MAX);
    let mut header = [0; HEADER_LEN];
    header[..2].copy_from_slice(&[VERSION, TRAFFIC_CLASS]);
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8..10].copy_from_slice(&[HOP_LIMIT, PROTOCOL]);
    header[12..16].copy_from_slice(&source.octets());
    header[16..].copy_from_slice(&destination.octets());
    let sum = Sum::new().bytes(&header).checksum();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::vrrp::MULTICAST_V4;

    #[test]
    fn it_is_what_the_kernel_would_write() {
        let header = header(Ipv4Addr::new(192, 168, 1, 189), MULTICAST_V4, 12);
        assert_eq!(header[..10], [0x45, 0xc0, 0, 32, 0, 0, 0x40, 0, 255, 112]);
        assert!(Sum::new().bytes(&header).is_intact());
        assert_eq!(header[12..], [192, 168, 1, 189, 224, 0, 0, 18]);
    }
}
