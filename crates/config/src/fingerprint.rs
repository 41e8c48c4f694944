//! The fingerprint of a node's key, as the cluster file has it.

use std::fmt::{self, Write};

const PREFIX: &str = "sha256:";

/// SHA-256 over a public key's SubjectPublicKeyInfo (RFC 5280 §4.1.2.7); written
/// `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// `None` when `text` is no fingerprint.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        let mut bytes = [0; 32];
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        for byte in self.0 {
            let (high, low) = (u32::from(byte >> 4), u32::from(byte & 15));
            // Both are below 16, so both are digits.
            f.write_char(char::from_digit(high, 16).unwrap_or('0'))?;
            f.write_char(char::from_digit(low, 16).unwrap_or('0'))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut bytes = [0; 32];
        for (i, byte) in (0..32).zip(&mut bytes) {
            *byte = i * 8 + 3;
        }
        let text = Fingerprint(bytes).to_string();
        assert_eq!(text.len(), 7 + 64);
        assert_eq!(Fingerprint::parse(&text), Some(Fingerprint(bytes)));
        assert_eq!(Fingerprint::parse(&text.to_uppercase()), None);
    }

    #[test]
    fn anything_else_is_none() {
        let long = format!("sha256:{}", "a".repeat(66));
        for text in ["", "sha256:", "sha256:00", "md5:00", &long, &long[..70], "sha256:\u{e4}"] {
            assert_eq!(Fingerprint::parse(text), None, "{text}");
        }
        assert_eq!(Fingerprint::parse(&format!("sha256:{}", "g".repeat(64))), None);
    }
}
