//! What is wrong, where, why, and how to mend it: as text with a caret, and as data for programs.

use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use crate::secrets;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file, or the host, can't be used like this.
    Error,
    Warning,
    Note,
}

/// A place in a file and what is to be said there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub file: Arc<str>,
    /// Bytes.
    pub range: Range<usize>,
    /// May be empty.
    pub text: String,
}

/// One finding. Its message and help never quote a secret; the renderer hides those in the lines it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable, as in [`crate::codes`]; findings about hosts bring their own.
    pub code: &'static str,
    pub message: String,
    /// The first one is the place itself; a finding about a host has none.
    pub labels: Vec<Label>,
    /// How to mend it.
    pub help: Option<String>,
}

impl Diagnostic {
    #[must_use]
    pub fn new(severity: Severity, code: &'static str, message: impl Into<String>) -> Self {
        Self { severity, code, message: message.into(), labels: Vec::new(), help: None }
    }

    #[must_use]
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    #[must_use]
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message)
    }

    /// Adds a place; `text` may be empty. The range 0..0 means the file as a whole.
    #[must_use]
    pub fn at(mut self, file: &Arc<str>, range: Range<usize>, text: impl Into<String>) -> Self {
        self.labels.push(Label { file: Arc::clone(file), range, text: text.into() });
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// A file's text with its secrets hidden, to show lines from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub name: Arc<str>,
    text: String,
}

impl Source {
    /// Everything that looks like a password's value is replaced by asterisks, byte for byte.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Self {
        Self { name: Arc::from(name), text: secrets::hidden(text) }
    }

    /// Hides `range` too, but for quotes around it.
    pub(crate) fn hide(&mut self, range: Range<usize>) {
        let quoted = |quote| {
            let inside = self.text.get(range.clone())?.strip_prefix(quote)?.strip_suffix(quote)?;
            Some(range.start + 1..range.start + 1 + inside.len())
        };
        let range = quoted('"').or_else(|| quoted('\'')).unwrap_or(range);
        self.text = secrets::masked(&self.text, &[range]);
    }

    /// The text as it may be shown.
    pub(crate) fn shown(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte, both from 1; columns count characters.
    #[must_use]
    pub fn position(&self, byte: usize) -> (usize, usize) {
        let before = &self.text[..self.boundary(byte)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The end of the character before or at `byte`.
    fn boundary(&self, byte: usize) -> usize {
        let mut byte = byte.min(self.text.len());
        while !self.text.is_char_boundary(byte) {
            byte -= 1;
        }
        byte
    }
}

/// A [`Diagnostic`] for programs: `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `null` when it is about the host.
    pub file: Option<String>,
    /// From 1; `null` when it is about the whole file.
    pub line: Option<usize>,
    /// In characters, from 1.
    pub column: Option<usize>,
    pub code: &'static str,
    pub severity: Severity,
    pub message: String,
    pub help: Option<String>,
}

/// The same findings for programs, in the same order.
#[must_use]
pub fn findings(diagnostics: &[Diagnostic], sources: &[Source]) -> Vec<Finding> {
    diagnostics
        .iter()
        .map(|diagnostic| {
            let label = diagnostic.labels.first();
            let place = label.and_then(|label| {
                if label.range == (0..0) {
                    return None;
                }
                let source = sources.iter().find(|source| source.name == label.file)?;
                Some(source.position(label.range.start))
            });
            Finding {
                file: label.map(|label| label.file.to_string()),
                line: place.map(|(line, _)| line),
                column: place.map(|(_, column)| column),
                code: diagnostic.code,
                severity: diagnostic.severity,
                message: diagnostic.message.clone(),
                help: diagnostic.help.clone(),
            }
        })
        .collect()
}

/// Text for people, an empty line between findings; a line break at the end unless it is empty.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], sources: &[Source], color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for diagnostic in diagnostics {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&renderer.render(&[group(diagnostic, sources)]));
        out.push('\n');
        if let (Some(help), true) = (&diagnostic.help, diagnostic.labels.is_empty()) {
            // Without a snippet the renderer draws a stump of its margin; this is the same line without.
            let help = help.replace('\n', "\n          ");
            out.push_str(&format!("  = help: {help}\n"));
        }
    }
    out
}

fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a [Source]) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let mut group = Group::with_title(level.primary_title(&diagnostic.message).id(diagnostic.code));
    let mut shown: Vec<&str> = Vec::new();
    for label in &diagnostic.labels {
        if shown.contains(&&*label.file) {
            continue;
        }
        shown.push(&label.file);
        match sources.iter().find(|source| source.name == label.file) {
            Some(source) if label.range != (0..0) => {
                group = group.element(snippet(diagnostic, source));
            }
            _ => group = group.element(annotate_snippets::Origin::path(&*label.file)),
        }
    }
    if let (Some(help), false) = (&diagnostic.help, diagnostic.labels.is_empty()) {
        group = group.element(Level::HELP.message(help));
    }
    group
}

/// All labels of one file, on the lines from the first label to the last: the renderer's cost grows
/// with the text it is given.
fn snippet<'a>(
    diagnostic: &'a Diagnostic,
    source: &'a Source,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let labels = || diagnostic.labels.iter().filter(|label| label.file == source.name);
    let first = source.boundary(labels().map(|label| label.range.start).min().unwrap_or(0));
    let last = source.boundary(labels().map(|label| label.range.end).max().unwrap_or(0)).max(first);
    let start = source.text[..first].rfind('\n').map_or(0, |newline| newline + 1);
    let end = source.text[last..].find('\n').map_or(source.text.len(), |newline| last + newline);
    let mut snippet = Snippet::source(&source.text[start..end])
        .path(&*source.name)
        .line_start(source.position(start).0);
    for (i, label) in labels().enumerate() {
        let kind = if i == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
        let from = source.boundary(label.range.start);
        let to = source.boundary(label.range.end).max(from);
        let text = (!label.text.is_empty()).then_some(label.text.as_str());
        snippet = snippet.annotation(kind.span(from - start..to - start).label(text));
    }
    snippet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_finding_needs_no_file() {
        let finding = Diagnostic::warning("H0101", "the firewall drops protocol 112")
            .help("nft add rule inet filter input ip protocol vrrp accept");
        assert_eq!(
            render(std::slice::from_ref(&finding), &[], false),
            "warning[H0101]: the firewall drops protocol 112\n  \
             = help: nft add rule inet filter input ip protocol vrrp accept\n"
        );
        assert_eq!(findings(&[finding], &[])[0].line, None);
    }

    #[test]
    fn ranges_outside_the_text_are_cut_to_it() {
        let source = Source::new("f", "é\nx");
        let file = Arc::clone(&source.name);
        for range in [0..99, 1..1, 98..99, Range { start: 4, end: 2 }] {
            let finding = Diagnostic::error("E0001", "m").at(&file, range, "here");
            assert!(render(&[finding], std::slice::from_ref(&source), true).contains("E0001"));
        }
        assert_eq!(source.position(3), (2, 1));
        assert_eq!(source.position(99), (2, 2));
    }
}
