//! A machine's own clock: it starts anywhere and runs a little fast or slow.

use standin_core::types::Instant;

/// Nanoseconds of the world, the one true time.
pub type Nanos = u64;

pub const MICROSECOND: Nanos = 1_000;
pub const MILLISECOND: Nanos = 1_000_000;
pub const SECOND: Nanos = 1_000_000_000;

const PPM: i64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    true_base: Nanos,
    local_base: Nanos,
    /// Parts per million by which it runs fast.
    drift_ppm: i32,
}

impl Clock {
    #[must_use]
    pub const fn new(now: Nanos, local: Nanos, drift_ppm: i32) -> Self {
        Self { true_base: now, local_base: local, drift_ppm }
    }

    /// What the machine reads at `now`.
    #[must_use]
    pub fn read(&self, now: Nanos) -> Instant {
        Instant::from_nanos(self.local(now))
    }

    fn local(&self, now: Nanos) -> Nanos {
        let passed = now.saturating_sub(self.true_base);
        if self.drift_ppm == 0 {
            return self.local_base + passed;
        }
        let passed_signed = i64::try_from(passed).unwrap_or(i64::MAX);
        // Exact for a case's length; a clock that ran for years would only stop drifting.
        let gained = passed_signed.saturating_mul(i64::from(self.drift_ppm)) / PPM;
        (self.local_base + passed).saturating_add_signed(gained)
    }

    /// The first true time at which the machine reads `local` or more.
    #[must_use]
    pub fn when(&self, local: Instant) -> Nanos {
        if local == Instant::FAR {
            return Nanos::MAX;
        }
        let ahead = local.as_nanos().saturating_sub(self.local_base);
        if self.drift_ppm == 0 {
            return self.true_base.saturating_add(ahead);
        }
        let ahead = i64::try_from(ahead).unwrap_or(i64::MAX);
        let rate = PPM + i64::from(self.drift_ppm);
        // ahead / rate * PPM, without leaving 64 bits.
        let shrunk = ahead / rate * PPM + ahead % rate * PPM / rate;
        let mut at = self.true_base.saturating_add_signed(shrunk);
        while self.local(at) < local.as_nanos() {
            at += 1;
        }
        at
    }

    /// From `now` on it runs at another rate.
    pub fn drift(&mut self, now: Nanos, drift_ppm: i32) {
        *self = Self::new(now, self.local(now), drift_ppm);
    }

    /// It stood still from `since` to `now`, with the rest of its machine.
    pub fn stood_still(&mut self, since: Nanos, now: Nanos) {
        *self = Self::new(now, self.local(since), self.drift_ppm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early_and_less_than_two_nanoseconds_late() {
        for drift in [-20_000, -1_000, 0, 1, 1_000, 20_000] {
            let clock = Clock::new(5 * SECOND, 77 * SECOND, drift);
            for wait in [0, 1, 999, 10 * MILLISECOND, 3 * SECOND + 7] {
                let local = Instant::from_nanos(77 * SECOND + wait);
                let at = clock.when(local);
                assert!(clock.read(at) >= local);
                assert!(wait == 0 || clock.read(at - 2) < local, "{drift} ppm, {wait} ns");
            }
        }
    }
}
