//! The plain words that every other room shares: instants, priorities, prefixes, identities.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

/// A point on the shell's clock, in nanoseconds since an origin that only the shell knows.
///
/// The daemon feeds `CLOCK_BOOTTIME`, the simulator its virtual clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Further away than any deadline.
    pub const FAR: Self = Self(u64::MAX);

    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::FAR`].
    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    /// Saturates at the origin.
    fn sub(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A virtual router id, 1 to 255 (RFC 9568 §5.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vrid(NonZeroU8);

impl Vrid {
    /// `None` for 0, which is no router id.
    #[must_use]
    pub const fn new(id: u8) -> Option<Self> {
        match NonZeroU8::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    #[must_use]
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for Vrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A VRRP priority (RFC 9568 §5.2.4): 0 releases, 1 is standin's last resort, 255 is the owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u8);

impl Priority {
    /// Said by an active node that stops being one.
    pub const RELEASE: Self = Self(0);
    /// Said by a node that holds a VIP although it isn't eligible, because nobody else is.
    pub const LAST_RESORT: Self = Self(1);
    /// The lowest that may be configured.
    pub const LOWEST: Self = Self(2);
    /// RFC 9568 §5.2.4: the default of a backup.
    pub const DEFAULT: Self = Self(100);
    /// The node that owns the addresses.
    pub const OWNER: Self = Self(255);
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An advertisement interval in centiseconds, 1 (10 ms) to 4095 (40.95 s) (RFC 9568 §5.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntervalCs(u16);

impl IntervalCs {
    pub const MIN: Self = Self(1);
    pub const MAX: Self = Self(4095);

    /// `None` outside 1..=4095.
    #[must_use]
    pub const fn new(centiseconds: u16) -> Option<Self> {
        if centiseconds >= Self::MIN.0 && centiseconds <= Self::MAX.0 {
            Some(Self(centiseconds))
        } else {
            None
        }
    }

    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    #[must_use]
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 10)
    }

    /// Whole seconds for VRRP version 2, at least 1 (RFC 3768 §5.3.7).
    #[must_use]
    pub fn whole_seconds(self) -> u8 {
        u8::try_from(self.0.div_ceil(100).max(1)).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for IntervalCs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(100) {
            write!(f, "{}s", self.0 / 100)
        } else {
            write!(f, "{}ms", u32::from(self.0) * 10)
        }
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Self = Self([0xff; 6]);
    pub const ZERO: Self = Self([0; 6]);

    /// The MAC of a virtual router, whichever node is active (RFC 9568 §7.3).
    #[must_use]
    pub const fn of_virtual_router(family: Family, id: Vrid) -> Self {
        let kind = match family {
            Family::V4 => 1,
            Family::V6 => 2,
        };
        Self([0, 0, 0x5e, 0, kind, id.get()])
    }

    /// Whether some virtual router has it, of either family.
    #[must_use]
    pub const fn is_of_virtual_router(self) -> bool {
        matches!(self.0, [0, 0, 0x5e, 0, 1 | 2, id] if id > 0)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// For tables with one place per family.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::V4 => 0,
            Self::V6 => 1,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address with the length of its network's prefix, `192.168.1.41/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// `None` when `len` is longer than the address.
    #[must_use]
    pub const fn new(address: IpAddr, len: u8) -> Option<Self> {
        if len <= Self::longest(address) { Some(Self { address, len }) } else { None }
    }

    /// The address alone: /32 or /128.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self { address, len: Self::longest(address) }
    }

    const fn longest(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }

    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    #[must_use]
    pub const fn prefix_len(self) -> u8 {
        self.len
    }

    #[must_use]
    pub const fn family(self) -> Family {
        Family::of(self.address)
    }

    /// Whether `other` lies in the network that this prefix names.
    #[must_use]
    pub fn contains(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// Why a text is no [`Prefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    NotAnAddress,
    NotALength,
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnAddress => "not an IPv4 or IPv6 address",
            Self::NotALength => "the prefix length must be 0 to 32 for IPv4, 0 to 128 for IPv6",
        })
    }
}

impl std::error::Error for PrefixError {}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// `ADDRESS/LENGTH`, or a bare address, which is a host's.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::NotAnAddress)?;
        match len {
            None => Ok(Self::host(address)),
            Some(len) => len
                .parse()
                .ok()
                .and_then(|len| Self::new(address, len))
                .ok_or(PrefixError::NotALength),
        }
    }
}

macro_rules! index {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index!(
    /// A node's place in [`crate::plan::Plan::nodes`].
    NodeId(u8)
);
index!(
    /// A VIP's place in [`crate::plan::Plan::vips`].
    VipId(u16)
);
index!(
    /// A check's place in [`crate::plan::Plan::checks`].
    CheckId(u16)
);
index!(
    /// An interface's place in [`crate::plan::Plan::interfaces`].
    InterfaceId(u16)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_read_back_as_written() {
        for text in ["192.168.1.41/24", "10.0.0.1/32", "0.0.0.0/0", "fd00::41/64", "::/0"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.1".parse::<Prefix>().unwrap().prefix_len(), 32);
        assert_eq!("10.0.0.1/33".parse::<Prefix>(), Err(PrefixError::NotALength));
        assert_eq!("10.0.0/8".parse::<Prefix>(), Err(PrefixError::NotAnAddress));
    }

    #[test]
    fn a_prefix_contains_its_network_only() {
        let net: Prefix = "192.168.1.41/24".parse().unwrap();
        assert!(net.contains("192.168.1.200".parse().unwrap()));
        assert!(!net.contains("192.168.2.1".parse().unwrap()));
        assert!(!net.contains("fd00::1".parse().unwrap()));
        let all: Prefix = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("8.8.8.8".parse().unwrap()));
    }

    #[test]
    fn version_2_rounds_intervals_up_to_whole_seconds() {
        assert_eq!(IntervalCs::new(10).unwrap().whole_seconds(), 1);
        assert_eq!(IntervalCs::new(100).unwrap().whole_seconds(), 1);
        assert_eq!(IntervalCs::new(150).unwrap().whole_seconds(), 2);
    }
}
