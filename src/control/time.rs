//! Times as people and syslog read them.

use std::time::SystemTime;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// `2026-11-22T14:55:01.250Z`.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    Timestamp::try_from(at)
        .map_or_else(|_| "?".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())
}

/// `Nov 22 14:55:01` in local time (RFC 3164 §4.1.2).
pub(crate) fn syslog(at: SystemTime) -> String {
    local(at).map_or_else(|| "Jan  1 00:00:00".to_owned(), |at| at.strftime("%b %e %T").to_string())
}

/// `2026-11-22 14:55:01.250` in local time.
pub(crate) fn for_people(at: SystemTime) -> String {
    local(at).map_or_else(|| "?".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S.%3f").to_string())
}

fn local(at: SystemTime) -> Option<Zoned> {
    Some(Timestamp::try_from(at).ok()?.to_zoned(TimeZone::system()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_have_milliseconds_and_say_that_they_are_utc() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(rfc3339(at), "1970-01-01T00:00:01.500Z");
    }
}
