//! Second chance: a node that takes a VIP over hands packets of connections that it doesn't know to
//! the node that had the VIP before, whose sockets answer the clients directly.
//!
//! It is done by an nftables table of our own. No sysctl, rule or route is needed here, and nothing
//! passes the host's firewall but the copy, which leaves through its output chains. When the
//! [`Forwarding`] is dropped, or its process ends in any way, the kernel removes the table.
//!
//! ```text
//!   new node                                        old node
//!   begin()      own connections read, table made
//!                                                   arp_ignore, arp_announce; the VIP moves to lo
//!   takes the VIP, announces it
//!   progress()   packets handed over so far         Sockets::tcp() counts what is left
//!   end()                                           Sockets::end() cuts the rest; lo gives the VIP up
//! ```
//! Nothing here may run on the engine thread: netlink waits for others' locks.

mod expression;
mod message;
mod table;

use std::fmt;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use standin_core::types::{Family, Mac};

use crate::netlink::socket::{self, Message, Socket};
use crate::sockets::{Sockets, TcpState};
use message::Bytes;
use table::{Messages, Table, protocol_family};

/// What the names of our tables begin with.
pub const PREFIX: &str = "standin_";

/// `NFT_NAME_MAXLEN` is 256 with the zero byte.
const NAME_MAX: usize = 255;

/// Room for one transaction: [`SEEDS_PER_MESSAGE`] connections of IPv6 are 32 KiB.
const SEND_BUFFER: usize = 1024 * 1024;

/// Connections that one message adds; the length of a list is a number of 16 bits.
const SEEDS_PER_MESSAGE: usize = 500;

/// Messages of that kind in one transaction.
const MESSAGES_PER_BATCH: usize = 16;

/// Own connections that are noted before the VIP comes. As many again may be opened meanwhile.
const SEEDS_MAX: usize = table::OWN_MAX as usize / 2;

/// What is to be forwarded.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// Names the table, after [`PREFIX`]; one forwarding at a time may have it. A VIP's name does.
    pub name: &'a str,
    /// The addresses of the VIP, of either family or both.
    pub addresses: &'a [IpAddr],
    /// Of the link on which the old node is.
    pub index: u32,
    /// The old node's own addresses on that link: one of each family that `addresses` has.
    pub old: &'a [Neighbour],
    /// UDP ports on which nginx speaks QUIC; all other UDP moves at once.
    pub quic_ports: &'a [u16],
}

/// A node on the link. `Rtnl::neighbour` finds its MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub address: IpAddr,
    /// Packets that come from there are never sent there.
    pub mac: Mac,
}

/// Why packets can't be forwarded.
#[derive(Debug)]
pub enum Refusal {
    /// The VIP has addresses of this family, and `old` has none.
    NoWay(Family),
    /// The node has more connections of its own to the VIP than can be told from others.
    TooMany { connections: usize },
    /// The kernel refused a part of the table.
    Table { family: Family, about: &'static str, errno: i32 },
    /// Netlink failed.
    Netlink(io::Error),
}

impl Refusal {
    /// Whether this kernel can't do it, as opposed to: not now, or not with this order.
    #[must_use]
    pub const fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Table {
                errno: libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EINVAL,
                ..
            }
        )
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Netlink(error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWay(family) => {
                write!(f, "the VIP has {family} addresses, and the old node has none on its link")
            }
            Self::TooMany { connections } => write!(
                f,
                "{connections} connections of this node to the VIP are open, and no more than \
                 {SEEDS_MAX} can be told from the old node's"
            ),
            Self::Table { family, about, errno } => write!(
                f,
                "the kernel refused the {family} nftables table: {about}: {}",
                io::Error::from_raw_os_error(*errno)
            ),
            Self::Netlink(error) => write!(f, "nftables' netlink failed: {error}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// What a forwarding has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Packets handed to the old node.
    pub packets: u64,
    /// Their bytes, with IP headers.
    pub bytes: u64,
    /// Packets of connections that neither node knows: the old node had sent them here.
    pub returned: u64,
    /// Packets that had been handed on from node to node too often, and were dropped.
    pub looped: u64,
}

/// Packets are being handed to the old node, until this is dropped.
#[derive(Debug)]
pub struct Forwarding {
    nft: Nft,
    name: String,
    families: Vec<Family>,
}

impl Forwarding {
    /// Makes the table, with this node's own connections to the VIP in it. Before the VIP comes.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing is left behind then. `EEXIST` when the name is taken.
    pub fn begin(order: &Order<'_>) -> Result<Self, Refusal> {
        match Self::begin_with(order, true) {
            // Kernels before 5.12 know no owners; leftovers are found by their name.
            Err(Refusal::Table {
                about: table::ITSELF,
                errno: libc::EINVAL | libc::EOPNOTSUPP,
                ..
            }) => Self::begin_with(order, false),
            other => other,
        }
    }

    /// As [`Forwarding::begin`]; `owned` says whether the kernel is to remove the table when this
    /// process ends. If not, that is left to [`remove_leftovers`].
    ///
    /// # Errors
    /// As [`Forwarding::begin`].
    pub fn begin_with(order: &Order<'_>, owned: bool) -> Result<Self, Refusal> {
        let name = name_of(order.name);
        let tables = tables_of(order, &name, owned)?;
        let mut nft = Nft::open()?;
        // First: it may be refused.
        let seeds = seeds_of(order.addresses)?;
        nft.make(&tables)?;
        // Not before: what is dropped takes the table of its name away, and that may be another's.
        let families = tables.iter().map(|table| table.family).collect();
        let mut forwarding = Self { nft, name: name.clone(), families };
        forwarding.seed(seeds)?;
        Ok(forwarding)
    }

    fn seed(&mut self, seeds: Vec<(Family, Vec<u8>)>) -> Result<(), Refusal> {
        for family in &self.families {
            let of_family: Vec<_> =
                seeds.iter().filter(|(of, _)| of == family).map(|(_, key)| key).collect();
            for batch in of_family.chunks(SEEDS_PER_MESSAGE * MESSAGES_PER_BATCH) {
                self.nft.seed(&self.name, *family, batch)?;
            }
        }
        Ok(())
    }

    /// What has been forwarded so far.
    ///
    /// # Errors
    /// ENOENT when somebody removed the table; what netlink says.
    pub fn progress(&mut self) -> io::Result<Progress> {
        let mut all = Progress::default();
        for family in &self.families {
            for (counter, packets, bytes) in self.nft.counters(&self.name, *family)? {
                match counter.as_str() {
                    table::FORWARDED => {
                        all.packets = all.packets.saturating_add(packets);
                        all.bytes = all.bytes.saturating_add(bytes);
                    }
                    table::RETURNED => all.returned = all.returned.saturating_add(packets),
                    table::LOOPED => all.looped = all.looped.saturating_add(packets),
                    _ => {}
                }
            }
        }
        Ok(all)
    }

    /// Removes the table: from now on packets of unknown connections are answered by resets.
    ///
    /// # Errors
    /// What netlink says; the kernel removes the table all the same when the socket is closed.
    pub fn end(mut self) -> io::Result<()> {
        self.nft.remove(&self.name, &self.families)
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        // The table may be gone already; an owned one goes with the socket in any case.
        let _ = self.nft.remove(&self.name, &self.families);
    }
}

/// Whether this kernel can forward packets of this family; leaves no trace.
///
/// The kernel tries the whole table in a transaction that is never made. It loads the modules that
/// it needs for it, if it has them.
///
/// # Errors
/// The [`Refusal`] that a forwarding would meet; `Netlink` with EPERM without `CAP_NET_ADMIN`.
pub fn probe(family: Family) -> Result<(), Refusal> {
    // Addresses for documentation (RFC 5737, RFC 3849).
    let (vip, old): (IpAddr, IpAddr) = match family {
        Family::V4 => ([192, 0, 2, 1].into(), [192, 0, 2, 2].into()),
        Family::V6 => {
            ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into())
        }
    };
    let order = Order {
        name: "probe",
        addresses: &[vip],
        index: 1,
        old: &[Neighbour { address: old, mac: Mac::ZERO }],
        quic_ports: &[443],
    };
    let name = name_of(order.name);
    let tables = tables_of(&order, &name, false)?;
    Nft::open()?.attempt(&tables)
}

/// A table of ours whose process may be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    pub family: Family,
    pub name: String,
}

impl fmt::Display for Leftover {
    /// As nft(8) names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        write!(f, "{family} {}", self.name)
    }
}

/// Removes the tables that a standin left which is gone, and says which these were. Tables that
/// belong to a process that lives are spared.
///
/// # Errors
/// What netlink says; the tables before the error are removed.
pub fn remove_leftovers() -> io::Result<Vec<Leftover>> {
    let mut nft = match Nft::open() {
        Ok(nft) => nft,
        // A kernel without netfilter has no tables.
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let leftovers = match nft.leftovers() {
        // Nor has one whose netfilter knows no tables.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Vec::new()),
        other => other?,
    };
    for leftover in &leftovers {
        nft.remove(&leftover.name, &[leftover.family])?;
    }
    Ok(leftovers)
}

fn name_of(name: &str) -> String {
    let mut name = format!("{PREFIX}{name}");
    let end = (0..=NAME_MAX.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    name.truncate(end.unwrap_or(0));
    name
}

fn tables_of<'a>(
    order: &'a Order<'_>,
    name: &'a str,
    owned: bool,
) -> Result<Vec<Table<'a>>, Refusal> {
    let mut tables = Vec::new();
    for family in Family::BOTH {
        let of_family = |address: &&IpAddr| Family::of(**address) == family;
        let addresses: Vec<_> = order.addresses.iter().filter(of_family).copied().collect();
        if addresses.is_empty() {
            continue;
        }
        let old = order.old.iter().find(|old| Family::of(old.address) == family);
        let old = old.ok_or(Refusal::NoWay(family))?;
        tables.push(Table {
            name,
            family,
            addresses,
            index: order.index,
            old: old.address,
            old_mac: old.mac,
            quic_ports: order.quic_ports,
            owned,
        });
    }
    Ok(tables)
}

/// The keys of this node's own connections to these addresses.
fn seeds_of(addresses: &[IpAddr]) -> Result<Vec<(Family, Vec<u8>)>, Refusal> {
    let mut sockets = Sockets::open()?;
    let mut seeds = Vec::new();
    sockets.tcp(addresses, TcpState::CONNECTED, &mut |socket| {
        let remote = (socket.remote.ip(), socket.remote.port());
        let local = (socket.local.ip(), socket.local.port());
        seeds.push((Family::of(local.0), table::key_of(remote, local)));
    })?;
    if seeds.len() > SEEDS_MAX {
        return Err(Refusal::TooMany { connections: seeds.len() });
    }
    Ok(seeds)
}

/// A conversation with nftables, in the network namespace of the thread that opened it.
#[derive(Debug)]
struct Nft {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Nft {
    fn open() -> io::Result<Self> {
        let socket = Socket::open(socket::NETFILTER)?;
        socket.ask_for_send_buffer(SEND_BUFFER);
        Ok(Self { socket, buffer: socket::receive_buffer() })
    }

    fn make(&mut self, tables: &[Table<'_>]) -> Result<(), Refusal> {
        self.transact(tables, true)
    }

    fn attempt(&mut self, tables: &[Table<'_>]) -> Result<(), Refusal> {
        self.transact(tables, false)
    }

    fn transact(&mut self, tables: &[Table<'_>], for_good: bool) -> Result<(), Refusal> {
        // A table is some 40 messages; the count is needed first.
        let mut draft = Messages::default();
        tables.iter().for_each(|table| table.messages(0, &mut draft));
        let count = draft.about.len();
        let first = self.socket.next_sequence(count + 2);
        let mut messages = Messages::default();
        messages.bytes.begin(first);
        for table in tables {
            let said = u32::try_from(messages.about.len()).unwrap_or(u32::MAX);
            table.messages(first.wrapping_add(1).wrapping_add(said), &mut messages);
        }
        if for_good {
            messages.bytes.end(first.wrapping_add(1 + u32::try_from(count).unwrap_or(0)));
        }
        self.answers(messages.bytes.as_slice(), first, count)?.map_err(|(place, errno)| {
            let (family, about) = place
                .checked_sub(1)
                .and_then(|place| messages.about.get(place).copied())
                .or_else(|| Some((tables.first()?.family, "all of it")))
                .unwrap_or((Family::V4, "all of it"));
            Refusal::Table { family, about, errno }
        })
    }

    fn seed(&mut self, name: &str, family: Family, keys: &[&Vec<u8>]) -> Result<(), Refusal> {
        let count = keys.chunks(SEEDS_PER_MESSAGE).len();
        let first = self.socket.next_sequence(count + 2);
        let mut sequence = first;
        let mut bytes = Bytes::default();
        bytes.begin(sequence);
        for some in keys.chunks(SEEDS_PER_MESSAGE) {
            sequence = sequence.wrapping_add(1);
            let mut some = some.iter().map(|key| ((*key).clone(), Some(table::LIVING_MS)));
            table::elements(&mut bytes, (name, table::OWN), family, sequence, &mut some);
        }
        bytes.end(sequence.wrapping_add(1));
        let about = "the connections of this node";
        self.answers(bytes.as_slice(), first, count)?.map_err(|(_, errno)| Refusal::Table {
            family,
            about,
            errno,
        })
    }

    fn remove(&mut self, name: &str, families: &[Family]) -> io::Result<()> {
        for family in families {
            let first = self.socket.next_sequence(3);
            let mut bytes = Bytes::default();
            bytes.begin(first);
            let kind = (table::DELETE_TABLE, protocol_family(*family));
            bytes.message(kind, message::ANSWERED, first.wrapping_add(1), |bytes| {
                bytes.put_name(1, name);
            });
            bytes.end(first.wrapping_add(2));
            match self.answers(bytes.as_slice(), first, 1)? {
                Err((_, errno)) if errno != libc::ENOENT => {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sends a transaction of `count` messages that are answered, whose first number is `first`; the
    /// first refusal, with its place: 0 is the transaction as a whole.
    fn answers(
        &mut self,
        bytes: &[u8],
        first: u32,
        count: usize,
    ) -> io::Result<Result<(), (usize, i32)>> {
        self.socket.send(bytes)?;
        let mut unanswered = count;
        let mut refused = None;
        while unanswered > 0 {
            let datagram = self.socket.receive_answer(&mut self.buffer)?;
            for message in socket::messages(datagram) {
                let Message::Answer { sequence, error } = message? else { continue };
                let place = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if place > count {
                    // Of a conversation that was given up.
                    continue;
                }
                if place > 0 {
                    unanswered = unanswered.saturating_sub(1);
                } else if error != 0 {
                    // The transaction as a whole; it may be all that is said.
                    unanswered = 0;
                }
                if error != 0 && refused.is_none() {
                    refused = Some((place, error));
                }
            }
        }
        Ok(refused.map_or(Ok(()), Err))
    }

    /// Name, packets and bytes of each counter of a table.
    fn counters(&mut self, name: &str, family: Family) -> io::Result<Vec<(String, u64, u64)>> {
        let mut all = Vec::new();
        let request = |bytes: &mut Bytes| bytes.put_name(1, name);
        let kind = (table::GET_OBJECT, protocol_family(family));
        self.dump(kind, request, |message, payload| {
            if message::is(message, table::NEW_OBJECT) {
                all.extend(counter(payload, name));
            }
        })?;
        if all.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        Ok(all)
    }

    fn leftovers(&mut self) -> io::Result<Vec<Leftover>> {
        let mut all = Vec::new();
        let mut unclear = Vec::new();
        for family in Family::BOTH {
            let kind = (table::GET_TABLE, protocol_family(family));
            self.dump(
                kind,
                |_| (),
                |message, payload| {
                    if message::is(message, table::NEW_TABLE)
                        && let Some((leftover, commented)) = leftover(payload, family)
                    {
                        if commented { &mut all } else { &mut unclear }.push(leftover);
                    }
                },
            )?;
        }
        // Kernels before 5.10 keep no comments.
        for one in unclear {
            let counters = self.counters(&one.name, one.family).unwrap_or_default();
            let mut names: Vec<_> = counters.iter().map(|(name, ..)| name.as_str()).collect();
            names.sort_unstable();
            if names == [table::FORWARDED, table::LOOPED, table::RETURNED] {
                all.push(one);
            }
        }
        Ok(all)
    }

    fn dump(
        &mut self,
        kind: (u16, u8),
        request: impl FnOnce(&mut Bytes),
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let asked = self.socket.next_sequence(1);
        let mut bytes = Bytes::default();
        bytes.message(kind, NLM_F_REQUEST | NLM_F_DUMP, asked, request);
        self.socket.send(bytes.as_slice())?;
        loop {
            let datagram = self.socket.receive_answer(&mut self.buffer)?;
            for message in socket::messages(datagram) {
                match message? {
                    Message::Content { sequence, kind, payload, .. } if sequence == asked => {
                        each(kind, payload);
                    }
                    Message::Done { sequence, error, .. } | Message::Answer { sequence, error }
                        if sequence == asked =>
                    {
                        return if error == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(error))
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

/// A counter object of this table: name, packets, bytes.
fn counter(payload: &[u8], table: &str) -> Option<(String, u64, u64)> {
    let (mut of, mut counter, mut packets, mut bytes) = (None, None, 0, 0);
    for (kind, value) in message::attributes(payload) {
        match kind {
            1 => of = message::name(value),
            2 => counter = message::name(value),
            4 => {
                for (kind, value) in message::nested(value) {
                    match kind {
                        1 => bytes = message::number(value)?,
                        2 => packets = message::number(value)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (of? == table).then_some((counter?.to_owned(), packets, bytes))
}

/// A table with our name and without an owner, and whether it says that it is ours.
fn leftover(payload: &[u8], family: Family) -> Option<(Leftover, bool)> {
    let (mut name, mut commented, mut owned) = (None, false, false);
    for (kind, value) in message::attributes(payload) {
        match kind {
            1 => name = message::name(value),
            6 => {
                let text = table::COMMENT.as_bytes();
                commented = value.windows(text.len()).any(|part| part == text);
            }
            7 => owned = true,
            _ => {}
        }
    }
    let same_family = message::family(payload) == protocol_family(family);
    let name = name.filter(|name| !owned && same_family && name.starts_with(PREFIX))?;
    Some((Leftover { family, name: name.to_owned() }, commented))
}
