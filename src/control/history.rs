//! What happened: the last events in memory, and in a file that outlives the daemon.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Events kept in memory; a node in trouble makes a few dozen a minute.
const KEPT: usize = 1000;

/// The file is turned over at this size; one earlier file is kept.
const FILE_BYTES: u64 = 1024 * 1024;

/// One event as the API, the file and `standin events` have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Counts up, also over restarts.
    pub(crate) seq: u64,
    /// RFC 3339, UTC.
    pub(crate) at: String,
    pub(crate) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vip: Option<String>,
    /// Of a transition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<String>,
    /// One line for a person.
    pub(crate) text: String,
}

#[derive(Debug)]
pub(crate) struct History {
    records: VecDeque<Record>,
    next_seq: u64,
    path: Option<PathBuf>,
    file: Option<File>,
    bytes: u64,
}

impl History {
    /// For a disk that can't be written.
    pub(crate) const fn in_memory() -> Self {
        Self { records: VecDeque::new(), next_seq: 1, path: None, file: None, bytes: 0 }
    }

    /// Reads what earlier daemons wrote to `path`; lines that can't be read are passed over.
    ///
    /// # Errors
    /// The file can't be opened for writing.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut records = VecDeque::new();
        for old in [turned_over(path), path.to_owned()] {
            let Ok(file) = File::open(old) else { continue };
            // Twice what it is turned over at: what is longer isn't ours.
            let mut bytes = Vec::new();
            let _ = file.take(2 * FILE_BYTES).read_to_end(&mut bytes);
            for line in bytes.split(|byte| *byte == b'\n') {
                let Ok(record) = serde_json::from_slice::<Record>(line) else { continue };
                if records.len() == KEPT {
                    records.pop_front();
                }
                records.push_back(record);
            }
        }
        let next_seq = records.back().map_or(1, |last| last.seq.saturating_add(1));
        let file = append_to(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { records, next_seq, path: Some(path.to_owned()), file: Some(file), bytes })
    }

    /// Numbers the record and keeps it; returns it with its number.
    ///
    /// # Errors
    /// The file couldn't be written; the record is kept in memory all the same.
    pub(crate) fn push(&mut self, mut record: Record) -> (Record, io::Result<()>) {
        record.seq = self.next_seq;
        self.next_seq += 1;
        if self.records.len() == KEPT {
            self.records.pop_front();
        }
        self.records.push_back(record.clone());
        let written = self.write(&record);
        (record, written)
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let (Some(path), Some(file)) = (&self.path, &mut self.file) else { return Ok(()) };
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.bytes > FILE_BYTES {
            std::fs::rename(path, turned_over(path))?;
            *file = append_to(path)?;
            self.bytes = 0;
        }
        self.bytes += line.len() as u64;
        file.write_all(&line)
    }

    /// Records with a number above `after`, oldest first.
    pub(crate) fn since(&self, after: u64) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.seq > after)
    }
}

fn turned_over(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record {
        Record {
            seq: 0,
            at: "2026-01-01T00:00:00.000Z".into(),
            kind: "transition".into(),
            vip: Some("web".into()),
            from: None,
            to: None,
            reason: None,
            peer: None,
            text: text.into(),
        }
    }

    #[test]
    fn numbers_go_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut first = History::open(&path).unwrap();
        first.push(record("one")).1.unwrap();
        first.push(record("two")).1.unwrap();
        drop(first);
        let mut second = History::open(&path).unwrap();
        assert_eq!(second.since(1).count(), 1);
        assert_eq!(second.push(record("three")).0.seq, 3);
    }

    #[test]
    fn a_damaged_line_loses_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut history = History::open(&path).unwrap();
        history.push(record("one")).1.unwrap();
        drop(history);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"seq\": 2, torn \xff\n").unwrap();
        let mut history = History::open(&path).unwrap();
        assert_eq!(history.since(0).count(), 1);
        assert_eq!(history.push(record("two")).0.seq, 2);
    }

    #[test]
    fn the_file_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut history = History::open(&path).unwrap();
        let long = "x".repeat(10_000);
        for _ in 0..300 {
            history.push(record(&long)).1.unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() < 2 * FILE_BYTES);
        assert!(turned_over(&path).exists());
    }
}
