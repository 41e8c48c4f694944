//! Children of the daemon: as which user they run, and how a whole group of them is ended.

use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::{Gid, Uid};
use rustix::process::{Pid, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// A user with all of the groups that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl User {
    /// Looks the user up, as login would; this may read files or ask a directory service.
    ///
    /// # Errors
    /// `NotFound` for no such user; what the name service says.
    pub fn named(name: &str) -> io::Result<Self> {
        let user = nix::unistd::User::from_name(name)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such user"))?;
        let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
        let groups = nix::unistd::getgrouplist(&name, user.gid)?;
        Ok(Self { uid: user.uid, gid: user.gid, groups })
    }

    /// The user that owns nothing, 65534 on every Linux.
    #[must_use]
    pub fn nobody() -> Self {
        const NOBODY: u32 = 65534;
        let gid = Gid::from_raw(NOBODY);
        Self { uid: Uid::from_raw(NOBODY), gid, groups: vec![gid] }
    }

    /// The user that a process runs as.
    ///
    /// # Errors
    /// What `/proc` says; `NotFound` for no such process.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        // Real, effective, saved and for files; the groups are a list.
        let numbers = |name: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().map(|word| word.parse().ok()).collect()
        };
        let effective = |name: &str| numbers(name)?.get(1).copied();
        let (uid, gid) = (effective("Uid:"), effective("Gid:"));
        let groups = numbers("Groups:").unwrap_or_default().into_iter().map(Gid::from_raw);
        match (uid, gid) {
            (Some(uid), Some(gid)) => {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                Ok(Self { uid, gid, groups: groups.collect() })
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    #[must_use]
    pub const fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    #[must_use]
    pub const fn gid(&self) -> u32 {
        self.gid.as_raw()
    }

    /// Lets a command that is yet to be spawned run as this user, without any capability.
    pub fn applies_to(&self, command: &mut Command) {
        let Self { uid, gid, groups } = self.clone();
        // SAFETY: between fork and exec only setgroups, setresgid and setresuid are called, which
        // are async-signal-safe; the groups were allocated before the fork.
        unsafe {
            command.pre_exec(move || {
                // A daemon that isn't root may stay who it is, and nothing else.
                let already = rustix::process::geteuid().as_raw() == uid.as_raw();
                if already && uid.as_raw() != 0 {
                    return Ok(());
                }
                nix::unistd::setgroups(&groups)?;
                nix::unistd::setresgid(gid, gid, gid)?;
                nix::unistd::setresuid(uid, uid, uid)?;
                Ok(())
            });
        }
    }

    /// Lets a command that is yet to be spawned run as this user, in a session of its own, with the
    /// right to read every file and no other, and none that it could gain.
    ///
    /// Spawning fails with `PermissionDenied` where the caller itself hasn't `CAP_DAC_READ_SEARCH`.
    pub fn reads_all_in(&self, command: &mut Command) {
        let Self { uid, gid, groups } = self.clone();
        let reads = CapabilitySet::DAC_READ_SEARCH;
        // SAFETY: between fork and exec only setsid, setgroups, setresgid, setresuid, prctl and capset
        // are called, which are async-signal-safe; the groups were allocated before the fork.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                nix::unistd::setgroups(&groups)?;
                nix::unistd::setresgid(gid, gid, gid)?;
                rustix::thread::set_keep_capabilities(true)?;
                nix::unistd::setresuid(uid, uid, uid)?;
                rustix::thread::set_capabilities(
                    None,
                    CapabilitySets { effective: reads, permitted: reads, inheritable: reads },
                )?;
                // What is ambient outlives the exec.
                rustix::thread::configure_capability_in_ambient_set(reads, true)?;
                rustix::thread::set_no_new_privs(true)?;
                Ok(())
            });
        }
    }
}

/// Kills every process of a process group.
///
/// # Errors
/// `ESRCH` when nobody is left in it; `InvalidInput` for 0 and 1, which mean others.
pub fn kill_group(leader: u32) -> io::Result<()> {
    let group = i32::try_from(leader).ok().filter(|group| *group > 1).and_then(Pid::from_raw);
    let group = group.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::kill_process_group(group, Signal::KILL)?)
}
