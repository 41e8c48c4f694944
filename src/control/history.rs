//! What happened: the last events in memory, and in a file that outlives the daemon.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Events kept in memory; a node in trouble makes a few dozen a minute.
const KEPT: usize = 1000;

/// Within the state directory.
const FILE: &str = "events.jsonl";

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

/// The last events, in memory.
#[derive(Debug)]
pub(crate) struct History {
    records: VecDeque<Record>,
    next_seq: u64,
}

/// The file that outlives the daemon.
#[derive(Debug)]
pub(crate) struct HistoryFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Its last line may have no end: the disk was full, or the power went.
    torn: bool,
}

impl History {
    /// For a disk that can't be written.
    pub(crate) const fn in_memory() -> Self {
        Self { records: VecDeque::new(), next_seq: 1 }
    }

    /// Reads what earlier daemons wrote to `path`; lines that can't be read are passed over.
    ///
    /// # Errors
    /// The file can't be opened for writing.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, HistoryFile)> {
        let records = kept(path);
        let next_seq = records.back().map_or(1, |last| last.seq.saturating_add(1));
        let file = append_to(path)?;
        let bytes = file.metadata()?.len();
        let (path, torn) = (path.to_owned(), !ends_whole(path));
        Ok((Self { records, next_seq }, HistoryFile { path, file, bytes, torn }))
    }

    /// Numbers the record and keeps it; returns it with its number.
    pub(crate) fn push(&mut self, mut record: Record) -> Record {
        record.seq = self.next_seq;
        self.next_seq += 1;
        if self.records.len() == KEPT {
            self.records.pop_front();
        }
        self.records.push_back(record.clone());
        record
    }

    /// Records with a number above `after`, oldest first.
    pub(crate) fn since(&self, after: u64) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.seq > after)
    }
}

impl HistoryFile {
    /// # Errors
    /// As write(2) and rename(2).
    pub(crate) fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.bytes > FILE_BYTES {
            std::fs::rename(&self.path, turned_over(&self.path))?;
            self.file = append_to(&self.path)?;
            (self.bytes, self.torn) = (0, false);
        }
        // What was torn loses itself only.
        let mut line = if self.torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, record)?;
        line.push(b'\n');
        self.bytes += line.len() as u64;
        let written = self.file.write_all(&line);
        self.torn = written.is_err();
        written
    }
}

/// Where the file is.
pub(crate) fn file_in(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// What earlier daemons wrote to `path`, the last of it; files and lines that can't be read are passed over.
pub(crate) fn kept(path: &Path) -> VecDeque<Record> {
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
    records
}

/// Whether a file's last line has its end, if there is one; of a file that can't be read nothing is known.
fn ends_whole(path: &Path) -> bool {
    let last = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        io::Result::Ok(last)
    };
    // There is no place before the end of an empty file.
    last().map_or(true, |last| last == *b"\n")
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

    fn write(both: &mut (History, HistoryFile), text: &str) -> u64 {
        let numbered = both.0.push(record(text));
        both.1.write(&numbered).unwrap();
        numbered.seq
    }

    #[test]
    fn numbers_go_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut first = History::open(&path).unwrap();
        write(&mut first, "one");
        write(&mut first, "two");
        drop(first);
        let mut second = History::open(&path).unwrap();
        assert_eq!(second.0.since(1).count(), 1);
        assert_eq!(write(&mut second, "three"), 3);
    }

    /// A record "one", and then these bytes.
    fn damaged(path: &Path, by: &[u8]) -> (History, HistoryFile) {
        write(&mut History::open(path).unwrap(), "one");
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(by).unwrap();
        History::open(path).unwrap()
    }

    #[test]
    fn a_damaged_line_loses_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut history = damaged(&path, b"{\"seq\": 2, torn \xff\n");
        assert_eq!(history.0.since(0).count(), 1);
        assert_eq!(write(&mut history, "two"), 2);
    }

    #[test]
    fn a_line_that_was_cut_off_loses_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut history = damaged(&path, b"{\"seq\": 2, \"at\"");
        write(&mut history, "two");
        write(&mut history, "three");
        let texts: Vec<String> = kept(&path).into_iter().map(|record| record.text).collect();
        assert_eq!(texts, ["one", "two", "three"]);
    }

    #[test]
    fn the_file_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut history = History::open(&path).unwrap();
        let long = "x".repeat(10_000);
        for _ in 0..300 {
            write(&mut history, &long);
        }
        assert!(std::fs::metadata(&path).unwrap().len() < 2 * FILE_BYTES);
        assert!(turned_over(&path).exists());
    }
}
