//! A tree and a store in a directory of their own, and a picture of a tree taken in another way.

#![allow(dead_code, reason = "each test program uses what it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

pub(crate) mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use standin_tree::globs::Globs;
use standin_tree::manifest::Manifest;
use standin_tree::read::{Reader, Scan, Spec};
use standin_tree::store::{Generation, Id, Origin, Store};

pub(crate) struct Room {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Arc<Store>,
}

impl Room {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        fs::create_dir(dir.path().join("live")).unwrap();
        Self { dir, store }
    }

    pub(crate) fn live(&self) -> PathBuf {
        self.dir.path().join("live")
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.live().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn spec(&self) -> Spec {
        Spec::new([self.live()], Globs::new(&["*.swp", "*~"]).unwrap()).unwrap()
    }

    pub(crate) fn read(&self) -> Scan {
        let scan = Reader::new().snapshot(&self.spec(), Some(&*self.store), patience()).unwrap();
        assert!(scan.settled, "nobody writes");
        scan
    }

    pub(crate) fn record(&self, number: u64, origin: Origin, manifest: &Manifest) -> Id {
        let id = Id { number, hash: manifest.hash() };
        let (node, why) = ("n1".to_owned(), format!("test {number}"));
        let generation =
            Generation { id, origin, parents: Vec::new(), node, when_ms: 1000 + number, why };
        self.store.record(&generation, manifest).unwrap();
        id
    }
}

pub(crate) fn patience() -> Duration {
    Duration::from_secs(20)
}

/// What there is, as anybody's tools would show it: path, and kind, mode, owner, size, time, target,
/// content; hard links by the first name. Directories without size and time.
pub(crate) fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    picture_of_moving(root).unwrap()
}

/// The same where files may come and go meanwhile, which is an error then.
pub(crate) fn picture_of_moving(root: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    let mut seen = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    let mut all = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.symlink_metadata()?.is_dir() {
                folders.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    for path in all {
        let at = path.strip_prefix(root).unwrap().to_owned();
        let meta = path.symlink_metadata()?;
        let mut line = format!("{:o} {}:{}", meta.permissions().mode(), meta.uid(), meta.gid());
        if !meta.is_dir() {
            line += &format!(" {} {}.{}", meta.len(), meta.mtime(), meta.mtime_nsec());
        }
        if meta.is_symlink() {
            line += &format!(" -> {:?}", fs::read_link(&path)?);
        } else if meta.is_file() {
            line += &format!(" {:?}", fs::read(&path)?);
            if meta.nlink() > 1 {
                line += &format!(" = {:?}", inodes.entry(meta.ino()).or_insert_with(|| at.clone()));
            }
        }
        seen.insert(at, line);
    }
    Ok(seen)
}
