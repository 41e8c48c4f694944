//! Gets what is missing of a generation from a peer: its list, then the contents that aren't here.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use standin_core::sync::{Id, Line, Outcome, Trouble};
use standin_tree::code::MAX_ENCODED;
use standin_tree::hash::Hash;
use standin_tree::manifest::Manifest;
use standin_tree::store::{self, Generation, Incoming, MAX_PARENTS, Origin, Store, Wanted};
use tokio::sync::mpsc;

use super::piece::{self, Kind};
use super::wire::{Said, WANTED, hex};
use crate::link::outlet::Outlet;

/// Nothing came for so long: the peer or the path is stuck, and it is begun anew.
const STUCK: Duration = Duration::from_secs(10);

/// Bytes that are asked for and not here yet: what a fast path holds, and what may be in memory.
const UNDER_WAY: usize = 4 << 20;

/// What comes from the peer while a fetch is under way.
pub(crate) enum Came {
    Frame(Vec<u8>),
    Lacks(String),
}

/// Frames that may wait: as many as can be under way, and some.
pub(crate) const WAITING: usize = 2 * (UNDER_WAY / piece::FRAME) + 16;

/// Says what is wrong with a list that came from another node.
pub(crate) type Judge = Box<dyn FnOnce(&Manifest) -> Result<(), (Trouble, String)> + Send>;

/// Says what is wrong with contents that came from another node.
pub(crate) type Examine =
    Box<dyn FnOnce(&Store, &Manifest) -> Result<(), (Trouble, String)> + Send>;

/// What is fetched, from whom, and where it is to be kept.
pub(crate) struct Order {
    pub(crate) id: Id,
    pub(crate) from: String,
    pub(crate) line: Line,
    pub(crate) outlet: Outlet,
    pub(crate) store: Arc<Store>,
    /// Refuses what must not come from others, with the reason.
    pub(crate) judge: Judge,
    /// The same, once all contents are here.
    pub(crate) examine: Examine,
}

/// Why it came to nothing.
enum Broken {
    Passing(String),
    Refused(Trouble, String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Passing(format!("it couldn't be kept: {error}"))
    }
}

/// Fetches; what is here already is not fetched again, so that one that was cut goes on.
pub(crate) async fn run(order: Order, came: mpsc::Receiver<Came>) -> Outcome {
    let from = order.from.clone();
    let mut fetch = Fetch { outlet: order.outlet.clone(), store: Arc::clone(&order.store), came };
    match fetch.all(order).await {
        Ok(()) => Outcome::Done,
        Err(Broken::Passing(why)) => {
            Outcome::Failed { trouble: Trouble::Passing, why: format!("from {from}: {why}") }
        }
        Err(Broken::Refused(trouble, why)) => Outcome::Failed { trouble, why },
    }
}

struct Fetch {
    outlet: Outlet,
    store: Arc<Store>,
    came: mpsc::Receiver<Came>,
}

impl Fetch {
    async fn all(&mut self, order: Order) -> Result<(), Broken> {
        let Order { id, from, line, judge, examine, .. } = order;
        let own = store::Id { number: id.number, hash: Hash::from_bytes(id.tree.0) };
        let known = {
            let store = Arc::clone(&self.store);
            blocking(move || Ok(store.manifest(&own).ok())).await?
        };
        let manifest = match known {
            Some(manifest) => manifest,
            None => self.list(id).await?,
        };
        judge(&manifest).map_err(|(trouble, why)| Broken::Refused(trouble, why))?;
        let store = Arc::clone(&self.store);
        let missing = blocking(move || {
            let parents = line.ids().iter().skip(1).take(MAX_PARENTS);
            let generation = Generation {
                id: own,
                origin: Origin::Generation,
                parents: parents
                    .map(|id| store::Id { number: id.number, hash: Hash::from_bytes(id.tree.0) })
                    .collect(),
                why: format!("from {from}"),
                node: from,
                when_ms: unix_ms(),
            };
            store.record(&generation, &manifest)?;
            Ok((store.missing(&manifest), manifest))
        });
        let (missing, manifest) = missing.await?;
        self.contents(missing.into()).await?;
        let store = Arc::clone(&self.store);
        let fine = blocking(move || {
            store.commit(&[])?;
            Ok(examine(&store, &manifest))
        });
        fine.await?.map_err(|(trouble, why)| Broken::Refused(trouble, why))
    }

    async fn list(&mut self, id: Id) -> Result<Manifest, Broken> {
        let tree = hex(&id.tree.0);
        self.say(Said::WantList { tree })?;
        let mut bytes: Vec<u8> = Vec::new();
        loop {
            let frame = self.frame().await?;
            for piece in pieces(&frame)? {
                // What is left of an earlier fetch is passed over.
                if piece.kind != Kind::List || piece.hash != id.tree.0 {
                    continue;
                }
                if piece.total > MAX_ENCODED as u64 || piece.offset != bytes.len() as u64 {
                    return Err(Broken::Passing("it sent a list that is none".to_owned()));
                }
                bytes.extend_from_slice(piece.bytes);
                if bytes.len() as u64 == piece.total {
                    return blocking(move || Ok(decoded(&bytes, id))).await?;
                }
            }
        }
    }

    async fn contents(&mut self, mut wanted: VecDeque<Wanted>) -> Result<(), Broken> {
        let mut asked: BTreeMap<Hash, u64> = BTreeMap::new();
        let mut under_way = 0_u64;
        let mut long: Option<(Hash, Incoming)> = None;
        loop {
            if under_way < UNDER_WAY as u64 / 2 {
                let mut batch = Vec::new();
                while let Some(next) = wanted.front()
                    && batch.len() < WANTED
                    && (under_way == 0 || under_way + next.size <= UNDER_WAY as u64)
                {
                    under_way += next.size;
                    asked.insert(next.hash, next.size);
                    batch.push(next.hash.to_string());
                    wanted.pop_front();
                }
                if !batch.is_empty() {
                    self.say(Said::Want { contents: batch, skip: 0 })?;
                }
            }
            if asked.is_empty() && wanted.is_empty() {
                return Ok(());
            }
            let frame = self.frame().await?;
            let store = Arc::clone(&self.store);
            let mut waited = std::mem::take(&mut asked);
            let mut begun = long.take();
            let done = blocking(move || {
                let done = keep(&store, &frame, &mut waited, &mut begun)?;
                Ok((done, waited, begun))
            })
            .await?;
            let (bytes, waited, begun) = done;
            let bytes = bytes.map_err(Broken::Passing)?;
            under_way = under_way.saturating_sub(bytes);
            (asked, long) = (waited, begun);
            if asked.is_empty() {
                under_way = 0;
            }
        }
    }

    fn say(&self, said: Said) -> Result<(), Broken> {
        if self.outlet.say(said) { Ok(()) } else { Err(gone()) }
    }

    async fn frame(&mut self) -> Result<Vec<u8>, Broken> {
        match tokio::time::timeout(STUCK, self.came.recv()).await {
            Ok(Some(Came::Frame(frame))) => Ok(frame),
            Ok(Some(Came::Lacks(hash))) => {
                let short: String = hash.chars().take(12).collect();
                Err(Broken::Passing(format!("it doesn't have {short} any more")))
            }
            Ok(None) => Err(gone()),
            Err(_) => Err(Broken::Passing(format!("nothing came for {STUCK:?}"))),
        }
    }
}

fn gone() -> Broken {
    Broken::Passing("the peer link was lost".to_owned())
}

fn pieces(frame: &[u8]) -> Result<Vec<piece::Piece<'_>>, Broken> {
    piece::pieces(frame).ok_or_else(|| Broken::Passing("it sent a frame that is none".to_owned()))
}

fn decoded(bytes: &[u8], id: Id) -> Result<Manifest, Broken> {
    let manifest = Manifest::decode(bytes).map_err(|fault| {
        Broken::Refused(Trouble::Refused, format!("its list of files can't be taken: {fault}"))
    })?;
    if manifest.hash() != Hash::from_bytes(id.tree.0) {
        return Err(Broken::Passing("it sent another list than was asked for".to_owned()));
    }
    Ok(manifest)
}

/// Keeps what a frame has of the contents that were asked for; how many bytes that were. The inner
/// error is the peer's fault.
fn keep(
    store: &Store,
    frame: &[u8],
    asked: &mut BTreeMap<Hash, u64>,
    long: &mut Option<(Hash, Incoming)>,
) -> io::Result<Result<u64, String>> {
    let wrong = |what: &str| Ok(Err(format!("it sent {what}")));
    let Some(pieces) = piece::pieces(frame) else { return wrong("a frame that is none") };
    let mut bytes = 0;
    for piece in pieces.into_iter().filter(|piece| piece.kind == Kind::Content) {
        let hash = Hash::from_bytes(piece.hash);
        let Some(size) = asked.get(&hash) else { continue };
        if piece.total != *size {
            return wrong("a content of another size than its list says");
        }
        bytes += piece.bytes.len() as u64;
        if piece.bytes.len() as u64 == piece.total {
            if store.put(piece.bytes)? != hash {
                return wrong("another content than was asked for");
            }
            asked.remove(&hash);
            continue;
        }
        let mut incoming = match long.take() {
            Some((begun, incoming)) if begun == hash => incoming,
            _ => store.incoming(piece.total)?,
        };
        if incoming.size() != piece.offset {
            return wrong("the pieces of a file out of order");
        }
        incoming.write(piece.bytes)?;
        if incoming.size() < piece.total {
            *long = Some((hash, incoming));
        } else if store.keep(incoming, Some(hash)).is_err() {
            return wrong("another content than was asked for");
        } else {
            asked.remove(&hash);
        }
    }
    Ok(Ok(bytes))
}

/// Runs what waits for the disk beside the control plane's thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Broken> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Broken::Passing(error.to_string()))??)
}

/// By this node's clock.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
