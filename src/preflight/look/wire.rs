//! Listens for adverts on the VIPs' interfaces, and asks who has their addresses.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use standin_core::types::{Family, Mac};
use standin_core::wire::neighbour::{self, Kind};
use standin_core::wire::vrrp::{self, Envelope};
use standin_core::wire::{arp, ndp};
use standin_linux::advert::{AdvertReceiver, Received};
use standin_linux::epoll::Poll;
use standin_linux::neighbour::NeighbourSocket;

use super::Listen;
use crate::preflight::facts::{Facts, Heard, Owner, Wire};
use crate::preflight::judge::Subject;
use crate::preflight::words;

/// A sender of VRRP's usual 1 s is heard within this, with a fifth to spare.
const SHORTEST: Duration = Duration::from_millis(1200);

/// As many adverts as it takes to call an active node dead.
const ADVERTS: u32 = 3;

/// RFC 5227 §2.1.1 asks three times.
const PROBES: u32 = 3;
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// IPv6 senders of one interface that are asked for: 16 nodes, and as many strangers.
const SENDERS: usize = 32;

/// 255 router ids on four interfaces in two families, twice.
const HEARD: usize = 4096;

/// How long the network is listened to.
pub(crate) fn lasting(subject: &Subject<'_>, listen: Listen) -> Duration {
    match listen {
        Listen::For(time) => time,
        Listen::Never => Duration::ZERO,
        Listen::AsNeeded => subject
            .vips()
            .map(|vip| vip.advert_interval.as_duration() * ADVERTS)
            .fold(SHORTEST, Duration::max),
    }
}

/// What to listen to, and whom to ask for.
pub(super) struct Plan {
    interfaces: BTreeMap<String, Interface>,
    lasting: Duration,
}

#[derive(Default)]
struct Interface {
    index: u32,
    mac: Option<Mac>,
    families: Vec<Family>,
    vips: usize,
    /// Their router ids.
    ids: Vec<u8>,
    ask: Vec<IpAddr>,
}

impl Plan {
    /// Interfaces that work; without raw sockets none.
    pub(super) fn of(subject: &Subject<'_>, facts: &Facts, listen: Listen) -> Self {
        let mut interfaces: BTreeMap<String, Interface> = BTreeMap::new();
        let may = !facts.missing_capabilities.contains(&"CAP_NET_RAW");
        for vip in subject.vips().filter(|_| may) {
            let port = subject.interface(vip, facts).and_then(|name| facts.port(name));
            let Some(port) = port.filter(|port| port.works) else { continue };
            let interface = interfaces.entry(port.name.clone()).or_default();
            (interface.index, interface.mac) = (port.index, port.mac);
            interface.vips += 1;
            interface.ids.push(vip.vrid.get());
            let works = |family| family == Family::V4 || !port.ipv6_disabled;
            for family in Family::BOTH.into_iter().filter(|family| vip.has(*family)) {
                if works(family) && !interface.families.contains(&family) {
                    interface.families.push(family);
                }
            }
            let addresses = vip.addresses.iter().map(|prefix| prefix.address());
            interface.ask.extend(addresses.filter(|address| {
                works(Family::of(*address)) && facts.address(*address).is_none()
            }));
            // Of both families, whatever the VIP has: their MACs tell who sends from a link-local one.
            interface.ask.extend(subject.cluster.nodes.iter().flat_map(|node| &node.addresses));
        }
        for interface in interfaces.values_mut() {
            interface.ask.sort_unstable();
            interface.ask.dedup();
        }
        Self { interfaces, lasting: lasting(subject, listen) }
    }

    /// Listens for as long as was planned.
    ///
    /// # Errors
    /// In words: a socket can't be opened.
    pub(super) fn listen(self) -> Result<Wire, String> {
        if self.lasting.is_zero() || self.interfaces.is_empty() {
            return Ok(Wire::default());
        }
        self.hear()
            .map_err(|error| format!("the network couldn't be listened to: {}", words(&error)))
    }

    fn hear(&self) -> io::Result<Wire> {
        let poll = Poll::new()?;
        let mut ears = Vec::new();
        for (name, interface) in &self.interfaces {
            ears.push(Ear::open(name, interface, &poll)?);
        }
        let start = Instant::now();
        let mut wire = Wire { listened: Some(self.lasting), ..Wire::default() };
        let mut ready = Vec::new();
        let mut asked = 0;
        while let Some(left) =
            self.lasting.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
        {
            if asked < PROBES && start.elapsed() >= PROBE_EVERY * asked {
                asked += 1;
                ears.iter().for_each(Ear::ask);
            }
            ready.clear();
            poll.wait_for(&mut ready, left.min(PROBE_EVERY))?;
            for ear in &mut ears {
                ear.take(&mut wire)?;
                ear.ask_senders();
            }
        }
        Ok(wire)
    }
}

/// The sockets of one interface.
struct Ear<'a> {
    name: &'a str,
    interface: &'a Interface,
    adverts: Vec<AdvertReceiver>,
    neighbours: Option<NeighbourSocket>,
    /// Who sends from a link-local address, and is asked for its MAC.
    senders: Vec<Sender>,
}

struct Sender {
    address: Ipv6Addr,
    asked: u32,
    at: Instant,
}

impl<'a> Ear<'a> {
    fn open(name: &'a str, interface: &'a Interface, poll: &Poll) -> io::Result<Self> {
        let mut adverts = Vec::new();
        for family in &interface.families {
            let receiver = AdvertReceiver::open(*family, interface.index, name, interface.vips)?;
            poll.add(receiver.as_fd(), 0)?;
            adverts.push(receiver);
        }
        // Links without Ethernet addresses have no neighbours to ask.
        let neighbours =
            interface.mac.map(|_| NeighbourSocket::open(interface.index)).transpose()?;
        if let Some(neighbours) = &neighbours {
            poll.add(neighbours.as_fd(), 0)?;
        }
        Ok(Self { name, interface, adverts, neighbours, senders: Vec::new() })
    }

    fn ask(&self) {
        let (Some(socket), Some(mac)) = (&self.neighbours, self.interface.mac) else { return };
        let mut frame = Vec::new();
        for address in &self.interface.ask {
            match address {
                IpAddr::V4(address) => arp::probe(&mut frame, mac, *address),
                IpAddr::V6(address) => ndp::probe(&mut frame, mac, *address),
            }
            // It is asked again; a full queue is nobody's fault.
            let _ = socket.send(&frame);
        }
    }

    /// IPv6 adverts come from a link-local address (RFC 9568 §5.1.2.1), which no file names.
    fn ask_senders(&mut self) {
        let (Some(socket), Some(mac)) = (&self.neighbours, self.interface.mac) else { return };
        let mut frame = Vec::new();
        let due = |sender: &&mut Sender| {
            sender.asked < PROBES && (sender.asked == 0 || sender.at.elapsed() >= PROBE_EVERY)
        };
        for sender in self.senders.iter_mut().filter(due) {
            (sender.asked, sender.at) = (sender.asked + 1, Instant::now());
            ndp::probe(&mut frame, mac, sender.address);
            // It is asked again; a full queue is nobody's fault.
            let _ = socket.send(&frame);
        }
    }

    fn take(&mut self, wire: &mut Wire) -> io::Result<()> {
        let senders = &mut self.senders;
        for receiver in &mut self.adverts {
            receiver.receive(&mut |received| {
                let Some(heard) = note(self.name, &received, wire) else { return };
                let IpAddr::V6(address) = heard.source else { return };
                let new = address.is_unicast_link_local()
                    && self.interface.ids.contains(&heard.vrid)
                    && senders.iter().all(|known| known.address != address);
                if new && senders.len() < SENDERS {
                    senders.push(Sender { address, asked: 0, at: Instant::now() });
                }
            })?;
        }
        let Some(socket) = &mut self.neighbours else { return Ok(()) };
        let (ask, own) = (&self.interface.ask, self.interface.mac);
        socket.receive(&mut |frame| {
            let Some(seen) = neighbour::parse(frame) else { return };
            let owner = Owner { address: seen.address, mac: seen.mac };
            let asked = ask.contains(&seen.address)
                || senders.iter().any(|sender| IpAddr::V6(sender.address) == seen.address);
            let news = seen.kind == Kind::Claimed
                && Some(seen.mac) != own
                && asked
                && !wire.owners.contains(&owner);
            if news && wire.owners.len() < HEARD {
                wire.owners.push(owner);
            }
        })?;
        Ok(())
    }
}

/// Keeps the last advert of each sender, and says what it is.
fn note(interface: &str, received: &Received<'_>, wire: &mut Wire) -> Option<Heard> {
    let Received { source, destination, hop_limit, payload } = *received;
    let envelope = Envelope { source, destination, hop_limit };
    // What is no advert is nobody's claim.
    let advert = vrrp::parse(&envelope, payload).ok()?;
    let heard = Heard {
        interface: interface.to_owned(),
        source,
        vrid: advert.vrid.get(),
        version: advert.version,
        priority: advert.priority.0,
        interval: advert.interval,
        addresses: advert.addresses.iter().collect(),
        password: advert.password,
    };
    let same = |other: &&mut Heard| {
        (&other.interface, other.source, other.vrid, other.version)
            == (&heard.interface, heard.source, heard.vrid, heard.version)
    };
    if let Some(other) = wire.heard.iter_mut().find(same) {
        other.clone_from(&heard);
    } else if wire.heard.len() < HEARD {
        wire.heard.push(heard.clone());
    }
    Some(heard)
}
