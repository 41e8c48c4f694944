//! Says in the operator's words what the TOML parser found in its own.

use std::ops::Range;
use std::sync::Arc;

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::keys::{self, Kind};
use crate::read::shown;
use crate::{MAX_DIAGNOSTICS, secrets};

/// The parser's faults, each line once.
pub(crate) fn diagnostics(
    file: &Arc<str>,
    text: &str,
    errors: &[toml::de::Error],
) -> Vec<Diagnostic> {
    if let Some(diagnostic) = keepalived(file, text) {
        return vec![diagnostic];
    }
    let lines = Lines { text };
    let mut found: Vec<Diagnostic> = Vec::new();
    let mut last_line = None;
    let mut last_section = None;
    for error in errors.iter().take(MAX_DIAGNOSTICS) {
        let span = error.span().unwrap_or(text.len()..text.len());
        let line = lines.around(span.start);
        // One slip may bring several faults on its line.
        if last_line.as_ref() == Some(&line) {
            continue;
        }
        let duplicate = error.message().contains("duplicate key");
        let section = lines.section(line.start);
        if duplicate
            && section.is_some()
            && last_section == section
            && section.as_ref() != Some(&line)
        {
            // The section itself stands twice, which is said: so do its keys.
            continue;
        }
        if duplicate && section.as_ref() == Some(&line) {
            last_section = section;
        }
        found.push(if duplicate {
            duplicate_key(file, &lines, span, &line)
        } else {
            plain(file, &lines, error.message(), span, &line)
        });
        last_line = Some(line);
    }
    found
}

fn keepalived(file: &Arc<str>, text: &str) -> Option<Diagnostic> {
    const BLOCKS: [&str; 4] = ["vrrp_instance", "vrrp_script", "global_defs", "vrrp_sync_group"];
    let mut from = 0;
    for line in text.split_inclusive('\n') {
        let body = line.trim();
        if BLOCKS.iter().any(|block| body.starts_with(block)) && body.ends_with('{') {
            return Some(
                Diagnostic::error(codes::SYNTAX, "this is a keepalived.conf, not a cluster file")
                    .at(file, from..from + line.trim_end().len(), "")
                    .help(
                        "a cluster file is TOML; docs/reference.md has every key\n\
                         virtual_router_id, priority and the addresses stay what they are",
                    ),
            );
        }
        from += line.len();
    }
    None
}

fn duplicate_key(
    file: &Arc<str>,
    lines: &Lines<'_>,
    span: Range<usize>,
    line: &Range<usize>,
) -> Diagnostic {
    let key = lines.text.get(span.clone()).unwrap_or_default();
    let is_header = lines.section(line.start).as_ref() == Some(line);
    let (what, first) = if is_header {
        let header = header(lines.text.get(line.clone()).unwrap_or_default()).unwrap_or_default();
        (format!("the section {}", shown(header)), lines.first_header(header, line.start))
    } else {
        (format!("`{}`", shown(key)), lines.first_key(key, line.start))
    };
    let mut diagnostic = Diagnostic::error(codes::SYNTAX, format!("{what} stands twice")).at(
        file,
        span,
        "given again",
    );
    if let Some(first) = first {
        diagnostic = diagnostic.at(file, first, "first given here");
    }
    diagnostic.help(if is_header {
        "give one of them another name, or put all keys into one"
    } else {
        "remove one of the two lines"
    })
}

fn plain(
    file: &Arc<str>,
    lines: &Lines<'_>,
    message: &str,
    span: Range<usize>,
    line: &Range<usize>,
) -> Diagnostic {
    if let Some((key, value)) = lines.bare_value(line) {
        return bare_value(file, lines, key, value);
    }
    if message.contains("array element")
        && let Some(open) = lines.open_list(line.start)
    {
        return Diagnostic::error(codes::SYNTAX, "the list has no closing bracket")
            .at(file, span, "it must be closed before this, or a comma is missing")
            .at(file, open, "it begins here")
            .help("lists are written [\"a\", \"b\"]");
    }
    let body = lines.text.get(line.clone()).unwrap_or_default();
    if let Some(quote) = open_quote(body) {
        return Diagnostic::error(codes::SYNTAX, "the text has no closing quote")
            .at(file, line.start + quote..line.end, "it begins here")
            .help("close it on the same line, with the same kind of quote");
    }
    let trimmed = body.trim();
    let (message, help) = if trimmed.starts_with('[') && !trimmed.contains(']') {
        ("the section has no closing bracket".to_owned(), "sections are written [vip.web]")
    } else if !trimmed.contains('=') && !trimmed.starts_with('[') {
        (
            "the line has no `=`".to_owned(),
            "keys are written name = \"value\"; a comment begins with #",
        )
    } else {
        (
            format!("the line is no TOML: {message}"),
            "keys are written name = \"value\", sections [vip.web], lists [\"a\", \"b\"], tables { a = 1, b = 2 }",
        )
    };
    Diagnostic::error(codes::SYNTAX, message).at(file, span, "").help(help)
}

/// A value that begins like no quote, bracket or brace.
fn bare_value(file: &Arc<str>, lines: &Lines<'_>, key: &str, value: Range<usize>) -> Diagnostic {
    let text = lines.text.get(value.clone()).unwrap_or_default();
    let name = key.rsplit('.').next().unwrap_or(key).trim();
    let known = keys::ALL.iter().find(|known| known.name == name).map(|known| known.kind);
    if secrets::is_secret(name) {
        return Diagnostic::error(
            codes::SYNTAX,
            format!("the value of {name} must stand in quotes"),
        )
        .at(file, value, "")
        .help(format!("write {name} = \"...\""));
    }
    let (message, help) = match known {
        _ if text.is_empty() => (
            format!("`{}` has no value", shown(name)),
            "write the value behind the `=`, or remove the line".to_owned(),
        ),
        Some(Kind::Integer(min, max)) => (
            format!("{name} must be a whole number"),
            format!("write a number from {min} to {max}, without quotes"),
        ),
        Some(Kind::Bool) => (
            format!("{name} must be true or false"),
            format!("write {name} = true or {name} = false, in small letters"),
        ),
        Some(Kind::List(_)) => (
            format!("{name} must be a list of texts in quotes"),
            format!("write {name} = [\"{}\"]", shown(text)),
        ),
        _ => (
            format!("the value of {} must stand in quotes", shown(name)),
            format!("write {} = \"{}\"", shown(name), shown(text)),
        ),
    };
    Diagnostic::error(codes::SYNTAX, message).at(file, value, "").help(help)
}

/// Where the quote begins that the line doesn't close.
fn open_quote(line: &str) -> Option<usize> {
    let mut open: Option<(usize, char)> = None;
    let mut escaped = false;
    for (i, c) in line.char_indices() {
        match open {
            None if c == '#' => return None,
            None if matches!(c, '"' | '\'') => open = Some((i, c)),
            Some((_, quote)) if c == quote && !escaped => open = None,
            _ => {}
        }
        escaped = c == '\\' && !escaped && open.is_some_and(|(_, quote)| quote == '"');
    }
    open.map(|(i, _)| i)
}

/// `[vip.web]` of a line that is a section's header.
fn header(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let end = line.find(']')?;
    line.starts_with('[').then(|| &line[..=end])
}

struct Lines<'a> {
    text: &'a str,
}

impl Lines<'_> {
    /// The line of a byte, without its end.
    fn around(&self, byte: usize) -> Range<usize> {
        let bytes = self.text.as_bytes();
        let byte = byte.min(bytes.len());
        let start = bytes[..byte].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let end = bytes[byte..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |i| byte + i);
        start..end
    }

    /// Every line up to the one that begins at `before`, the nearest first.
    fn upwards(&self, before: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut next = Some(before);
        std::iter::from_fn(move || {
            let line = self.around(next?);
            next = line.start.checked_sub(1);
            Some(line)
        })
    }

    /// The header of the section that the line at `start` is in, or is.
    fn section(&self, start: usize) -> Option<Range<usize>> {
        self.upwards(start).find(|line| header(&self.text[line.clone()]).is_some())
    }

    fn first_header(&self, wanted: &str, before: usize) -> Option<Range<usize>> {
        let line = self
            .upwards(before.checked_sub(1)?)
            .find(|line| header(&self.text[line.clone()]) == Some(wanted))?;
        Some(line.start..line.start + wanted.len())
    }

    fn first_key(&self, key: &str, before: usize) -> Option<Range<usize>> {
        for line in self.upwards(before.checked_sub(1)?) {
            let text = &self.text[line.clone()];
            if header(text).is_some() {
                return None;
            }
            let indent = text.len() - text.trim_start().len();
            if text
                .trim_start()
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with('='))
            {
                let start = line.start + indent;
                return Some(start..start + key.len());
            }
        }
        None
    }

    /// The bracket of the nearest list above that its own line doesn't close.
    fn open_list(&self, before: usize) -> Option<Range<usize>> {
        self.upwards(before.checked_sub(1)?).find_map(|line| {
            let text = &self.text[line.clone()];
            let (key, list) = text.split_once('=')?;
            let open = list.trim_start().starts_with('[')
                && list.matches('[').count() > list.matches(']').count();
            let start = line.start + key.len() + 1 + list.find('[')?;
            open.then(|| start..start + 1)
        })
    }

    /// Key and place of the value in `key = value` where the value begins like no TOML value.
    fn bare_value(&self, line: &Range<usize>) -> Option<(&str, Range<usize>)> {
        let text = &self.text[line.clone()];
        let (key, rest) = text.split_once('=')?;
        let key_fine =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ' | '\t');
        if key.trim().is_empty() || !key.chars().all(key_fine) {
            return None;
        }
        let value = rest.split('#').next().unwrap_or_default();
        if value.trim_start().starts_with(['"', '\'', '[', '{']) {
            return None;
        }
        let start = line.start + key.len() + 1 + (value.len() - value.trim_start().len());
        Some((key.trim(), start..start + value.trim().len()))
    }
}
