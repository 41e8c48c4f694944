//! Follows nginx's main configuration file through its includes.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::lexer::{Lexer, TokenKind};
use super::listen::{Listen, Protocol, share_options};

/// Includes within includes: deeper is a circle.
pub const MAX_DEPTH: usize = 16;

/// Files read: more than any hosting company's configuration has on one machine.
pub const MAX_FILES: usize = 4096;

/// Bytes read, all files together.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Problems kept; the first ones explain the others.
const MAX_PROBLEMS: usize = 100;

/// Words of one statement: nginx itself stops far below.
const MAX_WORDS: usize = 65_536;

/// A place in one of the files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: PathBuf,
    /// From 1; 0 means the file as a whole.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Something that could not be followed; nginx may see it otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub at: Place,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// A file that a directive names besides `include`: a certificate, a password file, a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    pub directive: String,
    /// Absolute, or relative to nginx's prefix (`-p`), which the configuration doesn't say.
    pub path: PathBuf,
    pub at: Place,
}

/// What the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NginxConfig {
    /// The main file first, then in the order of reading, each once.
    pub files: Vec<PathBuf>,
    /// As written: absolute, or relative to nginx's prefix.
    pub pid: Option<PathBuf>,
    pub user: Option<String>,
    /// Of `http` servers.
    pub listens: Vec<Listen>,
    /// Of `stream` and `mail` servers: they bind addresses too.
    pub other_listens: Vec<Listen>,
    pub outside: Vec<Outside>,
    /// What nginx makes or writes: logs, temporary directories, caches, sockets; relative to its
    /// prefix where it isn't absolute.
    pub writes: Vec<Outside>,
    /// Every file but the main one, with the first `include` that leads to it; also those that
    /// couldn't be read.
    pub included: Vec<Outside>,
    pub problems: Vec<Problem>,
}

/// Reads the file at `main` and all that it includes.
///
/// `open` gives a file's bytes; `glob` gives the files that match an absolute pattern, sorted as
/// nginx reads them (by name). Relative includes start at the main file's directory, as in nginx.
#[must_use]
pub fn read(
    main: &Path,
    open: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
    glob: &dyn Fn(&str) -> Vec<PathBuf>,
) -> NginxConfig {
    let base = main.parent().unwrap_or_else(|| Path::new("/")).to_owned();
    let mut reader = Reader {
        open,
        glob,
        base,
        config: NginxConfig::default(),
        blocks: Vec::new(),
        count: 0,
        bytes: 0,
    };
    let at = Place { file: main.to_owned(), line: 0 };
    reader.file(main, &at, 0);
    share_options(&mut reader.config.listens);
    reader.config
}

/// Which relative names nginx joins to the main file's directory; others to its prefix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    Conf,
    Prefix,
}

/// Directives whose argument is a file.
fn outside_base(directive: &str) -> Option<Base> {
    const TLS: &[&str] = &[
        "ssl_certificate",
        "ssl_certificate_key",
        "ssl_trusted_certificate",
        "ssl_client_certificate",
        "ssl_crl",
        "ssl_dhparam",
        "ssl_password_file",
        "ssl_session_ticket_key",
        "ssl_stapling_file",
        "ssl_ech_file",
    ];
    const CONF: &[&str] = &[
        "auth_basic_user_file",
        "auth_jwt_key_file",
        "geoip_city",
        "geoip_country",
        "geoip_org",
        "geoip2",
        "js_import",
        "js_include",
        "modsecurity_rules_file",
        "perl_require",
        "quic_host_key",
        "xml_entities",
        "xslt_stylesheet",
    ];
    // proxy_ssl_certificate, grpc_ssl_crl, uwsgi_ssl_password_file and their kin.
    let tls = |name: &str| TLS.contains(&name);
    let upstream = ["proxy_", "grpc_", "uwsgi_", "memcached_", "zone_sync_"];
    if tls(directive)
        || CONF.contains(&directive)
        || upstream.iter().any(|prefix| directive.strip_prefix(prefix).is_some_and(tls))
    {
        return Some(Base::Conf);
    }
    let lua = directive.ends_with("_by_lua_file")
        || matches!(directive, "lua_ssl_trusted_certificate" | "lua_ssl_crl");
    (lua || directive == "load_module").then_some(Base::Prefix)
}

/// Directives whose first argument nginx opens for writing, or makes, at its start.
fn writes(directive: &str) -> bool {
    matches!(directive, "error_log" | "access_log" | "pid" | "lock_file")
        || directive.ends_with("_temp_path")
        || directive.ends_with("_cache_path")
}

/// A block that is open.
#[derive(Debug)]
enum Block {
    Http,
    Stream,
    Mail,
    Server(Server),
    Other,
}

#[derive(Debug)]
struct Server {
    protocol: Protocol,
    listens: Vec<Listen>,
    names: Vec<String>,
    /// The old directive `ssl on`.
    ssl: bool,
    at: Place,
}

struct Reader<'f> {
    open: &'f dyn Fn(&Path) -> io::Result<Vec<u8>>,
    glob: &'f dyn Fn(&str) -> Vec<PathBuf>,
    base: PathBuf,
    config: NginxConfig,
    blocks: Vec<Block>,
    count: usize,
    bytes: usize,
}

impl Reader<'_> {
    fn problem(&mut self, at: &Place, what: impl Into<String>) {
        let problem = Problem { at: at.clone(), what: what.into() };
        // A file that is included twice has its problems once.
        if self.config.problems.len() < MAX_PROBLEMS && !self.config.problems.contains(&problem) {
            self.config.problems.push(problem);
        }
    }

    /// One file; `at` is what names it. Its blocks end with it.
    fn file(&mut self, path: &Path, at: &Place, depth: usize) {
        if depth > MAX_DEPTH {
            self.problem(
                at,
                format!("includes are nested deeper than {MAX_DEPTH}: do they go in a circle?"),
            );
            return;
        }
        if self.count >= MAX_FILES {
            self.problem(at, format!("more than {MAX_FILES} files are included"));
            return;
        }
        self.count += 1;
        if depth > 0 && !self.config.included.iter().any(|known| known.path == path) {
            let directive = "include".to_owned();
            self.config.included.push(Outside { directive, path: path.to_owned(), at: at.clone() });
        }
        let bytes = match (self.open)(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.problem(at, format!("can't read {}: {error}", path.display()));
                return;
            }
        };
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > MAX_BYTES {
            self.problem(at, format!("the files have more than {} MiB", MAX_BYTES >> 20));
            self.count = MAX_FILES;
            return;
        }
        if !self.config.files.iter().any(|known| known == path) {
            self.config.files.push(path.to_owned());
        }
        let floor = self.blocks.len();
        self.statements(path, &bytes, depth, floor);
        if self.blocks.len() > floor {
            let end = Place { file: path.to_owned(), line: 0 };
            self.problem(&end, "the file ends before all its blocks are closed");
            while self.blocks.len() > floor {
                self.close();
            }
        }
    }

    fn statements(&mut self, path: &Path, bytes: &[u8], depth: usize, floor: usize) {
        let mut words: Vec<Vec<u8>> = Vec::new();
        let mut line = 0;
        for token in Lexer::new(bytes) {
            let token = match token {
                Ok(token) => token,
                Err(error) => {
                    let at = Place { file: path.to_owned(), line: error.line };
                    self.problem(&at, error.what);
                    return;
                }
            };
            if words.is_empty() {
                line = token.line;
            }
            let at = || Place { file: path.to_owned(), line };
            match token.kind {
                TokenKind::Word(word) => {
                    if words.len() < MAX_WORDS {
                        words.push(word);
                    }
                }
                TokenKind::End => {
                    self.directive(&std::mem::take(&mut words), at(), depth);
                }
                TokenKind::Open => {
                    self.block(&std::mem::take(&mut words), at());
                }
                TokenKind::Close => {
                    if !words.is_empty() {
                        self.problem(&at(), "`;` is missing before `}`");
                        words.clear();
                    }
                    if self.blocks.len() > floor {
                        self.close();
                    } else {
                        self.problem(&at(), "`}` closes nothing");
                    }
                }
            }
        }
        if !words.is_empty() {
            let at = Place { file: path.to_owned(), line };
            self.problem(&at, "`;` is missing at the end of the file");
        }
    }

    fn block(&mut self, words: &[Vec<u8>], at: Place) {
        let name = words.first().map_or(&b""[..], Vec::as_slice);
        let block = match (name, self.blocks.last()) {
            (b"http", None) => Block::Http,
            (b"stream", None) => Block::Stream,
            (b"mail", None) => Block::Mail,
            (b"server", Some(parent @ (Block::Http | Block::Stream | Block::Mail))) => {
                let protocol = match parent {
                    Block::Stream => Protocol::Stream,
                    Block::Mail => Protocol::Mail,
                    _ => Protocol::Http,
                };
                Block::Server(Server {
                    protocol,
                    listens: Vec::new(),
                    names: Vec::new(),
                    ssl: false,
                    at,
                })
            }
            (b"geoip2", _) => {
                self.directive_outside(words, &at);
                Block::Other
            }
            _ => Block::Other,
        };
        self.blocks.push(block);
    }

    fn close(&mut self) {
        let Some(Block::Server(server)) = self.blocks.pop() else { return };
        let mut listens = server.listens;
        if listens.is_empty() && server.protocol == Protocol::Http {
            listens.push(Listen::implied(server.at));
        }
        for mut listen in listens {
            listen.ssl |= server.ssl;
            listen.server_names.clone_from(&server.names);
            match listen.protocol {
                Protocol::Http => self.config.listens.push(listen),
                Protocol::Stream | Protocol::Mail => self.config.other_listens.push(listen),
            }
        }
    }

    fn directive(&mut self, words: &[Vec<u8>], at: Place, depth: usize) {
        let Some((name, args)) = words.split_first() else { return };
        let text = |word: &Vec<u8>| String::from_utf8_lossy(word).into_owned();
        match (name.as_slice(), args) {
            (b"include", [pattern]) => self.include(pattern, &at, depth),
            (b"pid", [path]) if self.blocks.is_empty() => {
                self.config.pid = Some(PathBuf::from(OsStr::from_bytes(path)));
            }
            (b"user", [user, ..]) if self.blocks.is_empty() => self.config.user = Some(text(user)),
            (b"listen", _) => {
                let at = at.clone();
                let Some(Block::Server(server)) = self.blocks.last_mut() else { return };
                let args: Vec<String> = args.iter().map(text).collect();
                match Listen::parse(server.protocol, &args, at.clone()) {
                    Some(listen) => server.listens.push(listen),
                    None => self
                        .problem(&at, format!("listen has no usable address: {}", args.join(" "))),
                }
            }
            (b"server_name", _) => {
                if let Some(Block::Server(server)) = self.blocks.last_mut() {
                    server.names.extend(args.iter().map(text));
                }
            }
            (b"ssl", [on]) => {
                if let Some(Block::Server(server)) = self.blocks.last_mut() {
                    server.ssl = on.as_slice() == b"on";
                }
            }
            _ => self.directive_outside(words, &at),
        }
        if let ([path, ..], true) = (args, writes(&String::from_utf8_lossy(name))) {
            self.directive_writes(name, path, at);
        }
    }

    fn directive_writes(&mut self, name: &[u8], path: &[u8], at: Place) {
        let elsewhere: [&[u8]; 3] = [b"syslog:", b"memory:", b"|"];
        let none = matches!(path, b"off" | b"stderr") || path.contains(&b'$');
        if none || elsewhere.iter().any(|prefix| path.starts_with(prefix)) {
            return;
        }
        let path = PathBuf::from(OsStr::from_bytes(path));
        let directive = String::from_utf8_lossy(name).into_owned();
        self.config.writes.push(Outside { directive, path, at });
    }

    fn directive_outside(&mut self, words: &[Vec<u8>], at: &Place) {
        let Some((name, args)) = words.split_first() else { return };
        let name = String::from_utf8_lossy(name);
        let Some(base) = outside_base(&name) else { return };
        // `js_import NAME from PATH`; everywhere else the path comes first.
        let path = if name == "js_import" { args.last() } else { args.first() };
        let Some(path) = path else { return };
        let elsewhere: [&[u8]; 4] = [b"data:", b"engine:", b"store:", b"off"];
        if path.contains(&b'$') || elsewhere.iter().any(|prefix| path.starts_with(prefix)) {
            return;
        }
        let path = Path::new(OsStr::from_bytes(path));
        let path = if base == Base::Conf { self.base.join(path) } else { path.to_owned() };
        self.config.outside.push(Outside { directive: name.into_owned(), path, at: at.clone() });
    }

    fn include(&mut self, pattern: &[u8], at: &Place, depth: usize) {
        let path = self.base.join(Path::new(OsStr::from_bytes(pattern)));
        if !pattern.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[')) {
            self.file(&path, at, depth + 1);
            return;
        }
        let Some(pattern) = path.to_str() else {
            self.problem(at, "the pattern of an include is no UTF-8 text");
            return;
        };
        for path in (self.glob)(pattern).into_iter().take(MAX_FILES + 1) {
            self.file(&path, at, depth + 1);
        }
    }
}
