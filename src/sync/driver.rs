//! Feeds the replica with what happens, and does what it asks for.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use standin_apply::Nginx;
use standin_core::sync::{
    Command, Effect, Event, Id, Input, Job, Outcome, Replica, Saved, TreeHash,
};
use standin_linux::clock;
use standin_tree::hash::Hash;
use standin_tree::read::{Reader, Scan, Spec};
use standin_tree::store::{self, Store};
use standin_tree::watch::{Report, Watch};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::fetch::Came;
use super::ground::{Applied, Translation};
use super::loaded::{Doubt, is_another};
use super::made::Lens;
use super::opening::Ready;
use super::outside::{LookedOutside, OutsideFiles};
use super::peers::Sessions;
use super::push::{Accepted, Goal, Pusher};
use super::serve::Asked;
use super::tickets::{Looked, Tickets};
use super::wire::Said;
use super::workers::Stirred;
use super::{Around, Settings, ToDriver, memory, workers};
use crate::api::types::sync as said;
use crate::control;
use crate::control::log::Severity;
use crate::link::Told;
use crate::link::outlet::{FromPeer, FromPeers};

/// How often the state of VIPs and nginx is looked at, if nothing has happened.
const LOOK: Duration = Duration::from_secs(1);

/// Old trees stay for so long: a shell or an editor may be in one.
pub(super) const RETIRE: Duration = Duration::from_secs(60);

/// Where trees are that are sent by rsync.
const RSYNC: &str = "rsync";

/// What comes from beside the control thread.
pub(super) enum Found {
    Report(Report),
    Done(u64, Outcome),
    Applied(u64, Applied),
    Sight(Sight),
    Ready(Result<Ready, String>),
    /// What was edited in old trees, and what of them can't be removed.
    Retired(Vec<String>, Vec<String>),
    /// A test had old trees retired.
    Drifted(Vec<String>),
    Tickets(Looked),
    Outside(LookedOutside),
    TicketsLoaded(Outcome),
    /// nginx was to load what it may have loaded already.
    LoadedAgain(Id, Doubt, Outcome),
}

/// What is known of the VIP and of nginx.
#[derive(Default)]
pub(super) struct Sight {
    pub(super) holder: Option<String>,
    pub(super) nginx: Nginx,
    pub(super) conf: Option<PathBuf>,
    pub(super) prefix: Option<PathBuf>,
}

/// A tree, and when it was known to lie here; none: one that isn't known.
pub(super) type Had = (Option<TreeHash>, SystemTime);

/// The tree on disk, as it was read last.
pub(super) struct Disk {
    pub(super) tree: TreeHash,
    pub(super) scan: Arc<Scan>,
    /// It has been so since this time, or for longer.
    pub(super) since: SystemTime,
    /// It was seen when it became so.
    pub(super) hinted: bool,
    /// When it was read last.
    pub(super) read: SystemTime,
    /// This node's files aren't what its values make of their patterns.
    pub(super) unready: bool,
}

pub(super) struct Fetching {
    pub(super) from: String,
    pub(super) came: mpsc::Sender<Came>,
    pub(super) task: AbortHandle,
}

/// A replica with all that it works with.
pub(super) struct Running {
    pub(super) replica: Replica,
    pub(super) store: Arc<Store>,
    pub(super) spec: Spec,
    pub(super) disk: Option<Disk>,
    pub(super) translation: Option<Translation>,
    pub(super) lens: Lens,
    pub(super) watch: Watch,
    /// For jobs; the watch has one of its own.
    pub(super) reader: Arc<Mutex<Reader>>,
    /// Why this node's files can't be shared.
    pub(super) fault: Option<String>,
    /// What was to be made last; the same again means that it didn't stay.
    pub(super) making: Option<Hash>,
    /// The end of the last apply: readings that began before are no drift.
    pub(super) unsure: Option<tokio::time::Instant>,
    /// What lay here when that was written down, before this daemon began.
    pub(super) had: Option<Had>,
    /// When standin has put files here, which may be older than that.
    pub(super) placed: Option<SystemTime>,
    /// A swap was undone at the start, and nginx may run with what was undone.
    pub(super) undone: bool,
    /// The generation that nginx was told to load because it wasn't known whether it had.
    pub(super) loaded_again: Option<Id>,
    pub(super) records: u32,
    /// When the disk is looked at again after it has failed, and how long it is waited then.
    pub(super) look_at: Option<tokio::time::Instant>,
    pub(super) patience: Duration,
    pub(super) limit: Option<String>,
    pub(super) unreadable: Option<String>,
}

pub(super) struct Driver {
    pub(super) around: Around,
    pub(super) settings: Option<Settings>,
    pub(super) running: Option<Running>,
    /// The cluster file was read again while a job went by the old one.
    /// Or nginx has another master since it began.
    anew: bool,
    pub(super) starting: bool,
    pub(super) problem: Option<String>,
    pub(super) sessions: Sessions,
    pub(super) sight: Sight,
    pub(super) stirred: Stirred,
    looking: bool,
    pub(super) job: u64,
    pub(super) fetching: Option<Fetching>,
    pub(super) retire_at: Option<tokio::time::Instant>,
    /// What couldn't be removed when it was tried last.
    told_left: Vec<String>,
    pub(super) tickets: Tickets,
    pub(super) outside: OutsideFiles,
    /// Who changes nginx's files, or has it load them, holds it.
    pub(super) turn: Arc<Mutex<()>>,
    pub(super) found: mpsc::UnboundedSender<Found>,
    brief: watch::Sender<Option<said::Sync>>,
    pub(super) pusher: Pusher,
    /// The rsync targets whose deletions an operator has accepted last.
    pub(super) accepted: Accepted,
}

/// Until the daemon ends.
pub(super) async fn run(
    around: Around,
    brief: watch::Sender<Option<said::Sync>>,
    mut orders: mpsc::Receiver<ToDriver>,
    mut peers: FromPeers,
) {
    // Bounded by what is under way: one job, one look, and the reports of one watch.
    let (found, mut finds) = mpsc::unbounded_channel();
    let pusher = Pusher::start(around.state_dir.join("sync").join(RSYNC), around.told.clone());
    let mut driver = Driver {
        around,
        settings: None,
        running: None,
        starting: false,
        anew: false,
        problem: None,
        sessions: Sessions::default(),
        sight: Sight::default(),
        stirred: Stirred::default(),
        looking: false,
        job: 0,
        fetching: None,
        retire_at: None,
        told_left: Vec::new(),
        tickets: Tickets::new(),
        outside: OutsideFiles::new(),
        turn: Arc::default(),
        found,
        brief,
        pusher,
        accepted: Accepted::default(),
    };
    let pushed = driver.pusher.moved();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let deadline = driver.deadline();
        let due = async {
            match deadline {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => driver.told(order).await,
                None => return,
            },
            Some((peer, what)) = peers.recv() => driver.hear(&peer, what).await,
            Some(found) = finds.recv() => driver.found(found).await,
            () = pushed.notified() => driver.publish(),
            _ = tick.tick() => driver.tick().await,
            () = due => driver.feed(Input::Tick).await,
        }
    }
}

impl Driver {
    fn deadline(&self) -> Option<Duration> {
        let at = self.running.as_ref()?.replica.next_deadline()?;
        (at != standin_core::types::Instant::FAR).then(|| at.since(clock::now()))
    }

    async fn told(&mut self, what: ToDriver) {
        match what {
            ToDriver::Settings(settings) => self.replace(settings.map(|it| *it)).await,
            ToDriver::Nudge => self.look(),
            ToDriver::Ask(ask) => self.ask(ask).await,
        }
    }

    async fn replace(&mut self, settings: Option<Settings>) {
        let before = std::mem::replace(&mut self.settings, settings);
        let Some(settings) = &self.settings else {
            self.stop();
            return;
        };
        if before.is_some_and(|before| !before.members.is_subset(&settings.members)) {
            self.tickets.renew();
        }
        let spec = settings.spec(self.sight.conf.as_ref());
        if let (Some(_), Err(why)) = (&self.running, &spec) {
            let text =
                format!("the paths of the new cluster file aren't used, the old ones stay: {why}");
            self.tell(Severity::Error, "sync_failed", None, text);
        }
        if let (Some(running), Ok(spec)) = (&mut self.running, spec) {
            running.watch.replace(spec.clone(), settings.options());
            running.lens.exclude = spec.exclude().clone();
            running.spec = spec;
            running.lens.values = Arc::clone(&settings.values);
            let config = settings.config.clone();
            self.feed(Input::Config(config)).await;
            // What was refused for want of a path or a value here may be taken now; a job that is under
            // way still goes by the old file.
            self.feed(Input::Command(Command::Retry)).await;
            self.anew = self.running.as_ref().is_some_and(|it| it.replica.view().busy.is_some());
            self.look_again();
        }
        self.look();
        self.begin();
    }

    fn stop(&mut self) {
        self.brief.send_replace(None);
        self.pusher.aim(None);
        self.fetching = None;
        self.job += 1;
        if let Some(running) = self.running.take() {
            // The watch's thread is waited for.
            tokio::task::spawn_blocking(move || drop(running));
        }
    }

    pub(super) fn journals(&self) -> PathBuf {
        standin_apply::folder(&self.around.state_dir)
    }

    /// What is seen comes back as [`Found::Sight`], and what follows from it then.
    async fn tick(&mut self) {
        self.look();
        self.look_when_due();
        self.tickets_tick();
        self.outside_tick();
        let due = self.retire_at.is_some_and(|at| at <= tokio::time::Instant::now());
        // Without a ground it stays due.
        if let Some(ground) = self.ground().filter(|_| due) {
            self.retire_at = None;
            let found = self.found.clone();
            tokio::task::spawn_blocking(move || {
                let (drift, left) = ground.retire();
                // The driver may have ended; the same below.
                let _ = found.send(Found::Retired(drift, left));
            });
        }
    }

    /// Asks the control plane who holds the VIP, and for nginx.
    fn look(&mut self) {
        if std::mem::replace(&mut self.looking, true) {
            return;
        }
        let (requests, found) = (self.around.requests.clone(), self.found.clone());
        tokio::spawn(async move {
            let mut sight = Sight::default();
            if let Some(status) = control::status(&requests).await {
                // Of several VIPs the file's first one says who writes.
                sight.holder = status.view.vips.into_iter().next().and_then(|vip| vip.holder);
                if let Some(view) = status.nginx {
                    sight.nginx = Nginx {
                        master: view.master,
                        pid_file: view.pid_file,
                        binary: view.binary,
                        unit: view.unit,
                        conf: view.conf.clone(),
                        prefix: view.prefix.clone(),
                    };
                    sight.conf = view.conf;
                    sight.prefix = view.prefix;
                }
            }
            let _ = found.send(Found::Sight(sight));
        });
    }

    async fn saw(&mut self, mut sight: Sight) {
        self.looking = false;
        // While another cluster file is taken up nginx is looked for anew, and runs all the same.
        if sight.nginx.master.is_none() && self.sight.nginx.master.is_some_and(workers::is_master) {
            sight.nginx = self.sight.nginx.clone();
        }
        let another = is_another(self.sight.nginx.master, sight.nginx.master);
        let holder = sight.holder.clone();
        // One that is being restarted keeps its place.
        let conf = sight.conf.clone().or_else(|| self.sight.conf.take());
        self.sight = Sight { conf, ..sight };
        self.stirred.of_master(self.sight.nginx.master);
        self.begin();
        if another {
            // It may read another file, and what a job says now is said of the one before.
            self.feed(Input::Command(Command::Retry)).await;
            self.anew |= self.running.as_ref().is_some_and(|it| it.replica.view().busy.is_some());
        }
        self.reload_undone();
        let wrote = self.writes();
        self.feed(Input::Holder(holder)).await;
        if self.writes() && !wrote {
            self.look_again();
        }
        self.served().await;
    }

    pub(super) fn writes(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.replica.writes())
    }

    /// Has the files looked at now.
    pub(super) fn look_again(&self) {
        if let Some(running) = &self.running {
            running.watch.look();
        }
    }

    async fn hear(&mut self, peer: &str, what: FromPeer) {
        match what {
            FromPeer::Up(id, outlet) => {
                self.sessions.up(peer, id, outlet);
                self.tickets_up(peer);
                self.outside_up(peer);
                self.feed(Input::Link { peer: peer.to_owned(), up: true }).await;
            }
            FromPeer::Down(id) => {
                if self.sessions.down(peer, id) {
                    self.tickets_down(peer);
                    self.outside_down(peer);
                    let fetching = self.fetching.as_mut().filter(|it| it.from == peer);
                    if let Some(fetching) = fetching {
                        // Its end is told by the fetch itself.
                        fetching.came = mpsc::channel(1).0;
                    }
                    self.feed(Input::Link { peer: peer.to_owned(), up: false }).await;
                }
            }
            FromPeer::Bulk(bytes) => self.came(peer, Came::Frame(bytes)),
            FromPeer::Said(said) => {
                if let Said::Lacks { hash } = &*said {
                    self.came(peer, Came::Lacks(hash.clone()));
                } else if let Said::Tickets(ring) = &*said {
                    self.tickets_heard(peer, ring);
                } else if let Said::Outside(files) = *said {
                    self.outside_heard(peer, *files);
                } else if let Some(asked) = Asked::of(&said) {
                    if let Some(running) = &self.running {
                        self.sessions.asked(peer, asked, &running.store);
                    }
                } else if let Some(message) = said.message() {
                    self.sessions.remember(peer, &message);
                    self.feed(Input::Heard { from: peer.to_owned(), message }).await;
                }
            }
        }
    }

    fn came(&mut self, peer: &str, came: Came) {
        let Some(fetching) = self.fetching.as_ref().filter(|it| it.from == peer) else { return };
        // More than was asked for is nobody's; the fetch finds that something is missing.
        let _ = fetching.came.try_send(came);
    }

    async fn found(&mut self, found: Found) {
        match found {
            Found::Report(report) => self.reported(report).await,
            Found::Sight(sight) => self.saw(sight).await,
            Found::Ready(ready) => self.ready(ready).await,
            Found::Done(job, outcome) if job == self.job => {
                self.fetching = None;
                self.finished(outcome).await;
            }
            Found::Applied(job, applied) if job == self.job => self.applied(applied).await,
            Found::Done(..) | Found::Applied(..) => {}
            Found::Drifted(drift) => self.drifted(&drift),
            Found::Retired(drift, left) => {
                self.drifted(&drift);
                self.leftover(left);
            }
            Found::Outside(looked) => self.outside_looked(looked),
            Found::Tickets(looked) => self.tickets_looked(looked),
            Found::TicketsLoaded(outcome) => self.tickets_loaded(&outcome),
            Found::LoadedAgain(id, doubt, outcome) => {
                self.loaded_again(id, doubt, outcome).await;
            }
        }
    }

    async fn done(&mut self, outcome: Outcome) {
        self.feed(Input::Done(outcome)).await;
        if std::mem::take(&mut self.anew) {
            self.feed(Input::Command(Command::Retry)).await;
        }
    }

    async fn finished(&mut self, outcome: Outcome) {
        let moved = outcome == Outcome::Moved;
        let busy = self.running.as_ref().and_then(|it| it.replica.view().busy);
        if outcome == Outcome::Done && matches!(busy, Some(Job::Load(_))) {
            self.seen_loaded();
        }
        self.done(outcome).await;
        if moved && let Some(running) = &self.running {
            running.watch.look();
        }
    }

    async fn applied(&mut self, applied: Applied) {
        let Applied { outcome, translation, drift } = applied;
        self.drifted(&drift);
        let placed = matches!(outcome, Outcome::Done | Outcome::Unproven(_));
        let dir = self.around.state_dir.join("sync");
        if let Some(running) = &mut self.running {
            if placed {
                running.translation = translation;
            }
            running.unsure = Some(tokio::time::Instant::now());
            running.placed = Some(SystemTime::now());
            // One that says nothing need not be remembered; what an older one says is true still.
            let telling = translation.filter(|it| placed && it.own != it.tree);
            if let Some(translation) = telling {
                let saved = tokio::task::spawn_blocking(move || {
                    memory::save_translation(&dir, translation)
                });
                // Without it the next start finds drift, which it keeps and puts right.
                let _ = saved.await;
            }
        }
        if placed {
            self.retire_at = Some(tokio::time::Instant::now() + RETIRE);
        }
        self.done(outcome).await;
        if let Some(running) = &self.running {
            running.watch.look();
        }
    }

    /// Trees that can't be removed; what has been told is told once.
    pub(super) fn leftover(&mut self, left: Vec<String>) {
        for text in left.iter().filter(|text| !self.told_left.contains(text)) {
            self.tell(Severity::Warning, "sync_leftover", None, text.clone());
        }
        self.told_left = left;
    }

    fn drifted(&self, drift: &[String]) {
        if let Some(first) = drift.first() {
            let more = drift.len() - 1;
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let text = format!("edited while another tree took its place, kept: {first}{more}");
            self.tell(Severity::Warning, "drift", None, text);
        }
    }

    /// One step of the replica, and all that follows from it.
    pub(super) async fn feed(&mut self, input: Input) {
        let Some(running) = &mut self.running else { return };
        let mut effects = Vec::new();
        running.replica.step(clock::now(), input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.sessions.say(&to, message),
                Effect::Save(saved) => self.save(saved).await,
                Effect::Event(event) => self.happened(&event),
                Effect::Scan => {
                    if let Some(running) = &self.running {
                        running.watch.look();
                    }
                }
                Effect::Start(job) => self.start(job),
            }
        }
        self.publish();
    }

    pub(super) fn publish(&self) {
        self.pusher.aim(self.goal());
        let now = self.status().ok();
        self.brief.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    /// What goes to hosts with only an rsync daemon: what this node has proven, while it writes.
    fn goal(&self) -> Option<Goal> {
        let (settings, running) = (self.settings.as_ref()?, self.running.as_ref()?);
        let id = running.replica.proven().filter(|_| running.replica.writes())?;
        (!settings.rsync.is_empty()).then(|| Goal {
            id,
            targets: settings.rsync.clone(),
            password_file: settings.rsync_password_file.clone(),
            exclude: settings.exclude.clone(),
            store: Arc::clone(&running.store),
            dir: self.around.state_dir.join("sync").join(RSYNC),
            accepted: self.accepted.clone(),
        })
    }

    async fn save(&self, saved: Saved) {
        let dir = self.around.state_dir.join("sync");
        let written = tokio::task::spawn_blocking(move || memory::save(&dir, &saved)).await;
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let text = format!("what this node has of the shared files can't be written down: {error}");
        self.tell(Severity::Error, "sync_failed", None, text);
    }

    fn happened(&self, event: &Event) {
        let disk = self.running.as_ref().and_then(|running| running.disk.as_ref());
        if let Event::Drift { kept, .. } = event
            && disk.is_some_and(|disk| disk.unready && disk.tree == *kept)
        {
            let text = "files made from per-node patterns aren't what this node's values make of \
                        them: they are made anew; what lay there is kept in the history";
            self.tell(Severity::Notice, "sync_made", None, text.to_owned());
            return;
        }
        let severity = if event.alarming() { Severity::Warning } else { Severity::Notice };
        self.tell(severity, event.kind(), None, event.to_string());
    }

    pub(super) fn tell(
        &self,
        severity: Severity,
        kind: &'static str,
        peer: Option<&str>,
        text: String,
    ) {
        // With that many waiting the log says enough.
        let told = Told { severity, kind, peer: peer.map(str::to_owned), text };
        let _ = self.around.told.try_send(told);
    }
}

/// The store's name of a generation.
pub(super) fn own(id: Id) -> store::Id {
    store::Id { number: id.number, hash: Hash::from_bytes(id.tree.0) }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.task.abort();
    }
}
