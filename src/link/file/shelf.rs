//! The cluster file on this node's disk: which version it is, and every version before it.
//!
//! ```text
//! /var/lib/standin/cluster/        0700
//! ├── version.json                 number, hash, who brought it
//! ├── 7.toml                       what version 7 says, 0600
//! └── 7-edited-1a2b3c4d.toml       what somebody wrote over it, saved when version 8 came
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::authority::files;
use crate::link::hash;

/// Texts that are kept of each kind.
const KEPT: usize = 50;

/// Of a file that wasn't there before; it holds no secret but where somebody writes one into it.
const MODE: u32 = 0o644;

/// Which cluster file it is, of all that the cluster has agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// 0: none was agreed on yet. The highest wins.
    pub(crate) number: u64,
    /// Hexadecimal SHA-256 of the text.
    pub(crate) sha256: String,
    /// The node where it was applied.
    #[serde(default)]
    pub(crate) by: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    dir: PathBuf,
    file: PathBuf,
}

impl Shelf {
    pub(crate) fn of(state_dir: &Path, file: &Path) -> Self {
        Self { dir: state_dir.join("cluster"), file: file.to_owned() }
    }

    /// The version that was taken last; a record that is damaged counts as none, and any version of
    /// the others is newer.
    pub(crate) fn version(&self) -> Version {
        let bytes = fs::read(self.dir.join("version.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// The text of the version that was taken last; `None` when there is none, or it is damaged.
    pub(crate) fn text(&self) -> Option<(Version, String)> {
        let version = self.version();
        let text = fs::read_to_string(self.kept(version.number)).ok()?;
        (hash(text.as_bytes()) == version.sha256).then_some((version, text))
    }

    /// Makes `text` the cluster file. What it replaces is kept, and its mode stays.
    ///
    /// # Errors
    /// A disk that can't be written. The version counts as taken only when all of it was.
    pub(crate) fn take(&self, text: &str, version: &Version) -> io::Result<()> {
        files::private_dir(&self.dir)?;
        let before = self.version();
        match fs::read(&self.file) {
            Ok(old) if old == text.as_bytes() => {}
            Ok(old) => {
                let old_hash = hash(&old);
                if old_hash != before.sha256 {
                    let short = old_hash.get(..8).unwrap_or_default();
                    let name = format!("{}-edited-{short}.toml", before.number);
                    files::write_atomically(&self.dir.join(name), &old, 0o600)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        files::write_atomically(&self.kept(version.number), text.as_bytes(), 0o600)?;
        let mode = fs::metadata(&self.file).map_or(MODE, |it| it.permissions().mode() & 0o777);
        files::write_atomically(&self.file, text.as_bytes(), mode)?;
        let record = serde_json::to_vec(version)?;
        files::write_atomically(&self.dir.join("version.json"), &record, 0o600)?;
        self.tidy();
        Ok(())
    }

    fn kept(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number}.toml"))
    }

    /// The oldest texts go.
    fn tidy(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let (mut versions, mut edits) = (Vec::new(), Vec::new());
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let digits: String = name.chars().take_while(char::is_ascii_digit).collect();
            let Ok(number) = digits.parse::<u64>() else { continue };
            let list = if name.contains("-edited-") { &mut edits } else { &mut versions };
            list.push((number, path));
        }
        for mut list in [versions, edits] {
            list.sort();
            let many = list.len().saturating_sub(KEPT);
            for (_, path) in list.drain(..many) {
                // It is only one more than there should be.
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64, text: &str) -> Version {
        Version { number, sha256: hash(text.as_bytes()), by: "n1".to_owned() }
    }

    #[test]
    fn what_is_replaced_is_kept_and_the_mode_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("standin.toml");
        let shelf = Shelf::of(dir.path(), &file);
        assert_eq!(shelf.version().number, 0);
        fs::write(&file, "by hand").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        shelf.take("one", &version(1, "one")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        let saved = shelf.dir.join(format!("0-edited-{}.toml", &hash(b"by hand")[..8]));
        assert_eq!(fs::read_to_string(saved).unwrap(), "by hand");
        shelf.take("two", &version(2, "two")).unwrap();
        assert_eq!(fs::read_to_string(shelf.kept(1)).unwrap(), "one");
        assert_eq!(shelf.text(), Some((version(2, "two"), "two".to_owned())));
        let count = fs::read_dir(&shelf.dir).unwrap().count();
        assert_eq!(count, 4, "what version 1 said isn't kept twice");
    }

    #[test]
    fn a_damaged_record_counts_as_none_and_old_texts_go() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(dir.path(), &dir.path().join("standin.toml"));
        for number in 1..60 {
            let text = number.to_string();
            shelf.take(&text, &version(number, &text)).unwrap();
        }
        assert!(!shelf.kept(9).exists() && shelf.kept(10).exists());
        fs::write(shelf.kept(59), "other").unwrap();
        assert_eq!(shelf.text(), None);
        fs::write(shelf.dir.join("version.json"), "{").unwrap();
        assert_eq!(shelf.version(), Version::default());
    }
}
