//! What holds for all inputs: what is written is read back, and nothing panics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use standin_core::plan::{ChecksumStyle, MAX_ADDRESSES_PER_FAMILY, Version};
use standin_core::types::{IntervalCs, Mac, Priority, Vrid};
use standin_core::wire::checksum::Sum;
use standin_core::wire::neighbour::{self, Kind};
use standin_core::wire::vrrp::{self, Envelope, Outgoing, PROTOCOL};
use standin_core::wire::{arp, ndp};

/// An advert of either family with everything that [`Outgoing`] borrows.
#[derive(Clone, Debug)]
struct Draft {
    version: Version,
    vrid: u8,
    priority: u8,
    interval_cs: u16,
    addresses: Vec<IpAddr>,
    password: Option<[u8; 8]>,
    checksum: ChecksumStyle,
    source: IpAddr,
    destination: IpAddr,
}

impl Draft {
    fn outgoing(&self) -> Outgoing<'_> {
        Outgoing {
            version: self.version,
            vrid: Vrid::new(self.vrid).unwrap(),
            priority: Priority(self.priority),
            interval: IntervalCs::new(self.interval_cs).unwrap(),
            addresses: &self.addresses,
            password: self.password,
            checksum: self.checksum,
            source: self.source,
            destination: self.destination,
        }
    }

    /// One pseudo-header in 65,535 sums to nothing; then the two forms are the same bytes.
    fn forms_are_alike(&self, len: usize) -> bool {
        Sum::pseudo_header(self.source, self.destination, PROTOCOL, u16::try_from(len).unwrap())
            .unwrap()
            .is_intact()
    }
}

fn address(v6: bool) -> BoxedStrategy<IpAddr> {
    if v6 {
        any::<Ipv6Addr>().prop_map(IpAddr::from).boxed()
    } else {
        any::<Ipv4Addr>().prop_map(IpAddr::from).boxed()
    }
}

fn draft() -> impl Strategy<Value = Draft> {
    (any::<bool>(), any::<bool>()).prop_flat_map(|(v6, version_2)| {
        let version = if version_2 && !v6 { Version::V2 } else { Version::V3 };
        let without = any::<bool>();
        (
            (1..=u8::MAX, any::<u8>(), 1..=4095_u16, any::<Option<[u8; 8]>>(), without),
            vec(address(v6), 0..=MAX_ADDRESSES_PER_FAMILY),
            address(v6),
            address(v6),
        )
            .prop_map(move |(numbers, addresses, source, destination)| {
                let (vrid, priority, interval_cs, password, without) = numbers;
                let checksum = if without {
                    ChecksumStyle::WithoutPseudoHeader
                } else {
                    ChecksumStyle::WithPseudoHeader
                };
                Draft {
                    version,
                    vrid,
                    priority,
                    interval_cs,
                    addresses,
                    password,
                    checksum,
                    source,
                    destination,
                }
            })
    })
}

proptest! {
    #[test]
    fn an_advert_is_read_back_as_written(draft in draft()) {
        let mut buffer = Vec::new();
        vrrp::emit(&draft.outgoing(), &mut buffer);
        let (source, destination) = (draft.source, draft.destination);
        let advert = vrrp::parse(&Envelope { source, destination, hop_limit: 255 }, &buffer);
        let advert = advert.unwrap();

        prop_assert_eq!(advert.version, draft.version);
        prop_assert_eq!(advert.vrid.get(), draft.vrid);
        prop_assert_eq!(advert.priority.0, draft.priority);
        prop_assert!(advert.addresses.iter().eq(draft.addresses.iter().copied()));
        prop_assert_eq!(advert.addresses.len(), draft.addresses.len());
        prop_assert_eq!(advert.addresses.is_empty(), draft.addresses.is_empty());
        if draft.version == Version::V2 {
            prop_assert_eq!(advert.interval.get(), (draft.interval_cs.div_ceil(100) * 100).min(4095));
            prop_assert_eq!(advert.password, draft.password);
            prop_assert_eq!(advert.checksum, None);
        } else {
            prop_assert_eq!(advert.interval.get(), draft.interval_cs);
            prop_assert_eq!(advert.password, None);
            let expected = source.is_ipv4().then_some(draft.checksum);
            prop_assert!(advert.checksum == expected || draft.forms_are_alike(buffer.len()));
        }
    }

    #[test]
    fn no_advert_makes_the_reader_panic(
        v6 in any::<bool>(),
        hop_limit in any::<u8>(),
        head in prop::sample::select(std::vec![0x21_u8, 0x31, 0x00, 0xff]),
        mut payload in vec(any::<u8>(), 0..400),
    ) {
        if let Some(first) = payload.first_mut() {
            *first = head;
        }
        let source = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let envelope = Envelope { source, destination: source, hop_limit };
        if let Ok(advert) = vrrp::parse(&envelope, &payload) {
            prop_assert!(advert.addresses.iter().count() == advert.addresses.len());
        }
    }

    #[test]
    fn no_frame_makes_the_reader_panic(
        ethertype in prop::sample::select(std::vec![[0x08_u8, 0x06], [0x86, 0xdd], [0x08, 0x00]]),
        mut frame in vec(any::<u8>(), 0..200),
    ) {
        if let Some(place) = frame.get_mut(12..14) {
            place.copy_from_slice(&ethertype);
        }
        let _ = neighbour::parse(&frame);
    }

    #[test]
    fn what_we_announce_is_a_claim(mac in any::<[u8; 6]>(), a in any::<Ipv4Addr>(), b in any::<Ipv6Addr>()) {
        prop_assume!(!a.is_unspecified() && !b.is_multicast());
        let mac = Mac(mac);
        let mut frame = Vec::new();
        arp::announcement(&mut frame, mac, a);
        let seen = neighbour::parse(&frame).unwrap();
        prop_assert_eq!((seen.address, seen.mac, seen.kind), (a.into(), mac, Kind::Claimed));
        ndp::announcement(&mut frame, mac, b, false);
        let seen = neighbour::parse(&frame).unwrap();
        prop_assert_eq!((seen.address, seen.mac, seen.kind), (b.into(), mac, Kind::Claimed));
    }

    #[test]
    fn what_we_probe_is_no_claim(mac in any::<[u8; 6]>(), a in any::<Ipv4Addr>(), b in any::<Ipv6Addr>()) {
        prop_assume!(!b.is_multicast());
        let mac = Mac(mac);
        let mut frame = Vec::new();
        arp::probe(&mut frame, mac, a);
        let seen = neighbour::parse(&frame).unwrap();
        prop_assert_eq!((seen.address, seen.mac, seen.kind), (a.into(), mac, Kind::Probing));
        ndp::probe(&mut frame, mac, b);
        let seen = neighbour::parse(&frame).unwrap();
        prop_assert_eq!((seen.address, seen.mac, seen.kind), (b.into(), mac, Kind::Probing));
    }

    #[test]
    fn data_is_intact_until_a_bit_flips(mut data in vec(any::<u8>(), 2..100), at in any::<prop::sample::Index>()) {
        data[0..2].fill(0);
        let checksum = Sum::new().bytes(&data).checksum();
        data[0..2].copy_from_slice(&checksum.to_be_bytes());
        prop_assert!(Sum::new().bytes(&data).is_intact());
        let bit = at.index(data.len() * 8);
        data[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!Sum::new().bytes(&data).is_intact());
    }
}
