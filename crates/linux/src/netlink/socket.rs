//! The netlink socket: sequence numbers, framing, time bounds (netlink(7)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Asks for a whole table.
pub(super) const DUMP: u16 = NLM_F_REQUEST | NLM_F_DUMP;
/// Asks for a change and for its acknowledgement.
pub(super) const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;

/// The longest datagram that is understood: netlink attributes have 16-bit lengths, and a link with
/// many virtual functions is the one thing that comes near it.
const DATAGRAM_MAX: usize = 64 * 1024;

/// How long an answer is waited for. The kernel answers within the sendmsg(2) itself, so silence
/// this long means that the answer was lost.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Room for the acknowledgements of one batch several times over.
const ANSWERS_BUFFER: usize = 1024 * 1024;

const HEADER_LEN: usize = 16;

/// `NETLINK_ROUTE` is protocol 0, which rustix writes as none.
const ROUTE: Option<rustix::net::Protocol> = None;

pub(super) fn receive_buffer() -> Vec<u8> {
    vec![0; DATAGRAM_MAX]
}

/// One message of a datagram, as far as every table needs it.
#[derive(Debug)]
pub(super) enum Message<'a> {
    /// A row, or news.
    Content { sequence: u32, kind: u16, interrupted: bool, payload: &'a [u8] },
    /// The end of a dump; `error` is a positive error number or 0.
    Done { sequence: u32, interrupted: bool, error: i32 },
    /// An acknowledgement (`error` 0) or a refusal.
    Answer { sequence: u32, error: i32 },
    /// Nothing to act on.
    Idle,
}

/// A route netlink socket that talks to the kernel and to nobody else.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// A blocking socket for questions and changes.
    pub(super) fn open() -> io::Result<Self> {
        let socket = Self::bound(SocketFlags::CLOEXEC, 0)?;
        sockopt::set_socket_timeout(&socket.fd, Timeout::Recv, Some(ANSWER_WAIT))?;
        socket.ask_for_receive_buffer(ANSWERS_BUFFER);
        Ok(socket)
    }

    /// A nonblocking socket that hears the multicast groups in the mask `groups`.
    pub(super) fn listening(groups: u32, receive_buffer: usize) -> io::Result<Self> {
        let socket = Self::bound(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, groups)?;
        socket.ask_for_receive_buffer(receive_buffer);
        Ok(socket)
    }

    fn bound(flags: SocketFlags, groups: u32) -> io::Result<Self> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, ROUTE)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Without `CAP_NET_ADMIN` the buffer is what the host allows; an overflow is then noticed and
    /// answered by another dump, as any overflow is.
    fn ask_for_receive_buffer(&self, bytes: usize) {
        if sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&self.fd, bytes);
        }
    }

    /// The first of `count` consecutive sequence numbers that no earlier message had.
    pub(super) fn next_sequence(&mut self, count: usize) -> u32 {
        let first = self.sequence.wrapping_add(1);
        // Batches have a bound far below this.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match rustix::net::send(&self.fd, bytes, SendFlags::empty()) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next datagram with answers, on a blocking socket.
    ///
    /// # Errors
    /// `TimedOut` after [`ANSWER_WAIT`], and those of [`Socket::receive`].
    pub(super) fn receive_answer<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        self.receive(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(
                io::ErrorKind::TimedOut,
                "the kernel didn't answer on route netlink within 2 seconds",
            ),
            _ => error,
        })
    }

    /// The next datagram from the kernel.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, `ENOBUFS` when some were lost, `InvalidData` for one that
    /// is too long to be taken whole.
    pub(super) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let length = loop {
            let (length, sender) = match self.receive_raw(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            // Another process with CAP_NET_ADMIN may write to this socket; only the kernel is port 0.
            if sender == Some(0) {
                break length;
            }
        };
        buffer.get(..length).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "a netlink datagram is longer than 64 KiB and was cut off",
            )
        })
    }

    fn receive_raw(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<u32>)> {
        let (_, length, sender) = rustix::net::recvfrom(&self.fd, &mut *buffer, RecvFlags::TRUNC)?;
        let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
        Ok((length, sender.map(|sender| sender.pid())))
    }
}

/// Appends one message to a batch.
pub(super) fn append(batch: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = batch.len();
    batch.resize(start + message.buffer_len().next_multiple_of(4), 0);
    if let Some(room) = batch.get_mut(start..) {
        message.serialize(room);
    }
}

/// The messages of one datagram. After one that is malformed there are no more.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = io::Result<Message<'_>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (message, after) = first_message(rest);
        rest = after;
        Some(message)
    })
}

fn first_message(bytes: &[u8]) -> (io::Result<Message<'_>>, &[u8]) {
    let Ok(frame) = NetlinkBuffer::new_checked(bytes) else {
        return (Err(malformed("a header that doesn't fit its datagram")), &[]);
    };
    let length = usize::try_from(frame.length()).unwrap_or(usize::MAX);
    let Some(payload) = bytes.get(HEADER_LEN..length) else {
        return (Err(malformed("a length that doesn't fit its datagram")), &[]);
    };
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    let sequence = frame.sequence_number();
    let interrupted = frame.flags() & NLM_F_DUMP_INTR != 0;
    let message = match frame.message_type() {
        NLMSG_ERROR => match error_number(payload) {
            Some(error) => Message::Answer { sequence, error },
            None => return (Err(malformed("an answer without an error number")), &[]),
        },
        NLMSG_DONE => {
            // The kernel may end a dump without a number; that is success.
            Message::Done { sequence, interrupted, error: error_number(payload).unwrap_or(0) }
        }
        NLMSG_NOOP | NLMSG_OVERRUN => Message::Idle,
        kind => Message::Content { sequence, kind, interrupted, payload },
    };
    (Ok(message), after)
}

/// The kernel writes error numbers negated.
fn error_number(payload: &[u8]) -> Option<i32> {
    let number = payload.first_chunk::<4>()?;
    Some(i32::from_ne_bytes(*number).saturating_neg())
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the kernel sent a netlink message with {what}"),
    )
}
