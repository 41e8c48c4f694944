//! Since when the workers of an nginx run: what they have loaded lay there at that time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use standin_config::nginx::title::Title;
use standin_linux::process;

/// Clock ticks of `/proc`, since Linux 2.6 the same on all of its architectures.
const TICKS_PER_S: u64 = 100;
const NANOS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_S;

/// A tenth of a second: on a busy machine a thread hears so late of what it watches. Nobody saves after a reload
/// within that time and means the save to wait for another one.
const HEARD_WITHIN_TICKS: u64 = TICKS_PER_S / 10;

/// Who served when the shared files stirred last: workers that weren't there then have loaded what lay there
/// since. The kernel tells when a process began in hundredths of a second only, and a script that saves and
/// reloads is done in less.
#[derive(Clone, Debug, Default)]
pub(super) struct Stirred(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    master: Option<u32>,
    /// When, in ticks since the boot, and the children of the master by then; it may have had more that were
    /// ending.
    at: Option<(u64, Vec<u32>)>,
}

impl Stirred {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        // What was written before a panic is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose workers are meant from now on.
    pub(super) fn of_master(&self, master: Option<u32>) {
        let mut seen = self.lock();
        if seen.master != master {
            *seen = Seen { master, at: None };
        }
    }

    /// They stir now.
    pub(super) fn note(&self) {
        let mut seen = self.lock();
        let ticks = standin_linux::clock::now().as_nanos() / NANOS_PER_TICK;
        seen.at = seen.master.map(|master| (ticks, process::children_listed(master)));
    }

    /// Whether all workers of the master began since.
    pub(super) fn served_since(&self, master: u32) -> bool {
        self.of(master).is_some_and(|(at, before)| {
            all(master, |pid, began| began >= at && !before.contains(&pid))
        })
    }

    /// Whether they may have: the files stirred as long before as it takes to hear of it.
    pub(super) fn may_serve_since(&self, master: u32) -> bool {
        self.of(master).is_some_and(|(at, _)| {
            all(master, |_, began| began >= at.saturating_sub(HEARD_WITHIN_TICKS))
        })
    }

    /// When they stirred last, and whom the master had by then.
    fn of(&self, master: u32) -> Option<(u64, Vec<u32>)> {
        let seen = self.lock();
        seen.at.clone().filter(|_| seen.master == Some(master))
    }
}

/// Whether an nginx still has this process for its master.
pub(crate) fn is_master(pid: u32) -> bool {
    let title = process::title(pid).and_then(|title| Title::parse(&title));
    matches!(title, Some(Title::Master(_)))
}

/// The workers of a master that aren't leaving.
fn workers(master: u32) -> Vec<u32> {
    let serves = |pid: &u32| {
        let title = process::title(*pid);
        title.and_then(|title| Title::parse(&title)) == Some(Title::Worker { leaving: false })
    };
    process::children(master).into_iter().filter(serves).collect()
}

/// Whether there are workers, and it `is` so of each: of its pid, and of when it began, in ticks since the boot.
fn all(master: u32, is: impl Fn(u32, u64) -> bool) -> bool {
    let is = |pid: &u32| process::start_time_ticks(*pid).is_some_and(|began| is(*pid, began));
    let workers = workers(master);
    !workers.is_empty() && workers.iter().all(is)
}

/// Whether all workers began after `since`: then they run with what lay there at that time.
pub(crate) fn runs_since(master: u32, since: SystemTime) -> bool {
    ticks_at(since).is_some_and(|at| all(master, |_, began| began > at))
}

/// Whether any worker began after `since`: nginx has read its files again.
pub(crate) fn any_since(master: u32, since: SystemTime) -> bool {
    let Some(at_ticks) = ticks_at(since) else { return true };
    let after = |pid: &u32| process::start_time_ticks(*pid).is_none_or(|ticks| ticks >= at_ticks);
    workers(master).iter().any(after)
}

/// The kernel's count at a time of the clock; `None` for a time to come.
fn ticks_at(time: SystemTime) -> Option<u64> {
    let age = time.elapsed().ok()?;
    let now = standin_linux::clock::now().as_nanos();
    let at = now.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    Some(at / NANOS_PER_TICK)
}

/// As [`runs_since`], for nanoseconds since the boot, which no step of the clock moves.
pub(crate) fn began_after(master: u32, at_ns: u64) -> bool {
    all(master, |_, began| began > at_ns / NANOS_PER_TICK)
}
