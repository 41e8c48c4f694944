//! nginx on this host: found without being told, watched by its master's pidfd, asked over HTTP.
//!
//! ```text
//! discover ── masters in /proc, else what is installed ── build (`-V`) ── glob + config::nginx
//!    │ Survey: binary, configuration, pid file, listeners
//!    ▼
//! watch ─┬─ pidfd fires → pid file again → successor: an upgrade │ none: Dead, at once
//!        ├─ each interval: pid file, workers, state of the configuration file → survey again
//!        └─ each interval: probe a listener that is local now, else judge by workers and sockets
//! ```

pub(crate) mod build;
mod discover;
pub(crate) mod local;
pub(crate) mod nonlocal;
mod probe;
mod restart;
mod watch;

use std::net::IpAddr;
use std::path::PathBuf;

use standin_config::model::{Cluster, Nginx};
pub(crate) use standin_config::nginx::Flavour;
use standin_config::nginx::NginxConfig;
pub(crate) use standin_linux::glob::glob;
use standin_linux::process::PidFd;

pub(crate) use discover::{is_master, read_config};
pub(crate) use watch::watch;

/// What starts it where systemd does.
pub(crate) const START: &str = "systemctl enable --now nginx";

/// SIGHUP: nginx reads its files anew and replaces its workers.
const HANGUP: i32 = 1;

/// Has a master do that; false if it has gone, also if another process has its number by now.
pub(crate) fn reload(master: u32) -> bool {
    PidFd::open(master).is_ok_and(|process| is_master(master) && process.signal(HANGUP).is_ok())
}

/// What is known of nginx, for status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NginxView {
    /// `None` until a binary has been asked.
    pub(crate) flavour: Option<Flavour>,
    pub(crate) version: Option<String>,
    pub(crate) binary: Option<PathBuf>,
    /// nginx's main configuration file.
    pub(crate) conf: Option<PathBuf>,
    /// Its own (`-p`), where relative names begin.
    pub(crate) prefix: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    /// `None`: it doesn't run.
    pub(crate) master: Option<u32>,
    /// The systemd unit that is the master's own.
    pub(crate) unit: Option<String>,
    pub(crate) workers: Vec<u32>,
    /// Workers that run on without a master; they answer, but can't be reloaded or restarted.
    pub(crate) orphans: Vec<u32>,
    /// What is asked over HTTP.
    pub(crate) probe: Option<String>,
    /// Why nothing is asked over HTTP; then master, workers and sockets decide.
    pub(crate) no_probe: Option<String>,
    /// What was done about `ip_nonlocal_bind`, or why it couldn't be.
    pub(crate) nonlocal: Option<String>,
    pub(crate) notes: Vec<String>,
    /// UDP ports on which it speaks HTTP/3.
    pub(crate) quic_ports: Vec<u16>,
}

/// What the watch must know of this host and this cluster.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Addresses that are on one node at a time.
    pub(crate) vips: Vec<IpAddr>,
    /// Whether files of another node may come at any time, which may listen on a VIP.
    pub(crate) shared: bool,
    /// Where `ip_nonlocal_bind` is set for the next boot.
    pub(crate) sysctl_drop_in: PathBuf,
}

impl Places {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let prefixes = cluster.vips.iter().flat_map(|vip| &vip.addresses);
        Self {
            vips: prefixes.map(|prefix| prefix.address()).collect(),
            shared: cluster.sync.is_some(),
            sysctl_drop_in: PathBuf::from(nonlocal::DROP_IN),
        }
    }
}

/// nginx as `standin check` sees it, at one time.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) binary: Option<PathBuf>,
    pub(crate) conf: Option<PathBuf>,
    pub(crate) prefix: PathBuf,
    pub(crate) config: NginxConfig,
    /// The running master.
    pub(crate) master: Option<u32>,
    pub(crate) notes: Vec<String>,
}

/// Looks once, without changing anything.
pub(crate) async fn find(section: &Nginx) -> Found {
    let survey = discover::survey(section, None, None).await;
    Found {
        binary: survey.binary,
        conf: survey.conf,
        prefix: survey.prefix,
        config: survey.config,
        master: survey.master,
        notes: survey.notes,
    }
}

#[cfg(test)]
mod tests;
