//! The checkers: what must never be, and what must be once all is quiet.

use std::collections::{BTreeMap, BTreeSet};

use standin_core::sync::{Event, Id, Job, Message, State, TreeHash, Trouble};

use super::tree::bit;
use super::world::World;
use crate::clock::{Nanos, SECOND};

/// After so long a host knows what its connected peers have: what is held up on the way, and some.
const KNOWN_AFTER: Nanos = 10 * SECOND;

/// What the checkers remember.
#[derive(Debug)]
pub(super) struct Check {
    stepped: Vec<(Nanos, u32)>,
    offered: Vec<Option<Id>>,
    first_offers: BTreeMap<(u8, u8), Message>,
    /// What a host has, and since when.
    tips: Vec<(Option<Id>, Nanos)>,
    /// Who was asked to hold.
    pub(super) holds: Vec<bool>,
    /// Trees that an operator let through although much of the one before is gone.
    pub(super) accepted: BTreeSet<TreeHash>,
    /// How often a cluster was found in order.
    pub(super) settled: u64,
}

impl Check {
    pub(super) fn new(hosts: u8) -> Self {
        let hosts = usize::from(hosts);
        Self {
            stepped: vec![(0, 0); hosts],
            offered: vec![None; hosts],
            first_offers: BTreeMap::new(),
            tips: vec![(None, 0); hosts],
            holds: vec![false; hosts],
            accepted: BTreeSet::new(),
            settled: 0,
        }
    }

    /// Steps that a replica has taken at this very time.
    pub(super) fn steps(&mut self, host: u8, now: Nanos) -> u32 {
        let (at, steps) = &mut self.stepped[usize::from(host)];
        if *at != now {
            (*at, *steps) = (now, 0);
        }
        *steps += 1;
        *steps
    }

    pub(super) fn offered(&mut self, host: u8, id: Option<Id>) {
        self.offered[usize::from(host)] = id;
    }

    /// For a shell that says old things again.
    pub(super) fn first_offer(&mut self, to: u8, from: u8, message: &Message) -> Message {
        self.first_offers.entry((to, from)).or_insert_with(|| message.clone()).clone()
    }
}

impl World {
    /// A host that starts again knows what it has told others.
    pub(super) fn restarted(&mut self, host: u8) {
        let it = self.of(host);
        let Some(told) = self.check.offered[usize::from(host)] else { return };
        if !it.saved.line.has(told) && it.saved.highest < told.number {
            let what = format!("P5: {} has offered generation {told} and forgot it", it.name);
            self.fail(what);
        } else if !it.history.contains(&told.tree) {
            let what = format!("P5: {} has offered {told}, which isn't in its history", it.name);
            self.fail(what);
        }
    }

    /// standin is about to put `new` in the place of `old`.
    pub(super) fn overwrites(&mut self, host: u8, old: TreeHash, new: TreeHash) {
        let it = self.of(host);
        if old != new && !it.history.contains(&old) {
            let what = format!("P5: {}: {old} is overwritten, and isn't in the history", it.name);
            self.fail(what);
        }
        let facts = self.trees.facts(new);
        let it = self.of(host);
        if facts.refused & bit(host) != 0 {
            let what = format!("P4: {}: {new} goes live, and its test refuses it", it.name);
            self.fail(what);
        } else if facts.asks & bit(host) != 0 && !it.approved.contains(&new) && old != new {
            // Its own operator's files are approved by being there.
            let own = it.saved.line.ids().iter().any(|id| id.tree == new);
            if !own {
                let what = format!("P4: {}: {new} goes live without approval", it.name);
                self.fail(what);
            }
        }
    }

    pub(super) fn judge_job(&mut self, host: u8, job: &Job) {
        let it = self.of(host);
        let name = it.name.clone();
        if self.check.holds[usize::from(host)] {
            let what = format!("hold: {name} is held, and begins {job:?}");
            return self.fail(what);
        }
        match job {
            Job::Take(id) => {
                let tip = it.saved.line.tip();
                let lost = tip.is_some_and(|tip| self.trees.lost(tip.tree, id.tree));
                if self.trees.facts(id.tree).half {
                    self.fail(format!("P4: {name} ships half of a change as {id}"));
                } else if lost && !self.check.accepted.contains(&id.tree) {
                    self.fail(format!("deletion: {name} ships {id}, and nobody was asked"));
                }
            }
            Job::Apply { id, .. } => self.judge_goal(host, *id),
            _ => {}
        }
    }

    /// A follower goes to what the writer has, not to what it had once.
    fn judge_goal(&mut self, host: u8, id: Id) {
        let it = self.of(host);
        let Some(replica) = it.replica.as_ref().filter(|replica| !replica.writes()) else { return };
        let writer = replica.writer().and_then(|name| self.number(name));
        let undone = replica.view().state.problem.is_some_and(|it| it.trouble == Trouble::Undone);
        let Some(writer) = writer.filter(|_| !undone) else { return };
        let (tip, since) = self.check.tips[usize::from(writer)];
        let known = self
            .linked_since(host, writer)
            .is_some_and(|at| at.max(since) + KNOWN_AFTER < self.now);
        let behind = self.of(writer).saved.line.has(id) && tip != Some(id);
        if known && behind {
            let (name, of) = (&self.of(host).name, &self.of(writer).name);
            let what = format!("stale: {name} goes to {id}, which {of} left long ago");
            self.fail(what);
        }
    }

    /// After each step.
    pub(super) fn stepped(&mut self, host: u8) {
        let tip = self.of(host).saved.line.tip();
        let known = &mut self.check.tips[usize::from(host)];
        if known.0 != tip {
            *known = (tip, self.now);
        }
    }

    pub(super) fn told(&mut self, host: u8, event: &Event) {
        *self.events.entry(event.kind().to_owned()).or_default() += 1;
        self.note(host, || event.to_string());
        let it = self.of(host);
        // An edit that the shell hasn't read yet may have been loaded by hand already.
        let by_hand = it.nginx.is_some_and(|nginx| nginx.by_hand);
        let read = it.disk.map(|disk| disk.tree) == it.whole();
        // It died between putting the old tree back and having it loaded; nothing tells of that.
        let unknown = it.nginx.is_some_and(|nginx| nginx.unknown);
        if let (Event::Proven(id), Some(nginx)) = (event, it.nginx)
            && nginx.tree != id.tree
            && (read || !by_hand)
            && !unknown
        {
            let what = format!(
                "proof: {} says that nginx serves {id}, and it serves {}",
                it.name, nginx.tree
            );
            self.fail(what);
        }
    }

    /// All has been quiet for long: every node that can has what the writer has.
    pub(super) fn in_order(&mut self) {
        let Some(writer) = self.rightful() else {
            return self.fail("convergence: nobody holds the VIP".to_owned());
        };
        let Some(view) = self.of(writer).replica.as_ref().map(|it| it.view()) else {
            return self.fail("convergence: the writer doesn't run".to_owned());
        };
        let name = &self.of(writer).name;
        let Some(tip) = view.line.tip() else {
            let what = format!("convergence: {name} writes, and has no generation");
            return self.fail(what);
        };
        let stopped = self.of(writer).replica.as_ref().and_then(|it| it.stopped()).is_some();
        let mut faults: Vec<String> = Vec::new();
        faults.extend(self.serves(writer, &view.state, tip));
        for host in self.numbers().filter(|host| *host != writer) {
            let Some(view) = self.of(host).replica.as_ref().map(|it| it.view()) else {
                faults.push(format!("{} doesn't run", self.of(host).name));
                continue;
            };
            faults.extend(self.follows(host, &view.state, tip, stopped));
        }
        match faults.is_empty() {
            true => self.check.settled += 1,
            false => self.fail(format!("convergence: {}", faults.join("; "))),
        }
    }

    /// Whether a host has, serves and says `tip`.
    fn serves(&self, host: u8, state: &State, tip: Id) -> Option<String> {
        let it = self.of(host);
        let nginx = it.nginx.map(|nginx| nginx.tree);
        let right = state.applied == Some(tip)
            && state.proven == Some(tip)
            && it.whole() == Some(tip.tree)
            && (nginx == Some(tip.tree) || it.nginx.is_some_and(|nginx| nginx.unknown));
        (!right).then(|| {
            format!(
                "{} should serve {tip}; it has {:?}, nginx {nginx:?}, and says {state:?}",
                it.name, it.live
            )
        })
    }

    fn follows(&self, host: u8, state: &State, tip: Id, stopped: bool) -> Option<String> {
        let name = &self.of(host).name;
        let undone = state
            .problem
            .as_ref()
            .is_some_and(|problem| problem.trouble == Trouble::Undone && problem.id == tip);
        if stopped || undone {
            // There was nothing to go back to.
            let first = self.of(host).saved.line.parent().is_none();
            // Or nobody has it any more; it says so.
            let told = state.problem.as_ref().is_some_and(|it| it.trouble != Trouble::Undone);
            let there = state.applied == Some(tip) && !first && !told;
            return there.then(|| format!("{name} has {tip}, which was undone: {state:?}"));
        }
        if self.trees.good(tip.tree, host) && !self.asks(host, tip.tree) {
            return self.serves(host, state, tip);
        }
        let told = state.problem.as_ref().is_some_and(|problem| problem.id == tip);
        // Or it wrote it itself, and had it approved by that.
        let serves = self.serves(host, state, tip).is_none();
        (!told && !serves)
            .then(|| format!("{name} can't have {tip} and doesn't say why: {state:?}"))
    }
}
