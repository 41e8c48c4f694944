//! Hosts made of namespaces and the processes in them, for `standin lab`: unshare, enter, mount, reap.
//!
//! Nothing here is used by a running node. The lab calls the `isolate_*` and `enter_*` functions
//! from processes that have one thread, or from a thread that ends afterwards.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

/// How a process of the lab is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Birth {
    /// Killed with SIGKILL when the *thread* that started it ends.
    pub dies_with_parent: bool,
    /// In a session of its own: the terminal's Ctrl-C doesn't reach it.
    pub new_session: bool,
}

/// Applies `birth` to a command that is yet to be spawned.
pub fn born(command: &mut Command, birth: Birth) {
    // SAFETY: between fork and exec only prctl and setsid are called; both are async-signal-safe
    // and touch no memory of the parent.
    unsafe {
        command.pre_exec(move || {
            if birth.new_session {
                rustix::process::setsid()?;
            }
            if birth.dies_with_parent {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            }
            Ok(())
        });
    }
}

/// What this process has open, beyond its three standard streams, isn't handed on to programs that it
/// starts from now on: who lives on must not keep its caller's pipes and locks.
///
/// # Errors
/// What close_range(2) says: `ENOSYS` before Linux 5.9, `EINVAL` before 5.11.
pub fn hand_nothing_on() -> io::Result<()> {
    let (first, last, flags) = (3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: only a flag of descriptors is set, which no code of this process relies on.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs a command that is yet to be spawned inside the network namespace `network`.
///
/// The descriptor must stay open until the command has been spawned.
pub fn in_network(command: &mut Command, network: BorrowedFd<'_>) {
    let raw: RawFd = network.as_raw_fd();
    // SAFETY: between fork and exec only setns is called, which is async-signal-safe; the fork has
    // a copy of the descriptor, which the caller keeps open until the spawn is over.
    unsafe {
        command.pre_exec(move || {
            let network = BorrowedFd::borrow_raw(raw);
            rustix::thread::move_into_link_name_space(network, Some(LinkNameSpaceType::Network))?;
            Ok(())
        });
    }
}

/// Gives the calling process its own network, mounts, host name, IPC and (for its children) process ids.
///
/// # Errors
/// What unshare(2) says; `EPERM` without `CAP_SYS_ADMIN`.
pub fn isolate_host() -> io::Result<()> {
    let flags = UnshareFlags::NEWNET
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWPID;
    // SAFETY: FILES is not among the flags, so no descriptor table is split.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

/// Makes the caller root of a new user namespace in which it is the only user.
///
/// # Errors
/// What the kernel says: `EINVAL` with more than one thread, `EPERM` or `ENOSPC` where user
/// namespaces are switched off.
pub fn become_root_in_user_namespace() -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    // SAFETY: FILES is not among the flags, so no descriptor table is split.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    Ok(())
}

/// Whether the caller is root (of its user namespace).
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The caller's effective user id.
#[must_use]
pub fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The user id of the process at the other end of a Unix socket.
///
/// # Errors
/// What getsockopt(2) says.
pub fn peer_user_id(socket: impl AsFd) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

/// A new, empty network namespace, which lives as long as the descriptor or a process in it.
///
/// # Errors
/// What unshare(2) says; `EPERM` without `CAP_SYS_ADMIN`.
pub fn new_network() -> io::Result<OwnedFd> {
    let thread = std::thread::spawn(|| -> io::Result<OwnedFd> {
        // SAFETY: FILES is not among the flags; only this thread changes, and it ends here.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        Ok(fs::File::open("/proc/thread-self/ns/net")?.into())
    });
    thread.join().map_err(|_| io::Error::other("the thread that makes a network panicked"))?
}

/// Opens the network namespace of a process.
///
/// # Errors
/// What open(2) says; `ENOENT` when the process is gone.
pub fn network_of(pid: u32) -> io::Result<OwnedFd> {
    Ok(fs::File::open(format!("/proc/{pid}/ns/net"))?.into())
}

/// Moves the calling thread, for good, into a network namespace.
///
/// # Errors
/// What setns(2) says.
pub fn enter_network(network: BorrowedFd<'_>) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(network, Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Moves the calling process, which must have one thread, into every namespace of a lab host.
///
/// The caller's own process id stays; its children are born among the host's processes.
///
/// # Errors
/// What pidfd_open(2) and setns(2) say.
pub fn enter_host(pid: u32) -> io::Result<()> {
    let target = process_id(pid)?;
    let pidfd = rustix::process::pidfd_open(target, rustix::process::PidfdFlags::empty())?;
    let mut spaces = ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::PROCESS_ID;
    // setns(2): a process can't re-enter the user namespace that it is in already.
    let same_user =
        fs::read_link("/proc/self/ns/user")? == fs::read_link(format!("/proc/{pid}/ns/user"))?;
    if !same_user {
        spaces |= ThreadNameSpaceType::USER;
    }
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), spaces)?;
    Ok(())
}

/// Mounts an empty tmpfs on `target`.
///
/// # Errors
/// What mount(2) says.
pub fn mount_memory(target: &Path) -> io::Result<()> {
    let options = c"mode=0755";
    mount("tmpfs", target, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options))
}

/// Lays `upper` (writable, with the empty directory `work` beside it) over `target` itself.
///
/// # Errors
/// What mount(2) says; `EINVAL` for a path that the option syntax can't carry.
pub fn mount_overlay(target: &Path, upper: &Path, work: &Path) -> io::Result<()> {
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        target.display(),
        upper.display(),
        work.display()
    );
    let options =
        CString::new(options).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    mount("overlay", target, "overlay", MountFlags::empty(), Some(&options))
}

/// Mounts the process list of the caller's pid namespace on `/proc`.
///
/// # Errors
/// What mount(2) says; `EPERM` in a container that hides parts of `/proc`.
pub fn mount_proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", Path::new("/proc"), "proc", flags, None)
}

/// Mounts a sysfs that shows the caller's network namespace on `/sys`.
///
/// # Errors
/// What mount(2) says.
pub fn mount_sys() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("sysfs", Path::new("/sys"), "sysfs", flags, None)
}

/// Shows the file `source` also at `target`, which must exist.
///
/// # Errors
/// What mount(2) says.
pub fn mount_bind(source: &Path, target: &Path) -> io::Result<()> {
    rustix::mount::mount_bind(source, target)?;
    Ok(())
}

fn mount(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    options: Option<&CStr>,
) -> io::Result<()> {
    rustix::mount::mount(source, target, kind, flags, options)?;
    Ok(())
}

/// Names the host of the caller's UTS namespace.
///
/// # Errors
/// What sethostname(2) says; names longer than 64 bytes are refused.
pub fn set_host_name(name: &str) -> io::Result<()> {
    rustix::system::sethostname(name.as_bytes())?;
    Ok(())
}

/// Waits for any child to end, or for none to be left.
///
/// # Errors
/// `ECHILD` when there is no child at all.
pub fn wait_any() -> io::Result<(u32, ExitStatus)> {
    use std::os::unix::process::ExitStatusExt;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or_default();
                return Ok((pid, ExitStatus::from_raw(status.as_raw())));
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends a signal, given by its number, to one process.
///
/// # Errors
/// What kill(2) says; `EINVAL` for a process id or a signal that can't be.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
    rustix::process::kill_process(process_id(pid)?, signal)?;
    Ok(())
}

/// Ends the calling process with SIGKILL when the thread that started it ends.
///
/// # Errors
/// What prctl(2) says.
pub fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Lets the calling process outlive its parent after all.
///
/// # Errors
/// What prctl(2) says.
pub fn outlive_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(None)?;
    Ok(())
}

/// Points standard output and error at `/dev/null`.
///
/// # Errors
/// What open(2) and dup2(2) say.
pub fn discard_output() -> io::Result<()> {
    let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    for standard in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: both descriptors are open; Rust's own handles refer to them by number and go on.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Schedules the calling thread before ordinary ones where the host allows it; says whether it did.
#[must_use]
pub fn prefer_this_thread() -> bool {
    const NICEST: i32 = -10;
    // SAFETY: setpriority takes plain numbers; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICEST) == 0 }
}

fn process_id(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}
