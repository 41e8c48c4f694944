//! standin's decisions, pure: the shell brings time and inputs, the core answers with effects.
//!
//! # The contract
//!
//! A [`node::Node`] is one machine. The shell calls [`node::Node::step`] with the time and one
//! [`Input`], performs the [`Effect`]s that were pushed, in order, and calls
//! [`node::Node::next_deadline`] before it waits; it steps [`Input::Tick`] when that time has come.
//! `step` is total: it never fails, blocks or asks the time. What the kernel refused, or did late,
//! comes back as an input, so that the core decides what that means.
//!
//! Inputs that arrived before a deadline are stepped before the tick of that deadline: a shell that
//! was held up empties its sockets first, else a live peer would be taken for a silent one.

#![forbid(unsafe_code)]

pub mod election;
pub mod event;
pub mod guard;
pub mod health;
pub mod holding;
pub mod identity;
pub mod node;
pub mod plan;
mod receive;
pub mod record;
pub mod resume;
pub mod sync;
pub mod types;
pub mod view;
pub mod wire;

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use election::handover::Handover;
use election::told::Says;
use event::Event;
use plan::Plan;
use types::{CheckId, Family, InterfaceId, Mac, NodeId, Priority, VipId};
use wire::vrrp::Envelope;

/// What the shell tells the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// The deadline has come. Harmless at any other time.
    Tick,
    /// A VRRP message came in on `interface`.
    Advert {
        interface: InterfaceId,
        envelope: Envelope,
        payload: &'a [u8],
    },
    /// An ARP or a neighbour advertisement on `interface` says that `mac` has `address`.
    Sighting {
        interface: InterfaceId,
        address: IpAddr,
        mac: Mac,
    },
    /// The state of an interface, said at the start and at each change.
    Interface {
        interface: InterfaceId,
        state: InterfaceState,
    },
    /// Which of the node's own addresses are on this host, said at the start and at each change.
    OwnAddresses(&'a [IpAddr]),
    /// A check has a result.
    Check {
        check: CheckId,
        verdict: Verdict,
        detail: &'a str,
    },
    /// What became of the last [`Effect::Hold`], [`Effect::Release`] or [`Effect::Stay`] of `vip`.
    Settled {
        vip: VipId,
        outcome: Outcome,
    },
    /// Somebody took `address` of a held VIP away; the shell has put it back.
    Restored {
        vip: VipId,
        address: IpAddr,
    },
    /// What another node says of itself over the peer link; `None`: there is no link to it.
    Peer {
        vip: VipId,
        node: NodeId,
        says: Option<Says>,
    },
    /// Another node says over the peer link that it has released `vip` and that it is this node's.
    TakeOver {
        vip: VipId,
        handover: Handover,
    },
    Command(Command),
    /// The cluster file was read again.
    Plan(Box<Plan>),
}

/// What an interface can do at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceState {
    /// It exists, is up, and has a carrier.
    pub up: bool,
    pub mac: Option<Mac>,
    /// Its usable (not tentative) link-local address, from which IPv6 adverts are sent.
    pub link_local: Option<Ipv6Addr>,
    /// Families whose adverts can't be heard there yet: who is deaf must not take silence for death. Nor can
    /// they be sent: who is mute would hold what the others take over.
    pub deaf: [bool; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// A failed or timed-out probe: counts towards `fall`.
    Fail,
    /// Certain at once, such as the death of a watched process: doesn't wait for `fall`.
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All addresses of the VIP are on the host.
    Held,
    /// None of them is.
    Released,
    /// The kernel refused an address.
    Refused { errno: i32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make this node ineligible for every VIP, for a time or until [`Command::MaintenanceOff`].
    MaintenanceOn {
        lasting: Option<Duration>,
    },
    MaintenanceOff,
    /// Wait until nobody answers for the VIP's addresses, asking each `gap`, then take them; `None`
    /// ends the waiting. In force until then, or until the program ends.
    AwaitVacancy {
        vip: VipId,
        gap: Option<Duration>,
    },
    /// Give `vip` to `to`, which waits for it; only a holder obeys.
    SwitchTo {
        vip: VipId,
        to: NodeId,
    },
    /// Give everything up; [`Effect::Stopped`] follows when nothing is held any more.
    Stop,
}

/// What the core asks of the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send an advert for `vip` with `priority`, to the group or to every peer.
    Advert { vip: VipId, family: Family, priority: Priority },
    /// Put the VIP's addresses on the host and keep them there; answered by [`Input::Settled`].
    Hold { vip: VipId },
    /// Take them away; answered by [`Input::Settled`].
    Release { vip: VipId },
    /// As a release towards the network; the sockets of this host go on using the addresses until the
    /// shell finds that nobody needs them. Answered by [`Input::Settled`], with [`Outcome::Released`].
    Stay { vip: VipId },
    /// Tell the network that the VIP's addresses are here: gratuitous ARP, unsolicited NA.
    Announce { vip: VipId },
    /// Ask the network who has the VIP's addresses, without claiming them.
    Probe { vip: VipId },
    /// Ask the network which MAC has `address`; an answer comes as [`Input::Sighting`].
    Identify { interface: InterfaceId, address: IpAddr },
    /// Tell `to` over the peer link that `vip` has been released and is its own now.
    Handover { vip: VipId, to: NodeId, epoch: u64 },
    /// Tell the active that `mac` still answers for the VIP's `address`, and isn't its own.
    StillSeen { vip: VipId, to: NodeId, address: IpAddr, mac: Mac },
    /// Something a person may want to know.
    Event(Event),
    /// The [`Command::Stop`] is complete.
    Stopped,
}

/// The effects of a step, in the order in which they are to be performed.
pub type Effects = Vec<Effect>;
