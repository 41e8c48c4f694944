//! The expressions that rules are made of (linux/netfilter/nf_tables.h), as the kernel takes them.

use super::message::Bytes;

const LIST_ELEMENT: u16 = 1;

const META_IIF: u32 = 4;
const META_L4PROTO: u32 = 16;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// The first of sixteen registers of four bytes, `NFT_REG32_00`.
pub(super) const FIRST: u32 = 8;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;

/// Where a field is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// A field of a packet: its base, its offset and its length in bytes.
pub(super) type Field = (Base, u32, u32);

pub(super) const LINK_SOURCE: Field = (Base::Link, 6, 6);
pub(super) const SOURCE_PORT: Field = (Base::Transport, 0, 2);
pub(super) const DESTINATION_PORT: Field = (Base::Transport, 2, 2);
pub(super) const TCP_FLAGS: Field = (Base::Transport, 13, 1);
pub(super) const ICMP_TYPE: Field = (Base::Transport, 0, 1);
pub(super) const UDP_FIRST_BYTE: Field = (Base::Transport, 8, 1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal = 0,
    Unequal = 1,
    Less = 2,
    AtMost = 3,
    AtLeast = 5,
}

/// What a set of connections is told about one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// Adds it, or gives it this much time more, in milliseconds.
    Keep {
        for_ms: u64,
    },
    Forget,
}

/// The expressions of one rule, in their order; a packet that one of them doesn't fit goes on to
/// the next rule.
#[derive(Debug, Default)]
pub(super) struct Rule(Bytes);

impl Rule {
    pub(super) fn as_slice(&self) -> &[u8] {
        self.0.as_slice()
    }

    fn add(mut self, name: &str, body: impl FnOnce(&mut Bytes)) -> Self {
        self.0.nest(LIST_ELEMENT, |bytes| {
            bytes.put_name(1, name);
            bytes.nest(2, body);
        });
        self
    }

    fn load(self, register: u32, (base, offset, length): Field) -> Self {
        self.add("payload", |bytes| {
            bytes.put_u32(1, register);
            bytes.put_u32(2, base as u32);
            bytes.put_u32(3, offset);
            bytes.put_u32(4, length);
        })
    }

    fn load_meta(self, key: u32) -> Self {
        self.add("meta", |bytes| {
            bytes.put_u32(1, FIRST);
            bytes.put_u32(2, key);
        })
    }

    fn compare(self, how: Compare, value: &[u8]) -> Self {
        self.add("cmp", |bytes| {
            bytes.put_u32(1, FIRST);
            bytes.put_u32(2, how as u32);
            bytes.nest(3, |bytes| bytes.put(1, value));
        })
    }

    /// Packets that came in by the interface with this index.
    pub(super) fn came_by(self, index: u32) -> Self {
        self.load_meta(META_IIF).compare(Compare::Equal, &index.to_ne_bytes())
    }

    /// Packets of this protocol; extension headers of IPv6 are looked through.
    pub(super) fn protocol(self, protocol: u8) -> Self {
        self.load_meta(META_L4PROTO).compare(Compare::Equal, &[protocol])
    }

    pub(super) fn field(self, field: Field, how: Compare, value: &[u8]) -> Self {
        self.load(FIRST, field).compare(how, value)
    }

    /// Packets in which the bits `mask` of a field of one byte are `value`.
    pub(super) fn bits(self, field: Field, mask: u8, value: u8) -> Self {
        self.load(FIRST, field).masked(mask).compare(Compare::Equal, &[value])
    }

    /// Packets in which one of the bits `mask` of a field of one byte is set.
    pub(super) fn any_bit(self, field: Field, mask: u8) -> Self {
        self.load(FIRST, field).masked(mask).compare(Compare::Unequal, &[0])
    }

    fn masked(self, mask: u8) -> Self {
        self.add("bitwise", |bytes| {
            bytes.put_u32(1, FIRST);
            bytes.put_u32(2, FIRST);
            bytes.put_u32(3, 1);
            bytes.nest(4, |bytes| bytes.put(1, &[mask]));
            bytes.nest(5, |bytes| bytes.put(1, &[0]));
        })
    }

    /// Loads fields one behind the other, each at a multiple of four bytes: the key of a set.
    pub(super) fn key(self, fields: &[Field]) -> Self {
        let mut register = FIRST;
        fields.iter().fold(self, |rule, field| {
            let rule = rule.load(register, *field);
            register += field.2.div_ceil(4);
            rule
        })
    }

    /// Packets whose loaded key is in the set; with `inverted`, those whose key isn't.
    pub(super) fn key_in(self, set: &str, inverted: bool) -> Self {
        self.add("lookup", |bytes| {
            bytes.put_name(1, set);
            bytes.put_u32(2, FIRST);
            if inverted {
                bytes.put_u32(5, 1);
            }
        })
    }

    /// Notes the loaded key in the set; a set that is full doesn't fit.
    pub(super) fn note(self, set: &str, note: Note) -> Self {
        self.add("dynset", |bytes| {
            bytes.put_name(1, set);
            bytes.put_u32(3, if note == Note::Forget { 2 } else { 1 });
            bytes.put_u32(4, FIRST);
            if let Note::Keep { for_ms } = note {
                bytes.put_u64(6, for_ms);
            }
        })
    }

    /// Counts in the counter object of this name.
    pub(super) fn count(self, counter: &str) -> Self {
        self.add("objref", |bytes| {
            bytes.put_u32(1, super::table::OBJECT_COUNTER);
            bytes.put_name(2, counter);
        })
    }

    /// Sends a copy to the host with the address `to` (its bytes in network order) on the link `index`.
    pub(super) fn copy(self, to: &[u8], index: u32) -> Self {
        let device = FIRST + 4;
        self.immediate(FIRST, to).immediate(device, &index.to_ne_bytes()).add("dup", |bytes| {
            bytes.put_u32(1, FIRST);
            bytes.put_u32(2, device);
        })
    }

    fn immediate(self, register: u32, value: &[u8]) -> Self {
        self.add("immediate", |bytes| {
            bytes.put_u32(1, register);
            bytes.nest(2, |bytes| bytes.put(1, value));
        })
    }

    pub(super) fn accept(self) -> Self {
        self.verdict(1)
    }

    pub(super) fn drop(self) -> Self {
        self.verdict(0)
    }

    fn verdict(self, code: u32) -> Self {
        self.add("immediate", |bytes| {
            bytes.put_u32(1, VERDICT);
            bytes.nest(2, |bytes| bytes.nest(2, |bytes| bytes.put_u32(1, code)));
        })
    }
}
