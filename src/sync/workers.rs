//! Since when the workers of an nginx run: what they have loaded lay there at that time.

use std::time::SystemTime;

use standin_config::nginx::title::Title;
use standin_linux::process;

/// Clock ticks of `/proc`, since Linux 2.6 the same on all of its architectures.
const TICKS_PER_S: u64 = 100;

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

/// Whether all workers began after `since`: then they run with what lay there at that time.
pub(crate) fn runs_since(master: u32, since: SystemTime) -> bool {
    let Ok(age) = since.elapsed() else { return false };
    let now = standin_linux::clock::now().as_nanos();
    let at = now.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    began_after(master, at)
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
    Some(at / (1_000_000_000 / TICKS_PER_S))
}

/// The same for nanoseconds since the boot, which no step of the clock moves.
pub(crate) fn began_after(master: u32, at_ns: u64) -> bool {
    let workers = workers(master);
    let at_ticks = at_ns / (1_000_000_000 / TICKS_PER_S);
    let after = |pid: &u32| process::start_time_ticks(*pid).is_some_and(|ticks| ticks > at_ticks);
    !workers.is_empty() && workers.iter().all(after)
}
