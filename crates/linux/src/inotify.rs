//! inotify(7): the kernel's hints that something in a directory has changed.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Bytes of one read(2): some hundred events.
const BUFFER: usize = 64 * 1024;

/// What is asked of each directory. `MODIFY` too: a file that is being written isn't quiet.
const ASKED: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// One hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint<'a> {
    /// Something happened to `name` in the directory of that watch, or to the directory itself.
    Changed {
        watch: i32,
        name: Option<&'a [u8]>,
        /// `name` is a directory that was made there, or moved there.
        folder: bool,
    },
    /// The watch is gone, with its directory or by [`Inotify::forget`].
    Ended { watch: i32 },
    /// The queue was full: anything may have happened anywhere.
    Overflow,
}

/// A queue of hints, non-blocking.
#[derive(Debug)]
pub struct Inotify {
    fd: OwnedFd,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Inotify {
    /// # Errors
    /// `EMFILE`: `fs.inotify.max_user_instances` are in use, or all descriptors.
    pub fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self { fd, buffer: vec![MaybeUninit::uninit(); BUFFER] })
    }

    /// Watches an open directory, whatever it is called now; one that is watched already keeps its
    /// number.
    ///
    /// # Errors
    /// `ENOSPC`: `fs.inotify.max_user_watches` are in use. Without `/proc` there are no watches.
    pub fn watch(&self, directory: BorrowedFd<'_>) -> io::Result<i32> {
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        Ok(inotify::add_watch(&self.fd, path, ASKED)?)
    }

    /// Ends a watch; its last hint is [`Hint::Ended`].
    pub fn forget(&self, watch: i32) {
        // A watch that is gone already is what is wanted.
        let _ = inotify::remove_watch(&self.fd, watch);
    }

    /// Takes the hints that wait, at most one read's; false when there were none.
    ///
    /// # Errors
    /// As read(2), but for a queue that is empty.
    pub fn take(&mut self, mut each: impl FnMut(Hint<'_>)) -> io::Result<bool> {
        let mut reader = Reader::new(&self.fd, &mut self.buffer);
        let mut any = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    any = true;
                    let (watch, flags) = (event.wd(), event.events());
                    if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                        each(Hint::Overflow);
                    } else if flags.contains(ReadFlags::IGNORED) {
                        each(Hint::Ended { watch });
                    } else {
                        let name = event.file_name().map(std::ffi::CStr::to_bytes);
                        let here = ReadFlags::CREATE | ReadFlags::MOVED_TO;
                        let folder = flags.contains(ReadFlags::ISDIR) && flags.intersects(here);
                        each(Hint::Changed { watch, name, folder });
                    }
                }
                Err(Errno::AGAIN) => return Ok(any),
                Err(Errno::INTR) => continue,
                Err(other) => return Err(other.into()),
            }
            if reader.is_buffer_empty() {
                return Ok(any);
            }
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
