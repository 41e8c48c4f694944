//! Small objects, many to a file: a thousand new ones cost one write each and one sync together.
//!
//! A pack is a row of records: four bytes of mark, four of length (big-endian), 32 of hash, the bytes.
//! Records are appended and never changed, but for the mark of one that the disk has damaged.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::about;
use crate::hash::Hash;

/// Larger objects are files of their own.
pub(super) const LARGEST: usize = 1 << 20;

/// A pack that has reached this is followed by the next one.
const FULL: u64 = 32 << 20;

/// Packs with less than this share of live bytes, in percent, are written anew.
const SPARSE_PERCENT: u64 = 50;

const GOOD: [u8; 4] = *b"obj\n";
const BAD: [u8; 4] = *b"bad\n";
const HEADER: usize = 40;

/// Where an object's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pack: u32,
    offset: u64,
    pub(super) size: u32,
}

#[derive(Debug)]
struct Pack {
    file: Arc<File>,
    end: u64,
}

/// All packs of a store.
#[derive(Debug)]
pub(super) struct Packs {
    folder: PathBuf,
    packs: BTreeMap<u32, Pack>,
    /// Something was appended since the last sync.
    dirty: bool,
    /// A pack was made or removed since.
    folder_dirty: bool,
}

impl Packs {
    /// Opens the packs of a folder. The last one may end in what a crash left: it is cut there.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, HashMap<Hash, Spot>)> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder)? {
            numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        let mut packs = Self {
            folder: folder.to_owned(),
            packs: BTreeMap::new(),
            dirty: false,
            folder_dirty: false,
        };
        let mut spots = HashMap::new();
        for number in &numbers {
            let last = numbers.last() == Some(number);
            packs.load(*number, last, &mut spots)?;
        }
        Ok((packs, spots))
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(number.to_string())
    }

    fn load(&mut self, number: u32, last: bool, spots: &mut HashMap<Hash, Spot>) -> io::Result<()> {
        let path = self.path(number);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(about(&path))?;
        let length = file.metadata()?.len();
        let mut at = 0;
        let mut header = [0; HEADER];
        let mut bytes = Vec::new();
        while at + HEADER as u64 <= length {
            file.read_exact_at(&mut header, at)?;
            let Some((mark, hash, size)) = parse(&header) else { break };
            let offset = at + HEADER as u64;
            if offset + u64::from(size) > length {
                break;
            }
            let mut good = mark == GOOD;
            if last && good {
                // Only here can be what never reached the disk.
                bytes.resize(size as usize, 0);
                file.read_exact_at(&mut bytes, offset)?;
                good = Hash::of(&bytes) == hash;
                if !good {
                    file.write_all_at(&BAD, at)?;
                }
            }
            if good {
                spots.insert(hash, Spot { pack: number, offset, size });
            }
            at = offset + u64::from(size);
        }
        if last && at < length {
            file.set_len(at)?;
        }
        self.packs.insert(number, Pack { file: Arc::new(file), end: at });
        Ok(())
    }

    /// Appends an object of at most [`LARGEST`] bytes.
    pub(super) fn append(&mut self, hash: &Hash, bytes: &[u8]) -> io::Result<Spot> {
        let size = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if self.packs.last_key_value().is_none_or(|(_, pack)| pack.end >= FULL) {
            self.begin()?;
        }
        let Some((number, pack)) = self.packs.iter_mut().next_back() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut record = Vec::with_capacity(HEADER + bytes.len());
        record.extend(GOOD);
        record.extend(size.to_be_bytes());
        record.extend(hash.as_bytes());
        record.extend(bytes);
        // What a failed write left is written over by the next one.
        pack.file.write_all_at(&record, pack.end)?;
        let offset = pack.end + HEADER as u64;
        pack.end += record.len() as u64;
        self.dirty = true;
        Ok(Spot { pack: *number, offset, size })
    }

    /// The next pack. The one before has reached the disk then, whole: only the last is looked at
    /// after a crash.
    fn begin(&mut self) -> io::Result<()> {
        self.sync()?;
        let number = self.packs.last_key_value().map_or(1, |(number, _)| number + 1);
        let path = self.path(number);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(about(&path))?;
        self.packs.insert(number, Pack { file: Arc::new(file), end: 0 });
        self.folder_dirty = true;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            if let Some((_, pack)) = self.packs.last_key_value() {
                pack.file.sync_data()?;
            }
            self.dirty = false;
        }
        if self.folder_dirty {
            File::open(&self.folder)?.sync_all()?;
            self.folder_dirty = false;
        }
        Ok(())
    }

    /// The file that has the object, and where in it; good also when the pack is written anew
    /// meanwhile.
    pub(super) fn place(&self, spot: &Spot) -> io::Result<(Arc<File>, u64)> {
        let pack = self.packs.get(&spot.pack).ok_or(io::ErrorKind::NotFound)?;
        Ok((Arc::clone(&pack.file), spot.offset))
    }

    /// Marks a record whose bytes are not what they were, so that no later start believes it.
    pub(super) fn spoil(&self, spot: &Spot) {
        if let Some(pack) = self.packs.get(&spot.pack) {
            // If not even that can be written, the next reader finds the same damage again.
            let _ = pack.file.write_all_at(&BAD, spot.offset - HEADER as u64);
        }
    }

    /// Writes packs anew of which most is not in `live` any more, and moves the spots in it.
    pub(super) fn compact(&mut self, live: &mut HashMap<Hash, Spot>) -> io::Result<()> {
        let mut used: BTreeMap<u32, u64> = BTreeMap::new();
        for spot in live.values() {
            *used.entry(spot.pack).or_default() += u64::from(spot.size) + HEADER as u64;
        }
        let sparse = |(number, pack): (&u32, &Pack)| {
            let used = used.get(number).copied().unwrap_or(0);
            (used * 100 < pack.end * SPARSE_PERCENT).then_some(*number)
        };
        let sparse: Vec<u32> = self.packs.iter().filter_map(sparse).collect();
        if sparse.is_empty() {
            return Ok(());
        }
        self.begin()?;
        let mut bytes = Vec::new();
        let mut damaged = Vec::new();
        for (hash, spot) in live.iter_mut().filter(|(_, spot)| sparse.contains(&spot.pack)) {
            let (file, offset) = self.place(spot)?;
            bytes.resize(spot.size as usize, 0);
            let read = file.read_exact_at(&mut bytes, offset);
            if read.is_err() || Hash::of(&bytes) != *hash {
                damaged.push(*hash);
                continue;
            }
            *spot = self.append(hash, &bytes)?;
        }
        // They are missing from now on, and fetched again.
        live.retain(|hash, _| !damaged.contains(hash));
        self.sync()?;
        for number in sparse {
            let path = self.path(number);
            fs::remove_file(&path).map_err(about(&path))?;
            self.packs.remove(&number);
            self.folder_dirty = true;
        }
        self.sync()
    }
}

fn parse(header: &[u8; HEADER]) -> Option<([u8; 4], Hash, u32)> {
    let (mark, rest) = header.split_first_chunk::<4>()?;
    let (size, hash) = rest.split_first_chunk::<4>()?;
    let size = u32::from_be_bytes(*size);
    let known = *mark == GOOD || *mark == BAD;
    let hash = Hash::from_bytes(hash.try_into().ok()?);
    (known && size as usize <= LARGEST).then_some((*mark, hash, size))
}
