//! The kernel's links and addresses, asked for, changed and watched over route netlink (rtnetlink(7)).
//!
//! Nothing here may run on the engine thread: sendmsg(2) on such a socket waits for the kernel's
//! one rtnl lock, which others have been seen to hold for 433 ms.

mod address;
mod link;
mod macvlan;
mod monitor;
mod neighbour;
mod route;
pub(crate) mod socket;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use standin_core::types::{Family, Prefix};

pub use address::{ADOPTED, Address, PROTOCOL};
pub use link::Link;
pub use macvlan::{FALLBACKS, name_of};
pub use monitor::{Monitor, Notice};
pub use route::Route;
use socket::{Message, Socket};
pub use whole::Whole;

/// How many changes go into one sendmsg(2).
///
/// Each is answered by an acknowledgement that takes 768 to 1,280 bytes of the receive buffer
/// however short it is; 128 of them fit the 208 KiB that the kernel grants to everybody, also when
/// `SO_RCVBUFFORCE` is refused.
const CHANGES_PER_BATCH: usize = 128;

/// How often a dump is begun again because the tables changed under it, before that is an error.
///
/// Each attempt takes milliseconds; a host on which eight in a row are disturbed never rests.
const DUMP_ATTEMPTS: u32 = 8;

/// What is to become of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds the address or renews it: the kernel removes it `valid_s` seconds after the last `Hold`.
    /// 0 is refused by the kernel with `EINVAL`; `u32::MAX` is for ever.
    ///
    /// An address that the host has already gets this lifetime too, also if it was permanent. The
    /// same IPv6 address with another prefix length is the same address, and keeps its length.
    Hold { index: u32, prefix: Prefix, valid_s: u32 },
    /// As `Hold`, on the link `index` that stands on `base` and has a MAC of its own: the scope is the
    /// host's, so that `base` with `arp_ignore` 3 doesn't answer for the address.
    Serve { index: u32, base: u32, prefix: Prefix, valid_s: u32 },
    /// Removes the address; `EADDRNOTAVAIL` when there is none.
    Drop { index: u32, prefix: Prefix },
    /// As `Hold`, for an address that sockets of this host go on using while another host answers
    /// for it: on the loopback link `index`, for itself alone, and with the scope of the host.
    Keep { index: u32, address: IpAddr, valid_s: u32 },
}

impl Change {
    /// The address that this brings, if the kernel isn't done with it when it answers.
    const fn comes_late(self) -> Option<(u32, IpAddr)> {
        let (index, address) = match self {
            Self::Hold { index, prefix, .. } | Self::Serve { index, prefix, .. } => {
                (index, prefix.address())
            }
            Self::Keep { index, address, .. } => (index, address),
            Self::Drop { .. } => return None,
        };
        if address.is_ipv6() { Some((index, address)) } else { None }
    }
}

/// The index of an interface that no host has.
pub const NOWHERE: u32 = i32::MAX.unsigned_abs();

/// A conversation with the kernel about links and addresses, in the network namespace of the
/// thread that opened it.
#[derive(Debug)]
pub struct Rtnl {
    socket: Socket,
    /// Asks for renewals, which nobody answers: they come twice a second for every VIP.
    renewals: Socket,
    buffer: Vec<u8>,
    /// Hears what became of IPv6 addresses, for [`Rtnl::change_and_wait`]; opened when first needed.
    news: Option<Monitor>,
    /// The addresses that are held and could bring a route, and whether each is [`address::is_alone`]
    /// in its subnet.
    subnets: BTreeMap<(u32, Prefix), bool>,
}

impl Rtnl {
    /// Begins a conversation.
    ///
    /// # Errors
    /// What socket(2) and bind(2) say.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::open(socket::ROUTE)?,
            renewals: Socket::open(socket::ROUTE)?,
            buffer: socket::receive_buffer(),
            news: None,
            subnets: BTreeMap::new(),
        })
    }

    /// Every link of the namespace, in the kernel's order.
    ///
    /// # Errors
    /// What the kernel says; `TimedOut` when it says nothing within the socket's bound.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), Link::from_message)
    }

    /// Every address of the namespace, of both families, in the kernel's order.
    ///
    /// # Errors
    /// As [`Rtnl::links`].
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let every = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(&every, Address::from_message)
    }

    /// Makes `changes`, and leaves in `results` one result each, in their order: nothing, or the
    /// kernel's error number.
    ///
    /// An IPv6 address is answered for before the kernel's work queue has added its local route, and
    /// until then packets to it are dropped: 14 µs later as a rule, 8 ms later on a busy machine.
    /// [`Rtnl::change_and_wait`] waits for that.
    ///
    /// One change that fails doesn't keep the others from being made. A change that wasn't answered
    /// is left with `ETIMEDOUT`.
    ///
    /// # Errors
    /// The conversation itself failed, as in [`Rtnl::links`]; which changes were made is then what `results` knows.
    pub fn change(
        &mut self,
        changes: &[Change],
        results: &mut Vec<Result<(), i32>>,
    ) -> io::Result<()> {
        results.clear();
        results.resize(changes.len(), Err(libc::ETIMEDOUT));
        self.look_at_subnets(changes);
        let batches = changes.chunks(CHANGES_PER_BATCH);
        for (batch, results) in batches.zip(results.chunks_mut(CHANGES_PER_BATCH)) {
            self.change_batch(batch, results)?;
        }
        Ok(())
    }

    /// As [`Rtnl::change`], and returns once packets to the addresses reach this host's sockets, or
    /// after `wait`: an address that is announced earlier costs its clients their first packets.
    ///
    /// It is a work queue of the kernel's that is waited for. On a host with forty times more to do
    /// than it can, that took more than 100 ms once in ten times.
    ///
    /// # Errors
    /// As [`Rtnl::change`].
    pub fn change_and_wait(
        &mut self,
        changes: &[Change],
        results: &mut Vec<Result<(), i32>>,
        wait: Duration,
    ) -> io::Result<()> {
        if !changes.iter().any(|change| change.comes_late().is_some()) {
            return self.change(changes, results);
        }
        let mut notices = Vec::new();
        let mut news = match self.news.take() {
            Some(news) => news,
            None => Monitor::open_for_v6()?,
        };
        news.read(&mut notices)?;
        notices.clear();
        self.change(changes, results)?;
        let made = changes.iter().zip(results.iter()).filter(|(_, result)| result.is_ok());
        let mut late: BTreeSet<_> = made.filter_map(|(change, _)| change.comes_late()).collect();
        let deadline = Instant::now() + wait;
        loop {
            for notice in notices.drain(..) {
                match notice {
                    Notice::Address(one) => _ = late.remove(&(one.index, one.prefix.address())),
                    Notice::Overflow => late.clear(),
                    _ => {}
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if late.is_empty() || left.is_zero() {
                break;
            }
            news.wait(left)?;
            news.read(&mut notices)?;
        }
        self.news = Some(news);
        // The notice comes before the route does (tried on Linux 6.18: 0.1 ms), within one hold of the
        // kernel's rtnl lock: whoever has had that lock once more comes after both.
        let mut made = changes.iter().zip(results.iter()).filter(|(_, result)| result.is_ok());
        match made.rfind(|(change, _)| change.comes_late().is_some()) {
            Some((last, _)) => self.change(&[*last], &mut Vec::new()),
            None => Ok(()),
        }
    }

    /// Makes `holds` again without asking what became of them: what was refused runs out, and a
    /// [`Monitor`] says so.
    ///
    /// # Errors
    /// The request itself couldn't be sent.
    pub fn renew(&mut self, holds: &[Change]) -> io::Result<()> {
        // Refusals of earlier renewals.
        self.renewals.drain(&mut self.buffer);
        self.look_at_subnets(holds);
        let mut bytes = Vec::new();
        for batch in holds.chunks(CHANGES_PER_BATCH) {
            bytes.clear();
            let first = self.renewals.next_sequence(batch.len());
            for (sequence, change) in (0..).map(|n: u32| first.wrapping_add(n)).zip(batch) {
                let (flags, message) = address::change_message(*change, self.brings_route(*change));
                socket::append(&mut bytes, message, flags & !NLM_F_ACK, sequence);
            }
            self.renewals.send(&bytes)?;
        }
        Ok(())
    }

    /// Keeps `subnets`.
    ///
    /// An address with company in its subnet stays on record as such. One without is looked at again
    /// with each renewal: once the node gets its own address there, that one's route must be left
    /// alone.
    fn look_at_subnets(&mut self, changes: &[Change]) {
        let mut unclear = Vec::new();
        for change in changes {
            match *change {
                // IPv4 routes of secondaries need no care.
                Change::Hold { index, prefix, .. } if prefix.family() == Family::V6 => {
                    self.unless_in_company(index, index, prefix, &mut unclear);
                }
                Change::Serve { index, base, prefix, .. } => {
                    self.unless_in_company(index, base, prefix, &mut unclear);
                }
                Change::Hold { .. } | Change::Keep { .. } => {}
                Change::Drop { index, prefix } => {
                    self.subnets.remove(&(index, prefix));
                }
            }
        }
        if !unclear.is_empty() {
            // Without an answer they are held as if in company, which harms nobody's route.
            let Ok(all) = self.addresses() else { return };
            for (index, base, prefix) in unclear {
                self.subnets.insert((index, prefix), address::is_alone(base, prefix, &all));
            }
        }
    }

    fn unless_in_company(
        &self,
        index: u32,
        base: u32,
        prefix: Prefix,
        unclear: &mut Vec<(u32, u32, Prefix)>,
    ) {
        if has_subnet(prefix) && self.subnets.get(&(index, prefix)) != Some(&false) {
            unclear.push((index, base, prefix));
        }
    }

    fn brings_route(&self, change: Change) -> bool {
        let (Change::Hold { index, prefix, .. }
        | Change::Serve { index, prefix, .. }
        | Change::Drop { index, prefix }) = change
        else {
            return false;
        };
        self.subnets.get(&(index, prefix)).is_some_and(|alone| *alone)
    }

    fn change_batch(
        &mut self,
        batch: &[Change],
        results: &mut [Result<(), i32>],
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        let first = self.socket.next_sequence(batch.len());
        for (sequence, change) in (0..).map(|n: u32| first.wrapping_add(n)).zip(batch) {
            let (flags, message) = address::change_message(*change, self.brings_route(*change));
            socket::append(&mut bytes, message, flags, sequence);
        }
        self.socket.send(&bytes)?;
        let mut unanswered = batch.len();
        while unanswered > 0 {
            let datagram = self.socket.receive_answer(&mut self.buffer)?;
            for message in socket::messages(datagram) {
                let Message::Answer { sequence, error } = message? else { continue };
                // Answers to an earlier conversation that was given up have other numbers.
                let place = usize::try_from(sequence.wrapping_sub(first)).ok();
                if let Some(result) = place.and_then(|place| results.get_mut(place)) {
                    *result = if error == 0 { Ok(()) } else { Err(error) };
                    unanswered = unanswered.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// Asks for one change and waits for its acknowledgement.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let asked = self.socket.next_sequence(1);
        let mut bytes = Vec::new();
        socket::append(&mut bytes, message, flags, asked);
        self.socket.send(&bytes)?;
        loop {
            let datagram = self.socket.receive_answer(&mut self.buffer)?;
            for message in socket::messages(datagram) {
                match message? {
                    Message::Answer { sequence, error: 0 } if sequence == asked => return Ok(()),
                    Message::Answer { sequence, error } if sequence == asked => {
                        return Err(io::Error::from_raw_os_error(error));
                    }
                    _ => {}
                }
            }
        }
    }

    fn dump<T>(
        &mut self,
        request: &RouteNetlinkMessage,
        read: fn(u16, &[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(all) = self.dump_once(request, read)? {
                return Ok(all);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            format!(
                "the kernel's links or addresses changed during each of {DUMP_ATTEMPTS} attempts \
                 to read them"
            ),
        ))
    }

    /// `None` when the tables changed meanwhile.
    fn dump_once<T>(
        &mut self,
        request: &RouteNetlinkMessage,
        read: fn(u16, &[u8]) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        let asked = self.socket.next_sequence(1);
        let mut bytes = Vec::new();
        socket::append(&mut bytes, request.clone(), socket::DUMP, asked);
        self.socket.send(&bytes)?;
        let mut all = Vec::new();
        let mut disturbed = false;
        loop {
            let datagram = self.socket.receive_answer(&mut self.buffer)?;
            for message in socket::messages(datagram) {
                match message? {
                    Message::Content { sequence, kind, interrupted, payload }
                        if sequence == asked =>
                    {
                        disturbed |= interrupted;
                        all.extend(read(kind, payload));
                    }
                    Message::Done { sequence, interrupted, error } if sequence == asked => {
                        disturbed |= interrupted;
                        if error != 0 {
                            return Err(io::Error::from_raw_os_error(error));
                        }
                        return Ok((!disturbed).then_some(all));
                    }
                    Message::Answer { sequence, error } if sequence == asked && error != 0 => {
                        return Err(io::Error::from_raw_os_error(error));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Whether a route to a subnet comes with the address.
fn has_subnet(prefix: Prefix) -> bool {
    prefix != Prefix::host(prefix.address())
}
