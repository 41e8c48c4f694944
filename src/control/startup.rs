//! From a command line to a node that may start: the file, this node, its interface, its lock.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use standin_config::{Cluster, Diagnostic, Loaded};
use standin_core::plan::Plan;
use standin_linux::forward;
use standin_linux::netlink::Rtnl;
use standin_linux::process;

use super::Paths;
use super::history::{self, History, HistoryFile};
use super::log::{Log, Severity};
use crate::cli::SOCKET;
use crate::exit::Exit;
use crate::preflight;

/// A daemon that was killed may hold its lock for so long: it ends when the disk has answered.
const DYING: Duration = Duration::from_secs(2);

/// How often it is looked whether it has ended.
const LOOK_AT_LOCK: Duration = Duration::from_millis(20);

/// The node's own address is looked for this often until it is there.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// While it waits, the log says so this often.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Half of what the unit's WatchdogSec= says, or of this.
const WATCHDOG: Duration = Duration::from_secs(10);

/// The group that may talk to the daemon.
const GROUP: &str = "standin";

/// A node that didn't start, and what to tell the operator.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn because(exit: Exit, text: &str) -> Self {
        Self { exit, text: format!("error: {text}\n") }
    }
}

/// A file that was read, and what it means on this machine.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) cluster: Cluster,
    pub(crate) node: String,
    pub(crate) plan: Plan,
    /// Rendered, where there are any.
    pub(crate) warnings: Option<String>,
    /// SHA-256 of the file, hexadecimal.
    pub(crate) sha256: String,
    /// To show places in the file with.
    source: standin_config::Source,
}

pub(super) struct Ready {
    pub(super) chosen: Chosen,
    pub(super) log: Log,
    /// Without a file events are kept in memory only.
    pub(super) history: (History, Option<HistoryFile>),
    pub(super) socket: UnixListener,
    /// Held for as long as the daemon lives.
    pub(super) lock: File,
}

/// Everything that can fail is done here, before anything is touched on the host.
pub(super) fn prepare(paths: &Paths, log: &Log) -> Result<Ready, Refusal> {
    let missing = process::missing_capabilities();
    let fatal: Vec<_> =
        missing.iter().filter(|name| name.starts_with("CAP_NET")).copied().collect();
    if !fatal.is_empty() {
        let text = format!(
            "missing privileges: {}. Run it as root or from its systemd unit",
            fatal.join(", ")
        );
        return Err(Refusal::because(Exit::BadHost, &text));
    }
    let failed = |what: &str, path: &Path, error: &io::Error| {
        Refusal::because(Exit::Failed, &format!("{what} {}: {error}", path.display()))
    };
    let run_dir = &paths.run_dir;
    fs::create_dir_all(run_dir).map_err(|error| failed("can't make", run_dir, &error))?;
    let lock_path = paths.run_dir.join("lock");
    let lock = lock(&lock_path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Refusal::because(
            Exit::Running,
            &format!(
                "another standin runs here already ({} is locked); stop it first: systemctl stop \
                 standin",
                lock_path.display()
            ),
        ),
        _ => failed("can't lock", &lock_path, &error),
    })?;
    let chosen = wait_for_address(paths, log)?;
    refuse_beside_keepalived(&chosen)?;
    let log = Log::open(&chosen.cluster.log, &[])
        .map_err(|error| Refusal::because(Exit::BadFile, &error.to_string()))?;
    if let Some(warnings) = &chosen.warnings {
        warnings.lines().for_each(|line| log.line(Severity::Warning, None, line));
    }
    let events = history::file_in(&paths.state_dir);
    let opened = fs::create_dir_all(&paths.state_dir).and_then(|()| History::open(&events));
    let history = match opened {
        Ok((history, file)) => (history, Some(file)),
        Err(error) => {
            let text = format!(
                "events are kept only in memory, and gone at the next stop: {}: {error}",
                events.display()
            );
            log.line(Severity::Error, None, &text);
            (History::in_memory(), None)
        }
    };
    remove_tables(&log);
    let socket_path = paths.run_dir.join(SOCKET);
    let socket =
        listen(&socket_path).map_err(|error| failed("can't listen on", &socket_path, &error))?;
    Ok(Ready { chosen, log, history, socket, lock })
}

/// Kernels since 5.12 remove the tables of a switchover with the program that made them.
fn remove_tables(log: &Log) {
    let (severity, text) = match forward::remove_leftovers() {
        Ok(tables) if tables.is_empty() => return,
        Ok(tables) => {
            let names: Vec<_> = tables.iter().map(ToString::to_string).collect();
            let names = names.join(" and ");
            (
                Severity::Warning,
                format!("removed nftables table {names}, left by an earlier standin"),
            )
        }
        Err(error) => (
            Severity::Warning,
            format!(
                "can't look for nftables tables that an earlier standin left ({error}): look for \
                 {}… in: nft list tables",
                forward::PREFIX
            ),
        ),
    };
    log.line(severity, None, &text);
}

/// Two daemons that claim one router id on one host would fight for ever.
fn refuse_beside_keepalived(chosen: &Chosen) -> Result<(), Refusal> {
    let facts = preflight::keepaliveds();
    let Some(me) = chosen.cluster.node(&chosen.node) else { return Ok(()) };
    // The text is only for places that this finding doesn't need.
    let subject = preflight::Subject { cluster: &chosen.cluster, me, text: "" };
    let found = preflight::rivals(&subject, &facts);
    if found.is_empty() {
        return Ok(());
    }
    let text = standin_config::render(&found, std::slice::from_ref(&chosen.source), false);
    Err(Refusal { exit: Exit::BadHost, text })
}

/// At boot the network may come later than standin: an address that isn't here yet is waited for,
/// a file that is wrong isn't.
fn wait_for_address(paths: &Paths, log: &Log) -> Result<Chosen, Refusal> {
    let mut said: Option<Instant> = None;
    loop {
        let read = read(&paths.file)?;
        let local = process::local_addresses().unwrap_or_default();
        match choose_from(read, paths.node.as_deref(), &local) {
            Err(Unfit::NotHereYet(text)) => {
                if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
                    said = Some(Instant::now());
                    log.line(Severity::Warning, None, &text);
                    // systemd shows it in `systemctl status`.
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&text)]);
                }
                std::thread::sleep(LOOK_AGAIN);
            }
            Err(Unfit::Never(refusal)) => return Err(refusal),
            Ok(chosen) => return Ok(chosen),
        }
    }
}

/// Reads the file as it is now for this machine as it is now.
pub(crate) fn choose(paths: &Paths, node: Option<&str>) -> Result<Chosen, Refusal> {
    let read = read(&paths.file)?;
    let local = process::local_addresses().unwrap_or_default();
    choose_from(read, node.or(paths.node.as_deref()), &local).map_err(|unfit| match unfit {
        Unfit::NotHereYet(text) => Refusal::because(Exit::BadHost, &text),
        Unfit::Never(refusal) => refusal,
    })
}

/// Why a cluster file can't be this node's.
pub(crate) enum Misfit {
    Found(Vec<Diagnostic>),
    Said(String),
}

/// Whether the node would start with this file, as far as the file goes.
///
/// # Errors
/// What is wrong.
pub(crate) fn fits(cluster: &Cluster, node: &str) -> Result<(), Misfit> {
    let local = process::local_addresses().unwrap_or_default();
    let found = |one: Diagnostic| Misfit::Found(vec![one]);
    let name = cluster.find_self(Some(node), &process::hostname(), &local).map_err(found)?;
    let addresses = cluster.node(&name).map_or_else(Vec::new, |node| node.addresses.clone());
    let interface = interface_of(&addresses).unwrap_or_default();
    if interface.is_empty() && cluster.vips.iter().any(|vip| vip.interface.is_none()) {
        let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let text =
            format!("no interface of this host has node {name}'s address {}", list.join(" or "));
        return Err(Misfit::Said(text));
    }
    cluster.plan(&name, &interface).map(drop).map_err(Misfit::Found)?;
    // What it would log to must be there.
    Log::try_open(&cluster.log).map_err(|error| Misfit::Said(error.to_string()))
}

enum Unfit {
    /// It may become right by waiting.
    NotHereYet(String),
    Never(Refusal),
}

fn choose_from(
    Read { cluster, loaded, sha256 }: Read,
    node: Option<&str>,
    local: &[IpAddr],
) -> Result<Chosen, Unfit> {
    let show = |diagnostics: &[Diagnostic]| {
        standin_config::render(diagnostics, std::slice::from_ref(&loaded.source), false)
    };
    let never = |diagnostics: &[Diagnostic]| {
        Unfit::Never(Refusal { exit: Exit::BadFile, text: show(diagnostics) })
    };
    let name = cluster.find_self(node, &process::hostname(), local).map_err(|diagnostic| {
        if node.is_some() || cluster.any_is_local(local) {
            return never(&[diagnostic]);
        }
        // Only an address tells a node that comes up from a machine that is none.
        Unfit::NotHereYet(format!(
            "waiting: {}; no address of any node is on this host: give it its own, or correct the file",
            diagnostic.message
        ))
    })?;
    let addresses = cluster.node(&name).map_or_else(Vec::new, |node| node.addresses.clone());
    let interface = interface_of(&addresses).unwrap_or_default();
    let given = cluster.vips.iter().all(|vip| vip.interface.is_some());
    if interface.is_empty() && !given {
        let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        return Err(Unfit::NotHereYet(format!(
            "waiting: no interface of this host has node {name}'s address {}; give the host that \
             address, or correct the file",
            list.join(" or ")
        )));
    }
    let plan = cluster.plan(&name, &interface).map_err(|diagnostics| never(&diagnostics))?;
    let warnings = Some(show(&loaded.diagnostics)).filter(|text| !text.is_empty());
    Ok(Chosen { cluster, node: name, plan, warnings, sha256, source: loaded.source })
}

/// Reads and judges the cluster file; its faults are the refusal's text.
pub(crate) fn read_file(path: &Path) -> Result<(Cluster, Loaded), Refusal> {
    read(path).map(|Read { cluster, loaded, .. }| (cluster, loaded))
}

/// A file without errors.
struct Read {
    cluster: Cluster,
    loaded: Loaded,
    sha256: String,
}

/// The bytes of a cluster file, and one more where it is too large to be one: what was named may have
/// no end.
///
/// # Errors
/// As open(2) and read(2).
pub(crate) fn bytes_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = standin_config::MAX_FILE_BYTES as u64 + 1;
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<Read, Refusal> {
    let bytes = bytes_of(path).map_err(|error| {
        let mend = match error.kind() {
            io::ErrorKind::NotFound => {
                "; `standin init` makes one, `standin join` fetches the cluster's, -f names another"
            }
            _ => "",
        };
        let text = format!("can't read the cluster file {}: {error}{mend}", path.display());
        Refusal::because(Exit::BadFile, &text)
    })?;
    let mut loaded = standin_config::load_bytes(&path.display().to_string(), &bytes);
    match loaded.model.take() {
        Some(cluster) => Ok(Read { cluster, loaded, sha256: crate::link::hash(&bytes) }),
        None => Err(Refusal { exit: Exit::BadFile, text: loaded.render(false) }),
    }
}

/// The interface that carries one of the addresses.
fn interface_of(addresses: &[IpAddr]) -> Option<String> {
    let mut rtnl = Rtnl::open().ok()?;
    let carriers = rtnl.addresses().ok()?;
    let index = addresses.iter().find_map(|wanted| {
        carriers.iter().find(|one| one.prefix.address() == *wanted).map(|one| one.index)
    })?;
    rtnl.links().ok()?.into_iter().find(|link| link.index == index).map(|link| link.name)
}

/// A lock that ends with the process, unlike a pid file.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    hold(&file)?;
    Ok(file)
}

/// Locks `file`, and waits for a daemon that is dying.
///
/// # Errors
/// [`fs::TryLockError::WouldBlock`] when a daemon lives.
pub(crate) fn hold(file: &File) -> Result<(), fs::TryLockError> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) if began.elapsed() < DYING => {
                std::thread::sleep(LOOK_AT_LOCK);
            }
            done => return done,
        }
    }
}

/// The lock says that a socket file in the way is nobody's.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    if let Some(group) = standin_linux::group::id(GROUP) {
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// How often systemd's watchdog is fed.
pub(super) fn watchdog_interval() -> Duration {
    // Not sd_notify's own reading: systemd means its main process, which is the guard.
    let limit = std::env::var("WATCHDOG_USEC").ok().and_then(|limit| limit.parse().ok());
    let half = limit.map_or(WATCHDOG, |limit: u64| Duration::from_micros(limit / 2));
    half.max(Duration::from_millis(1))
}
