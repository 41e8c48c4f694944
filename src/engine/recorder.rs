//! The node, with a memory of what it was told last: around a transition that memory is written
//! out, so that what happened in the field can be replayed at a desk (`standin-sim replay FILE`).
//!
//! The steady path allocates nothing: the oldest advert's bytes make room for the newest's.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use standin_core::node::Node;
use standin_core::plan::Plan;
use standin_core::record::{Entry, Recorded};
use standin_core::types::{CheckId, Instant, InterfaceId, NodeId, VipId};
use standin_core::{Effects, Input};

/// Inputs that are remembered: at 100 ms adverts nearly a minute, at 10 ms some seconds.
const REMEMBERED: usize = 1024;

/// What follows a transition belongs to it.
const AFTERMATH: Duration = Duration::from_secs(2);

/// A flapping node mustn't write without end.
const NOT_AGAIN_BEFORE: Duration = Duration::from_secs(10);

pub(super) struct Recorder {
    node: Node,
    ring: VecDeque<Entry>,
    base: Base,
    /// When the memory is to be written out.
    due: Option<Instant>,
    last: Option<Instant>,
}

/// What the inputs that were forgotten had told, as far as it still holds.
struct Base {
    at: Instant,
    plan: Plan,
    interfaces: BTreeMap<InterfaceId, Recorded>,
    own: Option<Recorded>,
    results: BTreeMap<CheckId, Recorded>,
    peers: BTreeMap<(VipId, NodeId), Recorded>,
}

impl Recorder {
    /// Remembers what `node`, which has `plan`, is told from now on.
    pub(super) fn new(now: Instant, node: Node, plan: Plan) -> Self {
        let (interfaces, own, results) = (BTreeMap::new(), None, BTreeMap::new());
        let peers = BTreeMap::new();
        Self {
            node,
            ring: VecDeque::with_capacity(REMEMBERED),
            base: Base { at: now, plan, interfaces, own, results, peers },
            due: None,
            last: None,
        }
    }

    /// As [`Node::step`].
    pub(super) fn step(&mut self, now: Instant, input: Input<'_>, effects: &mut Effects) {
        self.remember(now, &input);
        self.node.step(now, input, effects);
    }

    fn remember(&mut self, now: Instant, input: &Input<'_>) {
        let mut spare = Vec::new();
        if self.ring.len() == REMEMBERED
            && let Some(oldest) = self.ring.pop_front()
        {
            spare = self.base.take(oldest);
        }
        let input = match input {
            Input::Advert { interface, envelope, payload } => {
                spare.clear();
                spare.extend_from_slice(payload);
                Recorded::Advert { interface: *interface, envelope: *envelope, payload: spare }
            }
            other => Recorded::of(other),
        };
        self.ring.push_back(Entry { at: now, input });
    }

    /// A transition happened.
    pub(super) fn mark(&mut self, now: Instant) {
        let rested = self.last.is_none_or(|last| now.since(last) >= NOT_AGAIN_BEFORE);
        if rested {
            self.due.get_or_insert(now + AFTERMATH);
        }
    }

    /// The record, once a transition and what followed it are in it.
    ///
    /// There is none where a VIP has a password: it would stand in the file.
    pub(super) fn record(&mut self, now: Instant) -> Option<Vec<Entry>> {
        self.due.filter(|due| *due <= now)?;
        self.due = None;
        self.last = Some(now);
        let secret = |plan: &Plan| plan.vips.iter().any(|vip| vip.password.is_some());
        if secret(&self.base.plan) || secret(self.node.plan()) {
            return None;
        }
        Some(self.base.entries().chain(self.ring.iter().cloned()).collect())
    }
}

impl Base {
    /// Takes in an entry that is forgotten; returns what can be used again.
    fn take(&mut self, entry: Entry) -> Vec<u8> {
        self.at = entry.at;
        match entry.input {
            Recorded::Advert { payload, .. } => return payload,
            Recorded::Plan(plan) => {
                self.plan = *plan;
                // Ids of results and nodes are those of the new plan; the shell reports them anew.
                self.results.clear();
                self.peers.clear();
            }
            Recorded::Interface { interface, .. } => {
                self.interfaces.insert(interface, entry.input);
            }
            Recorded::OwnAddresses(_) => self.own = Some(entry.input),
            Recorded::Peer { vip, node, .. } => {
                self.peers.insert((vip, node), entry.input);
            }
            Recorded::Check { check, .. } => {
                self.results.insert(check, entry.input);
            }
            Recorded::Tick
            | Recorded::Sighting { .. }
            | Recorded::Settled { .. }
            | Recorded::Restored { .. }
            | Recorded::TakeOver { .. }
            | Recorded::Command(_) => {}
        }
        Vec::new()
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let plan = Recorded::Plan(Box::new(self.plan.clone()));
        std::iter::once(plan)
            .chain(self.interfaces.values().cloned())
            .chain(self.own.clone())
            .chain(self.results.values().cloned())
            .chain(self.peers.values().cloned())
            .map(|input| Entry { at: self.at, input })
    }
}

impl Deref for Recorder {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl DerefMut for Recorder {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.node
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_core::plan::NodePlan;
    use standin_core::types::NodeId;
    use standin_core::{Command, InterfaceState};

    fn recorder() -> Recorder {
        let plan = Plan {
            cluster: "edge".into(),
            me: NodeId(0),
            nodes: vec![NodePlan { name: "n1".into(), addresses: vec![], vrrp_only: false }],
            interfaces: vec!["eth0".into()],
            checks: vec![],
            vips: vec![],
        };
        let now = Instant::from_nanos(1);
        Recorder::new(now, Node::new(now, plan.clone()), plan)
    }

    #[test]
    fn it_forgets_the_oldest_but_not_what_still_holds() {
        let mut recorder = recorder();
        let mut effects = Effects::new();
        let state = InterfaceState { up: true, ..InterfaceState::default() };
        let interface = InterfaceId(0);
        recorder.step(Instant::from_nanos(2), Input::Interface { interface, state }, &mut effects);
        for nanos in 0..2 * REMEMBERED as u64 {
            recorder.step(Instant::from_nanos(3 + nanos), Input::Tick, &mut effects);
        }
        recorder.mark(Instant::from_nanos(5000));
        assert_eq!(recorder.record(Instant::from_nanos(5001)), None, "its aftermath isn't over");
        let record = recorder.record(Instant::from_nanos(5000) + AFTERMATH).unwrap();
        assert_eq!(record.len(), REMEMBERED + 2);
        assert!(matches!(record[0].input, Recorded::Plan(_)));
        assert!(matches!(record[1].input, Recorded::Interface { .. }));
    }

    #[test]
    fn it_does_not_write_again_at_once() {
        let mut recorder = recorder();
        let now = Instant::from_nanos(1_000_000_000);
        recorder.step(now, Input::Command(Command::MaintenanceOff), &mut Effects::new());
        recorder.mark(now);
        assert!(recorder.record(now + AFTERMATH).is_some());
        recorder.mark(now + AFTERMATH);
        assert!(recorder.record(now + AFTERMATH * 2).is_none());
    }
}
