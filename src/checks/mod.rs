//! The checks of this node: each is a task that probes on schedule and reports what it saw.
//!
//! ```text
//! start ─┬─ schedule ── http │ tcp │ script │ file │ interface │ route │ ping   (one per check)
//!        ├─ process  ── pid file or name → pidfd: a death is said at once
//!        └─ nginx::watch ── master's pidfd, HTTP probe, workers, sockets        (see `crate::nginx`)
//!                 └── every result → Board → the sink (the core) and `live` (status)
//! ```
//! Whether a result changes anything (rise, fall) is the core's business, never decided here.

mod host;
pub(crate) mod http;
mod ping;
pub(crate) mod process;
pub(crate) mod schedule;
pub(crate) mod script;
pub(crate) mod trust;

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use standin_config::model::{Cadence, Check, CheckKind, Cluster, NGINX_CHECK, ProcessBy};
use standin_core::Verdict;
use standin_core::plan::Plan;
use standin_core::types::CheckId;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::nginx::{self, NginxView};
use crate::vital::vital;

/// A detail is one line of a status table, not a log.
const DETAIL_BYTES: usize = 300;

/// What one probe saw.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) check: CheckId,
    pub(crate) verdict: Verdict,
    /// One line for a person, at most 300 bytes.
    pub(crate) detail: String,
}

/// Where results go; called on the runtime's thread, so it must not block.
pub(crate) trait Sink: Fn(Report) + Send + Sync + Clone + 'static {}

impl<F: Fn(Report) + Send + Sync + Clone + 'static> Sink for F {}

/// A check as status shows it.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) name: String,
    /// The word of the cluster file: `http`, `script`, … or `nginx`.
    pub(crate) kind: &'static str,
    /// What it looks at.
    pub(crate) target: String,
    /// `None` before the first result.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) detail: String,
    /// The last 4 KiB of what the script said in the last run; empty for other kinds.
    pub(crate) output: String,
    pub(crate) took: Duration,
    /// When the last result came.
    pub(crate) when: Option<SystemTime>,
    /// Results so far.
    pub(crate) runs: u64,
    /// Results so far that were no pass.
    pub(crate) failures: u64,
}

/// What one probe found, before it is anybody's report.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) detail: String,
    /// What a script said, the end of it.
    pub(crate) output: String,
}

impl Outcome {
    pub(crate) fn pass(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Pass, detail: detail.into(), output: String::new() }
    }

    pub(crate) fn fail(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, detail: detail.into(), output: String::new() }
    }

    pub(crate) fn dead(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Dead, detail: detail.into(), output: String::new() }
    }

    pub(crate) fn with_output(self, output: String) -> Self {
        Self { output, ..self }
    }
}

/// The checks under way; dropping it ends them and what they started.
#[derive(Debug)]
pub(crate) struct Running {
    board: Board,
    tasks: Vec<JoinHandle<()>>,
    nginx: Option<Arc<Mutex<NginxView>>>,
}

impl Running {
    /// Every check, in the order of the plan.
    #[must_use]
    pub(crate) fn live(&self) -> Vec<Live> {
        locked(&self.board.live).clone()
    }

    /// What is known of nginx; `None` without `[nginx]`.
    #[must_use]
    pub(crate) fn nginx(&self) -> Option<NginxView> {
        self.nginx.as_ref().map(|view| locked(view).clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts every check of the plan on the current tokio runtime.
///
/// A check of the plan that the cluster file doesn't have is reported as failing: it must not look
/// healthy because nobody runs it. What `earlier` checks knew of nginx is shown until it has been looked for
/// again: a reload of the cluster file ends no nginx.
#[must_use]
pub(crate) fn start(
    cluster: Arc<Cluster>,
    plan: &Plan,
    earlier: Option<&Running>,
    sink: impl Sink,
) -> Running {
    let live = plan.checks.iter().map(|check| describe(&cluster, &check.name)).collect();
    let board = Board { live: Arc::new(Mutex::new(live)), sink: Arc::new(sink) };
    let mut tasks = Vec::new();
    let mut nginx = None;
    let watched = |section, desk| {
        let view = Arc::new(Mutex::new(earlier.and_then(Running::nginx).unwrap_or_default()));
        let watch = nginx::watch(section, nginx::Places::of(&cluster), desk, Arc::clone(&view));
        (tokio::spawn(vital(watch)), Some(view))
    };
    for (place, planned) in plan.checks.iter().enumerate() {
        let Ok(place) = u16::try_from(place) else { break };
        let desk = Desk { check: CheckId(place), board: board.clone() };
        if planned.name == NGINX_CHECK {
            if let Some(section) = cluster.nginx.clone() {
                let (task, view) = watched(section, desk);
                tasks.push(task);
                nginx = view;
                continue;
            }
        } else if let Some(check) = cluster.check(&planned.name) {
            tasks.push(begin(check.clone(), desk));
            continue;
        }
        desk.report(Outcome::fail("the cluster file has no such check"), Duration::ZERO);
    }
    if nginx.is_none()
        && let Some(section) = cluster.nginx.clone()
    {
        let (task, view) = watched(section, Desk::of_nobody());
        tasks.push(task);
        nginx = view;
    }
    Running { board, tasks, nginx }
}

fn begin(check: Check, desk: Desk) -> JoinHandle<()> {
    let Cadence { interval, timeout, .. } = check.cadence;
    match eye(check.kind, timeout) {
        Ok(look) => scheduled(interval, desk, look),
        Err(by) => tokio::spawn(vital(process::watch(by, interval, desk))),
    }
}

/// What a check sees now; `None` for scripts and processes, which nobody runs for a look.
pub(crate) async fn once(check: &Check) -> Option<Outcome> {
    if matches!(check.kind, CheckKind::Script { .. }) {
        return None;
    }
    let mut look = eye(check.kind.clone(), check.cadence.timeout).ok()?;
    Some(look().await)
}

/// Looks once each time that it is called.
type Eye = Box<dyn FnMut() -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send>;

/// How a check looks.
///
/// # Errors
/// A process isn't looked at, but watched.
fn eye(kind: CheckKind, timeout: Duration) -> Result<Eye, ProcessBy> {
    Ok(match kind {
        CheckKind::Http { url, host, status, body } => {
            let request = Arc::new(http::Request { url, from: None, host, status, body, timeout });
            Box::new(move || {
                let request = Arc::clone(&request);
                Box::pin(async move { http::probe(&request).await })
            })
        }
        CheckKind::Tcp { address } => {
            Box::new(move || Box::pin(schedule::within(timeout, tcp(address))))
        }
        CheckKind::Process(by) => return Err(by),
        CheckKind::Script { command, user } => {
            let starts = script::Starts::default();
            let script = Arc::new(script::Script { command, user, timeout, starts });
            Box::new(move || {
                let script = Arc::clone(&script);
                Box::pin(async move { script.run().await })
            })
        }
        CheckKind::File { path } => {
            let looks = host::Looks::default();
            let path: Arc<Path> = path.into();
            Box::new(move || Box::pin(schedule::within(timeout, looks.file(Arc::clone(&path)))))
        }
        CheckKind::Interface { name } => {
            Box::new(move || Box::pin(std::future::ready(host::interface(&name))))
        }
        CheckKind::Route { to, via } => {
            Box::new(move || Box::pin(std::future::ready(host::route(to, via))))
        }
        CheckKind::Ping { to } => {
            let mut pinger = ping::Pinger::default();
            Box::new(move || Box::pin(schedule::within(timeout, pinger.ping(to))))
        }
    })
}

fn scheduled<P, F>(interval: Duration, desk: Desk, probe: P) -> JoinHandle<()>
where
    P: FnMut() -> F + Send + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    tokio::spawn(vital(schedule::run(interval, desk, probe)))
}

async fn tcp(address: SocketAddr) -> Outcome {
    match TcpStream::connect(address).await {
        Ok(_) => Outcome::pass(format!("{address} accepts connections")),
        Err(error) => Outcome::fail(format!("{address}: {error}")),
    }
}

/// The results of all checks, as status shows them, and the way to the core.
#[derive(Clone)]
struct Board {
    live: Arc<Mutex<Vec<Live>>>,
    sink: Arc<dyn Fn(Report) + Send + Sync>,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("live", &self.live).finish_non_exhaustive()
    }
}

/// Where one check hands in its results.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    check: CheckId,
    board: Board,
}

impl Desk {
    /// For an nginx that no VIP of this node depends on: the shared files, a switchover and status need to
    /// know it all the same, and it must be able to start.
    fn of_nobody() -> Self {
        let live = Arc::new(Mutex::new(Vec::new()));
        Self { check: CheckId(0), board: Board { live, sink: Arc::new(|_| ()) } }
    }

    pub(crate) fn report(&self, outcome: Outcome, took: Duration) {
        let Outcome { verdict, mut detail, output } = outcome;
        trim(&mut detail);
        if let Some(live) = locked(&self.board.live).get_mut(self.check.index()) {
            live.verdict = Some(verdict);
            live.detail.clone_from(&detail);
            live.output = output;
            live.took = took;
            live.when = Some(SystemTime::now());
            live.runs += 1;
            live.failures += u64::from(verdict != Verdict::Pass);
        }
        (self.board.sink)(Report { check: self.check, verdict, detail });
    }

    /// Says what is being looked at, once it is known.
    pub(crate) fn retarget(&self, target: &str) {
        if let Some(live) = locked(&self.board.live).get_mut(self.check.index())
            && live.target != target
        {
            target.clone_into(&mut live.target);
        }
    }
}

/// A panic elsewhere leaves a half-written status line at worst, so the poison is ignored.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One line, at most [`DETAIL_BYTES`].
fn trim(detail: &mut String) {
    if detail.contains(|c: char| c.is_control()) {
        *detail = detail.replace(|c: char| c.is_control(), " ");
    }
    if detail.len() > DETAIL_BYTES {
        let room = DETAIL_BYTES - "…".len();
        // Of four bytes in a row at least one begins a letter.
        let end = (0..=room).rev().find(|end| detail.is_char_boundary(*end)).unwrap_or(0);
        detail.truncate(end);
        detail.push('…');
    }
}

fn describe(cluster: &Cluster, name: &str) -> Live {
    let (kind, target) = match cluster.check(name) {
        Some(check) => (check.kind.word(), target(&check.kind)),
        None if name == NGINX_CHECK => (NGINX_CHECK, String::new()),
        None => ("unknown", String::new()),
    };
    Live {
        name: name.to_owned(),
        kind,
        target,
        verdict: None,
        detail: "no result yet".to_owned(),
        output: String::new(),
        took: Duration::ZERO,
        when: None,
        runs: 0,
        failures: 0,
    }
}

fn target(kind: &CheckKind) -> String {
    match kind {
        CheckKind::Http { url, .. } => url.to_string(),
        CheckKind::Tcp { address } => address.to_string(),
        CheckKind::Process(ProcessBy::Pidfile(path)) => path.display().to_string(),
        CheckKind::Process(ProcessBy::Name(name)) | CheckKind::Interface { name } => name.clone(),
        CheckKind::Script { command, .. } => command.join(" "),
        CheckKind::File { path } => path.display().to_string(),
        CheckKind::Route { to, via: None } => to.to_string(),
        CheckKind::Route { to, via: Some(via) } => format!("{to} via {via}"),
        CheckKind::Ping { to } => to.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod space;
#[cfg(test)]
mod tests;
