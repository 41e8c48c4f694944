//! What this process may do, and what the kernel can.

use standin_config::Diagnostic;

use super::{codes, listed};
use crate::preflight::facts::Facts;

/// pidfd_open(2), 5.3, and polling it; 5.4 is the first kernel with long support that has both.
const OLDEST_KERNEL: (u32, u32) = (5, 4);

const AS_ROOT: &str = "run it as root, or from its systemd unit, which grants what is needed";

pub(super) fn judge(facts: &Facts, found: &mut Vec<Diagnostic>) {
    capabilities(facts, found);
    kernel(facts, found);
}

fn capabilities(facts: &Facts, found: &mut Vec<Diagnostic>) {
    let missing = |name: &&str| facts.missing_capabilities.contains(name);
    let network: Vec<&str> = ["CAP_NET_ADMIN", "CAP_NET_RAW"].into_iter().filter(missing).collect();
    if !network.is_empty() {
        let lost: Vec<&str> = network
            .iter()
            .map(|name| match *name {
                "CAP_NET_RAW" => "adverts can't be sent or heard",
                _ => "addresses can't be added",
            })
            .collect();
        found.push(
            Diagnostic::error(
                codes::NO_RAW_SOCKETS,
                format!("missing privileges: {}: {}", listed(&network), listed(lost)),
            )
            .help(AS_ROOT),
        );
    }
    let late = [
        ("CAP_SYS_NICE", "no realtime priority, so that a busy machine sends its adverts late"),
        ("CAP_IPC_LOCK", "memory isn't locked, so that swapping makes adverts late"),
    ];
    for (name, lost) in late.iter().filter(|(name, _)| missing(name)) {
        found.push(
            Diagnostic::warning(codes::NOT_ON_TIME, format!("missing privilege: {name}: {lost}"))
                .help(format!(
                    "{AS_ROOT}\nwithout it use adverts of 100 ms or slower: a few late ones are a takeover"
                )),
        );
    }
    if let (Some(why), false) = (&facts.realtime_refused, missing(&"CAP_SYS_NICE")) {
        found.push(
            Diagnostic::warning(
                codes::NO_REALTIME,
                format!("the kernel refuses realtime scheduling ({why}): a busy machine sends its adverts late"),
            )
            .help(
                "this cgroup has no realtime budget (RT_GROUP_SCHED): start it in the root cpu cgroup, or give \
                 its cgroup a cpu.rt_runtime_us\nwithout it use adverts of 100 ms or slower",
            ),
        );
    }
}

fn kernel(facts: &Facts, found: &mut Vec<Diagnostic>) {
    let mut numbers = facts.kernel.split(['.', '-', '+']).map_while(|part| part.parse().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { return };
    if (major, minor) >= OLDEST_KERNEL {
        return;
    }
    found.push(
        Diagnostic::error(
            codes::OLD_KERNEL,
            format!(
                "kernel {} is too old: standin needs {}.{}, to see at once that nginx has died (pidfd)",
                facts.kernel, OLDEST_KERNEL.0, OLDEST_KERNEL.1
            ),
        )
        .help("install a newer kernel: Debian 11, Ubuntu 20.04 and RHEL 9 have one, and later ones"),
    );
}
