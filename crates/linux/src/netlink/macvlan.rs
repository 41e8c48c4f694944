//! Links of standin's own, for VIPs that have a MAC of their own: macvlans on the VIP's interface.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use standin_core::guard::OwnLink;
use standin_core::types::{Family, Mac, Vrid};

use super::socket::Message;
use super::{Link, Rtnl, socket};

/// What their names begin with.
const PREFIX: &str = "standin";

/// What `ip link` shows beside them.
const ALIAS: &str = "standin: a VIP with a virtual MAC, gone with the VIP";

/// The group of links that are about to be removed together; no configuration names this number.
const GOING: u32 = 0x7374_616e;

/// Names that are tried when another interface's VIP of the same id has the first one: no host has more
/// interfaces with the same id than that.
pub const FALLBACKS: u8 = 8;

/// The name of the link for a router id: `standin.41`, `standin6.41`; the next ones are `standin.41b` ….
#[must_use]
pub fn name_of(family: Family, id: Vrid, fallback: u8) -> String {
    let version = match family {
        Family::V4 => "",
        Family::V6 => "6",
    };
    let letter = if fallback == 0 { None } else { Some(char::from(b'a' + fallback)) };
    // 13 bytes at most, of 15 that the kernel has room for.
    format!("{PREFIX}{version}.{id}{}", letter.map(String::from).unwrap_or_default())
}

impl Link {
    /// The VIP's link that this is, if a standin made it for one.
    #[must_use]
    pub fn of_vip(&self) -> Option<OwnLink> {
        OwnLink::with_mac(self.base?, self.mac.filter(|_| self.is_of_vip())?)
    }

    /// Whether a standin made it for a VIP.
    #[must_use]
    pub fn is_of_vip(&self) -> bool {
        self.macvlan
            && self.name.starts_with(PREFIX)
            && self.mac.is_some_and(Mac::is_of_virtual_router)
    }
}

impl Rtnl {
    /// Makes the link `name` with `mac` on the link `base`, switched off.
    ///
    /// It bridges: a link in private mode swallows what comes from its own MAC, and of a rival with the
    /// same virtual MAC the base would hear nothing (tried on Linux 6.18).
    ///
    /// # Errors
    /// `EEXIST` when there is a link of that name; `EBUSY` when `base` is a bridge's or a bond's port;
    /// `EOPNOTSUPP` when the kernel has no macvlan.
    pub fn add_macvlan(&mut self, name: &str, base: u32, mac: Mac) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Link(base),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVlan),
                LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)])),
            ]),
        ];
        let flags = socket::CHANGE | NLM_F_CREATE | NLM_F_EXCL;
        self.ask(RouteNetlinkMessage::NewLink(message), flags)
    }

    /// Switches a link on that [`Rtnl::add_macvlan`] made, and names its maker to who lists links.
    ///
    /// # Errors
    /// `ENODEV` when it is gone; `ENETDOWN` when its base is off.
    pub fn switch_on(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::IfAlias(ALIAS.to_owned()));
        self.ask(RouteNetlinkMessage::SetLink(message), socket::CHANGE)
    }

    /// From now on the link sends nothing, and still hears.
    ///
    /// # Errors
    /// `ENOENT` when the kernel has no such queue.
    pub fn silence(&mut self, index: u32) -> io::Result<()> {
        let flags = socket::CHANGE | NLM_F_CREATE | NLM_F_REPLACE;
        let message = RouteNetlinkMessage::NewQueueDiscipline(root_of(index, Some("blackhole")));
        self.ask(message, flags)
    }

    /// Ends [`Rtnl::silence`].
    ///
    /// # Errors
    /// `ENOENT` when the link wasn't silent.
    pub fn let_speak(&mut self, index: u32) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelQueueDiscipline(root_of(index, None));
        self.ask(message, socket::CHANGE)
    }

    /// Removes links, and all addresses on them. All at once: the kernel waits some 20 ms for each
    /// removal until nobody looks at the link any more.
    ///
    /// # Errors
    /// What the kernel says to the last one; `ENODEV` when it is gone.
    pub fn remove_links(&mut self, indexes: &[u32]) -> io::Result<()> {
        if let [index] = indexes {
            let mut message = LinkMessage::default();
            message.header.index = *index;
            return self.ask(RouteNetlinkMessage::DelLink(message), socket::CHANGE);
        }
        let mut gathered = Err(io::Error::from_raw_os_error(libc::ENODEV));
        for index in indexes {
            let mut message = LinkMessage::default();
            message.header.index = *index;
            message.attributes.push(LinkAttribute::Group(GOING));
            let done = self.ask(RouteNetlinkMessage::SetLink(message), socket::CHANGE);
            gathered = if done.is_ok() { done } else { gathered.or(done) };
        }
        gathered?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(GOING));
        self.ask(RouteNetlinkMessage::DelLink(message), socket::CHANGE)
    }

    /// The link of that name.
    ///
    /// # Errors
    /// As [`Rtnl::links`].
    pub fn link_named(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let asked = self.socket.next_sequence(1);
        let mut bytes = Vec::new();
        socket::append(&mut bytes, RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST, asked);
        self.socket.send(&bytes)?;
        loop {
            let datagram = self.socket.receive_answer(&mut self.buffer)?;
            for message in socket::messages(datagram) {
                match message? {
                    Message::Content { sequence, kind, payload, .. } if sequence == asked => {
                        return Ok(Link::from_message(kind, payload));
                    }
                    Message::Answer { sequence, error } if sequence == asked => {
                        return match error {
                            libc::ENODEV => Ok(None),
                            error => Err(io::Error::from_raw_os_error(error)),
                        };
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether this kernel has macvlans; nothing is made.
    ///
    /// It loads the module for it, if there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn has_macvlan(&mut self) -> io::Result<bool> {
        let mut message = LinkMessage::default();
        // Without a base no macvlan can be, and a kernel that knows the kind says just that.
        message.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::MacVlan)])];
        let flags = socket::CHANGE | NLM_F_CREATE | NLM_F_EXCL;
        match self.ask(RouteNetlinkMessage::NewLink(message), flags) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn root_of(index: u32, kind: Option<&str>) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.family = AddressFamily::Unspec;
    message.header.index = i32::try_from(index).unwrap_or(0);
    message.header.parent = TcHandle::ROOT;
    message.attributes.extend(kind.map(|kind| TcAttribute::Kind(kind.to_owned())));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel() {
        let id = |id| Vrid::new(id).unwrap();
        assert_eq!(name_of(Family::V4, id(41), 0), "standin.41");
        assert_eq!(name_of(Family::V6, id(41), 1), "standin6.41b");
        assert!(name_of(Family::V6, id(255), FALLBACKS).len() <= 15);
    }
}
