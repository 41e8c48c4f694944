//! Further paths by which the peers see who has the VIP, when adverts don't come.
//!
//! On each interface of `heartbeat` it is asked who has the VIP's addresses. A kernel answers for an
//! address of its own on all its interfaces, so that the peers need nothing but a cable:
//!
//! ```text
//!   backup: two adverts missing ─▶ asks, twice in each interval ─▶ nobody: claims as ever, no later
//!                                                               └▶ a node: no claim; shadows it
//!   active: asks every two seconds ─▶ a node: a rival, settled as one that is seen on the LAN
//! ```
//! Who answers is a node if it answers there for the node's own address, too.

use std::net::IpAddr;
use std::time::Duration;

use super::rivals::Claimant;
use super::{State, Step, VirtualRouter, timers};
use crate::Effect;
use crate::event::{Kind, Party};
use crate::types::{Family, Instant, InterfaceId, Mac};

/// An answer over a cable takes less.
const LEAST_GAP: Duration = Duration::from_millis(10);

/// Two actives that are cut off from each other don't arise often.
const ACTIVE_ASKS_EVERY: Duration = Duration::from_secs(2);

impl VirtualRouter {
    /// From when on the further paths are asked.
    fn asks_from(&self) -> Option<Instant> {
        // Nobody of the cluster is asked for while the address is waited for.
        if self.plan.heartbeat.is_empty() || self.vacancy.is_some() {
            return None;
        }
        match &self.state {
            State::Idle => None,
            State::Backup(backup) => backup
                .silent_since()
                .map(|since| since + self.interval * (timers::MISSED_ADVERTS - 1)),
            State::Active(_) => Some(self.since + ACTIVE_ASKS_EVERY),
        }
    }

    pub(super) fn heartbeat_deadline(&self) -> Instant {
        self.asks_from().map_or(Instant::FAR, |from| from.max(self.ask_paths_at))
    }

    pub(super) fn heartbeat_tick(&mut self, step: &mut Step<'_>) {
        if self.heartbeat_deadline() > step.now {
            return;
        }
        let active = matches!(self.state, State::Active(_));
        let gap = if active { ACTIVE_ASKS_EVERY } else { (self.interval / 2).max(LEAST_GAP) };
        self.ask_paths_at = step.now + gap;
        for interface in &self.plan.heartbeat {
            for prefix in self.plan.addresses_of(Family::V4) {
                let (interface, address) = (*interface, prefix.address());
                step.effects.push(Effect::Identify { interface, address });
            }
        }
    }

    /// A node answers for an address of the VIP on a further path.
    pub fn heartbeat(
        &mut self,
        seen: (IpAddr, Mac),
        interface: InterfaceId,
        step: &mut Step<'_>,
        who: Claimant,
    ) {
        let asked = self.asks_from().is_some_and(|from| from <= step.now);
        let shadowed = self.shadows(seen.1);
        let party = Party::Node(who.node);
        let priority = self.plan.priority_of(who.node).unwrap_or(self.priority);
        match &mut self.state {
            State::Idle => {}
            State::Active(_) => self.rival_sighted(step, seen, Some(who), interface),
            State::Backup(backup) if shadowed => backup.heard_at(step.now),
            // An advert came meanwhile: who answers is on its way out.
            State::Backup(_) if !asked => {}
            State::Backup(backup) => {
                backup.heard_at(step.now);
                backup.follow(party, priority);
                self.introduced = true;
                self.shadow(step.now, seen, who, interface);
                if self.path_said.allows(step.now) {
                    step.event(Kind::SeenByHeartbeat { who: party, mac: seen.1, interface });
                }
            }
        }
    }
}
