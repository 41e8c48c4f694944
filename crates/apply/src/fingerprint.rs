//! What a tree looked like, by its files' inodes, sizes and times: enough to see that somebody wrote.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::HIDDEN;
use crate::fields::{Values, Writer, of_path};
use crate::view::joined;

/// Files and directories of one tree; a configuration has thousands at most.
const ENTRIES: usize = 1_000_000;

/// Directories within directories; deeper is a loop of mounts.
const DEPTH: usize = 64;

/// One file, as far as stat(2) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    mode: u32,
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970.
    modified_ns: i128,
}

impl Mark {
    fn of(found: &Metadata) -> Self {
        let ns = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        Self {
            mode: found.mode(),
            inode: found.ino(),
            size: if found.is_dir() { 0 } else { found.len() },
            modified_ns: if found.is_dir() { 0 } else { ns(found.mtime(), found.mtime_nsec()) },
        }
    }
}

/// What stat(2) tells of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// With the file's type.
    pub mode: u32,
    pub inode: u64,
    /// In bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: i128,
}

/// The state of a tree at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, Mark>);

/// How a file of the old tree differs from what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriftKind {
    Changed,
    Added,
    Removed,
}

/// Something that was edited behind the swap's back: in the old tree, or just before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    pub root: PathBuf,
    /// Relative to the root; empty when the root is a file.
    pub path: PathBuf,
    pub kind: DriftKind,
    /// Where its bytes are now; `None` for what was removed, and for what has none: directories, sockets.
    pub kept: Option<PathBuf>,
}

impl Fingerprint {
    /// Looks at a tree or a file; what isn't there has an empty fingerprint.
    ///
    /// # Errors
    /// What readdir(3) and lstat(2) say; too deep or too large a tree.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => found.walk(path, Path::new(""), 0)?,
            Ok(metadata) => {
                found.0.insert(PathBuf::new(), Mark::of(&metadata));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(found)
    }

    /// Of what stat(2) has told somebody else of files and directories, by their paths in the tree.
    pub fn of_seen(seen: impl Iterator<Item = (PathBuf, Seen)>) -> Self {
        let one = |(path, seen): (PathBuf, Seen)| {
            let Seen { mode, inode, size, modified_ns } = seen;
            // Of directories only that they are there, as above.
            let folder = mode & 0o170_000 == 0o040_000;
            let (size, modified_ns) = if folder { (0, 0) } else { (size, modified_ns) };
            (path, Mark { mode, inode, size, modified_ns })
        };
        Self(seen.map(one).collect())
    }

    fn walk(&mut self, folder: &Path, below: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH || self.0.len() > ENTRIES {
            let words = format!("{} is too deep or has too many files", folder.display());
            return Err(io::Error::other(words));
        }
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if depth == 0 && name.as_encoded_bytes().starts_with(HIDDEN.as_bytes()) {
                continue;
            }
            let path = below.join(&name);
            // A file that goes while this looks is one that isn't there.
            let Some(metadata) = gone(entry.metadata())? else { continue };
            if metadata.is_dir() {
                gone(self.walk(&entry.path(), &path, depth + 1))?;
            }
            self.0.insert(path, Mark::of(&metadata));
        }
        Ok(())
    }

    /// What differs in `now`, by path.
    pub(crate) fn differences(&self, now: &Self) -> Vec<(PathBuf, DriftKind)> {
        let mut found = Vec::new();
        for (path, mark) in &now.0 {
            match self.0.get(path) {
                None => found.push((path.clone(), DriftKind::Added)),
                Some(before) if before != mark => {
                    found.push((path.clone(), DriftKind::Changed));
                }
                Some(_) => {}
            }
        }
        let removed = self.0.keys().filter(|path| !now.0.contains_key(*path));
        found.extend(removed.map(|path| (path.clone(), DriftKind::Removed)));
        found
    }

    /// Of a directory or file below: what is at and below `path`, by the paths below it.
    pub(crate) fn below(&self, path: &Path) -> Self {
        let below =
            |(at, mark): (&PathBuf, &Mark)| Some((at.strip_prefix(path).ok()?.to_owned(), *mark));
        // Paths are sorted by their parts, so that what is below one follows it.
        let near = self.0.range(path.to_owned()..).take_while(|(at, _)| at.starts_with(path));
        let mut found: BTreeMap<PathBuf, Mark> = near.filter_map(below).collect();
        // A directory's own mark isn't part of its fingerprint.
        if found.get(Path::new("")).is_some_and(|mark| mark.mode & 0o170_000 == 0o040_000) {
            found.remove(Path::new(""));
        }
        Self(found)
    }

    /// Only what is at and below these paths.
    pub(crate) fn only<'p>(&self, paths: impl Iterator<Item = &'p Path>) -> Self {
        let mut found = Self::default();
        for path in paths {
            // Paths are sorted by their parts, so that what is below one follows it.
            let below = self.0.range(path.to_owned()..).take_while(|(at, _)| at.starts_with(path));
            found.0.extend(below.map(|(at, mark)| (at.clone(), *mark)));
        }
        found
    }

    /// Lays another one, of a file or a directory, at a path of this one.
    pub(crate) fn lay(&mut self, path: &Path, other: Self) {
        self.0.extend(other.0.into_iter().map(|(at, mark)| (joined(path, &at), mark)));
    }

    /// Files and directories.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn write(&self, writer: &mut Writer, word: &[u8], root: usize) {
        let root = root.to_string();
        for (path, mark) in &self.0 {
            let mode = mark.mode.to_string();
            let inode = mark.inode.to_string();
            let size = mark.size.to_string();
            let modified = mark.modified_ns.to_string();
            let numbers = [&root, &mode, &inode, &size, &modified];
            let mut values = vec![word];
            values.extend(numbers.map(|number| number.as_bytes()));
            values.push(of_path(path));
            writer.record(&values);
        }
    }

    /// Reads one entry of a record of [`Self::write`], after its word and its root.
    pub(crate) fn read(&mut self, values: &mut Values<'_>) -> Option<()> {
        let mark = Mark {
            mode: values.number()?,
            inode: values.number()?,
            size: values.number()?,
            modified_ns: values.number()?,
        };
        self.0.insert(values.path()?, mark);
        Some(())
    }
}

/// `None` for what is there no more.
pub(crate) fn gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
