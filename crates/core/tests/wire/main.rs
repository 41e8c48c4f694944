//! The wire codecs against bytes from the RFCs, from a keepalived, and from a Linux kernel.

#![allow(clippy::unwrap_used, reason = "a test that can't prepare its input has to stop")]

mod neighbours;
mod properties;
mod vrrp;

/// The bytes of `text`; white space is for the reader.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}
