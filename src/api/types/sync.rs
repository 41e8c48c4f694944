//! What the API says of the shared files.

use serde::{Deserialize, Serialize};

/// `GET /v1/sync`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sync {
    pub(crate) node: String,
    /// Whom files are taken from; absent while nobody holds the VIP.
    pub(crate) writer: Option<String>,
    pub(crate) roots: Vec<String>,
    /// This node first, then the others by name.
    pub(crate) nodes: Vec<Node>,
    /// Hosts with only an rsync daemon; none where another node sends.
    #[serde(default)]
    pub(crate) targets: Vec<Target>,
    /// The operator's `apply` that is under way, or the last one.
    pub(crate) apply: Option<Apply>,
    /// What is being done at the moment.
    pub(crate) doing: Option<String>,
    /// What an operator should know: files outside that the configuration names, limits.
    pub(crate) notes: Vec<String>,
    /// Absent until this node has any.
    #[serde(default)]
    pub(crate) tickets: Option<Tickets>,
    /// Files that nginx's configuration names, that aren't shared, and that aren't the same on all nodes.
    #[serde(default)]
    pub(crate) outside: Vec<Outside>,
    /// The line for `[sync]` that shares them.
    #[serde(default)]
    pub(crate) also_line: Option<String>,
}

/// A file outside of the shared trees that isn't the same on all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outside {
    pub(crate) path: String,
    /// Where nginx's configuration names it, and by which directive.
    pub(crate) named: String,
    pub(crate) missing_here: bool,
    /// The nodes that have another one; one at all, where it is missing here.
    pub(crate) differs_on: Vec<String>,
    pub(crate) missing_on: Vec<String>,
}

/// The keys of TLS session tickets on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tickets {
    /// Grows with each change; 0: not yet those of the cluster.
    pub(crate) number: u64,
    /// RFC 3339.
    pub(crate) since: String,
    /// nginx's configuration names them.
    pub(crate) used: bool,
    /// nginx runs with them.
    pub(crate) loaded: bool,
    pub(crate) problem: Option<String>,
}

/// The four things known of a generation on a node, and what is in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) connected: bool,
    pub(crate) writes: bool,
    pub(crate) desired: Option<Generation>,
    pub(crate) staged: Option<Generation>,
    pub(crate) tested: Option<Generation>,
    pub(crate) applied: Option<Generation>,
    pub(crate) proven: Option<Generation>,
    /// The tree on disk, where it isn't the applied one.
    pub(crate) drift: Option<String>,
    pub(crate) problem: Option<Problem>,
    /// Why nothing is taken there.
    pub(crate) held: Option<String>,
    /// Whether its nginx serves the writer's generation; absent while that isn't known.
    pub(crate) current: Option<bool>,
}

/// A module of an rsync daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// `USER@HOST::MODULE`.
    pub(crate) to: String,
    /// What it got last from this daemon.
    pub(crate) generation: Option<Generation>,
    /// `waiting`, `current`, `failed` (it is tried again), or `held` (an operator is asked).
    pub(crate) state: String,
    pub(crate) why: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    /// SHA-256 of the tree, hexadecimal.
    pub(crate) tree: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) generation: Generation,
    /// `refused`, `needs approval`, `unproven`, `tried again` or `undone`.
    pub(crate) kind: String,
    pub(crate) why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Apply {
    pub(crate) generation: Option<Generation>,
    /// In words.
    pub(crate) step: String,
    pub(crate) over: bool,
    pub(crate) failed: Option<String>,
    pub(crate) nodes: Vec<String>,
    pub(crate) skipped: Vec<String>,
}

/// One of `GET /v1/sync/history`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) generation: Option<u64>,
    pub(crate) tree: String,
    /// RFC 3339.
    pub(crate) at: String,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// `written here`, `from n1`, `drift`, `before the first generation`.
    pub(crate) why: String,
    /// It is what lies on disk.
    pub(crate) on_disk: bool,
}

/// `GET /v1/sync/diff`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Diff {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) changes: Vec<Change>,
    /// More than are listed.
    pub(crate) left_out: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) path: String,
    /// `added`, `removed`, `content`, `mode`, `owner`, …
    pub(crate) what: String,
}
