//! Names inside a root, reached without any symbolic link: whoever owns a directory in a root can lay
//! one there at any moment, and standin has more rights than its owner.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// Opens the directory `below` of a root; the root itself may be reached by any path.
///
/// # Errors
/// What openat2(2) says; in words where a link, or no directory, is on the way.
pub(crate) fn folder(root: &Path, below: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat(CWD, root, flags, Mode::empty())?;
    if below.as_os_str().is_empty() {
        return Ok(top);
    }
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(&top, below, flags, Mode::empty(), inside) {
        Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
            let words = format!(
                "{} is no directory any more, or a link leads there, and nothing is written through \
                 a link; mend: put the directory there",
                root.join(below).display()
            );
            Err(io::Error::new(io::ErrorKind::NotADirectory, words))
        }
        other => Ok(other?),
    }
}

/// A name in a directory that is held open, so that it stays in that directory.
#[derive(Debug)]
pub(crate) struct Spot {
    path: PathBuf,
    _folder: OwnedFd,
}

impl Spot {
    /// Where `path` is, which lies in the root, or beside it.
    ///
    /// # Errors
    /// As [`folder`] for the directory that it lies in.
    pub(crate) fn of(root: &Path, path: &Path) -> io::Result<Self> {
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        // Beside the root, a name is worth as much as the root's own.
        let folder = match parent.strip_prefix(root) {
            Ok(below) => folder(root, below),
            Err(_) => folder(parent, Path::new("")),
        };
        Ok(Self::at(folder?, name))
    }

    /// The directory `path` itself, which is the root, or lies in it.
    ///
    /// # Errors
    /// As [`folder`].
    pub(crate) fn folder(root: &Path, path: &Path) -> io::Result<Self> {
        let below = path.strip_prefix(root).map_err(io::Error::other)?;
        // With a dot the directory is meant, not the link that /proc shows.
        Ok(Self::at(folder(root, below)?, OsStr::new(".")))
    }

    /// Through the open directory; only as long as `self` lives.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn at(folder: OwnedFd, name: &OsStr) -> Self {
        // Of our own process, as the threads share their descriptors.
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        Self { path, _folder: folder }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_name_is_found_without_links_and_stays_in_its_directory() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        fs::create_dir_all(at("real/sites")).unwrap();
        symlink(at("real"), at("root")).unwrap();
        symlink("sites", at("real/link")).unwrap();
        let root = at("root");
        let spot = Spot::of(&root, &root.join("sites/a.conf")).unwrap();
        fs::rename(at("real/sites"), at("real/moved")).unwrap();
        fs::write(spot.path(), "a").unwrap();
        assert!(at("real/moved/a.conf").exists(), "a link to the root is the operator's own");
        assert!(Spot::folder(&root, &root.join("moved")).unwrap().path().is_dir());
        assert!(Spot::folder(&root, &root).unwrap().path().join("moved").exists());
        assert!(Spot::of(&root, &at("beside")).is_ok());
        for bad in ["link/a.conf", "moved/a.conf/x", "moved/../../beside/x"] {
            let error = Spot::of(&root, &root.join(bad)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{bad}: {error}");
        }
        let none = Spot::of(&root, &root.join("none/a.conf")).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }
}
