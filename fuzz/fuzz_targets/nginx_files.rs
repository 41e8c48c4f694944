//! Any bytes are cut into words, and any set of files that include each other is followed to an end.

#![no_main]

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use standin_config::nginx::{Lexer, MAX_FILES, read};

const NAMES: [&str; 4] = ["/n/nginx.conf", "/n/a.conf", "/n/b.conf", "/n/c.conf"];

// Up to four files, each ended by a zero byte.
fuzz_target!(|data: &[u8]| {
    words(data);
    let mut files = data.splitn(NAMES.len(), |byte| *byte == 0);
    let files: Vec<(&str, &[u8])> =
        NAMES.into_iter().zip(std::iter::from_fn(|| files.next())).collect();
    let opened = Cell::new(0);
    let open = |path: &Path| {
        // A file that includes itself twice reaches the reader's own bound; that is slow to repeat.
        opened.set(opened.get() + 1);
        let found = files.iter().find(|(name, _)| Path::new(name) == path && opened.get() < 64);
        found.map(|(_, text)| text.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    let glob = |pattern: &str| -> Vec<PathBuf> {
        let (folder, end) = pattern.split_once('*').unwrap_or((pattern, ""));
        let matches = |name: &&str| name.starts_with(folder) && name.ends_with(end);
        files.iter().map(|(name, _)| *name).filter(matches).map(PathBuf::from).collect()
    };
    let config = read(Path::new(NAMES[0]), &open, &glob);
    assert!(config.files.len() <= MAX_FILES);
    assert_eq!(config.files.first().map(PathBuf::as_path), Some(Path::new(NAMES[0])));
    for listen in config.listens.iter().chain(&config.other_listens) {
        let _ = (listen.is_plain_http(), listen.ip());
    }
});

/// Tokens come in order, each with its own bytes; after an error comes nothing.
fn words(data: &[u8]) {
    let (mut end, mut line) = (0, 1);
    let mut lexer = Lexer::new(data);
    for found in lexer.by_ref() {
        let Ok(token) = found else { break };
        assert!(token.span.start >= end && token.span.start < token.span.end);
        assert!(token.span.end <= data.len() && token.line >= line);
        (end, line) = (token.span.end, token.line);
    }
    assert!(lexer.next().is_none());
}
