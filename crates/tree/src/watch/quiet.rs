//! When a burst of hints is over.

use std::time::{Duration, Instant};

/// Counts the time since the last hint, and since the first one of the burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet {
    settle: Duration,
    longest: Duration,
    /// The first and the last hint of a burst.
    burst: Option<(Instant, Instant)>,
}

impl Quiet {
    pub(super) const fn new(settle: Duration, longest: Duration) -> Self {
        Self { settle, longest, burst: None }
    }

    pub(super) fn hint(&mut self, now: Instant) {
        let first = self.burst.map_or(now, |(first, _)| first);
        self.burst = Some((first, now));
    }

    pub(super) const fn is_burst(&self) -> bool {
        self.burst.is_some()
    }

    /// When the tree is to be read: `settle` after the last hint, at the latest `longest` after the
    /// first.
    pub(super) fn due(&self) -> Option<Instant> {
        let (first, last) = self.burst?;
        Some((last + self.settle).min(first + self.longest))
    }

    /// Whether a tree that moved while it was read is to be taken all the same.
    pub(super) fn is_patience_over(&self, now: Instant) -> bool {
        self.burst.is_none_or(|(first, _)| now >= first + self.longest)
    }

    pub(super) const fn over(&mut self) {
        self.burst = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_ends_with_quiet_time_or_at_its_bound() {
        let ms = Duration::from_millis;
        let begin = Instant::now();
        let mut quiet = Quiet::new(ms(200), ms(1000));
        assert_eq!(quiet.due(), None);
        quiet.hint(begin);
        assert_eq!(quiet.due(), Some(begin + ms(200)));
        for pause in 1..=10 {
            quiet.hint(begin + ms(100) * pause);
        }
        assert_eq!(quiet.due(), Some(begin + ms(1000)), "pauses of half of settle are one burst");
        assert!(!quiet.is_patience_over(begin + ms(999)));
        assert!(quiet.is_patience_over(begin + ms(1000)));
        quiet.over();
        assert_eq!(quiet.due(), None);
        quiet.hint(begin + ms(5000));
        assert_eq!(quiet.due(), Some(begin + ms(5200)));
    }
}
