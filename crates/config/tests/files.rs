//! Whole cluster files: good ones load clean, bad ones say what is wrong as it was once judged good.
//!
//! `UPDATE=1 cargo test -p standin-config` writes the expectations anew; read every one of them.

#![allow(clippy::unwrap_used, reason = "a helper that fails ends its test")]

use std::fs;
use std::path::{Path, PathBuf};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    found.sort();
    found
}

fn compare(expected: &Path, found: &str, wrong: &mut Vec<String>) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(expected, found).unwrap();
    }
    let wanted = fs::read_to_string(expected).unwrap_or_default();
    if wanted != found {
        wrong.push(format!("{}:\n--- wanted\n{wanted}\n--- found\n{found}", expected.display()));
    }
}

#[test]
fn good_files_load_without_a_word() {
    let files = files("good");
    assert!(files.len() >= 3);
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let loaded = standin_config::load("standin.toml", &text);
        assert_eq!(loaded.render(false), "", "{}", path.display());
        assert!(loaded.model.is_some());
    }
}

#[test]
fn bad_files_say_what_is_wrong_and_how_to_mend_it() {
    let files = files("bad");
    assert!(files.len() >= 50, "{} bad files", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.starts_with(b"# "), "{} must begin with what is wrong", path.display());
        let loaded = standin_config::load_bytes("standin.toml", &bytes);
        assert!(!loaded.diagnostics.is_empty(), "{} is not bad", path.display());
        for diagnostic in &loaded.diagnostics {
            assert!(diagnostic.help.is_some(), "{}: {diagnostic:?}", path.display());
        }
        let has_error = loaded.diagnostics.iter().any(standin_config::Diagnostic::is_error);
        assert_eq!(loaded.model.is_none(), has_error);
        compare(&path.with_extension("txt"), &loaded.render(false), &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reference_is_printed_from_the_table_of_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference.md");
    let mut wrong = Vec::new();
    compare(&path, &standin_config::keys::reference_markdown(), &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
