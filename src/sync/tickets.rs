//! Keeps this node's keys of TLS session tickets those of the writer, and has nginx load them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use standin_core::sync::tickets::Ring;
use standin_core::sync::{Outcome, TreeHash, View};
use standin_linux::clock;
use tokio::time::Instant;

use super::driver::{Driver, Found};
use super::wire::Said;
use super::workers;
use crate::api::types::sync as said;
use crate::authority::Keys;
use crate::control::log::Severity;
use crate::control::time::rfc3339;
use crate::nginx;
use crate::tickets::{self, Place, unix_s};

/// How often files and nginx's workers are looked at, if nothing has happened.
const LOOK: Duration = Duration::from_secs(5);

/// nginx's configuration is read again for whether it names the keys.
const READ: Duration = Duration::from_secs(60);

/// Between two reloads for new keys, whoever wants them.
const RELOADS_APART: Duration = Duration::from_secs(10);

/// After a reload that failed: mostly a file of nginx's is at fault, and somebody is at work on it.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// A cluster file reaches all connected nodes within this: the keys that its writer has renewed for it
/// may be here before it is.
const FILE_TRAVELS: Duration = Duration::from_secs(60);

pub(super) struct Tickets {
    place: Place,
    ring: Option<Ring>,
    /// What each peer said last; only members have sessions.
    heard: BTreeMap<String, Ring>,
    /// The files are to be looked at at this time.
    look_at: Instant,
    read_at: Instant,
    /// The tree that lay on the disk when it was read.
    read_tree: Option<TreeHash>,
    reload_at: Instant,
    busy: bool,
    /// Changes of the ring; what was looked at before the last one says nothing.
    changes: u64,
    /// Somebody who knows the keys isn't a member any more, since then.
    renew: Option<Instant>,
    /// When the ring was replaced by one that has none of its keys.
    renewed: Option<Instant>,
    /// The peers are to be told.
    tell: bool,
    used: bool,
    loaded: bool,
    /// nginx's workers that began after have loaded the files, in nanoseconds since the boot; `None`
    /// until it is known.
    since_ns: Option<u64>,
    problem: Option<String>,
}

/// What was found beside the control thread.
pub(super) struct Looked {
    changes: u64,
    ring: Result<Option<Ring>, String>,
    /// `None`: the configuration wasn't read.
    used: Option<bool>,
    loaded: bool,
    since_ns: Option<u64>,
    memory: bool,
}

impl Tickets {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            place: Place::of_this_host(),
            ring: None,
            heard: BTreeMap::new(),
            look_at: now,
            read_at: now,
            read_tree: None,
            reload_at: now,
            busy: false,
            changes: 0,
            renew: None,
            renewed: None,
            tell: false,
            used: false,
            loaded: false,
            since_ns: None,
            problem: None,
        }
    }

    pub(super) fn renew(&mut self) {
        self.renew = Some(Instant::now());
    }

    fn say(&self) -> Option<Said> {
        let ring = self.ring.as_ref().filter(|ring| ring.number > 0)?;
        Some(Said::Tickets(Box::new(ring.into())))
    }

    /// The ring that this node should have, where it isn't the one that it has.
    fn wanted(&self, view: &View) -> Option<Ring> {
        let ring = self.ring.as_ref()?;
        let now = unix_s();
        if view.writing {
            // Without random bytes there are no new keys; it is tried again.
            if self.renew.is_some() {
                return Some(ring.renewed(now, tickets::fresh_three().ok()?));
            }
            if ring.number == 0 {
                // Others may know it from who wrote before.
                let known = self.heard.values().max_by_key(|heard| heard.number).cloned();
                return Some(known.unwrap_or_else(|| ring.clone().promoted(now)));
            }
            let settled = self.loaded || !self.used;
            return (settled && ring.is_due(now))
                .then(|| Some(ring.clone().rotated(now, tickets::fresh().ok()?)))
                .flatten();
        }
        let theirs = self.heard.get(view.state.writer.as_ref()?)?;
        (theirs != ring).then(|| theirs.clone())
    }

    /// Only who writes renews keys. Elsewhere it is seen that it was done; else whoever writes next
    /// does it.
    fn forget_renewal(&mut self, writing: bool) {
        let done = |asked: Instant| {
            self.renewed.is_some_and(|at| at >= asked || !writing && asked - at <= FILE_TRAVELS)
        };
        self.renew = self.renew.filter(|asked| !done(*asked));
    }

    fn take(&mut self, ring: Ring) {
        if self.ring.as_ref().is_some_and(|before| !before.shares(&ring)) {
            self.renewed = Some(Instant::now());
        }
        self.ring = Some(ring);
        self.changes += 1;
        (self.loaded, self.tell) = (false, true);
        self.look_at = Instant::now();
    }
}

impl Driver {
    /// What a peer says of its keys; it counts once that peer writes.
    pub(super) fn tickets_heard(&mut self, peer: &str, said: &tickets::Said) {
        if let Some(ring) = said.ring().filter(|ring| ring.number > 0) {
            self.tickets.heard.insert(peer.to_owned(), ring);
        }
    }

    pub(super) fn tickets_up(&self, peer: &str) {
        if let (Some(said), Some(outlet)) = (self.tickets.say(), self.sessions.outlet(peer)) {
            // A peer that doesn't listen is cut off soon.
            let _ = outlet.say(said);
        }
    }

    pub(super) fn tickets_down(&mut self, peer: &str) {
        self.tickets.heard.remove(peer);
    }

    /// Once a second.
    pub(super) fn tickets_tick(&mut self) {
        let Some(running) = &self.running else { return };
        let view = running.replica.view();
        if self.tickets.busy {
            return;
        }
        self.tickets.forget_renewal(view.writing);
        if let Some(ring) = self.tickets.wanted(&view) {
            if view.writing && self.tickets.renew.is_some() {
                let text = "all keys of TLS session tickets are new: who knew the old ones isn't a \
                            member any more";
                self.tell(Severity::Notice, "tickets_renewed", None, text.to_owned());
            }
            self.tickets.take(ring);
        }
        let now = Instant::now();
        let tree = running.disk.as_ref().map(|disk| disk.tree);
        let other = tree != self.tickets.read_tree;
        if self.tickets.look_at > now && !other {
            return;
        }
        self.tickets.busy = true;
        self.tickets.look_at = now + LOOK;
        let read = self.tickets.read_at <= now || other;
        if read {
            self.tickets.read_at = now + READ;
            self.tickets.read_tree = tree;
        }
        let conf = self.sight.conf.clone().filter(|_| read);
        let (place, ring) = (self.tickets.place.clone(), self.tickets.ring.clone());
        let keys = Keys::of(&self.around.state_dir);
        let (master, found) = (self.sight.nginx.master, self.found.clone());
        let (changes, since_ns) = (self.tickets.changes, self.tickets.since_ns);
        tokio::task::spawn_blocking(move || {
            let looked = look(&place, ring, &keys, (master, conf), since_ns);
            let looked = Looked { changes, ..looked };
            // The driver may have ended; the same below.
            let _ = found.send(Found::Tickets(looked));
        });
    }

    pub(super) fn tickets_looked(&mut self, looked: Looked) {
        self.tickets.busy = false;
        let Looked { changes, ring, used, loaded, since_ns, memory } = looked;
        if changes != self.tickets.changes {
            return;
        }
        self.tickets.since_ns = since_ns;
        self.tickets.used = used.unwrap_or(self.tickets.used);
        match ring {
            Ok(None) => {
                self.tickets.ring = None;
                return;
            }
            Ok(Some(ring)) => self.tickets.ring = Some(ring),
            Err(why) => return self.tickets_trouble(why),
        }
        if !memory && self.tickets.used {
            let why = "/run/standin-tickets isn't in memory: the keys of TLS session tickets reach a \
                       disk; mend: mount a tmpfs on /run";
            self.tickets_trouble(why.to_owned());
        } else if !self.tickets.problem.as_ref().is_some_and(|it| it.starts_with(NOT_LOADED)) {
            self.tickets.problem = None;
        }
        self.tickets.loaded = loaded;
        if std::mem::take(&mut self.tickets.tell)
            && let Some(said) = self.tickets.say()
        {
            self.sessions.tell_all(&said);
        }
        if self.tickets.used && !loaded {
            self.tickets_reload();
        }
        self.publish();
    }

    /// Has nginx load the keys, unless it would load something else with them.
    fn tickets_reload(&mut self) {
        let now = Instant::now();
        // Looked at again each second until it is done.
        self.tickets.look_at = now;
        if self.tickets.reload_at > now || !self.nothing_else_to_load() {
            return;
        }
        let (Some(ground), Some(running)) = (self.ground(), &self.running) else { return };
        let Some(applied) = running.replica.view().state.applied else { return };
        let known = running.translation;
        self.tickets.busy = true;
        self.tickets.reload_at = now + RELOADS_APART;
        let found = self.found.clone();
        tokio::task::spawn_blocking(move || {
            let _ = found.send(Found::TicketsLoaded(ground.load(applied, known)));
        });
    }

    /// nginx runs with what lies on the disk, and nobody is at work on it.
    fn nothing_else_to_load(&self) -> bool {
        let Some(running) = &self.running else { return false };
        let view = running.replica.view();
        let on_disk = running.disk.as_ref().map(|disk| disk.tree);
        let applied = view.state.applied;
        applied.is_some_and(|id| Some(id.tree) == on_disk)
            && view.state.proven == applied
            && view.state.held.is_none()
            && view.busy.is_none()
            && view.ordered.is_none_or(|ordered| ordered.over())
    }

    pub(super) fn tickets_loaded(&mut self, outcome: &Outcome) {
        self.tickets.busy = false;
        self.tickets.look_at = Instant::now();
        if *outcome == Outcome::Moved {
            // Somebody wrote to the files just then: what nginx runs with is seen to first.
            return;
        }
        if let Outcome::Failed { why, .. } = outcome {
            self.tickets.reload_at = Instant::now() + AFTER_FAILURE;
            self.tickets_trouble(format!("{NOT_LOADED}: {why}; it is tried again"));
            return;
        }
        self.tickets.problem = None;
        self.seen_loaded();
        let number = self.tickets.ring.as_ref().map_or(0, |ring| ring.number);
        let text = format!("nginx has loaded the keys of TLS session tickets, number {number}");
        self.tell(Severity::Notice, "tickets_loaded", None, text);
    }

    fn tickets_trouble(&mut self, why: String) {
        if self.tickets.problem.as_ref() != Some(&why) {
            self.tell(Severity::Warning, "tickets_failed", None, why.clone());
            self.tickets.problem = Some(why);
        }
    }

    /// An operator wants new keys now; `all`: somebody may know them.
    pub(super) fn tickets_rotate(&mut self, all: bool) -> Result<String, String> {
        let Some(ring) = self.tickets.ring.clone() else {
            return Err("this node has no keys of TLS session tickets yet".to_owned());
        };
        let (ring, now) = (ring.promoted(unix_s()), unix_s());
        let number = ring.number;
        let made = if all {
            tickets::fresh_three().map(|three| ring.renewed(now, three))
        } else if self.tickets.used && !self.tickets.loaded {
            return Err("nginx hasn't loaded the last keys yet: standin sync status".to_owned());
        } else {
            tickets::fresh().map(|fresh| ring.rotated(now, fresh))
        };
        self.tickets.take(made.map_err(|error| error.to_string())?);
        Ok(format!("number {} takes the place of {number}", number + 1))
    }

    pub(super) fn tickets_status(&self) -> Option<said::Tickets> {
        let ring = self.tickets.ring.as_ref()?;
        let since = UNIX_EPOCH.checked_add(Duration::from_secs(ring.since_unix_s));
        Some(said::Tickets {
            number: ring.number,
            since: since.map(rfc3339).unwrap_or_default(),
            used: self.tickets.used,
            loaded: self.tickets.loaded,
            problem: self.tickets.problem.clone(),
        })
    }
}

const NOT_LOADED: &str = "nginx couldn't load the new keys of TLS session tickets";

/// Sees to the files; what nginx has of them.
fn look(
    place: &Place,
    ring: Option<Ring>,
    keys: &Keys,
    (master, conf): (Option<u32>, Option<PathBuf>),
    since_ns: Option<u64>,
) -> Looked {
    // Without a peer link there is nobody to share them with.
    let nothing =
        |ring| Looked { changes: 0, ring, used: None, loaded: false, since_ns, memory: true };
    match keys.exist() {
        Ok(true) => {}
        Ok(false) => return nothing(Ok(None)),
        Err(error) => return nothing(Err(format!("this node's keys: {error:#}"))),
    }
    let used = conf.map(|conf| tickets::are_used(&nginx::read_config(&conf)));
    let mut since_ns = since_ns;
    let seen = match ring {
        Some(ring) if place.load().as_ref() == Some(&ring) && place.written(&ring).is_some() => {
            Ok(ring)
        }
        Some(ring) => {
            let stored = place.store(&ring, master);
            since_ns = Some(clock::now().as_nanos());
            stored.map(|()| ring)
        }
        None => place.prepare(master),
    };
    let written = seen.as_ref().ok().and_then(|ring| place.written(ring));
    let loaded = match (written, master) {
        (None, _) => false,
        // One that starts later starts with them.
        (Some(_), None) => true,
        (Some(written), Some(master)) => {
            // An earlier daemon wrote them. Their time is the clock's, which may be put back or forth:
            // it is asked once, and in doubt nginx reloads once.
            let since_ns = since_ns.get_or_insert_with(|| {
                if workers::runs_since(master, written) { 0 } else { clock::now().as_nanos() }
            });
            workers::began_after(master, *since_ns)
        }
    };
    Looked { changes: 0, ring: seen.map(Some), used, loaded, since_ns, memory: place.is_memory() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};
    use std::time::SystemTime;

    use super::*;

    /// By its title a worker of nginx's; this process is the master.
    const WORKER: &str = "nginx: worker process";

    struct Worker(Child);

    impl Worker {
        fn start() -> Self {
            // The kernel counts starts in hundredths of a second.
            std::thread::sleep(Duration::from_millis(50));
            let mut command = Command::new("cat");
            command.arg0(WORKER).stdin(Stdio::piped()).stdout(Stdio::null());
            let this = Self(command.spawn().unwrap());
            // Who waits for the exec of a child is woken before the child has its new name.
            while standin_linux::process::title(this.0.id()).as_deref() != Some(WORKER) {
                std::thread::sleep(Duration::from_millis(1));
            }
            this
        }
    }

    impl Drop for Worker {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn only_who_writes_renews_and_what_was_done_is_not_done_again() {
        let ring = || Ring::provisional(1, tickets::fresh_three().unwrap()).promoted(1);
        let begun = || {
            let mut tickets = Tickets::new();
            tickets.take(ring());
            tickets.renewed = None;
            tickets
        };
        // The writer has renewed them; this node need never.
        let mut follower = begun();
        follower.renew();
        follower.forget_renewal(false);
        assert!(follower.renew.is_some(), "the writer hasn't yet");
        let rotated = follower.ring.clone().unwrap().rotated(2, tickets::fresh().unwrap());
        follower.take(rotated);
        follower.forget_renewal(false);
        assert!(follower.renew.is_some(), "two keys are known still");
        follower.take(ring());
        follower.forget_renewal(false);
        assert!(follower.renew.is_none());
        // The same when they come before the file that says why.
        let mut early = begun();
        early.take(ring());
        early.renew();
        early.forget_renewal(false);
        assert!(early.renew.is_none());
        // For who writes, what was renewed before is known to who has left now.
        let mut writer = begun();
        writer.take(ring());
        std::thread::sleep(Duration::from_millis(1));
        writer.renew();
        writer.forget_renewal(true);
        assert!(writer.renew.is_some());
        writer.take(ring());
        writer.forget_renewal(true);
        assert!(writer.renew.is_none());
    }

    #[test]
    fn a_clock_that_steps_neither_forgets_a_reload_nor_makes_one_up() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::of(dir.path());
        fs::create_dir_all(dir.path().join("keys")).unwrap();
        fs::write(dir.path().join("keys/node.pem"), "").unwrap();
        assert!(keys.exist().unwrap());
        let place = Place(dir.path().join("tickets"));
        let master = Some(std::process::id());
        let step = |to: SystemTime| {
            for name in ["current", "next", "previous"] {
                let file =
                    fs::File::options().append(true).open(place.0.join(format!("{name}.key")));
                file.unwrap().set_modified(to).unwrap();
            }
        };
        let hour = Duration::from_secs(3600);

        let old = Worker::start();
        std::thread::sleep(Duration::from_millis(50));
        let first = look(&place, None, &keys, (master, None), None);
        let ring = first.ring.unwrap();
        assert!(!first.loaded, "the worker is older than the files");
        drop(old);
        // The kernel knows in hundredths of a second when a process began.
        std::thread::sleep(Duration::from_millis(50));
        let worker = Worker::start();
        // As if the clock had been put back since.
        step(SystemTime::now() + hour);
        let second = look(&place, ring.clone(), &keys, (master, None), first.since_ns);
        assert!(second.loaded);

        let next = ring.map(|ring| ring.rotated(9, tickets::fresh().unwrap()));
        std::thread::sleep(Duration::from_millis(50));
        let third = look(&place, next.clone(), &keys, (master, None), second.since_ns);
        assert!(!third.loaded);
        // As if it had been put forth.
        step(SystemTime::now() - 2 * hour);
        let fourth = look(&place, next.clone(), &keys, (master, None), third.since_ns);
        assert!(!fourth.loaded, "nginx still has the old keys");
        drop(worker);
        std::thread::sleep(Duration::from_millis(50));
        let _worker = Worker::start();
        assert!(look(&place, next, &keys, (master, None), fourth.since_ns).loaded);
    }
}
