//! A private copy of what another process sees: its mounts and network, changed for nobody else.
//!
//! For the tester of an nginx configuration, which is a process with one thread of its own.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use socket2::{Domain, Socket, Type};

/// A file or directory that can be shown at another place, in another mount namespace, too.
#[derive(Debug)]
pub struct Loose(OwnedFd);

impl Loose {
    /// Takes hold of what lies at `path`; mounts below it don't come along.
    ///
    /// # Errors
    /// What open_tree(2) says; `EPERM` without `CAP_SYS_ADMIN`, `ENOSYS` before Linux 5.2.
    pub fn of(path: &Path) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(Self(rustix::mount::open_tree(CWD, path, flags)?))
    }

    /// Shows it at `target`, which exists and is of the same kind.
    ///
    /// # Errors
    /// What move_mount(2) says.
    pub fn show_at(self, target: &Path) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(rustix::mount::move_mount(self.0.as_fd(), c"", CWD, target, flags)?)
    }
}

/// The mounts and the network of a process.
#[derive(Debug)]
pub struct Surroundings {
    mounts: OwnedFd,
    network: OwnedFd,
}

impl Surroundings {
    /// # Errors
    /// `NotFound` when the process is gone; `PermissionDenied` for one that isn't ours to enter.
    pub fn of(pid: u32) -> io::Result<Self> {
        let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}"));
        Ok(Self { mounts: open("mnt")?.into(), network: open("net")?.into() })
    }

    /// Moves the calling process, which must have one thread, there: into the same network, and
    /// into a copy of the mounts in which it may mount without anybody seeing it.
    ///
    /// # Errors
    /// What setns(2), unshare(2) and mount(2) say; `EPERM` without `CAP_SYS_ADMIN`.
    pub fn enter_copy(&self) -> io::Result<()> {
        let enter = |space: &OwnedFd, kind| {
            rustix::thread::move_into_link_name_space(space.as_fd(), Some(kind))
        };
        enter(&self.network, LinkNameSpaceType::Network)?;
        enter(&self.mounts, LinkNameSpaceType::Mount)?;
        // SAFETY: FILES is not among the flags, so no descriptor table is split.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        Ok(rustix::mount::mount_change("/", private)?)
    }
}

/// The program that a process runs, also when its file was replaced or deleted since.
#[derive(Debug)]
pub struct Program(File);

impl Program {
    /// # Errors
    /// What open(2) says.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self(File::open(format!("/proc/{pid}/exe"))?))
    }

    /// By this it can be executed while `self` lives and `/proc` is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// The mount that a path lies in, by its number in `/proc/self/mountinfo`.
///
/// # Errors
/// What open(2) says.
pub fn mount_id(path: &Path) -> io::Result<u64> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("the kernel doesn't say in which mount a file lies"))
}

/// Takes a mount away that nobody else sees; what still uses it keeps it.
///
/// # Errors
/// What umount(2) says.
pub fn unmount(at: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH)?)
}

/// Whether an address could be listened at: it is taken for a moment, and nobody can connect.
///
/// # Errors
/// What bind(2) says: `EADDRINUSE` when somebody else has it, `EADDRNOTAVAIL` for an address that
/// isn't this host's.
pub fn try_bind(address: SocketAddr, v6_only: bool) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // As nginx does; what it left behind in TIME_WAIT doesn't count.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.bind(&address.into())
}

/// How the kernel names this machine's system calls to a filter (linux/audit.h).
const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else if cfg!(target_arch = "riscv64") {
    Some(0xc000_00f3)
} else {
    None
};

/// Lets a command that is yet to be spawned run without being able to take any address: its
/// bind(2) says `EADDRINUSE`. It dies with the thread that spawns it.
///
/// On architectures that this doesn't know, bind(2) works as ever.
pub fn without_bind(command: &mut Command) {
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Offsets in `struct seccomp_data`.
    const NUMBER: u32 = 0;
    const MACHINE: u32 = 4;
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let skip_unless = |k, jf| libc::sock_filter { code: JUMP_EQUAL, jt: 0, jf, k };
    let refused = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EADDRINUSE).unwrap_or_default();
    let bind = u32::try_from(libc::SYS_bind).unwrap_or_default();
    let filter = [
        statement(LOAD, MACHINE),
        skip_unless(ARCHITECTURE.unwrap_or_default(), 3),
        statement(LOAD, NUMBER),
        skip_unless(bind, 1),
        statement(RETURN, refused),
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || -> io::Result<()> {
        let mut filter = filter;
        let len = u16::try_from(filter.len()).unwrap_or_default();
        let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
        let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
        // SAFETY: the program and its filter outlive the call, which copies them.
        if unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe, with values
    // that were made before the fork.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if ARCHITECTURE.is_some() { install() } else { Ok(()) }
        });
    }
}
