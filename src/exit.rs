//! The exit codes of every command, one table.

use std::process::ExitCode;

/// Documented in docs/commands.md and in `standin --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked.
    Done = 0,
    /// It couldn't, for a reason that was printed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The cluster file has errors.
    BadFile = 3,
    /// The host isn't fit: a missing privilege, another daemon, no nginx.
    BadHost = 4,
    /// No daemon answers.
    NoDaemon = 5,
    /// A daemon runs already.
    Running = 6,
}

impl Exit {
    const ALL: [Self; 7] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::BadFile,
        Self::BadHost,
        Self::NoDaemon,
        Self::Running,
    ];

    /// The meaning of a code; `None` when it is none of standin's.
    pub(crate) fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| *exit as u8 == code)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
