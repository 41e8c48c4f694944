//! What nginx's configuration names outside of the trees that are synchronised.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::files::{NginxConfig, Outside, Place};

/// So many files of one directory are named by the directory.
const TOGETHER: usize = 4;

/// Where standin keeps the keys of TLS session tickets, which nginx's configuration names: the same on
/// all nodes by themselves.
pub const TICKETS: &str = "/run/standin-tickets";

/// A file that the configuration needs, and that no synchronised tree holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// Absolute, as the configuration names it.
    pub path: PathBuf,
    /// Where the bytes are, if symbolic links lead elsewhere.
    pub real: Option<PathBuf>,
    pub directive: String,
    /// The first place that names it.
    pub at: Place,
}

impl Named {
    /// It comes with a package of the distribution, as modules and what Debian links to in
    /// `modules-enabled`: every node has its own.
    #[must_use]
    pub fn is_of_a_package(&self) -> bool {
        const PACKAGED: [&str; 4] = ["/usr/share", "/usr/lib", "/usr/lib64", "/usr/libexec"];
        let bytes = self.real.as_ref().unwrap_or(&self.path);
        self.directive == "load_module" || PACKAGED.iter().any(|folder| bytes.starts_with(folder))
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.at, self.directive, self.path.display())
    }
}

/// Every file that the configuration names outside of `roots`, each once, sorted by path. A file in a
/// root that is a symbolic link to somewhere else is one of them: its bytes are not in the tree.
///
/// `prefix` is nginx's own (`-p`); `real` gives a path with all symbolic links resolved, or nothing
/// if it isn't there. What depends on a variable is passed over: only nginx knows it; and so is
/// [`TICKETS`].
#[must_use]
pub fn outside(
    config: &NginxConfig,
    prefix: &Path,
    roots: &[PathBuf],
    real: &dyn Fn(&Path) -> Option<PathBuf>,
) -> Vec<Named> {
    let real_roots: Vec<PathBuf> =
        roots.iter().map(|root| real(root).unwrap_or_else(|| root.clone())).collect();
    let mut named: BTreeMap<PathBuf, Named> = BTreeMap::new();
    for Outside { directive, path, at } in config.included.iter().chain(&config.outside) {
        let path = clean(&prefix.join(path));
        if named.contains_key(&path) || path.starts_with(TICKETS) {
            continue;
        }
        let real = real(&path);
        let bytes = real.as_deref().unwrap_or(&path);
        let within = |roots: &[PathBuf]| roots.iter().any(|root| bytes.starts_with(root));
        if within(&real_roots) || within(roots) {
            continue;
        }
        let real = real.filter(|real| *real != path);
        let one = Named { path: path.clone(), real, directive: directive.clone(), at: at.clone() };
        named.insert(path, one);
    }
    named.into_values().collect()
}

/// Without `.` and `..`, by the letters alone.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// The line for `[sync]` that has these files shared besides `present`, what stands there now; `None`
/// if there is nothing to add. What lies in `roots` needs no line, and what comes with a package neither.
#[must_use]
pub fn also_line(named: &[Named], roots: &[PathBuf], present: &[PathBuf]) -> Option<String> {
    let shared = |path: &Path| roots.iter().any(|root| path.starts_with(root));
    let mut wanted: BTreeSet<PathBuf> = BTreeSet::new();
    for one in named.iter().filter(|one| !one.is_of_a_package()) {
        match &one.real {
            None => {
                wanted.insert(one.path.clone());
            }
            // The link is shared already, its target isn't.
            Some(real) if shared(&one.path) => {
                wanted.insert(real.clone());
            }
            // A link and its target must travel together, as with certbot's `live` and `archive`.
            Some(real) => match common(&one.path, real) {
                Some(folder) => {
                    wanted.insert(folder);
                }
                None => wanted.extend([one.path.clone(), real.clone()]),
            },
        }
    }
    let mut count: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for parent in wanted.iter().filter_map(|path| path.parent()).filter(|path| is_deep(path)) {
        *count.entry(parent.to_owned()).or_default() += 1;
    }
    wanted.extend(count.into_iter().filter(|(_, files)| *files >= TOGETHER).map(|(path, _)| path));
    wanted.extend(present.iter().cloned());
    let within =
        |path: &&PathBuf| !wanted.iter().any(|other| *path != other && path.starts_with(other));
    let lines: Vec<String> = wanted.iter().filter(within).map(|path| quoted(path)).collect();
    (wanted.len() > present.len()).then(|| format!("also = [{}]", lines.join(", ")))
}

/// The directory that holds both, unless it is as wide as `/etc`.
fn common(one: &Path, other: &Path) -> Option<PathBuf> {
    let both = one.components().zip(other.components()).take_while(|(a, b)| a == b);
    Some(both.map(|(part, _)| part).collect::<PathBuf>()).filter(|path| is_deep(path))
}

/// Deeper than `/etc` or `/usr`.
fn is_deep(path: &Path) -> bool {
    path.components().count() > 2
}

/// As a TOML text.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
