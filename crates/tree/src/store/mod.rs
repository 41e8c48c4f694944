//! The store: files by content, and the generations that name them. One process has it at a time.
//!
//! ```text
//! /var/lib/standin/sync/
//! ├── lock
//! ├── packs/              the bytes of files of up to one MiB, many to a pack, 0600
//! ├── objects/ab/cdef…    the bytes of a larger file, 0600, named by their SHA-256
//! ├── generations/        one record each: header, then the encoded manifest
//! └── new/                what isn't committed yet; emptied at each start
//! ```
//! What a record names and was there has reached the disk: an object gets its name under `objects` only
//! after a sync, and a pack is synced before the record is written.

mod history;
mod object;
mod pack;
mod record;

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock, syncfs};

use crate::hash::{Hash, Hasher};
use crate::manifest::{MAX_FILE, Manifest};

use history::Recent;
use pack::{Packs, Spot};

pub use history::{Bounds, Collected};
pub use object::{Incoming, Object};
pub use record::{Generation, Id, MAX_PARENTS, MAX_WHY, Origin};

/// Up to so many new objects are synced one by one; beyond that the whole file system costs less.
/// Tried on ext4: 10,000 files one by one 3.2 s, together 0.5 s.
const ONE_BY_ONE: usize = 64;

/// The store. All its methods may be called from several threads.
#[derive(Debug)]
pub struct Store {
    base: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    /// For names of new files.
    count: AtomicU64,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    /// What is in packs, on the disk or not yet.
    packed: HashMap<Hash, Spot>,
    packs: Option<Packs>,
    /// Sizes of what is under `objects`.
    objects: HashMap<Hash, u64>,
    /// Where the bytes of the others are, and how many.
    pending: HashMap<Hash, (PathBuf, u64)>,
    /// Sorted by time.
    generations: Vec<Generation>,
    recent: Recent,
    /// Records that couldn't be read.
    damaged: Vec<String>,
}

impl Index {
    fn has(&self, hash: &Hash) -> bool {
        self.packed.contains_key(hash)
            || self.objects.contains_key(hash)
            || self.pending.contains_key(hash)
    }

    /// There are packs from [`Store::open`] on.
    fn packs(&mut self) -> io::Result<&mut Packs> {
        self.packs.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// What is to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    pub hash: Hash,
    /// In bytes.
    pub size: u64,
}

impl Store {
    /// Opens the store in this directory, and makes it if there is none.
    ///
    /// # Errors
    /// `WouldBlock`: another standin has it. Else what the kernel says, with the path.
    pub fn open(base: &Path) -> io::Result<Self> {
        for folder in ["", "packs", "objects", "generations", "new"] {
            let path = base.join(folder);
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(about(&path))?;
        }
        let path = base.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(about(&path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            let error = io::Error::from(errno);
            let what = format!("{}: in use by another standin ({error})", path.display());
            io::Error::new(error.kind(), what)
        })?;
        let store = Self {
            base: base.to_owned(),
            _lock: lock,
            count: AtomicU64::new(0),
            index: Mutex::default(),
        };
        for left in fs::read_dir(base.join("new"))? {
            fs::remove_file(left?.path())?;
        }
        store.load()?;
        Ok(store)
    }

    fn load(&self) -> io::Result<()> {
        let mut objects = HashMap::new();
        for folder in fs::read_dir(self.base.join("objects"))? {
            let folder = folder?;
            for object in fs::read_dir(folder.path())? {
                let object = object?;
                let name = [folder.file_name(), object.file_name()]
                    .map(|part| part.to_string_lossy().into_owned())
                    .concat();
                if let Some(hash) = Hash::parse(&name) {
                    objects.insert(hash, object.metadata()?.len());
                }
            }
        }
        let (generations, damaged) = record::load_all(&self.base.join("generations"))?;
        let (packs, packed) = Packs::open(&self.base.join("packs"))?;
        let packs = Some(packs);
        *self.index() = Index { packed, packs, objects, generations, damaged, ..Index::default() };
        Ok(())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // Each change of the index is one step: a thread that panicked left it whole.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, hash: &Hash) -> PathBuf {
        let name = hash.to_string();
        let (folder, rest) = name.split_at(2);
        self.base.join("objects").join(folder).join(rest)
    }

    /// A path in `new`, and an empty file there.
    fn new_file(&self) -> io::Result<(PathBuf, File)> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.base.join("new").join(number.to_string());
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(about(&path))?;
        Ok((path, file))
    }

    /// Whether the bytes are there, on the disk or not yet.
    #[must_use]
    pub fn has(&self, hash: &Hash) -> bool {
        self.index().has(hash)
    }

    /// What of this manifest isn't there, sorted, each once.
    #[must_use]
    pub fn missing(&self, manifest: &Manifest) -> Vec<Wanted> {
        let index = self.index();
        let wanted = manifest.contents().into_iter().filter(|(hash, _)| !index.has(hash));
        wanted.map(|(hash, size)| Wanted { hash, size }).collect()
    }

    /// Takes the bytes of a file. They are on the disk after the next [`Store::commit`].
    ///
    /// # Errors
    /// As write(2).
    pub fn put(&self, bytes: &[u8]) -> io::Result<Hash> {
        let hash = Hash::of(bytes);
        if bytes.len() > pack::LARGEST {
            if !self.has(&hash) {
                let mut incoming = self.incoming(bytes.len() as u64)?;
                incoming.write(bytes)?;
                self.keep(incoming, Some(hash))?;
            }
            return Ok(hash);
        }
        let mut index = self.index();
        if !index.has(&hash) {
            let spot = index.packs()?.append(&hash, bytes)?;
            index.packed.insert(hash, spot);
        }
        Ok(hash)
    }

    fn pending(&self, hash: Hash, path: PathBuf, size: u64) -> io::Result<()> {
        let mut index = self.index();
        if index.has(&hash) {
            drop(index);
            return fs::remove_file(path);
        }
        index.pending.insert(hash, (path, size));
        Ok(())
    }

    /// Begins a file that comes piece by piece, `expected` bytes long as far as is known.
    ///
    /// # Errors
    /// `FileTooLarge` beyond [`MAX_FILE`], and as open(2).
    pub fn incoming(&self, expected: u64) -> io::Result<Incoming> {
        if expected > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let (path, file) = self.new_file()?;
        Ok(Incoming { file, path: Some(path), hasher: Hasher::new(), size: 0 })
    }

    /// Takes a file that is complete, if it is the one that was expected.
    ///
    /// # Errors
    /// `InvalidData` if its hash is another; it is thrown away then.
    pub fn keep(&self, mut incoming: Incoming, expected: Option<Hash>) -> io::Result<Hash> {
        let hash = std::mem::take(&mut incoming.hasher).finish();
        if let Some(expected) = expected.filter(|expected| *expected != hash) {
            let what = format!("what came as {expected} has the hash {hash}; it was thrown away");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if let Some(path) = incoming.path.take() {
            self.pending(hash, path, incoming.size)?;
        }
        Ok(hash)
    }

    /// Brings all that was put to the disk, and the trees `also` with it: one sync for all of it.
    ///
    /// # Errors
    /// What the disk says. Nothing is lost then: the next commit tries again.
    pub fn commit(&self, also: &[&Path]) -> io::Result<()> {
        let pending: Vec<(Hash, PathBuf, u64)> = {
            let index = self.index();
            index.pending.iter().map(|(hash, (path, size))| (*hash, path.clone(), *size)).collect()
        };
        let mut synced = HashSet::new();
        for tree in also {
            let folder = File::open(tree).map_err(about(tree))?;
            if synced.insert(folder.metadata()?.dev()) {
                syncfs(&folder)?;
            }
        }
        self.index().packs()?.sync()?;
        if pending.is_empty() {
            return Ok(());
        }
        let base = File::open(&self.base)?;
        if !synced.contains(&base.metadata()?.dev()) {
            if pending.len() > ONE_BY_ONE {
                syncfs(&base)?;
            } else {
                for (_, path, _) in &pending {
                    File::open(path).and_then(|file| file.sync_all()).map_err(about(path))?;
                }
            }
        }
        let mut folders = HashSet::new();
        for (hash, path, size) in pending {
            let object = self.object(&hash);
            let folder = object.parent().unwrap_or(&self.base).to_owned();
            if !folder.is_dir() {
                DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            }
            let mut index = self.index();
            // Whoever found it damaged has removed it meanwhile.
            if index.pending.contains_key(&hash) {
                fs::rename(&path, &object).map_err(about(&path))?;
                index.pending.remove(&hash);
                index.objects.insert(hash, size);
            }
            folders.insert(folder);
        }
        if folders.len() > ONE_BY_ONE {
            syncfs(&base)?;
            return Ok(());
        }
        folders.insert(self.base.join("objects"));
        folders.iter().try_for_each(|folder| File::open(folder)?.sync_all())
    }
}

fn about(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
