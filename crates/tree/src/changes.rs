//! What is different between two trees, and whether that looks like an accident.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use crate::manifest::{Entry, Kind, Manifest, Root, shown};
use std::os::unix::ffi::OsStrExt;

/// More of the files gone at once than this, in percent, is asked about.
pub const MOST_GONE_PERCENT: usize = 30;

/// A single file that goes is no accident by its share alone, however few there are.
const LEAST_GONE: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Difference {
    Added,
    Removed,
    /// Other bytes, another target, another kind, or joined to other files by hard links.
    Content,
    /// The same content with another mode, owner, time or attribute.
    Metadata,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Content => "changed",
            Self::Metadata => "mode, owner, time or attributes changed",
        })
    }
}

/// One path that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Absolute.
    pub path: PathBuf,
    pub what: Difference,
}

/// Every path that is different, sorted by root and path. A directory whose time alone is different
/// is not among them.
#[must_use]
pub fn changes(old: &Manifest, new: &Manifest) -> Vec<Change> {
    let nothing = |path: &PathBuf| Root { path: path.clone(), entries: Vec::new() };
    let mut all = Vec::new();
    for root in new.roots() {
        let before = old.root(&root.path).cloned().unwrap_or_else(|| nothing(&root.path));
        all.extend(root_changes(&before, root));
    }
    for root in old.roots().iter().filter(|root| new.root(&root.path).is_none()) {
        all.extend(root_changes(root, &nothing(&root.path)));
    }
    all
}

/// [`changes`] of one root. Both must be parts of a [`Manifest`].
#[must_use]
pub fn root_changes(old: &Root, new: &Root) -> Vec<Change> {
    let mut all = Vec::new();
    let (mut before, mut after) = (old.entries.iter().peekable(), new.entries.iter().peekable());
    let (mut ours, mut theirs) = (Links::default(), Links::default());
    loop {
        let (entry, what) = match (before.peek().copied(), after.peek().copied()) {
            (None, None) => return all,
            (Some(was), Some(is)) if was.path == is.path => {
                before.next();
                after.next();
                let joined = ours.first(was) != theirs.first(is);
                (is, difference(was, is, joined))
            }
            (Some(was), is) if is.is_none_or(|is| was.path < is.path) => {
                before.next();
                ours.first(was);
                (was, Some(Difference::Removed))
            }
            (_, Some(is)) => {
                after.next();
                theirs.first(is);
                (is, Some(Difference::Added))
            }
            // Nothing comes after, and then the arm before the last takes what was.
            (Some(_), None) => return all,
        };
        all.extend(what.map(|what| Change { path: new.full(entry), what }));
    }
}

/// The first path of each group of hard links: their numbers alone say nothing.
#[derive(Default)]
struct Links<'a>(HashMap<u32, &'a [u8]>);

impl<'a> Links<'a> {
    fn first(&mut self, entry: &'a Entry) -> Option<&'a [u8]> {
        let Kind::File { link: link @ 1.., .. } = entry.kind else { return None };
        Some(*self.0.entry(link).or_insert(&entry.path))
    }
}

fn difference(was: &Entry, is: &Entry, joined_otherwise: bool) -> Option<Difference> {
    let same_content = match (&was.kind, &is.kind) {
        (Kind::File { hash: one, .. }, Kind::File { hash: other, .. }) => one == other,
        (one, other) => one == other,
    };
    if !same_content || joined_otherwise {
        Some(Difference::Content)
    } else {
        (!was.same(is)).then_some(Difference::Metadata)
    }
}

/// A change that nobody may have meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suspicion {
    RootGone(PathBuf),
    /// It is there, and nothing is in it.
    RootEmptied(PathBuf),
    ManyGone {
        gone: usize,
        of: usize,
    },
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |path: &PathBuf| shown(path.as_os_str().as_bytes());
        match self {
            Self::RootGone(path) => write!(f, "{} is gone", name(path)),
            Self::RootEmptied(path) => write!(f, "{} has no file left", name(path)),
            Self::ManyGone { gone, of } => write!(f, "{gone} of {of} files are gone or emptied"),
        }
    }
}

/// Whether the step from `old` to `new` must be asked about first: a root gone or emptied, or more
/// than [`MOST_GONE_PERCENT`] of the files. A file that only moved isn't gone; one that has lost all
/// its bytes is. A root that the cluster file doesn't name any more is no matter of this.
#[must_use]
pub fn suspicion(old: &Manifest, new: &Manifest) -> Option<Suspicion> {
    let (mut gone, mut of) = (0, 0);
    for root in old.roots() {
        let Some(now) = new.root(&root.path) else { continue };
        if now.entries.is_empty() && !root.entries.is_empty() {
            return Some(Suspicion::RootGone(root.path.clone()));
        }
        let before = leaves(root).count();
        if before > 0 && leaves(now).next().is_none() {
            return Some(Suspicion::RootEmptied(root.path.clone()));
        }
        gone += gone_from(root, now);
        of += before;
    }
    let many = gone >= LEAST_GONE && gone * 100 > of * MOST_GONE_PERCENT;
    many.then_some(Suspicion::ManyGone { gone, of })
}

fn leaves(root: &Root) -> impl Iterator<Item = &Entry> {
    root.entries.iter().filter(|entry| entry.kind != Kind::Directory)
}

/// What an entry holds, wherever it lies.
fn content(entry: &Entry) -> &[u8] {
    match &entry.kind {
        Kind::Directory => b"",
        Kind::File { hash, .. } => hash.as_bytes(),
        Kind::Symlink { target } => target,
    }
}

const fn is_empty(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File { size: 0, .. })
}

fn gone_from(old: &Root, new: &Root) -> usize {
    let mut moved_in: HashMap<&[u8], usize> = HashMap::new();
    for entry in leaves(new).filter(|entry| old.entry(&entry.path).is_none()) {
        *moved_in.entry(content(entry)).or_default() += 1;
    }
    let mut gone = 0;
    for entry in leaves(old) {
        match new.entry(&entry.path) {
            Some(now) if now.kind != Kind::Directory => {
                gone += usize::from(is_empty(now) && !is_empty(entry));
            }
            _ => match moved_in.get_mut(content(entry)) {
                Some(count @ 1..) => *count -= 1,
                _ => gone += 1,
            },
        }
    }
    gone
}
