//! ARP and NDP frames: golden bytes, and what is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use standin_core::types::Mac;
use standin_core::wire::arp::{self, Arp, Operation};
use standin_core::wire::checksum::Sum;
use standin_core::wire::ndp::{self, Ndp};
use standin_core::wire::neighbour::{self, Kind, Sighting};

use super::hex;

const A: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
const B: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);

/// Debian's keepalived 2.2.7 announces 10.9.0.41.
const GRATUITOUS: &str = "ffffffffffff 02000000000a 0806 0001 0800 06 04 0001
    02000000000a 0a090029 ffffffffffff 0a090029";
/// A Linux 6.18 asks for 10.9.0.2 and is answered.
const WHO_HAS: &str = "ffffffffffff 02000000000a 0806 0001 0800 06 04 0001
    02000000000a 0a090001 000000000000 0a090002";
const IS_AT: &str = "02000000000a 02000000000b 0806 0001 0800 06 04 0002
    02000000000b 0a090002 02000000000a 0a090001";
/// RFC 5227 §2.1.1, by hand.
const ARP_PROBE: &str = "ffffffffffff 02000000000a 0806 0001 0800 06 04 0001
    02000000000a 00000000 000000000000 0a090029";

/// Debian's keepalived 2.2.7 announces fd09::41.
const UNSOLICITED: &str = "333300000001 02000000000a 86dd 60000000 0020 3a ff
    fd090000000000000000000000000041 ff020000000000000000000000000001
    88 00 5a00 20000000 fd090000000000000000000000000041 0201 02000000000a";
/// A Linux 6.18 looks for duplicates of fd09::1, with a nonce (RFC 7527).
const LINUX_DAD: &str = "3333ff000001 02000000000a 86dd 60000000 0020 3a ff
    00000000000000000000000000000000 ff0200000000000000000001ff000001
    87 00 8e63 00000000 fd090000000000000000000000000001 0e01 5a3a8907fded";
/// It asks for fd09::2 and is answered.
const NEIGHBOUR_SOLICITATION: &str = "3333ff000002 02000000000a 86dd 60000000 0020 3a ff
    fd090000000000000000000000000001 ff0200000000000000000001ff000002
    87 00 7d7c 00000000 fd090000000000000000000000000002 0101 02000000000a";
const NEIGHBOUR_ADVERTISEMENT: &str = "02000000000a 02000000000b 86dd 60000000 0020 3a ff
    fd090000000000000000000000000002 fd090000000000000000000000000001
    88 00 1c76 60000000 fd090000000000000000000000000002 0201 02000000000b";

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = vec![0xaa; 3];
    write(&mut frame);
    frame
}

fn sighting(address: &str, mac: Mac, kind: Kind) -> Option<Sighting> {
    Some(Sighting { address: address.parse::<IpAddr>().unwrap(), mac, kind })
}

#[test]
fn arp_is_written_as_recorded() {
    let vip = v4("10.9.0.41");
    let (a, b) = (v4("10.9.0.1"), v4("10.9.0.2"));
    assert_eq!(written(|frame| arp::announcement(frame, A, vip)), hex(GRATUITOUS));
    assert_eq!(written(|frame| arp::request(frame, A, a, b)), hex(WHO_HAS));
    assert_eq!(written(|frame| arp::reply(frame, B, b, A, a)), hex(IS_AT));
    assert_eq!(written(|frame| arp::probe(frame, A, vip)), hex(ARP_PROBE));
    assert_eq!(hex(ARP_PROBE).len(), arp::FRAME_LEN);
}

#[test]
fn ndp_is_written_as_recorded() {
    let (vip, a, b) = (v6("fd09::41"), v6("fd09::1"), v6("fd09::2"));
    assert_eq!(written(|frame| ndp::announcement(frame, A, vip, false)), hex(UNSOLICITED));
    assert_eq!(written(|frame| ndp::solicitation(frame, A, a, b)), hex(NEIGHBOUR_SOLICITATION));
    assert_eq!(hex(UNSOLICITED).len(), ndp::MAX_FRAME_LEN);
}

#[test]
fn a_probe_for_duplicates_is_linuxs_without_the_nonce() {
    let mut expected = hex(LINUX_DAD);
    expected.truncate(expected.len() - 8);
    expected[19] = 24;
    seal(&mut expected);
    assert_eq!(written(|frame| ndp::probe(frame, A, v6("fd09::1"))), expected);
}

#[test]
fn a_router_says_that_it_is_one() {
    let frame = written(|frame| ndp::announcement(frame, A, v6("fd09::41"), true));
    assert_eq!(frame[58], 0xa0);
    assert!(ndp::parse(&frame).is_some());
}

#[test]
fn arp_is_read_as_meant() {
    assert_eq!(
        arp::parse(&hex(IS_AT)),
        Some(Arp {
            operation: Operation::Reply,
            sender_mac: B,
            sender: v4("10.9.0.2"),
            target_mac: A,
            target: v4("10.9.0.1"),
            ethernet_source: B,
        })
    );
}

#[test]
fn ndp_is_read_as_meant() {
    assert_eq!(
        ndp::parse(&hex(NEIGHBOUR_ADVERTISEMENT)),
        Some(Ndp::Advertisement {
            source: v6("fd09::2"),
            target: v6("fd09::2"),
            target_mac: Some(B),
            ethernet_source: B,
            solicited: true,
            override_: true,
        })
    );
    assert_eq!(
        ndp::parse(&hex(NEIGHBOUR_SOLICITATION)),
        Some(Ndp::Solicitation {
            source: v6("fd09::1"),
            target: v6("fd09::2"),
            ethernet_source: A,
            source_mac: Some(A),
        })
    );
}

#[test]
fn who_has_an_address_is_read_off_either_family() {
    let cases = [
        (GRATUITOUS, sighting("10.9.0.41", A, Kind::Claimed)),
        (WHO_HAS, sighting("10.9.0.1", A, Kind::Claimed)),
        (IS_AT, sighting("10.9.0.2", B, Kind::Claimed)),
        (ARP_PROBE, sighting("10.9.0.41", A, Kind::Probing)),
        (UNSOLICITED, sighting("fd09::41", A, Kind::Claimed)),
        (LINUX_DAD, sighting("fd09::1", A, Kind::Probing)),
        (NEIGHBOUR_SOLICITATION, sighting("fd09::1", A, Kind::Claimed)),
        (NEIGHBOUR_ADVERTISEMENT, sighting("fd09::2", B, Kind::Claimed)),
    ];
    for (frame, expected) in cases {
        assert_eq!(neighbour::parse(&hex(frame)), expected, "{frame}");
    }
}

#[test]
fn the_claimed_mac_counts_not_the_frames() {
    let mut frame = hex(IS_AT);
    frame[11] = 0x0c;
    assert_eq!(neighbour::parse(&frame), sighting("10.9.0.2", B, Kind::Claimed));
    let mut frame = hex(NEIGHBOUR_ADVERTISEMENT);
    frame[11] = 0x0c;
    assert_eq!(neighbour::parse(&frame), sighting("fd09::2", B, Kind::Claimed));
}

#[test]
fn an_advertisement_without_a_mac_counts_for_its_frames_sender() {
    let mut frame = hex(NEIGHBOUR_ADVERTISEMENT);
    frame.truncate(frame.len() - 8);
    frame[19] = 24;
    seal(&mut frame);
    assert_eq!(neighbour::parse(&frame), sighting("fd09::2", B, Kind::Claimed));
}

#[test]
fn an_answer_in_nobodys_name_says_nothing() {
    let mut reply = hex(IS_AT);
    reply[28..32].fill(0);
    assert!(arp::parse(&reply).is_some());
    assert_eq!(neighbour::parse(&reply), None);

    let mut other = hex(IS_AT);
    other[21] = 3;
    assert_eq!(arp::parse(&other).unwrap().operation, Operation::Other(3));
    assert_eq!(neighbour::parse(&other), None);
}

#[test]
fn every_cut_frame_is_refused_and_padding_is_ignored() {
    for text in [GRATUITOUS, IS_AT, UNSOLICITED, LINUX_DAD, NEIGHBOUR_SOLICITATION] {
        let frame = hex(text);
        for len in 0..frame.len() {
            assert_eq!(neighbour::parse(&frame[..len]), None, "{len} bytes of {text}");
        }
        let mut padded = frame.clone();
        padded.resize(frame.len() + 18, 0);
        assert_eq!(neighbour::parse(&padded), neighbour::parse(&frame));
    }
}

#[test]
fn arp_for_anything_but_ipv4_over_ethernet_is_refused() {
    for offset in 12..20 {
        let mut frame = hex(IS_AT);
        frame[offset] ^= 1;
        assert_eq!(arp::parse(&frame), None, "byte {offset}");
    }
}

/// Puts the ICMPv6 checksum right.
fn seal(frame: &mut [u8]) {
    let len = u16::from_be_bytes([frame[18], frame[19]]);
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    let sum = Sum::pseudo_header(address(22), address(38), 58, len).unwrap();
    frame[56..58].fill(0);
    let checksum = sum.bytes(&frame[54..54 + usize::from(len)]).checksum();
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn ndp_is_held_to_rfc_4861_section_7_1() {
    type Spoil = fn(&mut [u8]);
    let cases: [(&str, &str, Spoil); 11] = [
        ("a router has forwarded it", UNSOLICITED, |frame| frame[21] = 254),
        ("code is not 0", UNSOLICITED, |frame| frame[55] = 1),
        ("it is no neighbour message", UNSOLICITED, |frame| frame[54] = 134),
        ("an extension header stands before it", UNSOLICITED, |frame| frame[20] = 0),
        ("it is not IPv6", UNSOLICITED, |frame| frame[14] = 0x40),
        ("target is multicast", UNSOLICITED, |frame| frame[62] = 0xff),
        ("an option has no length", UNSOLICITED, |frame| frame[79] = 0),
        ("an option is cut off", UNSOLICITED, |frame| frame[79] = 2),
        ("solicited goes to a group", UNSOLICITED, |frame| frame[58] = 0x60),
        ("a probe names its MAC", LINUX_DAD, |frame| frame[78] = 1),
        ("a probe goes to another group", LINUX_DAD, |frame| frame[53] = 2),
    ];
    for (why, text, spoil) in cases {
        let mut frame = hex(text);
        spoil(&mut frame);
        seal(&mut frame);
        assert_eq!(ndp::parse(&frame), None, "{why}");
    }
}

#[test]
fn ndp_with_a_flipped_bit_is_noticed() {
    for text in [UNSOLICITED, LINUX_DAD, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT] {
        let frame = hex(text);
        for bit in 22 * 8..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ndp::parse(&damaged), None, "bit {bit} of {text}");
        }
    }
}

#[test]
fn a_message_longer_than_its_frame_is_refused() {
    let mut frame = hex(UNSOLICITED);
    frame[18..20].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(ndp::parse(&frame), None);
}
