//! The waits of VRRP, and the rhythm of adverts.

use std::time::Duration;

use crate::plan::Version;
use crate::types::{Instant, IntervalCs, Priority};

/// RFC 9568 §6.1: this many missed adverts make the active a silent one.
pub const MISSED_ADVERTS: u32 = 3;

/// Skew_Time: the lower the priority, the longer the wait, always under one interval.
///
/// Version 3 (RFC 9568 §6.1) scales it with the interval, version 2 (RFC 3768 §6.1) with a second.
#[must_use]
pub fn skew(version: Version, interval: Duration, priority: Priority) -> Duration {
    let unit = match version {
        Version::V2 => Duration::from_secs(1),
        Version::V3 => interval,
    };
    unit * (256 - u32::from(priority.0)) / 256
}

/// Active_Down_Interval (RFC 9568 §6.1): the silence after which a backup takes over.
#[must_use]
pub fn active_down(version: Version, interval: Duration, priority: Priority) -> Duration {
    interval * MISSED_ADVERTS + skew(version, interval, priority)
}

/// The interval as `version` can say it.
#[must_use]
pub fn spoken(version: Version, interval: IntervalCs) -> Duration {
    match version {
        Version::V2 => Duration::from_secs(u64::from(interval.whole_seconds())),
        Version::V3 => interval.as_duration(),
    }
}

/// The next beat after `now`, on a grid that all VIPs of one interval share.
///
/// One phase means one wake-up and one system call for all of them.
#[must_use]
pub fn next_beat(now: Instant, interval: Duration) -> Instant {
    let step = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    Instant::from_nanos((now.as_nanos() / step).saturating_add(1).saturating_mul(step))
}

/// The waits between the announcements after a takeover: the first ones close together, because
/// everybody waits for them, later ones for those who were deaf at the time.
#[must_use]
pub fn announce_gap(sent: u8) -> Duration {
    Duration::from_millis(match sent {
        0 => 0,
        1 => 20,
        2 => 100,
        3 => 500,
        _ => 1_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENTH: Duration = Duration::from_millis(100);

    #[test]
    fn skew_follows_the_rfc() {
        let second = Duration::from_secs(1);
        assert_eq!(
            skew(Version::V3, TENTH, Priority(100)),
            Duration::from_micros(60_937) + Duration::from_nanos(500)
        );
        assert_eq!(skew(Version::V2, second, Priority(100)), Duration::from_micros(609_375));
        assert!(skew(Version::V3, TENTH, Priority(0)) <= TENTH);
    }

    #[test]
    fn active_down_is_three_adverts_and_skew() {
        let wait = active_down(Version::V3, TENTH, Priority(254));
        assert_eq!(wait, TENTH * 3 + Duration::from_nanos(781_250));
    }

    #[test]
    fn beats_of_one_interval_share_a_phase() {
        let first = next_beat(Instant::from_nanos(1_234_567), TENTH);
        let second = next_beat(Instant::from_nanos(91_234_567), TENTH);
        assert_eq!(first, second);
        assert_eq!(next_beat(first, TENTH), first + TENTH);
    }
}
