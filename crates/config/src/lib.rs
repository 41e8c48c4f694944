//! Text in, model and diagnostics out: standin's reader of its cluster file and of nginx's files.
//!
//! Pure: no file is opened here and no clock is asked; whoever calls brings the text.

#![forbid(unsafe_code)]

pub mod codes;
pub mod diagnostic;
pub mod duration;
pub mod fingerprint;
pub mod keys;
pub mod model;
mod nearest;
pub mod network;
pub mod nginx;
mod plan;
mod read;
mod rules;
mod secrets;
mod syntax;

use std::sync::Arc;

use toml::de::DeTable;

pub use diagnostic::{Diagnostic, Finding, Severity, Source, findings, render};
pub use model::Cluster;

/// Why this directory can't be shared between the nodes, if so.
#[must_use]
pub fn not_shared(path: &std::path::Path) -> Option<String> {
    read::not_shared(path).map(|(why, _)| why)
}

/// A cluster of 16 nodes, 1024 VIPs and as many checks has a quarter of this.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// More faults than these are nobody's typing errors; the rest is counted.
pub const MAX_DIAGNOSTICS: usize = 200;

/// What [`load`] found.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Present exactly when no diagnostic is an error.
    pub model: Option<Cluster>,
    /// In the order of the file.
    pub diagnostics: Vec<Diagnostic>,
    /// To render the diagnostics with; passwords are hidden in it.
    pub source: Source,
}

impl Loaded {
    /// The diagnostics as text for people.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        render(&self.diagnostics, std::slice::from_ref(&self.source), color)
    }
}

/// Reads a cluster file; `name` is what messages call it. Reports every fault, never only the first.
#[must_use]
pub fn load(name: &str, text: &str) -> Loaded {
    let file: Arc<str> = Arc::from(name);
    if text.len() > MAX_FILE_BYTES {
        return refused(name, too_large(&file));
    }
    let (tree, errors) = DeTable::parse_recoverable(text);
    let mut walk = read::Walk::new(Arc::clone(&file));
    let model = walk.cluster(&tree);
    let mut diagnostics = std::mem::take(&mut walk.diagnostics);
    if let Some(cluster) = &model {
        // A check that seems unused may be the one that another name meant.
        let misnamed = diagnostics.iter().any(|d| d.code == codes::UNKNOWN_NAME);
        let found = rules::check(cluster);
        diagnostics
            .extend(found.into_iter().filter(|d| !misnamed || d.code != codes::UNUSED_CHECK));
    }
    let mut source = Source::new(name, text);
    for secret in walk.secrets {
        source.hide(secret);
    }
    if !errors.is_empty() {
        diagnostics = with_syntax_errors(&file, text, &errors, diagnostics);
    }
    diagnostics.sort_by_key(|d| d.labels.first().map_or(0, |label| label.range.start));
    let model = model.filter(|_| !diagnostics.iter().any(Diagnostic::is_error));
    cut(&mut diagnostics);
    Loaded { model, diagnostics, source }
}

/// As [`load`], for bytes that may be no text at all.
#[must_use]
pub fn load_bytes(name: &str, bytes: &[u8]) -> Loaded {
    let file: Arc<str> = Arc::from(name);
    if bytes.len() > MAX_FILE_BYTES {
        return refused(name, too_large(&file));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => load(name, text),
        Err(error) => {
            let at = error.valid_up_to();
            let text = String::from_utf8_lossy(bytes);
            let diagnostic = Diagnostic::error(codes::NOT_UTF8, "the file is no UTF-8 text")
                .at(&file, at..at + 1, "this byte is none")
                .help("save it as UTF-8; `file` and `iconv` help to find out what it is");
            let source = Source::new(name, &text);
            Loaded { model: None, diagnostics: vec![diagnostic], source }
        }
    }
}

fn too_large(file: &Arc<str>) -> Diagnostic {
    Diagnostic::error(
        codes::TOO_LARGE,
        format!("{file} has more than {MAX_FILE_BYTES} bytes, the most a cluster file may have"),
    )
    .help("this is probably another file: give the cluster file with -f")
}

fn refused(name: &str, diagnostic: Diagnostic) -> Loaded {
    Loaded { model: None, diagnostics: vec![diagnostic], source: Source::new(name, "") }
}

/// The parser's faults, and of the walk's only those that the parser's recovery can't have caused.
fn with_syntax_errors(
    file: &Arc<str>,
    text: &str,
    errors: &[toml::de::Error],
    walked: Vec<Diagnostic>,
) -> Vec<Diagnostic> {
    let line_of = |byte: usize| {
        let byte = byte.min(text.len());
        text.as_bytes().get(..byte).unwrap_or_default().iter().filter(|b| **b == b'\n').count()
    };
    let mut found = syntax::diagnostics(file, text, errors);
    let broken: Vec<usize> = found
        .iter()
        .filter_map(|diagnostic| diagnostic.labels.first())
        .map(|label| line_of(label.range.start))
        .collect();
    let caused = |diagnostic: &Diagnostic| {
        let vague = [codes::MISSING_KEY, codes::UNKNOWN_NAME, codes::EMPTY, codes::FAMILY_MISSING];
        !diagnostic.is_error()
            || vague.contains(&diagnostic.code)
            || diagnostic.labels.iter().any(|label| broken.contains(&line_of(label.range.start)))
    };
    found.extend(walked.into_iter().take(MAX_DIAGNOSTICS).filter(|diagnostic| !caused(diagnostic)));
    found
}

fn cut(diagnostics: &mut Vec<Diagnostic>) {
    let count = diagnostics.len();
    if count > MAX_DIAGNOSTICS {
        // Errors first: a warning must not hide one.
        diagnostics.sort_by_key(|diagnostic| diagnostic.severity);
        diagnostics.truncate(MAX_DIAGNOSTICS);
        let more = count - MAX_DIAGNOSTICS;
        // As bad as the worst: warnings alone, however many, don't refuse a file.
        let worst = diagnostics.first().map_or(Severity::Error, |first| first.severity);
        diagnostics.push(
            Diagnostic::new(worst, codes::TOO_MANY, format!("{more} more faults are not shown"))
                .help("mend these first; is this the right file?"),
        );
    }
}
