//! One connection between two nodes that have proved who they are: greeting, pings, summaries.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use standin_config::fingerprint::Fingerprint;
use tokio::io::{AsyncRead, AsyncWrite, WriteHalf};

use super::Common;
use super::board::Measured;
use super::frame::{self, PEER_BYTES, Reader};
use super::message::{Hello, Message, OLDEST, PROTOCOL, plain};
use crate::control::log::Severity;

/// A node that is well greets within milliseconds.
const GREETING: Duration = Duration::from_secs(5);

const PING_EVERY: Duration = Duration::from_secs(1);

/// Four pings without a word: the path is cut, or the peer hangs.
const SILENCE: Duration = Duration::from_secs(4);

/// A peer that doesn't take what is sent isn't there.
const SENDING: Duration = Duration::from_secs(4);

/// Pings of which the quickest counts.
const PINGS: usize = 8;

/// Who is at the other end, as its certificate proves.
pub(super) struct Proven {
    pub(super) name: String,
    pub(super) fingerprint: Fingerprint,
}

/// Runs until the connection ends, and says why it did. `Err`: it never came about.
pub(super) async fn run<S: AsyncRead + AsyncWrite>(
    stream: S,
    peer: &Proven,
    common: &Common,
) -> Result<String, String> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = Reader::new(reader, PEER_BYTES);
    let (cluster, node) = {
        let directory = common.directory.borrow();
        (directory.cluster.clone(), directory.node.clone())
    };
    let hello = Hello {
        protocol: PROTOCOL,
        oldest: OLDEST,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: cluster.clone(),
        node,
    };
    send(&mut writer, &Message::Hello(hello)).await.map_err(|error| error.to_string())?;
    let greeted = tokio::time::timeout(GREETING, reader.next()).await;
    let greeting = greeted.map_err(|_| "it didn't greet in time".to_owned())?;
    let wrong = match greeting.map_err(|error| super::tls::words(&error))? {
        Message::Hello(theirs) if theirs.cluster != cluster => {
            format!("it is of the cluster {:?}, not of {cluster:?}", theirs.cluster)
        }
        Message::Hello(theirs) if theirs.node != peer.name => {
            format!("it calls itself {:?}, and its key is {}'s", theirs.node, peer.name)
        }
        Message::Hello(theirs) if !theirs.understood() => format!(
            "it runs standin {}, too far from this one: bring both to one version",
            plain(&theirs.version)
        ),
        Message::Hello(theirs) => {
            return Ok(established(reader, writer, peer, &theirs, common).await);
        }
        Message::Refused { why } => return Err(format!("it refuses: {}", plain(&why))),
        _ => "it didn't greet first".to_owned(),
    };
    // The connection ends anyway.
    let _ = send(&mut writer, &Message::Refused { why: wrong.clone() }).await;
    Err(wrong)
}

async fn established<S: AsyncRead + AsyncWrite>(
    mut reader: Reader<tokio::io::ReadHalf<S>>,
    mut writer: WriteHalf<S>,
    peer: &Proven,
    hello: &Hello,
    common: &Common,
) -> String {
    let version = plain(&hello.version);
    let (id, mut replaced) = common.board.begin(&peer.name, &version);
    let text = format!("peer link with {} is up (standin {version})", peer.name);
    common.tell(Severity::Notice, "link_up", Some(&peer.name), text);
    let why = tokio::select! {
        _ = &mut replaced => "a newer connection took its place".to_owned(),
        why = talk(&mut reader, &mut writer, peer, common) => why.to_string(),
    };
    if common.board.end(&peer.name, id, &why) {
        let text = format!("peer link with {} is down: {why}", peer.name);
        common.tell(Severity::Warning, "link_down", Some(&peer.name), text);
    }
    why
}

/// Never comes back but with the reason of the end.
async fn talk<S: AsyncRead + AsyncWrite>(
    reader: &mut Reader<tokio::io::ReadHalf<S>>,
    writer: &mut WriteHalf<S>,
    peer: &Proven,
    common: &Common,
) -> io::Error {
    let mut directory = common.directory.clone();
    let mut summary = common.summary.clone();
    summary.mark_changed();
    let mut tick = tokio::time::interval(PING_EVERY);
    let mut pings = Pings::default();
    let mut heard = Instant::now();
    loop {
        let done = tokio::select! {
            message = reader.next() => match message {
                Ok(message) => {
                    heard = Instant::now();
                    answer(message, writer, peer, common, &mut pings).await
                }
                Err(error) => Err(error),
            },
            _ = tick.tick() => {
                if heard.elapsed() > SILENCE {
                    return io::Error::other(format!("nothing was heard for {SILENCE:?}"));
                }
                send(writer, &Message::Ping { id: pings.next() }).await
            }
            changed = summary.changed() => match changed {
                Ok(()) => {
                    let new = summary.borrow_and_update().as_ref().clone();
                    send(writer, &Message::Summary(new)).await
                }
                Err(_) => Err(io::Error::other("this node stops")),
            },
            changed = directory.changed() => {
                if changed.is_err() {
                    return io::Error::other("this node stops");
                }
                let known = directory.borrow_and_update().knows(&peer.name, peer.fingerprint);
                if known { Ok(()) } else {
                    let why = format!("{} isn't in the cluster file any more", peer.name);
                    // The connection ends anyway.
                    let _ = send(writer, &Message::Refused { why: why.clone() }).await;
                    Err(io::Error::other(why))
                }
            }
        };
        if let Err(error) = done {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::other("the other side closed it"),
                _ => error,
            };
        }
    }
}

async fn answer<W: AsyncWrite + Unpin>(
    message: Message,
    writer: &mut W,
    peer: &Proven,
    common: &Common,
    pings: &mut Pings,
) -> io::Result<()> {
    match message {
        Message::Ping { id } => send(writer, &Message::Pong { id, unix_us: unix_us() }).await,
        Message::Pong { id, unix_us } => {
            if let Some(measured) = pings.answered(id, unix_us) {
                common.board.measured(&peer.name, measured);
            }
            Ok(())
        }
        Message::Summary(summary) => {
            common.board.summary(&peer.name, summary.plain());
            Ok(())
        }
        Message::Refused { why } => Err(io::Error::other(format!("it refuses: {}", plain(&why)))),
        // A later version may say more than this one understands.
        _ => Ok(()),
    }
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, message: &Message) -> io::Result<()> {
    tokio::time::timeout(SENDING, frame::send(writer, message))
        .await
        .map_err(|_| io::Error::other("it doesn't take what is sent to it"))?
}

/// This node's clock.
fn unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The ping under way and the last answers.
#[derive(Default)]
struct Pings {
    id: u64,
    sent: Option<(Instant, i64)>,
    last: VecDeque<Measured>,
}

impl Pings {
    fn next(&mut self) -> u64 {
        self.id += 1;
        self.sent = Some((Instant::now(), unix_us()));
        self.id
    }

    fn answered(&mut self, id: u64, theirs_us: i64) -> Option<Measured> {
        if id != self.id {
            return None;
        }
        let (sent, ours_us) = self.sent.take()?;
        let round_trip = sent.elapsed();
        let half = i64::try_from(round_trip.as_micros() / 2).unwrap_or(i64::MAX);
        let clock_us = theirs_us.saturating_sub(ours_us.saturating_add(half));
        if self.last.len() == PINGS {
            self.last.pop_front();
        }
        self.last.push_back(Measured { round_trip, clock_us });
        self.last.iter().copied().min_by_key(|measured| measured.round_trip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickest_ping_tells_the_clocks() {
        let mut pings = Pings::default();
        let id = pings.next();
        let measured = pings.answered(id, unix_us() + 5_000_000).unwrap();
        assert!((measured.clock_us - 5_000_000).abs() < 100_000, "{measured:?}");
        assert_eq!(pings.answered(id, 0), None, "an answer counts once");
        assert_eq!(pings.answered(id + 7, 0), None, "nobody asked that");
        for _ in 0..20 {
            let id = pings.next();
            pings.answered(id, unix_us());
        }
        assert_eq!(pings.last.len(), PINGS);
    }
}
