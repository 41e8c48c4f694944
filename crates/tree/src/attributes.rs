//! Extended attributes of files, read and written.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, lgetxattr, llistxattr, lsetxattr,
};
use rustix::io::{Errno, Result};

use crate::manifest::{ATTRIBUTE_SPACES, Attribute, MAX_ATTRIBUTES, MAX_NAME, MAX_VALUE};

/// Bytes of all names of one file: the kernel's XATTR_LIST_MAX.
const MAX_NAMES: usize = 65_536;

/// What is kept of an entry's attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    /// Sorted by name.
    pub(crate) kept: Vec<Attribute>,
    /// Some were beyond the bounds, or refused to be read.
    pub(crate) incomplete: bool,
}

/// The attributes of an open file or directory.
pub(crate) fn of_open(fd: BorrowedFd<'_>) -> Result<Read> {
    collect(|buffer| flistxattr(fd, buffer), |name, buffer| fgetxattr(fd, name, buffer))
}

/// The attributes of a symbolic link, which can't be opened.
pub(crate) fn of_link(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Read> {
    let path = path_of(directory, name);
    collect(
        |buffer| llistxattr(&*path, buffer),
        |attribute, buffer| lgetxattr(&*path, attribute, buffer),
    )
}

fn path_of(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat()
}

fn collect(
    list: impl Fn(&mut [u8]) -> Result<usize>,
    value: impl Fn(&[u8], &mut [u8]) -> Result<usize>,
) -> Result<Read> {
    let mut names = [0; 512];
    let mut longer = Vec::new();
    let names: &[u8] = match list(&mut names) {
        Ok(length) => names.get(..length).unwrap_or_default(),
        // The file system knows no attributes.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Read::default()),
        Err(Errno::RANGE) => {
            longer.resize(MAX_NAMES, 0);
            let length = list(&mut longer)?;
            longer.get(..length).unwrap_or_default()
        }
        Err(other) => return Err(other),
    };
    let mut read = Read::default();
    let mut buffer = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        if !ATTRIBUTE_SPACES.iter().any(|space| name.starts_with(space)) {
            continue;
        }
        buffer.resize(MAX_VALUE, 0);
        match value(name, &mut buffer) {
            Ok(length) if read.kept.len() < MAX_ATTRIBUTES && name.len() <= MAX_NAME => {
                buffer.truncate(length);
                read.kept.push(Attribute { name: name.into(), value: buffer.as_slice().into() });
            }
            // It went meanwhile.
            Err(Errno::NODATA) => {}
            Ok(_) | Err(_) => read.incomplete = true,
        }
    }
    read.kept.sort();
    Ok(read)
}

/// Gives an open file or directory these attributes and no other; says which one was refused.
pub(crate) fn write_open(
    fd: BorrowedFd<'_>,
    wanted: &[Attribute],
) -> std::result::Result<(), (Vec<u8>, Errno)> {
    let present = of_open(fd).map_err(|errno| (b"user.".to_vec(), errno))?;
    for old in &present.kept {
        if !wanted.iter().any(|attribute| attribute.name == old.name) {
            fremovexattr(fd, &*old.name).map_err(|errno| (old.name.to_vec(), errno))?;
        }
    }
    for attribute in wanted.iter().filter(|attribute| !present.kept.contains(attribute)) {
        fsetxattr(fd, &*attribute.name, &attribute.value, XattrFlags::empty())
            .map_err(|errno| (attribute.name.to_vec(), errno))?;
    }
    Ok(())
}

/// Gives a new symbolic link these attributes.
pub(crate) fn write_link(
    directory: impl AsFd,
    name: &[u8],
    wanted: &[Attribute],
) -> std::result::Result<(), (Vec<u8>, Errno)> {
    let path = path_of(directory.as_fd(), name);
    for attribute in wanted {
        lsetxattr(&*path, &*attribute.name, &attribute.value, XattrFlags::empty())
            .map_err(|errno| (attribute.name.to_vec(), errno))?;
    }
    Ok(())
}
