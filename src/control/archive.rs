//! What is kept of what happened: events and the records of transitions, in memory and on disk.

use std::io;
use std::path::{Path, PathBuf};

use standin_core::record::Entry;
use standin_core::types::Instant;
use tokio::sync::mpsc;

use super::history::{History, HistoryFile, Record};
use super::log::Severity;
use super::records;
use super::writer::{Losses, Writer, Writing};
use crate::link::Told;

/// What the disk is to keep.
enum Kept {
    Event(Record),
    Transition(Vec<Entry>),
}

/// The memory answers; the disk has a thread of its own, since it may hang.
pub(super) struct Archive {
    history: History,
    disk: Writer<Kept>,
    state_dir: PathBuf,
}

impl Archive {
    /// Without a file events are kept in memory only; what goes wrong later is `told`.
    ///
    /// # Errors
    /// The kernel has no thread left.
    pub(super) fn start(
        (history, file): (History, Option<HistoryFile>),
        state_dir: &Path,
        told: mpsc::Sender<Told>,
    ) -> io::Result<Self> {
        let state_dir = state_dir.to_owned();
        let mut disk =
            Disk { file, state_dir: state_dir.clone(), told, complained: false, missing: 0 };
        let disk = Writer::start("standin-disk", Losses::default(), move |what| disk.write(what))?;
        Ok(Self { history, disk, state_dir })
    }

    /// Numbers an event and keeps it.
    pub(super) fn push(&mut self, record: Record) -> Record {
        let record = self.history.push(record);
        self.disk.put(Kept::Event(record.clone()));
        record
    }

    /// Keeps what the engine was told around a transition.
    pub(super) fn keep(&self, entries: Vec<Entry>) {
        self.disk.put(Kept::Transition(entries));
    }

    /// Events with a number above `after`, oldest first.
    pub(super) fn since(&self, after: u64) -> impl Iterator<Item = &Record> {
        self.history.since(after)
    }

    /// Waits until everything is on disk, but not beyond `deadline`.
    pub(super) fn finish(&self, deadline: Instant) {
        // What isn't by then is lost, and there is nobody left to tell.
        let _ = self.disk.finish(deadline);
    }

    /// That the disk takes nothing, for status.
    pub(super) fn stuck(&self) -> Option<String> {
        let dir = self.state_dir.display();
        Some(self.disk.stuck()?.words(&format!("the record of events in {dir}")))
    }
}

/// The disk, on its thread.
struct Disk {
    file: Option<HistoryFile>,
    state_dir: PathBuf,
    told: mpsc::Sender<Told>,
    complained: bool,
    /// Events that aren't on it, and that it wasn't said of.
    missing: u64,
}

impl Disk {
    fn write(&mut self, what: Writing<Kept>) -> bool {
        match what {
            Writing::This(Kept::Event(record)) => self.event(&record),
            Writing::This(Kept::Transition(entries)) => {
                // A disk that can't be written has been complained of by the events.
                let _ = records::keep(&self.state_dir, &entries);
                true
            }
            // Said when it works again: what is said is an event as well.
            Writing::Lost(lost) => {
                self.missing += lost;
                true
            }
        }
    }

    fn event(&mut self, record: &Record) -> bool {
        let Some(file) = &mut self.file else { return true };
        let Err(error) = file.write(record) else {
            if self.missing > 0 {
                let (missing, dir) = (std::mem::take(&mut self.missing), self.state_dir.display());
                self.tell(format!(
                    "the disk didn't take {missing} events: they are missing in {dir}"
                ));
            }
            return true;
        };
        if !std::mem::replace(&mut self.complained, true) {
            self.tell(format!("events can't be kept on disk, only in memory: {error}"));
        }
        false
    }

    fn tell(&self, text: String) {
        let told = Told { severity: Severity::Error, kind: "history_failed", peer: None, text };
        // The log is so busy that others have something to tell.
        let _ = self.told.try_send(told);
    }
}
