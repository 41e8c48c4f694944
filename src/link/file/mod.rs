//! The cluster file over the link: tested on all nodes before one takes it, and everywhere or nowhere.
//!
//! ```text
//!  apply on n1            n2, n3
//!   own look
//!   ── Propose ─────────▶ look, keep          any fault: ── Abort ──▶ forgotten, nothing changed
//!   ◀──────── Fit ──────
//!   takes it: from here it is decided
//!   ── Commit ──────────▶ take, reload
//!   ◀──────── Taken ────
//! ```
//! Who misses the commit sees the higher version in the others' summaries and fetches it: the
//! highest version wins. What a proposal needs is kept in memory only.

pub(crate) mod apply;
mod desk;
mod fetch;
mod fit;
pub(crate) mod power;
pub(crate) mod shelf;

use serde::{Deserialize, Serialize};

pub(super) use desk::Desk;
pub(super) use fetch::keep_up;
use shelf::Version;

use crate::authority::Renewal;

/// Asked of another node, instead of a greeting, on a connection of its own.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Could this be your cluster file?
    Propose(Proposal),
    /// It is.
    Commit { version: Version },
    /// It isn't.
    Abort { version: Version },
    /// What is your version? `authority` is the fingerprint of the asking node's.
    Fetch {
        #[serde(default)]
        authority: String,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Proposal {
    pub(crate) version: Version,
    /// The version that the asking node has.
    pub(crate) base: u64,
    /// The file as whoever applies it calls it, for messages.
    pub(crate) name: String,
    pub(crate) text: String,
    /// With another authority: what makes the asked node a member of it.
    #[serde(default)]
    pub(crate) renewal: Option<Renewal>,
}

/// The answer to an [`Ask`].
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    Fit {
        #[serde(default)]
        warnings: String,
    },
    Unfit {
        faults: String,
    },
    Taken {
        /// What keeps it from being in force all the same.
        #[serde(default)]
        problem: Option<String>,
    },
    File {
        version: Version,
        text: String,
        /// For who missed a change of the authority.
        #[serde(default)]
        renewal: Option<Renewal>,
    },
    No {
        why: String,
    },
    #[serde(other)]
    Unknown,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A cluster file may have a password.
        f.write_str(match self {
            Self::Propose(_) => "Propose",
            Self::Commit { .. } => "Commit",
            Self::Abort { .. } => "Abort",
            Self::Fetch { .. } => "Fetch",
            Self::Unknown => "Unknown",
        })
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fit { .. } => "Fit",
            Self::Unfit { .. } => "Unfit",
            Self::Taken { .. } => "Taken",
            Self::File { .. } => "File",
            Self::No { .. } => "No",
            Self::Unknown => "Unknown",
        })
    }
}
