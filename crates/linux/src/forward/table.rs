//! The table that hands packets of connections that aren't ours to the node that had the VIP before.
//!
//! ```text
//!   prerouting, before conntrack                              output
//!     by lo, or not for the VIP ──▶ accept                      SYN from the VIP: own += reversed
//!     TCP  SYN ──▶ own += connection, accept
//!          in own ──▶ accept
//!          from the old node's MAC ──▶ accept       (it sent it here: never back)
//!          TTL below 2 ──▶ drop
//!          else ──▶ copy to the old node, drop
//!     QUIC Initial ──▶ own += …, the rest as TCP
//!     ICMP errors ──▶ copy to the old node, accept
//! ```

use std::net::IpAddr;

use standin_core::types::{Family, Mac};

use super::expression::{
    Base, Compare, DESTINATION_PORT, Field, ICMP_TYPE, LINK_SOURCE, Note, Rule, SOURCE_PORT, TCP,
    TCP_FLAGS, UDP, UDP_FIRST_BYTE,
};
use super::message::Bytes;

pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
pub(super) const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
pub(super) const NEW_OBJECT: u16 = 18;
pub(super) const GET_OBJECT: u16 = 19;

const CREATE: u16 = netlink_packet_core::NLM_F_CREATE;
const APPEND: u16 = netlink_packet_core::NLM_F_APPEND;
const EXCLUSIVE: u16 = netlink_packet_core::NLM_F_EXCL;

/// `NFT_TABLE_F_OWNER`: the table lives as long as the socket that made it, and a foreign
/// `flush ruleset` spares it. Since Linux 5.12.
const OWNED: u32 = 2;

/// `NFT_SET_TIMEOUT | NFT_SET_EVAL`: rules add to the set, and what they add runs out.
const GROWING: u32 = 0x10 | 0x20;

pub(super) const OBJECT_COUNTER: u32 = 1;

/// Before defragmentation is done with (-400) and before everything else: `raw` is at -300,
/// connection tracking at -200.
const PRIORITY: i32 = -350;
const HOOK_PREROUTING: u32 = 0;
const HOOK_OUTPUT: u32 = 3;
const POLICY_ACCEPT: u32 = 1;

const LOOPBACK: u32 = 1;

/// Connections of this node that are told from others. A full set costs new connections, not old
/// ones. About 50 MB when full.
pub(super) const OWN_MAX: u32 = 1 << 19;
/// Of them, those that are ending: their places are free soon.
const CLOSING_MAX: u32 = 1 << 18;
const QUIC_MAX: u32 = 1 << 18;

/// A connection that got no further than its SYN: the last retransmission comes after 63 s.
const OPENING_MS: u64 = 65_000;
/// A connection that is silent: longer than any forwarding lasts (`drain_timeout` is 1 h at most).
pub(super) const LIVING_MS: u64 = 2 * 3600 * 1000;
/// A connection that is silent after its FIN.
const CLOSING_MS: u64 = 30_000;
/// A QUIC connection that is silent is given up by both ends much earlier.
const QUIC_MS: u64 = 600_000;

const SYN: u8 = 0x02;
const FIN_OR_RST: u8 = 0x05;
const SYN_RST_ACK_FIN: u8 = 0x17;

pub(super) const ADDRESSES: &str = "vip";
pub(super) const OWN: &str = "own";
const CLOSING: &str = "closing";
const QUIC: &str = "own_quic";
const QUIC_PORTS: &str = "quic_ports";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";

/// Packets that were handed to the old node.
pub(super) const FORWARDED: &str = "forwarded";
/// Packets of unknown connections that the old node sent here; they stay.
pub(super) const RETURNED: &str = "returned";
/// Packets that had been handed on too often.
pub(super) const LOOPED: &str = "looped";

/// What errors call the first message.
pub(super) const ITSELF: &str = "the table itself";

/// What nft(8) shows beside the table, and what leftovers are told by.
pub(super) const COMMENT: &str = "standin: switchover, gone when it is over";

/// One family's part of a forwarding.
#[derive(Clone, Debug)]
pub(super) struct Table<'a> {
    pub(super) name: &'a str,
    pub(super) family: Family,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) index: u32,
    pub(super) old: IpAddr,
    pub(super) old_mac: Mac,
    pub(super) quic_ports: &'a [u16],
    pub(super) owned: bool,
}

/// Messages, and what each is about, for the error that may come back.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) bytes: Bytes,
    pub(super) about: Vec<(Family, &'static str)>,
}

pub(super) const fn protocol_family(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

struct Fields {
    source: Field,
    destination: Field,
    /// TTL or hop limit.
    hops: Field,
    icmp: u8,
    /// Ranges of ICMP types that are errors about packets sent (RFC 792, RFC 4443).
    errors: &'static [(u8, u8)],
}

const fn fields(family: Family) -> Fields {
    match family {
        Family::V4 => Fields {
            source: (Base::Network, 12, 4),
            destination: (Base::Network, 16, 4),
            hops: (Base::Network, 8, 1),
            icmp: 1,
            errors: &[(3, 3), (11, 12)],
        },
        Family::V6 => Fields {
            source: (Base::Network, 8, 16),
            destination: (Base::Network, 24, 16),
            hops: (Base::Network, 7, 1),
            icmp: 58,
            errors: &[(1, 4)],
        },
    }
}

impl Table<'_> {
    /// Everything but the connections that exist already. `sequence` is that of the first message.
    pub(super) fn messages(&self, sequence: u32, out: &mut Messages) {
        let mut writer = Writer { table: self, sequence, out };
        writer.table();
        writer.counters();
        writer.sets();
        writer.chain(PREROUTING, HOOK_PREROUTING);
        writer.chain(OUTPUT, HOOK_OUTPUT);
        for (about, rule) in self.prerouting() {
            writer.rule(PREROUTING, about, &rule);
        }
        let (about, rule) = self.output();
        writer.rule(OUTPUT, about, &rule);
    }

    fn connection(&self) -> [Field; 4] {
        let fields = fields(self.family);
        [fields.source, SOURCE_PORT, fields.destination, DESTINATION_PORT]
    }

    fn prerouting(&self) -> Vec<(&'static str, Rule)> {
        let fields = fields(self.family);
        let connection = self.connection();
        let rule = Rule::default;
        let tcp = || rule().protocol(TCP);
        let key = |rule: Rule| rule.key(&connection);
        let syn = || tcp().bits(TCP_FLAGS, SYN_RST_ACK_FIN, SYN);
        let keep = |for_ms| Note::Keep { for_ms };
        let mut rules = vec![
            ("packets of the host itself", rule().came_by(LOOPBACK).accept()),
            (
                "packets that aren't for the VIP",
                rule().key(&[fields.destination]).key_in(ADDRESSES, true).accept(),
            ),
            // The port may have belonged to a connection that has just ended.
            ("connections begin", key(syn()).note(CLOSING, Note::Forget)),
            ("connections begin", key(syn()).note(OWN, keep(OPENING_MS))),
            ("connections begin", syn().accept()),
            (
                "connections end",
                key(tcp().any_bit(TCP_FLAGS, FIN_OR_RST))
                    .key_in(OWN, false)
                    .note(CLOSING, keep(CLOSING_MS))
                    .note(OWN, keep(CLOSING_MS))
                    .accept(),
            ),
            (
                "connections end",
                key(tcp())
                    .key_in(CLOSING, false)
                    .note(CLOSING, keep(CLOSING_MS))
                    .note(OWN, keep(CLOSING_MS))
                    .accept(),
            ),
            (
                "connections of this node",
                key(tcp()).key_in(OWN, false).note(OWN, keep(LIVING_MS)).accept(),
            ),
        ];
        rules.extend(self.hand_over(&tcp));
        if !self.quic_ports.is_empty() {
            let quic = || rule().protocol(UDP).key(&[DESTINATION_PORT]).key_in(QUIC_PORTS, false);
            // RFC 9000, 17.2: a long header of type Initial. It opens a connection.
            let initial = || quic().bits(UDP_FIRST_BYTE, 0xf0, 0xc0);
            rules.push(("QUIC connections begin", key(initial()).note(QUIC, keep(QUIC_MS))));
            rules.push(("QUIC connections begin", initial().accept()));
            rules.push((
                "QUIC connections of this node",
                key(quic()).key_in(QUIC, false).note(QUIC, keep(QUIC_MS)).accept(),
            ));
            // The fixed bit: what lacks it isn't QUIC.
            rules.extend(self.hand_over(&|| quic().bits(UDP_FIRST_BYTE, 0x40, 0x40)));
        }
        for (first, last) in fields.errors {
            rules.push((
                "ICMP errors",
                self.copied(
                    rule()
                        .protocol(fields.icmp)
                        .field(ICMP_TYPE, Compare::AtLeast, &[*first])
                        .field(ICMP_TYPE, Compare::AtMost, &[*last])
                        .field(LINK_SOURCE, Compare::Unequal, &self.old_mac.0)
                        .field(fields.hops, Compare::AtLeast, &[2]),
                ),
            ));
        }
        rules
    }

    /// What becomes of packets of unknown connections.
    fn hand_over(&self, unknown: &dyn Fn() -> Rule) -> [(&'static str, Rule); 3] {
        let hops = fields(self.family).hops;
        [
            (
                "packets that the old node sent here",
                unknown()
                    .field(LINK_SOURCE, Compare::Equal, &self.old_mac.0)
                    .count(RETURNED)
                    .accept(),
            ),
            (
                "packets that go round",
                unknown().field(hops, Compare::Less, &[2]).count(LOOPED).drop(),
            ),
            ("packets for the old node", self.copied(unknown().count(FORWARDED)).drop()),
        ]
    }

    fn copied(&self, rule: Rule) -> Rule {
        rule.copy(&octets(self.old), self.index)
    }

    /// Connections that nginx opens from the VIP are this node's too.
    fn output(&self) -> (&'static str, Rule) {
        let fields = fields(self.family);
        let rule = Rule::default()
            .protocol(TCP)
            .bits(TCP_FLAGS, SYN_RST_ACK_FIN, SYN)
            .key(&[fields.source])
            .key_in(ADDRESSES, false)
            .key(&[fields.destination, DESTINATION_PORT, fields.source, SOURCE_PORT])
            .note(OWN, Note::Keep { for_ms: OPENING_MS });
        ("connections from the VIP", rule)
    }
}

/// Where the bytes of a connection go in a set's key.
pub(super) fn key_of(remote: (IpAddr, u16), local: (IpAddr, u16)) -> Vec<u8> {
    let mut key = Vec::new();
    for (address, port) in [remote, local] {
        key.extend(octets(address));
        key.extend(port.to_be_bytes());
        key.extend([0, 0]);
    }
    key
}

/// The elements of a set, each with its time if it has one. No more than fit 64 KiB.
pub(super) fn elements(
    bytes: &mut Bytes,
    (name, set): (&str, &str),
    family: Family,
    sequence: u32,
    keys: &mut dyn Iterator<Item = (Vec<u8>, Option<u64>)>,
) {
    let kind = (NEW_ELEMENTS, protocol_family(family));
    bytes.message(kind, CREATE | super::message::ANSWERED, sequence, |bytes| {
        bytes.put_name(1, name);
        bytes.put_name(2, set);
        bytes.nest(3, |bytes| {
            for (key, for_ms) in keys {
                bytes.nest(1, |bytes| {
                    bytes.nest(1, |bytes| bytes.put(1, &key));
                    if let Some(for_ms) = for_ms {
                        bytes.put_u64(4, for_ms);
                    }
                });
            }
        });
    });
}

struct Writer<'a> {
    table: &'a Table<'a>,
    sequence: u32,
    out: &'a mut Messages,
}

/// nft(8)'s numbers of the types in a key, so that it can show them.
const SHOWN_PORT: u32 = 13;

impl Writer<'_> {
    const fn shown_address(&self) -> (u32, u32) {
        match self.table.family {
            Family::V4 => (7, 4),
            Family::V6 => (8, 16),
        }
    }

    /// Type and length of a connection.
    fn shown_connection(&self) -> (u32, u32) {
        let (address, length) = self.shown_address();
        let each = [SHOWN_PORT, address, SHOWN_PORT];
        (each.iter().fold(address, |all, one| (all << 6) | one), 2 * (length + 4))
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        about: &'static str,
        body: impl FnOnce(&mut Bytes),
    ) {
        let kind = (kind, protocol_family(self.table.family));
        let name = self.table.name;
        self.out.bytes.message(kind, flags | super::message::ANSWERED, self.sequence, |bytes| {
            bytes.put_name(1, name);
            body(bytes);
        });
        self.out.about.push((self.table.family, about));
        self.sequence = self.sequence.wrapping_add(1);
    }

    fn table(&mut self) {
        let flags = if self.table.owned { OWNED } else { 0 };
        self.message(NEW_TABLE, CREATE | EXCLUSIVE, ITSELF, |bytes| {
            bytes.put_u32(2, flags);
            bytes.put(6, &comment());
        });
    }

    fn counters(&mut self) {
        for name in [FORWARDED, RETURNED, LOOPED] {
            self.message(NEW_OBJECT, CREATE, "a counter", |bytes| {
                bytes.put_name(2, name);
                bytes.put_u32(3, OBJECT_COUNTER);
                bytes.nest(4, |bytes| {
                    bytes.put_u64(1, 0);
                    bytes.put_u64(2, 0);
                });
            });
        }
    }

    fn sets(&mut self) {
        let (address, connection) = (self.shown_address(), self.shown_connection());
        let port = (SHOWN_PORT, 2);
        self.set(ADDRESSES, 1, address, None);
        let addresses = self.table.addresses.iter().map(|address| octets(*address));
        self.fill(ADDRESSES, addresses.collect());
        self.set(OWN, 2, connection, Some(OWN_MAX));
        self.set(CLOSING, 3, connection, Some(CLOSING_MAX));
        if !self.table.quic_ports.is_empty() {
            self.set(QUIC_PORTS, 4, port, None);
            let ports = self.table.quic_ports.iter().map(|port| port.to_be_bytes().to_vec());
            self.fill(QUIC_PORTS, ports.collect());
            self.set(QUIC, 5, connection, Some(QUIC_MAX));
        }
    }

    /// A set; one with a bound is filled by rules.
    fn set(&mut self, name: &str, id: u32, (kind, length): (u32, u32), most: Option<u32>) {
        let about = if most.is_some() { "a set that rules fill" } else { "a set" };
        self.message(NEW_SET, CREATE, about, |bytes| {
            bytes.put_name(2, name);
            bytes.put_u32(3, if most.is_some() { GROWING } else { 0 });
            bytes.put_u32(4, kind);
            bytes.put_u32(5, length);
            bytes.put_u32(10, id);
            if let Some(most) = most {
                bytes.nest(9, |bytes| bytes.put_u32(1, most));
            }
        });
    }

    fn fill(&mut self, set: &str, keys: Vec<Vec<u8>>) {
        let (name, family) = (self.table.name, self.table.family);
        let mut keys = keys.into_iter().map(|key| (key, None));
        elements(&mut self.out.bytes, (name, set), family, self.sequence, &mut keys);
        self.out.about.push((family, "the elements of a set"));
        self.sequence = self.sequence.wrapping_add(1);
    }

    fn chain(&mut self, name: &str, hook: u32) {
        self.message(NEW_CHAIN, CREATE, "a chain", |bytes| {
            bytes.put_name(3, name);
            bytes.nest(4, |bytes| {
                bytes.put_u32(1, hook);
                bytes.put(2, &PRIORITY.to_be_bytes());
            });
            bytes.put_u32(5, POLICY_ACCEPT);
            bytes.put_name(7, "filter");
        });
    }

    fn rule(&mut self, chain: &str, about: &'static str, rule: &Rule) {
        self.message(NEW_RULE, CREATE | APPEND, about, |bytes| {
            bytes.put_name(2, chain);
            bytes.nest(4, |bytes| bytes.raw(rule.as_slice()));
        });
    }
}

/// [`COMMENT`] as nft(8) writes it: type 0, length, text, zero.
fn comment() -> Vec<u8> {
    let length = u8::try_from(COMMENT.len() + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![0, length];
    bytes.extend(COMMENT.as_bytes());
    bytes.push(0);
    bytes
}
