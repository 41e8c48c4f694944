//! The kernel's links and addresses, asked for, changed and watched over route netlink (rtnetlink(7)).
//!
//! Nothing here may run on the engine thread: sendmsg(2) on such a socket waits for the kernel's
//! one rtnl lock, which others have been seen to hold for 433 ms.

mod address;
mod link;
mod monitor;
mod socket;

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use standin_core::types::Prefix;

pub use address::{Address, PROTOCOL};
pub use link::Link;
pub use monitor::{Monitor, Notice};
use socket::{Message, Socket};

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
    Hold { index: u32, prefix: Prefix, valid_s: u32 },
    /// Removes the address; `EADDRNOTAVAIL` when there is none.
    Drop { index: u32, prefix: Prefix },
}

/// A conversation with the kernel about links and addresses, in the network namespace of the
/// thread that opened it.
#[derive(Debug)]
pub struct Rtnl {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Rtnl {
    /// Begins a conversation.
    ///
    /// # Errors
    /// What socket(2) and bind(2) say.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open()?, buffer: socket::receive_buffer() })
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
    /// One change that fails doesn't keep the others from being made. A change that wasn't answered
    /// is left with `ETIMEDOUT`.
    ///
    /// # Errors
    /// The conversation itself failed; which changes were made is then what `results` knows.
    pub fn change(
        &mut self,
        changes: &[Change],
        results: &mut Vec<Result<(), i32>>,
    ) -> io::Result<()> {
        results.clear();
        results.resize(changes.len(), Err(libc::ETIMEDOUT));
        let batches = changes.chunks(CHANGES_PER_BATCH);
        for (batch, results) in batches.zip(results.chunks_mut(CHANGES_PER_BATCH)) {
            self.change_batch(batch, results)?;
        }
        Ok(())
    }

    fn change_batch(
        &mut self,
        batch: &[Change],
        results: &mut [Result<(), i32>],
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        let first = self.socket.next_sequence(batch.len());
        for (sequence, change) in (0..).map(|n: u32| first.wrapping_add(n)).zip(batch) {
            let (flags, message) = address::change_message(*change);
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
            "the kernel's tables of links and addresses changed during each of 8 attempts to read them",
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
