//! The guard as the daemon sees it, and the daemon's replacement by a newer program.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::sync_channel;

use standin_linux::fork;
use standin_linux::process::{self, PidFd};
use tokio::io::unix::AsyncFd;

use super::log::Severity;
use super::signals::Signals;
use super::{Control, ENGINE_ANSWERS, upgrade};
use crate::engine::messages::ToEngine;
use crate::exit::Exit;
use crate::guard;

/// The guard as the daemon sees it.
pub(super) struct Watched {
    guarded: Option<guard::Daemon>,
    readable: Option<AsyncFd<OwnedFd>>,
}

impl Watched {
    pub(super) fn new(guarded: Option<guard::Daemon>) -> io::Result<Self> {
        let mut watched = Self { guarded, readable: None };
        watched.listen()?;
        Ok(watched)
    }

    fn listen(&mut self) -> io::Result<()> {
        self.readable = None;
        if let Some(guarded) = &self.guarded {
            let fd = guarded.guard.as_fd().try_clone_to_owned()?;
            self.readable = Some(crate::readable::readable(fd)?);
        }
        Ok(())
    }

    pub(super) async fn guard_died(&self) {
        match &self.readable {
            // A pidfd is readable once its process has gone.
            Some(readable) => drop(readable.readable().await),
            None => std::future::pending().await,
        }
    }

    fn renew_guard(&self) {
        if let Some(guarded) = &self.guarded {
            // If it has died, another one is started with the new program anyway.
            let _ = guarded.renew_guard();
        }
    }

    /// Starts another guard.
    fn replace(&mut self) -> io::Result<()> {
        let Some(guarded) = &mut self.guarded else { return Ok(()) };
        (guarded.guard, guarded.guard_pid) = guard::replace(&guarded.ledger)?;
        // With ExitType=cgroup systemd has waited for it; whom it signals to stop is the new one.
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::MainPid(guarded.guard_pid)]);
        self.listen()
    }

    /// The guard isn't to start this daemon again.
    pub(super) fn ended(&self) {
        if let Some(guarded) = &self.guarded {
            guarded.ledger.set_ended(Exit::Done as u8);
        }
    }
}

/// Buries what the program before this one had started, if there was one, as it ends: a check script,
/// say. To be called before this one starts anything.
pub(super) fn adopt_children(guarded: Option<&guard::Daemon>) {
    if guarded.is_none_or(|guarded| guarded.resume.is_none()) {
        return;
    }
    for child in process::children_listed(std::process::id()) {
        // One that has ended is there until it is reaped.
        let Ok(ended) = PidFd::open(child).and_then(|it| it.as_fd().try_clone_to_owned()) else {
            continue;
        };
        let Ok(ended) = crate::readable::readable(ended) else { continue };
        tokio::spawn(async move {
            if ended.readable().await.is_ok() {
                // How it ended is nobody's business any more.
                let _ = fork::reap(child);
            }
        });
    }
}

impl Control {
    /// If the program on disk is another one than this, goes on as that one.
    pub(super) async fn upgrade(&mut self, watched: &Watched, signals: &mut Signals) {
        let (Some(path), Some(guarded)) = (self.program.newer(), &watched.guarded) else { return };
        if self.moves.stop_by.is_some() {
            // Its successor wouldn't know that it is to stop.
            return;
        }
        // The successor would know of neither.
        let under_way = match (self.moves.is_empty(), self.notifier.is_idle()) {
            (true, true) => None,
            (false, _) => Some("the switchover that is under way"),
            (true, false) => Some("the notify scripts that are running"),
        };
        if let Some(what) = under_way {
            let text =
                format!("a newer program is on disk; it is taken up by a reload after {what}");
            self.note(Severity::Warning, "upgrade_refused", None, &text);
            return;
        }
        if let Err(why) = upgrade::trial(&path).await {
            let text = format!("{} was not taken up: {why}", path.display());
            self.note(Severity::Error, "upgrade_refused", None, &text);
            return;
        }
        // The answer to who asked for the reload is on its way.
        tokio::time::sleep(upgrade::ANSWERS_GO_OUT).await;
        self.finish_writing(upgrade::WRITES_OUT);
        if let Some(signal) = signals.stop_came().await {
            // The successor would never hear of it.
            return self.stop(signal).await;
        }
        let (sender, receiver) = sync_channel(1);
        if !self.engine.offer(ToEngine::Resume(sender)) {
            return;
        }
        // The engine answers between two packets; this thread has nothing better to do.
        let Ok(resume) = receiver.recv_timeout(ENGINE_ANSWERS) else { return };
        let error = guard::exec(guarded, &path, &resume.to_text());
        let text = format!("{} couldn't be taken up: {error}", path.display());
        self.note(Severity::Error, "upgrade_refused", None, &text);
    }

    /// If this is the newer program, its guard is to become it as well.
    pub(super) fn took_over(&mut self, watched: &Watched) {
        if watched.guarded.as_ref().is_none_or(|guarded| guarded.resume.is_none()) {
            return;
        }
        let text = format!("standin {} took over in place", env!("CARGO_PKG_VERSION"));
        self.note(Severity::Notice, "upgraded", None, &text);
        watched.renew_guard();
    }

    /// The guard has said it where it could; here it stays.
    pub(super) fn mourn(&mut self, watched: &Watched) {
        let died = watched.guarded.as_ref().and_then(|guarded| guarded.mourns.as_ref());
        if let Some(died) = died {
            let text = format!("{died}; this one was started in its place");
            self.note(Severity::Error, "daemon_died", None, &text);
            self.say_orders();
        }
    }

    pub(super) fn guard_died(&mut self, watched: &mut Watched) {
        match watched.replace() {
            Ok(()) => self.note(
                Severity::Warning,
                "guard_replaced",
                None,
                "the guard process died; another one is in its place",
            ),
            Err(error) => {
                watched.readable = None;
                let text = format!("the guard died and can't be replaced ({error})");
                self.note(Severity::Error, "guard_lost", None, &text);
                self.stop_now("no guard");
            }
        }
    }
}
