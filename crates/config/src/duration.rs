//! Durations as people write them: `100ms`, `40.95s`, `30m`, `24h`.

use std::time::Duration;

/// Units, longest first, with their length in nanoseconds.
const UNITS: [(&str, u64); 4] =
    [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)];

/// Reads one number with one unit; `None` for everything else, also for what doesn't fit.
///
/// Decimals are exact: `40.95s` is 40 950 000 000 ns, and a fraction of a nanosecond is refused.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let nanos = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, nanos)| *nanos)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || fraction.len() > 12 {
        return None;
    }
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(nanos);
    if !part.is_multiple_of(u128::from(scale)) {
        return None;
    }
    let part = u64::try_from(part / u128::from(scale)).ok()?;
    let total = whole.parse::<u64>().ok()?.checked_mul(nanos)?.checked_add(part)?;
    Some(Duration::from_nanos(total))
}

/// Writes a duration so that [`parse`] reads it back, in the largest unit that needs no decimals
/// (seconds with decimals above one second).
#[must_use]
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (unit, length) in UNITS {
        if nanos.is_multiple_of(u128::from(length)) {
            if unit == "ms" && nanos > 1_000_000_000 {
                break;
            }
            return format!("{}{unit}", nanos / u128::from(length));
        }
    }
    let (unit, length, width) =
        if nanos > 1_000_000_000 { ("s", 1_000_000_000, 9) } else { ("ms", 1_000_000, 6) };
    let fraction = format!("{:0width$}", nanos % length);
    format!("{}.{}{unit}", nanos / length, fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_written() {
        for text in ["100ms", "10ms", "1s", "40.95s", "30m", "24h", "0s", "1.5s", "90s", "0.25ms"] {
            let parsed = parse(text).unwrap();
            assert_eq!(parse(&format(parsed)), Some(parsed), "{text}");
        }
        assert_eq!(format(Duration::from_millis(40_950)), "40.95s");
        assert_eq!(format(Duration::from_secs(60)), "1m");
        assert_eq!(format(Duration::from_secs(90)), "90s");
        assert_eq!(parse("0.1ms"), Some(Duration::from_micros(100)));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "1", "s", ".5s", "1.s", "1..5s", "1.5.5s", "-1s", "1 s", "1S", "1sec", "1m30s"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("0.0000001ms"), None);
        assert_eq!(parse("99999999999999999999h"), None);
        assert_eq!(parse("18446744073709551615h"), None);
    }
}
