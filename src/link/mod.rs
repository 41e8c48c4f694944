//! The peer link: TLS 1.3 between every two nodes whose keys stand in the cluster file.
//!
//! ```text
//!  control ──Directory──▶ watch ──▶ dialers (to nodes with a later name) ─┐
//!     ▲                     └────▶ listeners (own addresses, [link] port) ─┼─▶ sessions ─▶ Board
//!     └──Told (log, events)                    └─▶ joins (a token instead of a certificate)   │
//!     └──────────────────────────────── status ◀──────────────────────────────────────────────┘
//! ```
//! Nothing depends on it to be available: without it plain VRRP decides alone. Without keys nothing
//! of it is started.

pub(crate) mod admit;
mod board;
mod complaints;
mod dial;
pub(crate) mod file;
pub(crate) mod frame;
pub(crate) mod listen;
pub(crate) mod message;
pub(crate) mod outlet;
mod session;
pub(crate) mod tls;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::ServerConfig;
use standin_config::Cluster;
use standin_config::fingerprint::Fingerprint;
use standin_tree::hash::Hash;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::authority::Identity;
use crate::control::log::Severity;
use crate::control::{self, Request};
use crate::engine::messages::{Handover, Post, StillSeen, ToEngine};
use crate::switchover::Said;

pub(crate) use board::{Board, LinkView, PeerLinkView};
pub(crate) use message::plain;
use message::{Summary, VipSummary};

/// How often each node tells the others of itself.
const SUMMARY_EVERY: Duration = Duration::from_secs(1);

/// Changes within this are told together.
const SWARM: Duration = Duration::from_millis(5);

/// Things to log that may wait; more are lost, and status shows the state anyway.
const TOLD: usize = 64;

/// Something for the log and the events.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) severity: Severity,
    pub(crate) kind: &'static str,
    pub(crate) peer: Option<String>,
    pub(crate) text: String,
}

/// Another node, as the cluster file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// Who is who, by the file that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) cluster: String,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) port: u16,
    /// Without nodes that speak VRRP only.
    pub(crate) peers: Vec<Peer>,
    /// SHA-256 of the file, hexadecimal.
    pub(crate) file: String,
}

impl Directory {
    /// `file` is the file's hash.
    pub(crate) fn of(cluster: &Cluster, node: &str, file: &str) -> Self {
        let others = cluster.nodes.iter().filter(|it| it.name != node && !it.vrrp_only);
        Self {
            cluster: cluster.name.clone(),
            node: node.to_owned(),
            addresses: cluster.node(node).map_or_else(Vec::new, |node| node.addresses.clone()),
            port: cluster.link.port,
            peers: others
                .map(|node| Peer {
                    name: node.name.clone(),
                    addresses: node.addresses.clone(),
                    fingerprint: node.fingerprint,
                })
                .collect(),
            file: file.to_owned(),
        }
    }

    fn peer(&self, name: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == name)
    }

    fn by_fingerprint(&self, fingerprint: Fingerprint) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.fingerprint == Some(fingerprint))
    }

    /// Whether the node is still the one that has this key.
    fn knows(&self, name: &str, fingerprint: Fingerprint) -> bool {
        self.peer(name).is_some_and(|peer| peer.fingerprint == Some(fingerprint))
    }
}

/// How a version of the cluster file is told from others.
pub(crate) fn hash(file: &[u8]) -> String {
    Hash::of(file).to_string()
}

/// What every task of the link has.
#[derive(Clone)]
struct Common {
    identity: Arc<Identity>,
    server: Arc<ServerConfig>,
    directory: watch::Receiver<Arc<Directory>>,
    summary: watch::Receiver<Arc<Summary>>,
    board: Board,
    told: mpsc::Sender<Told>,
    sync: outlet::ToSync,
    engine: Post<ToEngine>,
    desk: Arc<file::Desk>,
    requests: mpsc::Sender<Request>,
    /// What is needed to let machines in.
    places: admit::Places,
}

impl Common {
    fn tell(&self, severity: Severity, kind: &'static str, peer: Option<&str>, text: String) {
        // With that many waiting the log says enough.
        let _ = self.told.try_send(Told { severity, kind, peer: peer.map(str::to_owned), text });
    }
}

/// What a switchover has of the link.
#[derive(Clone)]
pub(crate) struct Line {
    board: Board,
    told: mpsc::Sender<Told>,
}

impl Line {
    /// Whether it is on its way; there may be no session with the peer.
    pub(crate) fn say(&self, to: &str, said: Said) -> bool {
        self.board.say(to, message::Message::Switchover(said)).is_some()
    }

    /// For the log and the events.
    pub(crate) fn note(&self, failed: bool, peer: &str, text: &str) {
        let severity = if failed { Severity::Error } else { Severity::Notice };
        let (peer, text) = (Some(peer.to_owned()), text.to_owned());
        // With that many waiting the log says enough.
        let _ = self.told.try_send(Told { severity, kind: "switchover", peer, text });
    }
}

/// The link of a running daemon; it ends when this is dropped.
pub(crate) struct Link {
    directory: watch::Sender<Arc<Directory>>,
    common: Common,
    listeners: BTreeMap<SocketAddr, JoinHandle<()>>,
    dialers: BTreeMap<String, JoinHandle<()>>,
    _summaries: JoinSet<()>,
    /// Words that may not have been said yet.
    saying: Vec<oneshot::Receiver<()>>,
}

/// Where the pieces of the control plane are that the link talks to.
pub(crate) struct Around {
    pub(crate) file: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) told: mpsc::Sender<Told>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) sync: outlet::ToSync,
    pub(crate) engine: Post<ToEngine>,
}

/// The way by which the link tells what is to be logged.
pub(crate) fn telling() -> (mpsc::Sender<Told>, mpsc::Receiver<Told>) {
    mpsc::channel(TOLD)
}

impl Link {
    /// With the keys of this node, without which there is no link.
    ///
    /// # Errors
    /// They can't be used.
    pub(crate) fn start(directory: Directory, identity: Identity, around: Around) -> Result<Self> {
        let identity = Arc::new(identity);
        let server = Arc::new(tls::server(&identity).context("this node's keys")?);
        let (sender, receiver) = watch::channel(Arc::new(directory));
        let (summary_sender, summary) = watch::channel(Arc::default());
        let common = Common {
            identity,
            server,
            directory: receiver.clone(),
            summary,
            board: Board::default(),
            told: around.told,
            sync: around.sync,
            engine: around.engine,
            requests: around.requests.clone(),
            desk: Arc::new(file::Desk::new(
                around.state_dir.clone(),
                around.file.clone(),
                around.requests.clone(),
            )),
            places: admit::Places { file: around.file, state_dir: around.state_dir },
        };
        let mut summaries = JoinSet::new();
        let board = common.board.clone();
        let desk = Arc::clone(&common.desk);
        summaries.spawn(summarize(around.requests, receiver, summary_sender, board, desk));
        summaries.spawn(file::keep_up(common.clone()));
        let mut this = Self {
            directory: sender,
            common,
            listeners: BTreeMap::new(),
            dialers: BTreeMap::new(),
            _summaries: summaries,
            saying: Vec::new(),
        };
        this.arrange();
        Ok(this)
    }

    /// Another cluster file is in force.
    pub(crate) fn replace(&mut self, directory: Directory) {
        self.directory.send_replace(Arc::new(directory));
        self.common.desk.look_again();
        self.arrange();
    }

    /// Tells a peer that a VIP is its own now.
    pub(crate) fn hand_over(&mut self, handover: Handover) {
        let Handover { vip, to, epoch, released } = handover;
        let message = message::Message::Released { vip, epoch, boot_ns: released.as_nanos() };
        self.saying.extend(self.common.board.say(&to, message));
        self.saying.retain_mut(|said| matches!(said.try_recv(), Err(TryRecvError::Empty)));
    }

    /// Tells a peer which MAC still answers for its VIP.
    pub(crate) fn still_seen(&self, seen: StillSeen) {
        let StillSeen { vip, to, address, mac } = seen;
        // Without a session nobody is told; it is in this node's events.
        drop(self.common.board.say(&to, message::Message::StillSeen { vip, address, mac: mac.0 }));
    }

    /// Waits for what is being said, before the program ends.
    pub(crate) async fn finish(&mut self) {
        for said in self.saying.drain(..) {
            // A session that ended says nothing any more.
            let _ = said.await;
        }
    }

    pub(crate) fn line(&self) -> Line {
        Line { board: self.common.board.clone(), told: self.common.told.clone() }
    }

    /// Something changed that the peers should hear soon.
    pub(crate) fn poke(&self) {
        self.common.board.poke();
    }

    /// Whether its keys are those that are on the disk.
    pub(crate) fn is_of(&self, authority: Fingerprint) -> bool {
        self.common.identity.authority_fingerprint == authority
    }

    pub(crate) fn view(&self) -> LinkView {
        let view = self.common.board.view(&self.directory.borrow());
        LinkView { number: self.common.desk.version().number, ..view }
    }

    /// Brings a cluster file to all nodes, and says so step by step.
    pub(crate) fn apply(&self, order: file::apply::Order, steps: file::apply::Steps) {
        let common = self.common.clone();
        tokio::spawn(async move {
            let step = match file::apply::apply(&common, order, &steps).await {
                Ok(decided) => file::apply::Step {
                    state: "done".to_owned(),
                    version: Some(decided.version.number),
                    text: (!decided.changed).then(|| "nothing has changed".to_owned()),
                    ..file::apply::Step::default()
                },
                Err(why) => file::apply::Step {
                    state: "refused".to_owned(),
                    text: Some(why),
                    ..file::apply::Step::default()
                },
            };
            // Who asked may have gone; the log has it.
            let _ = steps.send(step).await;
        });
    }

    /// Starts what is missing and ends what is too much.
    fn arrange(&mut self) {
        let directory = Arc::clone(&self.directory.borrow());
        let wanted: Vec<SocketAddr> =
            directory.addresses.iter().map(|it| (*it, directory.port).into()).collect();
        self.listeners.retain(|address, task| keep(wanted.contains(address), task));
        for address in wanted {
            let common = &self.common;
            self.listeners
                .entry(address)
                .or_insert_with(|| tokio::spawn(listen::forever(address, common.clone())));
        }
        // The node with the lower name dials, so that two never dial each other.
        let dialled = |name: &str| directory.node.as_str() < name && directory.peer(name).is_some();
        self.dialers.retain(|name, task| keep(dialled(name), task));
        for peer in directory.peers.iter().filter(|peer| dialled(&peer.name)) {
            let (name, common) = (peer.name.clone(), &self.common);
            self.dialers
                .entry(name.clone())
                .or_insert_with(|| tokio::spawn(dial::forever(name, common.clone())));
        }
        self.common.board.only(&directory);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.listeners.values().chain(self.dialers.values()).for_each(JoinHandle::abort);
    }
}

fn keep(wanted: bool, task: &JoinHandle<()>) -> bool {
    if !wanted {
        task.abort();
    }
    wanted
}

/// Asks the control plane for this node's state while anybody is connected.
async fn summarize(
    requests: mpsc::Sender<Request>,
    mut directory: watch::Receiver<Arc<Directory>>,
    summary: watch::Sender<Arc<Summary>>,
    board: Board,
    desk: Arc<file::Desk>,
) {
    let mut tick = tokio::time::interval(SUMMARY_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = directory.changed() => if changed.is_err() { return },
            () = board.changed() => {}
        }
        if !board.anybody() {
            continue;
        }
        // Changes come in swarms.
        tokio::time::sleep(SWARM).await;
        let Some(status) = control::status(&requests).await else {
            if requests.is_closed() {
                return;
            }
            continue;
        };
        let view = status.view;
        let new = Summary {
            file: directory.borrow_and_update().file.clone(),
            number: desk.version().number,
            maintenance: view.maintenance.is_some(),
            vips: view
                .vips
                .into_iter()
                .map(|vip| VipSummary {
                    role: vip.role.to_string(),
                    standing: vip.standing.to_string(),
                    obstacle: vip.obstacle.as_deref().map(plain),
                    priority: vip.priority.0,
                    hears: Some(vip.hears),
                    name: vip.name,
                })
                .collect(),
        };
        summary.send_replace(Arc::new(new));
    }
}
