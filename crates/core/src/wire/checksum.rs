//! The internet checksum (RFC 1071) and the pseudo-headers in front of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A running ones' complement sum of 16-bit words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u16);

impl Sum {
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// The pseudo-header of RFC 9293 §3.1 for IPv4 or RFC 8200 §8.1 for IPv6.
    ///
    /// `None` when the two addresses are of different families.
    #[must_use]
    pub fn pseudo_header(
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        len: u16,
    ) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Some(Self::pseudo_header_v4(source, destination, protocol, len))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Some(Self::pseudo_header_v6(source, destination, protocol, len))
            }
            _ => None,
        }
    }

    fn pseudo_header_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u16) -> Self {
        Self::new()
            .bytes(&source.octets())
            .bytes(&destination.octets())
            .word(u16::from(protocol))
            .word(len)
    }

    pub(crate) fn pseudo_header_v6(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: u8,
        len: u16,
    ) -> Self {
        // The upper half of the 32-bit length is zero: no VRRP or NDP message reaches 64 KiB.
        Self::new()
            .bytes(&source.octets())
            .bytes(&destination.octets())
            .word(len)
            .word(u16::from(protocol))
    }

    /// Adds one word with end-around carry.
    #[must_use]
    pub const fn word(self, word: u16) -> Self {
        let (sum, carry) = self.0.overflowing_add(word);
        // A sum that overflowed is at most 0xfffe, so the carry always fits.
        Self(if carry { sum + 1 } else { sum })
    }

    /// Adds whole words; an odd last byte counts as if a zero followed, so only the last call may
    /// have one.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (words, odd) = bytes.as_chunks::<2>();
        let sum = words.iter().fold(self, |sum, word| sum.word(u16::from_be_bytes(*word)));
        match odd {
            [last] => sum.word(u16::from_be_bytes([*last, 0])),
            _ => sum,
        }
    }

    /// The checksum to send for data whose checksum field was summed as zero.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.0
    }

    /// Whether data summed with its checksum in place arrived as it was sent.
    #[must_use]
    pub const fn is_intact(self) -> bool {
        self.0 == u16::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_as_printed() {
        let sum = Sum::new().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum, Sum(0xddf2));
        assert_eq!(sum.checksum(), 0x220d);
    }

    #[test]
    fn an_odd_last_byte_is_padded_with_zero() {
        assert_eq!(Sum::new().bytes(&[0x12, 0x34, 0x56]), Sum::new().bytes(&[0x12, 0x34, 0x56, 0]));
    }

    #[test]
    fn the_carry_goes_round() {
        assert_eq!(Sum::new().word(0xffff).word(0x0001), Sum(1));
        assert_eq!(Sum::new().word(0xffff).word(0xffff), Sum(0xffff));
    }

    #[test]
    fn data_with_its_checksum_in_place_is_intact() {
        let sum = Sum::new().bytes(b"abcd");
        assert!(sum.word(sum.checksum()).is_intact());
        assert!(!sum.word(sum.checksum() ^ 1).is_intact());
    }

    #[test]
    fn a_pseudo_header_has_one_family() {
        let v4 = IpAddr::from([10, 0, 0, 1]);
        let v6 = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]);
        assert!(Sum::pseudo_header(v4, v6, 112, 8).is_none());
        assert!(Sum::pseudo_header(v6, v4, 112, 8).is_none());
    }
}
