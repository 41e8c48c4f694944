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

use crate::advert::attach;

/// Asks for a whole table.
pub(crate) const DUMP: u16 = NLM_F_REQUEST | NLM_F_DUMP;
/// Asks for a change and for its acknowledgement.
pub(crate) const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;

/// The longest datagram that is understood: netlink attributes have 16-bit lengths, and a link with
/// many virtual functions is the one thing that comes near it.
const DATAGRAM_MAX: usize = 64 * 1024;

/// How long an answer is waited for. The kernel answers within the sendmsg(2) itself, so silence
/// this long means that the answer was lost.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Room for the acknowledgements of one batch several times over.
const ANSWERS_BUFFER: usize = 1024 * 1024;

const HEADER_LEN: usize = 16;

/// Which part of the kernel a socket talks to; `NETLINK_ROUTE` is protocol 0, which rustix writes as
/// none.
pub(crate) type Protocol = Option<rustix::net::Protocol>;
pub(crate) const ROUTE: Protocol = None;
pub(crate) const NETFILTER: Protocol = Some(rustix::net::netlink::NETFILTER);
pub(crate) const SOCK_DIAG: Protocol = Some(rustix::net::netlink::SOCK_DIAG);

pub(crate) fn receive_buffer() -> Vec<u8> {
    vec![0; DATAGRAM_MAX]
}

/// One message of a datagram, as far as every table needs it.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    /// A row, or news.
    Content { sequence: u32, kind: u16, interrupted: bool, payload: &'a [u8] },
    /// The end of a dump; `error` is a positive error number or 0.
    Done { sequence: u32, interrupted: bool, error: i32 },
    /// An acknowledgement (`error` 0) or a refusal.
    Answer { sequence: u32, error: i32 },
    /// Nothing to act on.
    Idle,
}

/// A netlink socket that talks to the kernel and to nobody else.
#[derive(Debug)]
pub(crate) struct Socket {
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
    pub(crate) fn open(protocol: Protocol) -> io::Result<Self> {
        let socket = Self::bound(protocol, SocketFlags::CLOEXEC, 0)?;
        sockopt::set_socket_timeout(&socket.fd, Timeout::Recv, Some(ANSWER_WAIT))?;
        socket.ask_for_receive_buffer(ANSWERS_BUFFER);
        Ok(socket)
    }

    /// A nonblocking route netlink socket that hears the multicast groups in the mask `groups`.
    pub(super) fn listening(groups: u32, receive_buffer: usize) -> io::Result<Self> {
        let socket = Self::bound(ROUTE, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, groups)?;
        socket.ask_for_receive_buffer(receive_buffer);
        Ok(socket)
    }

    fn bound(protocol: Protocol, flags: SocketFlags, groups: u32) -> io::Result<Self> {
        let fd =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
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

    /// Lets one sendmsg(2) be this long. Without `CAP_NET_ADMIN` the host's bound stays, and a longer
    /// one is refused with `EMSGSIZE`.
    pub(crate) fn ask_for_send_buffer(&self, bytes: usize) {
        if sockopt::set_socket_send_buffer_size_force(&self.fd, bytes).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&self.fd, bytes);
        }
    }

    /// The first of `count` consecutive sequence numbers that no earlier message had.
    pub(crate) fn next_sequence(&mut self, count: usize) -> u32 {
        let first = self.sequence.wrapping_add(1);
        // Batches have a bound far below this.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
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
    pub(crate) fn receive_answer<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        self.receive(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(
                io::ErrorKind::TimedOut,
                "the kernel didn't answer on netlink within 2 seconds",
            ),
            _ => error,
        })
    }

    /// The next datagram from the kernel.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, `ENOBUFS` when some were lost, `InvalidData` for one that
    /// is too long to be taken whole.
    pub(crate) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
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

    /// The address of this socket among netlink sockets.
    pub(super) fn port(&self) -> io::Result<u32> {
        let name = rustix::net::getsockname(&self.fd)?;
        Ok(SocketAddrNetlink::try_from(name)?.pid())
    }

    /// Throws away what has arrived, without waiting.
    pub(super) fn drain(&self, buffer: &mut [u8]) {
        // Every error means that there is nothing more to throw away now.
        while rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT).is_ok() {}
    }

    /// Keeps out notices of the kind `kind` about changes that the socket `port` asked for.
    pub(super) fn spare(&self, kind: u16, port: u32) -> io::Result<()> {
        const LOAD_HALF: u16 = 0x28;
        const LOAD_WORD: u16 = 0x20;
        const JUMP_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        /// Places of `nlmsg_type` and `nlmsg_pid` in `nlmsghdr`.
        const TYPE: u32 = 4;
        const PORT: u32 = 12;
        // A filter reads in network order what the kernel wrote in the machine's.
        let kind = u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
        let port = u32::from_be_bytes(port.to_ne_bytes());
        let op = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
        let unless = |k, jf| libc::sock_filter { code: JUMP_EQUAL, jt: 0, jf, k };
        let program = [
            op(LOAD_HALF, TYPE),
            unless(kind, 3),
            op(LOAD_WORD, PORT),
            unless(port, 1),
            op(RETURN, 0),
            op(RETURN, u32::MAX),
        ];
        attach(&socket2::SockRef::from(&self.fd), &program)
    }

    fn receive_raw(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<u32>)> {
        let (_, length, sender) = rustix::net::recvfrom(&self.fd, &mut *buffer, RecvFlags::TRUNC)?;
        let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
        Ok((length, sender.map(|sender| sender.pid())))
    }
}

/// Appends one message to a batch.
pub(crate) fn append(batch: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
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
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = io::Result<Message<'_>>> {
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

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressMessage;

    use super::super::address::{self, Address};
    use super::super::link::Link;
    use super::super::{Change, Message};
    use super::*;

    /// Two messages as the kernel would send them in one datagram.
    fn datagram() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (sequence, prefix) in [(7, "10.1.0.40/24"), (8, "fd00::40/64")] {
            let hold = Change::Hold { index: 3, prefix: prefix.parse().unwrap(), valid_s: 2 };
            append(&mut bytes, address::change_message(hold, false).1, 0, sequence);
        }
        bytes
    }

    /// What a reader makes of bytes: everything that it understood.
    fn understood(bytes: &[u8]) -> (Vec<Address>, bool) {
        let mut all = Vec::new();
        let mut broken = false;
        for message in messages(bytes) {
            match message {
                Ok(Message::Content { kind, payload, .. }) => {
                    all.extend(Address::from_message(kind, payload));
                    for kind in [16, 17, 20, 21] {
                        let _ = Link::from_message(kind, payload);
                    }
                }
                Ok(_) => {}
                Err(_) => broken = true,
            }
        }
        (all, broken)
    }

    #[test]
    fn what_is_written_is_read() {
        let (all, broken) = understood(&datagram());
        assert!(!broken);
        let prefixes: Vec<String> = all.iter().map(|one| one.prefix.to_string()).collect();
        assert_eq!(prefixes, ["10.1.0.40/24", "fd00::40/64"]);
        assert!(all.iter().all(|one| one.index == 3 && one.valid_lft == Some(2)));
        assert!(all.iter().all(|one| one.protocol == address::PROTOCOL));
    }

    #[test]
    fn a_datagram_that_is_cut_anywhere_is_an_error_or_shorter() {
        let whole = datagram();
        for length in 1..whole.len() {
            let (all, broken) = understood(&whole[..length]);
            assert!(all.len() < 2, "{length}");
            assert!(broken || all.len() == 1, "{length}");
        }
    }

    #[test]
    fn no_byte_of_a_datagram_can_make_its_reader_panic_or_go_on_for_ever() {
        let whole = datagram();
        for place in 0..whole.len() {
            for value in 0..=u8::MAX {
                let mut bytes = whole.clone();
                bytes[place] = value;
                assert!(messages(&bytes).count() <= whole.len() / HEADER_LEN);
                understood(&bytes);
            }
        }
    }

    #[test]
    fn links_with_broken_attributes_do_not_make_their_reader_panic() {
        // A header of 16 bytes, then the attributes IFNAME, MTU and ADDRESS.
        let mut whole = vec![0; 16];
        whole[4] = 3;
        whole.extend([7, 0, 3, 0, b'v', b'a', 0, 0]);
        whole.extend([8, 0, 4, 0, 0xdc, 5, 0, 0]);
        whole.extend([10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0]);
        let link = Link::from_message(16, &whole).unwrap();
        assert_eq!((link.index, link.name.as_str(), link.mtu), (3, "va", 1500));
        assert_eq!(link.mac.unwrap().to_string(), "02:00:00:00:00:01");
        for place in 0..whole.len() {
            let _ = Link::from_message(16, &whole[..place]);
            for value in 0..=u8::MAX {
                let mut bytes = whole.clone();
                bytes[place] = value;
                let _ = Link::from_message(16, &bytes);
            }
        }
    }

    #[test]
    fn an_answer_has_the_number_that_the_kernel_negated() {
        let mut bytes = vec![20, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend((-libc::ENODEV).to_ne_bytes());
        let all: Vec<_> = messages(&bytes).map(Result::unwrap).collect();
        let [Message::Answer { sequence: 9, error: libc::ENODEV }] = all[..] else {
            panic!("{all:?}")
        };
        bytes.truncate(16);
        bytes[0] = 16;
        assert!(messages(&bytes).next().unwrap().is_err());
    }

    #[test]
    fn every_message_begins_at_a_multiple_of_four() {
        let mut bytes = Vec::new();
        let mut odd = AddressMessage::default();
        odd.attributes.push(netlink_packet_route::address::AddressAttribute::Label("a".into()));
        for sequence in 0..3 {
            append(&mut bytes, RouteNetlinkMessage::NewAddress(odd.clone()), 0, sequence);
        }
        assert_eq!(messages(&bytes).filter(Result::is_ok).count(), 3);
    }
}
