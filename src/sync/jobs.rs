//! Starts what the replica asks for, beside the control thread.

use std::sync::Arc;

use standin_core::sync::{Id, Job, Outcome, Trouble};
use standin_tree::store::{self, Bounds, Generation, Origin};
use tokio::sync::mpsc;

use super::driver::{Driver, Fetching, Found, own};
use super::ground::Ground;
use super::made::Wrong;
use super::{fetch, report};

/// Records between two looks at what may be forgotten.
const FORGET_EVERY: u32 = 10;

impl Driver {
    pub(super) fn ground(&self) -> Option<Ground> {
        let running = self.running.as_ref()?;
        Some(Ground {
            store: Arc::clone(&running.store),
            spec: running.spec.clone(),
            lens: running.lens.clone(),
            nginx: self.sight.nginx.clone(),
            journals: self.journals(),
            may_restart: !running.replica.writes(),
            turn: Arc::clone(&self.turn),
            reader: Arc::clone(&running.reader),
        })
    }

    pub(super) fn start(&mut self, job: Job) {
        self.job += 1;
        self.fetching = None;
        let (number, found) = (self.job, self.found.clone());
        let Some(ground) = self.ground() else { return };
        let Some(running) = &mut self.running else { return };
        let done = move |outcome| drop(found.send(Found::Done(number, outcome)));
        match job {
            // What isn't made yet is made first; another look follows.
            Job::Take(_) if running.disk.as_ref().is_some_and(|disk| disk.unready) => {
                done(Outcome::Moved);
            }
            Job::Take(id) => self.keep(id, Origin::Generation, done),
            Job::Keep(tree) => {
                let number = running.replica.view().line.tip().map_or(0, |tip| tip.number);
                self.keep(Id { number, tree }, Origin::Drift, done);
            }
            Job::Fetch { id, from } => self.fetch(id, from, done),
            Job::Test(id) => {
                let found = self.found.clone();
                tokio::task::spawn_blocking(move || {
                    let (outcome, drift) = ground.test(id);
                    let _ = found.send(Found::Drifted(drift));
                    done(outcome);
                });
            }
            Job::Load(id) => {
                let known = running.translation;
                drop(tokio::task::spawn_blocking(move || done(ground.load(id, known))));
            }
            Job::Apply { id, over } => {
                let (known, found) = (running.translation, self.found.clone());
                tokio::task::spawn_blocking(move || {
                    let applied = ground.apply(id, over, known);
                    let _ = found.send(Found::Applied(number, applied));
                });
            }
        }
    }

    /// Puts the tree on disk, as it was read last, into the history.
    fn keep(&mut self, id: Id, origin: Origin, done: impl FnOnce(Outcome) + Send + 'static) {
        let node = self.settings.as_ref().map_or_else(String::new, |it| it.config.node.clone());
        let Some(running) = &mut self.running else { return };
        let Some(disk) = running.disk.as_ref().filter(|disk| disk.tree == id.tree) else {
            done(Outcome::Moved);
            return;
        };
        running.records += 1;
        let forget = running.records.is_multiple_of(FORGET_EVERY);
        let view = running.replica.view();
        let pinned: Vec<store::Id> = view.line.ids().iter().take(2).map(|id| own(*id)).collect();
        let scan = Arc::clone(&disk.scan);
        // A tree that this host made of a generation has a name of its own here.
        let hash = scan.manifest.hash();
        let why = match origin {
            Origin::Generation => "written here",
            Origin::Drift if view.line.tip().is_none() => "before the first generation",
            Origin::Drift => "drift",
        };
        let generation = Generation {
            id: store::Id { number: id.number, hash },
            origin,
            parents: view.line.tip().map(own).into_iter().collect(),
            node,
            when_ms: fetch::unix_ms(),
            why: why.to_owned(),
        };
        let store = Arc::clone(&running.store);
        tokio::task::spawn_blocking(move || {
            let kept = store.record(&generation, &scan.manifest).and_then(|()| store.commit(&[]));
            done(match kept {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed {
                    trouble: Trouble::Passing,
                    why: format!("it can't be kept in the history: {error}"),
                },
            });
            if forget {
                // What couldn't be forgotten is looked at again after the next ten.
                let _ = store.collect(&pinned, Bounds::DEFAULT);
            }
        });
    }

    fn fetch(&mut self, id: Id, from: String, done: impl FnOnce(Outcome) + Send + 'static) {
        let Some(running) = &self.running else { return };
        let Some(outlet) = self.sessions.outlet(&from) else {
            let why = "the peer link was lost".to_owned();
            done(Outcome::Failed { trouble: Trouble::Passing, why });
            return;
        };
        let (came, receiver) = mpsc::channel(fetch::WAITING);
        let line = running.replica.offered_line(&from).unwrap_or_default();
        let roots = running.spec.roots().to_vec();
        let before = running.replica.view().line.tip();
        // What nginx has run with here brings nothing new.
        let had = running.replica.had(id);
        let lies = running.disk.as_ref().map(|disk| Arc::clone(&disk.scan));
        let (dir, lens) = (self.around.state_dir.join("sync"), running.lens.clone());
        let order = fetch::Order {
            id,
            from: from.clone(),
            line,
            outlet,
            store: Arc::clone(&running.store),
            judge: Box::new(move |manifest| report::judge(manifest, &roots)),
            examine: Box::new(move |store, manifest| {
                if had {
                    return Ok(());
                }
                // What nginx would read isn't known without the disk.
                if let Err(Wrong::Disk(why)) = lens.resolved(store, manifest) {
                    return Err((Trouble::Passing, why));
                }
                let new = report::unapproved(store, &lens, manifest, before, lies.as_deref(), &dir);
                if lies.is_none() && !new.is_empty() {
                    return Err((Trouble::Passing, "this node's own files aren't read yet".into()));
                }
                report::ask_for(&new)
            }),
        };
        let task = tokio::spawn(async move { done(fetch::run(order, receiver).await) });
        self.fetching = Some(Fetching { from, came, task: task.abort_handle() });
    }
}
