//! Other processes and this one, as `/proc` and pidfds show them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::CapabilitySet;

use crate::netlink::Rtnl;

/// How much of a command line is read: far more than an nginx is started with, far less than the
/// 2 MiB that the kernel allows.
const COMMAND_LINE_MAX: u64 = 64 * 1024;

/// A reference to one process that stays with it: its number may be used again, this isn't.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl AsFd for PidFd {
    /// Readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PidFd {
    /// Refers to the process that has the number `pid` now.
    ///
    /// # Errors
    /// What pidfd_open(2) says: `ESRCH` when there is none, `EINVAL` for a thread's number.
    pub fn open(pid: u32) -> io::Result<Self> {
        Ok(Self(rustix::process::pidfd_open(pid_of(pid)?, PidfdFlags::empty())?))
    }

    /// Sends a signal by its number.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) says, `ESRCH` when the process has ended; `InvalidInput` for a
    /// number that is no named signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(rustix::process::pidfd_send_signal(&self.0, signal)?)
    }

    /// Whether it runs; false for one that has ended, also when its parent hasn't noticed yet.
    #[must_use]
    pub fn alive(&self) -> bool {
        let mut ended = [PollFd::new(&self.0, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match rustix::event::poll(&mut ended, Some(&now)) {
                Ok(ready) => return ready == 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

fn pid_of(pid: u32) -> io::Result<Pid> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// The program that a process runs, without the ` (deleted)` of one that was replaced by an upgrade.
///
/// # Errors
/// What readlink(2) says: `NotFound` for no such process or a kernel thread, `PermissionDenied`
/// for another user's.
pub fn executable(pid: u32) -> io::Result<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe"))?;
    let bytes = path.as_os_str().as_bytes();
    Ok(match bytes.strip_suffix(b" (deleted)") {
        Some(before) => PathBuf::from(std::ffi::OsString::from_vec(before.to_vec())),
        None => path,
    })
}

/// The arguments that a process shows, the first 64 KiB of them; none for a kernel thread.
///
/// # Errors
/// What open(2) and read(2) say: `NotFound` for no such process.
pub fn command_line(pid: u32) -> io::Result<Vec<String>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/cmdline"))?.take(COMMAND_LINE_MAX).read_to_end(&mut bytes)?;
    // A process that writes its title there (nginx) leaves a tail of zeros.
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(bytes
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect())
}

/// What a process calls itself, `nginx: master process /usr/sbin/nginx`: its arguments as one text.
#[must_use]
pub fn title(pid: u32) -> Option<String> {
    let words = command_line(pid).ok()?;
    (!words.is_empty()).then(|| words.join(" "))
}

/// The short name of a process, at most 15 bytes.
#[must_use]
pub fn name(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
}

/// The process that started it, or that took it over; `None` for the first one of all.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    stat_field(pid, 4)?.parse().ok().filter(|parent| *parent != 0)
}

/// When it started, in clock ticks since boot: with its number, this names one process for good.
#[must_use]
pub fn start_time_ticks(pid: u32) -> Option<u64> {
    stat_field(pid, 22)?.parse().ok()
}

/// Whether it was stopped by a signal or a debugger.
#[must_use]
pub fn is_stopped(pid: u32) -> bool {
    stat_field(pid, 3).is_some_and(|state| matches!(state.as_str(), "T" | "t"))
}

/// A field of `/proc/PID/stat`, counted from 1 as in proc_pid_stat(5), from the third on.
fn stat_field(pid: u32, number: usize) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, in which there may be blanks and parentheses.
    let end = bytes.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(bytes.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?).map(str::to_owned)
}

/// Every process that `/proc` shows, by number, in ascending order.
#[must_use]
pub fn all_pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// The processes whose parent is `pid`, in ascending order.
///
/// Looks at every process: `/proc/PID/task/TID/children` may leave some out while others end.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let mut pids = all_pids();
    pids.retain(|child| parent(*child) == Some(pid));
    pids
}

/// The same by the kernel's own list, where it has one: quick, but it names the children of the first
/// thread only, which is all that a process of one thread has, and may leave some out while others end.
#[must_use]
pub fn children_listed(pid: u32) -> Vec<u32> {
    match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(text) => text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect(),
        Err(_) => children(pid),
    }
}

/// Whether a process sees the same file systems as the caller; false when that can't be found out.
#[must_use]
pub fn same_mount_namespace(pid: u32) -> bool {
    let theirs = fs::read_link(format!("/proc/{pid}/ns/mnt"));
    let ours = fs::read_link("/proc/thread-self/ns/mnt");
    matches!((theirs, ours), (Ok(theirs), Ok(ours)) if theirs == ours)
}

/// The capabilities that standin needs and the calling thread doesn't have in effect.
#[must_use]
pub fn missing_capabilities() -> Vec<&'static str> {
    const NEEDED: [(CapabilitySet, &str); 4] = [
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
        (CapabilitySet::SYS_NICE, "CAP_SYS_NICE"),
        (CapabilitySet::IPC_LOCK, "CAP_IPC_LOCK"),
    ];
    let effective =
        rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    NEEDED.iter().filter(|(one, _)| !effective.contains(*one)).map(|(_, name)| *name).collect()
}

/// Whether files may be made in a directory, as the kernel would answer this process.
///
/// # Errors
/// Why not.
pub fn writable(directory: &std::path::Path) -> io::Result<()> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let access = Access::WRITE_OK | Access::EXEC_OK;
    Ok(accessat(CWD, directory, access, AtFlags::empty())?)
}

/// Whether this thread may have mounts of its own.
#[must_use]
pub fn may_mount() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Where a process listens for TCP connections, in ascending order, each address once.
///
/// # Errors
/// What `/proc/PID` says: `NotFound` for no such process, `PermissionDenied` for another user's.
pub fn listening_tcp(pid: u32) -> io::Result<Vec<SocketAddr>> {
    let sockets = socket_inodes(pid)?;
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        // A kernel without IPv6 has no tcp6.
        let file = match File::open(format!("/proc/{pid}/net/{table}")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && table == "tcp6" => continue,
            other => other?,
        };
        for line in BufReader::new(file).lines().skip(1) {
            let line = line?;
            match tcp_line(&line) {
                Some((address, LISTEN, inode)) if sockets.contains(&inode) => {
                    found.insert(address);
                }
                Some((_, LISTEN | CLOSE, _)) | None => {}
                // The kernel shows all listeners before the first connection, of which a busy
                // proxy has a hundred thousand.
                Some(_) => break,
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// States of `/proc/net/tcp` (include/net/tcp_states.h).
const CLOSE: u8 = 0x07;
const LISTEN: u8 = 0x0a;

fn socket_inodes(pid: u32) -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor may be closed while this looks.
        let Ok(target) = entry.and_then(|entry| fs::read_link(entry.path())) else { continue };
        let inode =
            target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
        inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    Ok(inodes)
}

/// Local address, state and inode of one line of `/proc/net/tcp` or `tcp6`.
fn tcp_line(line: &str) -> Option<(SocketAddr, u8, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    let address = hex_address(address)?;
    Some((SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?), state, inode))
}

/// The kernel writes an address as 32-bit words of this machine's byte order.
fn hex_address(text: &str) -> Option<IpAddr> {
    let word = |n: usize| -> Option<[u8; 4]> {
        let digits = text.get(n * 8..n * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.as_flattened().try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Every IP address of the calling thread's network namespace.
///
/// # Errors
/// What netlink says.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let addresses = Rtnl::open()?.addresses()?;
    Ok(addresses.into_iter().map(|address| address.prefix.address()).collect())
}

/// The name that uname(2) gives for this host.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
