//! Records of byte strings in a file or a pipe: each is its length, a colon, and its bytes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// More than any journal of a configuration has; what is longer is not ours.
const FIELDS: usize = 4_000_000;

/// One record: a word that says what it is, then its values.
pub(crate) type Record = Vec<Vec<u8>>;

/// Writes records one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn record(&mut self, values: &[&[u8]]) {
        self.number(values.len());
        for value in values {
            self.number(value.len());
            self.0.extend_from_slice(value);
        }
    }

    fn number(&mut self, number: usize) {
        self.0.extend_from_slice(number.to_string().as_bytes());
        self.0.push(b':');
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// All records of a text; `None` for anything that [`Writer`] doesn't write.
pub(crate) fn read(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    let mut fields = 0_usize;
    while !bytes.is_empty() {
        let count = number(&mut bytes)?;
        fields = fields.checked_add(count)?;
        if fields > FIELDS {
            return None;
        }
        let mut record = Vec::new();
        for _ in 0..count {
            let length = number(&mut bytes)?;
            let (value, rest) = bytes.split_at_checked(length)?;
            record.push(value.to_vec());
            bytes = rest;
        }
        records.push(record);
    }
    Some(records)
}

fn number(bytes: &mut &[u8]) -> Option<usize> {
    // No more digits than a 32-bit number has.
    let end = bytes.iter().take(11).position(|byte| *byte == b':')?;
    let (digits, rest) = bytes.split_at_checked(end)?;
    *bytes = rest.get(1..)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The values of a record, taken from the front.
#[derive(Debug)]
pub(crate) struct Values<'r>(std::slice::Iter<'r, Vec<u8>>);

impl<'r> Values<'r> {
    pub(crate) fn of(record: &'r [Vec<u8>]) -> Self {
        Self(record.iter())
    }

    pub(crate) fn bytes(&mut self) -> Option<&'r [u8]> {
        self.0.next().map(Vec::as_slice)
    }

    pub(crate) fn text(&mut self) -> Option<&'r str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(crate) fn path(&mut self) -> Option<PathBuf> {
        Some(PathBuf::from(OsStr::from_bytes(self.bytes()?)))
    }

    pub(crate) fn number<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }
}

pub(crate) fn of_path(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        let mut writer = Writer::default();
        writer.record(&[b"root", b"/etc/\xff\n:3:", b""]);
        writer.record(&[]);
        let bytes = writer.bytes();
        let records = read(&bytes).unwrap();
        assert_eq!(records, [vec![b"root".to_vec(), b"/etc/\xff\n:3:".to_vec(), vec![]], vec![]]);
        let mut values = Values::of(&records[0]);
        assert_eq!(values.text(), Some("root"));
        assert_eq!(values.path().unwrap().as_os_str().as_bytes(), b"/etc/\xff\n:3:");
        for end in 1..bytes.len() {
            let cut = read(&bytes[..end]);
            assert!(cut.is_none_or(|cut| cut.len() < 2), "cut at {end}");
        }
    }

    #[test]
    fn other_bytes_are_none() {
        for bytes in [&b"x"[..], b"1:", b"1:5:abc", b"99999999999:", b"-1:", b"1:-1:"] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }
}
