//! What nginx's configuration names outside of the shared trees: whether the nodes have the same.
//!
//! Nobody's bytes travel. Each node says keyed hashes of its files over the peer link; the key comes from
//! the authority's, which only members have, so that nobody else can try what a short file holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use standin_config::nginx::{Named, also_line, outside};
use standin_core::sync::TreeHash;
use tokio::time::Instant;

use super::driver::{Driver, Found};
use super::wire::{Said, hex};
use crate::api::types::sync as said;
use crate::authority::{Keys, crypto};
use crate::control::log::Severity;
use crate::nginx;

/// How often the files are looked at; one that hasn't changed isn't read again.
const LOOK: Duration = Duration::from_secs(10);

/// nginx's configuration is read again at least so often: a pattern may have something new to match.
const READ: Duration = Duration::from_secs(30);

/// Far beyond what a configuration names that isn't better shared as a directory.
const FILES: usize = 256;

/// A longer one is a database that has its own way of being kept equal.
const BYTES: u64 = 16 * 1024 * 1024;

/// All files of one look: a disk gives so much in well under a second.
const ALL_BYTES: u64 = 64 * 1024 * 1024;

/// As Linux has it; what is longer can't be opened.
const PATH: usize = 4096;

/// Bytes of all paths: what is said of them has to fit into one message to a peer, which may have 512 KiB,
/// escaped and with their hashes.
const ALL_PATHS: usize = 64 * 1024;

/// What a node has in the place of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "has", rename_all = "snake_case")]
pub(crate) enum Has {
    /// These bytes: hexadecimal.
    Hash {
        hash: String,
    },
    Nothing,
    /// It can't be read, or is too long.
    #[serde(other)]
    Unknown,
}

/// One file, as it is said to peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct One {
    path: String,
    #[serde(flatten)]
    has: Has,
}

/// A node's files outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Files {
    /// Which key the hashes are made with: others can't be compared.
    key: String,
    /// The shared tree whose files name them: with another one, other files may be named.
    #[serde(default)]
    tree: Option<String>,
    files: Vec<One>,
}

impl Files {
    /// As it came, within the bounds of what is kept.
    fn bounded(mut self) -> Self {
        self.files.truncate(FILES);
        let mut left = ALL_PATHS;
        self.files.retain(|one| one.path.len() <= PATH && fits(&mut left, one.path.len()));
        self
    }

    fn has(&self, path: &str) -> Option<&Has> {
        self.files.iter().find(|one| one.path == path).map(|one| &one.has)
    }
}

/// Tells one state of a file from another.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

type Known = BTreeMap<PathBuf, (Stamp, Has)>;

pub(super) struct OutsideFiles {
    own: Files,
    named: Arc<Vec<Named>>,
    known: Known,
    heard: BTreeMap<String, Files>,
    look_at: Instant,
    read_at: Instant,
    read_tree: Option<TreeHash>,
    busy: bool,
    /// What was told of each peer; of one that is gone it is kept until it is there again.
    told: BTreeMap<String, BTreeSet<String>>,
    /// Files that are named and not compared.
    left_out: usize,
}

/// What was found beside the control thread.
pub(super) struct LookedOutside {
    own: Files,
    named: Arc<Vec<Named>>,
    known: Known,
    /// `None`: the configuration wasn't read.
    left_out: Option<usize>,
}

impl OutsideFiles {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            own: Files::default(),
            named: Arc::default(),
            known: Known::new(),
            heard: BTreeMap::new(),
            look_at: now,
            read_at: now,
            read_tree: None,
            busy: false,
            told: BTreeMap::new(),
            left_out: 0,
        }
    }

    /// Files that differ and weren't told of yet.
    fn news(&mut self) -> BTreeSet<String> {
        let known: BTreeSet<String> = self.told.values().flatten().cloned().collect();
        let mut now: BTreeMap<String, BTreeSet<String>> =
            self.heard.keys().map(|peer| (peer.clone(), BTreeSet::new())).collect();
        for (_, one) in self.unequal() {
            for peer in one.differs_on.iter().chain(&one.missing_on) {
                now.entry(peer.clone()).or_default().insert(one.path.clone());
            }
        }
        self.told.extend(now);
        let all: BTreeSet<String> = self.told.values().flatten().cloned().collect();
        all.difference(&known).cloned().collect()
    }

    /// The files that aren't the same everywhere, by what this node and its peers say.
    fn unequal(&self) -> Vec<(&Named, said::Outside)> {
        let mut found = Vec::new();
        for named in self.named.iter() {
            let path = shown(&named.path);
            let Some(own) = self.own.has(&path) else { continue };
            let mut one = said::Outside {
                named: format!("{} {}", named.at, named.directive),
                missing_here: *own == Has::Nothing,
                path,
                ..said::Outside::default()
            };
            for (peer, files) in self.heard.iter().filter(|(_, it)| it.key == self.own.key) {
                let theirs = files.has(&one.path).or_else(|| {
                    // A pattern of an include that it has nothing for.
                    let all = files.tree == self.own.tree && files.files.len() < FILES;
                    (all && self.own.tree.is_some()).then_some(&Has::Nothing)
                });
                match (own, theirs) {
                    (Has::Hash { hash }, Some(Has::Hash { hash: theirs })) if hash != theirs => {
                        one.differs_on.push(peer.clone());
                    }
                    (Has::Hash { .. }, Some(Has::Nothing)) => one.missing_on.push(peer.clone()),
                    (Has::Nothing, Some(Has::Hash { .. })) => one.differs_on.push(peer.clone()),
                    _ => {}
                }
            }
            if !one.differs_on.is_empty() || !one.missing_on.is_empty() {
                found.push((named, one));
            }
        }
        found
    }
}

impl Driver {
    /// Once a second.
    pub(super) fn outside_tick(&mut self) {
        let Some(running) = &self.running else { return };
        let (now, tree) = (Instant::now(), running.disk.as_ref().map(|disk| disk.tree));
        let other = tree != self.outside.read_tree;
        if self.outside.busy || self.outside.look_at > now && !other {
            return;
        }
        let Some(conf) = self.sight.conf.clone() else { return };
        self.outside.busy = true;
        self.outside.look_at = now + LOOK;
        // While something differs, somebody may be at work on it.
        let differs = |peer: &String| self.outside.told.get(peer).is_some_and(|it| !it.is_empty());
        let at_work = self.outside.heard.keys().any(differs);
        let read = self.outside.read_at <= now || other || at_work;
        if read {
            self.outside.read_at = now + READ;
            self.outside.read_tree = tree;
        }
        let prefix = self.sight.prefix.clone().unwrap_or_else(|| PathBuf::from("/"));
        let roots = running.spec.roots().to_vec();
        let keys = Keys::of(&self.around.state_dir);
        let tree = self.outside.read_tree.map(|tree| hex(&tree.0));
        let (named, known) = (Arc::clone(&self.outside.named), self.outside.known.clone());
        let found = self.found.clone();
        tokio::task::spawn_blocking(move || {
            let (named, left_out) = if read {
                let (named, left_out) = list(&conf, &prefix, &roots);
                (Arc::new(named), Some(left_out))
            } else {
                (named, None)
            };
            // Without the authority's key nothing is said.
            let key = keys.secret("files outside").ok();
            let mut looked = look(key.as_ref(), named, known);
            (looked.own.tree, looked.left_out) = (tree, left_out);
            // The driver may have ended.
            let _ = found.send(Found::Outside(looked));
        });
    }

    pub(super) fn outside_looked(&mut self, looked: LookedOutside) {
        self.outside.busy = false;
        let LookedOutside { own, named, known, left_out } = looked;
        self.outside_left_out(left_out);
        (self.outside.named, self.outside.known) = (named, known);
        if own != self.outside.own {
            self.outside.own = own;
            self.sessions.tell_all(&Said::Outside(Box::new(self.outside.own.clone())));
        }
        self.outside_compared();
    }

    pub(super) fn outside_up(&self, peer: &str) {
        if let Some(outlet) = self.sessions.outlet(peer) {
            // A peer that doesn't listen is cut off soon.
            let _ = outlet.say(Said::Outside(Box::new(self.outside.own.clone())));
        }
    }

    pub(super) fn outside_down(&mut self, peer: &str) {
        self.outside.heard.remove(peer);
        self.outside_compared();
    }

    pub(super) fn outside_heard(&mut self, peer: &str, files: Files) {
        self.outside.heard.insert(peer.to_owned(), files.bounded());
        self.outside_compared();
    }

    /// Says once what isn't the same, and shows it.
    fn outside_compared(&mut self) {
        let new = self.outside.news();
        if let Some(first) = new.first() {
            let more =
                if new.len() > 1 { format!(" and {} more", new.len() - 1) } else { String::new() };
            let text = format!(
                "nginx's configuration names {first}{more}, which isn't the same on all nodes and isn't \
                 shared: standin sync status says where, and how to share it"
            );
            self.tell(Severity::Warning, "outside_differs", None, text);
        }
        self.publish();
    }

    /// More files than can be compared are told of once.
    fn outside_left_out(&mut self, left_out: Option<usize>) {
        let Some(left_out) = left_out else { return };
        let before = std::mem::replace(&mut self.outside.left_out, left_out);
        if left_out > 0 && before == 0 {
            let text = format!(
                "nginx's configuration names so many files outside of the shared directories that                  {left_out} of them aren't compared: at most {FILES} are, with {} KiB of paths; share                  their directory with also under [sync]",
                ALL_PATHS >> 10
            );
            self.tell(Severity::Warning, "outside_differs", None, text);
        }
    }

    /// What isn't the same everywhere, and the line that shares it.
    pub(super) fn outside_status(&self) -> (Vec<said::Outside>, Option<String>) {
        let (Some(running), Some(settings)) = (&self.running, &self.settings) else {
            return (Vec::new(), None);
        };
        let (named, files): (Vec<Named>, Vec<said::Outside>) =
            self.outside.unequal().into_iter().map(|(named, one)| (named.clone(), one)).unzip();
        let paths = running.spec.roots().iter().filter(|root| !settings.also.contains(root));
        let paths: Vec<PathBuf> = paths.cloned().collect();
        let line = also_line(&named, &paths, &settings.also).filter(|_| !files.is_empty());
        (files, line)
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What the configuration on disk names, but for what comes with a package.
/// And how many more it names than are compared.
fn list(conf: &Path, prefix: &Path, roots: &[PathBuf]) -> (Vec<Named>, usize) {
    let real = |path: &Path| path.canonicalize().ok();
    let mut named = outside(&nginx::read_config(conf), prefix, roots, &real);
    named.retain(|one| !one.is_of_a_package());
    let all = named.len();
    let mut left = ALL_PATHS;
    named.retain(|one| {
        let length = shown(&one.path).len();
        length <= PATH && fits(&mut left, length)
    });
    named.truncate(FILES);
    let left_out = all - named.len();
    (named, left_out)
}

/// Whether there is room for so many bytes; they are taken from it.
fn fits(left: &mut usize, bytes: usize) -> bool {
    let rest = left.checked_sub(bytes);
    *left = rest.unwrap_or(*left);
    rest.is_some()
}

fn look(key: Option<&[u8; 32]>, named: Arc<Vec<Named>>, mut known: Known) -> LookedOutside {
    let Some(key) = key else {
        return LookedOutside { own: Files::default(), named, known: Known::new(), left_out: None };
    };
    let mut left = ALL_BYTES;
    let mut own = Files { key: hex(&crypto::keyed(key, &[b"which"])), ..Files::default() };
    let mut now = Known::new();
    for one in named.iter() {
        let path = &one.path;
        let before = known.remove(path);
        let has = match stamp(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Has::Nothing,
            Err(_) => Has::Unknown,
            Ok(stamp) => {
                let same = before.filter(|(before, has)| *before == stamp && *has != Has::Unknown);
                let has = same.map_or_else(|| hashed(key, path, &mut left), |(_, has)| has);
                now.insert(path.clone(), (stamp, has.clone()));
                has
            }
        };
        own.files.push(One { path: shown(path), has });
    }
    LookedOutside { own, named, known: now, left_out: None }
}

/// Of the file that a link leads to.
fn stamp(path: &Path) -> io::Result<Stamp> {
    let found = fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("this is no file"));
    }
    let (modified, changed) = (found.mtime_nsec(), found.ctime_nsec());
    Ok((found.dev(), found.ino(), found.size(), found.mtime(), modified, found.ctime(), changed))
}

fn hashed(key: &[u8; 32], path: &Path, left: &mut u64) -> Has {
    let mut bytes = Vec::new();
    let most = BYTES.min(*left);
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    *left = left.saturating_sub(bytes.len() as u64);
    if read.is_err() || bytes.len() as u64 > most {
        return Has::Unknown;
    }
    // With its name: that two files are equal is nobody's business.
    let name = shown(path);
    let length = (name.len() as u64).to_be_bytes();
    Has::Hash { hash: hex(&crypto::keyed(key, &[b"file", &length, name.as_bytes(), &bytes])) }
}

#[cfg(test)]
mod tests {
    use standin_config::nginx::Place;

    use super::*;

    fn named(path: &Path) -> Named {
        Named {
            path: path.to_owned(),
            real: None,
            directive: "ssl_certificate_key".to_owned(),
            at: Place { file: PathBuf::from("/etc/nginx/nginx.conf"), line: 12 },
        }
    }

    #[test]
    fn files_are_compared_by_keyed_hashes_and_missing_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["same", "other", "gone", "here"].map(|name| dir.path().join(name));
        let all = Arc::new(paths.iter().map(|path| named(path)).collect::<Vec<_>>());
        let key = [7; 32];
        for name in ["same", "other", "gone"] {
            fs::write(dir.path().join(name), b"1").unwrap();
        }
        let theirs = look(Some(&key), Arc::clone(&all), Known::new()).own;
        fs::write(dir.path().join("other"), b"22").unwrap();
        fs::write(dir.path().join("here"), b"3").unwrap();
        fs::remove_file(dir.path().join("gone")).unwrap();
        let LookedOutside { own, known, .. } = look(Some(&key), Arc::clone(&all), Known::new());
        assert_eq!(known.len(), 3);
        let again = look(Some(&key), Arc::clone(&all), known);
        assert_eq!(again.own, own);
        let mut files = OutsideFiles::new();
        (files.own, files.named) = (own.clone(), Arc::clone(&all));
        files.heard.insert("n2".to_owned(), theirs.clone());
        let found: BTreeMap<String, said::Outside> =
            files.unequal().into_iter().map(|(_, one)| (one.path.clone(), one)).collect();
        let of = |at: usize| found.get(&shown(&paths[at]));
        assert!(of(0).is_none());
        assert_eq!(of(1).unwrap().differs_on, ["n2"]);
        assert!(of(2).unwrap().missing_here);
        assert_eq!(of(3).unwrap().missing_on, ["n2"]);
        assert_eq!(of(3).unwrap().named, "/etc/nginx/nginx.conf:12 ssl_certificate_key");
        // Named here by a pattern, and nothing there: known only of the same configuration.
        let mut less = theirs.clone();
        less.files.pop();
        files.heard.insert("n2".to_owned(), less.clone());
        let is_missing = |files: &OutsideFiles| {
            files.unequal().iter().any(|(_, one)| one.path == shown(&paths[3]))
        };
        assert!(!is_missing(&files));
        (less.tree, files.own.tree) = (Some("a".to_owned()), Some("a".to_owned()));
        files.heard.insert("n2".to_owned(), less);
        assert!(is_missing(&files));
        // Under another key nothing can be said, and no hash is the same.
        let other = look(Some(&[8; 32]), all, Known::new()).own;
        assert!(other.files.iter().zip(&own.files).all(|(a, b)| a != b || a.has == Has::Nothing));
        files.heard.insert("n2".to_owned(), other);
        assert!(files.unequal().is_empty());
        // Nor do two files of one content have one hash.
        assert_ne!(theirs.has(&shown(&paths[0])), theirs.has(&shown(&paths[1])));
    }

    #[test]
    fn a_peer_that_is_gone_differs_in_nothing_and_is_not_told_of_again() {
        let path = PathBuf::from("/etc/a.pem");
        let has = |hash: &str| Files {
            files: vec![One { path: shown(&path), has: Has::Hash { hash: hash.to_owned() } }],
            ..Files::default()
        };
        let mut files = OutsideFiles::new();
        (files.own, files.named) = (has("1"), Arc::new(vec![named(&path)]));
        files.heard.insert("n2".to_owned(), has("2"));
        assert_eq!(files.news().len(), 1);
        assert!(files.news().is_empty());
        files.heard.remove("n2");
        assert!(files.unequal().is_empty());
        assert!(files.news().is_empty());
        files.heard.insert("n2".to_owned(), has("2"));
        assert_eq!(files.unequal().len(), 1);
        assert!(files.news().is_empty(), "it was told");
        files.heard.insert("n2".to_owned(), has("1"));
        assert!(files.news().is_empty());
        files.heard.insert("n2".to_owned(), has("3"));
        assert_eq!(files.news().len(), 1, "it was well in between");
    }

    #[test]
    fn what_is_said_of_all_files_fits_into_one_message() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("nginx.conf");
        let line = |at: usize| {
            let name = format!("{at:04}").repeat(60);
            format!("ssl_certificate_key {}/{name}.pem;\n", dir.path().join("away").display())
        };
        let text: String = (0..2 * FILES).map(line).collect();
        fs::write(&conf, format!("http {{ {text} }}")).unwrap();
        let (named, left_out) = list(&conf, Path::new("/"), &[]);
        assert!(!named.is_empty() && left_out > FILES, "{} {left_out}", named.len());
        assert_eq!(named.len() + left_out, 2 * FILES);
        let said = look(Some(&[7; 32]), Arc::new(named), Known::new()).own;
        let bytes = serde_json::to_vec(&said).unwrap().len();
        assert!(bytes < 256 * 1024, "{bytes}");
        let before = said.files.len();
        assert_eq!(said.bounded().files.len(), before);
    }

    #[test]
    fn what_is_no_file_or_too_long_is_not_read_and_lists_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        assert!(stamp(dir.path()).is_err());
        let path = dir.path().join("long");
        fs::write(&path, vec![0; 100]).unwrap();
        let mut left = 99;
        assert_eq!(hashed(&[1; 32], &path, &mut left), Has::Unknown);
        let one = One { path: "x".repeat(PATH + 1), has: Has::Nothing };
        let short = One { path: "x".to_owned(), has: Has::Nothing };
        let mut files = vec![short; 2 * FILES];
        files[0] = one;
        let bounded = Files { files, ..Files::default() }.bounded();
        assert_eq!(bounded.files.len(), FILES - 1);
        let text =
            r#"{"key":"","files":[{"path":"/a","has":"sings"},{"path":"/b","has":"nothing"}]}"#;
        let said: Files = serde_json::from_str(text).unwrap();
        assert_eq!(said.has("/a"), Some(&Has::Unknown));
        assert_eq!(said.has("/b"), Some(&Has::Nothing));
    }
}
