//! An operator's `apply`: every node tests, the followers go first, the writer last; a failure
//! stops it and undoes what was done.

use std::fmt;
use std::time::Duration;

use super::{Effect, Effects, Event, Id, Job, Message, Order, Replica, Trouble};
use crate::types::Instant;

/// A step that isn't through by then has failed: 2,000 virtual hosts with TLS take nginx 5 s.
const STEP: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    pub id: Option<Id>,
    pub step: Step,
    /// Nodes that take part.
    pub nodes: Vec<String>,
    /// Nodes without a link: they catch up later.
    pub skipped: Vec<String>,
    pub(super) scanned: bool,
    deadline: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// At what lies on the writer's disk.
    Looking,
    Testing,
    Followers,
    Own,
    Done,
    Failed(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Looking => "looking at what lies on disk",
            Self::Testing => "every node tests it",
            Self::Followers => "the backups apply it",
            Self::Own => "the active loads it",
            Self::Done => "done",
            Self::Failed(_) => "failed",
        })
    }
}

impl Ordered {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            id: None,
            step: Step::Looking,
            nodes: Vec::new(),
            skipped: Vec::new(),
            scanned: false,
            deadline: now + STEP,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        if self.over() { Instant::FAR } else { self.deadline }
    }

    #[must_use]
    pub const fn over(&self) -> bool {
        matches!(self.step, Step::Done | Step::Failed(_))
    }

    fn turn(&mut self, now: Instant, step: Step) {
        self.step = step;
        self.deadline = now + STEP;
    }
}

impl Replica {
    pub(super) fn pursue_order(&mut self, now: Instant, effects: &mut Effects) {
        // Each turn is one step further; there are five.
        for _ in 0..5 {
            let Some(mut ordered) = self.ordered.take() else { return };
            let before = ordered.step.clone();
            if !ordered.over() {
                self.turn(now, &mut ordered, effects);
            }
            let same = ordered.step == before;
            self.ordered = Some(ordered);
            if same {
                return;
            }
        }
    }

    fn turn(&mut self, now: Instant, ordered: &mut Ordered, effects: &mut Effects) {
        if let Some(why) = self.order_trouble(ordered, now) {
            let applied = matches!(ordered.step, Step::Followers | Step::Own);
            if let (true, Some(id)) = (applied, ordered.id) {
                self.stopped = Some((id, why.clone()));
            }
            // To those too that came after it had begun, also if it is an earlier one's: who came back
            // while this one was under way wasn't told.
            if let Some((_, undo)) = self.undo_order() {
                self.send_all(&Message::Order(undo), effects);
            }
            effects.push(Effect::Event(Event::OrderFailed { why: why.clone() }));
            ordered.turn(now, Step::Failed(why));
            return;
        }
        let Some(tip) = self.line.tip() else { return };
        match ordered.step {
            Step::Looking => {
                if !ordered.scanned || self.busy.is_some() || self.disk() != Some(tip.tree) {
                    return;
                }
                ordered.id = Some(tip);
                for (name, peer) in &mut self.peers {
                    if !peer.connected {
                        ordered.skipped.push(name.clone());
                        continue;
                    }
                    ordered.nodes.push(name.clone());
                    // An old refusal isn't the answer to this.
                    if let Some(state) = &mut peer.state {
                        state.problem = state.problem.take().filter(|problem| problem.id != tip);
                    }
                }
                self.tested = None;
                self.order_all(ordered, &Order::Test(tip), effects);
                ordered.turn(now, Step::Testing);
            }
            Step::Testing => {
                if self.tested != Some(tip) {
                    if self.busy.is_none() {
                        self.start(Job::Test(tip), effects);
                    }
                } else if self
                    .all(ordered, |state| state.tested == Some(tip) || state.proven == Some(tip))
                {
                    self.order_all(ordered, &Order::Apply(tip), effects);
                    ordered.turn(now, Step::Followers);
                }
            }
            Step::Followers => {
                if self.busy.is_none() && self.all(ordered, |state| state.proven == Some(tip)) {
                    self.proven = None;
                    self.start(Job::Load(tip), effects);
                    ordered.turn(now, Step::Own);
                }
            }
            Step::Own => {
                if self.busy.is_none() && self.proven == Some(tip) {
                    let skipped = ordered.skipped.clone();
                    effects.push(Effect::Event(Event::Ordered { id: tip, skipped }));
                    ordered.turn(now, Step::Done);
                    self.stopped = None;
                    // Who came meanwhile may have it too.
                    self.offer_all(effects);
                } else if self.busy.is_none() && self.disk() == Some(tip.tree) {
                    self.start(Job::Load(tip), effects);
                }
            }
            Step::Done | Step::Failed(_) => {}
        }
    }

    /// The generation at which an `apply` stopped, while it is the last one of this node.
    #[must_use]
    pub fn stopped(&self) -> Option<Id> {
        let (id, _) = self.stopped.as_ref()?;
        (self.line.tip() == Some(*id)).then_some(*id)
    }

    /// The same, and what a node is told that still has it.
    pub(super) fn undo_order(&self) -> Option<(Id, Order)> {
        // One that is under way may bring it again.
        let rests = self.ordered.as_ref().is_none_or(Ordered::over);
        let id = self.stopped().filter(|_| rests && self.writes())?;
        let (_, why) = self.stopped.clone()?;
        Some((id, Order::Undo { id, why }))
    }

    /// What ends it.
    fn order_trouble(&self, ordered: &Ordered, now: Instant) -> Option<String> {
        if let Some(held) = &self.held {
            return Some(format!("synchronisation is held: {held}"));
        }
        if ordered.id.is_some() && self.line.tip() != ordered.id {
            return Some("the files were changed meanwhile; apply again".to_owned());
        }
        let own = self.problem.as_ref().filter(|_| self.busy.is_none());
        if let Some(problem) = own.filter(|it| Some(it.id) == ordered.id) {
            return Some(format!("{}: {}", self.config.node, problem.why));
        }
        for name in &ordered.nodes {
            let peer = self.peers.get(name).filter(|peer| peer.connected);
            let Some(peer) = peer else {
                return Some(format!("the peer link with {name} was lost"));
            };
            let Some(state) = &peer.state else { continue };
            if let Some(held) = &state.held {
                return Some(format!("{name} is held: {held}"));
            }
            let problem = state.problem.as_ref().filter(|it| Some(it.id) == ordered.id);
            if let Some(problem) = problem.filter(|it| it.trouble != Trouble::Undone) {
                return Some(format!("{name}: {}", problem.why));
            }
        }
        (ordered.deadline <= now).then(|| {
            format!("after {} s still: {}{}", STEP.as_secs(), ordered.step, self.waits_for(ordered))
        })
    }

    fn waits_for(&self, ordered: &Ordered) -> String {
        let late = |name: &&String| {
            let state = self.peers.get(*name).and_then(|peer| peer.state.as_ref());
            state.is_none_or(|state| state.proven != ordered.id)
        };
        let names: Vec<&str> = ordered.nodes.iter().filter(late).map(String::as_str).collect();
        if names.is_empty() {
            String::new()
        } else {
            format!(" (waiting for {})", names.join(", "))
        }
    }

    fn all(&self, ordered: &Ordered, is: impl Fn(&super::State) -> bool) -> bool {
        ordered
            .nodes
            .iter()
            .all(|name| self.peers.get(name).and_then(|peer| peer.state.as_ref()).is_some_and(&is))
    }

    fn order_all(&self, ordered: &Ordered, order: &Order, effects: &mut Effects) {
        for to in &ordered.nodes {
            let message = Message::Order(order.clone());
            effects.push(Effect::Send { to: to.clone(), message });
        }
    }
}
