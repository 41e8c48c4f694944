//! The way between the sessions of the link and the synchronisation of files.

use tokio::sync::mpsc;

use super::message::Message;
use crate::sync::wire::Said;

/// Small messages that may wait for a peer; one that doesn't take them is cut off after seconds.
pub(super) const PARCELS: usize = 256;

/// Frames of files that may wait: who sends them waits for room.
pub(super) const FRAMES: usize = 4;

/// Things of all peers that may wait for the synchronisation; a session waits for room, and its peer
/// with it.
const WAITING: usize = 64;

/// What a session has for the synchronisation.
pub(crate) enum FromPeer {
    /// A session, by its number: a newer one may be up before an older one is down.
    Up(u64, Outlet),
    Down(u64),
    Said(Box<Said>),
    Bulk(Vec<u8>),
}

/// What goes to one peer, for as long as its session lasts.
#[derive(Clone)]
pub(crate) struct Outlet {
    pub(super) post: mpsc::Sender<Message>,
    pub(super) bulk: mpsc::Sender<Vec<u8>>,
}

impl Outlet {
    /// Whether it was taken: a peer that doesn't listen is cut off soon.
    pub(crate) fn say(&self, said: Said) -> bool {
        self.post.try_send(Message::Sync(said)).is_ok()
    }

    /// Waits for room. Whether the session is still there.
    pub(crate) async fn send(&self, bytes: Vec<u8>) -> bool {
        self.bulk.send(bytes).await.is_ok()
    }
}

/// Where sessions put what they have.
#[derive(Clone)]
pub(crate) struct ToSync(mpsc::Sender<(String, FromPeer)>);

/// The other end of it.
pub(crate) type FromPeers = mpsc::Receiver<(String, FromPeer)>;

impl ToSync {
    pub(crate) fn new() -> (Self, FromPeers) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    pub(super) async fn tell(&self, peer: &str, what: FromPeer) {
        // Without a synchronisation nobody wants to know.
        let _ = self.0.send((peer.to_owned(), what)).await;
    }
}
