//! What the kernel says of a file without reading it, and when that is enough.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Statx, StatxAttributes, StatxFlags, openat, statx,
};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::manifest::Time;

/// A file whose inode changed more recently than this when it was read may change again without a
/// new time: file systems count in steps, the coarsest (FAT) of 2 s.
const RACY: Duration = Duration::from_secs(2);

/// What changes whenever an entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// With the file type.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Of a directory: 0, as with both times; what is in it is looked at anyway, and files that are
    /// left alone come and go.
    pub(crate) size: u64,
    pub(crate) modified: Time,
    pub(crate) changed: Time,
}

/// An entry as statx(2) shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) stamp: Stamp,
    pub(crate) kind: FileType,
    pub(crate) links: u32,
    /// The directory's own time, which its stamp leaves out.
    pub(crate) modified: Time,
    pub(crate) mount: bool,
}

impl Seen {
    /// The entry `name` of a directory, itself if it is a symbolic link.
    pub(crate) fn at(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        Ok(Self::of(&statx(directory, name, flags, StatxFlags::BASIC_STATS)?))
    }

    pub(crate) fn open(fd: impl AsFd) -> rustix::io::Result<Self> {
        Ok(Self::of(&statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?))
    }

    fn of(stat: &Statx) -> Self {
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let modified = Time { s: stat.stx_mtime.tv_sec, ns: stat.stx_mtime.tv_nsec };
        let changed = Time { s: stat.stx_ctime.tv_sec, ns: stat.stx_ctime.tv_nsec };
        let directory = kind == FileType::Directory;
        let stamp = Stamp {
            device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
            inode: stat.stx_ino,
            mode: stat.stx_mode,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: if directory { 0 } else { stat.stx_size },
            modified: if directory { Time::default() } else { modified },
            changed: if directory { Time::default() } else { changed },
        };
        let mount = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        Self { stamp, kind, links: stat.stx_nlink, modified, mount }
    }
}

impl Stamp {
    pub(crate) const fn key(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether a file with this stamp that was read at `now` can be known by it afterwards. Only the
    /// inode's own time counts: nobody can set it back.
    pub(crate) fn is_old_at(&self, now: Time) -> bool {
        let age_s = now.s.saturating_sub(self.changed.s);
        age_s > RACY.as_secs().cast_signed()
    }
}

pub(crate) fn now() -> Time {
    let now = clock_gettime(ClockId::Realtime);
    // The kernel's nanoseconds are below a second.
    Time { s: now.tv_sec, ns: u32::try_from(now.tv_nsec).unwrap_or_default() }
}

/// Opens for reading, never through a symbolic link, never waiting for a FIFO's other end.
pub(crate) fn open_file(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

pub(crate) fn open_directory(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

/// Whether the error only says that the entry was moved or replaced while it was looked at.
pub(crate) const fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::STALE | Errno::NXIO)
}

/// An error with the path that it is about.
pub(crate) fn about(path: &[u8], error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{}: {error}", crate::manifest::shown(path)))
}
