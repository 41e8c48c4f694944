//! One walk through all roots, from descriptor to descriptor, never through a symbolic link.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, Dir, FileType, readlinkat};

use crate::attributes;
use crate::hash::{Hash, Hasher};
use crate::manifest::{
    Entry, Kind, MAX_DEPTH, MAX_ENTRIES, MAX_FILE, MAX_PATH, MAX_TOTAL, Manifest, Root,
};
use crate::owners::Owners;
use crate::read::{
    BeforeListing, Directory, Inodes, Known, LeftOut, Place, Scan, Spec, Stamps, Why,
};
use crate::stamp::{Seen, about, is_gone, now, open_directory, open_file};
use crate::store::Store;

/// A file that is written while it is read is read again this often.
const READS: usize = 3;

/// Larger files go into the store piece by piece.
const SMALL: u64 = 1 << 20;

/// Bytes of one piece.
const PIECE: usize = 128 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Everything.
    Read,
    /// Only what tells whether something moved.
    Stamps,
}

/// So many files are read before another thread helps: until then it would come too late. Tried on ext4:
/// 10,000 take 140 ms on one.
const MANY: usize = 500;

/// Two walks through the same trees, from both ends: what either has read of a file the other needn't read.
#[derive(Debug, Default)]
pub(crate) struct Together {
    known: Mutex<Inodes>,
    /// The first walk has ended, well or not.
    over: AtomicBool,
}

impl Together {
    fn known(&self) -> MutexGuard<'_, Inodes> {
        // Each change of it is one step: a thread that panicked left it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the second walk, when it is dropped, that the first has ended.
    pub(crate) const fn ends(&self) -> Ends<'_> {
        Ends(self)
    }
}

pub(crate) struct Ends<'a>(&'a Together);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// Reads from the other end, beside a first walk, until both have met. What goes wrong the first walk finds
/// for itself.
pub(crate) fn help(spec: &Spec, store: Option<&Store>, known: &Inodes, together: &Together) {
    let mut nothing = |_: Directory<'_>| {};
    let mut walk = Walk::new(spec, Depth::Read, store, known, &mut nothing);
    walk.beside = Some((together, Side::Second));
    let _met = walk.all();
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    First,
    Second,
}

/// One entry that was found, before the hard links are numbered.
struct Found {
    entry: Entry,
    /// Device and inode, if it may have other names.
    shared: Option<(u64, u64)>,
}

pub(crate) struct Walk<'a> {
    spec: &'a Spec,
    depth: Depth,
    store: Option<&'a Store>,
    known: &'a Inodes,
    before_listing: BeforeListing<'a>,
    owners: Owners,
    scan: Scan,
    found: Vec<Vec<Found>>,
    now_known: Inodes,
    stamps: Stamps,
    entries: usize,
    bytes: u64,
    /// Something vanished or changed while it was looked at.
    pub(crate) moved: bool,
    buffer: Vec<u8>,
    beside: Option<(&'a Together, Side)>,
    /// Calls the second walk, once there is much to read.
    call: Option<&'a dyn Fn()>,
    /// The second walk has come to where the first is.
    met: bool,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(
        spec: &'a Spec,
        depth: Depth,
        store: Option<&'a Store>,
        known: &'a Inodes,
        before_listing: BeforeListing<'a>,
    ) -> Self {
        Self {
            spec,
            depth,
            store,
            known,
            before_listing,
            owners: Owners::new(),
            scan: Scan::default(),
            found: Vec::new(),
            now_known: HashMap::new(),
            stamps: Vec::new(),
            entries: 0,
            bytes: 0,
            moved: false,
            buffer: Vec::new(),
            beside: None,
            call: None,
            met: false,
        }
    }

    /// With another that [helps](help) once it is called.
    pub(crate) fn with(self, together: &'a Together, call: &'a dyn Fn()) -> Self {
        Self { beside: Some((together, Side::First)), call: Some(call), ..self }
    }

    const fn is_second(&self) -> bool {
        matches!(self.beside, Some((_, Side::Second)))
    }

    pub(crate) fn all(&mut self) -> io::Result<()> {
        let mut roots: Vec<_> = self.spec.roots().iter().collect();
        if self.is_second() {
            roots.reverse();
        }
        for root in roots {
            self.found.push(Vec::new());
            self.root(root)?;
        }
        self.stamps.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        Ok(())
    }

    pub(crate) fn stamps(self) -> Stamps {
        self.stamps
    }

    pub(crate) fn finish(mut self) -> io::Result<(Scan, Inodes, Stamps)> {
        let mut roots = Vec::new();
        for (path, mut found) in self.spec.roots().iter().zip(mem::take(&mut self.found)) {
            found.sort_unstable_by(|a, b| a.entry.path.cmp(&b.entry.path));
            let entries = number_links(found);
            roots.push(Root { path: path.clone(), entries });
        }
        self.scan.manifest = Manifest::new(roots).map_err(io::Error::other)?;
        Ok((self.scan, self.now_known, self.stamps))
    }

    fn root(&mut self, root: &'a Path) -> io::Result<()> {
        let name = root.as_os_str().as_bytes();
        let real = match root.canonicalize() {
            Ok(real) => real,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => return Ok(()),
            Err(error) => return Err(about(name, error)),
        };
        let Some((parent, last)) = real.parent().zip(real.file_name()) else {
            return Err(about(name, io::Error::other("leads to the whole file system")));
        };
        // Between the two calls it may have gone; then it is as if it had never been there.
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let parent = match open_directory(CWD, parent.as_os_str().as_bytes()) {
            Ok(parent) => parent,
            Err(errno) if gone(&errno.into()) => {
                self.moved = true;
                return Ok(());
            }
            Err(errno) => return Err(about(name, errno)),
        };
        let symlink = root.symlink_metadata().is_ok_and(|seen| seen.is_symlink());
        let place = Place { root: root.to_owned(), real: real.clone(), symlink, mount: false };
        let at = self.scan.places.len();
        self.scan.places.push(place);
        let there = self.entry(root, parent.as_fd(), last.as_bytes(), Vec::new(), 0)?;
        match there {
            Some(mount) => self.scan.places[at].mount = mount,
            None => self.scan.places.truncate(at),
        }
        Ok(())
    }

    /// One entry with all below it: whether it is a mount point, or `None` if it isn't there any more
    /// or no part of the tree. `relative` is empty for a root.
    fn entry(
        &mut self,
        root: &'a Path,
        directory: BorrowedFd<'_>,
        name: &[u8],
        relative: Vec<u8>,
        depth: usize,
    ) -> io::Result<Option<bool>> {
        let full = || root.join(Path::new(std::ffi::OsStr::from_bytes(&relative)));
        let failed = |error: io::Error| about(full().as_os_str().as_bytes(), error);
        let seen = match Seen::at(directory, name) {
            Ok(seen) => seen,
            Err(errno) if is_gone(errno) => {
                self.moved = true;
                return Ok(None);
            }
            Err(errno) => return Err(failed(errno.into())),
        };
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            let what = format!("more than {MAX_ENTRIES} files and directories");
            return Err(failed(io::Error::other(what)));
        }
        let outcome = match seen.kind {
            FileType::Directory => self.directory(root, directory, name, &relative, depth, &seen),
            FileType::RegularFile => self.file(root, directory, name, &relative, &seen),
            FileType::Symlink if !relative.is_empty() => {
                self.symlink(root, directory, name, &relative, &seen)
            }
            other => {
                let why = match other {
                    FileType::Socket => Why::Socket,
                    FileType::Fifo => Why::Fifo,
                    _ => Why::Device,
                };
                self.leave_out(root, &relative, why);
                return Ok(None);
            }
        };
        let there = outcome.map_err(failed)?;
        if seen.mount && !relative.is_empty() && there {
            self.scan.mounts.push(full());
        }
        Ok(there.then_some(seen.mount))
    }

    fn leave_out(&mut self, root: &Path, relative: &[u8], why: Why) {
        self.scan.left_out.push(LeftOut { root: root.to_owned(), path: relative.into(), why });
    }

    fn keep(&mut self, relative: &[u8], seen: &Seen, kind: Kind, attributes: attributes::Read) {
        let root = self.found.len() - 1;
        self.stamps.push((root, relative.into(), seen.stamp));
        if self.depth == Depth::Stamps {
            return;
        }
        let file = matches!(kind, Kind::File { .. });
        let mode = if seen.kind == FileType::Symlink { 0o777 } else { seen.stamp.mode & 0o7777 };
        let entry = Entry {
            path: relative.into(),
            kind,
            mode,
            user: self.owners.user(seen.stamp.uid),
            group: self.owners.group(seen.stamp.gid),
            modified: seen.modified,
            attributes: attributes.kept,
        };
        let shared = (file && seen.links > 1).then(|| seen.stamp.key());
        // `all` pushes a list for a root before it walks through it.
        self.found[root].push(Found { entry, shared });
    }

    fn directory(
        &mut self,
        root: &'a Path,
        parent: BorrowedFd<'_>,
        name: &[u8],
        relative: &[u8],
        depth: usize,
        seen: &Seen,
    ) -> io::Result<bool> {
        if depth > MAX_DEPTH {
            self.leave_out(root, relative, Why::TooDeep);
            return Ok(false);
        }
        let fd = match open_directory(parent, name) {
            Ok(fd) => fd,
            Err(errno) if is_gone(errno) => {
                self.moved = true;
                return Ok(false);
            }
            Err(errno) => return Err(errno.into()),
        };
        (self.before_listing)(Directory { fd: fd.as_fd(), root, relative });
        let attributes = match self.depth {
            Depth::Read => attributes::of_open(fd.as_fd())?,
            Depth::Stamps => attributes::Read::default(),
        };
        if attributes.incomplete {
            self.leave_out(root, relative, Why::Attributes);
        }
        self.keep(relative, seen, Kind::Directory, attributes);
        let mut listed = match names(&fd) {
            Ok(listed) => listed,
            // The directory was removed between the two calls.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.moved = true;
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        if self.is_second() {
            listed.reverse();
        }
        for name in listed {
            if self.met {
                break;
            }
            let mut path = relative.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(&name);
            if self.spec.exclude().exclude(root, &path) {
                self.leave_out(root, &path, Why::Excluded);
            } else if path.len() + root.as_os_str().len() >= MAX_PATH {
                self.leave_out(root, &path, Why::TooDeep);
            } else {
                self.entry(root, fd.as_fd(), &name, path, depth + 1)?;
            }
        }
        Ok(true)
    }

    fn symlink(
        &mut self,
        root: &Path,
        directory: BorrowedFd<'_>,
        name: &[u8],
        relative: &[u8],
        seen: &Seen,
    ) -> io::Result<bool> {
        if self.depth == Depth::Stamps {
            self.keep(relative, seen, Kind::Directory, attributes::Read::default());
            return Ok(true);
        }
        let read = readlinkat(directory, name, Vec::new())
            .and_then(|target| Ok((target, attributes::of_link(directory, name)?)));
        match read {
            Ok((target, attributes)) => {
                if attributes.incomplete {
                    self.leave_out(root, relative, Why::Attributes);
                }
                let target = target.into_bytes().into();
                self.keep(relative, seen, Kind::Symlink { target }, attributes);
                Ok(true)
            }
            // EINVAL: it is no symbolic link any more.
            Err(errno) if is_gone(errno) || errno == rustix::io::Errno::INVAL => {
                self.moved = true;
                Ok(false)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn file(
        &mut self,
        root: &Path,
        directory: BorrowedFd<'_>,
        name: &[u8],
        relative: &[u8],
        seen: &Seen,
    ) -> io::Result<bool> {
        if seen.stamp.size > MAX_FILE {
            self.leave_out(root, relative, Why::TooLarge);
            return Ok(false);
        }
        if self.depth == Depth::Stamps {
            self.keep(relative, seen, Kind::Directory, attributes::Read::default());
            return Ok(true);
        }
        let stored = |hash: &Hash| self.store.is_none_or(|store| store.has(hash));
        let fresh = self.now_known.get(&seen.stamp.key());
        let known = fresh.or_else(|| self.known.get(&seen.stamp.key()).filter(|known| known.sure));
        let known = known.filter(|known| known.stamp == seen.stamp && stored(&known.hash)).cloned();
        let (seen, known) = match known.or_else(|| self.known_together(seen)) {
            Some(known) => (*seen, known),
            None if self.met => return Ok(false),
            None => match self.contents(directory, name)? {
                Some(read) => read,
                None => return Ok(false),
            },
        };
        self.bytes = self.bytes.saturating_add(known.size);
        if self.bytes > MAX_TOTAL {
            return Err(io::Error::other(format!("more than {} GiB of files", MAX_TOTAL >> 30)));
        }
        if !known.complete {
            self.leave_out(root, relative, Why::Attributes);
        }
        let kind = Kind::File { size: known.size, hash: known.hash, link: 0 };
        let attributes =
            attributes::Read { kept: known.attributes.clone(), incomplete: !known.complete };
        self.keep(relative, &seen, kind, attributes);
        self.now_known.insert(seen.stamp.key(), known);
        Ok(true)
    }

    /// What the other walk has read of a file.
    fn known_together(&mut self, seen: &Seen) -> Option<Known> {
        let (together, side) = self.beside?;
        let known = together.known().get(&seen.stamp.key()).cloned();
        let known = known.filter(|known| known.stamp == seen.stamp);
        if side == Side::Second {
            let over = together.over.load(Ordering::Relaxed);
            self.met = known.is_some() && seen.links == 1 || over;
            return known;
        }
        let known = known?;
        self.scan.files_read += 1;
        self.scan.bytes_read += known.size;
        Some(known)
    }

    /// Only of a file that stood still while it was read: that it moved the other walk wouldn't learn.
    fn share(&mut self, known: &Known) {
        let Some((together, _)) = self.beside else { return };
        together.known().insert(known.stamp.key(), known.clone());
        if self.scan.files_read >= MANY
            && let Some(call) = self.call.take()
        {
            call();
        }
    }

    /// Reads a file until it stands still, at most [`READS`] times; `None` if it is gone.
    fn contents(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> io::Result<Option<(Seen, Known)>> {
        let mut last = None;
        for _ in 0..READS {
            let begin = now();
            let fd = match open_file(directory, name) {
                Ok(fd) => fd,
                Err(errno) if is_gone(errno) => {
                    self.moved = true;
                    return Ok(None);
                }
                Err(errno) => return Err(errno.into()),
            };
            let before = Seen::open(&fd)?;
            if before.kind != FileType::RegularFile {
                self.moved = true;
                return Ok(None);
            }
            let mut file = File::from(fd);
            let Some((size, hash)) = self.bytes_of(&mut file, before.stamp.size)? else {
                self.moved = true;
                return Ok(None);
            };
            let attributes = attributes::of_open(file.as_fd())?;
            let after = Seen::open(&file)?;
            self.scan.files_read += 1;
            self.scan.bytes_read += size;
            let still = before.stamp == after.stamp && size == after.stamp.size;
            let known = Known {
                stamp: after.stamp,
                size,
                hash,
                attributes: attributes.kept,
                complete: !attributes.incomplete,
                sure: still && after.stamp.is_old_at(begin),
            };
            if still {
                self.share(&known);
                return Ok(Some((after, known)));
            }
            last = Some((after, known));
        }
        self.moved = true;
        Ok(last)
    }

    /// Length and hash of what the file holds; the store gets it as well. `None`: it has grown beyond
    /// the bound.
    fn bytes_of(&mut self, file: &mut File, size: u64) -> io::Result<Option<(u64, Hash)>> {
        self.buffer.clear();
        let mut rest = SMALL + 1;
        if size <= SMALL {
            // A read that ends before the byte that shouldn't be there has met the end: the usual case.
            self.buffer.resize(usize::try_from(size + 1).unwrap_or(0), 0);
            let length = retried(|| file.read(&mut self.buffer))?;
            self.buffer.truncate(length);
            rest = if length as u64 == size { 0 } else { rest - length as u64 };
        }
        if rest > 0 {
            file.take(rest).read_to_end(&mut self.buffer)?;
        }
        if self.buffer.len() as u64 <= SMALL {
            let hash = match self.store {
                Some(store) => store.put(&self.buffer)?,
                None => Hash::of(&self.buffer),
            };
            return Ok(Some((self.buffer.len() as u64, hash)));
        }
        let mut incoming = self.store.map(|store| store.incoming(size)).transpose()?;
        let mut hasher = Hasher::new();
        let mut total = 0;
        loop {
            total += self.buffer.len() as u64;
            if total > MAX_FILE {
                return Ok(None);
            }
            match &mut incoming {
                Some(incoming) => incoming.write(&self.buffer)?,
                None => hasher.update(&self.buffer),
            }
            self.buffer.resize(PIECE, 0);
            let length = file.read(&mut self.buffer)?;
            self.buffer.truncate(length);
            if length == 0 {
                break;
            }
        }
        let hash = match (self.store, incoming) {
            (Some(store), Some(incoming)) => store.keep(incoming, None)?,
            _ => hasher.finish(),
        };
        Ok(Some((total, hash)))
    }
}

/// As [`io::Read::read_to_end`] does it: a signal that came meanwhile is no error.
fn retried(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// What a directory lists, without itself and its parent.
fn names(fd: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
        if names.len() > MAX_ENTRIES {
            return Err(io::Error::other(format!("more than {MAX_ENTRIES} entries")));
        }
    }
    Ok(names)
}

/// Gives each group of hard links its number. One inode has one mode, owner and content; if it was
/// written meanwhile, the first name's view counts for all of them.
fn number_links(found: Vec<Found>) -> Vec<Entry> {
    let mut counts: HashMap<(u64, u64), u32> = HashMap::new();
    for key in found.iter().filter_map(|found| found.shared) {
        *counts.entry(key).or_default() += 1;
    }
    let mut first: HashMap<(u64, u64), Entry> = HashMap::new();
    let mut entries = Vec::with_capacity(found.len());
    for Found { mut entry, shared } in found {
        let shared = shared.filter(|key| counts.get(key).is_some_and(|count| *count > 1));
        if let Some(key) = shared {
            // Fewer than MAX_ENTRIES.
            let number = u32::try_from(first.len() + 1).unwrap_or(u32::MAX);
            let model = first.entry(key).or_insert_with(|| {
                if let Kind::File { link, .. } = &mut entry.kind {
                    *link = number;
                }
                entry.clone()
            });
            entry = Entry { path: entry.path, ..model.clone() };
        }
        entries.push(entry);
    }
    entries
}
