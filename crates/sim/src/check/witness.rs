//! The witness: who sees none and misses a peer, has nothing after the bound.
//!
//! Together with promise 2, which has an eligible node of the other side take the VIP, it means:
//! when one of two sides sees the witness, the VIP is there and nowhere else.
//!
//! The bound counts from when the last witness was called failed and that peer was out of reach: four
//! questions 200 ms apart, one of which may just have been answered, a clock that is 2 % slow, and
//! the kernel's time to take the addresses away. A machine that was held up begins anew. An answer to a
//! question that was asked during a spike may come when both the spike and the sight are over.
//!
//! It counts for each peer by itself: when one comes back as another goes, the absence of neither is known
//! before its own questions stayed unanswered.

use standin_core::election::VirtualRouter;
use standin_core::event::Role;
use standin_core::types::{CheckId, NodeId};

use crate::clock::{MILLISECOND, Nanos};
use crate::machine::BySender;
use crate::scene::Scene;

const BOUND: Nanos = 900 * MILLISECOND;

#[derive(Debug)]
pub struct Witness {
    /// By machine and VIP: for the sake of which peers it should be giving up, and since when.
    since: Vec<Vec<BySender<Nanos>>>,
    /// How often one gave up that had to.
    pub gave_up: u64,
}

impl Witness {
    #[must_use]
    pub fn new(scene: &Scene) -> Self {
        let one = vec![BySender::default(); scene.file.names.len()];
        Self { since: vec![one; scene.machines.len()], gave_up: 0 }
    }

    #[must_use]
    pub fn due(&self, scene: &Scene) -> Nanos {
        let first = self.since.iter().flatten().flat_map(BySender::values).min();
        first.map_or(Nanos::MAX, |since| since + bound(scene))
    }

    pub fn look(&mut self, scene: &Scene) -> Option<String> {
        scene.witness?;
        for (machine, of_machine) in scene.places().zip(&mut self.since) {
            let thawed = scene.machines[usize::from(machine)].thawed_at;
            for (vip, since) in scene.vips().zip(of_machine) {
                let unwitnessed = unwitnessed(scene, machine, vip);
                for peer in scene.places() {
                    let known = since.take(peer);
                    if !unwitnessed || !misses(scene, machine, vip, peer) {
                        self.gave_up += u64::from(known.is_some());
                        continue;
                    }
                    let began = known.unwrap_or(scene.now).max(thawed);
                    since.insert(peer, began);
                    if began + bound(scene) <= scene.now {
                        return Some(format!(
                            "witness: {} sees none and misses {}, but holds {}",
                            scene.machines[usize::from(machine)].name,
                            scene.machines[usize::from(peer)].name,
                            scene.name(vip),
                        ));
                    }
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

/// Whether `machine` sees no witness and holds `vip`: it may only if it misses nobody.
fn unwitnessed(scene: &Scene, machine: u8, vip: u8) -> bool {
    let host = &scene.machines[usize::from(machine)];
    let slot = &host.kernel[usize::from(vip)];
    let Some(router) = scene.router(machine, vip) else { return false };
    let unseen = |check: &CheckId| {
        host.checks.get(check.index()).is_some_and(|truth| truth.passing == Some(false))
    };
    let witness = &router.plan().witness;
    let alone = !witness.is_empty() && witness.iter().all(unseen);
    alone && slot.present && host.running() && router.role() == Role::Active
}

/// Whether `peer` is a node of `vip` that doesn't answer `machine`.
fn misses(scene: &Scene, machine: u8, vip: u8, peer: u8) -> bool {
    let member = |router: &VirtualRouter| router.plan().priority_of(NodeId(peer)).is_some();
    peer != machine
        && scene.router(machine, vip).is_some_and(member)
        && !scene.in_sight(machine, peer)
}
