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
use std::os::fd::{AsFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use standin_core::types::{Family, Instant};
use standin_linux::advert::AdvertSender;
use standin_linux::clock::{Timer, now};
use standin_linux::epoll::Poll;
use standin_linux::fork::{self, Half, Signals};
use standin_linux::netlink::{Change, Rtnl};
use standin_linux::process::{self, PidFd};
use standin_linux::region::Region;
use standin_linux::{sched, sysctl};

use crate::engine::REALTIME_PRIORITY;
use crate::exit::Exit;
use ledger::{Ledger, State};

/// How often the beat is looked at while there is something to lose.
const LOOK: Duration = Duration::from_millis(20);

/// A beat that is this old makes the guard look whether the daemon was stopped by a signal; one
/// that was gets no more time.
const STOPPED_AFTER: Duration = Duration::from_millis(70);

/// How often it is looked at otherwise: whether there is something to lose.
const IDLE_LOOK: Duration = Duration::from_millis(100);

/// A daemon that dies again and again is started less and less often.
const BACK_OFF: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
];

/// Who lived this long didn't die of its start.
const LIVED: Duration = Duration::from_secs(60);

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

const TOKEN_DAEMON: u64 = 0;
const TOKEN_SIGNALS: u64 = 1;
const TOKEN_TIMER: u64 = 2;

/// The descriptor of the ledger and the daemon to watch, for a guard that replaces another.
pub(crate) const REPLACES: &str = "STANDIN_GUARD_REPLACES";

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
}

/// Splits the process: the parent guards and returns only at the end, the child is the daemon.
///
/// # Errors
/// When the kernel refuses memory, descriptors or a process.
pub(crate) fn begin() -> io::Result<Role> {
    if let Some((ledger, daemon)) = inherited()? {
        // The daemon is the child of a guard that died; it is watched all the same.
        return Guard::new(ledger)?.guard(Some(daemon));
    }
    Guard::new(Ledger::new()?)?.guard(None)
}

/// Starts another guard for this daemon, because the one before has died.
///
/// # Errors
/// As fork(2) and execve(2): the daemon is to end itself then, in order.
pub(crate) fn replace(ledger: &Ledger) -> io::Result<PidFd> {
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let fd = ledger.region().pass(&mut command);
    let child =
        command.args(arguments).env(REPLACES, format!("{fd}:{}", std::process::id())).spawn()?;
    PidFd::open(child.id())
}

/// What [`replace`] left for this process: the ledger, and the daemon to watch.
fn inherited() -> io::Result<Option<(Ledger, u32)>> {
    let Ok(words) = std::env::var(REPLACES) else { return Ok(None) };
    let parsed = words
        .split_once(':')
        .and_then(|(fd, pid)| Some((fd.parse::<RawFd>().ok()?, pid.parse::<u32>().ok()?)));
    let (fd, daemon) = parsed.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(Some((Ledger::of(Region::inherited(fd, ledger::REGION)?), daemon)))
}

struct Guard {
    ledger: Ledger,
    poll: Poll,
    timer: Timer,
    rtnl: Rtnl,
    signals: Signals,
    /// Somebody told the daemon, by way of the guard, to stop.
    stopping: bool,
}

/// How a daemon ended.
enum End {
    /// It was meant to.
    Over(Exit),
    Died,
}

impl Guard {
    fn new(ledger: Ledger) -> io::Result<Self> {
        let (poll, timer) = (Poll::new()?, Timer::new()?);
        let signals = Signals::take(&[SIGHUP, SIGINT, SIGTERM])?;
        poll.add(timer.as_fd(), TOKEN_TIMER)?;
        poll.add(signals.as_fd(), TOKEN_SIGNALS)?;
        // Opened now: when it is needed there may be no descriptor left.
        Ok(Self { ledger, poll, timer, rtnl: Rtnl::open()?, signals, stopping: false })
    }

    /// Starts daemons until one ends as it should.
    fn guard(mut self, adopted: Option<u32>) -> io::Result<Role> {
        let mut adopted = adopted;
        let mut deaths = 0;
        loop {
            let began = now();
            let daemon = match adopted.take() {
                Some(daemon) => daemon,
                None => {
                    self.ledger.reset(now());
                    let this = std::process::id();
                    match fork::split()? {
                        Half::Child => {
                            self.signals.give_back();
                            let guard = PidFd::open(this)?;
                            return Ok(Role::Daemon(Daemon { ledger: self.ledger, guard }));
                        }
                        Half::Parent { child } => child,
                    }
                }
            };
            sched::name_thread("standin-guard");
            // The daemon has complained about the same already.
            let _ = sched::realtime(REALTIME_PRIORITY + 1);
            let _ = sched::lock_memory();
            match self.watch(daemon)? {
                End::Over(exit) => return Ok(Role::Ended(exit)),
                End::Died if self.stopping => return Ok(Role::Ended(Exit::Failed)),
                End::Died => {}
            }
            let young = now().since(began) < LIVED;
            deaths = if young { deaths + 1 } else { 0 };
            self.pause(BACK_OFF[deaths.min(BACK_OFF.len() - 1).saturating_sub(1)])?;
            if self.stopping {
                return Ok(Role::Ended(Exit::Failed));
            }
        }
    }

    /// Watches until the daemon is gone, and clears up behind one that died.
    fn watch(&mut self, daemon: u32) -> io::Result<End> {
        let pidfd = match PidFd::open(daemon) {
            Ok(pidfd) => pidfd,
            // It died before this guard came.
            Err(_) => return Ok(self.buried(daemon)),
        };
        self.poll.add(pidfd.as_fd(), TOKEN_DAEMON)?;
        let mut ready = Vec::new();
        let mut last_look = now();
        loop {
            let period = match self.ledger.patience() {
                patience if patience.is_zero() || !self.ledger.holds() => IDLE_LOOK,
                _ => LOOK,
            };
            self.timer.arm(Some(now() + period))?;
            self.poll.wait(&mut ready)?;
            if ready.contains(&TOKEN_DAEMON) {
                self.poll.remove(pidfd.as_fd())?;
                return Ok(self.buried(daemon));
            }
            if ready.contains(&TOKEN_SIGNALS) {
                self.forward(Some(&pidfd));
            }
            if ready.contains(&TOKEN_TIMER) {
                self.timer.clear();
            }
            let time = now();
            // A guard that was late itself says nothing about the daemon: everybody may have been.
            let punctual = time.since(last_look) < period * 2;
            last_look = time;
            if punctual && self.is_stuck(daemon, time) {
                eprintln!("standin: the daemon (pid {daemon}) holds VIPs and doesn't move: ended");
                // It is gone at the next turn, if it isn't already.
                let _ = pidfd.signal(SIGKILL);
            }
        }
    }

    fn is_stuck(&self, daemon: u32, time: Instant) -> bool {
        let patience = self.ledger.patience();
        if patience.is_zero() || !self.ledger.holds() {
            return false;
        }
        let silence = time.since(self.ledger.last_beat());
        silence > patience || (silence > STOPPED_AFTER && process::is_stopped(daemon))
    }

    fn forward(&mut self, daemon: Option<&PidFd>) {
        while let Some(signal) = self.signals.next() {
            self.stopping |= signal != SIGHUP;
            if let Some(daemon) = daemon {
                // If it has just died, the guard is told in a moment.
                let _ = daemon.signal(signal);
            }
        }
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

    /// The daemon is gone: looks how, and if it died clears up.
    fn buried(&mut self, daemon: u32) -> End {
        // First things first: every millisecond the address answers for nobody.
        let meant = self.ledger.ended().and_then(Exit::of);
        let state = self.ledger.read();
        if meant.is_none() {
            self.withdraw(&state);
        }
        // A daemon that was adopted has another parent, which reaps it.
        let code = fork::reap(daemon).ok();
        let refused = code.and_then(|code| u8::try_from(code).ok()).and_then(Exit::of);
        match (meant, refused) {
            (Some(exit), _) => End::Over(exit),
            // It refused to start, and said why.
            (None, Some(exit)) if state == State::default() => End::Over(exit),
            _ => {
                let how = code.map_or_else(String::new, |code| format!(" (exit code {code})"));
                eprintln!(
                    "standin: the daemon (pid {daemon}) died{how}; {} addresses were taken away; \
                     it is started again",
                    state.addresses.len()
                );
                End::Died
            }
        }
    }

    /// Takes the addresses away, says goodbye, puts the settings back.
    fn withdraw(&mut self, state: &State) {
        let drops = state
            .addresses
            .iter()
            .map(|(index, prefix)| Change::Drop { index: *index, prefix: *prefix });
        let drops: Vec<_> = drops.collect();
        if !drops.is_empty()
            && let Err(error) = self.rtnl.change(&drops, &mut Vec::new())
        {
            eprintln!(
                "standin: the guard couldn't remove addresses ({error}); they run out in 2 s"
            );
        }
        let mut goodbyes: Vec<_> = state.goodbyes.iter().collect();
        goodbyes.sort_by_key(|goodbye| (goodbye.index, goodbye.source));
        for group in goodbyes.chunk_by(|a, b| (a.index, a.source) == (b.index, b.source)) {
            let Some(first) = group.first() else { continue };
            let family = Family::of(first.source);
            let messages = group.iter().map(|one| (one.destination, one.payload.as_slice()));
            let said = AdvertSender::open(family, first.index, &first.interface, first.source)
                .and_then(|mut sender| sender.send(messages));
            if let Err(error) = said {
                eprintln!(
                    "standin: the guard couldn't say goodbye on {}: {error}",
                    first.interface
                );
            }
        }
        for (path, error) in sysctl::Settings::resume(state.settings.clone()).undo() {
            eprintln!("standin: the guard couldn't put {path} back: {error}");
        }
    }
}
