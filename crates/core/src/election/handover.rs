//! Handing a VIP over by the peer link: whom it is given to, and which message is obeyed.
//!
//! ```text
//!   old active                                       chosen peer
//!   leaves: priority 0, Release ──── advert ───────▶ waits its skew
//!   Settled Released: Handover ──── peer link ─────▶ TakeOver: claims at once
//! ```
//! Nothing depends on the message. One that is late, repeated or untrue is no worse than none: it is
//! obeyed only in the name of the node that this one follows, and only as long as that node has said
//! nothing since that contradicts it.

use std::time::Duration;

use super::backup::Backup;
use super::told::Told;
use super::{State, Step, VirtualRouter};
use crate::Effect;
use crate::event::{Party, Reason, Standing};
use crate::plan::Plan;
use crate::receive::outranks;
use crate::types::{Instant, NodeId};

/// Later than this the adverts have decided already.
pub const VOID_AFTER: Duration = Duration::from_millis(200);

/// "I have released the VIP, it is yours", of a node that is known for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    pub from: NodeId,
    /// Tells the releases of one node apart.
    pub epoch: u64,
    /// By this node's clock; too early rather than too late.
    pub released: Instant,
}

/// What the peer link is used for, on either side.
#[derive(Clone, Debug, Default)]
pub(super) struct Handovers {
    /// What each peer says of itself; without a link there is no entry.
    peers: Vec<Told>,
    /// This node leaves, and its addresses aren't gone yet.
    leaving: Option<Heir>,
    /// The last message that was obeyed: from whom, and its epoch.
    obeyed: Option<(NodeId, u64)>,
}

/// Who is to have the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heir {
    /// Whoever would win the election.
    Best,
    Chosen(NodeId),
}

impl Handovers {
    pub(super) const fn leaves(&mut self, to: Option<Heir>) {
        self.leaving = to;
    }

    fn says(&self, node: NodeId) -> Option<Standing> {
        self.told(node).map(|told| told.says.standing)
    }

    pub(super) fn told(&self, node: NodeId) -> Option<Told> {
        self.all().find(|told| told.node == node)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Told> + '_ {
        self.peers.iter().copied()
    }

    pub(super) fn take(&mut self, node: NodeId) -> Option<Told> {
        let place = self.peers.iter().position(|told| told.node == node)?;
        Some(self.peers.swap_remove(place))
    }

    pub(super) fn keep(&mut self, told: Told) {
        self.peers.push(told);
    }

    pub(super) fn renumber(&mut self, moved: impl Fn(NodeId) -> Option<NodeId>) {
        self.leaving = match self.leaving {
            Some(Heir::Chosen(node)) => moved(node).map(Heir::Chosen),
            other => other,
        };
        let peers = std::mem::take(&mut self.peers).into_iter();
        let anew = |mut told: Told| {
            told.node = moved(told.node)?;
            Some(told)
        };
        self.peers = peers.filter_map(anew).collect();
        self.obeyed = self.obeyed.and_then(|(node, epoch)| Some((moved(node)?, epoch)));
    }
}

impl VirtualRouter {
    /// Whether every other node of the VIP says that it can't have it.
    pub(super) fn nobody_else(&self) -> bool {
        let unable = |node| self.handovers.says(node) == Some(Standing::Ineligible);
        let others = self.plan.members.len().saturating_sub(1);
        // Of itself a node says nothing.
        self.plan.members.iter().filter(|member| unable(member.node)).count() >= others
    }

    /// The addresses are gone: tells the best peer, if this node gave the VIP up.
    pub fn hand_over(&mut self, step: &mut Step<'_>, plan: &Plan) {
        if self.holding {
            return;
        }
        let to = match self.handovers.leaving.take() {
            None => return,
            Some(Heir::Best) => self.successor(plan),
            Some(Heir::Chosen(to)) => Some(to),
        };
        if let Some(to) = to {
            let epoch = step.now.as_nanos();
            step.effects.push(Effect::Handover { vip: step.vip, to, epoch });
        }
    }

    /// The eligible peer that would win the election.
    fn successor(&self, plan: &Plan) -> Option<NodeId> {
        let able = |node| self.handovers.says(node) == Some(Standing::Eligible);
        let members = self.plan.members.iter().filter(|member| able(member.node));
        let best = members.reduce(|best, member| {
            let ties = outranks(plan, member.node, best.node);
            let better = (member.priority, ties) > (best.priority, false);
            if better { member } else { best }
        });
        best.map(|member| member.node)
    }

    /// Gives the VIP to a peer that waits for it; its clients' connections stay here.
    pub fn switch_to(&mut self, step: &mut Step<'_>, to: NodeId) {
        let member = self.plan.priority_of(to).is_some();
        if matches!(self.state, State::Active(_)) && member {
            let reason = Reason::SwitchedTo { to: Party::Node(to) };
            self.leave(step, State::Backup(Backup::alone(step.now)), reason);
        }
    }

    /// The active says that it has left and that this node is to take over.
    pub fn take_over(&mut self, step: &mut Step<'_>, handover: Handover) {
        let Handover { from, epoch, released } = handover;
        let void = step.now.since(released) > VOID_AFTER
            || self.handovers.obeyed == Some((from, epoch))
            || self.vacancy.is_some()
            || self.standing != Standing::Eligible;
        let State::Backup(backup) = &self.state else { return };
        // Its priority 0 has come as well, and nothing since.
        let said = self.doubted.is_some_and(|(node, at)| node == from && !backup.heard_after(at));
        if void || !(said || backup.awaits(Party::Node(from), released)) {
            return;
        }
        self.handovers.obeyed = Some((from, epoch));
        self.claim(step, Reason::HandedOver { who: Party::Node(from) });
    }
}
