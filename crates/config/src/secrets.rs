//! Hides the values of passwords in lines that are shown, also in a file that is no TOML.

use std::ops::Range;

/// The start of every key whose value is a secret, however it is mistyped: `password`, `auth_pass`, `passwd`.
const STEM: &str = "pass";

/// `text` with the value of everything that looks like a password replaced by asterisks, byte for byte.
pub(crate) fn hidden(text: &str) -> String {
    let mut ranges = Vec::new();
    let lower = text.to_ascii_lowercase();
    let mut from = 0;
    while let Some(at) = lower[from..].find(STEM) {
        let stem = from + at;
        from = stem + STEM.len();
        let rest = &lower[from..];
        let word_end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
            .unwrap_or(rest.len());
        if rest[..word_end].ends_with("file") {
            continue;
        }
        let after = from + word_end;
        let gap = |c: char| matches!(c, ' ' | '\t' | '"' | '\'');
        let skipped = lower[after..].len() - lower[after..].trim_start_matches(gap).len();
        let Some(value) = lower[after + skipped..].strip_prefix('=') else { continue };
        let value = text.len() - value.trim_start_matches([' ', '\t']).len();
        let range = value_range(text, value);
        from = range.end.max(from);
        ranges.push(range);
    }
    masked(text, &ranges)
}

/// Whether the value of a key of this name must not be shown.
pub(crate) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.contains(STEM) && !key.ends_with("file")
}

/// The inside of the quoted or bare value that begins at `start`.
fn value_range(text: &str, start: usize) -> Range<usize> {
    let rest = &text[start..];
    for quote in ["\"\"\"", "'''"] {
        if let Some(inside) = rest.strip_prefix(quote) {
            let open = start + quote.len();
            return open..inside.find(quote).map_or(text.len(), |end| open + end);
        }
    }
    let line_end = rest.find('\n').unwrap_or(rest.len());
    let line = &rest[..line_end];
    let Some(quote) = line.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        // A bare value: a comma or a brace may be part of it, and hiding too much harms nobody.
        return start..start + line.len();
    };
    let mut escaped = false;
    for (i, c) in line.char_indices().skip(1) {
        if c == quote && !escaped {
            let rest = line[i + 1..].trim_start();
            if rest.is_empty() || rest.starts_with(['#', ',', '}', '\r']) {
                return start + 1..start + i;
            }
            // A quote too many, or one too few: nobody knows where the value ends.
            break;
        }
        escaped = c == '\\' && quote == '"' && !escaped;
    }
    start + 1..start + line.len()
}

/// `text` with every byte of `ranges` but line breaks replaced by an asterisk.
pub(crate) fn masked(text: &str, ranges: &[Range<usize>]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in ranges {
        let end = range.end.min(bytes.len());
        for byte in bytes.get_mut(range.start.min(end)..end).unwrap_or_default() {
            if !matches!(byte, b'\n' | b'\r') {
                *byte = b'*';
            }
        }
    }
    // Only whole characters are replaced, unless a range was odd: then the odd bytes are replaced too.
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => error
            .into_bytes()
            .into_iter()
            .map(|byte| if byte.is_ascii() { char::from(byte) } else { '*' })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_hidden_however_it_is_written() {
        for (text, shown) in [
            ("password = \"geheim12\" # x", "password = \"********\" # x"),
            ("password='geheim'", "password='******'"),
            (
                "vip.a = { password = \"ab\", version = 2 }",
                "vip.a = { password = \"**\", version = 2 }",
            ),
            ("\"password\" = \"ab\"", "\"password\" = \"**\""),
            ("password = \"a\"bc\"", "password = \"*****"),
            ("password = \"open", "password = \"****"),
            ("password = geheim\nx = 1", "password = ******\nx = 1"),
            ("password = \"\"\"a\nb\"\"\"", "password = \"\"\"*\n*\"\"\""),
            ("auth_pass = \"ab\\\"c\"", "auth_pass = \"*****\""),
            ("PassWd = \"ü\"", "PassWd = \"**\""),
            ("rsync_password_file = \"/etc/p\"", "rsync_password_file = \"/etc/p\""),
            ("# the password is fine", "# the password is fine"),
        ] {
            assert_eq!(hidden(text), shown);
        }
    }

    #[test]
    fn odd_ranges_keep_the_length() {
        assert_eq!(masked("aü", &[2..99, 0..0]), "a**");
        assert_eq!(masked("a", &[9..10, 0..0]), "a");
    }
}
