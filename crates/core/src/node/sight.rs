//! Which peers the network shows: asked for, on the VIPs' interfaces, while no witness is seen.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Node;
use crate::election::Step;
use crate::types::{Instant, InterfaceId, NodeId, VipId};
use crate::{Effect, Effects};

/// The peers are asked this often.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Who left three questions in a row without an answer isn't there; an answer takes some
/// milliseconds.
const IN_SIGHT: Duration = Duration::from_millis(650);

/// Who answers for its own address, and when it is asked again.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    answers: BTreeMap<(InterfaceId, NodeId), Instant>,
    next_at: Instant,
}

impl Default for Sight {
    fn default() -> Self {
        Self { answers: BTreeMap::new(), next_at: Instant::FAR }
    }
}

impl Sight {
    pub(super) const fn next_deadline(&self) -> Instant {
        self.next_at
    }

    /// The numbers of the nodes have changed.
    pub(super) fn clear(&mut self) {
        self.answers.clear();
    }
}

impl Node {
    /// Somebody says that it has `node`'s own address.
    pub(super) fn peer_in_sight(
        &mut self,
        now: Instant,
        interface: InterfaceId,
        node: NodeId,
        effects: &mut Effects,
    ) {
        if node != self.plan.me && self.sight.next_at != Instant::FAR {
            self.sight.answers.insert((interface, node), now);
            self.review_witnesses(now, effects);
        }
    }

    pub(super) fn sight_tick(&mut self, now: Instant, effects: &mut Effects) {
        if self.sight.next_at <= now {
            self.review_witnesses(now, effects);
        }
    }

    /// Looks at all VIPs' witnesses anew, and asks for the peers if one of them needs it.
    pub(super) fn review_witnesses(&mut self, now: Instant, effects: &mut Effects) {
        let maintenance = self.maintenance.is_some();
        let answers = &self.sight.answers;
        let answered = |interface, node| answers.get(&(interface, node)).copied();
        let mut looking = false;
        for (vip, slot) in (0..).map(VipId).zip(&mut self.routers) {
            let Some(router) = slot else { continue };
            let mut step = Step { now, vip, effects };
            let health = (&self.health, maintenance);
            router.review_witness(&mut step, health, self.plan.me, now - IN_SIGHT, answered);
            looking |= router.looks_for_peers().is_some();
        }
        if !looking {
            self.sight = Sight::default();
        } else if self.sight.next_at == Instant::FAR || self.sight.next_at <= now {
            self.sight.next_at = now + ASK_EVERY;
            self.ask_for_peers(now, effects);
        }
    }

    fn ask_for_peers(&mut self, now: Instant, effects: &mut Effects) {
        let mut asked = Vec::new();
        for router in self.routers.iter().flatten() {
            let Some(interface) = router.looks_for_peers() else { continue };
            for member in &router.plan().members {
                if member.node == self.plan.me || asked.contains(&(interface, member.node)) {
                    continue;
                }
                asked.push((interface, member.node));
                let node = self.plan.nodes.get(member.node.index());
                for address in node.into_iter().flat_map(|node| &node.addresses) {
                    self.identity.expect(now, interface, *address);
                    effects.push(Effect::Identify { interface, address: *address });
                }
            }
        }
    }
}
