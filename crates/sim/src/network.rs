//! One Ethernet segment in bad weather: delay, jitter, loss, duplication, cuts.

use standin_core::types::Family;

use crate::clock::{Nanos, SECOND};
use crate::random::Random;

/// Places on the segment: machines first, then those below.
pub const MAX_MACHINES: usize = 8;
/// The host that talks to the VIPs and is never cut from healthy machines except with them.
pub const CLIENT: usize = MAX_MACHINES;
/// A host that has a VIP's address and speaks no VRRP.
pub const FOREIGN: usize = MAX_MACHINES + 1;
/// A host outside the cluster that advertises its router ids.
pub const STRANGER: usize = MAX_MACHINES + 2;
/// A host that machines look for by its answers to pings.
pub const WITNESS: usize = MAX_MACHINES + 3;
pub const HOSTS: usize = MAX_MACHINES + 4;

const MILLION: u64 = 1_000_000;

/// Longer than a question and its answer take in any spike, and than anybody waits for them.
const LATELY: Nanos = 3 * SECOND;

/// What every packet meets.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub delay: Nanos,
    pub jitter: Nanos,
    pub loss_ppm: u64,
    pub duplicate_ppm: u64,
    /// Packets between two hosts may overtake each other within the jitter.
    pub reorders: bool,
}

#[derive(Clone, Debug)]
pub struct Network {
    pub weather: Weather,
    /// Added while a burst lasts.
    pub burst_loss_ppm: u64,
    pub burst_duplicate_ppm: u64,
    pub burst_corrupt_ppm: u64,
    /// Longest additional delay while a spike lasts.
    pub spike: Nanos,
    /// The longest additional delay before the spike began or ended last, and when that was.
    last_spike: (Nanos, Nanos),
    /// When the weather or a cut changed last.
    pub changed_at: Nanos,
    /// How many faults block each way, for each family.
    blocked: [[[u8; 2]; HOSTS]; HOSTS],
    cuts: u32,
    /// How many faults drop adverts, and nothing else, each way.
    mute: [[u8; HOSTS]; HOSTS],
    /// When the last packet of each way arrives.
    arrives: [[Nanos; HOSTS]; HOSTS],
}

/// What becomes of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Blocked,
    Lost,
    Arrives { after: Nanos, again_after: Option<Nanos>, corrupt: bool },
}

impl Network {
    #[must_use]
    pub const fn new(weather: Weather) -> Self {
        Self {
            weather,
            burst_loss_ppm: 0,
            burst_duplicate_ppm: 0,
            burst_corrupt_ppm: 0,
            spike: 0,
            last_spike: (0, 0),
            changed_at: 0,
            blocked: [[[0; 2]; HOSTS]; HOSTS],
            cuts: 0,
            mute: [[0; HOSTS]; HOSTS],
            arrives: [[0; HOSTS]; HOSTS],
        }
    }

    /// Cuts one way, for one family or both. Cuts are counted: each needs its [`Network::heal`].
    pub fn cut(&mut self, from: usize, to: usize, family: Option<Family>) {
        self.change(from, to, family, true);
    }

    pub fn heal(&mut self, from: usize, to: usize, family: Option<Family>) {
        self.change(from, to, family, false);
    }

    fn change(&mut self, from: usize, to: usize, family: Option<Family>, cut: bool) {
        for one in Family::BOTH.into_iter().filter(|one| family.is_none_or(|only| only == *one)) {
            let count = &mut self.blocked[from][to][one.index()];
            if cut {
                *count = count.saturating_add(1);
                self.cuts += 1;
            } else if *count > 0 {
                *count -= 1;
                self.cuts -= 1;
            }
        }
    }

    /// Drops adverts one way, as a firewall does, or lets them pass again.
    pub fn mute(&mut self, from: usize, to: usize, on: bool) {
        let count = &mut self.mute[from][to];
        if on {
            *count = count.saturating_add(1);
            self.cuts += 1;
        } else if *count > 0 {
            *count -= 1;
            self.cuts -= 1;
        }
    }

    /// Whether adverts alone are dropped anywhere.
    #[must_use]
    pub fn mutes(&self) -> bool {
        self.mute.as_flattened().iter().any(|count| *count > 0)
    }

    #[must_use]
    pub const fn is_mute(&self, from: usize, to: usize) -> bool {
        self.mute[from][to] > 0
    }

    #[must_use]
    pub const fn whole(&self) -> bool {
        self.cuts == 0
    }

    #[must_use]
    pub const fn passes(&self, from: usize, to: usize, family: Family) -> bool {
        self.blocked[from][to][family.index()] == 0
    }

    /// Whether nothing is lost or late between `host` and foreign ones, for a second at least.
    #[must_use]
    pub fn clear(&self, now: Nanos, host: usize) -> bool {
        let lossless = self.changed_at + SECOND < now
            && self.spike == 0
            && self.weather.loss_ppm + self.burst_loss_ppm + self.burst_corrupt_ppm == 0;
        let passes =
            |family| self.passes(host, FOREIGN, family) && self.passes(FOREIGN, host, family);
        lossless && Family::BOTH.into_iter().all(passes)
    }

    /// The longest time a packet is on its way.
    #[must_use]
    pub const fn longest(&self) -> Nanos {
        self.weather.delay + self.weather.jitter + self.spike
    }

    /// The same for packets that are on their way, some of which may have been sent during a spike that
    /// is over.
    #[must_use]
    pub fn longest_under_way(&self, now: Nanos) -> Nanos {
        let (spike, ended) = self.last_spike;
        self.longest_since(now < ended + spike)
    }

    /// The same for packets of the last seconds, and the answers to them.
    #[must_use]
    pub fn longest_lately(&self, now: Nanos) -> Nanos {
        self.longest_since(now < self.last_spike.1 + LATELY)
    }

    const fn longest_since(&self, last_spike: bool) -> Nanos {
        let late = if last_spike { self.last_spike.0.saturating_sub(self.spike) } else { 0 };
        self.longest() + late
    }

    /// From now on packets take up to `up_to` longer.
    pub fn spike(&mut self, now: Nanos, up_to: Nanos) {
        let (last, ended) = self.last_spike;
        let last = if now < ended + LATELY { last } else { 0 };
        self.last_spike = (last.max(self.spike), now);
        self.spike = up_to;
    }

    pub fn fate(
        &mut self,
        now: Nanos,
        random: &mut Random,
        (from, to): (usize, usize),
        family: Family,
    ) -> Fate {
        if !self.passes(from, to, family) {
            return Fate::Blocked;
        }
        let loss = self.weather.loss_ppm + self.burst_loss_ppm;
        if loss > 0 && random.below(MILLION) < loss {
            return Fate::Lost;
        }
        let duplicates = self.weather.duplicate_ppm + self.burst_duplicate_ppm;
        let again = duplicates > 0 && random.below(MILLION) < duplicates;
        let corrupt = self.burst_corrupt_ppm > 0 && random.below(MILLION) < self.burst_corrupt_ppm;
        let mut after = self.delay(random);
        if !self.weather.reorders && self.spike == 0 {
            let last = &mut self.arrives[from][to];
            *last = (now + after).max(*last + 1);
            after = *last - now;
        }
        Fate::Arrives { after, again_after: again.then(|| self.delay(random)), corrupt }
    }

    fn delay(&self, random: &mut Random) -> Nanos {
        let spike = if self.spike > 0 { random.below(self.spike) } else { 0 };
        self.weather.delay + random.below(self.weather.jitter + 1) + spike
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_during_a_spike_is_under_way_for_as_long_as_it_was() {
        let weather =
            Weather { delay: 3, jitter: 2, loss_ppm: 0, duplicate_ppm: 0, reorders: false };
        let mut network = Network::new(weather);
        network.spike(10 * SECOND, SECOND);
        assert_eq!(network.longest_under_way(11 * SECOND), SECOND + 5);
        network.spike(12 * SECOND, 0);
        assert_eq!(network.longest_under_way(13 * SECOND - 1), SECOND + 5);
        assert_eq!(network.longest_under_way(13 * SECOND), 5);
        assert_eq!(network.longest_lately(13 * SECOND), SECOND + 5);
        assert_eq!(network.longest(), 5);
    }
}
