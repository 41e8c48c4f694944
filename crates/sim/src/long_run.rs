//! The cases of a long run, on several threads, and what became of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use standin_sim::campaign::Failure;
use standin_sim::clock::{Nanos, SECOND};
use standin_sim::scene::Counts;

/// Failures that are shown; one bug makes many.
const SHOWN: usize = 10;

/// How long a run goes on between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(60);

/// What became of all cases.
pub(crate) struct Ended<T> {
    pub(crate) tally: T,
    /// By their numbers.
    pub(crate) failures: Vec<Failure>,
    pub(crate) took: Duration,
}

#[derive(Default)]
struct Shared<T> {
    next: AtomicU64,
    stop: AtomicBool,
    tally: Mutex<T>,
    failures: Mutex<Vec<Failure>>,
    said: Mutex<Duration>,
}

impl<T> Shared<T> {
    fn progress(&self, case: u64, cases: u64, began: Instant) {
        let Ok(mut said) = self.said.lock() else { return };
        let passed = began.elapsed();
        if passed >= *said + PROGRESS {
            *said = passed;
            eprintln!("{} s: case {case} of {cases}", passed.as_secs());
        }
    }
}

/// Runs so many cases, or until enough of them have failed.
///
/// # Errors
/// A thread died.
pub(crate) fn run<T: Default + Send>(
    (cases, threads): (u64, usize),
    case: impl Fn(u64) -> Result<T, Failure> + Sync,
    add: impl Fn(&mut T, &T) + Sync,
) -> Result<Ended<T>, String> {
    let shared = Shared::<T>::default();
    let began = now();
    let work = || {
        loop {
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            if number >= cases || shared.stop.load(Ordering::Relaxed) {
                return;
            }
            match case(number) {
                Ok(done) => {
                    if let Ok(mut tally) = shared.tally.lock() {
                        add(&mut tally, &done);
                    }
                }
                Err(failure) => {
                    eprintln!("case {number}: {}", failure.what);
                    if let Ok(mut failures) = shared.failures.lock() {
                        failures.push(failure);
                        shared.stop.store(failures.len() >= SHOWN, Ordering::Relaxed);
                    }
                }
            }
            shared.progress(number, cases, began);
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    let died = |_| "a thread died".to_owned();
    let tally = shared.tally.into_inner().map_err(|_| died(()))?;
    let mut failures = shared.failures.into_inner().map_err(|_| died(()))?;
    failures.sort_by_key(|failure| failure.case);
    Ok(Ended { tally, failures, took: began.elapsed() })
}

/// The last words of a run; what is `wrong` is its error.
///
/// # Errors
/// What is wrong, if anything.
pub(crate) fn verdict(seed: u64, wrong: String) -> Result<(), String> {
    if wrong.is_empty() {
        println!("no promise was broken");
    }
    println!("seed {seed}");
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// How fast it was; a single case took no time.
pub(crate) fn say_speed(simulated: Nanos, took: Duration) {
    let hours = simulated / SECOND / 3_600;
    if let Some(speed) = (hours * 1_000).checked_div(u64::try_from(took.as_millis()).unwrap_or(0)) {
        println!("{} s, {speed} simulated hours a second", took.as_secs());
    }
}

/// One line for each kind, also for what never happened.
pub(crate) fn say_counts<'a>(title: &str, counts: &Counts, kinds: impl Iterator<Item = &'a str>) {
    println!("{title}:");
    for kind in kinds {
        println!("{:>10}  {kind}", counts.get(kind).copied().unwrap_or_default());
    }
}

#[expect(clippy::disallowed_methods, reason = "the speed of the simulator is a real one")]
fn now() -> Instant {
    Instant::now()
}
