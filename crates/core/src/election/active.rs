//! Active: advertises, announces, and yields to a better claim.

use std::net::IpAddr;
use std::time::Duration;

use super::backup::Backup;
use super::rivals::Claimant;
use super::{Heard, State, Step, VirtualRouter, timers};
use crate::Effect;
use crate::event::{Kind, Reason, Standing};
use crate::plan::{Announce, Version};
use crate::types::{Instant, Mac, Priority};

/// A burst of announcements isn't begun anew more often than this, however many rivals show up.
const BURST_AGAIN: Duration = Duration::from_millis(200);

#[derive(Clone, Debug)]
pub(super) struct Active {
    next_advert: Instant,
    last_advert: Instant,
    /// Held back after a stall until this time, unless a rival is heard before.
    listening: Option<Instant>,
    /// The kernel has the addresses; nothing is announced before.
    held: bool,
    announcing: Announcing,
}

/// The burst after a takeover and the light refresh ever after.
#[derive(Clone, Copy, Debug)]
struct Announcing {
    sent: u8,
    next_at: Instant,
    burst_began: Option<Instant>,
    /// One more is due at this time, whatever the burst says by then.
    again_at: Option<Instant>,
}

impl Active {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            next_advert: now,
            last_advert: now,
            listening: None,
            held: false,
            announcing: Announcing {
                sent: 0,
                next_at: Instant::FAR,
                burst_began: None,
                again_at: None,
            },
        }
    }

    pub(super) fn next_deadline(&self, rival_at: Instant) -> Instant {
        // Nothing is announced either while it listens.
        let busy = || self.next_advert.min(self.announcing.next_at).min(rival_at);
        self.listening.unwrap_or_else(busy)
    }

    pub(super) fn advertised(&mut self, now: Instant, interval: Duration) {
        self.last_advert = now;
        self.next_advert = timers::next_beat(now, interval);
    }

    /// The addresses are on the host: tells the network.
    pub(super) fn settled(&mut self, step: &mut Step<'_>, announce: Announce) {
        self.held = true;
        self.announcing.burst_began = None;
        let rival_seen = self.announcing.again_at.is_some();
        self.announce_again(step, announce);
        if rival_seen {
            // What it announced may be heard later than this first one.
            self.announce_again(step, announce);
        }
    }

    /// Begins a new burst; when one has just begun, or the addresses aren't on the host yet, makes sure
    /// that one more announcement follows.
    pub(super) fn announce_again(&mut self, step: &mut Step<'_>, announce: Announce) {
        if !self.held {
            self.announcing.again_at = Some(step.now + BURST_AGAIN);
            return;
        }
        let recent = |began: &Instant| step.now.since(*began) < BURST_AGAIN;
        if let Some(began) = self.announcing.burst_began.filter(recent) {
            // Whoever claims the address now may be heard later than this burst's next one.
            let again_at = began + BURST_AGAIN;
            self.announcing.again_at = Some(again_at);
            self.announcing.next_at = self.announcing.next_at.min(again_at);
            return;
        }
        let burst_began = Some(step.now);
        self.announcing = Announcing { sent: 0, next_at: step.now, burst_began, again_at: None };
        self.announce(step, announce);
    }

    fn announce(&mut self, step: &mut Step<'_>, announce: Announce) {
        if self.announcing.next_at > step.now {
            return;
        }
        step.effects.push(Effect::Announce { vip: step.vip });
        self.announcing.sent = self.announcing.sent.saturating_add(1);
        let next_at = if self.announcing.sent < announce.repeat {
            step.now + timers::announce_gap(self.announcing.sent)
        } else if announce.refresh.is_zero() {
            Instant::FAR
        } else {
            step.now + announce.refresh
        };
        let again_at = self.announcing.again_at.filter(|again_at| *again_at > step.now);
        self.announcing.again_at = again_at;
        self.announcing.next_at = again_at.map_or(next_at, |again_at| again_at.min(next_at));
    }
}

impl VirtualRouter {
    /// RFC 9568 §6.4.3 (625).
    pub(super) fn active_tick(&mut self, step: &mut Step<'_>) {
        let lasted = self.stalled(step.now);
        let State::Active(active) = &mut self.state else { return };
        match active.listening {
            Some(until) if until > step.now => return,
            Some(_) => {
                // Nobody took it meanwhile. The kernel may have ended the addresses, though: they
                // are held anew, and announced once they are there.
                active.listening = None;
                self.advertise(step);
                step.effects.push(Effect::Hold { vip: step.vip });
                return;
            }
            None => {}
        }
        if let Some(lasted) = lasted {
            // A live rival advertises at least once in its interval, and at once when it claims.
            active.listening = Some(step.now + self.interval + self.interval / 2);
            step.event(Kind::Stalled { lasted });
            return;
        }
        active.announce(step, self.plan.announce);
        if active.next_advert <= step.now {
            self.advertise(step);
        }
        self.rival_tick(step);
    }

    /// The silence of this node itself, when it was so long that a peer may have taken over.
    fn stalled(&self, now: Instant) -> Option<Duration> {
        let State::Active(active) = &self.state else { return None };
        let silence = now.since(active.last_advert);
        let own = timers::spoken(self.plan.version, self.plan.advert_interval);
        (silence >= own * timers::MISSED_ADVERTS).then_some(silence)
    }

    /// RFC 9568 §6.4.3 (700) to (770).
    pub(super) fn active_heard(&mut self, step: &mut Step<'_>, heard: &Heard<'_>) {
        let theirs = heard.advert.priority;
        let mine = self.effective_priority();
        let stalled = self.stalled(step.now);
        let better = theirs > mine || (theirs == mine && heard.wins_ties);
        self.defied(step, heard, better || theirs == Priority::RELEASE || stalled.is_some());
        if theirs == Priority::RELEASE {
            self.advertise(step);
            self.announce_anew(step);
        } else if let Some(lasted) =
            stalled.filter(|_| theirs > Priority::LAST_RESORT || mine == Priority::LAST_RESORT)
        {
            let reason = Reason::TakenWhileStalled { by: heard.who, lasted };
            self.yield_to(step, heard, reason);
        } else if better {
            self.yield_to(step, heard, Reason::Outranked { by: heard.who, priority: theirs });
        } else {
            // Right after a claim this is only the old active, on its way out.
            let established = step.now.since(self.since) >= self.interval;
            if established && self.rival_said.allows(step.now) {
                step.event(Kind::Rival { who: heard.who, priority: theirs, yields: false });
            }
            if let State::Active(active) = &mut self.state {
                active.listening = None;
            }
            self.advertise(step);
            self.announce_anew(step);
        }
    }

    fn yield_to(&mut self, step: &mut Step<'_>, heard: &Heard<'_>, reason: Reason) {
        // After a cut the winner may never have heard of this node, and clients still send here: a
        // last advert, below the winner's, makes it announce again.
        let below = heard.advert.priority.0.saturating_sub(1);
        self.send(step, Priority(below).min(self.effective_priority()));
        let backup = Backup::following(step.now, heard.who, heard.advert.priority);
        self.leave(step, State::Backup(backup), reason);
        self.look_out(step.now, heard.who);
        if self.plan.version == Version::V3 {
            self.interval = heard.advert.interval.as_duration();
        }
    }

    pub(super) fn announce_anew(&mut self, step: &mut Step<'_>) {
        if let State::Active(active) = &mut self.state {
            active.announce_again(step, self.plan.announce);
        }
    }

    pub(super) fn active_sighted(
        &mut self,
        step: &mut Step<'_>,
        seen: (IpAddr, Mac),
        who: Option<Claimant>,
    ) {
        self.rival_sighted(step, seen, who, self.plan.interface);
        self.announce_anew(step);
    }

    /// This node stopped being eligible, or became so again, while active.
    pub(super) fn active_judged(&mut self, step: &mut Step<'_>, was: Standing) {
        // As a last resort, if there is no peer that could take it: a gap would serve nobody.
        let keeps = self.wait(false).is_some();
        let alone = was == Standing::Ineligible || self.nobody_else();
        if self.standing == Standing::Ineligible && !(keeps && alone) {
            let reason = match (self.refused, self.obstacle.clone()) {
                (Some((_, errno)), _) => Reason::AddressRefused { errno },
                (None, Some(obstacle)) => Reason::Obstacle(obstacle),
                (None, None) => Reason::NobodyEligible,
            };
            self.leave(step, State::Backup(Backup::alone(step.now)), reason);
        } else if self.effective_priority() != priority_at(was, self.priority) {
            self.advertise(step);
        }
    }
}

const fn priority_at(standing: Standing, configured: Priority) -> Priority {
    match standing {
        Standing::Eligible => configured,
        Standing::Pending | Standing::HeldDown | Standing::Ineligible => Priority::LAST_RESORT,
    }
}
