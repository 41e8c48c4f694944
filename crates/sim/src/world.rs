//! A scene and its checkers, run together until a promise is broken or the time is over.

use std::fmt;
use std::mem;

use crate::check::Checks;
use crate::clock::Nanos;
use crate::queue::Due;
use crate::scene::Scene;
use crate::trace::stamp;

/// A promise that was broken, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub at: Nanos,
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} s: {}", stamp(self.at), self.what)
    }
}

impl std::error::Error for Broken {}

#[derive(Debug)]
pub struct World {
    pub scene: Scene,
    pub checks: Checks,
}

impl World {
    #[must_use]
    pub fn new(scene: Scene) -> Self {
        let checks = Checks::new(&scene);
        Self { scene, checks }
    }

    /// Runs everything that is due until `end`, and stands at `end` then.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run_until(&mut self, end: Nanos) -> Result<(), Broken> {
        loop {
            let next = self.scene.queue.next_at();
            let look = self.checks.due();
            if next.min(look) > end {
                self.scene.now = end;
                return Ok(());
            }
            if look < next {
                self.scene.now = look;
                self.checks.look(&self.scene);
            } else if let Some((at, due)) = self.scene.queue.pop() {
                self.scene.now = at;
                self.happen(due);
            }
            if let Some(what) = self.checks.broken.take() {
                return Err(Broken { at: self.scene.now, what });
            }
        }
    }

    /// Lets one thing happen now and shows the checkers what came of it.
    pub fn happen(&mut self, due: Due) {
        self.scene.handle(due);
        if !self.scene.seen.is_empty() {
            let mut seen = mem::take(&mut self.scene.seen);
            self.checks.saw(&self.scene, &seen);
            seen.clear();
            self.scene.seen = seen;
        }
    }
}
