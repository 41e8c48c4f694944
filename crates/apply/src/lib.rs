//! Changes nginx's files as a whole: tested in place, swapped in, reloaded, proven, or put back.
//!
//! ```text
//! Staged ── test ──▶ Tested ── swap ──▶ Swapped ── reload_and_prove ──▶ Proven ── keep ── retire
//!             │ Refusal          │ journal               │ NotProven
//!             ▼                  ▼                       ▼
//!       nothing changed    recover undoes it        undo: the old files are back
//! ```
//!
//! Everything here blocks: a daemon calls it from a thread of its own. Nothing here is sent or
//! received over a network, and nothing decides *which* files are wanted.

mod classes;
mod copy;
mod fields;
mod fingerprint;
mod inside;
mod journal;
mod leaving;
mod nginx;
mod parts;
mod pieces;
mod proof;
mod remedy;
mod swap;
mod test;
mod tester;
mod view;
mod whole;
mod writes;

use std::path::{Path, PathBuf};

pub use classes::Class;
pub use fingerprint::{Drift, DriftKind, Fingerprint, Seen};
pub use leaving::{left, remove_tree};
pub use nginx::Nginx;
pub use parts::{Change, Part};
pub use proof::{Before, Ear, NotProven, Proven, look, reload, reload_and_prove};
pub use remedy::remedy;
pub use swap::{
    Kept, Left, NotKept, NotSwapped, Recovered, Swapped, Undone, keep, recover, retire,
    staged_by_journal, swap, undo,
};
pub use test::{Refusal, Tested, Tester, test};
pub use tester::serve as serve_tester;
pub use whole::{Back, Means, Outcome, apply};

/// Names that begin so are standin's own; they are never part of a generation.
pub const HIDDEN: &str = ".standin";

/// Where journal and drift are, in the directory of what outlives the daemon.
#[must_use]
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("apply")
}

/// Complete trees that are ready to take the place of others.
#[derive(Clone, Debug, Default)]
pub struct Staged {
    /// Names the generation in journals and among what is kept; it is used as a file name.
    pub generation: String,
    pub roots: Vec<Root>,
}

/// One root: a directory, or a single file.
#[derive(Clone, Debug)]
pub struct Root {
    /// What is to be replaced, without a symbolic link in its path; it need not exist yet.
    pub path: PathBuf,
    /// All that shall be there, with modes, owners, times and extended attributes: also what the
    /// generation leaves alone (excluded files). It can only be exchanged as a whole in the same
    /// directory as `path`; its name is new with each generation and begins with [`HIDDEN`].
    pub staged: PathBuf,
    /// What `path` was when its contents were last read; what differs by the time of the swap, and
    /// until the old tree is retired, is drift. `None`: as it is when the swap begins.
    pub before: Option<Fingerprint>,
    /// `None`: `staged` is the whole tree. Else only what differs is in it, and only that takes its
    /// place, file by file, in this order: for directories in which the exchange of all would cost too
    /// much.
    pub parts: Option<Vec<Part>>,
}

/// A point of the way at which the process may die; told before the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The staged trees are on the disk.
    Synced,
    /// What can't be exchanged lies beside its place.
    Prepared,
    /// The journal is on the disk; nothing has changed yet.
    Journalled,
    /// This root has its new tree.
    Exchanged(usize),
    /// This piece of a root that can't be exchanged has its new bytes.
    Placed { root: usize, piece: usize },
    /// All roots have.
    Swapped,
    /// The journal says that it is proven.
    Kept,
    /// This root has its old tree again.
    TakenBack(usize),
    /// This piece has.
    PieceTakenBack { root: usize, piece: usize },
    /// Nothing is left of the attempt but the staged trees.
    Undone,
    /// What was edited in the old tree is in safety.
    DriftKept,
    /// Large old trees are on the list of what is to be removed.
    Listed,
    /// This one of them has another name, and nobody waits for its removal.
    SetAside(usize),
    /// The old tree is gone, or leaves.
    Retired,
}

/// Is told each step; tests end the process there.
pub type Hook<'h> = &'h mut dyn FnMut(Step);
