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
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// The highest bit says that a value holds attributes.
const KIND: u16 = 0x3fff;

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
    /// Switched on, whatever its carrier is (`IFF_UP`).
    pub on: bool,
    /// The index of the link that it stands on.
    pub base: Option<u32>,
    pub macvlan: bool,
}

impl Link {
    /// `None` for a message that isn't about a link as a whole.
    ///
    /// Only five attributes are looked at, so that what a future kernel does to the others can't
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
        let mut link = Self {
            index: header.index,
            name: String::new(),
            up,
            mac: None,
            loopback,
            mtu: 0,
            on: header.flags.contains(LinkFlags::Up),
            base: None,
            macvlan: false,
        };
        for attribute in NlasIterator::new(payload.get(HEADER_LEN..)?).map_while(Result::ok) {
            let value = attribute.value();
            match attribute.kind() {
                IFLA_IFNAME => link.name = parse_string(value).ok()?,
                IFLA_MTU => link.mtu = parse_u32(value).ok()?,
                IFLA_LINK => link.base = parse_u32(value).ok(),
                kind if kind & KIND == IFLA_LINKINFO => link.macvlan = kind_of(value) == "macvlan",
                IFLA_ADDRESS => link.mac = <[u8; 6]>::try_from(value).ok().map(Mac),
                _ => {}
            }
        }
        // Events of wireless links come as NEWLINK without a name.
        (!link.name.is_empty()).then_some(link)
    }
}

/// What kind of link the attributes in an `IFLA_LINKINFO` tell of.
fn kind_of(info: &[u8]) -> String {
    let mut attributes = NlasIterator::new(info).map_while(Result::ok);
    let kind = attributes.find(|attribute| attribute.kind() & KIND == IFLA_INFO_KIND);
    kind.and_then(|kind| parse_string(kind.value()).ok()).unwrap_or_default()
}
