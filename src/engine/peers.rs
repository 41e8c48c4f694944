//! The peer link's words, from names to the core's numbers and back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use standin_core::election::handover;
use standin_core::election::told::Says;
use standin_core::node::Node;
use standin_core::types::{Instant, Mac, NodeId, VipId};
use standin_core::{Command, Effects, Input};
use standin_linux::clock::now;

use super::messages::{Handover, StillSeen};
use super::recorder::Recorder;

fn node(known: &Node, name: &str) -> Option<NodeId> {
    let place = known.plan().nodes.iter().position(|node| node.name == name)?;
    u8::try_from(place).ok().map(NodeId)
}

/// The VIP of that name.
pub(super) fn vip(known: &Node, name: &str) -> Option<VipId> {
    known.routers().find(|(_, router)| router.plan().name == name).map(|(vip, _)| vip)
}

/// An operator gives a VIP to a peer.
pub(super) fn switch_to(
    known: &mut Recorder,
    time: Instant,
    name: &str,
    to: &str,
    effects: &mut Effects,
) {
    if let (Some(vip), Some(to)) = (vip(known, name), node(known, to)) {
        known.step(time, Input::Command(Command::SwitchTo { vip, to }), effects);
    }
}

/// A peer tells how it stands; VIPs that this node doesn't have are passed over.
pub(super) fn says(
    known: &mut Recorder,
    time: Instant,
    name: &str,
    all: &[(String, Option<Says>)],
    effects: &mut Effects,
) {
    let Some(node) = node(known, name) else { return };
    let places: BTreeMap<String, VipId> =
        known.routers().map(|(vip, router)| (router.plan().name.clone(), vip)).collect();
    for (vip, says) in all {
        if let Some(vip) = places.get(vip) {
            known.step(time, Input::Peer { vip: *vip, node, says: *says }, effects);
        }
    }
}

/// A peer gives a VIP to this node.
pub(super) fn take_over(
    known: &mut Recorder,
    time: Instant,
    (from, vip): (&str, &str),
    (epoch, released): (u64, Instant),
    effects: &mut Effects,
) {
    let Some((from, vip)) = node(known, from).zip(self::vip(known, vip)) else { return };
    let handover = handover::Handover { from, epoch, released };
    known.step(time, Input::TakeOver { vip, handover }, effects);
}

/// A peer sees another MAC answer for a VIP that this node holds.
pub(super) fn sees(
    known: &mut Recorder,
    time: Instant,
    vip: &str,
    (address, mac): (IpAddr, Mac),
    effects: &mut Effects,
) {
    let found = known.routers().find(|(_, router)| router.plan().name == vip);
    let Some(interface) = found.map(|(_, router)| router.plan().interface) else { return };
    // As if this node had seen it itself.
    known.step(time, Input::Sighting { interface, address, mac }, effects);
}

/// What a peer is to be told of its VIP.
pub(super) fn still_seen(
    known: &Node,
    vip: VipId,
    to: NodeId,
    (address, mac): (IpAddr, Mac),
) -> Option<StillSeen> {
    let vip = known.router(vip)?.plan().name.clone();
    let to = known.plan().nodes.get(to.index())?.name.clone();
    Some(StillSeen { vip, to, address, mac })
}

/// What is to be told to a peer.
pub(super) fn handover(known: &Node, vip: VipId, to: NodeId, epoch: u64) -> Option<Handover> {
    let name = known.router(vip)?.plan().name.clone();
    let to = known.plan().nodes.get(to.index())?.name.clone();
    Some(Handover { vip: name, to, epoch, released: now() })
}
