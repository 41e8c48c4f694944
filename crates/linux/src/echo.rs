//! Asks one address for an ICMP echo (RFC 792, RFC 4443 §4.1), for the ping check.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;

/// Type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;

/// What a datagram of interest needs: the longest IPv4 header, then ours and the payload.
const ANSWER: usize = 60 + HEADER + PAYLOAD.len();

const PAYLOAD: &[u8; 16] = b"standin asks you";

/// A socket that hears one address only; readable when something has come.
#[derive(Debug)]
pub struct Echo {
    socket: Socket,
    to: IpAddr,
    identifier: u16,
}

impl AsRawFd for Echo {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Echo {
    /// Opens a raw, non-blocking socket towards `to`; answers to other `identifier`s are not ours.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`; what connect(2) says, `ENETUNREACH` without a route.
    pub fn open(to: IpAddr, identifier: u16) -> io::Result<Self> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.connect(&SocketAddr::new(to, 0).into())?;
        Ok(Self { socket, to, identifier })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// What send(2) says.
    pub fn ask(&self, sequence: u16) -> io::Result<()> {
        let mut packet = Vec::with_capacity(HEADER + PAYLOAD.len());
        let kind = if self.to.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
        packet.extend([kind, 0, 0, 0]);
        packet.extend(self.identifier.to_be_bytes());
        packet.extend(sequence.to_be_bytes());
        packet.extend(PAYLOAD);
        if self.to.is_ipv4() {
            // For ICMPv6 the kernel fills in the checksum (RFC 3542 §3.1).
            let sum = checksum(&packet).to_be_bytes();
            if let Some(place) = packet.get_mut(2..4) {
                place.copy_from_slice(&sum);
            }
        }
        self.socket.send(&packet).map(|_| ())
    }

    /// Takes one datagram; whether it answers request `sequence`.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; what recv(2) says, such as `EHOSTUNREACH`.
    pub fn take_answer(&self, sequence: u16) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::new(0); ANSWER];
        let length = self.socket.recv(&mut buffer)?;
        let mut packet = [0; ANSWER];
        for (to, from) in packet.iter_mut().zip(buffer.iter().take(length)) {
            // SAFETY: every element was initialised with 0 above, whatever recv wrote over it.
            *to = unsafe { from.assume_init() };
        }
        Ok(self.answers(packet.get(..length).unwrap_or_default(), sequence))
    }

    fn answers(&self, datagram: &[u8], sequence: u16) -> bool {
        let (message, reply) = match (self.to, datagram.first()) {
            // A raw IPv4 socket hands over the IP header as well.
            (IpAddr::V4(_), Some(first)) => {
                (datagram.get(usize::from(first & 0x0f) * 4..), REPLY_V4)
            }
            (IpAddr::V6(_), _) => (Some(datagram), REPLY_V6),
            _ => return false,
        };
        let wanted_tail = [self.identifier.to_be_bytes(), sequence.to_be_bytes()].concat();
        message.is_some_and(|message| {
            message.get(..2) == Some(&[reply, 0][..]) && message.get(4..8) == Some(&wanted_tail)
        })
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let (pairs, _) = bytes.as_chunks::<2>();
    let mut sum: u32 = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The loop left 16 bits.
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_message_with_its_checksum_is_zero() {
        let mut packet = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&packet), 0);
    }

    #[test]
    fn only_the_reply_to_this_request_counts() {
        let Ok(echo) = Echo::open("127.0.0.1".parse().unwrap(), 0x1234) else {
            // Without CAP_NET_RAW there is nothing to try.
            return;
        };
        let mut datagram = vec![0x45; 20];
        datagram.extend([0, 0, 0, 0, 0x12, 0x34, 0, 7]);
        assert!(echo.answers(&datagram, 7));
        assert!(!echo.answers(&datagram, 8));
        datagram[20] = 8;
        assert!(!echo.answers(&datagram, 7), "a request is no reply");
        assert!(!echo.answers(&[0x4f; 10], 7), "cut short");
        assert!(!echo.answers(&[], 7));
    }
}
