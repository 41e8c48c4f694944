//! What an edit changes, as a unified diff for people; secrets are hidden in it.

use std::fmt::Write as _;

use crate::Source;

/// Lines shown around a change.
const AROUND: usize = 3;

/// Empty when nothing changes. An edit changes lines and adds none.
#[must_use]
pub fn diff(name: &str, before: &str, after: &str) -> String {
    let hidden = |text: &str| Source::new(name, text).shown().to_owned();
    // What is hidden has the same length, so lines stay lines.
    let (shown_before, shown_after) = (hidden(before), hidden(after));
    let old: Vec<&str> = shown_before.lines().collect();
    let new: Vec<&str> = shown_after.lines().collect();
    let raw: Vec<(&str, &str)> = before.lines().zip(after.lines()).collect();
    let changed: Vec<usize> = (0..raw.len()).filter(|at| raw[*at].0 != raw[*at].1).collect();
    let mut out = String::new();
    let Some(last) = changed.last().copied() else { return out };
    // Writing to a String can't fail; the same below.
    let _ = writeln!(out, "--- {name}\n+++ {name}");
    let mut shown = 0;
    while let Some(first) = changed.iter().copied().find(|at| *at >= shown) {
        let mut end = first;
        while let Some(next) = changed.iter().copied().find(|at| *at > end)
            && next <= end + 2 * AROUND
        {
            end = next;
        }
        let (from, to) = (first.saturating_sub(AROUND), (end + AROUND + 1).min(old.len()));
        let len = to - from;
        let _ = writeln!(out, "@@ -{},{len} +{},{len} @@", from + 1, from + 1);
        for at in from..to {
            let (was, is) = (old.get(at).unwrap_or(&""), new.get(at).unwrap_or(&""));
            if changed.contains(&at) {
                let _ = writeln!(out, "-{was}\n+{is}");
            } else {
                let _ = writeln!(out, " {was}");
            }
        }
        shown = end + 1;
        if end == last {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_what_changes_and_hides_passwords() {
        let before = "a\nb\npassword = \"geheim\"\nd 1\ne\nf\ng\nh\ni\nj\nk\nl 1\nm\n";
        let after = before.replace('1', "2");
        let shown = diff("f", before, &after);
        assert!(shown.contains("@@ -1,7 +1,7 @@\n a\n b\n"), "{shown}");
        assert!(shown.contains("-d 1\n+d 2\n"), "{shown}");
        assert!(shown.contains("@@ -9,5 +9,5 @@\n i\n j\n k\n-l 1\n+l 2\n m\n"), "{shown}");
        assert!(!shown.contains("geheim"), "{shown}");
        assert_eq!(diff("f", before, before), "");
    }
}
