//! The peer link as the cores see it: words between two machines that come in order, or late, or twice,
//! or never, and now and then a lie.
//!
//! It has a source of chance of its own, so that a story with it differs from the one without it only by
//! what the link does.

use standin_core::election::handover::Handover;
use standin_core::election::told::Says;
use standin_core::event::Role;
use standin_core::types::{Family, NodeId, VipId};
use standin_core::{Command, Input};

use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::machine::{Mail, Run, Sabotage};
use crate::network::MAX_MACHINES;
use crate::queue::Due;
use crate::random::Random;
use crate::scene::{Cause, Observation, Scene};

/// A segment that is lost is sent again, and everything behind it waits.
const HELD_UP: (Nanos, Nanos) = (5 * MILLISECOND, 3 * SECOND);

/// A peer that is gone is noticed at once, or after four pings.
const SILENCE: (Nanos, Nanos) = (MILLISECOND / 10, 4 * SECOND);

/// Between two summaries.
const SUMMARIES: Nanos = SECOND;

/// Between two lies or switchovers, on average half of this.
const LIES: Nanos = 60 * SECOND;

/// How exactly the shell knows the time that has passed since something was said.
const KNOWN_TO: Nanos = MILLISECOND;

/// Said by one machine to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Says {
        vip: u8,
        says: Option<Says>,
    },
    /// `at`: when, in true time.
    Released {
        vip: u8,
        epoch: u64,
        at: Nanos,
    },
}

#[derive(Debug)]
pub struct Link {
    random: Random,
    /// When the last word of each way arrives.
    arrives: [[Nanos; MAX_MACHINES]; MAX_MACHINES],
}

impl Link {
    #[must_use]
    pub const fn new(random: Random) -> Self {
        Self { random, arrives: [[0; MAX_MACHINES]; MAX_MACHINES] }
    }
}

impl Scene {
    /// Gives all machines a peer link.
    pub fn link_up(&mut self, random: Random) {
        self.link = Some(Link::new(random));
        self.queue.push(LIES, Due::Lie);
        self.queue.push(SUMMARIES, Due::Summaries);
    }

    /// Everybody tells everybody how things stand, also when nothing has changed.
    pub fn summarize(&mut self) {
        for machine in self.places() {
            if self.machines[usize::from(machine)].running() {
                self.vips().for_each(|vip| self.tell_standing(machine, vip));
            }
        }
        self.queue.push(self.now + SUMMARIES, Due::Summaries);
    }

    /// Sends `word`; it may never come.
    fn say(&mut self, from: u8, to: u8, word: Word) {
        let (source, target) = (usize::from(from), usize::from(to));
        let passes = |family| {
            self.network.passes(source, target, family)
                && self.network.passes(target, source, family)
        };
        let open = self.machines[target].run != Run::Off && Family::BOTH.into_iter().any(passes);
        let weather = self.network.weather;
        let (delay, jitter) = (weather.delay, weather.jitter);
        let Some(link) = self.link.as_mut().filter(|_| open) else { return };
        if link.random.chance(50) {
            return;
        }
        let mut after = delay + link.random.below(jitter + 1);
        if link.random.chance(150) {
            after += link.random.scaled(HELD_UP.0, HELD_UP.1);
        }
        let last = &mut link.arrives[source][target];
        *last = (self.now + after).max(*last + 1);
        let (at, twice) = (*last, link.random.chance(50));
        let life = self.machines[target].life;
        self.queue.push(at, Due::Word { to, from, life, word });
        if twice {
            self.queue.push(at + 1, Due::Word { to, from, life, word });
        }
    }

    pub fn hand_over(&mut self, machine: u8, vip: VipId, to: NodeId, epoch: u64) {
        let place = self.machines[usize::from(machine)].places.get(vip.index()).copied().flatten();
        if let Some(vip) = place {
            self.say(machine, to.0, Word::Released { vip, epoch, at: self.now });
        }
    }

    /// Tells everybody how this machine stands, as it does after each change.
    pub fn tell_standing(&mut self, machine: u8, vip: u8) {
        let now = self.machines[usize::from(machine)].clock.read(self.now);
        for to in self.places().filter(|to| *to != machine) {
            let says = self.router(machine, vip).map(|router| Says {
                standing: router.standing(),
                active: router.role() == Role::Active,
                hears_me: Some(router.heard_nodes(now).any(|node| node == NodeId(to))),
            });
            self.say(machine, to, Word::Says { vip, says });
        }
    }

    /// A connection begins with how things stand; who stands still says nothing.
    pub fn greet(&mut self) {
        let speaks =
            |one: &u8| matches!(self.machines[usize::from(*one)].run, Run::Running | Run::Off);
        let speakers: Vec<u8> = self.places().filter(speaks).collect();
        for vip in self.vips() {
            for machine in speakers.iter().copied() {
                self.tell_standing(machine, vip);
            }
        }
    }

    /// The others learn sooner or later that it has gone.
    pub fn hang_up(&mut self, machine: u8) {
        for to in self.places().filter(|to| *to != machine) {
            let Some(link) = &mut self.link else { return };
            let after = link.random.scaled(SILENCE.0, SILENCE.1);
            let life = self.machines[usize::from(to)].life;
            for vip in self.vips() {
                let word = Word::Says { vip, says: None };
                self.queue.push(self.now + after, Due::Word { to, from: machine, life, word });
            }
        }
    }

    /// An operator gives a VIP to `to`.
    pub(crate) fn switch_over(&mut self, vip: u8, to: u8) {
        for from in self.places().filter(|from| *from != to) {
            let host = &self.machines[usize::from(from)];
            let holds = self.router(from, vip).is_some_and(|router| router.role() == Role::Active);
            if let Some(id) = host.id_of(vip).filter(|_| holds && host.running()) {
                self.seen.push(Observation::Disturbed);
                *self.faults.entry("switchover".to_owned()).or_default() += 1;
                let command = Command::SwitchTo { vip: id, to: NodeId(to) };
                self.step(from, Cause::Command, Input::Command(command));
                self.arm(from);
            }
        }
    }

    /// Somebody says that a VIP is released which it never held, or still holds.
    pub fn lie(&mut self) {
        let (vips, machines) = (self.file.names.len(), self.machines.len());
        let Some(link) = &mut self.link else { return };
        let next = link.random.below(LIES);
        let [from, to] = [(); 2].map(|()| u8::try_from(link.random.index(machines)).unwrap_or(0));
        let vip = u8::try_from(link.random.index(vips)).unwrap_or(0);
        let epoch = link.random.word();
        let planned = link.random.chance(500);
        self.queue.push(self.now + next, Due::Lie);
        if planned {
            return self.switch_over(vip, to);
        }
        let liar = &self.machines[usize::from(from)];
        if from == to || !liar.running() {
            return;
        }
        self.seen.push(Observation::Disturbed);
        *self.faults.entry("lie over the peer link".to_owned()).or_default() += 1;
        self.say(from, to, Word::Released { vip, epoch, at: self.now });
    }

    pub fn word(&mut self, to: u8, from: u8, life: u32, word: Word) {
        let host = &mut self.machines[usize::from(to)];
        if host.life != life {
            return;
        }
        match host.run {
            Run::Running => {
                self.listen(to, from, word);
                self.arm(to);
            }
            Run::Stopped { .. } | Run::Suspended { .. } => {
                host.inbox.push_back(Mail::Word { from, word });
            }
            Run::Off => {}
        }
    }

    pub fn listen(&mut self, to: u8, from: u8, word: Word) {
        let node = NodeId(from);
        let (Word::Says { vip, .. } | Word::Released { vip, .. }) = word;
        let host = &self.machines[usize::from(to)];
        let Some(id) = host.id_of(vip) else { return };
        match word {
            Word::Says { says, .. } => {
                if says.is_some_and(|says| says.active) {
                    self.machines[usize::from(to)].told_active[usize::from(vip)] = Some(self.now);
                }
                self.step(to, Cause::Peer, Input::Peer { vip: id, node, says });
            }
            Word::Released { epoch, at, .. } => {
                // What the shell can't know for sure it takes for the longer time.
                let age = (self.now - at) + (self.now - at) / 40 + KNOWN_TO;
                let age = if host.sabotage == Sabotage::ObeysLate { 0 } else { age };
                let released = host.clock.read(self.now) - std::time::Duration::from_nanos(age);
                let handover = Handover { from: node, epoch, released };
                let cause = Cause::TakeOver { from, vip, released: at };
                self.step(to, cause, Input::TakeOver { vip: id, handover });
            }
        }
    }
}
