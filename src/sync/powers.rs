//! What a configuration could do beyond serving: load foreign modules, run code, show files of the host.
//! Whoever may write the active's files would else become root on every node.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read};
use std::path::Path;
use std::thread;

use memchr::memmem::Finder;
use standin_config::nginx::lexer::{Lexer, TokenKind};
use standin_tree::hash::Hash;
use standin_tree::manifest::{Entry, Kind, Manifest, Root, shown};
use standin_tree::store::Store;

use crate::authority::files;

/// Bytes of a file that are looked at at once. nginx refuses words beyond 4 KiB, so a statement that is
/// longer than this one isn't what a person wrote.
const PIECE: usize = 4 << 20;

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

/// What is in all names that have Lua run.
const LUA: &str = "_by_lua";

const LOAD_MODULE: &str = "load_module";
const USER: &str = "user";
const USER_FILE: &str = "auth_basic_user_file";

/// Directives of which the argument says whether they matter.
const OTHERS: [&str; 3] = [LOAD_MODULE, USER, USER_FILE];

/// So many files are looked through by two threads: 10,000 take 120 ms on one.
const MANY: usize = 1000;

const APPROVED: &str = "approved";

/// Everything of the kind in a generation's files, in words that an operator can judge; contents in
/// `known` aren't looked at.
pub(super) fn of(store: &Store, manifest: &Manifest, known: &HashSet<Hash>) -> BTreeSet<String> {
    let roots: Vec<&Path> = manifest.roots().iter().map(|root| root.path.as_path()).collect();
    // One content may lie in many places.
    let mut seen = HashSet::new();
    let new = |(_, entry): &(&Root, &Entry)| match entry.kind {
        Kind::File { hash, .. } => !known.contains(&hash) && seen.insert(hash),
        Kind::Directory | Kind::Symlink { .. } => false,
    };
    let new: Vec<(&Root, &Entry)> = manifest.entries().filter(new).collect();
    let (one, other) = new.split_at(if new.len() < MANY { new.len() } else { new.len() / 2 });
    thread::scope(|scope| {
        let other = scope.spawn(|| of_files(store, other, &roots));
        let mut found = of_files(store, one, &roots);
        match other.join() {
            Ok(more) => found.extend(more),
            // What nobody has looked at may be anything.
            Err(_) => drop(found.insert("files that couldn't be looked through".to_owned())),
        }
        found
    })
}

fn of_files(store: &Store, files: &[(&Root, &Entry)], roots: &[&Path]) -> BTreeSet<String> {
    let names = Names::new();
    let mut found = BTreeSet::new();
    let mut bytes = Vec::new();
    for (root, entry) in files {
        let Kind::File { hash, .. } = entry.kind else { continue };
        // A content that can't be read fails the test of the whole.
        let Ok(mut object) = store.open_object(&hash) else { continue };
        if object.left() < PIECE as u64 {
            bytes.clear();
            bytes.reserve(usize::try_from(object.left()).unwrap_or(0));
            if object.read_to_end(&mut bytes).is_ok() && names.are_in(&bytes) {
                let _whole = in_piece(&bytes, true, roots, &mut found);
            }
            continue;
        }
        if let Ok(false) = in_file(object, PIECE, roots, &mut found) {
            // With its content: that of yesterday says nothing of today's.
            found.insert(format!(
                "{}, which can't be judged for its length ({hash})",
                shown(root.full(entry).as_os_str().as_encoded_bytes())
            ));
        }
    }
    found
}

/// The names of all directives that matter, to be looked for in bytes: hardly a file of ten thousand has
/// one. No escape of nginx's language makes a letter, so that each stands there as it is written.
struct Names(Vec<Finder<'static>>);

impl Names {
    fn new() -> Self {
        Self(CODE.iter().chain(&OTHERS).chain(&[LUA]).map(|name| Finder::new(*name)).collect())
    }

    fn are_in(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|name| name.find(bytes).is_some())
    }
}

/// The same of one file.
pub(super) fn in_bytes(bytes: &[u8], roots: &[&Path]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // There is nothing that could fail; all of it is one piece.
    let _ = in_file(bytes, bytes.len() + 1, roots, &mut found);
    found
}

/// Whether it could be looked through: one statement, or remark, may be longer than a piece. nginx
/// refuses such a word, as there is in a picture.
fn in_file(
    mut file: impl Read,
    piece: usize,
    roots: &[&Path],
    found: &mut BTreeSet<String>,
) -> io::Result<bool> {
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        (&mut file).take(piece as u64).read_to_end(&mut bytes)?;
        let last = bytes.len() < before + piece;
        let Some(looked) = in_piece(&bytes, last, roots, found) else { return Ok(true) };
        if last {
            return Ok(true);
        }
        bytes.drain(..looked.whole);
        if bytes.len() >= piece {
            return Ok(looked.quoted);
        }
    }
}

struct Looked {
    /// Its statements are whole up to here.
    whole: usize,
    /// It ends within quotes.
    quoted: bool,
}

/// `None` where it is no configuration from some place on.
fn in_piece(
    bytes: &[u8],
    last: bool,
    roots: &[&Path],
    found: &mut BTreeSet<String>,
) -> Option<Looked> {
    let mut words: Vec<String> = Vec::new();
    let mut whole = 0;
    for token in Lexer::new(bytes) {
        match token {
            Ok(token) => match token.kind {
                // Of a directive nothing more is asked.
                TokenKind::Word(word) if words.len() < 2 => words.push(text(&word)),
                TokenKind::Word(_) => {}
                TokenKind::End | TokenKind::Open | TokenKind::Close => {
                    found.extend(power(&words, roots));
                    words.clear();
                    whole = token.span.end;
                }
            },
            Err(error) => {
                // What begins may be code that only the lexer can't follow.
                found.extend(power(&words, roots));
                let cut = !last && error.span.end == bytes.len();
                let lua = words.first().is_some_and(|name| name.ends_with("_by_lua_block"));
                return cut.then_some(Looked { whole, quoted: !lua });
            }
        }
    }
    Some(Looked { whole, quoted: false })
}

/// nginx hands most words on to the system, which takes them to end at a NUL.
fn text(word: &[u8]) -> String {
    let end = word.iter().position(|byte| *byte == 0).unwrap_or(word.len());
    let text = String::from_utf8_lossy(word.get(..end).unwrap_or(word)).into_owned();
    // Approvals are kept one on a line.
    text.replace(char::is_control, "?")
}

fn power(words: &[String], roots: &[&Path]) -> Option<String> {
    let name = words.first()?;
    if name == LOAD_MODULE {
        let path = Path::new(words.get(1)?);
        let packaged = MODULES.iter().any(|folder| path.starts_with(folder));
        let shared = roots.iter().any(|root| path.starts_with(root));
        return (!packaged || shared || climbs(path))
            .then(|| format!("load_module {}", path.display()));
    }
    // With either, a file of this host that nobody meant can be read or guessed at by clients.
    if name == USER && words.get(1).is_some_and(|user| user == "root") {
        return Some("user root".to_owned());
    }
    if name == USER_FILE {
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

/// What an operator of this node has said yes to; a list that can't be read approves nothing.
pub(super) fn approved(dir: &Path) -> BTreeSet<String> {
    list(dir).unwrap_or_default()
}

fn list(dir: &Path) -> io::Result<BTreeSet<String>> {
    let bytes = files::read_if_any(&dir.join(APPROVED))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

/// # Errors
/// As read(2) and write(2); nothing more is approved then, and nothing less.
pub(super) fn approve(dir: &Path, more: &BTreeSet<String>) -> io::Result<()> {
    let mut all = list(dir)?;
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
    fn no_name_that_matters_is_passed_over() {
        let names = Names::new();
        let lua = ["content_by_lua_block", "a_by_lua", "b_by_lua_file"];
        let mut all: Vec<&str> = CODE.iter().chain(&OTHERS).chain(&lua).copied().collect();
        all.dedup();
        for name in all {
            for text in [format!("{name} root/x;"), format!("a 1; \"{name}\" '/x\\\\';")] {
                assert!(names.are_in(text.as_bytes()), "{text}");
            }
            let own = format!("{name} {};", if name == USER { "root" } else { "/x" });
            assert_eq!(in_bytes(own.as_bytes(), &[]).len(), 1, "{own}");
        }
        assert!(!names.are_in(b"location /a { return 404; }"));
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
    fn neither_a_nul_nor_its_length_hides_what_a_file_can_do() {
        assert_eq!(found("# \0\nload_module /tmp/x.so;"), ["load_module /tmp/x.so"]);
        assert_eq!(found("user root\0x;"), ["user root"]);
        assert_eq!(found("content_by_lua_block { '\0"), ["content_by_lua_block"]);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let fill = "map_hash_max_size 4096;\n".repeat(PIECE / 24 + 1000);
        let hidden = format!("{fill}load_module /tmp/x.so;\n{fill}");
        let who = || standin_tree::manifest::Who { id: 0, name: None };
        let manifest = |text: &str| {
            let hash = store.put(text.as_bytes()).unwrap();
            let kind = Kind::File { size: text.len() as u64, hash, link: 0 };
            let entry = Entry {
                path: Box::default(),
                kind,
                mode: 0o644,
                user: who(),
                group: who(),
                modified: standin_tree::manifest::Time::default(),
                attributes: Vec::new(),
            };
            let root = Root { path: "/etc/a.conf".into(), entries: vec![entry] };
            Manifest::new(vec![root]).unwrap()
        };
        let found = of(&store, &manifest(&hidden), &HashSet::new());
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["load_module /tmp/x.so"]);
        // A remark of such a length may have anything behind it.
        let remark = format!("# {}\nload_module /tmp/x.so;", "x".repeat(2 * PIECE));
        let found = of(&store, &manifest(&remark), &HashSet::new());
        assert!(found.first().unwrap().starts_with("/etc/a.conf, which can't be judged"));
    }

    #[test]
    fn pieces_are_put_together() {
        let text = "a 1;\nload_module \"/tmp/x.so\"; b { c 'x y'; exec z; }\nuser root;";
        for piece in 24..60 {
            let mut found = BTreeSet::new();
            assert!(in_file(text.as_bytes(), piece, &[], &mut found).unwrap(), "{piece}");
            assert_eq!(found.len(), 3, "{piece}: {found:?}");
        }
        let mut found = BTreeSet::new();
        let foreign = b"\x7fELF \"x\"y; user root; more";
        assert!(in_file(&foreign[..], 24, &[], &mut found).unwrap(), "no configuration");
        let picture = "\0; \"".to_owned() + &"p".repeat(100);
        assert!(in_file(picture.as_bytes(), 24, &[], &mut found).unwrap(), "nor that");
        let code = "content_by_lua_block { '".to_owned() + &"p".repeat(100);
        assert!(!in_file(code.as_bytes(), 30, &[], &mut BTreeSet::new()).unwrap());
        assert!(found.is_empty());
    }

    #[test]
    fn what_was_approved_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(approved(dir.path()).is_empty());
        // A disk that can't be read is no empty list, which would take the place of what is there.
        let place = dir.path().join(APPROVED);
        std::os::unix::fs::symlink(APPROVED, &place).unwrap();
        approve(dir.path(), &BTreeSet::new()).unwrap_err();
        std::fs::remove_file(place).unwrap();
        approve(dir.path(), &BTreeSet::from(["js_import".to_owned()])).unwrap();
        approve(dir.path(), &BTreeSet::from(["perl".to_owned()])).unwrap();
        assert_eq!(approved(dir.path()).len(), 2);
    }
}
