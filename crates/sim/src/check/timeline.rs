//! How long each VIP had two holders, and how long none: what stories expect bounds for.

use crate::clock::Nanos;
use crate::scene::Scene;

#[derive(Clone, Copy, Debug, Default)]
struct Line {
    holders: usize,
    since: Nanos,
    ever: bool,
    longest_overlap: Nanos,
    longest_gap: Nanos,
}

impl Line {
    /// Counts the time up to now to what it was.
    fn close(&mut self, now: Nanos) {
        let lasted = now - self.since;
        match self.holders {
            0 if self.ever => self.longest_gap = self.longest_gap.max(lasted),
            0 | 1 => {}
            _ => self.longest_overlap = self.longest_overlap.max(lasted),
        }
    }
}

/// The longest overlap and the longest gap of each VIP.
#[derive(Debug)]
pub struct Timeline {
    lines: Vec<Line>,
}

impl Timeline {
    #[must_use]
    pub fn new(scene: &Scene) -> Self {
        Self { lines: vec![Line::default(); scene.file.names.len()] }
    }

    pub fn presence(&mut self, scene: &Scene, vip: u8) {
        let Some(line) = self.lines.get_mut(usize::from(vip)) else { return };
        let has = |one: &u8| scene.machines[usize::from(*one)].kernel[usize::from(vip)].present;
        let holders = scene.places().filter(has).count();
        if holders == line.holders {
            return;
        }
        // Two holders and then three are one overlap.
        if holders < 2 || line.holders < 2 {
            line.close(scene.now);
            line.since = scene.now;
        }
        line.holders = holders;
        line.ever |= holders > 0;
    }

    /// The longest overlap and the longest gap up to now, of all VIPs.
    #[must_use]
    pub fn longest(&self, now: Nanos) -> (Nanos, Nanos) {
        self.lines.iter().fold((0, 0), |(overlap, gap), line| {
            let mut line = *line;
            line.close(now);
            (overlap.max(line.longest_overlap), gap.max(line.longest_gap))
        })
    }
}
