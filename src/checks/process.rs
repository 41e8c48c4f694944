//! Watches a process through its pidfd: its death is known at once, without polling.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use standin_config::model::ProcessBy;
use standin_linux::process::{self as system, PidFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::{Desk, Outcome, schedule};

/// A pid file holds a number and a line end; systemd and others add no more.
const PID_FILE_BYTES: u64 = 64;

/// A process that is held by its pidfd, so that its number can't come to mean another one.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) pid: u32,
    fd: AsyncFd<Held>,
}

#[derive(Debug)]
struct Held(PidFd);

impl AsRawFd for Held {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watched {
    /// # Errors
    /// `ESRCH` when there is no such process; what pidfd_open(2) and epoll_ctl(2) say.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let fd = Held(PidFd::open(pid)?);
        Ok(Self { pid, fd: readable(fd)? })
    }

    /// Returns when the process has ended.
    pub(crate) async fn gone(&self) {
        // The runtime is being shut down where this fails: nobody waits for the answer.
        let Ok(_guard) = self.fd.readable().await else { return std::future::pending().await };
    }

    pub(crate) fn lives(&self) -> bool {
        self.fd.get_ref().0.alive()
    }
}

/// Lets the runtime wait for a descriptor to become readable.
#[expect(
    deprecated,
    reason = "its successor is unsafe; `inner` owns one descriptor for all its life"
)]
pub(super) fn readable<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, Interest::READABLE)
}

/// Returns when the watched process has ended; never without one.
pub(crate) async fn gone(watched: Option<&Watched>) {
    match watched {
        Some(watched) => watched.gone().await,
        None => std::future::pending().await,
    }
}

/// The process id in a pid file.
///
/// # Errors
/// In words, with the file's name.
pub(crate) fn pid_in(file: &Path) -> Result<u32, String> {
    let shown = file.display();
    let mut text = String::new();
    fs::File::open(file)
        .and_then(|opened| opened.take(PID_FILE_BYTES).read_to_string(&mut text))
        .map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no pid file {shown}"),
        _ => format!("pid file {shown}: {error}"),
    })?;
    match text.trim().parse() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ if text.trim().is_empty() => Err(format!("pid file {shown} is empty")),
        _ => Err(format!("pid file {shown} holds no process id")),
    }
}

/// Reports the process at each interval, and its death when it happens.
pub(super) async fn watch(by: ProcessBy, interval: Duration, desk: Desk) {
    let mut clock = schedule::ticks(interval);
    let mut watched: Option<Watched> = None;
    loop {
        tokio::select! {
            _ = clock.tick() => {
                let start = Instant::now();
                let outcome = look(&by, &mut watched);
                desk.report(outcome, start.elapsed());
            }
            () = gone(watched.as_ref()) => {
                let start = Instant::now();
                let pid = watched.take().map_or(0, |watched| watched.pid);
                let outcome = look(&by, &mut watched);
                // A successor that is there already is a restart that nobody has to hear of.
                let outcome = match outcome.verdict {
                    standin_core::Verdict::Pass => outcome,
                    _ => Outcome::dead(format!("process {pid} is gone; {}", outcome.detail)),
                };
                desk.report(outcome, start.elapsed());
            }
        }
    }
}

fn look(by: &ProcessBy, watched: &mut Option<Watched>) -> Outcome {
    let pid = match by {
        ProcessBy::Pidfile(file) => match pid_in(file) {
            Ok(pid) => pid,
            Err(why) => {
                *watched = None;
                return Outcome::fail(why);
            }
        },
        ProcessBy::Name(name) => {
            if let Some(known) = watched.as_ref().filter(|known| known.lives()) {
                known.pid
            } else if let Some(pid) = named(name) {
                pid
            } else {
                *watched = None;
                return Outcome::fail(format!("no process is called {name}"));
            }
        }
    };
    if watched.as_ref().is_none_or(|known| known.pid != pid || !known.lives()) {
        *watched = Watched::open(pid).ok().filter(Watched::lives);
    }
    match watched {
        Some(_) => {
            Outcome::pass(format!("process {pid} ({}) runs", system::name(pid).unwrap_or_default()))
        }
        None => Outcome::fail(format!("process {pid} doesn't run")),
    }
}

/// The lowest process id with this name that isn't dead.
fn named(name: &str) -> Option<u32> {
    let mut pids = system::all_pids().into_iter();
    pids.find(|pid| system::name(*pid).as_deref() == Some(name) && runs(*pid))
}

fn runs(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The kernel's letter for what a process does: `R`, `S`, `T` stopped, `Z` dead; `None`: no process.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold blanks and parentheses.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(end + 2).map(|byte| char::from(*byte))
}
