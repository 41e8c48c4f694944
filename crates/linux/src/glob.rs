//! File name patterns as nginx's `include` has them: glob(3).

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// More files than one pattern may give; the reader of the configuration has its own limit as well.
const MATCHES: usize = 4096;

/// The files that match an absolute pattern, by name.
#[must_use]
pub fn glob(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let mut deeper = Vec::new();
        for folder in found {
            if deeper.len() >= MATCHES {
                break;
            }
            if part.contains(['*', '?', '[']) {
                deeper.extend(matching(&folder, part));
            } else {
                let path = folder.join(part);
                if path.symlink_metadata().is_ok() {
                    deeper.push(path);
                }
            }
        }
        found = deeper;
    }
    found.truncate(MATCHES);
    found
}

fn matching(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut names: Vec<_> =
        names.filter(|name| fits(pattern.as_bytes(), name.as_bytes())).collect();
    names.sort_unstable();
    names.truncate(MATCHES);
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// Whether a name fits a pattern of `*`, `?` and `[…]`; a leading dot must be written.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last star doesn't fit.
    let mut again: Option<(usize, usize)> = None;
    loop {
        let rest = pattern.get(p..).unwrap_or_default();
        let fitted = match (rest.first(), name.get(n)) {
            (Some(b'*'), _) => {
                again = Some((p, n));
                p += 1;
                continue;
            }
            (None, None) => return true,
            (Some(_), Some(letter)) => one(rest, *letter),
            _ => None,
        };
        match (fitted, again) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((star, at))) if at < name.len() => {
                again = Some((star, at + 1));
                (p, n) = (star + 1, at + 1);
            }
            _ => return false,
        }
    }
}

/// How much of the pattern `letter` uses up; `None` when it doesn't fit.
fn one(pattern: &[u8], letter: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == letter).then_some(2),
        [b'[', rest @ ..] => {
            let (negated, set) = match rest {
                [b'!' | b'^', set @ ..] => (true, set),
                set => (false, set),
            };
            // A bracket at the first place is a member of the set.
            let end = set.iter().skip(1).position(|byte| *byte == b']')? + 1;
            let members = set.get(..end)?;
            let mut inside = members.contains(&letter);
            for range in members.windows(3) {
                if let [low, b'-', high] = range {
                    inside |= (*low..=*high).contains(&letter);
                }
            }
            (inside != negated).then_some(1 + usize::from(negated) + end + 1)
        }
        [literal, ..] => (*literal == letter).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_the_c_library_has_it() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", false),
            ("*.conf", "a.conf.bak", false),
            ("*", "x", true),
            ("*", ".hidden", false),
            (".*", ".hidden", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[0-9]*-x", "10-x", true),
            ("[!0-9]*", "10-x", false),
            ("[a-c]x", "bx", true),
            ("[", "[", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "ab", true),
            ("*a*b", "ba", false),
            ("\\*", "*", true),
            ("", "", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn files_come_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.conf", "a.conf", "c.off"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let pattern = format!("{}/*.conf", folder.path().display());
        let names = glob(&pattern);
        assert_eq!(names, [folder.path().join("a.conf"), folder.path().join("b.conf")]);
        assert!(glob("/nonexistent/*.conf").is_empty());
    }
}
