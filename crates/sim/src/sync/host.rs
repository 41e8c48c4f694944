//! A machine: what a crash leaves of it, and what it doesn't.

use std::collections::{BTreeMap, BTreeSet};

use standin_core::sync::{Message, Replica, Saved, TreeHash};
use standin_core::types::Instant;

use super::job::{Step, Underway};
use super::tree::Trees;
use crate::clock::{Clock, Nanos};

/// What lies at the configured paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Live {
    Whole(TreeHash),
    /// File by file `new` takes the place of `old`; read now it is `read`.
    Half {
        read: TreeHash,
    },
}

/// A swap that isn't through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Journal {
    pub(super) old: TreeHash,
    pub(super) new: TreeHash,
}

/// What nginx runs with, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    pub(super) tree: TreeHash,
    pub(super) at: Nanos,
    /// By an operator, or at nginx's start.
    pub(super) by_hand: bool,
    /// The daemon died before it was told of the tree that is back.
    pub(super) unknown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Up {
    /// The machine is off, or its daemon is dead.
    Off,
    /// The store is being opened.
    Starting,
    Running,
}

/// The link to a peer, as this host knows it.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) state: Option<Message>,
    pub(super) offer: Option<Message>,
}

/// The tree on disk, as it was read last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    pub(super) tree: TreeHash,
    /// It has been so since this time, or for longer.
    pub(super) since: Nanos,
    /// When it was read last.
    pub(super) read: Nanos,
}

/// How the next crash finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trap {
    pub(super) step: Step,
    /// The whole machine, or only the daemon.
    pub(super) machine: bool,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    // What outlives a crash.
    pub(super) live: Live,
    /// Rises with each change of the live tree.
    pub(super) version: u64,
    /// When somebody wrote to it last.
    pub(super) changed: Nanos,
    pub(super) journal: Option<Journal>,
    pub(super) history: BTreeSet<TreeHash>,
    pub(super) saved: Saved,
    pub(super) saved_at: Nanos,
    pub(super) approved: BTreeSet<TreeHash>,
    /// Its nginx; `None` while it doesn't run.
    pub(super) nginx: Option<Loaded>,
    /// Whole trees change places at once.
    pub(super) exchanges: bool,
    /// Nothing can be kept while it is.
    pub(super) full: bool,
    pub(super) clock: Clock,
    /// Whom the election has it see as the holder.
    pub(super) belief: Option<u8>,
    // What doesn't.
    pub(super) up: Up,
    pub(super) life: u32,
    pub(super) replica: Option<Replica>,
    pub(super) disk: Option<Disk>,
    pub(super) unsure: bool,
    /// When the last reading is told of.
    pub(super) told_at: Nanos,
    /// An event of inotify waits.
    pub(super) hinted: bool,
    /// What lay there, and when that was written down, before this life; no tree: one that
    /// isn't known.
    pub(super) had: Option<(Option<TreeHash>, Nanos)>,
    /// When a tree was put there, or put back, whose times are older.
    pub(super) placed: Nanos,
    pub(super) sessions: BTreeMap<u8, Session>,
    /// What the shell knows of the holder and of nginx.
    pub(super) holder: Option<u8>,
    pub(super) nginx_seen: bool,
    pub(super) looking: bool,
    /// The number of the job, and what it is about.
    pub(super) job: u64,
    pub(super) underway: Option<Underway>,
    pub(super) ticks_at: Nanos,
    pub(super) token: u32,
    pub(super) trap: Option<Trap>,
}

impl Host {
    pub(super) fn new(name: String, tree: TreeHash, clock: Clock, exchanges: bool) -> Self {
        Self {
            name,
            live: Live::Whole(tree),
            version: 0,
            changed: 0,
            journal: None,
            history: BTreeSet::new(),
            saved: Saved::default(),
            saved_at: 0,
            approved: BTreeSet::new(),
            nginx: Some(Loaded { tree, at: 0, by_hand: true, unknown: false }),
            exchanges,
            full: false,
            clock,
            belief: None,
            up: Up::Off,
            life: 0,
            replica: None,
            disk: None,
            unsure: false,
            told_at: 0,
            hinted: false,
            had: None,
            placed: 0,
            sessions: BTreeMap::new(),
            holder: None,
            nginx_seen: false,
            looking: false,
            job: 0,
            underway: None,
            ticks_at: Nanos::MAX,
            token: 0,
            trap: None,
        }
    }

    pub(super) fn running(&self) -> bool {
        self.up == Up::Running
    }

    pub(super) fn instant(&self, now: Nanos) -> Instant {
        self.clock.read(now)
    }

    /// The whole tree that lies there.
    pub(super) const fn whole(&self) -> Option<TreeHash> {
        match self.live {
            Live::Whole(tree) => Some(tree),
            Live::Half { .. } => None,
        }
    }

    /// What a reading finds.
    pub(super) const fn read(&self) -> TreeHash {
        match self.live {
            Live::Whole(tree) => tree,
            Live::Half { read } => read,
        }
    }

    pub(super) const fn put(&mut self, live: Live) {
        self.live = live;
        self.version += 1;
    }

    /// The daemon is gone, with all that it had in memory.
    pub(super) fn die(&mut self) {
        let told = self.underway.as_ref().is_some_and(Underway::told);
        if let Some(nginx) = self.nginx.as_mut().filter(|_| told) {
            nginx.unknown = true;
        }
        self.up = Up::Off;
        self.life += 1;
        self.replica = None;
        self.disk = None;
        self.unsure = false;
        self.hinted = false;
        self.sessions.clear();
        (self.holder, self.nginx_seen, self.looking) = (None, false, false);
        self.job += 1;
        self.underway = None;
        self.ticks_at = Nanos::MAX;
        self.token += 1;
        self.trap = None;
    }

    /// Puts back what a cut off swap has left, as `standin-recover.service` and each start do.
    /// Whether there was something.
    pub(super) fn recover(&mut self) -> bool {
        let Some(Journal { old, new }) = self.journal.take() else { return false };
        if let Some(tree) = self.whole().filter(|tree| *tree != old && *tree != new) {
            // Edited since: it is kept.
            self.history.insert(tree);
        }
        self.put(Live::Whole(old));
        true
    }

    /// nginx starts, if it can.
    pub(super) fn start_nginx(&mut self, now: Nanos, number: u8, trees: &Trees) {
        if let Some(tree) = self.whole().filter(|tree| trees.good(*tree, number)) {
            self.nginx = Some(Loaded { tree, at: now, by_hand: true, unknown: false });
        }
    }
}
