//! What is done to processes: at any time, and right before and after each single step.

use standin_core::guard::Setting;
use standin_core::holding::{Change, LOOPBACK, Step};

use super::kernel::ARP_IGNORE;
use super::{Guard, Happening};
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::fault::Fault;
use crate::machine::Run;
use crate::queue::Due;
use crate::scene::{Observation, Scene};

/// One in so many guards that die can't be replaced: no memory, no process numbers.
const UNREPLACED: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hurt {
    Kill,
    Engine,
    Control,
    Memory,
    Guard,
    Both,
    Stop,
    Hang,
    StopGuard,
    StopBoth,
    Power,
}

impl Hurt {
    const ALL: [Self; 11] = [
        Self::Kill,
        Self::Engine,
        Self::Control,
        Self::Memory,
        Self::Guard,
        Self::Both,
        Self::Stop,
        Self::Hang,
        Self::StopGuard,
        Self::StopBoth,
        Self::Power,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "daemon alone killed",
            Self::Engine => "engine panics",
            Self::Control => "control plane panics",
            Self::Memory => "out of memory",
            Self::Guard => "guard killed",
            Self::Both => "guard and daemon killed",
            Self::Stop => "daemon alone stopped",
            Self::Hang => "engine hangs",
            Self::StopGuard => "guard stopped",
            Self::StopBoth => "guard and daemon stopped",
            Self::Power => "power off at a step",
        }
    }
}

/// Everything that a long run has to have done to processes.
pub const KINDS: [&str; 14] = [
    "daemon alone killed",
    "engine panics",
    "control plane panics",
    "out of memory",
    "guard killed",
    "guard and daemon killed",
    "daemon alone stopped",
    "engine hangs",
    "guard stopped",
    "guard and daemon stopped",
    "power off at a step",
    "guard can't be replaced",
    "guard ends a daemon that is stuck",
    "setting changed by somebody",
];

/// The steps at which it has to have been done, before and after.
pub const AT: [&str; 17] = [
    "the ledger is written",
    "a setting is read",
    "a setting is changed",
    "a setting is put back",
    "addresses come",
    "addresses go",
    "a VIP is put on the loopback link",
    "a VIP leaves the loopback link",
    "the engine is told",
    "a daemon is forked",
    "a daemon begins",
    "another guard watches",
    "a program is replaced",
    "a daemon is told to stop",
    "the guard takes addresses away",
    "the guard says goodbye",
    "the guard puts a setting back",
];

/// The name of a step, for the table of a run.
pub(super) fn name_of(step: &Step) -> &'static str {
    match step {
        Step::Record(_) => "the ledger is written",
        Step::Look { .. } => "a setting is read",
        Step::Set { .. } => "a setting is changed",
        Step::PutBack(_) => "a setting is put back",
        Step::Settled { .. } | Step::Complain(_) => "the engine is told",
        Step::MakeLink(_) | Step::LetSpeak(_) => "a link comes",
        Step::Silence(_) | Step::RemoveLinks(_) => "a link goes",
        Step::Change { batch, .. } => {
            let has = |what: fn(&Change) -> bool| batch.iter().any(what);
            let keeps = has(|change| matches!(change, Change::Keep { .. }));
            let leaves = has(|change| matches!(change, Change::Drop { key } if key.0 == LOOPBACK));
            let holds = has(|change| matches!(change, Change::Hold { .. } | Change::Serve { .. }));
            match (keeps, leaves, holds) {
                (true, ..) => "a VIP is put on the loopback link",
                (_, true, ..) => "a VIP leaves the loopback link",
                (_, _, true) => "addresses come",
                _ => "addresses go",
            }
        }
    }
}

/// What is to be done to the processes of a machine at a step, and how long it lasts.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    at: &'static str,
    after: bool,
    hurt: Hurt,
}

impl Scene {
    /// When the next one comes.
    pub(crate) fn hurt_again(&mut self) -> Nanos {
        self.now + self.chance((100 * MILLISECOND, 20 * SECOND))
    }

    /// Draws what is done to processes next.
    pub fn hurt(&mut self) {
        let next = self.hurt_again();
        self.queue.push(next, Due::Hurt);
        let machines = self.machines.len();
        let Some(hosts) = &mut self.hosts else { return };
        let random = &mut hosts.random;
        let machine = u8::try_from(random.index(machines)).unwrap_or(0);
        let vip = u8::try_from(random.index(self.file.names.len())).unwrap_or(0);
        let hurt = Hurt::ALL[random.index(Hurt::ALL.len())];
        let (kind, value) = (random.below(10), random.below(4));
        let trap = Trap { at: AT[random.index(AT.len())], after: random.chance(500), hurt };
        match kind {
            0..=4 => hosts.all[usize::from(machine)].trap = Some(trap),
            // A cluster whose VIPs don't move takes no steps.
            5 | 6 => self.switch_over(vip, machine),
            7 => self.operator_sets(machine, value),
            _ if hurt != Hurt::Power => self.do_hurt(machine, hurt),
            _ => {}
        }
    }

    fn operator_sets(&mut self, machine: u8, value: u64) {
        let value = value.to_string();
        let Some(host) = self.host(machine) else { return };
        let idle = host.holding.as_ref().is_none_or(standin_core::holding::Holding::idle);
        let busy = !host.duties.is_empty() || host.begins || host.ends;
        // Somebody who sets what standin has set can't be told from it, and it is put back.
        let ours = |it: &Setting| it.path == ARP_IGNORE && it.new == value;
        let ours = host.ledger.settings.iter().any(ours);
        if idle && !busy && !ours && host.kernel.setting(ARP_IGNORE) != value {
            host.kernel.set(ARP_IGNORE, &value);
            host.kernel.meant.insert(ARP_IGNORE.to_owned(), value);
            self.count("setting changed by somebody");
        }
    }

    /// Whether something was done to the processes at this step.
    pub(crate) fn trapped(&mut self, machine: u8, at: &'static str, after: bool) -> bool {
        let Some(host) = self.host(machine) else { return false };
        let Some(trap) = host.trap.filter(|trap| (trap.at, trap.after) == (at, after)) else {
            return false;
        };
        host.trap = None;
        let when = if after { "after" } else { "before" };
        *self.faults.entry(format!("{when}: {at}")).or_default() += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(self.now, &format!("{when} {at}:"));
        }
        self.do_hurt(machine, trap.hurt);
        true
    }

    fn do_hurt(&mut self, machine: u8, hurt: Hurt) {
        let run = self.machines[usize::from(machine)].run;
        let Some(hosts) = &mut self.hosts else { return };
        let forks = !hosts.random.chance(UNREPLACED);
        let last = hosts.random.scaled(5, 8_000) * MILLISECOND;
        let other = hosts.random.scaled(5, 8_000) * MILLISECOND;
        let guard = hosts.all[usize::from(machine)].guard;
        let daemon = matches!(run, Run::Running | Run::Stopped { .. });
        let upgrading = self.machines[usize::from(machine)].upgrading;
        let possible = match hurt {
            Hurt::Kill | Hurt::Memory | Hurt::Both => daemon,
            Hurt::Engine | Hurt::Control => run == Run::Running,
            Hurt::Guard => guard != Guard::Gone,
            Hurt::Stop | Hurt::Hang | Hurt::StopBoth => run == Run::Running && !upgrading,
            Hurt::StopGuard => guard == Guard::Up,
            Hurt::Power => !matches!(run, Run::Suspended { .. }),
        };
        if !possible {
            return;
        }
        if let Some(trace) = &mut self.trace {
            let name = &self.machines[usize::from(machine)].name;
            trace.push(self.now, &format!("FAULT {} of {name}", hurt.name()));
        }
        self.count(hurt.name());
        match hurt {
            Hurt::Kill | Hurt::Engine | Hurt::Control | Hurt::Memory => self.daemon_dies(machine),
            Hurt::Guard => self.guard_dies(machine, forks),
            Hurt::Both => {
                self.kill_all(machine);
                self.queue.push(self.now + last, Due::Fault(Fault::Start { machine }));
            }
            Hurt::Stop | Hurt::Hang => {
                if let Some(host) = self.host(machine) {
                    host.hangs = hurt == Hurt::Hang;
                }
                self.stop_daemon(machine);
                self.later(machine, (last, last), Happening::GoesOn { daemon: true });
            }
            Hurt::StopGuard => self.stop_guard(machine, last),
            Hurt::StopBoth => {
                self.stop_guard(machine, last);
                self.stop_daemon(machine);
                self.later(machine, (other, other), Happening::GoesOn { daemon: true });
            }
            Hurt::Power => {
                self.apply(Fault::PowerOff { machine });
                self.queue.push(self.now + last, Due::Fault(Fault::Start { machine }));
            }
        }
    }

    fn stop_guard(&mut self, machine: u8, lasting: Nanos) {
        let Some(host) = self.host(machine).filter(|host| host.guard == Guard::Up) else { return };
        host.guard = Guard::Stopped;
        if let Some(down) = &mut host.down {
            down.bound = down.bound.max(down.alone);
        }
        // A daemon that died is started again by whoever stands still, and not before it goes on.
        host.restart_by = None;
        self.later(machine, (lasting, lasting), Happening::GoesOn { daemon: false });
    }

    /// SIGKILL to all of them at once.
    pub(crate) fn kill_all(&mut self, machine: u8) {
        self.guard_dies(machine, false);
        self.daemon_dies(machine);
        self.seen.push(Observation::Disturbed);
    }
}
