//! The measuring client: a new connection and request to each VIP at a fixed pace, come what may.
//!
//! Attempts are independent of each other, so that one that hangs hides nothing. Each has a
//! deadline; one without a full answer by then has failed.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use standin_linux::spawn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

/// What is asked, how often, and how long an answer may take.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) targets: Vec<SocketAddr>,
    /// The resolution of every outage.
    pub(crate) every: Duration,
    pub(crate) deadline: Duration,
    pub(crate) request: String,
    /// `None` while more of the answer is to come; then whether it is a good one.
    pub(crate) judge: fn(&[u8]) -> Option<bool>,
}

/// As many as can be waiting for their deadline at once, twice over.
const MAX_IN_FLIGHT: usize = 256;

/// nginx's headers and a host name.
const MAX_ANSWER: usize = 2048;

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) start: Instant,
    /// The index of the VIP's address.
    pub(super) target: usize,
    pub(super) answered: bool,
}

/// What the client met in one window of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    /// From the start of the last attempt that was answered to the start of the next one that was;
    /// the longest of those with failures between. `None`: no answer came until the end.
    pub(crate) outage: Option<Duration>,
    pub(crate) attempts: usize,
    pub(crate) failed: usize,
    /// The longest pause between two attempts to one address: how far the client itself was held up.
    pub(crate) stall: Duration,
}

/// For a report.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    // A tenth of a millisecond is below the resolution of everything here.
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

/// A client at work.
pub(crate) struct Client {
    attempts: Arc<Mutex<Vec<Attempt>>>,
    stop: Arc<AtomicBool>,
    targets: usize,
    thread: JoinHandle<Result<()>>,
}

impl Client {
    /// Begins to ask, from inside the network namespace `network` if that isn't this one.
    pub(crate) fn start(network: Option<OwnedFd>, question: Question) -> Self {
        let attempts = Arc::new(Mutex::new(Vec::with_capacity(16_384)));
        let stop = Arc::new(AtomicBool::new(false));
        let count = question.targets.len();
        let (kept, stopped) = (Arc::clone(&attempts), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            if let Some(network) = network {
                spawn::enter_network(network.as_fd())
                    .context("cannot enter the client's network")?;
            }
            // Without it the figures are those of a busy machine, which `stall` shows.
            let _preferred = spawn::prefer_this_thread();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            tokio::task::LocalSet::new()
                .block_on(&runtime, ask(Rc::new(question), &kept, &stopped));
            Ok(())
        });
        Self { attempts, stop, targets: count, thread }
    }

    /// What the attempts that began after `from` met so far.
    pub(crate) fn so_far(&self, from: Instant) -> Measured {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        measure(&mut attempts, self.targets, from)
    }

    /// How long every address has been answering without a failure.
    pub(crate) fn steady_for(&self) -> Duration {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut since = vec![None; self.targets];
        for attempt in attempts.iter() {
            if let Some(slot) = since.get_mut(attempt.target) {
                if attempt.answered {
                    let start: &mut Option<Instant> = slot;
                    start.get_or_insert(attempt.start);
                } else {
                    *slot = None;
                }
            }
        }
        since
            .into_iter()
            .map(|start| start.map_or(Duration::ZERO, |it| now.saturating_duration_since(it)))
            .min()
            .unwrap_or_default()
    }

    /// Ends it.
    pub(crate) fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client's thread panicked"))?
    }
}

async fn ask(question: Rc<Question>, attempts: &Arc<Mutex<Vec<Attempt>>>, stop: &AtomicBool) {
    let mut clock = tokio::time::interval(question.every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let in_flight = Rc::new(Cell::new(0_usize));
    while !stop.load(Ordering::Relaxed) {
        clock.tick().await;
        for target in 0..question.targets.len() {
            if in_flight.get() >= MAX_IN_FLIGHT {
                continue;
            }
            in_flight.set(in_flight.get() + 1);
            let (in_flight, attempts, question) =
                (Rc::clone(&in_flight), Arc::clone(attempts), Rc::clone(&question));
            tokio::task::spawn_local(async move {
                let start = Instant::now();
                let answer = tokio::time::timeout(question.deadline, once(&question, target)).await;
                let attempt = Attempt { start, target, answered: matches!(answer, Ok(Ok(true))) };
                attempts.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
                in_flight.set(in_flight.get() - 1);
            });
        }
    }
    // Those under way have their deadline; nobody asks for them any more.
}

/// Whether the answer was a good one.
async fn once(question: &Question, target: usize) -> std::io::Result<bool> {
    let Some(target) = question.targets.get(target) else { return Ok(false) };
    let mut stream = TcpStream::connect(target).await?;
    // A reset at the end leaves neither side with a connection to remember.
    stream.set_zero_linger()?;
    stream.write_all(question.request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut answer).await? == 0 || answer.len() > MAX_ANSWER {
            return Ok(false);
        }
        if let Some(good) = (question.judge)(&answer) {
            return Ok(good);
        }
    }
}

/// A [`Question::judge`]: a whole 200.
pub(super) fn whole(answer: &[u8]) -> Option<bool> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
    let length: usize = length.trim().parse().ok()?;
    (answer.len() >= end + length).then(|| head.starts_with("HTTP/1.1 200 "))
}

/// What `attempts` (in any order) to `targets` addresses met from `from` on.
fn measure(attempts: &mut [Attempt], targets: usize, from: Instant) -> Measured {
    attempts.sort_by_key(|attempt| attempt.start);
    let mut all = Measured { outage: Some(Duration::ZERO), ..Measured::default() };
    for target in 0..targets {
        let mut last_answered: Option<Instant> = None;
        let mut last_start: Option<Instant> = None;
        let mut failures = 0_usize;
        for attempt in attempts.iter().filter(|attempt| attempt.target == target) {
            if attempt.start < from {
                if attempt.answered {
                    last_answered = Some(attempt.start);
                }
                last_start = Some(attempt.start);
                continue;
            }
            all.attempts += 1;
            if let Some(last) = last_start {
                all.stall = all.stall.max(attempt.start.saturating_duration_since(last));
            }
            last_start = Some(attempt.start);
            if attempt.answered {
                let gap = last_answered.map(|last| attempt.start.saturating_duration_since(last));
                if failures > 0 {
                    let gap = gap.unwrap_or_default();
                    all.outage = all.outage.map(|longest| longest.max(gap));
                }
                failures = 0;
                last_answered = Some(attempt.start);
            } else {
                failures += 1;
                all.failed += 1;
            }
        }
        if failures > 0 || last_answered.is_none() {
            all.outage = None;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(origin: Instant, answers: &[(u64, bool)]) -> Vec<Attempt> {
        let attempt = |&(ms, answered): &(u64, bool)| Attempt {
            start: origin + Duration::from_millis(ms),
            target: 0,
            answered,
        };
        answers.iter().map(attempt).collect()
    }

    #[test]
    fn an_outage_lasts_from_the_last_answer_before_to_the_first_after() {
        let origin = Instant::now();
        let mut met = attempts(origin, &[(0, true), (2, true), (4, false), (6, false), (8, true)]);
        let measured = measure(&mut met, 1, origin);
        assert_eq!(measured.outage, Some(Duration::from_millis(6)));
        assert_eq!((measured.attempts, measured.failed), (5, 2));
    }

    #[test]
    fn a_client_that_is_held_up_is_no_outage() {
        let origin = Instant::now();
        let measured = measure(&mut attempts(origin, &[(0, true), (50, true)]), 1, origin);
        assert_eq!(measured.outage, Some(Duration::ZERO));
        assert_eq!(measured.stall, Duration::from_millis(50));
    }

    #[test]
    fn an_outage_without_end_has_no_length() {
        let origin = Instant::now();
        let measured = measure(&mut attempts(origin, &[(0, true), (2, false)]), 1, origin);
        assert_eq!(measured.outage, None);
    }

    #[test]
    fn half_an_answer_is_none() {
        let full = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nn1\n";
        assert_eq!(whole(&full[..full.len() - 1]), None);
        assert_eq!(whole(full), Some(true));
        assert_eq!(whole(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), Some(false));
    }
}
