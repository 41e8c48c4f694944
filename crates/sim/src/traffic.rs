//! What machines send: adverts in real bytes, announcements, questions and answers about addresses.

use std::net::IpAddr;
use std::rc::Rc;

use standin_core::Input;
use standin_core::event::Role;
use standin_core::plan::{Mode, VipPlan};
use standin_core::types::{Family, InterfaceId, IntervalCs, Priority};
use standin_core::wire::vrrp::{self, Envelope, HOP_LIMIT, MULTICAST_V4, MULTICAST_V6, Outgoing};

use crate::check::clients::BURST;
use crate::clock::{MILLISECOND, Nanos};
use crate::machine::{Mail, Run, Sabotage, mac};
use crate::network::{CLIENT, FOREIGN, Fate, STRANGER};
use crate::queue::{Due, Seen};
use crate::scene::{CACHE_UNKNOWN, Cause, Observation, Packet, Scene};

/// The destination of a cached packet that goes to the group.
const GROUP: u8 = u8::MAX;

const OWN_V4: u8 = 0;
const OWN_V6: u8 = 1;
const LINK_LOCAL: u8 = 2;

/// So long the core keeps an advert for the answer to whose it is; clocks may be 2 % slow.
const WAITS: Nanos = 205 * MILLISECOND;

impl Scene {
    /// Encodes an advert and sends it to whom it concerns.
    pub fn advertise(&mut self, machine: u8, vip: u8, family: Family, priority: Priority) {
        let host = &self.machines[usize::from(machine)];
        let Some(router) = host.id_of(vip).and_then(|id| host.node.as_ref()?.router(id)) else {
            return;
        };
        let multicast = router.plan().mode == Mode::Multicast;
        if !host.on_the_air() || host.source(family, multicast).is_none() {
            return;
        }
        let members =
            router.plan().members.iter().fold(0_u16, |set, member| set | 1 << member.node.0);
        let mut to_group = None;
        for to in self.places() {
            if to == machine || !(multicast || members & (1 << to) != 0) {
                continue;
            }
            let packet = match to_group.take() {
                Some(packet) => Some(packet),
                None => self.packet(machine, vip, family, priority, (to, multicast)),
            };
            let Some(packet) = packet else { continue };
            if multicast {
                to_group = Some(Rc::clone(&packet));
            }
            self.send(machine, to, packet);
        }
    }

    /// Writes the goodbye that the guard would say for a VIP.
    pub(crate) fn keep_goodbye(&mut self, machine: u8, vip: u8, family: Family) {
        let Some(router) = self.router(machine, vip) else { return };
        let multicast = router.plan().mode == Mode::Multicast;
        let members: Vec<u8> = router.plan().members.iter().map(|member| member.node.0).collect();
        let mut written = Vec::new();
        for to in self.places().filter(|to| *to != machine && (multicast || members.contains(to))) {
            let packet = self.packet(machine, vip, family, Priority::RELEASE, (to, multicast));
            written.extend(packet.map(|packet| (to, packet)));
        }
        if let Some(host) = self.host(machine) {
            host.goodbyes.insert((vip, family as u8), written);
        }
    }

    /// That goodbye, by whom it goes to; nothing from a machine without network.
    pub(crate) fn kept_goodbye(
        &mut self,
        machine: u8,
        vip: u8,
        family: Family,
    ) -> Vec<(u8, Rc<Packet>)> {
        let there = &self.machines[usize::from(machine)];
        if !there.on_the_air() || !there.own_present {
            return Vec::new();
        }
        let host = self.host(machine);
        host.and_then(|host| host.goodbyes.get(&(vip, family as u8)).cloned()).unwrap_or_default()
    }

    /// The advert in its bytes, encoded once for as long as the file stays the same.
    fn packet(
        &mut self,
        machine: u8,
        vip: u8,
        family: Family,
        priority: Priority,
        (to, multicast): (u8, bool),
    ) -> Option<Rc<Packet>> {
        let key = (vip, family as u8, priority.0, if multicast { GROUP } else { to });
        if let Some(known) = self.machines[usize::from(machine)].sent.get(&key) {
            return Some(Rc::clone(known));
        }
        let packet = Rc::new(self.encode(machine, vip, family, priority, to)?);
        self.machines[usize::from(machine)].sent.insert(key, Rc::clone(&packet));
        Some(packet)
    }

    pub(crate) fn send(&mut self, from: u8, to: u8, packet: Rc<Packet>) {
        let (source, target) = (usize::from(from), usize::from(to));
        if self.network.is_mute(source, target) {
            return;
        }
        let fate = self.network.fate(self.now, &mut self.random, (source, target), packet.family);
        let (after, again_after, corrupt) = match fate {
            Fate::Blocked => return,
            Fate::Lost => return self.dropped(from, to, packet.vip),
            Fate::Arrives { after, again_after, corrupt } => (after, again_after, corrupt),
        };
        // Nobody there to hear it, then or soon: a starting machine begins with silence.
        if self.machines[target].run == Run::Off {
            return;
        }
        let packet = if corrupt {
            self.dropped(from, to, packet.vip);
            Rc::new(self.damaged(&packet))
        } else {
            packet
        };
        if let Some(again) = again_after {
            let packet = Rc::clone(&packet);
            self.queue.push(self.now + again, Due::Deliver { to, packet });
        }
        self.queue.push(self.now + after, Due::Deliver { to, packet });
    }

    fn dropped(&mut self, from: u8, to: u8, vip: u8) {
        self.seen.push(Observation::Dropped { from, to });
        self.missed(to, vip);
        // The other holder may so never learn that clients were told to send here.
        let held = self.machines[usize::from(to)].kernel[usize::from(vip)].present;
        let cache = &mut self.cache[usize::from(vip)];
        if held && *cache == Some(from) {
            *cache = Some(CACHE_UNKNOWN);
        }
    }

    /// A holder, or who is about to be one, didn't get something that would have told it of a rival.
    fn missed(&mut self, to: u8, vip: u8) {
        let slot = &self.machines[usize::from(to)].kernel[usize::from(vip)];
        if slot.present || slot.wanted {
            let place = usize::from(vip);
            self.missed_at[place] = self.now;
            // It stays so until the client learns something else, whatever is missed later.
            self.unanswered[place] |= self.cached_at[place] + BURST > self.now;
        }
    }

    fn damaged(&mut self, packet: &Packet) -> Packet {
        let mut damaged = packet.clone();
        damaged.corrupt = true;
        let place = self.random.index(damaged.payload.len());
        if let Some(byte) = damaged.payload.get_mut(place) {
            // A single flipped bit never escapes the checksum.
            *byte ^= 1 << self.random.below(8);
        }
        damaged
    }

    fn encode(
        &self,
        machine: u8,
        vip: u8,
        family: Family,
        priority: Priority,
        to: u8,
    ) -> Option<Packet> {
        let host = &self.machines[usize::from(machine)];
        let router = host.node.as_ref()?.router(host.id_of(vip)?)?;
        let plan = router.plan();
        let multicast = plan.mode == Mode::Multicast;
        let destination = match (multicast, family) {
            (true, Family::V4) => IpAddr::V4(MULTICAST_V4),
            (true, Family::V6) => IpAddr::V6(MULTICAST_V6),
            (false, family) => self.machines[usize::from(to)].own[family.index()]?,
        };
        let source = host.source(family, multicast)?;
        let addresses: Vec<IpAddr> = plan.addresses.iter().map(|prefix| prefix.address()).collect();
        let mut payload = Vec::new();
        vrrp::emit(
            &Outgoing {
                version: plan.version,
                vrid: plan.vrid,
                priority,
                interval: plan.advert_interval,
                addresses: &addresses,
                password: plan.password,
                checksum: plan.checksum,
                source,
                destination,
            },
            &mut payload,
        );
        let envelope = Envelope { source, destination, hop_limit: HOP_LIMIT };
        let priority = priority.0;
        Some(Packet { from: machine, vip, family, priority, corrupt: false, envelope, payload })
    }

    /// A host outside the cluster claims the VIP with priority 255, as loudly as it can.
    pub fn stranger(&mut self, vip: u8) {
        let Some(plan) = self.file.vip(vip).cloned() else { return };
        if !plan.has(Family::V4) {
            return;
        }
        let source = IpAddr::from([10, 0, 0, 200]);
        let destination = IpAddr::V4(MULTICAST_V4);
        let addresses: Vec<IpAddr> = plan.addresses.iter().map(|prefix| prefix.address()).collect();
        let mut payload = Vec::new();
        vrrp::emit(
            &Outgoing {
                version: plan.version,
                vrid: plan.vrid,
                priority: Priority::OWNER,
                interval: IntervalCs::MIN,
                addresses: &addresses,
                password: plan.password,
                checksum: plan.checksum,
                source,
                destination,
            },
            &mut payload,
        );
        let packet = Rc::new(Packet {
            from: u8::try_from(STRANGER).unwrap_or(u8::MAX),
            vip,
            family: Family::V4,
            priority: Priority::OWNER.0,
            corrupt: false,
            envelope: Envelope { source, destination, hop_limit: HOP_LIMIT },
            payload,
        });
        for to in (0..self.machines.len()).filter_map(|to| u8::try_from(to).ok()) {
            self.queue.push(self.now + 1, Due::Deliver { to, packet: Rc::clone(&packet) });
        }
    }

    /// Gratuitous ARP and unsolicited NA: the client and all machines see it.
    pub fn announce(&mut self, machine: u8, vip: u8) {
        if !self.machines[usize::from(machine)].on_the_air() {
            return;
        }
        if let Some(trace) = &mut self.trace {
            trace.announcement(self.now, &self.machines[usize::from(machine)], &self.file, vip);
        }
        for to in (0..self.machines.len()).chain([CLIENT]) {
            if to != usize::from(machine) {
                self.tell(usize::from(machine), to, Seen::Vip(vip), self.vip_family(vip), 0);
            }
        }
    }

    /// Asks who has the VIP; whoever has it in its kernel answers.
    pub fn probe(&mut self, machine: u8, vip: u8) {
        let family = self.vip_family(vip);
        for other in 0..self.machines.len() {
            if other != usize::from(machine)
                && self.machines[other].on_the_air()
                && self.machines[other].kernel[usize::from(vip)].present
            {
                self.answer(other, usize::from(machine), Seen::Vip(vip), family);
            }
        }
        if self.foreign[usize::from(vip)] {
            self.answer(FOREIGN, usize::from(machine), Seen::Vip(vip), family);
        }
    }

    /// Asks who has an own address of a machine, or one of a VIP's.
    pub fn identify(&mut self, machine: u8, address: IpAddr) {
        let asked = |plan: &VipPlan| plan.addresses.iter().any(|it| it.address() == address);
        if let Some(place) = self.file.plan.vips.iter().position(asked) {
            return self.probe(machine, u8::try_from(place).unwrap_or(u8::MAX));
        }
        for other in 0..self.machines.len() {
            let host = &self.machines[other];
            let what = if address == IpAddr::V6(host.link_local) {
                LINK_LOCAL
            } else if host.own[0] == Some(address) {
                OWN_V4
            } else if host.own[1] == Some(address) {
                OWN_V6
            } else {
                continue;
            };
            let on_the_air = host.on_the_air() && (what == LINK_LOCAL || host.own_present);
            self.machines[usize::from(machine)].asked[other][usize::from(what)] = true;
            if other != usize::from(machine) && on_the_air {
                let family = Family::of(address);
                self.answer(other, usize::from(machine), Seen::Own(what), family);
            }
        }
    }

    fn answer(&mut self, from: usize, to: usize, what: Seen, family: Family) {
        // The question has to arrive first.
        match self.network.fate(self.now, &mut self.random, (to, from), family) {
            Fate::Arrives { after, corrupt: false, .. } => {
                self.tell(from, to, what, family, after);
            }
            Fate::Blocked => {}
            Fate::Lost | Fate::Arrives { .. } => self.unanswered(from, to, what),
        }
    }

    /// Who an IPv6 sender is stays unknown for longer.
    fn unanswered(&mut self, from: usize, to: usize, what: Seen) {
        if let (Seen::Own(_), Ok(from), Ok(to)) = (what, u8::try_from(from), u8::try_from(to)) {
            self.seen.push(Observation::Dropped { from, to });
        }
    }

    fn tell(&mut self, from: usize, to: usize, what: Seen, family: Family, wait: u64) {
        let fate = self.network.fate(self.now, &mut self.random, (from, to), family);
        let (Ok(sender), Ok(target)) = (u8::try_from(from), u8::try_from(to)) else { return };
        let overtaken = to == CLIENT && self.network.spike > 0;
        match fate {
            Fate::Arrives { after, corrupt: false, .. } if !overtaken => {
                let due = Due::Sighting { to: target, from: sender, what };
                self.queue.push(self.now + wait + after, due);
            }
            _ if to == CLIENT => {
                // It may have believed the one that was lost or late: nothing is known of it now.
                if let Seen::Vip(vip) = what {
                    self.cache[usize::from(vip)] = Some(CACHE_UNKNOWN);
                }
            }
            _ => {
                if let Seen::Vip(vip) = what {
                    self.missed(target, vip);
                }
                if fate != Fate::Blocked {
                    self.unanswered(from, to, what);
                }
            }
        }
    }

    /// An answer or an announcement arrives.
    pub fn sighted(&mut self, to: u8, from: u8, what: Seen) {
        if usize::from(to) == CLIENT {
            if let Seen::Vip(vip) = what {
                self.cache[usize::from(vip)] = Some(from);
                self.cached_at[usize::from(vip)] = self.now;
                self.unanswered[usize::from(vip)] =
                    self.missed_at[usize::from(vip)] + BURST > self.now;
            }
            return;
        }
        let host = &mut self.machines[usize::from(to)];
        if !host.on_the_air() {
            return;
        }
        match host.run {
            Run::Running => {
                self.look(to, from, what);
                self.arm(to);
            }
            Run::Stopped { .. } => host.inbox.push_back(Mail::Sighting { from, what }),
            Run::Off | Run::Suspended { .. } => {}
        }
    }

    pub fn look(&mut self, to: u8, from: u8, what: Seen) {
        if let Seen::Vip(vip) = what {
            let (host, vip) = (&mut self.machines[usize::from(to)], usize::from(vip));
            host.answered[vip] = Some(self.now);
            if usize::from(from) == FOREIGN {
                host.foreign_answered[vip] = Some(self.now);
            }
        }
        if let Seen::Own(kind) = what {
            let host = &mut self.machines[usize::from(to)];
            if host.asked[usize::from(from)][usize::from(kind)] {
                let at = &mut host.identified[usize::from(from)][usize::from(kind)];
                *at = (*at).min(self.now);
                self.now_known(to, from);
            }
        }
        let sabotage = self.machines[usize::from(to)].sabotage;
        let rival = |vip| self.router(to, vip).is_some_and(|it| it.role() == Role::Active);
        if sabotage == Sabotage::LooksAway
            || sabotage == Sabotage::OverlooksRivals && matches!(what, Seen::Vip(vip) if rival(vip))
        {
            return;
        }
        let mac = mac(usize::from(from));
        let addresses: Vec<IpAddr> = match what {
            Seen::Vip(vip) => self.file.vip(vip).map_or_else(Vec::new, |plan| {
                plan.addresses.iter().map(|prefix| prefix.address()).collect()
            }),
            Seen::Own(kind) => {
                let Some(host) = self.machines.get(usize::from(from)) else { return };
                let own = match kind {
                    LINK_LOCAL => Some(IpAddr::V6(host.link_local)),
                    kind => host.own[usize::from(kind)],
                };
                own.into_iter().collect()
            }
        };
        for address in addresses {
            let sighting = Input::Sighting { interface: InterfaceId(0), address, mac };
            self.step(to, Cause::Sighting, sighting);
        }
    }

    /// An advert that waited for the answer to who sent it counts now.
    fn now_known(&mut self, to: u8, from: u8) {
        let host = &mut self.machines[usize::from(to)];
        if host.identified_at(from) == u64::MAX {
            return;
        }
        for (unsure, maybe) in host.unsure.iter_mut().zip(&mut host.maybe) {
            if let Some((at, priority)) = unsure.take(from)
                && at + WAITS >= self.now
            {
                maybe.insert(from, (self.now, priority));
            }
        }
    }

    pub fn vip_family(&self, vip: u8) -> Family {
        let first = self.file.vip(vip).and_then(|plan| plan.addresses.first());
        first.map_or(Family::V4, |prefix| prefix.family())
    }
}
