//! Dials one peer for as long as the file has it, with a bounded back-off.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::session::{self, Proven};
use super::{Common, Peer, tls};
use crate::control::log::Severity;

/// The first wait after a failure; it doubles up to the last.
const BACK_OFF: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

const CONNECT: Duration = Duration::from_secs(2);

const HANDSHAKE: Duration = Duration::from_secs(5);

/// A connection that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(10);

pub(super) async fn forever(name: String, common: Common) {
    let mut directory = common.directory.clone();
    let mut wait = BACK_OFF;
    let mut attempt = 0_usize;
    loop {
        let peer = directory.borrow_and_update().peer(&name).cloned();
        let Some(peer) = peer else { return };
        if peer.fingerprint.is_some() {
            let began = Instant::now();
            let ended = once(&peer, attempt, &common).await;
            attempt = attempt.wrapping_add(1);
            if let Err(why) = ended
                && common.board.failed(&name, &why)
            {
                let text = format!("no peer link with {name}: {why}. It is tried again and again");
                common.tell(Severity::Warning, "link_failed", Some(&name), text);
            }
            wait = if began.elapsed() > GOOD { BACK_OFF } else { (wait * 2).min(LONGEST) };
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = directory.changed() => {
                if changed.is_err() { return }
                wait = BACK_OFF;
            }
        }
    }
}

/// One connection, from its beginning to its end.
async fn once(peer: &Peer, attempt: usize, common: &Common) -> Result<(), String> {
    let (stream, proven) = connect(peer, attempt, common).await.map_err(|e| format!("{e:#}"))?;
    session::run(stream, &proven, common).await.map(drop)
}

pub(super) async fn connect(
    peer: &Peer,
    attempt: usize,
    common: &Common,
) -> Result<(tokio_rustls::client::TlsStream<TcpStream>, Proven)> {
    let fingerprint = peer.fingerprint.context("it has no certificate yet")?;
    // A node with two addresses is tried by one after the other.
    let index = attempt.checked_rem(peer.addresses.len()).unwrap_or(0);
    let to = *peer.addresses.get(index).context("it has no address")?;
    let (port, from) = {
        let directory = common.directory.borrow();
        let same = |it: &&IpAddr| it.is_ipv4() == to.is_ipv4();
        (directory.port, directory.addresses.iter().find(same).copied())
    };
    let to = SocketAddr::from((to, port));
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from {
        // As the peer's firewall and its listener know this node.
        socket.bind((from, 0).into()).with_context(|| format!("from {from}"))?;
    }
    let stream = tokio::time::timeout(CONNECT, socket.connect(to))
        .await
        .map_err(|_| anyhow!("{to} doesn't answer"))?
        .with_context(|| format!("{to}"))?;
    stream.set_nodelay(true)?;
    let config = Arc::new(tls::client(&common.identity, fingerprint)?);
    let connecting = TlsConnector::from(config).connect(ServerName::from(to.ip()), stream);
    let stream = tokio::time::timeout(HANDSHAKE, connecting)
        .await
        .map_err(|_| anyhow!("{to} doesn't finish the TLS handshake"))?
        .map_err(|error| anyhow!("{to}: {}", tls::words(&error)))?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|all| all.first());
    let certificate = shown.context("it showed no certificate")?.clone().into_owned();
    Ok((stream, Proven { name: peer.name.clone(), fingerprint, certificate, may_greet: true }))
}
