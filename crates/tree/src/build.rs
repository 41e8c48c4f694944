//! Builds a root from the store: a staged tree beside the live one, with everything a manifest says.
//!
//! Each entry is reached from descriptor to descriptor, never through a symbolic link: whoever owns a
//! directory in the tree can't make a process with more rights write elsewhere.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat,
    fchmod, fchown, fsync, futimens, ioctl_ficlone, linkat, mkdirat, openat, renameat_with,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use crate::attributes;
use crate::hash::Hash;
use crate::manifest::{Attribute, Entry, Kind, Root, Time, shown};
use crate::owners::Owners;
use crate::read::{Inodes, Known};
use crate::stamp::{Seen, Stamp, about, open_directory, open_file};
use crate::store::Store;

/// Larger files are shared with the store where the file system can do that.
const SMALL: u64 = 1 << 20;

/// A new tree with as many entries is made by two threads. Tried on ext4: 10,000 files take 400 ms on one.
const LARGE: usize = 1000;

/// A file that isn't in its place yet.
const MADE: &[u8] = b".standin-made";

/// Open directories remembered at once; the process may have 1,024 descriptors.
const OPEN: usize = 64;

/// Something that this host or its file system didn't take; the rest of the tree is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where it should have been.
    pub path: PathBuf,
    pub what: String,
}

/// What was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// Files, directories and links made; the others stood there already.
    pub made: usize,
    pub refused: Vec<Refused>,
}

/// Files that were made just now: see [`Builder::written`].
#[derive(Debug, Default)]
pub struct Written(pub(crate) Inodes);

/// Builds trees out of a store.
#[derive(Debug)]
pub struct Builder<'a> {
    store: &'a Store,
    owners: Owners,
    refused: Vec<Refused>,
    written: Inodes,
    /// Whose files are that this process makes.
    own: (Uid, Gid),
    /// Only root can look into the directory in which things are made.
    secluded: bool,
}

/// What a crash left, or what was replaced; the name is standin's own, so that nobody reads it.
fn remove_made(folder: &OwnedFd) -> rustix::io::Result<()> {
    match unlinkat(folder, MADE, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Gives [`MADE`] its name where what was seen lies there still; what was there is [`MADE`] then.
fn place(folder: &OwnedFd, name: &[u8], saw: Option<&Entry>) -> io::Result<bool> {
    let rename = |flags| renameat_with(folder, MADE, folder, name, flags);
    let Some(saw) = saw else {
        return match rename(RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            // A file system that doesn't know the flag.
            Err(Errno::INVAL) => match open_file(folder, name) {
                Err(Errno::NOENT) => Ok(rename(RenameFlags::empty()).map(|()| true)?),
                _ => Ok(false),
            },
            Err(errno) => Err(errno.into()),
        };
    };
    match rename(RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::INVAL) => {
            let same = is_content(folder, name, saw)?;
            return Ok(same && rename(RenameFlags::empty()).map(|()| true)?);
        }
        Err(errno) => return Err(errno.into()),
    }
    // Only what has no name any more can't be replaced between the look and the rename.
    let same = is_content(folder, MADE, saw);
    if !matches!(same, Ok(true)) {
        rename(RenameFlags::EXCHANGE)?;
    }
    same
}

/// Whether a file's bytes are those of an entry.
fn is_content(folder: &OwnedFd, name: &[u8], entry: &Entry) -> io::Result<bool> {
    let Kind::File { size, hash, .. } = &entry.kind else { return Ok(false) };
    let file = match open_file(folder, name) {
        Ok(fd) => File::from(fd),
        // A link, a directory, a socket.
        Err(_) => return Ok(false),
    };
    let found = file.metadata()?;
    if !found.is_file() || found.len() != *size {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    file.take(size.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Hash::of(&bytes) == *hash)
}

impl<'a> Builder<'a> {
    #[must_use]
    pub fn new(store: &'a Store) -> Self {
        let (refused, written) = (Vec::new(), Inodes::new());
        let own = (geteuid(), getegid());
        Self { store, owners: Owners::new(), refused, written, own, secluded: false }
    }

    /// What it knows of the files that it has made, for a reader of them: nobody else has had them yet,
    /// so that their bytes are those of the store and needn't be read again.
    #[must_use]
    pub fn written(self) -> Written {
        Written(self.written)
    }

    /// Makes `root` at the path `at`, where nothing may stand, or, with `present`, what a reader found
    /// there just now: then only what is different is touched.
    ///
    /// `at` should be in a directory that only root may write, beside the live root, so that it can be
    /// exchanged with it. Nothing is synced: see [`Store::commit`].
    ///
    /// # Errors
    /// An object that is missing or damaged, and what the kernel says, with the path. A tree that was
    /// begun is left as it is.
    pub fn build(&mut self, root: &Root, at: &Path, present: Option<&Root>) -> io::Result<Built> {
        let fail = |error: io::Error| about(at.as_os_str().as_bytes(), error);
        let first = root.entries.first();
        let first = first.ok_or_else(|| fail(io::Error::other("nothing is to be built")))?;
        let (parent, name) = at
            .parent()
            .zip(at.file_name())
            .ok_or_else(|| fail(io::Error::other("no place for a tree")))?;
        let parent =
            open_directory(CWD, parent.as_os_str().as_bytes()).map_err(|e| fail(e.into()))?;
        if first.kind != Kind::Directory {
            if present.is_some() {
                unlinkat(&parent, name, AtFlags::empty()).map_err(|e| fail(e.into()))?;
            }
            self.make(parent.as_fd(), name.as_bytes(), first).map_err(fail)?;
            return Ok(Built { made: 1, refused: self.take_refused(at.parent()) });
        }
        if present.is_none() {
            mkdirat(&parent, name, Mode::RWXU).map_err(|e| fail(e.into()))?;
        }
        let fd = open_directory(&parent, name.as_bytes()).map_err(|e| fail(e.into()))?;
        let mut site = Site { at, root, present, folders: Folders::new(fd), made: 0 };
        site.clear()?;
        self.secluded = present.is_none();
        let filled = site.fill(self);
        self.secluded = false;
        filled?;
        site.finish(self)?;
        Ok(Built { made: site.made, refused: self.take_refused(None) })
    }

    /// Puts one file into a tree that is live, in the place of what a reader `saw` there: who opens it
    /// meanwhile gets the old one or the new one, whole, also after a crash. False, and nothing has
    /// changed, when something else lies there by now.
    ///
    /// # Errors
    /// As [`Builder::build`]; what was there is there still.
    pub fn replace(&mut self, root: &Path, entry: &Entry, saw: Option<&Entry>) -> io::Result<bool> {
        let at = root.join(entry.path());
        let fail = |error: io::Error| about(at.as_os_str().as_bytes(), error);
        let (folder, name) = split(&entry.path);
        let top = open_directory(CWD, root.as_os_str().as_bytes()).map_err(|e| fail(e.into()))?;
        let folder = Folders::new(top).open(folder).map_err(fail)?;
        remove_made(&folder).map_err(|errno| fail(errno.into()))?;
        self.make(folder.as_fd(), MADE, entry).map_err(fail)?;
        let placed = (|| {
            fsync(open_file(&*folder, MADE)?)?;
            let placed = place(&folder, name, saw)?;
            fsync(&*folder)?;
            remove_made(&folder)?;
            io::Result::Ok(placed)
        })();
        placed.map_err(fail)
    }

    pub(crate) fn take_refused(&mut self, below: Option<&Path>) -> Vec<Refused> {
        let mut refused = std::mem::take(&mut self.refused);
        for one in &mut refused {
            one.path = below.map_or_else(|| one.path.clone(), |below| below.join(&one.path));
        }
        refused
    }

    /// Makes one entry, where nothing of that name may stand, with all its metadata; a directory is
    /// empty then. Hard links are the caller's business.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn make(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
    ) -> io::Result<()> {
        match &entry.kind {
            Kind::Directory => {
                mkdirat(directory, name, Mode::RWXU)?;
                let fd = open_directory(directory, name)?;
                self.dress(fd.as_fd(), name, entry)
            }
            Kind::File { size, hash, .. } => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let plain = self.is_plain(entry);
                let mode = if plain {
                    Mode::from_raw_mode(entry.mode.into())
                } else {
                    Mode::RUSR | Mode::WUSR
                };
                let fd = openat(directory, name, flags, mode)?;
                let mut file = File::from(fd);
                self.fill(&mut file, *size, hash)?;
                if let Some(stamp) = plain.then(|| self.dressed(file.as_fd(), entry)).flatten() {
                    self.know(stamp, entry, *hash);
                    return Ok(());
                }
                let refused = self.refused.len();
                self.dress(file.as_fd(), name, entry)?;
                if self.refused.len() == refused {
                    self.know(Seen::open(&file)?.stamp, entry, *hash);
                }
                Ok(())
            }
            Kind::Symlink { target } => {
                symlinkat(&**target, directory, name)?;
                let (user, group) = self.ids(entry);
                chownat(directory, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
                if let Err((attribute, errno)) =
                    attributes::write_link(directory, name, &entry.attributes)
                {
                    self.refuse(name, &attribute, errno);
                }
                utimensat(directory, name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(())
            }
        }
    }

    /// Whether a file that is created with its mode has its owner and all else already, most likely: each
    /// change of an inode costs the file system microseconds. Where others may look it is nobody's but root's
    /// until all is as it should be: the directory may give it another group, or an access list.
    fn is_plain(&mut self, entry: &Entry) -> bool {
        let bare = entry.attributes.is_empty() && entry.mode & !0o777 == 0;
        self.secluded && bare && self.ids(entry) == self.own
    }

    /// Gives a file that was created with owner and mode the rest, and what the umask took; `None` where the
    /// directory or the file system has given it something else.
    fn dressed(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Option<Stamp> {
        attributes::write_open(fd, &entry.attributes).ok()?;
        let own = (self.own.0.as_raw(), self.own.1.as_raw());
        let looked = || Some(Seen::open(fd).ok()?.stamp).filter(|it| (it.uid, it.gid) == own);
        let as_wanted = |stamp: &Stamp| stamp.mode & 0o7777 == entry.mode;
        futimens(fd, &times(entry.modified)).ok()?;
        let stamp = looked()?;
        if as_wanted(&stamp) {
            return Some(stamp);
        }
        fchmod(fd, Mode::from_raw_mode(entry.mode.into())).ok()?;
        looked().filter(as_wanted)
    }

    fn know(&mut self, stamp: Stamp, entry: &Entry, hash: Hash) {
        let attributes = entry.attributes.clone();
        let size = stamp.size;
        let known = Known { stamp, size, hash, attributes, complete: true, sure: true };
        self.written.insert(stamp.key(), known);
    }

    fn fill(&self, file: &mut File, size: u64, hash: &Hash) -> io::Result<()> {
        if size < SMALL {
            return file.write_all(&self.store.read(hash)?);
        }
        let object = self.store.open_object(hash)?;
        if object.alone().is_some_and(|whole| ioctl_ficlone(&*file, whole).is_ok()) {
            // The bytes are shared now; they are only looked at.
            self.store.copy(hash, &mut io::sink())?;
        } else {
            self.store.copy(hash, file)?;
        }
        Ok(())
    }

    /// Gives an open file or directory the owner, mode, attributes and time of `entry`, in the order
    /// in which one doesn't undo the other.
    ///
    /// # Errors
    /// When owner, mode or time are refused. Attributes that are refused are reported: a file system
    /// may not know them.
    pub fn dress(&mut self, fd: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> io::Result<()> {
        let (user, group) = self.ids(entry);
        fchown(fd, Some(user), Some(group))?;
        fchmod(fd, Mode::from_raw_mode(entry.mode.into()))?;
        if let Err((attribute, errno)) = attributes::write_open(fd, &entry.attributes) {
            if is_access_list(&entry.attributes) {
                // Without its list, the group bits would give the group what they gave the list.
                fchmod(fd, Mode::from_raw_mode(u32::from(entry.mode & !0o070)))?;
            }
            self.refuse(name, &attribute, errno);
        }
        futimens(fd, &times(entry.modified))?;
        Ok(())
    }

    /// Gives refusals that name an entry its whole path.
    fn locate(&mut self, path: &Path) {
        for refused in self.refused.iter_mut().filter(|refused| refused.path.is_relative()) {
            path.clone_into(&mut refused.path);
        }
    }

    fn ids(&mut self, entry: &Entry) -> (Uid, Gid) {
        let user = self.owners.user_here(&entry.user).id;
        let group = self.owners.group_here(&entry.group).id;
        (Uid::from_raw(user), Gid::from_raw(group))
    }

    fn refuse(&mut self, name: &[u8], attribute: &[u8], errno: Errno) {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(name));
        let why = io::Error::from(errno);
        let what = format!("the attribute {} was refused: {why}", shown(attribute));
        self.refused.push(Refused { path, what });
    }
}

fn is_access_list(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| &*attribute.name == b"system.posix_acl_access")
}

pub(crate) const fn times(modified: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: modified.s, tv_nsec: modified.ns as _ },
    }
}

fn has_names(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File { link: 1.., .. })
}

/// A file or link with one name.
fn is_alone(entry: &Entry) -> bool {
    entry.kind != Kind::Directory && !has_names(entry)
}

/// A directory that is being built.
struct Site<'a> {
    at: &'a Path,
    root: &'a Root,
    present: Option<&'a Root>,
    folders: Folders,
    made: usize,
}

impl Site<'_> {
    fn fail(&self, entry: &Entry) -> impl Fn(io::Error) -> io::Error + use<> {
        let path = self.at.join(entry.path());
        move |error| about(path.as_os_str().as_bytes(), error)
    }

    /// What stands there and may stay, but for its metadata.
    fn stays(&self, wanted: &Entry) -> Option<&Entry> {
        let present = self.present?.entry(&wanted.path)?;
        match (&present.kind, &wanted.kind) {
            (Kind::Directory, Kind::Directory) => Some(present),
            // Hard links are made anew: which names belong together is more than one entry says.
            (Kind::File { hash: one, link: 0, .. }, Kind::File { hash: other, link: 0, .. }) => {
                (one == other).then_some(present)
            }
            (Kind::Symlink { .. }, Kind::Symlink { .. }) => {
                let equal = present.same(wanted) && present.modified == wanted.modified;
                equal.then_some(present)
            }
            _ => None,
        }
    }

    /// Removes what is in the way, what is deepest first.
    fn clear(&mut self) -> io::Result<()> {
        let Some(present) = self.present else { return Ok(()) };
        for entry in present.entries.iter().skip(1).rev() {
            let wanted = self.root.entry(&entry.path);
            if wanted.is_some_and(|wanted| self.stays(wanted).is_some()) {
                continue;
            }
            let fail = self.fail(entry);
            let (folder, name) = split(&entry.path);
            let folder = self.folders.open(folder).map_err(&fail)?;
            let directory = entry.kind == Kind::Directory;
            let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            match unlinkat(&*folder, name, flags) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(fail(errno.into())),
            }
            if directory {
                self.folders.forget();
            }
        }
        Ok(())
    }

    /// Makes the files of a large new tree on two threads, once its directories are there; what has several
    /// names is left to [`Self::fill`]. Whether it did.
    fn fill_together(&mut self, builder: &mut Builder<'_>) -> io::Result<bool> {
        let root = self.root;
        if self.present.is_some() || root.entries.len() < LARGE {
            return Ok(false);
        }
        for entry in root.entries.iter().skip(1).filter(|it| it.kind == Kind::Directory) {
            let fail = self.fail(entry);
            let (parent, name) = split(&entry.path);
            let folder = self.folders.open(parent).map_err(&fail)?;
            mkdirat(&*folder, name, Mode::RWXU).map_err(|errno| fail(errno.into()))?;
        }
        // Halves of the list: what lies in one directory is made by one of them.
        let halves = root.entries.split_at(root.entries.len() / 2);
        let store = builder.store;
        let make = |entries: &[Entry], top: OwnedFd| {
            let mut folders = Folders::new(top);
            let mut own = Builder { secluded: true, ..Builder::new(store) };
            for entry in entries.iter().filter(|entry| is_alone(entry)) {
                let path = self.at.join(entry.path());
                let fail = |error| about(path.as_os_str().as_bytes(), error);
                let (parent, name) = split(&entry.path);
                let folder = folders.open(parent).map_err(fail)?;
                own.make(folder.as_fd(), name, entry).map_err(fail)?;
                own.locate(&path);
            }
            Ok((own.written, own.refused))
        };
        let tops = (self.folders.root.try_clone()?, self.folders.root.try_clone()?);
        let made: io::Result<_> = thread::scope(|scope| {
            let other = scope.spawn(|| make(halves.1, tops.1));
            let own = make(halves.0, tops.0);
            let panicked = |_| Err(io::Error::other("a thread has panicked"));
            Ok([own?, other.join().unwrap_or_else(panicked)?])
        });
        for (written, refused) in made? {
            builder.written.extend(written);
            builder.refused.extend(refused);
        }
        self.made += root.entries.iter().skip(1).filter(|entry| !has_names(entry)).count();
        Ok(true)
    }

    fn fill(&mut self, builder: &mut Builder<'_>) -> io::Result<()> {
        let root = self.root;
        let together = self.fill_together(builder)?;
        let mut first: HashMap<u32, &[u8]> = HashMap::new();
        for entry in root.entries.iter().skip(1).filter(|entry| !together || has_names(entry)) {
            let fail = self.fail(entry);
            let (parent, name) = split(&entry.path);
            if let Some(present) = self.stays(entry) {
                let bare = present.same(entry) && present.modified == entry.modified;
                if entry.kind != Kind::Directory && !bare {
                    let folder = self.folders.open(parent).map_err(&fail)?;
                    let fd = open_file(&*folder, name).map_err(|errno| fail(errno.into()))?;
                    builder.dress(fd.as_fd(), &entry.path, entry).map_err(&fail)?;
                    self.locate(builder, entry);
                    self.made += 1;
                }
                continue;
            }
            self.made += 1;
            let folder = self.folders.open(parent).map_err(&fail)?;
            if let Kind::File { link: link @ 1.., .. } = entry.kind {
                if let Some(other) = first.get(&link) {
                    let (other, other_name) = split(other);
                    let other = self.folders.open(other).map_err(&fail)?;
                    linkat(&*other, other_name, &*folder, name, AtFlags::empty())
                        .map_err(|errno| fail(errno.into()))?;
                    continue;
                }
                first.insert(link, &entry.path);
            }
            if entry.kind == Kind::Directory {
                // It gets its metadata when all is in it.
                mkdirat(&*folder, name, Mode::RWXU).map_err(|errno| fail(errno.into()))?;
            } else {
                builder.make(folder.as_fd(), name, entry).map_err(&fail)?;
                self.locate(builder, entry);
            }
        }
        Ok(())
    }

    /// Gives refusals that name an entry their whole path.
    fn locate(&self, builder: &mut Builder<'_>, entry: &Entry) {
        builder.locate(&self.at.join(entry.path()));
    }

    /// The directories' metadata, what is deepest first: their times are changed by what is made in
    /// them.
    fn finish(&mut self, builder: &mut Builder<'_>) -> io::Result<()> {
        let root = self.root;
        let folders = root.entries.iter().filter(|entry| entry.kind == Kind::Directory);
        for entry in folders.rev() {
            let fail = self.fail(entry);
            let fd = self.folders.open(&entry.path).map_err(&fail)?;
            builder.dress((*fd).as_fd(), &entry.path, entry).map_err(&fail)?;
            self.locate(builder, entry);
        }
        Ok(())
    }
}

/// The directory of a path, and its name in it.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

/// Directories of the tree, opened one from the other.
struct Folders {
    root: Rc<OwnedFd>,
    open: HashMap<Box<[u8]>, Rc<OwnedFd>>,
}

impl Folders {
    fn new(root: OwnedFd) -> Self {
        Self { root: Rc::new(root), open: HashMap::new() }
    }

    fn open(&mut self, path: &[u8]) -> io::Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(known) = self.open.get(path) {
            return Ok(Rc::clone(known));
        }
        // At most MAX_DEPTH calls deep.
        let (parent, name) = split(path);
        let parent = self.open(parent)?;
        let fd = Rc::new(open_directory(&*parent, name)?);
        if self.open.len() >= OPEN {
            self.forget();
        }
        self.open.insert(path.into(), Rc::clone(&fd));
        Ok(fd)
    }

    fn forget(&mut self) {
        self.open.clear();
    }
}
