//! The peers' sessions: what goes to each, and what each asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use standin_core::sync::Message;
use standin_tree::store::Store;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::serve::{self, Asked};
use super::wire::Said;
use crate::link::outlet::Outlet;

/// All sessions that are up.
#[derive(Default)]
pub(super) struct Sessions(BTreeMap<String, Session>);

struct Session {
    id: u64,
    outlet: Outlet,
    serving: Option<Serving>,
    /// Its last state and its last offer: it may say them before anybody here listens.
    state: Option<Message>,
    offer: Option<Message>,
}

struct Serving {
    asked: mpsc::Sender<Asked>,
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sessions {
    pub(super) fn up(&mut self, peer: &str, id: u64, outlet: Outlet) {
        self.0.insert(
            peer.to_owned(),
            Session { id, outlet, serving: None, state: None, offer: None },
        );
    }

    /// Whether it was the session that counts.
    pub(super) fn down(&mut self, peer: &str, id: u64) -> bool {
        let known = self.0.get(peer).is_some_and(|session| session.id == id);
        if known {
            self.0.remove(peer);
        }
        known
    }

    pub(super) fn remember(&mut self, peer: &str, message: &Message) {
        let Some(session) = self.0.get_mut(peer) else { return };
        match message {
            Message::State(state) => {
                if state.writer.as_deref() != Some(peer) {
                    // What it offered once is not what it has when it writes again.
                    session.offer = None;
                }
                session.state = Some(message.clone());
            }
            Message::Offer { .. } => session.offer = Some(message.clone()),
            Message::Order(_) => {}
        }
    }

    /// All peers, with what each said last.
    pub(super) fn said(&self) -> Vec<(String, Vec<Message>)> {
        let last =
            |session: &Session| session.state.iter().chain(&session.offer).cloned().collect();
        self.0.iter().map(|(name, session)| (name.clone(), last(session))).collect()
    }

    pub(super) fn outlet(&self, peer: &str) -> Option<Outlet> {
        self.0.get(peer).map(|session| session.outlet.clone())
    }

    pub(super) fn say(&self, peer: &str, message: Message) {
        if let Some(session) = self.0.get(peer) {
            // A peer that doesn't listen is cut off soon, and is told everything when it is back.
            let _ = session.outlet.say(Said::from(message));
        }
    }

    pub(super) fn tell_all(&self, said: &Said) {
        for session in self.0.values() {
            // As above.
            let _ = session.outlet.say(said.clone());
        }
    }

    /// A peer asks for files.
    pub(super) fn asked(&mut self, peer: &str, asked: Asked, store: &Arc<Store>) {
        let Some(session) = self.0.get_mut(peer) else { return };
        let serving = session.serving.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(serve::WAITING);
            let task = serve::run(Arc::clone(store), session.outlet.clone(), receiver);
            Serving { asked: sender, task: tokio::spawn(task) }
        });
        // It asks again for what it doesn't get.
        let _ = serving.asked.try_send(asked);
    }
}
