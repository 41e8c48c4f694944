//! The engine's sockets: for each interface one that hears and one that sends adverts per family,
//! and one for ARP and neighbour discovery.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use standin_core::InterfaceState;
use standin_core::node::Node;
use standin_core::plan::{Mode, VipPlan};
use standin_core::types::{Family, Instant, InterfaceId, Mac};
use standin_core::wire::{arp, ndp};
use standin_linux::advert::{AdvertReceiver, AdvertSender};
use standin_linux::epoll::Poll;
use standin_linux::neighbour::NeighbourSocket;

use super::TOKEN_PORTS;
use super::messages::{Listen, Listening};

/// Sockets of one interface that are waited for: adverts of each family, neighbours.
const SOCKETS: u64 = 3;
const NEIGHBOURS: u64 = 2;

/// A socket that couldn't be opened is tried again after this, as those that hear are.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Ports {
    ports: Vec<Port>,
    /// The node's own addresses that are on this host.
    own: Vec<IpAddr>,
    frame: Vec<u8>,
    /// When what couldn't be opened is tried again.
    again_at: Option<Instant>,
}

/// One interface.
#[derive(Default)]
struct Port {
    name: String,
    index: Option<u32>,
    state: InterfaceState,
    receivers: [Option<AdvertReceiver>; 2],
    /// For how many VIPs a receiver was asked, of each family.
    asked: [usize; 2],
    /// Families that this interface has to hear.
    needed: [bool; 2],
    senders: [Option<Sender>; 2],
    /// From where each family is to be sent by now; a sender may outlive it for a last word.
    sources: [Option<IpAddr>; 2],
    neighbours: Option<NeighbourSocket>,
    /// What couldn't be opened, in words: the senders of each family, neighbours.
    faults: [Option<String>; 3],
}

impl Port {
    /// A socket is there, is not wanted, or couldn't be opened; what is new of that is said once.
    fn opened(&mut self, place: usize, fault: Option<String>, said: &mut Vec<String>) {
        match (&self.faults[place], &fault) {
            (None, Some(fault)) => said.push(format!("{fault}; it is tried again each second")),
            (Some(before), None) => said.push(format!("well again: {before}")),
            _ => {}
        }
        self.faults[place] = fault;
    }
}

pub(super) struct Sender {
    pub(super) socket: AdvertSender,
    pub(super) source: IpAddr,
}

/// What is to be opened by the address thread, and what is new of those that couldn't be opened here.
#[derive(Default)]
pub(super) struct Opening {
    pub(super) listens: Vec<Listen>,
    pub(super) complaints: Vec<String>,
}

/// A socket that has something to read.
pub(super) enum Socket<'a> {
    Adverts(&'a mut AdvertReceiver),
    Neighbours(&'a mut NeighbourSocket),
}

impl Ports {
    /// Makes a place for each interface of the node.
    pub(super) fn resize(&mut self, node: &Node) {
        for (_, name) in node.interfaces().skip(self.ports.len()) {
            self.ports.push(Port { name: name.to_owned(), ..Port::default() });
        }
    }

    /// The socket behind a token.
    pub(super) fn socket(&mut self, token: u64) -> Option<(InterfaceId, Socket<'_>)> {
        let place = usize::try_from(token / SOCKETS).ok()?;
        let port = self.ports.get_mut(place)?;
        let socket = match token % SOCKETS {
            NEIGHBOURS => Socket::Neighbours(port.neighbours.as_mut()?),
            family => {
                let family = usize::try_from(family).ok()?;
                Socket::Adverts(port.receivers.get_mut(family)?.as_mut()?)
            }
        };
        Some((InterfaceId(u16::try_from(place).ok()?), socket))
    }

    pub(super) fn sender(&self, interface: InterfaceId, family: Family) -> Option<&Sender> {
        self.ports.get(interface.index())?.senders[family.index()].as_ref()
    }

    /// From where adverts of a family go out: the interface's index and name, and the source.
    pub(super) fn origin(
        &self,
        interface: InterfaceId,
        family: Family,
    ) -> Option<(u32, String, IpAddr)> {
        let port = self.ports.get(interface.index())?;
        let source = port.senders[family.index()].as_ref()?.source;
        Some((port.index?, port.name.clone(), source))
    }

    /// All senders with their places.
    pub(super) fn senders(
        &mut self,
    ) -> impl Iterator<Item = (InterfaceId, Family, &mut Sender)> + '_ {
        (0..).map(InterfaceId).zip(&mut self.ports).flat_map(|(id, port)| {
            Family::BOTH
                .into_iter()
                .zip(&mut port.senders)
                .filter_map(move |(family, sender)| Some((id, family, sender.as_mut()?)))
        })
    }

    /// Sends whole frames, if the interface can.
    pub(super) fn send_frames<'a>(
        &self,
        interface: InterfaceId,
        frames: impl IntoIterator<Item = &'a [u8]>,
    ) {
        let port = self.ports.get(interface.index());
        let Some(socket) = port.and_then(|port| port.neighbours.as_ref()) else { return };
        for frame in frames {
            // As for any advert: the next one follows.
            let _ = socket.send(frame);
        }
    }

    /// The kernel's index of an interface.
    pub(super) fn index(&self, id: InterfaceId) -> Option<u32> {
        self.ports.get(id.index())?.index
    }

    /// The interface as the core may use it.
    pub(super) fn state(&self, id: InterfaceId) -> InterfaceState {
        let Some(port) = self.ports.get(id.index()) else { return InterfaceState::default() };
        // Who isn't heard must hold nothing: the others would take it for dead, and hold it as well.
        let mute = |place: usize| port.sources[place].is_some() && port.senders[place].is_none();
        let deaf = |place: usize| port.needed[place] && port.receivers[place].is_none();
        let unfit = |place: usize| mute(place) || deaf(place);
        InterfaceState { deaf: [unfit(0), unfit(1)], ..port.state }
    }

    /// A socket that was asked for is there.
    pub(super) fn listening(&mut self, poll: &Poll, listening: Listening) -> std::io::Result<()> {
        let Listening { asked, receiver } = listening;
        let Some(port) = self.ports.get_mut(asked.interface.index()) else { return Ok(()) };
        if port.index != Some(asked.index) || !port.state.up {
            // It was asked for an interface that has changed meanwhile.
            return Ok(());
        }
        let place = asked.family.index();
        let token = TOKEN_PORTS + u64::from(asked.interface.0) * SOCKETS + place as u64;
        // A smaller one goes, and leaves the poll by that.
        port.receivers[place] = None;
        poll.add(receiver.as_fd(), token)?;
        port.receivers[place] = Some(*receiver);
        Ok(())
    }

    /// Closes senders whose source has gone; they have said what they had to say.
    pub(super) fn prune(&mut self) {
        for port in &mut self.ports {
            for place in 0..2 {
                if port.sources[place].is_none() {
                    port.senders[place] = None;
                }
            }
        }
    }

    /// An interface came, went, or changed; returns what is to be opened, and what couldn't be.
    pub(super) fn interface(
        &mut self,
        poll: &Poll,
        node: &Node,
        id: InterfaceId,
        index: Option<u32>,
        state: InterfaceState,
    ) -> Opening {
        self.resize(node);
        let Some(port) = self.ports.get_mut(id.index()) else { return Opening::default() };
        if port.index != index || !state.up {
            // Closing a socket takes it out of the poll.
            *port = Port { name: std::mem::take(&mut port.name), ..Port::default() };
        }
        port.index = index;
        port.state = state;
        self.open(poll, node, id)
    }

    /// The node's own addresses came or went.
    pub(super) fn own_addresses(&mut self, poll: &Poll, node: &Node, own: &[IpAddr]) -> Opening {
        self.own = own.to_vec();
        self.open_all(poll, node)
    }

    /// What couldn't be opened, in words.
    pub(super) fn faults(&self) -> impl Iterator<Item = &String> {
        self.ports.iter().flat_map(|port| port.faults.iter().flatten())
    }

    /// Tries again what couldn't be opened, where it is time for that.
    pub(super) fn open_again(&mut self, poll: &Poll, node: &Node, now: Instant) -> Option<Opening> {
        if self.faults().next().is_none() {
            self.again_at = None;
            return None;
        }
        let due = self.again_at.is_some_and(|at| at <= now);
        if due || self.again_at.is_none() {
            self.again_at = Some(now + OPEN_AGAIN);
        }
        due.then(|| self.open_all(poll, node))
    }

    /// Opens what the plan needs by now.
    pub(super) fn open_all(&mut self, poll: &Poll, node: &Node) -> Opening {
        let mut all = Opening::default();
        for id in node.interfaces().map(|(id, _)| id).collect::<Vec<_>>() {
            let opening = self.open(poll, node, id);
            all.listens.extend(opening.listens);
            all.complaints.extend(opening.complaints);
        }
        all
    }

    /// Opens what is needed and possible, closes what is neither.
    ///
    /// Joining a multicast group waits for the kernel's rtnl lock, so that the sockets that hear
    /// are opened by the address thread.
    fn open(&mut self, poll: &Poll, node: &Node, id: InterfaceId) -> Opening {
        let mut opening = Opening::default();
        let Some(port) = self.ports.get_mut(id.index()) else { return opening };
        let Some(index) = port.index.filter(|_| port.state.up) else { return opening };
        let vips = || node.routers().map(|(_, r)| r.plan()).filter(|plan| plan.interface == id);
        let first = TOKEN_PORTS + u64::from(id.0) * SOCKETS;
        for family in Family::BOTH {
            let count = vips().filter(|plan| plan.has(family)).count();
            let place = family.index();
            port.needed[place] = count > 0;
            if count == 0 {
                (port.receivers[place], port.senders[place]) = (None, None);
                port.asked[place] = 0;
                (port.sources[place], port.faults[place]) = (None, None);
                continue;
            }
            if count > port.asked[place] {
                port.asked[place] = count;
                let interface = id;
                let name = port.name.clone();
                opening.listens.push(Listen { interface, family, index, name, vips: count });
            }
            let multicast = vips().any(|plan| plan.has(family) && plan.mode == Mode::Multicast);
            let source = match family {
                Family::V6 if multicast => port.state.link_local.map(IpAddr::V6),
                _ => self.own.iter().copied().find(|address| Family::of(*address) == family),
            };
            port.sources[place] = source;
            let current = port.senders[place].as_ref().map(|sender| sender.source);
            if source.is_some() && source != current {
                port.senders[place] = None;
            }
            if source.is_none() {
                port.faults[place] = None;
            }
            if let Some(source) = source.filter(|_| port.senders[place].is_none()) {
                let opened = AdvertSender::open(family, index, &port.name, source);
                let fault = opened.as_ref().err().map(|error| {
                    format!(
                        "can't send {family} adverts on {} from {source} ({error}), so no VIP is held \
                         there",
                        port.name
                    )
                });
                port.senders[place] = opened.ok().map(|socket| Sender { socket, source });
                port.opened(place, fault, &mut opening.complaints);
            }
        }
        if port.neighbours.is_none() {
            let opened = NeighbourSocket::open(index)
                .and_then(|socket| poll.add(socket.as_fd(), first + NEIGHBOURS).map(|()| socket));
            let fault = opened.as_ref().err().map(|error| {
                format!("can't send or hear ARP and neighbour discovery on {} ({error})", port.name)
            });
            port.neighbours = opened.ok();
            port.opened(2, fault, &mut opening.complaints);
        }
        opening
    }

    /// Tells the network that the VIP is here.
    pub(super) fn announce(&mut self, plan: &VipPlan) {
        for prefix in &plan.addresses {
            let own = plan.mac(prefix.family());
            self.frame(plan.interface, |frame, mac, _| match prefix.address() {
                IpAddr::V4(address) => arp::announcement(frame, own.unwrap_or(mac), address),
                IpAddr::V6(address) => {
                    ndp::announcement(frame, own.unwrap_or(mac), address, false);
                }
            });
        }
    }

    /// Asks the network whether somebody has the VIP.
    pub(super) fn probe(&mut self, plan: &VipPlan) {
        for prefix in &plan.addresses {
            self.frame(plan.interface, |frame, mac, _| match prefix.address() {
                IpAddr::V4(address) => arp::probe(frame, mac, address),
                IpAddr::V6(address) => ndp::probe(frame, mac, address),
            });
        }
    }

    /// Asks for the MAC behind `address`.
    pub(super) fn identify(&mut self, node: &Node, id: InterfaceId, address: IpAddr) {
        let me = node.plan().nodes.get(node.plan().me.index());
        let own = |family| me.and_then(|me| me.address(family));
        // Elsewhere this node's address is no neighbour's: a strict rp_filter would drop its question,
        // but not one without a sender.
        let home = node.routers().any(|(_, router)| router.plan().interface == id);
        self.frame(id, |frame, mac, state| match address {
            IpAddr::V4(address) if !home => arp::probe(frame, mac, address),
            IpAddr::V4(address) => {
                if let Some(IpAddr::V4(source)) = own(Family::V4) {
                    arp::request(frame, mac, source, address);
                }
            }
            IpAddr::V6(address) => {
                if let Some(source) = state.link_local {
                    ndp::solicitation(frame, mac, source, address);
                }
            }
        });
    }

    /// Writes a frame and sends it, if the interface can.
    fn frame(&mut self, id: InterfaceId, write: impl Fn(&mut Vec<u8>, Mac, &InterfaceState)) {
        let Some(port) = self.ports.get_mut(id.index()) else { return };
        let (Some(socket), Some(mac)) = (&port.neighbours, port.state.mac) else { return };
        self.frame.clear();
        write(&mut self.frame, mac, &port.state);
        if !self.frame.is_empty() {
            // A full queue loses an announcement; it is repeated anyway.
            let _ = socket.send(&self.frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use standin_linux::netlink::Rtnl;

    use super::*;
    use crate::checks::space::{on_a_host, sh};

    #[test]
    fn a_sender_that_cannot_be_opened_is_tried_again_and_said_once() {
        let name =
            "engine::ports::tests::a_sender_that_cannot_be_opened_is_tried_again_and_said_once";
        on_a_host(name, || async {
            let text = "cluster = \"test\"\n\
                 [node.n1]\naddress = \"192.0.2.77\"\n[node.n2]\naddress = \"192.0.2.12\"\n\
                 [vip.web]\nvirtual_router_id = 41\naddresses = [\"192.0.2.41/24\"]\nchecks = []\n";
            let cluster = standin_config::load("test.toml", text).model.unwrap();
            let began = Instant::from_nanos(1);
            let node = Node::new(began, cluster.plan("n1", "eth0").unwrap());
            let (poll, mut ports) = (Poll::new().unwrap(), Ports::default());
            let links = Rtnl::open().unwrap().links().unwrap();
            let index = links.iter().find(|link| link.name == "eth0").map(|link| link.index);
            let (id, up) = (InterfaceId(0), InterfaceState { up: true, ..Default::default() });
            let asked = ports.interface(&poll, &node, id, index, up).listens.remove(0);
            let receiver =
                AdvertReceiver::open(asked.family, asked.index, &asked.name, asked.vips).unwrap();
            let receiver = Box::new(receiver);
            ports.listening(&poll, Listening { asked, receiver }).unwrap();
            // The host hasn't got it yet, whatever was told.
            let opening = ports.own_addresses(&poll, &node, &["192.0.2.77".parse().unwrap()]);
            let said = opening.complaints.join(" ");
            assert!(said.contains("can't send IPv4 adverts on eth0 from 192.0.2.77"), "{said}");
            assert_eq!(ports.state(id).deaf, [true, false], "a mute node holds nothing");
            let mut again = |after_ms| {
                let now = began + Duration::from_millis(after_ms);
                ports.open_again(&poll, &node, now).map(|opening| opening.complaints)
            };
            let nothing: Vec<String> = Vec::new();
            assert_eq!(
                [again(0), again(500), again(999)],
                [None, None, None],
                "bounded in its pace"
            );
            assert_eq!(again(1_000), Some(nothing), "it was said");
            sh("ip address add 192.0.2.77/24 dev eth0");
            assert_eq!(again(1_500), None);
            let said = again(2_000).unwrap().join(" ");
            assert!(said.contains("well again: can't send IPv4 adverts on eth0"), "{said}");
            assert_eq!(again(9_000), None);
            assert!(ports.sender(id, Family::V4).is_some());
            assert_eq!((ports.state(id).deaf, ports.faults().next()), ([false, false], None));
        });
    }
}
