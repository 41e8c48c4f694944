//! The processes of each machine, and what its kernel keeps when they die.
//!
//! ```text
//!   guard.rs   the parent: core's Signs, Remains, Lives and duties, one duty after the other
//!   thread.rs  the daemon's address thread: core's Holding, one step after the other
//!   kernel.rs  addresses with lifetimes, settings; they outlive both
//!   life.rs    what stops, goes on, is replaced, is switched off
//!   hurt.rs    what is done to them, also before and after each single step
//! ```
//! It has a source of chance of its own. A cluster without it has the addresses of [`crate::scene`] alone.

mod guard;
mod hurt;
pub mod kernel;
mod life;
mod thread;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use standin_core::guard::{Duty, Lives, Setting, State, Stop};
use standin_core::holding::{Holding, Order, Step};
use standin_core::types::VipId;

use crate::clock::{MICROSECOND, MILLISECOND, Nanos};
use crate::machine::Run;
use crate::random::Random;
use crate::scene::{Packet, Scene};
pub use hurt::{AT, Hurt, KINDS, Trap};
use kernel::Kernel;
pub use thread::Wish;

/// A sleeping process runs again after this.
const WAKES: (Nanos, Nanos) = (20 * MICROSECOND, 500 * MICROSECOND);

/// From fork(2) to the first thing that a program does to the host.
const BEGINS: (Nanos, Nanos) = (3 * MILLISECOND, 40 * MILLISECOND);

/// How the processes or the kernel are broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    #[default]
    None,
    /// The guard doesn't hear that its daemon has died.
    NeverBuries,
    /// The guard doesn't look whether its daemon is stuck.
    NeverLooks,
    /// Lifetimes don't end.
    Immortal,
    /// The guard says goodbye before the addresses are gone.
    GoodbyeFirst,
    /// The guard says nothing.
    Silent,
    /// The guard starts no other daemon.
    NeverStarts,
    /// The guard puts settings back before the addresses are gone.
    SettingsFirst,
    /// The ledger is written after the host was changed.
    RecordsLate,
    /// Changed settings are written to no file.
    LosesFile,
    /// Nobody puts settings back.
    KeepsSettings,
}

/// Packets, and which machines they go to.
type Written = Vec<(u8, Rc<Packet>)>;

/// The guard of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    #[default]
    Gone,
    /// It was just executed.
    Begins,
    Up,
    Stopped,
}

/// Since when nobody sees to a machine's addresses.
#[derive(Clone, Copy, Debug)]
pub struct Down {
    pub since: Nanos,
    /// After this nothing may be left.
    pub bound: Nanos,
    /// The same where no guard sees to them: an engine that hung at first had its thread beside it, also
    /// where the guard ends both later, and dies.
    pub alone: Nanos,
}

/// The processes of one machine.
#[derive(Debug)]
pub struct Host {
    pub kernel: Kernel,
    /// Of the daemon.
    pub holding: Option<Holding>,
    pub orders: VecDeque<Order>,
    pub step: Option<Step>,
    /// The daemon removes leftovers, and hasn't begun yet.
    pub begins: bool,
    /// It leaves the host as it was found.
    pub ends: bool,
    /// It has begun to.
    pub ending: bool,
    /// Its engine hangs, and the rest of it doesn't.
    pub hangs: bool,
    pub beat: Nanos,
    /// What its guard knows of its standing still.
    pub stop: Stop,
    pub began: Nanos,
    /// How many daemons the guards of this machine have started.
    pub lives: u64,
    /// In the memory that guard and daemon share.
    pub ledger: State,
    pub late_ledger: State,
    pub ended: bool,
    pub patience: Nanos,
    /// In the directory that ends with the power.
    pub file: Vec<Setting>,
    pub guard: Guard,
    pub guard_life: u32,
    pub guarded_lives: Lives,
    pub stopping: bool,
    pub duties: VecDeque<Duty>,
    /// The guard clears up, or waits to start another daemon.
    pub burying: bool,
    pub restart_by: Option<Nanos>,
    /// What the last daemon held when it died, and of which the guard has said goodbye.
    pub held: BTreeSet<u8>,
    pub said: BTreeSet<u8>,
    /// Written when the daemon took the VIP: by VIP and family.
    pub goodbyes: BTreeMap<(u8, u8), Written>,
    /// What the daemon wanted when it died.
    pub wanted: BTreeSet<u8>,
    /// What the program before this one held when it was replaced, until this one has ordered something of it.
    pub kept: BTreeSet<u8>,
    pub trap: Option<Trap>,
    /// What comes to processes that stand still: the daemon, the guard.
    pub deferred: [Vec<Happening>; 2],
    pub down: Option<Down>,
    pub flaw: Flaw,
}

/// Something that is due on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The address thread is through with its step.
    Step {
        life: u32,
    },
    /// An address that somebody took away is put back.
    PutBack {
        life: u32,
    },
    /// What a program before this one held has had its time.
    Disinherit {
        life: u32,
    },
    /// No socket needs what has stayed.
    Drained {
        life: u32,
        vip: VipId,
    },
    /// The daemon hears that its guard has died.
    Orphaned {
        life: u32,
        forks: bool,
    },
    /// The guard is there, or another program in its place.
    Watches {
        guard_life: u32,
    },
    Looks {
        guard_life: u32,
        due: Nanos,
    },
    /// The guard hears that its daemon has died.
    Buries {
        guard_life: u32,
    },
    /// It is through with a duty.
    Duty {
        guard_life: u32,
    },
    /// It starts a daemon.
    Forks {
        guard_life: u32,
    },
    /// A lifetime ends.
    Expires {
        token: u32,
    },
    /// A process is to go on: the daemon, the guard.
    GoesOn {
        daemon: bool,
    },
}

#[derive(Debug)]
pub struct Hosts {
    pub random: Random,
    pub all: Vec<Host>,
}

impl Scene {
    /// Gives all machines processes and kernels of their own.
    pub fn populate(&mut self, random: Random) {
        let all = self.machines.iter().map(|machine| Host::new(Kernel::new(machine.own[0])));
        self.hosts = Some(Hosts { random, all: all.collect() });
        let first = self.hurt_again();
        self.queue.push(first, crate::queue::Due::Hurt);
    }

    pub(crate) fn host(&mut self, machine: u8) -> Option<&mut Host> {
        self.hosts.as_mut()?.all.get_mut(usize::from(machine))
    }

    pub(crate) fn chance(&mut self, (least, most): (Nanos, Nanos)) -> Nanos {
        self.hosts.as_mut().map_or(least, |hosts| hosts.random.within(least, most))
    }

    pub(crate) fn later(&mut self, machine: u8, wait: (Nanos, Nanos), what: Happening) {
        let wait = self.chance(wait);
        let due = crate::queue::Due::Host { machine, what };
        self.queue.push(self.now + wait, due);
    }

    /// Something happens to a process or to a kernel, unless it stands still.
    pub fn happens(&mut self, machine: u8, what: Happening) {
        let run = self.machines[usize::from(machine)].run;
        let life = self.machines[usize::from(machine)].life;
        let suspended = matches!(run, Run::Suspended { .. });
        let Some(host) = self.host(machine) else { return };
        let (of_daemon, of_guard) = match what {
            Happening::Step { life: of }
            | Happening::PutBack { life: of }
            | Happening::Disinherit { life: of }
            | Happening::Drained { life: of, .. }
            | Happening::Orphaned { life: of, .. } => (Some(of), None),
            Happening::Watches { guard_life }
            | Happening::Looks { guard_life, .. }
            | Happening::Buries { guard_life }
            | Happening::Duty { guard_life }
            | Happening::Forks { guard_life } => (None, Some(guard_life)),
            Happening::Expires { .. } | Happening::GoesOn { .. } => (None, None),
        };
        if of_daemon.is_some_and(|of| of != life)
            || of_guard.is_some_and(|of| of != host.guard_life)
        {
            return;
        }
        let still = matches!(run, Run::Stopped { .. });
        if of_daemon.is_some() && (still || suspended)
            || what == (Happening::GoesOn { daemon: true }) && suspended
        {
            return host.deferred[0].push(what);
        }
        if suspended || of_guard.is_some() && host.guard == Guard::Stopped {
            return host.deferred[1].push(what);
        }
        match what {
            Happening::Step { .. } => self.step_done(machine),
            Happening::PutBack { .. } => self.put_back_all(machine),
            Happening::Disinherit { .. } => {
                host.holding.iter_mut().for_each(Holding::disinherit);
                self.work(machine);
            }
            Happening::Drained { vip, .. } => {
                host.orders.push_back(Order::Leave { vip });
                self.work(machine);
            }
            Happening::Orphaned { forks, .. } => self.orphaned(machine, forks),
            Happening::Watches { .. } => self.guard_watches(machine),
            Happening::Looks { due, .. } => self.guard_looks(machine, due),
            Happening::Buries { .. } => self.guard_buries(machine),
            Happening::Duty { .. } => self.duty_done(machine),
            Happening::Forks { .. } => self.guard_forks(machine),
            Happening::Expires { token } => self.lifetime_ends(machine, token),
            Happening::GoesOn { daemon } => self.goes_on(machine, daemon),
        }
    }

    /// What waited for a process that stood still comes now.
    pub(crate) fn undefer(&mut self, machine: u8, guard: bool) {
        let Some(host) = self.host(machine) else { return };
        for what in std::mem::take(&mut host.deferred[usize::from(guard)]) {
            self.queue.push(self.now, crate::queue::Due::Host { machine, what });
        }
    }
}

const NOTHING: State =
    State { addresses: Vec::new(), goodbyes: Vec::new(), settings: Vec::new(), links: Vec::new() };

impl Host {
    const fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            holding: None,
            orders: VecDeque::new(),
            step: None,
            begins: false,
            ends: false,
            ending: false,
            hangs: false,
            beat: 0,
            stop: Stop::new(true),
            began: 0,
            lives: 0,
            ledger: NOTHING,
            late_ledger: NOTHING,
            ended: false,
            patience: 0,
            file: Vec::new(),
            guard: Guard::Gone,
            guard_life: 0,
            guarded_lives: Lives::NONE,
            stopping: false,
            duties: VecDeque::new(),
            burying: false,
            restart_by: None,
            held: BTreeSet::new(),
            said: BTreeSet::new(),
            goodbyes: BTreeMap::new(),
            wanted: BTreeSet::new(),
            kept: BTreeSet::new(),
            trap: None,
            deferred: [Vec::new(), Vec::new()],
            down: None,
            flaw: Flaw::None,
        }
    }

    fn held_or_wanted(&self, vip: u8) -> bool {
        self.held.contains(&vip) || self.wanted.contains(&vip)
    }

    /// Whether the daemon, if it runs, has nothing on the host and nothing to do.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        let holds_nothing = |holding: &Holding| holding.idle() && holding.is_empty();
        self.holding.as_ref().is_some_and(holds_nothing) && self.orders.is_empty()
    }
}
