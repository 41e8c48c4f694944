//! Tokens: what lets one more machine into the cluster, once, within a quarter of an hour.
//!
//! A token is `id ‖ secret ‖ authority's fingerprint` in base32. Only a hash of the secret is kept.
//! The fingerprint lets the joining machine know the server before it tells it the secret.

use std::fs::{self, File};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use standin_config::fingerprint::Fingerprint;

use super::{Keys, crypto, files};

/// How long a token lives.
pub(crate) const LIFE: Duration = Duration::from_secs(15 * 60);

/// How often it may be tried, well or not.
const TRIES: u32 = 5;

/// Tokens at one time; one for each node that a cluster may have. The oldest gives way.
const TOKENS: usize = 16;

const ID: usize = 4;
const SECRET: usize = 16;
const BYTES: usize = ID + SECRET + 32;

/// RFC 4648 §6, in small letters.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// What the operator carries from one machine to the next.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) id: [u8; ID],
    pub(crate) secret: [u8; SECRET],
    pub(crate) authority: Fingerprint,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(********)")
    }
}

impl Token {
    pub(crate) fn text(&self) -> String {
        let bytes = self.id.iter().chain(&self.secret).chain(&self.authority.0);
        let (mut held, mut bits) = (0_u32, 0);
        let mut out = String::new();
        for byte in bytes {
            held = held << 8 | u32::from(*byte);
            bits += 8;
            while bits >= 5 {
                bits -= 5;
                out.push(letter(held >> bits));
            }
        }
        if bits > 0 {
            out.push(letter(held << (5 - bits)));
        }
        out
    }

    /// `None` when it is no token, or not a whole one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (mut held, mut bits) = (0_u32, 0);
        let mut bytes = Vec::with_capacity(BYTES);
        if text.len() != (BYTES * 8).div_ceil(5) {
            return None;
        }
        for byte in text.bytes() {
            let value = ALPHABET.iter().position(|it| *it == byte.to_ascii_lowercase())?;
            held = held << 5 | u32::try_from(value).ok()?;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push(u8::try_from(held >> bits & 0xff).ok()?);
            }
        }
        let (id, rest) = bytes.split_first_chunk()?;
        let (secret, rest) = rest.split_first_chunk()?;
        let authority = Fingerprint(rest.try_into().ok()?);
        Some(Self { id: *id, secret: *secret, authority })
    }
}

fn letter(bits: u32) -> char {
    // Five bits are below 32.
    ALPHABET.get((bits & 31) as usize).map_or('a', |byte| char::from(*byte))
}

/// What is kept of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    id: [u8; ID],
    secret_sha256: [u8; 32],
    ends_unix_s: u64,
    tries: u32,
}

impl Kept {
    /// A clock that was set back must not make it immortal.
    fn lives(&self, now_s: u64) -> bool {
        now_s < self.ends_unix_s && self.ends_unix_s <= now_s + LIFE.as_secs() && self.tries < TRIES
    }
}

/// The tokens of this node, held by one process at a time.
pub(crate) struct Tokens<'a> {
    keys: &'a Keys,
    kept: Vec<Kept>,
    _lock: File,
}

impl<'a> Tokens<'a> {
    /// Waits for whoever has them.
    ///
    /// # Errors
    /// There are no keys here, or they can't be read.
    pub(crate) fn open(keys: &'a Keys) -> io::Result<Self> {
        let lock =
            File::options().create(true).truncate(false).write(true).open(keys.dir.join("lock"))?;
        lock.lock()?;
        let kept = match fs::read(keys.dir.join("tokens.json")) {
            // A damaged file lets nobody in; another token can be made.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut tokens = Self { keys, kept, _lock: lock };
        let now = now_s();
        tokens.kept.retain(|kept| kept.lives(now));
        Ok(tokens)
    }

    /// Makes another one.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn add(&mut self, authority: Fingerprint) -> io::Result<Token> {
        let token = Token { id: crypto::random()?, secret: crypto::random()?, authority };
        if self.kept.len() >= TOKENS {
            self.kept.remove(0);
        }
        self.kept.push(Kept {
            id: token.id,
            secret_sha256: crypto::sha256(&token.secret),
            ends_unix_s: now_s() + LIFE.as_secs(),
            tries: 0,
        });
        self.write()?;
        Ok(token)
    }

    /// Counts a try; whether it is one of the cluster's tokens.
    ///
    /// # Errors
    /// The try can't be written down, so it doesn't count as one that may go on.
    pub(crate) fn tried(&mut self, id: [u8; ID], secret: &[u8; SECRET]) -> io::Result<bool> {
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.id == id) else { return Ok(false) };
        kept.tries += 1;
        let good = crypto::equal(&kept.secret_sha256, &crypto::sha256(secret));
        self.write()?;
        Ok(good)
    }

    /// It has let somebody in.
    ///
    /// # Errors
    /// It can't be written, so nobody may be let in.
    pub(crate) fn used(&mut self, id: [u8; ID]) -> io::Result<()> {
        self.kept.retain(|kept| kept.id != id);
        self.write()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn write(&self) -> io::Result<()> {
        let bytes = serde_json::to_vec(&self.kept)?;
        files::write_atomically(&self.keys.dir.join("tokens.json"), &bytes, 0o600)
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(dir: &tempfile::TempDir) -> Keys {
        let keys = Keys::of(dir.path());
        files::private_dir(&keys.dir).unwrap();
        keys
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = Token { id: [1, 2, 3, 255], secret: [7; 16], authority: Fingerprint([9; 32]) };
        let text = token.text();
        assert_eq!(Token::parse(&text), Some(token.clone()));
        assert_eq!(Token::parse(&text.to_uppercase()), Some(token));
        assert_eq!(Token::parse(&text[1..]), None);
        assert_eq!(Token::parse(&text.replace('a', "!")), None);
    }

    #[test]
    fn a_token_is_good_until_it_is_used_and_for_five_tries() {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys(&dir);
        let token = Tokens::open(&keys).unwrap().add(Fingerprint([0; 32])).unwrap();
        let on_disk = fs::read_to_string(keys.dir.join("tokens.json")).unwrap();
        assert!(!on_disk.contains(&format!("{:?}", token.secret)));
        assert!(!Tokens::open(&keys).unwrap().tried([0; 4], &token.secret).unwrap());
        assert!(!Tokens::open(&keys).unwrap().tried(token.id, &[0; 16]).unwrap());
        assert!(Tokens::open(&keys).unwrap().tried(token.id, &token.secret).unwrap());
        Tokens::open(&keys).unwrap().used(token.id).unwrap();
        assert!(!Tokens::open(&keys).unwrap().tried(token.id, &token.secret).unwrap());
        let token = Tokens::open(&keys).unwrap().add(Fingerprint([0; 32])).unwrap();
        for _ in 0..5 {
            assert!(!Tokens::open(&keys).unwrap().tried(token.id, &[0; 16]).unwrap());
        }
        assert!(!Tokens::open(&keys).unwrap().tried(token.id, &token.secret).unwrap());
    }

    #[test]
    fn a_token_ends_by_itself_and_by_a_clock_that_was_set_back() {
        let kept = Kept { id: [0; 4], secret_sha256: [0; 32], ends_unix_s: 10_000, tries: 0 };
        assert!(kept.lives(9_999) && kept.lives(9_100));
        assert!(!kept.lives(10_000) && !kept.lives(9_000));
    }

    #[test]
    fn there_are_never_more_tokens_than_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys(&dir);
        let mut tokens = Tokens::open(&keys).unwrap();
        for _ in 0..20 {
            tokens.add(Fingerprint([0; 32])).unwrap();
        }
        assert_eq!(tokens.kept.len(), TOKENS);
    }
}
