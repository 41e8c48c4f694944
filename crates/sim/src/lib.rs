//! standin's doubts: many cores, one virtual clock, bad weather, and checkers for each promise.
//!
//! ```text
//!  draw or a scenario ─▶ Fault ─▶ Scene ─▶ Observation ─▶ Checks ─▶ what was broken
//!                                 ├── machine, kernel   the shell's rules around a real core
//!                                 ├── host              guard, daemon, and what outlives them
//!                                 └── network, traffic  real bytes on one bad segment
//! ```
//! The election's world; the shared files have one of their own, [`sync`].

#![forbid(unsafe_code)]

mod apply;
pub mod beside;
pub mod campaign;
pub mod check;
pub mod clock;
pub mod cluster;
pub mod draw;
pub mod fault;
pub mod host;
mod kernel;
pub mod link;
pub mod machine;
pub mod network;
pub mod queue;
pub mod random;
pub mod replay;
pub mod scenario;
pub mod scene;
pub mod sync;
pub mod trace;
mod traffic;
pub mod witness;
pub mod world;
