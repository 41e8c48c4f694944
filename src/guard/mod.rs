//! The guard: the parent of the daemon, which ends what a dead or stuck daemon leaves behind.
//!
//! ```text
//!   guard ── fork ──▶ daemon            writes what it holds into the ledger, and beats there
//!     │ pidfd, ledger   │ pidfd
//!     └────watches──────┘               a daemon whose guard died starts another one
//! ```
//! It has one thread, and after the start it allocates next to nothing. When the daemon dies, or
//! holds a VIP and doesn't beat, the guard takes the addresses away, says priority 0 for them, puts
//! the host's settings back, and starts the daemon again.

pub(crate) mod ledger;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use standin_core::guard::{Duty, End, Goodbye, Key, Lives, OwnLink, Remains, State, Stop, duties};
use standin_core::resume::{self, Resume};
use standin_core::types::{Family, Prefix};
use standin_linux::advert::AdvertSender;
use standin_linux::clock::{Timer, now};
use standin_linux::epoll::Poll;
use standin_linux::fork::{
    self, Half, SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1, Signals,
};
use standin_linux::netlink::{Change, Link, NOWHERE, Rtnl};
use standin_linux::output::say;
use standin_linux::process::{self, PidFd};
use standin_linux::region::Region;
use standin_linux::{sched, sysctl};

use crate::engine::REALTIME_PRIORITY;
use crate::exit::Exit;
use ledger::Ledger;

/// What a guard is told, and hands on; SIGUSR1 is the daemon's: take up the program that is on disk now.
/// Only SIGCHLD is its own: its daemon was stopped, or goes on.
const SIGNALS: [i32; 5] = [SIGHUP, SIGUSR1, SIGINT, SIGTERM, SIGCHLD];
/// Of these, what a daemon gets that doesn't listen yet: what ends it then, as it should, and what its own
/// children are waited for with.
const AT_ONCE: [i32; 4] = [SIGUSR1, SIGINT, SIGTERM, SIGCHLD];

/// [`fork::reap`] adds it to a signal.
const SIGNALLED: i32 = 128;

const TOKEN_DAEMON: u64 = 0;
const TOKEN_SIGNALS: u64 = 1;
const TOKEN_TIMER: u64 = 2;

/// The descriptor of the ledger and the daemon to watch, for a guard that replaces another.
const REPLACES: &str = "STANDIN_GUARD_REPLACES";

/// Behind those of a guard that is to leave its parent.
const APART: &str = "apart";

/// The descriptor of the ledger, the guard, and the descriptor of what to go on with, for a daemon
/// whose program was replaced.
const RESUMES: &str = "STANDIN_RESUMES";

/// How this process goes on.
pub(crate) enum Role {
    Daemon(Daemon),
    /// The guard's work is over.
    Ended(Exit),
}

/// What a daemon has of its guard.
pub(crate) struct Daemon {
    pub(crate) ledger: Ledger,
    pub(crate) guard: PidFd,
    pub(crate) guard_pid: u32,
    /// How the daemon before this one died, whose place it takes.
    pub(crate) mourns: Option<String>,
    /// What the program before this one was doing, when it was replaced in place.
    pub(crate) resume: Option<Resume>,
}

impl Daemon {
    /// Has the guard take up the program that this daemon runs.
    pub(crate) fn renew_guard(&self) -> io::Result<()> {
        self.guard.signal(SIGUSR1)
    }
}

/// Splits the process: the parent guards and returns only at the end, the child is the daemon.
///
/// For a daemon, with a guard or without, SIGHUP waits until it [`listens`].
///
/// # Errors
/// When the kernel refuses memory, descriptors or a process.
pub(crate) fn begin() -> io::Result<Role> {
    fork::hold_back(&[SIGHUP]);
    // A guard that couldn't begin has taken signals that nobody would read.
    split().inspect_err(|_| fork::let_through(&AT_ONCE))
}

/// The daemon hears of a SIGHUP from now on, also of one that came while it began.
pub(crate) fn listens() {
    fork::let_through(&[SIGHUP]);
}

fn split() -> io::Result<Role> {
    if let Some(daemon) = resumed()? {
        return Ok(Role::Daemon(daemon));
    }
    if let Some((ledger, daemon, apart)) = inherited()? {
        if apart && let Half::Parent { child } = fork::split()? {
            ledger.set_guard(child);
            return Ok(Role::Ended(Exit::Done));
        }
        // The daemon is the child of a guard that died; it is watched all the same.
        return Guard::new(ledger)?.guard(Some(daemon));
    }
    Guard::new(Ledger::new()?)?.guard(None)
}

/// Starts another guard for this daemon, because the one before has died.
///
/// # Errors
/// As fork(2) and execve(2): the daemon is to end itself then, in order.
pub(crate) fn replace(ledger: &Ledger) -> io::Result<(PidFd, u32)> {
    let mut command = again(Path::new("/proc/self/exe"));
    let fd = ledger.region().pass(&mut command);
    let words = format!("{fd}:{}:{APART}", std::process::id());
    // It ends as soon as it has split: systemd waits at a stop only for a main process that is its
    // own child, and ends the others of the unit at once.
    let done = command.env(REPLACES, words).spawn()?.wait()?;
    if !done.success() {
        return Err(io::Error::other(format!("it didn't start ({done})")));
    }
    let guard = ledger.guard();
    Ok((PidFd::open(guard)?, guard))
}

/// Replaces the program of this daemon by the one at `path`; returns only when that fails.
///
/// `resume` is what its successor reads with [`Daemon::resume`]. The guard doesn't mind the pause:
/// the successor sets its patience again.
pub(crate) fn exec(daemon: &Daemon, path: &Path, resume: &str) -> io::Error {
    let text = match Region::with(resume.as_bytes()) {
        Ok(text) => text,
        Err(error) => return error,
    };
    let patience = daemon.ledger.patience();
    daemon.ledger.set_patience(Duration::ZERO);
    let mut command = again(path);
    let ledger = daemon.ledger.region().pass(&mut command);
    let resume = text.pass(&mut command);
    let guard = daemon.guard_pid;
    // The successor reads the file anew, but to hear it has to begin first.
    fork::hold_back(&[SIGHUP]);
    let error = command.env(RESUMES, format!("{ledger}:{guard}:{resume}")).exec();
    listens();
    daemon.ledger.region().seal();
    daemon.ledger.set_patience(patience);
    error
}

/// This command line with the program at `path`.
fn again(path: &Path) -> Command {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(path);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env_remove(REPLACES).env_remove(RESUMES);
    command
}

/// What [`exec`] left for this process.
fn resumed() -> io::Result<Option<Daemon>> {
    let Ok(words) = std::env::var(RESUMES) else { return Ok(None) };
    let mut words = words.split(':');
    let mut number = || words.next().and_then(|word| word.parse::<i32>().ok());
    let (Some(ledger), Some(guard), Some(text)) = (number(), number(), number()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let guard_pid = u32::try_from(guard).map_err(|_| io::ErrorKind::InvalidInput)?;
    let text = Region::inherited_bytes(text, resume::MAX_BYTES)?;
    Ok(Some(Daemon {
        ledger: Ledger::of(Region::inherited(ledger, ledger::REGION)?),
        guard: PidFd::open(guard_pid)?,
        guard_pid,
        mourns: None,
        resume: Some(Resume::from_text(&String::from_utf8_lossy(&text))),
    }))
}

/// What [`replace`] left for this process: the ledger, the daemon to watch, and
/// whether in a process that isn't the daemon's child.
fn inherited() -> io::Result<Option<(Ledger, u32, bool)>> {
    let Ok(words) = std::env::var(REPLACES) else { return Ok(None) };
    let mut words = words.split(':');
    let fd = words.next().and_then(|fd| fd.parse::<RawFd>().ok());
    let pid = words.next().and_then(|pid| pid.parse::<u32>().ok());
    let (fd, daemon) = fd.zip(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let ledger = Ledger::of(Region::inherited(fd, ledger::REGION)?);
    Ok(Some((ledger, daemon, words.next() == Some(APART))))
}

struct Guard {
    ledger: Ledger,
    poll: Poll,
    timer: Timer,
    rtnl: Rtnl,
    signals: Signals,
    /// Where its program was found, to look there for a newer one.
    program: PathBuf,
    /// Somebody told the daemon, by way of the guard, to stop.
    stopping: bool,
    /// How the last daemon died.
    mourned: Option<String>,
}

impl Guard {
    fn new(ledger: Ledger) -> io::Result<Self> {
        let (poll, timer) = (Poll::new()?, Timer::new()?);
        // Whoever ignores it isn't told, and a parent may have left it so.
        fork::make_default(SIGCHLD);
        let signals = Signals::take(&SIGNALS)?;
        poll.add(timer.as_fd(), TOKEN_TIMER)?;
        poll.add(signals.as_fd(), TOKEN_SIGNALS)?;
        // Opened now: when it is needed there may be no descriptor left.
        let rtnl = Rtnl::open()?;
        let program = process::executable(std::process::id())?;
        Ok(Self { ledger, poll, timer, rtnl, signals, program, stopping: false, mourned: None })
    }

    /// Starts daemons until one ends as it should.
    fn guard(mut self, adopted: Option<u32>) -> io::Result<Role> {
        let mut adopted = adopted;
        let mut lives = Lives::default();
        loop {
            lives.begins(now());
            let daemon = match adopted.take() {
                Some(daemon) => daemon,
                None => {
                    self.ledger.reset(now());
                    let this = std::process::id();
                    match fork::split()? {
                        Half::Child => {
                            fork::let_through(&AT_ONCE);
                            let guard = PidFd::open(this)?;
                            return Ok(Role::Daemon(Daemon {
                                ledger: self.ledger,
                                guard,
                                guard_pid: this,
                                mourns: self.mourned,
                                resume: None,
                            }));
                        }
                        Half::Parent { child } => child,
                    }
                }
            };
            sched::name_thread("standin-guard");
            // The daemon has complained about the same already.
            let _ = sched::realtime(REALTIME_PRIORITY + 1);
            let _ = sched::lock_memory();
            self.rehearse();
            match self.watch(daemon)? {
                End::Over(exit) => return Ok(Role::Ended(exit)),
                End::Died if self.stopping => return Ok(Role::Ended(Exit::Failed)),
                End::Died => {}
            }
            self.pause(lives.died(now()))?;
            if self.stopping {
                return Ok(Role::Ended(Exit::Failed));
            }
        }
    }

    /// Watches until the daemon is gone, and clears up behind one that died.
    fn watch(&mut self, daemon: u32) -> io::Result<End<Exit>> {
        let pidfd = match PidFd::open(daemon) {
            Ok(pidfd) => pidfd,
            // It died before this guard came.
            Err(_) => return Ok(self.buried(daemon, false)),
        };
        self.poll.add(pidfd.as_fd(), TOKEN_DAEMON)?;
        let mut ready = Vec::new();
        let mut hung = false;
        let mut stop = Stop::new(process::parent(daemon) == Some(std::process::id()));
        // It may stand still since before it was watched.
        stop.seen(now(), process::is_stopped(daemon));
        loop {
            let due = self.ledger.signs().next_look(now(), stop);
            self.timer.arm(Some(due))?;
            self.poll.wait(&mut ready)?;
            if ready.contains(&TOKEN_DAEMON) {
                self.poll.remove(pidfd.as_fd())?;
                return Ok(self.buried(daemon, hung));
            }
            let told = ready.contains(&TOKEN_SIGNALS) && self.forward(Some((&pidfd, daemon)));
            if ready.contains(&TOKEN_TIMER) {
                self.timer.clear();
            }
            if told || stop.is_to_be_seen() {
                stop.seen(now(), process::is_stopped(daemon));
            }
            if self.ledger.signs().stuck(now(), due, stop) {
                // It is gone at the next turn, if it isn't already.
                let _ = pidfd.signal(SIGKILL);
                hung = true;
                say(&format!("the daemon (pid {daemon}) holds VIPs and doesn't move: ended"));
            }
        }
    }

    /// Hands on what has come; whether the kernel may have told of a child.
    fn forward(&mut self, daemon: Option<(&PidFd, u32)>) -> bool {
        let mut of_child = false;
        while let Some(signal) = self.signals.next() {
            if signal == SIGCHLD {
                of_child = true;
                continue;
            }
            let Some((pidfd, daemon)) = daemon else {
                self.stopping |= matches!(signal, SIGINT | SIGTERM);
                continue;
            };
            if signal == SIGUSR1 {
                let mut command = again(&self.program);
                let fd = self.ledger.region().pass(&mut command);
                // An older program doesn't know of it, and its daemons would wait for their children in vain.
                fork::let_through(&[SIGCHLD]);
                let error = command.env(REPLACES, format!("{fd}:{daemon}")).exec();
                fork::hold_back(&[SIGCHLD]);
                // One that came meanwhile was lost.
                of_child = true;
                self.ledger.region().seal();
                say(&format!("the guard goes on with the older program: {error}"));
                continue;
            }
            self.stopping |= signal != SIGHUP;
            // If it has just died, the guard is told in a moment.
            let _ = pidfd.signal(signal);
        }
        of_child
    }

    /// Has the code of [`Guard::withdraw`] in memory before it is needed.
    fn rehearse(&mut self) {
        self.withdraw(&State::default());
        let prefix = Prefix::host(Ipv4Addr::LOCALHOST.into());
        // There is no such interface, and the kernel says so.
        let _ = self.rtnl.change(&[Change::Drop { index: NOWHERE, prefix }], &mut Vec::new());
    }

    /// Waits, with an ear for signals.
    fn pause(&mut self, time: Duration) -> io::Result<()> {
        let until = now() + time;
        let mut ready = Vec::new();
        while !self.stopping && now() < until {
            self.timer.arm(Some(until))?;
            self.poll.wait(&mut ready)?;
            self.timer.clear();
            self.forward(None);
        }
        Ok(())
    }

    /// The daemon is gone: looks how, and if it died clears up. One that `hung` was ended by this guard.
    fn buried(&mut self, daemon: u32, hung: bool) -> End<Exit> {
        // First things first: every millisecond the address answers for nobody.
        let meant = self.ledger.ended().and_then(Exit::of);
        let state = self.ledger.read();
        let (clean, stopping) = (state == State::default(), self.stopping);
        let remains = Remains { meant, code: None, clean, stopping };
        if remains.left() {
            self.withdraw(&state);
        }
        // A daemon that was adopted has another parent, which reaps it.
        let code = fork::reap(daemon).ok();
        let refused = code.and_then(|code| u8::try_from(code).ok()).and_then(Exit::of);
        let end = Remains { code: refused, ..remains }.end(Exit::Done);
        if end == End::Died {
            let how = code.map(|code| match code.checked_sub(SIGNALLED) {
                Some(signal @ 1..) => format!(" (signal {signal})"),
                _ => format!(" (exit code {code})"),
            });
            let taken = match state.addresses.len() {
                0 => "it held no address".to_owned(),
                _ => format!("its addresses were taken away: {}", state.addresses.len()),
            };
            let how = match hung {
                true => "hung, or was stopped, while it held VIPs, and was ended".to_owned(),
                false => format!("died{}", how.unwrap_or_default()),
            };
            let died = format!("the daemon (pid {daemon}) {how}; {taken}");
            say(&format!("{died}; it is started again"));
            self.mourned = Some(died);
        }
        end
    }

    /// Takes the addresses away, says goodbye, puts the settings back.
    fn withdraw(&mut self, state: &State) {
        for duty in duties(state) {
            match duty {
                Duty::Silence(links) => self.silence(&links),
                Duty::Drop(keys) => self.drop(&keys),
                Duty::Remove(links) => self.remove(&links),
                Duty::SayGoodbye(group) => say_goodbye(&group),
                Duty::PutBack(setting) => {
                    if let Err(error) = sysctl::put_back(&setting) {
                        say(&format!("the guard couldn't put {} back: {error}", setting.path));
                    }
                }
            }
        }
    }

    fn drop(&mut self, keys: &[Key]) {
        let drop = |(index, prefix): &Key| Change::Drop { index: *index, prefix: *prefix };
        let drops: Vec<_> = keys.iter().map(drop).collect();
        if let Err(error) = self.rtnl.change(&drops, &mut Vec::new()) {
            say(&format!("the guard couldn't remove addresses ({error}); they run out in 2 s"));
        }
    }

    /// These links, if they are there: what stands in shared memory is believed no further than it has to be.
    fn indexes_of(&mut self, links: &[OwnLink]) -> Vec<u32> {
        let all = self.rtnl.links().unwrap_or_default();
        let is_one = |link: &&Link| link.of_vip().is_some_and(|one| links.contains(&one));
        all.iter().filter(is_one).map(|link| link.index).collect()
    }

    fn silence(&mut self, links: &[OwnLink]) {
        for index in self.indexes_of(links) {
            // As the daemon would: see there.
            let _ = self.rtnl.silence(index);
        }
    }

    fn remove(&mut self, links: &[OwnLink]) {
        let there = self.indexes_of(links);
        if !there.is_empty()
            && let Err(error) = self.rtnl.remove_links(&there)
        {
            say(&format!("the guard couldn't remove a VIP's own link: {error}"));
        }
    }
}

/// Goodbyes that go out of one interface from one address.
fn say_goodbye(group: &[Goodbye]) {
    let Some(first) = group.first() else { return };
    let family = Family::of(first.source);
    let messages = group.iter().map(|one| (one.destination, one.payload.as_slice()));
    let said = AdvertSender::open(family, first.index, &first.interface, first.source)
        .and_then(|mut sender| sender.send(messages));
    if let Err(error) = said {
        say(&format!("the guard couldn't say goodbye on {}: {error}", first.interface));
    }
}
