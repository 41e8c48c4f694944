//! The daemon's address thread: it takes core's steps one by one, and each of them takes its time.

use standin_core::guard::{Goodbye, Key, Stop};
use standin_core::holding::{Answer, Change, Holding, LOOPBACK, Order, Step};
use standin_core::types::{Family, Prefix, VipId};
use standin_core::{Command, Input, Outcome};

use super::kernel::ETH0;
use super::{Flaw, Guard, Happening};
use crate::clock::{MICROSECOND, MILLISECOND, Nanos, SECOND};
use crate::machine::Run;
use crate::queue::Due;
use crate::scene::{Cause, Observation, Scene};

/// A system call that touches memory alone.
const BRIEFLY: (Nanos, Nanos) = (2 * MICROSECOND, 100 * MICROSECOND);

/// How long sockets go on using a VIP that has moved.
const DRAIN: (Nanos, Nanos) = (10 * MILLISECOND, 20 * SECOND);

/// Between two renewals.
const RENEW_EVERY: Nanos = 500 * MILLISECOND;
const LIFETIME: Nanos = 2 * SECOND;

const PUT_BACK: (Nanos, Nanos) = (MILLISECOND / 2, 10 * MILLISECOND);

/// EADDRNOTAVAIL, what Linux says of an address that an interface can't have.
const ERRNO: i32 = 99;

/// EOPNOTSUPP, of a kind of link that the kernel doesn't have.
const NO_SUCH_KIND: i32 = 95;

/// What the engine wants of the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Hold,
    Release,
    Stay,
}

impl Scene {
    /// An order of the core for the thread.
    pub(crate) fn order(&mut self, machine: u8, (vip, place): (VipId, u8), wish: Wish) {
        let slot = &mut self.machines[usize::from(machine)].kernel[usize::from(place)];
        slot.wanted = wish == Wish::Hold;
        slot.number += 1;
        slot.pending += 1;
        let number = u64::from(slot.number);
        if let Some(host) = self.host(machine) {
            host.kept.remove(&place);
        }
        let life = self.machines[usize::from(machine)].life;
        let order = match wish {
            Wish::Release => Order::Release { vip, number },
            Wish::Stay => {
                self.later(machine, DRAIN, Happening::Drained { life, vip });
                Order::Stay { vip, number, interfaces: vec!["eth0".to_owned()] }
            }
            Wish::Hold => {
                let Some(router) = self.router(machine, place) else { return };
                let prefixes = router.plan().addresses.clone();
                let (router_id, has_mac) = (router.plan().vrid, router.plan().virtual_mac);
                let goodbyes = self.goodbyes(machine, place, &prefixes);
                let interface = "eth0".to_owned();
                let index = Some(ETH0);
                let virtual_mac = Some(router_id).filter(|_| has_mac);
                Order::Hold { vip, number, interface, index, prefixes, goodbyes, virtual_mac }
            }
        };
        if let Some(host) = self.host(machine) {
            host.orders.push_back(order);
        }
        self.work(machine);
    }

    /// One for each family; what is in it is the VIP's place.
    fn goodbyes(&mut self, machine: u8, place: u8, prefixes: &[Prefix]) -> Vec<Goodbye> {
        let own = self.machines[usize::from(machine)].own;
        let mut families: Vec<_> = prefixes.iter().map(|prefix| prefix.family()).collect();
        families.dedup();
        let mut goodbye = |family: Family| {
            self.keep_goodbye(machine, place, family);
            let source = own[family.index()]?;
            Some(Goodbye {
                index: ETH0,
                interface: "eth0".to_owned(),
                source,
                destination: source,
                payload: vec![place],
            })
        };
        families.into_iter().filter_map(&mut goodbye).collect()
    }

    /// Begins the next step, if the thread has one and isn't at one.
    pub(crate) fn work(&mut self, machine: u8) {
        let life = self.machines[usize::from(machine)].life;
        let (slow, takes) = (self.machines[usize::from(machine)].kernel_slow, self.kernel_takes);
        let Some(host) = self.host(machine) else { return };
        let Some(holding) = &mut host.holding else { return };
        if host.step.is_some() {
            return;
        }
        if holding.idle() {
            if host.ends && !host.ending {
                host.ending = true;
                host.orders.clear();
                holding.end();
            } else if host.orders.is_empty() {
                return self.at_rest(machine);
            } else {
                holding.orders(host.orders.drain(..));
            }
        }
        host.step = holding.next_step();
        let wait = match &host.step {
            // What was left to do needed no step.
            None if holding.idle() => return self.work(machine),
            None => return,
            Some(Step::Change { .. }) => (takes.0 + slow, takes.1 + slow),
            Some(_) => BRIEFLY,
        };
        self.later(machine, wait, Happening::Step { life });
    }

    /// The step is done, unless its process dies right before; it may die right after, too.
    pub(crate) fn step_done(&mut self, machine: u8) {
        let life = self.machines[usize::from(machine)].life;
        let Some(step) = self.host(machine).and_then(|host| host.step.clone()) else { return };
        let at = super::hurt::name_of(&step);
        if self.trapped(machine, at, false) && self.is_not_done(machine, life) {
            return;
        }
        let answer = self.do_step(machine, step);
        if self.machines[usize::from(machine)].life != life {
            return;
        }
        if let Some(host) = self.host(machine) {
            host.holding.iter_mut().for_each(|holding| holding.answer(answer.clone()));
            host.step = None;
        }
        self.trapped(machine, at, true);
        if self.machines[usize::from(machine)].life == life {
            self.work(machine);
        }
    }

    /// Whether the step won't be done now: its process is dead, or does it once it runs again.
    fn is_not_done(&mut self, machine: u8, life: u32) -> bool {
        let host = &self.machines[usize::from(machine)];
        if host.life != life {
            return true;
        }
        let still = host.run != Run::Running;
        if still {
            self.later(machine, (0, 0), Happening::Step { life });
        }
        still
    }

    fn do_step(&mut self, machine: u8, step: Step) -> Answer {
        let Some(host) = self.host(machine) else { return Answer::Done };
        match step {
            Step::Record(state) => {
                if host.flaw != Flaw::LosesFile {
                    host.file.clone_from(&state.settings);
                }
                if host.flaw == Flaw::RecordsLate {
                    host.ledger = std::mem::replace(&mut host.late_ledger, state);
                } else {
                    host.ledger = state;
                }
                Answer::Done
            }
            Step::Look { path } => Answer::Value(host.kernel.setting(&path).to_owned()),
            Step::Set { path, value } => {
                host.kernel.set(&path, &value);
                Answer::Value(value)
            }
            Step::PutBack(setting) => {
                if setting.stands(host.kernel.setting(&setting.path))
                    && host.flaw != Flaw::KeepsSettings
                {
                    host.kernel.set(&setting.path, &setting.old);
                }
                Answer::Done
            }
            Step::Change { batch, .. } => Answer::Results(self.change(machine, &batch)),
            // No VIP that is drawn has a MAC of its own, and this kernel couldn't make one.
            Step::MakeLink(_) => Answer::Refused { errno: NO_SUCH_KIND, why: "no macvlan".into() },
            Step::Silence(_) | Step::LetSpeak(_) | Step::RemoveLinks(_) => Answer::Done,
            Step::Settled { vip, number, outcome } => {
                self.settled(machine, vip, (number, outcome));
                Answer::Done
            }
            Step::Complain(text) => {
                let name = &self.machines[usize::from(machine)].name;
                if let Some(trace) = &mut self.trace {
                    trace.push(self.now, &format!("{name} complains: {text}"));
                }
                Answer::Done
            }
        }
    }

    fn change(&mut self, machine: u8, batch: &[Change]) -> Vec<Result<(), i32>> {
        let mut results = Vec::with_capacity(batch.len());
        for change in batch {
            let refused = match change {
                Change::Hold { key } | Change::Serve { key, .. } => self.refuses(machine, key.1),
                _ => false,
            };
            let Some(host) = self.host(machine) else { break };
            results.push(if refused { Err(ERRNO) } else { Ok(()) });
            match change {
                _ if refused => {}
                Change::Hold { key } | Change::Serve { key, .. } => host.kernel.hold(*key),
                Change::Keep { address } => host.kernel.hold((LOOPBACK, Prefix::host(*address))),
                Change::Drop { key } => {
                    host.kernel.remove(*key);
                }
            }
        }
        self.yield_primary(machine);
        let whole = self.network.whole();
        self.look_at_kernel(machine, !whole);
        results
    }

    fn refuses(&mut self, machine: u8, prefix: Prefix) -> bool {
        let place = self.place_with(prefix);
        let now = self.now;
        let slots = &mut self.machines[usize::from(machine)].kernel;
        let Some(slot) = place.and_then(|place| slots.get_mut(usize::from(place))) else {
            return false;
        };
        if slot.refuses_until <= now {
            return false;
        }
        slot.refused_at = Some(now);
        self.seen.push(Observation::Disturbed);
        true
    }

    /// The VIP that has this address.
    pub(crate) fn place_with(&self, prefix: Prefix) -> Option<u8> {
        let vips = &self.file.plan.vips;
        let has = |address: &Prefix| address.address() == prefix.address();
        let place = vips.iter().position(|plan| plan.addresses.iter().any(has))?;
        u8::try_from(place).ok()
    }

    /// Whether the kernel is about to take an address of the VIP away, as the thread has asked it to.
    pub(crate) fn is_dropping(&self, machine: u8, place: u8) -> bool {
        let host = self.hosts.as_ref().and_then(|hosts| hosts.all.get(usize::from(machine)));
        let Some(Step::Change { batch, .. }) = host.and_then(|host| host.step.as_ref()) else {
            return false;
        };
        let of_vip = |key: &Key| self.place_with(key.1) == Some(place);
        batch.iter().any(|change| matches!(change, Change::Drop { key } if of_vip(key)))
    }

    fn settled(&mut self, machine: u8, vip: VipId, (number, outcome): (u64, Outcome)) {
        let waits = self.host(machine).map_or(0, |host| {
            let of = |order: &&Order| match order {
                Order::Hold { vip: of, .. }
                | Order::Release { vip: of, .. }
                | Order::Stay { vip: of, .. } => *of == vip,
                Order::Leave { .. } => false,
            };
            host.orders.iter().filter(of).count()
        });
        let host = &mut self.machines[usize::from(machine)];
        let Some(place) = host.places.get(vip.index()).copied().flatten() else { return };
        let slot = &mut host.kernel[usize::from(place)];
        slot.pending = u32::try_from(waits).unwrap_or(u32::MAX);
        let last = u64::from(slot.number) == number;
        self.seen.push(Observation::Presence { machine, vip: place });
        if let Some(trace) = &mut self.trace {
            trace.kernel(self.now, host, &self.file, place, outcome);
        }
        if last && self.machines[usize::from(machine)].running() {
            self.step(machine, Cause::Settled, Input::Settled { vip, outcome });
            self.arm(machine);
        }
    }

    /// A VIP mustn't stay the primary of the subnet of the host's own address.
    pub(crate) fn yield_primary(&mut self, machine: u8) {
        if !self.machines[usize::from(machine)].running() {
            return;
        }
        let Some(host) = self.host(machine) else { return };
        // No more often than there are VIPs.
        for _ in 0..host.kernel.addresses.len() {
            let Some(key) = host.kernel.before_own() else { return };
            if host.holding.as_ref().is_none_or(|holding| holding.owner(key).is_none()) {
                return;
            }
            host.kernel.remove(key);
            host.kernel.hold(key);
        }
    }

    /// Shows the checkers and the core what the kernel has; `unheard`: nobody announced that it went.
    pub(crate) fn look_at_kernel(&mut self, machine: u8, unheard: bool) {
        for vip in self.vips() {
            let Some(plan) = self.file.plan.vips.get(usize::from(vip)) else { continue };
            let Some(hosts) = &self.hosts else { return };
            let kernel = &hosts.all[usize::from(machine)].kernel;
            let has = |prefix: &Prefix| kernel.has((ETH0, *prefix));
            let present = plan.addresses.iter().any(has);
            let slot = &mut self.machines[usize::from(machine)].kernel[usize::from(vip)];
            if slot.present == present {
                continue;
            }
            slot.present = present;
            self.seen.push(Observation::Disturbed);
            self.seen.push(Observation::Presence { machine, vip });
            if !present && unheard {
                self.client_lost(machine, vip);
            }
        }
    }

    /// Somebody took addresses away: what is held is put back.
    pub(crate) fn misses(&mut self, machine: u8) {
        let life = self.machines[usize::from(machine)].life;
        self.look_at_kernel(machine, true);
        self.later(machine, PUT_BACK, Happening::PutBack { life });
    }

    /// Somebody else deletes the addresses of a VIP.
    pub(crate) fn delete_from_kernel(&mut self, machine: u8, vip: u8) {
        let plan = self.file.plan.vips.get(usize::from(vip));
        let prefixes = plan.map_or_else(Vec::new, |plan| plan.addresses.clone());
        let Some(host) = self.host(machine) else { return };
        for prefix in prefixes {
            host.kernel.remove((ETH0, prefix));
        }
        self.misses(machine);
    }

    /// The thread does one thing after the other: while it is at a step, what is missing waits for its end.
    pub(crate) fn put_back_all(&mut self, machine: u8) {
        let life = self.machines[usize::from(machine)].life;
        let Some(host) = self.host(machine) else { return };
        if host.step.is_some() {
            return self.later(machine, PUT_BACK, Happening::PutBack { life });
        }
        let Some(holding) = &host.holding else { return };
        let mut back = Vec::new();
        for change in holding.renewals() {
            let key = change.key();
            if !host.kernel.has(key) {
                host.kernel.hold(key);
                back.push(key.1);
            }
        }
        self.yield_primary(machine);
        self.look_at_kernel(machine, false);
        for prefix in back {
            let place = self.place_with(prefix);
            let Some(vip) = place.and_then(|it| self.machines[usize::from(machine)].id_of(it))
            else {
                continue;
            };
            let address = prefix.address();
            self.step(machine, Cause::Restored, Input::Restored { vip, address });
            self.arm(machine);
        }
    }

    /// Nobody renews lifetimes any more, since now or a little later.
    pub(crate) fn lifetimes_begin(&mut self, machine: u8, after: Nanos) {
        let since_renewal = self.chance((0, RENEW_EVERY));
        let now = self.now;
        let Some(host) = self.host(machine) else { return };
        host.kernel.token += 1;
        let (token, flaw) = (host.kernel.token, host.flaw);
        let mut ends = Vec::new();
        for one in host.kernel.addresses.iter_mut().filter(|one| one.ours) {
            let v6 = if one.key.1.address().is_ipv6() { SECOND / 5 } else { 0 };
            let end = now + after + LIFETIME + v6 - since_renewal;
            // A thread that renews on beside an engine that hangs may die before it has given up.
            let end = one.expires.map_or(end, |before| before.min(end));
            one.expires = Some(end);
            ends.push(end);
        }
        if flaw != Flaw::Immortal {
            for end in ends {
                self.queue.push(end, Due::Host { machine, what: Happening::Expires { token } });
            }
        }
    }

    pub(crate) fn lifetime_ends(&mut self, machine: u8, token: u32) {
        let now = self.now;
        let Some(host) = self.host(machine).filter(|host| host.kernel.token == token) else {
            return;
        };
        let over = |one: &&super::kernel::Address| one.expires.is_some_and(|end| end <= now);
        let keys: Vec<_> = host.kernel.addresses.iter().filter(over).map(|one| one.key).collect();
        for key in keys {
            host.kernel.remove(key);
        }
        self.look_at_kernel(machine, true);
    }

    /// The daemon runs again: what it holds is renewed, what is missing put back.
    pub(crate) fn lifetimes_renewed(&mut self, machine: u8) {
        let Some(host) = self.host(machine) else { return };
        host.kernel.token += 1;
        let token = host.kernel.token;
        let held = |key| host.holding.as_ref().is_some_and(|it| it.owner(key).is_some());
        let mut ends = Vec::new();
        for one in &mut host.kernel.addresses {
            if held(one.key) {
                one.expires = None;
            }
            ends.extend(one.expires);
        }
        for end in ends {
            let what = Happening::Expires { token };
            self.queue.push(end.max(self.now), Due::Host { machine, what });
        }
        let life = self.machines[usize::from(machine)].life;
        self.later(machine, PUT_BACK, Happening::PutBack { life });
    }

    /// The thread has nothing to do: a daemon that begins can begin, one that ends can end.
    fn at_rest(&mut self, machine: u8) {
        let Some(host) = self.host(machine) else { return };
        if host.begins {
            host.begins = false;
            self.trapped(machine, "a daemon begins", false);
            if self.machines[usize::from(machine)].running() {
                self.node_begins(machine);
                self.trapped(machine, "a daemon begins", true);
            } else if let Some(host) = self.host(machine) {
                // It goes on once it runs.
                host.begins = host.holding.is_some();
            }
        } else if host.ends {
            host.ended = true;
            self.process_has_ended(machine);
            self.process_over(machine);
            self.daemon_is_gone(machine);
        }
    }

    /// A daemon begins with what earlier ones left.
    pub(crate) fn process_begins(&mut self, machine: u8) {
        let now = self.now;
        let Some(host) = self.host(machine) else { return };
        let ours: Vec<_> = host.kernel.ours().collect();
        host.holding = Some(Holding::begun(ours, [], host.file.clone()));
        (host.begins, host.ends, host.ending, host.hangs) = (true, false, false, false);
        (host.began, host.restart_by) = (now, None);
        host.lives += 1;
        host.orders.clear();
        host.step = None;
        self.work(machine);
    }

    /// Its program was replaced in place.
    pub(crate) fn process_resumes(&mut self, machine: u8, active: &[String]) {
        let life = self.machines[usize::from(machine)].life;
        let node = self.machines[usize::from(machine)].node.as_ref();
        let vips = node.into_iter().flat_map(|node| &node.plan().vips);
        let kept = vips.filter(|plan| active.contains(&plan.name)).flat_map(|it| &it.addresses);
        let kept: Vec<Prefix> = kept.copied().collect();
        let Some(host) = self.host(machine) else { return };
        let ours: Vec<_> = host.kernel.ours().collect();
        let mut recorded = host.ledger.clone();
        recorded.addresses.retain(|(_, prefix)| kept.contains(prefix));
        host.holding = Some(if recorded.addresses.is_empty() {
            Holding::begun(ours, [], host.file.clone())
        } else {
            Holding::resumed(recorded, ours, [])
        });
        host.step = None;
        host.orders.clear();
        self.later(machine, (RENEW_EVERY, RENEW_EVERY), Happening::Disinherit { life });
        self.pace(machine);
        self.guard_is_replaced(machine);
        self.work(machine);
        self.trapped(machine, "a program is replaced", true);
    }

    /// The control plane's end: the thread leaves the host as it was found.
    pub(crate) fn process_is_to_end(&mut self, machine: u8) {
        let Some(host) = self.host(machine) else { return };
        host.ends = true;
        self.work(machine);
    }

    /// A guard that died can't be replaced: the daemon ends in order.
    pub(crate) fn orphaned(&mut self, machine: u8, forks: bool) {
        let Some(host) = self.host(machine).filter(|host| host.guard == Guard::Gone) else {
            return;
        };
        if forks {
            host.guard_life += 1;
            host.guard = Guard::Begins;
            // It isn't the daemon's parent.
            host.stop = Stop::new(false);
            let guard_life = host.guard_life;
            self.later(machine, super::BEGINS, Happening::Watches { guard_life });
            return;
        }
        *self.faults.entry("guard can't be replaced".to_owned()).or_default() += 1;
        self.seen.push(Observation::Disturbed);
        self.machines[usize::from(machine)].stopping = true;
        if self.machines[usize::from(machine)].node.is_some() {
            self.step(machine, Cause::Command, Input::Command(Command::Stop));
            self.arm(machine);
        } else {
            self.daemon_dies(machine);
        }
    }
}
