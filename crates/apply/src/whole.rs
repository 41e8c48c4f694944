//! The whole way of one generation on one node: test, swap, reload, prove; or back, and prove that.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::classes::Class;
use crate::nginx::Nginx;
use crate::proof::{NotProven, Proven, look, reload, reload_and_prove};
use crate::swap::{Kept, Left, NotKept, NotSwapped, Swapped, fresh, keep, swap_synced, sync, undo};
use crate::test::{Refusal, Tested, Tester, test};
use crate::{Drift, Hook, Staged, remedy};

/// How a generation is applied.
#[derive(Clone, Debug)]
pub struct Means {
    pub tester: Tester,
    /// On a disk, and only standin's: journal and drift.
    pub state_dir: PathBuf,
    /// For the test, and again for the reload. 2,000 TLS servers take 2 s and 5 s.
    pub patience: Duration,
    /// Whether nginx may get a new master (USR2, or else a restart) when only that helps: on a node
    /// that nobody is served by.
    pub may_restart: bool,
}

/// What became of it.
#[derive(Debug)]
pub enum Outcome {
    /// nginx runs with the new files.
    Proven {
        tested: Tested,
        proven: Proven,
        kept: Kept,
        /// What was edited in the trees of the generation before.
        earlier: Vec<Drift>,
        /// A new master was needed for this.
        remedied: Option<Class>,
    },
    /// Nothing was changed.
    Refused(Refusal),
    /// As the error says.
    NotSwapped(NotSwapped),
    /// The old files are back.
    PutBack {
        why: NotProven,
        /// How the remedy failed, if one was tried.
        remedy: Option<String>,
        drift: Vec<Drift>,
        earlier: Vec<Drift>,
        back: Back,
    },
    /// The old files couldn't be put back: `standin recover` has to.
    Stuck { why: NotProven, error: String },
}

/// What nginx runs with after the old files are back.
#[derive(Debug)]
pub enum Back {
    /// It never took the new ones: its old workers run on.
    Untouched,
    /// It was reloaded, and new workers run with the old files.
    Reloaded(Proven),
    /// It isn't known; nginx may run with the new files.
    Unknown(NotProven),
}

/// Does all of it; `meanwhile` is done while nginx tests, and has ended before anything is swapped.
pub fn apply(
    staged: &Staged,
    nginx: &Nginx,
    means: &Means,
    meanwhile: impl FnOnce() + Send,
    hook: Hook<'_>,
) -> Outcome {
    // nginx tests while the disk takes what will be live.
    let (tested, synced, fresh) = std::thread::scope(|scope| {
        let synced = scope.spawn(|| sync(staged));
        let fresh = scope.spawn(|| fresh(staged));
        scope.spawn(meanwhile);
        let tested = test(staged, nginx, &means.tester, means.patience);
        let panicked = || io::Error::other("a thread has panicked");
        let synced = synced.join().unwrap_or_else(|_| Err(panicked()));
        (tested, synced, fresh.join().unwrap_or_else(|_| Err(panicked())))
    });
    let tested = match tested {
        Ok(tested) => tested,
        Err(refusal) => return Outcome::Refused(refusal),
    };
    let not_swapped = |what: &str, error: io::Error| {
        let why = format!("the new files can't be {what}: {error}");
        Outcome::NotSwapped(NotSwapped { why, left: Left::AsItWas, drift: Vec::new() })
    };
    // The kernel tells a failed write once: another sync would go well, over bytes that are lost.
    if let Err(error) = synced {
        return not_swapped("put on the disk", error);
    }
    let fresh = match fresh {
        Ok(fresh) => fresh,
        Err(error) => return not_swapped("looked at", error),
    };
    let mut swapped = match swap_synced(staged, nginx, &means.state_dir, Some(fresh), hook) {
        Ok(swapped) => swapped,
        Err(why) => return Outcome::NotSwapped(why),
    };
    let earlier = std::mem::take(&mut swapped.drift);
    let why = match prove(nginx, &tested, &swapped, means) {
        Ok((proven, remedied)) => match keep(swapped, hook) {
            Ok(kept) => return Outcome::Proven { tested, proven, kept, earlier, remedied },
            Err(not) => {
                let NotKept { error, swapped: still } = *not;
                swapped = still;
                let state_dir = means.state_dir.display();
                let what = format!("it can't be written down in {state_dir}: {error}");
                Failure { why: NotProven::Moved { what }, remedy: None, told: true }
            }
        },
        Err(why) => why,
    };
    let Failure { why, remedy, told } = why;
    match undo(swapped, hook) {
        Ok(undone) => {
            let back = match (&why, &remedy) {
                (NotProven::Refused { .. }, None) => Back::Untouched,
                _ if !told => Back::Untouched,
                _ => match reload(nginx, &tested, means.patience) {
                    Ok(proven) => Back::Reloaded(proven),
                    Err(why) => Back::Unknown(why),
                },
            };
            Outcome::PutBack { why, remedy, drift: undone.drift, earlier, back }
        }
        Err(error) => Outcome::Stuck { why, error: error.to_string() },
    }
}

struct Failure {
    why: NotProven,
    remedy: Option<String>,
    /// nginx was told something.
    told: bool,
}

fn prove(
    nginx: &Nginx,
    tested: &Tested,
    swapped: &Swapped,
    means: &Means,
) -> Result<(Proven, Option<Class>), Failure> {
    let (why, told) = match look(nginx, tested, swapped) {
        Ok(looked) => match reload_and_prove(looked, tested, swapped, means.patience) {
            Ok(proven) => return Ok((proven, None)),
            Err(why) => (why, true),
        },
        Err(why) => (why, false),
    };
    let absent = nginx.master.is_none();
    if !means.may_restart || !(absent || why.class().needs_new_master()) {
        return Err(Failure { why, remedy: None, told });
    }
    match remedy(nginx, tested, swapped, means.patience, true) {
        Ok(proven) => Ok((proven, Some(why.class()))),
        Err(failed) => Err(Failure { why, remedy: Some(failed), told: true }),
    }
}
