//! Lines of the form `key=value` under `[sections]`: systemd's and NetworkManager's files.

use std::ops::Range;

use super::edit::lines;

/// One assignment; `key` is trimmed, `value` is where it stands.
pub(super) struct Entry<'a> {
    pub(super) section: &'a str,
    /// Empty for a line that is no assignment.
    pub(super) key: &'a str,
    pub(super) value: Range<usize>,
}

pub(super) fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    let mut section = "";
    lines(text).filter_map(move |line| {
        let content = text[line.clone()].trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            return None;
        }
        if let Some(name) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            return None;
        }
        let (key, value) = match text[line.clone()].find('=') {
            Some(at) => (text[line.start..line.start + at].trim(), line.start + at + 1..line.end),
            None => ("", line),
        };
        Some(Entry { section, key, value })
    })
}
