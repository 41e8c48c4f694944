//! What the standard library can't do with files.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};

/// Magic numbers of the file systems that have no disk (linux/magic.h: TMPFS_MAGIC, RAMFS_MAGIC).
const MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// Lets two files or folders change places at one instant.
///
/// # Errors
/// As renameat2(2): EINVAL where the file system can't.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

/// Whether what is written there stays in memory; swap is another matter.
#[must_use]
pub fn in_memory(path: &Path) -> bool {
    let kind = rustix::fs::statfs(path).ok().and_then(|found| u32::try_from(found.f_type).ok());
    kind.is_some_and(|kind| MEMORY.contains(&kind))
}
