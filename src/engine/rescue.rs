//! Moves the engine off a CPU that the kernel keeps for itself.
//!
//! A kernel that isn't fully preemptible (`preempt=none` or `voluntary`) finishes what it does on a
//! CPU before any thread gets that CPU, whatever its priority: the end of a namespace with 1,500
//! links takes 285 ms. An engine that was last there waits for it although another CPU is idle. So
//! a second realtime thread, on another CPU, looks whether the engine is late, and has it run where
//! it runs itself. It exists only while adverts are so fast that a peer could take over meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use standin_core::types::Instant;
use standin_linux::clock::now;
use standin_linux::sched::{self, Cpus, Thread};

use super::REALTIME_PRIORITY;

/// Adverts that are slower outlast what was seen: three of them are 150 ms and more.
const FAST: Duration = Duration::from_millis(50);

/// Late by so much, the engine isn't just about to run. With [`PERIOD`] and an advert of 10 ms, it
/// speaks again 17 ms after its last advert at the latest, where 30 ms make a takeover.
const LATE: Duration = Duration::from_millis(2);

/// How often it is looked at.
const PERIOD: Duration = Duration::from_millis(5);

/// The same while there is nothing to rescue.
const IDLE: Duration = Duration::from_secs(1);

/// So long the engine stays where it was put. Then it may run anywhere again.
const STAY: Duration = Duration::from_secs(1);

/// What the engine tells of itself, without a lock.
#[derive(Debug, Default)]
pub(super) struct Whereabouts {
    due_ns: AtomicU64,
    cpu: AtomicUsize,
    period_ms: AtomicU64,
}

impl Whereabouts {
    /// The engine goes to sleep here until `due`, if nothing wakes it earlier.
    pub(super) fn sleeps(&self, due: Instant) {
        self.due_ns.store(due.as_nanos(), Ordering::Relaxed);
        self.cpu.store(sched::cpu(), Ordering::Relaxed);
    }

    /// The pace of the fastest VIP.
    pub(super) fn pace(&self, fastest_advert: Duration) {
        let period = if fastest_advert < FAST { PERIOD } else { IDLE };
        let ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        self.period_ms.store(ms, Ordering::Relaxed);
    }

    fn period(&self) -> Duration {
        // Never without a sleep: nothing else would run on that CPU.
        Duration::from_millis(self.period_ms.load(Ordering::Relaxed)).max(PERIOD)
    }

    fn due(&self) -> Instant {
        Instant::from_nanos(self.due_ns.load(Ordering::Relaxed))
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
            thread::sleep(whereabouts.period());
            let (time, here) = (now(), sched::cpu());
            if whereabouts.due() + LATE < time && moved.is_none() {
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
