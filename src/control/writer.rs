//! A thread that writes what others mustn't wait for: a disk hangs, a reader has stopped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use standin_core::types::Instant;
use standin_linux::clock::now;

/// Writings that may wait: all that a reload and a takeover of many VIPs say within the same second,
/// some 300 kB of it.
const ROOM: usize = 1024;

/// One that takes longer than this is said to be stuck.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Between two looks whether a full queue has room, at the daemon's end.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What the thread is to do next.
#[derive(Debug)]
pub(super) enum Writing<T> {
    This(T),
    /// So many didn't fit into the queue.
    Lost(u64),
}

#[derive(Debug)]
enum Order<T> {
    Write(T),
    Reached(SyncSender<()>),
}

/// How much was lost and not said of yet; a successor's thread may say it.
pub(super) type Losses = Arc<AtomicU64>;

/// What a thread and those who write share.
#[derive(Debug)]
struct Progress {
    /// Not said yet.
    lost: Losses,
    /// When the writing began that is under way, or the first of those that failed; 0: all is well.
    since: AtomicU64,
}

/// The way to such a thread, which ends with it, once all that waits is written.
#[derive(Debug)]
pub(super) struct Writer<T> {
    queue: SyncSender<Order<T>>,
    progress: Arc<Progress>,
}

/// A writer that doesn't get on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stuck {
    pub(super) lasting: Duration,
    pub(super) lost: u64,
}

impl Stuck {
    /// For an operator; `what` can't be written to.
    pub(super) fn words(self, what: &str) -> String {
        let lasting = self.lasting.as_secs();
        format!("{what} has taken nothing for {lasting} s; {} lines were lost", self.lost)
    }
}

impl<T: Send + 'static> Writer<T> {
    /// Starts a thread of this name, at most 15 bytes, that does all of `write`, which says whether
    /// it could. It says what is `lost` already, too.
    ///
    /// # Errors
    /// The kernel has no thread left.
    pub(super) fn start(
        name: &str,
        lost: Losses,
        write: impl FnMut(Writing<T>) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, orders) = sync_channel(ROOM);
        let progress = Arc::new(Progress { lost, since: AtomicU64::new(0) });
        let seen = Arc::clone(&progress);
        thread::Builder::new().name(name.to_owned()).spawn(move || run(&orders, &seen, write))?;
        Ok(Self { queue, progress })
    }

    /// Never waits: what finds no room is counted.
    pub(super) fn put(&self, what: T) {
        if self.queue.try_send(Order::Write(what)).is_err() {
            self.progress.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether nothing was written for more than a second although there was something to write.
    pub(super) fn stuck(&self) -> Option<Stuck> {
        let since = self.progress.since.load(Ordering::Relaxed);
        let lasting = now().since(Instant::from_nanos(since));
        (since != 0 && lasting > STUCK_AFTER)
            .then(|| Stuck { lasting, lost: self.progress.lost.load(Ordering::Relaxed) })
    }

    /// What a successor is to say.
    pub(super) fn losses(&self) -> Losses {
        Arc::clone(&self.progress.lost)
    }

    /// Waits until everything is written, but not beyond `deadline`; says whether it is.
    pub(super) fn finish(&self, deadline: Instant) -> bool {
        let (sender, reached) = sync_channel(1);
        while self.queue.try_send(Order::Reached(sender.clone())).is_err() {
            if now() >= deadline {
                return false;
            }
            thread::sleep(LOOK_AGAIN);
        }
        reached.recv_timeout(deadline.since(now())).is_ok()
    }
}

fn run<T>(
    orders: &Receiver<Order<T>>,
    progress: &Progress,
    mut write: impl FnMut(Writing<T>) -> bool,
) {
    let mut write = |what| {
        // While nothing is taken, the time since when that is so stays.
        let began = now().as_nanos();
        let _ = progress.since.compare_exchange(0, began, Ordering::Relaxed, Ordering::Relaxed);
        let about_losses = matches!(what, Writing::Lost(_));
        let written = write(what);
        if written && !about_losses {
            progress.since.store(0, Ordering::Relaxed);
        }
        written
    };
    while let Ok(order) = orders.recv() {
        match order {
            Order::Write(what) => {
                let lost = progress.lost.swap(0, Ordering::Relaxed);
                if lost > 0 && !write(Writing::Lost(lost)) {
                    progress.lost.fetch_add(lost + 1, Ordering::Relaxed);
                } else if !write(Writing::This(what)) {
                    progress.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Who waited may have given up.
            Order::Reached(reply) => drop(reply.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_stuck_writing_keeps_nobody_and_what_was_lost_is_said_once() {
        let (open, gate) = sync_channel::<()>(0);
        let written = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&written);
        let writer = Writer::start("test", Losses::default(), move |what: Writing<usize>| {
            // Closed for good once the test opens it.
            let _opened = gate.recv();
            seen.lock().unwrap().push(match what {
                Writing::This(number) => format!("{number}"),
                Writing::Lost(lost) => format!("{lost} lost"),
            });
            true
        })
        .unwrap();
        writer.put(0);
        // The thread has taken it, so that the queue is empty.
        while writer.progress.since.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        for number in 1..=ROOM + 7 {
            writer.put(number);
        }
        assert!(!writer.finish(now() + Duration::from_millis(20)), "it hangs");
        drop(open);
        assert!(writer.finish(now() + Duration::from_secs(10)));
        let written = written.lock().unwrap();
        assert_eq!(written[..3], ["0", "7 lost", "1"]);
        assert_eq!(written.len(), ROOM + 2);
        assert!(writer.stuck().is_none());
    }

    #[test]
    fn what_was_not_written_is_said_with_the_first_that_is() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&said);
        let works = Arc::new(AtomicU64::new(0));
        let working = Arc::clone(&works);
        let writer = Writer::start("test", Losses::default(), move |what: Writing<u8>| {
            let works = working.load(Ordering::Relaxed) > 0;
            if works {
                seen.lock().unwrap().push(match what {
                    Writing::This(number) => format!("{number}"),
                    Writing::Lost(lost) => format!("{lost} lost"),
                });
            }
            works
        })
        .unwrap();
        (0..3).for_each(|number| writer.put(number));
        assert!(writer.finish(now() + Duration::from_secs(10)));
        assert_ne!(writer.progress.since.load(Ordering::Relaxed), 0);
        works.store(1, Ordering::Relaxed);
        (3..5).for_each(|number| writer.put(number));
        assert!(writer.finish(now() + Duration::from_secs(10)));
        assert_eq!(*said.lock().unwrap(), ["3 lost", "3", "4"]);
    }
}
