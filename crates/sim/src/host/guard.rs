//! The guard as a process: core decides, and each thing that it does takes its time.

use std::time::Duration;

use standin_core::guard::{
    self, Duty, End, LEAST_PATIENCE, Lives, Remains, Signs, State, Stop, duties,
};
use standin_core::types::{Family, Instant};

use super::kernel::ETH0;
use super::life::ENGINE_DEAD_AFTER;
use super::{BEGINS, Down, Flaw, Guard, Happening, Host, WAKES};
use crate::clock::{MICROSECOND, MILLISECOND, Nanos, SECOND};
use crate::cluster::spoken;
use crate::fault::Fault;
use crate::machine::{Run, Slot};
use crate::queue::Due;
use crate::scene::{Observation, Scene};

/// Sending, or writing a setting.
const BRIEFLY: (Nanos, Nanos) = (10 * MICROSECOND, 200 * MICROSECOND);

/// Of these exit codes the simulator knows one.
const DONE: u8 = 0;

/// Nothing of a daemon outlives it for longer: by promise 3.
const KILLED: Nanos = 50 * MILLISECOND;
const STOPPED: Nanos = 150 * MILLISECOND;
const ALL_GONE: Nanos = 3 * SECOND;

/// The longest wait before a daemon that dies again and again is started, and what starting takes.
const STARTS_WITHIN: Nanos = 61 * SECOND;
/// The same for one that had lived.
const STARTS_AT_ONCE: Nanos = SECOND;
const LIVED: Nanos = 61 * SECOND;

impl Scene {
    /// The service manager, or the power, starts a guard, which starts a daemon.
    pub(crate) fn guard_starts(&mut self, machine: u8) {
        let own = self.machines[usize::from(machine)].own_present;
        let powered = self.machines[usize::from(machine)].powered;
        let Some(host) = self.host(machine) else { return };
        if host.guard != Guard::Gone || host.holding.is_some() {
            return;
        }
        if !powered {
            host.kernel.boots(own);
            host.file.clear();
        }
        host.guard = Guard::Up;
        host.guard_life += 1;
        host.guarded_lives = Lives::NONE;
        (host.stopping, host.burying) = (false, false);
        self.guard_forks(machine);
    }

    pub(crate) fn guard_forks(&mut self, machine: u8) {
        if self.machines[usize::from(machine)].run != Run::Off {
            return;
        }
        let now = self.now;
        let Some(host) = self.host(machine) else { return };
        if host.flaw == Flaw::NeverStarts && host.lives > 0 {
            return;
        }
        (host.ledger, host.late_ledger) = (State::default(), State::default());
        (host.ended, host.burying, host.patience) = (false, false, 0);
        host.stop = Stop::new(true);
        host.guarded_lives.begins(Instant::from_nanos(now));
        let guard_life = host.guard_life;
        if self.trapped(machine, "a daemon is forked", false) && !self.guard_is_up(machine) {
            // A guard that died meanwhile starts nobody.
            return self.later(machine, (0, 0), Happening::Forks { guard_life });
        }
        self.start_process(machine);
        self.process_begins(machine);
        self.trapped(machine, "a daemon is forked", true);
    }

    fn guard_is_up(&mut self, machine: u8) -> bool {
        self.host(machine).is_some_and(|host| host.guard == Guard::Up)
    }

    /// The engine tells the guard how fast this node's VIPs are.
    pub(crate) fn pace(&mut self, machine: u8) {
        let node = self.machines[usize::from(machine)].node.as_ref();
        let fastest = node.and_then(|node| node.plan().vips.iter().map(spoken).min());
        let fastest = fastest.unwrap_or(Duration::from_secs(1));
        let patience = guard::patience(fastest, LEAST_PATIENCE);
        if let Some(host) = self.host(machine) {
            host.patience = Nanos::try_from(patience.as_nanos()).unwrap_or(Nanos::MAX);
        }
    }

    /// The engine beats no more for a while, or for ever.
    pub(crate) fn beats_end(&mut self, machine: u8) {
        let patience = Duration::from_nanos(self.host(machine).map_or(0, |host| host.patience));
        let every = guard::beat_every(patience).as_nanos();
        let ago = self.chance((0, Nanos::try_from(every).unwrap_or(0)));
        let now = self.now;
        let Some(host) = self.host(machine) else { return };
        host.beat = now.saturating_sub(ago);
        self.guard_is_told(machine);
    }

    /// The kernel tells that a daemon stands still, if the guard is its parent.
    fn guard_is_told(&mut self, machine: u8) {
        match self.host(machine) {
            Some(host) if host.stop.told => self.guard_sees(machine),
            _ => self.look_soon(machine),
        }
    }

    fn guard_sees(&mut self, machine: u8) {
        let now = Instant::from_nanos(self.now);
        if let Some(host) = self.host(machine) {
            host.stop.seen(now, !host.hangs);
        }
        self.look_soon(machine);
    }

    fn signs(&mut self, machine: u8) -> Signs {
        let running = self.machines[usize::from(machine)].running();
        let now = self.now;
        let Some(host) = self.host(machine) else { return Signs::NONE };
        Signs {
            holds: !host.ledger.addresses.is_empty(),
            patience: Duration::from_nanos(host.patience),
            last_beat: Instant::from_nanos(if running { now } else { host.beat }),
        }
    }

    fn look_soon(&mut self, machine: u8) {
        let (signs, now) = (self.signs(machine), Instant::from_nanos(self.now));
        let late = self.chance((0, MILLISECOND));
        let Some(host) = self.host(machine) else { return };
        let due = signs.next_look(now, host.stop).as_nanos();
        if host.guard == Guard::Up && host.flaw != Flaw::NeverLooks {
            let what = Happening::Looks { guard_life: host.guard_life, due };
            self.queue.push(due.max(self.now) + late, Due::Host { machine, what });
        }
    }

    pub(crate) fn guard_looks(&mut self, machine: u8, due: Nanos) {
        let Run::Stopped { .. } = self.machines[usize::from(machine)].run else { return };
        let signs = self.signs(machine);
        let (now, due) = (Instant::from_nanos(self.now), Instant::from_nanos(due));
        let Some(host) = self.host(machine) else { return };
        if host.stop.is_to_be_seen() {
            host.stop.seen(now, !host.hangs);
        }
        if signs.stuck(now, due, host.stop) {
            self.count("guard ends a daemon that is stuck");
            self.daemon_dies(machine);
        } else {
            self.look_soon(machine);
        }
    }

    /// A daemon dies: whatever it held stays on the host.
    pub fn daemon_dies(&mut self, machine: u8) {
        let host = &self.machines[usize::from(machine)];
        if host.run == Run::Off {
            return;
        }
        let wanted = |slot: &Slot| slot.wanted || slot.pending > 0;
        let mut wanted = host.places_where(wanted);
        let held = host.places_where(|slot| slot.present && slot.wanted && slot.pending == 0);
        if let Some(host) = self.host(machine) {
            wanted.append(&mut host.kept);
        }
        self.process_over(machine);
        if let Some(host) = self.host(machine) {
            (host.held, host.wanted) = (held, wanted);
            host.said.clear();
        }
        self.lifetimes_begin(machine, 0);
        self.goes_down(machine, KILLED);
        self.daemon_is_gone(machine);
    }

    /// The address thread's part of a daemon that has ended.
    pub(crate) fn process_over(&mut self, machine: u8) {
        self.ends_process(machine);
        let Some(host) = self.host(machine) else { return };
        (host.holding, host.step) = (None, None);
        (host.begins, host.ends, host.ending, host.hangs) = (false, false, false, false);
        host.orders.clear();
        host.deferred[0].clear();
        host.held.clear();
        host.wanted.clear();
        host.kept.clear();
    }

    pub(crate) fn daemon_is_gone(&mut self, machine: u8) {
        let now = self.now;
        let Some(host) = self.host(machine) else { return };
        let guard_life = host.guard_life;
        if matches!(host.guard, Guard::Up | Guard::Stopped) {
            if host.guard == Guard::Up && !host.ended && !host.stopping {
                let lived = now.saturating_sub(host.began) >= LIVED;
                let within = if lived { STARTS_AT_ONCE } else { STARTS_WITHIN };
                host.restart_by = Some(now + within);
            }
            self.later(machine, WAKES, Happening::Buries { guard_life });
        }
    }

    /// Since now nobody sees to the addresses but who has this much time for it.
    pub(crate) fn goes_down(&mut self, machine: u8, bound: Nanos) {
        let slow = self.machines[usize::from(machine)].kernel_slow + self.kernel_takes.1;
        let now = self.now;
        let Some(host) = self.host(machine) else { return };
        let bound = if host.guard == Guard::Up { bound + slow } else { host.lasts_alone() };
        host.down = Some(match host.down {
            // It was stopped before it was killed.
            Some(down) => Down { bound: down.bound.max(now - down.since + bound), ..down },
            None => Down { since: now, bound, alone: host.lasts_alone() },
        });
    }

    pub(crate) fn stands_still(&mut self, machine: u8) {
        let hangs = self.host(machine).is_some_and(|host| host.hangs);
        let patience = self.host(machine).map_or(0, |host| host.patience);
        let bound = match (hangs, patience) {
            // A program is being replaced: the guard waits for it, the kernel doesn't.
            (_, 0) => ALL_GONE,
            (false, _) => STOPPED,
            (true, patience) => (patience + STOPPED).min(ALL_GONE + SECOND),
        };
        self.goes_down(machine, bound);
    }

    pub(crate) fn guard_dies(&mut self, machine: u8, forks: bool) {
        let life = self.machines[usize::from(machine)].life;
        let run = self.machines[usize::from(machine)].run;
        let Some(host) = self.host(machine) else { return };
        if host.guard == Guard::Gone {
            return;
        }
        host.guard = Guard::Gone;
        host.guard_life += 1;
        host.duties.clear();
        host.deferred[1].clear();
        (host.burying, host.restart_by) = (false, None);
        if let Some(down) = &mut host.down {
            down.bound = down.bound.max(down.alone);
        }
        if run != Run::Off {
            self.later(machine, WAKES, Happening::Orphaned { life, forks });
        }
    }

    /// Another guard, or another program of it, has opened its eyes.
    pub(crate) fn guard_watches(&mut self, machine: u8) {
        self.trapped(machine, "another guard watches", false);
        let run = self.machines[usize::from(machine)].run;
        let now = self.now;
        let Some(host) = self.host(machine).filter(|host| host.guard == Guard::Begins) else {
            return;
        };
        host.guard = Guard::Up;
        host.guarded_lives = Lives::NONE;
        host.guarded_lives.begins(Instant::from_nanos(now));
        host.stopping = false;
        if run == Run::Off {
            self.daemon_is_gone(machine);
        } else if run != Run::Running {
            self.guard_sees(machine);
        }
        self.trapped(machine, "another guard watches", true);
    }

    fn remains(&mut self, machine: u8) -> Remains<u8> {
        self.host(machine).map_or(
            Remains { meant: Some(DONE), code: None, clean: true, stopping: false },
            |host| Remains {
                meant: host.ended.then_some(DONE),
                code: None,
                clean: host.ledger == State::default(),
                stopping: host.stopping,
            },
        )
    }

    pub(crate) fn guard_buries(&mut self, machine: u8) {
        let left = self.remains(machine).left();
        let Some(host) = self.host(machine) else { return };
        if host.burying || host.flaw == Flaw::NeverBuries {
            return;
        }
        host.burying = true;
        host.duties.clear();
        if left {
            host.duties.extend(duties(&host.ledger));
            match host.flaw {
                Flaw::GoodbyeFirst => sort(host, |duty| !matches!(duty, Duty::SayGoodbye(_))),
                Flaw::SettingsFirst => sort(host, |duty| !matches!(duty, Duty::PutBack(_))),
                Flaw::Silent => host.duties.retain(|duty| !matches!(duty, Duty::SayGoodbye(_))),
                Flaw::KeepsSettings => host.duties.retain(|duty| !matches!(duty, Duty::PutBack(_))),
                _ => {}
            }
        }
        self.next_duty(machine);
    }

    fn next_duty(&mut self, machine: u8) {
        let (slow, takes) = (self.machines[usize::from(machine)].kernel_slow, self.kernel_takes);
        let Some(host) = self.host(machine) else { return };
        let guard_life = host.guard_life;
        let wait = match host.duties.front() {
            None => return self.buried(machine),
            Some(Duty::Drop(_)) => (takes.0 + slow, takes.1 + slow),
            Some(_) => BRIEFLY,
        };
        self.later(machine, wait, Happening::Duty { guard_life });
    }

    pub(crate) fn duty_done(&mut self, machine: u8) {
        let Some(host) = self.host(machine) else { return };
        let (guard_life, Some(duty)) = (host.guard_life, host.duties.front().cloned()) else {
            return;
        };
        let at = match duty {
            Duty::Drop(_) => "the guard takes addresses away",
            Duty::SayGoodbye(_) => "the guard says goodbye",
            Duty::PutBack(_) => "the guard puts a setting back",
            Duty::Silence(_) | Duty::Remove(_) => "the guard ends a link",
        };
        if self.trapped(machine, at, false) && !self.guard_is_up(machine) {
            return self.later(machine, (0, 0), Happening::Duty { guard_life });
        }
        let Some(host) = self.host(machine) else { return };
        host.duties.pop_front();
        match duty {
            Duty::Drop(keys) => {
                for key in keys {
                    host.kernel.remove(key);
                }
                self.look_at_kernel(machine, true);
            }
            Duty::SayGoodbye(group) => {
                for goodbye in group {
                    let family = Family::of(goodbye.source);
                    if let Some(vip) = goodbye.payload.first() {
                        self.say_goodbye(machine, *vip, family);
                    }
                }
            }
            // This kernel has none.
            Duty::Silence(_) | Duty::Remove(_) => {}
            Duty::PutBack(setting) => {
                if setting.stands(host.kernel.setting(&setting.path)) {
                    host.kernel.set(&setting.path, &setting.old);
                }
            }
        }
        self.trapped(machine, at, true);
        if self.host(machine).is_some_and(|host| host.guard_life == guard_life) {
            self.next_duty(machine);
        }
    }

    fn say_goodbye(&mut self, machine: u8, vip: u8, family: Family) {
        let now = self.now;
        let name = self.machines[usize::from(machine)].name.clone();
        let plan = self.file.plan.vips.get(usize::from(vip));
        let keys: Vec<_> =
            plan.into_iter().flat_map(|plan| &plan.addresses).map(|one| (ETH0, *one)).collect();
        let Some(host) = self.host(machine) else { return };
        host.said.insert(vip);
        let untrue = !host.held_or_wanted(vip);
        if let Some(key) = keys.iter().find(|key| host.kernel.has(**key)) {
            let what = format!("P1: the guard of {name} says goodbye and {} is still there", key.1);
            self.seen.push(Observation::Broken(what));
        }
        if untrue {
            let what = format!("P3: the guard of {name} gives up VIP {vip}, which wasn't held");
            self.seen.push(Observation::Broken(what));
        }
        let known = self.kept_goodbye(machine, vip, family);
        if let Some(trace) = &mut self.trace {
            trace.push(now, &format!("{name} guard: goodbye for VIP {vip}"));
        }
        for (to, packet) in known {
            self.send(machine, to, packet);
        }
    }

    /// All that was to be done is done.
    fn buried(&mut self, machine: u8) {
        let remains = self.remains(machine);
        self.was_told(machine);
        let now = self.now;
        let name = self.machines[usize::from(machine)].name.clone();
        let Some(host) = self.host(machine) else { return };
        if remains.left()
            && let Some((path, is, meant)) = host.kernel.changed()
            && host.ledger.settings.iter().any(|setting| setting.path == path)
        {
            let what =
                format!("P8: the guard of {name} has cleared up, and {path} is {is}, not {meant}");
            self.seen.push(Observation::Broken(what));
        }
        let Some(host) = self.host(machine) else { return };
        let guard_life = host.guard_life;
        let over = matches!(remains.end(DONE), End::Over(_)) || host.stopping;
        if over {
            host.guard = Guard::Gone;
            host.guard_life += 1;
            (host.burying, host.restart_by) = (false, None);
            return;
        }
        let wait = host.guarded_lives.died(Instant::from_nanos(now));
        let wait = Nanos::try_from(wait.as_nanos()).unwrap_or(Nanos::MAX);
        self.later(machine, (wait + BEGINS.0, wait + BEGINS.1), Happening::Forks { guard_life });
    }

    /// Peers were told of all that the daemon held.
    fn was_told(&mut self, machine: u8) {
        let there = &self.machines[usize::from(machine)];
        let can = there.own_present && there.on_the_air();
        let name = there.name.clone();
        let Some(host) = self.host(machine) else { return };
        let untold = host.held.difference(&host.said).next().copied();
        host.held.clear();
        if let Some(vip) = untold.filter(|_| can) {
            let what =
                format!("P2: the guard of {name} told nobody that {} is free", self.name(vip));
            self.seen.push(Observation::Broken(what));
        }
    }

    pub(crate) fn count(&mut self, what: &str) {
        *self.faults.entry(what.to_owned()).or_default() += 1;
        self.seen.push(Observation::Disturbed);
    }

    /// A process that stood still goes on.
    pub(crate) fn goes_on(&mut self, machine: u8, daemon: bool) {
        if daemon {
            return self.apply(Fault::Continue { machine, clock_stood: false });
        }
        let still = matches!(self.machines[usize::from(machine)].run, Run::Stopped { .. });
        let Some(host) = self.host(machine).filter(|host| host.guard == Guard::Stopped) else {
            return;
        };
        host.guard = Guard::Up;
        self.undefer(machine, true);
        if still {
            self.guard_is_told(machine);
        }
    }
}

fn sort(host: &mut Host, late: impl Fn(&Duty) -> bool) {
    host.duties.make_contiguous().sort_by_key(late);
}

impl Host {
    /// How long addresses are there at most when no guard takes them away.
    fn lasts_alone(&self) -> Nanos {
        // Beside an engine that hangs the address thread lives, and renews until it has noticed.
        ALL_GONE + if self.hangs { ENGINE_DEAD_AFTER } else { 0 }
    }
}
