//! Where another process sees a path of ours: its mounts may show it elsewhere, or a part of it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use standin_linux::private::mount_id;

/// A line of `/proc/PID/mountinfo`, as proc(5) has it.
#[derive(Clone, Debug)]
struct Mount {
    id: u64,
    /// `major:minor` of the file system.
    device: String,
    /// The directory of the file system that is shown.
    shows: PathBuf,
    /// Where, seen from the process' root.
    at: PathBuf,
}

/// What a process sees of a path.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Each place where it sees it.
    pub(crate) places: Vec<PathBuf>,
    /// It holds on to the directory itself, or to one below it: a new one in its place isn't seen.
    pub(crate) bound: bool,
}

/// Looks from `pid`, or from here.
///
/// # Errors
/// What `/proc` says; a path that lies in no mount.
pub(crate) fn of(pid: Option<u32>, path: &Path) -> io::Result<View> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let there = fs::symlink_metadata(path).is_ok();
    let id = mount_id(if there { path } else { parent })?;
    let ours = mounts("/proc/thread-self/mountinfo")?;
    let ours = ours.iter().find(|mount| mount.id == id).ok_or(io::ErrorKind::NotFound)?;
    let below = path.strip_prefix(&ours.at).map_err(io::Error::other)?;
    let within = joined(&ours.shows, below);
    let root = pid.map_or_else(|| PathBuf::from("/"), |pid| format!("/proc/{pid}/root").into());
    let theirs = match pid {
        Some(pid) => mounts(&format!("/proc/{pid}/mountinfo"))?,
        None => mounts("/proc/thread-self/mountinfo")?,
    };
    let mut view = View::default();
    for mount in theirs.iter().filter(|mount| mount.device == ours.device) {
        view.bound |= mount.shows.starts_with(&within);
        let Ok(rest) = within.strip_prefix(&mount.shows) else { continue };
        let place = joined(&mount.at, rest);
        let below_root = place.strip_prefix("/").unwrap_or(&place);
        let seen = |path: &Path| fs::symlink_metadata(path).map(|it| (it.dev(), it.ino())).ok();
        // Another mount may lie over it.
        let same = match (there, place.parent(), below_root.parent()) {
            (true, ..) => seen(&root.join(below_root)) == seen(path),
            (false, Some(_), Some(above)) => seen(&root.join(above)) == seen(parent),
            _ => false,
        };
        if same && !view.places.contains(&place) {
            view.places.push(place);
        }
    }
    Ok(view)
}

/// Whether something is mounted in a tree, at whatever depth; a mount at `path` itself doesn't count.
///
/// # Errors
/// What `/proc` says.
pub(crate) fn has_mounts_below(path: &Path) -> io::Result<bool> {
    let ours = mounts("/proc/thread-self/mountinfo")?;
    Ok(ours.iter().any(|mount| mount.at != path && mount.at.starts_with(path)))
}

/// Unlike `join`, nothing is appended for an empty path.
pub(crate) fn joined(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_owned() } else { base.join(rest) }
}

fn mounts(file: &str) -> io::Result<Vec<Mount>> {
    Ok(fs::read(file)?.split(|byte| *byte == b'\n').filter_map(mount).collect())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`
fn mount(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let mut word = || words.next();
    let id = str::from_utf8(word()?).ok()?.parse().ok()?;
    let _parent = word()?;
    let device = str::from_utf8(word()?).ok()?.to_owned();
    Some(Mount { id, device, shows: unescaped(word()?), at: unescaped(word()?) })
}

/// Blanks and line ends are written as `\040`.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let octal = octal.and_then(|digits| str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = br"36 35 98:0 /mnt\0401 /mnt2 rw,noatime master:1 - ext3 /dev/root rw";
        let mount = mount(line).unwrap();
        assert_eq!((mount.id, mount.device.as_str()), (36, "98:0"));
        assert_eq!(mount.shows, Path::new("/mnt 1"));
        assert_eq!(mount.at, Path::new("/mnt2"));
        assert!(super::mount(b"").is_none() && super::mount(b"1 2 3").is_none());
    }

    #[test]
    fn an_ordinary_folder_is_seen_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        for pid in [None, Some(std::process::id())] {
            let view = of(pid, &path).unwrap();
            assert!(view.places.contains(&path), "{view:?}");
            assert!(!view.bound);
            let new = of(pid, &path.join("new")).unwrap();
            assert!(new.places.contains(&path.join("new")), "{new:?}");
        }
    }
}
