//! `[nginx] restart = true`: one try to start a dead nginx again before the VIP is given away.

use std::path::Path;
use std::time::Duration;

use standin_linux::process::PidFd;
use standin_linux::service;

use super::discover::{self, Survey};
use crate::checks::Outcome;
use crate::checks::script::{Script, Starts};

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
    let command = match command(survey, service::around(std::process::id()).as_deref()) {
        Ok(command) => command,
        Err(why) => return Outcome::fail(format!("not started again: {why}")),
    };
    dismiss(orphans).await;
    let script = Script { command, user: None, timeout: START_WITHIN, starts: Starts::default() };
    script.run_with(&[]).await
}

/// By its unit, where it has one: systemd must not find an nginx that isn't its own. In `service`, which is
/// standin's, nothing is started that is to outlive it; nor may anything there bind a low port.
fn command(survey: &Survey, service: Option<&str>) -> Result<Vec<String>, String> {
    if let Some(unit) = &survey.unit {
        return Ok(["/usr/bin/systemctl", "restart", unit].map(str::to_owned).to_vec());
    }
    if let Some(service) = service {
        return Err(format!(
            "nginx has no systemd unit of its own, and what is started here would end with {service}; mend: \
             give nginx a unit"
        ));
    }
    let unknown = || "it is not known how it was started".to_owned();
    let shown = |path: &Path| path.display().to_string();
    let mut command = vec![shown(survey.binary.as_deref().ok_or_else(unknown)?)];
    command.extend(["-p".to_owned(), shown(&survey.prefix)]);
    command.extend(["-c".to_owned(), shown(survey.conf.as_deref().ok_or_else(unknown)?)]);
    if let Some(globals) = &survey.globals {
        command.extend(["-g".to_owned(), globals.clone()]);
    }
    Ok(command)
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

/// The systemd unit that is this master's.
pub(super) fn unit_of(master: u32) -> Option<String> {
    service::of_its_own(master, &discover::is_nginx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_standin_starts_is_never_left_in_a_service_that_is_not_nginx_s() {
        let mut survey = Survey {
            binary: Some("/usr/sbin/nginx".into()),
            conf: Some("/etc/nginx/nginx.conf".into()),
            prefix: "/usr/share/nginx".into(),
            ..Survey::default()
        };
        let by_hand = "/usr/sbin/nginx -p /usr/share/nginx -c /etc/nginx/nginx.conf";
        assert_eq!(command(&survey, None).unwrap().join(" "), by_hand);
        let why = command(&survey, Some("standin.service")).unwrap_err();
        assert!(why.contains("would end with standin.service"), "{why}");
        survey.unit = Some("nginx.service".to_owned());
        let by_unit = command(&survey, Some("standin.service")).unwrap().join(" ");
        assert_eq!(by_unit, "/usr/bin/systemctl restart nginx.service");
    }
}
