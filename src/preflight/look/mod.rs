//! Gathers the facts: reads, listens, asks; changes nothing.

mod commands;
mod keepalived;
mod network;
mod nginx;
mod own;
mod scripts;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use standin_config::Cluster;
use standin_config::model::{CheckKind, ProcessBy};
use standin_core::Verdict;
use standin_core::types::Family;
use standin_linux::forward::{self, Refusal};
use standin_linux::{process, sched, sysctl};

use super::facts::{Facts, Inotify};
use super::judge::Subject;
use super::words;
use crate::checks;
use crate::engine::REALTIME_PRIORITY;

pub(crate) use wire::lasting;

pub(crate) const SYSLOG_SOCKET: &str = "/dev/log";
pub(crate) const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// Directories counted for inotify: nobody's limit is higher by default.
const DIRECTORIES: usize = 1_000_000;

/// How often a witness is looked for: one packet may get lost.
const LOOKS: usize = 3;

/// How long to listen for adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// Long enough to hear every sender of the VIPs' intervals, and one of 1 s.
    AsNeeded,
    /// Zero: nobody on the wire is listened to or asked.
    For(Duration),
    /// Nor is nginx run to test its files: as a daemon looks, for another file of the same host.
    Never,
}

/// This host's name and addresses: which node it is.
/// Only what a rival on this host needs: who runs, and which interface has which address.
pub(crate) fn keepaliveds() -> Facts {
    let mut facts = Facts { keepaliveds: keepalived::running(), ..Facts::default() };
    if !facts.keepaliveds.is_empty() {
        network::look(&mut facts);
    }
    facts
}

/// The host's name and addresses.
pub(crate) fn local() -> (String, Vec<IpAddr>) {
    (process::hostname(), process::local_addresses().unwrap_or_default())
}

/// Everything that can be seen of this host; of the cluster what `subject` needs.
pub(crate) async fn here(subject: Option<&Subject<'_>>, state_dir: &Path, listen: Listen) -> Facts {
    let mut facts = Facts {
        kernel: sysctl::read("kernel/osrelease").unwrap_or_default(),
        missing_capabilities: process::missing_capabilities(),
        realtime_refused: realtime(),
        keepaliveds: keepalived::running(),
        ..Facts::default()
    };
    network::look(&mut facts);
    let Some(subject) = subject else { return facts };
    if subject.vips().any(|vip| vip.virtual_mac) {
        network::virtual_mac(&mut facts);
    }
    let vips: Vec<IpAddr> = subject
        .cluster
        .vips
        .iter()
        .flat_map(|vip| vip.addresses.iter().map(|prefix| prefix.address()))
        .collect();
    facts.mentions = network::mentions(&vips);
    let plan = wire::Plan::of(subject, &facts, listen);
    // Listening takes a second or more; the rest is looked at meanwhile.
    let listening = tokio::task::spawn_blocking(move || plan.listen());
    match commands::ruleset().await {
        Ok(ruleset) => facts.firewall = ruleset,
        Err(why) => facts.unseen.push(why),
    }
    facts.no_second_chance = no_second_chance(&vips);
    if let Some(section) = &subject.cluster.nginx {
        let sync = subject.cluster.sync.as_ref();
        let (nginx, prefix) = nginx::look(section, &vips, sync).await;
        let tested = match listen {
            Listen::Never => Ok(None),
            _ => nginx::test(&nginx, &prefix).await,
        };
        let nginx = facts.nginx.insert(nginx);
        match tested {
            Ok(refusal) => nginx.refusal = refusal,
            Err(why) => facts.unseen.push(why),
        }
    }
    scripts::look(subject.cluster, &mut facts);
    facts.absent = absent(subject.cluster);
    facts.api_refused = subject.cluster.api.listen.and_then(api);
    facts.own = own::look(subject, state_dir);
    if !matches!(listen, Listen::Never | Listen::For(Duration::ZERO)) {
        facts.unwitnessed = unwitnessed(subject).await;
    }
    facts.inotify = inotify(subject.cluster, &facts);
    match listening.await {
        Ok(Ok(wire)) => facts.wire = wire,
        Ok(Err(why)) => facts.unseen.push(why),
        Err(error) => facts.unseen.push(format!("the network couldn't be listened to: {error}")),
    }
    facts
}

/// Tried in a transaction that is never made; it takes a few milliseconds.
fn no_second_chance(vips: &[IpAddr]) -> Vec<(Family, String)> {
    let families = Family::BOTH.into_iter();
    let families = families.filter(|family| vips.iter().any(|vip| Family::of(*vip) == *family));
    families
        .filter_map(|family| {
            let refusal = forward::probe(family).err().filter(Refusal::is_unsupported)?;
            Some((family, refusal.to_string()))
        })
        .collect()
}

/// Tried on a thread that ends at once.
fn realtime() -> Option<String> {
    let tried = std::thread::spawn(|| sched::realtime(REALTIME_PRIORITY)).join().ok()?;
    tried.err().map(|error| words(&error))
}

/// What the file needs and this host hasn't got, of directories and sockets.
fn absent(cluster: &Cluster) -> Vec<PathBuf> {
    let of_checks = cluster.checks.iter().filter_map(|check| match &check.kind {
        CheckKind::Process(ProcessBy::Pidfile(file)) => file.parent(),
        CheckKind::File { path } => path.parent(),
        _ => None,
    });
    let of_log = cluster.log.file.iter().filter_map(|file| file.parent());
    let sockets = [SYSLOG_SOCKET, JOURNAL_SOCKET].map(Path::new);
    let all = of_checks.chain(of_log).chain(sockets);
    all.filter(|path| !path.exists()).map(Path::to_owned).collect()
}

/// All at once: those that don't answer take their time.
async fn unwitnessed(subject: &Subject<'_>) -> BTreeMap<String, String> {
    let mut asked = tokio::task::JoinSet::new();
    let is_witness = |name: &str| subject.vips().any(|vip| vip.witness.iter().any(|it| it == name));
    for check in subject.cluster.checks.iter().filter(|check| is_witness(&check.name)).cloned() {
        asked.spawn(async move {
            let mut seen = None;
            for _ in 0..LOOKS {
                let outcome = checks::once(&check).await?;
                if outcome.verdict == Verdict::Pass {
                    return None;
                }
                seen = Some((check.name.clone(), outcome.detail));
            }
            seen
        });
    }
    asked.join_all().await.into_iter().flatten().collect()
}

/// Why the API can't listen there; a standin that does so already is no reason.
fn api(listen: std::net::SocketAddr) -> Option<String> {
    own::refusal(listen, &TcpListener::bind(listen).err()?)
}

fn inotify(cluster: &Cluster, facts: &Facts) -> Option<Inotify> {
    let sync = cluster.sync.as_ref()?;
    let number = |name: &str| sysctl::read(&format!("fs/inotify/{name}")).ok()?.parse().ok();
    let of_nginx = facts.nginx.iter().filter_map(|nginx| nginx.conf.as_deref()?.parent());
    let mut roots: Vec<PathBuf> = sync.paths.iter().chain(&sync.also).cloned().collect();
    if sync.paths.is_empty() {
        roots.extend(of_nginx.map(Path::to_owned));
    }
    Some(Inotify {
        directories: directories(roots),
        max_user_watches: number("max_user_watches")?,
        max_user_instances: number("max_user_instances")?,
    })
}

/// The directories of these trees, with the roots themselves; links are not followed.
fn directories(mut ahead: Vec<PathBuf>) -> usize {
    let mut count = 0;
    while let Some(folder) = ahead.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        count += 1;
        if count >= DIRECTORIES {
            break;
        }
        let below =
            entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        ahead.extend(below.map(|entry| entry.path()));
    }
    count
}
