//! Moves the engine off a CPU that the kernel keeps for itself.
//!
//! A kernel that isn't fully preemptible (`preempt=none` or `voluntary`) finishes what it does on a
//! CPU before any thread gets that CPU, whatever its priority: the end of a namespace with 1,500
//! links takes 285 ms. An engine that was last there waits for it although another CPU is idle. So
//! a second realtime thread, on another CPU, looks whether the engine is late, and has it run where
//! it runs itself. It exists only while adverts are so fast that a peer could take over meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use standin_core::types::Instant;
use standin_linux::clock::now;
use standin_linux::sched::{self, Cpus, Thread};

use super::REALTIME_PRIORITY;

/// Adverts that are slower outlast what was seen: three of them are 150 ms and more.
const FAST: Duration = Duration::from_millis(50);

/// Late by so much, the engine isn't just about to run. It is looked at then, and with adverts of 10 ms
/// speaks again 15 ms after its last one, where 30 ms make a takeover.
const LATE: Duration = Duration::from_millis(5);

/// Never without a sleep: nothing else would run on that CPU.
const SOONEST: Duration = LATE;

/// The engine's next deadline may have come nearer than it was when it was looked at.
const LATEST: Duration = FAST;

/// Between two looks while there is nothing to rescue.
const IDLE: Duration = Duration::from_secs(1);

/// So long the engine stays where it was put. Then it may run anywhere again.
const STAY: Duration = Duration::from_secs(1);

/// What the engine tells of itself, without a lock.
#[derive(Debug, Default)]
pub(super) struct Whereabouts {
    due_ns: AtomicU64,
    cpu: AtomicUsize,
    fast: AtomicBool,
}

impl Whereabouts {
    /// The engine goes to sleep here until `due`, if nothing wakes it earlier.
    pub(super) fn sleeps(&self, due: Instant) {
        self.due_ns.store(due.as_nanos(), Ordering::Relaxed);
        self.cpu.store(sched::cpu(), Ordering::Relaxed);
    }

    /// The pace of the fastest VIP.
    pub(super) fn pace(&self, fastest_advert: Duration) {
        self.fast.store(fastest_advert < FAST, Ordering::Relaxed);
    }

    /// How long there is nothing to see: until the engine would be late.
    fn quiet(&self, now: Instant) -> Duration {
        if self.fast.load(Ordering::Relaxed) {
            self.late_at().since(now).clamp(SOONEST, LATEST)
        } else {
            IDLE
        }
    }

    fn late_at(&self) -> Instant {
        Instant::from_nanos(self.due_ns.load(Ordering::Relaxed)) + LATE
    }
}

/// Called by the engine's thread, before it sleeps for the first time. It ends with the process.
///
/// # Errors
/// When there is no thread, or the kernel doesn't tell where threads may run.
pub(super) fn start(whereabouts: Arc<Whereabouts>) -> io::Result<()> {
    let cpus = Cpus::allowed()?;
    if cpus.count() < 2 {
        return Ok(());
    }
    let engine = Thread::this();
    whereabouts.sleeps(now());
    thread::Builder::new().name("standin-rescue".into()).spawn(move || {
        // Without realtime priority the engine has none either, and this changes little.
        let _ = sched::realtime(REALTIME_PRIORITY + 1);
        let mut moved: Option<Instant> = None;
        loop {
            thread::sleep(whereabouts.quiet(now()));
            let (time, here) = (now(), sched::cpu());
            if whereabouts.late_at() <= time && moved.is_none() {
                // The engine runs here as soon as this thread sleeps.
                moved = engine.allow(&Cpus::only(here)).ok().map(|()| time);
            } else if moved.is_some_and(|at| time.since(at) > STAY) {
                moved = engine.allow(&cpus).err().map(|_| time);
            }
            if moved.is_none() && whereabouts.cpu.load(Ordering::Relaxed) == here {
                // What holds up one of the two must not hold up the other.
                let _ = Thread::this().allow(&cpus.without(here));
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_looked_at_when_it_would_be_late_and_not_before() {
        let there = Whereabouts::default();
        let ms = |count| Instant::from_nanos(0) + Duration::from_millis(count);
        there.sleeps(ms(1_010));
        assert_eq!(there.quiet(ms(1_000)), IDLE);
        there.pace(Duration::from_millis(10));
        assert_eq!(there.quiet(ms(1_000)), Duration::from_millis(15));
        assert_eq!(there.late_at(), ms(1_015));
        // One that stays late is looked at again, with a sleep between; one that is due much later may be sooner.
        assert_eq!(there.quiet(ms(1_030)), SOONEST);
        there.sleeps(ms(9_000));
        assert_eq!(there.quiet(ms(1_030)), LATEST);
        there.pace(FAST);
        assert_eq!(there.quiet(ms(1_030)), IDLE);
    }
}
