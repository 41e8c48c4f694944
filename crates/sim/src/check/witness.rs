//! The witness: who sees none and misses a peer, has nothing after the bound.
//!
//! Together with promise 2, which has an eligible node of the other side take the VIP, it means:
//! when one of two sides sees the witness, the VIP is there and nowhere else.
//!
//! The bound counts from when the last witness was called failed and a peer was out of reach: four
//! questions 200 ms apart, one of which may just have been answered, a clock that is 2 % slow, and
//! the kernel's time to take the addresses away. A machine that was held up begins anew. An answer to a
//! question that was asked during a spike may come when both the spike and the sight are over.

use standin_core::event::Role;

use crate::clock::{MILLISECOND, Nanos};
use crate::scene::Scene;

const BOUND: Nanos = 900 * MILLISECOND;

#[derive(Debug)]
pub struct Witness {
    /// By machine and VIP: since when it should be giving up.
    since: Vec<Vec<Option<Nanos>>>,
    /// How often one gave up that had to.
    pub gave_up: u64,
}

impl Witness {
    #[must_use]
    pub fn new(scene: &Scene) -> Self {
        Self { since: vec![vec![None; scene.file.names.len()]; scene.machines.len()], gave_up: 0 }
    }

    #[must_use]
    pub fn due(&self, scene: &Scene) -> Nanos {
        let first = self.since.iter().flatten().filter_map(|since| *since).min();
        first.map_or(Nanos::MAX, |since| since + bound(scene))
    }

    pub fn look(&mut self, scene: &Scene) -> Option<String> {
        scene.witness?;
        for machine in scene.places() {
            for vip in scene.vips() {
                let since = &mut self.since[usize::from(machine)][usize::from(vip)];
                let Some(missing) = missing(scene, machine, vip) else {
                    self.gave_up += u64::from(since.take().is_some());
                    continue;
                };
                let thawed = scene.machines[usize::from(machine)].thawed_at;
                let began = (*since.get_or_insert(scene.now)).max(thawed);
                *since = Some(began);
                if began + bound(scene) <= scene.now {
                    return Some(format!(
                        "witness: {} sees none and misses {}, but holds {}",
                        scene.machines[usize::from(machine)].name,
                        scene.machines[usize::from(missing)].name,
                        scene.name(vip),
                    ));
                }
            }
        }
        None
    }
}

fn bound(scene: &Scene) -> Nanos {
    let busy = |host: &crate::machine::Machine| {
        host.kernel_slow + scene.kernel_takes.1 + host.kernel_busy_until.saturating_sub(scene.now)
    };
    let kernel = 2 * scene.machines.iter().map(busy).max().unwrap_or(0);
    BOUND + kernel + 2 * scene.network.longest_lately(scene.now)
}

/// The member whose absence means that `machine` has to give `vip` up.
fn missing(scene: &Scene, machine: u8, vip: u8) -> Option<u8> {
    let host = &scene.machines[usize::from(machine)];
    let slot = &host.kernel[usize::from(vip)];
    let router = scene.router(machine, vip)?;
    let unseen = |check: &standin_core::types::CheckId| {
        host.checks.get(check.index()).is_some_and(|truth| truth.passing == Some(false))
    };
    let plan = router.plan();
    let alone = !plan.witness.is_empty() && plan.witness.iter().all(unseen);
    let holds = slot.present && host.running() && router.role() == Role::Active;
    if !alone || !holds {
        return None;
    }
    let members = plan.members.iter().map(|member| member.node.0);
    members.into_iter().find(|other| *other != machine && !scene.in_sight(machine, *other))
}
