//! Kernel settings under `/proc/sys`, and the memory that puts changed ones back.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use standin_core::guard::same;

const ROOT: &str = "/proc/sys";

/// Reads a setting, without the newline at its end.
///
/// `path` has slashes, so that an interface name may have dots: `net/ipv4/conf/eth0.5/arp_ignore`.
/// Settings of the network are those of the calling thread's namespace.
///
/// # Errors
/// What open(2) and read(2) say, with the path; `InvalidInput` for a path that leaves `/proc/sys`.
pub fn read(path: &str) -> io::Result<String> {
    let file = file_of(path)?;
    match fs::read_to_string(&file) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(error) => Err(about(&file, &error)),
    }
}

/// Writes a setting.
///
/// # Errors
/// As [`read()`]; the kernel says `EINVAL` to a value that it doesn't take.
pub fn write(path: &str, value: &str) -> io::Result<()> {
    let file = file_of(path)?;
    // Neither created nor truncated: what isn't there is an error.
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .and_then(|mut open| io::Write::write_all(&mut open, value.as_bytes()));
    written.map_err(|error| about(&file, &error))
}

pub use standin_core::guard::Setting as Change;

/// Changes settings and remembers what they were.
#[derive(Debug, Default)]
pub struct Settings {
    changes: Vec<Change>,
}

impl Settings {
    #[must_use]
    pub const fn new() -> Self {
        Self { changes: Vec::new() }
    }

    /// Takes over the changes of a process that ended without undoing them.
    #[must_use]
    pub const fn resume(changes: Vec<Change>) -> Self {
        Self { changes }
    }

    /// Gives `path` the value `value`; false when it has it already, and then there is nothing to undo.
    ///
    /// # Errors
    /// As [`write()`].
    pub fn set(&mut self, path: &str, value: &str) -> io::Result<bool> {
        let old = read(path)?;
        if same(&old, value) {
            return Ok(false);
        }
        write(path, value)?;
        // The kernel rounds and reformats some values; what it made of this one is what an undo must find.
        let new = read(path)?;
        match self.changes.iter_mut().find(|change| change.path == path) {
            Some(change) => change.new = new,
            None => self.changes.push(Change { path: path.to_owned(), old, new }),
        }
        Ok(true)
    }

    /// Puts every changed setting back, the last one first, and says which ones it couldn't.
    ///
    /// A setting that somebody else has changed since is left alone; one that vanished, with its
    /// interface, is forgotten. Those that failed stay remembered.
    pub fn undo(&mut self) -> Vec<(String, io::Error)> {
        let mut failed = Vec::new();
        let mut kept = Vec::new();
        while let Some(change) = self.changes.pop() {
            if let Err(error) = put_back(&change) {
                failed.push((change.path.clone(), error));
                kept.push(change);
            }
        }
        kept.reverse();
        self.changes = kept;
        failed
    }

    /// What is to be undone, in the order in which it was first changed.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

/// Puts one setting back, unless somebody else has changed it since, or it has gone with its interface.
///
/// # Errors
/// As [`write()`].
pub fn put_back(change: &Change) -> io::Result<()> {
    let restored = read(&change.path).and_then(|now| {
        if change.stands(&now) { write(&change.path, &change.old) } else { Ok(()) }
    });
    match restored {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn file_of(path: &str) -> io::Result<PathBuf> {
    let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !inside {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{path:?} is not a path below {ROOT}"),
        ));
    }
    Ok(Path::new(ROOT).join(path))
}

fn about(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}
