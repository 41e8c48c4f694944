//! Netfilter's netlink messages as bytes: headers, attributes, transactions
//! (linux/netfilter/nfnetlink.h).

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};

const NETFILTER_HEADER_LEN: usize = 4;
const ATTRIBUTE_HEADER_LEN: usize = 4;

/// `NLA_F_NESTED`: the value is attributes.
const NESTED: u16 = 0x8000;
/// Without the flags `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const KIND_MASK: u16 = 0x3fff;

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const AF_UNSPEC: u8 = 0;

/// Bytes of netlink messages, written one behind the other.
#[derive(Debug, Default)]
pub(super) struct Bytes(Vec<u8>);

impl Bytes {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// A message about nftables: `kind` is an `NFT_MSG_*`, `family` an `NFPROTO_*`.
    pub(super) fn message(
        &mut self,
        (kind, family): (u16, u8),
        flags: u16,
        sequence: u32,
        body: impl FnOnce(&mut Self),
    ) {
        self.any(((SUBSYSTEM << 8) | kind, family, 0), flags | NLM_F_REQUEST, sequence, body);
    }

    /// Opens a transaction.
    pub(super) fn begin(&mut self, sequence: u32) {
        self.any((BATCH_BEGIN, AF_UNSPEC, SUBSYSTEM), NLM_F_REQUEST, sequence, |_| ());
    }

    /// Asks for the transaction to be made. A transaction without it is tried and forgotten.
    pub(super) fn end(&mut self, sequence: u32) {
        self.any((BATCH_END, AF_UNSPEC, SUBSYSTEM), NLM_F_REQUEST, sequence, |_| ());
    }

    fn any(
        &mut self,
        (kind, family, resource): (u16, u8, u16),
        flags: u16,
        sequence: u32,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(sequence.to_ne_bytes());
        self.0.extend([0; 4]);
        // `nfgenmsg`: family, version 0, and a number in network order.
        self.0.extend([family, 0]);
        self.0.extend(resource.to_be_bytes());
        body(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// An attribute with this value.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |bytes| bytes.0.extend(value));
    }

    /// A number, as netfilter takes it: in network order.
    pub(super) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// As [`Bytes::put_u32`].
    pub(super) fn put_u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// A name, with the zero byte at its end.
    pub(super) fn put_name(&mut self, kind: u16, name: &str) {
        self.attribute(kind, |bytes| {
            bytes.0.extend(name.as_bytes());
            bytes.0.push(0);
        });
    }

    /// Attributes that are written already.
    pub(super) fn raw(&mut self, attributes: &[u8]) {
        self.0.extend(attributes);
    }

    /// An attribute whose value is attributes.
    pub(super) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        self.attribute(kind | NESTED, body);
    }

    fn attribute(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        body(self);
        // Whoever writes lists keeps them far below 64 KiB; a length that isn't true is refused.
        let length = u16::try_from(self.0.len() - start).unwrap_or(0);
        if let Some(place) = self.0.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// Flags for a message that is to be answered: with nothing, or with the kernel's error.
pub(super) const ANSWERED: u16 = NLM_F_ACK;

/// The attributes of a message from netfilter, after both headers.
pub(super) fn attributes(payload: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    nested(payload.get(NETFILTER_HEADER_LEN..).unwrap_or_default())
}

/// The family of a message from netfilter.
pub(super) fn family(payload: &[u8]) -> u8 {
    payload.first().copied().unwrap_or(AF_UNSPEC)
}

/// Whether a message is the `NFT_MSG_*` `kind`.
pub(super) const fn is(message: u16, kind: u16) -> bool {
    message == (SUBSYSTEM << 8) | kind
}

/// Attributes one behind the other; what is malformed ends them.
pub(super) fn nested(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & KIND_MASK;
        let value = rest.get(ATTRIBUTE_HEADER_LEN..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A name without the zero byte at its end.
pub(super) fn name(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

/// A number of eight bytes in network order.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*value.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_LEN: usize = 16;

    fn sample() -> Bytes {
        let mut bytes = Bytes::default();
        bytes.message((0, 2), ANSWERED, 7, |bytes| {
            bytes.put_name(1, "standin_web");
            bytes.put_u32(2, 2);
            bytes.nest(9, |bytes| bytes.put_u64(1, 1 << 40));
        });
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample();
        let bytes = bytes.as_slice();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        let payload = &bytes[HEADER_LEN..];
        assert_eq!(family(payload), 2);
        let all: Vec<_> = attributes(payload).collect();
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].0, name(all[0].1)), (1, Some("standin_web")));
        assert_eq!(all[1], (2, &[0, 0, 0, 2][..]));
        let inner: Vec<_> = nested(all[2].1).collect();
        assert_eq!((inner[0].0, number(inner[0].1)), (1, Some(1 << 40)));
    }

    #[test]
    fn no_byte_can_make_a_reader_panic_or_go_on_for_ever() {
        let whole = sample().as_slice()[HEADER_LEN..].to_vec();
        for place in 0..whole.len() {
            assert!(attributes(&whole[..place]).count() <= 3);
            for value in 0..=u8::MAX {
                let mut bytes = whole.clone();
                bytes[place] = value;
                for (_, value) in attributes(&bytes) {
                    let _ = (name(value), number(value), nested(value).count());
                }
            }
        }
    }
}
