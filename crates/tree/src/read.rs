//! Reads trees from the disk into a manifest that nobody wrote to while it was made.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use crate::build::Written;
use crate::globs::Globs;
use crate::hash::Hash;
use crate::manifest::{Attribute, Fault, Manifest, Time, is_clean_root};
use crate::stamp::Stamp;
use crate::store::Store;
use crate::walk::{Depth, Together, Walk, help};
use std::os::unix::ffi::OsStrExt;

/// The pause before a tree that moved is read again.
const AGAIN: Duration = Duration::from_millis(5);

/// What is read.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    roots: Vec<PathBuf>,
    exclude: Globs,
}

impl Spec {
    /// Roots within others, and those that stand twice, are read once.
    ///
    /// # Errors
    /// A root that is no absolute path without `.` and `..`, or the whole file system.
    pub fn new(roots: impl IntoIterator<Item = PathBuf>, exclude: Globs) -> Result<Self, Fault> {
        let mut all: Vec<PathBuf> = Vec::new();
        for root in roots {
            // Neither a slash at the end nor two in a row mean anything.
            let root: PathBuf = root.components().collect();
            let name = root.as_os_str().as_bytes();
            if !is_clean_root(name) {
                return Err(Fault::at("must be an absolute path without `.` and `..`", name));
            }
            all.push(root);
        }
        all.sort_unstable();
        all.dedup_by(|later, earlier| later.starts_with(earlier));
        Ok(Self { roots: all, exclude })
    }

    /// Sorted; none lies within another.
    #[must_use]
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    #[must_use]
    pub const fn exclude(&self) -> &Globs {
        &self.exclude
    }
}

/// Where a root really is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As the cluster file has it.
    pub root: PathBuf,
    /// With every symbolic link on the way resolved.
    pub real: PathBuf,
    /// The root itself is a symbolic link.
    pub symlink: bool,
    /// Something is mounted there: it can't be exchanged.
    pub mount: bool,
}

/// Why something in a root is no part of its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// `exclude` names it, or it is standin's own.
    Excluded,
    Socket,
    Fifo,
    Device,
    /// Larger than [`crate::manifest::MAX_FILE`].
    TooLarge,
    /// Deeper than [`crate::manifest::MAX_DEPTH`].
    TooDeep,
    /// The entry is in the manifest, without attributes that were too many or couldn't be read.
    Attributes,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Excluded => "excluded",
            Self::Socket => "a socket",
            Self::Fifo => "a named pipe",
            Self::Device => "a device",
            Self::TooLarge => "larger than 1 GiB",
            Self::TooDeep => "nested too deep",
            Self::Attributes => "has attributes that are not kept",
        })
    }
}

/// Something that is no part of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub root: PathBuf,
    /// Relative to the root.
    pub path: Box<[u8]>,
    pub why: Why,
}

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    pub manifest: Manifest,
    /// The roots that are there.
    pub places: Vec<Place>,
    /// Absolute paths below the roots where something is mounted.
    pub mounts: Vec<PathBuf>,
    pub left_out: Vec<LeftOut>,
    /// Nothing moved meanwhile: the tree stood so at one instant. Otherwise each file is one that was
    /// there, but not all of them at the same time.
    pub settled: bool,
    /// All inodes said what they had said in the reading before.
    pub(crate) as_before: bool,
    /// Files whose bytes were read; the others were known by their inode.
    pub files_read: usize,
    pub bytes_read: u64,
}

/// What an inode said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// With the file's type.
    pub mode: u32,
    pub inode: u64,
    /// In bytes.
    pub size: u64,
    pub modified: Time,
}

/// A directory that is about to be listed.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    pub fd: BorrowedFd<'a>,
    /// As the cluster file has it.
    pub root: &'a Path,
    pub relative: &'a [u8],
}

/// Is told of each directory before it is listed, so that a watch comes before the list.
pub type BeforeListing<'a> = &'a mut dyn FnMut(Directory<'_>);

/// What is known of a file by its inode.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) stamp: Stamp,
    pub(crate) size: u64,
    pub(crate) hash: Hash,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) complete: bool,
    /// It was old enough when it was read.
    pub(crate) sure: bool,
}

/// Files by device and inode.
pub(crate) type Inodes = HashMap<(u64, u64), Known>;

/// The stamps of a whole tree, sorted by root and path.
pub(crate) type Stamps = Vec<(usize, Box<[u8]>, Stamp)>;

/// Reads trees, and remembers the hashes of files by inode, size and times.
#[derive(Debug, Default)]
pub struct Reader {
    known: Inodes,
    /// Of the last tree that was read without a move.
    stamps: Stamps,
}

impl Reader {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Knows the files of a tree that was built just now, and that is nobody else's yet.
    #[must_use]
    pub fn knowing(written: Written) -> Self {
        Self { known: written.0, stamps: Stamps::new() }
    }

    /// Reads the tree once, then looks whether anything moved meanwhile. With a store, the bytes of
    /// every file are in it afterwards (not yet on the disk: [`Store::commit`]).
    ///
    /// # Errors
    /// What open(2), read(2) and their kin say, with the path; more than the bounds of
    /// [`crate::manifest`]. A tree that can't be read whole is not read at all.
    pub fn read(
        &mut self,
        spec: &Spec,
        store: Option<&Store>,
        before_listing: BeforeListing<'_>,
    ) -> io::Result<Scan> {
        let mut scan = self.glance(spec, store, before_listing)?;
        self.confirm(spec, &mut scan)?;
        Ok(scan)
    }

    /// Reads the tree once, and doesn't look again whether anything has moved meanwhile: for a tree that
    /// is nobody else's, for who knows by its name whether it is the one that he expects, and for who
    /// [confirms](Self::confirm) it.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn glance(
        &mut self,
        spec: &Spec,
        store: Option<&Store>,
        before_listing: BeforeListing<'_>,
    ) -> io::Result<Scan> {
        let (together, known) = (Together::default(), &self.known);
        let (moved, (mut scan, known, stamps)) = thread::scope(|scope| {
            let _end = together.ends();
            let call = || {
                // Where no thread can be had it takes longer.
                let _other = thread::Builder::new()
                    .spawn_scoped(scope, || help(spec, store, known, &together));
            };
            let walk = Walk::new(spec, Depth::Read, store, known, before_listing);
            let mut walk = walk.with(&together, &call);
            walk.all()?;
            io::Result::Ok((walk.moved, walk.finish()?))
        })?;
        self.known = known;
        scan.settled = !moved;
        scan.as_before = !moved && stamps == self.stamps;
        self.stamps = if moved { Stamps::new() } else { stamps };
        Ok(scan)
    }

    /// Looks again, without reading, whether anything has moved since the last glance began; one that
    /// saw what the reading before had seen needs no other look.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn confirm(&mut self, spec: &Spec, scan: &mut Scan) -> io::Result<()> {
        if !scan.settled || scan.as_before {
            return Ok(());
        }
        let mut nothing = |_: Directory<'_>| {};
        let mut again = Walk::new(spec, Depth::Stamps, None, &self.known, &mut nothing);
        again.all()?;
        scan.settled = !again.moved && again.stamps() == self.stamps;
        if !scan.settled {
            self.stamps = Stamps::new();
        }
        Ok(())
    }

    /// What the inodes of a root said, in the last reading in which nothing moved: of all that was read,
    /// not of what was left out. Of directories neither size nor time.
    pub fn marks(&self, spec: &Spec, root: &Path) -> impl Iterator<Item = (&[u8], Mark)> {
        let at = spec.roots.iter().position(|one| one == root);
        let of_root = self.stamps.iter().filter(move |(number, ..)| Some(*number) == at);
        of_root.map(|(_, path, stamp)| {
            let Stamp { mode, inode, size, modified, .. } = *stamp;
            (&**path, Mark { mode: mode.into(), inode, size, modified })
        })
    }

    /// Reads the tree until nothing moves while it is read, or until `patience` is over.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn snapshot(
        &mut self,
        spec: &Spec,
        store: Option<&Store>,
        patience: Duration,
    ) -> io::Result<Scan> {
        let begin = Instant::now();
        loop {
            let scan = self.read(spec, store, &mut |_| {})?;
            if scan.settled || begin.elapsed() >= patience {
                return Ok(scan);
            }
            thread::sleep(AGAIN);
        }
    }
}
