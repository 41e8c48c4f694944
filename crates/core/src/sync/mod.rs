//! Which generation of the shared files a node should have, has, and has proven: one state machine
//! for each node, the same on the writer and on those that follow it.
//!
//! ```text
//!  writer:    Disk ─▶ Take ─▶ offer to all ─▶ (Loaded: proven)
//!  follower:  offer ─▶ Fetch ─▶ [Keep what lies there] ─▶ Apply (test, swap, reload, prove)
//!  `apply`:   all Test ─▶ followers Apply ─▶ the writer Loads; a failure undoes it on all
//! ```
//! The writer is the node that holds the VIP by one's own sight, or the one that the file names; an
//! offer of anybody else is remembered and not followed. A generation that was refused is not tried
//! again until something has changed.
//!
//! The contract is the election's: [`Replica::step`] is total, [`Replica::next_deadline`] says when
//! to tick. One [`Job`] at a time is under way; the shell answers each with [`Input::Done`], only a
//! [`Job::Fetch`] may be replaced by another before its answer.

pub mod event;
mod follow;
pub mod id;
pub mod message;
mod ordered;
mod replica;
pub mod tickets;

#[cfg(test)]
mod tests;

pub use event::Event;
pub use id::{Id, Line, Relation, TreeHash};
pub use message::{Message, Order, Problem, State, Trouble};
pub use ordered::{Ordered, Step};
pub use replica::{Peer, Replica, View};

/// What a replica must know of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub node: String,
    pub source: Source,
    pub trigger: Trigger,
}

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The holder of the VIP.
    Active,
    Node(String),
}

/// When followers apply what the writer has saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Save,
    /// When the writer's nginx has loaded it.
    Reload,
}

/// What outlives the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The generation on disk and its ancestors.
    pub line: Line,
    pub proven: Option<Id>,
    /// Other files than the last generation's have lain on the disk, and whether it has been loaded
    /// since isn't known.
    pub strayed: bool,
    /// What was seen of them last.
    pub disk: Option<TreeHash>,
    /// The highest number that was ever seen.
    pub highest: u64,
    /// `standin sync hold`.
    pub held: bool,
    /// Why a generation isn't tried again.
    pub problem: Option<Problem>,
}

/// What the shell tells a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The deadline has come. Harmless at any other time.
    Tick,
    Config(Config),
    /// Who holds the VIP, by this node's own sight.
    Holder(Option<String>),
    /// The tree that lies on disk and has been quiet; `loss` says in words when too much of the last
    /// generation is gone.
    Disk {
        tree: TreeHash,
        loss: Option<String>,
    },
    /// This node's nginx runs with this tree.
    Loaded(TreeHash),
    /// This node has made files of its own anew, of the same tree: its nginx runs with the old ones.
    Made,
    /// The peer link with a node is up, or down.
    Link {
        peer: String,
        up: bool,
    },
    Heard {
        from: String,
        message: Message,
    },
    /// What became of the job that is under way.
    Done(Outcome),
    Command(Command),
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Take nothing from others, and make nothing new.
    Hold,
    Resume {
        accept_deletion: bool,
    },
    /// Put a tree of the history in the place of the writer's; it becomes a new generation.
    Rollback(TreeHash),
    /// Test everywhere, then followers first, the writer last.
    Apply,
    /// Something that a refusal may have been about has changed.
    Retry,
}

/// What the shell is asked to do; one at a time, answered by [`Input::Done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Freeze the tree on disk into the history, as this generation.
    Take(Id),
    /// Keep the tree on disk in the history before it is overwritten.
    Keep(TreeHash),
    /// Get what is missing of a generation from a peer.
    Fetch { id: Id, from: String },
    /// Test a generation as if it stood in its place; nothing is changed.
    Test(Id),
    /// Test it, put it in its place, reload nginx and prove it; or leave all as it was. Not when the
    /// disk has another tree than `over`.
    Apply { id: Id, over: TreeHash },
    /// Reload this node's nginx and prove it; the tree lies there already.
    Load(Id),
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Of [`Job::Apply`]: the tree is in its place, but nginx doesn't run with it, for this reason.
    Unproven(String),
    /// Nothing was changed. The tree on disk isn't what it was thought to be; it is being looked at.
    Moved,
    /// Nothing was changed, for this reason.
    Failed {
        trouble: Trouble,
        why: String,
    },
}

/// What a replica asks of its shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Send {
        to: String,
        message: Message,
    },
    Start(Job),
    /// Write it down before anything else is done.
    Save(Saved),
    /// Look at the disk now, without waiting for a change.
    Scan,
    Event(Event),
}

/// The effects of a step, in the order in which they are to be performed.
pub type Effects = Vec<Effect>;
