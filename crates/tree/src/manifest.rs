//! A tree as a list: every root with its files, directories and links, sorted, with their metadata.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::hash::Hash;

/// Watched trees: a configuration has one or two, and some single files.
pub const MAX_ROOTS: usize = 64;

/// Files, directories and links of all roots: ten times the largest hosting configuration seen.
pub const MAX_ENTRIES: usize = 262_144;

/// Directories within directories.
pub const MAX_DEPTH: usize = 64;

/// The kernel's PATH_MAX, without the zero byte.
pub const MAX_PATH: usize = 4095;

/// The kernel's NAME_MAX.
pub const MAX_NAME: usize = 255;

/// Bytes of one file. A configuration's largest are databases of addresses, of some 100 MB.
pub const MAX_FILE: u64 = 1 << 30;

/// Bytes of all files: what a small `/var` can hold twice.
pub const MAX_TOTAL: u64 = 8 << 30;

/// Extended attributes of one entry.
pub const MAX_ATTRIBUTES: usize = 32;

/// Bytes of one attribute's value: the kernel's XATTR_SIZE_MAX is 65,536; ours has a 16-bit length.
pub const MAX_VALUE: usize = 65_535;

/// Bytes of all attributes of a manifest.
pub const MAX_ATTRIBUTE_BYTES: usize = 16 << 20;

/// Different owners of one manifest.
pub const MAX_OWNERS: usize = 4096;

/// Attributes that are kept. POSIX access lists too: without them the group bits of `mode`, which
/// are the list's mask then, would give the group more than it had.
pub const ATTRIBUTE_SPACES: [&[u8]; 4] =
    [b"user.", b"security.", b"system.posix_acl_access", b"system.posix_acl_default"];

/// What makes a list unusable, with the path that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    what: &'static str,
    path: Option<Vec<u8>>,
}

impl Fault {
    pub(crate) const fn new(what: &'static str) -> Self {
        Self { what, path: None }
    }

    pub(crate) fn at(what: &'static str, path: &[u8]) -> Self {
        Self { what, path: Some(path.to_vec()) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", shown(path), self.what),
            None => f.write_str(self.what),
        }
    }
}

impl std::error::Error for Fault {}

/// A path for people: control characters and what is no UTF-8 are escaped.
#[must_use]
pub fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_control() {
                text.extend(letter.escape_default());
            } else {
                text.push(letter);
            }
        }
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    text
}

/// Seconds since 1970, and nanoseconds below 1,000,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    pub s: i64,
    pub ns: u32,
}

/// A user or a group: the number on the node that read the tree, and its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    pub id: u32,
    pub name: Option<Arc<str>>,
}

impl Who {
    #[must_use]
    pub const fn number(id: u32) -> Self {
        Self { id, name: None }
    }

    /// The same owner, seen from two nodes: by name if both have one.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match (&self.name, &other.name) {
            (Some(one), Some(other)) => one == other,
            _ => self.id == other.id,
        }
    }
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attribute {
    /// With its namespace, as `user.comment`.
    pub name: Box<[u8]>,
    pub value: Box<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Directory,
    File {
        size: u64,
        hash: Hash,
        /// Entries of one root with the same number are one inode; 0 stands alone. Numbers begin
        /// with 1, in the order of the paths.
        link: u32,
    },
    Symlink {
        target: Box<[u8]>,
    },
}

/// A file, directory or symbolic link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Relative to the root, any bytes; empty: the root itself.
    pub path: Box<[u8]>,
    pub kind: Kind,
    /// 0 to 0o7777; always 0o777 for a symbolic link.
    pub mode: u16,
    pub user: Who,
    pub group: Who,
    pub modified: Time,
    /// Sorted by name.
    pub attributes: Vec<Attribute>,
}

impl Entry {
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// Whether the two are the same but for their path and their hard links. A directory's time is
    /// not looked at: an editor's scratch file changes it, and nothing depends on it.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let content = match (&self.kind, &other.kind) {
            (Kind::File { size, hash, .. }, Kind::File { size: other_size, hash: other, .. }) => {
                size == other_size && hash == other
            }
            (one, other) => one == other,
        };
        let time = self.kind == Kind::Directory || self.modified == other.modified;
        content
            && time
            && self.mode == other.mode
            && self.user.same(&other.user)
            && self.group.same(&other.group)
            && self.attributes == other.attributes
    }
}

/// One watched path: a directory with all that is in it, or a single file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Root {
    /// Absolute, as the cluster file has it: the same on all nodes.
    pub path: PathBuf,
    /// Sorted by the bytes of their paths, the root itself first; nothing if it isn't there.
    pub entries: Vec<Entry>,
}

impl Root {
    /// The entry of a path relative to the root.
    #[must_use]
    pub fn entry(&self, path: &[u8]) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| (*entry.path).cmp(path)).ok()?;
        self.entries.get(at)
    }

    /// The absolute path of an entry.
    #[must_use]
    pub fn full(&self, entry: &Entry) -> PathBuf {
        if entry.path.is_empty() { self.path.clone() } else { self.path.join(entry.path()) }
    }
}

/// A whole tree. What is in one has been looked at: see [`Manifest::new`].
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    roots: Vec<Root>,
    /// Its name, once somebody has asked for it: of ten thousand files it takes milliseconds.
    hash: OnceLock<Hash>,
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

impl Eq for Manifest {}

impl Manifest {
    /// Takes roots in any order, and entries sorted.
    ///
    /// # Errors
    /// Anything that could lead out of a root, that stands twice, that is out of order, or that is
    /// beyond a bound of this file.
    pub fn new(mut roots: Vec<Root>) -> Result<Self, Fault> {
        roots.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        if roots.len() > MAX_ROOTS {
            return Err(Fault::new("more roots than standin keeps"));
        }
        if roots.iter().map(|root| root.entries.len()).sum::<usize>() > MAX_ENTRIES {
            return Err(Fault::new("more files and directories than standin keeps"));
        }
        let mut total = Total::default();
        for (at, root) in roots.iter().enumerate() {
            let name = root.path.as_os_str().as_bytes();
            if !is_clean_root(name) {
                return Err(Fault::at(
                    "a root must be an absolute path without `.` and `..`",
                    name,
                ));
            }
            let known = roots.get(..at).unwrap_or_default();
            if known.iter().any(|other| root.path.starts_with(&other.path)) {
                return Err(Fault::at("a root within another root", name));
            }
            check_root(root, &mut total)?;
        }
        Ok(Self::of(roots))
    }

    const fn of(roots: Vec<Root>) -> Self {
        Self { roots, hash: OnceLock::new() }
    }

    /// Sorted by path.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    #[must_use]
    pub fn root(&self, path: &Path) -> Option<&Root> {
        self.roots.iter().find(|root| root.path == path)
    }

    /// Every entry, with its root.
    pub fn entries(&self) -> impl Iterator<Item = (&Root, &Entry)> {
        self.roots.iter().flat_map(|root| root.entries.iter().map(move |entry| (root, entry)))
    }

    /// What files contain, each content once, with its size.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<Hash, u64> {
        let content = |(_, entry): (&Root, &Entry)| match entry.kind {
            Kind::File { size, hash, .. } => Some((hash, size)),
            _ => None,
        };
        self.entries().filter_map(content).collect()
    }

    /// Names the generation: the same on every node whose tree is the same. Directories' times, and
    /// the numbers of owners whose names are known, are left out.
    #[must_use]
    pub fn hash(&self) -> Hash {
        *self.hash.get_or_init(|| crate::code::canonical_hash(self))
    }

    /// The same tree with the root `from` at the path `to`: a staged tree as if it were in place.
    ///
    /// # Errors
    /// As [`Manifest::new`], for the new path.
    pub fn moved(&self, from: &Path, to: &Path) -> Result<Self, Fault> {
        let mut roots = self.roots.clone();
        for root in roots.iter_mut().filter(|root| root.path == from) {
            root.path = to.to_owned();
        }
        Self::new(roots)
    }

    /// Only the roots at these paths.
    #[must_use]
    pub fn only(&self, paths: &[PathBuf]) -> Self {
        let wanted = |root: &&Root| paths.contains(&root.path);
        Self::of(self.roots.iter().filter(wanted).cloned().collect())
    }

    /// Replaces every owner.
    #[must_use]
    pub fn map_owners(
        &self,
        mut user: impl FnMut(&Who) -> Who,
        mut group: impl FnMut(&Who) -> Who,
    ) -> Self {
        let mut roots = self.roots.clone();
        for entry in roots.iter_mut().flat_map(|root| &mut root.entries) {
            entry.user = user(&entry.user);
            entry.group = group(&entry.group);
        }
        Self::of(roots)
    }
}

/// What is bounded over all entries together.
#[derive(Default)]
struct Total {
    bytes: u64,
    attributes: usize,
}

fn check_root(root: &Root, total: &mut Total) -> Result<(), Fault> {
    let mut last: Option<&Entry> = None;
    let mut links: Vec<&Entry> = Vec::new();
    let mut shared: Vec<u32> = Vec::new();
    for entry in &root.entries {
        let fault = |what| Err(Fault::at(what, &entry.path));
        match last {
            None if !entry.path.is_empty() => return fault("the root itself isn't in its list"),
            None if matches!(entry.kind, Kind::Symlink { .. }) => {
                return fault("a root can't be a symbolic link");
            }
            None => {}
            Some(last) if last.path >= entry.path => {
                return fault("stands twice, or out of order");
            }
            Some(_) => check_place(root, entry)?,
        }
        check_entry(entry, total)?;
        if let Kind::File { link, .. } = entry.kind
            && link > 0
        {
            let at = link as usize - 1;
            match links.get(at) {
                Some(first) if first.same(entry) && first.modified == entry.modified => {
                    // `shared` is as long as `links`.
                    shared[at] += 1;
                }
                Some(_) => return fault("hard links to one file that differ"),
                None if at == links.len() => {
                    links.push(entry);
                    shared.push(1);
                }
                None => return fault("hard links that are numbered out of order"),
            }
        }
        last = Some(entry);
    }
    if shared.contains(&1) {
        return Err(Fault::new("a hard link that stands alone"));
    }
    Ok(())
}

/// Whether the path is a clean one, below a directory of the same list.
fn check_place(root: &Root, entry: &Entry) -> Result<(), Fault> {
    let fault = |what| Err(Fault::at(what, &entry.path));
    if entry.path.len() + root.path.as_os_str().len() >= MAX_PATH {
        return fault("a path longer than the kernel takes");
    }
    let mut depth = 0;
    for part in entry.path.split(|byte| *byte == b'/') {
        if part.is_empty() || part == b"." || part == b".." || part.contains(&0) {
            return fault("a path that could lead elsewhere");
        }
        if part.len() > MAX_NAME {
            return fault("a name longer than the kernel takes");
        }
        depth += 1;
    }
    if depth > MAX_DEPTH {
        return fault("directories nested deeper than standin follows");
    }
    let slash = entry.path.iter().rposition(|byte| *byte == b'/');
    let parent = entry.path.get(..slash.unwrap_or(0)).unwrap_or_default();
    match root.entry(parent) {
        Some(Entry { kind: Kind::Directory, .. }) => Ok(()),
        _ => fault("lies in something that is no directory of this list"),
    }
}

fn check_entry(entry: &Entry, total: &mut Total) -> Result<(), Fault> {
    let fault = |what| Err(Fault::at(what, &entry.path));
    if entry.mode > 0o7777 || entry.modified.ns >= 1_000_000_000 {
        return fault("a mode or a time out of range");
    }
    match &entry.kind {
        Kind::File { size, .. } => {
            total.bytes = total.bytes.saturating_add(*size);
            if *size > MAX_FILE {
                return fault("a file larger than standin keeps");
            }
            if total.bytes > MAX_TOTAL {
                return Err(Fault::new("more bytes than standin keeps"));
            }
        }
        Kind::Symlink { target } => {
            if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
                return fault("a symbolic link's target that the kernel wouldn't take");
            }
            if entry.mode != 0o777 {
                return fault("a symbolic link with a mode");
            }
        }
        Kind::Directory => {}
    }
    for who in [&entry.user, &entry.group] {
        if who.name.as_deref().is_some_and(|name| !is_owner_name(name)) {
            return fault("an owner's name that can't be one");
        }
    }
    if entry.attributes.len() > MAX_ATTRIBUTES {
        return fault("more attributes than standin keeps");
    }
    let mut last: &[u8] = b"";
    for attribute in &entry.attributes {
        let known = ATTRIBUTE_SPACES.iter().any(|space| attribute.name.starts_with(space));
        let fits = attribute.name.len() <= MAX_NAME && attribute.value.len() <= MAX_VALUE;
        if !known || !fits || attribute.name.contains(&0) || *last >= *attribute.name {
            return fault("an attribute that standin doesn't keep");
        }
        last = &attribute.name;
        total.attributes += attribute.name.len() + attribute.value.len();
        if total.attributes > MAX_ATTRIBUTE_BYTES {
            return Err(Fault::new("more bytes of attributes than standin keeps"));
        }
    }
    Ok(())
}

/// Printable, as it comes into messages.
pub(crate) fn is_owner_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Absolute, and no part of it empty, `.` or `..`; the whole file system is no root.
#[must_use]
pub fn is_clean_root(path: &[u8]) -> bool {
    let Some(below) = path.strip_prefix(b"/") else { return false };
    let plain = |part: &[u8]| {
        (1..=MAX_NAME).contains(&part.len()) && part != b"." && part != b".." && !part.contains(&0)
    };
    path.len() <= MAX_PATH && below.split(|byte| *byte == b'/').all(plain)
}
