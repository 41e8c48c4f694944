//! Copies files with everything that belongs to them: mode, owner, times, extended attributes.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink,
};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

/// One file's names of extended attributes, and the value of one: the kernel's own limits.
const XATTR_BYTES: usize = 65_536;

/// Copies a file, a link, or a directory with all that is in it, to a place where nothing is.
pub(crate) fn tree(from: &Path, to: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(from)?;
    if found.is_dir() {
        // Nobody else looks into it before it is as it should be.
        fs::DirBuilder::new().mode(0o700).create(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            tree(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if found.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if found.is_file() {
        let mut source = fs::File::open(from)?;
        let mut target =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        io::copy(&mut source, &mut target)?;
    } else {
        let words = format!("{} is neither file, directory nor link", from.display());
        return Err(io::Error::other(words));
    }
    metadata(from, &found, to)
}

/// Gives `to`, which is of the same kind, the metadata of `from`.
pub(crate) fn metadata(from: &Path, found: &Metadata, to: &Path) -> io::Result<()> {
    if found.is_symlink() {
        lchown(to, Some(found.uid()), Some(found.gid()))?;
    } else {
        xattrs(from, to)?;
        // Before the mode: a change of owner takes the set-id bits away.
        chown(to, Some(found.uid()), Some(found.gid()))?;
        fs::set_permissions(to, Permissions::from_mode(found.mode() & 0o7777))?;
    }
    let time = |s, ns| Timespec { tv_sec: s, tv_nsec: ns };
    let times = Timestamps {
        last_access: time(found.atime(), found.atime_nsec()),
        last_modification: time(found.mtime(), found.mtime_nsec()),
    };
    Ok(rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The extended attributes of a file, sorted by name; none where the file system has none.
pub(crate) fn list_xattrs(of: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; XATTR_BYTES];
    let length = match rustix::fs::llistxattr(of, &mut names[..]) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    let names = names.get(..length).unwrap_or_default();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; XATTR_BYTES];
        let length = rustix::fs::lgetxattr(of, name, &mut value[..])?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}

fn xattrs(from: &Path, to: &Path) -> io::Result<()> {
    let wanted = list_xattrs(from)?;
    for (name, _) in list_xattrs(to)? {
        if !wanted.iter().any(|(one, _)| *one == name) {
            rustix::fs::lremovexattr(to, &name[..])?;
        }
    }
    for (name, value) in wanted {
        match rustix::fs::lsetxattr(to, &name[..], &value, XattrFlags::empty()) {
            // Labels of a security module are the host's own business.
            Err(_) if name.starts_with(b"security.") => {}
            Err(rustix::io::Errno::NOTSUP) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Whether two files are the same in all that a generation carries; not directories' contents.
pub(crate) fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (a, b) = (fs::symlink_metadata(one)?, fs::symlink_metadata(other)?);
    let owner = |found: &Metadata| (found.mode(), found.uid(), found.gid());
    if owner(&a) != owner(&b) {
        return Ok(false);
    }
    if a.is_symlink() {
        return Ok(fs::read_link(one)? == fs::read_link(other)?);
    }
    if list_xattrs(one)? != list_xattrs(other)? {
        return Ok(false);
    }
    if !a.is_file() {
        return Ok(a.is_dir());
    }
    let time = |found: &Metadata| (found.mtime(), found.mtime_nsec());
    let looks = a.len() == b.len() && time(&a) == time(&b);
    Ok(looks && (a.ino() == b.ino() && a.dev() == b.dev() || fs::read(one)? == fs::read(other)?))
}
