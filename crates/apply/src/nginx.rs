//! The nginx that is changed: its master, its workers, as `/proc` shows them.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use standin_config::nginx::title::Title;
use standin_linux::process::{self as system, PidFd};

/// A pid file holds a number and a line end.
const PID_FILE_BYTES: u64 = 64;

/// A running nginx, or one that would run.
#[derive(Clone, Debug, Default)]
pub struct Nginx {
    /// `None`: it doesn't run; then it is tested with `binary`, and nothing can be proven.
    pub master: Option<u32>,
    /// As the master sees it; it may name a newer master by now.
    pub pid_file: Option<PathBuf>,
    /// What is run where no master tells: to test, and to start again.
    pub binary: Option<PathBuf>,
    /// Its main file and where relative names begin (`-c`, `-p`), where no master tells; else what the
    /// program was built with.
    pub conf: Option<PathBuf>,
    pub prefix: Option<PathBuf>,
    /// The systemd unit that it belongs to, for a restart.
    pub unit: Option<String>,
}

/// A master that is held, so that its number can't come to mean another process.
#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) pid: u32,
    pub(crate) fd: PidFd,
    /// Clock ticks since boot.
    pub(crate) started: u64,
}

impl Nginx {
    /// Holds the master that a signal has to go to: the one that the pid file names, else the known
    /// one.
    ///
    /// # Errors
    /// In words, when there is none.
    pub(crate) fn hold(&self) -> Result<Master, String> {
        let Some(known) = self.master else {
            return Err("nginx doesn't run".to_owned());
        };
        let named = self.pid_file.as_deref().and_then(|file| pid_in(known, file));
        let named = named.and_then(|pid| outside(known, pid)).filter(|pid| *pid != known);
        if let Some(master) = named.and_then(Master::hold) {
            return Ok(master);
        }
        Master::hold(known).ok_or_else(|| format!("nginx doesn't run: master {known} is gone"))
    }
}

impl Master {
    pub(crate) fn hold(pid: u32) -> Option<Self> {
        // Opened first and looked at then: the number can't have come to mean another since.
        let fd = PidFd::open(pid).ok()?;
        let started = system::start_time_ticks(pid)?;
        (is_master(pid) && fd.alive()).then_some(Self { pid, fd, started })
    }

    /// The processes that it has started.
    pub(crate) fn family(&self) -> Family {
        let mut family = Family::default();
        for pid in system::children_listed(self.pid) {
            match system::title(pid).as_deref().and_then(Title::parse) {
                Some(Title::Worker { leaving: false }) => family.workers.push(pid),
                Some(Title::Worker { leaving: true }) => family.leaving.push(pid),
                Some(Title::Master(_)) => family.heirs.push(pid),
                Some(Title::Other) | None => {}
            }
        }
        family
    }
}

/// The children of a master.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) workers: Vec<u32>,
    /// Workers that finish what they have and go.
    pub(crate) leaving: Vec<u32>,
    /// Masters of a new binary (USR2).
    pub(crate) heirs: Vec<u32>,
}

pub(crate) fn is_master(pid: u32) -> bool {
    matches!(system::title(pid).as_deref().and_then(Title::parse), Some(Title::Master(_)))
}

/// Opens a file as `pid` would, also through links that are absolute in its own root.
pub(crate) fn open_as(pid: u32, path: &Path) -> io::Result<fs::File> {
    let root = fs::File::open(format!("/proc/{pid}/root"))?;
    // Anything but a file could wait for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    Ok(fs::File::from(opened))
}

fn pid_in(master: u32, file: &Path) -> Option<u32> {
    let mut text = String::new();
    open_as(master, file).ok()?.take(PID_FILE_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}

/// The numbers of a process: ours first, its own last.
fn numbers(of: u32) -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{of}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().map(|word| word.parse().ok()).collect()
}

/// The number that a process knows itself by, in a container another one than ours.
pub(crate) fn own_number(pid: u32) -> Option<u32> {
    numbers(pid)?.last().copied()
}

/// Our number of a process whose number in the process namespace of `like` is `pid`.
fn outside(like: u32, pid: u32) -> Option<u32> {
    if numbers(like)?.len() == 1 {
        return Some(pid);
    }
    let space = |of: u32| fs::read_link(format!("/proc/{of}/ns/pid")).ok();
    let theirs = space(like)?;
    let fits = |of: u32| {
        space(of).as_ref() == Some(&theirs) && numbers(of).is_some_and(|it| it.last() == Some(&pid))
    };
    system::all_pids().into_iter().find(|of| fits(*of))
}
