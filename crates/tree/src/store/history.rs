//! Generations: recorded, read again, and forgotten in time.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::record::{self, Generation, Id, Origin};
use super::{Store, about};
use crate::hash::Hash;
use crate::manifest::Manifest;

/// How much of the past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Generations, at most.
    pub generations: usize,
    /// Drift snapshots, at most.
    pub drifts: usize,
    /// Bytes of all objects. What is pinned and the newest generation stay whatever they weigh.
    pub bytes: u64,
}

impl Bounds {
    /// A hundred edits back, and one GiB: more than a working day, less than a small `/var` can bear.
    pub const DEFAULT: Self = Self { generations: 100, drifts: 50, bytes: 1 << 30 };
}

/// Lists that were recorded last. The generation before and the new one are asked for several times while
/// a node takes it, and of ten thousand files each costs 10 ms to read and to look at.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(Id, Arc<Manifest>)>);

/// The one before, and the new one.
const RECENT: usize = 2;

/// Entries of both, some 200 bytes each; larger lists are read from the disk each time.
const RECENT_ENTRIES: usize = 65_536;

impl Recent {
    fn manifest(&self, id: &Id) -> Option<Arc<Manifest>> {
        self.0.iter().find(|(known, _)| known == id).map(|(_, manifest)| Arc::clone(manifest))
    }

    fn forget(&mut self, id: &Id) {
        self.0.retain(|(known, _)| known != id);
    }

    fn remember(&mut self, id: Id, manifest: &Manifest) {
        self.forget(&id);
        let entries = |manifest: &Manifest| manifest.entries().count();
        if entries(manifest) > RECENT_ENTRIES / RECENT {
            return;
        }
        self.0.truncate(RECENT - 1);
        self.0.push_front((id, Arc::new(manifest.clone())));
    }
}

/// What was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub records: usize,
    pub objects: usize,
    pub bytes: u64,
}

impl Store {
    /// Writes the record of a generation; its objects may still be missing ([`Store::missing`]), and
    /// are not collected from now on. Objects that were put before are committed first.
    ///
    /// # Errors
    /// `InvalidInput` if the generation names another hash than the manifest's or its texts are too
    /// long, and what the disk says.
    pub fn record(&self, generation: &Generation, manifest: &Manifest) -> io::Result<()> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        generation.check().map_err(|what| wrong(what.to_owned()))?;
        if manifest.hash() != generation.id.hash {
            return Err(wrong(format!("generation {} has another list of files", generation.id)));
        }
        let list = manifest.encode().map_err(|fault| wrong(fault.to_string()))?;
        self.commit(&[])?;
        let (new, mut file) = self.new_file()?;
        let written = file
            .write_all(generation.header().as_bytes())
            .and_then(|()| file.write_all(&list))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&new, self.record_path(generation)));
        if let Err(error) = written {
            // The first error is the one to be told; what is left goes at the next start.
            let _ = fs::remove_file(&new);
            return Err(about(&new)(error));
        }
        File::open(self.base.join("generations"))?.sync_all()?;
        let mut index = self.index();
        let name = generation.file_name();
        index.generations.retain(|known| known.file_name() != name);
        // With another origin it may have other times of directories, which no hash names.
        if index.generations.iter().any(|known| known.id == generation.id) {
            index.recent.forget(&generation.id);
        } else {
            index.recent.remember(generation.id, manifest);
        }
        index.generations.push(generation.clone());
        record::sort(&mut index.generations);
        Ok(())
    }

    fn record_path(&self, generation: &Generation) -> PathBuf {
        self.base.join("generations").join(generation.file_name())
    }

    /// All generations and drift snapshots, the oldest first.
    #[must_use]
    pub fn generations(&self) -> Vec<Generation> {
        self.index().generations.clone()
    }

    /// Records that couldn't be read when the store was opened. They are left alone.
    #[must_use]
    pub fn damaged(&self) -> Vec<String> {
        self.index().damaged.clone()
    }

    /// The manifest of a generation or a drift snapshot.
    ///
    /// # Errors
    /// `NotFound`; `InvalidData` if the disk has damaged it.
    pub fn manifest(&self, id: &Id) -> io::Result<Manifest> {
        let index = self.index();
        let known = index.generations.iter().find(|generation| generation.id == *id);
        let path = known.map(|generation| self.record_path(generation));
        let recent = path.as_ref().and_then(|_| index.recent.manifest(id));
        drop(index);
        if let Some(manifest) = recent {
            return Ok((*manifest).clone());
        }
        let path = path.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no generation {id}"))
        })?;
        let bytes = fs::read(&path).map_err(about(&path))?;
        record::manifest(&bytes, &id.hash).map_err(|what| {
            let what = format!("{}: damaged: {what}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, what)
        })
    }

    /// Forgets the oldest records beyond the bounds, then every object that none of the others names.
    /// What is `pinned` stays, and so does the newest generation. It reads all records: call it after
    /// some ten of them, not after each. Nobody may put objects meanwhile that no record names yet.
    ///
    /// # Errors
    /// What the disk says; what was forgotten until then stays forgotten.
    pub fn collect(&self, pinned: &[Id], bounds: Bounds) -> io::Result<Collected> {
        let mut keep = Keep { objects: HashSet::new(), bytes: 0 };
        let mut collected = Collected::default();
        let all = self.generations();
        let newest = all.iter().rfind(|one| one.origin == Origin::Generation).map(|one| one.id);
        let stays = |one: &Generation| pinned.contains(&one.id) || newest == Some(one.id);
        for one in all.iter().filter(|one| stays(one)) {
            // A pinned record that is damaged is told of when it is used.
            if let Ok(manifest) = self.manifest(&one.id) {
                keep.add(&manifest);
            }
        }
        let (mut generations, mut drifts) = (bounds.generations, bounds.drifts);
        for one in all.iter().rev() {
            let left = match one.origin {
                Origin::Generation => &mut generations,
                Origin::Drift => &mut drifts,
            };
            let room = *left > 0;
            *left = left.saturating_sub(1);
            if stays(one) {
                continue;
            }
            let manifest = self.manifest(&one.id).ok().filter(|_| room);
            let fits = |list: &Manifest| keep.bytes + keep.weight(list) <= bounds.bytes;
            match manifest.filter(fits) {
                Some(manifest) => keep.add(&manifest),
                None => {
                    let path = self.record_path(one);
                    fs::remove_file(&path).map_err(about(&path))?;
                    self.index().generations.retain(|known| known != one);
                    collected.records += 1;
                }
            }
        }
        self.drop_idle(&keep.objects, &mut collected)?;
        Ok(collected)
    }

    fn drop_idle(&self, keep: &HashSet<Hash>, collected: &mut Collected) -> io::Result<()> {
        let mut guard = self.index();
        let index = &mut *guard;
        index.packed.retain(|hash, spot| {
            let stays = keep.contains(hash);
            if !stays {
                collected.objects += 1;
                collected.bytes += u64::from(spot.size);
            }
            stays
        });
        if let Some(packs) = &mut index.packs {
            packs.compact(&mut index.packed)?;
        }
        let idle = |entry: &(&Hash, &u64)| !keep.contains(entry.0);
        let idle: Vec<(Hash, u64)> =
            index.objects.iter().filter(idle).map(|(hash, size)| (*hash, *size)).collect();
        for (hash, size) in idle {
            let path = self.object(&hash);
            fs::remove_file(&path).map_err(about(&path))?;
            index.objects.remove(&hash);
            collected.objects += 1;
            collected.bytes += size;
        }
        Ok(())
    }
}

/// What stays.
struct Keep {
    objects: HashSet<Hash>,
    bytes: u64,
}

impl Keep {
    /// What this list would add.
    fn weight(&self, manifest: &Manifest) -> u64 {
        let new = |(hash, _): &(Hash, u64)| !self.objects.contains(hash);
        manifest.contents().into_iter().filter(new).map(|(_, size)| size).sum()
    }

    fn add(&mut self, manifest: &Manifest) {
        self.bytes += self.weight(manifest);
        self.objects.extend(manifest.contents().into_keys());
    }
}
