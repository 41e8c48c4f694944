//! The keys that nginx encrypts TLS session tickets with, and when they change.
//!
//! The node that writes makes them; the others take its ring as it is. Three keys, so that nothing is
//! refused while nodes change one after the other: what one encrypts with already, all decrypt with.
//! Pure: random bytes and the time come from the caller.

use std::fmt;
use std::time::Duration;

/// As nginx reads it from a file: 16 bytes of a name, 32 for HMAC-SHA256, 32 for AES-256.
pub const KEY: usize = 80;

/// Each change reloads nginx, which closes idle connections; and a ticket is good for this long at
/// least. `ssl_session_timeout` beyond a day has no effect on tickets.
pub const PERIOD: Duration = Duration::from_secs(12 * 3600);

/// One key; it never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub [u8; KEY]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(********)")
    }
}

/// What a node's nginx encrypts and decrypts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Grows with each change; 0: made by this node alone, so that nginx can start.
    pub number: u64,
    /// When it came to be, seconds since 1970 by its maker's clock.
    pub since_unix_s: u64,
    /// Encrypts from the next change on; decrypts already.
    pub next: Key,
    /// Encrypts.
    pub current: Key,
    /// Decrypts what was given before the last change.
    pub previous: Key,
}

impl Ring {
    /// Of a node that knows nobody's yet.
    #[must_use]
    pub fn provisional(now_unix_s: u64, [next, current, previous]: [Key; 3]) -> Self {
        Self { number: 0, since_unix_s: now_unix_s, next, current, previous }
    }

    /// A node that writes and never heard another's ring makes its own the cluster's: what its nginx
    /// has given stays good.
    #[must_use]
    pub fn promoted(mut self, now_unix_s: u64) -> Self {
        if self.number == 0 {
            self.number = 1;
            self.since_unix_s = now_unix_s;
        }
        self
    }

    /// One step on.
    #[must_use]
    pub fn rotated(self, now_unix_s: u64, fresh: Key) -> Self {
        Self {
            number: self.number.saturating_add(1),
            since_unix_s: now_unix_s,
            next: fresh,
            current: self.next,
            previous: self.current,
        }
    }

    /// Nothing of it remains: somebody knows it who must not.
    #[must_use]
    pub fn renewed(&self, now_unix_s: u64, [next, current, previous]: [Key; 3]) -> Self {
        let number = self.number.saturating_add(1);
        Self { number, since_unix_s: now_unix_s, next, current, previous }
    }

    /// Whether any key of the other is one of these.
    #[must_use]
    pub fn shares(&self, other: &Self) -> bool {
        let keys = [&self.next, &self.current, &self.previous];
        [&other.next, &other.current, &other.previous].iter().any(|key| keys.contains(key))
    }

    /// Whether the writer is to change it; also when its maker's clock was ahead, or this one's was
    /// put back, by more than a period.
    #[must_use]
    pub fn is_due(&self, now_unix_s: u64) -> bool {
        now_unix_s.abs_diff(self.since_unix_s) >= PERIOD.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key([byte; KEY])
    }

    fn ring() -> Ring {
        Ring::provisional(1_000_000, [key(3), key(2), key(1)])
    }

    fn knows(ring: &Ring, key: &Key) -> bool {
        [&ring.next, &ring.current, &ring.previous].contains(&key)
    }

    #[test]
    fn a_ticket_is_decrypted_everywhere_while_nodes_change_one_after_the_other() {
        let before = ring().promoted(1_000_000);
        let after = before.clone().rotated(2_000_000, key(4));
        assert!(knows(&before, &after.current), "who is a step behind knows what is new");
        assert!(knows(&after, &before.current), "who is a step ahead knows what was");
        assert_eq!(after.number, before.number + 1);
        let later = after.clone().rotated(3_000_000, key(5));
        assert!(!knows(&later, &before.current), "it ends at some time");
    }

    #[test]
    fn promotion_changes_no_key_and_happens_once() {
        let one = ring().promoted(5);
        assert_eq!((one.number, one.since_unix_s), (1, 5));
        assert_eq!(one.clone().promoted(9), one);
        assert_eq!(one.current, ring().current);
    }

    #[test]
    fn after_a_renewal_nothing_old_is_known() {
        let old = ring().promoted(0);
        let new = old.renewed(1, [key(7), key(8), key(9)]);
        assert!([&old.next, &old.current, &old.previous].iter().all(|it| !knows(&new, it)));
        assert!(!new.shares(&old));
        assert!(old.clone().rotated(1, key(4)).shares(&old));
        assert!(new.number > old.number);
    }

    #[test]
    fn it_is_due_after_a_period_and_when_clocks_jumped() {
        let ring = ring();
        let period = PERIOD.as_secs();
        assert!(!ring.is_due(ring.since_unix_s + period - 1));
        assert!(ring.is_due(ring.since_unix_s + period));
        assert!(!ring.is_due(ring.since_unix_s - 60), "clocks differ a little");
        assert!(ring.is_due(ring.since_unix_s - period));
    }

    #[test]
    fn keys_never_show_themselves() {
        let text = format!("{:?}", Ring::provisional(7, [key(0xab), key(0xab), key(0xab)]));
        assert!(!text.contains("171") && !text.contains("ab,") && text.contains("***"), "{text}");
    }
}
