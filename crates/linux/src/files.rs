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
    // The kernel's type is wider or narrower, and signed or not, from machine to machine.
    rustix::fs::statfs(path).is_ok_and(|found| MEMORY.contains(&(found.f_type as u32)))
}
