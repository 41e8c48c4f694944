//! A large tree in which little differs: only that is staged, so that one file among ten thousand costs
//! what one file costs.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use standin_apply::{Change, Fingerprint, Seen};
use standin_tree::build::Builder;
use standin_tree::globs::Globs;
use standin_tree::manifest::{Manifest, Root};
use standin_tree::owners::Owners;
use standin_tree::parts::{Part, What, applied, below, bytes, parts};
use standin_tree::read::{Mark, Reader, Scan, Spec, Why};

/// Smaller trees are built anew and exchanged as a whole, which is a single step. That many files cost
/// 50 ms of building, and as much of removing.
pub(super) const LARGE: usize = 1000;

/// One in so many may differ: what is left to gain gets less, and each is a step of the exchange, or lies
/// in a directory that comes or goes with all that is in it.
const ONE_IN: usize = 50;

/// Bytes of what differs: nginx's test has them in memory.
const BYTES: u64 = 16 << 20;

/// What differs of one root.
pub(super) struct Few {
    /// What lies there now, as it was read.
    live: Root,
    parts: Vec<Part>,
}

impl Few {
    /// `None` where the root is to be exchanged as a whole.
    pub(super) fn of(live: &Scan, wanted: &Root, exclude: &Globs) -> Option<Self> {
        let there = live.manifest.root(&wanted.path)?;
        let place = live.places.iter().find(|place| place.root == wanted.path)?;
        let mounted = place.mount || live.mounts.iter().any(|it| it.starts_with(&wanted.path));
        let entries = there.entries.len().min(wanted.entries.len());
        if !live.settled || mounted || entries < LARGE {
            return None;
        }
        // What its owners are called here, so that one who isn't known here makes no difference.
        let wanted = localised(wanted)?;
        let size = |part: &Part| match part.what {
            What::Dress => 1,
            _ => below(there, &part.path).len().max(below(&wanted, &part.path).len()),
        };
        let is_few = |parts: &[Part]| parts.iter().map(size).sum::<usize>() <= entries / ONE_IN;
        let parts = parts(there, &wanted).filter(|parts| is_few(parts))?;
        let left_out = |path: &[u8]| exclude.exclude(&wanted.path, path);
        let apart = parts.iter().any(|part| {
            left_out(&part.path)
                || below(&wanted, &part.path).iter().any(|it| left_out(&it.path))
                    && part.what != What::Dress
        });
        // What nobody has read and what goes with its directory is kept by the way of the whole tree.
        let moved = moved(&parts);
        let unread = live.left_out.iter().filter(|it| it.root == wanted.path).any(|it| {
            let path = Path::new(OsStr::from_bytes(&it.path));
            it.why != Why::Attributes && path.ancestors().any(|above| moved.contains(above))
        });
        let fits = bytes(&wanted, &parts) <= BYTES && !apart && !unread;
        fits.then(|| Self { live: there.clone(), parts })
    }

    pub(super) fn is_of(&self, root: &Path) -> bool {
        self.live.path == root
    }

    /// Nothing differs at all.
    pub(super) fn is_nothing(&self) -> bool {
        self.parts.is_empty()
    }

    /// Builds what differs at `at`.
    pub(super) fn build(
        &self,
        builder: &mut Builder<'_>,
        wanted: &Root,
        at: &Path,
    ) -> io::Result<()> {
        builder.build_parts(wanted, &self.parts, at).map(drop)
    }

    /// What those files were that go, when the reader read them last.
    pub(super) fn before(&self, reader: &Reader, spec: &Spec) -> Fingerprint {
        let moved = moved(&self.parts);
        let seen = reader.marks(spec, &self.live.path).filter_map(|(path, mark)| {
            let path = Path::new(OsStr::from_bytes(path));
            let Mark { mode, inode, size, modified } = mark;
            let modified_ns = i128::from(modified.s) * 1_000_000_000 + i128::from(modified.ns);
            let seen = Seen { mode, inode, size, modified_ns };
            let moves = path.ancestors().any(|above| moved.contains(above));
            moves.then(|| (path.to_owned(), seen))
        });
        Fingerprint::of_seen(seen)
    }

    /// For the exchange.
    pub(super) fn parts(&self) -> Vec<standin_apply::Part> {
        let one = |part: &Part| {
            let change = match part.what {
                What::Add | What::Replace => Change::Put,
                What::Remove => Change::Remove,
                What::Dress => Change::Dress,
            };
            let path = PathBuf::from(OsStr::from_bytes(&part.path));
            standin_apply::Part { path, change }
        };
        self.parts.iter().map(one).collect()
    }

    /// What this host will have made of the root.
    pub(super) fn outcome(&self, at: Option<&Path>) -> Option<Root> {
        let Some(at) = at else { return Some(self.live.clone()) };
        let spec = Spec::new([at.to_owned()], Globs::default()).ok()?;
        let built = Reader::new().read(&spec, None, &mut |_| {}).ok()?.manifest;
        applied(&self.live, &self.parts, built.root(at)?).ok()
    }
}

/// The paths at which something comes or goes. There may be thousands: they are looked up, not gone through,
/// for each of the files of a root.
fn moved(parts: &[Part]) -> HashSet<&Path> {
    let moved = parts.iter().filter(|part| part.what != What::Dress);
    moved.map(|part| Path::new(OsStr::from_bytes(&part.path))).collect()
}

fn localised(root: &Root) -> Option<Root> {
    let only = Manifest::new(vec![root.clone()]);
    let only = only.map(|manifest| Owners::new().localised(&manifest));
    only.ok().and_then(|manifest: Manifest| manifest.root(&root.path).cloned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

    use super::*;

    #[test]
    fn a_directory_that_goes_counts_as_much_as_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap().join("conf");
        let fill = |name: &str, files: usize| {
            std::fs::create_dir_all(at.join(name)).unwrap();
            for file in 0..files {
                std::fs::write(at.join(format!("{name}/{file}")), "x").unwrap();
            }
        };
        let read = || {
            let spec = Spec::new([at.clone()], Globs::default()).unwrap();
            Reader::new().read(&spec, None, &mut |_| {}).unwrap()
        };
        let none = Globs::default();
        fill("stays", LARGE);
        let wanted = read().manifest.root(&at).unwrap().clone();
        for (files, few) in [(10, true), (LARGE, false)] {
            fill("goes", files);
            let found = Few::of(&read(), &wanted, &none);
            assert_eq!(found.is_some(), few, "{files} files go");
        }
        std::fs::remove_dir_all(at.join("goes")).unwrap();
        let large = {
            fill("comes", LARGE);
            read().manifest.root(&at).unwrap().clone()
        };
        std::fs::remove_dir_all(at.join("comes")).unwrap();
        assert!(Few::of(&read(), &large, &none).is_none(), "a large one that comes");
    }

    #[test]
    fn what_was_there_before_is_what_comes_or_goes_with_all_below_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap().join("conf");
        for file in 0..400 {
            let folder = at.join(format!("d{}", file % 4));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(file.to_string()), "x").unwrap();
        }
        let spec = Spec::new([at.clone()], Globs::default()).unwrap();
        let mut reader = Reader::new();
        let scan = reader.read(&spec, None, &mut |_| {}).unwrap();
        let live = scan.manifest.root(&at).unwrap().clone();
        let path = |path: &str| Part { path: path.as_bytes().into(), what: What::Remove };
        let mut parts = vec![path("none"), path("d1"), path("d2/2")];
        parts.push(Part { path: b"d3".as_slice().into(), what: What::Dress });
        let few = Few { live, parts };
        let before = few.before(&reader, &spec);
        // d1 with a hundred files, and one file of d2.
        assert_eq!(format!("{before:?}").matches("Mark {").count(), 102);
    }
}
