//! What is done to this node's files and to its nginx. Everything here blocks.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use standin_apply::{
    Back, Fingerprint, Means, Nginx, NotProven, Refusal, Staged, Tester, keep, retire, swap, test,
};
use standin_config::nginx::title::Title;
use standin_core::sync::{Id, Outcome, TreeHash, Trouble};
use standin_linux::process;
use standin_tree::build::{Builder, Written};
use standin_tree::manifest::{Manifest, Root};
use standin_tree::read::{Reader, Scan, Spec};
use standin_tree::store::{Generation, Origin, Store};

use super::few::Few;
use super::made::{Lens, Standing, Wrong};

/// For the test and again for the reload: 2,000 virtual hosts with TLS take 2 s and 5 s, a name that
/// DNS doesn't answer 10 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a live tree that is being written to is read before it is left for later.
const QUIET_WITHIN: Duration = Duration::from_millis(200);

/// Clock ticks of `/proc`, since Linux 2.6 the same on all of its architectures.
const TICKS_PER_S: u64 = 100;

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

pub(super) type Failure = (Trouble, String);

pub(super) fn passing(what: impl std::fmt::Display) -> Failure {
    (Trouble::Passing, what.to_string())
}

fn failed((trouble, why): Failure) -> Outcome {
    Outcome::Failed { trouble, why }
}

fn refusal(refusal: &Refusal) -> Failure {
    let trouble = match refusal {
        Refusal::BadFile { .. } => Trouble::Refused,
        // Another host's DNS, another process's port: they pass without anybody telling.
        Refusal::NameNotFound { .. }
        | Refusal::Address { .. }
        | Refusal::Late { .. }
        | Refusal::Unable { .. } => Trouble::Passing,
    };
    (trouble, refusal.to_string())
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

    /// Builds the trees beside the live ones, whole, with what `exclude` leaves alone here; or, of a
    /// large one that lies there, only what differs, if it is `few`.
    fn stage(
        &self,
        (id, wanted): (Id, &Manifest),
        live: Option<&Live>,
        few: bool,
        drift: &mut Vec<String>,
    ) -> Result<Stage, Failure> {
        let mut stage = Stage::default();
        let filled = self.fill(&mut stage, (id, wanted), live, few, drift);
        if filled.is_err() {
            stage.clear();
        }
        filled.map(|()| stage)
    }

    fn fill(
        &self,
        stage: &mut Stage,
        (id, wanted): (Id, &Manifest),
        live: Option<&Live>,
        few: bool,
        drift: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let mut builder = Builder::new(&self.store);
        for root in wanted.roots().iter().filter(|root| !root.entries.is_empty()) {
            let real = real(&root.path);
            let at =
                beside(&real, id).ok_or_else(|| passing("the root directory can't be shared"))?;
            let exclude = self.spec.exclude();
            let found;
            let differs = match live.filter(|_| few) {
                Some(live) => match live.few.iter().find(|few| few.is_of(&root.path)) {
                    Some(known) => Some(known),
                    None => {
                        found = Few::of(&live.scan, root, exclude);
                        found.as_ref()
                    }
                },
                None => None,
            };
            if let Some(none) = differs.filter(|it| it.is_nothing()) {
                stage.few.extend(none.outcome(None));
                continue;
            }
            if at.symlink_metadata().is_ok() {
                // What an attempt before this one left, unless an old tree was swapped to there.
                standin_apply::recover(&self.journals, &mut |_| {}).map_err(passing)?;
                let edited = retire(&self.journals, &mut |_| {}).map_err(passing)?;
                drift.extend(edited.iter().map(shown));
                remove(&at).map_err(passing)?;
            }
            stage.paths.push(at.clone());
            let known = live.and_then(|it| it.before.iter().find(|(path, _)| *path == real));
            let before = known.map(|(_, marks)| marks.clone());
            if let Some(few) = differs {
                let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
                let before = before.or_else(|| Some(few.before(&reader, &self.spec)));
                drop(reader);
                few.build(&mut builder, root, &at).map_err(passing)?;
                let outcome = few.outcome(Some(&at));
                stage.few.push(outcome.ok_or_else(|| passing("what was built can't be read"))?);
                let parts = Some(few.parts());
                stage.staged.roots.push(standin_apply::Root {
                    path: real,
                    staged: at,
                    before,
                    parts,
                });
                continue;
            }
            builder.build(root, &at, None).map_err(passing)?;
            if let Some(live) = live {
                let left_out: Vec<_> =
                    live.scan.left_out.iter().filter(|it| it.root == root.path).cloned().collect();
                let refused = builder.carry(&left_out, &real, &at).map_err(passing)?;
                if let Some(first) = refused.first() {
                    let (path, what) = (first.path.display(), &first.what);
                    return Err(passing(format!("{path} can't be brought along: {what}")));
                }
            }
            stage.built.push((root.clone(), at.clone()));
            let parts = None;
            stage.staged.roots.push(standin_apply::Root { path: real, staged: at, before, parts });
        }
        stage.written = builder.written();
        stage.staged.generation = format!("{}-{}", id.number, id.tree);
        Ok(())
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

    /// Reads the live trees once, without looking at all of them before and afterwards, where a large one
    /// is as it is expected; `None` where that isn't enough.
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
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let scan = reader.glance(&self.spec, Some(&self.store), &mut |_| {}).map_err(passing)?;
        drop(reader);
        let name = self.lens.look(&self.store, &scan.manifest).name();
        let hash = TreeHash(*name.as_bytes());
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
                    "the files on this node's disk aren't generation {id}, with which nginx runs, \
                     and it would load them untested"
                ));
            }
            Err((_, why)) => {
                return Err(format!("the files on this node's disk can't be read: {why}"));
            }
        }
        let told = self.nginx.master.is_some_and(crate::nginx::reload);
        if told { Ok(()) } else { Err("nginx isn't known here".to_owned()) }
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

/// The live trees at one time.
struct Live {
    hash: TreeHash,
    scan: Scan,
    before: Vec<(PathBuf, Fingerprint)>,
    /// What is known already to differ from the generation that is wanted.
    few: Vec<Few>,
}

/// Trees that were built beside the live ones; who doesn't swap them in clears them away.
#[derive(Default)]
pub(super) struct Stage {
    staged: Staged,
    built: Vec<(Root, PathBuf)>,
    /// What those will be of which only what differs was built.
    few: Vec<Root>,
    paths: Vec<PathBuf>,
    written: Written,
}

/// Why nothing was exchanged.
pub(super) struct Refused {
    pub(super) failure: Failure,
    /// It may be for the way in which it was tried, not for the files.
    pub(super) way: bool,
    /// It is for the files that nginx has read.
    pub(super) files: bool,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, way: false, files: false }
    }
}

impl Refused {
    fn by_test(why: &Refusal) -> Self {
        let failure = refusal(why);
        let files = failure.0 == Trouble::Refused;
        Self { failure, way: !why.is_of_the_files(), files }
    }

    /// There is another way only where it was tried in parts.
    fn of(self, stage: &Stage) -> Self {
        Self { way: self.way && stage.is_in_parts(), ..self }
    }
}

impl Stage {
    pub(super) fn is_in_parts(&self) -> bool {
        self.staged.roots.iter().any(|root| root.parts.is_some())
    }

    /// Only while the new trees lie there, not the old ones.
    pub(super) fn clear(&self) {
        for path in &self.paths {
            // What is left is removed by the next attempt at the same generation, or the next start.
            let _ = remove(path);
        }
    }
}

/// With every symbolic link on the way resolved, also where the last name isn't there.
pub(super) fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| {
        let parent = path.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
        match (parent, path.file_name()) {
            (Some(parent), Some(name)) => parent.join(name),
            _ => path.to_owned(),
        }
    })
}

/// A place for a staged tree, in the same directory.
pub(super) fn beside(path: &Path, id: Id) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(format!("{}-", standin_apply::HIDDEN));
    name.push(path.file_name()?);
    name.push(format!("-{}-{}", id.number, id.tree));
    Some(path.with_file_name(name))
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => standin_apply::remove_tree(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    removed.or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    })
}

/// Whether an nginx still has this process for its master.
pub(crate) fn is_master(pid: u32) -> bool {
    let title = process::title(pid).and_then(|title| Title::parse(&title));
    matches!(title, Some(Title::Master(_)))
}

/// The workers of a master that aren't leaving.
fn workers(master: u32) -> Vec<u32> {
    let serves = |pid: &u32| {
        let title = process::title(*pid);
        title.and_then(|title| Title::parse(&title)) == Some(Title::Worker { leaving: false })
    };
    process::children(master).into_iter().filter(serves).collect()
}

/// Whether all workers began after `since`: then they run with what lay there at that time.
pub(crate) fn runs_since(master: u32, since: SystemTime) -> bool {
    let Ok(age) = since.elapsed() else { return false };
    let now = standin_linux::clock::now().as_nanos();
    let at = now.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    began_after(master, at)
}

/// Whether any worker began after `since`: nginx has read its files again.
pub(crate) fn any_since(master: u32, since: SystemTime) -> bool {
    let Some(at_ticks) = ticks_at(since) else { return true };
    let after = |pid: &u32| process::start_time_ticks(*pid).is_none_or(|ticks| ticks >= at_ticks);
    workers(master).iter().any(after)
}

/// The kernel's count at a time of the clock; `None` for a time to come.
fn ticks_at(time: SystemTime) -> Option<u64> {
    let age = time.elapsed().ok()?;
    let now = standin_linux::clock::now().as_nanos();
    let at = now.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    Some(at / (1_000_000_000 / TICKS_PER_S))
}

/// The same for nanoseconds since the boot, which no step of the clock moves.
pub(crate) fn began_after(master: u32, at_ns: u64) -> bool {
    let workers = workers(master);
    let at_ticks = at_ns / (1_000_000_000 / TICKS_PER_S);
    let after = |pid: &u32| process::start_time_ticks(*pid).is_some_and(|ticks| ticks > at_ticks);
    !workers.is_empty() && workers.iter().all(after)
}

/// The newest time of anything in a tree: it can't have been changed to what it is before that.
pub(crate) fn newest(manifest: &Manifest) -> SystemTime {
    let times = manifest.entries().map(|(_, entry)| entry.modified).max();
    let time = times.unwrap_or_default();
    let s = u64::try_from(time.s).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::new(s, time.ns)
}
