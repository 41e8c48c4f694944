//! What this node does when it is asked about a cluster file, and when it takes one.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::fit::{Whose, fit};
use super::power::{Approved, id, powers};
use super::shelf::{Shelf, Version};
use super::{Answer, Ask, Proposal};
use crate::authority::{Keys, Renewal, public_key};
use crate::control::Request;
use crate::link::message::plain;
use crate::link::session::Proven;
use crate::link::{Directory, hash};

/// Who proposes decides within this time, or has gone.
const DECIDES: Duration = Duration::from_secs(60);

/// One node's part in agreeing on cluster files.
pub(crate) struct Desk {
    pub(super) shelf: Shelf,
    /// The version that was taken last. It is asked for each second, by who must wait for no disk.
    version: Mutex<Version>,
    approved: Approved,
    state_dir: PathBuf,
    pub(super) file: PathBuf,
    pub(super) keys: Keys,
    requests: mpsc::Sender<Request>,
    proposed: Mutex<Option<Proposed>>,
    /// Held by whoever applies a file from here.
    pub(super) applying: tokio::sync::Mutex<()>,
}

/// A file that this node could take.
struct Proposed {
    by: String,
    version: Version,
    text: String,
    renewal: Option<Renewal>,
    until: Instant,
}

impl Desk {
    pub(crate) fn new(state_dir: PathBuf, file: PathBuf, requests: mpsc::Sender<Request>) -> Self {
        let shelf = Shelf::of(&state_dir, &file);
        Self {
            version: Mutex::new(shelf.version()),
            shelf,
            approved: Approved::of(&state_dir),
            keys: Keys::of(&state_dir),
            state_dir,
            file,
            requests,
            proposed: Mutex::default(),
            applying: tokio::sync::Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Proposed>> {
        // Nothing that can panic is done under it.
        self.proposed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn version(&self) -> Version {
        self.version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another process of this node may have taken a version: `init`, or a join while no daemon ran. What
    /// can't be read is as it was.
    pub(crate) fn look_again(&self) {
        let found = self.shelf.version();
        let mut version = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        if found.number > version.number {
            *version = found;
        }
    }

    /// Answers a node that has proved to be `peer`.
    pub(in crate::link) async fn answer(
        &self,
        ask: Ask,
        proven: &Proven,
        directory: &Directory,
    ) -> Answer {
        let peer = proven.name.as_str();
        match ask {
            Ask::Propose(proposal) => self.propose(proposal, peer, directory).await,
            Ask::Commit { version } => {
                let proposed = self.lock().take_if(|it| it.by == peer && it.version == version);
                match proposed {
                    Some(Proposed { text, renewal, .. }) => {
                        self.taken(text, version, renewal, peer).await
                    }
                    // It was quicker to fetch it.
                    None if self.version() == version => Answer::Taken { problem: None },
                    None => no("it was not proposed here, or too long ago"),
                }
            }
            Ask::Abort { version } => {
                self.lock().take_if(|it| it.by == peer && it.version == version);
                no("forgotten")
            }
            Ask::Fetch { authority } => match self.shelf.text() {
                Some((version, text)) => match self.missed(&authority, proven, directory) {
                    Ok(renewal) => Answer::File { version, text, renewal },
                    Err(error) => no(&format!("its keys can't be used: {error:#}")),
                },
                None => no("no version was agreed on here"),
            },
            Ask::Unknown => no("this node's standin doesn't know that question; upgrade it"),
        }
    }

    /// What a member with another authority than this node's gets.
    fn missed(
        &self,
        authority: &str,
        proven: &Proven,
        directory: &Directory,
    ) -> anyhow::Result<Option<Renewal>> {
        let own = self.keys.identity()?.authority_fingerprint.to_string();
        let Some(key) = public_key(&proven.certificate).filter(|_| authority != own) else {
            return Ok(None);
        };
        self.keys.renewal(&directory.cluster, &proven.name, key).map(Some)
    }

    async fn propose(&self, proposal: Proposal, peer: &str, directory: &Directory) -> Answer {
        let Proposal { version, base, name, text, renewal } = proposal;
        let own = self.version();
        if own.number > base || own.number >= version.number {
            return no(&format!(
                "it has version {} already, and {peer} has {base}: {peer} takes it in a moment, \
                 then try again",
                own.number
            ));
        }
        if hash(text.as_bytes()) != version.sha256 {
            return no("the text isn't what its hash says");
        }
        if self.applying.try_lock().is_err() {
            return no("a file is being applied from there at this moment; try again");
        }
        {
            let mut slot = self.lock();
            let taken = slot.as_ref().is_some_and(|it| it.by != peer && it.until > Instant::now());
            if taken {
                return no("another node applies a file at this moment; try again");
            }
            // The place is taken before the long look, the text is believed after it.
            let until = Instant::now() + DECIDES;
            let (by, version, text) = (peer.to_owned(), version.clone(), text.clone());
            *slot = Some(Proposed { by, version, text, renewal, until });
        }
        match self.looked(&plain(&name), &text, directory, Origin::Elsewhere).await {
            Ok(warnings) => Answer::Fit { warnings },
            Err(faults) => {
                self.lock().take_if(|it| it.by == peer && it.version == version);
                Answer::Unfit { faults }
            }
        }
    }

    /// As [`fit`], for this node.
    pub(super) async fn looked(
        &self,
        name: &str,
        text: &str,
        directory: &Directory,
        origin: Origin,
    ) -> Result<String, String> {
        let (name, text) = (name.to_owned(), text.to_owned());
        let (cluster, node) = (directory.cluster.clone(), directory.node.clone());
        let (file, shelf, hashed) = (self.file.clone(), self.shelf.clone(), directory.file.clone());
        let (approved, state_dir) = (self.approved.clone(), self.state_dir.clone());
        let look = move || {
            // It may have been edited since it was read.
            let on_disk = std::fs::read_to_string(&file);
            let failed = on_disk.as_ref().err().filter(|error| error.kind() != ErrorKind::NotFound);
            let failed = failed.map(ToString::to_string);
            let agreed = shelf.text().map(|(_, text)| text);
            let in_force = [on_disk.ok(), agreed].into_iter().flatten();
            let mut in_force = in_force.filter(|text| hash(text.as_bytes()) == hashed);
            let in_force = match (in_force.next(), failed) {
                (Some(text), _) => text,
                (None, None) => String::new(),
                (None, Some(error)) => {
                    let file = file.display();
                    return Err(format!(
                        "the file in force can't be read, so that it can't be said what would change: \
                         {file}: {error}"
                    ));
                }
            };
            let whose = Whose { cluster: Some(&cluster), node: &node, state_dir: &state_dir };
            let warnings = fit(&name, &text, whose, &in_force)?;
            match origin {
                Origin::Here => Ok(warnings),
                Origin::Elsewhere => agreed_to(&approved, &text, &in_force).map(|()| warnings),
            }
        };
        let looked = tokio::task::spawn_blocking(look).await;
        looked.unwrap_or_else(|error| Err(format!("the look at the file failed: {error}")))
    }

    /// Takes a file that fits, and has it put in force.
    async fn taken(
        &self,
        text: String,
        version: Version,
        renewal: Option<Renewal>,
        by: &str,
    ) -> Answer {
        match self.take(text, version, renewal, by).await {
            Ok(problem) => Answer::Taken { problem },
            Err(why) => no(&why),
        }
    }

    /// # Errors
    /// It couldn't be written; the old one is in force.
    pub(super) async fn take(
        &self,
        text: String,
        version: Version,
        renewal: Option<Renewal>,
        by: &str,
    ) -> Result<Option<String>, String> {
        let (shelf, keys) = (self.shelf.clone(), self.keys.clone());
        let (number, new) = (version.number, version.clone());
        let write = move || {
            // The keys first: whoever has the version has them too.
            if let Some(renewal) = &renewal {
                keys.renew(renewal)
                    .map_err(|error| format!("the keys can't be renewed: {error:#}"))?;
            }
            shelf
                .take(&text, &version)
                .map_err(|error| format!("the file can't be written: {error}"))
        };
        let written = tokio::task::spawn_blocking(write).await;
        written.map_err(|error| format!("the file can't be written: {error}"))??;
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = new;
        let (reply, answer) = oneshot::channel();
        let by = format!("{by}, version {number}");
        let reload = Request::Reload { by, program: false, reply };
        if self.requests.send(reload).await.is_err() {
            return Ok(Some("this node stops".to_owned()));
        }
        Ok(match answer.await {
            Ok(Ok(_)) => None,
            Ok(Err(problem)) => Some(problem),
            Err(_) => Some("this node stops".to_owned()),
        })
    }
}

/// Where a file comes from: root of this node, or another machine.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    Here,
    Elsewhere,
}

/// Whether the file does nothing here that this node's root hasn't agreed to.
fn agreed_to(approved: &Approved, text: &str, in_force: &str) -> Result<(), String> {
    let of = |text: &str| {
        let model = standin_config::load("", text).model;
        model.map_or_else(Default::default, |cluster| powers(&cluster))
    };
    let missing = approved.missing(of(text), &of(in_force));
    if missing.is_empty() {
        return Ok(());
    }
    let lines = missing.iter().map(|power| format!("  {power}: standin approve {}", id(power)));
    Err(format!(
        "it would do here what root of this node hasn't agreed to. If it shall, say on this node, then \
         try again:\n{}",
        lines.collect::<Vec<_>>().join("\n")
    ))
}

fn no(why: &str) -> Answer {
    Answer::No { why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_cannot_be_read_for_a_moment_makes_no_older_version() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("standin.toml");
        let version = |number: u64, text: &str| Version {
            number,
            sha256: hash(text.as_bytes()),
            by: "n1".to_owned(),
        };
        let shelf = Shelf::of(dir.path(), &file);
        shelf.take("seven", &version(7, "seven")).unwrap();
        let (requests, _) = mpsc::channel(1);
        let desk = Desk::new(dir.path().to_owned(), file, requests);
        std::fs::remove_file(dir.path().join("cluster/version.json")).unwrap();
        assert_eq!(desk.version().number, 7);
        desk.take("eight".to_owned(), version(8, "eight"), None, "n2").await.unwrap();
        assert_eq!(desk.version().number, 8);
        assert_eq!(desk.shelf.version().number, 8);
        // Another process has taken one.
        desk.shelf.take("nine", &version(9, "nine")).unwrap();
        assert_eq!(desk.version().number, 8);
        desk.look_again();
        assert_eq!(desk.version().number, 9);
    }
}
