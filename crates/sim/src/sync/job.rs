//! What the shell does for a replica, step by step, and where each can be cut off.

use standin_core::sync::{Id, Job, Outcome, TreeHash, Trouble};

use super::Sabotage;
use super::host::{Journal, Live, Loaded, Trap, Up};
use super::tree::{Facts, bit};
use super::world::{Due, World};
use crate::clock::{MILLISECOND, Nanos, SECOND};

/// Nothing came for so long: a fetch is begun anew.
const STUCK: Nanos = 10 * SECOND;

/// A step that is due of a job; before each the host may die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Keep,
    Fetch,
    Test,
    /// Of an apply: read what lies there.
    Read,
    /// Test what is staged.
    Try,
    Swap,
    /// The other half of a swap file by file.
    Swapped,
    Reload,
    Prove,
    Undo,
    /// nginx is told of the old tree again.
    Back,
    /// Reload what lies there.
    Load,
    /// What became of it is to be told.
    Told,
    Saving,
    Saved,
}

impl Step {
    pub(super) const TRAPS: [Self; 15] = [
        Self::Keep,
        Self::Fetch,
        Self::Test,
        Self::Read,
        Self::Try,
        Self::Swap,
        Self::Swapped,
        Self::Reload,
        Self::Prove,
        Self::Undo,
        Self::Back,
        Self::Load,
        Self::Told,
        Self::Saving,
        Self::Saved,
    ];

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Keep => "dies before a tree is kept",
            Self::Fetch => "dies while it fetches",
            Self::Test => "dies while it tests",
            Self::Read => "dies before it reads the live tree",
            Self::Try => "dies while it tests what is staged",
            Self::Swap => "dies before a swap",
            Self::Swapped => "dies in the middle of a swap",
            Self::Reload => "dies before the reload",
            Self::Prove => "dies before the proof",
            Self::Undo => "dies before it undoes a swap",
            Self::Back => "dies before it reloads the old tree",
            Self::Load => "dies before the active loads",
            Self::Told => "dies before the replica hears of it",
            Self::Saving => "dies before it is written down",
            Self::Saved => "dies after it is written down",
        }
    }
}

/// The job that is under way.
#[derive(Clone, Debug)]
pub(super) struct Underway {
    pub(super) job: Job,
    /// The session that is fetched over.
    session: u64,
    /// What was found there, and its version.
    old: TreeHash,
    version: u64,
    /// nginx was told of the new tree.
    told: bool,
    why: Option<(Trouble, &'static str)>,
}

impl Underway {
    /// nginx was told of a tree that is to be put back.
    pub(super) const fn told(&self) -> bool {
        self.told && self.why.is_some()
    }
}

pub(super) fn is_apply(underway: Option<&Underway>) -> bool {
    underway.is_some_and(|it| matches!(it.job, Job::Apply { .. }))
}

fn failed(trouble: Trouble, why: &str) -> Outcome {
    Outcome::Failed { trouble, why: why.to_owned() }
}

impl World {
    /// Whether the host dies just now.
    pub(super) fn trapped(&mut self, host: u8, step: Step) -> bool {
        let Some(Trap { machine, .. }) = self.of(host).trap.filter(|trap| trap.step == step) else {
            return false;
        };
        self.fault(step.words());
        self.crash(host, machine);
        true
    }

    pub(super) fn begin_job(&mut self, host: u8, job: Job) {
        self.note(host, || format!("begins {job:?}"));
        let it = self.host(host);
        it.job += 1;
        let old = it.read();
        let step = match &job {
            Job::Take(_) | Job::Keep(_) => Step::Keep,
            Job::Fetch { .. } => Step::Fetch,
            Job::Test(_) => Step::Test,
            Job::Apply { .. } => Step::Read,
            Job::Load(_) => Step::Load,
        };
        let mut session = 0;
        if let Job::Fetch { from, .. } = &job {
            let from = self.number(from);
            let known = from.and_then(|from| self.of(host).sessions.get(&from));
            session = known.map_or(0, |known| known.id);
        }
        self.judge_job(host, &job);
        let underway =
            Underway { job: job.clone(), session, old, version: 0, told: false, why: None };
        self.host(host).underway = Some(underway);
        if let Job::Take(Id { tree, .. }) | Job::Keep(tree) = job
            && self.of(host).disk.is_none_or(|disk| disk.tree != tree)
        {
            return self.done(host, Outcome::Moved);
        }
        let time = match step {
            Step::Fetch => (2 * MILLISECOND, 20 * SECOND),
            Step::Test | Step::Load => (20 * MILLISECOND, 8 * SECOND),
            _ => (MILLISECOND / 2, 40 * MILLISECOND),
        };
        self.next(host, time, step);
    }

    fn next(&mut self, host: u8, time: (Nanos, Nanos), step: Step) {
        let job = self.of(host).job;
        self.later(time, Due::Job { host, job, step });
    }

    fn done(&mut self, host: u8, outcome: Outcome) {
        let job = self.of(host).job;
        self.later((MILLISECOND / 20, 20 * MILLISECOND), Due::Done { host, job, outcome });
    }

    /// The link over which a host fetches is gone.
    pub(super) fn fetch_lost(&mut self, host: u8, peer: u8) {
        let name = self.of(peer).name.clone();
        let fetches = self
            .of(host)
            .underway
            .as_ref()
            .is_some_and(|it| matches!(&it.job, Job::Fetch { from, .. } if *from == name));
        if fetches {
            self.host(host).job += 1;
            self.done(host, failed(Trouble::Passing, "the peer link was lost"));
        }
    }

    pub(super) fn work(&mut self, host: u8, step: Step) {
        if self.trapped(host, step) {
            return;
        }
        let Some(underway) = self.of(host).underway.clone() else { return };
        match (step, &underway.job) {
            (Step::Keep, Job::Take(Id { tree, .. }) | Job::Keep(tree)) => self.keep(host, *tree),
            (Step::Fetch, Job::Fetch { id, from }) => {
                self.fetched(host, *id, from, underway.session);
            }
            (Step::Test, Job::Test(id)) => {
                let outcome = self
                    .tried(host, id.tree)
                    .map_or(Outcome::Done, |(trouble, why)| failed(trouble, why));
                self.done(host, outcome);
            }
            (Step::Load, Job::Load(id)) => self.load(host, *id),
            (_, Job::Apply { id, over }) => self.apply(host, step, (*id, *over), &underway),
            _ => {}
        }
    }

    fn keep(&mut self, host: u8, tree: TreeHash) {
        if self.of(host).full {
            return self.done(host, failed(Trouble::Passing, "it can't be kept"));
        }
        if self.sabotage != Sabotage::ForgetsTrees {
            self.host(host).history.insert(tree);
        }
        self.done(host, Outcome::Done);
    }

    fn fetched(&mut self, host: u8, id: Id, from: &str, session: u64) {
        let Some(peer) = self.number(from) else { return };
        if self.of(host).history.contains(&id.tree) && !self.asks(host, id.tree) {
            return self.done(host, Outcome::Done);
        }
        let known = self.of(host).sessions.get(&peer).is_some_and(|known| known.id == session);
        if !known {
            return self.done(host, failed(Trouble::Passing, "the peer link was lost"));
        }
        let outcome = if !self.net.alive(host, peer, session) || self.of(peer).up != Up::Running {
            let job = self.of(host).job;
            let outcome = failed(Trouble::Passing, "nothing came for 10 s");
            self.queue.push(self.now + STUCK, Due::Done { host, job, outcome });
            return;
        } else if self.of(host).full {
            failed(Trouble::Passing, "it couldn't be kept")
        } else if !self.of(peer).history.contains(&id.tree) {
            failed(Trouble::Passing, "it doesn't have it any more")
        } else {
            self.host(host).history.insert(id.tree);
            if self.asks(host, id.tree) {
                failed(Trouble::Approval, "it could do more than serve")
            } else {
                Outcome::Done
            }
        };
        self.done(host, outcome);
    }

    /// Whether a host's operator has to approve a tree.
    pub(super) fn asks(&self, host: u8, tree: TreeHash) -> bool {
        let asks = self.trees.facts(tree).asks & bit(host) != 0;
        asks && !self.of(host).approved.contains(&tree) && self.sabotage != Sabotage::SkipsApproval
    }

    /// What nginx's test says of a tree, as if it stood in its place.
    fn tried(&self, host: u8, tree: TreeHash) -> Option<(Trouble, &'static str)> {
        if !self.of(host).history.contains(&tree) {
            return Some((Trouble::Passing, "it isn't in the history"));
        }
        if self.of(host).full {
            return Some((Trouble::Passing, "it couldn't be staged"));
        }
        let refused = self.trees.facts(tree).refused & bit(host) != 0
            && self.sabotage != Sabotage::SkipsTests;
        refused.then_some((Trouble::Refused, "emerg"))
    }

    fn load(&mut self, host: u8, id: Id) {
        let Some(tree) = self.of(host).whole() else { return };
        if self.of(host).nginx.is_none() {
            return self.done(host, failed(Trouble::Refused, "nginx doesn't run on this node"));
        }
        if tree != id.tree {
            return self.done(host, Outcome::Moved);
        }
        if !self.trees.good(tree, host) {
            return self.done(host, failed(Trouble::Refused, "emerg"));
        }
        self.loads(host);
        self.done(host, Outcome::Done);
    }

    /// standin has nginx load what lies there.
    fn loads(&mut self, host: u8) {
        if self.sabotage == Sabotage::InventsProofs {
            return;
        }
        let now = self.now;
        let it = self.host(host);
        match it.whole() {
            Some(tree) => it.nginx = Some(Loaded { tree, at: now, by_hand: false, unknown: false }),
            None => {
                let what = format!("P4: {}: nginx is told to load half of a change", it.name);
                self.fail(what);
            }
        }
    }

    fn apply(&mut self, host: u8, step: Step, (id, over): (Id, TreeHash), underway: &Underway) {
        let Underway { old, version, .. } = *underway;
        match step {
            Step::Read => {
                let found = self.of(host).read();
                if found != over && self.sabotage != Sabotage::SwapsBlindly {
                    return self.done(host, Outcome::Moved);
                }
                let version = self.of(host).version;
                self.underway(host, |it| (it.old, it.version) = (found, version));
                self.next(host, (5 * MILLISECOND, 8 * SECOND), Step::Try);
            }
            Step::Try => match self.tried(host, id.tree) {
                Some((trouble, why)) => self.done(host, failed(trouble, why)),
                None => self.next(host, (MILLISECOND / 2, 20 * MILLISECOND), Step::Swap),
            },
            Step::Swap => {
                let moved = self.of(host).version != version;
                if moved && self.sabotage != Sabotage::SwapsBlindly {
                    let why = "somebody wrote to the files just then";
                    return self.done(host, failed(Trouble::Passing, why));
                }
                self.swap(host, self.of(host).read(), id.tree);
            }
            Step::Swapped => {
                self.host(host).put(Live::Whole(id.tree));
                self.swapped(host);
            }
            Step::Reload => self.reload(host, id.tree, version),
            Step::Prove => self.prove(host, version),
            Step::Undo => self.put_back(host, old, id.tree),
            Step::Back => {
                if underway.told && self.of(host).nginx.is_some() {
                    self.loads(host);
                }
                let (trouble, why) = underway.why.unwrap_or((Trouble::Refused, "emerg"));
                self.done(host, failed(trouble, why));
            }
            _ => {}
        }
    }

    fn underway(&mut self, host: u8, change: impl FnOnce(&mut Underway)) {
        if let Some(underway) = &mut self.host(host).underway {
            change(underway);
        }
    }

    fn swap(&mut self, host: u8, old: TreeHash, new: TreeHash) {
        self.overwrites(host, old, new);
        let it = self.host(host);
        it.journal = Some(Journal { old, new });
        if it.exchanges {
            it.put(Live::Whole(new));
            return self.swapped(host);
        }
        let facts = Facts { half: true, ..self.trees.facts(new) };
        let read = self.trees.make(facts);
        self.host(host).put(Live::Half { read });
        if self.sabotage == Sabotage::LoadsHalf {
            self.loads(host);
        }
        self.next(host, (MILLISECOND, 300 * MILLISECOND), Step::Swapped);
    }

    fn swapped(&mut self, host: u8) {
        let version = self.of(host).version;
        self.underway(host, |it| it.version = version);
        self.next(host, (MILLISECOND, 30 * MILLISECOND), Step::Reload);
    }

    fn undo(&mut self, host: u8, trouble: Trouble, why: &'static str) {
        self.underway(host, |it| it.why = Some((trouble, why)));
        self.next(host, (MILLISECOND, 30 * MILLISECOND), Step::Undo);
    }

    fn reload(&mut self, host: u8, tree: TreeHash, version: u64) {
        if self.of(host).version != version {
            return self.undo(host, Trouble::Passing, "somebody wrote to the files just then");
        }
        if self.of(host).nginx.is_none() {
            self.host(host).journal = None;
            let outcome = Outcome::Unproven("nginx doesn't run on this node".to_owned());
            return self.done(host, outcome);
        }
        if self.trees.facts(tree).unloadable & bit(host) != 0 {
            // Its old workers run on.
            return self.undo(host, Trouble::Refused, "emerg at the reload");
        }
        self.loads(host);
        self.underway(host, |it| it.told = true);
        self.next(host, (5 * MILLISECOND, 2 * SECOND), Step::Prove);
    }

    fn prove(&mut self, host: u8, version: u64) {
        if self.of(host).nginx.is_none() {
            return self.undo(host, Trouble::Passing, "nginx ended just then");
        }
        if self.of(host).version != version {
            return self.undo(host, Trouble::Passing, "somebody wrote to the files just then");
        }
        self.host(host).journal = None;
        self.done(host, Outcome::Done);
    }

    fn put_back(&mut self, host: u8, old: TreeHash, new: TreeHash) {
        let it = self.host(host);
        if let Some(edited) = it.whole().filter(|tree| *tree != new) {
            // Edited behind the swap's back: it is kept.
            it.history.insert(edited);
        }
        it.put(Live::Whole(old));
        it.journal = None;
        self.next(host, (MILLISECOND, SECOND), Step::Back);
    }
}
