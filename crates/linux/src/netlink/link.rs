//! What a link is, read from the kernel's `RTM_NEWLINK` and `RTM_DELLINK`.

use netlink_packet_core::{NlasIterator, parse_string, parse_u32};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use standin_core::types::Mac;

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;

const HEADER_LEN: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What the kernel calls it; never 0, and not used again while the host runs.
    pub index: u32,
    pub name: String,
    /// Switched on, and its carrier is there (`IFF_UP`, `IFF_RUNNING` and `IFF_LOWER_UP`).
    pub up: bool,
    /// `None` for links without Ethernet addresses.
    pub mac: Option<Mac>,
    pub loopback: bool,
    /// In bytes; 0 when the kernel doesn't say.
    pub mtu: u32,
}

impl Link {
    /// `None` for a message that isn't about a link as a whole.
    ///
    /// Only three attributes are looked at, so that what a future kernel does to the others can't
    /// make a link unreadable.
    pub(super) fn from_message(kind: u16, payload: &[u8]) -> Option<Self> {
        if !matches!(kind, RTM_NEWLINK | RTM_DELLINK) {
            return None;
        }
        let header = LinkHeader::parse(payload).ok()?;
        // A bridge reports its ports in the same words with its own family; there DELLINK means
        // "left the bridge", not "gone".
        if header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let up = header.flags.contains(LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp);
        let loopback = header.flags.contains(LinkFlags::Loopback);
        let mut link =
            Self { index: header.index, name: String::new(), up, mac: None, loopback, mtu: 0 };
        for attribute in NlasIterator::new(payload.get(HEADER_LEN..)?).map_while(Result::ok) {
            let value = attribute.value();
            match attribute.kind() {
                IFLA_IFNAME => link.name = parse_string(value).ok()?,
                IFLA_MTU => link.mtu = parse_u32(value).ok()?,
                IFLA_ADDRESS => link.mac = <[u8; 6]>::try_from(value).ok().map(Mac),
                _ => {}
            }
        }
        // Events of wireless links come as NEWLINK without a name.
        (!link.name.is_empty()).then_some(link)
    }
}
