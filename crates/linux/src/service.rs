//! Which systemd service a process belongs to, and whether the service is that process's own.

use std::fs;
use std::path::Path;

use crate::{clock, process};

/// Where the hierarchy that systemd keeps is mounted: alone, beside the old ones, or as one of these.
const MOUNTS: &[&str] = &["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"];

/// Parents of parents that are asked for; deeper than any service starts what it runs.
const GENERATIONS: usize = 32;

/// `USER_HZ`, on every architecture that Linux has left.
const TICKS_PER_SECOND: u64 = 100;

/// A command beside a start that takes longer hangs.
const BESIDE_A_START_S: u64 = 30;

/// The service whose end would end the process; `None` without systemd, or for what runs in a session.
#[must_use]
pub fn around(pid: u32) -> Option<String> {
    Some(place_of(pid)?.1)
}

/// The service that the process runs for: one whose restart restarts it, and nothing else.
///
/// A daemon stays in the service of whoever started it: cron's, a configuration agent's, standin's. Such a
/// service holds processes that have nothing to do with it. `kin` says of a process of no relation that it
/// belongs here all the same, as the workers that an earlier master has left.
#[must_use]
pub fn of_its_own(pid: u32, kin: &dyn Fn(u32) -> bool) -> Option<String> {
    let (path, service) = place_of(pid)?;
    let listed = MOUNTS.iter().find_map(|mount| {
        let listed = fs::read_to_string(format!("{mount}{path}/cgroup.procs")).ok()?;
        let members: Vec<u32> = listed.lines().filter_map(|line| line.parse().ok()).collect();
        members.contains(&pid).then_some(members)
    });
    // A cgroup that can't be looked into is believed by its name.
    let stranger = |other: &u32| {
        if !stays(*other, pid) {
            return false;
        }
        let related =
            descends(*other, pid, &process::parent) || descends(pid, *other, &process::parent);
        !related && !kin(*other)
    };
    let strangers = listed.is_some_and(|members| members.iter().any(stranger));
    (!strangers).then_some(service)
}

/// Whether it was there before the process, or has been there for long: what systemd runs beside a start
/// (`ExecStartPost=`) is neither.
fn stays(other: u32, pid: u32) -> bool {
    let (Some(began), Some(of_pid)) =
        (process::start_time_ticks(other), process::start_time_ticks(pid))
    else {
        return false;
    };
    let now = clock::now().as_nanos() / (1_000_000_000 / TICKS_PER_SECOND);
    began < of_pid || now.saturating_sub(began) > BESIDE_A_START_S * TICKS_PER_SECOND
}

fn place_of(pid: u32) -> Option<(String, String)> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let (path, service) = place_in(&cgroups)?;
    Some((path.to_owned(), service.to_owned()))
}

/// `0::/system.slice/nginx.service`, or with the old hierarchy `1:name=systemd:/system.slice/…`.
fn place_in(cgroups: &str) -> Option<(&str, &str)> {
    let path = cgroups.lines().find_map(|line| {
        line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path))
    })?;
    let service = path.split('/').rev().find(|part| part.ends_with(".service"))?;
    // All that a person runs on a desktop is in this one.
    (!service.starts_with("user@")).then_some((path, service))
}

fn descends(child: u32, from: u32, parent: &dyn Fn(u32) -> Option<u32>) -> bool {
    let line = std::iter::successors(Some(child), |pid| parent(*pid));
    line.take(GENERATIONS).any(|pid| pid == from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_read_from_both_hierarchies() {
        let service = |text: &str| place_in(text).map(|(_, service)| service.to_owned());
        assert_eq!(service("0::/system.slice/nginx.service\n").as_deref(), Some("nginx.service"));
        let old = "4:memory:/x.service\n1:name=systemd:/system.slice/angie.service/sub\n";
        assert_eq!(service(old).as_deref(), Some("angie.service"));
        assert_eq!(service("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        assert_eq!(
            service("0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope\n"),
            None
        );
    }

    #[test]
    fn who_was_there_before_stays_and_who_has_just_come_may_go() {
        let own = std::process::id();
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // A tick of the clock that both are told by.
        while process::start_time_ticks(sleeper.id()) == process::start_time_ticks(own) {
            sleeper.kill().and_then(|()| sleeper.wait()).unwrap();
            sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        }
        assert!(stays(own, sleeper.id()));
        assert!(!stays(sleeper.id(), own));
        sleeper.kill().and_then(|()| sleeper.wait()).unwrap();
        assert!(!stays(sleeper.id(), own), "it has gone");
    }

    #[test]
    fn relation_goes_by_parents_and_ends() {
        // 1 started 10 and 20; 10 started 11, which started 12. 30 and 31 are a circle.
        let parent = |pid: u32| match pid {
            12 => Some(11),
            11 => Some(10),
            10 | 20 => Some(1),
            30 => Some(31),
            31 => Some(30),
            _ => None,
        };
        assert!(descends(12, 10, &parent) && descends(10, 10, &parent));
        assert!(!descends(10, 12, &parent) && !descends(20, 10, &parent));
        assert!(!descends(30, 10, &parent));
    }
}
