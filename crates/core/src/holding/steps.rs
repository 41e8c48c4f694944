//! What is asked of whoever keeps the addresses, the steps that it has taken, and what became of them.

use std::net::IpAddr;

use super::on_loopback;
use crate::Outcome;
use crate::guard::{Goodbye, Key, OwnLink, Setting, State};
use crate::types::{Prefix, VipId, Vrid};

/// Asked of whoever keeps the addresses. The number of an order comes back with what became of it: whoever
/// has ordered something else since waits for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// `index`: of the interface, if it is there; `goodbyes`: what the guard says if the daemon dies;
    /// `virtual_mac`: the router id whose own MACs serve the addresses.
    Hold {
        vip: VipId,
        number: u64,
        interface: String,
        index: Option<u32>,
        prefixes: Vec<Prefix>,
        goodbyes: Vec<Goodbye>,
        virtual_mac: Option<Vrid>,
    },
    Release {
        vip: VipId,
        number: u64,
    },
    /// As a release; this host's sockets go on using the addresses. `interfaces`: those that mustn't
    /// answer for them.
    Stay {
        vip: VipId,
        number: u64,
        interfaces: Vec<String>,
    },
    /// What has stayed goes.
    Leave {
        vip: VipId,
    },
}

/// What is to become of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It comes, or is renewed, with a lifetime.
    Hold {
        key: Key,
    },
    /// The same on a link that stands on `base` and has a MAC of its own.
    Serve {
        key: Key,
        base: u32,
    },
    /// The same on the loopback link, for this host alone.
    Keep {
        address: IpAddr,
    },
    Drop {
        key: Key,
    },
}

impl Change {
    /// The address and its link.
    #[must_use]
    pub const fn key(self) -> Key {
        match self {
            Self::Hold { key } | Self::Serve { key, .. } | Self::Drop { key } => key,
            Self::Keep { address } => on_loopback(address),
        }
    }
}

/// How long the shell waits until a new address can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    No,
    /// What is announced too early costs its clients their first packets.
    Usable,
    /// What leaves the interface before it works on the loopback link loses packets.
    Routed,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write this where the guard and the next daemon find it. Answered with [`Answer::Done`].
    Record(State),
    /// Read a setting: [`Answer::Value`] or [`Answer::Failed`].
    Look { path: String },
    /// Change one, and read it again: the same.
    Set { path: String, value: String },
    /// Put one back if it [stands](Setting::stands): `Done`, also where it isn't there any more, or `Failed`.
    PutBack(Setting),
    /// Answered with [`Answer::Results`]; what is as it should be already is no error.
    Change { batch: Vec<Change>, wait: Wait },
    /// Make a link, silent and switched on, or find it. Answered with [`Answer::Index`] or
    /// [`Answer::Refused`].
    MakeLink(OwnLink),
    /// What these links send from now on isn't sent. `Done`, whatever comes of it.
    Silence(Vec<u32>),
    /// They send again: the same.
    LetSpeak(Vec<u32>),
    /// Remove those of these links that are there: `Done` or `Failed`.
    RemoveLinks(Vec<OwnLink>),
    /// Tell the engine what became of the order with this number, and of those before.
    Settled { vip: VipId, number: u64, outcome: Outcome },
    /// Tell the operator.
    Complain(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Value(String),
    Failed(String),
    /// By the changes of the batch; `Err` has the errno.
    Results(Vec<Result<(), i32>>),
    Index(u32),
    Refused {
        errno: i32,
        why: String,
    },
}
