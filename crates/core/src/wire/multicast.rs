//! An advert to the group as a whole frame, for a sender whose MAC isn't the interface's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::vrrp::{HOP_LIMIT, PROTOCOL, TRAFFIC_CLASS};
use super::{ethernet, ipv4};
use crate::types::Mac;

/// Clears `frame` and writes `payload`, a VRRP message, into it: from `mac` and `source` to the group
/// `destination`. Nothing is written when the addresses are of different families.
pub fn frame(frame: &mut Vec<u8>, mac: Mac, source: IpAddr, destination: IpAddr, payload: &[u8]) {
    frame.clear();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            v4(frame, mac, source, destination, payload);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            v6(frame, mac, source, destination, payload);
        }
        _ => {}
    }
}

/// RFC 1112 §6.4.
fn v4(frame: &mut Vec<u8>, mac: Mac, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) {
    let [_, b, c, d] = destination.octets();
    let group = Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d]);
    ethernet::begin(frame, group, mac, ethernet::ETHERTYPE_IPV4);
    frame.extend_from_slice(&ipv4::header(source, destination, payload.len()));
    frame.extend_from_slice(payload);
}

/// RFC 8200 §3, RFC 2464 §7.
fn v6(frame: &mut Vec<u8>, mac: Mac, source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) {
    let [.., w, x, y, z] = destination.octets();
    let group = Mac([0x33, 0x33, w, x, y, z]);
    ethernet::begin(frame, group, mac, ethernet::ETHERTYPE_IPV6);
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let first = 0x6000_0000 | (u32::from(TRAFFIC_CLASS) << 20);
    frame.extend_from_slice(&first.to_be_bytes());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[PROTOCOL, HOP_LIMIT]);
    frame.extend_from_slice(&source.octets());
    frame.extend_from_slice(&destination.octets());
    frame.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Family, Vrid};
    use crate::wire::vrrp::{MULTICAST_V4, MULTICAST_V6};

    fn mac(family: Family) -> Mac {
        Mac::of_virtual_router(family, Vrid::new(41).unwrap())
    }

    #[test]
    fn an_ipv4_advert_is_framed_as_the_kernel_would() {
        let mut out = vec![1; 9];
        let source = Ipv4Addr::new(192, 168, 1, 189).into();
        frame(&mut out, mac(Family::V4), source, MULTICAST_V4.into(), &[0x31, 41, 150, 1]);
        let (ethernet, ip) = out.split_at(14);
        assert_eq!(ethernet, [1, 0, 0x5e, 0, 0, 18, 0, 0, 0x5e, 0, 1, 41, 8, 0]);
        assert_eq!(ip[..20], ipv4::header(Ipv4Addr::new(192, 168, 1, 189), MULTICAST_V4, 4));
        assert_eq!(ip[12..], [192, 168, 1, 189, 224, 0, 0, 18, 0x31, 41, 150, 1]);
    }

    #[test]
    fn an_ipv6_advert_is_framed_as_the_kernel_would() {
        let mut out = Vec::new();
        let source: Ipv6Addr = "fe80::1".parse().unwrap();
        frame(&mut out, mac(Family::V6), source.into(), MULTICAST_V6.into(), &[0x31, 41]);
        let (ethernet, ip) = out.split_at(14);
        assert_eq!(ethernet, [0x33, 0x33, 0, 0, 0, 18, 0, 0, 0x5e, 0, 2, 41, 0x86, 0xdd]);
        assert_eq!(ip[..8], [0x6c, 0, 0, 0, 0, 2, 112, 255]);
        assert_eq!(ip[8..24], source.octets());
        assert_eq!(ip[24..40], MULTICAST_V6.octets());
        assert_eq!(ip[40..], [0x31, 41]);
    }

    #[test]
    fn addresses_of_two_families_make_no_frame() {
        let mut out = vec![1];
        let source = Ipv4Addr::LOCALHOST.into();
        frame(&mut out, mac(Family::V4), source, MULTICAST_V6.into(), &[]);
        assert!(out.is_empty());
    }
}
