//! One machine: the only type that the shell and the simulator drive.

mod sight;
mod view;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::election::rivals::Claimant;
use crate::election::{Heard, Step, VirtualRouter, usable};
use crate::event::{Event, Kind, Party, Reason, Role};
use crate::health::Health;
use crate::identity::{Identity, named};
use crate::plan::{Plan, VipPlan};
use crate::receive::{outranks, read, ties_to};
use crate::resume::Resume;
use crate::types::{CheckId, Family, Instant, InterfaceId, Mac, NodeId, Priority, VipId, Vrid};
use crate::wire::vrrp::Envelope;
use crate::{Command, Effect, Effects, Input, InterfaceState, Outcome, Verdict};

use sight::Sight;

/// Marks an empty place in [`Node::index`].
const NO_VIP: u16 = u16::MAX;

/// An advert waits this long to be told whose it is; the answer takes a round trip, and what is
/// older may no longer be true.
const UNSURE: Duration = Duration::from_millis(200);

/// A lateness below this is the ordinary jitter of timers.
const LATE: Duration = Duration::from_millis(5);

#[derive(Clone, Debug)]
pub struct Node {
    plan: Plan,
    /// Places keep their VIP over reloads, so that a [`VipId`] means the same for ever.
    routers: Vec<Option<VirtualRouter>>,
    /// Kernel names; places keep their name over reloads, as the VIPs' do.
    interfaces: Vec<(String, InterfaceState)>,
    /// For each interface and family 256 router ids, each with the place of its VIP.
    index: Vec<u16>,
    /// All addresses of all VIPs.
    vip_addresses: BTreeSet<IpAddr>,
    /// The last plan named some VIPs no more; their places are still to be given back.
    leaving: bool,
    health: Health,
    own: Vec<IpAddr>,
    identity: Identity,
    sight: Sight,
    /// The last advert for a VIP whose sender isn't known yet.
    unsure: BTreeMap<VipId, Unsure>,
    last_advert: Vec<Option<Instant>>,
    maintenance: Option<Instant>,
    stopping: Stopping,
    /// When the next tick could have come at the earliest.
    expected: Instant,
    /// When the tick was expected that an input came before.
    missed: Option<Instant>,
    /// What `next_deadline` found; `None` after a step. Looking costs a walk over all VIPs.
    first: Option<Instant>,
    /// The time of the last step.
    now: Instant,
}

/// An advert that came before it was known who sent it.
#[derive(Clone, Debug)]
struct Unsure {
    at: Instant,
    interface: InterfaceId,
    envelope: Envelope,
    payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    Asked,
    Done,
}

impl Node {
    #[must_use]
    pub fn new(now: Instant, plan: Plan) -> Self {
        let mut node = Self {
            plan: Plan { vips: Vec::new(), checks: Vec::new(), ..plan.clone() },
            routers: Vec::new(),
            interfaces: Vec::new(),
            index: Vec::new(),
            vip_addresses: BTreeSet::new(),
            leaving: false,
            health: Health::default(),
            own: Vec::new(),
            identity: Identity::default(),
            sight: Sight::default(),
            unsure: BTreeMap::new(),
            last_advert: Vec::new(),
            maintenance: None,
            stopping: Stopping::No,
            expected: Instant::FAR,
            missed: None,
            first: None,
            now,
        };
        node.take_plan(now, plan, &mut Effects::new());
        node
    }

    /// As [`Node::new`], for a program that replaces another one which held VIPs.
    #[must_use]
    pub fn resumed(now: Instant, plan: Plan, resume: &Resume) -> Self {
        let mut node = Self::new(now, plan);
        let mut effects = Effects::new();
        for name in &resume.passing {
            if let Some(place) = node.plan.checks.iter().position(|check| check.name == *name) {
                let check = CheckId(u16::try_from(place).unwrap_or(u16::MAX));
                // What follows from it is found out below; nobody is told of it twice.
                let _ = node.health.result(check, Verdict::Pass, "");
            }
        }
        node.maintenance =
            resume.maintenance.map(|left| left.map_or(Instant::FAR, |left| now + left));
        node.judge_all(now, &mut effects);
        for (vip, slot) in (0..).map(VipId).zip(&mut node.routers) {
            let Some(router) = slot else { continue };
            if let Some((_, gap)) =
                resume.awaits.iter().find(|(name, _)| *name == router.plan().name)
            {
                router.await_vacancy(&mut Step { now, vip, effects: &mut effects }, Some(*gap));
            }
            if resume.active.contains(&router.plan().name) {
                router.resume();
            }
        }
        node
    }

    /// The plan as it stands; its VIPs' interface ids are places in [`Node::interfaces`].
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The router of a VIP; `None` once it has gone.
    #[must_use]
    pub fn router(&self, vip: VipId) -> Option<&VirtualRouter> {
        self.routers.get(vip.index())?.as_ref()
    }

    /// All VIPs of this node, also those on their way out.
    pub fn routers(&self) -> impl Iterator<Item = (VipId, &VirtualRouter)> {
        (0..).map(VipId).zip(&self.routers).filter_map(|(id, slot)| Some((id, slot.as_ref()?)))
    }

    /// Kernel names of the interfaces, by [`InterfaceId`].
    pub fn interfaces(&self) -> impl Iterator<Item = (InterfaceId, &str)> {
        (0..).map(InterfaceId).zip(self.interfaces.iter().map(|(name, _)| name.as_str()))
    }

    /// Takes one input and pushes what follows from it. See the crate's documentation.
    pub fn step(&mut self, now: Instant, input: Input<'_>, effects: &mut Effects) {
        self.now = now;
        if self.first.take().is_some_and(|first| first <= now) {
            self.missed.get_or_insert(self.expected);
        }
        if std::mem::take(&mut self.leaving) && self.stopping == Stopping::No {
            self.bury();
        }
        match input {
            Input::Tick => self.tick(now, effects),
            Input::Advert { interface, envelope, payload } => {
                self.advert(now, interface, &envelope, payload, effects);
            }
            Input::Sighting { interface, address, mac } => {
                self.sighting(now, interface, address, mac, effects);
            }
            Input::Interface { interface, state } => {
                if let Some((_, known)) = self.interfaces.get_mut(interface.index()) {
                    *known = state;
                    self.review_usability(now, effects);
                }
            }
            Input::OwnAddresses(addresses) => {
                self.own.clear();
                self.own.extend_from_slice(addresses);
                self.review_usability(now, effects);
            }
            Input::Check { check, verdict, detail } => {
                self.check(now, check, verdict, detail, effects);
            }
            Input::Settled { vip, outcome } => self.settled(now, vip, outcome, effects),
            Input::Restored { vip, address } => {
                self.with(now, vip, effects, |router, step, _, _| router.restored(step, address));
            }
            Input::Peer { vip, node, says } => {
                // Nobody else speaks for this node.
                if node != self.plan.me {
                    let ties = outranks(&self.plan, node, self.plan.me);
                    self.with(now, vip, effects, |router, step, _, _| {
                        router.peer(step, node, says, ties);
                    });
                }
            }
            Input::TakeOver { vip, handover } => {
                self.with(now, vip, effects, |router, step, _, _| router.take_over(step, handover));
            }
            Input::Command(command) => self.command(now, command, effects),
            Input::Plan(plan) => {
                self.take_plan(now, *plan, effects);
                effects.push(Effect::Event(Event { vip: None, kind: Kind::Reloaded }));
            }
        }
        self.finish_stopping(effects);
    }

    /// When the shell has to step a [`Input::Tick`]; `None`: nothing is due.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let first = match self.first {
            Some(first) => first,
            None => {
                let routers = self.routers.iter().flatten().map(VirtualRouter::next_deadline);
                let first = routers.min().unwrap_or(Instant::FAR).min(self.maintenance_end());
                let first = first.min(self.sight.next_deadline());
                // A wait that was over before anybody wanted it isn't the shell's lateness; one that
                // was over before the last input came is.
                let missed = self.missed.take().filter(|_| first <= self.now);
                self.expected = missed.unwrap_or_else(|| first.max(self.now));
                *self.first.insert(first)
            }
        };
        (first != Instant::FAR).then_some(first)
    }

    /// Maintenance without an end is kept as [`Instant::FAR`].
    fn maintenance_end(&self) -> Instant {
        self.maintenance.unwrap_or(Instant::FAR)
    }

    fn tick(&mut self, now: Instant, effects: &mut Effects) {
        let late = Some(now.since(self.expected)).filter(|late| *late >= LATE).unwrap_or_default();
        self.expected = Instant::FAR;
        self.missed = None;
        if self.maintenance_end() <= now {
            self.set_maintenance(now, None, effects);
        }
        self.sight_tick(now, effects);
        let maintenance = self.maintenance.is_some();
        for (id, slot) in (0..).map(VipId).zip(&mut self.routers) {
            let Some(router) = slot else { continue };
            if router.next_deadline() <= now {
                let mut step = Step { now, vip: id, effects };
                router.tick(&mut step, &self.health, maintenance, late);
            }
        }
    }

    fn advert(
        &mut self,
        now: Instant,
        interface: InterfaceId,
        envelope: &Envelope,
        payload: &[u8],
        effects: &mut Effects,
    ) {
        let family = Family::of(envelope.source);
        // The second byte is the router id in every version; other routers' messages aren't ours.
        let Some(vrid) = payload.get(1).copied().and_then(Vrid::new) else { return };
        let Some(vip) = self.vip_at(interface, family, vrid) else { return };
        let source = envelope.source;
        if self.is_own(interface, source) {
            return;
        }
        let Some(router) = self.routers.get_mut(vip.index()).and_then(Option::as_mut) else {
            return;
        };
        let mut step = Step { now, vip, effects };
        let advert = match read(router.plan(), envelope, payload) {
            Ok(advert) => advert,
            Err(why) => return router.ignored(&mut step, source, || why.to_string()),
        };
        let node = self.identity.of(now, &self.plan.nodes, interface, source, step.effects);
        let member = node.filter(|node| router.plan().priority_of(*node).is_some());
        let who = match member {
            Some(node) => Party::Node(node),
            None if router.plan().accept_unknown => Party::Unknown(source),
            None if self.identity.undecided(now, &self.plan.nodes, interface, source) => {
                router.unsure(&mut step);
                let envelope = *envelope;
                let advert = Unsure { at: now, interface, envelope, payload: payload.to_vec() };
                self.unsure.insert(vip, advert);
                return;
            }
            None => {
                // What it said before counts no more, even if the network still tells who it is.
                if self.unsure.get(&vip).is_some_and(|older| older.envelope.source == source) {
                    self.unsure.remove(&vip);
                }
                return router.stranger(&mut step, source, &advert);
            }
        };
        // Older than this one.
        self.unsure.remove(&vip);
        let wins_ties = ties_to(&self.plan, &self.interfaces, router.plan(), who, source);
        router.heard(&mut step, &Heard { advert, family, who, wins_ties });
        if let Some(last) = node.and_then(|node| self.last_advert.get_mut(node.index())) {
            *last = Some(now);
        }
    }

    /// Whether this node sent it: a loop in the network brings it back.
    fn is_own(&self, interface: InterfaceId, source: IpAddr) -> bool {
        let me = self.plan.nodes.get(self.plan.me.index());
        let here = self.interfaces.get(interface.index());
        me.is_some_and(|me| me.addresses.contains(&source))
            || here.is_some_and(|(_, state)| state.link_local.map(IpAddr::V6) == Some(source))
    }

    /// Takes in the adverts of which it is known by now who sent them.
    fn hear_the_unsure(&mut self, now: Instant, effects: &mut Effects) {
        for (vip, advert) in std::mem::take(&mut self.unsure) {
            let Unsure { at, interface, envelope, payload } = &advert;
            let node = self.identity.known(now, &self.plan.nodes, *interface, envelope.source);
            if now.since(*at) > UNSURE {
                continue;
            }
            match node {
                Some(_) => self.advert(now, *interface, envelope, payload, effects),
                None => drop(self.unsure.insert(vip, advert)),
            }
        }
    }

    fn sighting(
        &mut self,
        now: Instant,
        interface: InterfaceId,
        address: IpAddr,
        mac: Mac,
        effects: &mut Effects,
    ) {
        let own = self.interfaces.iter().any(|(_, state)| state.mac == Some(mac));
        if own {
            return;
        }
        if self.identity.sighted(now, interface, address, mac) {
            self.hear_the_unsure(now, effects);
        }
        if let Some(node) = named(&self.plan.nodes, address) {
            self.peer_in_sight(now, interface, node, effects);
        }
        // Most of what a LAN says is about other addresses.
        if !self.vip_addresses.contains(&address) {
            return;
        }
        let shared = |plan: &VipPlan| plan.mac(Family::of(address)) == Some(mac);
        // Where a VIP has a MAC of its own, no node's address is behind it.
        let who = if self.routers.iter().flatten().any(|router| shared(router.plan())) {
            None
        } else {
            self.identity.behind(now, &self.plan.nodes, interface, mac, effects)
        };
        let who = who.filter(|node| *node != self.plan.me);
        for (vip, slot) in (0..).map(VipId).zip(&mut self.routers) {
            let Some(router) = slot else { continue };
            let here = router.plan().interface == interface
                && router.plan().addresses.iter().any(|prefix| prefix.address() == address);
            let by_heartbeat = router.plan().heartbeat.contains(&interface)
                && router.plan().addresses.iter().any(|prefix| prefix.address() == address);
            if by_heartbeat {
                let who = who.filter(|node| router.plan().priority_of(*node).is_some());
                if let Some(node) = who {
                    let wins_ties = outranks(&self.plan, node, self.plan.me);
                    let claimant = Claimant { node, wins_ties };
                    let mut step = Step { now, vip, effects };
                    router.heartbeat((address, mac), interface, &mut step, claimant);
                }
            }
            if here {
                let located = |node| self.identity.locates(&self.plan.nodes, interface, node);
                if router.looks_out_for().is_some_and(located) {
                    router.lookout_sighted((address, mac), who);
                }
                let who = who.filter(|node| router.plan().priority_of(*node).is_some());
                let other = || router.plan().only_other(self.plan.me);
                let who = if shared(router.plan()) { other() } else { who };
                let claimant =
                    |node| Claimant { node, wins_ties: outranks(&self.plan, node, self.plan.me) };
                router.sighted(&mut Step { now, vip, effects }, address, mac, who.map(claimant));
            }
        }
    }

    fn check(
        &mut self,
        now: Instant,
        check: CheckId,
        verdict: Verdict,
        detail: &str,
        effects: &mut Effects,
    ) {
        let Some(state) = self.health.result(check, verdict, detail) else { return };
        let passing = state == crate::health::State::Passing;
        let kind = Kind::Check { check, passing, detail: detail.to_owned() };
        effects.push(Effect::Event(Event { vip: None, kind }));
        self.review_witnesses(now, effects);
        self.judge_all(now, effects);
    }

    fn settled(&mut self, now: Instant, vip: VipId, outcome: Outcome, effects: &mut Effects) {
        self.with(now, vip, effects, |router, step, health, maintenance| {
            router.settled(step, outcome, health, maintenance);
        });
        if let Some(Some(router)) = self.routers.get_mut(vip.index()) {
            router.hand_over(&mut Step { now, vip, effects }, &self.plan);
        }
        // A VIP that left the file has gone when its addresses have.
        let gone = self.router(vip).is_some_and(|router| {
            !router.holding() && router.role() == Role::Idle && !self.is_planned(router)
        });
        if let Some(slot) = self.routers.get_mut(vip.index()).filter(|_| gone) {
            *slot = None;
        }
    }

    fn command(&mut self, now: Instant, command: Command, effects: &mut Effects) {
        match command {
            Command::MaintenanceOn { lasting } => {
                let until = lasting.map_or(Instant::FAR, |lasting| now + lasting);
                self.set_maintenance(now, Some(until), effects);
            }
            Command::MaintenanceOff => self.set_maintenance(now, None, effects),
            Command::AwaitVacancy { vip, gap } => {
                self.with(now, vip, effects, |router, step, _, _| router.await_vacancy(step, gap));
            }
            Command::SwitchTo { vip, to } => {
                if to != self.plan.me {
                    self.with(now, vip, effects, |router, step, _, _| router.switch_to(step, to));
                }
            }
            Command::Stop => {
                if self.stopping == Stopping::No {
                    self.stopping = Stopping::Asked;
                }
                for (vip, slot) in (0..).map(VipId).zip(&mut self.routers) {
                    if let Some(router) = slot {
                        router.stop(&mut Step { now, vip, effects }, Reason::Stopping);
                    }
                }
            }
        }
    }

    fn set_maintenance(&mut self, now: Instant, until: Option<Instant>, effects: &mut Effects) {
        let on = until.is_some();
        if on != self.maintenance.is_some() {
            effects.push(Effect::Event(Event { vip: None, kind: Kind::Maintenance { on } }));
        }
        self.maintenance = until;
        self.judge_all(now, effects);
    }

    fn finish_stopping(&mut self, effects: &mut Effects) {
        let holding = |router: &VirtualRouter| router.holding();
        if self.stopping == Stopping::Asked && !self.routers.iter().flatten().any(holding) {
            self.stopping = Stopping::Done;
            effects.push(Effect::Stopped);
        }
    }

    fn judge_all(&mut self, now: Instant, effects: &mut Effects) {
        let maintenance = self.maintenance.is_some();
        for (vip, slot) in (0..).map(VipId).zip(&mut self.routers) {
            if let Some(router) = slot {
                router.judge(&mut Step { now, vip, effects }, &self.health, maintenance);
            }
        }
    }

    fn review_usability(&mut self, now: Instant, effects: &mut Effects) {
        let me = self.plan.nodes.get(self.plan.me.index());
        let own = |family| {
            me.and_then(|me| me.address(family)).is_some_and(|address| self.own.contains(&address))
        };
        for (vip, slot) in (0..).map(VipId).zip(&mut self.routers) {
            let Some(router) = slot else { continue };
            let state = self
                .interfaces
                .get(router.plan().interface.index())
                .map_or_else(InterfaceState::default, |(_, state)| *state);
            let usable = usable(router.plan(), state, own);
            router.usability(&mut Step { now, vip, effects }, usable);
        }
    }

    fn with(
        &mut self,
        now: Instant,
        vip: VipId,
        effects: &mut Effects,
        act: impl FnOnce(&mut VirtualRouter, &mut Step<'_>, &Health, bool),
    ) {
        let maintenance = self.maintenance.is_some();
        if let Some(Some(router)) = self.routers.get_mut(vip.index()) {
            act(router, &mut Step { now, vip, effects }, &self.health, maintenance);
        }
    }

    /// Makes the plan the current one; what is the same router as before keeps its state.
    fn take_plan(&mut self, now: Instant, mut plan: Plan, effects: &mut Effects) {
        let places: Vec<_> = plan.interfaces.iter().map(|name| self.place(name)).collect();
        for vip in &mut plan.vips {
            if let Some(place) = places.get(vip.interface.index()) {
                vip.interface = *place;
            }
            for path in &mut vip.heartbeat {
                if let Some(place) = places.get(path.index()) {
                    *path = *place;
                }
            }
        }
        self.health = Health::new(&plan.checks, &self.health);
        if self.plan.nodes != plan.nodes {
            self.identity.clear();
            self.sight.clear();
            self.unsure.clear();
        }
        let moved = |node: NodeId| {
            let name = &self.plan.nodes.get(node.index())?.name;
            let place = plan.nodes.iter().position(|known| known.name == *name)?;
            u8::try_from(place).ok().map(NodeId)
        };
        for router in self.routers.iter_mut().flatten() {
            router.renumber(moved);
        }
        self.last_advert = plan
            .nodes
            .iter()
            .map(|node| {
                let before = self.plan.nodes.iter().position(|known| known.name == node.name)?;
                self.last_advert.get(before).copied().flatten()
            })
            .collect();
        // By the numbers that its VIPs go by now.
        plan.interfaces = self.interfaces.iter().map(|(name, _)| name.clone()).collect();
        self.plan = plan;
        let stopping = self.stopping != Stopping::No;
        for (vip, slot) in (0..).map(VipId).zip(&mut self.routers) {
            let Some(router) = slot else { continue };
            let same = |plan: &&VipPlan| same_router(plan, router.plan());
            let mut step = Step { now, vip, effects };
            match self.plan.vips.iter().find(same) {
                Some(plan) => {
                    let priority = plan.priority_of(self.plan.me).unwrap_or(Priority::DEFAULT);
                    router.replan(&mut step, plan.clone(), priority);
                    if !stopping {
                        router.revive();
                    }
                }
                None => {
                    router.stop(&mut step, Reason::RemovedFromFile);
                    self.leaving = true;
                }
            }
        }
        if !stopping {
            self.add_new_routers(now);
        }
        self.rebuild_index();
        if !stopping {
            self.review_usability(now, effects);
            self.review_witnesses(now, effects);
            self.judge_all(now, effects);
        }
    }

    /// Gives back the places of VIPs that left the file and hold nothing; their last events have
    /// been told by then.
    fn bury(&mut self) {
        for slot in &mut self.routers {
            if slot.as_ref().is_some_and(VirtualRouter::is_over) {
                *slot = None;
            }
        }
    }

    fn add_new_routers(&mut self, now: Instant) {
        for plan in &self.plan.vips {
            let known = |router: &VirtualRouter| same_router(plan, router.plan());
            if self.routers.iter().flatten().any(known) {
                continue;
            }
            let priority = plan.priority_of(self.plan.me).unwrap_or(Priority::DEFAULT);
            let router = VirtualRouter::new(plan.clone(), priority, now);
            match self.routers.iter_mut().find(|slot| slot.is_none()) {
                Some(slot) => *slot = Some(router),
                None => self.routers.push(Some(router)),
            }
        }
    }

    fn place(&mut self, name: &str) -> InterfaceId {
        let index = self.interfaces.iter().position(|(known, _)| known == name);
        let index = index.unwrap_or_else(|| {
            self.interfaces.push((name.to_owned(), InterfaceState::default()));
            self.interfaces.len() - 1
        });
        InterfaceId(u16::try_from(index).unwrap_or(u16::MAX))
    }

    fn rebuild_index(&mut self) {
        self.vip_addresses = self
            .routers
            .iter()
            .flatten()
            .flat_map(|router| router.plan().addresses.iter().map(|prefix| prefix.address()))
            .collect();
        self.index.clear();
        self.index.resize(self.interfaces.len() * 2 * 256, NO_VIP);
        for (id, slot) in (0..NO_VIP).zip(&self.routers) {
            let Some(router) = slot.as_ref().filter(|router| self.is_planned(router)) else {
                continue;
            };
            for family in Family::BOTH.into_iter().filter(|family| router.plan().has(*family)) {
                let place = place_in_index(router.plan().interface, family, router.plan().vrid);
                if let Some(entry) = self.index.get_mut(place) {
                    *entry = id;
                }
            }
        }
    }

    fn is_planned(&self, router: &VirtualRouter) -> bool {
        self.plan.vips.iter().any(|plan| same_router(plan, router.plan()))
    }

    fn vip_at(&self, interface: InterfaceId, family: Family, vrid: Vrid) -> Option<VipId> {
        let id = *self.index.get(place_in_index(interface, family, vrid))?;
        (id != NO_VIP).then_some(VipId(id))
    }
}

/// Whether two plans mean the same virtual router, which so keeps its state over a reload.
fn same_router(a: &VipPlan, b: &VipPlan) -> bool {
    a.vrid == b.vrid && a.interface == b.interface && a.version == b.version && a.name == b.name
}

const fn place_in_index(interface: InterfaceId, family: Family, vrid: Vrid) -> usize {
    (interface.index() * 2 + family.index()) * 256 + vrid.get() as usize
}
