//! Any Ethernet frame is read as ARP, as NDP, or not at all.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use standin_core::wire::checksum::Sum;
use standin_core::wire::neighbour::{self, Kind};
use standin_core::wire::{arp, ndp};

fuzz_target!(|frame: &[u8]| {
    look(frame);
    // Few mutations keep a checksum right; what lies behind it is looked at as well.
    let mut sealed = frame.to_vec();
    if seal(&mut sealed).is_some() {
        look(&sealed);
    }
});

/// Offsets within a frame that carries ICMPv6 right behind the IPv6 header.
const PAYLOAD_LEN: usize = 18;
const SOURCE: usize = 22;
const DESTINATION: usize = 38;
const ICMP: usize = 54;
const CHECKSUM: usize = 56;

fn seal(frame: &mut [u8]) -> Option<()> {
    let len = u16::from_be_bytes(*frame.get(PAYLOAD_LEN..)?.first_chunk()?);
    let source = IpAddr::from(*frame.get(SOURCE..)?.first_chunk::<16>()?);
    let destination = IpAddr::from(*frame.get(DESTINATION..)?.first_chunk::<16>()?);
    frame.get_mut(CHECKSUM..CHECKSUM + 2)?.fill(0);
    let message = frame.get(ICMP..)?.get(..usize::from(len))?;
    let sum = Sum::pseudo_header(source, destination, 58, len)?.bytes(message);
    frame[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.checksum().to_be_bytes());
    Some(())
}

fn look(frame: &[u8]) {
    let arp = arp::parse(frame);
    let ndp = ndp::parse(frame);
    assert!(arp.is_none() || ndp.is_none(), "a frame has one type");
    let Some(seen) = neighbour::parse(frame) else { return };
    match seen.address {
        IpAddr::V4(address) => {
            assert!(arp.is_some());
            assert!(seen.kind == Kind::Probing || !address.is_unspecified());
        }
        IpAddr::V6(_) => assert!(ndp.is_some()),
    }
}
