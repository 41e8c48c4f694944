//! Files that each node makes for itself: of `per-node/conf.d/site.conf`, which all nodes share, comes
//! `conf.d/site.conf` with the values of the node.
//!
//! A generation has the patterns and never what is made of them, so it has one name on all nodes. What
//! lies on disk *is* the generation when, without the made files, it is its tree, and each made file is
//! what the node's values make of its pattern. Otherwise it gets a name that no generation has.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use standin_tree::globs::Globs;
use standin_tree::hash::Hash;
use standin_tree::manifest::{Entry, Kind, Manifest, Root};
use standin_tree::store::Store;

use super::pattern::{Fault, Values};
use super::powers;
use crate::authority::files;

/// The directory of patterns, at the top of a shared one.
const PATTERNS: &[u8] = b"per-node";

/// Bytes of a pattern: text that a person wrote.
const LARGEST: u64 = 1 << 20;

/// Patterns of all roots; each is read whenever the tree is looked at.
const MOST: usize = 4096;

/// Bytes of a file that is made: values are short words.
const LARGEST_MADE: usize = 4 << 20;

/// Bytes of all files that are made: each is read and hashed whenever the tree is looked at.
const ALL_MADE: usize = 64 << 20;

/// The first line of each made file begins so.
const MARK: &str = "# Made by standin from ";

/// What was made is remembered here.
const MEMORY: &str = "made";

/// What this node made last, by absolute path.
pub(super) type Made = BTreeMap<PathBuf, Hash>;

/// How this node sees trees.
#[derive(Clone)]
pub(super) struct Lens {
    pub(super) values: Arc<Values>,
    pub(super) made: Arc<Made>,
    pub(super) exclude: Globs,
}

/// What was seen.
pub(super) struct Seen {
    /// Without made files that are as they should be.
    pub(super) manifest: Manifest,
    pub(super) standing: Standing,
}

pub(super) enum Standing {
    /// Everything is as it should be; what was made, for the next time.
    Clean(Made),
    /// These have to be made, or made anew.
    Stale(Stale),
    /// Why this tree can't be shared, with file, line and mend.
    Faulty(String),
    /// The disk failed; what lies there isn't known.
    Unable(String),
}

/// Why nothing can be made of a tree.
#[derive(Debug)]
pub(super) enum Wrong {
    /// It stays so until somebody mends it: file, line and mend.
    Tree(String),
    /// The disk is full, or fails: it may go well another time.
    Disk(String),
}

impl Wrong {
    /// Of a file.
    fn at(self, at: &Path) -> Self {
        match self {
            Self::Tree(what) => Self::Tree(format!("{}{what}", at.display())),
            Self::Disk(what) => Self::Disk(format!("{}{what}", at.display())),
        }
    }
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self::Tree(what)
    }
}

pub(super) struct Stale {
    pub(super) make: Vec<Make>,
    /// Somebody has changed what standin made.
    pub(super) edited: Vec<PathBuf>,
}

/// A file to be made.
#[derive(Clone, Debug)]
pub(super) struct Make {
    pub(super) root: PathBuf,
    pub(super) entry: Entry,
    /// What lies there and is to be replaced.
    pub(super) over: Option<Entry>,
}

impl Lens {
    /// Whether there is anything to do at all: most trees have no patterns.
    pub(super) fn concerns(&self, manifest: &Manifest) -> bool {
        !self.made.is_empty() || manifest.roots().iter().any(|root| root.entry(PATTERNS).is_some())
    }

    /// The tree as a generation would have it, and what its made files lack. Their bytes are in the
    /// store afterwards.
    pub(super) fn look(&self, store: &Store, manifest: &Manifest) -> Seen {
        let faulty = |why| Seen { manifest: manifest.clone(), standing: Standing::Faulty(why) };
        let wanted = match self.wanted(store, manifest) {
            Ok(wanted) => wanted,
            Err(Wrong::Tree(why)) => return faulty(why),
            Err(Wrong::Disk(why)) => {
                return Seen { manifest: manifest.clone(), standing: Standing::Unable(why) };
            }
        };
        let mut stale = Stale { make: Vec::new(), edited: Vec::new() };
        let (mut done, mut clean) = (BTreeSet::new(), Made::new());
        for make in wanted {
            let path = make.root.join(make.entry.path());
            let there = manifest.root(&make.root).and_then(|root| root.entry(&make.entry.path));
            let Some(there) = there else {
                stale.make.push(make);
                continue;
            };
            if is_made(there, &make.entry) {
                if let Kind::File { hash, .. } = &there.kind {
                    clean.insert(path.clone(), *hash);
                }
                done.insert(path);
                continue;
            }
            match self.remembered(store, &path, there) {
                None => return faulty(foreign(&path, &make)),
                Some(true) => {}
                Some(false) => stale.edited.push(path),
            }
            stale.make.push(Make { over: Some(there.clone()), ..make });
        }
        if let Some(why) = self.orphan(manifest, &clean, &stale) {
            return faulty(why);
        }
        let manifest = without(manifest, &done);
        let standing =
            if stale.make.is_empty() { Standing::Clean(clean) } else { Standing::Stale(stale) };
        Seen { manifest, standing }
    }

    /// Whether what lies there is what was made last, and not changed; `None` if it was never made.
    fn remembered(&self, store: &Store, path: &Path, there: &Entry) -> Option<bool> {
        let Kind::File { hash, size, link: 0 } = &there.kind else { return None };
        if self.made.get(path) == Some(hash) {
            return Some(true);
        }
        let known = self.made.contains_key(path);
        let marked = *size <= 2 * LARGEST
            && store.read(hash).is_ok_and(|bytes| bytes.starts_with(MARK.as_bytes()));
        (known || marked).then_some(false)
    }

    /// What was made of a pattern that is gone, and lies there unchanged.
    fn orphan(&self, manifest: &Manifest, clean: &Made, stale: &Stale) -> Option<String> {
        let wanted: BTreeSet<PathBuf> =
            stale.make.iter().map(|make| make.root.join(make.entry.path())).collect();
        self.made.iter().find_map(|(path, made)| {
            if clean.contains_key(path) || wanted.contains(path) {
                return None;
            }
            let root = manifest.roots().iter().find(|root| path.starts_with(&root.path))?;
            let below = path.strip_prefix(&root.path).ok()?;
            match &root.entry(below.as_os_str().as_bytes())?.kind {
                Kind::File { hash, .. } if hash == made => {}
                _ => return None,
            }
            Some(format!(
                "{} was made from {}, which is gone. Remove it too, or, to make it a file like any \
                 other, the same on all nodes, remove its first line",
                path.display(),
                root.path.join(OsStr::from_bytes(PATTERNS)).join(below).display()
            ))
        })
    }

    /// The generation with what this node makes of it.
    ///
    /// # Errors
    /// In words, with file, line and mend; or what the disk says.
    pub(super) fn resolved(&self, store: &Store, manifest: &Manifest) -> Result<Manifest, Wrong> {
        let wanted = self.wanted(store, manifest)?;
        if wanted.is_empty() {
            return Ok(manifest.clone());
        }
        let mut roots = manifest.roots().to_vec();
        for make in wanted {
            let Some(root) = roots.iter_mut().find(|root| root.path == make.root) else { continue };
            let at = root.entries.binary_search_by(|entry| entry.path.cmp(&make.entry.path));
            match at {
                Ok(_) => return Err(foreign(&make.root.join(make.entry.path()), &make).into()),
                Err(at) => root.entries.insert(at, make.entry),
            }
        }
        Manifest::new(roots).map_err(|fault| Wrong::Tree(fault.to_string()))
    }

    /// Every file that the patterns ask for, sorted by root and path.
    fn wanted(&self, store: &Store, manifest: &Manifest) -> Result<Vec<Make>, Wrong> {
        let mut all = Vec::new();
        let mut bytes = 0_usize;
        for root in manifest.roots() {
            let begin = root.entries.partition_point(|entry| *entry.path < *PATTERNS);
            for entry in root.entries.get(begin..).unwrap_or_default() {
                let Some(below) = entry.path.strip_prefix(PATTERNS) else { break };
                // The directory itself, and what only begins with its name.
                let Some(below) = below.strip_prefix(b"/") else { continue };
                let at = root.full(entry);
                let make = self.want(store, root, entry, below).map_err(|wrong| wrong.at(&at))?;
                if let Some(Make { entry: Entry { kind: Kind::File { size, .. }, .. }, .. }) = &make
                {
                    bytes = bytes.saturating_add(usize::try_from(*size).unwrap_or(usize::MAX));
                }
                all.extend(make);
                if bytes > ALL_MADE {
                    let most = ALL_MADE >> 20;
                    let what = format!(
                        ": with it all files that are made have more than {most} MiB; mend: fewer or \
                         shorter patterns or values"
                    );
                    return Err(Wrong::Tree(what).at(&at));
                }
                if all.len() > MOST {
                    let most = format!("{}: more than {MOST} patterns", root.path.display());
                    return Err(most.into());
                }
            }
        }
        Ok(all)
    }

    /// `None` for a directory. What is wrong begins with a colon, and the line where there is one.
    fn want(
        &self,
        store: &Store,
        root: &Root,
        entry: &Entry,
        below: &[u8],
    ) -> Result<Option<Make>, Wrong> {
        let (size, hash) = match &entry.kind {
            Kind::Directory => return Ok(None),
            Kind::File { size, hash, .. } => (*size, hash),
            Kind::Symlink { .. } => {
                return Err(
                    ": only plain files can be patterns; put the link itself where it is to \
                            be, all nodes share it"
                        .to_owned()
                        .into(),
                );
            }
        };
        let target = Path::new(OsStr::from_bytes(below));
        let mut above = target.ancestors().skip(1).filter(|it| !it.as_os_str().is_empty());
        let lost = above.clone().find(|folder| {
            let there = root.entry(folder.as_os_str().as_bytes());
            !there.is_some_and(|it| it.kind == Kind::Directory)
        });
        if let Some(folder) = lost {
            let folder = root.path.join(folder);
            return Err(format!(
                ": its file would lie in {0}, which is no directory here; mend: mkdir {0}",
                folder.display()
            )
            .into());
        }
        let left_out = |path: &Path| self.exclude.exclude(&root.path, path.as_os_str().as_bytes());
        if left_out(target) || above.any(left_out) || below.starts_with(PATTERNS) {
            return Err(
                ": a file of this name is not shared; choose another name, or change exclude \
                        under [sync]"
                    .to_owned()
                    .into(),
            );
        }
        if size > LARGEST {
            return Err(format!(": a pattern has at most {} KiB", LARGEST >> 10).into());
        }
        let disk = |error: io::Error| Wrong::Disk(format!(": {error}"));
        let bytes = store.read(hash).map_err(disk)?;
        let filled = self.values.fill(&bytes, LARGEST_MADE);
        let filled = filled.map_err(|Fault { line, what }| format!(":{line}: {what}"))?;
        let neutral = Values::neutral(&bytes);
        if !powers::in_bytes(&filled, &[&root.path])
            .is_subset(&powers::in_bytes(&neutral, &[&root.path]))
        {
            return Err(": a value decides which code runs or which module is loaded; write that \
                        into the file itself"
                .to_owned()
                .into());
        }
        let from = Path::new(OsStr::from_bytes(&entry.path));
        let mark = format!(
            "{MARK}{} with the values of {}. Edit that file: what is changed here is undone.\n",
            standin_tree::manifest::shown(from.as_os_str().as_bytes()),
            self.values.own
        );
        let whole = [mark.as_bytes(), &filled].concat();
        let hash = store.put(&whole).map_err(disk)?;
        let kind = Kind::File { size: whole.len() as u64, hash, link: 0 };
        let entry = Entry { path: below.into(), kind, attributes: Vec::new(), ..entry.clone() };
        Ok(Some(Make { root: root.path.clone(), entry, over: None }))
    }
}

impl Seen {
    /// The tree's name; one that isn't shared as it is has a name that no generation has, the same
    /// until something of it changes.
    pub(super) fn name(&self) -> Hash {
        match &self.standing {
            Standing::Clean(_) => self.manifest.hash(),
            Standing::Stale(stale) => stale.name(&self.manifest),
            Standing::Faulty(why) | Standing::Unable(why) => {
                Hash::of(format!("standin: faulty\n{}{why}", self.manifest.hash()).as_bytes())
            }
        }
    }
}

impl Stale {
    /// A name for the tree that no generation has, the same until something of it changes.
    fn name(&self, manifest: &Manifest) -> Hash {
        let mut all = b"standin: files to be made\n".to_vec();
        all.extend_from_slice(manifest.hash().as_bytes());
        for make in &self.make {
            all.extend_from_slice(make.root.join(make.entry.path()).as_os_str().as_bytes());
            if let Kind::File { hash, .. } = &make.entry.kind {
                all.extend_from_slice(hash.as_bytes());
            }
        }
        Hash::of(&all)
    }
}

fn is_made(there: &Entry, wanted: &Entry) -> bool {
    let content = match (&there.kind, &wanted.kind) {
        (Kind::File { hash: one, link: 0, .. }, Kind::File { hash: other, .. }) => one == other,
        _ => false,
    };
    content
        && there.mode == wanted.mode
        && there.user.same(&wanted.user)
        && there.group.same(&wanted.group)
}

fn foreign(path: &Path, make: &Make) -> String {
    let mut from = make.root.join(OsStr::from_bytes(PATTERNS));
    from.push(make.entry.path());
    format!(
        "{0} lies there, and {1} is a pattern for it: one of them is too many. standin overwrites no \
         file that it didn't make; mend: remove {0}, or {1}",
        path.display(),
        from.display()
    )
}

/// The tree without these, its hard links numbered anew.
fn without(manifest: &Manifest, paths: &BTreeSet<PathBuf>) -> Manifest {
    if paths.is_empty() {
        return manifest.clone();
    }
    let mut roots = manifest.roots().to_vec();
    for root in &mut roots {
        let path = root.path.clone();
        // Made files have no second name, so that the groups of the others stay as they are.
        root.entries
            .retain(|entry| entry.path.is_empty() || !paths.contains(&path.join(entry.path())));
    }
    // What was valid is valid without some files.
    Manifest::new(roots).unwrap_or_else(|_| manifest.clone())
}

/// What was made before; nothing where nothing was written, or damage: a made file is known by its
/// first line, too.
pub(super) fn memory(dir: &Path) -> Made {
    let bytes = std::fs::read(dir.join(MEMORY)).unwrap_or_default();
    let one = |one: &[u8]| {
        let (hash, path) = one.split_at_checked(64)?;
        let path = PathBuf::from(OsStr::from_bytes(path.strip_prefix(b" ")?));
        Some((path, Hash::parse(std::str::from_utf8(hash).ok()?)?))
    };
    bytes.split(|byte| *byte == 0).filter_map(one).collect()
}

/// # Errors
/// As write(2).
pub(super) fn remember(dir: &Path, made: &Made) -> io::Result<()> {
    let mut all = Vec::new();
    for (path, hash) in made {
        all.extend_from_slice(format!("{hash} ").as_bytes());
        // The only byte that is in no path ends it.
        all.extend_from_slice(path.as_os_str().as_bytes());
        all.push(0);
    }
    files::write_atomically(&dir.join(MEMORY), &all, 0o600)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use standin_tree::read::{Reader, Spec};

    use super::*;

    struct Tree {
        dir: tempfile::TempDir,
        store: Store,
        lens: Lens,
    }

    impl Tree {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("conf/per-node/conf.d")).unwrap();
            fs::create_dir_all(dir.path().join("conf/conf.d")).unwrap();
            let of = |zone: &str| BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
            let nodes = BTreeMap::from([("n1".to_owned(), of("a")), ("n2".to_owned(), of("b"))]);
            let lens = Lens {
                values: Arc::new(Values { own: "n2".to_owned(), nodes }),
                made: Arc::default(),
                exclude: Globs::new(&["*.bak"]).unwrap(),
            };
            Self { store: Store::open(&dir.path().join("store")).unwrap(), dir, lens }
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.dir.path().join("conf").join(name), text).unwrap();
        }

        fn read(&self) -> Manifest {
            let spec =
                Spec::new([self.dir.path().join("conf")], self.lens.exclude.clone()).unwrap();
            Reader::new().read(&spec, Some(&self.store), &mut |_| {}).unwrap().manifest
        }

        fn look(&self) -> Seen {
            self.lens.look(&self.store, &self.read())
        }

        /// Makes what is wanted, as the node that writes does.
        fn make(&self) {
            let Standing::Stale(stale) = self.look().standing else { panic!("nothing to make") };
            let mut builder = standin_tree::build::Builder::new(&self.store);
            for make in &stale.make {
                let over = make.over.as_ref();
                assert!(builder.replace(&make.root, &make.entry, over).unwrap());
            }
        }

        fn fault(&self) -> String {
            match self.look().standing {
                Standing::Faulty(why) => why,
                Standing::Clean(_) => panic!("clean"),
                Standing::Stale(_) => panic!("stale"),
                Standing::Unable(why) => panic!("{why}"),
            }
        }
    }

    #[test]
    fn a_disk_that_fails_says_nothing_of_the_tree() {
        let tree = Tree::new();
        tree.write("per-node/conf.d/a.conf", "a;\n");
        let manifest = tree.read();
        let lost = Store::open(&tree.dir.path().join("another")).unwrap();
        let seen = tree.lens.look(&lost, &manifest);
        assert!(matches!(seen.standing, Standing::Unable(why) if why.contains("a.conf: ")));
        let resolved = tree.lens.resolved(&lost, &manifest);
        assert!(matches!(resolved, Err(Wrong::Disk(_))));
    }

    #[test]
    fn what_is_made_is_no_part_of_the_generation_and_comes_out_the_same_on_the_other_node() {
        let tree = Tree::new();
        tree.write("per-node/conf.d/a.conf", "zone {{node.zone}};\n");
        tree.write("conf.d/b.conf", "b;\n");
        let before = tree.look();
        assert!(matches!(before.standing, Standing::Stale(_)));
        tree.make();
        let text = fs::read_to_string(tree.dir.path().join("conf/conf.d/a.conf")).unwrap();
        assert!(text.starts_with(MARK) && text.ends_with("undone.\nzone b;\n"), "{text}");
        let seen = tree.look();
        assert!(matches!(seen.standing, Standing::Clean(_)));
        assert_ne!(seen.name(), before.name());
        assert_eq!(seen.name(), seen.manifest.hash());
        assert_eq!(seen.name(), before.manifest.hash(), "only the name was another");
        let resolved = tree.lens.resolved(&tree.store, &seen.manifest).unwrap();
        assert_eq!(resolved.entries().count(), seen.manifest.entries().count() + 1);
        // Changed by hand, it is another tree, and what was changed is in it.
        tree.write("conf.d/a.conf", &format!("{text}# by hand\n"));
        let Seen { manifest, standing: Standing::Stale(stale) } = tree.look() else {
            panic!("clean")
        };
        assert_eq!(stale.edited.len(), 1);
        assert_eq!(manifest.entries().count(), resolved.entries().count());
    }

    #[test]
    fn what_standin_didnt_make_is_never_overwritten() {
        let tree = Tree::new();
        tree.write("per-node/conf.d/a.conf", "a;\n");
        tree.write("conf.d/a.conf", "mine;\n");
        assert!(
            tree.fault().contains("overwrites no file that it didn't make"),
            "{}",
            tree.fault()
        );
        let folder = tree.dir.path().join("conf/conf.d/a.conf");
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        assert!(tree.fault().contains("overwrites no file"));
    }

    #[test]
    fn patterns_that_lead_elsewhere_or_nowhere_are_named_with_their_mend() {
        for (name, says) in [
            ("per-node/other/a.conf", "mkdir"),
            ("per-node/per-node/a.conf", "choose another name"),
            ("per-node/conf.d/hidden", "choose another name"),
        ] {
            let mut tree = Tree::new();
            // It means the file, not its pattern.
            tree.lens.exclude = Globs::new(&["conf.d/hidden"]).unwrap();
            for folder in ["other", "per-node"] {
                fs::create_dir_all(tree.dir.path().join("conf/per-node").join(folder)).unwrap();
            }
            tree.write(name, "a;\n");
            assert!(tree.fault().contains(says), "{}", tree.fault());
        }
        let tree = Tree::new();
        let link = tree.dir.path().join("conf/per-node/conf.d/l.conf");
        std::os::unix::fs::symlink("/etc/passwd", link).unwrap();
        assert!(tree.fault().contains("only plain files"));
    }

    #[test]
    fn no_value_says_which_code_runs() {
        for (pattern, bad) in [
            ("load_module /srv/{{node.zone}}.so;", true),
            ("content_by_lua_{{node.zone}} x;", false),
            ("{{node.zone}} /x;", true),
            ("load_module modules/{{node.zone}}.so;", false),
        ] {
            let mut tree = Tree::new();
            let mut values = (*tree.lens.values).clone();
            for of in values.nodes.values_mut() {
                of.insert("zone".to_owned(), "perl_require".to_owned());
            }
            tree.lens.values = Arc::new(values);
            tree.write("per-node/conf.d/a.conf", pattern);
            let faulty =
                matches!(tree.look().standing, Standing::Faulty(why) if why.contains("code"));
            assert_eq!(faulty, bad, "{pattern}");
        }
    }

    #[test]
    fn what_values_make_of_a_pattern_is_bounded() {
        let mut tree = Tree::new();
        let mut values = (*tree.lens.values).clone();
        for of in values.nodes.values_mut() {
            of.insert("zone".to_owned(), "z".repeat(1000));
        }
        tree.lens.values = Arc::new(values);
        let pattern = |length: usize| "{{node.zone}}".repeat(length / 1000);
        tree.write("per-node/conf.d/a.conf", &pattern(LARGEST_MADE + 1000));
        assert!(tree.fault().contains("a.conf:1: with the values"), "{}", tree.fault());
        tree.write("per-node/conf.d/a.conf", &pattern(LARGEST_MADE / 2));
        assert!(matches!(tree.look().standing, Standing::Stale(_)));
        for at in 0..=ALL_MADE / (LARGEST_MADE / 2) {
            tree.write(&format!("per-node/conf.d/{at}.conf"), &pattern(LARGEST_MADE / 2));
        }
        assert!(tree.fault().contains("more than 64 MiB"), "{}", tree.fault());
    }

    #[test]
    fn a_made_file_without_its_pattern_is_asked_about() {
        let mut tree = Tree::new();
        tree.write("per-node/conf.d/a.conf", "a;\n");
        tree.make();
        let Standing::Clean(made) = tree.look().standing else { panic!("not clean") };
        remember(tree.dir.path(), &made).unwrap();
        assert_eq!(memory(tree.dir.path()), made);
        tree.lens.made = Arc::new(made);
        fs::remove_file(tree.dir.path().join("conf/per-node/conf.d/a.conf")).unwrap();
        assert!(tree.fault().contains("conf.d/a.conf was made from"), "{}", tree.fault());
        tree.write("conf.d/a.conf", "a;\n");
        assert!(matches!(tree.look().standing, Standing::Clean(made) if made.is_empty()));
    }
}
