//! TCP sockets of this host: listed, counted and ended (sock_diag(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};

use crate::netlink::socket::{self, Message, Socket};

/// `TCPDIAG_GETSOCK`: sockets of both families in one walk through the kernel's table. The newer way
/// takes one walk for each.
const BOTH_FAMILIES: u16 = 18;
const SOCK_DESTROY: u16 = 21;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// `INET_DIAG_REQ_BYTECODE`.
const FILTER: u16 = 1;
/// `INET_DIAG_BC_JMP`: where to go on, always.
const JUMP: u8 = 1;
/// `INET_DIAG_BC_S_COND`: a condition on the local address.
const LOCAL_CONDITION: u8 = 7;
/// `inet_diag_bc_op`.
const OPERATION_LEN: u8 = 4;

/// So many addresses fit into the filter, whose jumps are of 16 bits. What is sought beyond them is
/// sought in another walk.
const FILTER_MAX: usize = 256;

const HEADER_LEN: usize = 16;
/// `inet_diag_sockid`.
const IDENTITY_LEN: usize = 48;

/// The states of TCP (linux/net/tcp_states.h), as a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpState(u32);

impl TcpState {
    /// In use by both ends, or by this one after the other's FIN (`ESTABLISHED`, `CLOSE_WAIT`).
    pub const OPEN: Self = Self(1 << 1 | 1 << 8);
    /// Half open (`SYN_SENT`, `SYN_RECV` and requests).
    pub const OPENING: Self = Self(1 << 2 | 1 << 3 | 1 << 12);
    /// Closed by this end; what is on its way is still delivered (`FIN_WAIT1`, `FIN_WAIT2`,
    /// `LAST_ACK`, `CLOSING`).
    pub const CLOSING: Self = Self(1 << 4 | 1 << 5 | 1 << 9 | 1 << 11);
    /// Over; the port is kept for latecomers.
    pub const TIME_WAIT: Self = Self(1 << 6);
    /// All that have another end.
    pub const CONNECTED: Self =
        Self(Self::OPEN.0 | Self::OPENING.0 | Self::CLOSING.0 | Self::TIME_WAIT.0);
    /// Those that have something to deliver, or may get it: what a drain waits for. (Not `FIN_WAIT2`: the
    /// other end has everything, and may keep its half for ever.)
    pub const SERVING: Self = Self(Self::OPEN.0 | Self::OPENING.0 | 1 << 4 | 1 << 9 | 1 << 11);
    /// All but those that are over.
    pub const UNFINISHED: Self = Self(Self::OPEN.0 | Self::OPENING.0 | Self::CLOSING.0);

    const fn of(number: u8) -> Self {
        Self(if number < 32 { 1 << number } else { 0 })
    }

    /// Whether every state of `self` is in `mask`.
    #[must_use]
    pub const fn is(self, mask: Self) -> bool {
        self.0 != 0 && self.0 & !mask.0 == 0
    }
}

/// A TCP socket with another end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// An IPv4 connection to an IPv6 socket has IPv4 addresses here.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: TcpState,
    family: u8,
    identity: [u8; IDENTITY_LEN],
}

/// A conversation with the kernel about sockets, in the network namespace of the thread that opened
/// it.
#[derive(Debug)]
pub struct Sockets {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Sockets {
    /// Begins a conversation.
    ///
    /// # Errors
    /// What socket(2) and bind(2) say.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(socket::SOCK_DIAG)?, buffer: socket::receive_buffer() })
    }

    /// Hands each TCP socket with one of the local addresses, in one of `states`, to `each`.
    ///
    /// Sockets that open or close meanwhile may be missed. 100,000 of them take about 0.2 s; the walk
    /// through the table of a host without any takes some ms of a core, and a kernel without
    /// preemption does nothing else on that core then.
    ///
    /// # Errors
    /// What the kernel says: ENOENT when it lacks `tcp_diag`; `TimedOut` when it says nothing.
    pub fn tcp(
        &mut self,
        locals: &[IpAddr],
        states: TcpState,
        each: &mut dyn FnMut(&TcpSocket),
    ) -> io::Result<()> {
        locals.chunks(FILTER_MAX).try_for_each(|locals| self.dump(locals, states, each))
    }

    /// How many there are.
    ///
    /// # Errors
    /// As [`Sockets::tcp`].
    pub fn count(&mut self, locals: &[IpAddr], states: TcpState) -> io::Result<usize> {
        let mut count = 0;
        self.tcp(locals, states, &mut |_| count += 1)?;
        Ok(count)
    }

    /// Ends the sockets with one of the local addresses in one of `states`: both ends see a reset. Says
    /// how many these were.
    ///
    /// # Errors
    /// As [`Sockets::tcp`]; EOPNOTSUPP when the kernel was built without `INET_DIAG_DESTROY`, EPERM
    /// without `CAP_NET_ADMIN`.
    pub fn end(&mut self, locals: &[IpAddr], states: TcpState) -> io::Result<usize> {
        let mut all = Vec::new();
        self.tcp(locals, states, &mut |socket| all.push(*socket))?;
        let mut ended = 0;
        for socket in &all {
            match self.end_one(socket) {
                Ok(()) => ended += 1,
                // It ended by itself.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }

    fn end_one(&mut self, socket: &TcpSocket) -> io::Result<()> {
        let asked = self.socket.next_sequence(1);
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let body = request(socket.family, TcpState(u32::MAX), &socket.identity);
        self.socket.send(&message(SOCK_DESTROY, flags, asked, &body))?;
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

    fn dump(
        &mut self,
        locals: &[IpAddr],
        states: TcpState,
        each: &mut dyn FnMut(&TcpSocket),
    ) -> io::Result<()> {
        let asked = self.socket.next_sequence(1);
        let mut body = request_of_both(states);
        body.extend(filter(locals));
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        self.socket.send(&message(BOTH_FAMILIES, flags, asked, &body))?;
        loop {
            let datagram = self.socket.receive_answer(&mut self.buffer)?;
            for message in socket::messages(datagram) {
                match message? {
                    Message::Content { sequence, kind: BOTH_FAMILIES, payload, .. }
                        if sequence == asked =>
                    {
                        // The filter is the kernel's; what it let through is looked at again.
                        if let Some(socket) = parse(payload)
                            && locals.contains(&socket.local.ip())
                            && socket.state.is(states)
                        {
                            each(&socket);
                        }
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

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

/// `inet_diag_req`: no family, no extensions, no identity.
fn request_of_both(states: TcpState) -> Vec<u8> {
    let mut bytes = vec![0; 4 + IDENTITY_LEN];
    bytes.extend(states.0.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// `inet_diag_req_v2`.
fn request(family: u8, states: TcpState, identity: &[u8; IDENTITY_LEN]) -> Vec<u8> {
    let mut bytes = vec![family, IPPROTO_TCP, 0, 0];
    bytes.extend(states.0.to_ne_bytes());
    bytes.extend(identity);
    bytes
}

/// The attribute with the program "the local address is one of these": for each the condition, and
/// behind all but the last the jump to the end, which is "yes". Four bytes past the end are "no".
fn filter(locals: &[IpAddr]) -> Vec<u8> {
    let mut program = Vec::new();
    for local in locals.iter().rev() {
        let (family, address) = match local {
            IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
            IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
        };
        // An operation and `inet_diag_hostcond` of 8 bytes, then the address.
        let length =
            u8::try_from(usize::from(OPERATION_LEN) + 8 + address.len()).unwrap_or(u8::MAX);
        let bits = u8::try_from(8 * address.len()).unwrap_or(u8::MAX);
        let mut operations = vec![LOCAL_CONDITION, length];
        operations.extend((u16::from(length) + u16::from(OPERATION_LEN)).to_ne_bytes());
        operations.extend([family, bits, 0, 0]);
        // Any port.
        operations.extend((-1_i32).to_ne_bytes());
        operations.extend(address);
        if !program.is_empty() {
            let to_end = u16::try_from(program.len()).unwrap_or(u16::MAX);
            operations.extend([JUMP, OPERATION_LEN]);
            operations.extend((to_end.saturating_add(u16::from(OPERATION_LEN))).to_ne_bytes());
        }
        operations.append(&mut program);
        program = operations;
    }
    let length = u16::try_from(OPERATION_LEN as usize + program.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(usize::from(length));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(FILTER.to_ne_bytes());
    bytes.extend(program);
    bytes
}

/// `inet_diag_msg`: family, state, timer, retransmissions, then the identity.
fn parse(payload: &[u8]) -> Option<TcpSocket> {
    let (&family, &state) = (payload.first()?, payload.get(1)?);
    let identity: [u8; IDENTITY_LEN] = *payload.get(4..)?.first_chunk()?;
    let port = |place: usize| Some(u16::from_be_bytes(*identity.get(place..)?.first_chunk()?));
    let address = |place: usize| match family {
        AF_INET => {
            let octets: [u8; 4] = *identity.get(place..)?.first_chunk()?;
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        AF_INET6 => {
            let octets: [u8; 16] = *identity.get(place..)?.first_chunk()?;
            Some(Ipv6Addr::from(octets).to_canonical())
        }
        _ => None,
    };
    Some(TcpSocket {
        local: SocketAddr::new(address(4)?, port(0)?),
        remote: SocketAddr::new(address(20)?, port(2)?),
        state: TcpState::of(state),
        family,
        identity,
    })
}
