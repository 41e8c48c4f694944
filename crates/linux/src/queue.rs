//! A bounded queue of many senders and one receiver, in which nobody ever waits for anybody.
//!
//! Dmitry Vyukov's linked queue. The channels of the standard library spin for a sender that was
//! interrupted between taking a place and filling it: a realtime thread would spin for ever for an
//! ordinary one that it has pushed off the CPU. Here such a message isn't there yet; its sender rings
//! when it is. They also take memory for all the room that they might need; this one takes it as
//! messages come.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

struct Link<T> {
    next: AtomicPtr<Self>,
    /// The receiver's end has none: it was taken.
    value: Option<T>,
}

impl<T> Link<T> {
    fn new(value: Option<T>) -> *mut Self {
        Box::into_raw(Box::new(Self { next: AtomicPtr::default(), value }))
    }
}

struct Shared<T> {
    /// The last link; senders replace it.
    newest: AtomicPtr<Link<T>>,
    /// The link before the first message; only the receiver looks here.
    oldest: AtomicPtr<Link<T>>,
    waiting: AtomicUsize,
    closed: AtomicBool,
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let mut link = *self.oldest.get_mut();
        while !link.is_null() {
            // SAFETY: nobody else has a reference to the queue any more, so all pushes are complete;
            // each link came from a box and is reached once.
            let boxed = unsafe { Box::from_raw(link) };
            link = boxed.next.load(Ordering::Relaxed);
        }
    }
}

/// Puts messages in; there may be many.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    room: usize,
    /// Counts the senders.
    alive: Arc<()>,
}

/// Takes messages out, in each sender's order.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    senders: Weak<()>,
    /// One thread at a time.
    _alone: PhantomData<Cell<()>>,
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("room", &self.room).finish_non_exhaustive()
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), room: self.room, alive: Arc::clone(&self.alive) }
    }
}

/// What [`Receiver::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    Message(T),
    /// Nothing, or nothing yet.
    Nothing,
    /// Nothing, and there is no sender left.
    Over,
}

/// A message that wasn't taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    Full(T),
    /// There is no receiver left.
    Closed(T),
}

/// A queue in which at most `room` messages may wait.
#[must_use]
pub fn queue<T: Send>(room: usize) -> (Sender<T>, Receiver<T>) {
    let first = Link::new(None);
    let shared = Arc::new(Shared {
        newest: AtomicPtr::new(first),
        oldest: AtomicPtr::new(first),
        waiting: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
    });
    let alive = Arc::new(());
    let senders = Arc::downgrade(&alive);
    let receiver = Receiver { shared: Arc::clone(&shared), senders, _alone: PhantomData };
    (Sender { shared, room, alive }, receiver)
}

impl<T: Send> Sender<T> {
    /// Never waits.
    ///
    /// # Errors
    /// The message comes back when there is no room, or nobody to take it.
    pub fn offer(&self, message: T) -> Result<(), Refused<T>> {
        let shared = &*self.shared;
        if shared.closed.load(Ordering::Relaxed) {
            return Err(Refused::Closed(message));
        }
        if shared.waiting.fetch_add(1, Ordering::Relaxed) >= self.room {
            shared.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Full(message));
        }
        let link = Link::new(Some(message));
        let before = shared.newest.swap(link, Ordering::AcqRel);
        // SAFETY: the receiver frees a link only after it has seen its `next`, which nobody but this
        // thread sets: each link is replaced as the newest once.
        unsafe { (*before).next.store(link, Ordering::Release) };
        Ok(())
    }
}

impl<T: Send> Receiver<T> {
    /// Never waits.
    pub fn take(&self) -> Taken<T> {
        // Looked at first: what the last sender left is still taken.
        let over = self.senders.strong_count() == 0;
        let oldest = self.shared.oldest.load(Ordering::Relaxed);
        // SAFETY: `oldest` is freed here only, by the one thread that may be here: a Receiver isn't
        // Sync.
        let next = unsafe { (*oldest).next.load(Ordering::Acquire) };
        if next.is_null() {
            return if over { Taken::Over } else { Taken::Nothing };
        }
        self.shared.oldest.store(next, Ordering::Relaxed);
        // SAFETY: its sender has finished with it by storing the pointer that was acquired, and other
        // senders touch `next` alone, which is apart.
        let value = unsafe { (*ptr::addr_of_mut!((*next).value)).take() };
        // SAFETY: it came from a box; its successor is known, so that no sender will touch it again.
        drop(unsafe { Box::from_raw(oldest) });
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        value.map_or(Taken::Nothing, Taken::Message)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn messages_of_many_threads_come_once_and_in_each_ones_order() {
        const EACH: usize = 20_000;
        let (sender, receiver) = queue(64);
        let threads: Vec<_> = (0..4)
            .map(|who| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for number in 0..EACH {
                        let mut message = Box::new((who, number));
                        while let Err(Refused::Full(back)) = sender.offer(message) {
                            message = back;
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        let mut next = [0; 4];
        loop {
            match receiver.take() {
                Taken::Message(message) => {
                    let (who, number) = *message;
                    assert_eq!(number, next[who]);
                    next[who] += 1;
                }
                Taken::Nothing => thread::yield_now(),
                Taken::Over => break,
            }
        }
        assert_eq!(next, [EACH; 4]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn what_has_no_room_or_no_receiver_comes_back() {
        let (sender, receiver) = queue(1);
        assert_eq!(sender.offer(1), Ok(()));
        assert_eq!(sender.offer(2), Err(Refused::Full(2)));
        assert_eq!(receiver.take(), Taken::Message(1));
        assert_eq!(receiver.take(), Taken::Nothing);
        assert_eq!(sender.offer(3), Ok(()));
        drop(receiver);
        assert_eq!(sender.offer(4), Err(Refused::Closed(4)));
    }

    #[test]
    fn what_was_never_taken_is_dropped() {
        let counted = Arc::new(());
        let (sender, receiver) = queue(8);
        for _ in 0..3 {
            sender.offer(Arc::clone(&counted)).unwrap();
        }
        drop(receiver.take());
        drop((sender, receiver));
        assert_eq!(Arc::strong_count(&counted), 1);
    }
}
