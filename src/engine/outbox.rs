//! Adverts on their way out: written once, sent again and again, one system call per socket.

use std::collections::BTreeSet;
use std::net::IpAddr;

use standin_core::guard::Goodbye;
use standin_core::node::Node;
use standin_core::plan::{Mode, VipPlan};
use standin_core::types::{Family, InterfaceId, Mac, Priority, VipId};
use standin_core::wire::multicast;
use standin_core::wire::vrrp::{self, MULTICAST_V4, MULTICAST_V6, Outgoing};

use super::ports::Ports;

#[derive(Default)]
pub(super) struct Outbox {
    /// By VIP and family.
    written: Vec<Option<Written>>,
    /// Places in `written` that are due, in order.
    due: Vec<u32>,
    /// VIPs whose addresses are on this host. A frame from a virtual MAC brings its clients here: before
    /// the addresses are there, adverts come from the interface's own MAC.
    served: BTreeSet<VipId>,
}

/// The adverts of one VIP in one family: one to the group, or one to each peer.
struct Written {
    vip: VipId,
    interface: InterfaceId,
    family: Family,
    priority: Priority,
    messages: Vec<(IpAddr, Vec<u8>)>,
    /// The messages as whole frames, where another MAC than the interface's sends them.
    frames: Vec<Vec<u8>>,
}

impl Outbox {
    /// Forgets what was written: addresses, sources or the plan have changed.
    pub(super) fn forget(&mut self) {
        self.written.clear();
        self.due.clear();
    }

    /// The VIP's addresses are there, or about to go.
    pub(super) fn serves(&mut self, vip: VipId, there: bool) {
        if there {
            self.served.insert(vip);
        } else {
            self.served.remove(&vip);
        }
    }

    pub(super) fn queue(
        &mut self,
        node: &Node,
        ports: &mut Ports,
        vip: VipId,
        family: Family,
        priority: Priority,
    ) {
        let Some(router) = node.router(vip) else { return };
        let plan = router.plan();
        let Some(source) = ports.sender(plan.interface, family).map(|sender| sender.source) else {
            return;
        };
        let place = vip.index() * 2 + family.index();
        if self.written.len() <= place {
            self.written.resize_with(place + 1, || None);
        }
        if self.written[place].as_ref().is_none_or(|written| written.priority != priority) {
            if self.due.iter().any(|due| *due as usize == place) {
                // An advert of another priority is still waiting: it goes first.
                self.send(ports);
            }
            let written = write(node, plan, family, priority, source);
            self.written[place] = Some(Written { vip, ..written });
        }
        self.due.push(u32::try_from(place).unwrap_or(u32::MAX));
    }

    /// Sends everything that is due.
    pub(super) fn send(&mut self, ports: &mut Ports) {
        if self.due.is_empty() {
            return;
        }
        let written = &self.written;
        let due = || self.due.iter().filter_map(|place| written.get(*place as usize)?.as_ref());
        let framed =
            |written: &&Written| !written.frames.is_empty() && self.served.contains(&written.vip);
        for written in due().filter(framed) {
            ports.send_frames(written.interface, written.frames.iter().map(Vec::as_slice));
        }
        for (interface, family, sender) in ports.senders() {
            let messages = due()
                .filter(|written| written.interface == interface && written.family == family)
                .filter(|written| !framed(written))
                .flat_map(|written| written.messages.iter())
                .map(|(to, bytes)| (*to, bytes.as_slice()));
            // What couldn't be sent is the same as lost on the way: the next advert follows, and a
            // source address or an interface that went is reported by the address thread.
            let _ = sender.socket.send(messages);
        }
        self.due.clear();
    }
}

/// The last words of a VIP, to be said by the guard if nobody else can.
pub(super) fn goodbyes(node: &Node, ports: &Ports, plan: &VipPlan) -> Vec<Goodbye> {
    let families = Family::BOTH.into_iter().filter(|family| plan.has(*family));
    let of_family = |family| {
        let (index, interface, source) = ports.origin(plan.interface, family)?;
        let written = write(node, plan, family, Priority::RELEASE, source);
        Some(written.messages.into_iter().map(move |(destination, payload)| Goodbye {
            index,
            interface: interface.clone(),
            source,
            destination,
            payload,
        }))
    };
    families.filter_map(of_family).flatten().collect()
}

/// The adverts of one VIP in one family, with where they go.
pub(super) fn adverts(
    node: &Node,
    plan: &VipPlan,
    family: Family,
    priority: Priority,
    source: IpAddr,
) -> Vec<(IpAddr, Vec<u8>)> {
    if plan.has(family) { write(node, plan, family, priority, source).messages } else { Vec::new() }
}

fn write(
    node: &Node,
    plan: &VipPlan,
    family: Family,
    priority: Priority,
    source: IpAddr,
) -> Written {
    let addresses: Vec<_> = plan.addresses_of(family).map(|prefix| prefix.address()).collect();
    let destinations: Vec<IpAddr> = match (plan.mode, family) {
        (Mode::Multicast, Family::V4) => vec![MULTICAST_V4.into()],
        (Mode::Multicast, Family::V6) => vec![MULTICAST_V6.into()],
        (Mode::Unicast, family) => plan
            .members
            .iter()
            .filter(|member| member.node != node.plan().me)
            .filter_map(|member| node.plan().nodes.get(member.node.index())?.address(family))
            .collect(),
    };
    // RFC 9568 §7.2: from the virtual MAC, so that switches learn where it is. What goes to a peer's
    // address may cross a router, and comes from this node.
    let mac = plan.mac(family).filter(|_| plan.mode == Mode::Multicast);
    let messages = destinations.into_iter().map(|destination| {
        let mut bytes = Vec::with_capacity(64);
        let out = Outgoing {
            version: plan.version,
            vrid: plan.vrid,
            priority,
            interval: plan.advert_interval,
            addresses: &addresses,
            password: plan.password,
            checksum: plan.checksum,
            source,
            destination,
        };
        vrrp::emit(&out, &mut bytes);
        (destination, bytes)
    });
    let messages: Vec<(IpAddr, Vec<u8>)> = messages.collect();
    let frame_of = |mac: Mac| {
        let one = move |(to, payload): &(IpAddr, Vec<u8>)| {
            let mut frame = Vec::with_capacity(128);
            multicast::frame(&mut frame, mac, source, *to, payload);
            frame
        };
        messages.iter().map(one).collect()
    };
    let frames = mac.map_or_else(Vec::new, frame_of);
    // Whose it is the caller knows.
    let vip = VipId(u16::MAX);
    Written { vip, interface: plan.interface, family, priority, messages, frames }
}
