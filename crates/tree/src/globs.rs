//! Names that are left alone: the patterns of `exclude`.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::manifest::Fault;

/// Patterns of one cluster file.
const MAX_GLOBS: usize = 256;

/// Bytes of one pattern.
const MAX_PATTERN: usize = 1024;

/// Names that standin itself uses beside and within trees, never part of a generation.
pub const OWN_PREFIX: &[u8] = b".standin";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Letter(u8),
    /// `?`: one byte but the slash.
    One,
    /// `[a-z]`, `[!0-9]`.
    Set {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
    /// `*`: any bytes but the slash.
    Any,
    /// `**`: any bytes.
    Deep,
}

impl Part {
    fn takes(&self, letter: u8) -> bool {
        match self {
            Self::Letter(own) => *own == letter,
            Self::One | Self::Any => letter != b'/',
            Self::Deep => true,
            Self::Set { negated, ranges } => {
                let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&letter));
                letter != b'/' && inside != *negated
            }
        }
    }

    const fn may_be_nothing(&self) -> bool {
        matches!(self, Self::Any | Self::Deep)
    }
}

/// What a pattern is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    /// No slash in it: the last part of the path.
    Name,
    /// A slash: the path from the root.
    Relative,
    /// It begins with a slash: the whole path.
    Absolute,
}

#[derive(Clone, Debug)]
struct Glob {
    parts: Vec<Part>,
    against: Against,
}

/// A set of patterns. `*` stops at a slash, `**` doesn't; a dot at the beginning is a letter like any
/// other. A pattern without a slash is held against names, one with a slash against the path from the
/// root, one that begins with a slash against the absolute path. What lies in an excluded directory is
/// excluded.
#[derive(Clone, Debug, Default)]
pub struct Globs(Vec<Glob>);

impl Globs {
    /// # Errors
    /// More than 256 patterns, or one that is empty or longer than 1,024 bytes.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, Fault> {
        if patterns.len() > MAX_GLOBS {
            return Err(Fault::new("more patterns to exclude than standin takes"));
        }
        let one = |pattern: &S| {
            let pattern = pattern.as_ref().trim_end_matches('/').as_bytes();
            if pattern.is_empty() || pattern.len() > MAX_PATTERN {
                return Err(Fault::at("an empty or endless pattern", pattern));
            }
            let against = match pattern.iter().position(|byte| *byte == b'/') {
                None => Against::Name,
                Some(0) => Against::Absolute,
                Some(_) => Against::Relative,
            };
            Ok(Glob { parts: parse(pattern), against })
        };
        Ok(Self(patterns.iter().map(one).collect::<Result<_, _>>()?))
    }

    /// Whether the entry itself is left alone; its directories are to be asked about before.
    #[must_use]
    pub fn exclude(&self, root: &Path, relative: &[u8]) -> bool {
        let slash = relative.iter().rposition(|byte| *byte == b'/');
        let name = slash.map_or(relative, |at| relative.get(at + 1..).unwrap_or_default());
        if name.is_empty() {
            return false;
        }
        name.starts_with(OWN_PREFIX)
            || self.0.iter().any(|glob| match glob.against {
                Against::Name => fits(&glob.parts, name),
                Against::Relative => fits(&glob.parts, relative),
                Against::Absolute => {
                    fits(&glob.parts, &[root.as_os_str().as_bytes(), b"/", relative].concat())
                }
            })
    }
}

fn parse(pattern: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let Some((first, after)) = rest.split_first() {
        let (part, next) = match (first, after) {
            (b'*', [b'*', after @ ..]) => (Part::Deep, after),
            (b'*', after) => (Part::Any, after),
            (b'?', after) => (Part::One, after),
            (b'\\', [literal, after @ ..]) => (Part::Letter(*literal), after),
            (b'[', after) => set(after).unwrap_or((Part::Letter(b'['), after)),
            (letter, after) => (Part::Letter(*letter), after),
        };
        parts.push(part);
        rest = next;
    }
    parts
}

/// The inside of brackets and what follows them; `None` if they are never closed.
fn set(after: &[u8]) -> Option<(Part, &[u8])> {
    let (negated, members) = match after {
        [b'!' | b'^', members @ ..] => (true, members),
        members => (false, members),
    };
    // A bracket at the first place is a member.
    let end = members.iter().skip(1).position(|byte| *byte == b']')? + 1;
    let (mut members, rest) = (members.get(..end)?, members.get(end + 1..)?);
    let mut ranges = Vec::new();
    while let Some((low, more)) = members.split_first() {
        members = match more {
            [b'-', high, more @ ..] => {
                ranges.push((*low, *high));
                more
            }
            more => {
                ranges.push((*low, *low));
                more
            }
        };
    }
    Some((Part::Set { negated, ranges }, rest))
}

/// Walks all readings of the pattern at once, so that no pattern takes longer than its length times
/// the name's.
fn fits(parts: &[Part], name: &[u8]) -> bool {
    // The two usual kinds of patterns, for which no walk is needed: `*.swp` and `cache`.
    match parts.split_first() {
        Some((Part::Any, end)) if end.iter().all(|part| matches!(part, Part::Letter(_))) => {
            let Some(start) = name.len().checked_sub(end.len()) else { return false };
            if name.iter().take(start).any(|byte| *byte == b'/') {
                return false;
            }
            return end.iter().zip(name.iter().skip(start)).all(|(part, byte)| part.takes(*byte));
        }
        Some((Part::Letter(first), _)) if name.first() != Some(first) => return false,
        _ => {}
    }
    let mut at = vec![false; parts.len() + 1];
    let mut next = at.clone();
    let spread = |at: &mut [bool]| {
        for (place, part) in parts.iter().enumerate() {
            // `at` has one place more than there are parts.
            at[place + 1] |= at[place] && part.may_be_nothing();
        }
    };
    at[0] = true;
    spread(&mut at);
    for letter in name {
        next.fill(false);
        for (place, part) in parts.iter().enumerate() {
            if at[place] && part.takes(*letter) {
                next[if part.may_be_nothing() { place } else { place + 1 }] = true;
            }
        }
        spread(&mut next);
        std::mem::swap(&mut at, &mut next);
    }
    at.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_leave_alone_what_they_say() {
        let root = Path::new("/etc/nginx");
        for (pattern, path, expected) in [
            ("*.swp", ".nginx.conf.swp", true),
            ("*.swp", "conf.d/.a.conf.swp", true),
            ("*.swp", "a.swp.conf", false),
            ("*~", "conf.d/a.conf~", true),
            ("*~", "conf.d~/a.conf", false),
            ("[0-9]*", "4913", true),
            ("[!0-9]*", "4913", false),
            ("[]x]", "]", true),
            ("[", "[", true),
            ("a?c", "abc", true),
            ("a?c", "x/a/c", false),
            ("conf.d/*.off", "conf.d/a.off", true),
            ("conf.d/*.off", "conf.d/b/a.off", false),
            ("conf.d/**.off", "conf.d/b/a.off", true),
            ("conf.d/*.off", "x/conf.d/a.off", false),
            ("*.d/x", "conf.d/x", true),
            ("*.d/x", "a/conf.d/x", false),
            ("*", "a", true),
            ("*.swp", ".swp", true),
            ("*.swp", "swp", false),
            ("/etc/nginx/local.conf", "local.conf", true),
            ("/etc/nginx/local.conf", "conf.d/local.conf", false),
            ("cache/", "cache", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("**", "a", true),
        ] {
            let globs = Globs::new(&[pattern]).expect("a pattern");
            assert_eq!(globs.exclude(root, path.as_bytes()), expected, "{pattern} {path}");
        }
        assert!(Globs::default().exclude(root, b"conf.d/.standin-a.conf"));
        assert!(!Globs::new(&["*"]).expect("a pattern").exclude(root, b""), "never the root");
        assert!(Globs::new(&[""]).is_err() && Globs::new(&["/"]).is_err());
    }

    #[test]
    fn no_pattern_takes_for_ever() {
        let pattern = "*a".repeat(500);
        let name = vec![b'a'; 400];
        assert!(!Globs::new(&[pattern]).expect("a pattern").exclude(Path::new("/r"), &name));
    }
}
