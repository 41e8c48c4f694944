//! The kernel's limits of inotify: read, and raised where that is allowed.

use std::{fmt, io};

use standin_linux::sysctl;

pub(super) const WATCHES: &str = "fs/inotify/max_user_watches";
pub(super) const INSTANCES: &str = "fs/inotify/max_user_instances";

/// No limit is raised beyond this. A watch costs the kernel about 1 KiB when it is used, not before.
const HIGHEST: u64 = 1 << 20;

/// A limit that was too low. What was raised stays raised until the next boot: it is a ceiling, not a
/// use, and by then others may stand on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// As sysctl(8) has it.
    pub setting: String,
    /// What it was.
    pub value: u64,
    /// Watches that this process had got.
    pub had: usize,
    pub raised_to: Option<u64>,
    /// What the kernel said: to the watch, or to the attempt to raise the limit.
    pub why: String,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, value, had, raised_to, why } = self;
        match raised_to {
            Some(to) => {
                write!(
                    f,
                    "{setting} was {value}, too low for the directories of [sync]; raised to {to}"
                )
            }
            None => write!(
                f,
                "{setting} is {value}, too low for the directories of [sync] ({had} are watched): {why}; \
                 the files are read every 5 s until it is raised (sysctl -w {setting}={})",
                higher(*value, *had)
            ),
        }
    }
}

pub(super) fn raise(setting: &str, had: usize, allowed: bool, error: &io::Error) -> Limit {
    let value = sysctl::read(setting).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut limit = Limit {
        setting: setting.replace('/', "."),
        value,
        had,
        raised_to: None,
        why: error.to_string(),
    };
    // ENOSPC and EMFILE are what a limit says; everything else has another reason.
    let about_limit = matches!(error.raw_os_error(), Some(28 | 24));
    let to = higher(value, had);
    if allowed && about_limit && to > value {
        match sysctl::write(setting, &to.to_string()) {
            Ok(()) => limit.raised_to = Some(to),
            Err(error) => limit.why = error.to_string(),
        }
    }
    limit
}

/// Twice as many, or enough for what was got already and as many others.
fn higher(value: u64, had: usize) -> u64 {
    (value.max(had as u64).max(64) * 2).min(HIGHEST)
}
