//! Whether there is a newer program on disk, and whether it is fit to go on with.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use standin_linux::process;
use tokio::process::Command;

/// A program that doesn't say its version within this isn't one to go on with.
const TRIAL: Duration = Duration::from_secs(2);

/// What was said to others before the program is replaced under them gets out in this.
pub(super) const ANSWERS_GO_OUT: Duration = Duration::from_millis(20);

/// So does what waits for a disk or for who reads the log; the rest of it is lost.
pub(super) const WRITES_OUT: Duration = Duration::from_millis(200);

/// The program that runs: where it was found, and which file that was.
#[derive(Debug)]
pub(super) struct Program {
    path: Option<PathBuf>,
    file: Option<(u64, u64)>,
}

impl Program {
    pub(super) fn running() -> Self {
        let path = process::executable(std::process::id()).ok();
        // The file that runs, whatever lies at its path by now.
        Self { path, file: identity(Path::new("/proc/self/exe")) }
    }

    /// Where another program lies by now; `None` when it is the same, or none at all.
    pub(super) fn newer(&self) -> Option<PathBuf> {
        let path = self.path.as_ref()?;
        let there = identity(path)?;
        (Some(there) != self.file).then(|| path.clone())
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Lets the program say its version: a file that was copied half, or for another machine, can't.
pub(super) async fn trial(path: &Path) -> Result<(), String> {
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(TRIAL, command.output())
        .await
        .map_err(|_| format!("it didn't say its version within {} s", TRIAL.as_secs()))?
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.starts_with("standin ") {
        Ok(())
    } else {
        Err(format!("it isn't a standin that runs here ({})", output.status))
    }
}
