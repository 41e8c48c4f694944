//! The witness: in a cut, a node that sees neither a witness nor every other node holds nothing.
//!
//! A witness is a check of something that both sides of a cut may see, a gateway say. While one of
//! them passes there is no question. While all of them fail, a node may hold or claim the VIP only
//! as long as every other node of the VIP answers for its own address on the VIP's interface: a
//! missing one may be on the other side, with the witness, and hold the VIP there.
//!
//! A claim on silence wants more than that: an answer of each that came after the silence was long
//! enough, since who has just died or been cut off was in sight a moment ago.
//!
//! So of two sides of which one sees a witness, that one has the VIP. When no side sees one,
//! nobody has it until the cut heals. When the witness alone is gone, everything stays as it is.

use super::{Step, VirtualRouter};
use crate::health::{Health, State as CheckState};
use crate::types::{CheckId, Instant, InterfaceId, NodeId};

/// What the witnesses of a VIP say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Testimony {
    /// There is none to be asked, or one passes.
    Seen,
    /// None passes, and some have no result yet.
    Pending(CheckId),
    /// All fail.
    Unseen,
}

/// What a router remembers of its witnesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Witnessing {
    /// One was seen before, and no reload has changed which ones there are.
    seen_before: bool,
    /// Since when none is seen. Who saw one until then assumes for a while that all peers are there.
    unseen: Option<Unseen>,
    /// The node that is missing while no witness is seen: the VIP is neither held nor claimed.
    missing: Option<NodeId>,
    /// While no witness is seen: all peers have answered since.
    all_answered: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unseen {
    since: Instant,
    /// The peers count as seen at `since`.
    lenient: bool,
}

impl VirtualRouter {
    fn testimony(&self, health: &Health) -> Testimony {
        let witnesses = &self.plan.witness;
        let state = |wanted| witnesses.iter().copied().find(|it| health.state(*it) == wanted);
        // Without a peer there is no other side.
        if witnesses.is_empty() || self.plan.members.len() < 2 {
            return Testimony::Seen;
        }
        match (state(CheckState::Passing), state(CheckState::Unknown)) {
            (Some(_), _) => Testimony::Seen,
            (None, Some(unknown)) => Testimony::Pending(unknown),
            (None, None) => Testimony::Unseen,
        }
    }

    /// The witness of which nothing is known yet, while none passes.
    pub(super) fn witness_pending(&self, health: &Health) -> Option<CheckId> {
        match self.testimony(health) {
            Testimony::Pending(check) => Some(check),
            Testimony::Seen | Testimony::Unseen => None,
        }
    }

    /// The node whose absence bars this one from the VIP while it sees no witness.
    pub(super) const fn barred_by(&self) -> Option<NodeId> {
        self.witnessing.missing
    }

    /// Whether the peers tell enough for a claim on a silence that was long enough at `since`.
    pub(super) fn may_end_silence(&self, since: Instant) -> bool {
        self.witnessing.unseen.is_none()
            || self.witnessing.all_answered.is_some_and(|at| at > since)
    }

    /// Where the peers have to be looked for: this router sees no witness.
    #[must_use]
    pub fn looks_for_peers(&self) -> Option<InterfaceId> {
        self.witnessing.unseen.map(|_| self.plan.interface)
    }

    /// No witness is seen, and as yet nothing comes of it.
    #[must_use]
    pub const fn is_unwitnessed(&self) -> bool {
        self.witnessing.unseen.is_some() && self.witnessing.missing.is_none()
    }

    /// Looks at the witnesses anew; `answered` says when a node last answered for its own address
    /// on the VIP's interface, and who answered before `stale` is missing.
    pub fn review_witness(
        &mut self,
        step: &mut Step<'_>,
        (health, maintenance): (&Health, bool),
        me: NodeId,
        stale: Instant,
        answered: impl Fn(InterfaceId, NodeId) -> Option<Instant>,
    ) {
        let was = self.witnessing;
        match self.testimony(health) {
            Testimony::Seen => {
                let seen_before = !self.plan.witness.is_empty();
                self.witnessing = Witnessing { seen_before, ..Witnessing::default() };
            }
            Testimony::Pending(_) => self.witnessing.unseen = None,
            Testimony::Unseen => {
                let lenient = self.witnessing.seen_before || self.holds();
                let since = step.now;
                let unseen = *self.witnessing.unseen.get_or_insert(Unseen { since, lenient });
                let here = |node: NodeId| {
                    let grace = Some(unseen.since).filter(|_| unseen.lenient);
                    answered(self.plan.interface, node).max(grace).is_some_and(|at| at > stale)
                };
                let members = self.plan.members.iter().map(|member| member.node);
                let mut others = members.filter(|node| *node != me);
                let oldest = others.clone().map(|node| answered(self.plan.interface, node)).min();
                let missing = others.find(|node| !here(*node));
                self.witnessing.all_answered = oldest.flatten();
                self.witnessing.missing = missing;
            }
        }
        if was.missing.is_some() && self.barred_by().is_none() {
            self.wait_for_the_other_side(step.now);
        }
        let now = self.witnessing;
        if (now.unseen, now.missing) != (was.unseen, was.missing) {
            self.judge(step, health, maintenance);
        }
    }

    pub(super) const fn holds(&self) -> bool {
        matches!(self.state, super::State::Active(_))
    }
}
