//! The scene: machines around their cores, one segment, one client; the shell's rules as the
//! daemon follows them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::mem;
use std::rc::Rc;

use standin_core::election::VirtualRouter;
use standin_core::event::{Kind, Reason, Role};
use standin_core::plan::Mode;
use standin_core::record::{self, Entry, Recorded};
use standin_core::types::{Family, Instant, InterfaceId, VipId};
use standin_core::wire::vrrp::Envelope;
use standin_core::{Effect, Effects, Input};

use crate::beside::BESIDE;
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::cluster::ClusterFile;
use crate::host::{Hosts, Wish};
use crate::link::Link;
use crate::machine::{BySender, Machine, Mail, Run, SOCKET_BUFFER, Sabotage};
use crate::network::{MAX_MACHINES, Network, Weather};
use crate::queue::{Due, Queue};
use crate::random::Random;
use crate::trace::Trace;

/// Effects of one step, for each VIP and beyond: an advert per family, kernel, announcements,
/// events. Twice what any input was seen to cause.
const EFFECTS_PER_VIP: usize = 16;

/// Ticks at one instant: a deadline that doesn't move is a core that spins.
const TICKS_AT_ONCE: u32 = 8;

/// What a client believes that missed an announcement.
pub const CACHE_UNKNOWN: u8 = u8::MAX;

/// One VRRP packet on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: u8,
    pub vip: u8,
    pub family: Family,
    pub priority: u8,
    pub corrupt: bool,
    pub envelope: Envelope,
    pub payload: Vec<u8>,
}

/// What a step was given, for the checkers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Start,
    Tick,
    Advert {
        from: u8,
        vip: u8,
        priority: u8,
    },
    Sighting,
    Interface,
    OwnAddresses,
    Check,
    Settled,
    Restored,
    Command,
    Plan,
    /// What a peer says of itself.
    Peer,
    /// A peer says that it has released a VIP at a time.
    TakeOver {
        from: u8,
        vip: u8,
        released: Nanos,
    },
}

/// A transition as the event stream tells it, with what was known at that time.
#[derive(Clone, Debug)]
pub struct Transition {
    pub machine: u8,
    pub vip: u8,
    pub from: Role,
    pub to: Role,
    pub reason: Reason,
    pub cause: Cause,
    /// Whom the machine had heard last, when, and with which priority.
    pub heard: BySender<(Nanos, u8)>,
    /// The same for adverts that waited for the answer to whose they are, and may have counted.
    pub maybe: BySender<(Nanos, u8)>,
    /// When an advert of each had reached its socket.
    pub arrived: BySender<Nanos>,
}

/// What the checkers are told.
#[derive(Clone, Debug)]
pub enum Observation {
    /// A fault began, ended, or has late consequences.
    Disturbed,
    /// An advert was lost on the way.
    Dropped {
        from: u8,
        to: u8,
    },
    /// The addresses of a VIP came, went, or are being worked on.
    Presence {
        machine: u8,
        vip: u8,
    },
    Transition(Box<Transition>),
    Standing {
        machine: u8,
        vip: u8,
    },
    /// The roles of a machine, right after a step that had effects.
    Stepped {
        machine: u8,
    },
    /// The process ended by itself.
    Gone {
        machine: u8,
    },
    /// A promise was broken in the shell's own sight.
    Broken(String),
}

/// How often things happened, by name.
pub type Counts = BTreeMap<String, u64>;

#[derive(Debug)]
pub struct Scene {
    pub now: Nanos,
    pub random: Random,
    pub queue: Queue,
    pub network: Network,
    /// `None`: VRRP decides alone.
    pub link: Option<Link>,
    pub machines: Vec<Machine>,
    /// `None`: a machine is its daemon, and nothing else of it is looked at.
    pub hosts: Option<Hosts>,
    pub file: ClusterFile,
    /// The client's neighbour cache: which host it sends to, by VIP.
    pub cache: Vec<Option<u8>>,
    /// When the client learnt that, and when a holder last missed a sign of a rival.
    pub cached_at: Vec<Nanos>,
    pub missed_at: Vec<Nanos>,
    /// What the client learnt last may so have been a rival's word, which the holder never answered.
    pub unanswered: Vec<bool>,
    /// Whether a foreign host has the address, by VIP, and since when it is so.
    pub foreign: Vec<bool>,
    pub foreign_since: Vec<Nanos>,
    /// The check by which machines look for the witness, where there is one.
    pub witness: Option<u8>,
    /// The second cable, by which heartbeats go, is cut.
    pub beside_cut: bool,
    /// How long the address thread takes for one request: at least, at most.
    pub kernel_takes: (Nanos, Nanos),
    /// Between two drawn faults, on average.
    pub mean_gap: Nanos,
    pub seen: Vec<Observation>,
    pub faults: Counts,
    pub events: Counts,
    pub deliveries: u64,
    pub trace: Option<Trace>,
    /// The machine whose inputs are written down, and what was written.
    pub record: Option<(u8, String)>,
    effects: Effects,
}

impl Scene {
    #[must_use]
    pub fn new(file: ClusterFile, weather: Weather, random: Random) -> Self {
        let vips = file.names.len();
        let machines =
            (0..file.plan.nodes.len()).map(|index| Machine::new(index, &file.plan, vips)).collect();
        let witness = crate::witness::check_of(&file.plan);
        Self {
            now: 0,
            random,
            queue: Queue::default(),
            network: Network::new(weather),
            link: None,
            machines,
            hosts: None,
            file,
            cache: vec![None; vips],
            cached_at: vec![0; vips],
            missed_at: vec![0; vips],
            unanswered: vec![false; vips],
            foreign: vec![false; vips],
            foreign_since: vec![0; vips],
            witness,
            beside_cut: false,
            kernel_takes: (MILLISECOND / 5, 2 * MILLISECOND),
            mean_gap: SECOND,
            seen: Vec::new(),
            faults: Counts::new(),
            events: Counts::new(),
            deliveries: 0,
            trace: None,
            record: None,
            effects: Effects::new(),
        }
    }

    /// The places of all machines.
    pub fn places(&self) -> impl Iterator<Item = u8> + use<> {
        0..u8::try_from(self.machines.len()).unwrap_or(u8::MAX)
    }

    /// The places of all VIPs.
    pub fn vips(&self) -> impl Iterator<Item = u8> + use<> {
        0..u8::try_from(self.file.names.len()).unwrap_or(u8::MAX)
    }

    #[must_use]
    pub fn name(&self, vip: u8) -> &str {
        self.file.names.get(usize::from(vip)).map_or("?", String::as_str)
    }

    #[must_use]
    pub fn router(&self, machine: u8, vip: u8) -> Option<&VirtualRouter> {
        let host = self.machines.get(usize::from(machine))?;
        host.node.as_ref()?.router(host.id_of(vip)?)
    }

    /// Whether a machine can send adverts for a VIP of its file, in any family.
    #[must_use]
    pub fn works(&self, machine: u8, vip: u8) -> bool {
        Family::BOTH.into_iter().any(|family| self.sends(machine, vip, family))
    }

    #[must_use]
    pub fn sends(&self, machine: u8, vip: u8, family: Family) -> bool {
        let host = &self.machines[usize::from(machine)];
        let Some(router) = self.router(machine, vip) else { return false };
        let multicast = router.plan().mode == Mode::Multicast;
        host.running()
            && host.on_the_air()
            && !host.stopping
            && self.file.stands(vip)
            && self.has_read(machine, vip)
            && router.plan().has(family)
            && host.source(family, multicast).is_some()
    }

    /// Whether the file that a machine read last has the VIP.
    fn has_read(&self, machine: u8, vip: u8) -> bool {
        let name = self.name(vip);
        let node = self.machines[usize::from(machine)].node.as_ref();
        node.is_some_and(|node| node.plan().vips.iter().any(|plan| plan.name == name))
    }

    /// Whether adverts of `from` for a VIP reach `to`.
    #[must_use]
    pub fn hears(&self, to: u8, from: u8, vip: u8) -> bool {
        let passes = |family: &Family| {
            self.sends(from, vip, *family)
                && self.network.passes(usize::from(from), usize::from(to), *family)
                && !self.network.is_mute(usize::from(from), usize::from(to))
        };
        self.works(to, vip) && Family::BOTH.iter().any(passes)
    }

    /// How each machine sees each VIP, for the end of a trace.
    #[must_use]
    pub fn standing(&self) -> String {
        let mut out = String::new();
        for host in &self.machines {
            let slots = host.kernel.iter().map(|slot| if slot.present { "held" } else { "-" });
            let slots = slots.collect::<Vec<_>>().join(" ");
            let _ = writeln!(out, "  {} {:?}, kernel: {slots}", host.name, host.run);
            let Some(node) = &host.node else { continue };
            for (_, router) in node.routers() {
                let plan = router.plan();
                let due = host.clock.when(router.next_deadline());
                let due = due.checked_sub(self.now).map(|wait| wait / 1_000);
                let _ = writeln!(
                    out,
                    "    {} {} {:?} priority {} of {}, every {}, {:?} {:?}, follows {:?}, due in {due:?} us",
                    plan.name,
                    router.role(),
                    router.standing(),
                    router.effective_priority(),
                    router.priority(),
                    plan.advert_interval,
                    plan.mode,
                    plan.version,
                    router.followed(),
                );
            }
        }
        out
    }

    /// One thing that is due.
    pub fn handle(&mut self, due: Due) {
        match due {
            Due::Deliver { to, packet } => self.deliver(to, packet),
            Due::Wake { machine, token } => self.wake(machine, token),
            Due::Sighting { to, from, what } => self.sighted(to, from, what),
            Due::Beside { to, from, address } => self.seen_beside(to, from, address),
            Due::Kernel { machine, life, request } => {
                if self.machines[usize::from(machine)].life == life {
                    self.kernel_done(machine, request);
                }
            }
            Due::Expire { machine, vip, token } => self.expire(machine, vip, token),
            Due::PutBack { machine, life, vip } => self.put_back(machine, life, vip),
            Due::Fault(fault) => self.apply(fault),
            Due::Disturb => self.seen.push(Observation::Disturbed),
            Due::NextFault => self.next_fault(),
            Due::Host { machine, what } => self.happens(machine, what),
            Due::Hurt => self.hurt(),
            Due::Word { to, from, life, word } => self.word(to, from, life, word),
            Due::Lie => self.lie(),
            Due::Summaries => self.summarize(),
            // Scenarios step their own lines.
            Due::Line(_) => {}
        }
    }

    /// Gives `machine` an input and performs what follows.
    pub fn step(&mut self, machine: u8, cause: Cause, input: Input<'_>) {
        let host = &mut self.machines[usize::from(machine)];
        let Some(node) = host.node.as_mut() else { return };
        if let Some((recorded, text)) = &mut self.record
            && *recorded == machine
        {
            let at = host.clock.read(self.now);
            record::write(&Entry { at, input: Recorded::of(&input) }, text);
        }
        let mut effects = mem::take(&mut self.effects);
        effects.clear();
        node.step(host.clock.read(self.now), input, &mut effects);
        if cause == Cause::Plan {
            self.learn_places(machine);
        }
        if !effects.is_empty() {
            self.perform(machine, cause, &effects);
        }
        self.effects = effects;
    }

    /// Asks for the deadline, as the shell does after each batch, and sets the timer.
    pub fn arm(&mut self, machine: u8) {
        let host = &mut self.machines[usize::from(machine)];
        let Some(node) = host.node.as_mut() else { return };
        let Some(deadline) = node.next_deadline() else {
            host.deadline = Instant::FAR;
            return;
        };
        host.deadline = deadline;
        let at = host.clock.when(deadline).max(self.now);
        // A timer that fires early looks at the deadline again; most deadlines are put off.
        if at < host.armed {
            host.armed = at;
            host.token += 1;
            self.queue.push(at, Due::Wake { machine, token: host.token });
        }
    }

    fn wake(&mut self, machine: u8, token: u32) {
        let host = &mut self.machines[usize::from(machine)];
        if host.token != token {
            return;
        }
        host.armed = Nanos::MAX;
        // It is armed anew when it goes on.
        if !host.running() {
            return;
        }
        self.tick(machine);
        self.arm(machine);
    }

    /// Steps a tick if one is due.
    pub fn tick(&mut self, machine: u8) {
        let host = &mut self.machines[usize::from(machine)];
        if host.deadline > host.clock.read(self.now) {
            return;
        }
        if host.ticked_at == self.now {
            host.ticks_here += 1;
        } else {
            (host.ticked_at, host.ticks_here) = (self.now, 0);
        }
        if host.ticks_here > TICKS_AT_ONCE {
            let what = format!("P6: {} spins: its deadline stays in the past", host.name);
            self.seen.push(Observation::Broken(what));
            return;
        }
        if host.sabotage != Sabotage::NeverTicks {
            self.step(machine, Cause::Tick, Input::Tick);
        }
    }

    /// A packet reaches a machine's network card.
    fn deliver(&mut self, to: u8, packet: Rc<Packet>) {
        let host = &mut self.machines[usize::from(to)];
        if !host.on_the_air() {
            return;
        }
        let takes = host.knows(&packet) && host.accepts(&packet) && !packet.corrupt;
        if takes && (host.running() || host.inbox.len() < SOCKET_BUFFER) {
            host.arrived[usize::from(packet.vip)].insert(packet.from, self.now);
        }
        match host.run {
            Run::Running => {
                self.hear(to, &packet);
                self.arm(to);
            }
            Run::Stopped { .. } => {
                if host.inbox.len() < SOCKET_BUFFER {
                    host.inbox.push_back(Mail::Advert(packet));
                }
            }
            Run::Off | Run::Suspended { .. } => {}
        }
    }

    pub fn hear(&mut self, to: u8, packet: &Packet) {
        self.deliveries += 1;
        if let Some(trace) = &mut self.trace {
            trace.packet(self.now, &self.machines[usize::from(to)], packet, &self.file);
        }
        let lost = self.deliveries.is_multiple_of(4);
        let host = &mut self.machines[usize::from(to)];
        if host.sabotage == Sabotage::LosesAdverts && lost {
            return;
        }
        if !packet.corrupt && !host.knows(packet) && usize::from(packet.from) < MAX_MACHINES {
            let said = (self.now, packet.priority);
            host.unsure[usize::from(packet.vip)].insert(packet.from, said);
        }
        if !packet.corrupt && host.knows(packet) && host.accepts(packet) {
            let (place, said) = (usize::from(packet.vip), (self.now, packet.priority));
            host.heard[place].insert(packet.from, said);
            host.shadows[place] = false;
            if mem::take(&mut host.saw_foreign[place]) {
                self.seen.push(Observation::Disturbed);
            }
        }
        let cause = Cause::Advert { from: packet.from, vip: packet.vip, priority: packet.priority };
        let (envelope, payload) = (packet.envelope, packet.payload.as_slice());
        self.step(to, cause, Input::Advert { interface: InterfaceId(0), envelope, payload });
    }

    fn perform(&mut self, machine: u8, cause: Cause, effects: &Effects) {
        let limit = EFFECTS_PER_VIP * (self.file.names.len() + 1);
        let sabotage = self.machines[usize::from(machine)].sabotage;
        let times = if sabotage == Sabotage::Repeats { 1_000 } else { 1 };
        if effects.len() * times > limit {
            let many = effects.len() * times;
            let what = format!("P6: one step had {many} effects, more than {limit}");
            self.seen.push(Observation::Broken(what));
        }
        for effect in effects {
            match effect {
                Effect::Advert { vip, family, priority } => {
                    if let Some(vip) = self.place_of(machine, *vip)
                        && sabotage != Sabotage::NeverAdvertises
                    {
                        self.advertise(machine, vip, *family, *priority);
                    }
                }
                Effect::Hold { vip } => self.request(machine, *vip, Wish::Hold),
                Effect::Release { vip } => self.request(machine, *vip, Wish::Release),
                Effect::Stay { vip } => self.request(machine, *vip, Wish::Stay),
                Effect::Announce { vip } => {
                    assert!(sabotage != Sabotage::Panics, "this shell panics on purpose");
                    if let Some(vip) = self.place_of(machine, *vip)
                        && sabotage != Sabotage::NeverAnnounces
                    {
                        self.announce(machine, vip);
                    }
                }
                Effect::Probe { vip } => {
                    if let Some(vip) = self.place_of(machine, *vip) {
                        self.probe(machine, vip);
                    }
                }
                Effect::Handover { vip, to, epoch } => self.hand_over(machine, *vip, *to, *epoch),
                Effect::Identify { interface: BESIDE, address } => {
                    self.ask_beside(machine, *address);
                }
                Effect::Identify { address, .. } => self.identify(machine, *address),
                Effect::Event(event) => {
                    let vip = event.vip.and_then(|vip| self.place_of(machine, vip));
                    self.event(machine, vip, cause, &event.kind);
                }
                // One announcement more changes nothing that is checked.
                Effect::StillSeen { .. } | Effect::Stopped => {}
            }
        }
        self.seen.push(Observation::Stepped { machine });
        if effects.contains(&Effect::Stopped) {
            self.process_ends(machine);
        }
    }

    fn place_of(&self, machine: u8, vip: VipId) -> Option<u8> {
        self.machines[usize::from(machine)].places.get(vip.index()).copied().flatten()
    }

    pub fn learn_places(&mut self, machine: u8) {
        let host = &mut self.machines[usize::from(machine)];
        let Some(node) = &host.node else { return };
        for (id, router) in node.routers() {
            let name = &router.plan().name;
            let place = self.file.names.iter().position(|known| known == name);
            if host.places.len() <= id.index() {
                host.places.resize(id.index() + 1, None);
            }
            host.places[id.index()] = place.and_then(|place| u8::try_from(place).ok());
        }
        host.sent.clear();
    }

    fn event(&mut self, machine: u8, vip: Option<u8>, cause: Cause, kind: &Kind) {
        if let Some(trace) = &mut self.trace {
            trace.event(self.now, &self.machines[usize::from(machine)], vip, &self.file, kind);
        }
        let sabotage = self.machines[usize::from(machine)].sabotage;
        match (kind, vip) {
            (Kind::Transition { from, to, reason }, Some(vip)) => {
                *self.events.entry(reason_name(reason).to_owned()).or_default() += 1;
                if sabotage == Sabotage::LosesTransitions && *to == Role::Backup {
                    return;
                }
                let reason = if sabotage == Sabotage::ChangesReasons && *to == Role::Active {
                    Reason::Stopping
                } else {
                    reason.clone()
                };
                let (from, to) = (*from, *to);
                let host = &mut self.machines[usize::from(machine)];
                host.roles[usize::from(vip)] = to;
                host.shadows[usize::from(vip)] =
                    matches!(reason, Reason::RivalUnheard { .. } | Reason::RivalByLink { .. });
                let heard = host.heard[usize::from(vip)];
                let arrived = host.arrived[usize::from(vip)];
                let maybe = host.maybe[usize::from(vip)];
                let told =
                    Transition { machine, vip, from, to, reason, cause, heard, maybe, arrived };
                self.seen.push(Observation::Transition(Box::new(told)));
            }
            (Kind::Standing { .. }, Some(vip)) => {
                self.seen.push(Observation::Standing { machine, vip });
                self.tell_standing(machine, vip);
            }
            (Kind::ForeignOwner { .. }, Some(vip)) => {
                self.machines[usize::from(machine)].saw_foreign[usize::from(vip)] = true;
                self.seen.push(Observation::Disturbed);
            }
            (Kind::ForeignOwnerGone, Some(vip)) => {
                self.machines[usize::from(machine)].saw_foreign[usize::from(vip)] = false;
                self.seen.push(Observation::Disturbed);
            }
            _ => {}
        }
    }
}

/// The name of a transition's reason, for the table of a run.
#[must_use]
pub const fn reason_name(reason: &Reason) -> &'static str {
    match reason {
        Reason::Usable => "usable",
        Reason::Resumed => "resumed",
        Reason::NobodyThere => "nobody there",
        Reason::Vacant { .. } => "vacant",
        Reason::OwnerBack { .. } => "owner back",
        Reason::Silence { .. } => "silence",
        Reason::Released { .. } => "released",
        Reason::HandedOver { .. } => "handed over",
        Reason::LastResortOver { .. } => "last resort over",
        Reason::Failback { .. } => "failback",
        Reason::NobodyEligible => "nobody eligible",
        Reason::SwitchedTo { .. } => "switched over",
        Reason::Outranked { .. } => "outranked",
        Reason::RivalUnheard { .. } => "rival unheard",
        Reason::RivalByLink { .. } => "rival by link",
        Reason::TakenWhileStalled { .. } => "taken while stalled",
        Reason::Obstacle(_) => "obstacle",
        Reason::InterfaceDown => "interface down",
        Reason::SourceAddressGone => "source address gone",
        Reason::AddressRefused { .. } => "address refused",
        Reason::RemovedFromFile => "removed from file",
        Reason::Stopping => "stopping",
    }
}

/// Every reason that a long run has to have seen.
pub const REASONS: [&str; 19] = [
    "usable",
    "resumed",
    "nobody there",
    "silence",
    "released",
    "handed over",
    "last resort over",
    "failback",
    "nobody eligible",
    "switched over",
    "outranked",
    "rival unheard",
    "taken while stalled",
    "obstacle",
    "interface down",
    "source address gone",
    "address refused",
    "removed from file",
    "stopping",
];
