//! What the standard library can't do with files.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};

/// Lets two files or folders change places at one instant.
///
/// # Errors
/// As renameat2(2): EINVAL where the file system can't.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}
