//! What a node knows of itself at one instant, for `standin status`.

use std::net::IpAddr;
use std::time::Duration;

use crate::election::Counters;
use crate::election::vacancy::Awaited;
use crate::event::{Role, Standing};
use crate::health::State;
use crate::types::{Mac, Prefix, Priority, Vrid};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub cluster: String,
    pub node: String,
    pub stopping: bool,
    pub maintenance: Option<Maintenance>,
    pub vips: Vec<VipView>,
    pub checks: Vec<CheckView>,
    pub peers: Vec<PeerView>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// `None`: until it is switched off.
    pub remaining: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipView {
    pub name: String,
    pub vrid: Vrid,
    pub interface: String,
    pub addresses: Vec<Prefix>,
    /// The MACs that serve the addresses, if they aren't the interface's.
    pub virtual_macs: Vec<Mac>,
    pub role: Role,
    pub since: Duration,
    /// The reason of the last transition, in words.
    pub reason: Option<String>,
    pub standing: Standing,
    /// Why this node isn't eligible, in words.
    pub obstacle: Option<String>,
    /// Configured.
    pub priority: Priority,
    /// Said in adverts: [`Priority::LAST_RESORT`] while not eligible.
    pub effective_priority: Priority,
    /// Who holds it, as far as this node knows: a node's name or a foreign address.
    pub holder: Option<String>,
    pub holder_priority: Option<Priority>,
    /// The other nodes that may hold it.
    pub others: Vec<String>,
    /// The nodes whose adverts come.
    pub hears: Vec<String>,
    /// Adverts that don't arrive, as the peer link tells.
    pub lost: Vec<LostView>,
    pub foreign_owner: Option<Mac>,
    /// While this node holds it: the node, or the MAC of who is none, that has its address as well.
    pub rival: Option<String>,
    /// No witness is seen, and all other nodes are: the loss of one of them ends the VIP here.
    pub unwitnessed: bool,
    /// The addresses are waited for until nobody answers for them.
    pub awaited: Option<Awaited>,
    pub counters: Counters,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostView {
    pub peer: String,
    /// From the peer to this node; else the other way.
    pub incoming: bool,
    pub lasting: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckView {
    pub name: String,
    pub state: State,
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub vrrp_only: bool,
    /// How long ago its last advert was heard; backups send none.
    pub last_advert: Option<Duration>,
}
