//! Splitting a process in two, and hearing signals by a descriptor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub const SIGCHLD: i32 = libc::SIGCHLD;
pub const SIGHUP: i32 = libc::SIGHUP;
pub const SIGINT: i32 = libc::SIGINT;
pub const SIGKILL: i32 = libc::SIGKILL;
pub const SIGUSR1: i32 = libc::SIGUSR1;
pub const SIGTERM: i32 = libc::SIGTERM;

/// Which half of a split process this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    Parent { child: u32 },
    Child,
}

/// Splits the process; both halves go on from here with the same memory and descriptors.
///
/// # Errors
/// As fork(2); `InvalidInput` when the process has more than one thread: the child would have the
/// locks of threads that it doesn't have.
pub fn split() -> io::Result<Half> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than one thread"));
    }
    // SAFETY: there is one thread, so no lock can be held by one that the child lacks.
    match unsafe { libc::fork() } {
        0 => Ok(Half::Child),
        child => u32::try_from(child)
            .map(|child| Half::Parent { child })
            .map_err(|_| io::Error::last_os_error()),
    }
}

/// Waits for a child that has ended, and returns its exit code; a signal is 128 and its number.
///
/// # Errors
/// ECHILD when it is no child of this process.
pub fn reap(child: u32) -> io::Result<i32> {
    let mut status = 0;
    let pid = libc::pid_t::try_from(child).map_err(|_| io::ErrorKind::InvalidInput)?;
    loop {
        // SAFETY: the status outlives the call.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    if libc::WIFEXITED(status) {
        Ok(libc::WEXITSTATUS(status))
    } else {
        Ok(128 + libc::WTERMSIG(status))
    }
}

/// Keeps signals from the calling thread and those that it starts, also over exec: what comes waits.
pub fn hold_back(signals: &[i32]) {
    mask(libc::SIG_BLOCK, &set_of(signals));
}

/// Gives signals their ordinary effect, what waits at once.
///
/// They are unblocked even if they were blocked before: a program that replaced another by exec
/// finds them so.
pub fn let_through(signals: &[i32]) {
    mask(libc::SIG_UNBLOCK, &set_of(signals));
}

/// Gives a signal its default effect, if it was ignored when this program was started.
pub fn make_default(signal: i32) {
    // SAFETY: SIG_DFL is a disposition that every signal may have; no handler is taken away that
    // anybody counts on, as this is done before there is one.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn mask(how: libc::c_int, set: &libc::sigset_t) {
    // SAFETY: the set is initialised and outlives the call.
    unsafe { libc::pthread_sigmask(how, &raw const *set, std::ptr::null_mut()) };
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in signals {
        // SAFETY: the set is initialised; it refuses what is no signal.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    set
}

/// Signals that are kept from their ordinary effect and read from a descriptor instead.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Holds `signals` back from the calling thread and those that it starts; they stay so.
    ///
    /// # Errors
    /// As signalfd(2).
    pub fn take(signals: &[i32]) -> io::Result<Self> {
        hold_back(signals);
        let set = set_of(signals);
        // SAFETY: the set is initialised and outlives the call.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that came; `None` when there is none.
    #[must_use]
    pub fn next(&self) -> Option<i32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let len = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is as long as said.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), len) };
        if usize::try_from(read) != Ok(len) {
            return None;
        }
        // SAFETY: the kernel has filled it in.
        i32::try_from(unsafe { info.assume_init() }.ssi_signo).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
