//! `[nginx] restart = true`: one try to start a dead nginx again before the VIP is given away.

use std::fs;
use std::path::Path;
use std::time::Duration;

use standin_linux::process::PidFd;

use super::discover::{self, Survey};
use crate::checks::Outcome;
use crate::checks::script::Script;

/// Clients wait this long at most before another node answers; a small nginx starts in 30 ms.
const START_WITHIN: Duration = Duration::from_secs(1);

/// How long workers without a master get to close their sockets before they are killed.
const ORPHANS_LEAVE_WITHIN: Duration = Duration::from_millis(200);

/// A second death within this time is no accident: somebody else has the VIP then.
pub(super) const NOT_AGAIN_WITHIN: Duration = Duration::from_secs(60);

const TERM: i32 = 15;
const KILL: i32 = 9;

/// Ends the orphans, which hold the sockets, and starts nginx as it was started before.
pub(super) async fn restart(survey: &Survey, orphans: &[u32]) -> Outcome {
    let Some(command) = command(survey) else {
        return Outcome::fail("not started again: it is not known how it was started");
    };
    dismiss(orphans).await;
    let script = Script { command, user: None, timeout: START_WITHIN };
    script.run_with(&[]).await
}

/// By its unit, where it has one: systemd must not find an nginx that isn't its own.
fn command(survey: &Survey) -> Option<Vec<String>> {
    if let Some(unit) = &survey.unit {
        return Some(["/usr/bin/systemctl", "restart", unit].map(str::to_owned).to_vec());
    }
    let shown = |path: &Path| path.display().to_string();
    let mut command = vec![shown(survey.binary.as_deref()?)];
    command.extend(["-p".to_owned(), shown(&survey.prefix)]);
    command.extend(["-c".to_owned(), shown(survey.conf.as_deref()?)]);
    if let Some(globals) = &survey.globals {
        command.extend(["-g".to_owned(), globals.clone()]);
    }
    Some(command)
}

async fn dismiss(orphans: &[u32]) {
    // Opened before it is looked at: the number can't come to mean another in between.
    let open = |pid: &u32| PidFd::open(*pid).ok().filter(|_| discover::is_worker(*pid));
    let workers: Vec<PidFd> = orphans.iter().filter_map(open).collect();
    let signal = |signal| {
        for worker in workers.iter().filter(|worker| worker.alive()) {
            // It has gone by itself otherwise.
            let _gone_already = worker.signal(signal);
        }
    };
    signal(TERM);
    let all_gone = async {
        while workers.iter().any(PidFd::alive) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(ORPHANS_LEAVE_WITHIN, all_gone).await.is_err() {
        signal(KILL);
    }
}

/// The systemd unit that a process belongs to.
pub(super) fn unit_of(pid: u32) -> Option<String> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    unit_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// `0::/system.slice/nginx.service`, or with the old hierarchy `1:name=systemd:/system.slice/…`.
fn unit_in(cgroups: &str) -> Option<String> {
    let path = cgroups.lines().find_map(|line| {
        line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path))
    })?;
    let unit = path.split('/').rev().find(|part| part.ends_with(".service"))?;
    Some(unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_read_from_both_hierarchies() {
        let new = "0::/system.slice/nginx.service\n";
        assert_eq!(unit_in(new).as_deref(), Some("nginx.service"));
        let old = "4:memory:/x.service\n1:name=systemd:/system.slice/angie.service/sub\n";
        assert_eq!(unit_in(old).as_deref(), Some("angie.service"));
        assert_eq!(unit_in("0::/user.slice/session-1.scope\n"), None);
    }
}
