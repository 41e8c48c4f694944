//! One simulated machine: a real core, its clock, its kernel's addresses, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use standin_core::election::VirtualRouter;
use standin_core::event::Role;
use standin_core::node::Node;
use standin_core::plan::{CheckPlan, Plan, Version};
use standin_core::types::{Family, Instant, Mac, VipId};
use standin_core::wire::vrrp;
use standin_core::{InterfaceState, Verdict};

use crate::clock::{Clock, Nanos};
use crate::cluster::spoken;
use crate::link::Word;
use crate::network::MAX_MACHINES;
use crate::queue::Seen;
use crate::scene::Packet;

/// What a socket buffer of 212,992 bytes, Linux's default, holds of small packets, at 768 bytes of
/// kernel memory each.
pub const SOCKET_BUFFER: usize = 277;

/// Whether the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// No daemon.
    Off,
    Running,
    /// SIGSTOP: the kernel goes on, packets queue up, lifetimes end.
    Stopped {
        since: Nanos,
    },
    /// The whole virtual machine stands still: packets are lost, lifetimes stand still too.
    Suspended {
        since: Nanos,
    },
}

/// A shell that is broken on purpose, to show that a checker catches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    #[default]
    None,
    /// Answers a release without taking the addresses away.
    KeepsAddresses,
    /// Answers a hold without putting the addresses on.
    HoldsNothing,
    /// Steps the tick before what its sockets hold.
    TicksFirst,
    /// Passes on another reason than the core gave.
    ChangesReasons,
    /// Loses every other transition.
    LosesTransitions,
    /// Never passes a tick on.
    NeverTicks,
    /// Performs everything a thousand times.
    Repeats,
    /// Panics at the first announcement.
    Panics,
    /// Announces nothing.
    NeverAnnounces,
    /// Claims without waiting for the answers to its probes: drops sightings.
    LooksAway,
    /// Tells an active nothing of others that have its address.
    OverlooksRivals,
    /// Tells the core nothing of checks that fail.
    HidesFailures,
    /// Tells the core that the witness is seen.
    InventsWitness,
    /// Loses every fourth advert between the socket and the core.
    LosesAdverts,
    /// Tells the core that the file allows a failback.
    FailsBack,
    /// Takes every message of the peer link for a new one.
    ObeysLate,
    /// Adverts never leave.
    NeverAdvertises,
}

/// The addresses of one VIP in the kernel, and what the address thread is asked to do with them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slot {
    pub present: bool,
    pub wanted: bool,
    /// Requests under way.
    pub pending: u32,
    /// The number of the last request; only its end is told to the core.
    pub number: u32,
    /// Pending lifetimes with another token were renewed.
    pub token: u32,
    /// The kernel refuses the address until then.
    pub refuses_until: Nanos,
    pub refused_at: Option<Nanos>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub vip: u8,
    pub hold: bool,
    pub number: u32,
}

/// What arrived while the daemon stood still.
#[derive(Clone, Debug)]
pub enum Mail {
    Advert(Rc<Packet>),
    Sighting { from: u8, what: Seen },
    Kernel(Request),
    Word { from: u8, word: Word },
}

/// Rise and fall, counted a second time: what the core should believe.
#[derive(Clone, Copy, Debug)]
pub struct CheckTruth {
    /// Whether the thing that is checked works.
    pub works: bool,
    pub passing: Option<bool>,
    against: u8,
    rise: u8,
    fall: u8,
}

impl CheckTruth {
    #[must_use]
    pub const fn new(plan: &CheckPlan) -> Self {
        Self { works: true, passing: None, against: 0, rise: plan.rise, fall: plan.fall }
    }

    pub const fn forget(&mut self) {
        self.passing = None;
        self.against = 0;
    }

    /// A successor knows what passes, and nothing of the rest.
    pub fn begin_anew(&mut self) {
        self.passing = self.passing.filter(|passes| *passes);
        self.against = 0;
    }

    pub fn result(&mut self, verdict: Verdict) {
        let passes = verdict == Verdict::Pass;
        if self.passing == Some(passes) {
            self.against = 0;
            return;
        }
        self.against = self.against.saturating_add(1);
        let enough = match (self.passing, verdict) {
            (None, _) | (_, Verdict::Dead) => 1,
            (Some(_), Verdict::Pass) => self.rise,
            (Some(_), Verdict::Fail) => self.fall,
        };
        if self.against >= enough {
            self.passing = Some(passes);
            self.against = 0;
        }
    }

    /// Results that are needed for a change of mind.
    #[must_use]
    pub const fn needed(&self, verdict: Verdict) -> u8 {
        match verdict {
            Verdict::Pass => self.rise,
            Verdict::Fail => self.fall,
            Verdict::Dead => 1,
        }
    }
}

/// An encoded advert that is sent again and again: by VIP, family, priority, destination.
type Sent = BTreeMap<(u8, u8, u8, u8), Rc<Packet>>;

/// One thing for each machine that may have sent it.
#[derive(Clone, Copy, Debug)]
pub struct BySender<T>([Option<T>; MAX_MACHINES]);

impl<T> Default for BySender<T> {
    fn default() -> Self {
        Self(Default::default())
    }
}

impl<T: Copy> BySender<T> {
    pub fn insert(&mut self, sender: u8, value: T) {
        if let Some(place) = self.0.get_mut(usize::from(sender)) {
            *place = Some(value);
        }
    }

    #[must_use]
    pub fn get(&self, sender: u8) -> Option<T> {
        self.0.get(usize::from(sender)).copied().flatten()
    }

    pub fn take(&mut self, sender: u8) -> Option<T> {
        self.0.get_mut(usize::from(sender)).and_then(Option::take)
    }

    pub fn values(&self) -> impl Iterator<Item = T> + '_ {
        self.0.iter().flatten().copied()
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flatten()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    pub fn clear(&mut self) {
        self.0 = [None; MAX_MACHINES];
    }
}

#[derive(Debug)]
pub struct Machine {
    pub name: String,
    pub node: Option<Node>,
    /// The file as this machine read it last.
    pub file: Plan,
    pub run: Run,
    pub powered: bool,
    pub clock: Clock,
    pub interface_up: bool,
    /// Whether its own addresses are on the host.
    pub own_present: bool,
    /// Own addresses: IPv4, IPv6.
    pub own: [Option<IpAddr>; 2],
    pub link_local: Ipv6Addr,
    pub kernel: Vec<Slot>,
    pub kernel_busy_until: Nanos,
    /// Additional time that each request takes while somebody holds the kernel's lock.
    pub kernel_slow: Nanos,
    pub checks: Vec<CheckTruth>,
    pub maintenance: bool,
    pub stopping: bool,
    pub inbox: VecDeque<Mail>,
    pub deadline: Instant,
    /// When the timer that is set will fire.
    pub armed: Nanos,
    pub token: u32,
    /// Counts deaths and replacements; what belongs to an earlier life is void.
    pub life: u32,
    /// Where each of the core's VIPs stands in the scene.
    pub places: Vec<Option<u8>>,
    /// Roles as the event stream tells them, by the scene's VIPs.
    pub roles: Vec<Role>,
    /// Last advert stepped, by VIP and sender: when, and with which priority.
    pub heard: Vec<BySender<(Nanos, u8)>>,
    /// When anybody last answered for the VIP, by VIP.
    pub answered: Vec<Option<Nanos>>,
    /// It yielded to a node that it doesn't hear, and has heard no advert since, by VIP.
    pub shadows: Vec<bool>,
    /// When a peer last said over the link that it is active, by VIP.
    pub told_active: Vec<Option<Nanos>>,
    /// Adverts of whom the core couldn't know yet, by VIP and sender: when, and priority.
    pub unsure: Vec<BySender<(Nanos, u8)>>,
    /// Those of them that the core may have counted once it knew.
    pub maybe: Vec<BySender<(Nanos, u8)>>,
    /// Last advert that reached the socket, by VIP and sender.
    pub arrived: Vec<BySender<Nanos>>,
    /// A foreign owner was seen by this life, by VIP.
    pub saw_foreign: Vec<bool>,
    /// When a foreign owner last answered this life's probes, by VIP.
    pub foreign_answered: Vec<Option<Nanos>>,
    /// When this life learnt who sits behind another machine's addresses: IPv4, IPv6,
    /// link-local.
    pub identified: [[Nanos; 3]; MAX_MACHINES],
    /// Whether this life asked for each of them: unasked answers aren't remembered.
    pub asked: [[bool; 3]; MAX_MACHINES],
    /// When the program was last replaced in place.
    pub upgraded_at: Option<Nanos>,
    pub upgrading: bool,
    pub thawed_at: Nanos,
    pub started_at: Nanos,
    pub ticked_at: Nanos,
    pub ticks_here: u32,
    pub sent: Sent,
    pub sabotage: Sabotage,
}

impl Machine {
    #[must_use]
    pub fn new(index: usize, plan: &Plan, vips: usize) -> Self {
        let node = plan.nodes.get(index);
        let low = u16::try_from(index + 1).unwrap_or(u16::MAX);
        Self {
            name: node.map_or_else(String::new, |node| node.name.clone()),
            node: None,
            file: plan.clone(),
            run: Run::Off,
            powered: true,
            clock: Clock::new(0, 1, 0),
            interface_up: true,
            own_present: true,
            own: Family::BOTH.map(|family| node.and_then(|node| node.address(family))),
            link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, low),
            kernel: vec![Slot::default(); vips],
            kernel_busy_until: 0,
            kernel_slow: 0,
            checks: plan.checks.iter().map(CheckTruth::new).collect(),
            maintenance: false,
            stopping: false,
            inbox: VecDeque::new(),
            deadline: Instant::FAR,
            armed: Nanos::MAX,
            token: 0,
            life: 0,
            places: Vec::new(),
            roles: vec![Role::Idle; vips],
            heard: vec![BySender::default(); vips],
            answered: vec![None; vips],
            shadows: vec![false; vips],
            told_active: vec![None; vips],
            unsure: vec![BySender::default(); vips],
            maybe: vec![BySender::default(); vips],
            arrived: vec![BySender::default(); vips],
            saw_foreign: vec![false; vips],
            foreign_answered: vec![None; vips],
            identified: [[Nanos::MAX; 3]; MAX_MACHINES],
            asked: [[false; 3]; MAX_MACHINES],
            upgraded_at: None,
            upgrading: false,
            thawed_at: 0,
            started_at: 0,
            ticked_at: 0,
            ticks_here: 0,
            sent: BTreeMap::new(),
            sabotage: Sabotage::None,
        }
    }

    #[must_use]
    pub fn running(&self) -> bool {
        self.run == Run::Running
    }

    /// Whether its kernel sends and answers.
    #[must_use]
    pub const fn on_the_air(&self) -> bool {
        self.powered && self.interface_up && !matches!(self.run, Run::Suspended { .. })
    }

    /// Running, with a network and a source address, and not about to leave.
    #[must_use]
    pub fn at_work(&self) -> bool {
        self.running() && self.on_the_air() && self.own_present && !self.stopping
    }

    #[must_use]
    pub fn interface_state(&self, index: usize) -> InterfaceState {
        InterfaceState {
            up: self.interface_up,
            mac: Some(mac(index)),
            link_local: self.interface_up.then_some(self.link_local),
            ..InterfaceState::default()
        }
    }

    /// The address from which adverts of `family` are sent.
    #[must_use]
    pub fn source(&self, family: Family, multicast: bool) -> Option<IpAddr> {
        match family {
            Family::V6 if multicast => {
                Some(IpAddr::V6(self.link_local)).filter(|_| self.own_present)
            }
            _ => self.own[family.index()].filter(|_| self.own_present),
        }
    }

    /// Whether it can tell which machine sent a packet.
    #[must_use]
    pub fn knows(&self, packet: &Packet) -> bool {
        let link_local =
            matches!(packet.envelope.source, IpAddr::V6(it) if it.is_unicast_link_local());
        let node = usize::from(packet.from) < MAX_MACHINES;
        node && (!link_local || self.identified_at(packet.from) != Nanos::MAX)
    }

    /// Version 2 discards adverts of another interval (RFC 3768 §7.1).
    #[must_use]
    pub fn accepts(&self, packet: &Packet) -> bool {
        let router = self.id_of(packet.vip).and_then(|id| self.node.as_ref()?.router(id));
        let Some(plan) = router.map(VirtualRouter::plan) else { return false };
        plan.version == Version::V3
            || vrrp::parse(&packet.envelope, &packet.payload)
                .is_ok_and(|advert| advert.interval.as_duration() == spoken(plan))
    }

    /// When it could tell which machine sends from another one's link-local address.
    #[must_use]
    pub fn identified_at(&self, other: u8) -> Nanos {
        let known = self.identified.get(usize::from(other));
        known.map_or(Nanos::MAX, |[v4, v6, link_local]| *v4.min(v6).max(link_local))
    }

    /// The core's number of a VIP of the scene.
    #[must_use]
    pub fn id_of(&self, vip: u8) -> Option<VipId> {
        let node = self.node.as_ref()?;
        let place = self.places.iter().position(|place| *place == Some(vip))?;
        let id = VipId(u16::try_from(place).ok()?);
        node.router(id).map(|_| id)
    }

    /// Everything that it learnt of others.
    pub fn forget_others(&mut self) {
        (0..self.heard.len()).for_each(|vip| self.forget_others_of(vip));
        self.identified = [[Nanos::MAX; 3]; MAX_MACHINES];
        self.asked = [[false; 3]; MAX_MACHINES];
    }

    /// Everything that it learnt of others that have or had this VIP.
    pub fn forget_others_of(&mut self, vip: usize) {
        self.heard[vip].clear();
        self.arrived[vip].clear();
        self.unsure[vip].clear();
        self.maybe[vip].clear();
        self.answered[vip] = None;
        self.shadows[vip] = false;
        self.told_active[vip] = None;
        self.saw_foreign[vip] = false;
        self.foreign_answered[vip] = None;
    }

    /// The VIPs, by their place in the scene, of which `what` holds on this host.
    pub fn places_where(&self, what: impl Fn(&Slot) -> bool) -> BTreeSet<u8> {
        (0..).zip(&self.kernel).filter(|(_, slot)| what(slot)).map(|(vip, _)| vip).collect()
    }

    /// The address thread and the peer link's connections have ended with the program, and with them
    /// what was asked of the one and was still to come over the other.
    pub fn drop_requests(&mut self) {
        self.life += 1;
        self.inbox.retain(|mail| !matches!(mail, Mail::Kernel(_) | Mail::Word { .. }));
        self.kernel_busy_until = 0;
        for slot in &mut self.kernel {
            slot.wanted = false;
            slot.pending = 0;
        }
    }

    /// Everything that a process forgets when it ends.
    pub fn forget(&mut self) {
        self.node = None;
        self.run = Run::Off;
        self.token += 1;
        self.armed = Nanos::MAX;
        self.deadline = Instant::FAR;
        self.inbox.clear();
        self.upgrading = false;
        self.maintenance = false;
        self.stopping = false;
        self.roles.fill(Role::Idle);
        self.forget_others();
        self.checks.iter_mut().for_each(CheckTruth::forget);
        self.drop_requests();
    }
}

/// The Ethernet address of a host of the segment.
#[must_use]
pub fn mac(host: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, u8::try_from(host + 1).unwrap_or(u8::MAX)])
}
