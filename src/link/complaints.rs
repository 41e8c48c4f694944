//! What is refused is said once for each source, however often it comes, and costs no memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A source is named again after this.
const AGAIN: Duration = Duration::from_secs(60);

/// Sources that are remembered; with more, nobody is named until the oldest is forgotten.
const SOURCES: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Complaints {
    said: BTreeMap<IpAddr, Instant>,
    refused: u64,
}

impl Complaints {
    /// Counts a refusal; whether it is to be said.
    pub(crate) fn refused(&mut self, source: IpAddr, now: Instant) -> bool {
        self.refused += 1;
        self.said.retain(|_, at| now.saturating_duration_since(*at) < AGAIN);
        if self.said.contains_key(&source) || self.said.len() >= SOURCES {
            return false;
        }
        self.said.insert(source, now);
        true
    }

    /// Since the start.
    pub(crate) const fn count(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_once_a_minute_and_sources_are_bounded() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        let source = |i: u32| IpAddr::from(i.to_be_bytes());
        assert!(complaints.refused(source(1), now));
        assert!(!complaints.refused(source(1), now + AGAIN / 2));
        assert!(complaints.refused(source(1), now + AGAIN));
        let said = (0..10_000).filter(|i| complaints.refused(source(*i + 2), now + AGAIN)).count();
        assert_eq!(said, SOURCES - 1);
        assert_eq!(complaints.count(), 10_003);
        assert!(complaints.said.len() <= SOURCES);
    }
}
