//! What is done to this node's files and to its nginx. Everything here blocks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use standin_apply::{
    Back, Fingerprint, Means, Nginx, NotProven, Staged, Tester, keep, retire, swap, test,
};
use standin_core::sync::{Id, Outcome, TreeHash, Trouble};
use standin_tree::build::Written;
use standin_tree::manifest::{Manifest, Root};
use standin_tree::read::{Reader, Scan, Spec};
use standin_tree::store::{Generation, Origin, Store};

use super::few::Few;
use super::made::{Lens, Standing, Wrong};
use super::stage::{Failure, Refused, Stage, passing, real, refusal};

/// For the test and again for the reload: 2,000 virtual hosts with TLS take 2 s and 5 s, a name that
/// DNS doesn't answer 10 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a live tree that is being written to is read before it is left for later.
const QUIET_WITHIN: Duration = Duration::from_millis(200);

/// Where the work is done.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) store: Arc<Store>,
    pub(crate) spec: Spec,
    /// How this node sees trees, and what it makes of patterns.
    pub(super) lens: Lens,
    pub(crate) nginx: Nginx,
    /// Where the journals of swaps are.
    pub(crate) journals: PathBuf,
    /// Nobody is served by this node: its nginx may get a new master where only that helps.
    pub(crate) may_restart: bool,
    /// Held while nginx is changed: two at a time couldn't prove anything.
    pub(crate) turn: Arc<Mutex<()>>,
    /// Reads the live trees; it knows again what it has read before.
    pub(crate) reader: Arc<Mutex<Reader>>,
}

fn is_large(wanted: &Manifest, root: &Path) -> bool {
    wanted.root(root).is_some_and(|root| root.entries.len() >= super::few::LARGE)
}

/// What this host made of a generation: a later reading with `own` is the generation `tree`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    pub(crate) own: TreeHash,
    pub(crate) tree: TreeHash,
}

impl Translation {
    /// The generation's tree, where a reading is what this host made of it.
    pub(crate) fn of(translation: Option<Self>, read: TreeHash) -> TreeHash {
        translation.filter(|it| it.own == read).map_or(read, |it| it.tree)
    }
}

/// What became of an apply, and what this host made of the tree.
pub(crate) struct Applied {
    pub(crate) outcome: Outcome,
    pub(crate) translation: Option<Translation>,
    /// What was edited behind the swap's back, and where it is now.
    pub(crate) drift: Vec<String>,
}

fn failed((trouble, why): Failure) -> Outcome {
    Outcome::Failed { trouble, why }
}

impl Ground {
    fn tester() -> Tester {
        Tester::of_this_host("tester")
    }

    fn manifest(&self, id: Id) -> Result<Manifest, Failure> {
        let own = super::driver::own(id);
        self.store
            .manifest(&own)
            .or_else(|error| {
                // A rollback's tree is kept under another number. From now on it has this one too:
                // what is lost of it is judged by its list, and the history doesn't forget it.
                let generations = self.store.generations();
                let known = generations.iter().rev().find(|one| one.id.hash == own.hash);
                let Some(known) = known else { return Err(error) };
                let manifest = self.store.manifest(&known.id)?;
                let again = Generation {
                    id: own,
                    origin: Origin::Generation,
                    parents: vec![known.id],
                    node: known.node.clone(),
                    when_ms: super::fetch::unix_ms(),
                    why: format!("the files of {} again", known.id),
                };
                self.store.record(&again, &manifest)?;
                Ok(manifest)
            })
            .map_err(|error| passing(format!("generation {id} isn't in the history: {error}")))
    }

    /// A generation with what this node makes of it.
    fn wanted(&self, id: Id) -> Result<Manifest, Failure> {
        let manifest = self.lens.resolved(&self.store, &self.manifest(id)?);
        manifest.map_err(|wrong| match wrong {
            Wrong::Tree(why) => (Trouble::Refused, why),
            Wrong::Disk(why) => passing(why),
        })
    }

    /// Reads the live trees as they are now.
    fn live(&self) -> Result<Live, Failure> {
        let mut before = Vec::new();
        for root in self.spec.roots() {
            let real = real(root);
            // A root that isn't there has no marks.
            let marks = Fingerprint::of(&real).unwrap_or_default();
            before.push((real, marks));
        }
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let scan = reader.snapshot(&self.spec, Some(&self.store), QUIET_WITHIN);
        drop(reader);
        let scan = scan.map_err(passing)?;
        let seen = self.lens.look(&self.store, &scan.manifest);
        let hash = seen.name();
        if let Standing::Unable(why) = seen.standing {
            return Err(passing(why));
        }
        Ok(Live { hash: TreeHash(*hash.as_bytes()), scan, before, few: Vec::new() })
    }

    /// Whether any root may be had in parts.
    fn has_large(&self, wanted: &Manifest) -> bool {
        self.spec.roots().iter().any(|root| is_large(wanted, root))
    }

    /// Reads the live trees once, whether or not somebody writes to them just then, and names what it saw.
    pub(super) fn glance(&self) -> Result<(Scan, TreeHash), Failure> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let scan = reader.glance(&self.spec, Some(&self.store), &mut |_| {}).map_err(passing)?;
        drop(reader);
        let name = self.lens.look(&self.store, &scan.manifest).name();
        Ok((scan, TreeHash(*name.as_bytes())))
    }

    /// Reads the live trees without looking at all of them before and afterwards, where a large one is as
    /// it is expected; `None` where that isn't enough.
    fn expected(
        &self,
        over: TreeHash,
        known: Option<Translation>,
        wanted: &Manifest,
    ) -> Result<Option<Live>, Failure> {
        let large = |root: &Path| is_large(wanted, root);
        if !self.has_large(wanted) {
            return Ok(None);
        }
        let small = self.spec.roots().iter().filter(|root| !large(root)).map(|root| real(root));
        let before = small.map(|real| {
            let marks = Fingerprint::of(&real).unwrap_or_default();
            (real, marks)
        });
        let before = before.collect();
        let (scan, hash) = self.glance()?;
        // A tree of this name was known as a whole: what moved meanwhile isn't in it.
        if Translation::of(known, hash) != over || !scan.settled {
            return Ok(None);
        }
        let exclude = self.spec.exclude();
        let roots = wanted.roots().iter().filter(|root| large(&root.path));
        let few: Option<Vec<_>> = roots.map(|root| Few::of(&scan, root, exclude)).collect();
        Ok(few.map(|few| Live { hash, scan, before, few }))
    }

    /// What this host made of a staged generation.
    fn translation(&self, id: Id, stage: &Stage, written: Written) -> Option<Translation> {
        let exclude = self.spec.exclude().clone();
        let staged: Vec<PathBuf> = stage.built.iter().map(|(_, at)| at.clone()).collect();
        let spec = Spec::new(staged, exclude).ok()?;
        let mut reader = Reader::knowing(written);
        let mut manifest = reader.glance(&spec, None, &mut |_| {}).ok()?.manifest;
        for (root, at) in &stage.built {
            manifest = manifest.moved(at, &root.path).ok()?;
        }
        let mut roots = manifest.roots().to_vec();
        roots.extend(stage.few.iter().cloned());
        for path in self.spec.roots() {
            if !roots.iter().any(|root| root.path == *path) {
                roots.push(Root { path: path.clone(), entries: Vec::new() });
            }
        }
        // What was made before lies elsewhere.
        let lens = Lens { made: Arc::default(), ..self.lens.clone() };
        let seen = lens.look(&self.store, &Manifest::new(roots).ok()?);
        let own = seen.name();
        if matches!(seen.standing, Standing::Unable(_)) {
            return None;
        }
        Some(Translation { own: TreeHash(*own.as_bytes()), tree: id.tree })
    }

    /// Tests a generation as if it stood in its place; and what was edited in old trees that went for that.
    pub(crate) fn test(&self, id: Id) -> (Outcome, Vec<String>) {
        let mut drift = Vec::new();
        (self.tested(id, &mut drift).map_or_else(failed, |()| Outcome::Done), drift)
    }

    fn tested(&self, id: Id, drift: &mut Vec<String>) -> Result<(), Failure> {
        let wanted = self.wanted(id)?;
        // Of a small tree all is built, whatever lies there.
        let live = self.has_large(&wanted).then(|| self.live().ok()).flatten();
        let mut tried = |few| {
            let stage = self.stage((id, &wanted), live.as_ref(), few, drift)?;
            let tested = test(&stage.staged, &self.nginx, &Self::tester(), PATIENCE);
            stage.clear();
            Ok(tested.map(drop).map_err(|error| Refused::by_test(&error).of(&stage)))
        };
        let tested = match tried(true)? {
            Err(Refused { way: true, .. }) => tried(false)?,
            other => other,
        };
        tested.map_err(|refused| refused.failure)
    }

    /// Tests it, puts it in its place, has nginx load it, and proves that; or leaves all as it was.
    pub(crate) fn apply(&self, id: Id, over: TreeHash, known: Option<Translation>) -> Applied {
        let mut applied =
            Applied { outcome: Outcome::Moved, translation: known, drift: Vec::new() };
        // Nothing is left half done in it that a journal doesn't know.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.put(id, over, &mut applied);
        applied.outcome = outcome.unwrap_or_else(failed);
        applied
    }

    fn put(&self, id: Id, over: TreeHash, applied: &mut Applied) -> Result<Outcome, Failure> {
        let known = applied.translation;
        let wanted = self.wanted(id)?;
        let mut tried = |live: &Live, few| {
            let mut stage = self.stage((id, &wanted), Some(live), few, &mut applied.drift)?;
            let written = std::mem::take(&mut stage.written);
            let mut translation = None;
            let read = || translation = self.translation(id, &stage, written);
            let exchanged = self.exchange(&stage, read, &mut applied.drift);
            let own = translation.map(|it| it.own);
            let exchanged = self.undisturbed(exchanged, &stage, own, live.hash);
            if let Ok(Outcome::Done | Outcome::Unproven(_)) = exchanged {
                applied.translation = translation;
            }
            Ok(exchanged.map_err(|refused| refused.of(&stage)))
        };
        let mut few = true;
        if let Some(live) = self.expected(over, known, &wanted)? {
            match tried(&live, few)? {
                // What can't be had in parts is had as a whole.
                Err(Refused { way: true, .. }) => few = false,
                exchanged => return exchanged.map_err(|refused| refused.failure),
            }
        }
        let live = self.live()?;
        if Translation::of(known, live.hash) != over {
            return Ok(Outcome::Moved);
        }
        let mut exchanged = tried(&live, few)?;
        if let Err(Refused { way: true, .. }) = exchanged {
            exchanged = tried(&live, false)?;
        }
        exchanged.map_err(|refused| refused.failure)
    }

    /// Reads what is staged while nginx tests it.
    fn exchange(
        &self,
        stage: &Stage,
        read: impl FnOnce() + Send,
        drift: &mut Vec<String>,
    ) -> Result<Outcome, Refused> {
        if self.nginx.master.is_none() {
            read();
            return self.exchange_without_nginx(stage, drift);
        }
        let means = Means {
            tester: Self::tester(),
            state_dir: self.journals.clone(),
            patience: PATIENCE,
            may_restart: self.may_restart,
        };
        match standin_apply::apply(&stage.staged, &self.nginx, &means, read, &mut |_| {}) {
            standin_apply::Outcome::Proven { earlier, .. } => {
                drift.extend(earlier.iter().map(shown));
                Ok(Outcome::Done)
            }
            standin_apply::Outcome::Refused(why) => {
                stage.clear();
                Err(Refused::by_test(&why))
            }
            standin_apply::Outcome::NotSwapped(error) => Err(self.not_swapped(stage, error, drift)),
            standin_apply::Outcome::PutBack { why, remedy, drift: edited, earlier, back } => {
                drift.extend(earlier.iter().chain(&edited).map(shown));
                stage.clear();
                let trouble = match why {
                    NotProven::Refused { .. } | NotProven::Late { .. } => Trouble::Refused,
                    // Somebody wrote to the files, or ended nginx, just then.
                    NotProven::Moved { .. } | NotProven::NoMaster { .. } => Trouble::Passing,
                };
                let mut why = why.to_string();
                if let Some(remedy) = remedy {
                    why = format!("{why}; a new master didn't help: {remedy}");
                }
                if let Back::Unknown(unknown) = back {
                    why =
                        format!("{why}; the old files are back, but nginx isn't proven: {unknown}");
                }
                let files = trouble == Trouble::Refused;
                Err(Refused { failure: (trouble, why), way: false, files })
            }
            standin_apply::Outcome::Stuck { why, error } => Err(Refused::from((
                Trouble::Refused,
                format!(
                    "{why}; the old files couldn't be put back: {error}. Mend that; the next change, or \
                     a restart of standin, tries it again"
                ),
            ))),
        }
    }

    /// Files for an nginx that doesn't run: it will start with them.
    fn exchange_without_nginx(
        &self,
        stage: &Stage,
        drift: &mut Vec<String>,
    ) -> Result<Outcome, Refused> {
        let tested = test(&stage.staged, &self.nginx, &Self::tester(), PATIENCE);
        tested.map_err(|error| {
            stage.clear();
            Refused::by_test(&error)
        })?;
        let swapped = swap(&stage.staged, &self.nginx, &self.journals, &mut |_| {});
        let swapped = swapped.map_err(|error| self.not_swapped(stage, error, drift))?;
        drift.extend(swapped.drift.iter().map(shown));
        if let Err(not) = keep(swapped, &mut |_| {}) {
            let why = passing(format!("it can't be written down: {}", not.error));
            // What can't be undone now is undone by the next attempt.
            if let Ok(undone) = standin_apply::undo(not.swapped, &mut |_| {}) {
                drift.extend(undone.drift.iter().map(shown));
                stage.clear();
            }
            return Err(Refused::from(why));
        }
        Ok(Outcome::Unproven("nginx doesn't run on this node".to_owned()))
    }

    /// Has nginx load the generation that lies there, and proves that.
    pub(crate) fn load(&self, id: Id, known: Option<Translation>) -> Outcome {
        if self.nginx.master.is_none() {
            let why = "nginx doesn't run on this node".to_owned();
            return Outcome::Failed { trouble: Trouble::Refused, why };
        }
        // As above.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let in_place = Staged { generation: "in-place".to_owned(), roots: Vec::new() };
        let tested = match test(&in_place, &self.nginx, &Self::tester(), PATIENCE) {
            Ok(tested) => tested,
            Err(error) => return failed(refusal(&error)),
        };
        match self.lies_there(id, known) {
            Ok(true) => {}
            Ok(false) => return Outcome::Moved,
            Err(failure) => return failed(failure),
        }
        match standin_apply::reload(&self.nginx, &tested, PATIENCE) {
            // What somebody wrote just then may be what it has loaded.
            Ok(_) if self.lies_there(id, known).is_ok_and(|there| !there) => Outcome::Moved,
            Ok(_) => Outcome::Done,
            Err(why) => failed((Trouble::Refused, why.to_string())),
        }
    }

    fn lies_there(&self, id: Id, known: Option<Translation>) -> Result<bool, Failure> {
        Ok(Translation::of(known, self.live()?.hash) == id.tree)
    }

    /// Has nginx replace its workers, so that the old ones end what is idle; only where what lies there
    /// is the generation that it runs with: it reads its files anew.
    ///
    /// # Errors
    /// Why nginx was told nothing.
    pub(crate) fn end_idle(&self, id: Id, known: Option<Translation>) -> Result<(), String> {
        let Ok(_turn) = self.turn.try_lock() else {
            return Err("nginx's files are being changed at this moment".to_owned());
        };
        match self.lies_there(id, known) {
            Ok(true) => {}
            Ok(false) => {
                return Err(format!(
                    "the files on its node's disk aren't generation {id}, with which it runs, \
                     and it would load them untested"
                ));
            }
            Err((_, why)) => {
                return Err(format!("the files on its node's disk can't be read: {why}"));
            }
        }
        let told = self.nginx.master.is_some_and(crate::nginx::reload);
        if told { Ok(()) } else { Err("no master of it is known".to_owned()) }
    }

    /// Ends the old trees of earlier swaps; what was edited in them meanwhile, and where it is now, and
    /// why something of them is still there.
    pub(crate) fn retire(&self) -> (Vec<String>, Vec<String>) {
        // As above: the journal of a swap that begins just now must not go with the old one.
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let drift = retire(&self.journals, &mut |_| {});
        // A large one takes its time, in which the next swap may begin.
        drop(turn);
        let failed = |error| {
            vec![format!(
                "what was there before the last change lies beside it still: {error}; it is tried again \
                 by the next change"
            )]
        };
        match drift {
            Ok(drift) => {
                let left = standin_apply::left(&self.journals).unwrap_or_else(failed);
                (drift.iter().map(shown).collect(), left)
            }
            Err(error) => (Vec::new(), failed(error)),
        }
    }
}

pub(super) fn shown(drift: &standin_apply::Drift) -> String {
    let path = drift.root.join(&drift.path);
    match &drift.kept {
        Some(kept) => format!("{} (now {})", path.display(), kept.display()),
        None => path.display().to_string(),
    }
}

/// The newest time of anything in a tree: it can't have been changed to what it is before that.
pub(crate) fn newest(manifest: &Manifest) -> SystemTime {
    let times = manifest.entries().map(|(_, entry)| entry.modified).max();
    let time = times.unwrap_or_default();
    let s = u64::try_from(time.s).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::new(s, time.ns)
}

/// The live trees at one time.
pub(super) struct Live {
    pub(super) hash: TreeHash,
    pub(super) scan: Scan,
    pub(super) before: Vec<(PathBuf, Fingerprint)>,
    /// What is known already to differ from the generation that is wanted.
    pub(super) few: Vec<Few>,
}
