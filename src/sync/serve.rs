//! Gives a peer what it asks for: lists of generations and contents, from the store only.

use std::io::{self, Read};
use std::sync::Arc;

use standin_tree::hash::Hash;
use standin_tree::store::Store;
use tokio::sync::mpsc;

use super::piece::{self, FRAME, Kind};
use super::wire::{Said, hex, unhex};
use crate::link::outlet::Outlet;

/// Requests of one peer that may wait; one that asks faster than it takes is answered less.
pub(crate) const WAITING: usize = 64;

/// A peer's request.
pub(crate) enum Asked {
    List([u8; 32]),
    Contents(Vec<[u8; 32]>),
}

impl Asked {
    /// `None` for what is no request, or makes no sense.
    pub(crate) fn of(said: &Said) -> Option<Self> {
        match said {
            Said::WantList { tree } => Some(Self::List(unhex(tree)?)),
            Said::Want { contents, .. } => {
                let hashes = contents.iter().take(super::wire::WANTED).map(|it| unhex(it));
                Some(Self::Contents(hashes.collect::<Option<_>>()?))
            }
            _ => None,
        }
    }
}

/// Answers one peer for as long as its session lasts.
pub(crate) async fn run(store: Arc<Store>, outlet: Outlet, mut asked: mpsc::Receiver<Asked>) {
    while let Some(request) = asked.recv().await {
        let (frames, mut made) = mpsc::channel(1);
        let store = Arc::clone(&store);
        let reading = tokio::task::spawn_blocking(move || match request {
            Asked::List(tree) => list(&store, tree, &frames),
            Asked::Contents(hashes) => contents(&store, &hashes, &frames),
        });
        while let Some(frame) = made.recv().await {
            if !outlet.send(frame).await {
                return;
            }
        }
        if let Ok(Err(lacking)) = reading.await {
            // A peer that doesn't listen is cut off soon.
            let _ = outlet.say(Said::Lacks { hash: hex(&lacking) });
        }
    }
}

type Frames = mpsc::Sender<Vec<u8>>;

/// Whether somebody still wants it.
fn sent(frames: &Frames, frame: Vec<u8>) -> bool {
    frame.is_empty() || frames.blocking_send(frame).is_ok()
}

fn list(store: &Store, tree: [u8; 32], frames: &Frames) -> Result<(), [u8; 32]> {
    let hash = Hash::from_bytes(tree);
    let generations = store.generations();
    let known = generations.iter().rev().find(|generation| generation.id.hash == hash);
    let manifest = known.and_then(|generation| store.manifest(&generation.id).ok()).ok_or(tree)?;
    let bytes = manifest.encode().map_err(|_| tree)?;
    let mut offset = 0;
    loop {
        let mut frame = Vec::with_capacity(FRAME);
        let rest = bytes.get(offset..).unwrap_or_default();
        let total = bytes.len() as u64;
        offset += piece::put(&mut frame, (Kind::List, &tree), offset as u64, total, rest);
        if !sent(frames, frame) || offset >= bytes.len() {
            return Ok(());
        }
    }
}

fn contents(store: &Store, hashes: &[[u8; 32]], frames: &Frames) -> Result<(), [u8; 32]> {
    let mut frame = Vec::with_capacity(FRAME);
    for hash in hashes {
        match content(store, hash, &mut frame, frames) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(_) => {
                sent(frames, frame);
                return Err(*hash);
            }
        }
    }
    sent(frames, frame);
    Ok(())
}

/// Appends a content; frames that are full go out. Whether somebody still wants them.
fn content(
    store: &Store,
    hash: &[u8; 32],
    frame: &mut Vec<u8>,
    frames: &Frames,
) -> io::Result<bool> {
    let mut file = store.open_object(&Hash::from_bytes(*hash))?;
    let total = file.left();
    let mut offset = 0;
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        // The receiver looks at the hash.
        (&mut file).take(FRAME as u64 / 2).read_to_end(&mut chunk)?;
        if chunk.is_empty() && offset < total {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = chunk.as_slice();
        loop {
            let whole = rest.len() as u64 == total;
            // A small file is never cut in two.
            if !piece::has_room(frame) || whole && !fits(frame, rest) {
                let full = std::mem::replace(frame, Vec::with_capacity(FRAME));
                if !sent(frames, full) {
                    return Ok(false);
                }
            }
            let put = piece::put(frame, (Kind::Content, hash), offset, total, rest);
            offset += put as u64;
            rest = rest.get(put..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
        }
        if offset >= total {
            return Ok(true);
        }
    }
}

fn fits(frame: &[u8], rest: &[u8]) -> bool {
    frame.is_empty() || piece::room(frame) >= rest.len()
}
