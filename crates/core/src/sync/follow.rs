//! What a replica does next: as the writer with its own disk, as a follower with the writer's offer.

use super::replica::{AGAIN, Held, Replica};
use super::{
    Effect, Effects, Event, Id, Job, Line, Order, Outcome, Problem, Relation, Step, TreeHash,
    Trigger, Trouble,
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
        self.rollback = self.rollback.filter(|tree| *tree != disk);
        if let Some(tree) = self.rollback {
            if self.kept_first(disk, effects) {
                let id = Id { number: next, tree };
                self.applying = self.line.then(id);
                self.start(Job::Apply { id, over: disk }, effects);
            }
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
        // The last step of an `apply` is a reload that goes well now, not one that went well once.
        if self.ordered.as_ref().is_some_and(|ordered| ordered.step == Step::Own) {
            return;
        }
        let Some(tip) = self.line.tip() else { return };
        if self.proven == Some(tip) || self.loaded != Some(tip.tree) {
            return;
        }
        (self.proven, self.strayed) = (Some(tip), false);
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
        if released && self.undo.as_ref().is_some_and(|(id, _)| *id != goal) {
            // What takes its place is there already.
            self.undo = None;
        }
        if self.busy.is_none() && self.undone(effects) {
            return;
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
        if self.busy.is_some() || self.stuck_at(goal) {
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
    /// that is under way, or has to wait.
    fn keep_drift(&mut self, goal: Option<Id>, effects: &mut Effects) -> bool {
        let Some((disk, _)) = self.disk else { return false };
        // Before its first generation a node's files are only kept if they are to be overwritten.
        if goal.is_some_and(|id| id.tree == disk) || self.line.tip().is_none() && goal.is_none() {
            return false;
        }
        !self.kept_first(disk, effects)
    }

    /// Whether what lies on disk is in the history; else it gets there, or waits for another try.
    fn kept_first(&mut self, disk: TreeHash, effects: &mut Effects) -> bool {
        if self.line.tip().is_some_and(|tip| tip.tree == disk) || self.kept == Some(disk) {
            return true;
        }
        if self.unkept != Some(disk) {
            self.start(Job::Keep(disk), effects);
        }
        false
    }

    /// Says what becomes of this node's own changes, if the writer doesn't have them.
    fn may_follow(&mut self, writer: &str, line: &Line, goal: Id, effects: &mut Effects) -> bool {
        let relation = self.line.relation(line);
        let (writer, theirs) = (writer.to_owned(), goal);
        // Without a tip there is no relation but Newer.
        let own = self.line.tip().unwrap_or(goal);
        // Between equal trees there is nothing to ask about: the writer's history goes on here too.
        let equal = own.tree == goal.tree || self.disk() == Some(goal.tree);
        let event = match relation {
            Relation::Unrelated if self.accepted != Some(goal.tree) && !equal => {
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

    /// Goes back, as the writer ordered. Whether that is under way, or has to wait.
    fn undone(&mut self, effects: &mut Effects) -> bool {
        let Some((id, why)) = self.undo.clone() else { return false };
        let Some(back) = (self.line.tip() == Some(id)).then(|| self.back()).flatten() else {
            self.problem = Some(Problem { id, trouble: Trouble::Undone, why });
            self.undo = None;
            return false;
        };
        let Some((disk, _)) = self.disk.clone().filter(|_| self.again.is_none()) else {
            return true;
        };
        self.problem = Some(Problem { id, trouble: Trouble::Undone, why });
        if self.staged != Some(back)
            && let Some(writer) = self.writer().map(str::to_owned)
        {
            // What it came of may never have been here.
            self.start(Job::Fetch { id: back, from: writer }, effects);
        } else if self.kept_first(disk, effects) {
            self.undoing = true;
            self.applying = self.line.back_to(back);
            self.start(Job::Apply { id: back, over: disk }, effects);
        }
        true
    }

    /// What this node had before its last generation; it may have been away for those between.
    fn back(&self) -> Option<Id> {
        let had = self.before.tip().filter(|id| self.line.has(*id) && self.line.tip() != Some(*id));
        had.or_else(|| self.line.parent())
    }

    pub(super) fn ordered_by(&mut self, _now: Instant, from: &str, order: Order) {
        match order {
            Order::Test(id) => {
                if self.problem.as_ref().is_some_and(|problem| problem.id == id) {
                    self.retry_now();
                }
                self.test_asked = Some(id);
                self.stays = None;
            }
            Order::Apply(id) => {
                if let Some(peer) = self.peers.get_mut(from)
                    && peer.offer.as_ref().and_then(Line::tip) == Some(id)
                {
                    peer.released = true;
                }
            }
            // It was tried, and the writer has been told that it can't be.
            Order::Undo { id, .. } if self.stays == Some(id) => {}
            Order::Undo { id, why } => {
                self.undo = Some((id, why));
                // Another test of it is no leave to apply it.
                if let Some(peer) = self.peers.get_mut(from)
                    && peer.offer.as_ref().and_then(Line::tip) == Some(id)
                {
                    peer.released = false;
                }
            }
        }
    }

    fn retry_now(&mut self) {
        self.problem = None;
        (self.again, self.unkept) = (None, None);
    }

    pub(super) fn done(&mut self, now: Instant, outcome: Outcome, effects: &mut Effects) {
        let Some(job) = self.busy.take() else { return };
        if let Job::Apply { id, .. } = &job
            && self.rollback == Some(id.tree)
            && outcome != Outcome::Moved
        {
            self.rollback = None;
        }
        let applied_back = std::mem::take(&mut self.undoing);
        // What can't be had can't be put back.
        let undoing = applied_back
            || self.undo.is_some()
                && matches!(&job, Job::Fetch { id, .. } if self.back() == Some(*id));
        match outcome {
            Outcome::Moved => (self.disk, self.strayed) = (None, true),
            Outcome::Failed { trouble, why } if undoing => {
                self.not_undone(now, (trouble, why), effects);
            }
            Outcome::Failed { trouble, why } => self.failed(now, job, (trouble, why), effects),
            Outcome::Unproven(why) => {
                if let Job::Apply { id, .. } = job {
                    self.in_place(id, undoing, effects);
                    self.unproven(id);
                    // That it was undone must not be forgotten for this.
                    if !undoing {
                        self.trouble(now, id, (Trouble::Unproven, why), effects);
                    }
                }
            }
            Outcome::Done => self.did(job, undoing, effects),
        }
    }

    fn not_undone(
        &mut self,
        now: Instant,
        (trouble, why): (Trouble, String),
        effects: &mut Effects,
    ) {
        let Some((id, _)) = self.undo.clone() else { return };
        if trouble != Trouble::Passing {
            (self.undo, self.stays) = (None, Some(id));
        }
        let why =
            format!("it was to be undone, but what was there before can't be put back: {why}");
        self.trouble(now, id, (trouble, why), effects);
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
            Job::Keep(tree) => {
                self.unkept = Some(tree);
                self.desired().unwrap_or(Id { number: 0, tree })
            }
        };
        self.trouble(now, id, trouble, effects);
    }

    fn did(&mut self, job: Job, undoing: bool, effects: &mut Effects) {
        match job {
            Job::Take(id) => {
                self.line = self.line.then(id);
                self.highest = self.highest.max(id.number);
                self.staged = Some(id);
                self.strayed = false;
                self.problem = None;
                self.accepted = None;
                if self.disk() != Some(id.tree) {
                    // What was lost was judged by the generation before.
                    self.disk = None;
                    effects.push(Effect::Scan);
                }
                effects.push(Effect::Event(Event::Taken(id)));
                self.offer_all(effects);
                self.served(effects);
            }
            Job::Keep(tree) => {
                self.kept = Some(tree);
                self.forget_problem(&[Trouble::Passing]);
                let event = match self.line.tip() {
                    Some(_) => {
                        let id = self.desired().filter(|_| self.rollback.is_none());
                        Event::Drift { kept: tree, id }
                    }
                    None => Event::Before { kept: tree },
                };
                effects.push(Effect::Event(event));
            }
            Job::Fetch { id, .. } => {
                self.staged = Some(id);
                self.forget_problem(&[Trouble::Passing]);
            }
            Job::Test(id) => {
                self.tested = Some(id);
                self.forget_problem(&[Trouble::Passing]);
            }
            Job::Apply { id, .. } => {
                self.in_place(id, undoing, effects);
                self.proved(id, effects);
            }
            Job::Load(id) => {
                self.loaded = Some(id.tree);
                self.proved(id, effects);
            }
        }
    }

    fn in_place(&mut self, id: Id, undoing: bool, effects: &mut Effects) {
        let news = self.line.tip() != Some(id);
        let before = std::mem::replace(&mut self.line, std::mem::take(&mut self.applying));
        if news {
            self.before = before;
        }
        self.highest = self.highest.max(id.number);
        self.disk = Some((id.tree, None));
        (self.staged, self.tested) = (Some(id), Some(id));
        self.accepted = None;
        if let Some((undone, why)) = self.undo.take_if(|_| undoing) {
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
        self.patience = AGAIN;
        self.strayed = false;
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

    /// Whether this node had it in place before its last apply: an undo goes back to it.
    #[must_use]
    pub fn had(&self, id: Id) -> bool {
        self.before.tip() == Some(id)
    }

    /// What lies on disk, as far as is known.
    #[must_use]
    pub fn disk(&self) -> Option<TreeHash> {
        self.disk.as_ref().map(|(tree, _)| *tree)
    }
}
