//! One connection between two nodes that have proved who they are: greeting, pings, summaries.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use standin_config::fingerprint::Fingerprint;
use standin_core::election::told::Says;
use standin_core::event::{Role, Standing};
use standin_core::types::Instant as BootTime;
use standin_core::types::Mac;
use standin_linux::clock::now;
use tokio::io::{AsyncRead, AsyncWrite, WriteHalf};
use tokio::sync::mpsc;

use super::Common;
use super::board::{Begun, Measured, ToSay};
use super::file::{Answer, Ask};
use super::frame::{self, Frame, JOINED_BYTES, PEER_BYTES, Reader};
use super::message::{Hello, Message, OLDEST, PROTOCOL, Summary, VipSummary, plain};
use super::outlet::{FRAMES, FromPeer, Outlet, PARCELS};
use crate::control::Request;
use crate::control::log::Severity;
use crate::engine::messages::ToEngine;

/// A node that is well greets within milliseconds.
const GREETING: Duration = Duration::from_secs(5);

const PING_EVERY: Duration = Duration::from_secs(1);

/// Four pings without a word: the path is cut, or the peer hangs.
const SILENCE: Duration = Duration::from_secs(4);

/// A peer that doesn't take what is sent isn't there.
const SENDING: Duration = Duration::from_secs(4);

/// Between a proposal and its decision all other nodes look at the file.
const ASKS: Duration = Duration::from_secs(60);

/// Pings of which the quickest counts.
const PINGS: usize = 8;

/// Clocks drift apart by less than this between two pings, also bad ones.
const DRIFT: Duration = Duration::from_millis(1);

/// Who is at the other end, as its certificate proves.
pub(super) struct Proven {
    pub(super) name: String,
    pub(super) fingerprint: Fingerprint,
    /// Its certificate.
    pub(super) certificate: CertificateDer<'static>,
    /// It may begin a session, and not only ask.
    pub(super) may_greet: bool,
}

/// Runs until the connection ends, and says why it did. `Err`: it never came about.
pub(super) async fn run<S: AsyncRead + AsyncWrite>(
    stream: S,
    peer: &Proven,
    common: &Common,
) -> Result<String, String> {
    let (reader, mut writer) = tokio::io::split(stream);
    // A node that asks about a file does that first.
    let mut reader = Reader::new(reader, JOINED_BYTES);
    let (cluster, node) = {
        let directory = common.directory.borrow();
        (directory.cluster.clone(), directory.node.clone())
    };
    let hello = Hello {
        protocol: PROTOCOL,
        oldest: OLDEST,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: cluster.clone(),
        node: node.clone(),
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
        Message::Hello(_) if !peer.may_greet => {
            format!("{node} dials it, not the other way round")
        }
        Message::Hello(theirs) => {
            reader.limit(PEER_BYTES);
            return Ok(established(reader, writer, peer, &theirs, common).await);
        }
        Message::Refused { why } => return Err(format!("it refuses: {}", plain(&why))),
        Message::Ask(ask) => return asked(ask, reader, writer, peer, common).await,
        _ => "it didn't greet first".to_owned(),
    };
    // The connection ends anyway.
    let _ = send(&mut writer, &Message::Refused { why: wrong.clone() }).await;
    Err(wrong)
}

/// Answers questions until there is none any more.
async fn asked<S: AsyncRead + AsyncWrite>(
    first: Ask,
    mut reader: Reader<tokio::io::ReadHalf<S>>,
    mut writer: WriteHalf<S>,
    peer: &Proven,
    common: &Common,
) -> Result<String, String> {
    let mut ask = first;
    loop {
        let directory = common.directory.borrow().clone();
        if !directory.knows(&peer.name, peer.fingerprint) {
            return Err(format!("{} isn't in the cluster file any more", peer.name));
        }
        let committed = match &ask {
            Ask::Commit { version } => Some(version.number),
            _ => None,
        };
        let answer = common.desk.answer(ask, peer, &directory).await;
        if let (Some(number), Answer::Taken { .. }) = (committed, &answer) {
            let name = &peer.name;
            let text = format!("version {number} of the cluster file was taken from {name}");
            common.tell(Severity::Notice, "file_taken", Some(name), text);
        }
        let sent = send(&mut writer, &Message::Answer(answer)).await;
        sent.map_err(|error| error.to_string())?;
        ask = match tokio::time::timeout(ASKS, reader.next()).await {
            Ok(Ok(Message::Ask(ask))) => ask,
            // It has asked what it wanted.
            _ => return Ok("it has been answered".to_owned()),
        };
    }
}

async fn established<S: AsyncRead + AsyncWrite>(
    mut reader: Reader<tokio::io::ReadHalf<S>>,
    mut writer: WriteHalf<S>,
    peer: &Proven,
    hello: &Hello,
    common: &Common,
) -> String {
    let version = plain(&hello.version);
    let Begun { id, mut replaced, mut to_say } = common.board.begin(&peer.name, &version);
    let news = common.board.is_news(&peer.name, Instant::now());
    if news {
        let text = format!("peer link with {} is up (standin {version})", peer.name);
        common.tell(Severity::Notice, "link_up", Some(&peer.name), text);
    }
    let mut known = Known::default();
    let why = tokio::select! {
        _ = &mut replaced => "a newer connection took its place".to_owned(),
        why = talk(&mut reader, &mut writer, &mut to_say, (peer, id, &mut known), common) => {
            why.to_string()
        }
    };
    if common.board.end(&peer.name, id, &why) {
        known.forget(&peer.name, common);
        if !news && !common.board.is_news(&peer.name, Instant::now()) {
            return why;
        }
        let text = format!("peer link with {} is down: {why}", peer.name);
        common.tell(Severity::Warning, "link_down", Some(&peer.name), text);
    }
    why
}

/// Never comes back but with the reason of the end. Reading and writing don't wait for each other:
/// two nodes that both send much at one time would else both stand still.
async fn talk<S: AsyncRead + AsyncWrite>(
    reader: &mut Reader<tokio::io::ReadHalf<S>>,
    writer: &mut WriteHalf<S>,
    to_say: &mut mpsc::Receiver<ToSay>,
    (peer, id, known): (&Proven, u64, &mut Known),
    common: &Common,
) -> io::Error {
    let shared = Shared(Mutex::new(Heard { known, at: Instant::now() }));
    let (post, parcels) = mpsc::channel(PARCELS);
    let (bulk, frames) = mpsc::channel(FRAMES);
    let outlet = Outlet { post: post.clone(), bulk };
    common.sync.tell(&peer.name, FromPeer::Up(id, outlet)).await;
    let error = tokio::select! {
        error = listen(reader, &post, peer, common, &shared) => error,
        error = speak(writer, to_say, (parcels, frames), (peer, &shared), common) => error,
    };
    common.sync.tell(&peer.name, FromPeer::Down(id)).await;
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::other("the other side closed it"),
        _ => error,
    }
}

/// What the two halves of a session both look at; they are one task, so nobody ever waits for it.
struct Shared<'a>(Mutex<Heard<'a>>);

struct Heard<'a> {
    known: &'a mut Known,
    /// When anything came last.
    at: Instant,
}

impl<'a> Shared<'a> {
    fn lock(&self) -> MutexGuard<'_, Heard<'a>> {
        // Nothing that can panic is done under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) {
        self.lock().at = Instant::now();
    }
}

async fn listen<R: AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    post: &mpsc::Sender<Message>,
    peer: &Proven,
    common: &Common,
    shared: &Shared<'_>,
) -> io::Error {
    loop {
        let frame = match reader.frame::<Message>().await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        shared.heard();
        let done = match frame {
            Frame::Message(message) => answer(message, post, peer, common, shared).await,
            Frame::Bulk(bytes) => {
                common.sync.tell(&peer.name, FromPeer::Bulk(bytes)).await;
                Ok(())
            }
        };
        // What waits for the disk has waited here; the peer isn't to blame for it.
        shared.heard();
        if let Err(error) = done {
            return error;
        }
    }
}

async fn speak<W: AsyncWrite + Unpin>(
    writer: &mut W,
    to_say: &mut mpsc::Receiver<ToSay>,
    (mut parcels, mut frames): (mpsc::Receiver<Message>, mpsc::Receiver<Vec<u8>>),
    (peer, shared): (&Proven, &Shared<'_>),
    common: &Common,
) -> io::Error {
    let mut directory = common.directory.clone();
    let mut summary = common.summary.clone();
    summary.mark_changed();
    let mut tick = tokio::time::interval(PING_EVERY);
    loop {
        let done = tokio::select! {
            // Somebody waits for an answer of this VIP; the rest has time, and a file most of all.
            biased;
            Some(ToSay { message, said }) = to_say.recv() => {
                let sent = send(writer, &message).await;
                // Who asked may not wait for it.
                let _ = said.send(());
                sent
            }
            _ = tick.tick() => {
                if shared.lock().at.elapsed() > SILENCE {
                    return io::Error::other(format!("nothing was heard for {SILENCE:?}"));
                }
                let id = shared.lock().known.pings.next();
                send(writer, &Message::Ping { id }).await
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
                // Another file may have VIPs of which the engine was told in vain.
                shared.lock().known.tell_again(&peer.name, common);
                let here = directory.borrow_and_update().knows(&peer.name, peer.fingerprint);
                if here { Ok(()) } else {
                    let why = format!("{} isn't in the cluster file any more", peer.name);
                    // The connection ends anyway.
                    let _ = send(writer, &Message::Refused { why: why.clone() }).await;
                    Err(io::Error::other(why))
                }
            }
            Some(message) = parcels.recv() => send(writer, &message).await,
            Some(bytes) = frames.recv() => in_time(frame::send_bulk(writer, &bytes)).await,
        };
        if let Err(error) = done {
            return error;
        }
    }
}

async fn answer(
    message: Message,
    post: &mpsc::Sender<Message>,
    peer: &Proven,
    common: &Common,
    shared: &Shared<'_>,
) -> io::Result<()> {
    match message {
        Message::Ping { id } => {
            let boot_ns = Some(now().as_nanos());
            // A peer that asks more than it takes is answered less.
            let _ = post.try_send(Message::Pong { id, unix_us: unix_us(), boot_ns });
            Ok(())
        }
        Message::Pong { id, unix_us, boot_ns } => {
            let measured = shared.lock().known.pings.answered(id, unix_us, boot_ns);
            if let Some(measured) = measured {
                common.board.measured(&peer.name, measured);
            }
            Ok(())
        }
        Message::StillSeen { vip, address, mac } => {
            // With a full queue it is told again.
            let _ = common.engine.offer(ToEngine::StillSeen { vip, address, mac: Mac(mac) });
            Ok(())
        }
        Message::Released { vip, epoch, boot_ns } => {
            let boot = shared.lock().known.pings.boot;
            if let Some(released) = boot.and_then(|boot| boot.ours(boot_ns, now())) {
                let from = peer.name.clone();
                // An engine that is stuck can't take over.
                let _ = common.engine.offer(ToEngine::TakeOver { from, vip, epoch, released });
            }
            Ok(())
        }
        Message::Switchover(said) => {
            let from = peer.name.clone();
            // Hundreds of VIPs may move at once: what is said of one must not be lost. Without a control
            // plane there is no switchover.
            let _ = common.requests.send(Request::Said { from, said: said.plain() }).await;
            Ok(())
        }
        Message::Summary(summary) => {
            let summary = summary.plain();
            shared.lock().known.hear(&peer.name, &summary, common);
            common.board.summary(&peer.name, summary);
            Ok(())
        }
        Message::Sync(said) => {
            common.sync.tell(&peer.name, FromPeer::Said(Box::new(said))).await;
            Ok(())
        }
        Message::Refused { why } => Err(io::Error::other(format!("it refuses: {}", plain(&why)))),
        // A later version may say more than this one understands.
        _ => Ok(()),
    }
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, message: &Message) -> io::Result<()> {
    in_time(frame::send(writer, message)).await
}

async fn in_time(sending: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::time::timeout(SENDING, sending)
        .await
        .map_err(|_| io::Error::other("it doesn't take what is sent to it"))?
}

/// This node's clock.
fn unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// What a session knows of its peer.
#[derive(Default)]
struct Known {
    pings: Pings,
    /// What the engine was told of each of its VIPs.
    told: BTreeMap<String, Says>,
}

impl Known {
    /// Tells the engine what is new, and that what is active is so still.
    fn hear(&mut self, peer: &str, summary: &Summary, common: &Common) {
        let me = common.directory.borrow().node.clone();
        let says = |vip: &VipSummary| Some((vip.name.clone(), said(vip, &me)?));
        let new: BTreeMap<_, _> = summary.vips.iter().filter_map(says).collect();
        let gone = self.told.keys().filter(|vip| !new.contains_key(*vip));
        // One that hears nobody may be active next to this node.
        let changed = new.iter().filter(|(vip, says)| {
            says.active || says.hears_me == Some(false) || self.told.get(*vip) != Some(says)
        });
        let news: Vec<_> = gone
            .map(|vip| (vip.clone(), None))
            .chain(changed.map(|(vip, says)| (vip.clone(), Some(*says))))
            .collect();
        self.told = new;
        tell(peer, news, common);
    }

    fn tell_again(&self, peer: &str, common: &Common) {
        let all = self.told.iter().map(|(vip, says)| (vip.clone(), Some(*says)));
        tell(peer, all.collect(), common);
    }

    fn forget(&self, peer: &str, common: &Common) {
        tell(peer, self.told.keys().map(|vip| (vip.clone(), None)).collect(), common);
    }
}

fn tell(peer: &str, says: Vec<(String, Option<Says>)>, common: &Common) {
    if !says.is_empty() {
        let name = peer.to_owned();
        // Dropped only when the engine is stuck; it decides without the link then.
        let _ = common.engine.offer(ToEngine::Peer { name, says });
    }
}

/// What a peer's summary says, for the core of the node `me`.
fn said(vip: &VipSummary, me: &str) -> Option<Says> {
    Some(Says {
        standing: standing(&vip.standing)?,
        active: vip.role == Role::Active.to_string(),
        hears_me: vip.hears.as_ref().map(|hears| hears.iter().any(|name| name == me)),
    })
}

/// As the core says it.
fn standing(word: &str) -> Option<Standing> {
    [Standing::Eligible, Standing::Pending, Standing::HeldDown, Standing::Ineligible]
        .into_iter()
        .find(|standing| standing.to_string() == word)
}

/// What a peer's CLOCK_BOOTTIME says when this node's says something else.
#[derive(Clone, Copy, Debug)]
struct Boot {
    theirs_ns: u64,
    ours_ns: u64,
    unsure: Duration,
}

impl Boot {
    /// A time of the peer's by this node's clock, too early rather than too late; `None` for one that
    /// is still to come: one of the clocks has stood still, and nothing is known.
    fn ours(self, theirs_ns: u64, now: BootTime) -> Option<BootTime> {
        let since = i128::from(theirs_ns) - i128::from(self.theirs_ns);
        let ours =
            u64::try_from(i128::from(self.ours_ns) + since).ok().map(BootTime::from_nanos)?;
        (ours <= now + self.unsure).then(|| ours - self.unsure)
    }
}

/// The ping under way and the last answers.
#[derive(Default)]
struct Pings {
    id: u64,
    sent: Option<(Instant, i64, BootTime)>,
    last: VecDeque<Measured>,
    boot: Option<Boot>,
}

impl Pings {
    fn next(&mut self) -> u64 {
        self.id += 1;
        self.sent = Some((Instant::now(), unix_us(), now()));
        self.id
    }

    fn answered(&mut self, id: u64, theirs_us: i64, theirs_ns: Option<u64>) -> Option<Measured> {
        if id != self.id {
            return None;
        }
        let (sent, ours_us, ours) = self.sent.take()?;
        let round_trip = sent.elapsed();
        if let Some(theirs_ns) = theirs_ns {
            let ours_ns = (ours + round_trip / 2).as_nanos();
            self.boot = Some(Boot { theirs_ns, ours_ns, unsure: round_trip / 2 + DRIFT });
        }
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
        let measured = pings.answered(id, unix_us() + 5_000_000, None).unwrap();
        assert!((measured.clock_us - 5_000_000).abs() < 100_000, "{measured:?}");
        assert_eq!(pings.answered(id, 0, None), None, "an answer counts once");
        assert_eq!(pings.answered(id + 7, 0, None), None, "nobody asked that");
        for _ in 0..20 {
            let id = pings.next();
            pings.answered(id, unix_us(), None);
        }
        assert_eq!(pings.last.len(), PINGS);
    }

    #[test]
    fn a_peers_clock_is_read_as_ours_too_early_rather_than_too_late() {
        let boot =
            Boot { theirs_ns: 900, ours_ns: 5_000_000_000, unsure: Duration::from_nanos(50) };
        let now = BootTime::from_nanos(5_000_001_000);
        assert_eq!(boot.ours(1_400, now), Some(BootTime::from_nanos(5_000_000_450)));
        assert_eq!(boot.ours(1_950, now), Some(BootTime::from_nanos(5_000_001_000)));
        assert_eq!(boot.ours(1_951, now), None, "it is still to come");
        assert_eq!(boot.ours(u64::MAX, now), None);
        let young = Boot { theirs_ns: u64::MAX, ours_ns: 10, unsure: Duration::ZERO };
        assert_eq!(young.ours(0, now), None, "before this machine was there");
    }
}
