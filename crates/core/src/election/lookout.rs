//! After a takeover a backup looks as a third host would: which MAC answers for the VIP?
//!
//! The new active can't see it: its own address answers it nothing. A switch that answers in its
//! neighbours' name, or an old holder that still has the address, shows only to others. Who sees the
//! wrong MAC twice tells the active, by the peer link where there is one, and says so in its events.

use std::net::IpAddr;
use std::time::Duration;

use super::{Step, VirtualRouter};
use crate::Effect;
use crate::event::{Kind, Party};
use crate::types::{Family, Instant, Mac, NodeId};

/// The first announcements are out by then, and the old holder's addresses gone.
const FIRST_LOOK: Duration = Duration::from_millis(300);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks after a takeover, while something is wrong; one more than it takes to be sure suffices else.
const LOOKS: u8 = 10;
const ENOUGH: u8 = 2;

#[derive(Clone, Copy, Debug)]
pub(super) struct Lookout {
    who: NodeId,
    next_at: Instant,
    looks: u8,
    /// What the last look showed that it shouldn't.
    wrong: Option<(IpAddr, Mac)>,
    /// It was told.
    told: bool,
}

impl VirtualRouter {
    pub(super) fn lookout_deadline(&self) -> Instant {
        self.lookout.map_or(Instant::FAR, |lookout| lookout.next_at)
    }

    /// Another node is active from now on.
    pub(super) fn look_out(&mut self, now: Instant, who: Party) {
        let Party::Node(who) = who else { return };
        let next_at = now + FIRST_LOOK;
        self.lookout = Some(Lookout { who, next_at, looks: 0, wrong: None, told: false });
    }

    /// Whose own MAC has to be known before an answer can be judged.
    #[must_use]
    pub fn looks_out_for(&self) -> Option<NodeId> {
        self.lookout.map(|lookout| lookout.who)
    }

    /// As a backup: somebody answers for the VIP, and it is known where the active is.
    pub fn lookout_sighted(&mut self, seen: (IpAddr, Mac), who: Option<NodeId>) {
        // RFC 9568 §7.3: a router may answer with the router id's own MAC.
        let virtual_mac = seen.1 == Mac::of_virtual_router(Family::of(seen.0), self.plan.vrid);
        if let Some(lookout) = &mut self.lookout
            && who != Some(lookout.who)
            && !virtual_mac
        {
            lookout.wrong = Some(seen);
        }
    }

    pub(super) fn lookout_tick(&mut self, step: &mut Step<'_>) {
        let Some(lookout) = self.lookout.as_mut().filter(|it| it.next_at <= step.now) else {
            return;
        };
        // The first look may have been answered before it was known whose MAC it is.
        let wrong = lookout.wrong.take().filter(|_| lookout.looks >= ENOUGH);
        let over = if wrong.is_some() || lookout.told { LOOKS } else { ENOUGH };
        let who = lookout.who;
        if let Some((address, mac)) = wrong {
            if !std::mem::replace(&mut lookout.told, true) {
                step.event(Kind::StaleMac { who: Party::Node(who), address, mac });
            }
            step.effects.push(Effect::StillSeen { vip: step.vip, to: who, address, mac });
        }
        if lookout.looks >= over {
            self.lookout = None;
            return;
        }
        lookout.looks += 1;
        lookout.next_at = step.now + LOOK_EVERY;
        let interface = self.plan.interface;
        for prefix in &self.plan.addresses {
            step.effects.push(Effect::Identify { interface, address: prefix.address() });
        }
    }
}
