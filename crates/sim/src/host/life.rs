//! What the faults of every scene do to processes and kernels.

use standin_core::guard::Stop;

use super::{Down, Guard, Happening};
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::machine::Run;
use crate::scene::{Observation, Scene};

/// From one program to the next one in its place.
const EXEC: (Nanos, Nanos) = (MILLISECOND, 20 * MILLISECOND);

/// An address thread whose engine hasn't beaten for so long renews nothing.
pub(super) const ENGINE_DEAD_AFTER: Nanos = SECOND;

impl Scene {
    /// The guard stands still, and the daemon with it.
    pub(crate) fn stop_all(&mut self, machine: u8) {
        let running = self.machines[usize::from(machine)].running();
        if let Some(host) = self.host(machine).filter(|host| running && host.guard == Guard::Up) {
            host.guard = Guard::Stopped;
        }
    }

    pub(crate) fn stop_daemon(&mut self, machine: u8) {
        self.freeze(machine, Run::Stopped { since: self.now });
    }

    pub(crate) fn stopped_on_host(&mut self, machine: u8) {
        let hangs = self.host(machine).is_some_and(|host| host.hangs);
        let upgrading = self.machines[usize::from(machine)].upgrading;
        if let Some(host) = self.host(machine).filter(|_| upgrading) {
            host.patience = 0;
        }
        if self.hosts.is_some() {
            self.lifetimes_begin(machine, if hangs { ENGINE_DEAD_AFTER } else { 0 });
            self.stands_still(machine);
            self.beats_end(machine);
        }
    }

    pub(crate) fn continued_on_host(&mut self, machine: u8) {
        let Some(host) = self.host(machine) else { return };
        host.hangs = false;
        host.stop = Stop::new(host.stop.told);
        host.down = None;
        if host.guard == Guard::Stopped {
            host.guard = Guard::Up;
        }
        self.undefer(machine, false);
        self.undefer(machine, true);
    }

    /// Whether a newer program is taken up: not while a switchover is under way.
    pub(crate) fn can_be_replaced(&mut self, machine: u8) -> bool {
        let Some(host) = self.host(machine) else { return true };
        let order = |order: &standin_core::holding::Order| {
            matches!(order, standin_core::holding::Order::Stay { .. })
        };
        let moves = host.orders.iter().any(order);
        let can = !moves && !host.begins && !host.ends;
        let can = can && host.holding.as_ref().is_some_and(|holding| !holding.stays());
        if can {
            self.trapped(machine, "a program is replaced", false);
        }
        can
    }

    /// The guard takes up the new program, too.
    pub(crate) fn guard_is_replaced(&mut self, machine: u8) {
        let Some(host) = self.host(machine).filter(|host| host.guard == Guard::Up) else { return };
        host.guard = Guard::Begins;
        host.guard_life += 1;
        let guard_life = host.guard_life;
        self.later(machine, EXEC, Happening::Watches { guard_life });
    }

    /// SIGTERM, by way of the guard; true when there is no daemon to stop any more.
    pub(crate) fn told_to_stop(&mut self, machine: u8) -> bool {
        self.trapped(machine, "a daemon is told to stop", false);
        let running = self.machines[usize::from(machine)].running();
        let Some(host) = self.host(machine) else { return false };
        if running {
            host.stopping = host.guard != Guard::Gone;
        }
        !running
    }

    pub(crate) fn own_in_kernel(&mut self, machine: u8, present: bool) {
        let Some(host) = self.host(machine) else { return };
        if present {
            host.kernel.own_comes();
            self.yield_primary(machine);
        } else {
            host.kernel.own_goes();
            self.misses(machine);
        }
    }

    /// The power is off: no process, no address, no setting.
    pub(crate) fn host_off(&mut self, machine: u8) {
        let Some(host) = self.host(machine) else { return };
        host.guard = Guard::Gone;
        host.guard_life += 1;
        host.duties.clear();
        host.deferred[1].clear();
        (host.burying, host.restart_by, host.down) = (false, None, None);
        host.kernel.boots(false);
        host.file.clear();
        self.process_over(machine);
        self.look_at_kernel(machine, true);
    }

    pub(crate) fn begun_on_host(&mut self, machine: u8) {
        if let Some(host) = self.host(machine) {
            host.down = None;
            self.pace(machine);
            self.seen.push(Observation::Disturbed);
        }
    }
}

impl Down {
    /// When nothing may be left.
    #[must_use]
    pub const fn over(self) -> Nanos {
        self.since.saturating_add(self.bound)
    }
}
