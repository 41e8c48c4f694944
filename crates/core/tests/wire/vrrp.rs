//! VRRP adverts: golden bytes, and what is refused.

use std::net::IpAddr;

use standin_core::plan::{ChecksumStyle, Version};
use standin_core::types::{IntervalCs, Priority, Vrid};
use standin_core::wire::checksum::Sum;
use standin_core::wire::vrrp::{
    self, Advert, Envelope, MAX_LEN, MULTICAST_V4, MULTICAST_V6, Malformed, Outgoing, PROTOCOL,
};

use super::hex;

/// Bytes that were on a wire, and what they mean.
struct Golden {
    name: &'static str,
    source: &'static str,
    destination: &'static str,
    bytes: &'static str,
    version: Version,
    vrid: u8,
    priority: u8,
    interval_cs: u16,
    addresses: &'static [&'static str],
    password: Option<&'static [u8; 8]>,
    checksum: Option<ChecksumStyle>,
}

const PLAIN: Golden = Golden {
    name: "",
    source: "10.9.0.1",
    destination: "224.0.0.18",
    bytes: "",
    version: Version::V3,
    vrid: 0,
    priority: 0,
    interval_cs: 100,
    addresses: &[],
    password: None,
    checksum: None,
};

/// Recorded from Debian's keepalived 2.2.7; "stop" is what it says when it is terminated.
const KEEPALIVED: &[Golden] = &[
    Golden {
        name: "v2",
        bytes: "21299601 00013ea2 0a090029 0000000000000000",
        version: Version::V2,
        vrid: 41,
        priority: 150,
        addresses: &["10.9.0.41"],
        ..PLAIN
    },
    Golden {
        name: "v2 stop",
        bytes: "21290001 0001d4a2 0a090029 0000000000000000",
        version: Version::V2,
        vrid: 41,
        addresses: &["10.9.0.41"],
        ..PLAIN
    },
    Golden {
        name: "v2 with a password of six characters",
        bytes: "212a6402 0103294f 0a09002a 0a09002b 7333637265740000",
        version: Version::V2,
        vrid: 42,
        priority: 100,
        interval_cs: 300,
        addresses: &["10.9.0.42", "10.9.0.43"],
        password: Some(b"s3cret\0\0"),
        ..PLAIN
    },
    Golden {
        name: "v2 with a password of six characters, stop",
        bytes: "212a0002 01038d4f 0a09002a 0a09002b 7333637265740000",
        version: Version::V2,
        vrid: 42,
        interval_cs: 300,
        addresses: &["10.9.0.42", "10.9.0.43"],
        password: Some(b"s3cret\0\0"),
        ..PLAIN
    },
    Golden {
        name: "v2 with a password of eight characters",
        bytes: "212f6401 0101c5ee 0a09002f 6569676874636872",
        version: Version::V2,
        vrid: 47,
        priority: 100,
        addresses: &["10.9.0.47"],
        password: Some(b"eightchr"),
        ..PLAIN
    },
    Golden {
        name: "v3 IPv4",
        bytes: "312bc803 000afd83 0a09002c 0a09002d 0a09002e",
        vrid: 43,
        priority: 200,
        interval_cs: 10,
        addresses: &["10.9.0.44", "10.9.0.45", "10.9.0.46"],
        checksum: Some(ChecksumStyle::WithPseudoHeader),
        ..PLAIN
    },
    Golden {
        name: "v3 IPv4 stop",
        bytes: "312b0003 000ac584 0a09002c 0a09002d 0a09002e",
        vrid: 43,
        interval_cs: 10,
        addresses: &["10.9.0.44", "10.9.0.45", "10.9.0.46"],
        checksum: Some(ChecksumStyle::WithPseudoHeader),
        ..PLAIN
    },
    Golden {
        name: "v3 IPv4 unicast",
        destination: "10.9.0.2",
        bytes: "312cfe01 0064b1a7 0a09002c",
        vrid: 44,
        priority: 254,
        addresses: &["10.9.0.44"],
        checksum: Some(ChecksumStyle::WithPseudoHeader),
        ..PLAIN
    },
    Golden {
        name: "v3 IPv4 unicast stop",
        destination: "10.9.0.2",
        bytes: "312c0001 0064afa8 0a09002c",
        vrid: 44,
        addresses: &["10.9.0.44"],
        checksum: Some(ChecksumStyle::WithPseudoHeader),
        ..PLAIN
    },
    Golden {
        name: "v3 IPv4, 1 s",
        bytes: "31307801 00646198 0a090030",
        vrid: 48,
        priority: 120,
        addresses: &["10.9.0.48"],
        checksum: Some(ChecksumStyle::WithPseudoHeader),
        ..PLAIN
    },
    Golden {
        name: "v3 IPv4 owner, 40 s, highest router id",
        bytes: "31ffff01 0fa0ca8b 0a090031",
        vrid: 255,
        priority: 255,
        interval_cs: 4000,
        addresses: &["10.9.0.49"],
        checksum: Some(ChecksumStyle::WithPseudoHeader),
        ..PLAIN
    },
    Golden {
        name: "v3 IPv6",
        source: "fe80::ff:fe00:a",
        destination: "ff02::12",
        bytes: "312d6502 00327059 fe800000000000000000000000000041 fd090000000000000000000000000041",
        vrid: 45,
        priority: 101,
        interval_cs: 50,
        addresses: &["fe80::41", "fd09::41"],
        ..PLAIN
    },
    Golden {
        name: "v3 IPv6 stop",
        source: "fe80::ff:fe00:a",
        destination: "ff02::12",
        bytes: "312d0002 0032d559 fe800000000000000000000000000041 fd090000000000000000000000000041",
        vrid: 45,
        interval_cs: 50,
        addresses: &["fe80::41", "fd09::41"],
        ..PLAIN
    },
];

/// Written by hand after the RFCs' drawings, checksums added up on paper.
const BY_HAND: &[Golden] = &[
    // 3101 + 6401 + 0064 + c0a8 + 0129 = 5738 with the carry; its complement is a8c7.
    Golden {
        name: "RFC 9568, IPv4",
        source: "192.168.1.189",
        bytes: "31016401 0064a8c7 c0a80129",
        vrid: 1,
        priority: 100,
        addresses: &["192.168.1.41"],
        checksum: Some(ChecksumStyle::WithoutPseudoHeader),
        ..PLAIN
    },
    // 3107 + 0100 + 0fff = 4206; complement bdf9.
    Golden {
        name: "RFC 9568, longest interval, no address",
        source: "192.168.1.189",
        bytes: "31070100 0fffbdf9",
        vrid: 7,
        priority: 1,
        interval_cs: 4095,
        checksum: Some(ChecksumStyle::WithoutPseudoHeader),
        ..PLAIN
    },
    // 2101 + 6401 + 0001 + c0a8 + 0129 = 46d5 with the carry; complement b92a.
    Golden {
        name: "RFC 3768",
        source: "192.168.1.189",
        bytes: "21016401 0001b92a c0a80129 0000000000000000",
        version: Version::V2,
        vrid: 1,
        priority: 100,
        addresses: &["192.168.1.41"],
        ..PLAIN
    },
];

impl Golden {
    fn all() -> impl Iterator<Item = &'static Self> {
        KEEPALIVED.iter().chain(BY_HAND)
    }

    fn envelope(&self) -> Envelope {
        Envelope {
            source: self.source.parse().unwrap(),
            destination: self.destination.parse().unwrap(),
            hop_limit: 255,
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn emit(&self) -> Vec<u8> {
        let envelope = self.envelope();
        let mut buffer = vec![0xaa; 3];
        vrrp::emit(
            &Outgoing {
                version: self.version,
                vrid: Vrid::new(self.vrid).unwrap(),
                priority: Priority(self.priority),
                interval: IntervalCs::new(self.interval_cs).unwrap(),
                addresses: &self.addresses(),
                password: self.password.copied(),
                checksum: self.checksum.unwrap_or(ChecksumStyle::WithPseudoHeader),
                source: envelope.source,
                destination: envelope.destination,
            },
            &mut buffer,
        );
        buffer
    }
}

#[test]
fn recorded_and_hand_made_adverts_are_read_as_meant() {
    for golden in Golden::all() {
        let bytes = hex(golden.bytes);
        let advert = vrrp::parse(&golden.envelope(), &bytes)
            .unwrap_or_else(|error| panic!("{}: {error}", golden.name));
        assert_eq!(advert.version, golden.version, "{}", golden.name);
        assert_eq!(advert.vrid.get(), golden.vrid, "{}", golden.name);
        assert_eq!(advert.priority.0, golden.priority, "{}", golden.name);
        assert_eq!(advert.interval.get(), golden.interval_cs, "{}", golden.name);
        assert_eq!(advert.addresses.len(), golden.addresses.len(), "{}", golden.name);
        assert_eq!(advert.addresses.iter().collect::<Vec<_>>(), golden.addresses());
        assert_eq!(advert.password, golden.password.copied(), "{}", golden.name);
        assert_eq!(advert.checksum, golden.checksum, "{}", golden.name);
    }
}

#[test]
fn the_same_meaning_is_sent_as_the_same_bytes() {
    for golden in Golden::all() {
        assert_eq!(golden.emit(), hex(golden.bytes), "{}", golden.name);
    }
}

#[test]
fn every_cut_advert_is_short() {
    for golden in Golden::all() {
        let bytes = hex(golden.bytes);
        for have in 0..bytes.len() {
            let need = if have < 8 { 8 } else { bytes.len() };
            assert_eq!(
                vrrp::parse(&golden.envelope(), &bytes[..have]).unwrap_err(),
                Malformed::Short { have, need },
                "{}",
                golden.name
            );
        }
    }
}

#[test]
fn bytes_behind_the_advert_are_ignored() {
    for golden in Golden::all() {
        let bytes = hex(golden.bytes);
        let mut padded = bytes.clone();
        padded.extend_from_slice(&[0xff; 9]);
        let envelope = golden.envelope();
        assert_eq!(vrrp::parse(&envelope, &padded), vrrp::parse(&envelope, &bytes));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for golden in Golden::all() {
        let bytes = hex(golden.bytes);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                vrrp::parse(&golden.envelope(), &damaged).is_err(),
                "{}: bit {bit} flipped",
                golden.name
            );
        }
    }
}

#[test]
fn a_pseudo_header_checksum_binds_the_advert_to_its_envelope() {
    for golden in Golden::all() {
        let bytes = hex(golden.bytes);
        let bound = golden.version == Version::V3
            && golden.checksum != Some(ChecksumStyle::WithoutPseudoHeader);
        let mut envelope = golden.envelope();
        envelope.source = match envelope.source {
            IpAddr::V4(_) => "10.9.0.77".parse().unwrap(),
            IpAddr::V6(_) => "fe80::77".parse().unwrap(),
        };
        assert_eq!(vrrp::parse(&envelope, &bytes).is_err(), bound, "{}", golden.name);
    }
}

/// `bytes` with a checksum that fits, in the form without pseudo-header.
fn sealed(bytes: &str) -> Vec<u8> {
    let mut bytes = hex(bytes);
    bytes[6..8].fill(0);
    let checksum = Sum::new().bytes(&bytes).checksum();
    bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn read_v4(bytes: &[u8]) -> Result<Advert<'_>, Malformed> {
    vrrp::parse(&PLAIN.envelope(), bytes)
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("11016401 00640000 c0a80129", Malformed::Version(1)),
        ("41016401 00640000 c0a80129", Malformed::Version(4)),
        ("32016401 00640000 c0a80129", Malformed::Type(2)),
        ("31006401 00640000 c0a80129", Malformed::RouterIdZero),
        ("31016401 00000000 c0a80129", Malformed::IntervalZero),
        ("31016401 f0000000 c0a80129", Malformed::IntervalZero),
        ("21016401 00000000 c0a80129 0000000000000000", Malformed::IntervalZero),
        ("21016401 02010000 c0a80129 0000000000000000", Malformed::AuthType(2)),
    ];
    for (bytes, expected) in cases {
        assert_eq!(read_v4(&sealed(bytes)).unwrap_err(), expected);
    }
    let damaged = hex("31016401 00641234 c0a80129");
    assert_eq!(read_v4(&damaged).unwrap_err(), Malformed::Checksum(0x1234));
}

#[test]
fn reserved_bits_are_ignored() {
    let bytes = sealed("31016401 f0640000 c0a80129");
    assert_eq!(read_v4(&bytes).unwrap().interval.get(), 100);
}

#[test]
fn version_2_over_ipv6_is_refused_and_never_sent() {
    let bytes = hex("21016400 00010000 0000000000000000");
    let source: IpAddr = "fe80::1".parse().unwrap();
    let envelope = Envelope { source, destination: MULTICAST_V6.into(), hop_limit: 255 };
    assert_eq!(vrrp::parse(&envelope, &bytes).unwrap_err(), Malformed::FamilyVersion);

    let golden = Golden {
        version: Version::V2,
        source: "fe80::1",
        destination: "ff02::12",
        vrid: 1,
        ..PLAIN
    };
    assert_eq!(golden.emit(), []);
}

#[test]
fn an_envelope_of_two_families_is_refused_and_never_sent() {
    let bytes = hex(KEEPALIVED[5].bytes);
    let source: IpAddr = "10.9.0.1".parse().unwrap();
    let envelope = Envelope { source, destination: MULTICAST_V6.into(), hop_limit: 255 };
    assert_eq!(vrrp::parse(&envelope, &bytes).unwrap_err(), Malformed::MixedFamilies);
    assert_eq!(Golden { destination: "ff02::12", vrid: 1, ..PLAIN }.emit(), []);
}

#[test]
fn more_than_40_seconds_of_version_2_are_read_as_the_longest_interval() {
    for (seconds, expected) in [("28", 4000), ("29", 4095), ("ff", 4095)] {
        let bytes = sealed(&format!("21016401 00{seconds}0000 c0a80129 0000000000000000"));
        assert_eq!(read_v4(&bytes).unwrap().interval.get(), expected);
    }
}

#[test]
fn a_password_of_authentication_type_none_is_no_password() {
    let bytes = sealed("21016401 00010000 c0a80129 6569676874636872");
    assert_eq!(read_v4(&bytes).unwrap().password, None);
}

#[test]
fn only_a_hop_limit_of_255_is_local() {
    let mut envelope = PLAIN.envelope();
    assert_eq!(vrrp::check_hop_limit(&envelope), Ok(()));
    envelope.hop_limit = 254;
    assert_eq!(vrrp::check_hop_limit(&envelope), Err(Malformed::HopLimit(254)));
}

#[test]
fn addresses_of_the_other_family_are_left_out() {
    let mixed = Golden { vrid: 1, addresses: &["fd09::41", "10.9.0.41"], ..PLAIN };
    let bytes = mixed.emit();
    let advert = read_v4(&bytes).unwrap();
    assert_eq!(advert.addresses.iter().collect::<Vec<_>>(), [mixed.addresses()[1]]);
}

#[test]
fn no_advert_is_longer_than_the_longest() {
    let many: Vec<IpAddr> = (0..300).map(|n| [0xfd09, 0, 0, 0, 0, 0, 0, n].into()).collect();
    let source: IpAddr = "fe80::1".parse().unwrap();
    let mut buffer = Vec::new();
    vrrp::emit(
        &Outgoing {
            version: Version::V3,
            vrid: Vrid::new(1).unwrap(),
            priority: Priority::DEFAULT,
            interval: IntervalCs::MIN,
            addresses: &many,
            password: None,
            checksum: ChecksumStyle::WithPseudoHeader,
            source,
            destination: MULTICAST_V6.into(),
        },
        &mut buffer,
    );
    assert_eq!(buffer.len(), MAX_LEN);
    let envelope = Envelope { source, destination: MULTICAST_V6.into(), hop_limit: 255 };
    let advert = vrrp::parse(&envelope, &buffer).unwrap();
    assert!(advert.addresses.iter().eq(many.into_iter().take(80)));
}

#[test]
fn refusals_speak_in_numbers() {
    let cases = [
        (Malformed::Short { have: 12, need: 20 }, "12 bytes, 20 are needed"),
        (Malformed::Version(4), "VRRP version 4, only 2 and 3 are known"),
        (Malformed::Checksum(0x0a), "checksum 0x000a does not fit the packet: damaged or altered"),
        (Malformed::HopLimit(63), "hop limit 63 instead of 255: it crossed a router"),
    ];
    for (malformed, text) in cases {
        assert_eq!(malformed.to_string(), text);
    }
}

#[test]
fn the_well_known_numbers_are_the_rfcs() {
    assert_eq!(MULTICAST_V4.to_string(), "224.0.0.18");
    assert_eq!(MULTICAST_V6.to_string(), "ff02::12");
    assert_eq!(PROTOCOL, 112);
}
