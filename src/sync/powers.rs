//! What a configuration could do beyond serving: load foreign modules, run code, show files of the host.
//! Whoever may write the active's files would else become root on every node.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::Path;

use standin_config::nginx::lexer::{Lexer, TokenKind};
use standin_tree::hash::Hash;
use standin_tree::manifest::{Kind, Manifest};
use standin_tree::store::Store;

use crate::authority::files;

/// Longer files are no configuration that a person wrote; nginx's own tests read them all the same.
const FILE: u64 = 1 << 20;

/// Where packages put modules; a relative name is below nginx's prefix.
const MODULES: [&str; 9] = [
    "modules",
    "/usr/lib/nginx/modules",
    "/usr/lib64/nginx/modules",
    "/usr/share/nginx/modules",
    "/usr/local/nginx/modules",
    "/usr/local/openresty/nginx/modules",
    "/usr/lib/angie/modules",
    "/usr/lib64/angie/modules",
    "/usr/local/lib/nginx/modules",
];

/// Directives that run code inside nginx, or a program.
const CODE: [&str; 13] = [
    "perl",
    "perl_set",
    "perl_modules",
    "perl_require",
    "js_import",
    "js_include",
    "js_preload_object",
    "ssl_engine",
    "exec",
    "exec_push",
    "exec_publish",
    "exec_play",
    "lua_package_cpath",
];

const APPROVED: &str = "approved";

/// Everything of the kind in a generation's files, in words that an operator can judge; contents in
/// `known` aren't looked at.
pub(super) fn of(store: &Store, manifest: &Manifest, known: &HashSet<Hash>) -> BTreeSet<String> {
    let roots: Vec<&Path> = manifest.roots().iter().map(|root| root.path.as_path()).collect();
    let mut found = BTreeSet::new();
    for (_, entry) in manifest.entries() {
        let Kind::File { size, hash, .. } = entry.kind else { continue };
        if size > FILE || known.contains(&hash) {
            continue;
        }
        // A content that can't be read fails the test of the whole.
        let Ok(bytes) = store.read(&hash) else { continue };
        if !bytes.contains(&0) {
            in_file(&bytes, &roots, &mut found);
        }
    }
    found
}

/// The same of one file.
pub(super) fn in_bytes(bytes: &[u8], roots: &[&Path]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    in_file(bytes, roots, &mut found);
    found
}

fn in_file(bytes: &[u8], roots: &[&Path], found: &mut BTreeSet<String>) {
    let mut words: Vec<String> = Vec::new();
    for token in Lexer::new(bytes) {
        match token.map(|token| token.kind) {
            Ok(TokenKind::Word(word)) => words.push(String::from_utf8_lossy(&word).into_owned()),
            Ok(TokenKind::End | TokenKind::Open | TokenKind::Close) => {
                found.extend(power(&words, roots));
                words.clear();
            }
            // The rest isn't nginx's language.
            Err(_) => return,
        }
    }
}

fn power(words: &[String], roots: &[&Path]) -> Option<String> {
    let name = words.first()?;
    if name == "load_module" {
        let path = Path::new(words.get(1)?);
        let packaged = MODULES.iter().any(|folder| path.starts_with(folder));
        let shared = roots.iter().any(|root| path.starts_with(root));
        return (!packaged || shared || climbs(path))
            .then(|| format!("load_module {}", path.display()));
    }
    // With either, a file of this host that nobody meant can be read or guessed at by clients.
    if name == "user" && words.get(1).is_some_and(|user| user == "root") {
        return Some("user root".to_owned());
    }
    if name == "auth_basic_user_file" {
        let file = words.get(1)?;
        let path = Path::new(file);
        let shared = !path.is_absolute() || roots.iter().any(|root| path.starts_with(root));
        // What a variable holds only nginx knows.
        let plain = shared && !climbs(path) && !file.contains('$');
        return (!plain && file != "off").then(|| format!("auth_basic_user_file {file}"));
    }
    let lua = name.ends_with("_by_lua")
        || name.ends_with("_by_lua_block")
        || name.ends_with("_by_lua_file");
    (lua || CODE.contains(&name.as_str())).then(|| name.clone())
}

fn climbs(path: &Path) -> bool {
    path.components().any(|part| part == std::path::Component::ParentDir)
}

/// What an operator of this node has said yes to.
pub(super) fn approved(dir: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(dir.join(APPROVED)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// # Errors
/// As write(2); nothing more is approved then.
pub(super) fn approve(dir: &Path, more: &BTreeSet<String>) -> io::Result<()> {
    let mut all = approved(dir);
    all.extend(more.iter().cloned());
    let text: String = all.iter().map(|one| format!("{one}\n")).collect();
    files::write_atomically(&dir.join(APPROVED), text.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        in_bytes(text.as_bytes(), &[Path::new("/etc/nginx")]).into_iter().collect()
    }

    #[test]
    fn packaged_modules_are_nothing_new_and_others_are() {
        assert!(found("load_module modules/ngx_http_geoip.so;\nuser a;\n").is_empty());
        assert!(found("load_module \"/usr/lib/nginx/modules/x.so\";").is_empty());
        for path in ["/tmp/x.so", "/etc/nginx/modules/x.so", "modules/../../x.so", "x.so"] {
            assert_eq!(found(&format!("load_module {path};")), [format!("load_module {path}")]);
        }
    }

    #[test]
    fn code_is_found_wherever_a_statement_begins() {
        let text = "http { server { location / { content_by_lua_block { ngx.say(1) } } }\n\
                    js_import a from b.js; perl_set $a 'sub { }'; # exec x;\n log_format exec x; }";
        assert_eq!(found(text), ["content_by_lua_block", "js_import", "perl_set"]);
    }

    #[test]
    fn files_of_the_host_are_named_and_shared_ones_are_not() {
        let fine = "user www-data; auth_basic_user_file htpasswd; auth_basic_user_file off; \
                    auth_basic_user_file /etc/nginx/htpasswd;";
        assert!(found(fine).is_empty());
        assert_eq!(found("user root;"), ["user root"]);
        for file in ["/etc/passwd", "/etc/nginx/../passwd", "../passwd", "$file", "/etc/nginx/$x"] {
            let text = format!("location / {{ auth_basic_user_file {file}; }}");
            assert_eq!(found(&text), [format!("auth_basic_user_file {file}")]);
        }
    }

    #[test]
    fn what_was_approved_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(approved(dir.path()).is_empty());
        approve(dir.path(), &BTreeSet::from(["js_import".to_owned()])).unwrap();
        approve(dir.path(), &BTreeSet::from(["perl".to_owned()])).unwrap();
        assert_eq!(approved(dir.path()).len(), 2);
    }
}
