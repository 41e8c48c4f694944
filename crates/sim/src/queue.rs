//! What will happen when: a queue ordered by time, then by order of entry.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::clock::Nanos;
use crate::fault::Fault;
use crate::host::Happening;
use crate::link::Word;
use crate::machine::Request;
use crate::scene::Packet;

/// Something that is due.
#[derive(Clone, Debug)]
pub enum Due {
    Deliver {
        to: u8,
        packet: Rc<Packet>,
    },
    /// A neighbour's address was seen: an answer, or an announcement.
    Sighting {
        to: u8,
        from: u8,
        what: Seen,
    },
    /// The same over the second cable.
    Beside {
        to: u8,
        from: u8,
        address: IpAddr,
    },
    /// The timer of a machine.
    Wake {
        machine: u8,
        token: u32,
    },
    /// The address thread is through with a request.
    Kernel {
        machine: u8,
        life: u32,
        request: Request,
    },
    /// A lifetime ends that nobody renewed.
    Expire {
        machine: u8,
        vip: u8,
        token: u32,
    },
    /// The address thread puts a missing address back.
    PutBack {
        machine: u8,
        life: u32,
        vip: u8,
    },
    /// Something said over the peer link arrives.
    Word {
        to: u8,
        from: u8,
        life: u32,
        word: Word,
    },
    /// Somebody says something untrue over the peer link.
    Lie,
    /// Everybody tells everybody over the peer link how it stands.
    Summaries,
    Fault(Fault),
    /// Draw the next fault.
    NextFault,
    /// A process or a kernel does something.
    Host {
        machine: u8,
        what: Happening,
    },
    /// Draw what is done to processes next.
    Hurt,
    /// Something late ends here: waits of the checkers begin anew.
    Disturb,
    /// The next line of a scenario.
    Line(u32),
}

/// What an answer or an announcement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Vip(u8),
    /// The own address of the sender: of IPv4, of IPv6, link-local.
    Own(u8),
}

#[derive(Debug)]
struct Entry<D> {
    at: Nanos,
    number: u64,
    due: D,
}

impl<D> PartialEq for Entry<D> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<D> Eq for Entry<D> {}

impl<D> PartialOrd for Entry<D> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<D> Ord for Entry<D> {
    /// The heap gives the greatest first, so the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// Of what is due in a [`crate::scene::Scene`], unless another world says what is due in it.
#[derive(Debug)]
pub struct Queue<D = Due> {
    heap: BinaryHeap<Entry<D>>,
    number: u64,
}

impl<D> Default for Queue<D> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), number: 0 }
    }
}

impl<D> Queue<D> {
    pub fn push(&mut self, at: Nanos, due: D) {
        self.number += 1;
        self.heap.push(Entry { at, number: self.number, due });
    }

    #[must_use]
    pub fn next_at(&self) -> Nanos {
        self.heap.peek().map_or(Nanos::MAX, |entry| entry.at)
    }

    pub fn pop(&mut self) -> Option<(Nanos, D)> {
        self.heap.pop().map(|entry| (entry.at, entry.due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_equals_in_order_of_entry() {
        let mut queue = Queue::default();
        for (at, line) in [(5, 0), (3, 1), (5, 2), (3, 3)] {
            queue.push(at, Due::Line(line));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|(at, due)| match due {
                Due::Line(line) => (at, line),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(order, [(3, 1), (3, 3), (5, 0), (5, 2)]);
    }
}
