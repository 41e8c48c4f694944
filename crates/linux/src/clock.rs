//! The engine's clock and its one timer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
};
use standin_core::types::Instant;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// `CLOCK_BOOTTIME`: monotonic, and it goes on while the machine is suspended.
#[must_use]
pub fn now() -> Instant {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(nanos))
}

/// A timerfd with absolute deadlines on the clock of [`now`].
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// # Errors
    /// When the kernel has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?))
    }

    /// Fires at `at`, at once when that is past; `None` disarms.
    ///
    /// # Errors
    /// As timerfd_settime(2); not for any value of `at`.
    pub fn arm(&self, at: Option<Instant>) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A value of zero would disarm.
        let nanos = at.map_or(0, |at| at.as_nanos().max(1));
        let value = Timespec {
            tv_sec: i64::try_from(nanos / NANOS_PER_SECOND).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanos % NANOS_PER_SECOND).unwrap_or(0),
        };
        let new = Itimerspec { it_interval: zero, it_value: value };
        rustix::time::timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &new)?;
        Ok(())
    }

    /// Takes the expiry, so that the descriptor isn't readable any more.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        // Nothing to read means that it had not fired.
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
