//! What a swap is about to do, on the disk before it does it: enough to take it back after any end.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::fields::{self, Values, Writer, of_path};
use crate::fingerprint::{Fingerprint, gone};
use crate::pieces::Piece;

/// The first record: another version's journal is not understood, and nothing is touched then.
const FORM: &str = "standin apply 1";

const NAME: &str = "journal";

/// What takes the journal's place once the swap is proven. It is on the disk before anything is changed:
/// a disk may be full afterwards, and a name needs no room.
const PROVEN: &str = "journal.proven";

/// A swap under way, or one that is proven and whose old trees are still there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    pub(crate) generation: String,
    pub(crate) proven: bool,
    pub(crate) plans: Vec<Plan>,
}

/// What is done to one root.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) path: PathBuf,
    pub(crate) staged: PathBuf,
    pub(crate) way: Way,
    /// The old tree, when it was last read.
    pub(crate) before: Fingerprint,
    /// The new one, when it was staged.
    pub(crate) fresh: Fingerprint,
}

#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// The two trees change places; known again by their inodes.
    Whole {
        /// `None`: there was nothing.
        old: Option<u64>,
        new: u64,
    },
    /// File by file; `folders` hold what is to come and what was.
    Pieces { folders: Vec<PathBuf>, pieces: Vec<Piece> },
}

impl Plan {
    /// Whether only what differs was staged: then it lies in one folder with what was there.
    pub(crate) fn is_in_parts(&self) -> bool {
        matches!(&self.way, Way::Pieces { folders, .. } if *folders == [self.staged.clone()])
    }

    /// The directories whose names or metadata are changed.
    pub(crate) fn folders(&self) -> BTreeSet<&Path> {
        let parent = self.path.parent().unwrap_or_else(|| Path::new("/"));
        match &self.way {
            Way::Whole { .. } => BTreeSet::from([parent]),
            Way::Pieces { pieces, .. } => pieces.iter().map(Piece::folder).collect(),
        }
    }
}

impl Way {
    /// In pieces, none of which is known yet.
    pub(crate) const NONE: Self = Self::Pieces { folders: Vec::new(), pieces: Vec::new() };
}

impl Journal {
    /// The journal in a directory, if there is one.
    ///
    /// # Errors
    /// What open(2) and read(2) say; `InvalidData` for one that isn't understood.
    pub(crate) fn read(folder: &Path) -> io::Result<Option<Self>> {
        let file = folder.join(NAME);
        let Some(bytes) = gone(fs::read(&file))? else { return Ok(None) };
        let words = || {
            let shown = file.display();
            let words = format!("{shown} isn't understood: was it written by another standin?");
            io::Error::new(io::ErrorKind::InvalidData, words)
        };
        Self::parse(&bytes).map(Some).ok_or_else(words)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut journal = Self::default();
        for (place, record) in fields::read(bytes)?.iter().enumerate() {
            let mut values = Values::of(record);
            match values.text()? {
                FORM if place == 0 => {
                    journal.generation = values.text()?.to_owned();
                    journal.proven = values.text()? == "proven";
                }
                _ if place == 0 => return None,
                "root" => {
                    let (path, staged) = (values.path()?, values.path()?);
                    let way = match values.text()? {
                        "whole" => {
                            let (old, new) = (values.number::<u64>()?, values.number()?);
                            Way::Whole { old: Some(old).filter(|old| *old != 0), new }
                        }
                        "pieces" => Way::NONE,
                        _ => return None,
                    };
                    let (before, fresh) = (Fingerprint::default(), Fingerprint::default());
                    journal.plans.push(Plan { path, staged, way, before, fresh });
                }
                "folder" => journal.last_pieces()?.0.push(values.path()?),
                "piece" => journal.last_pieces()?.1.push(Piece::read(&mut values)?),
                word @ ("before" | "fresh") => {
                    let plan = journal.plans.get_mut(values.number::<usize>()?)?;
                    let old = word == "before";
                    let mark = if old { &mut plan.before } else { &mut plan.fresh };
                    mark.read(&mut values)?;
                }
                _ => return None,
            }
        }
        Some(journal)
    }

    fn last_pieces(&mut self) -> Option<(&mut Vec<PathBuf>, &mut Vec<Piece>)> {
        match &mut self.plans.last_mut()?.way {
            Way::Pieces { folders, pieces } => Some((folders, pieces)),
            Way::Whole { .. } => None,
        }
    }

    /// Puts it on the disk, in one step.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        make_folder(folder)?;
        let next = folder.join("journal.new");
        lay(&next, &self.bytes(self.proven))?;
        fs::rename(&next, folder.join(NAME))?;
        File::open(folder)?.sync_all()
    }

    /// As [`Self::write`], with all that [`Self::prove`] needs.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn write_ready(&self, folder: &Path) -> io::Result<()> {
        make_folder(folder)?;
        lay(&folder.join(PROVEN), &self.bytes(true))?;
        self.write(folder)
    }

    /// Says on the disk that the swap of the journal there is proven.
    ///
    /// # Errors
    /// What rename(2) and fsync(2) say.
    pub(crate) fn prove(folder: &Path) -> io::Result<()> {
        fs::rename(folder.join(PROVEN), folder.join(NAME))?;
        File::open(folder)?.sync_all()
    }

    fn bytes(&self, proven: bool) -> Vec<u8> {
        let mut writer = Writer::default();
        let state = if proven { &b"proven"[..] } else { b"swapping" };
        writer.record(&[FORM.as_bytes(), self.generation.as_bytes(), state]);
        for (number, plan) in self.plans.iter().enumerate() {
            let (path, staged) = (of_path(&plan.path), of_path(&plan.staged));
            match &plan.way {
                Way::Whole { old, new } => {
                    let (old, new) = (old.unwrap_or_default().to_string(), new.to_string());
                    let (old, new) = (old.as_bytes(), new.as_bytes());
                    writer.record(&[b"root", path, staged, b"whole", old, new]);
                }
                Way::Pieces { folders, pieces } => {
                    writer.record(&[b"root", path, staged, b"pieces"]);
                    for folder in folders {
                        writer.record(&[b"folder", of_path(folder)]);
                    }
                    for piece in pieces {
                        piece.write(&mut writer);
                    }
                }
            }
            plan.before.write(&mut writer, b"before", number);
            // Only who goes back asks what the new tree looked like.
            if !proven {
                plan.fresh.write(&mut writer, b"fresh", number);
            }
        }
        writer.bytes()
    }

    /// Takes the journal of a directory away.
    ///
    /// # Errors
    /// What unlink(2) and fsync(2) say.
    pub(crate) fn remove(folder: &Path) -> io::Result<()> {
        gone(fs::remove_file(folder.join(NAME)))?;
        gone(fs::remove_file(folder.join(PROVEN)))?;
        gone(File::open(folder))?.map_or(Ok(()), |folder| folder.sync_all())
    }
}

/// Writes a file that isn't the journal yet.
fn lay(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// For root's eyes only: journals name files, and drift holds their bytes.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        assert!(Journal::read(&state).unwrap().is_none());
        let tree = folder.path().join("a tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub/file"), "bytes").unwrap();
        let print = Fingerprint::of(&tree).unwrap();
        let plan = |way| Plan {
            path: tree.clone(),
            staged: folder.path().join("b\n"),
            way,
            before: print.clone(),
            fresh: Fingerprint::default(),
        };
        let piece = Piece::Put { target: tree.join("x"), spare: tree.join("y"), new: 7, old: None };
        let pieces = Way::Pieces { folders: vec![tree.clone()], pieces: vec![piece] };
        let plans = vec![plan(Way::Whole { old: None, new: 5 }), plan(pieces)];
        let journal = Journal { generation: "17".into(), proven: true, plans };
        journal.write(&state).unwrap();
        let back = Journal::read(&state).unwrap().unwrap();
        assert_eq!(format!("{back:?}"), format!("{journal:?}"));
        Journal::remove(&state).unwrap();
        assert!(Journal::read(&state).unwrap().is_none());
        fs::write(state.join(NAME), "something else").unwrap();
        assert!(Journal::read(&state).is_err());
    }
}
