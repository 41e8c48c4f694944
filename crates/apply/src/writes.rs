//! What an nginx would make or write at its start, and memory laid over it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use standin_config::nginx::{Build, NginxConfig};
use standin_linux::{private, spawn};

/// Directories that one configuration writes to; a hosting company has a log directory per site.
const FOLDERS: usize = 1024;

/// Directories that are made again in memory where nothing can be laid over them.
const SKELETON: usize = 4096;

/// Where the memory is put while it is laid over other places; nothing is laid over these.
const CORNERS: &[&str] = &["/sys", "/proc"];

/// What lies here is no file on a disk.
const NO_DISK: &[&str] = &["/dev", "/proc", "/sys"];

/// Everything that nginx may open for writing, or make.
pub(crate) fn of(config: &NginxConfig, build: Option<&Build>, prefix: &Path) -> Vec<PathBuf> {
    let named = config.writes.iter().map(|one| prefix.join(&one.path));
    let compiled = build.iter().flat_map(|build| {
        build.writes.iter().chain([&build.pid_path]).map(|path| {
            // `-p` moves what lies below the compiled-in prefix.
            match path.strip_prefix(&build.prefix) {
                Ok(below) => prefix.join(below),
                Err(_) => path.clone(),
            }
        })
    });
    let all: BTreeSet<PathBuf> = named.chain(compiled).collect();
    all.into_iter().filter(|path| !NO_DISK.iter().any(|none| path.starts_with(none))).collect()
}

/// Lays memory over the places of `writes` that `choose` says yes to.
///
/// # Errors
/// In words, when no memory can be had; a single place that can't be covered is left as it is.
pub(crate) fn cover(writes: &[PathBuf], choose: &dyn Fn(&Path) -> bool) -> Result<(), String> {
    cover_as(writes, choose, false)
}

/// The same for places that are in memory already: only files that are there are hidden, so that no log is
/// copied as a whole. File systems can't be laid over one another without end.
///
/// # Errors
/// As [`cover`].
pub(crate) fn hide(writes: &[PathBuf], choose: &dyn Fn(&Path) -> bool) -> Result<(), String> {
    cover_as(writes, choose, true)
}

fn cover_as(
    writes: &[PathBuf],
    choose: &dyn Fn(&Path) -> bool,
    only_files: bool,
) -> Result<(), String> {
    let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
    let mut files = Vec::new();
    for path in writes {
        let Some(parent) = path.parent().and_then(|parent| fs::canonicalize(parent).ok()) else {
            continue;
        };
        if parent == Path::new("/") || !choose(&parent) {
            continue;
        }
        if let Some(name) = path.file_name() {
            let path = parent.join(name);
            if fs::metadata(&path).is_ok_and(|found| !found.is_dir()) {
                files.push(path);
            }
        }
        if folders.len() < FOLDERS {
            folders.insert(parent);
        }
    }
    if only_files {
        folders.clear();
    }
    if folders.is_empty() && !(only_files && files.iter().any(|file| file.exists())) {
        return Ok(());
    }
    let folders = outermost(&folders);
    let corner = corner()?;
    spawn::mount_memory(corner)
        .map_err(|error| format!("memory at {}: {error}", corner.display()))?;
    let done = lay(&folders, &files, corner);
    let left = private::unmount(corner).map_err(|error| format!("{}: {error}", corner.display()));
    done.map_err(|error| format!("memory over what nginx writes: {error}")).and(left)
}

/// Where memory can be put for a while.
pub(crate) fn corner() -> Result<&'static Path, String> {
    let corner = CORNERS.iter().map(Path::new).find(|corner| corner.is_dir());
    corner.ok_or_else(|| "there is neither /sys nor /proc".to_owned())
}

/// Whether a path can be given to an overlay: commas and colons mean something to the mount call.
pub(crate) fn is_plain(path: &Path) -> bool {
    !path.as_os_str().as_encoded_bytes().iter().any(|byte| b",:\\".contains(byte))
}

/// Without those that lie below another one in the same mount: these are covered with it.
fn outermost(folders: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let mut kept: Vec<(PathBuf, Option<u64>)> = Vec::new();
    for folder in folders {
        let mount = private::mount_id(folder).ok();
        if !kept.iter().any(|(above, id)| folder.starts_with(above) && *id == mount) {
            kept.push((folder.clone(), mount));
        }
    }
    kept.into_iter().map(|(folder, _)| folder).collect()
}

fn lay(folders: &[PathBuf], files: &[PathBuf], corner: &Path) -> io::Result<()> {
    for (number, folder) in folders.iter().enumerate() {
        let (upper, work) = (corner.join(format!("{number}u")), corner.join(format!("{number}w")));
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        like(folder, &upper)?;
        if is_plain(folder) && spawn::mount_overlay(folder, &upper, &work).is_ok() {
            continue;
        }
        let memory = corner.join(format!("{number}s"));
        fs::create_dir(&memory)?;
        skeleton(folder, &memory, &mut 0)?;
        spawn::mount_bind(&memory, folder)?;
    }
    // A log would be copied into memory as a whole when it is opened for writing.
    for (number, file) in files.iter().filter(|file| file.exists()).enumerate() {
        let nothing = corner.join(format!("{number}f"));
        fs::write(&nothing, [])?;
        like(file, &nothing)?;
        spawn::mount_bind(&nothing, file)?;
    }
    Ok(())
}

/// Gives a new file or directory the owner and mode of another one.
pub(crate) fn like(known: &Path, new: &Path) -> io::Result<()> {
    let found = fs::metadata(known)?;
    chown(new, Some(found.uid()), Some(found.gid()))?;
    fs::set_permissions(new, fs::Permissions::from_mode(found.mode() & 0o7777))
}

/// The directories below `folder`, without their files.
fn skeleton(folder: &Path, new: &Path, count: &mut usize) -> io::Result<()> {
    like(folder, new)?;
    for entry in fs::read_dir(folder)?.flatten() {
        if *count < SKELETON && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            *count += 1;
            let below = new.join(entry.file_name());
            fs::create_dir(&below)?;
            skeleton(&entry.path(), &below, count)?;
        }
    }
    Ok(())
}
