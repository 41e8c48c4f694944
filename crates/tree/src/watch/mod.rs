//! Watches a tree: a thread that tells when it has become another one.
//!
//! inotify only wakes it; what is true is what a reader finds. Each reading first watches a directory,
//! then lists it; it looks a second time whether anything has moved, unless every directory was watched
//! and no hint has come meanwhile. A queue that overflowed, a watch that was lost, a file system without events: the
//! full scan finds what was missed.

mod limit;
mod places;
mod quiet;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use standin_linux::epoll::{Poll, Wake};

use crate::hash::Hash;
use crate::read::{Reader, Scan, Spec};
use crate::store::Store;
use places::Places;
use quiet::Quiet;

pub use limit::Limit;

/// Without watches the tree is read this often instead: 10,000 files cost some 30 ms.
pub const POLL: Duration = Duration::from_secs(5);

/// A burst that wakes the thread more often than this is looked at in steps.
const BUSY: u32 = 32;

/// Such a step.
const STEP: Duration = Duration::from_millis(10);

/// A tree that can't be read is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// How a tree is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Quiet time before a change is taken.
    pub settle: Duration,
    /// A write that never settles is taken after this.
    pub longest: Duration,
    /// The tree is read this often without any hint.
    pub full_scan: Duration,
    /// Raise `fs.inotify.max_user_watches` when it is too low. It stays raised: see [`Limit`].
    pub raise_limits: bool,
}

impl Options {
    /// A write that never settles is taken after 25 times `settle`, but not before 2 s are over.
    #[must_use]
    pub fn new(settle: Duration, full_scan: Duration) -> Self {
        let longest = (settle * 25).max(Duration::from_secs(2));
        Self { settle, longest, full_scan, raise_limits: true }
    }
}

/// Why a tree is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The first reading.
    Start,
    /// A hint, and then another tree.
    Hint,
    /// Another tree, though nothing had hinted at it.
    FullScan,
    /// [`Watch::look`]; it may be the same tree as before.
    Asked,
}

/// What the thread tells.
#[derive(Debug)]
pub enum Report {
    /// The tree as it is now, and when its reading began; whether hints told when it became so, whatever led to
    /// the reading. Its contents are in the store, not yet committed.
    Tree { scan: Box<Scan>, hash: Hash, cause: Cause, began: Instant, hinted: bool },
    /// Something has hinted at a change, and the tree is the one that was told last: it may have been
    /// another one in between.
    Touched,
    /// It can't be read; told when the reason changes. The thread tries again.
    Unreadable(io::Error),
    /// There are too few watches; told when it changes. The tree is read every [`POLL`] until there are.
    Limit(Limit),
}

#[derive(Debug)]
enum Order {
    Look,
    Replace(Spec, Options),
    Stop,
}

/// A watched tree. Dropped, it stops.
#[derive(Debug)]
pub struct Watch {
    orders: Sender<Order>,
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts the thread, which reads the tree and tells of it at once, and then of each other tree.
    /// `stirs` is called as soon as something may have changed, `tell` once it is over and read; both on that
    /// thread: while they wait, nothing is watched.
    ///
    /// # Errors
    /// When the kernel has no thread or descriptor left. inotify may fail: then the tree is polled.
    pub fn start(
        spec: Spec,
        options: Options,
        store: Arc<Store>,
        stirs: impl FnMut() + Send + 'static,
        tell: impl FnMut(Report) + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, inbox) = channel();
        let wake = Arc::new(Wake::new()?);
        let poll = Poll::new()?;
        poll.add((*wake).as_fd(), Watcher::WAKE)?;
        let watcher = Watcher {
            quiet: Quiet::new(options.settle, options.longest),
            spec,
            options,
            store,
            stirs: Box::new(stirs),
            tell: Box::new(tell),
            inbox,
            wake: Arc::clone(&wake),
            poll,
            places: None,
            reader: Reader::new(),
            last: None,
            next_full: Instant::now(),
            asked: false,
            moving: false,
            limit: None,
            unreadable: None,
        };
        let thread =
            thread::Builder::new().name("standin-files".into()).spawn(move || watcher.run())?;
        Ok(Self { orders, wake, thread: Some(thread) })
    }

    /// Has the tree read now and told of, even if it is the same.
    pub fn look(&self) {
        self.order(Order::Look);
    }

    /// Watches another tree, or in another way, from now on; it is told of, even if it is the same.
    pub fn replace(&self, spec: Spec, options: Options) {
        self.order(Order::Replace(spec, options));
    }

    fn order(&self, order: Order) {
        // A thread that has panicked takes no orders; whoever waits for a report sees that it has gone.
        let _ = self.orders.send(order);
        self.wake.ring();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

struct Watcher {
    spec: Spec,
    options: Options,
    store: Arc<Store>,
    stirs: Box<dyn FnMut() + Send>,
    tell: Box<dyn FnMut(Report) + Send>,
    inbox: Receiver<Order>,
    wake: Arc<Wake>,
    poll: Poll,
    places: Option<Places>,
    reader: Reader,
    quiet: Quiet,
    last: Option<Hash>,
    next_full: Instant,
    asked: bool,
    /// The last reading found the tree moving: the next one waits.
    moving: bool,
    limit: Option<Limit>,
    unreadable: Option<String>,
}

impl Watcher {
    const WAKE: u64 = 0;
    const HINTS: u64 = 1;

    fn run(mut self) {
        self.connect();
        let mut ready = Vec::new();
        let mut wakes = 0;
        loop {
            let mut now = Instant::now();
            let mut due = self.due(now);
            // What has stirred by now is in the reading: it is heard of first, and may be waited for.
            if due <= now && self.has_hints().unwrap_or(false) {
                self.hints();
                now = Instant::now();
                due = self.due(now);
            }
            if due <= now {
                self.look();
                wakes = 0;
                continue;
            }
            // A failing poll would spin; the pause and the due time keep the thread useful.
            if self.poll.wait_for(&mut ready, due - now).is_err() {
                thread::sleep(STEP);
            }
            self.wake.clear();
            loop {
                match self.inbox.try_recv() {
                    Ok(Order::Look) => self.asked = true,
                    Ok(Order::Replace(spec, options)) => self.replace(spec, options),
                    Ok(Order::Stop) => return,
                    Err(_) => break,
                }
            }
            if ready.contains(&Self::HINTS) {
                self.hints();
                wakes = if self.quiet.is_burst() { wakes + 1 } else { 0 };
                if wakes > BUSY {
                    thread::sleep(STEP.min(self.options.settle / 4));
                }
            }
        }
    }

    fn due(&self, now: Instant) -> Instant {
        if self.asked && !self.moving {
            return now;
        }
        self.quiet.due().map_or(self.next_full, |due| due.min(self.next_full))
    }

    fn connect(&mut self) {
        match Places::new() {
            Ok(places) => {
                if self.poll.add(places.fd(), Self::HINTS).is_ok() {
                    self.places = Some(places);
                }
            }
            Err(error) => self.too_few(limit::INSTANCES, 1, &error),
        }
    }

    fn replace(&mut self, spec: Spec, options: Options) {
        self.quiet = Quiet::new(options.settle, options.longest);
        (self.spec, self.options) = (spec, options);
        self.asked = true;
    }

    fn hints(&mut self) {
        let Some(places) = &mut self.places else { return };
        match places.take(&self.spec) {
            Ok(false) => {}
            // A queue that can't be read hints at everything.
            Ok(true) | Err(_) => {
                self.quiet.hint(Instant::now());
                (self.stirs)();
            }
        }
    }

    /// Whether there are hints that nobody has read.
    fn has_hints(&self) -> io::Result<bool> {
        let mut ready = Vec::new();
        self.poll.wait_for(&mut ready, Duration::ZERO)?;
        Ok(ready.contains(&Self::HINTS))
    }

    fn look(&mut self) {
        if self.places.is_none() {
            self.connect();
        }
        if let Some(places) = &mut self.places {
            places.begin(&self.spec);
        }
        let began = Instant::now();
        let read = match &mut self.places {
            Some(places) => self.reader.glance(&self.spec, Some(&*self.store), &mut |directory| {
                places.directory(directory);
            }),
            None => self.reader.glance(&self.spec, Some(&*self.store), &mut |_| {}),
        };
        let mut refused = None;
        let read = read.and_then(|mut scan| {
            refused = self.places.as_mut().and_then(Places::end);
            if refused.is_some() || !self.is_quiet() {
                self.reader.confirm(&self.spec, &mut scan)?;
            }
            Ok(scan)
        });
        let now = Instant::now();
        let mut every = self.options.full_scan;
        match read {
            Ok(scan) => {
                if let Some(error) = refused {
                    let directories = self.places.as_ref().map_or(0, Places::count);
                    self.too_few(limit::WATCHES, directories, &error);
                    every = every.min(POLL);
                }
                if self.places.is_none() {
                    every = every.min(POLL);
                }
                self.unreadable = None;
                self.next_full = now + every;
                self.take(scan, (began, now));
            }
            Err(error) => {
                self.next_full = now + AGAIN.min(self.options.full_scan);
                self.quiet.over();
                self.moving = false;
                let text = error.to_string();
                let asked = std::mem::take(&mut self.asked);
                if asked || self.unreadable.as_ref() != Some(&text) {
                    self.unreadable = Some(text);
                    (self.tell)(Report::Unreadable(error));
                }
            }
        }
    }

    /// Whether nothing has moved while the tree was read, by its watches: all directories were watched
    /// before, a hint has led to this reading, so that there are hints here, and none has come since.
    fn is_quiet(&self) -> bool {
        let watched = self.places.as_ref().is_some_and(|places| places.fresh() == 0);
        watched
            && self.quiet.is_burst()
            && self.limit.is_none()
            && matches!(self.has_hints(), Ok(false))
    }

    fn take(&mut self, scan: Scan, (began, now): (Instant, Instant)) {
        self.moving = !scan.settled;
        let fresh = self.places.as_ref().is_some_and(|places| places.fresh() > 0);
        if fresh && self.last.is_some() && !self.asked {
            // In these directories nobody has waited for quiet time yet.
            let over = self.quiet.is_burst() && self.quiet.is_patience_over(now);
            self.quiet.hint(now);
            if !over {
                return;
            }
        }
        if !scan.settled {
            // What moved gave a hint, if hints there are; else this reading is one.
            if !self.quiet.is_burst() {
                self.quiet.hint(now);
            }
            if !self.quiet.is_patience_over(now) {
                self.quiet.hint(now);
                return;
            }
        }
        let cause = match () {
            () if self.last.is_none() => Cause::Start,
            () if self.asked => Cause::Asked,
            () if self.quiet.is_burst() => Cause::Hint,
            () => Cause::FullScan,
        };
        let hinted = self.quiet.is_burst();
        self.quiet.over();
        if !scan.settled {
            // It goes on moving: the burst goes on, though this state of it was taken.
            self.quiet.hint(now);
        }
        self.asked = false;
        let hash = scan.manifest.hash();
        if hinted && self.last == Some(hash) {
            (self.tell)(Report::Touched);
        }
        if self.last != Some(hash) || cause == Cause::Asked {
            self.last = Some(hash);
            (self.tell)(Report::Tree { scan: Box::new(scan), hash, cause, began, hinted });
        }
    }

    fn too_few(&mut self, setting: &'static str, have: usize, error: &io::Error) {
        // The limit of instances is raised once: the same error says that descriptors have run out.
        let first = self.limit.is_none() || setting == limit::WATCHES;
        let limit = limit::raise(setting, have, self.options.raise_limits && first, error);
        if limit.raised_to.is_some() {
            // The next reading has its watches.
            self.quiet.hint(Instant::now());
        }
        let known = |told: &Limit| (told.value, told.raised_to) == (limit.value, limit.raised_to);
        if !self.limit.as_ref().is_some_and(known) {
            self.limit = Some(limit.clone());
            (self.tell)(Report::Limit(limit));
        }
    }
}
