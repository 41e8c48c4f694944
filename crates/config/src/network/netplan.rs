//! netplan's YAML (netplan(5)), edited as text: its comments and its form are somebody's work.

use std::ops::Range;

use super::edit::{Edit, lines};

/// A key of a mapping, or what stands on a line without one.
struct Entry<'a> {
    /// The keys above it, the outermost first, with its own as the last one.
    path: Vec<&'a str>,
    /// Of its own key, which may be an address; empty where there is none.
    key: Range<usize>,
    value: Range<usize>,
    in_braces: bool,
}

pub(super) fn read(edit: &mut Edit<'_>) {
    let text = edit.text;
    let entries = entries(text);
    for entry in &entries {
        if let ["network", _, device, key @ ("dhcp4" | "dhcp6")] = entry.path[..]
            && matches!(text[entry.value.clone()].trim(), "true" | "yes" | "on")
            && edit.is_family(key == "dhcp6")
            && is_for(&entries, text, device, edit.swap.interface)
        {
            edit.dynamic(entry.value.clone(), "by DHCP");
        }
        for place in edit.mentions(&entry.key) {
            // `- 192.168.1.41/24:` with options below it.
            let above = entry.path.split_last().map_or(&[][..], |(_, above)| above);
            judge(edit, &entries, entry, above, place);
        }
        for place in edit.mentions(&entry.value) {
            judge(edit, &entries, entry, &entry.path, place);
        }
    }
}

fn judge(
    edit: &mut Edit<'_>,
    entries: &[Entry<'_>],
    entry: &Entry<'_>,
    path: &[&str],
    place: Range<usize>,
) {
    if entry.in_braces {
        return edit.unclear(place, "within { braces }");
    }
    match path {
        ["network", _, device, "addresses"] => {
            if is_for(entries, edit.text, device, edit.swap.interface) {
                edit.declare(place);
            } else {
                edit.other_interface(place, device);
            }
        }
        ["network", _, _, "routes", "from"] => edit.replace(place),
        _ => edit.mention(place),
    }
}

/// Whether `device` of the file is `interface`: by its name, by `set-name`, or by a `match` that can't
/// be judged from here.
fn is_for(entries: &[Entry<'_>], text: &str, device: &str, interface: &str) -> bool {
    let mut matched = false;
    for entry in entries {
        match entry.path[..] {
            ["network", _, of, "set-name"] if of == device => {
                return text[entry.value.clone()].trim().trim_matches(['"', '\'']) == interface;
            }
            ["network", _, of, "match", ..] if of == device => matched = true,
            _ => {}
        }
    }
    matched || device == interface
}

fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut all = Vec::new();
    let mut stack: Vec<(usize, &str)> = Vec::new();
    for line in lines(text) {
        let content = without_comment(&text[line.clone()]);
        if content.trim().is_empty() || content.starts_with("---") {
            continue;
        }
        let mut start = content.len() - content.trim_start().len();
        let mut dashed = false;
        while let Some(after) = content[start..].strip_prefix('-').filter(|it| it.starts_with(' '))
        {
            if !std::mem::replace(&mut dashed, true) {
                // An item may stand as far left as the key of its list.
                stack.retain(|(indent, _)| *indent <= start);
            }
            start += 1 + (after.len() - after.trim_start().len());
        }
        if !dashed {
            stack.retain(|(indent, _)| *indent < start);
        }
        let rest = &content[start..];
        let in_braces = rest.contains('{');
        let (key, value) = match split_key(rest) {
            Some((key_len, value_at)) => (start..start + key_len, start + value_at..content.len()),
            None => (start..start, start..content.len()),
        };
        if !key.is_empty() {
            stack.push((start, content[key.clone()].trim_matches(['"', '\''])));
        }
        let shifted = |range: Range<usize>| line.start + range.start..line.start + range.end;
        all.push(Entry {
            path: stack.iter().map(|(_, key)| *key).collect(),
            key: shifted(key),
            value: shifted(value),
            in_braces,
        });
    }
    all
}

/// The length of the key and where its value begins; `None` for a line without a key.
fn split_key(text: &str) -> Option<(usize, usize)> {
    if text.starts_with(['[', '{']) {
        return None;
    }
    let ends = text.match_indices(':').map(|(at, _)| at);
    let at = ends
        .into_iter()
        .find(|at| text[at + 1..].is_empty() || text[at + 1..].starts_with([' ', '\t']))?;
    Some((at, at + 1))
}

/// A `#` at the beginning or after a blank begins a comment, unless it is quoted.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return &line[..at],
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
        before = c;
    }
    line
}
