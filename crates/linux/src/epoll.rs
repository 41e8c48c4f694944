//! Waiting for several descriptors, and waking a thread from another one.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

/// Descriptors reported by one wait; more are reported by the next one.
const EVENTS: usize = 64;

/// Level-triggered epoll for readable descriptors, each known by a token.
#[derive(Debug)]
pub struct Poll(OwnedFd);

impl Poll {
    /// # Errors
    /// When the kernel has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// # Errors
    /// As epoll_ctl(2): `fd` is watched already, or can't be watched.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        epoll::add(&self.0, fd, EventData::new_u64(token), EventFlags::IN)?;
        Ok(())
    }

    /// # Errors
    /// As epoll_ctl(2): `fd` isn't watched.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        epoll::delete(&self.0, fd)?;
        Ok(())
    }

    /// Waits until a descriptor is readable; `ready` gets the tokens, and nothing after a signal.
    ///
    /// # Errors
    /// As epoll_wait(2), except EINTR.
    pub fn wait(&self, ready: &mut Vec<u64>) -> io::Result<()> {
        self.wait_until(ready, None)
    }

    /// As [`Poll::wait`], at most for `longest`.
    ///
    /// # Errors
    /// As [`Poll::wait`].
    pub fn wait_for(&self, ready: &mut Vec<u64>, longest: Duration) -> io::Result<()> {
        let longest = Timespec {
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(longest.subsec_nanos()),
        };
        self.wait_until(ready, Some(&longest))
    }

    fn wait_until(&self, ready: &mut Vec<u64>, longest: Option<&Timespec>) -> io::Result<()> {
        ready.clear();
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        match epoll::wait(&self.0, events.as_mut_slice(), longest) {
            Ok((events, _)) => ready.extend(events.iter().map(|event| event.data.u64())),
            Err(Errno::INTR) => {}
            Err(other) => return Err(other.into()),
        }
        Ok(())
    }
}

/// An eventfd by which any thread wakes the one that polls it.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    /// # Errors
    /// When the kernel has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    /// Makes the descriptor readable.
    pub fn ring(&self) {
        // It fails only when the counter is full, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable again; to be called before the work is looked for.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        // Nothing to read means that nobody rang.
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
