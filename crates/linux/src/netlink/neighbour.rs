//! Which MAC a neighbour has, asked of the kernel, which asks the neighbour.

use std::io;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REQUEST, NlasIterator};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use standin_core::types::Mac;

use super::Rtnl;
use super::socket::{self, Message};

const RTM_NEWNEIGH: u16 = 28;
const HEADER_LEN: usize = 12;
const NDA_LLADDR: u16 = 2;

/// An answer on a LAN takes a fraction of this.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

impl Rtnl {
    /// The MAC of the host with this address on the link `index`; `None` when it doesn't answer
    /// within `wait`. What the kernel knows already is believed, and confirmed behind the scenes.
    ///
    /// # Errors
    /// ENODEV when there is no such link; ENETDOWN when it is down; what netlink says.
    pub fn neighbour(
        &mut self,
        index: u32,
        address: IpAddr,
        wait: Duration,
    ) -> io::Result<Option<Mac>> {
        let deadline = Instant::now() + wait;
        let mut about = about(index, address);
        about.header.flags = NeighbourFlags::Use;
        let asked = RouteNetlinkMessage::NewNeighbour(about.clone());
        self.converse(asked, socket::CHANGE | NLM_F_CREATE, |_| ())?;
        about.header.flags = NeighbourFlags::empty();
        loop {
            let question = RouteNetlinkMessage::GetNeighbour(about.clone());
            let mut known = None;
            match self.converse(question, NLM_F_REQUEST, |payload| known = mac(payload)) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
            if known.is_some() || Instant::now() >= deadline {
                return Ok(known);
            }
            sleep(LOOK_AGAIN);
        }
    }

    /// Asks one thing; `each` has what comes before the acknowledgement, or one row without one.
    fn converse(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let asked = self.socket.next_sequence(1);
        let mut bytes = Vec::new();
        socket::append(&mut bytes, message, flags, asked);
        self.socket.send(&bytes)?;
        loop {
            let datagram = self.socket.receive_answer(&mut self.buffer)?;
            for message in socket::messages(datagram) {
                match message? {
                    Message::Content { sequence, kind: RTM_NEWNEIGH, payload, .. }
                        if sequence == asked =>
                    {
                        each(payload);
                        return Ok(());
                    }
                    Message::Answer { sequence, error: 0 } if sequence == asked => return Ok(()),
                    Message::Answer { sequence, error } if sequence == asked => {
                        return Err(io::Error::from_raw_os_error(error));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn about(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    let (family, address) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}

/// `None` as long as the kernel knows of none that is valid.
fn mac(payload: &[u8]) -> Option<Mac> {
    /// `NUD_INCOMPLETE | NUD_FAILED`, in which an old MAC may be shown.
    const UNKNOWN: u16 = 0x01 | 0x20;
    let header = NeighbourHeader::parse(payload).ok()?;
    let state = u16::from(header.state);
    if state == 0 || state & UNKNOWN != 0 {
        return None;
    }
    let mut attributes = NlasIterator::new(payload.get(HEADER_LEN..)?).map_while(Result::ok);
    let address = attributes.find(|attribute| attribute.kind() == NDA_LLADDR)?;
    <[u8; 6]>::try_from(address.value()).ok().map(Mac)
}
