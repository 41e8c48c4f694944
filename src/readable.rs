//! Waiting in tokio until a descriptor is readable.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor whose readability can be awaited.
///
/// # Errors
/// As epoll_ctl(2).
///
/// The constructor is deprecated because a type of one's own could give another descriptor at each
/// call; an `OwnedFd` owns one and always gives that. Its successor is `unsafe`, which this project
/// keeps to its kernel crate.
#[expect(deprecated, reason = "see above")]
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
