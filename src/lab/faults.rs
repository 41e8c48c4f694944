//! The faults of a drill: what each does to the cluster and what must come of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use standin_config::model::Cluster;

use super::cluster::{Lab, Victim};
use super::{daemon, nginx};

/// Below this, scheduling on a busy machine is what one measures.
const SHORTEST_BOUND: Duration = Duration::from_millis(100);

/// "Put back in place": within 10 ms, seen through a client that asks every 2 ms.
const PUT_BACK: Duration = Duration::from_millis(15);

/// While the VIP moves between two nodes that hear each other.
const OVERLAP: Duration = Duration::from_millis(50);

/// No VIP outlives its daemon for longer.
const VIP_OUTLIVES_DAEMON: Duration = Duration::from_secs(3);

/// From the cure on, the second failure of two must not come before the first is dealt with.
const FIRST_OF_TWO_WITHIN: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    NginxKilled,
    NginxHung,
    HostCut,
    HostSevered,
    HostDied,
    DaemonStopped,
    DaemonKilled,
    VipDeleted,
    NginxUpgraded,
    SwitchedOver,
    AllNginxDead,
    TwoInARow,
}

/// Where the VIP must be at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// On another node than before.
    Elsewhere,
    /// Where it was, and nowhere else meanwhile.
    Unmoved,
    /// On one node, whichever.
    OnOne,
}

/// What must come of a fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// The longest time without an answer; `None` where there can be no answer.
    pub(super) outage: Option<Duration>,
    /// The longest time with two holders among nodes that are connected.
    pub(super) overlap: Duration,
    pub(super) ends: Ends,
    /// What is seen earlier than this says nothing.
    pub(super) watch_for: Duration,
}

impl Fault {
    pub(super) const ALL: [Self; 12] = [
        Self::NginxKilled,
        Self::NginxHung,
        Self::HostCut,
        Self::HostSevered,
        Self::HostDied,
        Self::DaemonStopped,
        Self::DaemonKilled,
        Self::VipDeleted,
        Self::NginxUpgraded,
        Self::SwitchedOver,
        Self::AllNginxDead,
        Self::TwoInARow,
    ];

    /// What `--only` takes.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NginxKilled => "nginx-killed",
            Self::NginxHung => "nginx-hung",
            Self::HostCut => "host-cut",
            Self::HostSevered => "host-severed",
            Self::HostDied => "host-died",
            Self::DaemonStopped => "daemon-stopped",
            Self::DaemonKilled => "daemon-killed",
            Self::VipDeleted => "vip-deleted",
            Self::NginxUpgraded => "nginx-upgraded",
            Self::SwitchedOver => "switched-over",
            Self::AllNginxDead => "all-nginx-dead",
            Self::TwoInARow => "two-in-a-row",
        }
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::NginxKilled => "nginx killed, master and workers",
            Self::NginxHung => "nginx hung (SIGSTOP)",
            Self::HostCut => "host's cable pulled",
            Self::HostSevered => "host cut off behind its switch port, healed",
            Self::HostDied => "host dead at once (power cut)",
            Self::DaemonStopped => "daemon stopped (SIGTERM)",
            Self::DaemonKilled => "daemon killed (SIGKILL)",
            Self::VipDeleted => "VIP deleted by hand",
            Self::NginxUpgraded => "nginx upgraded (USR2, QUIT)",
            Self::SwitchedOver => "planned switchover",
            Self::AllNginxDead => "nginx dead on all nodes",
            Self::TwoInARow => "nginx killed, then the next node cut",
        }
    }

    /// # Errors
    /// With the names that there are.
    pub(super) fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|fault| fault.name() == name);
        found.with_context(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|fault| fault.name()).collect();
            format!("no fault is called `{name}`; there are {}", known.join(", "))
        })
    }

    /// Whether a cluster of that many nodes can be expected to survive it.
    pub(super) const fn suits(self, nodes: usize) -> bool {
        match self {
            Self::TwoInARow => nodes >= 3,
            _ => nodes >= 2,
        }
    }

    pub(super) fn expected(self, cluster: &Cluster) -> Expected {
        let slowest = cluster.vips.iter().map(|vip| vip.advert_interval.as_duration()).max();
        let advert = slowest.unwrap_or(Duration::from_millis(100));
        // Released with priority 0: a backup waits its skew, less than one interval.
        let released = advert.max(SHORTEST_BOUND);
        // Three intervals and the skew.
        let silent = (4 * advert).max(SHORTEST_BOUND);
        let probe = cluster.nginx.as_ref().map(|nginx| nginx.cadence);
        let found_hung =
            probe.map_or(Duration::ZERO, |it| it.interval * u32::from(it.fall) + it.timeout);
        let second = Duration::from_secs(1);
        // Who was seen to have the VIP by a heartbeat is believed until three questions are unanswered.
        let heartbeats = cluster.vips.iter().any(|vip| !vip.heartbeat.is_empty());
        let believed = if heartbeats { second } else { Duration::ZERO };
        let moved = |outage: Duration| Expected {
            outage: Some(outage),
            overlap: OVERLAP,
            ends: Ends::Elsewhere,
            watch_for: second + outage,
        };
        match self {
            Self::NginxKilled | Self::DaemonStopped => moved(released),
            Self::NginxHung => moved(found_hung + 2 * advert),
            Self::HostCut | Self::HostSevered | Self::HostDied | Self::TwoInARow => moved(silent),
            Self::DaemonKilled => Expected {
                overlap: VIP_OUTLIVES_DAEMON,
                watch_for: VIP_OUTLIVES_DAEMON + believed + second,
                ..moved(silent + believed)
            },
            Self::VipDeleted => Expected {
                outage: Some(PUT_BACK),
                overlap: Duration::ZERO,
                ends: Ends::Unmoved,
                watch_for: second,
            },
            Self::NginxUpgraded => Expected {
                outage: Some(Duration::ZERO),
                overlap: Duration::ZERO,
                ends: Ends::Unmoved,
                watch_for: 2 * second,
            },
            Self::SwitchedOver => moved(Duration::ZERO),
            Self::AllNginxDead => Expected {
                outage: None,
                overlap: OVERLAP.max(advert),
                ends: Ends::OnOne,
                // Silent for one master-down interval, then one more until it has come to rest.
                watch_for: 2 * silent + 2 * second,
            },
        }
    }

    /// Does it to `active`; hands back the nodes that need repair.
    pub(super) fn inject(self, lab: &mut Lab, active: usize) -> Result<Vec<usize>> {
        match self {
            Self::NginxKilled => lab.kill(active, Victim::Nginx)?,
            Self::NginxHung => lab.hang(active)?,
            Self::HostCut => lab.cut(active)?,
            Self::HostSevered => lab.sever(active)?,
            Self::HostDied => lab.kill(active, Victim::Host)?,
            Self::DaemonStopped => lab.terminate_daemon(active)?,
            Self::DaemonKilled => lab.kill(active, Victim::Daemon)?,
            Self::VipDeleted => lab.delete_vips(active)?,
            Self::NginxUpgraded => nginx::upgrade(lab.host(active)?)?,
            Self::SwitchedOver => {
                // Other nodes may have others of the VIPs.
                let vips = lab.cluster.vips.iter().zip(lab.active());
                let held = vips.filter(|(_, holders)| holders.contains(&active));
                let held: Vec<String> = held.map(|(vip, _)| vip.name.clone()).collect();
                for vip in held {
                    daemon::switch_over(lab.host(active)?, &vip)?;
                }
                return Ok(Vec::new());
            }
            Self::AllNginxDead => {
                for node in 0..lab.count() {
                    lab.kill(node, Victim::Nginx)?;
                }
                return Ok((0..lab.count()).collect());
            }
            Self::TwoInARow => {
                lab.kill(active, Victim::Nginx)?;
                let second = next_active(lab, active)?;
                lab.cut(second)?;
                return Ok(vec![active, second]);
            }
        }
        Ok(vec![active])
    }

    /// Undoes it on the nodes that [`Self::inject`] named.
    pub(super) fn repair(self, lab: &mut Lab, hurt: &[usize]) -> Result<()> {
        let mut stopped = Ok(());
        for &node in hurt {
            if self == Self::DaemonStopped
                && let Err(error) = lab.await_daemon_end(node)
            {
                // The faults that follow need a daemon that works.
                lab.kill(node, Victim::Daemon)?;
                stopped = Err(error);
            }
            lab.heal(node)?;
            lab.start(node)?;
        }
        stopped
    }

    /// Whether `node`, hurt by it, still shares the network with the others.
    pub(super) fn leaves_connected(self) -> bool {
        !matches!(self, Self::HostCut | Self::HostSevered | Self::HostDied | Self::TwoInARow)
    }
}

/// Waits until a node other than `first` alone holds every VIP, and a moment longer.
fn next_active(lab: &Lab, first: usize) -> Result<usize> {
    let deadline = Instant::now() + FIRST_OF_TWO_WITHIN;
    loop {
        if let Some([node]) = lab.active().first().map(Vec::as_slice)
            && *node != first
        {
            std::thread::sleep(Duration::from_millis(500));
            return Ok(*node);
        }
        if Instant::now() > deadline {
            bail!("the first of two failures was not survived: no other node took the VIP");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
