//! What is between the hosts: cuts, the sessions of the peer link, and the election's outcome.

use std::collections::BTreeMap;
use std::rc::Rc;

use standin_core::sync::{Input, Message, Source};

use super::Sabotage;
use super::host::{Session, Up};
use super::shell::Cause;
use super::world::{Due, World};
use crate::clock::{MILLISECOND, Nanos, SECOND};

/// A message on its way.
const DELAY: (Nanos, Nanos) = (MILLISECOND / 10, 20 * MILLISECOND);
/// A segment that is lost is sent again, and everything behind it waits.
const HELD_UP: (Nanos, Nanos) = (5 * MILLISECOND, 3 * SECOND);
/// Until a side notices that a session is gone.
const SILENCE: (Nanos, Nanos) = (MILLISECOND / 10, 6 * SECOND);
/// Between two attempts to connect.
const ATTEMPTS: (Nanos, Nanos) = (100 * MILLISECOND, 2 * SECOND);
/// Until a host sees the new holder.
const SIGHT: (Nanos, Nanos) = (MILLISECOND, 3 * SECOND);

/// Which packets don't pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Those between a host of this mask and one that isn't.
    pub(super) mask: u8,
    /// Or only those between these two.
    pub(super) pair: Option<(u8, u8)>,
    /// Adverts pass.
    pub(super) link_only: bool,
}

impl Cut {
    fn between(&self, a: u8, b: u8) -> bool {
        self.pair.map_or_else(
            || (self.mask >> a) & 1 != (self.mask >> b) & 1,
            |pair| pair == (a.min(b), a.max(b)),
        )
    }
}

/// A session between two hosts.
#[derive(Clone, Copy, Debug, Default)]
struct Wire {
    id: u64,
    alive: bool,
    since: Nanos,
    /// When the last thing of each way arrives; the lower number's way to the higher one first.
    arrives: [Nanos; 2],
}

#[derive(Debug)]
pub(super) struct Net {
    cuts: BTreeMap<u64, Cut>,
    numbered: u64,
    wires: BTreeMap<(u8, u8), Wire>,
    /// Who claims the VIP.
    pub(super) claims: Vec<bool>,
    election: u64,
}

impl Net {
    pub(super) fn new(hosts: u8) -> Self {
        Self {
            cuts: BTreeMap::new(),
            numbered: 0,
            wires: BTreeMap::new(),
            claims: vec![false; usize::from(hosts)],
            election: 0,
        }
    }

    fn open(&self, a: u8, b: u8, adverts: bool) -> bool {
        !self.cuts.values().any(|cut| cut.between(a, b) && !(adverts && cut.link_only))
    }

    fn wire(&mut self, a: u8, b: u8) -> &mut Wire {
        self.wires.entry((a.min(b), a.max(b))).or_default()
    }

    /// Whether a session is whole.
    pub(super) fn alive(&self, a: u8, b: u8, id: u64) -> bool {
        self.wires.get(&(a.min(b), a.max(b))).is_some_and(|wire| wire.alive && wire.id == id)
    }
}

impl World {
    pub(super) fn cut(&mut self, cut: Cut, lasts: Nanos) {
        self.net.numbered += 1;
        let number = self.net.numbered;
        self.net.cuts.insert(number, cut);
        let broken: Vec<_> =
            self.net.wires.keys().copied().filter(|(a, b)| !self.net.open(*a, *b, false)).collect();
        for (a, b) in broken {
            self.break_session(a, b);
        }
        self.queue.push(self.now + lasts, Due::Mend { cut: number });
        self.elect();
    }

    pub(super) fn mend(&mut self, cut: u64) {
        if self.net.cuts.remove(&cut).is_some() {
            self.elect();
        }
    }

    pub(super) fn mend_all(&mut self) {
        self.net.cuts.clear();
        self.elect();
    }

    /// Since when two have a session that both know.
    pub(super) fn linked_since(&self, host: u8, peer: u8) -> Option<Nanos> {
        let id = self.of(host).sessions.get(&peer)?.id;
        let both = self.of(peer).sessions.get(&host).is_some_and(|it| it.id == id);
        let wire = self.net.wires.get(&(host.min(peer), host.max(peer)))?;
        (both && wire.alive && wire.id == id).then_some(wire.since)
    }

    pub(super) fn break_session(&mut self, a: u8, b: u8) {
        let wire = self.net.wire(a, b);
        if !std::mem::replace(&mut wire.alive, false) {
            return;
        }
        let session = wire.id;
        for (host, peer) in [(a, b), (b, a)] {
            self.later(SILENCE, Due::Down { host, peer, session });
        }
    }

    /// All sessions of a host that has died.
    pub(super) fn hang_up(&mut self, host: u8) {
        for peer in self.numbers().filter(|peer| *peer != host) {
            self.break_session(host, peer);
        }
    }

    pub(super) fn connect(&mut self, a: u8, b: u8) {
        self.later(ATTEMPTS, Due::Connect { a, b });
        let ready = |host: u8| self.of(host).up != Up::Off;
        if !ready(a) || !ready(b) || !self.net.open(a, b, false) || self.net.wire(a, b).alive {
            return;
        }
        self.net.numbered += 1;
        let session = self.net.numbered;
        let (one, other) = (self.random.below(DELAY.1), self.random.below(DELAY.1));
        let now = self.now;
        *self.net.wire(a, b) = Wire {
            id: session,
            alive: true,
            since: now,
            arrives: [now + other + 1, now + one + 1],
        };
        self.queue.push(now + one, Due::Up { host: a, peer: b, session });
        self.queue.push(now + other, Due::Up { host: b, peer: a, session });
    }

    pub(super) fn session_up(&mut self, host: u8, peer: u8, session: u64) {
        if self.of(host).up == Up::Off || !self.net.alive(host, peer, session) {
            return;
        }
        let new = Session { id: session, state: None, offer: None };
        self.host(host).sessions.insert(peer, new);
        let peer = self.of(peer).name.clone();
        self.note(host, || format!("link with {peer}"));
        self.feed(host, Input::Link { peer, up: true });
    }

    pub(super) fn session_down(&mut self, host: u8, peer: u8, session: u64) {
        let it = self.host(host);
        if it.sessions.get(&peer).is_none_or(|known| known.id != session) {
            return;
        }
        it.sessions.remove(&peer);
        self.fetch_lost(host, peer);
        let peer = self.of(peer).name.clone();
        self.note(host, || format!("no link with {peer}"));
        self.feed(host, Input::Link { peer, up: false });
    }

    pub(super) fn say(&mut self, from: u8, to: u8, message: Message) {
        let Some(session) = self.of(from).sessions.get(&to).map(|session| session.id) else {
            return;
        };
        self.said(from, &message);
        if !self.net.alive(from, to, session) {
            return;
        }
        let after = self.random.scaled(DELAY.0, DELAY.1)
            + if self.random.chance(50) { self.random.scaled(HELD_UP.0, HELD_UP.1) } else { 0 };
        let now = self.now;
        let last = &mut self.net.wire(from, to).arrives[usize::from(from > to)];
        *last = (now + after).max(*last + 1);
        let at = *last;
        let message = Rc::new(message);
        self.queue.push(at, Due::Message { to, from, session, message });
    }

    pub(super) fn arrived(&mut self, to: u8, from: u8, session: u64, message: &Message) {
        let known = self.of(to).sessions.get(&from).is_some_and(|known| known.id == session);
        if !known || !self.net.alive(from, to, session) {
            return;
        }
        let mut message = message.clone();
        match (self.sabotage, &message) {
            (Sabotage::LosesOffers, Message::Offer { .. }) => return,
            (Sabotage::LosesUndo, Message::Order(standin_core::sync::Order::Undo { .. })) => {
                return;
            }
            (Sabotage::RepeatsOffers, Message::Offer { .. }) => {
                let first = self.check.first_offer(to, from, &message);
                message = first;
            }
            _ => {}
        }
        if let Some(session) = self.host(to).sessions.get_mut(&from) {
            match &message {
                Message::State(state) => {
                    // Who doesn't write offers nothing.
                    if state.writer.as_deref() != Some(format!("n{}", from + 1).as_str()) {
                        session.offer = None;
                    }
                    session.state = Some(message.clone());
                }
                Message::Offer { .. } => session.offer = Some(message.clone()),
                Message::Order(_) => {}
            }
        }
        let from = self.of(from).name.clone();
        self.feed(to, Input::Heard { from, message });
    }

    /// One holder among those that hear each other; whoever was cut off sees its own side only.
    pub(super) fn elect(&mut self) {
        self.net.election += 1;
        let mut seen: u8 = 0;
        for first in self.numbers() {
            if (seen >> first) & 1 == 1 {
                continue;
            }
            let group = self.group(first);
            group.iter().for_each(|host| seen |= 1 << host);
            let able: Vec<u8> =
                group.iter().copied().filter(|host| self.of(*host).up != Up::Off).collect();
            for host in group.iter().filter(|host| !able.contains(host)) {
                self.net.claims[usize::from(*host)] = false;
            }
            let claiming: Vec<u8> =
                able.iter().copied().filter(|host| self.net.claims[usize::from(*host)]).collect();
            if claiming.len() > 1 {
                self.fault("two holders meet");
            }
            let pool = if claiming.is_empty() { &able } else { &claiming };
            let holder = (!pool.is_empty()).then(|| pool[self.random.index(pool.len())]);
            self.gives(&able, holder);
        }
    }

    /// Those of a group see who holds the VIP now, sooner or later.
    pub(super) fn gives(&mut self, group: &[u8], holder: Option<u8>) {
        let election = self.net.election;
        for host in group {
            self.net.claims[usize::from(*host)] = holder == Some(*host);
            if self.of(*host).belief == holder {
                // An older sight may be on its way.
                self.queue.push(self.now, Due::Belief { host: *host, holder, election });
                continue;
            }
            if self.random.chance(200) {
                self.queue.push(self.now, Due::Belief { host: *host, holder: None, election });
            }
            self.later(SIGHT, Due::Belief { host: *host, holder, election });
        }
    }

    /// Everybody who hears everybody's neighbours.
    fn group(&self, first: u8) -> Vec<u8> {
        let mut group = vec![first];
        let mut at = 0;
        while let Some(host) = group.get(at).copied() {
            at += 1;
            for other in self.numbers() {
                if !group.contains(&other) && self.net.open(host, other, true) {
                    group.push(other);
                }
            }
        }
        group
    }

    /// A planned switchover among those that hear `to`.
    pub(super) fn switch_to(&mut self, to: u8) {
        if self.of(to).up != Up::Running {
            return;
        }
        self.net.election += 1;
        let mut group = self.group(to);
        group.retain(|host| self.of(*host).up != Up::Off);
        self.gives(&group, Some(to));
    }

    pub(super) fn believes(&mut self, host: u8, holder: Option<u8>, election: u64) {
        if election != self.net.election && holder.is_some() {
            // Its part may not have changed; it is told again then.
            let claims = holder.is_some_and(|holder| self.net.claims[usize::from(holder)]);
            if !claims {
                return;
            }
        }
        if self.of(host).belief != holder {
            self.host(host).belief = holder;
            self.nudge(host);
        }
    }

    /// Whom a host takes files from, if it is as it should be.
    pub(super) fn rightful(&self) -> Option<u8> {
        match &self.source {
            Source::Node(name) => self.number(name),
            Source::Active => self.numbers().find(|host| self.net.claims[usize::from(*host)]),
        }
    }

    /// The shell looks within a second.
    pub(super) fn nudge(&mut self, host: u8) {
        let it = self.host(host);
        if it.up == Up::Off || std::mem::replace(&mut it.looking, true) {
            return;
        }
        let life = it.life;
        let after = self.random.below(SECOND);
        self.queue.push(self.now + after, Due::Look { host, life });
    }

    /// The files will be read.
    pub(super) fn look_at_disk(&mut self, host: u8, cause: Cause) {
        let life = self.of(host).life;
        let after = match cause {
            Cause::Hint => 200 * MILLISECOND,
            Cause::Start | Cause::FullScan | Cause::Asked => 0,
        };
        let after = after + self.random.scaled(MILLISECOND / 2, 40 * MILLISECOND);
        self.queue.push(self.now + after, Due::Read { host, life, cause });
    }
}
