//! What the kernel says about links, addresses and routes as they change.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Rtnl;
use super::address::{Address, RTM_DELADDR, RTM_NEWADDR};
use super::link::{Link, RTM_DELLINK, RTM_NEWLINK};
use super::socket::{self, Message, Socket};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// What is listened to, as the bits of `sockaddr_nl.nl_groups` (linux/rtnetlink.h).
const GROUPS: u32 =
    RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const RTMGRP_IPV6_ROUTE: u32 = 0x400;

/// Room for the notices of some 3,000 addresses that come at once, with their routes.
const NOTICES_BUFFER: usize = 8 * 1024 * 1024;

/// How many datagrams one [`Monitor::read`] takes, so that a storm can't keep its thread for itself.
///
/// The rest keeps the descriptor readable: watch it level-triggered.
const DATAGRAMS_PER_READ: usize = 4096;

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A link as it is now; also said when nothing that is of interest here changed.
    Link(Link),
    LinkGone {
        index: u32,
    },
    /// An address as it is now; said again with each change, and with each [`Rtnl::renew`] that
    /// isn't spared.
    Address(Address),
    /// An address that was dropped, or whose time was over.
    AddressGone(Address),
    /// Some route came, went or changed; said once per [`Monitor::read`].
    Route,
    /// Notices were lost: what is known must be asked for again.
    Overflow,
}

/// A subscription to the kernel's notices about the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Monitor {
    /// Begins to listen. Ask [`super::Rtnl`] for the tables *after* this, so that no change falls between.
    ///
    /// # Errors
    /// What socket(2) and bind(2) say.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::listening(GROUPS, NOTICES_BUFFER)?;
        Ok(Self { socket, buffer: socket::receive_buffer() })
    }

    /// Hears of IPv6 addresses alone.
    pub(super) fn open_for_v6() -> io::Result<Self> {
        let socket = Socket::listening(RTMGRP_IPV6_IFADDR, NOTICES_BUFFER)?;
        Ok(Self { socket, buffer: socket::receive_buffer() })
    }

    /// Waits until there is something to read, or until `longest` is over.
    pub(super) fn wait(&self, longest: Duration) -> io::Result<()> {
        let mut readable = [PollFd::new(&self.socket, PollFlags::IN)];
        let longest = Timespec::try_from(longest).ok();
        match rustix::event::poll(&mut readable, longest.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hears no more of IPv4 addresses that `rtnl` renewed: nothing of interest has changed.
    ///
    /// # Errors
    /// What setsockopt(2) says; every renewal is then said, which costs time only.
    pub fn spare_renewals_of(&self, rtnl: &Rtnl) -> io::Result<()> {
        self.socket.spare(RTM_NEWADDR, rtnl.renewals.port()?)
    }

    /// Appends what has arrived to `out`, and returns without waiting.
    ///
    /// # Errors
    /// What recvfrom(2) says, other than that there is nothing or that notices were lost.
    pub fn read(&mut self, out: &mut Vec<Notice>) -> io::Result<()> {
        let mut route = false;
        for _ in 0..DATAGRAMS_PER_READ {
            let datagram = match self.socket.receive(&mut self.buffer) {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if was_loss(&error) => {
                    out.push(Notice::Overflow);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for message in socket::messages(datagram) {
                match message {
                    Ok(Message::Content { kind: RTM_NEWROUTE | RTM_DELROUTE, .. }) => route = true,
                    Ok(Message::Content { kind, payload, .. }) => out.extend(notice(kind, payload)),
                    Ok(_) => {}
                    // What a message that can't be read said is lost like any other.
                    Err(_) => out.push(Notice::Overflow),
                }
            }
        }
        if route {
            out.push(Notice::Route);
        }
        Ok(())
    }
}

fn was_loss(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS) || error.kind() == io::ErrorKind::InvalidData
}

fn notice(kind: u16, payload: &[u8]) -> Option<Notice> {
    match kind {
        RTM_NEWLINK => Link::from_message(kind, payload).map(Notice::Link),
        RTM_DELLINK => {
            Link::from_message(kind, payload).map(|link| Notice::LinkGone { index: link.index })
        }
        RTM_NEWADDR => Address::from_message(kind, payload).map(Notice::Address),
        RTM_DELADDR => Address::from_message(kind, payload).map(Notice::AddressGone),
        _ => None,
    }
}
