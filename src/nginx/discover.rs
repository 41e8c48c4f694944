//! Finds nginx: the running master, its binary and configuration; else what is installed.

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use standin_config::model::Nginx;
use standin_config::nginx::title::{self, Arguments, Title};
use standin_config::nginx::{self as files, Build, NginxConfig};
use standin_linux::glob::glob;
use standin_linux::process as system;

use super::local::is_local;
use super::{build, restart};
use crate::checks::process::pid_in;

/// Where nginx and its forks are installed, the packaged ones first.
const BINARIES: &[&str] = &[
    "/usr/sbin/nginx",
    "/usr/local/nginx/sbin/nginx",
    "/usr/local/openresty/nginx/sbin/nginx",
    "/usr/sbin/angie",
    "/usr/local/angie/sbin/angie",
    "/usr/local/tengine/sbin/nginx",
    "/usr/local/sbin/nginx",
    "/opt/nginx/sbin/nginx",
    "/usr/sbin/freenginx",
];

/// More masters than this on one host are told apart by `binary` and `conf`, not by looking.
const MASTERS: usize = 16;

/// What was found out about nginx, at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    pub(crate) binary: Option<PathBuf>,
    /// The state of the binary on disk when it was asked for its version.
    pub(crate) binary_stamp: Option<Stamp>,
    pub(crate) build: Option<Build>,
    pub(crate) prefix: PathBuf,
    pub(crate) conf: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) config: NginxConfig,
    /// The state of the configuration file that was read.
    pub(crate) stamp: Option<Stamp>,
    pub(crate) master: Option<u32>,
    /// What the master was started with by `-g`.
    pub(crate) globals: Option<String>,
    /// The systemd unit that is the master's own.
    pub(crate) unit: Option<String>,
    /// What the master has bound; `None` when that can't be seen.
    pub(crate) bound: Option<Vec<SocketAddr>>,
    /// Workers whose master is gone; `None` when a master was known and nobody looked for them.
    pub(crate) orphans: Option<Vec<u32>>,
    /// What a person should know: other masters, a binary that isn't run, files that can't be read.
    pub(crate) notes: Vec<String>,
}

/// Tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    pub(crate) fn of(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok()?;
        Some(Self { inode: found.ino(), size: found.len(), modified: found.modified().ok() })
    }
}

/// A running master.
#[derive(Clone, Debug)]
struct Master {
    pid: u32,
    of_root: bool,
    arguments: Arguments,
    /// `None` where the kernel doesn't tell: then the title's first word.
    executable: Option<PathBuf>,
}

/// The binary and files of one nginx.
#[derive(Clone, Debug, Default)]
struct Home {
    binary: Option<PathBuf>,
    build: Option<Build>,
    prefix: PathBuf,
    conf: Option<PathBuf>,
    notes: Vec<String>,
}

/// Looks around. `known` is the master that is watched already; `earlier` saves asking `-V` again.
pub(crate) async fn survey(
    section: &Nginx,
    known: Option<u32>,
    earlier: Option<&Survey>,
) -> Survey {
    let (masters, orphans) = match known.and_then(master) {
        Some(known) => (vec![known], None),
        None => {
            let (masters, orphans) = aside(running).await;
            (masters, Some(orphans))
        }
    };
    let mut candidates = Vec::new();
    let mut strangers = Vec::new();
    for master in masters {
        let home = home_of(section, Some(&master), None, earlier).await;
        if fits(section, &home) {
            candidates.push((master, home));
        } else {
            strangers.extend(home.conf.map(|conf| (master.pid, conf)));
        }
    }
    let Choice { chosen, mut others } = aside(|| choose(candidates)).await;
    others.extend(strangers);
    let home = match &chosen {
        Some((_, home)) => home.clone(),
        None => installed(section, earlier).await,
    };
    let chosen = chosen.map(|(master, _)| master);
    let mut survey = aside(move || read(home, chosen, orphans)).await;
    if !others.is_empty() {
        let listed: Vec<String> =
            others.iter().map(|(pid, conf)| format!("{pid} ({})", conf.display())).collect();
        survey.notes.push(format!(
            "other nginx masters run here: {}; to watch one of them, set conf or binary in [nginx]",
            listed.join(", ")
        ));
    }
    survey
}

/// Reads the configuration and what the master has bound; slow disks are waited for here.
fn read(home: Home, master: Option<Master>, orphans: Option<Vec<u32>>) -> Survey {
    let Home { binary, build, prefix, conf, notes } = home;
    let mut survey = Survey { binary, build, prefix, conf, orphans, notes, ..Survey::default() };
    survey.binary_stamp = survey.binary.as_deref().and_then(Stamp::of);
    if let Some(conf) = &survey.conf {
        survey.stamp = Stamp::of(conf);
        survey.config = files::read(conf, &open, &glob);
        if let Some(problem) = survey.config.problems.first() {
            survey.notes.push(problem.to_string());
        }
    }
    let by_hand = master.as_ref().and_then(|master| master.arguments.global("pid"));
    let pid_file = by_hand.map(PathBuf::from).or_else(|| survey.config.pid.clone());
    let pid_file = pid_file.or_else(|| survey.build.as_ref().map(|build| build.pid_path.clone()));
    survey.pid_file = pid_file.map(|file| survey.prefix.join(file));
    if let Some(master) = master {
        survey.bound = system::listening_tcp(master.pid).ok();
        survey.unit = restart::unit_of(master.pid);
        survey.globals = master.arguments.globals;
        survey.master = Some(master.pid);
    }
    survey
}

/// The configuration with this main file, as it lies on disk; slow disks are waited for.
pub(crate) fn read_config(conf: &Path) -> NginxConfig {
    files::read(conf, &open, &glob)
}

/// The bytes of a configuration file; anything but a file could wait for ever.
fn open(file: &Path) -> io::Result<Vec<u8>> {
    let mut opened = fs::File::open(file)?;
    if !opened.metadata()?.is_file() {
        return Err(io::Error::other("this is no file"));
    }
    let mut bytes = Vec::new();
    opened.by_ref().take(files::MAX_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What is installed, when nothing runs. Of several that are, the one comes first that can't start
/// on this host now, since it listens on an address that is elsewhere.
async fn installed(section: &Nginx, earlier: Option<&Survey>) -> Home {
    if section.binary.is_some() {
        return home_of(section, None, section.binary.clone(), earlier).await;
    }
    let mut homes = Vec::new();
    for binary in BINARIES.iter().map(PathBuf::from).filter(|path| path.is_file()) {
        homes.push(home_of(section, None, Some(binary), earlier).await);
    }
    if homes.len() < 2 {
        return homes.pop().unwrap_or_default();
    }
    aside(move || {
        let configured = |home: &Home| home.conf.as_deref().is_some_and(Path::is_file);
        let waits = |home: &Home| {
            let listens = home.conf.as_deref().map(|conf| files::read(conf, &open, &glob).listens);
            let mut addresses = listens.iter().flatten().filter_map(files::Listen::ip);
            addresses.any(|address| !is_local(address))
        };
        homes.into_iter().min_by_key(|home| (!waits(home), !configured(home))).unwrap_or_default()
    })
    .await
}

/// A binary that was copied is compiled for another place than where it is: what was copied with it
/// stands beside it.
fn copied(binary: &Path, build: &Build) -> Option<PathBuf> {
    let place = binary.parent().filter(|it| it.ends_with("sbin"))?.parent()?;
    let beside = place.join("conf/nginx.conf").is_file();
    // What lies in /usr/sbin is a package's.
    (beside && !binary.starts_with(&build.prefix) && place != Path::new("/usr"))
        .then(|| place.to_owned())
}

/// Binary, build and paths of a running master, or of a `binary` that is installed.
async fn home_of(
    section: &Nginx,
    master: Option<&Master>,
    binary: Option<PathBuf>,
    earlier: Option<&Survey>,
) -> Home {
    let mut home = Home::default();
    let arguments = master.map(|master| master.arguments.clone()).unwrap_or_default();
    let started = master.and_then(|master| {
        master
            .executable
            .clone()
            .or_else(|| Some(arguments.program.clone()).filter(|program| program.is_absolute()))
    });
    home.binary = started.or(binary).or_else(|| section.binary.clone());
    if let Some(binary) = &home.binary {
        match build_of(binary, earlier).await {
            Ok(build) => home.build = Some(build),
            Err(why) => home.notes.push(why),
        }
    }
    let compiled = home.build.as_ref();
    let alone = master.is_none().then_some(home.binary.as_deref()).flatten();
    let copied = alone.zip(compiled).and_then(|(binary, build)| copied(binary, build));
    home.prefix = match (&arguments.prefix, &copied, compiled) {
        (Some(given), _, _) => absolute(given, master),
        (None, Some(place), _) => place.clone(),
        (None, None, Some(build)) => build.prefix.clone(),
        (None, None, None) => PathBuf::from("/"),
    };
    home.conf = match (&arguments.conf, &section.conf) {
        (Some(given), _) => Some(home.prefix.join(given)),
        (None, Some(said)) if master.is_none() => Some(said.clone()),
        (None, None) if copied.is_some() => Some(home.prefix.join("conf/nginx.conf")),
        _ => compiled.map(|build| build.conf_path.clone()).or_else(|| section.conf.clone()),
    };
    home
}

async fn build_of(binary: &Path, earlier: Option<&Survey>) -> Result<Build, String> {
    if let Some(Survey { binary: Some(before), build: Some(build), binary_stamp, .. }) = earlier
        && before == binary
        && *binary_stamp == Stamp::of(binary)
    {
        return Ok(build.clone());
    }
    build::ask(binary).await
}

/// A path that the master was given relative to where it was started.
fn absolute(path: &Path, master: Option<&Master>) -> PathBuf {
    if path.is_absolute() {
        return path.to_owned();
    }
    let start = master.and_then(|master| fs::read_link(format!("/proc/{}/cwd", master.pid)).ok());
    start.unwrap_or_else(|| PathBuf::from("/")).join(path)
}

/// Whether this is the nginx that the section means.
fn fits(section: &Nginx, home: &Home) -> bool {
    let same = |a: &Path, b: &Path| {
        a == b
            || fs::canonicalize(a).ok().is_some_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
    };
    let agrees = |said: &Option<PathBuf>, found: &Option<PathBuf>| match (said, found) {
        (Some(said), Some(found)) => same(said, found),
        _ => true,
    };
    agrees(&section.binary, &home.binary) && agrees(&section.conf, &home.conf)
}

/// Does what may be slow on another thread.
async fn aside<T: Default + Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // Nothing here panics, and a runtime that is shut down asks for nothing more.
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// The nginx that is watched, and the masters that aren't, each with its configuration.
#[derive(Debug, Default)]
struct Choice {
    chosen: Option<(Master, Home)>,
    others: Vec<(u32, PathBuf)>,
}

/// The best candidate is root's and named by its own pid file.
fn choose(candidates: Vec<(Master, Home)>) -> Choice {
    let named = |master: &Master, home: &Home| {
        let survey_pid = master.arguments.global("pid").map(PathBuf::from);
        let config_pid = home.conf.as_deref().and_then(|conf| files::read(conf, &open, &glob).pid);
        let compiled = home.build.as_ref().map(|build| build.pid_path.clone());
        let file = survey_pid.or(config_pid).or(compiled);
        file.is_some_and(|file| pid_in(&home.prefix.join(file)) == Ok(master.pid))
    };
    let alone = candidates.len() == 1;
    let best = candidates
        .iter()
        .enumerate()
        .min_by_key(|(place, (master, home))| {
            (!master.of_root, !alone && !named(master, home), *place)
        })
        .map(|(place, _)| place);
    let mut chosen: Option<(Master, Home)> = None;
    let mut others = Vec::new();
    for (place, (master, home)) in candidates.into_iter().enumerate() {
        if Some(place) == best {
            chosen = Some((master, home));
        } else if let Some(conf) = home.conf {
            others.push((master.pid, conf));
        }
    }
    // Two masters of one configuration are an upgrade under way.
    let mine = chosen.as_ref().and_then(|(_, home)| home.conf.clone());
    others.retain(|(_, conf)| Some(conf) != mine.as_ref());
    Choice { chosen, others }
}

/// Every master on this host, root's first, and the workers that have none.
fn running() -> (Vec<Master>, Vec<u32>) {
    let mut masters = Vec::new();
    let mut orphans = Vec::new();
    for pid in system::all_pids() {
        match system::title(pid).as_deref().and_then(Title::parse) {
            Some(Title::Master(_)) if is_here(pid) => masters.extend(master(pid)),
            Some(Title::Worker { .. }) if !has_master(pid) && is_here(pid) => orphans.push(pid),
            _ => {}
        }
    }
    masters.sort_by_key(|master| (!master.of_root, master.pid));
    masters.truncate(MASTERS);
    (masters, orphans)
}

fn has_master(worker: u32) -> bool {
    system::parent(worker).is_some_and(is_master)
}

fn master(pid: u32) -> Option<Master> {
    if !is_master(pid) {
        return None;
    }
    let arguments = match system::title(pid).as_deref().and_then(Title::parse) {
        Some(Title::Master(arguments)) => arguments,
        _ => Arguments::default(),
    };
    let of_root = fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == 0);
    Some(Master { pid, of_root, arguments, executable: system::executable(pid).ok() })
}

/// Whether this process is an nginx that isn't a worker: also one that just started, or works alone.
pub(crate) fn is_master(pid: u32) -> bool {
    match system::title(pid).as_deref().and_then(Title::parse) {
        Some(title) => matches!(title, Title::Master(_)),
        None => system::name(pid).is_some_and(|name| is_its_name(&name)),
    }
}

/// `nginx`, or packages' `nginx-debug`; what else begins so is another program, an exporter say.
fn is_its_name(name: &str) -> bool {
    title::NAMES.contains(&name.strip_suffix("-debug").unwrap_or(name))
}

/// The worker processes among a master's children; itself with `master_process off`.
pub(crate) fn workers(master: u32, children: &[u32]) -> Vec<u32> {
    let workers: Vec<u32> = children.iter().copied().filter(|pid| is_worker(*pid)).collect();
    let alone = workers.is_empty()
        && system::title(master).is_some_and(|title| Title::parse(&title).is_none());
    if alone { vec![master] } else { workers }
}

/// Whether this process is any part of an nginx.
pub(super) fn is_nginx(pid: u32) -> bool {
    is_master(pid) || system::title(pid).as_deref().and_then(Title::parse).is_some()
}

pub(crate) fn is_worker(pid: u32) -> bool {
    matches!(system::title(pid).as_deref().and_then(Title::parse), Some(Title::Worker { .. }))
}

/// Whether a process is this host's: not a container's that the host can see.
///
/// Mount namespaces don't tell: under systemd with PrivateTmp each service has its own.
fn is_here(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    if numbers.is_some_and(|numbers| numbers.split_ascii_whitespace().count() > 1) {
        return false;
    }
    let network = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
    // Without CAP_SYS_PTRACE this can't be seen; the process ids have spoken.
    match (network(&pid.to_string()), network("thread-self")) {
        (Some(theirs), Some(ours)) => theirs == ours,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exporter_is_no_nginx() {
        // As a pid file of before the last boot may name it; its HTTP port would answer for nginx.
        for (name, is) in [
            ("nginx", true),
            ("nginx-debug", true),
            ("openresty", true),
            ("nginx-exporter", false),
            ("nginx_exporter", false),
            ("nginx-prometheu", false),
            ("angie-agent", false),
        ] {
            assert_eq!(is_its_name(name), is, "{name}");
        }
    }
}
