//! Stories: a cluster file, what happens to it and when, and what is expected to come of it.
//!
//! ```text
//! cluster = "edge"            the cluster file as operators write it
//! ...
//! ---
//! at 2s   cut n1              the story, in the order of time
//! expect by 2.4s active web = n2
//! expect overlap < 5ms        without a time: at the end
//! ```
//!
//! The words are listed in `line.rs`. All nodes start at 0 s with passing checks, unless
//! a line `later NODE` stands before the first time. The promises are checked throughout.

mod expect;
mod line;

use standin_core::plan::Plan;

use crate::campaign::Failure;
use crate::clock::{Clock, MICROSECOND, MILLISECOND, Nanos, SECOND};
use crate::cluster::ClusterFile;
use crate::fault::Fault;
use crate::machine::Sabotage;
use crate::network::{MAX_MACHINES, Weather};
use crate::queue::Due;
use crate::random::Random;
use crate::scene::Scene;
use crate::trace::Trace;
use crate::world::World;

use expect::Expectation;
use line::Line;

/// Lines of the trace that are shown of a story that ended otherwise.
const TAIL: usize = 200;

/// A clear day: what a LAN does when nothing is wrong.
const CLEAR: Weather = Weather {
    delay: 100 * MICROSECOND,
    jitter: 50 * MICROSECOND,
    loss_ppm: 0,
    duplicate_ppm: 0,
    reorders: false,
};

/// A story, read and ready to be run.
#[derive(Debug)]
pub struct Story {
    plan: Plan,
    later: Vec<u8>,
    lines: Vec<(usize, Nanos, Line)>,
    at_end: Vec<(usize, Expectation)>,
}

/// Runs the story of `text` to its end.
///
/// # Errors
/// The line that can't be read, the expectation that isn't met, or the promise that was broken,
/// with the trace.
pub fn run(text: &str) -> Result<(), Failure> {
    run_with(text, Sabotage::None)
}

/// As [`run`], with every machine's shell broken like this.
///
/// # Errors
/// As [`run`].
pub fn run_with(text: &str, sabotage: Sabotage) -> Result<(), Failure> {
    let fail = |what, trace| Failure { case: 0, what, trace };
    let story = Story::read(text).map_err(|what| fail(what, String::new()))?;
    let mut world = story.world();
    for machine in &mut world.scene.machines {
        machine.sabotage = sabotage;
    }
    let told = story.tell(&mut world);
    told.map_err(|what| {
        let tail = world.scene.trace.as_ref().map_or_else(String::new, |trace| trace.tail(TAIL));
        fail(what, tail + &world.scene.standing())
    })
}

impl Story {
    /// # Errors
    /// The line and what is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let (file, story) =
            text.split_once("\n---\n").ok_or("no line `---` ends the cluster file")?;
        let loaded = standin_config::load("the cluster file", file);
        let Some(cluster) = &loaded.model else { return Err(loaded.render(false)) };
        let plans = cluster
            .nodes
            .iter()
            .map(|node| cluster.plan(&node.name, "eth0").map_err(|found| format!("{found:?}")));
        let plans = plans.collect::<Result<Vec<Plan>, String>>()?;
        let whole = |plan: &&Plan| plan.vips.len() == cluster.vips.len();
        let plan =
            plans.iter().find(whole).ok_or("a story needs a node that may hold every VIP")?;
        if plan.nodes.len() > MAX_MACHINES {
            return Err(format!("a story has {MAX_MACHINES} nodes at most"));
        }
        let mut read =
            Self { plan: plan.clone(), later: Vec::new(), lines: Vec::new(), at_end: Vec::new() };
        let first = file.lines().count() + 2;
        for (number, line) in (first..).zip(story.lines()) {
            read.line(number, line).map_err(|why| format!("line {number}: {why}\n  {line}"))?;
        }
        Ok(read)
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let last = self.lines.last().map_or(0, |(_, at, _)| *at);
        let names = line::Names::of(&self.plan);
        match words.as_slice() {
            [] => {}
            ["later", node] => self.later.push(names.node(node)?),
            ["expect", "by", at, rest @ ..] => {
                let expected = Expectation::read(&names, rest)?;
                self.push(number, line::time(at)?, Line::Expect(expected), last)?;
            }
            ["expect", rest @ ..] => self.at_end.push((number, Expectation::read(&names, rest)?)),
            ["at", at, rest @ ..] => {
                let at = line::time(at)?;
                self.push(number, at, Line::read(&names, rest)?, last)?;
            }
            _ => return Err("a line begins with `at`, `expect` or `later`".to_owned()),
        }
        Ok(())
    }

    fn push(&mut self, number: usize, at: Nanos, line: Line, last: Nanos) -> Result<(), String> {
        if at < last {
            return Err("this is earlier than the line before it".to_owned());
        }
        self.lines.push((number, at, line));
        Ok(())
    }

    fn world(&self) -> World {
        let file = ClusterFile::new(self.plan.clone());
        // Stories don't depend on luck: the seed only places packets within their jitter.
        let mut scene = Scene::new(file, CLEAR, Random::new(1));
        scene.kernel_takes = (MILLISECOND / 2, MILLISECOND);
        scene.trace = Some(Trace::default());
        for machine in scene.places() {
            let host = &mut scene.machines[usize::from(machine)];
            // No two clocks begin alike, else all would send in the same phase.
            host.clock = Clock::new(0, 100 * SECOND + u64::from(machine) * 7_300_000, 0);
            if !self.later.contains(&machine) {
                scene.queue.push(0, Due::Fault(Fault::Start { machine }));
            }
        }
        World::new(scene)
    }

    fn tell(&self, world: &mut World) -> Result<(), String> {
        for (number, at, line) in &self.lines {
            world.run_until(*at).map_err(|broken| broken.to_string())?;
            match line {
                Line::Faults(faults) => {
                    for fault in faults {
                        world.happen(Due::Fault(*fault));
                    }
                    if let Some(what) = world.checks.broken.take() {
                        return Err(format!("line {number}: {what}"));
                    }
                }
                Line::Expect(expected) => expected
                    .met(world)
                    .map_err(|why| format!("line {number}: expected {expected}, but {why}"))?,
                Line::Nothing => {}
            }
        }
        for (number, expected) in &self.at_end {
            expected
                .met(world)
                .map_err(|why| format!("line {number}: expected {expected}, but {why}"))?;
        }
        Ok(())
    }
}
