//! A root that can't be exchanged as a whole: each file that differs is, and can be taken back.
//!
//! The new bytes are laid into a hidden folder in the same mount first, and each rename puts the old
//! ones where the new ones were: nothing is overwritten, and all can be told by inodes afterwards.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use standin_linux::private::mount_id;

use crate::HIDDEN;
use crate::copy;
use crate::fields::{Values, Writer, of_path};
use crate::fingerprint::gone;
use crate::inside::Spot;

/// One change, of a file or of a whole directory that is new or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// `spare` goes to `target`; what was there goes to `spare`, or beside it.
    Put { target: PathBuf, spare: PathBuf, new: u64, old: Option<u64> },
    /// `target` goes to `spare`.
    Remove { target: PathBuf, spare: PathBuf, old: u64 },
    /// The directory `target` takes the metadata of `model`; `spare` has what it had. Another directory
    /// in its place is left alone.
    Dress { target: PathBuf, spare: PathBuf, model: PathBuf, old: Option<u64> },
}

pub(crate) fn inode(path: &Path) -> io::Result<Option<u64>> {
    Ok(gone(fs::symlink_metadata(path))?.map(|found| found.ino()))
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, flags)
}

/// Lets two paths change places.
pub(crate) fn exchange(one: &Path, other: &Path) -> rustix::io::Result<()> {
    rename(one, other, RenameFlags::EXCHANGE)
}

/// Moves to where nothing is.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rename(from, to, RenameFlags::NOREPLACE) {
        // A file system that doesn't know the flag.
        Err(Errno::INVAL) if inode(to)?.is_none() => fs::rename(from, to),
        other => Ok(other?),
    }
}

/// Where the old file goes on file systems that can't exchange.
fn aside(spare: &Path) -> PathBuf {
    let mut name = spare.as_os_str().to_owned();
    name.push(".old");
    PathBuf::from(name)
}

impl Piece {
    pub(crate) fn target(&self) -> &Path {
        match self {
            Self::Put { target, .. } | Self::Remove { target, .. } | Self::Dress { target, .. } => {
                target
            }
        }
    }

    /// Where something new lies after the swap, and its inode.
    pub(crate) fn new_inode(&self) -> Option<(&Path, u64)> {
        match self {
            Self::Put { target, new, .. } => Some((target, *new)),
            Self::Remove { .. } | Self::Dress { .. } => None,
        }
    }

    /// The directories whose names or metadata it changes.
    pub(crate) fn folder(&self) -> &Path {
        match self {
            Self::Dress { target, .. } => target,
            Self::Put { target, .. } | Self::Remove { target, .. } => {
                target.parent().unwrap_or_else(|| Path::new("/"))
            }
        }
    }

    /// Where the old bytes are after the swap, if there were any: also where nothing was when the swap
    /// was planned, somebody may have been quicker.
    pub(crate) fn old(&self) -> Option<PathBuf> {
        match self {
            Self::Put { spare, .. } => {
                let aside = aside(spare);
                Some(if aside.symlink_metadata().is_ok() { aside } else { spare.clone() })
            }
            Self::Remove { spare, .. } => Some(spare.clone()),
            Self::Dress { .. } => None,
        }
    }

    /// Does it; a second time does nothing. No link inside `root` is followed.
    pub(crate) fn place(&self, root: &Path) -> io::Result<()> {
        match self {
            Self::Put { target, spare, new, .. } => {
                let (target, spare) = (Spot::of(root, target)?, Spot::of(root, spare)?);
                let (target, spare) = (target.path(), spare.path());
                if inode(target)? == Some(*new) {
                    return Ok(());
                }
                if inode(target)?.is_none() {
                    return rename_new(spare, target);
                }
                match exchange(spare, target) {
                    Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                        fs::rename(target, aside(spare))?;
                        fs::rename(spare, target)
                    }
                    other => Ok(other?),
                }
            }
            Self::Remove { target, spare, old } => {
                let (target, spare) = (Spot::of(root, target)?, Spot::of(root, spare)?);
                match inode(target.path())? {
                    Some(there) if there == *old => rename_new(target.path(), spare.path()),
                    // nginx would load it with the generation.
                    Some(_) => Err(io::Error::other("another file was put there meanwhile")),
                    None => Ok(()),
                }
            }
            Self::Dress { target, model, old, .. } => {
                let target = Spot::folder(root, target)?;
                if old.is_some() && inode(target.path())? != *old {
                    return Err(io::Error::other("another directory was put there meanwhile"));
                }
                copy::metadata(model, &fs::symlink_metadata(model)?, target.path())
            }
        }
    }

    /// Undoes it, whole or half done; a second time does nothing. No link inside `root` is followed.
    ///
    /// # Errors
    /// What the file system says; a link in the way to where something has to go back.
    pub(crate) fn take_back(&self, root: &Path) -> io::Result<()> {
        let (Self::Put { spare, .. } | Self::Remove { spare, .. } | Self::Dress { spare, .. }) =
            self;
        // Without its folder it has been taken back already.
        let Some(spare) = gone(Spot::of(root, spare))? else { return Ok(()) };
        let spare = spare.path();
        match self {
            Self::Put { target, new, .. } => {
                let (aside, there) = (aside(spare), inode(spare)?);
                let is_aside = inode(&aside)?.is_some();
                if !is_aside && there == Some(*new) {
                    return Ok(());
                }
                let target = match gone(Spot::of(root, target))? {
                    Some(target) => target,
                    // It was new, and has gone with its directory.
                    None if !is_aside && there.is_none() => return Ok(()),
                    None => return Err(io::ErrorKind::NotFound.into()),
                };
                let target = target.path();
                let ours = inode(target)? == Some(*new);
                if is_aside {
                    if ours {
                        fs::rename(target, spare)?;
                    }
                    return back(&aside, target);
                }
                match there {
                    // It was new.
                    None if ours => rename_new(target, spare),
                    None => Ok(()),
                    Some(_) => back(spare, target),
                }
            }
            Self::Remove { target, .. } => match inode(spare)? {
                Some(_) => back(spare, Spot::of(root, target)?.path()),
                None => Ok(()),
            },
            Self::Dress { target, old, .. } => {
                let Some(before) = gone(fs::symlink_metadata(spare))? else { return Ok(()) };
                let target = match Spot::folder(root, target) {
                    // Somebody put something else there, which was never dressed.
                    Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
                    other => gone(other)?,
                };
                let Some(target) = target else { return Ok(()) };
                match old.is_none() || inode(target.path())? == *old {
                    true => copy::metadata(spare, &before, target.path()),
                    false => Ok(()),
                }
            }
        }
    }

    /// What somebody else has put at the target meanwhile, after it was taken back.
    pub(crate) fn foreign(&self) -> io::Result<Option<PathBuf>> {
        let (spare, ours) = match self {
            Self::Put { spare, new, .. } => (spare, Some(*new)),
            Self::Remove { spare, .. } => (spare, None),
            Self::Dress { .. } => return Ok(None),
        };
        for aside in [newer(&aside(spare)), newer(spare)] {
            if inode(&aside)?.is_some() {
                return Ok(Some(aside));
            }
        }
        Ok(inode(spare)?.filter(|there| Some(*there) != ours).map(|_| spare.clone()))
    }

    /// Where its own new file or directory lies, after it was taken back.
    pub(crate) fn taken_out(&self) -> io::Result<Option<PathBuf>> {
        let Self::Put { spare, new, .. } = self else { return Ok(None) };
        Ok((inode(spare)? == Some(*new)).then(|| spare.clone()))
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        let number = |number: u64| number.to_string().into_bytes();
        match self {
            Self::Put { target, spare, new, old } => writer.record(&[
                b"piece",
                b"put",
                of_path(target),
                of_path(spare),
                &number(*new),
                &number(old.unwrap_or_default()),
            ]),
            Self::Remove { target, spare, old } => {
                let paths = (of_path(target), of_path(spare));
                writer.record(&[b"piece", b"remove", paths.0, paths.1, &number(*old)]);
            }
            Self::Dress { target, spare, model, old } => {
                let paths = [target, spare, model].map(|path| of_path(path));
                let old = number(old.unwrap_or_default());
                writer.record(&[b"piece", b"dress", paths[0], paths[1], paths[2], &old]);
            }
        }
    }

    /// Reads what [`Self::write`] wrote, after its first word.
    pub(crate) fn read(values: &mut Values<'_>) -> Option<Self> {
        let word = values.text()?;
        let (target, spare) = (values.path()?, values.path()?);
        Some(match word {
            "put" => {
                let (new, old) = (values.number()?, values.number::<u64>()?);
                Self::Put { target, spare, new, old: Some(old).filter(|old| *old != 0) }
            }
            "remove" => Self::Remove { target, spare, old: values.number()? },
            "dress" => {
                let (model, old) = (values.path()?, values.number::<u64>());
                Self::Dress { target, spare, model, old: old.filter(|old| *old != 0) }
            }
            _ => return None,
        })
    }
}

/// Puts the old one back where it was; what is there by now goes where it lay.
fn back(old: &Path, target: &Path) -> io::Result<()> {
    if inode(target)?.is_none() {
        return rename_new(old, target);
    }
    match exchange(old, target) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => back_without_exchange(old, target),
        other => Ok(other?),
    }
}

fn back_without_exchange(old: &Path, target: &Path) -> io::Result<()> {
    fs::rename(target, newer(old))?;
    fs::rename(old, target)
}

/// Where what lies at the target goes on file systems that can't exchange, when the old file goes back.
fn newer(old: &Path) -> PathBuf {
    let mut name: OsString = old.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Prepares everything that makes `root` like `staged`, without changing what is seen there.
pub(crate) struct Preparation<'r> {
    root: &'r Path,
    /// Told each hidden folder before it is made.
    announce: &'r mut dyn FnMut(&Path) -> io::Result<()>,
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) pieces: Vec<Piece>,
}

impl<'r> Preparation<'r> {
    pub(crate) fn of(
        root: &'r Path,
        staged: &Path,
        announce: &'r mut dyn FnMut(&Path) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut it = Self { root, announce, folders: Vec::new(), pieces: Vec::new() };
        it.compare(root, staged)?;
        Ok(it)
    }

    fn compare(&mut self, live: &Path, staged: &Path) -> io::Result<()> {
        let (old, new) = (gone(fs::symlink_metadata(live))?, gone(fs::symlink_metadata(staged))?);
        match (old, new) {
            (Some(old), Some(new)) if old.is_dir() && new.is_dir() => {
                let names = |folder: &Path| -> io::Result<BTreeSet<OsString>> {
                    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
                };
                let mut all = names(live)?;
                all.append(&mut names(staged)?);
                for name in all.iter().filter(|name| name.as_os_str() != HIDDEN) {
                    self.compare(&live.join(name), &staged.join(name))?;
                }
                if copy::same(live, staged)? { Ok(()) } else { self.dress(live, staged, &old) }
            }
            (Some(_), Some(_)) if copy::same(live, staged)? => Ok(()),
            (old, Some(_)) => {
                let spare = self.spare(live)?;
                let spot = Spot::of(self.root, &spare)?;
                // A link is the staged file itself, with all its attributes.
                if fs::hard_link(staged, spot.path()).is_err() {
                    copy::tree(staged, spot.path())?;
                }
                let new = inode(spot.path())?.ok_or(io::ErrorKind::NotFound)?;
                let old = old.map(|found| found.ino());
                self.pieces.push(Piece::Put { target: live.to_owned(), spare, new, old });
                Ok(())
            }
            (Some(old), None) => {
                let spare = self.spare(live)?;
                let target = live.to_owned();
                self.pieces.push(Piece::Remove { target, spare, old: old.ino() });
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    fn dress(&mut self, live: &Path, model: &Path, old: &fs::Metadata) -> io::Result<()> {
        let spare = self.spare(&live.join("x"))?;
        let spot = Spot::of(self.root, &spare)?;
        fs::DirBuilder::new().mode(0o700).create(spot.path())?;
        copy::metadata(live, old, spot.path())?;
        let (target, model, old) = (live.to_owned(), model.to_owned(), Some(old.ino()));
        self.pieces.push(Piece::Dress { target, spare, model, old });
        Ok(())
    }

    /// A free name in a hidden folder in the same mount as the target's directory.
    fn spare(&mut self, target: &Path) -> io::Result<PathBuf> {
        let parent = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let mount = mount_id(parent)?;
        let mut anchor = parent;
        while anchor != self.root
            && let Some(above) = anchor.parent().filter(|above| above.starts_with(self.root))
            && mount_id(above)? == mount
        {
            anchor = above;
        }
        let folder = anchor.join(HIDDEN);
        if !self.folders.contains(&folder) {
            (self.announce)(&folder)?;
            // No journal has named it before: it belongs to nobody.
            let spot = Spot::of(self.root, &folder)?;
            gone(fs::remove_dir_all(spot.path()))?;
            fs::DirBuilder::new().mode(0o700).create(spot.path())?;
            self.folders.push(folder.clone());
        }
        Ok(folder.join(self.pieces.len().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where nothing can be exchanged (NFS, FUSE) the old file lies beside the spare name, and what somebody
    /// wrote meanwhile goes beside that.
    #[test]
    fn what_somebody_wrote_where_nothing_can_be_exchanged_is_known_after_it_was_taken_back() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let (target, spare) = (at("a.conf"), at("0"));
        fs::write(&target, "old").unwrap();
        fs::write(&spare, "new").unwrap();
        let new = inode(&spare).unwrap().unwrap();
        let old = inode(&target).unwrap();
        let put = Piece::Put { target: target.clone(), spare: spare.clone(), new, old };
        let told = |piece: &Piece| {
            let found = piece.foreign().unwrap();
            found.map(|path| fs::read_to_string(path).unwrap())
        };
        // As `place` does there, and then `back`.
        fs::rename(&target, aside(&spare)).unwrap();
        fs::rename(&spare, &target).unwrap();
        fs::write(at("saved~"), "somebody's").unwrap();
        fs::rename(at("saved~"), &target).unwrap();
        back_without_exchange(&aside(&spare), &target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        assert_eq!(told(&put).as_deref(), Some("somebody's"));

        let old = inode(&target).unwrap().unwrap();
        let remove = Piece::Remove { target: target.clone(), spare: at("1"), old };
        remove.place(root.path()).unwrap();
        fs::write(&target, "again somebody's").unwrap();
        back_without_exchange(&at("1"), &target).unwrap();
        assert_eq!(told(&remove).as_deref(), Some("again somebody's"));
    }
}
