//! Staged trees that nobody knows any more: their daemon was killed before it had exchanged them, or
//! couldn't remove them. They hold whatever the shared directories hold, private keys as well.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::stage::{real, remove};

/// Removes them beside the roots, but for those that a journal names; what couldn't be removed, in words.
/// Only while nothing is being staged.
pub(super) fn sweep(roots: &[PathBuf], journals: &Path) -> Vec<String> {
    let mut failed = Vec::new();
    let mut told = |path: &Path, error: &io::Error| {
        failed.push(format!(
            "trees that standin staged and doesn't need may lie there still: {}: {error}; mend that, or \
             remove what begins with {} there by hand",
            path.display(),
            standin_apply::HIDDEN
        ));
    };
    let known = match standin_apply::staged_by_journal(journals) {
        Ok(known) => known,
        Err(error) => {
            told(journals, &error);
            return failed;
        }
    };
    for root in roots.iter().map(|root| real(root)) {
        let (Some(folder), Some(name)) = (root.parent(), root.file_name()) else { continue };
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            // A root that isn't there yet has nothing beside it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                told(folder, &error);
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            if !is_staged(&entry.file_name(), name) || known.contains(&path) {
                continue;
            }
            if let Err(error) = remove(&path) {
                told(folder, &error);
            }
        }
    }
    failed
}

/// Whether a name is one that a generation of the root `of` is staged under: see `stage::beside`.
fn is_staged(name: &OsStr, of: &OsStr) -> bool {
    let [name, of] = [name, of].map(OsStr::as_encoded_bytes);
    let rest = name
        .strip_prefix(standin_apply::HIDDEN.as_bytes())
        .and_then(|rest| rest.strip_prefix(b"-")?.strip_prefix(of)?.strip_prefix(b"-"));
    let Some(rest) = rest else { return false };
    let Some(dash) = rest.iter().position(|byte| *byte == b'-') else { return false };
    let (number, hash) = rest.split_at(dash);
    let hash = hash.get(1..).unwrap_or_default();
    let digits =
        |bytes: &[u8], all: &dyn Fn(&u8) -> bool| !bytes.is_empty() && bytes.iter().all(all);
    digits(number, &u8::is_ascii_digit) && digits(hash, &u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use standin_core::sync::{Id, TreeHash};

    use super::super::stage::beside;
    use super::*;

    #[test]
    fn only_what_was_staged_for_this_root_is_known_by_its_name() {
        let of = |root: &str, name: &str| is_staged(OsStr::new(name), OsStr::new(root));
        let id = Id { number: 12, tree: TreeHash([0xab; 32]) };
        let staged = beside(Path::new("/etc/nginx"), id).unwrap();
        assert!(of("nginx", staged.file_name().unwrap().to_str().unwrap()));
        assert!(of("nginx-1", ".standin-nginx-1-5-0123456789ab"));
        for other in [
            ".standin-nginx-1-5-0123456789ab",
            ".standin-nginx-5-0123456789ab-leaving",
            ".standin-nginx-5-",
            ".standin-nginx--0123456789ab",
            ".standin-nginx",
            ".standin",
            "nginx-5-0123456789ab",
        ] {
            assert!(!of("nginx", other), "{other}");
        }
    }
}
