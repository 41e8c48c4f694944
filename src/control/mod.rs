//! The control plane: all of the daemon that may be slow. Checks, API, hooks, log, reload.
//!
//! One tokio thread. It hears events from the engine and gives each of them its one log line, its
//! place in the history and its hooks; it never holds anything that the engine waits for.

mod archive;
mod events;
pub(crate) mod history;
mod linked;
pub(crate) mod log;
mod moves;
pub(crate) mod notify;
mod orders;
mod record;
mod records;
mod reload;
mod service;
mod signals;
mod slim;
mod startup;
pub(crate) mod time;
mod upgrade;
mod watched;
mod writer;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, SystemTime};

use standin_config::Cluster;
use standin_core::event::{Kind, Reason};
use standin_core::plan::Plan;
use standin_core::resume::Resume;
use standin_core::types::Prefix;
use standin_core::view::View;
use standin_linux::output;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::authority::Keys;
use crate::checks;
use crate::engine::messages::{Beat, FromEngine, Handover, Happened, Post, Posts, ToEngine};
use crate::exit::Exit;
use crate::guard;
use crate::link::file::apply::{Order, Steps};
use crate::link::outlet::{FromPeers, ToSync};
use crate::link::{self, Link, LinkView};
use crate::switchover::{Progress, Said};
use crate::sync::{Ask, Sync};
use crate::vital;
use archive::Archive;
use events::Events;
use history::Record;
use log::{Log, Severity};
pub(crate) use moves::{Asked, STOP_DRAINS_FOR, Wish, status};
use notify::{Call, Notifier, State};
use orders::Orders;
use service::Whereabouts;
use signals::Signals;
use slim::at;
pub(crate) use startup::{Misfit, Refusal, bytes_of, fits, hold, read_file};
use watched::Watched;

/// Events that a slow follower of the API may be behind; more and it is told that it missed some.
const FOLLOWERS_BEHIND: usize = 1024;

/// Requests of the API that may wait; each waits for its answer anyway.
const REQUESTS: usize = 64;

/// The engine answers in microseconds; after this it is stuck, and status says so.
const ENGINE_ANSWERS: Duration = Duration::from_secs(1);

/// A stop that takes longer than this ends all the same; what is left runs out in the kernel.
const STOP_TAKES: Duration = Duration::from_secs(5);

/// Stop scripts are waited for at most this long, well below the unit's TimeoutStopSec=.
const STOP_SCRIPTS_TAKE: Duration = Duration::from_secs(60);

/// At the end, what hasn't been written by then is lost: a disk hangs, or nobody reads the log.
const WRITES_OUT: Duration = Duration::from_secs(1);

/// An engine that hasn't gone round for this long must not have its watchdog fed.
const ENGINE_STUCK: Duration = Duration::from_secs(2);

/// Where things are; each can be moved by a flag.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) file: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) node: Option<String>,
}

impl Paths {
    /// What is this node's own and goes to no other.
    fn own(&self) -> Vec<PathBuf> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        [&self.file, &self.state_dir].map(absolute).into()
    }
}

/// What the API asks of the control plane.
pub(crate) enum Request {
    Status(oneshot::Sender<Option<Status>>),
    Events {
        after: u64,
        reply: oneshot::Sender<(Vec<Record>, broadcast::Receiver<Record>)>,
    },
    /// `by` says who asked.
    MaintenanceOff {
        by: String,
        reply: oneshot::Sender<bool>,
    },
    /// Move every VIP away as planned, then take this node out of service; answers with where they are
    /// then, with nothing if the engine is stuck.
    Maintenance {
        lasting: Option<Duration>,
        /// Move nothing first.
        at_once: bool,
        by: String,
        reply: oneshot::Sender<Option<Vec<Whereabouts>>>,
    },
    /// Wait for a VIP's addresses to fall vacant, or no longer; false: no such VIP, or no engine.
    AwaitVacancy {
        vip: String,
        gap: Option<Duration>,
        by: String,
        reply: oneshot::Sender<bool>,
    },
    /// Begins a planned move of a VIP; answers with its story, or why it doesn't begin.
    Switchover {
        wish: Wish,
        reply: oneshot::Sender<Result<mpsc::Receiver<Progress>, String>>,
    },
    /// Undoes one; answers with who was told, or why nobody was.
    CallOff {
        vip: String,
        by: String,
        reply: oneshot::Sender<Result<String, String>>,
    },
    /// What another node tells of one has come to its end.
    Followed {
        id: u64,
    },
    /// A peer says something about a switchover.
    Said {
        from: String,
        said: Said,
    },
    /// A switchover has come to its end on the old node, on the new one.
    Given {
        vip: String,
        id: u64,
    },
    Taken {
        vip: String,
        id: u64,
    },
    /// The clients have finished: nothing keeps the daemon any more.
    Stop,
    /// About the shared files.
    Sync(Ask),
    /// Answers with what is wrong with the file, if anything.
    Reload {
        by: String,
        /// A newer program is taken up as well; not while a file is on its way to the other nodes.
        program: bool,
        reply: oneshot::Sender<Result<String, String>>,
    },
    /// A cluster file for all nodes.
    Apply {
        order: Order,
        steps: Steps,
    },
}

/// Everything that `standin status` shows.
pub(crate) struct Status {
    pub(crate) view: View,
    pub(crate) checks: Vec<checks::Live>,
    pub(crate) nginx: Option<crate::nginx::NginxView>,
    pub(crate) file: PathBuf,
    pub(crate) file_error: Option<String>,
    pub(crate) engine_beat: Duration,
    /// Logs, and the record of events, that don't take what they are to; sockets that can't be opened.
    pub(crate) stuck: Vec<String>,
    /// `None`: this node has no keys.
    pub(crate) link: Option<LinkView>,
    /// `None`: nothing is shared.
    pub(crate) sync: Option<crate::api::types::sync::Sync>,
}

struct Control {
    paths: Paths,
    cluster: Arc<Cluster>,
    /// SHA-256 of the file that is in force, hexadecimal.
    file_sha256: String,
    node: String,
    engine: Post<ToEngine>,
    generation: u64,
    /// Sockets of the engine's that can't be opened, in words.
    faults: Vec<String>,
    running: Option<checks::Running>,
    log: Log,
    history: Archive,
    notifier: Notifier,
    /// Made for the first follower: it takes its room at once.
    followers: Option<broadcast::Sender<Record>>,
    beat: Arc<Beat>,
    /// Why the file on disk isn't the one that is in force.
    file_error: Option<String>,
    /// Where the API puts its requests.
    desk: Option<mpsc::Sender<Request>>,
    /// Where the API answers over TCP.
    tcp: Option<(SocketAddr, JoinHandle<()>)>,
    program: upgrade::Program,
    link: Option<Link>,
    told: mpsc::Sender<link::Told>,
    sync: Option<Sync>,
    to_sync: ToSync,
    /// Until the synchronisation is started.
    from_peers: Option<FromPeers>,
    /// When the start, or the last reload, is over.
    settled_at: Option<tokio::time::Instant>,
    plan: Plan,
    moves: moves::Moves,
    orders: Orders,
}

/// Runs a node until it is told to stop.
pub(crate) fn run(paths: Paths) -> Exit {
    let guarded = match guard::begin() {
        Ok(guard::Role::Daemon(guarded)) => Some(guarded),
        Ok(guard::Role::Ended(exit)) => return exit,
        Err(error) => {
            // Addresses still end by themselves; it only takes longer.
            eprintln!("standin: goes on without its guard: {error}");
            None
        }
    };
    // One that was started in a dead one's place has its guard's, and `check` goes by it.
    standin_linux::sched::name_thread("standin");
    let log = Log::to_stderr();
    let ready = match startup::prepare(&paths, &log) {
        Ok(ready) => ready,
        Err(Refusal { exit, text }) => {
            if output::stderr_is_journal() {
                output::journal(output::ERROR, &text);
            } else {
                eprint!("{text}");
            }
            return exit;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("standin: can't start: {error}");
            return Exit::Failed;
        }
    };
    vital::say_panics();
    let served = runtime.block_on(vital::vital(serve(paths, ready, guarded)));
    // Not waited for: a look at a dead file system may never come back.
    runtime.shutdown_background();
    match served {
        Ok(()) => Exit::Done,
        Err(error) => {
            eprintln!("standin: can't go on: {error}");
            Exit::Failed
        }
    }
}

/// Waits for the address thread, which puts the host's settings back before it goes.
async fn ended(keeper: &std::thread::JoinHandle<()>) {
    let deadline = tokio::time::Instant::now() + STOP_TAKES;
    while !keeper.is_finished() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The addresses of the VIPs that the program before this one held.
fn kept(plan: &Plan, resume: &Resume) -> Vec<Prefix> {
    let held = plan.vips.iter().filter(|vip| resume.active.contains(&vip.name));
    held.flat_map(|vip| vip.addresses.iter().copied()).collect()
}

async fn serve(
    paths: Paths,
    ready: startup::Ready,
    guarded: Option<guard::Daemon>,
) -> io::Result<()> {
    let startup::Ready { chosen, log, history, socket, lock: _lock } = ready;
    let mut signals = Signals::listen()?;
    watched::adopt_children(guarded.as_ref());
    let Posts { engine, addresses, control, handovers } = Posts::new()?;
    let ledger = guarded.as_ref().map(|guarded| guarded.ledger.clone());
    let beat = Arc::new(Beat::new(ledger.clone()));
    let (orders, resume) = Orders::begin(&paths.run_dir, guarded.as_ref());
    let kept = resume.as_ref().map_or_else(Vec::new, |resume| kept(&chosen.plan, resume));
    let keeper = crate::addresses::start(
        addresses.1,
        engine.0.clone(),
        control.0.clone(),
        Arc::clone(&beat),
        ledger,
        &paths.run_dir,
        &kept,
    )?;
    let outside = crate::engine::Outside {
        resume,
        inbox: engine.1,
        addresses: addresses.0,
        control: control.0,
        handovers: handovers.0,
        beat: Arc::clone(&beat),
    };
    crate::engine::start(chosen.plan.clone(), 0, outside)?;
    let (ran_sender, mut ran) = mpsc::unbounded_channel();
    let (requests_sender, mut requests) = mpsc::channel(REQUESTS);
    let (told_sender, mut of_link) = link::telling();
    let (to_sync, from_peers) = ToSync::new();
    let history = Archive::start(history, &paths.state_dir, told_sender.clone())?;
    let mut this = Control {
        notifier: Notifier::new(chosen.cluster.notify.clone(), ran_sender),
        cluster: Arc::new(chosen.cluster),
        file_sha256: chosen.sha256,
        node: chosen.node,
        engine: engine.0,
        generation: 0,
        faults: Vec::new(),
        running: None,
        log,
        history,
        followers: None,
        beat,
        file_error: None,
        desk: Some(requests_sender.clone()),
        tcp: None,
        program: upgrade::Program::running(),
        link: None,
        told: told_sender,
        sync: None,
        to_sync,
        from_peers: Some(from_peers),
        settled_at: None,
        plan: chosen.plan,
        moves: moves::Moves::default(),
        orders,
        paths,
    };
    this.start_checks();
    this.arrange_link(Keys::of(&this.paths.state_dir).identity_if_any());
    crate::api::serve(socket, requests_sender);
    this.listen_tcp().await;
    let events = (Events::new(control.1)?, Events::new(handovers.1)?);
    let mut watched = Watched::new(guarded)?;
    this.took_over(&watched);
    this.mourn(&watched);
    attend(&mut this, &mut signals, &events, &mut requests, &mut ran, &mut of_link, &mut watched)
        .await?;
    this.hear_the_rest(&events);
    this.finish_telling().await;
    this.wind_down(&mut ran).await;
    ended(&keeper).await;
    this.finish_writing(WRITES_OUT);
    watched.ended();
    Ok(())
}

/// Hears everybody until the engine has stopped.
async fn attend(
    this: &mut Control,
    signals: &mut Signals,
    (events, handovers): &(Events<FromEngine>, Events<Handover>),
    requests: &mut mpsc::Receiver<Request>,
    ran: &mut mpsc::UnboundedReceiver<notify::Ran>,
    of_link: &mut mpsc::Receiver<link::Told>,
    watched: &mut Watched,
) -> io::Result<()> {
    let mut watchdog = tokio::time::interval(startup::watchdog_interval());
    let told = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    if let Err(error) = told {
        this.log.line(Severity::Warning, None, &format!("systemd can't be told: {error}"));
    }
    let version = env!("CARGO_PKG_VERSION");
    let words = format!("standin {version} runs as node {} of {}", this.node, this.cluster.name);
    this.log.line(Severity::Notice, None, &words);
    loop {
        tokio::select! {
            message = events.next() => match message? {
                FromEngine::Event(happened) => this.happened(*happened),
                FromEngine::Record(entries) => this.history.keep(entries),
                FromEngine::Complaint(text) => this.log.line(Severity::Warning, None, &text),
                FromEngine::Faults(faults) => this.faults = faults,
                FromEngine::StillSeen(seen) => this.tell_still_seen(seen),
                FromEngine::Stopped => break,
            },
            handover = handovers.next() => this.hand_over(handover?),
            Some(request) = requests.recv() => {
                let whole = matches!(request, Request::Reload { program: true, .. });
                this.request(request).await;
                if whole && this.file_error.is_none() {
                    this.upgrade(watched, signals).await;
                }
            }
            Some(ran) = ran.recv() => this.ran(&ran),
            Some(told) = of_link.recv() => this.told(told),
            _ = signals.hangup.recv() => {
                // The outcome is in the log and in status.
                if this.reload("SIGHUP").await.is_ok() {
                    this.listen_tcp().await;
                    this.upgrade(watched, signals).await;
                }
            }
            _ = signals.terminate.recv() => this.stop("SIGTERM").await,
            _ = signals.interrupt.recv() => this.stop("SIGINT").await,
            _ = watchdog.tick() => this.feed_watchdog(),
            () = at(this.settled_at) => this.slim(),
            () = watched.guard_died() => this.guard_died(watched),
            () = at(this.moves.stop_by) => if !this.stop_is_overdue() {
                this.log.line(Severity::Error, None, "the engine didn't stop in time");
                break;
            }
        }
    }
    Ok(())
}

impl Control {
    /// What came together with the engine's last word.
    fn hear_the_rest(&mut self, (events, handovers): &(Events<FromEngine>, Events<Handover>)) {
        while let Some(FromEngine::Event(happened)) = events.try_next() {
            self.happened(*happened);
        }
        while let Some(handover) = handovers.try_next() {
            self.hand_over(handover);
        }
    }

    fn start_checks(&mut self) {
        self.slim_later();
        let (engine, generation) = (self.engine.clone(), self.generation);
        let sink = move |report: checks::Report| {
            let checks::Report { check, verdict, detail, .. } = report;
            // Dropped only when the engine is stuck: the next result follows.
            let _ = engine.offer(ToEngine::Check { generation, check, verdict, detail });
        };
        let cluster = Arc::clone(&self.cluster);
        self.running = Some(checks::start(cluster, &self.plan, self.running.as_ref(), sink));
    }

    /// Answers over TCP where the file says, and nowhere else.
    async fn listen_tcp(&mut self) {
        let wanted = self.cluster.api.listen;
        if self.tcp.as_ref().map(|(at, _)| *at) == wanted {
            return;
        }
        if let Some((_, task)) = self.tcp.take() {
            task.abort();
        }
        let (Some(listen), Some(desk)) = (wanted, self.desk.clone()) else { return };
        match crate::api::serve_tcp(listen, desk).await {
            Ok(task) => self.tcp = Some((listen, task)),
            Err(error) => {
                let text = format!("[api] listen {listen}: {error}; the Unix socket answers");
                self.log.line(Severity::Error, None, &text);
            }
        }
    }

    /// Nothing is held any more: ends the checks, and waits for the scripts that are told so.
    async fn wind_down(&mut self, ran: &mut mpsc::UnboundedReceiver<notify::Ran>) {
        drop(self.running.take());
        self.tell_stop();
        let patience = self.notifier.patience().clamp(STOP_TAKES, STOP_SCRIPTS_TAKE);
        let waited = tokio::time::timeout(patience, self.notifier.finish()).await;
        if waited.is_err() {
            self.log.line(Severity::Warning, None, "stop scripts were still running and are left");
        }
        while let Ok(ran) = ran.try_recv() {
            self.ran(&ran);
        }
        self.log.line(Severity::Notice, None, "standin has stopped");
    }

    /// What waits for a disk or for who reads the log is written, or lost.
    fn finish_writing(&self, patience: Duration) {
        let deadline = standin_linux::clock::now() + patience;
        self.history.finish(deadline);
        self.log.finish(deadline);
    }

    fn feed_watchdog(&self) {
        if self.beat.age(standin_linux::clock::now()) < ENGINE_STUCK {
            // Without systemd there is nobody to tell.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }

    async fn request(&mut self, request: Request) {
        match request {
            Request::Status(reply) => {
                let status = self.status().await;
                // Who asked may have gone; the same below.
                let _ = reply.send(status);
            }
            Request::Events { after, reply } => {
                let records = self.history.since(after).cloned().collect();
                let followers =
                    self.followers.get_or_insert_with(|| broadcast::channel(FOLLOWERS_BEHIND).0);
                let _ = reply.send((records, followers.subscribe()));
            }
            Request::Maintenance { lasting, at_once, by, reply } => {
                self.maintenance_begins(lasting, at_once, &by);
                self.maintain((lasting, at_once), &by, reply).await;
            }
            Request::MaintenanceOff { by, reply } => {
                let _ = reply.send(self.end_maintenance(&by));
            }
            Request::Sync(ask) => self.ask_sync(ask),
            Request::AwaitVacancy { vip, gap, by, reply } => {
                let _ = reply.send(self.await_vacancy(vip, gap, &by));
            }
            Request::Apply { order, steps } => self.apply(order, steps),
            Request::Switchover { wish, reply } => {
                let _ = reply.send(self.asked_to_switch(wish).await);
            }
            Request::CallOff { vip, by, reply } => {
                let _ = reply.send(self.call_off(&vip, &by));
            }
            Request::Followed { id } => self.followed(id),
            Request::Said { from, said } => self.heard(from, said).await,
            Request::Given { vip, id } => self.given(&vip, id),
            Request::Taken { vip, id } => self.taken(&vip, id),
            Request::Stop => self.stop_now("its clients have finished"),
            Request::Reload { by, reply, .. } => {
                let outcome = self.reload(&by).await;
                self.listen_tcp().await;
                let _ = reply.send(outcome);
            }
        }
    }

    async fn status(&self) -> Option<Status> {
        let (sender, receiver) = sync_channel(1);
        if !self.engine.offer(ToEngine::View(sender)) {
            return None;
        }
        let waited =
            tokio::task::spawn_blocking(move || receiver.recv_timeout(ENGINE_ANSWERS)).await;
        let view = waited.ok()?.ok()?;
        Some(Status {
            view,
            checks: self.running.as_ref().map_or_else(Vec::new, checks::Running::live),
            nginx: self.running.as_ref().and_then(checks::Running::nginx),
            file: self.paths.file.clone(),
            file_error: self.file_error.clone(),
            engine_beat: self.beat.age(standin_linux::clock::now()),
            stuck: {
                let stuck = self.log.stuck().chain(self.history.stuck());
                stuck.chain(self.faults.iter().cloned()).collect()
            },
            link: self.link.as_ref().map(Link::view),
            sync: self.sync.as_ref().and_then(Sync::brief),
        })
    }

    fn happened(&mut self, happened: Happened) {
        // Who asked for a reload is in the log already.
        if !matches!(happened.event.kind, Kind::Reloaded) {
            let severity = record::severity(&happened.event.kind);
            self.log.line(severity, happened.vip.as_deref(), &happened.words);
        }
        self.keep(record::of(&happened));
        if matches!(happened.event.kind, Kind::Standing { .. } | Kind::Transition { .. }) {
            self.stands_anew();
            self.role_changed(&happened);
            if let Some(sync) = &self.sync {
                sync.nudge();
            }
        }
        self.notify(&happened);
    }

    /// Logs and keeps what the control plane itself has to tell.
    fn note(&mut self, severity: Severity, kind: &str, vip: Option<&str>, text: &str) {
        self.log.line(severity, vip, text);
        self.keep(Record {
            seq: 0,
            at: time::rfc3339(SystemTime::now()),
            kind: kind.to_owned(),
            vip: vip.map(str::to_owned),
            from: None,
            to: None,
            reason: None,
            peer: None,
            text: text.to_owned(),
        });
    }

    /// A script has come to its end, well or not.
    fn ran(&mut self, ran: &notify::Ran) {
        if ran.ok {
            self.log.line(Severity::Info, Some(&ran.vip), &ran.text);
        } else {
            self.note(Severity::Warning, "notify_failed", Some(&ran.vip), &ran.text);
        }
    }

    fn keep(&mut self, record: Record) {
        let record = self.history.push(record);
        if let Some(followers) = &self.followers {
            // Nobody may be following any more.
            let _ = followers.send(record);
        }
    }

    /// The stop scripts of VIPs that had nothing to give up: no transition told them.
    fn tell_stop(&mut self) {
        let cluster = Arc::clone(&self.cluster);
        for vip in &cluster.vips {
            let own = vip.members.iter().find(|member| member.node == self.node);
            let Some(member) = own else { continue };
            self.call(Call {
                vip: vip.name.clone(),
                state: State::Stop,
                before: self.notifier.state(&vip.name),
                priority: member.priority.0,
                reason: "standin is stopping".to_owned(),
                peer: None,
                node: self.node.clone(),
                cluster: cluster.name.clone(),
                addresses: self.addresses(&vip.name),
            });
        }
    }

    fn addresses(&self, vip: &str) -> String {
        self.cluster.vip(vip).map_or_else(String::new, |vip| {
            let list: Vec<_> = vip.addresses.iter().map(ToString::to_string).collect();
            list.join(" ")
        })
    }

    fn notify(&mut self, happened: &Happened) {
        let (Some(vip), Some((role, standing))) = (&happened.vip, happened.now) else { return };
        let stopping = matches!(
            happened.event.kind,
            Kind::Transition { reason: Reason::Stopping | Reason::RemovedFromFile, .. }
        );
        let Some(state) = State::of(role, standing, stopping) else { return };
        if matches!(happened.event.kind, Kind::Transition { reason: Reason::Resumed, .. }) {
            // The program before this one has told them.
            self.notifier.told(vip, state);
            return;
        }
        let call = Call {
            vip: vip.clone(),
            state,
            before: self.notifier.state(vip),
            priority: happened.priority,
            reason: happened.words.clone(),
            peer: happened.peer.clone(),
            node: self.node.clone(),
            cluster: self.cluster.name.clone(),
            addresses: self.addresses(vip),
        };
        self.call(call);
    }

    fn call(&mut self, call: Call) {
        let vip = &call.vip.clone();
        if !self.notifier.call(call) {
            let text =
                "its notify scripts are too slow: an older change of state was not told to them";
            self.note(Severity::Error, "notify_failed", Some(vip), text);
        }
    }
}
