//! Any IP payload is read or refused; what was read is written and read back the same.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use standin_core::plan::{ChecksumStyle, MAX_ADDRESSES_PER_FAMILY, Version};
use standin_core::wire::checksum::Sum;
use standin_core::wire::vrrp::{
    self, Advert, Envelope, MAX_LEN, MULTICAST_V4, MULTICAST_V6, Outgoing, PROTOCOL,
};

// One byte for the envelope, one for the hop limit, then the payload.
fuzz_target!(|data: &[u8]| {
    let [kind, hop_limit, payload @ ..] = data else { return };
    let envelope = envelope(*kind, *hop_limit);
    let _ = vrrp::check_hop_limit(&envelope);
    look(&envelope, payload);
    // Few mutations keep a checksum right; what lies behind it is looked at as well.
    let mut sealed = payload.to_vec();
    if seal(&envelope, &mut sealed).is_some() {
        look(&envelope, &sealed);
    }
});

/// The addresses of the recorded adverts in the corpus.
fn envelope(kind: u8, hop_limit: u8) -> Envelope {
    let v4 = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0xa));
    let (source, destination) = match kind {
        0 => (v4, MULTICAST_V4.into()),
        1 => (v4, IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2))),
        2 => (v6, MULTICAST_V6.into()),
        _ => (v4, v6),
    };
    Envelope { source, destination, hop_limit }
}

/// Puts the checksum right over as many bytes as the address count asks for.
fn seal(envelope: &Envelope, payload: &mut [u8]) -> Option<()> {
    let &[version_type, _, _, count, ..] = &*payload else { return None };
    let one = if envelope.source.is_ipv4() { 4 } else { 16 };
    let version_2 = version_type >> 4 == 2;
    let len = 8 + usize::from(count) * one + if version_2 { 8 } else { 0 };
    let message = payload.get_mut(..len)?;
    message[6..8].fill(0);
    let start = if version_2 {
        Sum::new()
    } else {
        let len = u16::try_from(len).ok()?;
        Sum::pseudo_header(envelope.source, envelope.destination, PROTOCOL, len)?
    };
    let checksum = start.bytes(message).checksum();
    message[6..8].copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

fn look(envelope: &Envelope, payload: &[u8]) {
    match vrrp::parse(envelope, payload) {
        Ok(advert) => writes_and_reads_back(envelope, &advert),
        Err(malformed) => assert!(!malformed.to_string().is_empty()),
    }
}

fn writes_and_reads_back(envelope: &Envelope, advert: &Advert<'_>) {
    let addresses: Vec<IpAddr> = advert.addresses.iter().collect();
    assert_eq!(addresses.len(), advert.addresses.len());
    assert!(addresses.iter().all(|address| address.is_ipv4() == envelope.source.is_ipv4()));
    assert_eq!(
        advert.checksum.is_some(),
        advert.version == Version::V3 && envelope.source.is_ipv4()
    );
    let mut buffer = Vec::new();
    vrrp::emit(
        &Outgoing {
            version: advert.version,
            vrid: advert.vrid,
            priority: advert.priority,
            interval: advert.interval,
            addresses: &addresses,
            password: advert.password,
            checksum: advert.checksum.unwrap_or(ChecksumStyle::WithPseudoHeader),
            source: envelope.source,
            destination: envelope.destination,
        },
        &mut buffer,
    );
    assert!(buffer.len() <= MAX_LEN);
    let again = vrrp::parse(envelope, &buffer).expect("our own advert is readable");
    assert_eq!((again.version, again.vrid), (advert.version, advert.vrid));
    assert_eq!((again.priority, again.interval), (advert.priority, advert.interval));
    assert_eq!((again.password, again.checksum), (advert.password, advert.checksum));
    assert!(again.addresses.iter().eq(addresses.into_iter().take(MAX_ADDRESSES_PER_FAMILY)));
}
