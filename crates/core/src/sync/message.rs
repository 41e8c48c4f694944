//! What replicas say to each other.

use std::fmt;

use super::{Id, Line, TreeHash};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// What a node has; said after each change, and when a link comes up.
    State(Box<State>),
    /// The writer's generation. Without `apply` it is only to be fetched.
    Offer {
        line: Line,
        apply: bool,
    },
    Order(Order),
}

/// What the writer orders while an operator's `apply` is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Test(Id),
    Apply(Id),
    /// Go back to what was there before it.
    Undo {
        id: Id,
        why: String,
    },
}

/// The four things known of a generation on a node, and what is in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub desired: Option<Id>,
    /// All of it is here.
    pub staged: Option<Id>,
    pub tested: Option<Id>,
    /// It lies on disk.
    pub applied: Option<Id>,
    /// nginx runs with it.
    pub proven: Option<Id>,
    /// The tree on disk, where it is another than the applied one.
    pub drift: Option<TreeHash>,
    pub problem: Option<Problem>,
    /// Why nothing is taken, in words.
    pub held: Option<String>,
    /// Whom this node takes for the writer.
    pub writer: Option<String>,
}

/// Why a generation isn't in place or not proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub id: Id,
    pub trouble: Trouble,
    /// For the operator, with nginx's own message.
    pub why: String,
}

/// The kinds of trouble, since they end differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// nginx refuses it. Tried again when something changes.
    Refused,
    /// It needs `standin approve` on this node.
    Approval,
    /// It is good, but nginx doesn't run with it.
    Unproven,
    /// Not the generation's fault, such as a name that doesn't resolve: tried again by itself.
    Passing,
    /// Undone by an `apply` that failed elsewhere.
    Undone,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Approval => "needs approval",
            Self::Unproven => "unproven",
            Self::Passing => "tried again",
            Self::Undone => "undone",
        })
    }
}
