//! Listens on this node's addresses: for peers with their certificates, for joiners with a token.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use standin_config::fingerprint::Fingerprint;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::message::Message;
use super::session::{self, Proven};
use super::{Common, admit, frame, tls};
use crate::authority::fingerprint;
use crate::control::log::Severity;

/// A handshake on a network takes milliseconds.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// From the request to join to the answer; all nodes look at the file meanwhile.
const JOINING: Duration = Duration::from_secs(60);

/// Connections of strangers at one time, and of one of them.
const STRANGERS: usize = 16;
const OF_ONE: usize = 4;

/// Connections from each node's address at one time: the one that is used, and some that replace it.
const OF_A_NODE: usize = 8;

/// An address that isn't there, or a port that is taken, is tried again this often.
const AGAIN: Duration = Duration::from_secs(2);

const BACKLOG: u32 = 64;

/// Binds so that a process that only serves tokens and the daemon can take over from each other.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

pub(super) async fn forever(address: SocketAddr, common: Common) {
    let rooms = Rooms::default();
    loop {
        let listener = match bind(address) {
            Ok(listener) => listener,
            Err(error) => {
                let text = format!("the peer link can't listen on {address}: {error}");
                if common.board.listening(address, Some(error.to_string())) {
                    common.tell(Severity::Error, "link_failed", None, text);
                }
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        common.board.listening(address, None);
        loop {
            let Ok((stream, source)) = listener.accept().await else {
                // Out of descriptors, say; others may go meanwhile.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let node = common
                .directory
                .borrow()
                .peers
                .iter()
                .any(|peer| peer.addresses.contains(&source.ip()));
            let Some(room) = rooms.enter(source.ip(), node) else {
                refuse(&common, source.ip(), "too many connections at one time");
                continue;
            };
            let common = common.clone();
            tokio::spawn(async move {
                if let Err(why) = serve(stream, &common).await {
                    refuse(&common, source.ip(), &why);
                }
                drop(room);
            });
        }
    }
}

fn refuse(common: &Common, source: IpAddr, why: &str) {
    if common.board.refused(source) {
        let text = format!("a connection from {source} was refused: {why}");
        common.tell(Severity::Warning, "link_refused", None, text);
    }
}

/// One connection, from its beginning to its end. `Err`: why it was refused.
async fn serve(stream: TcpStream, common: &Common) -> Result<(), String> {
    // It only makes small messages quicker.
    let _ = stream.set_nodelay(true);
    let accepting = TlsAcceptor::from(Arc::clone(&common.server)).accept(stream);
    let stream = tokio::time::timeout(HANDSHAKE, accepting)
        .await
        .map_err(|_| "it didn't finish the TLS handshake in time".to_owned())?
        .map_err(|error| tls::words(&error))?;
    let Some((certificate, key)) = shown(&stream) else {
        let by = stream.get_ref().0.peer_addr().map_or(String::new(), |it| it.ip().to_string());
        let joined = tokio::time::timeout(JOINING, admit::serve_in(stream, common)).await;
        let node = joined.map_err(|_| "it asked for nothing in time".to_owned())??;
        let text = format!("{node} has joined the cluster, from {by}, with a token");
        common.tell(Severity::Notice, "joined", Some(&node), text);
        return Ok(());
    };
    let (own, peer) = {
        let directory = common.directory.borrow();
        let peer = directory.by_fingerprint(key).map(|peer| peer.name.clone());
        (directory.node.clone(), peer)
    };
    let (name, why) = match peer {
        Some(name) => (name, None),
        None => (String::new(), Some(format!("its key {key} is not in the cluster file of {own}"))),
    };
    if let Some(why) = why {
        let mut stream = stream;
        let refusal = Message::Refused { why: why.clone() };
        let refusal = frame::send(&mut stream, &refusal);
        // Whoever doesn't listen needn't know.
        let _ = tokio::time::timeout(HANDSHAKE, refusal).await;
        return Err(why);
    }
    // Of every two nodes the one with the lower name dials; questions may be asked by either.
    let may_greet = name < own;
    session::run(stream, &Proven { name, fingerprint: key, certificate, may_greet }, common)
        .await
        .map(drop)
}

/// By what the other side has proved that it is of the cluster; `None`: it showed nothing.
fn shown(stream: &TlsStream<TcpStream>) -> Option<(CertificateDer<'static>, Fingerprint)> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    // It was read before, when it was verified.
    Some((certificate.clone().into_owned(), fingerprint(certificate).ok()?))
}

/// How many connections there are, so that strangers can't keep the nodes out.
#[derive(Clone, Default)]
pub(crate) struct Rooms(Arc<Mutex<BTreeMap<IpAddr, (bool, usize)>>>);

/// A place for one connection; it is given back when this is dropped.
pub(crate) struct Room {
    rooms: Rooms,
    source: IpAddr,
}

impl Rooms {
    pub(crate) fn are_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(crate) fn enter(&self, source: IpAddr, node: bool) -> Option<Room> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let strangers: usize =
            taken.values().filter(|(node, _)| !node).map(|(_, count)| count).sum();
        let entry = taken.get(&source).map_or(0, |(_, count)| *count);
        let full =
            if node { entry >= OF_A_NODE } else { entry >= OF_ONE || strangers >= STRANGERS };
        if full {
            return None;
        }
        taken.insert(source, (node, entry + 1));
        Some(Room { rooms: self.clone(), source })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.rooms.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_take_the_rooms_of_nodes() {
        let rooms = Rooms::default();
        let source = |i: u8| IpAddr::from([10, 0, 0, i]);
        let of_one: Vec<_> = (0..10).filter_map(|_| rooms.enter(source(1), false)).collect();
        assert_eq!(of_one.len(), OF_ONE);
        let others: Vec<_> = (2..100).filter_map(|i| rooms.enter(source(i), false)).collect();
        assert_eq!(of_one.len() + others.len(), STRANGERS);
        assert!(rooms.enter(source(200), true).is_some());
        drop(others);
        assert!(rooms.enter(source(2), false).is_some());
        assert!(rooms.0.lock().unwrap().len() <= 2, "what is over is forgotten");
    }
}
