//! A large tree in which little differs: only that is staged, and nginx's test sees it over the live tree.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::fchdir;
use standin_linux::private::{self, Loose, mount_id};
use standin_linux::spawn;

use crate::fields::Values;
use crate::fingerprint::{Fingerprint, gone};
use crate::inside::{self, Spot};
use crate::pieces::{Piece, inode};
use crate::view::joined;
use crate::{Root, Staged, copy, writes};

/// Something at one path that differs from the live tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Relative to the root; empty for the root itself, which can only be dressed.
    pub path: PathBuf,
    pub change: Change,
}

/// What is done there; N is the part's number, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file, link or whole directory `staged/N` takes this place.
    Put,
    /// What lies there goes.
    Remove,
    /// The directory there takes the metadata of the directory `staged/N`.
    Dress,
}

impl Change {
    const WORDS: [(&str, Self); 3] =
        [("put", Self::Put), ("remove", Self::Remove), ("dress", Self::Dress)];

    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, change)| *change == self).map_or("", |(word, _)| word)
    }
}

impl Part {
    pub(crate) fn read(values: &mut Values<'_>) -> Option<Self> {
        let word = values.text()?;
        let change = Change::WORDS.iter().find(|(known, _)| *known == word)?.1;
        let path = values.path()?;
        let inside = path.components().all(|it| matches!(it, std::path::Component::Normal(_)));
        inside.then_some(Self { path, change })
    }
}

fn place(staged: &Path, number: usize) -> PathBuf {
    staged.join(number.to_string())
}

/// Where the metadata that a directory had is kept.
fn was(staged: &Path, number: usize) -> PathBuf {
    staged.join(format!("{number}.was"))
}

fn parts(root: &Root) -> impl Iterator<Item = (usize, &Part)> {
    root.parts.iter().flatten().enumerate()
}

/// Lays aside what directories that will be dressed have now: it is to be on the disk with the rest.
pub(crate) fn remember(staged: &Staged) -> io::Result<()> {
    for root in &staged.roots {
        for (number, part) in parts(root).filter(|(_, part)| part.change == Change::Dress) {
            let (target, spare) = (joined(&root.path, &part.path), was(&root.staged, number));
            if spare.symlink_metadata().is_ok() {
                continue;
            }
            let target = Spot::folder(&root.path, &target)?;
            fs::DirBuilder::new().mode(0o700).create(&spare)?;
            copy::metadata(target.path(), &fs::symlink_metadata(target.path())?, &spare)?;
        }
    }
    Ok(())
}

/// What is to be done, in the order of the parts, and what the new files look like.
///
/// # Errors
/// What the kernel says; a target that a link leads to, or that lies in another mount, and a directory
/// that isn't the one whose metadata was laid aside: such a root can only be had whole.
pub(crate) fn plan(root: &Root) -> io::Result<(Vec<Piece>, Fingerprint)> {
    let elsewhere = |path: &Path| {
        io::Error::other(format!("{} is behind a link, or in another mount", path.display()))
    };
    let mount = mount_id(&root.path)?;
    if fs::canonicalize(&root.path)? != root.path || mount_id(&root.staged)? != mount {
        return Err(elsewhere(&root.path));
    }
    let (mut pieces, mut fresh) = (Vec::new(), Fingerprint::default());
    for (number, part) in parts(root) {
        let (target, spare) = (joined(&root.path, &part.path), place(&root.staged, number));
        if part.change == Change::Dress {
            let (model, spare) = (spare, was(&root.staged, number));
            let spot = Spot::folder(&root.path, &target)?;
            let (now, then) = (fs::symlink_metadata(spot.path())?, fs::symlink_metadata(&spare)?);
            let seen = |found: &fs::Metadata| (found.mode(), found.uid(), found.gid());
            if mount_id(spot.path())? != mount || seen(&now) != seen(&then) {
                return Err(elsewhere(&target));
            }
            pieces.push(Piece::Dress { target, spare, model, old: Some(now.ino()) });
            continue;
        }
        let parent = part.path.parent().ok_or_else(|| elsewhere(&target))?;
        let spot = Spot::of(&root.path, &target)?;
        if mount_id(Spot::folder(&root.path, &joined(&root.path, parent))?.path())? != mount {
            return Err(elsewhere(&target));
        }
        let old = inode(spot.path())?;
        match (part.change, old) {
            (Change::Put, _) => {
                let new = inode(&spare)?.ok_or(io::ErrorKind::NotFound)?;
                fresh.lay(&part.path, Fingerprint::of(&spare)?);
                pieces.push(Piece::Put { target, spare, new, old });
            }
            (Change::Remove, Some(old)) => pieces.push(Piece::Remove { target, spare, old }),
            (Change::Remove, None) | (Change::Dress, _) => {}
        }
    }
    Ok((pieces, fresh))
}

/// Lays the parts over a live tree, for this process and its children only, and takes hold of that. The
/// process' working directory changes.
///
/// # Errors
/// In words; where there is no overlay file system, nothing can be shown so.
pub(crate) fn show(at: &Path, staged: Loose, parts: &[Part]) -> Result<Loose, String> {
    let words = |error: io::Error| format!("{} with its changes: {error}", at.display());
    if !writes::is_plain(at) {
        return Err(words(io::Error::other("its path has a comma, a colon or a backslash")));
    }
    let corner = writes::corner()?;
    spawn::mount_memory(corner).map_err(words)?;
    let shown = over(at, staged, parts, corner);
    let left = private::unmount(corner).map_err(words);
    let shown = shown.map_err(words)?;
    left.map(|()| shown)
}

fn over(at: &Path, staged: Loose, parts: &[Part], corner: &Path) -> io::Result<Loose> {
    let [new, upper, work] = ["new", "upper", "work"].map(|name| corner.join(name));
    for folder in [&new, &upper, &work] {
        fs::create_dir(folder)?;
    }
    writes::like(at, &upper)?;
    staged.show_at(&new)?;
    spawn::mount_overlay(at, &upper, &work)?;
    for (number, part) in parts.iter().enumerate() {
        let source = place(&new, number);
        // A link in the live tree leads out of the overlay, to the real files. Names are written to from
        // their directory, as /proc need not know this process here.
        if part.change == Change::Dress {
            fchdir(inside::folder(at, &part.path)?)?;
            copy::metadata(&source, &fs::symlink_metadata(&source)?, Path::new("."))?;
            continue;
        }
        let (parent, name) =
            part.path.parent().zip(part.path.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
        fchdir(inside::folder(at, parent)?)?;
        let target = Path::new(name);
        match gone(fs::symlink_metadata(target))? {
            Some(found) if found.is_dir() => fs::remove_dir_all(target)?,
            Some(_) => fs::remove_file(target)?,
            None => {}
        }
        if part.change == Change::Put {
            copy::tree(&source, target)?;
        }
    }
    std::env::set_current_dir("/")?;
    Loose::of(at)
}
