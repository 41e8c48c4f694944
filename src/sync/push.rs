//! Hosts that have only an rsync daemon: each proven generation goes there from the node that writes.
//!
//! The tree is built from the store, so that what is edited meanwhile isn't sent. Before anything is
//! changed there, rsync says what it would delete: a module that holds somebody else's files is asked
//! about, as a mass deletion is among the nodes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use standin_core::sync::{Id, TreeHash};
use standin_tree::build::Builder;
use standin_tree::changes::MOST_GONE_PERCENT;
use standin_tree::globs::OWN_PREFIX;
use standin_tree::manifest::{Kind, Manifest};
use standin_tree::store::Store;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::driver::own;
use super::rsync::{Changes, Push};
use super::wire::hex;
use crate::api::types::sync::{Generation, Target};
use crate::authority::files;
use crate::control::log::Severity;
use crate::link::Told;

/// After a failure; then twice as long, up to the last.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_AT_MOST: Duration = Duration::from_secs(300);

/// What was changed there by somebody else is put right after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// At once: they share one disk and one network.
const AT_ONCE: usize = 4;

/// A single file may always go, as among the nodes.
const LEAST_GONE: usize = 2;

/// An operator is asked about it.
const HELD: &str = "held";

/// A line that people type.
const PASSWORD: u64 = 1024;

/// What the targets should have.
#[derive(Clone)]
pub(super) struct Goal {
    pub(super) id: Id,
    pub(super) targets: Vec<String>,
    pub(super) password_file: Option<PathBuf>,
    /// As the cluster file has it.
    pub(super) exclude: Vec<String>,
    pub(super) store: Arc<Store>,
    /// Private, for trees that are sent.
    pub(super) dir: PathBuf,
    pub(super) accepted: Accepted,
}

/// Deletions that an operator has said yes to: at which targets, and for which trees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    targets: BTreeSet<String>,
    trees: Vec<TreeHash>,
}

impl Accepted {
    /// A yes is the answer of those that have asked.
    pub(super) fn of(targets: &[Target], trees: impl Iterator<Item = TreeHash>) -> Self {
        let asked = targets.iter().filter(|target| target.state == HELD);
        Self { targets: asked.map(|target| target.to.clone()).collect(), trees: trees.collect() }
    }

    fn counts(&self, to: &str, tree: TreeHash) -> bool {
        self.targets.contains(to) && self.trees.contains(&tree)
    }
}

impl PartialEq for Goal {
    fn eq(&self, other: &Self) -> bool {
        (self.id, &self.targets, &self.password_file, &self.exclude, &self.accepted)
            == (other.id, &other.targets, &other.password_file, &other.exclude, &other.accepted)
    }
}

/// How the targets stand, by name.
#[derive(Clone, Default)]
struct Board {
    targets: Arc<Mutex<BTreeMap<String, Target>>>,
    moved: Arc<Notify>,
}

impl Board {
    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Target>) -> T) -> T {
        let done = change(&mut self.locked());
        self.moved.notify_one();
        done
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Target>> {
        // Each change is one step: a thread that panicked left it whole.
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that brings targets to their goal; it ends when this is dropped.
pub(super) struct Pusher {
    goal: watch::Sender<Option<Goal>>,
    board: Board,
    task: JoinHandle<()>,
}

impl Pusher {
    /// `dir`: for trees that are sent; what an earlier daemon left there is removed.
    pub(super) fn start(dir: PathBuf, told: mpsc::Sender<Told>) -> Self {
        let (goal, goals) = watch::channel(None);
        let board = Board::default();
        let theirs = board.clone();
        let task = tokio::spawn(async move {
            // Mostly there is nothing; what can't be removed is in nobody's way.
            let _ = tokio::task::spawn_blocking(move || fs::remove_dir_all(dir)).await;
            run(goals, theirs, told).await;
        });
        Self { goal, board, task }
    }

    /// `None`: another node pushes, or nobody.
    pub(super) fn aim(&self, goal: Option<Goal>) {
        self.goal.send_if_modified(|before| {
            let changed = *before != goal;
            if changed {
                *before = goal;
            }
            changed
        });
    }

    /// How the targets stand, by name.
    pub(super) fn targets(&self) -> Vec<Target> {
        self.board.locked().values().cloned().collect()
    }

    /// Is woken when that has changed.
    pub(super) fn moved(&self) -> Arc<Notify> {
        Arc::clone(&self.board.moved)
    }
}

impl Drop for Pusher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(mut goals: watch::Receiver<Option<Goal>>, board: Board, told: mpsc::Sender<Told>) {
    loop {
        let goal = goals.borrow_and_update().clone();
        let wanted = |to: &String| goal.as_ref().is_some_and(|goal| goal.targets.contains(to));
        board.change(|targets| targets.retain(|to, _| wanted(to)));
        let ended = match goal {
            None => goals.changed().await.is_err(),
            Some(goal) => {
                let course =
                    Course { goal: Arc::new(goal), board: board.clone(), told: told.clone() };
                // A transfer that is under way for an older goal is ended.
                tokio::select! {
                    () = course.pursue() => false,
                    changed = goals.changed() => changed.is_err(),
                }
            }
        };
        if ended {
            return;
        }
    }
}

/// The way of all targets to one goal.
struct Course {
    goal: Arc<Goal>,
    board: Board,
    told: mpsc::Sender<Told>,
}

/// When a target is next, and how long it waits after that.
struct Due {
    at: Instant,
    patience: Duration,
}

/// What became of one push.
enum Pushed {
    Well,
    Failed(String),
    /// It would delete too much that standin doesn't know.
    Held(String),
}

impl Course {
    /// Never ends.
    async fn pursue(self) {
        let now = Instant::now();
        let mut due: BTreeMap<String, Due> = BTreeMap::new();
        for to in &self.goal.targets {
            due.insert(to.clone(), Due { at: now, patience: AGAIN });
            self.board.change(|targets| {
                let target = targets.entry(to.clone()).or_default();
                target.to.clone_from(to);
                if target.state.is_empty() || target.state == "current" {
                    target.state = "waiting".to_owned();
                }
            });
        }
        loop {
            let Some(next) = due.values().map(|it| it.at).min() else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(next).await;
            let now = Instant::now();
            let ready: Vec<String> =
                due.iter().filter(|(_, it)| it.at <= now).map(|(to, _)| to.clone()).collect();
            for (to, pushed) in self.push(ready).await {
                let Some(due) = due.get_mut(&to) else { continue };
                let wait = match pushed {
                    Pushed::Well => {
                        due.patience = AGAIN;
                        LOOK_AGAIN
                    }
                    Pushed::Failed(_) | Pushed::Held(_) => {
                        let wait = due.patience;
                        due.patience = (wait * 2).min(AGAIN_AT_MOST);
                        wait
                    }
                };
                due.at = Instant::now() + wait;
                self.note(&to, pushed);
            }
        }
    }

    async fn push(&self, targets: Vec<String>) -> Vec<(String, Pushed)> {
        let goal = Arc::clone(&self.goal);
        let ready = tokio::task::spawn_blocking(move || Load::of(&goal)).await;
        let ready = ready.map_err(|error| error.to_string()).and_then(|ready| ready);
        let load = match ready {
            Ok(load) => Arc::new(load),
            Err(why) => {
                return targets.into_iter().map(|to| (to, Pushed::Failed(why.clone()))).collect();
            }
        };
        let room = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let mut pushes = JoinSet::new();
        for to in targets {
            let (load, goal, room) = (Arc::clone(&load), Arc::clone(&self.goal), Arc::clone(&room));
            pushes.spawn(async move {
                // It is never closed.
                let _place = room.acquire().await;
                let pushed = one(&load, &goal, &to).await;
                (to, pushed.unwrap_or_else(Pushed::Failed))
            });
        }
        let mut all = Vec::new();
        while let Some(pushed) = pushes.join_next().await {
            all.extend(pushed);
        }
        all
    }

    /// Shows it, and says it where that is news.
    fn note(&self, to: &str, pushed: Pushed) {
        let number = self.goal.id.number;
        let (state, kind, severity, text, why) = match pushed {
            Pushed::Well => {
                let text = format!("rsync to {to} is well again: it has generation {number}");
                ("current", "rsync_well", Severity::Notice, text, None)
            }
            Pushed::Failed(why) => {
                let text = format!(
                    "generation {number} didn't get to {to}: {why}. It is tried again, at least every \
                     {} minutes",
                    AGAIN_AT_MOST.as_secs() / 60
                );
                ("failed", "rsync_failed", Severity::Warning, text, Some(why))
            }
            Pushed::Held(why) => {
                let text = format!("generation {number} isn't sent to {to}: {why}");
                (HELD, "rsync_held", Severity::Warning, text, Some(why))
            }
        };
        let before = self.board.change(|targets| {
            let target = targets.entry(to.to_owned()).or_default();
            if why.is_none() {
                let tree = hex(&self.goal.id.tree.0);
                target.generation = Some(Generation { number, tree });
            }
            target.why = why;
            std::mem::replace(&mut target.state, state.to_owned())
        });
        let was_well = !matches!(before.as_str(), "failed" | HELD);
        if before != state && !(state == "current" && was_well) {
            // With that many waiting the log says enough.
            let _ = self.told.try_send(Told { severity, kind, peer: None, text });
        }
    }
}

/// Looks what would be done, and does it, if that is no accident.
async fn one(load: &Load, goal: &Goal, to: &str) -> Result<Pushed, String> {
    let push =
        Push { tree: &load.tree.0, to, password: load.password.as_deref(), exclude: &load.exclude };
    let changes = push.look().await?;
    if changes.all == 0 {
        return Ok(Pushed::Well);
    }
    let deletions = changes.deleted;
    if !goal.accepted.counts(to, goal.id.tree)
        && let Some(why) = suspicion(load, goal, changes).await
    {
        return Ok(Pushed::Held(why));
    }
    push.send(deletions).await?;
    Ok(Pushed::Well)
}

/// Why it may be an accident to delete what is there: too much of it never came from here.
async fn suspicion(load: &Load, goal: &Goal, changes: Changes) -> Option<String> {
    // What the writer's own files lost was asked about before it became a generation.
    let had = load.files.saturating_sub(changes.made) + changes.files_deleted;
    let many = |gone: usize| gone >= LEAST_GONE && gone * 100 > had * MOST_GONE_PERCENT;
    if !many(changes.files_deleted) {
        return None;
    }
    let (store, whole) = (Arc::clone(&goal.store), load.whole);
    let strange = tokio::task::spawn_blocking(move || {
        let mut known = HashSet::new();
        for one in store.generations() {
            if let Ok(manifest) = store.manifest(&one.id) {
                let whole = whole || manifest.roots().len() > 1;
                known.extend(manifest.entries().map(|(root, entry)| {
                    let path = if whole { root.full(entry) } else { entry.path().to_owned() };
                    let path = path.as_os_str().as_bytes();
                    path.strip_prefix(b"/").unwrap_or(path).to_vec()
                }));
            }
        }
        let unknown = changes.files_deleted - changes.gone.len();
        unknown + changes.gone.iter().filter(|path| !known.contains(*path)).count()
    });
    let strange = strange.await.unwrap_or(had);
    many(strange).then(|| {
        format!(
            "{strange} of {had} files there never came from this cluster and would be deleted. \
             Nothing was changed there; give it a module of its own, or, if that is meant, on this \
             node: standin sync resume --accept-deletion"
        )
    })
}

/// What is sent.
struct Load {
    tree: Sent,
    /// The files have their whole paths in the module.
    whole: bool,
    /// Files and links.
    files: usize,
    exclude: Vec<String>,
    password: Option<Vec<u8>>,
}

/// A tree that is removed with this.
struct Sent(PathBuf);

impl Drop for Sent {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        // What is left is removed by the next daemon.
        drop(tokio::task::spawn_blocking(move || fs::remove_dir_all(path)));
    }
}

impl Load {
    fn of(goal: &Goal) -> Result<Self, String> {
        let password = goal.password_file.as_deref().map(password).transpose()?;
        let manifest = goal.store.manifest(&own(goal.id)).map_err(|error| {
            format!("generation {} isn't in the history: {error}", goal.id.number)
        })?;
        let whole = !alone(&manifest);
        let tree = build(goal, &manifest, whole)
            .map_err(|error| format!("the files can't be laid out for rsync: {error}"))?;
        let files = manifest.entries().filter(|(_, it)| it.kind != Kind::Directory).count();
        let roots: Vec<&Path> = manifest.roots().iter().map(|root| root.path.as_path()).collect();
        let exclude = patterns(&goal.exclude, &roots, whole);
        Ok(Self { tree, whole, files, exclude, password })
    }
}

/// One directory that is shared is the module itself.
fn alone(manifest: &Manifest) -> bool {
    match manifest.roots() {
        [root] => root.entries.first().is_some_and(|first| first.kind == Kind::Directory),
        _ => false,
    }
}

fn build(goal: &Goal, manifest: &Manifest, whole: bool) -> io::Result<Sent> {
    // Never the same twice: the end of an older one may still be under way.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    files::private_dir(&goal.dir)?;
    let sent = Sent(goal.dir.join(COUNT.fetch_add(1, Ordering::Relaxed).to_string()));
    let mut builder = Builder::new(&goal.store);
    for root in manifest.roots().iter().filter(|root| !root.entries.is_empty()) {
        let mut at = sent.0.clone();
        if whole {
            at.push(root.path.strip_prefix("/").unwrap_or(&root.path));
            folders(&sent.0, &at)?;
        }
        builder.build(root, &at, None)?;
    }
    // All that is shared may be gone, if that was meant.
    folders(&sent.0, &sent.0.join("x"))?;
    Ok(sent)
}

/// Makes the directories from `top` down to the one that `path` lies in.
fn folders(top: &Path, path: &Path) -> io::Result<()> {
    let above: Vec<&Path> = path.ancestors().skip(1).take_while(|it| it.starts_with(top)).collect();
    for folder in above.into_iter().rev().filter(|folder| !folder.exists()) {
        fs::create_dir(folder)?;
        // As `/etc` is, whatever our own umask.
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// `exclude` in rsync's words: what the nodes leave alone is left alone there.
fn patterns(exclude: &[String], roots: &[&Path], whole: bool) -> Vec<String> {
    let mut all = vec![format!("{}*", String::from_utf8_lossy(OWN_PREFIX))];
    for pattern in exclude {
        let pattern = pattern.trim_end_matches('/');
        if !pattern.contains('/') {
            all.push(pattern.to_owned());
        } else if pattern.starts_with('/') {
            if whole {
                all.push(pattern.to_owned());
                continue;
            }
            let below = roots.first().and_then(|root| pattern.strip_prefix(root.to_str()?));
            all.extend(below.filter(|it| it.starts_with('/')).map(str::to_owned));
        } else if whole {
            all.extend(roots.iter().map(|root| format!("{}/{pattern}", root.display())));
        } else {
            all.push(format!("/{pattern}"));
        }
    }
    all
}

/// Its first line, if it is its owner's alone.
fn password(path: &Path) -> Result<Vec<u8>, String> {
    let fail = |error: io::Error| {
        format!(
            "rsync_password_file {}: {error}; mend: write the password into it, with mode 0600",
            path.display()
        )
    };
    // A pipe that nobody writes to would hold us.
    if !fs::metadata(path).map_err(fail)?.is_file() {
        return Err(fail(io::Error::other("it isn't a file")));
    }
    let file = File::open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if meta.mode() & 0o077 != 0 {
        return Err(format!(
            "rsync_password_file {} can be read by others (mode {:04o}), so it isn't used; mend: chmod \
             600 {0}, and change the password",
            path.display(),
            meta.mode() & 0o7777
        ));
    }
    let mut bytes = Vec::new();
    file.take(PASSWORD).read_to_end(&mut bytes).map_err(fail)?;
    let line = bytes.split(|byte| *byte == b'\n' || *byte == b'\r').next().unwrap_or_default();
    if line.is_empty() {
        return Err(fail(io::Error::other("its first line is empty")));
    }
    Ok([line, b"\n"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_counts_for_the_targets_that_have_asked_and_for_no_other() {
        let target = |to: &str, state: &str| Target {
            to: to.to_owned(),
            state: state.to_owned(),
            ..Target::default()
        };
        let tree = TreeHash([1; 32]);
        let targets = [target("a::x", HELD), target("b::x", "current"), target("c::x", "failed")];
        let accepted = Accepted::of(&targets, [tree].into_iter());
        assert!(accepted.counts("a::x", tree));
        assert!(!accepted.counts("b::x", tree) && !accepted.counts("c::x", tree));
        assert!(!accepted.counts("a::x", TreeHash([2; 32])), "another tree is another question");
    }
}
