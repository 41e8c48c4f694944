//! VRRP adverts, version 3 (RFC 9568 §5) and version 2 (RFC 3768 §5), read into one meaning.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Sum;
use super::put_u16;
use crate::plan::{ChecksumStyle, MAX_ADDRESSES_PER_FAMILY, Version};
use crate::types::{Family, IntervalCs, Priority, Vrid};

/// RFC 9568 §5.1.1.2.
pub const MULTICAST_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// RFC 9568 §5.1.2.2.
pub const MULTICAST_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// The IP protocol number (RFC 9568 §5.1.1.4).
pub const PROTOCOL: u8 = 112;
/// The hop limit of every advert that has crossed no router (RFC 9568 §5.1.1.3).
pub const HOP_LIMIT: u8 = 255;
/// Class selector 6, "internetwork control", as routers mark their protocols (RFC 4594 §3.1).
pub const TRAFFIC_CLASS: u8 = 0xc0;

/// Both versions begin with eight bytes; only the fifth and sixth differ.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |Version| Type  | Router id     |   Priority    | Address count |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |Reserve|   Interval, 10 ms     |           Checksum            |  version 3
/// |   Auth type   |  Interval, s  |           Checksum            |  version 2
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                    Addresses, 4 or 16 bytes each              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                    Authentication data, 8 bytes               |  version 2
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
const HEADER_LEN: usize = 8;
const COUNT: usize = 3;
const CHECKSUM: usize = 6;
const AUTH_LEN: usize = 8;

const VERSION_2: u8 = 2;
const VERSION_3: u8 = 3;
/// The only type there is (RFC 9568 §5.2.2).
const TYPE_ADVERTISEMENT: u8 = 1;
/// RFC 3768 §5.3.6.
const AUTH_NONE: u8 = 0;
/// RFC 2338 §5.3.6; later RFCs took it away, keepalived still sends it.
const AUTH_PASSWORD: u8 = 1;

/// The longest payload that [`emit`] writes.
pub const MAX_LEN: usize = HEADER_LEN + MAX_ADDRESSES_PER_FAMILY * 16;

/// What the IP header around an advert said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL for IPv4.
    pub hop_limit: u8,
}

/// One advert as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert<'a> {
    pub version: Version,
    pub vrid: Vrid,
    pub priority: Priority,
    /// Version 2 counts seconds up to 255; more than 40 of them are read as 40.95 s.
    pub interval: IntervalCs,
    pub addresses: Addresses<'a>,
    /// Version 2 with simple text authentication only.
    pub password: Option<[u8; 8]>,
    /// Version 3 over IPv4 only: which of the two forms the checksum had.
    pub checksum: Option<ChecksumStyle>,
}

/// The addresses of an advert, still in its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Addresses<'a> {
    bytes: &'a [u8],
    family: Family,
}

impl<'a> Addresses<'a> {
    /// In the order of the packet.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> + 'a {
        let one = address_len(self.family);
        self.bytes.chunks_exact(one).filter_map(|chunk| {
            let v4 = <[u8; 4]>::try_from(chunk).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(chunk).map(IpAddr::from)).ok()
        })
    }

    #[must_use]
    pub const fn len(self) -> usize {
        self.bytes.len() / address_len(self.family)
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }
}

impl fmt::Debug for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Why a packet is no advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Bytes that are there, bytes that its own address count asks for.
    Short {
        have: usize,
        need: usize,
    },
    Version(u8),
    Type(u8),
    /// The checksum that it carried.
    Checksum(u16),
    HopLimit(u8),
    RouterIdZero,
    AuthType(u8),
    IntervalZero,
    /// Version 2 over IPv6.
    FamilyVersion,
    /// Source and destination of different families: the envelope is wrong, not the packet.
    MixedFamilies,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Short { have, need } => write!(f, "{have} bytes, {need} are needed"),
            Self::Version(version) => write!(f, "VRRP version {version}, only 2 and 3 are known"),
            Self::Type(kind) => write!(f, "VRRP type {kind}, only 1 (advertisement) is known"),
            Self::Checksum(carried) => {
                write!(f, "checksum {carried:#06x} does not fit the packet: damaged or altered")
            }
            Self::HopLimit(hops) => {
                write!(f, "hop limit {hops} instead of {HOP_LIMIT}: it crossed a router")
            }
            Self::RouterIdZero => f.write_str("virtual router id 0, it must be 1 to 255"),
            Self::AuthType(kind) => {
                write!(f, "authentication type {kind}, only 0 (none) and 1 (password) are known")
            }
            Self::IntervalZero => f.write_str("advertisement interval 0"),
            Self::FamilyVersion => f.write_str("VRRP version 2 over IPv6, which needs version 3"),
            Self::MixedFamilies => f.write_str("one address of the IP header is IPv4, one is IPv6"),
        }
    }
}

impl std::error::Error for Malformed {}

/// The rule that keeps remote packets out (RFC 9568 §7.1); unicast peers may be some hops away.
///
/// # Errors
/// [`Malformed::HopLimit`] when it isn't 255.
pub fn check_hop_limit(envelope: &Envelope) -> Result<(), Malformed> {
    if envelope.hop_limit == HOP_LIMIT {
        Ok(())
    } else {
        Err(Malformed::HopLimit(envelope.hop_limit))
    }
}

/// Reads an IP payload of protocol 112.
///
/// Reserved bits are ignored (RFC 9568 §5.2.6), bytes behind the advert too, and an advert
/// without addresses is one. Version 3 over IPv4 may carry either form of checksum.
///
/// # Errors
/// What is wrong with the packet; the hop limit is left to [`check_hop_limit`].
pub fn parse<'a>(envelope: &Envelope, payload: &'a [u8]) -> Result<Advert<'a>, Malformed> {
    let family = Family::of(envelope.source);
    if family != Family::of(envelope.destination) {
        return Err(Malformed::MixedFamilies);
    }
    let Some((header, body)) = payload.split_first_chunk::<HEADER_LEN>() else {
        return Err(Malformed::Short { have: payload.len(), need: HEADER_LEN });
    };
    let [version_type, vrid, priority, count, fifth, sixth, sum_high, sum_low] = *header;
    let version = match (version_type >> 4, family) {
        (VERSION_2, Family::V4) => Version::V2,
        (VERSION_2, Family::V6) => return Err(Malformed::FamilyVersion),
        (VERSION_3, _) => Version::V3,
        (other, _) => return Err(Malformed::Version(other)),
    };
    if version_type & 0x0f != TYPE_ADVERTISEMENT {
        return Err(Malformed::Type(version_type & 0x0f));
    }

    let addresses_len = usize::from(count) * address_len(family);
    let auth_len = if version == Version::V2 { AUTH_LEN } else { 0 };
    let need = HEADER_LEN + addresses_len + auth_len;
    let short = Malformed::Short { have: payload.len(), need };
    let message = payload.get(..need).ok_or(short)?;
    let (addresses, behind) = body.split_at_checked(addresses_len).ok_or(short)?;
    let carried = u16::from_be_bytes([sum_high, sum_low]);
    let checksum = verify(envelope, version, message).ok_or(Malformed::Checksum(carried))?;

    let vrid = Vrid::new(vrid).ok_or(Malformed::RouterIdZero)?;
    let (centiseconds, password) = match version {
        Version::V3 => (u16::from_be_bytes([fifth & 0x0f, sixth]), None),
        Version::V2 => {
            let password = match fifth {
                AUTH_NONE => None,
                AUTH_PASSWORD => Some(*behind.first_chunk().ok_or(short)?),
                other => return Err(Malformed::AuthType(other)),
            };
            ((u16::from(sixth) * 100).min(IntervalCs::MAX.get()), password)
        }
    };
    Ok(Advert {
        version,
        vrid,
        priority: Priority(priority),
        interval: IntervalCs::new(centiseconds).ok_or(Malformed::IntervalZero)?,
        addresses: Addresses { bytes: addresses, family },
        password,
        checksum,
    })
}

/// `None` when the checksum is wrong; else its form, where there are two.
fn verify(envelope: &Envelope, version: Version, message: &[u8]) -> Option<Option<ChecksumStyle>> {
    let plain = || Sum::new().bytes(message).is_intact();
    let with_pseudo_header = || {
        pseudo_header(envelope.source, envelope.destination, message)
            .is_some_and(|sum| sum.bytes(message).is_intact())
    };
    match (version, envelope.source) {
        (Version::V2, _) => plain().then_some(None),
        (Version::V3, IpAddr::V6(_)) => with_pseudo_header().then_some(None),
        (Version::V3, IpAddr::V4(_)) if with_pseudo_header() => {
            Some(Some(ChecksumStyle::WithPseudoHeader))
        }
        (Version::V3, IpAddr::V4(_)) => plain().then_some(Some(ChecksumStyle::WithoutPseudoHeader)),
    }
}

fn pseudo_header(source: IpAddr, destination: IpAddr, message: &[u8]) -> Option<Sum> {
    let len = u16::try_from(message.len()).ok()?;
    Sum::pseudo_header(source, destination, PROTOCOL, len)
}

/// One advert to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    pub version: Version,
    pub vrid: Vrid,
    pub priority: Priority,
    /// Version 2 rounds it up to whole seconds.
    pub interval: IntervalCs,
    /// Those of the other family than `source` are left out: they have an advert of their own.
    pub addresses: &'a [IpAddr],
    /// Version 2 only.
    pub password: Option<[u8; 8]>,
    /// Version 3 over IPv4 only.
    pub checksum: ChecksumStyle,
    pub source: IpAddr,
    pub destination: IpAddr,
}

/// Clears `buffer` and writes the IP payload, at most [`MAX_LEN`] bytes with the first
/// [`MAX_ADDRESSES_PER_FAMILY`] addresses.
///
/// Version 2 over IPv6, or between two families, has no form: the buffer stays empty.
pub fn emit(out: &Outgoing<'_>, buffer: &mut Vec<u8>) {
    buffer.clear();
    let family = Family::of(out.source);
    if family != Family::of(out.destination) || (out.version, family) == (Version::V2, Family::V6) {
        return;
    }
    let (version, [fifth, sixth]) = match out.version {
        Version::V3 => (VERSION_3, out.interval.get().to_be_bytes()),
        Version::V2 => {
            let auth = if out.password.is_some() { AUTH_PASSWORD } else { AUTH_NONE };
            (VERSION_2, [auth, out.interval.whole_seconds()])
        }
    };
    let version_type = version << 4 | TYPE_ADVERTISEMENT;
    let header = [version_type, out.vrid.get(), out.priority.0, 0, fifth, sixth, 0, 0];
    buffer.extend_from_slice(&header);

    let mut count: u8 = 0;
    let own = out.addresses.iter().filter(|address| Family::of(**address) == family);
    for address in own.take(MAX_ADDRESSES_PER_FAMILY) {
        match address {
            IpAddr::V4(address) => buffer.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => buffer.extend_from_slice(&address.octets()),
        }
        count = count.saturating_add(1);
    }
    if let Some(place) = buffer.get_mut(COUNT) {
        *place = count;
    }
    if out.version == Version::V2 {
        buffer.extend_from_slice(&out.password.unwrap_or_default());
    }

    let with_pseudo_header = out.version == Version::V3
        && (family == Family::V6 || out.checksum == ChecksumStyle::WithPseudoHeader);
    let start = if with_pseudo_header {
        pseudo_header(out.source, out.destination, buffer).unwrap_or_default()
    } else {
        Sum::new()
    };
    let checksum = start.bytes(buffer).checksum();
    put_u16(buffer, CHECKSUM, checksum);
}

const fn address_len(family: Family) -> usize {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}
