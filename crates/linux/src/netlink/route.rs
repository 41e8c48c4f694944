//! Routes that name a source address, and the one that bridges a change of addresses.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use standin_core::types::Prefix;

use super::{Rtnl, socket};

const RTM_NEWROUTE: u16 = 24;

/// The kernel's own table of what is local.
const TABLE_LOCAL: u32 = 255;

/// The metric of [`Rtnl::bridge_route`]: behind every route that anybody has made.
const LAST: u32 = u32::MAX - 0x73;

/// A route; of those that are shown, a unicast one of any table but the kernel's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whether the kernel made it, together with an address.
    pub of_kernel: bool,
    /// `None`: everywhere else.
    pub destination: Option<Prefix>,
    /// What the host's own packets come from (`ip route … src`).
    pub source: Option<IpAddr>,
    pub gateway: Option<IpAddr>,
    /// The index of its link; `None` when it has several ways.
    pub index: Option<u32>,
    pub table: u32,
    pub metric: u32,
    message: RouteMessage,
}

impl Route {
    fn from_message(kind: u16, payload: &[u8]) -> Option<Self> {
        if kind != RTM_NEWROUTE {
            return None;
        }
        let message = RouteMessage::parse(payload).ok()?;
        let header = &message.header;
        let mut route = Self {
            of_kernel: header.protocol == RouteProtocol::Kernel,
            destination: None,
            source: None,
            gateway: None,
            index: None,
            table: header.table.into(),
            metric: 0,
            message: RouteMessage::default(),
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(to) => {
                    route.destination = Prefix::new(ip(to)?, header.destination_prefix_length);
                }
                RouteAttribute::PrefSource(source) => route.source = ip(source),
                RouteAttribute::Gateway(gateway) => route.gateway = ip(gateway),
                RouteAttribute::Oif(index) => route.index = Some(*index),
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                _ => {}
            }
        }
        route.message = message;
        Some(route)
    }

    fn is_unicast(&self) -> bool {
        self.message.header.kind == RouteType::Unicast && self.table != TABLE_LOCAL
    }
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

const fn written(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

impl Rtnl {
    /// Every unicast route of the namespace, of all tables but `local`, in the kernel's order.
    ///
    /// # Errors
    /// As [`Rtnl::links`].
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        Ok(self.all_routes()?.into_iter().filter(Route::is_unicast).collect())
    }

    fn all_routes(&mut self) -> io::Result<Vec<Route>> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut every = RouteMessage::default();
            every.header.address_family = family;
            all.extend(self.dump(&RouteNetlinkMessage::GetRoute(every), Route::from_message)?);
        }
        Ok(all)
    }

    /// Whether packets to `address` are taken as the host's own by way of the link `index`: an IPv6
    /// address is on its link some time before that (see [`Rtnl::change`]).
    ///
    /// # Errors
    /// As [`Rtnl::links`].
    pub fn is_local(&mut self, address: IpAddr, index: u32) -> io::Result<bool> {
        let host = Some(Prefix::host(address));
        let is = |route: &Route| {
            route.message.header.kind == RouteType::Local
                && (route.destination, route.index) == (host, Some(index))
        };
        Ok(self.all_routes()?.iter().any(is))
    }

    /// Gives a route another source address; nothing else of it changes, and it is there throughout.
    ///
    /// # Errors
    /// What the kernel says (`EINVAL`: the address isn't on this host), and those of [`Rtnl::links`].
    pub fn change_source(&mut self, route: &Route, source: IpAddr) -> io::Result<()> {
        let mut message = route.message.clone();
        // The kernel takes back no flag that only it knows.
        message.header.flags &= RouteFlags::Onlink;
        let by_id = message.attributes.iter().any(|it| matches!(it, RouteAttribute::NhId(_)));
        message.attributes.retain(|attribute| match attribute {
            RouteAttribute::CacheInfo(_) | RouteAttribute::PrefSource(_) => false,
            // A route by a nexthop object is shown with what that object says, and not taken with it.
            RouteAttribute::Gateway(_) | RouteAttribute::Oif(_) | RouteAttribute::MultiPath(_) => {
                !by_id
            }
            _ => true,
        });
        message.attributes.push(RouteAttribute::PrefSource(written(source)));
        self.ask(RouteNetlinkMessage::NewRoute(message), socket::CHANGE | NLM_F_REPLACE)
    }

    /// Makes, or removes, a last-resort route to a subnet on its link: it carries what is sent while
    /// the kernel changes its own.
    ///
    /// # Errors
    /// What the kernel says, and those of [`Rtnl::links`].
    pub fn bridge_route(&mut self, index: u32, subnet: Prefix, there: bool) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = match subnet.address() {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.destination_prefix_length = subnet.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Link;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Destination(written(subnet.address())));
        message.attributes.push(RouteAttribute::Oif(index));
        message.attributes.push(RouteAttribute::Priority(LAST));
        if there {
            let message = RouteNetlinkMessage::NewRoute(message);
            self.ask(message, socket::CHANGE | NLM_F_CREATE | NLM_F_REPLACE)
        } else {
            self.ask(RouteNetlinkMessage::DelRoute(message), socket::CHANGE)
        }
    }
}
