//! Reads the sections that stand once: `[nginx]`, `[link]`, `[sync]`, `[notify]`, `[log]`, `[api]`.

use toml::de::DeTable;

use super::value::default_integer;
use super::{Fields, Walk};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::keys::{self, Key, Section};
use crate::model::{Api, Facility, Link, Log, Nginx, Notify, Sync, SyncSource, Trigger};

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

    pub(super) fn sync(&mut self, fields: &Fields<'_, '_>) -> Sync {
        self.unknown_keys(fields);
        self.idle_rsync_password(fields);
        let trigger = match self.word(fields, &keys::SYNC_TRIGGER) {
            "reload" => Trigger::Reload,
            _ => Trigger::Save,
        };
        Sync {
            paths: self.paths(fields, &keys::SYNC_PATHS),
            also: self.paths(fields, &keys::SYNC_ALSO),
            exclude: match fields.get(&keys::SYNC_EXCLUDE) {
                Some(_) => self.texts(fields, &keys::SYNC_EXCLUDE),
                None => vec!["*.swp".to_owned(), "*~".to_owned()],
            },
            trigger,
            source: self.sync_source(fields),
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

    fn sync_source(&mut self, fields: &Fields<'_, '_>) -> SyncSource {
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

    pub(super) fn log(&mut self, top: &Fields<'_, '_>) -> Log {
        let Some(fields) = self.sub_table(top, &keys::LOG, Section::Log) else {
            return Log::default();
        };
        self.unknown_keys(&fields);
        let syslog = fields.get(&keys::LOG_SYSLOG).map(|_| self.word(&fields, &keys::LOG_SYSLOG));
        let flag = |walk: &mut Self, key: &Key| fields.get(key).map(|_| walk.boolean(&fields, key));
        Log {
            syslog: syslog.and_then(Facility::named),
            journald: flag(self, &keys::LOG_JOURNALD),
            file: self.path(&fields, &keys::LOG_FILE),
            stderr: flag(self, &keys::LOG_STDERR),
        }
    }

    pub(super) fn api(&mut self, top: &Fields<'_, '_>) -> Api {
        let Some(fields) = self.sub_table(top, &keys::API, Section::Api) else {
            return Api::default();
        };
        self.unknown_keys(&fields);
        Api { listen: self.socket_address(&fields, &keys::API_LISTEN) }
    }
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
