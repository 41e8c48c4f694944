//! Promises 3, 8 and 9, and the guard's part of 2.
//!
//! 3: nothing of a daemon is on its host 50 ms after it was killed, 150 ms after it was stopped, and 3 s
//! after its guard had gone, too; the time that the kernel takes for others is added. 8: a daemon that runs
//! and has nothing on the host has changed no setting. 9: the node's own address is there whenever its
//! operator wants it there. 2: a daemon that died is started again, at once if it had lived.

use crate::clock::Nanos;
use crate::host::Host;
use crate::machine::{Machine, Run};
use crate::scene::Scene;

#[derive(Debug, Default)]
pub struct Hosts {
    looked_at: Nanos,
}

impl Hosts {
    #[must_use]
    pub fn due(&self, scene: &Scene) -> Nanos {
        let all = scene.hosts.iter().flat_map(|hosts| &hosts.all);
        let times = all.flat_map(|host| [host.down.map(crate::host::Down::over), host.restart_by]);
        times.flatten().filter(|at| *at > self.looked_at).min().unwrap_or(Nanos::MAX)
    }

    pub fn look(&mut self, scene: &Scene) -> Option<String> {
        self.looked_at = scene.now;
        let hosts = scene.hosts.as_ref()?;
        scene.machines.iter().zip(&hosts.all).find_map(|(machine, host)| {
            let what = unlike(scene.now, machine, host);
            what.map(|(promise, what)| format!("{promise}: {} {what}", machine.name))
        })
    }
}

fn unlike(now: Nanos, machine: &Machine, host: &Host) -> Option<(&'static str, String)> {
    if machine.own_present && machine.powered && !host.kernel.has_own() {
        return Some(("P9", "has lost its own address".to_owned()));
    }
    let down = host.down.filter(|down| down.over() <= now);
    if let Some((down, key)) = down.zip(host.kernel.ours().next())
        && !matches!(machine.run, Run::Suspended { .. })
    {
        let after = (now - down.since) / 1_000;
        let bound = down.bound / 1_000;
        return Some((
            "P3",
            format!("has {} {after} us after its end, {bound} us is the bound", key.1),
        ));
    }
    if machine.running()
        && machine.node.is_some()
        && !machine.stopping
        && host.at_rest()
        && let Some((path, is, meant)) = host.kernel.changed()
    {
        return Some(("P8", format!("holds nothing, and {path} is {is}, not {meant}")));
    }
    let late = host.restart_by.is_some_and(|by| by <= now) && machine.run == Run::Off;
    late.then(|| ("P2", "has a guard that starts no other daemon".to_owned()))
}
