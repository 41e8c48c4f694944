//! Memory that two processes share, for what one must know of the other after its death.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A fixed number of bytes behind a descriptor that a fork inherits, and an exec by [`Region::pass`].
///
/// Bytes are copied in and out; whoever shares the region keeps the order by atomics of its own.
#[derive(Debug)]
pub struct Region {
    fd: OwnedFd,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the Region, and all access to it goes through atomics or raw copies
// of bytes, for which any value is valid.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// New, all zero. Pages take memory only once they are written.
    ///
    /// # Errors
    /// As memfd_create(2) and mmap(2).
    pub fn new(len: usize) -> io::Result<Self> {
        let fd = memfd_create(c"standin-ledger", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, len as u64)?;
        Self::map(fd, len)
    }

    /// New, and exactly `bytes`.
    ///
    /// # Errors
    /// As [`Region::new`]; `InvalidInput` for no bytes at all.
    pub fn with(bytes: &[u8]) -> io::Result<Self> {
        // A mapping can't be empty.
        let region = Self::new(bytes.len().max(1))?;
        if region.write(0, bytes) { Ok(region) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// All bytes of a region that [`Region::pass`] gave to this program, at most `longest`.
    ///
    /// # Errors
    /// As [`Region::inherited`]; `InvalidInput` when there are more.
    pub fn inherited_bytes(fd: RawFd, longest: usize) -> io::Result<Vec<u8>> {
        use std::io::Read;
        let fd = take(fd)?;
        let mut bytes = Vec::new();
        let limit = u64::try_from(longest).unwrap_or(u64::MAX).saturating_add(1);
        File::from(fd).take(limit).read_to_end(&mut bytes)?;
        if bytes.len() > longest {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    /// The region behind an inherited descriptor.
    ///
    /// # Errors
    /// As mmap(2); `InvalidInput` when the file isn't `len` bytes long.
    pub fn of(fd: OwnedFd, len: usize) -> io::Result<Self> {
        let file = File::from(fd);
        if file.metadata()?.len() != len as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Self::map(file.into(), len)
    }

    /// The region behind a descriptor that [`Region::pass`] gave to this program.
    ///
    /// # Errors
    /// As [`Region::of`]; EBADF when there is no such descriptor.
    pub fn inherited(fd: RawFd, len: usize) -> io::Result<Self> {
        Self::of(take(fd)?, len)
    }

    /// Lets `command` inherit the region; the number is the descriptor's in the new program.
    ///
    /// Other programs that are started meanwhile don't get it.
    pub fn pass(&self, command: &mut Command) -> RawFd {
        let fd = self.fd.as_raw_fd();
        // SAFETY: between fork and exec only fcntl is called, on a descriptor that the fork has a
        // copy of; it is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        fd
    }

    /// Takes back what an exec that failed has left in this process: the descriptor that was to be
    /// inherited, and the ordinary effect of SIGPIPE.
    pub fn seal(&self) {
        // SAFETY: our own descriptor; only a flag of it is set.
        unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        // SAFETY: as Rust's runtime sets it at the start of every program.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    }

    fn map(fd: OwnedFd, len: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )?
        };
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { fd, start, len })
    }

    /// A counter at `place`, counted in eight bytes; `None` beyond the end.
    #[must_use]
    pub fn counter(&self, place: usize) -> Option<&AtomicU64> {
        let offset = place.checked_mul(8)?;
        if offset.checked_add(8)? > self.len {
            return None;
        }
        // SAFETY: in bounds, aligned because mappings begin at a page, valid for any bytes; it is
        // only ever used as an atomic.
        Some(unsafe { &*self.start.as_ptr().add(offset).cast::<AtomicU64>() })
    }

    /// Copies `bytes` to `offset`; false, and nothing is copied, when they don't fit.
    #[must_use]
    pub fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: in bounds; no reference to these bytes exists, in this process or another.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.start.as_ptr().add(offset),
                bytes.len(),
            );
        }
        true
    }

    /// Copies `len` bytes from `offset`; `None` beyond the end.
    #[must_use]
    pub fn read(&self, offset: usize, len: usize) -> Option<Vec<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        let mut bytes = vec![0; len];
        // SAFETY: in bounds; a concurrent writer can make the bytes nonsense but nothing worse, and
        // the vector is ours.
        unsafe {
            std::ptr::copy_nonoverlapping(self.start.as_ptr().add(offset), bytes.as_mut_ptr(), len);
        }
        Some(bytes)
    }
}

/// Takes a descriptor that came over execve.
fn take(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only asks whether the descriptor is open.
    if fd <= 2 || unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, it came over execve, and the caller takes it once, at the start.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl AsFd for Region {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing can refer to it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn another_mapping_of_the_same_descriptor_sees_what_was_written() {
        let region = Region::new(4096).unwrap();
        region.counter(0).unwrap().store(7, Ordering::Relaxed);
        assert!(region.write(100, b"hello"));
        let other = Region::of(region.as_fd().try_clone_to_owned().unwrap(), 4096).unwrap();
        assert_eq!(other.counter(0).unwrap().load(Ordering::Relaxed), 7);
        assert_eq!(other.read(100, 5).unwrap(), b"hello");
    }

    #[test]
    fn nothing_is_touched_beyond_the_end() {
        let region = Region::new(4096).unwrap();
        assert!(!region.write(4095, b"xy"));
        assert!(region.read(4095, 2).is_none());
        assert!(region.counter(512).is_none());
        assert!(region.write(usize::MAX, b"") || region.read(usize::MAX, 1).is_none());
    }
}
