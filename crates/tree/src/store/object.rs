//! The bytes of an object: read, looked at, received.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Store, about};
use crate::hash::{Hash, Hasher};
use crate::manifest::MAX_FILE;

/// Bytes read at once.
const PIECE: usize = 128 * 1024;

/// An open object, unverified: whoever reads it compares the hash.
#[derive(Debug)]
pub struct Object {
    file: Arc<File>,
    at: u64,
    left: u64,
    /// It is a file of its own.
    alone: bool,
}

impl Object {
    /// Bytes that are still to be read.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Passes over bytes; a transfer goes on there.
    pub fn skip(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.at += bytes;
        self.left -= bytes;
    }

    /// The whole file, if the object is one, so that a copy may share its blocks.
    pub(crate) fn alone(&self) -> Option<&File> {
        self.alone.then_some(&*self.file)
    }
}

impl Read for Object {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        if buffer.is_empty() {
            return Ok(0);
        }
        let length = self.file.read_at(buffer, self.at)?;
        self.at += length as u64;
        self.left -= length as u64;
        Ok(length)
    }
}

impl Store {
    /// The object's bytes, unverified: [`Store::copy`] and [`Store::read`] look at them.
    ///
    /// # Errors
    /// `NotFound` if it isn't there.
    pub fn open_object(&self, hash: &Hash) -> io::Result<Object> {
        let mut index = self.index();
        if let Some(spot) = index.packed.get(hash).copied() {
            let (file, at) = index.packs()?.place(&spot)?;
            return Ok(Object { file, at, left: spot.size.into(), alone: false });
        }
        let path = match index.pending.get(hash) {
            Some((path, _)) => path.clone(),
            None => self.object(hash),
        };
        // Opened before it can be committed under another name.
        let file = File::open(&path).map_err(about(&path))?;
        drop(index);
        let left = file.metadata()?.len();
        Ok(Object { file: Arc::new(file), at: 0, left, alone: true })
    }

    /// Hands the object's bytes to `to`, piece by piece, and looks whether they are the right ones.
    ///
    /// # Errors
    /// `InvalidData`: the disk has damaged it. It is forgotten then, so that it is fetched again.
    pub fn copy(&self, hash: &Hash, to: &mut dyn Write) -> io::Result<u64> {
        let mut object = self.open_object(hash)?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; PIECE];
        let mut size = 0;
        loop {
            let length = object.read(&mut buffer)?;
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
        let mut object = self.open_object(hash)?;
        // What is there is at most this long.
        let mut bytes =
            Vec::with_capacity(usize::try_from(object.left().min(MAX_FILE)).unwrap_or(0));
        (&mut object).take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        self.verify(hash, Hash::of(&bytes))?;
        Ok(bytes)
    }

    fn verify(&self, wanted: &Hash, found: Hash) -> io::Result<()> {
        if *wanted == found {
            return Ok(());
        }
        let mut index = self.index();
        let spot = index.packed.remove(wanted);
        if let (Some(spot), Ok(packs)) = (spot, index.packs()) {
            packs.spoil(&spot);
        }
        let pending = index.pending.remove(wanted).map(|(path, _)| path);
        let path = index.objects.remove(wanted).map(|_| self.object(wanted)).or(pending);
        drop(index);
        if let Some(path) = path {
            // If it can't be removed, the next commit of the same content replaces it.
            let _ = fs::remove_file(path);
        }
        let base = self.base.display();
        let what =
            format!("{base}: the object {wanted} is damaged, its hash is {found} now; forgotten");
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }
}

/// A file that is being received. It vanishes if it is dropped before [`Store::keep`].
#[derive(Debug)]
pub struct Incoming {
    pub(super) file: File,
    pub(super) path: Option<PathBuf>,
    pub(super) hasher: Hasher,
    pub(super) size: u64,
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
