//! Promise 2: if any node is eligible, an eligible node gets the VIP within its deadline.
//!
//! The deadline counts from the last fault, or its end: three intervals and a skew of at most one
//! (the longest interval that anybody may still follow), the kernel's time for the addresses, and
//! the network's delays: of packets that were sent during a spike the late ones come after its end. Where everybody hears everybody, each healthy machine must hear an
//! eligible holder or be it; in a partial cut some eligible machine must hold the VIP. When nobody
//! is eligible and `all_ineligible = "keep"`, somebody holds it after two intervals more.

use standin_core::event::{Role, Standing};
use standin_core::plan::AllIneligible;
use standin_core::types::CheckId;

use super::{Quiet, RETRY};
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::machine::Machine;
use crate::scene::Scene;

#[derive(Debug)]
pub struct Takeover {
    /// When all was well with each VIP for the last time, or couldn't be expected to be.
    well_at: Vec<Nanos>,
}

impl Takeover {
    #[must_use]
    pub fn new(scene: &Scene) -> Self {
        Self { well_at: vec![0; scene.file.names.len()] }
    }

    pub fn disturbed(&mut self, now: Nanos) {
        self.well_at.fill(now);
    }

    #[must_use]
    pub fn due(&self, scene: &Scene) -> Nanos {
        let due = |(vip, well_at): (u8, &Nanos)| well_at + patience(scene, vip);
        (0..).zip(&self.well_at).map(due).min().unwrap_or(Nanos::MAX)
    }

    pub fn look(&mut self, scene: &Scene, quiet: Quiet) -> Option<String> {
        for (vip, well_at) in (0..).zip(&mut self.well_at) {
            let patience = patience(scene, vip);
            let unwell = unwell(scene, vip, quiet);
            if unwell.is_none() {
                *well_at = scene.now;
            } else if *well_at + patience <= scene.now {
                let waited = patience / MILLISECOND;
                return unwell.map(|what| format!("P2: {what}, for {waited} ms"));
            }
        }
        None
    }
}

/// The time that a takeover may take, whatever happened before.
#[must_use]
pub(super) fn patience(scene: &Scene, vip: u8) -> Nanos {
    let longest = scene.file.longest.get(usize::from(vip)).copied().unwrap_or_default();
    let interval = super::nanos(longest);
    // Three missed adverts, the skew, and for a last resort one more skew; clocks 2.5 % slow.
    let waits = 6 * interval + interval / 8;
    let busy = |host: &Machine| {
        host.kernel_slow + scene.kernel_takes.1 + host.kernel_busy_until.saturating_sub(scene.now)
    };
    let kernel = 2 * scene.machines.iter().map(busy).max().unwrap_or(0);
    // Who never heard an advert asks three times first, 50 ms apart.
    let new = |host: &Machine| host.running() && host.heard[usize::from(vip)].is_empty();
    let probes = if scene.machines.iter().any(new) { 160 * MILLISECOND } else { 0 };
    // Who follows a node by its answers alone takes a second of silence for its end; by what it says
    // over the link, two and a half, and the last word may come late. A kernel answers on the second
    // cable until the lifetime ends.
    let shadowed = scene.machines.iter().any(|host| host.shadows[usize::from(vip)]);
    let shadows = if scene.link.is_some() && (shadowed || !scene.network.whole()) {
        8 * SECOND
    } else if scene.file.vip(vip).is_some_and(|plan| !plan.heartbeat.is_empty()) {
        3_500 * MILLISECOND
    } else if shadowed || scene.network.mutes() {
        1_500 * MILLISECOND
    } else {
        0
    };
    let late = 3 * scene.network.longest_under_way(scene.now);
    waits + kernel + probes + shadows + late + MILLISECOND
}

/// What is wrong with the VIP at the moment, if anything.
fn unwell(scene: &Scene, vip: u8, quiet: Quiet) -> Option<String> {
    let name = scene.name(vip);
    let at_work = |one: u8| {
        let slot = &scene.machines[usize::from(one)].kernel[usize::from(vip)];
        slot.wanted && slot.pending > 0
    };
    if scene.places().any(at_work) {
        // The kernel is still at it.
        return None;
    }
    let holds = |one: u8, standing_too: bool| {
        scene.machines[usize::from(one)].kernel[usize::from(vip)].present
            && scene.router(one, vip).is_some_and(|router| {
                router.role() == Role::Active
                    && (!standing_too || router.standing() == Standing::Eligible)
            })
    };
    let mut anybody = false;
    for machine in scene.places().filter(|one| healthy(scene, *one, vip, quiet)) {
        anybody = true;
        let standing = scene.router(machine, vip)?.standing();
        let host = &scene.machines[usize::from(machine)].name;
        if !matches!(standing, Standing::Eligible | Standing::HeldDown) {
            return Some(format!("{host} is healthy but {standing} for {name}"));
        }
        let served = scene.places().any(|holder| {
            let hears =
                !scene.network.whole() || holder == machine || scene.hears(machine, holder, vip);
            holds(holder, true) && hears
                || holds(holder, false) && follows_unheard(scene, machine, holder, vip)
        });
        if !served {
            return Some(format!("{host} is healthy, but no eligible node holds {name}"));
        }
    }
    let keeps = scene.file.vip(vip)?.all_ineligible == AllIneligible::Keep;
    if anybody || !keeps {
        return None;
    }
    let last_resort = scene.places().find(|one| last_resort(scene, *one, vip, quiet))?;
    let held = scene.places().any(|one| holds(one, false));
    (!held).then(|| {
        let host = &scene.machines[usize::from(last_resort)].name;
        format!("nobody is eligible and nobody keeps {name}, not even {host}")
    })
}

/// Whether `machine` follows the holder by its answers alone: that it is no better than a last resort only
/// its adverts would say, or a link.
fn follows_unheard(scene: &Scene, machine: u8, holder: u8, vip: u8) -> bool {
    scene.link.is_none()
        && scene.machines[usize::from(machine)].shadows[usize::from(vip)]
        && scene.network.is_mute(holder.into(), machine.into())
}

/// Whether nothing keeps `machine` from claiming, by the simulator's own knowledge.
fn free(scene: &Scene, machine: u8, vip: u8, quiet: Quiet) -> bool {
    let host = &scene.machines[usize::from(machine)];
    let slot = &host.kernel[usize::from(vip)];
    let refused =
        slot.refused_at.is_some_and(|at| at + RETRY > scene.now) || slot.refuses_until > scene.now;
    // Who never heard an advert asks first, and whoever answers may be a foreign owner.
    let asks = host.heard[usize::from(vip)].is_empty()
        && host.answered[usize::from(vip)].is_some_and(|at| at + RETRY > scene.now);
    let foreign = scene.foreign[usize::from(vip)]
        || (host.saw_foreign[usize::from(vip)] && quiet.fault_at + RETRY > scene.now)
        || asks;
    // Who sees no witness may have to give up: nobody counts on it.
    let seen = scene.witness.is_none_or(|it| host.checks[usize::from(it)].passing == Some(true));
    scene.works(machine, vip) && !refused && !foreign && seen
}

/// What is known of each check that a machine has to pass for a VIP.
fn needed(scene: &Scene, machine: u8, vip: u8) -> impl Iterator<Item = Option<bool>> {
    let host = &scene.machines[usize::from(machine)];
    let known = |check: &CheckId| host.checks.get(check.index()).and_then(|it| it.passing);
    scene.file.vip(vip).into_iter().flat_map(|plan| &plan.checks).map(known)
}

fn healthy(scene: &Scene, machine: u8, vip: u8, quiet: Quiet) -> bool {
    let host = &scene.machines[usize::from(machine)];
    free(scene, machine, vip, quiet)
        && !host.maintenance
        && needed(scene, machine, vip).all(|passing| passing == Some(true))
}

/// Ineligible for sure, and so able to keep a VIP that nobody else wants.
fn last_resort(scene: &Scene, machine: u8, vip: u8, quiet: Quiet) -> bool {
    let standing = scene.router(machine, vip).map(|router| router.standing());
    free(scene, machine, vip, quiet) && standing == Some(Standing::Ineligible)
}

/// Standings follow from what the node was told, at once.
pub(super) fn standings(scene: &Scene, machine: u8) -> Option<String> {
    let host = &scene.machines[usize::from(machine)];
    for (id, router) in host.node.as_ref()?.routers() {
        let place = host.places.get(id.index()).copied().flatten();
        let sick = place
            .is_some_and(|vip| needed(scene, machine, vip).any(|passing| passing == Some(false)));
        let (name, vip) = (&host.name, &router.plan().name);
        if sick && router.standing() == Standing::Eligible {
            return Some(format!("P2: a check of {name} failed, and it is eligible for {vip}"));
        }
        let drops = router.plan().all_ineligible == AllIneligible::Drop;
        if drops && router.role() == Role::Active && router.standing() == Standing::Ineligible {
            return Some(format!("P2: {name} isn't eligible for {vip} but has it: \"drop\""));
        }
    }
    None
}
