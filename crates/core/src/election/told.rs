//! What peers say of themselves over the peer link, and what follows where adverts tell something else.
//!
//! ```text
//!   it says "active, eligible" ─┬▶ a priority 0 in its name is doubted until the link agrees
//!                               ├▶ its adverts don't come: said, and shown by status
//!                               └▶ so am I, for 3 s: the worse one yields, and follows by the link;
//!                                                    the better one announces when it has gone
//! ```
//! Nothing waits for the link: silence ends in a claim as ever. What adverts settle, they settle first.

use std::time::Duration;

use super::backup::Backup;
use super::{State, Step, VirtualRouter, timers};
use crate::event::{Kind, Party, Reason, Standing};
use crate::types::{Instant, NodeId, Priority};

/// Summaries come each second, and may be older than what has changed since.
const PERSISTS: Duration = Duration::from_secs(3);

/// What a peer says counts for so long: two summaries that didn't come.
const FOLLOWS_FOR: Duration = Duration::from_millis(2_500);

/// What a peer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Says {
    pub standing: Standing,
    /// It holds the VIP.
    pub active: bool,
    /// Whether adverts of this node reach it; `None`: it is of a version that doesn't say.
    pub hears_me: Option<bool>,
}

impl Says {
    /// Of a node that stands by.
    #[must_use]
    pub const fn standing(standing: Standing) -> Self {
        Self { standing, active: false, hears_me: None }
    }
}

/// A peer as the link shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) node: NodeId,
    pub(super) says: Says,
    /// When it said so.
    at: Instant,
    /// Since when both say that they are active, without two summaries missing.
    both: Option<Instant>,
    incoming: Loss,
    outgoing: Loss,
}

/// Adverts of one direction that should arrive and don't.
#[derive(Clone, Copy, Debug, Default)]
struct Loss {
    since: Option<Instant>,
    said: bool,
}

impl Told {
    /// Who stands still says nothing new, and its connection may last all the same.
    fn counts(&self, now: Instant) -> bool {
        now.since(self.at) <= FOLLOWS_FOR
    }
}

impl Loss {
    /// Whether it is to be said that it is so (`true`), or so no more.
    fn see(&mut self, now: Instant, lost: bool) -> Option<bool> {
        if !lost {
            self.since = None;
            return std::mem::take(&mut self.said).then_some(false);
        }
        let since = *self.since.get_or_insert(now);
        if self.said || now.since(since) < PERSISTS {
            return None;
        }
        self.said = true;
        Some(true)
    }
}

/// Adverts that are lost on the way, as the peer link tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub node: NodeId,
    /// From it to this node; else the other way.
    pub incoming: bool,
    pub since: Instant,
}

impl VirtualRouter {
    /// What a peer says of itself over the link; `None`: there is no link to it.
    pub fn peer(&mut self, step: &mut Step<'_>, node: NodeId, says: Option<Says>, ties: bool) {
        let before = self.handovers.take(node);
        let mut told = says.map(|says| Told {
            node,
            says,
            at: step.now,
            both: before.filter(|told| told.counts(step.now)).and_then(|told| told.both),
            incoming: before.map(|told| told.incoming).unwrap_or_default(),
            outgoing: before.map(|told| told.outgoing).unwrap_or_default(),
        });
        self.believe_the_doubted(step.now, node, says);
        self.follow_by_link(step.now, node, says);
        let both = self.holds() && says.is_some_and(|says| says.active);
        if !both && before.is_some_and(|told| told.both.is_some()) {
            // Clients have sent to the rival until now, and its adverts didn't come.
            self.announce_anew(step);
        }
        let Some(told) = &mut told else { return };
        self.look_for_losses(step, told);
        told.both = told.both.or(Some(step.now)).filter(|_| both);
        let lasting = told.both.map(|since| step.now.since(since.max(self.since)));
        let told = *told;
        self.handovers.keep(told);
        if lasting.is_some_and(|lasting| lasting >= PERSISTS) {
            self.settle_by_link(step, &told, ties);
        }
    }

    /// Adverts that don't arrive although both ends of the link say that they are sent.
    pub fn lost(&self) -> impl Iterator<Item = Lost> + '_ {
        self.handovers.all().flat_map(|told| {
            let one = |loss: Loss, incoming| {
                let since = loss.since.filter(|_| loss.said)?;
                Some(Lost { node: told.node, incoming, since })
            };
            [one(told.incoming, true), one(told.outgoing, false)].into_iter().flatten()
        })
    }

    /// Whether adverts of `node` have come of late.
    pub(super) fn hears(&self, node: NodeId, now: Instant) -> bool {
        let lull = (self.interval * timers::MISSED_ADVERTS).max(Duration::from_secs(1));
        let heard = self.hearing.iter().find(|(known, _)| *known == node);
        heard.is_some_and(|(_, last)| now.since(*last) <= lull)
    }

    /// The nodes whose adverts come.
    pub fn heard_nodes(&self, now: Instant) -> impl Iterator<Item = NodeId> + '_ {
        let nodes = self.hearing.iter().map(|(node, _)| *node);
        nodes.filter(move |node| self.hears(*node, now))
    }

    pub(super) fn remember(&mut self, who: Party, now: Instant) {
        let Party::Node(node) = who else { return };
        match self.hearing.iter_mut().find(|(known, _)| *known == node) {
            Some((_, last)) => *last = now,
            None => self.hearing.push((node, now)),
        }
    }

    fn look_for_losses(&mut self, step: &mut Step<'_>, told: &mut Told) {
        let who = Party::Node(told.node);
        let incoming = told.says.active && !self.hears(told.node, step.now);
        let outgoing = self.holds() && told.says.hears_me == Some(false);
        for (loss, lost, incoming) in
            [(&mut told.incoming, incoming, true), (&mut told.outgoing, outgoing, false)]
        {
            if let Some(lost) = loss.see(step.now, lost) {
                step.event(Kind::AdvertsLost { who, incoming, lost });
            }
        }
    }

    /// While active: a peer has been active as well for a while, and adverts don't end it.
    fn settle_by_link(&mut self, step: &mut Step<'_>, told: &Told, wins_ties: bool) {
        let eligible = |standing| standing == Standing::Eligible;
        let theirs = (eligible(told.says.standing), self.plan.priority_of(told.node));
        let mine = (eligible(self.standing), Some(self.priority));
        let yields = theirs > mine || (theirs == mine && wins_ties);
        let by = Party::Node(told.node);
        if yields || self.rival_said.allows(step.now) {
            step.event(Kind::RivalByLink { who: by, yields });
        }
        if yields {
            let priority = self.plan.priority_of(told.node).unwrap_or(self.priority);
            let backup = Backup::following(step.now, by, priority);
            self.leave(step, State::Backup(backup), Reason::RivalByLink { by });
            self.by_link = Some(told.node);
        }
    }

    /// How long a silence has to be at least for who follows by the link.
    pub(super) const fn link_patience(&self) -> Duration {
        if self.by_link.is_some() { FOLLOWS_FOR } else { Duration::ZERO }
    }

    /// As backup of a node whose adverts don't come: its word counts as one.
    fn follow_by_link(&mut self, now: Instant, node: NodeId, says: Option<Says>) {
        if self.by_link == Some(node)
            && let State::Backup(backup) = &mut self.state
        {
            match says {
                Some(says) if says.active => backup.heard_at(now),
                // It has left; who else may want it is found out as after any silence.
                Some(_) => {
                    self.by_link = None;
                    backup.heard_at(now);
                }
                // Its silence begins.
                None => {}
            }
        }
    }

    /// Whether a priority 0 in the name of a node isn't to be believed: over the link, which only that
    /// node can speak, it says that it is active and well. Its leaving comes by the link, too.
    ///
    /// Adverts at priority 1 have told already that it isn't well: the link's word is the older one.
    pub(super) fn doubts(&mut self, who: Party, now: Instant) -> bool {
        let Party::Node(node) = who else { return false };
        let well = |told: Told| {
            told.says.active && told.says.standing == Standing::Eligible && told.counts(now)
        };
        // Who wasn't heard before is known by this advert alone.
        let follows = self
            .followed()
            .is_some_and(|(known, said)| known == who && said > Priority::LAST_RESORT);
        let doubted = follows && self.handovers.told(node).is_some_and(well);
        if doubted {
            self.doubted = Some((node, now));
        }
        doubted
    }

    /// The link agrees by now with the priority 0 that was doubted.
    fn believe_the_doubted(&mut self, now: Instant, node: NodeId, says: Option<Says>) {
        let holds = says.is_some_and(|it| it.active && it.standing == Standing::Eligible);
        let Some((_, at)) = self.doubted.filter(|(known, _)| *known == node && !holds) else {
            return;
        };
        self.doubted = None;
        if now.since(at) < self.interval * timers::MISSED_ADVERTS
            && let State::Backup(backup) = &mut self.state
            && backup.followed().is_some_and(|(known, _)| known == Party::Node(node))
            && !backup.heard_after(at)
        {
            backup.released(Party::Node(node), at);
        }
    }
}
