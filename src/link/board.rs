//! What is known of each peer over the link: one board that sessions write and status reads.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};

use super::Directory;
use super::complaints::Complaints;
use super::message::{Message, Summary};

/// Words to one peer that may wait: each VIP's handover, twice.
const TO_SAY: usize = 2 * standin_core::plan::MAX_VIPS;

/// Reasons that are logged while a peer is down; status always shows the latest.
const REASONS: u32 = 3;

/// Sessions of one peer that are told of within [`AGAIN`]: a node that is restarted, or a path that
/// comes and goes, needs fewer; a member that means ill could else fill the disk.
const SESSIONS: usize = 10;
const AGAIN: Duration = Duration::from_secs(60);

/// Shared by the tasks of the control plane only; nobody waits while holding it.
#[derive(Clone, Default)]
pub(crate) struct Board(Arc<Shared>);

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    peers: BTreeMap<String, Entry>,
    sessions: u64,
    listening: BTreeMap<SocketAddr, Option<String>>,
    complaints: Complaints,
    /// When each peer's last sessions were told of.
    told: BTreeMap<String, VecDeque<Instant>>,
}

/// What a session is reached by; dropping it ends that session.
struct Ends {
    _replaced: oneshot::Sender<()>,
    say: mpsc::Sender<ToSay>,
}

/// A session's other ends.
pub(super) struct Begun {
    pub(super) id: u64,
    pub(super) replaced: oneshot::Receiver<()>,
    pub(super) to_say: mpsc::Receiver<ToSay>,
}

/// To be said to a peer, and told once it is with the kernel.
pub(super) struct ToSay {
    pub(super) message: Message,
    pub(super) said: oneshot::Sender<()>,
}

#[derive(Default)]
struct Entry {
    /// The session that counts.
    session: Option<(u64, Ends)>,
    since: Option<Instant>,
    problem: Option<String>,
    version: Option<String>,
    measured: Option<Measured>,
    summary: Option<Summary>,
    /// How often a reason was given while it is down.
    said: u32,
}

/// By the quickest of the last pings, since a quick one tells the clocks best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) round_trip: Duration,
    /// The peer's clock minus this node's.
    pub(crate) clock_us: i64,
}

/// The link, for status.
pub(crate) struct LinkView {
    /// Each own address, with what keeps it from being listened on.
    pub(crate) listening: Vec<(SocketAddr, Option<String>)>,
    /// Connections that were refused since the start.
    pub(crate) refused: u64,
    pub(crate) file: String,
    /// The version of the cluster file that was agreed on; 0: none.
    pub(crate) number: u64,
    pub(crate) peers: BTreeMap<String, PeerLinkView>,
}

/// The link to one peer, for status.
#[derive(Clone)]
pub(crate) struct PeerLinkView {
    /// `connected`, `down`, `no certificate`.
    pub(crate) state: &'static str,
    pub(crate) since: Option<Duration>,
    pub(crate) problem: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) measured: Option<Measured>,
    /// What it said last, while connected.
    pub(crate) summary: Option<Summary>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic is done under it.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session with the peer begins and takes the place of an earlier one.
    pub(super) fn begin(&self, peer: &str, version: &str) -> Begun {
        let (sender, replaced) = oneshot::channel();
        let (say, to_say) = mpsc::channel(TO_SAY);
        let mut inner = self.lock();
        inner.sessions += 1;
        let id = inner.sessions;
        let entry = Entry {
            session: Some((id, Ends { _replaced: sender, say })),
            since: Some(Instant::now()),
            version: Some(version.to_owned()),
            ..Entry::default()
        };
        inner.peers.insert(peer.to_owned(), entry);
        drop(inner);
        self.poke();
        Begun { id, replaced, to_say }
    }

    /// Has the session with the peer say something; `None`: there is no session, or it is stuck.
    pub(super) fn say(&self, peer: &str, message: Message) -> Option<oneshot::Receiver<()>> {
        let (said, receiver) = oneshot::channel();
        let inner = self.lock();
        let (_, ends) = inner.peers.get(peer)?.session.as_ref()?;
        ends.say.try_send(ToSay { message, said }).ok()?;
        Some(receiver)
    }

    /// Something changed that the peers should hear soon.
    pub(super) fn poke(&self) {
        self.0.changed.notify_one();
    }

    /// Whether it is to be told that a session begins, or one ends that wasn't told of; a peer whose sessions come and go is
    /// silent for a while, and shown all the same.
    pub(super) fn is_news(&self, peer: &str, now: Instant) -> bool {
        let mut inner = self.lock();
        let told = inner.told.entry(peer.to_owned()).or_default();
        while told.front().is_some_and(|at| now.saturating_duration_since(*at) >= AGAIN) {
            told.pop_front();
        }
        if told.len() >= SESSIONS {
            return false;
        }
        told.push_back(now);
        true
    }

    /// Whether the session was the one that counts.
    pub(super) fn end(&self, peer: &str, id: u64, problem: &str) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.peers.get_mut(peer) else { return false };
        if entry.session.as_ref().is_none_or(|(current, _)| *current != id) {
            return false;
        }
        *entry = Entry {
            since: Some(Instant::now()),
            problem: Some(problem.to_owned()),
            ..Entry::default()
        };
        true
    }

    /// No connection came about. Whether that is news.
    pub(super) fn failed(&self, peer: &str, problem: &str) -> bool {
        let mut inner = self.lock();
        let entry = inner.peers.entry(peer.to_owned()).or_default();
        if entry.session.is_some() {
            return false;
        }
        entry.since.get_or_insert_with(Instant::now);
        let news = entry.problem.replace(problem.to_owned()).is_none_or(|before| before != problem);
        // Two addresses may fail in two ways, in turn.
        entry.said += u32::from(news);
        news && entry.said <= REASONS
    }

    pub(super) fn measured(&self, peer: &str, measured: Measured) {
        if let Some(entry) = self.lock().peers.get_mut(peer) {
            entry.measured = Some(measured);
        }
    }

    pub(super) fn summary(&self, peer: &str, summary: Summary) {
        if let Some(entry) = self.lock().peers.get_mut(peer) {
            entry.summary = Some(summary);
        }
    }

    pub(super) fn listening(&self, address: SocketAddr, problem: Option<String>) -> bool {
        let before = self.lock().listening.insert(address, problem.clone());
        before.is_none_or(|before| before != problem)
    }

    /// Counts a refusal; whether it is to be said.
    pub(super) fn refused(&self, source: IpAddr) -> bool {
        self.lock().complaints.refused(source, Instant::now())
    }

    /// Forgets who isn't in the directory.
    pub(super) fn only(&self, directory: &Directory) {
        let mut inner = self.lock();
        inner.peers.retain(|name, _| directory.peer(name).is_some());
        inner.told.retain(|name, _| directory.peer(name).is_some());
        let wanted =
            |it: &SocketAddr| it.port() == directory.port && directory.addresses.contains(&it.ip());
        inner.listening.retain(|address, _| wanted(address));
    }

    pub(super) fn anybody(&self) -> bool {
        self.lock().peers.values().any(|entry| entry.session.is_some())
    }

    /// Waits for [`Board::poke`].
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    pub(super) fn view(&self, directory: &Directory) -> LinkView {
        let inner = self.lock();
        let peers = directory.peers.iter().map(|peer| {
            let entry = inner.peers.get(&peer.name);
            let session = entry.is_some_and(|entry| entry.session.is_some());
            let state = match (session, peer.fingerprint) {
                (true, _) => "connected",
                (false, None) => "no certificate",
                (false, Some(_)) => "down",
            };
            let view = PeerLinkView {
                state,
                since: entry.and_then(|entry| entry.since).map(|since| since.elapsed()),
                problem: entry.and_then(|entry| entry.problem.clone()),
                version: entry.and_then(|entry| entry.version.clone()),
                measured: entry.and_then(|entry| entry.measured),
                summary: entry.and_then(|entry| entry.summary.clone()),
            };
            (peer.name.clone(), view)
        });
        LinkView {
            listening: inner.listening.iter().map(|(at, why)| (*at, why.clone())).collect(),
            refused: inner.complaints.count(),
            file: directory.file.clone(),
            number: 0,
            peers: peers.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_come_and_go_are_told_of_for_a_while_and_again_later() {
        let (board, now) = (Board::default(), Instant::now());
        let told = (0..1_000).filter(|_| board.is_news("n2", now)).count();
        assert_eq!(told, SESSIONS);
        assert!(board.is_news("n3", now), "each peer for itself");
        assert!(!board.is_news("n2", now + AGAIN / 2));
        assert!(board.is_news("n2", now + AGAIN));
    }
}
