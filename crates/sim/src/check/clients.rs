//! A client's packets go to the holder: its neighbour cache follows the announcements.
//!
//! Once one machine alone has a VIP and nothing has changed for the length of a burst of
//! announcements, the cache names that machine. Only announcements are counted on: a real client
//! would ask again some seconds later. A client that missed an announcement is not judged, nor a
//! holder that missed a sign of its rival.

use standin_core::event::Role;
use standin_core::types::Family;

use crate::clock::{MILLISECOND, Nanos};
use crate::machine::Run;
use crate::network::CLIENT;
use crate::scene::{CACHE_UNKNOWN, Scene};

/// The last of five announcements comes 1.62 s after the first.
pub(crate) const BURST: Nanos = 1_800 * MILLISECOND;

#[derive(Debug)]
pub struct Clients {
    /// When each VIP is looked at next.
    due: Vec<Nanos>,
    /// How often a client's cache was found to be right.
    pub right: u64,
}

impl Clients {
    #[must_use]
    pub fn new(scene: &Scene) -> Self {
        Self { due: vec![Nanos::MAX; scene.file.names.len()], right: 0 }
    }

    pub fn changed(&mut self, now: Nanos, vip: u8) {
        self.due[usize::from(vip)] = now + BURST;
    }

    pub fn disturbed(&mut self, now: Nanos) {
        self.due.fill(now + BURST);
    }

    #[must_use]
    pub fn due(&self) -> Nanos {
        self.due.iter().copied().min().unwrap_or(Nanos::MAX)
    }

    pub fn look(&mut self, scene: &Scene) -> Option<String> {
        for (vip, due) in (0_u8..).zip(&mut self.due) {
            if *due > scene.now {
                continue;
            }
            *due = Nanos::MAX;
            let has = |one: &u8| {
                let host = &scene.machines[usize::from(*one)];
                host.powered && host.kernel[usize::from(vip)].present
            };
            let mut holders = scene.places().filter(has);
            let (Some(holder), None) = (holders.next(), holders.next()) else { continue };
            let host = &scene.machines[usize::from(holder)];
            let active = scene.router(holder, vip).is_some_and(|it| it.role() == Role::Active);
            let reaches =
                Family::BOTH.iter().all(|it| scene.network.passes(holder.into(), CLIENT, *it));
            let settled = host.kernel[usize::from(vip)].pending == 0;
            if !active || !reaches || !settled || host.run != Run::Running || !host.interface_up {
                continue;
            }
            match scene.cache[usize::from(vip)] {
                Some(CACHE_UNKNOWN) => {}
                Some(cached) if cached == holder => self.right += 1,
                Some(_) if scene.unanswered[usize::from(vip)] => {}
                other => {
                    let sends_to = other.and_then(|it| scene.machines.get(usize::from(it)));
                    return Some(format!(
                        "clients: {} has {}, but a client's packets go to {}",
                        host.name,
                        scene.name(vip),
                        sends_to.map_or("nobody", |it| it.name.as_str()),
                    ));
                }
            }
        }
        None
    }
}
