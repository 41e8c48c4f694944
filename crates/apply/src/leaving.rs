//! Large old trees on their way out: set aside under names of their own, and removed beside everything
//! else.
//!
//! A list of them is on the disk before the first is set aside, and goes when the last one has gone: a
//! crash leaves nothing that nobody knows. There is one such list; who sets more aside waits for it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::fields::{self, Values, Writer, of_path};
use crate::fingerprint::gone;
use crate::journal::make_folder;
use crate::pieces::inode;
use crate::view::has_mounts_below;
use crate::{HIDDEN, Hook, Step};

const NAME: &str = "leaving";

/// What the names of trees that are set aside end with; nothing is ever staged there.
const SUFFIX: &str = "-leaving";

/// Trees with fewer entries are removed at once. Tried on ext4: 250 files in 5 ms, 10,000 in 200 ms
/// and, with other files that wait for the same journal, in seconds.
pub(crate) const LARGE: usize = 250;

/// After so many files, or a directory, the disk is left to others for [`PAUSE`].
const STRIDE: usize = 64;

/// Trees of one generation that can't be removed; more are no accident.
const NAMES: usize = 100;

/// As long as a commit takes.
const PAUSE: Duration = Duration::from_millis(5);

/// Trees that are set aside.
pub(crate) struct Leaving {
    state_dir: PathBuf,
}

/// Sets trees aside, each in its own directory. What couldn't be removed before stays on the list.
///
/// # Errors
/// What the file system says of the list; all lies where it was then.
pub(crate) fn set_aside(
    state_dir: &Path,
    trees: &[&Path],
    hook: Hook<'_>,
) -> io::Result<Option<Leaving>> {
    if trees.is_empty() {
        return Ok(None);
    }
    // Locked until the next list is in its place, so that nobody takes that for the one before.
    let before = List::locked(state_dir)?;
    let stays = before.as_ref().map_or(Ok(Vec::new()), |list| list.clear(Duration::ZERO))?;
    let asides: Vec<PathBuf> = trees.iter().map(|tree| aside(tree)).collect::<io::Result<_>>()?;
    let mut writer = Writer::default();
    for tree in stays.iter().map(|(tree, _)| tree).chain(&asides) {
        writer.record(&[NAME.as_bytes(), of_path(tree)]);
    }
    make_folder(state_dir)?;
    let (new, path) = (state_dir.join("leaving.new"), state_dir.join(NAME));
    let mut list = File::create(&new)?;
    flock(&list, FlockOperation::LockExclusive)?;
    list.write_all(&writer.bytes())?;
    list.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(state_dir)?.sync_all()?;
    hook(Step::Listed);
    for (number, (tree, aside)) in trees.iter().zip(&asides).enumerate() {
        // One that stays under its name is in nobody's way either; the next start removes it.
        let _stays = fs::rename(tree, aside);
        hook(Step::SetAside(number));
    }
    Ok(Some(Leaving { state_dir: state_dir.to_owned() }))
}

/// A free name: an earlier tree of the same generation may not have gone yet.
fn aside(tree: &Path) -> io::Result<PathBuf> {
    let name = |number: usize| {
        let mut name = tree.as_os_str().to_owned();
        if number > 0 {
            name.push(format!("-{number}"));
        }
        name.push(SUFFIX);
        PathBuf::from(name)
    };
    let is_free = |path: &PathBuf| path.symlink_metadata().is_err();
    let free = (0..NAMES).map(name).find(is_free);
    free.ok_or_else(|| {
        io::Error::other(format!("{} old trees can't be removed: {}", NAMES, name(0).display()))
    })
}

impl Leaving {
    /// Removes them, on a thread of its own where there is one to be had.
    pub(crate) fn begin(self) {
        // What isn't removed is on the list, for [`left`], and for the next one that sets something aside.
        let _left = thread::Builder::new().name("standin-leaving".into()).spawn(move || {
            let list = List::locked(&self.state_dir);
            let _left = list.and_then(|list| list.map_or(Ok(Vec::new()), |list| list.clear(PAUSE)));
        });
    }
}

/// Waits until what was set aside has gone; in words, what can't be removed.
///
/// # Errors
/// What the file system says of the list; one that isn't understood.
pub fn left(state_dir: &Path) -> io::Result<Vec<String>> {
    let Some(list) = List::locked(state_dir)? else { return Ok(Vec::new()) };
    let words = |(tree, error): (PathBuf, io::Error)| {
        format!(
            "{} is an old tree that can't be removed: {error}; it is in nobody's way, and is tried again \
             after the next change; mend that, or remove it by hand",
            tree.display()
        )
    };
    Ok(list.clear(PAUSE)?.into_iter().map(words).collect())
}

/// Removes a tree that is or was staged, unless something is mounted in it.
///
/// # Errors
/// The first thing that stays, with its path.
pub fn remove_tree(tree: &Path) -> io::Result<()> {
    remove(tree, Duration::ZERO)
}

/// The list, locked for as long as somebody removes what it names.
struct List {
    file: File,
    path: PathBuf,
}

impl List {
    fn locked(state_dir: &Path) -> io::Result<Option<Self>> {
        let path = state_dir.join(NAME);
        // Each time round, somebody else has come to an end with a list.
        loop {
            let Some(file) = gone(File::open(&path))? else { return Ok(None) };
            flock(&file, FlockOperation::LockExclusive)?;
            if inode(&path)? == Some(file.metadata()?.ino()) {
                return Ok(Some(Self { file, path }));
            }
        }
    }

    /// Removes what it names, and then itself; hands back what stays, and the list stays with that.
    fn clear(&self, pause: Duration) -> io::Result<Vec<(PathBuf, io::Error)>> {
        let mut bytes = Vec::new();
        (&self.file).read_to_end(&mut bytes)?;
        let words = || io::Error::new(io::ErrorKind::InvalidData, not_understood(&self.path));
        let mut stays = Vec::new();
        for tree in trees(&bytes).ok_or_else(words)? {
            if let Err(error) = gone(remove(&tree, pause)) {
                stays.push((tree, error));
            }
        }
        if stays.is_empty() {
            gone(fs::remove_file(&self.path))?;
        }
        Ok(stays)
    }
}

fn not_understood(list: &Path) -> String {
    format!(
        "{} isn't understood, which names old trees that are to be removed; mend: remove it, and what \
         ends with {SUFFIX} beside the shared directories",
        list.display()
    )
}

fn trees(bytes: &[u8]) -> Option<Vec<PathBuf>> {
    let mut trees = Vec::new();
    for record in fields::read(bytes)? {
        let mut values = Values::of(&record);
        let word = values.text()?;
        let tree = values.path()?;
        // Nothing else is ever removed by this.
        let name = tree.file_name()?.as_encoded_bytes();
        let ours = name.starts_with(HIDDEN.as_bytes()) && name.ends_with(SUFFIX.as_bytes());
        if word != NAME || !ours {
            return None;
        }
        trees.push(tree);
    }
    Some(trees)
}

/// Removes a tree, as much of it as can be, with a pause now and then: what others sync goes through the
/// same journal of the file system.
///
/// # Errors
/// The first thing that stays, with its path; a tree in which something is mounted is left as it is.
pub(crate) fn remove(tree: &Path, pause: Duration) -> io::Result<()> {
    let at = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    if !tree.symlink_metadata()?.is_dir() {
        return fs::remove_file(tree).map_err(|error| at(tree, error));
    }
    if has_mounts_below(tree)? {
        return Err(io::Error::other("something is mounted in it, whose files would go with it"));
    }
    let (mut files, mut failed) = (0, None);
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        let folder = entry.file_type()?.is_dir();
        let path = entry.path();
        let gone = gone(if folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) });
        if let Err(error) = gone {
            failed.get_or_insert_with(|| at(&path, error));
        }
        files += 1;
        if !pause.is_zero() && (folder || files % STRIDE == 0) {
            thread::sleep(pause);
        }
    }
    failed.map_or_else(|| fs::remove_dir_all(tree), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_only_what_was_set_aside() {
        let list = |path: &str| {
            let mut writer = Writer::default();
            writer.record(&[NAME.as_bytes(), path.as_bytes()]);
            trees(&writer.bytes())
        };
        let good = "/etc/.standin-nginx-7-ab-leaving";
        assert_eq!(list(good), Some(vec![PathBuf::from(good)]));
        for bad in ["/etc/nginx", "/etc/.standin-nginx-7-ab", "/etc/nginx-leaving", "/"] {
            assert_eq!(list(bad), None, "{bad}");
        }
        assert_eq!(trees(b"nonsense"), None);
    }
}
