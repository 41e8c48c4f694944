//! A node that was away, or missed a commit, takes the higher version from whoever has it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::apply::Line;
use super::desk::Origin;
use super::{Answer, Ask};
use crate::control::log::Severity;
use crate::link::{Common, Peer, hash};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between two tries to take the same version from the same node.
const AGAIN: Duration = Duration::from_secs(10);

/// Runs for as long as the link.
pub(in crate::link) async fn keep_up(common: Common) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tried: BTreeMap<String, (u64, Instant)> = BTreeMap::new();
    let mut said: Option<u64> = None;
    loop {
        tick.tick().await;
        let Some((peer, number)) = newest(&common) else { continue };
        let recently =
            tried.get(&peer.name).is_some_and(|(it, at)| *it == number && at.elapsed() < AGAIN);
        if recently {
            continue;
        }
        tried.insert(peer.name.clone(), (number, Instant::now()));
        let name = peer.name.clone();
        match fetch(&peer, &common).await {
            Ok(Some(number)) => {
                let text = format!("version {number} of the cluster file was taken from {name}");
                common.tell(Severity::Notice, "file_taken", Some(&name), text);
            }
            Ok(None) => {}
            Err(why) if said != Some(number) => {
                said = Some(number);
                let text = format!(
                    "version {number} of the cluster file, which {name} has, was not taken; this \
                     node goes on with its own: {why}"
                );
                common.tell(Severity::Error, "file_refused", Some(&name), text);
            }
            Err(_) => {}
        }
    }
}

/// The connected peer with the highest version, where that is higher than this node's.
fn newest(common: &Common) -> Option<(Peer, u64)> {
    let directory = common.directory.borrow().clone();
    let view = common.board.view(&directory);
    let numbers =
        view.peers.iter().filter_map(|(name, peer)| Some((peer.summary.as_ref()?.number, name)));
    let (number, name) = numbers.max()?;
    if number == 0 || number <= common.desk.version().number {
        return None;
    }
    Some((directory.peer(name)?.clone(), number))
}

/// `None`: there was nothing newer after all, or a file is being applied here.
async fn fetch(peer: &Peer, common: &Common) -> Result<Option<u64>, String> {
    let Ok(_alone) = common.desk.applying.try_lock() else { return Ok(None) };
    let mut line = Line::open(peer, common).await?;
    let authority = common.identity.authority_fingerprint.to_string();
    let (version, text, renewal) = match line.ask(Ask::Fetch { authority }).await? {
        Answer::File { version, text, renewal } => (version, text, renewal),
        Answer::No { why } => return Err(why),
        _ => return Err("it answered something else".to_owned()),
    };
    if version.number <= common.desk.version().number {
        return Ok(None);
    }
    if hash(text.as_bytes()) != version.sha256 {
        return Err("the text isn't what its hash says".to_owned());
    }
    let directory = common.directory.borrow().clone();
    let name = format!("version {}", version.number);
    common.desk.looked(&name, &text, &directory, Origin::Elsewhere).await?;
    let number = version.number;
    match common.desk.take(text, version, renewal, &peer.name).await? {
        None => Ok(Some(number)),
        Some(problem) => Err(problem),
    }
}
