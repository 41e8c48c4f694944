//! What differs between a live root and the one that is wanted, as few pieces that can be put there one by
//! one; and those pieces, built.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::build::{Builder, Refused, split};
use crate::changes::{Difference, root_changes};
use crate::manifest::{Entry, Fault, Kind, Root};
use crate::stamp::about;

/// What is done at one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Something new, where nothing is.
    Add,
    /// Something else, in the place of what is there; a directory with all that is in it.
    Replace,
    /// Nothing.
    Remove,
    /// The same directory with other metadata.
    Dress,
}

/// One piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Relative to the root; empty for the root itself.
    pub path: Box<[u8]>,
    pub what: What,
}

/// The pieces that make `wanted` of `live`, in an order in which each finds its directory, and what is
/// there names nothing that isn't there yet; `None` if that isn't to be had in pieces: one of the two
/// isn't a directory, or a file with several names is among them.
///
/// Directories whose time alone differs, also because something in them does, are among the pieces.
#[must_use]
pub fn parts(live: &Root, wanted: &Root) -> Option<Vec<Part>> {
    let folder = |root: &Root| root.entries.first().is_some_and(is_folder);
    if !folder(live) || !folder(wanted) {
        return None;
    }
    let mut found: BTreeMap<Box<[u8]>, What> = BTreeMap::new();
    // What lies in these comes or goes with them.
    let mut whole: HashSet<&[u8]> = HashSet::new();
    let changes = root_changes(live, wanted);
    let paths: Vec<Box<[u8]>> = changes
        .iter()
        .filter_map(|change| change.path.strip_prefix(&wanted.path).ok())
        .map(|path| path.as_os_str().as_bytes().into())
        .collect();
    for (path, change) in paths.iter().zip(&changes) {
        if above(path).any(|folder| whole.contains(folder)) {
            continue;
        }
        let (old, new) = (live.entry(path), wanted.entry(path));
        let what = match change.what {
            Difference::Added => What::Add,
            Difference::Removed => What::Remove,
            _ if old.is_some_and(is_folder) && new.is_some_and(is_folder) => What::Dress,
            Difference::Content | Difference::Metadata => What::Replace,
        };
        if what != What::Dress && old.into_iter().chain(new).any(is_folder) {
            whole.insert(path);
        }
        found.insert(path.clone(), what);
    }
    for (path, _) in found.iter().filter(|(_, what)| **what != What::Dress) {
        let linked = |root: &Root| below(root, path).into_iter().any(has_names);
        if linked(live) || linked(wanted) {
            return None;
        }
    }
    let touched = found.iter().filter(|(_, what)| **what != What::Dress);
    let mut dress: Vec<Box<[u8]>> = touched.map(|(path, _)| split(path).0.into()).collect();
    for entry in wanted.entries.iter().filter(|entry| is_folder(entry)) {
        let there = live.entry(&entry.path).filter(|there| is_folder(there));
        if there.is_some_and(|there| there.modified != entry.modified) {
            dress.push(entry.path.clone());
        }
    }
    for path in dress {
        if !above(&path).any(|folder| whole.contains(folder)) {
            found.entry(path).or_insert(What::Dress);
        }
    }
    let mut parts: Vec<Part> = found.into_iter().map(|(path, what)| Part { path, what }).collect();
    // A stable sort: within a kind, what is above comes first.
    parts.sort_by_key(|part| part.what);
    Some(parts)
}

fn is_folder(entry: &Entry) -> bool {
    entry.kind == Kind::Directory
}

fn has_names(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File { link: 1.., .. })
}

/// The directories that a path lies in, but for the root.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.filter_map(|(at, _)| path.get(..at))
}

/// What is at and below a path: itself first, then, as paths are sorted, all that is in it.
#[must_use]
pub fn below<'r>(root: &'r Root, path: &[u8]) -> Vec<&'r Entry> {
    if path.is_empty() {
        return root.entries.iter().collect();
    }
    let inside = [path, b"/"].concat();
    let begin = root.entries.partition_point(|entry| *entry.path < *inside);
    let rest = root.entries.get(begin..).unwrap_or_default();
    let rest = rest.iter().take_while(|entry| entry.path.starts_with(&inside));
    root.entry(path).into_iter().chain(rest).collect()
}

/// A root of its own of what is at and below a path of another one.
fn taken(root: &Root, path: &[u8]) -> Root {
    let relative = |entry: &Entry| {
        let rest = entry.path.get(path.len()..).unwrap_or_default();
        rest.strip_prefix(b"/").unwrap_or(rest).into()
    };
    let entry = |entry: &Entry| Entry { path: relative(entry), ..entry.clone() };
    let entries = below(root, path).into_iter().map(entry).collect();
    Root { path: root.path.join(Path::new(std::ffi::OsStr::from_bytes(path))), entries }
}

/// Bytes of the files that the parts bring.
#[must_use]
pub fn bytes(wanted: &Root, parts: &[Part]) -> u64 {
    let new = parts.iter().filter(|part| matches!(part.what, What::Add | What::Replace));
    let entries = new.flat_map(|part| below(wanted, &part.path));
    let size = |entry: &Entry| match entry.kind {
        Kind::File { size, .. } => size,
        Kind::Directory | Kind::Symlink { .. } => 0,
    };
    entries.map(size).sum()
}

/// What `live` is with the parts in their places, as a reader found them in the root `built` of
/// [`Builder::build_parts`].
///
/// # Errors
/// As [`crate::manifest::Manifest::new`] for what comes of it; a part that isn't among what was built.
pub fn applied(live: &Root, parts: &[Part], built: &Root) -> Result<Root, Fault> {
    let mut entries: BTreeMap<Box<[u8]>, Entry> =
        live.entries.iter().map(|entry| (entry.path.clone(), entry.clone())).collect();
    for (number, part) in parts.iter().enumerate() {
        let name = number.to_string();
        if part.what != What::Dress {
            for entry in below(live, &part.path) {
                entries.remove(&entry.path);
            }
        }
        if part.what == What::Remove {
            continue;
        }
        let new = below(built, name.as_bytes());
        if new.is_empty() {
            return Err(Fault::at("isn't among what was built", &part.path));
        }
        for entry in new {
            let rest = entry.path.get(name.len()..).unwrap_or_default();
            let path: Box<[u8]> = [&part.path, rest].concat().into();
            entries.insert(path.clone(), Entry { path, ..entry.clone() });
        }
    }
    Ok(Root { path: live.path.clone(), entries: entries.into_values().collect() })
}

impl Builder<'_> {
    /// Makes the directory `at`, where nothing may stand, and in it what the parts bring, each under its
    /// number; of a directory that is dressed, an empty one with its metadata. Nothing is synced.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn build_parts(
        &mut self,
        wanted: &Root,
        parts: &[Part],
        at: &Path,
    ) -> io::Result<Vec<Refused>> {
        let fail = |error: io::Error| about(at.as_os_str().as_bytes(), error);
        fs::DirBuilder::new().mode(0o700).create(at).map_err(fail)?;
        let mut refused = Vec::new();
        for (number, part) in parts.iter().enumerate().filter(|(_, it)| it.what != What::Remove) {
            let mut root = taken(wanted, &part.path);
            if part.what == What::Dress {
                root.entries.truncate(1);
            }
            let place: PathBuf = at.join(number.to_string());
            refused.extend(self.build(&root, &place, None)?.refused);
        }
        Ok(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;
    use crate::manifest::{Manifest, Time, Who};

    fn file(path: &str, text: &str) -> Entry {
        let kind = Kind::File { size: 1, hash: Hash::of(text.as_bytes()), link: 0 };
        Entry { kind, mode: 0o644, ..folder(path) }
    }

    fn folder(path: &str) -> Entry {
        Entry {
            path: path.as_bytes().into(),
            kind: Kind::Directory,
            mode: 0o755,
            user: Who::number(0),
            group: Who::number(0),
            modified: Time::default(),
            attributes: Vec::new(),
        }
    }

    fn root(entries: Vec<Entry>) -> Root {
        let manifest = Manifest::new(vec![Root { path: "/r".into(), entries }]).unwrap();
        manifest.roots()[0].clone()
    }

    fn found(live: &Root, wanted: &Root) -> Vec<String> {
        let parts = parts(live, wanted).unwrap();
        let one = |part: &Part| format!("{:?} {}", part.what, String::from_utf8_lossy(&part.path));
        parts.iter().map(one).collect()
    }

    #[test]
    fn what_lies_in_a_new_or_removed_directory_comes_or_goes_with_it() {
        let live = root(vec![
            folder(""),
            folder("a"),
            file("a-b", "1"),
            file("a/x", "1"),
            folder("gone"),
            file("gone/x", "1"),
            file("kind", "1"),
        ]);
        let wanted = root(vec![
            folder(""),
            folder("a"),
            file("a-b", "1"),
            file("a/x", "2"),
            folder("kind"),
            folder("kind/in"),
            file("kind/in/x", "1"),
            folder("new"),
            file("new/x", "1"),
        ]);
        let all = ["Add new", "Replace a/x", "Replace kind", "Remove gone", "Dress ", "Dress a"];
        assert_eq!(found(&live, &wanted), all);
        assert!(parts(&live, &live).unwrap().is_empty());
        let names = |path| below(&wanted, path).len();
        assert_eq!((names(b"kind"), names(b"a"), names(b"none")), (3, 2, 0));
        assert_eq!(bytes(&wanted, &parts(&live, &wanted).unwrap()), 3);
    }

    #[test]
    fn a_directory_s_metadata_and_time_are_pieces_of_their_own() {
        let live = root(vec![folder(""), folder("a"), folder("b")]);
        let mut wanted = live.clone();
        wanted.entries[1].mode = 0o700;
        wanted.entries[2].modified.ns = 5;
        assert_eq!(found(&live, &wanted), ["Dress a", "Dress b"]);
    }

    #[test]
    fn files_with_several_names_are_not_had_in_pieces() {
        let live = root(vec![folder(""), file("a", "1"), file("b", "1"), file("c", "1")]);
        let mut wanted = live.clone();
        for entry in wanted.entries.iter_mut().skip(1).take(2) {
            entry.kind = Kind::File { size: 1, hash: Hash::of(b"1"), link: 1 };
        }
        assert_eq!(parts(&live, &wanted), None);
        assert_eq!(parts(&wanted, &live), None);
        // One that isn't touched is in nobody's way.
        let mut other = wanted.clone();
        other.entries[0].mode = 0o700;
        other.entries[3] = file("c", "2");
        assert_eq!(found(&wanted, &other), ["Replace c", "Dress "]);
    }
}
