//! The engine thread: packets, timers and messages in, the core's effects out.
//!
//! ```text
//!   advert sockets ─┐                         ┌─▶ advert sockets   (one sendmmsg per interface)
//!   ARP/NDP sockets ┤   ┌──────────────────┐  ├─▶ ARP/NDP sockets
//!   timerfd ────────┼──▶│ core: Node::step │──┼─▶ address thread    (hold, release)
//!   address thread ─┤   └──────────────────┘  └─▶ control plane     (events)
//!   control plane ──┘
//! ```
//!
//! It does no netlink, disk, DNS, fork or log, and waits for nobody: what it tells others goes into
//! bounded queues that it never blocks on.

pub(crate) mod messages;
mod outbox;
mod peers;
mod ports;
mod recorder;
mod rehearsal;
mod rescue;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use standin_core::event::{Event, Kind, Party, Reason, Role};
use standin_core::node::Node;
use standin_core::plan::Plan;
use standin_core::resume::Resume;
use standin_core::types::{Instant, InterfaceId, VipId};
use standin_core::wire::neighbour;
use standin_core::wire::vrrp::Envelope;
use standin_core::{Command, Effect, Effects, Input, InterfaceState, Outcome};
use standin_linux::clock::{Timer, now};
use standin_linux::epoll::Poll;
use standin_linux::queue::Taken;
use standin_linux::{output, sched};

use messages::{Beat, FromEngine, Handover, Happened, Hold, Inbox, Post, ToAddresses, ToEngine};
use outbox::Outbox;
use ports::{Opening, Ports};
use recorder::Recorder;
pub(crate) use rehearsal::rehearse;
use rescue::Whereabouts;

/// Above ordinary threads and most kernel threads, below the watchdogs.
pub(crate) const REALTIME_PRIORITY: u8 = 40;

/// Messages taken from other threads in one go.
const MESSAGES: usize = 256;

/// Batches read from one socket in one go: a flood must not keep the timers waiting.
const BATCHES: usize = 32;

const TOKEN_TIMER: u64 = 0;
const TOKEN_MESSAGES: u64 = 1;
/// Tokens of sockets come after these, see [`Ports`].
const TOKEN_PORTS: u64 = 2;

pub(crate) struct Engine {
    node: Recorder,
    poll: Poll,
    timer: Timer,
    /// For when the timer is armed; [`Instant::FAR`] when it isn't.
    armed: Instant,
    inbox: Inbox<ToEngine>,
    addresses: Post<ToAddresses>,
    control: Post<FromEngine>,
    handovers: Post<Handover>,
    ports: Ports,
    outbox: Outbox,
    effects: Effects,
    beat: Arc<Beat>,
    whereabouts: Arc<Whereabouts>,
    generation: u64,
    /// Of the last order for each VIP's addresses.
    numbers: BTreeMap<VipId, u64>,
    /// VIPs whose addresses it has ordered and isn't told of: the guard may know of them already.
    awaited: BTreeSet<VipId>,
    dropped_events: u64,
    /// Sockets that can't be opened, as the control plane was told.
    faults: Vec<String>,
    stopped: bool,
}

/// What the engine needs from the outside.
pub(crate) struct Outside {
    pub(crate) inbox: Inbox<ToEngine>,
    pub(crate) addresses: Post<ToAddresses>,
    pub(crate) control: Post<FromEngine>,
    pub(crate) handovers: Post<Handover>,
    pub(crate) beat: Arc<Beat>,
    /// What this program's predecessor was doing.
    pub(crate) resume: Option<Resume>,
}

/// Starts the engine on a thread of its own.
///
/// # Errors
/// When the kernel has no descriptor or thread left.
pub(crate) fn start(plan: Plan, generation: u64, outside: Outside) -> io::Result<()> {
    let mut engine = Engine::new(plan, generation, outside)?;
    let locked = sched::lock_memory();
    if let Err(error) = &locked {
        engine.complain(format!(
            "memory can't be locked ({error}); swapping may delay adverts. Mend: LimitMEMLOCK in \
             the unit, or CAP_IPC_LOCK"
        ));
    }
    thread::Builder::new().name("standin-engine".into()).spawn(move || {
        let realtime = sched::realtime(REALTIME_PRIORITY);
        if let Err(error) = &realtime {
            engine.complain(format!(
                "the engine runs without realtime priority ({error}); a loaded machine may delay \
                 its adverts. Mend: LimitRTPRIO and CAP_SYS_NICE in the unit, no RT group limits"
            ));
        }
        if let Err(error) = rescue::start(Arc::clone(&engine.whereabouts)) {
            engine.complain(format!(
                "a CPU that the kernel keeps for itself may delay adverts: there is no thread that \
                 watches for it ({error})"
            ));
        }
        // Not before: a program that takes over in place holds VIPs while it still starts as an
        // ordinary one.
        if locked.is_ok() && realtime.is_ok() {
            engine.beat.hurry(now(), engine.fastest_advert());
        }
        // A panic here is a bug in standin: the process must not go on without its engine.
        let run = std::panic::AssertUnwindSafe(|| engine.run());
        let outcome = std::panic::catch_unwind(run);
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                output::say(&format!("the engine can't wait for its sockets: {error}"));
                std::process::abort();
            }
            Err(_) => std::process::abort(),
        }
    })?;
    Ok(())
}

impl Engine {
    fn new(plan: Plan, generation: u64, outside: Outside) -> io::Result<Self> {
        let Outside { inbox, addresses, control, handovers, beat, resume } = outside;
        let (poll, timer) = (Poll::new()?, Timer::new()?);
        poll.add(std::os::fd::AsFd::as_fd(&timer), TOKEN_TIMER)?;
        poll.add(std::os::fd::AsFd::as_fd(&*inbox.wake), TOKEN_MESSAGES)?;
        beat.strike(now());
        let mut engine = Self {
            node: {
                let recorded = plan.clone();
                let node = match resume {
                    Some(resume) => Node::resumed(now(), plan, &resume),
                    None => Node::new(now(), plan),
                };
                Recorder::new(now(), node, recorded)
            },
            poll,
            timer,
            armed: Instant::FAR,
            inbox,
            addresses,
            control,
            handovers,
            ports: Ports::default(),
            outbox: Outbox::default(),
            effects: Effects::with_capacity(1024),
            beat,
            whereabouts: Arc::default(),
            generation,
            numbers: BTreeMap::new(),
            awaited: BTreeSet::new(),
            dropped_events: 0,
            faults: Vec::new(),
            stopped: false,
        };
        engine.watch();
        Ok(engine)
    }

    fn run(&mut self) -> io::Result<()> {
        let mut ready = Vec::with_capacity(64);
        while !self.stopped {
            self.wait(&mut ready)?;
            self.beat.strike(now());
            // What arrived comes before the tick: a live peer must not be taken for a silent one
            // because this thread was late.
            for token in &ready {
                match *token {
                    TOKEN_TIMER => self.timer.clear(),
                    TOKEN_MESSAGES => {}
                    socket => self.receive(socket - TOKEN_PORTS),
                }
            }
            // A message may be void because of an advert that came before it.
            if ready.contains(&TOKEN_MESSAGES) {
                self.messages();
            }
            let time = now();
            if self.armed <= time {
                self.armed = Instant::FAR;
            }
            if self.node.next_deadline().is_some_and(|deadline| deadline <= time) {
                self.node.step(time, Input::Tick, &mut self.effects);
            }
            if let Some(opening) = self.ports.open_again(&self.poll, &self.node, time) {
                self.opened(opening);
                self.interfaces();
            }
            self.perform();
            if let Some(record) = self.node.record(time) {
                self.tell(FromEngine::Record(record));
            }
        }
        Ok(())
    }

    /// Arms the timer only when it would ring too late: ringing too early costs less than arming
    /// it at each advert.
    fn wait(&mut self, ready: &mut Vec<u64>) -> io::Result<()> {
        let deadline = self.node.next_deadline().unwrap_or(Instant::FAR);
        let deadline = deadline.min(now() + self.beat.period(!self.awaited.is_empty()));
        if deadline < self.armed {
            self.timer.arm(Some(deadline))?;
            self.armed = deadline;
        }
        self.whereabouts.sleeps(self.armed);
        self.poll.wait(ready)
    }

    fn messages(&mut self) {
        self.inbox.wake.clear();
        for count in 0..=MESSAGES {
            if count == MESSAGES {
                // The rest comes after the sockets have had their turn.
                self.inbox.wake.ring();
                return;
            }
            let Taken::Message(message) = self.inbox.receiver.take() else { return };
            self.message(message);
        }
    }

    fn message(&mut self, message: ToEngine) {
        let time = now();
        let (node, effects) = (&mut self.node, &mut self.effects);
        match message {
            ToEngine::Interface { name, index, state } => self.interface(&name, index, state),
            ToEngine::OwnAddresses(own) => {
                let opening = self.ports.own_addresses(&self.poll, node, &own);
                node.step(time, Input::OwnAddresses(&own), effects);
                // What is given up for want of an address says so from that address still.
                self.perform();
                self.ports.prune();
                self.opened(opening);
                self.interfaces();
            }
            ToEngine::Listening(listening) => {
                let interface = listening.asked.interface;
                if let Err(error) = self.ports.listening(&self.poll, listening) {
                    self.complain(format!("a socket can't be waited for: {error}"));
                }
                let state = self.ports.state(interface);
                self.node.step(time, Input::Interface { interface, state }, &mut self.effects);
            }
            ToEngine::Settled { vip, number, outcome } => {
                // Something else has been ordered since, and that is what will be true.
                if self.numbers.get(&vip) == Some(&number) {
                    self.awaited.remove(&vip);
                    self.outbox.serves(vip, outcome == Outcome::Held);
                    node.step(time, Input::Settled { vip, outcome }, effects);
                }
            }
            ToEngine::Restored { vip, address } => {
                node.step(time, Input::Restored { vip, address }, effects);
            }
            ToEngine::Check { generation, check, verdict, detail } => {
                if generation == self.generation {
                    node.step(time, Input::Check { check, verdict, detail: &detail }, effects);
                }
            }
            ToEngine::Peer { name, says } => peers::says(node, time, &name, &says, effects),
            ToEngine::StillSeen { vip, address, mac } => {
                peers::sees(node, time, &vip, (address, mac), effects);
            }
            ToEngine::TakeOver { from, vip, epoch, released } => {
                peers::take_over(node, time, (&from, &vip), (epoch, released), effects);
            }
            ToEngine::SwitchTo { vip, to } => peers::switch_to(node, time, &vip, &to, effects),
            ToEngine::Drained { vip } => {
                if let Some(vip) = peers::vip(node, &vip) {
                    self.order(ToAddresses::Leave { vip });
                }
            }
            ToEngine::Command(command) => node.step(time, Input::Command(command), effects),
            ToEngine::AwaitVacancy { vip, gap } => {
                let known = node.routers().find(|(_, router)| router.plan().name == vip);
                if let Some((vip, _)) = known {
                    let command = Command::AwaitVacancy { vip, gap };
                    node.step(time, Input::Command(command), effects);
                }
            }
            ToEngine::Plan { generation, plan } => {
                self.generation = generation;
                node.step(time, Input::Plan(plan), effects);
                self.outbox.forget();
                // Goodbyes of VIPs that left the file go out before anything is reopened.
                self.perform();
                self.watch();
            }
            ToEngine::Resume(reply) => {
                // Who asked may have given up waiting; the same below.
                let _ = reply.try_send(Resume::of(node, time));
            }
            ToEngine::View(reply) => {
                let _ = reply.try_send(node.view(time));
            }
        }
    }

    fn interface(&mut self, name: &str, index: Option<u32>, state: InterfaceState) {
        let time = now();
        let found = self.node.interfaces().find(|(_, known)| *known == name);
        let Some((interface, _)) = found else { return };
        if !state.up || self.ports.index(interface) != index {
            // What is given up says so while there is still a socket to say it with.
            let down = InterfaceState { up: false, ..state };
            self.node.step(time, Input::Interface { interface, state: down }, &mut self.effects);
            self.perform();
        }
        let opening = self.ports.interface(&self.poll, &self.node, interface, index, state);
        self.opened(opening);
        let state = self.ports.state(interface);
        self.node.step(time, Input::Interface { interface, state }, &mut self.effects);
    }

    /// Has the rest opened by the address thread, and says what couldn't be opened.
    fn opened(&mut self, opening: Opening) {
        self.outbox.forget();
        for listen in opening.listens {
            self.order(ToAddresses::Listen { listen });
        }
        opening.complaints.into_iter().for_each(|complaint| self.complain(complaint));
        let faults: Vec<String> = self.ports.faults().cloned().collect();
        if faults != self.faults {
            self.faults.clone_from(&faults);
            self.tell(FromEngine::Faults(faults));
        }
    }

    /// Tells the core what each interface can do by now.
    fn interfaces(&mut self) {
        for interface in self.node.interfaces().map(|(id, _)| id).collect::<Vec<_>>() {
            let state = self.ports.state(interface);
            self.node.step(now(), Input::Interface { interface, state }, &mut self.effects);
        }
    }

    fn fastest_advert(&self) -> Option<std::time::Duration> {
        self.node.plan().vips.iter().map(|vip| vip.advert_interval.as_duration()).min()
    }

    /// Tells the address thread what to look after; it answers with the present state of it all.
    fn watch(&mut self) {
        let interfaces = self.node.interfaces().map(|(_, name)| name.to_owned()).collect();
        let plan = self.node.plan();
        let own = plan.nodes.get(plan.me.index()).map_or_else(Vec::new, |me| me.addresses.clone());
        if let Some(fastest) = self.fastest_advert() {
            self.beat.pace(fastest);
            self.whereabouts.pace(fastest);
        }
        self.ports.resize(&self.node);
        // More VIPs on an interface that is known want a larger buffer there.
        let opening = self.ports.open_all(&self.poll, &self.node);
        self.opened(opening);
        self.interfaces();
        if !self.addresses.offer(ToAddresses::Watch { interfaces, own }) {
            self.complain("the address thread doesn't take orders".into());
        }
    }

    fn receive(&mut self, socket: u64) {
        let (node, effects) = (&mut self.node, &mut self.effects);
        let Some((interface, port)) = self.ports.socket(socket) else { return };
        let time = now();
        match port {
            ports::Socket::Adverts(receiver) => {
                for _ in 0..BATCHES {
                    let each = &mut |received: standin_linux::advert::Received<'_>| {
                        let envelope = Envelope {
                            source: received.source,
                            destination: received.destination,
                            hop_limit: received.hop_limit,
                        };
                        let payload = received.payload;
                        node.step(time, Input::Advert { interface, envelope, payload }, effects);
                    };
                    // An error here is the interface's end, which the address thread reports.
                    if !matches!(receiver.receive(each), Ok(1..)) {
                        break;
                    }
                }
            }
            ports::Socket::Neighbours(socket) => {
                let each = &mut |frame: &[u8]| {
                    let Some(seen) = neighbour::parse(frame) else { return };
                    if let Some((address, mac)) = claimed(&seen) {
                        node.step(time, Input::Sighting { interface, address, mac }, effects);
                    }
                };
                // As above.
                let _ = socket.receive(each);
            }
        }
    }

    fn perform(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Advert { vip, family, priority } => {
                    self.outbox.queue(&self.node, &mut self.ports, vip, family, priority);
                }
                Effect::Hold { vip } => {
                    let Some(router) = self.node.router(vip) else { continue };
                    let interface = self.interface_name(router.plan().interface);
                    let prefixes = router.plan().addresses.clone();
                    let goodbyes = outbox::goodbyes(&self.node, &self.ports, router.plan());
                    let virtual_mac =
                        Some(router.plan().vrid).filter(|_| router.plan().virtual_mac);
                    let number = self.number(vip);
                    self.awaited.insert(vip);
                    let hold = Hold { vip, number, interface, prefixes, goodbyes, virtual_mac };
                    self.order(ToAddresses::Hold(hold));
                }
                Effect::Release { vip } => {
                    // The goodbye precedes the release.
                    self.outbox.send(&mut self.ports);
                    self.outbox.serves(vip, false);
                    let number = self.number(vip);
                    self.order(ToAddresses::Release { vip, number });
                }
                Effect::Stay { vip } => {
                    self.outbox.send(&mut self.ports);
                    self.outbox.serves(vip, false);
                    let number = self.number(vip);
                    self.order(ToAddresses::Stay { vip, number });
                }
                Effect::Announce { vip } => {
                    if let Some(router) = self.node.router(vip) {
                        self.ports.announce(router.plan());
                    }
                }
                Effect::Probe { vip } => {
                    if let Some(router) = self.node.router(vip) {
                        self.ports.probe(router.plan());
                    }
                }
                Effect::Identify { interface, address } => {
                    self.ports.identify(&self.node, interface, address);
                }
                Effect::StillSeen { vip, to, address, mac } => {
                    if let Some(seen) = peers::still_seen(&self.node, vip, to, (address, mac)) {
                        self.tell(FromEngine::StillSeen(seen));
                    }
                }
                Effect::Handover { vip, to, epoch } => {
                    if let Some(handover) = peers::handover(&self.node, vip, to, epoch) {
                        // Without room the adverts decide.
                        let _ = self.handovers.offer(handover);
                    }
                }
                Effect::Event(event) => self.happened(event),
                Effect::Stopped => {
                    self.stopped = true;
                    self.order(ToAddresses::End);
                    self.tell(FromEngine::Stopped);
                }
            }
        }
        self.effects = effects;
        self.outbox.send(&mut self.ports);
    }

    fn interface_name(&self, id: InterfaceId) -> String {
        let found = self.node.interfaces().find(|(known, _)| *known == id);
        found.map_or_else(String::new, |(_, name)| name.to_owned())
    }

    fn number(&mut self, vip: VipId) -> u64 {
        let number = self.numbers.entry(vip).or_default();
        *number += 1;
        *number
    }

    fn order(&mut self, order: ToAddresses) {
        if !self.addresses.offer(order) {
            // It is stuck for thousands of orders: the kernel will end what isn't renewed.
            self.complain("the address thread doesn't take orders".into());
        }
    }

    fn happened(&mut self, event: Event) {
        let active = Role::Active;
        if matches!(event.kind, Kind::Transition { from, to, .. } if from == active || to == active)
        {
            self.node.mark(now());
        }
        let plan = self.node.plan();
        let router = event.vip.and_then(|vip| self.node.router(vip));
        let happened = Happened {
            vip: router.map(|router| router.plan().name.clone()),
            words: event.words(plan),
            now: router.map(|router| (router.role(), router.standing())),
            priority: router.map_or(0, |router| router.effective_priority().0),
            peer: party(&event.kind).map(|who| who.words(plan)),
            at: SystemTime::now(),
            event,
        };
        self.tell(FromEngine::Event(Box::new(happened)));
    }

    fn complain(&mut self, complaint: String) {
        self.tell(FromEngine::Complaint(complaint));
    }

    fn tell(&mut self, message: FromEngine) {
        if !self.control.offer(message) {
            self.dropped_events += 1;
        } else if self.dropped_events > 0 {
            let lost = std::mem::take(&mut self.dropped_events);
            let words = format!("{lost} events were lost: the control plane was too slow");
            // If this is lost too, the next one says so.
            let _ = self.control.offer(FromEngine::Complaint(words));
        }
    }
}

/// Who is said to have an address; a probe claims nothing.
fn claimed(seen: &neighbour::Sighting) -> Option<(IpAddr, standin_core::types::Mac)> {
    match seen.kind {
        neighbour::Kind::Probing => None,
        neighbour::Kind::Claimed => Some((seen.address, seen.mac)),
    }
}

/// The other node that an event is about.
const fn party(kind: &Kind) -> Option<Party> {
    match kind {
        Kind::Transition {
            reason:
                Reason::Silence { who, .. }
                | Reason::Released { who }
                | Reason::HandedOver { who }
                | Reason::SwitchedTo { to: who }
                | Reason::LastResortOver { who }
                | Reason::Failback { from: who }
                | Reason::Outranked { by: who, .. }
                | Reason::RivalUnheard { by: who }
                | Reason::RivalByLink { by: who }
                | Reason::TakenWhileStalled { by: who, .. },
            ..
        }
        | Kind::Rival { who, .. }
        | Kind::RivalUnheard { who, .. }
        | Kind::RivalByLink { who, .. }
        | Kind::SeenByHeartbeat { who, .. }
        | Kind::AdvertsLost { who, .. }
        | Kind::OneWay { who, .. }
        | Kind::StaleMac { who, .. }
        | Kind::Deaf { who, .. }
        | Kind::AddressListDiffers { who, .. } => Some(*who),
        Kind::Stranger { source, .. } | Kind::Ignored { source, .. } => {
            Some(Party::Unknown(*source))
        }
        _ => None,
    }
}
