//! How each fault is done to the scene.

use std::mem;
use std::time::Duration;

use standin_core::election::VirtualRouter;
use standin_core::event::Role;
use standin_core::node::Node;
use standin_core::plan::{Failback, Plan};
use standin_core::record::{self, Entry, Recorded};
use standin_core::resume::Resume;
use standin_core::types::{CheckId, Family, InterfaceId, VipId};
use standin_core::{Command, Input, Verdict};

use crate::clock::{Clock, MILLISECOND, Nanos, SECOND};
use crate::fault::Fault;
use crate::host::{Guard, Hosts};
use crate::machine::{BySender, Mail, Run, Sabotage};
use crate::network::{CLIENT, FOREIGN, WITNESS};
use crate::queue::Due;
use crate::scene::{CACHE_UNKNOWN, Cause, Observation, Scene};

/// From the start of a daemon to the first result of each check.
const FIRST_RESULT: (Nanos, Nanos) = (2 * MILLISECOND, 400 * MILLISECOND);

/// Whoever talks to a daemon that stands still tries again after this.
const RETRY_AFTER: Nanos = 50 * MILLISECOND;

impl Scene {
    pub fn apply(&mut self, fault: Fault) {
        if self.waits(&fault) {
            return self.queue.push(self.now + RETRY_AFTER, Due::Fault(fault));
        }
        if let Some(trace) = &mut self.trace {
            trace.fault(self.now, &fault, &self.machines, &self.file);
        }
        self.seen.push(Observation::Disturbed);
        if fault.is_of_the_network() {
            self.network.changed_at = self.now;
        }
        self.befall(fault);
        if fault.is_of_the_network() || matches!(fault, Fault::Interface { .. }) {
            self.look_for_witness();
        }
    }

    fn befall(&mut self, fault: Fault) {
        match fault {
            Fault::Isolate { machine, cut } => self.isolate(machine, cut),
            Fault::Way { from, to, family, cut } => self.way(from, to, family, cut),
            Fault::Pair { a, b, cut } => {
                self.way(a, b, None, cut);
                self.way(b, a, None, cut);
            }
            Fault::Family { machine, family, cut } => {
                for other in self.places().filter(|other| *other != machine) {
                    self.way(machine, other, Some(family), cut);
                    self.way(other, machine, Some(family), cut);
                }
            }
            Fault::Sides { mask, witness, cut } => self.sides(mask, witness, cut),
            Fault::Mute { from, to, on } => self.network.mute(from.into(), to.into(), on),
            Fault::Beside { cut } => self.beside_cut = cut,
            Fault::Loss { ppm } => self.network.burst_loss_ppm = u64::from(ppm),
            Fault::Duplication { ppm } => self.network.burst_duplicate_ppm = u64::from(ppm),
            Fault::Corruption { ppm } => self.network.burst_corrupt_ppm = u64::from(ppm),
            Fault::Spike { up_to } => {
                // Packets that were delayed before arrive after its end.
                self.queue.push(self.now + self.network.spike.max(up_to), Due::Disturb);
                self.network.spike(self.now, up_to);
            }
            Fault::Stop { machine } => {
                self.stop_all(machine);
                self.freeze(machine, Run::Stopped { since: self.now });
            }
            Fault::Suspend { machine } => self.freeze(machine, Run::Suspended { since: self.now }),
            Fault::Upgrade { machine } => self.upgrade(machine),
            Fault::Continue { machine, clock_stood } => self.thaw(machine, clock_stood),
            Fault::Kill { machine } if self.hosts.is_some() => self.kill_all(machine),
            Fault::Kill { machine } => self.kill(machine),
            Fault::PowerOff { machine } => self.power_off(machine),
            Fault::Start { machine } => self.start(machine),
            Fault::Quit { machine } => {
                self.leftovers_gone(machine);
                if self.told_to_stop(machine) {
                    return;
                }
                self.machines[usize::from(machine)].stopping = true;
                self.command(machine, Command::Stop);
                self.trapped(machine, "a daemon is told to stop", true);
            }
            Fault::Service { machine, check, works, sudden, gap } => {
                self.service(machine, check, works, sudden, gap);
            }
            Fault::Result { machine, check, verdict } => self.result(machine, check, verdict),
            Fault::Maintenance { machine, on, lasting } => self.maintain(machine, on, lasting),
            Fault::Await { machine, vip, on } => self.await_vacancy(machine, vip, on),
            Fault::Edit(edit) => self.file.edit(edit),
            Fault::Reload { machine } => self.reload(machine),
            Fault::Interface { machine, up } => {
                self.machines[usize::from(machine)].interface_up = up;
                self.say_interface(machine);
            }
            Fault::OwnAddress { machine, present } => {
                self.machines[usize::from(machine)].own_present = present;
                self.own_in_kernel(machine, present);
                self.say_own(machine);
            }
            Fault::DeleteVip { machine, vip } => self.delete(machine, vip),
            Fault::Refuse { machine, vip, lasting } => {
                let slot = &mut self.machines[usize::from(machine)].kernel[usize::from(vip)];
                slot.refuses_until = self.now + lasting;
                self.queue.push(self.now + lasting, Due::Disturb);
            }
            Fault::SlowKernel { machine, delay } => {
                self.machines[usize::from(machine)].kernel_slow = delay;
            }
            Fault::Drift { machine, ppm } => self.drift(machine, ppm),
            Fault::Foreign { vip, present } => {
                self.foreign[usize::from(vip)] = present;
                self.foreign_since[usize::from(vip)] = self.now;
            }
            Fault::Stranger { vip } => self.stranger(vip),
        }
    }

    fn drift(&mut self, machine: u8, ppm: i32) {
        let host = &mut self.machines[usize::from(machine)];
        host.clock.drift(self.now, ppm);
        host.armed = Nanos::MAX;
        self.arm(machine);
    }

    /// Whether it takes a daemon that isn't standing still, as this one is.
    fn waits(&self, fault: &Fault) -> bool {
        let (Fault::Maintenance { machine, .. }
        | Fault::Await { machine, .. }
        | Fault::Quit { machine }
        | Fault::Reload { machine }
        | Fault::Result { machine, .. }) = *fault
        else {
            return false;
        };
        let begins = |hosts: &Hosts| {
            let host = &hosts.all[usize::from(machine)];
            host.begins || (matches!(fault, Fault::Quit { .. }) && host.guard == Guard::Stopped)
        };
        matches!(
            self.machines[usize::from(machine)].run,
            Run::Stopped { .. } | Run::Suspended { .. }
        ) || self.hosts.as_ref().is_some_and(begins)
    }

    pub fn way(&mut self, from: u8, to: u8, family: Option<Family>, cut: bool) {
        let (from, to) = (usize::from(from), usize::from(to));
        if cut {
            self.network.cut(from, to, family);
        } else {
            self.network.heal(from, to, family);
        }
    }

    fn isolate(&mut self, machine: u8, cut: bool) {
        let others = [CLIENT, FOREIGN, WITNESS].map(|it| u8::try_from(it).unwrap_or(u8::MAX));
        for other in self.places().chain(others).filter(|other| *other != machine) {
            self.way(machine, other, None, cut);
            self.way(other, machine, None, cut);
        }
        if !cut {
            self.client_lost_sight(machine);
        }
    }

    /// A client that couldn't see a holder for a while may have learnt another one since.
    pub fn client_lost_sight(&mut self, machine: u8) {
        let host = &self.machines[usize::from(machine)];
        for (slot, cache) in host.kernel.iter().zip(&mut self.cache) {
            if slot.present {
                *cache = Some(CACHE_UNKNOWN);
            }
        }
    }

    pub(crate) fn freeze(&mut self, machine: u8, run: Run) {
        let host = &mut self.machines[usize::from(machine)];
        if !host.running() {
            return;
        }
        host.run = run;
        host.token += 1;
        host.armed = Nanos::MAX;
        if matches!(run, Run::Stopped { .. }) {
            self.lifetimes_run(machine);
            self.stopped_on_host(machine);
        }
    }

    /// Empties the sockets first, then looks at the clock: the shell's rule.
    fn thaw(&mut self, machine: u8, clock_stood: bool) {
        let host = &mut self.machines[usize::from(machine)];
        match host.run {
            Run::Running | Run::Off => return,
            Run::Stopped { .. } => {}
            Run::Suspended { since } => {
                if clock_stood {
                    host.clock.stood_still(since, self.now);
                    // Its waits took so much longer.
                    let stood = self.now - since;
                    for slot in &mut host.kernel {
                        slot.refused_at = slot.refused_at.map(|at| at + stood);
                    }
                    for (at, _) in host.unsure.iter_mut().flat_map(BySender::values_mut) {
                        *at += stood;
                    }
                }
                self.client_lost_sight(machine);
            }
        }
        let host = &mut self.machines[usize::from(machine)];
        host.run = Run::Running;
        host.thawed_at = self.now;
        self.renew(machine);
        self.continued_on_host(machine);
        if mem::take(&mut self.machines[usize::from(machine)].upgrading) {
            self.succeed(machine);
        }
        if self.machines[usize::from(machine)].sabotage == Sabotage::TicksFirst {
            self.tick(machine);
        }
        while let Some(mail) = self.machines[usize::from(machine)].inbox.pop_front() {
            match mail {
                Mail::Advert(packet) => self.hear(machine, &packet),
                Mail::Sighting { from, what } => self.look(machine, from, what),
                Mail::Kernel(request) => self.kernel_done(machine, request),
                Mail::Word { from, word } => self.listen(machine, from, word),
            }
        }
        self.say_interface(machine);
        self.say_own(machine);
        self.tick(machine);
        self.arm(machine);
    }

    /// The program executes its successor: sockets and addresses stay, and nobody reads or renews
    /// them for a moment.
    fn upgrade(&mut self, machine: u8) {
        if !self.can_be_replaced(machine) {
            return;
        }
        let host = &mut self.machines[usize::from(machine)];
        if host.running() && !host.stopping {
            host.upgrading = true;
            self.freeze(machine, Run::Stopped { since: self.now });
        }
    }

    fn succeed(&mut self, machine: u8) {
        let plan = self.read_file(machine);
        let host = &mut self.machines[usize::from(machine)];
        let Some(old) = &host.node else { return };
        let now = host.clock.read(self.now);
        let text = Resume::of(old, now).to_text();
        let resume = Resume::from_text(&text);
        let active: Vec<String> = resume.active.clone();
        host.node = Some(Node::resumed(now, plan, &resume));
        host.upgraded_at = Some(self.now);
        let kept = host.places_where(|slot| slot.wanted);
        host.drop_requests();
        host.roles.fill(Role::Idle);
        host.places.clear();
        host.forget_others();
        for check in &mut host.checks {
            check.begin_anew();
        }
        if let Some(host) = self.host(machine) {
            host.kept = kept;
        }
        self.seen.push(Observation::Gone { machine });
        self.learn_places(machine);
        self.process_resumes(machine, &active);
        self.greet();
        self.say_interface(machine);
        self.say_own(machine);
        // What the successor doesn't hold any more, its file having changed, is a leftover.
        for vip in self.vips() {
            if self.machines[usize::from(machine)].roles[usize::from(vip)] != Role::Active {
                self.clear_leftover(machine, vip);
            }
        }
    }

    fn kill(&mut self, machine: u8) {
        if self.machines[usize::from(machine)].run == Run::Off {
            return;
        }
        self.lifetimes_run(machine);
        self.machines[usize::from(machine)].forget();
        self.hang_up(machine);
        self.seen.push(Observation::Gone { machine });
    }

    fn power_off(&mut self, machine: u8) {
        self.host_off(machine);
        self.machines[usize::from(machine)].forget();
        self.machines[usize::from(machine)].powered = false;
        self.hang_up(machine);
        self.seen.push(Observation::Gone { machine });
        for vip in 0..self.file.names.len() {
            self.machines[usize::from(machine)].kernel[vip].present = false;
            let vip = u8::try_from(vip).unwrap_or(u8::MAX);
            self.seen.push(Observation::Presence { machine, vip });
            self.client_lost(machine, vip);
        }
    }

    /// The core said that nothing is held any more, and the process ends.
    pub fn process_ends(&mut self, machine: u8) {
        if self.hosts.is_some() {
            return self.process_is_to_end(machine);
        }
        self.process_has_ended(machine);
    }

    pub(crate) fn process_has_ended(&mut self, machine: u8) {
        let host = &mut self.machines[usize::from(machine)];
        if host.kernel.iter().any(|slot| slot.present || slot.pending > 0) {
            let what = format!("P3: {} says that it is stopped and holds a VIP", host.name);
            self.seen.push(Observation::Broken(what));
        }
        if host.roles.iter().any(|role| *role != Role::Idle) {
            let what = format!("P7: {} stopped with {:?} in its history", host.name, host.roles);
            self.seen.push(Observation::Broken(what));
        }
        self.ends_process(machine);
    }

    pub(crate) fn ends_process(&mut self, machine: u8) {
        self.machines[usize::from(machine)].forget();
        self.hang_up(machine);
        self.seen.push(Observation::Gone { machine });
    }

    fn start(&mut self, machine: u8) {
        if self.machines[usize::from(machine)].run != Run::Off {
            return;
        }
        if self.hosts.is_some() {
            return self.guard_starts(machine);
        }
        self.start_process(machine);
        self.node_begins(machine);
    }

    pub(crate) fn start_process(&mut self, machine: u8) {
        let boot = self.random.within(SECOND, 1_000 * SECOND);
        self.clear_leftovers(machine);
        let host = &mut self.machines[usize::from(machine)];
        if !host.powered {
            host.powered = true;
            host.clock = Clock::new(self.now, boot, 0);
        }
        host.run = Run::Running;
        host.started_at = self.now;
    }

    pub(crate) fn node_begins(&mut self, machine: u8) {
        let plan = self.read_file(machine);
        let host = &mut self.machines[usize::from(machine)];
        host.started_at = self.now;
        if let Some((recorded, text)) = &mut self.record
            && *recorded == machine
        {
            // Each life begins a record of its own.
            *text = format!("{}\n", record::HEADER);
            let input = Recorded::Plan(Box::new(plan.clone()));
            record::write(&Entry { at: host.clock.read(self.now), input }, text);
        }
        host.node = Some(Node::new(host.clock.read(self.now), plan));
        self.learn_places(machine);
        self.begun_on_host(machine);
        self.greet();
        self.say_interface(machine);
        self.say_own(machine);
        self.arm(machine);
        for check in 0..self.machines[usize::from(machine)].checks.len() {
            let works = self.machines[usize::from(machine)].checks[check].works;
            let verdict = if works { Verdict::Pass } else { Verdict::Fail };
            let Ok(check) = u8::try_from(check) else { continue };
            let at = self.now + self.random.within(FIRST_RESULT.0, FIRST_RESULT.1);
            self.queue.push(at, Due::Fault(Fault::Result { machine, check, verdict }));
        }
    }

    fn say_interface(&mut self, machine: u8) {
        let state = self.machines[usize::from(machine)].interface_state(usize::from(machine));
        if self.machines[usize::from(machine)].running() {
            let input = Input::Interface { interface: InterfaceId(0), state };
            self.step(machine, Cause::Interface, input);
            self.arm(machine);
        }
    }

    fn say_own(&mut self, machine: u8) {
        let host = &self.machines[usize::from(machine)];
        let own: Vec<_> = host.own.into_iter().flatten().filter(|_| host.own_present).collect();
        if host.running() {
            self.step(machine, Cause::OwnAddresses, Input::OwnAddresses(&own));
            self.arm(machine);
        }
    }

    fn command(&mut self, machine: u8, command: Command) {
        if self.machines[usize::from(machine)].running() {
            self.step(machine, Cause::Command, Input::Command(command));
            self.arm(machine);
        }
    }

    fn maintain(&mut self, machine: u8, on: bool, lasting: Nanos) {
        self.machines[usize::from(machine)].maintenance = on;
        let lasting = (lasting > 0).then(|| Duration::from_nanos(lasting));
        self.command(
            machine,
            if on { Command::MaintenanceOn { lasting } } else { Command::MaintenanceOff },
        );
    }

    fn await_vacancy(&mut self, machine: u8, vip: u8, on: bool) {
        let places = &self.machines[usize::from(machine)].places;
        let place = places.iter().position(|place| *place == Some(vip));
        let Some(vip) = place.and_then(|place| u16::try_from(place).ok()) else { return };
        let gap = on.then_some(Duration::from_millis(100));
        self.command(machine, Command::AwaitVacancy { vip: VipId(vip), gap });
    }

    pub fn service(&mut self, machine: u8, check: u8, works: bool, sudden: bool, gap: Nanos) {
        let truth = &mut self.machines[usize::from(machine)].checks[usize::from(check)];
        truth.works = works;
        let verdict = match (works, sudden) {
            (true, _) => Verdict::Pass,
            (false, true) => Verdict::Dead,
            (false, false) => Verdict::Fail,
        };
        for number in 0..u64::from(truth.needed(verdict)) {
            let result = Fault::Result { machine, check, verdict };
            self.queue.push(self.now + number * gap, Due::Fault(result));
        }
    }

    fn result(&mut self, machine: u8, check: u8, verdict: Verdict) {
        let host = &mut self.machines[usize::from(machine)];
        if !host.running() || host.node.is_none() {
            return;
        }
        let hidden = host.sabotage == Sabotage::HidesFailures && verdict != Verdict::Pass;
        let invented = host.sabotage == Sabotage::InventsWitness && self.witness == Some(check);
        host.checks[usize::from(check)].result(verdict);
        if hidden {
            return;
        }
        let verdict = if invented { Verdict::Pass } else { verdict };
        let detail = if verdict == Verdict::Pass { "200 OK" } else { "no answer" };
        let check = CheckId(u16::from(check));
        self.step(machine, Cause::Check, Input::Check { check, verdict, detail });
        self.arm(machine);
    }

    /// What the shell gives the core as the machine's plan; the scene remembers what it should be.
    fn read_file(&mut self, machine: u8) -> Plan {
        let mut plan = self.file.plan_of(machine);
        let host = &mut self.machines[usize::from(machine)];
        host.file = plan.clone();
        if host.sabotage == Sabotage::FailsBack {
            for vip in &mut plan.vips {
                vip.failback = Failback::After(Duration::ZERO);
            }
        }
        plan
    }

    /// A VIP that left the file and comes back is a new one to the core: it never heard of it.
    fn forget_of_buried(&mut self, machine: u8) {
        for vip in self.vips() {
            if self.router(machine, vip).is_none_or(VirtualRouter::is_over) {
                self.machines[usize::from(machine)].forget_others_of(vip.into());
            }
        }
    }

    fn reload(&mut self, machine: u8) {
        if self.machines[usize::from(machine)].running() {
            let plan = self.read_file(machine);
            self.forget_of_buried(machine);
            self.step(machine, Cause::Plan, Input::Plan(Box::new(plan)));
            // A reload without effects changes what a packet says all the same.
            self.learn_places(machine);
            self.pace(machine);
            self.greet();
            self.arm(machine);
        }
    }
}
