//! Records of transitions on disk, a few of the last ones, for `standin-sim replay`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use standin_core::record::{Entry, HEADER, write};

use super::time;

/// A record is at most some 200 kB.
const KEPT: usize = 20;

/// Writes a record below `state_dir` and removes the oldest ones; returns where it is.
///
/// # Errors
/// The directory can't be written.
pub(super) fn keep(state_dir: &Path, entries: &[Entry]) -> io::Result<PathBuf> {
    let dir = state_dir.join("records");
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{}.txt", time::rfc3339(SystemTime::now())));
    let mut text = format!("{HEADER}\n");
    entries.iter().for_each(|entry| write(entry, &mut text));
    let mut file =
        fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(text.as_bytes())?;
    let mut all: Vec<_> = fs::read_dir(&dir)?.flatten().map(|entry| entry.path()).collect();
    // Their names are their times.
    all.sort();
    for old in all.iter().rev().skip(KEPT) {
        fs::remove_file(old)?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_core::record::{Recorded, parse};
    use standin_core::types::Instant;

    #[test]
    fn a_record_is_text_that_can_be_read_again_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("records");
        fs::create_dir(&old).unwrap();
        for number in 0..30 {
            fs::write(old.join(format!("2020-{number}.txt")), "").unwrap();
        }
        let entries = [Entry { at: Instant::from_nanos(5), input: Recorded::Tick }];
        let path = keep(dir.path(), &entries).unwrap();
        assert_eq!(parse(&fs::read_to_string(path).unwrap()).unwrap(), entries);
        assert_eq!(fs::read_dir(old).unwrap().count(), KEPT);
    }
}
