//! What happens to generations, and its words.

use std::fmt;

use super::{Id, Problem, TreeHash};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The writer made a generation of what lies on its disk.
    Taken(Id),
    /// It lies on disk here.
    Applied(Id),
    Proven(Id),
    Problem(Problem),
    /// A follower's files were changed by somebody else; what lay there is in the history.
    Drift {
        kept: TreeHash,
        id: Option<Id>,
    },
    /// What lay there before the first generation is in the history.
    Before {
        kept: TreeHash,
    },
    /// The writer lacks this node's last generation, which stays in the history.
    Behind {
        writer: String,
        own: Id,
        theirs: Id,
    },
    /// Two nodes wrote apart from each other.
    Fork {
        writer: String,
        own: Id,
        theirs: Id,
        common: Id,
    },
    Held(String),
    Resumed,
    Writer(Option<String>),
    /// An operator's `apply` is through.
    Ordered {
        id: Id,
        skipped: Vec<String>,
    },
    OrderFailed {
        why: String,
    },
    Undone {
        id: Id,
        why: String,
    },
}

impl Event {
    /// A stable word for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Taken(_) => "generation_taken",
            Self::Applied(_) => "generation_applied",
            Self::Proven(_) => "generation_proven",
            Self::Problem(_) => "generation_refused",
            Self::Drift { .. } => "drift",
            Self::Before { .. } => "kept",
            Self::Behind { .. } | Self::Fork { .. } => "fork",
            Self::Held(_) => "sync_held",
            Self::Resumed => "sync_resumed",
            Self::Writer(_) => "writer",
            Self::Ordered { .. } => "apply_done",
            Self::OrderFailed { .. } => "apply_failed",
            Self::Undone { .. } => "generation_undone",
        }
    }

    /// Whether an operator should look.
    #[must_use]
    pub const fn alarming(&self) -> bool {
        matches!(
            self,
            Self::Problem(_)
                | Self::Drift { .. }
                | Self::Behind { .. }
                | Self::Fork { .. }
                | Self::Held(_)
                | Self::OrderFailed { .. }
                | Self::Undone { .. }
        )
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(id) => write!(f, "generation {id} is what lies on disk here now"),
            Self::Applied(id) => write!(f, "generation {id} is in place"),
            Self::Proven(id) => write!(f, "generation {id} is served by nginx"),
            Self::Problem(Problem { id, trouble, why }) => {
                write!(f, "generation {id}: {trouble}: {why}")
            }
            Self::Drift { kept, id } => {
                write!(
                    f,
                    "the files here were changed by somebody else than standin; what lay there"
                )?;
                write!(f, " is kept in the history as {kept}")?;
                id.map_or(Ok(()), |id| write!(f, ", and generation {id} takes its place"))
            }
            Self::Before { kept } => {
                write!(
                    f,
                    "what lay here before the first generation is kept in the history as {kept}"
                )
            }
            Self::Behind { writer, own, theirs } => write!(
                f,
                "the writer {writer} has generation {theirs} and never took {own} of this node: \
                 {own} stays in the history here, and {theirs} takes its place"
            ),
            Self::Fork { writer, own, theirs, common } => write!(
                f,
                "{writer} and this node were both changed since generation {common}: the \
                 writer's {theirs} takes the place of {own}, which stays in the history here"
            ),
            Self::Held(why) => write!(f, "synchronisation is held: {why}"),
            Self::Resumed => f.write_str("synchronisation goes on"),
            Self::Writer(Some(writer)) => write!(f, "files come from {writer} now"),
            Self::Writer(None) => {
                f.write_str("nobody is known to hold the VIP: no files are taken")
            }
            Self::Ordered { id, skipped } if skipped.is_empty() => {
                write!(f, "generation {id} is served by every node")
            }
            Self::Ordered { id, skipped } => write!(
                f,
                "generation {id} is served by every node that is connected; {} will catch up",
                skipped.join(", ")
            ),
            Self::OrderFailed { why } => write!(f, "apply has stopped: {why}"),
            Self::Undone { id, why } => write!(f, "generation {id} was undone: {why}"),
        }
    }
}
