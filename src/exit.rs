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

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
