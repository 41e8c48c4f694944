//! standin's memory of files: reads trees, names them by content, keeps them, builds and watches them.
//!
//! Nothing here knows of peers, nginx or the cluster file, and nothing needs a runtime: everything
//! blocks, so the control plane calls it on a helper thread. It decides nothing but what is equal.
//!
//! ```text
//!   disk ──Reader──▶ Scan { Manifest } ──Store::record──▶ generation
//!                      │  └ bytes ──▶ Store (objects by SHA-256)
//!   Watch: inotify ────┘                      │
//!   disk beside the target ◀──Builder::build──┘
//! ```
//!
//! | what | by |
//! | --- | --- |
//! | what is watched | [`read::Spec`] of roots and [`globs::Globs`] |
//! | a tree as a list, named by [`manifest::Manifest::hash`] | [`manifest`], as bytes: [`code`] |
//! | what is different, and whether it looks like an accident | [`changes::changes`], [`changes::suspicion`] |
//! | read once, or until nothing moves | [`read::Reader::read`], [`read::Reader::snapshot`] |
//! | tell of each other tree, after `settle` | [`watch::Watch::start`]; forward its reports into a channel |
//! | files by content, pieces of a transfer, one sync per generation | [`store::Store`]: `missing`, `incoming`, `keep`, `commit` |
//! | history, drift, forgetting | `Store::record`, `generations`, `manifest`, `collect` |
//! | a staged tree, or single entries of one | [`build::Builder`] |
//! | little that differs in a large tree, as pieces | [`parts::parts`], [`build::Builder::build_parts`] |
//! | what `exclude` leaves on a node, brought along | [`build::Builder::carry`] |
//!
//! Whether a node still has what was applied: after [`build::Builder::build`], read the staged tree
//! with a [`read::Spec`] whose root is mapped ([`manifest::Manifest::moved`]), and remember *that*
//! hash. It says what this host's file system made of the generation (names without a user, times
//! without nanoseconds), so that a later reading with another hash is drift, and nothing else is.
//!
//! Names that begin with `.standin` are standin's own and never part of a tree.

pub mod build;
pub mod changes;
pub mod code;
pub mod globs;
pub mod hash;
pub mod manifest;
pub mod owners;
pub mod parts;
pub mod read;
pub mod store;
pub mod watch;

mod attributes;
mod carry;
mod stamp;
mod walk;
