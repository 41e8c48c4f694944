//! Somebody else has the address, by its MAC: the rival whose adverts don't come.
//!
//! Two nodes that hear each other's adverts settle who is active by them. Where a firewall or a bad
//! switch drops adverts, one way or both, ARP and neighbour discovery still tell:
//!
//! ```text
//! sighted: announce again ─▶ ask who has it, 4 times a second ─▶ gone: over
//!                                                             ├▶ no node: a stranger, named
//!                                                             └▶ a node, still there after 3 s:
//!                                             the worse one yields and shadows, the better one stays
//! ```
//! Who yielded to an unheard node goes on asking: its answers are what adverts would be. It claims
//! when they stop.

use std::net::IpAddr;
use std::time::Duration;

use super::backup::Backup;
use super::{Heard, State, Step, VirtualRouter, timers};
use crate::Effect;
use crate::event::{Kind, Party, Reason, Standing};
use crate::types::{Instant, InterfaceId, Mac, NodeId};

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Between two questions when nothing has come of many.
const ASK_RARELY: Duration = Duration::from_secs(1);

/// What is dead, stuck or cut off has lost the address by then: the kernel ended its lifetime.
const PERSISTS: Duration = Duration::from_secs(3);

/// A rival that was seen so long ago at most is still there; even a rare question was answered.
const THERE: Duration = Duration::from_millis(1_250);

/// Of two questions, asked often, one was answered; or it isn't known whether it is still there.
const ANSWERS_LATE: u32 = 3;

/// A rival that isn't seen for so long is none any more; two rare questions without an answer.
const GONE_AFTER: Duration = Duration::from_millis(2_500);

/// A shadow takes so long a silence for the rival's end; three questions without an answer.
const SHADOW_PATIENCE: Duration = Duration::from_secs(1);

/// A rival that hears this node's better claim yields at the next advert. Who goes on for so long,
/// and for so many intervals, doesn't hear it.
const DEFIANCE: Duration = Duration::from_secs(1);
const DEFIANT_INTERVALS: u32 = 5;

/// Who sits behind a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant {
    pub node: NodeId,
    /// Whether it wins against this node at equal priority.
    pub wins_ties: bool,
}

/// Another host that has the VIP's address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rival {
    /// Where it is seen.
    interface: InterfaceId,
    address: IpAddr,
    mac: Mac,
    /// `None`: as far as the network has told, no node.
    who: Option<Claimant>,
    since: Instant,
    last: Instant,
    next_at: Instant,
}

impl VirtualRouter {
    /// The numbers of the nodes have changed.
    pub(super) fn renumber_rival(&mut self, moved: impl Fn(NodeId) -> Option<NodeId>) {
        if let Some(rival) = &mut self.rival {
            let anew = |known: Claimant| Some(Claimant { node: moved(known.node)?, ..known });
            rival.who = rival.who.and_then(anew);
        }
    }

    /// While active: the better claim was answered with an advert, again.
    ///
    /// Adverts that come settle it: what ARP shows is no argument then. Who goes on all the same
    /// doesn't hear this node.
    pub(super) fn defied(&mut self, step: &mut Step<'_>, heard: &Heard<'_>, settles: bool) {
        if let Some(rival) = &mut self.rival
            && rival.who.is_none_or(|known| Party::Node(known.node) == heard.who)
        {
            rival.since = step.now;
        }
        if settles {
            self.defiance = None;
            return;
        }
        let interval = self.interval.max(heard.advert.interval.as_duration());
        let lull = interval * timers::MISSED_ADVERTS;
        let known = self
            .defiance
            .filter(|(who, _, last)| *who == heard.who && step.now.since(*last) <= lull);
        let since = known.map_or(step.now, |(_, since, _)| since);
        self.defiance = Some((heard.who, since, step.now));
        let patience = DEFIANCE.max(interval * DEFIANT_INTERVALS);
        if step.now.since(since) >= patience && self.one_way_said.allows(step.now) {
            step.event(Kind::OneWay { who: heard.who, family: heard.family });
        }
    }

    /// Who has the address as well while this node holds it: by its MAC, and which node that is.
    #[must_use]
    pub fn rival(&self, now: Instant) -> Option<(Mac, Option<NodeId>)> {
        let rival = self.rival.filter(|rival| now.since(rival.last) <= GONE_AFTER)?;
        self.holds().then(|| (rival.mac, rival.who.map(|who| who.node)))
    }

    /// When the network is to be asked for the rival again.
    pub(super) fn rival_deadline(&self) -> Instant {
        self.rival.map_or(Instant::FAR, |rival| rival.next_at)
    }

    /// While active: another host says that it has `address`.
    pub(super) fn rival_sighted(
        &mut self,
        step: &mut Step<'_>,
        (address, mac): (IpAddr, Mac),
        who: Option<Claimant>,
        interface: InterfaceId,
    ) {
        match &mut self.rival {
            Some(rival) if rival.mac == mac => {
                if step.now.since(rival.last) > THERE {
                    // It had gone, and is another rival's beginning.
                    rival.since = step.now;
                }
                rival.last = step.now;
                rival.who = who.or(rival.who);
            }
            // A node counts for more than whoever else makes noise.
            Some(rival)
                if step.now.since(rival.last) < GONE_AFTER
                    && (rival.who.is_some() || who.is_none()) => {}
            _ => {
                let (since, next_at) = (step.now, step.now + ASK_EVERY);
                let last = since;
                self.rival = Some(Rival { interface, address, mac, who, since, last, next_at });
            }
        }
    }

    /// While active: looks whether the rival is still there, and what follows from it.
    pub(super) fn rival_tick(&mut self, step: &mut Step<'_>) {
        let Some(rival) = self.rival.filter(|rival| rival.next_at <= step.now) else { return };
        if step.now.since(rival.last) > GONE_AFTER {
            self.rival = None;
            return;
        }
        let lasted = step.now.since(rival.since);
        let Some(claimant) = rival.who else {
            if self.conflict_said.allows(step.now) {
                let Rival { address, mac, .. } = rival;
                step.event(Kind::AddressConflict { address, mac });
            }
            return self.ask_for_rival(step, lasted);
        };
        let theirs = self.plan.priority_of(claimant.node);
        // Who left since its last answer may have left because it isn't well.
        let there = THERE.min(self.ask_gap(lasted) * ANSWERS_LATE);
        let still_there = step.now.since(rival.last) < there;
        if lasted < PERSISTS || !still_there {
            return self.ask_for_rival(step, lasted);
        }
        let mine = Some(self.priority);
        let worse = theirs > mine || (theirs == mine && claimant.wins_ties);
        let yields = worse || self.standing != Standing::Eligible;
        if self.rival_said.allows(step.now) || yields {
            let who = Party::Node(claimant.node);
            step.event(Kind::RivalUnheard { who, mac: rival.mac, yields });
        }
        if yields {
            self.yield_unheard(step, rival, claimant.node);
        }
        self.ask_for_rival(step, lasted);
    }

    fn yield_unheard(&mut self, step: &mut Step<'_>, rival: Rival, node: NodeId) {
        let by = Party::Node(node);
        let theirs = self.plan.priority_of(node).unwrap_or(self.priority);
        let backup = Backup::following(step.now, by, theirs);
        self.leave(step, State::Backup(backup), Reason::RivalUnheard { by });
        self.rival = Some(Rival { since: step.now, ..rival });
        // Where announcements pass and questions don't, its word over the link goes on when answers end.
        if self.handovers.told(node).is_some_and(|told| told.says.active) {
            self.by_link = Some(node);
        }
    }

    fn ask_gap(&self, lasted: Duration) -> Duration {
        let rarely = lasted > 3 * PERSISTS && matches!(self.state, State::Active(_));
        if rarely { ASK_RARELY } else { ASK_EVERY }
    }

    /// As a person's `arping` would: in this node's own name, so that only this node is answered.
    fn ask_for_rival(&mut self, step: &mut Step<'_>, lasted: Duration) {
        let gap = self.ask_gap(lasted);
        if let Some(rival) = &mut self.rival {
            rival.next_at = step.now + gap;
        }
        let Some(Rival { interface, .. }) = self.rival else { return };
        for prefix in &self.plan.addresses {
            step.effects.push(Effect::Identify { interface, address: prefix.address() });
        }
    }

    /// As a backup: asks for the unheard node that it yielded to.
    pub(super) fn shadow_tick(&mut self, step: &mut Step<'_>) {
        if self.rival.is_some_and(|rival| rival.next_at <= step.now) {
            self.ask_for_rival(step, Duration::ZERO);
        }
    }

    /// As a backup: what is seen at `mac` has the VIP, and its adverts aren't heard.
    pub(super) fn shadow(
        &mut self,
        now: Instant,
        (address, mac): (IpAddr, Mac),
        who: Claimant,
        interface: InterfaceId,
    ) {
        let (who, since, last) = (Some(who), now, now);
        let next_at = now + ASK_EVERY;
        self.rival = Some(Rival { interface, address, mac, who, since, last, next_at });
    }

    /// As a backup: whether the one that is seen is the unheard node that it yielded to.
    pub(super) fn shadows(&self, mac: Mac) -> bool {
        self.rival.is_some_and(|rival| rival.mac == mac)
    }

    /// How long a silence has to be at least.
    pub(super) const fn shadow_patience(&self) -> Duration {
        if self.rival.is_some() { SHADOW_PATIENCE } else { Duration::ZERO }
    }
}
