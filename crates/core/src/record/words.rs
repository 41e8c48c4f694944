//! The words of a record's line.

use std::str::FromStr;

use crate::types::Mac;

/// Free text as one word.
pub(super) fn word(text: &str) -> String {
    if text.is_empty() {
        return "%".to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter == '%' || letter.is_whitespace() || letter.is_control() {
            let mut bytes = [0; 4];
            for byte in letter.encode_utf8(&mut bytes).bytes() {
                out.push('%');
                out.push_str(&hex(&[byte]));
            }
        } else {
            out.push(letter);
        }
    }
    out
}

/// Bytes as lower-case hexadecimal digits; none is `-`.
pub(super) fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_owned();
    }
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0x0f)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text == "-" {
        return Some(Vec::new());
    }
    let digits: Vec<u8> = text
        .chars()
        .map(|letter| letter.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs
        .remainder()
        .is_empty()
        .then(|| pairs.map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

fn unword(word: &str) -> Option<String> {
    if word == "%" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(word.len());
    let mut parts = word.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        bytes.extend(unhex(part.get(..2)?)?);
        bytes.extend_from_slice(part.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// Reads one word after the other; each reader says what it wanted.
#[derive(Debug)]
pub(super) struct Words<'a> {
    words: std::str::SplitAsciiWhitespace<'a>,
}

impl<'a> Words<'a> {
    pub(super) fn of(line: &'a str) -> Self {
        Self { words: line.split_ascii_whitespace() }
    }

    pub(super) fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.words.next().ok_or_else(|| format!("{what} is missing"))
    }

    /// Anything with a reader of its own: a number, an address, a prefix.
    pub(super) fn number<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let word = self.next(what)?;
        word.parse().map_err(|_| format!("{word} is not {what}"))
    }

    /// As [`Words::number`], where the line may end instead.
    pub(super) fn maybe<T: FromStr>(&mut self, what: &str) -> Result<Option<T>, String> {
        let Some(word) = self.words.next() else { return Ok(None) };
        word.parse().map(Some).map_err(|_| format!("{word} is not {what}"))
    }

    /// As [`Words::number`], where `-` means none.
    pub(super) fn optional<T: FromStr>(&mut self, what: &str) -> Result<Option<T>, String> {
        match self.next(what)? {
            "-" => Ok(None),
            word => word.parse().map(Some).map_err(|_| format!("{word} is not {what}")),
        }
    }

    pub(super) fn rest<T: FromStr>(&mut self, what: &str) -> Result<Vec<T>, String> {
        let read = |word: &str| word.parse().map_err(|_| format!("{word} is not {what}"));
        self.words.by_ref().map(read).collect()
    }

    pub(super) fn text(&mut self, what: &str) -> Result<String, String> {
        let word = self.next(what)?;
        unword(word).ok_or_else(|| format!("{word} is not {what}"))
    }

    pub(super) fn flag(&mut self) -> Result<bool, String> {
        match self.next("0 or 1")? {
            "0" => Ok(false),
            "1" => Ok(true),
            other => Err(format!("{other} is not 0 or 1")),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, String> {
        let word = self.next("bytes")?;
        unhex(word).ok_or_else(|| format!("{word} isn't hexadecimal"))
    }

    pub(super) fn mac(&mut self) -> Result<Option<Mac>, String> {
        let word = self.next("a MAC")?;
        if word == "-" {
            return Ok(None);
        }
        let bytes = unhex(&word.replace(':', "")).and_then(|bytes| bytes.try_into().ok());
        bytes.map(|bytes| Some(Mac(bytes))).ok_or_else(|| format!("{word} is not a MAC"))
    }

    pub(super) fn end(&mut self) -> Result<(), String> {
        self.words.next().map_or(Ok(()), |word| Err(format!("{word} is one word too many")))
    }
}
