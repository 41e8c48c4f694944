//! Runs a probe on schedule: starts are never late because an earlier probe is slow.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Desk, Outcome};

/// A third one would only pile up on what is already slow; the configuration keeps `timeout`
/// within two intervals, so that two are enough to start every one on time.
const UNDER_WAY: usize = 2;

/// The answers of probes that overlap, in the order in which the probes started.
#[derive(Debug, Default)]
pub(crate) struct Order {
    started: u64,
    newest_answer: u64,
}

impl Order {
    pub(crate) fn start(&mut self) -> u64 {
        self.started += 1;
        self.started
    }

    /// Makes every answer that is still under way old news.
    pub(crate) fn outdate(&mut self) {
        self.newest_answer = self.started;
    }

    /// Whether the answer of probe `number` is news: a later probe hasn't answered yet.
    pub(crate) fn is_news(&mut self, number: u64) -> bool {
        let news = number > self.newest_answer;
        if news {
            self.newest_answer = number;
        }
        news
    }
}

/// Probes for ever. Each probe keeps its own deadline, by [`within`] if it has no better words.
pub(crate) async fn run<P, F>(interval: Duration, desk: Desk, mut probe: P)
where
    P: FnMut() -> F,
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut clock = ticks(interval);
    let mut order = Order::default();
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            _ = clock.tick() => {
                if under_way.len() < UNDER_WAY {
                    let number = order.start();
                    let answer = probe();
                    under_way.spawn(async move {
                        let start = Instant::now();
                        (number, answer.await, start.elapsed())
                    });
                }
            }
            Some(ended) = under_way.join_next() => {
                // A probe that panicked has no number; the next one speaks for it.
                if let Ok((number, outcome, took)) = ended && order.is_news(number) {
                    desk.report(outcome, took);
                }
            }
        }
    }
}

/// An interval that skips what it missed: after a pause of the machine there is one probe, not many.
pub(crate) fn ticks(every: Duration) -> tokio::time::Interval {
    let mut clock = tokio::time::interval(every.max(Duration::from_millis(1)));
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    clock
}

/// `probe`'s outcome, or a failure once `timeout` has passed.
pub(crate) async fn within(timeout: Duration, probe: impl Future<Output = Outcome>) -> Outcome {
    match tokio::time::timeout(timeout, probe).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::fail(format!("no answer within {} ms", timeout.as_millis())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_never_overwrites_a_newer_one() {
        let mut order = Order::default();
        let (first, second, third) = (order.start(), order.start(), order.start());
        assert!(order.is_news(second));
        assert!(!order.is_news(first));
        order.outdate();
        assert!(!order.is_news(third));
        assert!({
            let fourth = order.start();
            order.is_news(fourth)
        });
    }
}
