//! One case of a long run: a cluster and its story, drawn from a seed and a number.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::draw;
use crate::random::Random;
use crate::scene::Counts;
use crate::trace::Trace;
use crate::world::World;

/// Simulated time of one case: long enough for a cluster to be disturbed some hundred times,
/// short enough to be replayed in a second.
pub const CASE: Nanos = 1_800 * SECOND;

/// One case in so many has a witness.
const WITNESSED: u64 = 3;

/// Lines of the trace that are shown of a failure.
const TAIL: usize = 120;

/// What the cases of a run are drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    pub seed: u64,
    pub fewest_nodes: usize,
    pub most_nodes: usize,
}

/// What happened in some cases, added up.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub cases: u64,
    pub simulated: Nanos,
    pub adverts: u64,
    pub transitions: u64,
    pub faults: Counts,
    pub reasons: Counts,
    /// Undisturbed overlaps at a change: how many, and the longest.
    pub overlaps: u64,
    pub longest_overlap: Nanos,
    /// How often a client was found to send to the holder.
    pub clients_right: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.cases += other.cases;
        self.simulated += other.simulated;
        self.adverts += other.adverts;
        self.transitions += other.transitions;
        self.overlaps += other.overlaps;
        self.longest_overlap = self.longest_overlap.max(other.longest_overlap);
        self.clients_right += other.clients_right;
        for (mine, theirs) in
            [(&mut self.faults, &other.faults), (&mut self.reasons, &other.reasons)]
        {
            add_counts(mine, theirs);
        }
    }

    #[must_use]
    pub fn faults_total(&self) -> u64 {
        self.faults.values().sum()
    }
}

/// Adds one list of counts to another.
pub(crate) fn add_counts(mine: &mut Counts, theirs: &Counts) {
    for (name, count) in theirs {
        *mine.entry(name.clone()).or_default() += count;
    }
}

/// A case in which a promise was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    pub case: u64,
    pub what: String,
    /// The tail of the story, when it was traced.
    pub trace: String,
}

impl Campaign {
    /// Draws the world of one case.
    #[must_use]
    pub fn world(&self, case: u64) -> World {
        let mut random = Random::of_case(self.seed, case);
        let nodes = random.within(self.fewest_nodes as u64, self.most_nodes as u64);
        let witnessed = case % WITNESSED == WITNESSED - 1;
        let mut scene = draw::scene(random, usize::try_from(nodes).unwrap_or(2), witnessed);
        // Every other cluster has a peer link; the rest of its story is drawn as before.
        let mut of_link = Random::of_case(!self.seed, case);
        if of_link.chance(500) {
            scene.link_up(of_link);
        }
        // So has every fourth one: processes that die one by one, and kernels that outlive them.
        let mut of_hosts = Random::of_case(self.seed.rotate_left(32), !case);
        if of_hosts.chance(250) {
            scene.populate(of_hosts);
        }
        World::new(scene)
    }

    /// Runs one case and writes down what `machine` was told in its last life.
    #[must_use]
    pub fn record(&self, case: u64, machine: u8) -> String {
        let mut world = self.world(case);
        world.scene.record = Some((machine, String::new()));
        // A broken promise ends the record; it is what one wants to look at.
        let _ = catch_unwind(AssertUnwindSafe(|| world.run_until(CASE)));
        world.scene.record.map_or_else(String::new, |(_, text)| text)
    }

    /// Runs one case to its end; `traced` with or without its packets.
    ///
    /// # Errors
    /// The promise that was broken; a panic of a core is one.
    pub fn run(&self, case: u64, traced: Option<bool>) -> Result<Tally, Failure> {
        let mut world = self.world(case);
        if let Some(packets) = traced {
            let mut trace = Trace::default();
            trace.packets = packets;
            world.scene.trace = Some(trace);
        }
        let ended = catch_unwind(AssertUnwindSafe(|| world.run_until(CASE)));
        let what = match ended {
            Ok(Ok(())) => return Ok(tally(&world)),
            Ok(Err(broken)) => broken.to_string(),
            Err(panic) => panicked(world.scene.now, panic.as_ref()),
        };
        let tail = |trace: &Trace| trace.tail(TAIL) + &world.scene.standing();
        let trace = world.scene.trace.as_ref().map_or_else(String::new, tail);
        Err(Failure { case, what, trace })
    }
}

fn tally(world: &World) -> Tally {
    Tally {
        cases: 1,
        simulated: world.scene.now,
        adverts: world.scene.deliveries,
        transitions: world.checks.history.transitions,
        faults: world.scene.faults.clone(),
        reasons: world.scene.events.clone(),
        overlaps: world.checks.overlap.clean,
        longest_overlap: world.checks.overlap.longest_clean,
        clients_right: world.checks.clients.right,
    }
}

/// The words for a panic at this simulated time.
#[must_use]
pub fn panicked(now: Nanos, panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(ToString::to_string);
    let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("P6: a panic at {} ms: {}", now / MILLISECOND, words.unwrap_or_default())
}
