//! What lies on disk: read, seen through this node's values, and told to the replica. On the node that
//! writes, what its patterns ask for is made first.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use standin_core::sync::{Input, Job, TreeHash};
use standin_tree::build::Builder;
use standin_tree::changes::suspicion;
use standin_tree::manifest::Manifest;
use standin_tree::read::Scan;
use standin_tree::store::{Generation, Id, Origin, Store};
use standin_tree::watch::{Cause, Report};

use tokio::time::Instant;

use super::driver::{Disk, Driver, own};
use super::ground::{Translation, newest};
use super::made::{self, Made, Seen, Stale, Standing};
use super::{fetch, report, stage};
use crate::control::log::Severity;

/// After a disk that was full, or has failed, the files are looked at again, ever more rarely.
pub(super) const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_AT_MOST: Duration = Duration::from_secs(120);

impl Driver {
    pub(super) async fn reported(&mut self, report: Report) {
        let Some(running) = &mut self.running else { return };
        match report {
            Report::Tree { scan, cause, began, hinted, .. } => {
                self.read(scan, (cause, hinted), began.into()).await;
            }
            Report::Touched => self.touched().await,
            Report::Unreadable(error) => {
                let text = format!("the shared files can't be read: {error}; it is tried again");
                running.unreadable = Some(text.clone());
                self.tell(Severity::Error, "sync_failed", None, text);
            }
            Report::Limit(limit) => {
                let text = report::limit(&limit);
                running.limit = limit.raised_to.is_none().then(|| text.clone());
                self.tell(Severity::Warning, "sync_limit", None, text);
            }
        }
    }

    async fn read(&mut self, mut scan: Box<Scan>, (cause, hinted): (Cause, bool), began: Instant) {
        let Some(running) = &mut self.running else { return };
        // It may have been read before the swap; another look follows.
        if matches!(running.replica.view().busy, Some(Job::Apply { .. })) {
            return;
        }
        running.unreadable = None;
        let sure = running.unsure.is_none_or(|until| began > until);
        let newest = newest(&scan.manifest);
        let Some((read, unready)) = self.see(&mut scan, sure).await else {
            self.publish();
            return;
        };
        let Some(running) = &mut self.running else { return };
        let tree = Translation::of(running.translation, read);
        let expected = running.replica.view().state.applied.is_some_and(|id| id.tree == tree);
        if !sure && !expected {
            return;
        }
        // A reading from before it that is right says nothing of another one.
        running.unsure = running.unsure.filter(|_| !sure);
        let now = SystemTime::now();
        let since = self.since(newest, tree, (cause, now));
        let loss = self.loss(&scan.manifest).await;
        if let Some(running) = &mut self.running {
            let scan = Arc::from(scan);
            // Another look at the same tree says nothing new of when it came.
            let as_before = running.disk.as_ref().filter(|disk| disk.tree == tree);
            let hinted = as_before.map_or(hinted, |disk| disk.hinted);
            running.disk = Some(Disk { tree, scan, since, hinted, read: now, unready });
        }
        self.feed(Input::Disk { tree, loss }).await;
        self.served().await;
    }

    /// Since when the tree is as it is, that was read at `read`.
    fn since(
        &self,
        newest: SystemTime,
        tree: TreeHash,
        (cause, read): (Cause, SystemTime),
    ) -> SystemTime {
        let Some(running) = &self.running else { return read };
        let before = running.disk.as_ref();
        // Another tree may have lain there in between, and nginx have loaded that.
        let placed_since = |read| running.placed.is_some_and(|placed| placed >= read);
        if let Some(disk) = before.filter(|disk| disk.tree == tree && !placed_since(disk.read)) {
            return disk.since;
        }
        let since = running.placed.map_or(newest, |placed| newest.max(placed));
        let settle = self.settings.as_ref().map_or(Duration::ZERO, |it| it.settle);
        match before.map(|disk| (Some(disk.tree), disk.read)).or(running.had) {
            _ if cause == Cause::Hint => since.max(read - settle),
            Some((had, at)) if had == Some(tree) => since.max(at),
            // Times of a tree that was known before don't say when it was put here.
            Some(_) if before.is_none() && is_kept(&running.store, tree) => read,
            // An old tree was put back, and nobody has seen when.
            Some((_, at)) if newest <= at => read,
            Some(_) | None => since,
        }
    }

    /// In words, when too much of the last generation is gone from the writer's disk.
    async fn loss(&self, now: &Manifest) -> Option<String> {
        let running = self.running.as_ref()?;
        let tip = running.replica.view().line.tip()?;
        let (store, now) = (Arc::clone(&running.store), now.clone());
        let found = tokio::task::spawn_blocking(move || {
            let before = store.manifest(&own(tip)).ok()?;
            suspicion(&before, &now).map(|suspicion| suspicion.to_string())
        });
        found.await.ok().flatten()
    }

    /// The tree's name, and whether files have to be made first; the scan's list is without those
    /// that are as they should be. `None`: it isn't to be told: it is being put right, or can't be
    /// shared. Nothing is changed unless the reading is `sure` to be later than the last swap.
    async fn see(&mut self, scan: &mut Scan, sure: bool) -> Option<(TreeHash, bool)> {
        let running = self.running.as_mut()?;
        let name = |hash: standin_tree::hash::Hash| TreeHash(*hash.as_bytes());
        running.look_at = None;
        if !running.lens.concerns(&scan.manifest) {
            (running.fault, running.patience) = (None, AGAIN);
            return Some((name(scan.manifest.hash()), false));
        }
        let (lens, store) = (running.lens.clone(), Arc::clone(&running.store));
        let manifest = scan.manifest.clone();
        let seen = tokio::task::spawn_blocking(move || {
            let seen = lens.look(&store, &manifest);
            let name = seen.name();
            (seen, name)
        });
        let (Seen { manifest, standing }, hash) = seen.await.ok()?;
        scan.manifest = manifest;
        let running = self.running.as_mut()?;
        let writes = running.replica.writes();
        match standing {
            Standing::Unable(why) => {
                self.unable(&why);
                None
            }
            Standing::Clean(made) => {
                (running.fault, running.making) = (None, None);
                running.patience = AGAIN;
                if *running.lens.made != made {
                    self.remember(made).await;
                }
                Some((name(hash), false))
            }
            Standing::Stale(_) | Standing::Faulty(_) if writes && !sure => None,
            Standing::Stale(stale) if writes => {
                if running.making.replace(hash) == Some(hash) {
                    let why = stale.make.first().map(|it| it.root.join(it.entry.path()));
                    let why = why.unwrap_or_default();
                    self.refuse(format!(
                        "{} doesn't stay as it is made: who else writes it?",
                        why.display()
                    ));
                    return None;
                }
                self.make(stale, &scan.manifest).await;
                None
            }
            Standing::Faulty(why) if writes => {
                self.refuse(why);
                None
            }
            // The generation takes its place.
            Standing::Stale(_) | Standing::Faulty(_) => {
                (running.fault, running.patience) = (None, AGAIN);
                Some((name(hash), true))
            }
        }
    }

    fn refuse(&mut self, why: String) {
        self.faulty(format!("{why}. Nothing is shipped until that is mended"));
    }

    /// The disk doesn't do what it should: nothing tells when it does again.
    fn unable(&mut self, why: &str) {
        if let Some(running) = &mut self.running {
            running.look_at = Some(Instant::now() + running.patience);
            running.patience = (running.patience * 2).min(AGAIN_AT_MOST);
        }
        self.faulty(format!(
            "{why}. Until that goes well, no files go from here or are taken; it is tried again, at \
             the latest every {} s",
            AGAIN_AT_MOST.as_secs()
        ));
    }

    pub(super) fn look_when_due(&mut self) {
        let Some(running) = &mut self.running else { return };
        if running.look_at.take_if(|at| *at <= Instant::now()).is_some() {
            running.watch.look();
        }
    }

    fn faulty(&mut self, text: String) {
        let Some(running) = &mut self.running else { return };
        if running.fault.as_ref() != Some(&text) {
            running.fault = Some(text.clone());
            self.tell(Severity::Error, "sync_values", None, text);
        }
    }

    async fn remember(&mut self, made: Made) {
        let dir = self.around.state_dir.join("sync");
        let Some(running) = &mut self.running else { return };
        running.lens.made = Arc::new(made.clone());
        // Without it a made file is known by its first line.
        let _ = tokio::task::spawn_blocking(move || made::remember(&dir, &made)).await;
    }

    /// Writes this node's files, each as a whole, and has them looked at again.
    async fn make(&mut self, stale: Stale, manifest: &Manifest) {
        let Some(running) = &mut self.running else { return };
        let node = running.lens.values.own.clone();
        let tip = running.replica.view().line.tip().map(own);
        let (store, manifest) = (Arc::clone(&running.store), manifest.clone());
        let written = tokio::task::spawn_blocking(move || {
            if !stale.edited.is_empty() {
                keep(&store, &manifest, tip, node)?;
            }
            let mut builder = Builder::new(&store);
            let mut all = true;
            for make in &stale.make {
                let over = make.over.as_ref();
                all &= builder.replace(&stage::real(&make.root), &make.entry, over)?;
            }
            Ok::<_, std::io::Error>((stale, all))
        });
        match written.await.map_err(std::io::Error::other).and_then(|written| written) {
            Ok((stale, all)) => {
                if !all && let Some(running) = &mut self.running {
                    // Somebody wrote there meanwhile: what it is now is looked at first.
                    running.making = None;
                }
                if let Some(running) = &mut self.running {
                    let now = SystemTime::now();
                    running.placed = Some(now);
                    if let Some(disk) = &mut running.disk {
                        // The tree has the same name, and is another one for nginx.
                        disk.since = now;
                    }
                }
                self.feed(Input::Made).await;
                if let Some(path) = stale.edited.first() {
                    let text = format!(
                        "{} is made from a pattern, and somebody has changed it: what lay there is in \
                         the history, and it is made anew; edit the file that its first line names",
                        path.display()
                    );
                    self.tell(Severity::Warning, "drift", None, text);
                }
                self.look_again();
            }
            Err(error) => {
                if let Some(running) = &mut self.running {
                    running.making = None;
                }
                self.unable(&format!("a file can't be made from its pattern: {error}"));
            }
        }
    }
}

/// Whether a tree is in the history.
fn is_kept(store: &Store, tree: TreeHash) -> bool {
    store.generations().iter().any(|one| one.id.hash.as_bytes() == &tree.0)
}

/// What somebody wrote into made files goes into the history first.
fn keep(store: &Store, manifest: &Manifest, tip: Option<Id>, node: String) -> std::io::Result<()> {
    let id = Id { number: tip.map_or(0, |tip| tip.number), hash: manifest.hash() };
    let generation = Generation {
        id,
        origin: Origin::Drift,
        parents: tip.into_iter().collect(),
        node,
        when_ms: fetch::unix_ms(),
        why: "made files, changed by hand".to_owned(),
    };
    store.record(&generation, manifest)?;
    store.commit(&[])
}
