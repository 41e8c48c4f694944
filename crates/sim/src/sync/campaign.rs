//! One case of a long run: a cluster and its story, drawn from a seed and a number.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::job::Step;
use super::world::World;
use super::{Sabotage, story};
use crate::campaign::{Failure, add_counts, panicked};
use crate::clock::{Nanos, SECOND};
use crate::random::Random;
use crate::scene::Counts;
use crate::trace::Trace;

/// Simulated time of one case: a few storms, each with the quiet after it.
pub const CASE: Nanos = 3_600 * SECOND;

/// Nodes of a cluster.
pub const NODES: (u64, u64) = (2, 5);

/// Lines of the trace that are shown of a failure.
const TAIL: usize = 150;

/// What happened in some cases, added up.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub cases: u64,
    pub simulated: Nanos,
    pub faults: Counts,
    pub events: Counts,
    /// How often a cluster was quiet, and everything in order.
    pub settled: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.cases += other.cases;
        self.simulated += other.simulated;
        self.settled += other.settled;
        for (mine, theirs) in [(&mut self.faults, &other.faults), (&mut self.events, &other.events)]
        {
            add_counts(mine, theirs);
        }
    }
}

/// Everything that can be done to a cluster.
pub fn faults() -> impl Iterator<Item = &'static str> {
    story::KINDS.iter().copied().chain(Step::TRAPS.into_iter().map(Step::words))
}

/// Everything that replicas can say.
pub fn events() -> impl Iterator<Item = &'static str> {
    story::EVENTS.iter().copied()
}

/// The cluster of one case.
#[must_use]
pub fn world(seed: u64, case: u64, sabotage: Sabotage) -> World {
    let mut random = Random::of_case(seed, case);
    let hosts = u8::try_from(random.within(NODES.0, NODES.1)).unwrap_or(2);
    World::new(random, hosts, sabotage)
}

/// Runs one case to its end.
///
/// # Errors
/// The promise that was broken; a panic of a core is one.
pub fn run(seed: u64, case: u64, sabotage: Sabotage, traced: bool) -> Result<Tally, Failure> {
    let mut world = world(seed, case, sabotage);
    world.trace = traced.then(Trace::default);
    let what = match catch_unwind(AssertUnwindSafe(|| world.run_until(CASE))) {
        Ok(Ok(())) => {
            let settled = world.check.settled;
            let World { faults, events, .. } = world;
            return Ok(Tally { cases: 1, simulated: CASE, faults, events, settled });
        }
        Ok(Err(broken)) => broken.to_string(),
        Err(panic) => panicked(world.now, panic.as_ref()),
    };
    let trace = world.trace.as_ref().map_or_else(String::new, |trace| trace.tail(TAIL));
    Err(Failure { case, what, trace })
}
