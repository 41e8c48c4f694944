//! The address thread and the kernel behind it: slow, refusing, with lifetimes that end.

use standin_core::types::VipId;
use standin_core::{Input, Outcome};

use crate::clock::{MILLISECOND, Nanos};
use crate::host::Wish;
use crate::machine::{Mail, Request, Run, Sabotage};
use crate::queue::Due;
use crate::scene::{CACHE_UNKNOWN, Cause, Observation, Scene};

/// A lifetime of 2 s that is renewed every 0.5 s has this much left when nobody renews it any more.
const LIFETIME_LEFT: (Nanos, Nanos) = (1_500 * MILLISECOND, 2_000 * MILLISECOND);

/// From the deletion of an address by somebody else to its return.
const PUT_BACK: (Nanos, Nanos) = (MILLISECOND / 2, 10 * MILLISECOND);

/// EADDRNOTAVAIL, what Linux says of an address that an interface can't have.
const ERRNO: i32 = 99;

impl Scene {
    /// The core wants addresses on or off; the thread does one request after the other.
    pub fn request(&mut self, machine: u8, id: VipId, wish: Wish) {
        let host = &mut self.machines[usize::from(machine)];
        let Some(vip) = host.places.get(id.index()).copied().flatten() else { return };
        if self.hosts.is_some() {
            return self.order(machine, (id, vip), wish);
        }
        let hold = wish == Wish::Hold;
        let slot = &mut host.kernel[usize::from(vip)];
        slot.wanted = hold;
        slot.number += 1;
        slot.pending += 1;
        let request = Request { vip, hold, number: slot.number };
        let (least, most) = self.kernel_takes;
        let takes = self.random.within(least, most) + host.kernel_slow;
        let done = host.kernel_busy_until.max(self.now) + takes;
        host.kernel_busy_until = done;
        let life = host.life;
        self.queue.push(done, Due::Kernel { machine, life, request });
    }

    pub fn kernel_done(&mut self, machine: u8, request: Request) {
        let host = &mut self.machines[usize::from(machine)];
        match host.run {
            Run::Running => {}
            Run::Stopped { .. } | Run::Suspended { .. } => {
                return host.inbox.push_back(Mail::Kernel(request));
            }
            Run::Off => return,
        }
        let sabotage = host.sabotage;
        let slot = &mut host.kernel[usize::from(request.vip)];
        slot.pending = slot.pending.saturating_sub(1);
        let outcome = if !request.hold {
            slot.present &= sabotage == Sabotage::KeepsAddresses;
            Outcome::Released
        } else if slot.refuses_until > self.now {
            slot.refused_at = Some(self.now);
            self.seen.push(Observation::Disturbed);
            Outcome::Refused { errno: ERRNO }
        } else {
            slot.present = sabotage != Sabotage::HoldsNothing;
            slot.token += 1;
            Outcome::Held
        };
        let last = slot.number == request.number;
        if !request.hold && !self.network.whole() {
            // Another holder may not have heard of this one.
            self.client_lost(machine, request.vip);
        }
        self.seen.push(Observation::Presence { machine, vip: request.vip });
        if let Some(trace) = &mut self.trace {
            trace.kernel(
                self.now,
                &self.machines[usize::from(machine)],
                &self.file,
                request.vip,
                outcome,
            );
        }
        // The thread tells what became of the last request only.
        if last && let Some(vip) = self.machines[usize::from(machine)].id_of(request.vip) {
            self.step(machine, Cause::Settled, Input::Settled { vip, outcome });
            self.arm(machine);
        }
    }

    /// Nobody renews the addresses of `machine` any more.
    pub fn lifetimes_run(&mut self, machine: u8) {
        if self.hosts.is_some() {
            return;
        }
        let host = &mut self.machines[usize::from(machine)];
        for (vip, slot) in (0_u8..).zip(&mut host.kernel) {
            if slot.present {
                slot.token += 1;
                let left = self.random.within(LIFETIME_LEFT.0, LIFETIME_LEFT.1);
                self.queue.push(self.now + left, Due::Expire { machine, vip, token: slot.token });
            }
        }
    }

    /// The daemon runs again: it renews what is left and puts back what it misses.
    pub fn renew(&mut self, machine: u8) {
        if self.hosts.is_some() {
            return self.lifetimes_renewed(machine);
        }
        let host = &mut self.machines[usize::from(machine)];
        let life = host.life;
        for (vip, slot) in (0_u8..).zip(&mut host.kernel) {
            slot.token += 1;
            if slot.present && !slot.wanted && slot.pending == 0 {
                // A leftover, whose removal had begun.
                let due = Due::Expire { machine, vip, token: slot.token };
                self.queue.push(self.now + MILLISECOND, due);
            }
            if slot.wanted && !slot.present && slot.pending == 0 {
                let wait = self.random.within(PUT_BACK.0, PUT_BACK.1);
                self.queue.push(self.now + wait, Due::PutBack { machine, life, vip });
            }
        }
    }

    /// A starting daemon removes what an earlier life left behind.
    pub fn clear_leftovers(&mut self, machine: u8) {
        for vip in self.vips() {
            self.clear_leftover(machine, vip);
        }
    }

    pub fn clear_leftover(&mut self, machine: u8, vip: u8) {
        if self.hosts.is_some() {
            return;
        }
        let slot = &mut self.machines[usize::from(machine)].kernel[usize::from(vip)];
        slot.wanted = false;
        if slot.present {
            slot.token += 1;
            let due = Due::Expire { machine, vip, token: slot.token };
            self.queue.push(self.now + MILLISECOND, due);
        }
    }

    /// A daemon listens to nobody before its leftovers are gone.
    pub fn leftovers_gone(&mut self, machine: u8) {
        if self.hosts.is_some() {
            return;
        }
        for vip in self.vips() {
            let slot = &self.machines[usize::from(machine)].kernel[usize::from(vip)];
            if slot.present && !slot.wanted && slot.pending == 0 {
                self.expire(machine, vip, slot.token);
            }
        }
    }

    pub fn expire(&mut self, machine: u8, vip: u8, token: u32) {
        let slot = &mut self.machines[usize::from(machine)].kernel[usize::from(vip)];
        if slot.token == token && slot.present {
            slot.present = false;
            self.seen.push(Observation::Disturbed);
            self.seen.push(Observation::Presence { machine, vip });
            self.client_lost(machine, vip);
        }
    }

    /// Addresses went without a word. Another holder, who never heard of this one, says nothing
    /// either; a real client asks anew after some seconds.
    pub fn client_lost(&mut self, machine: u8, vip: u8) {
        let held = self.machines.iter().any(|host| host.kernel[usize::from(vip)].present);
        let cache = &mut self.cache[usize::from(vip)];
        if held && *cache == Some(machine) {
            *cache = Some(CACHE_UNKNOWN);
        }
    }

    /// Somebody else deletes an address of a VIP.
    pub fn delete(&mut self, machine: u8, vip: u8) {
        let host = &mut self.machines[usize::from(machine)];
        let life = host.life;
        let slot = &mut host.kernel[usize::from(vip)];
        if !slot.present || matches!(host.run, Run::Suspended { .. }) {
            return;
        }
        if self.hosts.is_some() {
            return self.delete_from_kernel(machine, vip);
        }
        slot.present = false;
        if host.run == Run::Running && slot.wanted {
            let wait = self.random.within(PUT_BACK.0, PUT_BACK.1);
            self.queue.push(self.now + wait, Due::PutBack { machine, life, vip });
        }
        self.seen.push(Observation::Presence { machine, vip });
    }

    pub fn put_back(&mut self, machine: u8, life: u32, vip: u8) {
        let host = &mut self.machines[usize::from(machine)];
        let slot = &mut host.kernel[usize::from(vip)];
        // A thread that stands still does it when it runs again.
        if host.life != life || host.run != Run::Running || !slot.wanted || slot.present {
            return;
        }
        slot.present = true;
        self.seen.push(Observation::Disturbed);
        self.seen.push(Observation::Presence { machine, vip });
        let address = self.file.vip(vip).and_then(|plan| plan.addresses.first());
        let (Some(id), Some(address)) = (self.machines[usize::from(machine)].id_of(vip), address)
        else {
            return;
        };
        let restored = Input::Restored { vip: id, address: address.address() };
        self.step(machine, Cause::Restored, restored);
        self.arm(machine);
    }
}
