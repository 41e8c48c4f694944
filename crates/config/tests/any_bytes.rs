//! Whatever the bytes are, the readers come back.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use standin_config::nginx::{Lexer, read};
use standin_config::{findings, load, load_bytes};

fn config() -> ProptestConfig {
    ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() }
}

/// A good file with pieces cut out, doubled and put elsewhere: deeper than random bytes get.
fn mangled() -> impl Strategy<Value = String> {
    let large = include_str!("good/large.toml");
    let piece = (0..large.len(), 0..60_usize).prop_map(move |(start, len)| {
        large.get(start..(start + len).min(large.len())).unwrap_or_default().to_owned()
    });
    let odd = prop_oneof![
        piece,
        Just("\"\"\"".to_owned()),
        Just("[[vip]]\n".to_owned()),
        Just("= 99999999999999999999999\n".to_owned()),
        Just("\n[vip.\"é\"]\npassword=\"ü".to_owned()),
        Just("a.b.c.d = { e = [ { ".to_owned()),
        "\\PC{0,8}",
    ];
    prop::collection::vec((odd, 0..large.len()), 0..6).prop_map(move |pieces| {
        let mut text = large.to_owned();
        for (piece, at) in pieces {
            let mut at = at.min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            text.insert_str(at, &piece);
        }
        text
    })
}

fn never_panics(bytes: &[u8]) {
    let loaded = load_bytes("f", bytes);
    assert_eq!(
        loaded.model.is_none(),
        loaded.diagnostics.iter().any(standin_config::Diagnostic::is_error)
    );
    let _ = loaded.render(true);
    let _ = findings(&loaded.diagnostics, &[loaded.source]);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn load_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        never_panics(&bytes);
    }

    #[test]
    fn load_takes_any_text(text in "[\\[\\]{}=\"'.,#\\\\ \n\ta-z0-9é-]{0,200}") {
        never_panics(text.as_bytes());
    }

    #[test]
    fn load_takes_mangled_files(text in mangled()) {
        never_panics(text.as_bytes());
        // Torn from its key, or copied without it, nobody can tell that it is a password.
        if text.contains("\npassword = \"geheim12\"") && text.matches("geheim").count() == 1 {
            prop_assert!(!load("f", &text).render(false).contains("geheim12"));
        }
    }

    #[test]
    fn the_nginx_lexer_takes_any_bytes_and_moves_on(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut last = 0;
        for token in Lexer::new(&bytes) {
            let span = match token { Ok(token) => token.span, Err(error) => error.span };
            prop_assert!(span.start >= last && span.end > span.start && span.end <= bytes.len());
            last = span.end;
        }
    }

    #[test]
    fn nginx_files_take_any_text(text in "((include|listen|server|http|stream|x_by_lua_block|a) ?|[*;{}\"' \n\\[\\]-]){0,80}") {
        let files = |_: &Path| Ok(text.clone().into_bytes());
        let glob = |_: &str| vec![PathBuf::from("/a"), PathBuf::from("/b")];
        let config = read(Path::new("/etc/nginx/nginx.conf"), &files, &glob);
        prop_assert!(config.files.len() <= standin_config::nginx::MAX_FILES);
    }
}
