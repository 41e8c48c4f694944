//! Being on time: scheduling class, locked memory, thread names.

use std::ffi::CString;
use std::fs;
use std::io;

/// The best that an ordinary thread can have.
const NICEST: libc::c_int = -20;

/// Puts the calling thread into `SCHED_FIFO`; threads and processes that it starts stay ordinary.
///
/// Where that is refused it becomes the favourite among ordinary threads, if that is allowed.
///
/// # Errors
/// EPERM without `CAP_SYS_NICE`, or inside a cgroup without realtime budget (`RT_GROUP_SCHED`).
pub fn realtime(priority: u8) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: i32::from(priority) };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameter outlives the call; 0 means the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    if result == 0 {
        return Ok(());
    }
    let refused = io::Error::last_os_error();
    let ordinary = libc::sched_param { sched_priority: 0 };
    // SAFETY: as above; what this thread starts is not to be a favourite too.
    let result = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK,
            &raw const ordinary,
        )
    };
    if result == 0 {
        // SAFETY: takes numbers only; 0 means the calling thread. A refusal changes nothing.
        let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICEST) };
    }
    Err(refused)
}

/// Unmaps the code of the program and its libraries, which comes back from the page cache as it is
/// needed: what only the start needed isn't locked into memory for ever.
///
/// Until it is back the kernel may forget it under pressure; who can't wait for a disk then calls it
/// soon, from an ordinary thread.
///
/// # Errors
/// When `/proc` can't be read, or with locked memory before Linux 5.18: everything stays as it was.
pub fn let_go_of_code() -> io::Result<()> {
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        // Only what can be executed: it is the same as in the file. Data may have been written to.
        let mut words = line.split_whitespace();
        let (Some(range), Some("r-xp"), Some(_offset), Some(_device), Some(inode)) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        // The kernel's own code has no file.
        if inode == "0" {
            continue;
        }
        let bounds = range
            .split_once('-')
            .map(|(from, to)| (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)));
        let Some((Ok(from), Ok(to))) = bounds else { continue };
        let length = to.saturating_sub(from);
        // SAFETY: the range is a private mapping of a file with code, whose pages were never written
        // to (position-independent code has no text relocations): the kernel reads the same bytes
        // again.
        unsafe {
            let start = std::ptr::with_exposed_provenance_mut(from);
            let advice = rustix::mm::Advice::LinuxDontneedLocked;
            if rustix::mm::madvise(start, length, advice).is_err() {
                // Before Linux 5.18; refused for what is locked.
                rustix::mm::madvise(start, length, rustix::mm::Advice::LinuxDontNeed)?;
            }
        }
    }
    Ok(())
}

/// Keeps every page that was touched, and will be, from being swapped out.
///
/// # Errors
/// EPERM or ENOMEM with neither `CAP_IPC_LOCK` nor an unlimited `RLIMIT_MEMLOCK`; nothing is locked
/// then, so that starting a thread can't fail later for want of lockable memory.
pub fn lock_memory() -> io::Result<()> {
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit outlives the call.
    let unlimited = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all) } == 0;
    let refused = io::Error::last_os_error();
    // Raising a limit takes CAP_SYS_RESOURCE; for who has CAP_IPC_LOCK there is no limit.
    if !unlimited && crate::process::missing_capabilities().contains(&"CAP_IPC_LOCK") {
        return Err(refused);
    }
    // It costs memory only.
    let _ = let_go_of_code();
    // SAFETY: changes how the kernel treats our pages, not what they hold.
    let result =
        unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Names the calling thread for `ps` and `top`; at most 15 bytes are kept.
pub fn name_thread(name: &str) {
    if let Ok(name) = CString::new(name) {
        // Only a name: nothing depends on it.
        let _ = rustix::thread::set_name(&name);
    }
}

/// The CPU that the calling thread runs on.
#[must_use]
pub fn cpu() -> usize {
    rustix::thread::sched_getcpu()
}

/// A thread of this process, to say where it may run.
#[derive(Clone, Copy, Debug)]
pub struct Thread(rustix::thread::Pid);

impl Thread {
    /// The calling thread.
    #[must_use]
    pub fn this() -> Self {
        Self(rustix::thread::gettid())
    }

    /// Lets it run on `cpus` only. A thread that waits for a CPU which it may not use any more goes
    /// to another one at once (sched(7)).
    ///
    /// # Errors
    /// EINVAL when it may use none of them, ESRCH when it has ended.
    pub fn allow(self, cpus: &Cpus) -> io::Result<()> {
        Ok(rustix::thread::sched_setaffinity(Some(self.0), &cpus.0)?)
    }
}

/// A set of CPUs.
#[derive(Clone, Debug)]
pub struct Cpus(rustix::thread::CpuSet);

impl Cpus {
    /// Those that the calling thread may use.
    ///
    /// # Errors
    /// EINVAL on a machine with more than 1,024 of them.
    pub fn allowed() -> io::Result<Self> {
        Ok(Self(rustix::thread::sched_getaffinity(None)?))
    }

    /// One alone.
    #[must_use]
    pub fn only(cpu: usize) -> Self {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        Self(set)
    }

    /// These without one.
    #[must_use]
    pub fn without(&self, cpu: usize) -> Self {
        let mut set = self.0;
        set.unset(cpu);
        Self(set)
    }

    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.count()
    }
}
