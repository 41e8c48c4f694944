//! The node's own addresses, as the engine is told of them: one that is away for a moment isn't gone.

use std::net::IpAddr;
use std::time::Duration;

use standin_core::types::Instant;

/// A network daemon that reads its configuration anew takes an address away and puts it back: after
/// 14 to 22 ms (networkd 252, NetworkManager 1.42). Nothing else can be sent meanwhile either, and
/// peers miss no more than one advert.
const AWAY_FOR: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Own {
    all: Vec<IpAddr>,
    reported: Option<Vec<IpAddr>>,
    /// Since when one that was reported isn't here.
    away_since: Option<Instant>,
}

impl Own {
    pub(super) fn watch(&mut self, all: Vec<IpAddr>) {
        *self = Self { all, reported: None, away_since: None };
    }

    /// Those that are here, if that is news; `here` says what the host has at `time`.
    pub(super) fn news(
        &mut self,
        time: Instant,
        here: impl Fn(&IpAddr) -> bool,
    ) -> Option<Vec<IpAddr>> {
        let reported = |own: &IpAddr| self.reported.iter().flatten().any(|one| one == own);
        let lacks = self.all.iter().any(|own| reported(own) && !here(own));
        self.away_since = self.away_since.or(Some(time)).filter(|_| lacks);
        let patient = self.away_since.is_some_and(|since| time.since(since) < AWAY_FOR);
        let counts = |own: &&IpAddr| here(own) || (patient && reported(own));
        let now: Vec<_> = self.all.iter().filter(counts).copied().collect();
        if !patient {
            self.away_since = None;
        }
        if self.reported.as_ref() == Some(&now) {
            return None;
        }
        self.reported = Some(now.clone());
        Some(now)
    }

    /// When [`Own::news`] is to be asked again, though the kernel said nothing.
    pub(super) fn due(&self) -> Instant {
        self.away_since.map_or(Instant::FAR, |since| since + AWAY_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000) + Duration::from_millis(ms)
    }

    #[test]
    fn an_address_that_comes_back_soon_was_never_gone_and_one_that_stays_away_is() {
        let [one, two]: [IpAddr; 2] = ["192.0.2.1", "fd00::1"].map(|it| it.parse().unwrap());
        let mut own = Own::default();
        own.watch(vec![one, two]);
        assert_eq!(own.news(at(0), |it| *it == one), Some(vec![one]));
        assert_eq!(own.news(at(1), |_| false), None, "it may come back");
        assert_eq!(own.due(), at(101));
        assert_eq!(own.news(at(2), |it| *it == two), Some(vec![one, two]), "the other one came");
        assert_eq!(own.news(at(20), |_| true), None, "and it is back");
        assert_eq!(own.due(), Instant::FAR);
        assert_eq!(own.news(at(200), |it| *it == two), None);
        assert_eq!(own.news(at(299), |it| *it == two), None);
        assert_eq!(own.news(at(300), |it| *it == two), Some(vec![two]));
        assert_eq!(own.due(), Instant::FAR);
        assert_eq!(own.news(at(301), |_| true), Some(vec![one, two]));
    }
}
