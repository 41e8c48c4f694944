//! Raw IP sockets for protocol 112: one to hear adverts and one to send them, per interface and
//! family, however many VIPs there are.
//!
//! The socket that hears isn't bound to an address, since a bound raw socket hears no multicast;
//! the one that sends is bound to the node's own address, since the kernel's choice of a source
//! could be a VIP.

use std::io;
use std::iter::Peekable;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use standin_core::types::Family;
use standin_core::wire::ipv4;
use standin_core::wire::vrrp::{HOP_LIMIT, MULTICAST_V4, MULTICAST_V6, PROTOCOL, TRAFFIC_CLASS};

/// Messages read per system call: all VIPs of an interface in one phase are one burst.
const BATCH: usize = 64;

/// Messages sent per system call: an interface has at most 255 router ids.
const SEND_BATCH: usize = 256;

/// One beat of 255 router ids to 15 unicast peers, as the kernel accounts small packets; only what
/// an interface hasn't taken yet takes memory.
const SEND_BYTES: usize = 255 * 15 * KERNEL_BYTES_PER_PACKET;

/// The longest message that is read whole: an advert with 80 IPv6 addresses behind an IPv4 header.
const MESSAGE: usize = 1536;

/// What the kernel accounts for one small packet in a receive buffer.
const KERNEL_BYTES_PER_PACKET: usize = 1280;

/// A burst of every VIP's adverts must fit this many times: from two nodes, twice over.
const BURSTS: usize = 4;

/// Room for IPV6_PKTINFO and IPV6_HOPLIMIT, or for nothing.
const CONTROL: usize = 96;

/// Control messages are read in place, as structures that want this alignment.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; CONTROL]);

/// A message as the network brought it.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL for IPv4.
    pub hop_limit: u8,
    /// The VRRP message, without its IP header.
    pub payload: &'a [u8],
}

/// Hears all adverts of one family on one interface.
pub struct AdvertReceiver {
    socket: Socket,
    family: Family,
    buffers: Box<[[u8; MESSAGE]; BATCH]>,
    controls: Box<[Control; BATCH]>,
    names: Box<[libc::sockaddr_storage; BATCH]>,
    malformed: u64,
}

impl AdvertReceiver {
    /// Joins the group; `vips` sizes the buffer.
    ///
    /// # Errors
    /// EPERM without `CAP_NET_RAW`; ENODEV when the interface has gone.
    pub fn open(family: Family, index: u32, name: &str, vips: usize) -> io::Result<Self> {
        let socket = raw(family)?;
        socket.bind_device(Some(name.as_bytes()))?;
        match family {
            Family::V4 => {
                // SAFETY: an option of int size on a socket of ours.
                unsafe { set_int(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, 0)? };
                let interface = InterfaceIndexOrAddress::Index(index);
                socket.join_multicast_v4_n(&MULTICAST_V4, &interface)?;
            }
            Family::V6 => {
                // SAFETY: as above.
                unsafe { set_int(&socket, libc::IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)? };
                // SAFETY: as above.
                unsafe { set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)? };
                // SAFETY: as above.
                unsafe { set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)? };
                socket.join_multicast_v6(&MULTICAST_V6, index)?;
            }
        }
        attach_filter(&socket, family)?;
        let bytes = (vips * BURSTS).max(BATCH) * KERNEL_BYTES_PER_PACKET;
        force_receive_buffer(&socket, bytes);
        // SAFETY: all-zero bytes are a valid sockaddr_storage.
        let name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Ok(Self {
            socket,
            family,
            buffers: Box::new([[0; MESSAGE]; BATCH]),
            controls: Box::new([Control([0; CONTROL]); BATCH]),
            names: Box::new([name; BATCH]),
            malformed: 0,
        })
    }

    /// Hands what has arrived to `each`, one batch of it; 0 when there was nothing.
    ///
    /// # Errors
    /// As recvmmsg(2), except EAGAIN and EINTR.
    pub fn receive(&mut self, each: &mut dyn FnMut(Received<'_>)) -> io::Result<usize> {
        // SAFETY: all-zero bytes are valid for both structures.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
        for i in 0..BATCH {
            vectors[i].iov_base = self.buffers[i].as_mut_ptr().cast();
            vectors[i].iov_len = MESSAGE;
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut self.names[i]).cast();
            header.msg_namelen = socklen::<libc::sockaddr_storage>();
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
        }
        // SAFETY: every header points at a buffer, name and control block of the stated length,
        // all of which outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                libc::c_uint::try_from(BATCH).unwrap_or(0),
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        };
        for (i, header) in headers.iter().take(count).enumerate() {
            let length = usize::try_from(header.msg_len).unwrap_or(0).min(MESSAGE);
            let bytes = &self.buffers[i][..length];
            let received = match self.family {
                Family::V4 => read_v4(bytes),
                Family::V6 => read_v6(bytes, &header.msg_hdr, &self.names[i]),
            };
            match received {
                Some(received) => each(received),
                None => self.malformed += 1,
            }
        }
        Ok(count)
    }

    /// Messages that had no readable IP header.
    #[must_use]
    pub const fn malformed(&self) -> u64 {
        self.malformed
    }
}

impl std::fmt::Debug for AdvertReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdvertReceiver").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl AsFd for AdvertReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A raw IPv4 socket hands over the IP header, whose length varies.
fn read_v4(bytes: &[u8]) -> Option<Received<'_>> {
    let header = bytes.get(..ipv4::HEADER_LEN)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < ipv4::HEADER_LEN {
        return None;
    }
    let address = |at: usize| {
        IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]))
    };
    Some(Received {
        source: address(12),
        destination: address(16),
        hop_limit: header[8],
        payload: bytes.get(length..)?,
    })
}

/// A raw IPv6 socket hands over the payload; the rest stands in control messages.
fn read_v6<'a>(
    payload: &'a [u8],
    header: &libc::msghdr,
    name: &libc::sockaddr_storage,
) -> Option<Received<'a>> {
    if i32::from(name.ss_family) != libc::AF_INET6 {
        return None;
    }
    // SAFETY: the kernel said AF_INET6, and a sockaddr_storage is large and aligned enough for it.
    let source = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
    let source = IpAddr::V6(Ipv6Addr::from(source.sin6_addr.s6_addr));
    let (mut destination, mut hop_limit) = (None, None);
    // SAFETY: the header was filled in by the kernel; its control block is still in place.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return headers that lie inside the block.
        let (level, kind) = unsafe { ((*control).cmsg_level, (*control).cmsg_type) };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(control) };
        if level == libc::IPPROTO_IPV6 && kind == libc::IPV6_PKTINFO {
            // SAFETY: the kernel puts an in6_pktinfo there; it may be unaligned.
            let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
            destination = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
        } else if level == libc::IPPROTO_IPV6 && kind == libc::IPV6_HOPLIMIT {
            // SAFETY: the kernel puts an int there; it may be unaligned.
            let hops = unsafe { data.cast::<libc::c_int>().read_unaligned() };
            hop_limit = u8::try_from(hops).ok();
        }
        // SAFETY: `control` lies inside the block of `header`.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    Some(Received { source, destination: destination?, hop_limit: hop_limit?, payload })
}

/// Sends adverts of one family on one interface from one source address.
pub struct AdvertSender {
    socket: Socket,
    index: u32,
    source: IpAddr,
    places: Box<[Place; SEND_BATCH]>,
    /// Messages begin with an IPv4 header of ours.
    whole: bool,
}

/// A destination in the kernel's form.
struct Place {
    name: SockAddr,
    /// The IPv4 header in front of what goes there; the kernel sees to length and checksum.
    header: [u8; ipv4::HEADER_LEN],
}

impl AdvertSender {
    /// # Errors
    /// EPERM without `CAP_NET_RAW`; ENODEV when the interface has gone; EADDRNOTAVAIL when `source`
    /// isn't an address of this host.
    pub fn open(family: Family, index: u32, name: &str, source: IpAddr) -> io::Result<Self> {
        let socket = raw(family)?;
        socket.bind_device(Some(name.as_bytes()))?;
        let hops = u32::from(HOP_LIMIT);
        match family {
            Family::V4 => {
                socket.set_ttl_v4(hops)?;
                socket.set_multicast_ttl_v4(hops)?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_tos_v4(TRAFFIC_CLASS.into())?;
                let request = libc::ip_mreqn {
                    imr_multiaddr: libc::in_addr { s_addr: 0 },
                    imr_address: libc::in_addr { s_addr: 0 },
                    imr_ifindex: i32::try_from(index).unwrap_or(0),
                };
                // SAFETY: IP_MULTICAST_IF takes an ip_mreqn.
                unsafe { set(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)? };
            }
            Family::V6 => {
                socket.set_unicast_hops_v6(hops)?;
                socket.set_multicast_hops_v6(hops)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_if_v6(index)?;
                socket.set_tclass_v6(TRAFFIC_CLASS.into())?;
            }
        }
        socket.bind(&name_of(source, index))?;
        force_send_buffer(&socket);
        // It only sends: what it would hear goes to the receiver's socket as well.
        attach(&socket, &[instruction(RETURN, 0)])?;
        let places = std::array::from_fn(|_| Place::new(source, source, index));
        Ok(Self { socket, index, source, places: Box::new(places), whole: false })
    }

    /// Sends the messages in as few calls as possible; returns how many went out.
    ///
    /// One that is refused, for want of a route or by a packet filter, keeps no other from going
    /// out: behind it stand other VIPs' adverts and other peers.
    ///
    /// # Errors
    /// As sendmsg(2), for the first message that was refused; EAGAIN when the send buffer is full,
    /// and then those behind it were not tried.
    pub fn send<'a>(
        &mut self,
        messages: impl IntoIterator<Item = (IpAddr, &'a [u8])>,
    ) -> io::Result<usize> {
        let mut messages = messages.into_iter().peekable();
        let (mut sent, mut refused) = (0, None);
        while let Some((to, _)) = messages.peek() {
            self.begin_with_headers(goes_whole(*to))?;
            sent += self.send_batch(&mut messages, &mut refused)?;
        }
        refused.map_or(Ok(sent), Err)
    }

    fn begin_with_headers(&mut self, whole: bool) -> io::Result<()> {
        if self.whole != whole {
            self.socket.set_header_included_v4(whole)?;
            self.whole = whole;
        }
        Ok(())
    }

    /// One system call for the messages up to one of the other kind, and one more for each that is refused;
    /// returns how many went out.
    fn send_batch<'a>(
        &mut self,
        messages: &mut Peekable<impl Iterator<Item = (IpAddr, &'a [u8])>>,
        refused: &mut Option<io::Error>,
    ) -> io::Result<usize> {
        // Not written before they are needed: most calls need few of them.
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; SEND_BATCH];
        let mut vectors = [const { MaybeUninit::<[libc::iovec; 2]>::uninit() }; SEND_BATCH];
        let mut places = self.places.iter_mut();
        let mut last = None;
        let mut filled = 0;
        let alike = |(to, _): &(IpAddr, _)| goes_whole(*to) == self.whole;
        while filled < SEND_BATCH
            && let Some((destination, payload)) = messages.next_if(alike)
        {
            // Most go to the same group as the one before.
            let (header, front) = match last {
                Some((to, header, front)) if to == destination => (header, front),
                _ => {
                    // There are as many places as messages.
                    let Some(place) = places.next() else { break };
                    *place = Place::new(self.source, destination, self.index);
                    let (header, front) = (header_to(&place.name), part(&place.header));
                    last = Some((destination, header, front));
                    (header, front)
                }
            };
            let parts = vectors[filled].write([front, part(payload)]);
            let parts = if self.whole { &mut parts[..] } else { &mut parts[1..] };
            let header = headers[filled].write(header);
            header.msg_hdr.msg_iov = parts.as_mut_ptr();
            header.msg_hdr.msg_iovlen = parts.len();
            filled += 1;
        }
        let (mut at, mut went) = (0, 0);
        while at < filled {
            // SAFETY: the first `filled` headers were written, and those from `at` on are passed;
            // each points at a name, an IP header and a payload of the stated lengths, all of which
            // outlive the call; sendmmsg writes to none of them.
            let result = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    headers.as_mut_ptr().add(at).cast(),
                    libc::c_uint::try_from(filled - at).unwrap_or(0),
                    libc::MSG_DONTWAIT,
                )
            };
            if let Ok(count) = usize::try_from(result) {
                // Of one that is refused behind others the next call says why.
                went += count;
                at += count;
                continue;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Err(error),
                _ => {
                    at += 1;
                    refused.get_or_insert(error);
                }
            }
        }
        Ok(went)
    }
}

/// What goes to the IPv4 group brings its header (`IP_HDRINCL`): the kernel is quicker with one that it
/// has not to write. What goes to a peer doesn't: the kernel keeps no route for such packets, and until
/// Linux 6.4 it didn't see their protocol where a rule or an IPsec policy asks for it.
const fn goes_whole(to: IpAddr) -> bool {
    to.is_ipv4() && to.is_multicast()
}

impl Place {
    fn new(source: IpAddr, destination: IpAddr, index: u32) -> Self {
        let header = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::header(source, destination, 0),
            _ => [0; ipv4::HEADER_LEN],
        };
        Self { name: name_of(destination, index), header }
    }
}

fn name_of(address: IpAddr, index: u32) -> SockAddr {
    SockAddr::from(match address {
        IpAddr::V4(address) => SocketAddr::V4(SocketAddrV4::new(address, 0)),
        IpAddr::V6(address) => {
            let local = address.is_unicast_link_local() || address.is_multicast();
            let scope = if local { index } else { 0 };
            SocketAddr::V6(SocketAddrV6::new(address, 0, 0, scope))
        }
    })
}

const fn header_to(name: &SockAddr) -> libc::mmsghdr {
    // SAFETY: all-zero bytes are a valid mmsghdr.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
    header.msg_hdr.msg_namelen = name.len();
    header
}

/// What sendmsg(2) reads from.
const fn part(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// `IPV6_MULTICAST_ALL` of linux/in6.h, which libc doesn't name.
const IPV6_MULTICAST_ALL: libc::c_int = 29;

fn raw(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(PROTOCOL))))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sets a socket option whose value is `T`.
///
/// # Safety
/// The option must take a value of the layout of `T`.
pub(crate) unsafe fn set<T>(socket: &Socket, level: i32, option: i32, value: &T) -> io::Result<()> {
    let value = (&raw const *value).cast();
    // SAFETY: `value` points at a T that outlives the call; the caller vouches for its layout.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, socklen::<T>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// # Safety
/// The option must take an int.
unsafe fn set_int(socket: &Socket, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the caller vouches for the option's type.
    unsafe { set(socket, level, option, &value) }
}

const fn socklen<T>() -> libc::socklen_t {
    #[allow(clippy::cast_possible_truncation, reason = "sizes of small structures")]
    let length = size_of::<T>() as libc::socklen_t;
    length
}

/// As large as asked where `CAP_NET_ADMIN` allows it, else as large as the limit allows.
pub(crate) fn force_receive_buffer(socket: &Socket, bytes: usize) {
    let wanted = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: SO_RCVBUFFORCE takes an int.
    let forced = unsafe { set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted) };
    if forced.is_err() {
        // A small buffer loses adverts in a burst; that is heard by the core as silence of one.
        let _ = socket.set_recv_buffer_size(bytes);
    }
}

/// Room for one beat that the interface is slow to take.
fn force_send_buffer(socket: &Socket) {
    let wanted = libc::c_int::try_from(SEND_BYTES).unwrap_or(libc::c_int::MAX);
    // SAFETY: SO_SNDBUFFORCE takes an int.
    let forced = unsafe { set_int(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted) };
    if forced.is_err() {
        // A small buffer loses the last adverts of a beat when the interface is slow.
        let _ = socket.set_send_buffer_size(SEND_BYTES);
    }
}

// Classic BPF, linux/filter.h.
const LOAD_BYTE: u16 = 0x30;
const LOAD_BYTE_INDEXED: u16 = 0x50;
const LOAD_X_IPV4_LENGTH: u16 = 0xb1;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const fn instruction(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

const fn jump(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: JUMP_EQUAL, jt, jf, k }
}

/// Lets through what begins like an advert of version 3 or 2; the codec judges the rest.
fn attach_filter(socket: &Socket, family: Family) -> io::Result<()> {
    let tail =
        [jump(0x31, 1, 0), jump(0x21, 0, 1), instruction(RETURN, u32::MAX), instruction(RETURN, 0)];
    match family {
        Family::V4 => attach(
            socket,
            &[
                instruction(LOAD_X_IPV4_LENGTH, 0),
                instruction(LOAD_BYTE_INDEXED, 0),
                tail[0],
                tail[1],
                tail[2],
                tail[3],
            ],
        ),
        Family::V6 => {
            attach(socket, &[instruction(LOAD_BYTE, 0), tail[0], tail[1], tail[2], tail[3]])
        }
    }
}

pub(crate) fn attach(socket: &Socket, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: SO_ATTACH_FILTER takes a sock_fprog; the kernel copies the program.
    unsafe { set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_the_ip_header_is_read_not_assumed() {
        let mut bytes = vec![0_u8; 24 + 8];
        bytes[0] = 0x46;
        bytes[8] = 255;
        bytes[12..16].copy_from_slice(&[10, 0, 0, 1]);
        bytes[16..20].copy_from_slice(&[224, 0, 0, 18]);
        bytes[24] = 0x31;
        let received = read_v4(&bytes).unwrap();
        assert_eq!(received.payload.len(), 8);
        assert_eq!(received.payload[0], 0x31);
        assert_eq!(received.source.to_string(), "10.0.0.1");
        assert!(read_v4(&bytes[..22]).is_none());
        assert!(read_v4(&[]).is_none());
    }
}
