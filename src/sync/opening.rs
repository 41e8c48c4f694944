//! What outlives the daemon, when it starts: a swap that was cut off, the history, what this node had.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use standin_core::sync::{Id, Input, Replica, Saved};
use standin_tree::store::Store;
use standin_tree::watch::Watch;

use super::driver::{Driver, Found, Had, RETIRE, Running};
use super::made::{self, Lens};
use super::{leftover, memory, reading};
use crate::authority::Keys;
use crate::control::log::Severity;
use crate::tickets::Place;

type Opened = (Arc<Store>, Saved, Option<Had>, Option<String>);

/// Undoes a swap that was cut off, and opens the history and what this node had.
pub(super) fn open(dir: &Path, journals: &Path) -> Result<Opened, String> {
    let at = |what: &str, error: std::io::Error| format!("{what}: {error}");
    crate::authority::files::private_dir(dir).map_err(|e| at(&dir.display().to_string(), e))?;
    crate::authority::files::private_dir(journals)
        .map_err(|e| at(&journals.display().to_string(), e))?;
    let recovered = standin_apply::recover(journals, &mut |_| {})
        .map_err(|error| at("a swap of files that was cut off can't be undone", error))?;
    let recovered = match recovered {
        standin_apply::Recovered::Clean => None,
        standin_apply::Recovered::Undone { generation, .. } => Some(format!(
            "generation {generation} was being put in place when standin ended; it was undone, and \
             is tried again"
        )),
    };
    let store = Store::open(dir).map_err(|error| at("the history", error))?;
    let mut saved = memory::load(dir).map_err(|error| at("what this node had", error))?;
    if recovered.is_some() {
        // nginx may have been reloaded before it was undone.
        saved.proven = None;
    }
    let known = |tip: Id| if saved.strayed { saved.disk } else { Some(tip.tree) };
    let had = saved.line.tip().and_then(|tip| Some((known(tip), memory::written(dir)?)));
    Ok((Arc::new(store), saved, had, recovered))
}

/// The store and what was saved, once they are open.
pub(super) struct Ready {
    store: Arc<Store>,
    saved: Saved,
    had: Option<Had>,
    watch: Watch,
    recovered: Option<String>,
    /// What couldn't be removed.
    leftover: Vec<String>,
}

impl Driver {
    /// Opens the store and starts the watch, as soon as it is known which files are shared.
    pub(super) fn begin(&mut self) {
        let Some(settings) = &self.settings else { return };
        if self.running.is_some() || self.starting {
            return;
        }
        let spec = match settings.spec(self.sight.conf.as_ref()) {
            Ok(spec) => spec,
            Err(why) => {
                self.problem = Some(why);
                return;
            }
        };
        self.starting = true;
        let (dir, options) = (self.around.state_dir.join("sync"), settings.options());
        let (journals, found) = (self.journals(), self.found.clone());
        let (keys, master) = (Keys::of(&self.around.state_dir), self.sight.nginx.master);
        let (turn, stirred) = (Arc::clone(&self.turn), self.stirred.clone());
        tokio::task::spawn_blocking(move || {
            // What can't be seen is told by the first look at them, too.
            if matches!(keys.exist(), Ok(true)) {
                // The first generation may name them; what fails is told by the first look at them.
                let _ = Place::of_this_host().prepare(master);
            }
            let reports = found.clone();
            // A job of before this may still be at it, with a tree that no journal knows yet.
            let held = turn.lock().unwrap_or_else(PoisonError::into_inner);
            let ready = open(&dir, &journals).and_then(|(store, saved, had, recovered)| {
                let leftover = leftover::sweep(spec.roots(), &journals);
                let stirs = move || stirred.note();
                let tell = move |report| drop(reports.send(Found::Report(report)));
                let watch = Watch::start(spec, options, Arc::clone(&store), stirs, tell)
                    .map_err(|error| format!("the files can't be watched: {error}"))?;
                Ok(Ready { store, saved, had, watch, recovered, leftover })
            });
            drop(held);
            // The driver may have ended; the same below.
            let _ = found.send(Found::Ready(ready));
            // Large old trees that an earlier daemon had no time to remove. Nobody waits for it.
            if let Ok(left) = standin_apply::left(&journals) {
                let _ = found.send(Found::Retired(Vec::new(), left));
            }
        });
    }

    pub(super) async fn ready(&mut self, ready: Result<Ready, String>) {
        self.starting = false;
        let Ready { store, saved, had, watch, recovered, leftover } = match ready {
            Ok(ready) => ready,
            Err(why) => {
                if self.problem.as_ref() != Some(&why) {
                    self.tell(
                        Severity::Error,
                        "sync_failed",
                        None,
                        format!("files aren't shared: {why}"),
                    );
                }
                self.problem = Some(why);
                return;
            }
        };
        let Some(settings) = &self.settings else { return };
        let Ok(spec) = settings.spec(self.sight.conf.as_ref()) else { return };
        self.problem = None;
        let dir = self.around.state_dir.join("sync");
        let translation = memory::translation(&dir);
        let made = Arc::new(made::memory(&dir));
        let values = Arc::clone(&settings.values);
        let lens = Lens { values, made, exclude: spec.exclude().clone() };
        self.running = Some(Running {
            replica: Replica::new(settings.config.clone(), saved),
            store,
            spec,
            disk: None,
            translation,
            lens,
            watch,
            reader: Arc::default(),
            fault: None,
            making: None,
            unsure: None,
            had,
            placed: recovered.is_some().then(SystemTime::now),
            undone: recovered.is_some(),
            loaded_again: None,
            records: 0,
            look_at: None,
            patience: reading::AGAIN,
            limit: None,
            unreadable: None,
        });
        if let Some(text) = recovered {
            self.tell(Severity::Warning, "sync_recovered", None, text);
        }
        self.leftover(leftover);
        // What a swap of the daemon before has left; without any this does nothing.
        self.retire_at.get_or_insert_with(|| tokio::time::Instant::now() + RETIRE);
        if let Some(running) = &self.running {
            running.watch.look();
        }
        for (peer, said) in self.sessions.said() {
            self.feed(Input::Link { peer: peer.clone(), up: true }).await;
            for message in said {
                self.feed(Input::Heard { from: peer.clone(), message }).await;
            }
        }
        let holder = self.sight.holder.clone();
        self.feed(Input::Holder(holder)).await;
    }
}
