//! Promise 7: each transition has one reason, a true one, and the events tell the roles' history.

use standin_core::election::handover::VOID_AFTER;
use standin_core::event::{Obstacle, Party, Reason, Role, Standing};
use standin_core::plan::Failback;
use standin_core::types::{NodeId, Priority};

use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::scene::{Cause, Scene, Transition};

#[derive(Debug)]
pub struct History {
    roles: Vec<Vec<(Role, Nanos)>>,
    pub transitions: u64,
    /// By machine: all transitions, and those to active.
    pub counts: Vec<(u64, u64)>,
    /// The reason of each machine's last transition.
    pub reasons: Vec<Option<Reason>>,
}

impl History {
    #[must_use]
    pub fn new(scene: &Scene) -> Self {
        let one = vec![(Role::Idle, 0); scene.file.names.len()];
        let machines = scene.machines.len();
        Self {
            roles: vec![one; machines],
            transitions: 0,
            counts: vec![(0, 0); machines],
            reasons: vec![None; machines],
        }
    }

    /// The process has ended; its next life begins idle.
    pub fn gone(&mut self, machine: u8) {
        self.roles[usize::from(machine)].fill((Role::Idle, 0));
    }

    pub fn transition(&mut self, scene: &Scene, told: &Transition) -> Option<String> {
        self.transitions += 1;
        let (all, to_active) = &mut self.counts[usize::from(told.machine)];
        *all += 1;
        *to_active += u64::from(told.to == Role::Active);
        self.reasons[usize::from(told.machine)] = Some(told.reason.clone());
        let host = &scene.machines[usize::from(told.machine)];
        let known = &mut self.roles[usize::from(told.machine)][usize::from(told.vip)];
        let (was, since) = std::mem::replace(known, (told.to, scene.now));
        let name = format!("{} {}", host.name, scene.name(told.vip));
        let Transition { from, to, cause, ref reason, .. } = *told;
        if was != from || from == to {
            return Some(format!("P7: {name} was {was}, and its event says {from} -> {to}"));
        }
        let held = Claim { scene, told, since };
        held.untrue(reason).map(|why| {
            format!("P7: {name} {from} -> {to} in {cause:?} with reason {reason:?}, but {why}")
        })
    }

    pub fn stepped(&self, scene: &Scene, machine: u8) -> Option<String> {
        for vip in scene.vips() {
            let told = self.roles[usize::from(machine)][usize::from(vip)].0;
            let Some(router) = scene.router(machine, vip) else { continue };
            if router.role() != told {
                return Some(format!(
                    "P7: {} is {} for {}, but its events say {told}",
                    scene.machines[usize::from(machine)].name,
                    router.role(),
                    scene.name(vip),
                ));
            }
        }
        None
    }
}

/// A transition with all that is needed to doubt its reason.
struct Claim<'a> {
    scene: &'a Scene,
    told: &'a Transition,
    since: Nanos,
}

impl Claim<'_> {
    /// Why the reason can't be true.
    fn untrue(&self, reason: &Reason) -> Option<&'static str> {
        let Transition { from, to, .. } = *self.told;
        let fits = match reason {
            Reason::Usable => (from, to) == (Role::Idle, Role::Backup),
            Reason::Resumed => (from, to) == (Role::Idle, Role::Active),
            Reason::NobodyThere
            | Reason::Vacant { .. }
            | Reason::Silence { .. }
            | Reason::Released { .. }
            | Reason::HandedOver { .. }
            | Reason::LastResortOver { .. }
            | Reason::Failback { .. }
            | Reason::NobodyEligible => (from, to) == (Role::Backup, Role::Active),
            Reason::SwitchedTo { .. }
            | Reason::Outranked { .. }
            | Reason::TakenWhileStalled { .. }
            | Reason::OwnerBack { .. }
            | Reason::RivalUnheard { .. }
            | Reason::RivalByLink { .. }
            | Reason::Obstacle(_)
            | Reason::AddressRefused { .. } => (from, to) == (Role::Active, Role::Backup),
            Reason::InterfaceDown
            | Reason::SourceAddressGone
            | Reason::RemovedFromFile
            | Reason::Stopping => to == Role::Idle,
        };
        if fits { self.unfounded(reason) } else { Some("no such transition has that reason") }
    }

    fn unfounded(&self, reason: &Reason) -> Option<&'static str> {
        let host = &self.scene.machines[usize::from(self.told.machine)];
        let cause = self.told.cause;
        let (told, why) = match reason {
            Reason::Usable => (
                matches!(
                    cause,
                    Cause::Interface | Cause::OwnAddresses | Cause::Plan | Cause::Start
                ),
                "no interface, address or plan was told",
            ),
            Reason::Resumed => (host.upgraded_at.is_some(), "nobody replaced the program"),
            Reason::InterfaceDown => (!host.interface_up, "the interface is up"),
            Reason::SourceAddressGone => {
                (!host.own_present || cause == Cause::Plan, "its own addresses are there")
            }
            Reason::RemovedFromFile => (cause == Cause::Plan, "no file was read"),
            Reason::Stopping => (
                cause == Cause::Command && (host.stopping || host.node.is_none()),
                "nobody asked it to stop",
            ),
            Reason::AddressRefused { .. } => (cause == Cause::Settled, "nothing was refused"),
            Reason::Obstacle(Obstacle::NoWitness { .. }) => (
                self.scene
                    .witness
                    .is_some_and(|it| host.checks[usize::from(it)].passing != Some(true)),
                "it sees the witness",
            ),
            Reason::Obstacle(_) => (
                matches!(cause, Cause::Check | Cause::Command | Cause::Plan | Cause::Tick),
                "nothing was in the way",
            ),
            Reason::SwitchedTo { .. } => (cause == Cause::Command, "nobody asked for it"),
            Reason::Failback { from } => return self.doubt_failback(*from),
            Reason::Outranked { by, priority } => {
                (self.is_advert_of(*by, Some(*priority)), "no such advert was heard")
            }
            Reason::TakenWhileStalled { by, .. } => {
                (self.is_advert_of(*by, None), "no advert of it was heard")
            }
            Reason::OwnerBack { .. } => (cause == Cause::Sighting, "nobody answered"),
            Reason::HandedOver { who } => return self.doubt_handover(*who),
            Reason::RivalByLink { .. } => (cause == Cause::Peer, "no peer said so"),
            _ if cause != Cause::Tick => (false, "no wait was over"),
            Reason::Silence { who, lasted } => {
                return self.doubt_silence(*who, super::nanos(*lasted));
            }
            Reason::RivalUnheard { by: Party::Node(node) } => {
                // It may have died since it answered, and is asked every second or two.
                let answered = host.answered[usize::from(self.told.vip)];
                let lately = answered.is_some_and(|at| at + 3 * SECOND > self.scene.now);
                let there = self.scene.machines[usize::from(node.0)].node.is_some();
                (there || lately, "that node isn't there")
            }
            Reason::RivalUnheard { .. } => (false, "no node has that claim"),
            Reason::Released { who } => {
                (self.has_said(*who, Priority::RELEASE), "it didn't say so")
            }
            Reason::LastResortOver { who } => {
                (self.has_said(*who, Priority::LAST_RESORT), "it didn't say so")
            }
            Reason::Vacant { .. } => {
                let answered = host.answered[usize::from(self.told.vip)];
                // Three probes, 100 ms apart, by a clock that may be 2 % fast.
                let since = |at: Nanos| at + 190 * MILLISECOND > self.scene.now;
                (!answered.is_some_and(since), "somebody answered")
            }
            Reason::NobodyThere => return self.doubt_nobody(),
            Reason::NobodyEligible => {
                let router = self.scene.router(self.told.machine, self.told.vip);
                let standing = router.map(|router| router.standing());
                (standing == Some(Standing::Ineligible), "it is eligible itself")
            }
        };
        (!told).then_some(why)
    }

    fn is_advert_of(&self, party: Party, priority: Option<Priority>) -> bool {
        let priority_is = |said: u8| priority.is_none_or(|priority| priority.0 == said);
        let (from, said) = match self.told.cause {
            Cause::Advert { from, vip, priority } if vip == self.told.vip => (from, priority),
            // An advert counts when it is known who sent it.
            Cause::Sighting => match self.last(party) {
                Some((at, priority)) if at == self.scene.now => {
                    return priority_is(priority);
                }
                _ => return false,
            },
            _ => return false,
        };
        party == Party::Node(NodeId(from)) && priority_is(said)
    }

    fn last(&self, party: Party) -> Option<(Nanos, u8)> {
        let Party::Node(node) = party else { return None };
        self.told.heard.get(node.0).max(self.told.maybe.get(node.0))
    }

    /// Whether that was the last that it said, whichever of its adverts counted.
    fn has_said(&self, party: Party, priority: Priority) -> bool {
        let Party::Node(node) = party else { return false };
        let told = [self.told.heard.get(node.0), self.told.maybe.get(node.0)];
        told.into_iter().flatten().any(|(_, said)| said == priority.0)
    }

    fn last_priority(&self, party: Party) -> Option<Priority> {
        self.last(party).map(|(_, priority)| Priority(priority))
    }

    fn doubt_silence(&self, who: Party, lasted: Nanos) -> Option<&'static str> {
        // What may have counted is no proof that it did.
        let sure = match who {
            Party::Node(node) => self.told.heard.get(node.0),
            Party::Unknown(_) => None,
        };
        // Nor can what only may have counted say that there was no silence: who is followed by its
        // answers or by its word over the link may have stayed a stranger to the core.
        if sure.is_none() && self.never_followed().is_none() {
            return None;
        }
        let Some((at, said)) = sure.or_else(|| self.last(who)) else {
            return self.never_followed();
        };
        // A goodbye that the peer link contradicts ends no silence.
        if said == Priority::RELEASE.0 && self.scene.link.is_some() {
            return None;
        }
        if let Party::Node(node) = who
            && self.told.arrived.get(node.0).is_some_and(|arrived| arrived > at)
        {
            return Some("an advert of it had reached the socket");
        }
        let silent = self.scene.now - at;
        // Told by a clock that may be 2 % fast.
        (silent + silent / 40 + MILLISECOND < lasted).then_some("it was heard since")
    }

    /// Who yielded to a node that answers for the address, or that says so over the peer link, follows
    /// it without ever hearing an advert.
    fn never_followed(&self) -> Option<&'static str> {
        let host = &self.scene.machines[usize::from(self.told.machine)];
        let answered = host.answered[usize::from(self.told.vip)];
        let told = host.told_active[usize::from(self.told.vip)];
        (answered.is_none() && told.is_none()).then_some("it was never heard")
    }

    fn doubt_handover(&self, who: Party) -> Option<&'static str> {
        let Cause::TakeOver { from, vip, released } = self.told.cause else {
            return Some("nobody said so");
        };
        if vip != self.told.vip || who != Party::Node(NodeId(from)) {
            return Some("somebody else said so");
        }
        if self.last(who).is_none()
            && let Some(why) = self.never_followed()
        {
            return Some(why);
        }
        if released + super::nanos(VOID_AFTER) < self.scene.now {
            return Some("it said so too long ago");
        }
        // A goodbye from an address of which it isn't sure that the node knows whose it is counts as well.
        let goodbye = self.told.maybe.get(from).filter(|(_, priority)| *priority == 0);
        let since = |(at, priority)| {
            priority > 0 && at > released && goodbye.is_none_or(|(later, _)| later < at)
        };
        let denied = self.told.heard.get(from).is_some_and(since);
        denied.then_some("it was heard to be active since")
    }

    fn doubt_failback(&self, from: Party) -> Option<&'static str> {
        let router = self.scene.router(self.told.machine, self.told.vip)?;
        let Some(priority) = self.last_priority(from) else { return Some("it was never heard") };
        if !self.is_advert_of(from, Some(priority)) {
            return Some("no advert of it was heard");
        }
        let owner = router.priority() == Priority::OWNER;
        if router.plan().failback == Failback::Never && !owner {
            return Some("the file says never");
        }
        (priority >= router.priority()).then_some("that node is no worse")
    }

    fn doubt_nobody(&self) -> Option<&'static str> {
        let host = &self.scene.machines[usize::from(self.told.machine)];
        let heard = &self.told.heard;
        let after = self.since.max(host.thawed_at);
        if heard.values().any(|(at, _)| at > after) {
            return Some("somebody was heard");
        }
        // A live foreign owner, that answered and still would, isn't robbed.
        let (vip, machine) = (usize::from(self.told.vip), usize::from(self.told.machine));
        let recent = |at: Nanos| at + 4 * SECOND > self.scene.now;
        let answered = host.foreign_answered[vip].is_some_and(recent);
        let clear = self.scene.network.clear(self.scene.now, machine);
        let since = self.scene.foreign_since[vip];
        let there = self.scene.foreign[vip] && (since == 0 || !recent(since));
        let robbed = answered && there && clear;
        let router = self.scene.router(self.told.machine, self.told.vip);
        let first = router.is_some_and(|router| router.counters().takeovers <= 1)
            && heard.is_empty()
            && self.told.maybe.is_empty();
        (first && robbed).then_some("a foreign host answered for the address")
    }
}
