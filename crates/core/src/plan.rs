//! What one node's core is asked to do: the cluster file, resolved for this node.
//!
//! A plan is already valid: ranges, references and collisions were checked by `standin-config`.

use std::net::IpAddr;
use std::time::Duration;

use crate::types::{CheckId, Family, InterfaceId, IntervalCs, Mac, NodeId, Prefix, Priority, Vrid};

/// RFC 9568 §5.2.5 has one byte for the count; this many IPv6 addresses still fit an Ethernet frame.
pub const MAX_ADDRESSES_PER_FAMILY: usize = 80;

/// A cluster of more nodes than this is no stand-in but a fleet.
pub const MAX_NODES: usize = 16;

/// Four interfaces with 255 router ids each.
pub const MAX_VIPS: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub cluster: String,
    pub me: NodeId,
    pub nodes: Vec<NodePlan>,
    /// Kernel names of the interfaces that carry VIPs, or show the peers.
    pub interfaces: Vec<String>,
    pub checks: Vec<CheckPlan>,
    pub vips: Vec<VipPlan>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    pub name: String,
    /// The node's own addresses, at most one of each family, the first one written first.
    pub addresses: Vec<IpAddr>,
    /// The node is no standin but speaks VRRP, a keepalived say.
    pub vrrp_only: bool,
}

impl NodePlan {
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckPlan {
    pub name: String,
    /// Passes in a row before a failed check counts as passing.
    pub rise: u8,
    /// Failures in a row before a passing check counts as failed.
    pub fall: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipPlan {
    pub name: String,
    pub vrid: Vrid,
    pub interface: InterfaceId,
    pub addresses: Vec<Prefix>,
    pub advert_interval: IntervalCs,
    pub version: Version,
    pub checksum: ChecksumStyle,
    pub mode: Mode,
    /// Version 2 only: the simple text password, padded with zeros.
    pub password: Option<[u8; 8]>,
    /// The nodes that may hold this VIP, each with its priority.
    pub members: Vec<Member>,
    pub failback: Failback,
    /// After a health failure the node isn't eligible again before this.
    pub hold_down: Duration,
    pub checks: Vec<CheckId>,
    /// In a cut, the side that sees none of these gives up; empty: there is no witness.
    pub witness: Vec<CheckId>,
    /// Further interfaces on which is asked who has the addresses, of IPv4 only.
    pub heartbeat: Vec<InterfaceId>,
    pub all_ineligible: AllIneligible,
    /// Obey adverts from senders that are no node of the cluster.
    pub accept_unknown: bool,
    pub announce: Announce,
    /// Serve the addresses from the router id's own MAC instead of the interface's.
    pub virtual_mac: bool,
}

impl VipPlan {
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        self.addresses.iter().any(|prefix| prefix.family() == family)
    }

    pub fn addresses_of(&self, family: Family) -> impl Iterator<Item = Prefix> + '_ {
        self.addresses.iter().copied().filter(move |prefix| prefix.family() == family)
    }

    /// The MAC that has the addresses of a family, if it isn't the interface's.
    #[must_use]
    pub fn mac(&self, family: Family) -> Option<Mac> {
        self.virtual_mac.then(|| Mac::of_virtual_router(family, self.vrid))
    }

    /// The one member beside `me`; `None` when there are several, or none.
    #[must_use]
    pub fn only_other(&self, me: NodeId) -> Option<NodeId> {
        let mut others = self.members.iter().filter(|member| member.node != me);
        others.next().filter(|_| others.next().is_none()).map(|member| member.node)
    }

    /// The priority of `node` for this VIP; `None` when it isn't a member.
    #[must_use]
    pub fn priority_of(&self, node: NodeId) -> Option<Priority> {
        self.members.iter().find(|member| member.node == node).map(|member| member.priority)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    pub priority: Priority,
}

/// The VRRP version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 3768; IPv4 and whole seconds only.
    V2,
    /// RFC 9568.
    V3,
}

/// How the checksum of version 3 over IPv4 is sent; both are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumStyle {
    /// With the IPv4 pseudo-header, as keepalived sends it.
    WithPseudoHeader,
    /// Without, as RFC 9568 §5.2.8 says.
    WithoutPseudoHeader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Multicast,
    /// One datagram to each member's address.
    Unicast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// The VIP stays where it is as long as that node is eligible.
    Never,
    /// A node of higher priority takes the VIP back once it has been eligible for this long.
    After(Duration),
}

/// Who holds the VIP when no node is eligible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllIneligible {
    /// Someone, at priority 1.
    Keep,
    /// Nobody.
    Drop,
}

/// How often the network is told where the VIP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Gratuitous ARPs / unsolicited NAs per address after a takeover, at least 1.
    pub repeat: u8,
    /// One more per address this often while active; zero switches it off.
    pub refresh: Duration,
}
