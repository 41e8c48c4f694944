//! The witness of a drawn or told cluster: a host of the segment that machines ping.

use standin_core::plan::CheckPlan;
use standin_core::plan::Plan;
use standin_core::types::{CheckId, Family};

use crate::clock::MILLISECOND;
use crate::network::{CLIENT, FOREIGN, WITNESS};
use crate::scene::Scene;

/// Between two pings.
const GAP: u64 = 100 * MILLISECOND;

/// The last check of a cluster with a witness; it is needed for nothing else.
const NAME: &str = "witness";

/// Gives every VIP of the plan a witness.
pub fn appoint(plan: &mut Plan) {
    let Ok(place) = u16::try_from(plan.checks.len()) else { return };
    plan.checks.push(CheckPlan { name: NAME.to_owned(), rise: 1, fall: 2 });
    for vip in &mut plan.vips {
        vip.witness = vec![CheckId(place)];
    }
}

/// The check by which a plan's machines look for the witness.
#[must_use]
pub fn check_of(plan: &Plan) -> Option<u8> {
    let id = plan.vips.iter().find_map(|vip| vip.witness.first())?;
    u8::try_from(id.0).ok()
}

impl Scene {
    /// Whether a ping of `machine` comes back.
    #[must_use]
    pub fn sees_witness(&self, machine: u8) -> bool {
        let place = usize::from(machine);
        self.machines[place].interface_up
            && self.network.passes(place, WITNESS, Family::V4)
            && self.network.passes(WITNESS, place, Family::V4)
    }

    /// Whether `machine` gets answers from `other`'s kernel.
    #[must_use]
    pub fn in_sight(&self, machine: u8, other: u8) -> bool {
        let host = &self.machines[usize::from(other)];
        let there = |family: Family| {
            host.own_present
                && host.on_the_air()
                && self.network.passes(machine.into(), other.into(), family)
                && self.network.passes(other.into(), machine.into(), family)
        };
        Family::BOTH.into_iter().any(there)
    }

    /// The network changed: who can see the witness by now?
    pub fn look_for_witness(&mut self) {
        let Some(check) = self.witness else { return };
        for machine in self.places() {
            let works = self.sees_witness(machine);
            let truth = &self.machines[usize::from(machine)].checks[usize::from(check)];
            if truth.works != works {
                self.service(machine, check, works, false, GAP);
            }
        }
    }

    /// Cuts the segment in two, or heals it: the machines of `mask`, and the others. The client is
    /// where the witness is.
    pub fn sides(&mut self, mask: u8, witness: Side, cut: bool) {
        let [client, foreign, lonely] =
            [CLIENT, FOREIGN, WITNESS].map(|it| u8::try_from(it).unwrap_or(u8::MAX));
        let inside = |machine: u8| mask & (1 << machine) != 0;
        for a in self.places() {
            for b in self.places().filter(|b| inside(a) && !inside(*b)) {
                self.both_ways(a, b, cut);
            }
            let other_side = inside(a) != (witness == Side::Inside);
            if other_side {
                self.both_ways(a, client, cut);
                self.both_ways(a, foreign, cut);
            }
            if other_side || witness == Side::Nowhere {
                self.both_ways(a, lonely, cut);
            }
            if !cut {
                self.client_lost_sight(a);
            }
        }
    }

    fn both_ways(&mut self, a: u8, b: u8, cut: bool) {
        self.way(a, b, None, cut);
        self.way(b, a, None, cut);
    }
}

/// Which part of the segment the witness is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Inside,
    Outside,
    /// No machine sees it.
    Nowhere,
}
