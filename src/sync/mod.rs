//! The shared files: what is saved on the active is tested, applied and proven on the backups.
//!
//! ```text
//!  Watch ──Report──▶ driver ◀──FromPeer── sessions of the link ◀──▶ peers
//!                      │  ▲
//!        core::sync::Replica        jobs beside the control thread:
//!                      │  └──Outcome── keep, fetch, test, apply, load (store, crates/apply)
//!                      ├──────────────▶ serve (what peers ask for)
//!                      └──Goal────────▶ push (hosts with only an rsync daemon)
//! ```
//! The driver decides nothing: it feeds the core's [`Replica`](standin_core::sync::Replica) and does
//! what that asks for. Everything that waits for the disk or for nginx runs beside it.

mod asked;
mod driver;
mod fetch;
mod few;
mod ground;
mod jobs;
mod leftover;
mod loaded;
mod made;
mod meanwhile;
mod memory;
mod opening;
mod outside;
mod pattern;
mod peers;
pub(crate) mod piece;
mod powers;
mod push;
mod reading;
mod report;
mod rsync;
mod serve;
mod settings;
mod stage;
mod tickets;
pub(crate) mod wire;
pub(crate) mod workers;

use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::api::types::sync as said;
use crate::control::Request;
use crate::link::Told;
use crate::link::outlet::FromPeers;

pub(crate) use settings::Settings;

/// Things that may wait for the driver; who asks is told when there are more.
const WAITING: usize = 64;

/// What is asked of the synchronisation.
pub(crate) enum Ask {
    Status(Reply<said::Sync>),
    History(Reply<Vec<said::Kept>>),
    Diff {
        node: Option<String>,
        reply: Reply<said::Diff>,
    },
    Order {
        order: Order,
        by: String,
        reply: Reply<String>,
    },
    /// Have nginx end what is idle, by a reload of the files that it runs with.
    EndIdle(Reply<()>),
}

impl Ask {
    pub(crate) fn refuse(self, why: &str) {
        let why = why.to_owned();
        // Who asked may have gone.
        match self {
            Self::Status(reply) => drop(reply.send(Err(why))),
            Self::History(reply) => drop(reply.send(Err(why))),
            Self::Diff { reply, .. } => drop(reply.send(Err(why))),
            Self::Order { reply, .. } => drop(reply.send(Err(why))),
            Self::EndIdle(reply) => drop(reply.send(Err(why))),
        }
    }
}

/// The answer, or why there is none.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, String>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Hold,
    Resume {
        accept_deletion: bool,
    },
    /// A number, the first digits of a tree, or the one before.
    Rollback {
        generation: Option<String>,
    },
    Apply,
    /// Let in what a generation could do beyond serving.
    Approve,
    /// New keys of TLS session tickets.
    Rotate {
        /// None of the old ones remains.
        all: bool,
    },
}

/// What the control plane tells the driver.
enum ToDriver {
    /// The cluster file that is in force; `None`: it has no `[sync]`.
    Settings(Option<Box<Settings>>),
    /// Something has happened to a VIP or to nginx.
    Nudge,
    Ask(Ask),
}

/// Where the pieces of the control plane are that the driver talks to.
pub(crate) struct Around {
    pub(crate) state_dir: PathBuf,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) told: mpsc::Sender<Told>,
}

/// The synchronisation of a running daemon; it ends when this is dropped.
pub(crate) struct Sync {
    inbox: mpsc::Sender<ToDriver>,
    brief: watch::Receiver<Option<said::Sync>>,
    task: JoinHandle<()>,
}

impl Sync {
    pub(crate) fn start(around: Around, peers: FromPeers) -> Self {
        let (inbox, orders) = mpsc::channel(WAITING);
        let (sender, brief) = watch::channel(None);
        Self { inbox, brief, task: tokio::spawn(driver::run(around, sender, orders, peers)) }
    }

    /// As it was after the last change; `None` where nothing is shared.
    pub(crate) fn brief(&self) -> Option<said::Sync> {
        self.brief.borrow().clone()
    }

    /// Another cluster file is in force.
    pub(crate) fn settings(&self, settings: Option<Settings>) {
        self.tell(ToDriver::Settings(settings.map(Box::new)));
    }

    pub(crate) fn nudge(&self) {
        self.tell(ToDriver::Nudge);
    }

    pub(crate) fn ask(&self, ask: Ask) {
        self.tell(ToDriver::Ask(ask));
    }

    fn tell(&self, what: ToDriver) {
        // A driver with so much to do looks at the state of things once a second anyway; who asked
        // sees that there is no answer.
        let _ = self.inbox.try_send(what);
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        self.task.abort();
    }
}
