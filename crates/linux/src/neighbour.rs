//! A packet socket for ARP and neighbour discovery on one interface.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use crate::advert::{attach, force_receive_buffer, set};

/// The longest ARP, NS or NA that is worth reading.
const FRAME: usize = 256;

/// Frames taken in one go, so that a flood can't keep the engine from its timers.
const BATCH: usize = 64;

/// A LAN's broadcast storms must not cost more than this.
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;

/// Of linux/if_packet.h, which libc doesn't name.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

const ETHERTYPE_ARP: u32 = 0x0806;
const ETHERTYPE_IPV6: u32 = 0x86dd;

/// Hears every ARP, neighbour solicitation and advertisement; sends whole Ethernet frames.
#[derive(Debug)]
pub struct NeighbourSocket {
    socket: Socket,
    frame: [u8; FRAME],
}

impl NeighbourSocket {
    /// # Errors
    /// EPERM without `CAP_NET_RAW`; ENODEV when the interface has gone.
    pub fn open(index: u32) -> io::Result<Self> {
        // Protocol 0 hears nothing until it is bound: no frame of another interface gets in.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        attach(&socket, &filter())?;
        // Else the kernel copies every frame that leaves the interface, nginx's answers too, for
        // the filter to throw it away. Before Linux 4.20 there is no such option.
        let _ = ignore_outgoing(&socket);
        force_receive_buffer(&socket, RECEIVE_BUFFER_BYTES);
        bind(&socket, index)?;
        // Neighbour advertisements to ff02::1 come in anyway; answers to probes go there as well.
        Ok(Self { socket, frame: [0; FRAME] })
    }

    /// Hands what has arrived to `each`, one batch of it; returns how many frames that was.
    ///
    /// # Errors
    /// As recv(2), except EAGAIN and EINTR; ENETDOWN when the interface went down.
    pub fn receive(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        for count in 0..BATCH {
            match rustix::net::recv(&self.socket, &mut self.frame, rustix::net::RecvFlags::DONTWAIT)
            {
                Ok((length, _)) => each(&self.frame[..length.min(FRAME)]),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(count),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(BATCH)
    }

    /// # Errors
    /// As send(2); ENETDOWN when the interface is down, EAGAIN when its queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.socket, frame, rustix::net::SendFlags::DONTWAIT)?;
        Ok(())
    }
}

impl AsFd for NeighbourSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn ignore_outgoing(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: PACKET_IGNORE_OUTGOING takes an int.
    unsafe { set(socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &on) }
}

fn bind(socket: &Socket, index: u32) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut name: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    name.sll_family = libc::AF_PACKET.try_into().unwrap_or(0);
    name.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(0).to_be();
    name.sll_ifindex = i32::try_from(index).unwrap_or(0);
    #[allow(clippy::cast_possible_truncation, reason = "the size of a small structure")]
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the name outlives the call and has the stated length.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const name).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Incoming ARP, or ICMPv6 of type 135 or 136 right behind the IPv6 header.
fn filter() -> [libc::sock_filter; 11] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// `SKF_AD_OFF + SKF_AD_PKTTYPE`: how the kernel classed the frame.
    const PACKET_TYPE: u32 = 0xffff_f004;
    const OUTGOING: u32 = 4;
    const ICMPV6: u32 = 58;
    const NEXT_HEADER: u32 = 14 + 6;
    const ICMPV6_TYPE: u32 = 14 + 40;
    let op = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let jump = |k, jt, jf| libc::sock_filter { code: JUMP_EQUAL, jt, jf, k };
    let frame = u32::try_from(FRAME).unwrap_or(0);
    [
        op(LOAD_WORD, PACKET_TYPE),
        jump(OUTGOING, 8, 0),
        op(LOAD_HALF, 12),
        jump(ETHERTYPE_ARP, 5, 0),
        jump(ETHERTYPE_IPV6, 0, 5),
        op(LOAD_BYTE, NEXT_HEADER),
        jump(ICMPV6, 0, 3),
        op(LOAD_BYTE, ICMPV6_TYPE),
        libc::sock_filter { code: 0x35, jt: 0, jf: 1, k: 135 }, // at least 135: 135, 136, 137
        op(RETURN, frame),
        op(RETURN, 0),
    ]
}
