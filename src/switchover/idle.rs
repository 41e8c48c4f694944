//! nginx is told to close what is idle, by a reload: whether it does.

use std::time::{Duration, Instant, SystemTime};

use standin_apply::Ear;

use crate::sync::workers;

/// New workers come within milliseconds of reading the files, which may name hosts that DNS has to find.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);

/// nginx from just before it is told.
pub(crate) struct Told {
    master: u32,
    since: SystemTime,
    began: Instant,
    ear: Ear,
    late: bool,
}

/// What has become of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// New workers run, so the old ones are told to close what is idle.
    Taken,
    /// Nothing yet.
    Open,
    /// The old workers go on as before, and why.
    Refused(String),
}

impl Told {
    pub(crate) fn now(master: u32) -> Self {
        let (since, began) = (SystemTime::now(), Instant::now());
        Self { master, since, began, ear: Ear::of(master), late: false }
    }

    /// Looks once. A reload that is late is refused once, and may be taken yet.
    pub(crate) fn look(&mut self) -> Reload {
        if workers::any_since(self.master, self.since) {
            return Reload::Taken;
        }
        if let Some(said) = self.ear.refusal() {
            return Reload::Refused(format!("refuses its configuration ({said})"));
        }
        if !self.late && self.began.elapsed() >= BEGINS_WITHIN {
            self.late = true;
            let s = BEGINS_WITHIN.as_secs();
            return Reload::Refused(format!("hasn't begun with its configuration for {s} s"));
        }
        Reload::Open
    }
}
