//! Reads the sections that stand once: `[nginx]`, `[link]`, `[sync]`, `[notify]`, `[log]`, `[api]`.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::value::default_integer;
use super::{Fields, Walk, shown};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::keys::{self, Key, Section};
use crate::model::{Api, Facility, Link, Log, Nginx, Node, Notify, Sync, SyncSource, Trigger};

/// Each node's own: if they were shared, all nodes would have one key, and each generation that is kept
/// would make the next one.
const OWN_PLACES: [&str; 3] = ["/etc/standin", "/run/standin", "/var/lib/standin"];

/// As many patterns, of as many bytes, as `standin-tree` takes.
const MAX_GLOBS: usize = 256;
const MAX_GLOB: usize = 1024;

impl Walk {
    pub(super) fn nginx(&mut self, fields: &Fields<'_, '_>) -> Nginx {
        self.unknown_keys(fields);
        Nginx {
            binary: self.path(fields, &keys::NGINX_BINARY),
            conf: self.path(fields, &keys::NGINX_CONF),
            probe: self.url(fields, &keys::NGINX_PROBE),
            cadence: self.cadence(fields, "400ms"),
            restart: self.boolean(fields, &keys::NGINX_RESTART),
            span: fields.span.clone(),
        }
    }

    pub(super) fn link(&mut self, top: &Fields<'_, '_>) -> Link {
        let Some(fields) = self.sub_table(top, &keys::LINK, Section::Link) else {
            return Link { port: u16::try_from(default_integer(&keys::LINK_PORT)).unwrap_or(8412) };
        };
        self.unknown_keys(&fields);
        // The table's range is a port's.
        Link { port: u16::try_from(self.integer(&fields, &keys::LINK_PORT)).unwrap_or(u16::MAX) }
    }

    pub(super) fn sync(
        &mut self,
        fields: &Fields<'_, '_>,
        nodes: &[Node],
        has_nginx: bool,
    ) -> Sync {
        self.unknown_keys(fields);
        self.idle_rsync_password(fields);
        self.idle_sync(fields, has_nginx);
        let trigger = match self.word(fields, &keys::SYNC_TRIGGER) {
            "reload" => Trigger::Reload,
            _ => Trigger::Save,
        };
        Sync {
            paths: self.shared_paths(fields, &keys::SYNC_PATHS),
            also: self.shared_paths(fields, &keys::SYNC_ALSO),
            exclude: match fields.get(&keys::SYNC_EXCLUDE) {
                Some(_) => self.globs(fields),
                None => vec!["*.swp".to_owned(), "*~".to_owned()],
            },
            trigger,
            source: self.sync_source(fields, nodes),
            settle: self.duration(fields, &keys::SYNC_SETTLE),
            full_scan: self.duration(fields, &keys::SYNC_FULL_SCAN),
            rsync: self.rsync_targets(fields),
            rsync_password_file: self.path(fields, &keys::SYNC_RSYNC_PASSWORD_FILE),
            span: fields.span.clone(),
        }
    }

    /// A password for nobody is a line that was forgotten, or a list that was.
    fn idle_rsync_password(&mut self, fields: &Fields<'_, '_>) {
        if fields.get(&keys::SYNC_RSYNC).is_some() {
            return;
        }
        if let Some(span) = fields.key_span(&keys::SYNC_RSYNC_PASSWORD_FILE) {
            let warning =
                Diagnostic::warning(codes::NO_EFFECT, "rsync_password_file has no effect here")
                    .at(&self.file, span, "no rsync daemon is named")
                    .help("add rsync = [\"USER@HOST::MODULE\"], or remove the line");
            self.diagnostics.push(warning);
        }
    }

    /// Without a path and without an nginx whose files would be meant nothing is shared.
    fn idle_sync(&mut self, fields: &Fields<'_, '_>, has_nginx: bool) {
        if has_nginx || fields.get(&keys::SYNC_PATHS).is_some() {
            return;
        }
        let why = "there is neither `paths` nor a section [nginx]";
        let warning = Diagnostic::warning(codes::NO_EFFECT, "[sync] shares nothing")
            .at(&self.file, fields.span.clone(), why)
            .help("add paths = [\"/etc/nginx\"], or a section [nginx]: then it is the directory of its main configuration file");
        self.diagnostics.push(warning);
    }

    fn shared_paths(&mut self, fields: &Fields<'_, '_>, key: &Key) -> Vec<PathBuf> {
        for (text, span) in self.spanned_texts(fields, key) {
            let Some((why, help)) = not_shared(Path::new(&text)) else { continue };
            let message = format!("{} can't be shared: \"{}\"", key.name, shown(&text));
            self.error(codes::NOT_SHARED, message, span, why, help);
        }
        self.paths(fields, key)
    }

    fn globs(&mut self, fields: &Fields<'_, '_>) -> Vec<String> {
        let globs = self.spanned_texts(fields, &keys::SYNC_EXCLUDE);
        if let Some((_, span)) = globs.get(MAX_GLOBS) {
            let message = format!("exclude has more than {MAX_GLOBS} patterns");
            let help = "shorten the list: a pattern without a slash takes names anywhere";
            self.error(codes::RANGE, message, span.clone(), "this one is too many", help);
        }
        for (text, span) in &globs {
            if text.trim_end_matches('/').is_empty() {
                let message = "exclude has a pattern of slashes alone";
                let help = "name what is to be left alone: \"*.swp\", \"/etc/nginx/cache\"";
                self.error(codes::EMPTY, message, span.clone(), "it means nothing", help);
            } else if text.len() > MAX_GLOB {
                let message = format!("exclude has a pattern of more than {MAX_GLOB} bytes");
                self.error(codes::RANGE, message, span.clone(), "", "shorten it");
            }
        }
        globs.into_iter().map(|(text, _)| text).collect()
    }

    fn sync_source(&mut self, fields: &Fields<'_, '_>, nodes: &[Node]) -> SyncSource {
        let Some((source, span)) = self.text(fields, &keys::SYNC_SOURCE) else {
            return SyncSource::Active;
        };
        if source == "active" {
            return SyncSource::Active;
        }
        if !self.node_names.contains(&source) {
            let known: Vec<String> =
                self.node_names.iter().cloned().chain(["active".to_owned()]).collect();
            self.unknown_name("source", "node", &source, span, &known);
        } else if nodes.iter().any(|node| node.name == source && node.vrrp_only) {
            self.error(
                codes::UNKNOWN_NAME,
                format!("source names {}, which runs no standin", shown(&source)),
                span,
                "it has vrrp_only = true, and ships nothing",
                "name a node with standin, or write source = \"active\"",
            );
        }
        SyncSource::Node(source)
    }

    fn rsync_targets(&mut self, fields: &Fields<'_, '_>) -> Vec<String> {
        let targets = self.spanned_texts(fields, &keys::SYNC_RSYNC);
        for (target, span) in &targets {
            if !is_rsync_module(target) {
                self.error(
                    codes::WORD,
                    "rsync must name a module of an rsync daemon",
                    span.clone(),
                    "",
                    "write \"USER@HOST::MODULE\", with two colons",
                );
            }
        }
        targets.into_iter().map(|(target, _)| target).collect()
    }

    pub(super) fn notify(&mut self, top: &Fields<'_, '_>) -> Notify {
        let empty = DeTable::new();
        let fields =
            self.sub_table(top, &keys::NOTIFY, Section::Notify).unwrap_or_else(|| Fields {
                section: Section::Notify,
                title: "[notify]".to_owned(),
                table: &empty,
                span: 0..0,
            });
        self.unknown_keys(&fields);
        self.idle_notify(&fields);
        Notify {
            active: self.paths(&fields, &keys::NOTIFY_ACTIVE),
            backup: self.paths(&fields, &keys::NOTIFY_BACKUP),
            fault: self.paths(&fields, &keys::NOTIFY_FAULT),
            stop: self.paths(&fields, &keys::NOTIFY_STOP),
            any: self.paths(&fields, &keys::NOTIFY_ANY),
            timeout: self.duration(&fields, &keys::NOTIFY_TIMEOUT),
            user: self.user(&fields, &keys::NOTIFY_USER),
        }
    }

    /// How scripts are run, and no script.
    fn idle_notify(&mut self, fields: &Fields<'_, '_>) {
        let how = [keys::NOTIFY_TIMEOUT, keys::NOTIFY_USER];
        if keys::of(Section::Notify).any(|key| !how.contains(key) && fields.get(key).is_some()) {
            return;
        }
        for key in how {
            let Some(span) = fields.key_span(&key) else { continue };
            let what = format!("{} has no effect here", key.name);
            let warning = Diagnostic::warning(codes::NO_EFFECT, what)
                .at(&self.file, span, "no script is named")
                .help("add any = [\"/etc/standin/notify.sh\"], or remove the line");
            self.diagnostics.push(warning);
        }
    }

    pub(super) fn log(&mut self, top: &Fields<'_, '_>) -> Log {
        let Some(fields) = self.sub_table(top, &keys::LOG, Section::Log) else {
            return Log::default();
        };
        self.unknown_keys(&fields);
        let syslog = fields.get(&keys::LOG_SYSLOG).map(|_| self.word(&fields, &keys::LOG_SYSLOG));
        let flag = |walk: &mut Self, key: &Key| fields.get(key).map(|_| walk.boolean(&fields, key));
        let log = Log {
            syslog: syslog.and_then(Facility::named),
            journald: flag(self, &keys::LOG_JOURNALD),
            file: self.path(&fields, &keys::LOG_FILE),
            stderr: flag(self, &keys::LOG_STDERR),
        };
        let elsewhere = [&keys::LOG_SYSLOG, &keys::LOG_FILE];
        let elsewhere = elsewhere.into_iter().any(|key| fields.get(key).is_some());
        if log.stderr == Some(false)
            && log.journald != Some(true)
            && !elsewhere
            && let Some(span) = fields.key_span(&keys::LOG_STDERR)
        {
            let warning =
                Diagnostic::warning(codes::NO_EFFECT, "stderr = false has no effect here")
                    .at(&self.file, span, "events must go somewhere, and nothing else is named")
                    .help("add journald = true, syslog = \"daemon\", or a file");
            self.diagnostics.push(warning);
        }
        log
    }

    pub(super) fn api(&mut self, top: &Fields<'_, '_>) -> Api {
        let Some(fields) = self.sub_table(top, &keys::API, Section::Api) else {
            return Api::default();
        };
        self.unknown_keys(&fields);
        Api { listen: self.socket_address(&fields, &keys::API_LISTEN) }
    }
}

/// Why a path can't be shared, and what to write instead.
pub(crate) fn not_shared(path: &Path) -> Option<(String, &'static str)> {
    const HELP: &str = "name the directories that nginx's files lie in";
    if !path.is_absolute() {
        return None;
    }
    if path == Path::new("/") {
        return Some(("this is the whole file system".to_owned(), HELP));
    }
    let own = OWN_PLACES.into_iter().find(|own| {
        let own = Path::new(own);
        own.starts_with(path) || path.starts_with(own)
    })?;
    Some((format!("{own} is each node's own: its keys, its cluster file, its history"), HELP))
}

/// `[USER@]HOST::MODULE[/PATH]`. rsync takes most other texts for a file of this host, or for one that
/// a remote shell is to fetch, with a host name that may be that shell's option.
fn is_rsync_module(target: &str) -> bool {
    if target.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return false;
    }
    let (user, rest) = match target.split_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, target),
    };
    let plain =
        |user: &str| !user.is_empty() && !user.starts_with('-') && !user.contains([':', '/']);
    let bracketed = rest.strip_prefix('[').and_then(|rest| rest.split_once("]::"));
    let (host_is_fine, module) = match bracketed {
        Some((address, module)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), module),
        None => {
            let (host, module) = rest.split_once("::").unwrap_or_default();
            let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            (!host.is_empty() && !host.starts_with('-') && host.chars().all(name), module)
        }
    };
    user.is_none_or(plain) && host_is_fine && !module.is_empty() && !module.starts_with(['/', ':'])
}

#[cfg(test)]
mod tests {
    use super::is_rsync_module;

    #[test]
    fn only_a_daemons_module_is_one() {
        for fine in ["h::m", "bak@host::module", "b@h-1.example.net::m/a/b", "b@[fd00::1]::m"] {
            assert!(is_rsync_module(fine), "{fine}");
        }
        for wrong in [
            "host:module",
            "x:y::m",
            "bak@-oProxyCommand=x::m",
            "-e@h::m",
            "a:b@h::m",
            "/a@h::m",
            "@h::m",
            "::m",
            "h::",
            "h:::m",
            "h::/m",
            "a@b@c::m",
            "[fe80::1%x;y]::m",
            "[h]::m",
            "rsync://h/m",
            "h;x::m",
            "h ::m",
        ] {
            assert!(!is_rsync_module(wrong), "{wrong}");
        }
    }
}
