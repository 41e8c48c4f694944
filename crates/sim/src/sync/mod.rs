//! The shared files' world: real replicas, a model of the shell around them, and the checkers of
//! promises 4 and 5.
//!
//! ```text
//!  story (faults, operators) ─▶ World ─▶ shell ─▶ Replica::step ─▶ jobs, messages
//!                                 ├── host   the disk, the history, nginx; what a crash leaves
//!                                 ├── net    cuts, sessions, who holds the VIP by whose sight
//!                                 └── check  what must never be, and what must be once all is quiet
//! ```

pub mod campaign;
mod check;
mod host;
mod job;
mod net;
mod shell;
mod story;
mod tree;
mod world;

pub use world::World;

/// How a shell, or the way to it, is broken: each is caught by a checker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// Says that a tree is in the history, and it isn't.
    ForgetsTrees,
    /// Takes every tree for a good one.
    SkipsTests,
    /// Asks nobody for leave.
    SkipsApproval,
    /// Swaps without a look at what lies there.
    SwapsBlindly,
    /// Has nginx load while the files are being replaced.
    LoadsHalf,
    /// Starts without finishing what a crash cut off.
    NeverRecovers,
    /// Says that nginx has loaded what it was never told to.
    InventsProofs,
    /// Never writes down what it has.
    SavesNothing,
    /// Never delivers an offer.
    LosesOffers,
    /// Brings an old offer again.
    RepeatsOffers,
    /// Orders to undo never arrive.
    LosesUndo,
    /// Says of no tree that too much is gone.
    HidesLosses,
    /// Tells nobody that an operator wants it held.
    IgnoresHold,
    /// Ticks without an end.
    Spins,
}
