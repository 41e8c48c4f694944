//! The TLS session ticket keys on this host: files in memory that nginx's configuration names.
//!
//! ```text
//! /run/standin-tickets/
//! ├── tickets.conf    what `http` and `stream` blocks include; always the same
//! ├── current.key     0600, nginx's master's; encrypts
//! ├── next.key        decrypts, and encrypts after the next change
//! ├── previous.key    decrypts
//! └── ring            0600, root's: all of it, for the next daemon
//! ```
//! A directory of its own, open to all: an nginx that is not root's must reach its keys.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use standin_config::nginx::TICKETS;
use standin_core::sync::tickets::{KEY, Key, Ring};

use crate::authority::{crypto, files};

const INCLUDE: &str = "tickets.conf";

const RING: &str = "ring";

/// Changes of a ring in the life of a cluster: a higher one is none, and would leave no room to count
/// on. JSON's readers agree on integers up to here.
const MOST_CHANGES: u64 = 1 << 53;

/// Some 35,000 years: a later time is none, and can't be reckoned with.
const LATEST_S: u64 = 1 << 40;

/// Three keys in hexadecimal, and two numbers.
const RING_BYTES: u64 = 1024;

/// A ring as it is written down and said to peers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    number: u64,
    since_unix_s: u64,
    /// Hexadecimal; the same below.
    next: String,
    current: String,
    previous: String,
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring({}, ********)", self.number)
    }
}

impl From<&Ring> for Said {
    fn from(ring: &Ring) -> Self {
        Self {
            number: ring.number,
            since_unix_s: ring.since_unix_s,
            next: hex(&ring.next),
            current: hex(&ring.current),
            previous: hex(&ring.previous),
        }
    }
}

impl Said {
    /// `None` for what is no ring.
    pub(crate) fn ring(&self) -> Option<Ring> {
        if self.number > MOST_CHANGES || self.since_unix_s > LATEST_S {
            return None;
        }
        Some(Ring {
            number: self.number,
            since_unix_s: self.since_unix_s,
            next: unhex(&self.next)?,
            current: unhex(&self.current)?,
            previous: unhex(&self.previous)?,
        })
    }
}

fn hex(key: &Key) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    key.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Key> {
    let mut key = [0; KEY];
    if text.len() != 2 * KEY || !text.bytes().all(|it| it.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Key(key))
}

pub(crate) fn unix_s() -> u64 {
    // A clock before 1970 is none; the keys don't change until it is set.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

/// # Errors
/// The kernel gives no random bytes.
pub(crate) fn fresh() -> io::Result<Key> {
    crypto::random().map(Key)
}

/// # Errors
/// As [`fresh`].
pub(crate) fn fresh_three() -> io::Result<[Key; 3]> {
    Ok([fresh()?, fresh()?, fresh()?])
}

/// The directory of the keys.
#[derive(Clone, Debug)]
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    /// Where nginx's configuration names them.
    pub(crate) fn of_this_host() -> Self {
        Self(PathBuf::from(TICKETS))
    }

    /// What is to be included.
    pub(crate) fn include(&self) -> PathBuf {
        self.0.join(INCLUDE)
    }

    fn key_files<'r>(&self, ring: &'r Ring) -> [(PathBuf, &'r Key); 3] {
        let path = |name: &str| self.0.join(format!("{name}.key"));
        [
            (path("current"), &ring.current),
            (path("next"), &ring.next),
            (path("previous"), &ring.previous),
        ]
    }

    /// What was written; `None` where nothing is, or damage.
    pub(crate) fn load(&self) -> Option<Ring> {
        let mut text = String::new();
        fs::File::open(self.0.join(RING)).ok()?.take(RING_BYTES).read_to_string(&mut text).ok()?;
        serde_json::from_str::<Said>(&text).ok()?.ring()
    }

    /// Writes all of it; `master` is the nginx that has to read the keys.
    ///
    /// # Errors
    /// In words for an operator. Some files may be new already: who reads them all together knows one
    /// key less, and the next attempt mends it.
    pub(crate) fn store(&self, ring: &Ring, master: Option<u32>) -> Result<(), String> {
        let owner = master
            .and_then(|pid| fs::metadata(format!("/proc/{pid}")).ok())
            .map(|found| (found.uid(), found.gid()))
            .filter(|(user, _)| *user != 0);
        self.store_as(ring, owner).map_err(|error| {
            format!(
                "the keys of TLS session tickets can't be written to {}: {error}; mend: systemctl \
                 restart standin-recover standin",
                self.0.display()
            )
        })
    }

    fn store_as(&self, ring: &Ring, owner: Option<(u32, u32)>) -> io::Result<()> {
        if !self.0.is_dir() {
            fs::create_dir_all(&self.0)?;
            // Whatever the umask took: nginx's master may not be root's.
            fs::set_permissions(&self.0, fs::Permissions::from_mode(0o755))?;
        }
        let mut include = String::from(
            "# Written by standin: the keys of TLS session tickets, the same on all nodes. The first \
             one encrypts.\n",
        );
        for (path, key) in self.key_files(ring) {
            // One that is right keeps its time: by that it is known whether nginx has loaded it.
            if !holds(&path, key, owner) {
                files::write_atomically_as(&path, &key.0, 0o600, owner)?;
            }
            include.push_str(&format!("ssl_session_ticket_key {};\n", path.display()));
        }
        // Its text never changes; a new file would be a change of the configuration.
        if fs::read(self.include()).ok().as_deref() != Some(include.as_bytes()) {
            files::write_atomically(&self.include(), include.as_bytes(), 0o644)?;
        }
        // Last: a ring that is written has its files.
        let text = serde_json::to_vec(&Said::from(ring))?;
        files::write_atomically(&self.0.join(RING), &text, 0o600)
    }

    /// When nginx's workers must have begun after to have loaded the ring; `None` where a file of it
    /// is missing, or isn't what it should be.
    pub(crate) fn written(&self, ring: &Ring) -> Option<SystemTime> {
        let mut last = None;
        for (path, key) in self.key_files(ring) {
            if !holds(&path, key, None) {
                return None;
            }
            last = last.max(fs::metadata(&path).ok()?.modified().ok());
        }
        last.filter(|_| self.include().is_file())
    }

    /// Whether the files are in memory only.
    pub(crate) fn is_memory(&self) -> bool {
        standin_linux::files::in_memory(&self.0)
    }

    /// What is there, else a ring of this node's own: nginx can't start without the files that its
    /// configuration names.
    ///
    /// # Errors
    /// In words for an operator.
    pub(crate) fn prepare(&self, master: Option<u32>) -> Result<Ring, String> {
        if let Some(ring) = self.load() {
            if self.written(&ring).is_none() {
                self.store(&ring, master)?;
            }
            return Ok(ring);
        }
        let three = fresh_three().map_err(|error| error.to_string())?;
        let ring = Ring::provisional(unix_s(), three);
        self.store(&ring, master)?;
        Ok(ring)
    }
}

/// Whether the file has this key, and its owner, if that matters.
fn holds(path: &Path, key: &Key, owner: Option<(u32, u32)>) -> bool {
    let found = fs::metadata(path).is_ok_and(|found| {
        found.len() == KEY as u64 && owner.is_none_or(|owner| owner == (found.uid(), found.gid()))
    });
    found && fs::read(path).is_ok_and(|bytes| bytes == key.0)
}

/// Whether a configuration names any of the keys.
pub(crate) fn are_used(config: &standin_config::nginx::NginxConfig) -> bool {
    let named = |path: &Path| path.starts_with(TICKETS);
    config.outside.iter().any(|it| named(&it.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_damage_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place(dir.path().join("tickets"));
        assert!(place.load().is_none());
        let ring = place.prepare(None).unwrap();
        assert_eq!(place.load().as_ref(), Some(&ring));
        assert!(place.written(&ring).is_some());
        for name in ["current.key", "next.key", "previous.key", "ring"] {
            let found = fs::metadata(place.0.join(name)).unwrap();
            assert_eq!(found.permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert_eq!(fs::read(place.0.join("current.key")).unwrap(), ring.current.0);
        let include = fs::read_to_string(place.include()).unwrap();
        let first = include.lines().nth(1).unwrap();
        assert!(first.ends_with("/current.key;"), "{include}");
        // A key that is gone or damaged comes back as it was.
        fs::remove_file(place.0.join("next.key")).unwrap();
        fs::write(place.0.join("current.key"), b"short").unwrap();
        assert!(place.written(&ring).is_none());
        assert_eq!(place.prepare(None).unwrap(), ring);
        assert!(place.written(&ring).is_some());
        // A damaged ring is replaced by one of this node's own.
        fs::write(place.0.join("ring"), b"{}").unwrap();
        let other = place.prepare(None).unwrap();
        assert_eq!(other.number, 0);
        assert_ne!(other, ring);
    }

    #[test]
    fn a_number_or_a_time_that_none_can_be_is_no_ring() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place(dir.path().join("tickets"));
        let ring = place.prepare(None).unwrap();
        for (number, since_unix_s) in [(u64::MAX, 1), (1, u64::MAX), (MOST_CHANGES + 1, 1)] {
            let absurd = Ring { number, since_unix_s, ..ring.clone() };
            assert!(Said::from(&absurd).ring().is_none());
            place.store(&absurd, None).unwrap();
            assert!(place.load().is_none());
        }
        let last = Ring { number: MOST_CHANGES, since_unix_s: LATEST_S, ..ring };
        assert_eq!(Said::from(&last).ring().as_ref(), Some(&last));
    }

    #[test]
    fn only_whole_keys_are_keys_and_nothing_shows_them() {
        let key = fresh().unwrap();
        assert_eq!(unhex(&hex(&key)), Some(key.clone()));
        let text = hex(&key);
        for wrong in [&text[2..], &format!("{text}00"), &"zz".repeat(KEY), &"+1".repeat(KEY)] {
            assert_eq!(unhex(wrong), None);
        }
        let said = Said::from(&Ring::provisional(1, [key.clone(), key.clone(), key]));
        assert!(!format!("{said:?}").contains(&text[..8]));
    }
}
