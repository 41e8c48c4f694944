//! What a replica does next: as the writer with its own disk, as a follower with the writer's offer.

use super::replica::{Held, Replica};
use super::{
    Effect, Effects, Event, Id, Job, Line, Order, Outcome, Problem, Relation, TreeHash, Trigger,
    Trouble,
};
use crate::types::Instant;

impl Replica {
    pub(super) fn pursue(&mut self, now: Instant, effects: &mut Effects) {
        if self.writes() {
            self.write(effects);
            self.pursue_order(now, effects);
        } else {
            self.follow(effects);
        }
    }

    /// Makes generations of what lies on this node's disk.
    fn write(&mut self, effects: &mut Effects) {
        if self.busy.is_some() || self.hold {
            return;
        }
        let Some((disk, loss)) = self.disk.clone() else { return };
        let next = self.highest.saturating_add(1);
        if let Some(tree) = self.rollback.take()
            && tree != disk
        {
            let id = Id { number: next, tree };
            self.applying = self.line.then(id);
            self.start(Job::Apply { id, over: disk }, effects);
            return;
        }
        if self.line.tip().is_some_and(|tip| tip.tree == disk) {
            self.served(effects);
            return;
        }
        if self.line.tip().is_none() && !self.reborn {
            let elder = self.peers.iter().find(|(_, peer)| {
                peer.connected && peer.state.as_ref().is_some_and(|it| it.applied.is_some())
            });
            if let Some((peer, _)) = elder {
                let peer = peer.clone();
                self.hold_for(Held::Newborn { peer }, effects);
                return;
            }
        }
        if let Some(words) = loss
            && self.accepted != Some(disk)
        {
            self.hold_for(Held::Deletion { tree: disk, words }, effects);
            return;
        }
        self.held = None;
        let waits = self.again.is_some()
            && self.problem.as_ref().is_some_and(|problem| problem.id.tree == disk);
        if !waits {
            self.start(Job::Take(Id { number: next, tree: disk }), effects);
        }
    }

    /// The writer has proven its generation when its own nginx has loaded it.
    fn served(&mut self, effects: &mut Effects) {
        if matches!(self.held, Some(Held::Deletion { .. } | Held::Newborn { .. })) {
            self.held = None;
        }
        let Some(tip) = self.line.tip() else { return };
        if self.proven == Some(tip) || self.loaded != Some(tip.tree) {
            return;
        }
        self.proven = Some(tip);
        self.problem = None;
        effects.push(Effect::Event(Event::Proven(tip)));
        if self.config.trigger == Trigger::Reload {
            self.offer_all(effects);
        }
    }

    fn offered(&self) -> Option<(String, Line, bool)> {
        let writer = self.writer()?;
        let peer = self.peers.get(writer)?;
        Some((writer.to_owned(), peer.offer.clone()?, peer.released))
    }

    /// Goes after the writer's generation.
    fn follow(&mut self, effects: &mut Effects) {
        if self.hold {
            return;
        }
        let offered = self.offered();
        let goal = offered.as_ref().and_then(|(_, line, _)| line.tip());
        if self.busy.is_none() && self.keep_drift(goal, effects) {
            return;
        }
        let (Some((writer, line, released)), Some(goal)) = (offered, goal) else { return };
        if !self.may_follow(&writer, &line, goal, effects) {
            return;
        }
        // What was wrong with another one is over.
        if self.problem.as_ref().is_some_and(|problem| problem.id != goal) && self.undo.is_none() {
            self.problem = None;
        }
        if self.staged != Some(goal) {
            let fetching = match &self.busy {
                None => false,
                Some(Job::Fetch { id, .. }) => *id == goal,
                Some(_) => true,
            };
            if !fetching && !self.stuck_at(goal) {
                self.start(Job::Fetch { id: goal, from: writer }, effects);
            }
            return;
        }
        if self.busy.is_some() || self.undone(effects) || self.stuck_at(goal) {
            return;
        }
        if self.test_asked == Some(goal) && self.tested != Some(goal) {
            self.start(Job::Test(goal), effects);
            return;
        }
        let Some((disk, _)) = self.disk else { return };
        let there = self.line.tip() == Some(goal) && disk == goal.tree;
        if released && !(there && self.proven == Some(goal)) {
            self.applying = line;
            self.start(Job::Apply { id: goal, over: disk }, effects);
        }
    }

    /// What somebody else changed here goes into the history before anything is overwritten. Whether
    /// that is under way.
    fn keep_drift(&mut self, goal: Option<Id>, effects: &mut Effects) -> bool {
        let Some((disk, _)) = self.disk else { return false };
        let known = |id: Option<Id>| id.is_some_and(|id| id.tree == disk);
        if known(self.line.tip()) || known(goal) || self.kept == Some(disk) {
            return false;
        }
        // Before its first generation a node's files are only kept if they are to be overwritten.
        if self.line.tip().is_none() && goal.is_none() || self.again.is_some() {
            return false;
        }
        self.start(Job::Keep(disk), effects);
        true
    }

    /// Says what becomes of this node's own changes, if the writer doesn't have them.
    fn may_follow(&mut self, writer: &str, line: &Line, goal: Id, effects: &mut Effects) -> bool {
        let relation = self.line.relation(line);
        let (writer, theirs) = (writer.to_owned(), goal);
        // Without a tip there is no relation but Newer.
        let own = self.line.tip().unwrap_or(goal);
        let event = match relation {
            Relation::Unrelated if self.accepted != Some(goal.tree) => {
                self.hold_for(Held::Unrelated { writer, theirs }, effects);
                return false;
            }
            Relation::Older => Event::Behind { writer, own, theirs },
            Relation::Fork { common } => Event::Fork { writer, own, theirs, common },
            Relation::Same | Relation::Newer | Relation::Unrelated => {
                self.held = None;
                return true;
            }
        };
        self.held = None;
        // An undone generation is left behind on purpose.
        let undone = self.problem.as_ref().is_some_and(|it| it.trouble == Trouble::Undone);
        if self.told_fork != Some(goal) && !undone {
            self.told_fork = Some(goal);
            effects.push(Effect::Event(event));
        }
        true
    }

    fn stuck_at(&self, goal: Id) -> bool {
        let Some(problem) = self.problem.as_ref().filter(|problem| problem.id == goal) else {
            return false;
        };
        match problem.trouble {
            Trouble::Refused | Trouble::Approval | Trouble::Undone => true,
            Trouble::Passing | Trouble::Unproven => self.again.is_some(),
        }
    }

    /// Goes back, as the writer ordered. Whether that is under way.
    fn undone(&mut self, effects: &mut Effects) -> bool {
        let Some((id, why)) = self.undo.clone() else { return false };
        let back = (self.line.tip() == Some(id)).then(|| self.line.parent()).flatten();
        self.problem = Some(Problem { id, trouble: Trouble::Undone, why: why.clone() });
        match (back, &self.disk) {
            (Some(back), Some((disk, _))) => {
                let over = *disk;
                self.applying = self.line.back_to(back);
                self.start(Job::Apply { id: back, over }, effects);
                true
            }
            (Some(_), None) => true,
            (None, _) => {
                self.undo = None;
                false
            }
        }
    }

    pub(super) fn ordered_by(&mut self, _now: Instant, from: &str, order: Order) {
        match order {
            Order::Test(id) => {
                if self.problem.as_ref().is_some_and(|problem| problem.id == id) {
                    self.retry_now();
                }
                self.test_asked = Some(id);
            }
            Order::Apply(id) => {
                if let Some(peer) = self.peers.get_mut(from)
                    && peer.offer.as_ref().and_then(Line::tip) == Some(id)
                {
                    peer.released = true;
                }
            }
            Order::Undo { id, why } => self.undo = Some((id, why)),
        }
    }

    fn retry_now(&mut self) {
        self.problem = None;
        self.again = None;
    }

    pub(super) fn done(&mut self, now: Instant, outcome: Outcome, effects: &mut Effects) {
        let Some(job) = self.busy.take() else { return };
        match outcome {
            Outcome::Moved => self.disk = None,
            Outcome::Failed { trouble, why } => self.failed(now, job, (trouble, why), effects),
            Outcome::Unproven(why) => {
                if let Job::Apply { id, .. } = job {
                    self.in_place(id, effects);
                    self.trouble(now, id, (Trouble::Unproven, why), effects);
                }
            }
            Outcome::Done => self.did(job, effects),
        }
    }

    fn failed(
        &mut self,
        now: Instant,
        job: Job,
        trouble: (Trouble, String),
        effects: &mut Effects,
    ) {
        let id = match job {
            Job::Take(id) | Job::Test(id) | Job::Load(id) => id,
            Job::Fetch { id, .. } | Job::Apply { id, .. } => id,
            Job::Keep(tree) => self.desired().unwrap_or(Id { number: 0, tree }),
        };
        if let Some((undone, _)) = self.undo.take() {
            let why = format!(
                "it was to be undone, but generation {id} couldn't be put back: {}",
                trouble.1
            );
            self.trouble(now, undone, (Trouble::Refused, why), effects);
            return;
        }
        self.trouble(now, id, trouble, effects);
    }

    fn did(&mut self, job: Job, effects: &mut Effects) {
        match job {
            Job::Take(id) => {
                self.line = self.line.then(id);
                self.highest = self.highest.max(id.number);
                self.staged = Some(id);
                self.problem = None;
                self.accepted = None;
                effects.push(Effect::Event(Event::Taken(id)));
                self.offer_all(effects);
                self.served(effects);
            }
            Job::Keep(tree) => {
                self.kept = Some(tree);
                let event = match self.line.tip() {
                    Some(_) => Event::Drift { kept: tree, id: self.desired() },
                    None => Event::Before { kept: tree },
                };
                effects.push(Effect::Event(event));
            }
            Job::Fetch { id, .. } => self.staged = Some(id),
            Job::Test(id) => self.tested = Some(id),
            Job::Apply { id, .. } => {
                self.in_place(id, effects);
                self.proved(id, effects);
            }
            Job::Load(id) => {
                self.loaded = Some(id.tree);
                self.proved(id, effects);
            }
        }
    }

    fn in_place(&mut self, id: Id, effects: &mut Effects) {
        let news = self.line.tip() != Some(id);
        self.line = std::mem::take(&mut self.applying);
        self.highest = self.highest.max(id.number);
        self.disk = Some((id.tree, None));
        (self.staged, self.tested) = (Some(id), Some(id));
        self.accepted = None;
        if let Some((undone, why)) = self.undo.take() {
            effects.push(Effect::Event(Event::Undone { id: undone, why }));
        } else if news {
            effects.push(Effect::Event(Event::Applied(id)));
        }
        if self.writes() {
            self.offer_all(effects);
        }
    }

    fn proved(&mut self, id: Id, effects: &mut Effects) {
        if self.problem.as_ref().is_some_and(|problem| problem.trouble != Trouble::Undone) {
            self.retry_now();
        }
        if self.proven != Some(id) {
            self.proven = Some(id);
            effects.push(Effect::Event(Event::Proven(id)));
            if self.config.trigger == Trigger::Reload {
                self.offer_all(effects);
            }
        }
    }

    /// What a peer offers at the moment.
    #[must_use]
    pub fn offered_line(&self, peer: &str) -> Option<Line> {
        self.peers.get(peer)?.offer.clone()
    }

    /// What lies on disk, as far as is known.
    #[must_use]
    pub fn disk(&self) -> Option<TreeHash> {
        self.disk.as_ref().map(|(tree, _)| *tree)
    }
}
