//! The one file that names the provider of cryptography: hashes, random bytes, TLS's algorithms.

use std::io;
use std::sync::Arc;

use ring::hmac::{HMAC_SHA256, Key};
use ring::rand::SecureRandom;
use rustls::crypto::CryptoProvider;

/// What TLS computes with.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut out = [0; 32];
    // SHA-256 has 32 bytes; zip can't run over.
    out.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    out
}

/// HMAC-SHA256 (RFC 2104) of all parts, one after the other.
pub(crate) fn keyed(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = ring::hmac::Context::with_key(&Key::new(HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    // As above.
    out.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
    out
}

/// Bytes that nobody can guess.
///
/// # Errors
/// The kernel gives none.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
    Ok(bytes)
}

/// Compares in a time that doesn't tell where they differ.
pub(crate) fn equal<const N: usize>(one: &[u8; N], other: &[u8; N]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b));
    std::hint::black_box(differ) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_is_the_known_one() {
        assert_eq!(sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }

    #[test]
    fn keyed_hashes_are_the_known_ones() {
        // RFC 4231, test case 2.
        let hash = keyed(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(hash[..4], [0x5b, 0xdc, 0xc1, 0x46]);
    }

    #[test]
    fn random_bytes_differ_and_equality_sees_the_last_bit() {
        let one: [u8; 16] = random().unwrap();
        assert_ne!(one, random::<16>().unwrap());
        let mut other = one;
        assert!(equal(&one, &other));
        other[15] ^= 1;
        assert!(!equal(&one, &other));
    }
}
