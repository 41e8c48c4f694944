//! The store: files by content, and the generations that name them. One process has it at a time.
//!
//! ```text
//! /var/lib/standin/sync/
//! ├── lock
//! ├── objects/ab/cdef…    the bytes of a file, 0600, named by their SHA-256
//! ├── generations/        one record each: header, then the encoded manifest
//! └── new/                what isn't committed yet; emptied at each start
//! ```
//! What stands under `objects` has reached the disk: an object gets its name only after a sync.

mod history;
mod record;

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock, syncfs};

use crate::hash::{Hash, Hasher};
use crate::manifest::{MAX_FILE, Manifest};

pub use history::{Bounds, Collected};
pub use record::{Generation, Id, MAX_PARENTS, MAX_WHY, Origin};

/// Up to so many new objects are synced one by one; beyond that the whole file system costs less.
/// Tried on ext4: 10,000 files one by one 3.2 s, together 0.5 s.
const ONE_BY_ONE: usize = 64;

/// Bytes read at once.
const PIECE: usize = 128 * 1024;

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
    /// Sizes of what is under `objects`.
    objects: HashMap<Hash, u64>,
    /// Where the bytes of the others are, and how many.
    pending: HashMap<Hash, (PathBuf, u64)>,
    /// Sorted by time.
    generations: Vec<Generation>,
    /// Records that couldn't be read.
    damaged: Vec<String>,
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
        for folder in ["", "objects", "generations", "new"] {
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
        *self.index() = Index { objects, generations, damaged, ..Index::default() };
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
        let index = self.index();
        index.objects.contains_key(hash) || index.pending.contains_key(hash)
    }

    /// What of this manifest isn't there, sorted, each once.
    #[must_use]
    pub fn missing(&self, manifest: &Manifest) -> Vec<Wanted> {
        let index = self.index();
        let absent =
            |hash: &Hash| !index.objects.contains_key(hash) && !index.pending.contains_key(hash);
        let wanted = manifest.contents().into_iter().filter(|(hash, _)| absent(hash));
        wanted.map(|(hash, size)| Wanted { hash, size }).collect()
    }

    /// Takes the bytes of a file. They are on the disk after the next [`Store::commit`].
    ///
    /// # Errors
    /// As write(2).
    pub fn put(&self, bytes: &[u8]) -> io::Result<Hash> {
        let hash = Hash::of(bytes);
        if !self.has(&hash) {
            let (path, mut file) = self.new_file()?;
            if let Err(error) = file.write_all(bytes) {
                // The first error is the one to be told; what is left goes at the next start.
                let _ = fs::remove_file(&path);
                return Err(about(&path)(error));
            }
            self.pending(hash, path, bytes.len() as u64)?;
        }
        Ok(hash)
    }

    fn pending(&self, hash: Hash, path: PathBuf, size: u64) -> io::Result<()> {
        let mut index = self.index();
        if index.objects.contains_key(&hash) || index.pending.contains_key(&hash) {
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

    /// The object's bytes, unverified: [`Store::copy`] and [`Store::read`] look at them.
    ///
    /// # Errors
    /// `NotFound` if it isn't there.
    pub fn open_object(&self, hash: &Hash) -> io::Result<File> {
        let path = match self.index().pending.get(hash) {
            Some((path, _)) => path.clone(),
            None => self.object(hash),
        };
        match File::open(&path) {
            // It was committed between the two steps.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = self.object(hash);
                File::open(&path).map_err(about(&path))
            }
            opened => opened.map_err(about(&path)),
        }
    }

    /// Hands the object's bytes to `to`, piece by piece, and looks whether they are the right ones.
    ///
    /// # Errors
    /// `InvalidData`: the disk has damaged it. It is forgotten then, so that it is fetched again.
    pub fn copy(&self, hash: &Hash, to: &mut dyn Write) -> io::Result<u64> {
        let mut file = self.open_object(hash)?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; PIECE];
        let mut size = 0;
        loop {
            let length = file.read(&mut buffer)?;
            let Some(piece) = buffer.get(..length).filter(|piece| !piece.is_empty()) else { break };
            hasher.update(piece);
            to.write_all(piece)?;
            size += piece.len() as u64;
        }
        self.verify(hash, hasher.finish())?;
        Ok(size)
    }

    /// The object's bytes.
    ///
    /// # Errors
    /// As [`Store::copy`].
    pub fn read(&self, hash: &Hash) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_object(hash)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        self.verify(hash, Hash::of(&bytes))?;
        Ok(bytes)
    }

    fn verify(&self, wanted: &Hash, found: Hash) -> io::Result<()> {
        if *wanted == found {
            return Ok(());
        }
        let mut index = self.index();
        let pending = index.pending.remove(wanted).map(|(path, _)| path);
        index.objects.remove(wanted);
        drop(index);
        let path = pending.unwrap_or_else(|| self.object(wanted));
        // If it can't be removed, the next commit of the same content replaces it.
        let _ = fs::remove_file(&path);
        let what = format!("{}: damaged, its hash is {found} now; removed", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
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

/// A file that is being received. It vanishes if it is dropped before [`Store::keep`].
#[derive(Debug)]
pub struct Incoming {
    file: File,
    path: Option<PathBuf>,
    hasher: Hasher,
    size: u64,
}

impl Incoming {
    /// Appends a piece.
    ///
    /// # Errors
    /// `FileTooLarge` beyond [`MAX_FILE`], and as write(2).
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let size = self.size + piece.len() as u64;
        if size > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.file.write_all(piece)?;
        self.hasher.update(piece);
        self.size = size;
        Ok(())
    }

    /// Bytes so far: where a transfer goes on that was cut.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What can't be removed goes at the next start.
            let _ = fs::remove_file(path);
        }
    }
}
