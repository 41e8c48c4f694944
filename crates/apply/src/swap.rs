//! Puts staged trees in the place of the live ones, so that any end leaves the old or can be undone.
//!
//! A journal is on the disk before the first change and goes when all is as it was, or when the old
//! trees are retired. What isn't proven is undone: the old files are the ones that nginx has run
//! with.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use standin_linux::private::mount_id;

use crate::fingerprint::{Drift, DriftKind, Fingerprint, gone};
use crate::inside::Spot;
use crate::journal::{Journal, Plan, Way, make_folder};
use crate::nginx::Nginx;
use crate::pieces::{Piece, Preparation, exchange, inode, rename_new};
use crate::{Change, Hook, Root, Staged, Step, copy, leaving, parts, view};

/// Staged trees that are live, and not proven yet.
#[derive(Debug)]
pub struct Swapped {
    pub(crate) journal: Journal,
    state_dir: PathBuf,
    /// What was edited in the old trees of the generation before, which are retired by now.
    pub drift: Vec<Drift>,
}

/// The swap didn't happen.
#[derive(Debug)]
pub struct NotSwapped {
    pub why: String,
    pub left: Left,
    /// What was edited in the old trees of the generation before, and in the new ones meanwhile.
    pub drift: Vec<Drift>,
}

/// A swap that couldn't be called proven on the disk; it can still be undone.
#[derive(Debug)]
pub struct NotKept {
    pub error: io::Error,
    pub swapped: Swapped,
}

/// What a swap that didn't happen leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing was begun, as an earlier swap is half done: [`recover`] has to undo that.
    NotBegun,
    /// The old trees stand whole, and the new ones lie where they were staged.
    AsItWas,
    /// Some of each: the journal is kept, and [`recover`] has to do it.
    Half,
}

/// A proven generation whose predecessor still lies beside it.
#[derive(Debug)]
pub struct Kept {
    /// Where the old trees are: a shell or an editor may be in one.
    pub old: Vec<PathBuf>,
}

/// An attempt that is taken back.
#[derive(Debug, Default)]
pub struct Undone {
    /// What was edited in the new trees while they were live.
    pub drift: Vec<Drift>,
}

/// What a start has found.
#[derive(Debug)]
pub enum Recovered {
    /// Nothing was under way.
    Clean,
    /// A swap was; the roots have their old trees. An nginx that runs may have loaded the new ones:
    /// it has to be reloaded.
    Undone { generation: String, roots: Vec<PathBuf>, drift: Vec<Drift> },
}

impl Swapped {
    /// Where the old tree or file of a root is now; `None` for a root that was changed in pieces.
    #[must_use]
    pub fn old(&self, root: usize) -> Option<&Path> {
        let plan = self.journal.plans.get(root)?;
        matches!(plan.way, Way::Whole { .. }).then_some(plan.staged.as_path())
    }
}

/// Swaps all roots, with one journal in `state_dir`, which is on a disk and is only standin's.
///
/// # Errors
/// Why it didn't happen; the old trees are back then, unless it says otherwise.
pub fn swap(
    staged: &Staged,
    nginx: &Nginx,
    state_dir: &Path,
    hook: Hook<'_>,
) -> Result<Swapped, NotSwapped> {
    swap_synced(staged, nginx, state_dir, None, hook)
}

/// As [`swap`]; with what the staged trees look like ([`fresh`]) they are on the disk already ([`sync`]).
pub(crate) fn swap_synced(
    staged: &Staged,
    nginx: &Nginx,
    state_dir: &Path,
    synced: Option<Vec<Fingerprint>>,
    hook: Hook<'_>,
) -> Result<Swapped, NotSwapped> {
    let not = |why: String, left, drift| NotSwapped { why, left, drift };
    let before = |why: String| not(why, Left::AsItWas, Vec::new());
    let drift = match Journal::read(state_dir).map_err(|error| before(error.to_string()))? {
        Some(journal) if !journal.proven => {
            let why = "an earlier swap was neither proven nor undone; `standin recover` undoes it";
            return Err(not(why.to_owned(), Left::NotBegun, Vec::new()));
        }
        Some(_) => retire(state_dir, hook).map_err(|error| before(error.to_string()))?,
        None => Vec::new(),
    };
    if synced.is_none()
        && let Err(error) = parts::remember(staged)
    {
        return Err(not(error.to_string(), Left::AsItWas, drift));
    }
    let mut journal = Journal { generation: staged.generation.clone(), ..Journal::default() };
    let planned = plan(staged, nginx, state_dir, synced, &mut journal, hook);
    let mut swapped = Swapped { journal, state_dir: state_dir.to_owned(), drift };
    match planned.and_then(|()| carry_out(&mut swapped, hook)) {
        Ok(()) => {
            hook(Step::Swapped);
            Ok(swapped)
        }
        Err(why) => {
            let mut drift = std::mem::take(&mut swapped.drift);
            match undo(swapped, hook) {
                Ok(undone) => {
                    drift.extend(undone.drift);
                    Err(not(why, Left::AsItWas, drift))
                }
                Err(error) => Err(not(format!("{why}; then: {error}"), Left::Half, drift)),
            }
        }
    }
}

fn plan(
    staged: &Staged,
    nginx: &Nginx,
    state_dir: &Path,
    synced: Option<Vec<Fingerprint>>,
    journal: &mut Journal,
    hook: Hook<'_>,
) -> Result<(), String> {
    let known = synced.is_some();
    let mut fresh = synced.unwrap_or_default().into_iter();
    for root in &staged.roots {
        let at = |error: io::Error| format!("{}: {error}", root.path.display());
        let looked = fresh.next();
        let before = match &root.before {
            Some(before) => before.clone(),
            None => Fingerprint::of(&root.path).map_err(at)?,
        };
        if let Some(parts) = &root.parts {
            let (pieces, fresh) = parts::plan(root).map_err(at)?;
            let way = Way::Pieces { folders: vec![root.staged.clone()], pieces };
            // What lies in a directory that is only dressed stays where it is.
            let moved = parts.iter().filter(|part| part.change != Change::Dress);
            let before = before.only(moved.map(|part| part.path.as_path()));
            let (path, staged) = (root.path.clone(), root.staged.clone());
            journal.plans.push(Plan { path, staged, way, before, fresh });
            continue;
        }
        let fresh = looked.map_or_else(|| Fingerprint::of(&root.staged), Ok).map_err(at)?;
        let whole = whole(root, nginx).map_err(at)?;
        let way = whole.clone().unwrap_or(Way::NONE);
        let (path, staged) = (root.path.clone(), root.staged.clone());
        journal.plans.push(Plan { path, staged, way, before, fresh });
        if whole.is_none() {
            prepare(journal, journal.plans.len() - 1, state_dir).map_err(at)?;
        }
    }
    hook(Step::Prepared);
    let as_staged = |plan: &Plan| matches!(plan.way, Way::Whole { .. }) || plan.is_in_parts();
    let todo = |plan: &&Plan| !(known && as_staged(plan));
    for plan in journal.plans.iter().filter(todo) {
        sync_plan(plan).map_err(|error| format!("{}: {error}", plan.staged.display()))?;
    }
    hook(Step::Synced);
    journal
        .write_ready(state_dir)
        .map_err(|error| format!("the journal in {}: {error}", state_dir.display()))?;
    hook(Step::Journalled);
    Ok(())
}

/// How a root can be exchanged as a whole, if it can.
fn whole(root: &Root, nginx: &Nginx) -> io::Result<Option<Way>> {
    let new = inode(&root.staged)?.ok_or(io::ErrorKind::NotFound)?;
    let old = inode(&root.path)?;
    if old.is_some() && fs::canonicalize(&root.path)? != root.path {
        let words = "a symbolic link leads there; it has to be given by its real path";
        return Err(io::Error::other(words));
    }
    let parent = root.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let beside = root.staged.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mount = mount_id(parent)?;
    // A mount inside would go with the old tree, and what is in it would be removed with that.
    let one = mount_id(beside)? == mount
        && mount_id(&root.staged)? == mount
        && !view::has_mounts_below(&root.path)?
        && (old.is_none() || mount_id(&root.path)? == mount);
    // A bind mount of nginx's would go on showing the old tree.
    let bound =
        old.is_some() && nginx.master.is_some() && view::of(nginx.master, &root.path)?.bound;
    Ok((one && !bound).then_some(Way::Whole { old, new }))
}

/// Lays what a root's files are exchanged with beside them; the journal knows each hidden folder
/// before it is made.
fn prepare(journal: &mut Journal, number: usize, state_dir: &Path) -> io::Result<()> {
    let plan = journal.plans.get_mut(number).ok_or(io::ErrorKind::NotFound)?;
    plan.way = Way::NONE;
    let (path, staged) = (plan.path.clone(), plan.staged.clone());
    let mut announce = |folder: &Path| {
        if let Some(Plan { way: Way::Pieces { folders, .. }, .. }) = journal.plans.get_mut(number) {
            folders.push(folder.to_owned());
        }
        journal.write(state_dir)
    };
    let Preparation { folders, pieces, .. } = Preparation::of(&path, &staged, &mut announce)?;
    if let Some(plan) = journal.plans.get_mut(number) {
        plan.way = Way::Pieces { folders, pieces };
        plan.fresh = laid(plan)?;
    }
    Ok(())
}

/// What lies ready for the places of a root that is exchanged file by file: a copy of what was staged
/// is another file.
fn laid(plan: &Plan) -> io::Result<Fingerprint> {
    let mut laid = Fingerprint::default();
    if let Way::Pieces { pieces, .. } = &plan.way {
        for piece in pieces {
            if let Piece::Put { spare, .. } = piece {
                laid.lay(below(piece, plan), Fingerprint::of(spare)?);
            }
        }
    }
    Ok(laid)
}

/// What the staged trees look like, root by root; of those in parts nothing.
///
/// # Errors
/// As [`Fingerprint::of`].
pub(crate) fn fresh(staged: &Staged) -> io::Result<Vec<Fingerprint>> {
    let look = |root: &Root| match root.parts {
        Some(_) => Ok(Fingerprint::default()),
        None => Fingerprint::of(&root.staged),
    };
    staged.roots.iter().map(look).collect()
}

/// Puts the staged trees on the disk, with what is needed to go back from parts.
///
/// # Errors
/// As fsync(2). What failed must not be synced again, but be built anew.
pub(crate) fn sync(staged: &Staged) -> io::Result<()> {
    parts::remember(staged)?;
    staged.roots.iter().try_for_each(|root| {
        let at = |error| io::Error::other(format!("{}: {error}", root.staged.display()));
        sync_at(&root.staged).map_err(at)
    })
}

/// Everything that is about to become live, on the disk: after a power cut nothing may be empty.
fn sync_plan(plan: &Plan) -> io::Result<()> {
    let mut places = vec![plan.staged.clone()];
    if let Way::Pieces { folders, .. } = &plan.way {
        places.clone_from(folders);
    }
    places.iter().try_for_each(|place| sync_at(place))
}

/// Up to so many files are synced by themselves: a sync of the whole file system waits for all that
/// others have written to it, a cache or a log of gigabytes say. Beyond that it costs less.
/// Tried on ext4: 10,000 files one by one 3.2 s, together 0.5 s.
const BY_THEMSELVES: usize = 64;

/// Who syncs at the same time shares the disk's one commit.
const AT_ONCE: usize = 8;

fn sync_at(place: &Path) -> io::Result<()> {
    let mut few = Vec::new();
    if !collect(place, &mut few)? {
        return Ok(rustix::fs::syncfs(File::open(place)?)?);
    }
    let sync = |all: &[PathBuf]| all.iter().try_for_each(|one| File::open(one)?.sync_all());
    let size = few.len().div_ceil(AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = few.chunks(size).map(|part| scope.spawn(move || sync(part))).collect();
        parts.into_iter().try_for_each(|part| {
            part.join().unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
        })
    })?;
    // The names are there with their directory.
    File::open(place.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()
}

/// All that can be synced at and below a place; false when that is more than a few.
fn collect(place: &Path, few: &mut Vec<PathBuf>) -> io::Result<bool> {
    let found = place.symlink_metadata()?;
    if found.is_dir() {
        for entry in fs::read_dir(place)? {
            if !collect(&entry?.path(), few)? {
                return Ok(false);
            }
        }
    }
    if found.is_dir() || found.is_file() {
        few.push(place.to_owned());
    }
    Ok(few.len() <= BY_THEMSELVES)
}

fn carry_out(swapped: &mut Swapped, hook: Hook<'_>) -> Result<(), String> {
    for number in 0..swapped.journal.plans.len() {
        let Some(plan) = swapped.journal.plans.get(number) else { break };
        let shown = plan.path.display().to_string();
        let at = |error: io::Error| format!("{shown}: {error}");
        if let Way::Whole { old, .. } = plan.way {
            let refused = match old {
                Some(_) => exchange(&plan.staged, &plan.path).map_err(io::Error::from),
                None => rename_new(&plan.staged, &plan.path),
            };
            match refused {
                Ok(()) => {
                    hook(Step::Exchanged(number));
                    continue;
                }
                // Some file systems say only now that they can't (overlayfs, NFS).
                Err(error) if !can_be_had_in_pieces(&error) => return Err(at(error)),
                Err(_) => {}
            }
            prepare(&mut swapped.journal, number, &swapped.state_dir).map_err(at)?;
            swapped.journal.plans.get(number).map_or(Ok(()), sync_plan).map_err(at)?;
            swapped.journal.write_ready(&swapped.state_dir).map_err(at)?;
        }
        let Some(plan) = swapped.journal.plans.get(number) else { break };
        if let Way::Pieces { pieces, .. } = &plan.way {
            for (piece, one) in pieces.iter().enumerate() {
                let at = |error| refusal(one.target(), &error);
                one.place(&plan.path).map_err(at)?;
                hook(Step::Placed { root: number, piece });
            }
        }
    }
    Ok(())
}

fn can_be_had_in_pieces(error: &io::Error) -> bool {
    let known = [Errno::XDEV, Errno::BUSY, Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP];
    known.iter().any(|known| error.raw_os_error() == Some(known.raw_os_error()))
}

fn refusal(target: &Path, error: &io::Error) -> String {
    let shown = target.display();
    if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
        return format!(
            "{shown} is a mount point by itself, so nothing can take its place; mend: mount the \
             directory that it lies in, not the file"
        );
    }
    format!("{shown}: {error}")
}

/// Everything whose names have changed.
fn sync_folders(plan: &Plan) -> io::Result<()> {
    let folders = plan.folders();
    if folders.len() > BY_THEMSELVES {
        return Ok(rustix::fs::syncfs(File::open(&plan.path)?)?);
    }
    // One that went with a piece needs no sync.
    folders.iter().try_for_each(|folder| match gone(File::open(folder))? {
        Some(folder) => folder.sync_all(),
        None => Ok(()),
    })
}

/// Says on the disk that the new trees are proven. The old ones stay where they are until
/// [`retire`], or the next swap: somebody may be working in them.
///
/// # Errors
/// What the file system says; the new trees are live all the same, until [`undo`] or [`recover`].
pub fn keep(swapped: Swapped, hook: Hook<'_>) -> Result<Kept, Box<NotKept>> {
    let synced = swapped.journal.plans.iter().try_for_each(sync_folders);
    if let Err(error) = synced.and_then(|()| Journal::prove(&swapped.state_dir)) {
        // It may be there all the same: then nobody undoes it.
        let there = Journal::read(&swapped.state_dir);
        if !there.is_ok_and(|there| there.is_some_and(|journal| journal.proven)) {
            return Err(Box::new(NotKept { error, swapped }));
        }
    }
    hook(Step::Kept);
    let old = swapped.journal.plans.iter().map(|plan| plan.staged.clone());
    Ok(Kept { old: old.collect() })
}

/// Puts the old trees back; the new ones lie where they were staged afterwards.
///
/// # Errors
/// What couldn't be put back; the journal stays, and [`recover`] tries again.
pub fn undo(swapped: Swapped, hook: Hook<'_>) -> io::Result<Undone> {
    take_back(&swapped.journal, &swapped.state_dir, hook)
}

/// Undoes a swap that was interrupted. Harmless at any time when no swap is under way in another
/// process: a second time does nothing.
///
/// # Errors
/// A journal that isn't understood, or what couldn't be put back.
pub fn recover(state_dir: &Path, hook: Hook<'_>) -> io::Result<Recovered> {
    match Journal::read(state_dir)? {
        None => Ok(Recovered::Clean),
        Some(journal) if journal.proven => Ok(Recovered::Clean),
        Some(journal) => {
            let drift = take_back(&journal, state_dir, hook)?.drift;
            let roots = journal.plans.iter().map(|plan| plan.path.clone()).collect();
            Ok(Recovered::Undone { generation: journal.generation, roots, drift })
        }
    }
}

/// Where the trees lie, or may lie, that a swap under way or one that is proven has put aside.
///
/// # Errors
/// What the file system says; a journal that isn't understood.
pub fn staged_by_journal(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let plans = Journal::read(state_dir)?.map(|journal| journal.plans).unwrap_or_default();
    Ok(plans.into_iter().map(|plan| plan.staged).collect())
}

fn take_back(journal: &Journal, state_dir: &Path, hook: Hook<'_>) -> io::Result<Undone> {
    for (root, plan) in journal.plans.iter().enumerate().rev() {
        match &plan.way {
            Way::Whole { old, new } => whole_back(plan, *old, *new)?,
            Way::Pieces { pieces, .. } => {
                // Directories' metadata last: their times change with what is in them.
                let dressed = |one: &Piece| matches!(one, Piece::Dress { .. });
                for last in [false, true] {
                    let these = pieces.iter().enumerate().rev();
                    for (piece, one) in these.filter(|(_, one)| dressed(one) == last) {
                        let target = one.target().display();
                        one.take_back(&plan.path)
                            .map_err(|it| io::Error::new(it.kind(), format!("{target}: {it}")))?;
                        hook(Step::PieceTakenBack { root, piece });
                    }
                }
            }
        }
        sync_folders(plan)?;
        hook(Step::TakenBack(root));
    }
    let mut safe = Safe::new(state_dir, &format!("{}-undone", journal.generation));
    for (number, plan) in journal.plans.iter().enumerate() {
        match &plan.way {
            Way::Whole { .. } => {
                let now = Fingerprint::of(&plan.staged)?;
                safe.keep(number, plan, Path::new(""), &plan.staged, &plan.fresh, &now)?;
            }
            Way::Pieces { pieces, .. } => {
                for one in pieces {
                    let below = below(one, plan);
                    if let Some(foreign) = one.foreign()? {
                        let now = Fingerprint::of(&foreign)?;
                        let none = Fingerprint::default();
                        safe.keep(number, plan, below, &foreign, &none, &now)?;
                    } else if let Some(new) = one.taken_out()? {
                        let (fresh, now) = (plan.fresh.below(below), Fingerprint::of(&new)?);
                        safe.keep(number, plan, below, &new, &fresh, &now)?;
                    }
                }
            }
        }
    }
    let drift = safe.finish()?;
    hook(Step::DriftKept);
    discard(journal);
    Journal::remove(state_dir)?;
    hook(Step::Undone);
    Ok(Undone { drift })
}

/// The path of a piece, relative to its root; empty for a root that is one piece.
fn below<'p>(piece: &'p Piece, plan: &Plan) -> &'p Path {
    piece.target().strip_prefix(&plan.path).unwrap_or_else(|_| Path::new(""))
}

fn whole_back(plan: &Plan, old: Option<u64>, new: u64) -> io::Result<()> {
    let (here, beside) = (inode(&plan.path)?, inode(&plan.staged)?);
    if here == old {
        return Ok(());
    }
    if here == Some(new) && beside == old {
        return match old {
            Some(_) => Ok(exchange(&plan.staged, &plan.path)?),
            None => rename_new(&plan.path, &plan.staged),
        };
    }
    Err(io::Error::other(format!(
        "{} is neither what it was nor what standin put there; nothing was changed: look at it and \
         at {}, then remove the journal",
        plan.path.display(),
        plan.staged.display()
    )))
}

/// Removes the hidden folders inside a root, and the parts that were taken back. Of the first the next
/// swap removes what is left, of the others the next start.
fn discard(journal: &Journal) {
    for plan in &journal.plans {
        if let Way::Pieces { folders, .. } = &plan.way {
            for folder in folders {
                let spot = Spot::of(&plan.path, folder);
                let _left = spot.and_then(|spot| fs::remove_dir_all(spot.path()));
            }
        }
    }
}

/// Removes the old trees of a proven generation, after what was edited in them since is in safety.
/// Does nothing when there are none. A large one has another name afterwards and goes by and by, on a
/// thread of its own.
///
/// # Errors
/// What the file system says; nothing is removed before the edits are in safety.
pub fn retire(state_dir: &Path, hook: Hook<'_>) -> io::Result<Vec<Drift>> {
    let Some(journal) = Journal::read(state_dir)?.filter(|journal| journal.proven) else {
        return Ok(Vec::new());
    };
    let mut safe = Safe::new(state_dir, &journal.generation);
    let (mut small, mut large) = (Vec::new(), Vec::new());
    for (number, plan) in journal.plans.iter().enumerate() {
        match &plan.way {
            Way::Whole { .. } if !is_old(plan)? => {}
            Way::Whole { .. } => {
                let now = Fingerprint::of(&plan.staged)?;
                let old = if now.len() < leaving::LARGE { &mut small } else { &mut large };
                old.push(plan.staged.as_path());
                safe.keep(number, plan, Path::new(""), &plan.staged, &plan.before, &now)?;
            }
            Way::Pieces { pieces, .. } => {
                for one in pieces {
                    let Some(old) = one.old().filter(|old| old.symlink_metadata().is_ok()) else {
                        continue;
                    };
                    let below = below(one, plan);
                    let (before, now) = (plan.before.below(below), Fingerprint::of(&old)?);
                    safe.keep(number, plan, below, &old, &before, &now)?;
                }
                // The tree that the pieces were taken from, or what was there instead of the parts.
                if plan.staged.symlink_metadata().is_ok() {
                    let is_small = Fingerprint::of(&plan.staged)?.len() < leaving::LARGE;
                    let done_with = if is_small { &mut small } else { &mut large };
                    done_with.push(plan.staged.as_path());
                }
            }
        }
    }
    let drift = safe.finish()?;
    hook(Step::DriftKept);
    // What can't be removed goes out of the way, and is told by [`leaving::left`].
    let stays = |tree: &&Path| gone(leaving::remove_tree(tree)).is_err();
    large.extend(small.into_iter().filter(stays));
    let leaving = leaving::set_aside(state_dir, &large, hook)?;
    discard(&journal);
    Journal::remove(state_dir)?;
    if let Some(leaving) = leaving {
        leaving.begin();
    }
    hook(Step::Retired);
    Ok(drift)
}

/// Whether the old tree, and nothing else, lies where the new one was staged.
fn is_old(plan: &Plan) -> io::Result<bool> {
    let Way::Whole { old: Some(old), new } = plan.way else { return Ok(false) };
    Ok(inode(&plan.path)? == Some(new) && inode(&plan.staged)? == Some(old))
}

/// Whether it is a file, or a link; false for what has gone meanwhile.
fn holds_bytes(path: &Path) -> io::Result<bool> {
    let found = gone(path.symlink_metadata())?;
    Ok(found.is_some_and(|found| found.is_file() || found.is_symlink()))
}

/// Where bytes go that somebody wrote behind the swap's back.
struct Safe {
    folder: PathBuf,
    drift: Vec<Drift>,
}

impl Safe {
    fn new(state_dir: &Path, generation: &str) -> Self {
        // It is one name, whatever the caller calls its generations.
        let name: String = generation.chars().map(|c| if c == '/' { '_' } else { c }).collect();
        Self { folder: state_dir.join("drift").join(name), drift: Vec::new() }
    }

    /// Copies what differs between `before` and `now` out of `tree`, which is `below` the root.
    fn keep(
        &mut self,
        number: usize,
        plan: &Plan,
        below: &Path,
        tree: &Path,
        before: &Fingerprint,
        now: &Fingerprint,
    ) -> io::Result<()> {
        for (path, kind) in before.differences(now) {
            let join = |base: &Path, rest: &Path| match rest.as_os_str().is_empty() {
                true => base.to_owned(),
                false => base.join(rest),
            };
            let at = join(below, &path);
            let mut kept = None;
            let source = join(tree, &path);
            // What else there may be, a socket say, holds nothing to keep, and couldn't be copied.
            if kind != DriftKind::Removed && holds_bytes(&source)? {
                let to = join(&self.folder.join(number.to_string()), &at);
                make_folder(to.parent().unwrap_or(&self.folder))?;
                if to.symlink_metadata().is_ok() {
                    fs::remove_file(&to)?;
                }
                copy::tree(&source, &to)?;
                kept = Some(to);
            }
            self.drift.push(Drift { root: plan.path.clone(), path: at, kind, kept });
        }
        Ok(())
    }

    fn finish(self) -> io::Result<Vec<Drift>> {
        if self.drift.iter().any(|drift| drift.kept.is_some()) {
            rustix::fs::syncfs(File::open(&self.folder)?)?;
        }
        Ok(self.drift)
    }
}
