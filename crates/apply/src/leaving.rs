//! Large old trees on their way out: set aside under names of their own, and removed beside everything
//! else.
//!
//! A list of them is on the disk before the first is set aside, and goes when the last one has gone: a
//! crash leaves nothing that nobody knows. There is one such list; who sets more aside waits for it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::fields::{self, Values, Writer, of_path};
use crate::fingerprint::gone;
use crate::journal::make_folder;
use crate::{HIDDEN, Hook, Step};

const NAME: &str = "leaving";

/// What the names of trees that are set aside end with; nothing is ever staged there.
const SUFFIX: &str = "-leaving";

/// Trees with fewer entries are removed at once. Tried on ext4: 250 files in 5 ms, 10,000 in 200 ms
/// and, with other files that wait for the same journal, in seconds.
pub(crate) const LARGE: usize = 250;

/// After so many files, or a directory, the disk is left to others for [`PAUSE`].
const STRIDE: usize = 64;

/// As long as a commit takes.
const PAUSE: Duration = Duration::from_millis(5);

/// Trees that are set aside.
pub(crate) struct Leaving {
    state_dir: PathBuf,
    /// Locked as long as somebody removes what it names.
    list: File,
}

/// Sets trees aside, each in its own directory.
///
/// # Errors
/// What the file system says; those before the failing one are on the list.
pub(crate) fn set_aside(
    state_dir: &Path,
    trees: &[&Path],
    hook: Hook<'_>,
) -> io::Result<Option<Leaving>> {
    if trees.is_empty() {
        return Ok(None);
    }
    finish(state_dir)?;
    let aside = |tree: &Path| {
        let mut name = tree.as_os_str().to_owned();
        name.push(SUFFIX);
        PathBuf::from(name)
    };
    let mut writer = Writer::default();
    for tree in trees {
        writer.record(&[NAME.as_bytes(), of_path(&aside(tree))]);
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
    for (number, tree) in trees.iter().enumerate() {
        fs::rename(tree, aside(tree))?;
        hook(Step::SetAside(number));
    }
    let list = File::open(&path)?;
    Ok(Some(Leaving { state_dir: state_dir.to_owned(), list }))
}

impl Leaving {
    /// Removes them, on a thread of its own where there is one to be had.
    pub(crate) fn begin(self) {
        let Self { state_dir, list } = self;
        // What isn't removed is on the list, for the next one that sets something aside, or a start.
        let _left = thread::Builder::new().name("standin-leaving".into()).spawn(move || {
            let _left = flock(&list, FlockOperation::LockExclusive)
                .map_err(io::Error::from)
                .and_then(|()| clear(&list, &state_dir, PAUSE));
        });
    }
}

/// Waits until what was set aside before has gone, and removes what is left of it.
///
/// # Errors
/// What the file system says; a list that isn't understood.
pub(crate) fn finish(state_dir: &Path) -> io::Result<()> {
    let Some(list) = gone(File::open(state_dir.join(NAME)))? else { return Ok(()) };
    flock(&list, FlockOperation::LockExclusive)?;
    clear(&list, state_dir, Duration::ZERO)
}

fn clear(mut list: &File, state_dir: &Path, pause: Duration) -> io::Result<()> {
    let mut bytes = Vec::new();
    list.read_to_end(&mut bytes)?;
    let path = state_dir.join(NAME);
    let words = || io::Error::new(io::ErrorKind::InvalidData, not_understood(&path));
    for tree in trees(&bytes).ok_or_else(words)? {
        gone(remove(&tree, pause))?;
    }
    gone(fs::remove_file(&path))?;
    Ok(())
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

/// With a pause now and then: what others sync goes through the same journal of the file system.
fn remove(tree: &Path, pause: Duration) -> io::Result<()> {
    if !tree.symlink_metadata()?.is_dir() {
        return fs::remove_file(tree);
    }
    let mut files = 0;
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        let folder = entry.file_type()?.is_dir();
        if folder {
            gone(fs::remove_dir_all(entry.path()))?;
        } else {
            gone(fs::remove_file(entry.path()))?;
            files += 1;
        }
        if !pause.is_zero() && (folder || files % STRIDE == 0) {
            thread::sleep(pause);
        }
    }
    fs::remove_dir_all(tree)
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
