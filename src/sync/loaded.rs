//! What this node's nginx has loaded: told where it is known, and doubted where it isn't.

use std::time::SystemTime;

use standin_core::sync::{Id, Input, Outcome};

use super::driver::{Driver, Found, Running};
use super::ground::Ground;
use super::workers;
use crate::control::log::Severity;

/// Why nginx is told to load what it may run with already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// A swap was undone at the start, and an nginx that ran meanwhile may have loaded what was undone.
    Undone,
    /// Files were saved and nginx was reloaded in the same moment: which came first can't be told.
    SameMoment,
}

impl Doubt {
    const fn kind(self) -> &'static str {
        match self {
            Self::Undone => "sync_recovered",
            Self::SameMoment => "sync_loaded",
        }
    }

    /// nginx has loaded it.
    fn over(self, id: Id) -> (Severity, String) {
        match self {
            Self::Undone => {
                let text = "nginx has loaded the files that are back after the undone swap";
                (Severity::Notice, text.to_owned())
            }
            Self::SameMoment => {
                let text = format!("{}: to be sure it was told to load it again", saved(id));
                (Severity::Info, text)
            }
        }
    }

    /// nginx couldn't load it.
    fn stays(self, id: Id) -> String {
        match self {
            Self::Undone => {
                "nginx may run with files that were undone, and couldn't load those that are back"
                    .to_owned()
            }
            Self::SameMoment => format!("{}, and can't load it now", saved(id)),
        }
    }
}

fn saved(id: Id) -> String {
    format!("generation {id} was saved in the moment in which nginx was reloaded")
}

impl Running {
    /// Until then it is known what nginx had to load.
    fn known_until(&self) -> SystemTime {
        let read = self.disk.as_ref().map(|disk| disk.read);
        read.max(self.placed).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl Driver {
    /// Something was changed, and is as it was: what nginx has loaded meanwhile may be either.
    pub(super) async fn touched(&mut self) {
        let Some(running) = &mut self.running else { return };
        let known_until = running.known_until();
        let (Some(disk), Some(master)) = (&mut running.disk, self.sight.nginx.master) else {
            return;
        };
        if workers::any_since(master, known_until) {
            disk.since = SystemTime::now();
            self.feed(Input::Made).await;
        }
    }

    /// After a swap that was undone at the start an nginx that ran meanwhile loads the old files again.
    pub(super) fn reload_undone(&mut self) {
        let Some(running) = &self.running else { return };
        let (Some(placed), Some(master)) = (running.placed, self.sight.nginx.master) else {
            return;
        };
        if !running.undone {
            return;
        }
        let state = running.replica.view().state;
        // Another generation that is put in place, or a reload of somebody's, does the same.
        let loaded = workers::runs_since(master, placed)
            || state.proven.is_some() && state.proven == state.applied;
        let lies = running.disk.as_ref().map(|disk| disk.tree);
        let busy = running.replica.view().busy.is_some();
        let Some(id) = state.applied else { return };
        if !loaded && (busy || lies.is_none()) {
            return;
        }
        let ground = self.ground();
        if let Some(running) = &mut self.running {
            running.undone = false;
        }
        if let Some(ground) = ground.filter(|_| !loaded && lies == Some(id.tree)) {
            self.load_again(ground, id, Doubt::Undone);
        }
    }

    /// Has nginx load what lies there, with which it may run already.
    fn load_again(&self, ground: Ground, id: Id, doubt: Doubt) {
        let known = self.running.as_ref().and_then(|running| running.translation);
        let found = self.found.clone();
        tokio::task::spawn_blocking(move || {
            // The driver may have ended.
            let _ = found.send(Found::LoadedAgain(id, doubt, ground.load(id, known)));
        });
    }

    pub(super) async fn loaded_again(&mut self, id: Id, doubt: Doubt, outcome: Outcome) {
        match outcome {
            Outcome::Done => {
                self.seen_loaded();
                let (severity, text) = doubt.over(id);
                self.tell(severity, doubt.kind(), None, text);
                if self.writes() {
                    self.feed(Input::Loaded(id.tree)).await;
                }
            }
            Outcome::Failed { why, .. } => {
                let text = format!("{}: {why}; mend that, then reload nginx", doubt.stays(id));
                self.tell(Severity::Warning, doubt.kind(), None, text);
            }
            // Other files lie there by now: they are seen to as ever.
            Outcome::Moved | Outcome::Unproven(_) => {}
        }
    }

    /// What lies on disk was looked at just now, and nginx had loaded it.
    pub(super) fn seen_loaded(&mut self) {
        if let Some(running) = &mut self.running {
            running.placed = Some(SystemTime::now());
        }
    }

    /// Whether this node's nginx runs with what lies on disk.
    pub(super) async fn served(&mut self) {
        let Some(running) = &self.running else { return };
        let view = running.replica.view();
        let (Some(disk), Some(master)) = (&running.disk, self.sight.nginx.master) else { return };
        let Some(tip) = view.state.applied.filter(|id| id.tree == disk.tree) else { return };
        if workers::runs_since(master, running.known_until()) {
            // It may have loaded what was changed since the last reading.
            running.watch.look();
            return;
        }
        if !view.writing || view.state.proven == Some(tip) {
            return;
        }
        if workers::runs_since(master, disk.since) {
            self.feed(Input::Loaded(tip.tree)).await;
            return;
        }
        // What standin has put here itself need not have stirred.
        let seen = disk.hinted && running.placed.is_none_or(|at| workers::runs_since(master, at));
        if seen && self.stirred.served_since(master) {
            self.feed(Input::Loaded(tip.tree)).await;
        } else if seen && view.busy.is_none() && self.stirred.may_serve_since(master) {
            self.load_for_sure(tip);
        }
    }

    /// Once for each generation.
    fn load_for_sure(&mut self, id: Id) {
        let (Some(ground), Some(running)) = (self.ground(), &mut self.running) else { return };
        if running.loaded_again.replace(id) != Some(id) {
            self.load_again(ground, id, Doubt::SameMoment);
        }
    }
}

/// Whether there is an nginx that wasn't there before.
pub(super) fn is_another(before: Option<u32>, now: Option<u32>) -> bool {
    now.is_some() && now != before
}

#[cfg(test)]
mod tests {
    use super::is_another;

    #[test]
    fn a_new_master_is_another_nginx_and_none_is_none() {
        assert!(is_another(None, Some(7)));
        assert!(is_another(Some(7), Some(8)), "it may have been started with another file");
        assert!(!is_another(Some(7), Some(7)));
        assert!(!is_another(Some(7), None));
    }
}
