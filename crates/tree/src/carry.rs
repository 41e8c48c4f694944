//! What `exclude` leaves alone on a node: brought from the live tree into the staged one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, futimens, mkdirat, openat, readlinkat};
use rustix::io::Errno;

use crate::attributes;
use crate::build::{Builder, Refused, times};
use crate::globs::OWN_PREFIX;
use crate::hash::Hash;
use crate::manifest::{Entry, Kind, MAX_DEPTH, MAX_ENTRIES, Who};
use crate::read::{LeftOut, Why};
use crate::stamp::{Seen, about, open_directory, open_file};

impl Builder<'_> {
    /// Copies what was left out of the tree at `live` into the tree at `staged`: excluded names, and
    /// files that are too large. Sockets, pipes and devices can't be copied: they are among the
    /// refused, and then the tree must not be exchanged as a whole.
    ///
    /// `left_out` is of one root. What stands in `staged` already is left alone.
    ///
    /// # Errors
    /// What the kernel says, with the path; something that vanished meanwhile is no error.
    pub fn carry(
        &mut self,
        left_out: &[LeftOut],
        live: &Path,
        staged: &Path,
    ) -> io::Result<Vec<Refused>> {
        let mut refused = Vec::new();
        let mut count = 0;
        for one in left_out {
            let at = live.join(Path::new(std::ffi::OsStr::from_bytes(&one.path)));
            let fail = |error: io::Error| about(at.as_os_str().as_bytes(), error);
            let (folder, name) = crate::build::split(&one.path);
            if one.path.is_empty() || one.why == Why::Attributes || name.starts_with(OWN_PREFIX) {
                continue;
            }
            let place = walk(live, folder).and_then(|from| Ok((from, walk(staged, folder)?)));
            let (from, to) = match place {
                Ok(both) => both,
                // Its directory is gone on one side: there is nothing to bring along, or nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(fail(error)),
            };
            let time = Seen::open(&to).map_err(|errno| fail(errno.into()))?.modified;
            let mut copy = Copy { builder: self, count: &mut count, refused: &mut refused };
            copy.entry(from.as_fd(), to.as_fd(), name, &at, 0).map_err(fail)?;
            // The staged directory keeps the time that its generation says.
            futimens(&to, &times(time)).map_err(|errno| fail(errno.into()))?;
        }
        refused.extend(self.take_refused(Some(staged)));
        Ok(refused)
    }
}

/// Opens a directory of a tree, never through a symbolic link.
fn walk(root: &Path, relative: &[u8]) -> io::Result<OwnedFd> {
    let mut fd = open_directory(CWD, root.as_os_str().as_bytes())?;
    for part in relative.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        fd = open_directory(&fd, part)?;
    }
    Ok(fd)
}

struct Copy<'a, 'b> {
    builder: &'a mut Builder<'b>,
    count: &'a mut usize,
    refused: &'a mut Vec<Refused>,
}

impl Copy<'_, '_> {
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        at: &Path,
        depth: usize,
    ) -> io::Result<()> {
        *self.count += 1;
        if *self.count > MAX_ENTRIES || depth > MAX_DEPTH {
            return Err(io::Error::other("more excluded files than standin carries along"));
        }
        let seen = match Seen::at(from, name) {
            Ok(seen) => seen,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let made = match seen.kind {
            FileType::Directory => self.directory(from, to, name, &seen, at, depth),
            FileType::RegularFile => self.file(from, to, name, &seen),
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?.into_bytes().into();
                let attributes = attributes::of_link(from, name)?.kept;
                let entry = entry(&seen, Kind::Symlink { target }, attributes);
                self.builder.make(to, name, &entry)
            }
            _ => {
                let what = "a socket, pipe or device can't be brought along".to_owned();
                self.refused.push(Refused { path: at.to_owned(), what });
                Ok(())
            }
        };
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        seen: &Seen,
        at: &Path,
        depth: usize,
    ) -> io::Result<()> {
        mkdirat(to, name, Mode::RWXU)?;
        let (from, to) = (open_directory(from, name)?, open_directory(to, name)?);
        for inner in Dir::read_from(&from)? {
            let inner = inner?;
            let inner = inner.file_name().to_bytes();
            if inner != b"." && inner != b".." {
                let at = at.join(Path::new(std::ffi::OsStr::from_bytes(inner)));
                self.entry(from.as_fd(), to.as_fd(), inner, &at, depth + 1)?;
            }
        }
        let attributes = attributes::of_open(from.as_fd())?.kept;
        self.builder.dress(to.as_fd(), name, &entry(seen, Kind::Directory, attributes))
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        seen: &Seen,
    ) -> io::Result<()> {
        let mut source = File::from(open_file(from, name)?);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut copy = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
        io::copy(&mut source, &mut copy)?;
        let attributes = attributes::of_open(source.as_fd())?.kept;
        // What the file holds isn't looked at: only its metadata is taken from this.
        let kind = Kind::File { size: 0, hash: Hash::of(b""), link: 0 };
        self.builder.dress(copy.as_fd(), name, &entry(seen, kind, attributes))
    }
}

fn entry(seen: &Seen, kind: Kind, attributes: Vec<crate::manifest::Attribute>) -> Entry {
    Entry {
        path: Box::default(),
        kind,
        mode: seen.stamp.mode & 0o7777,
        user: Who::number(seen.stamp.uid),
        group: Who::number(seen.stamp.gid),
        modified: seen.modified,
        attributes,
    }
}
