//! Reads `[check.NAME]`: what it looks at decides which keys it has.

use standin_core::types::Prefix;
use toml::de::DeValue;

use super::{Fields, Named, Walk, shown};
use crate::codes;
use crate::keys::{self, Key};
use crate::model::{Check, CheckKind, NGINX_CHECK, ProcessBy};

/// The kernel's TASK_COMM_LEN less the zero byte.
const MAX_COMM: usize = 15;

/// Keys of one type of check; the timing keys belong to all.
const BY_TYPE: &[(&str, &[Key])] = &[
    ("http", &[keys::CHECK_URL, keys::CHECK_HOST, keys::CHECK_STATUS, keys::CHECK_BODY]),
    ("tcp", &[keys::CHECK_ADDRESS]),
    ("process", &[keys::CHECK_PIDFILE, keys::CHECK_NAME]),
    ("script", &[keys::CHECK_COMMAND, keys::CHECK_USER]),
    ("file", &[keys::CHECK_PATH]),
    ("interface", &[keys::CHECK_NAME]),
    ("route", &[keys::CHECK_TO, keys::CHECK_VIA]),
    ("ping", &[keys::CHECK_TO]),
];

const FOR_ALL: &[Key] = &[
    keys::CHECK_TYPE,
    keys::CHECK_INTERVAL,
    keys::CHECK_TIMEOUT,
    keys::CHECK_FALL,
    keys::CHECK_RISE,
];

impl Walk {
    pub(super) fn check(&mut self, named: &Named<'_, '_>) -> Option<Check> {
        let fields = &named.fields;
        self.unknown_keys(fields);
        if named.name == NGINX_CHECK {
            self.error(
                codes::NAME,
                "a check can't be called nginx",
                named.key_span.clone(),
                "this name means the [nginx] section",
                "call it something else; to tune nginx's own check, set interval, timeout, fall, rise in [nginx]",
            );
        }
        let cadence = self.cadence(fields, "500ms");
        if fields.get(&keys::CHECK_TYPE).is_none() {
            self.missing(
                fields,
                &keys::CHECK_TYPE,
                &format!("what it looks at, one of {}", keys::CHECK_TYPE.kind),
            );
            return None;
        }
        let kind = match self.word(fields, &keys::CHECK_TYPE) {
            "http" => self.http(fields),
            "tcp" => self
                .required(fields, &keys::CHECK_ADDRESS, "address = \"127.0.0.1:5432\"")
                .and_then(|()| self.socket_address(fields, &keys::CHECK_ADDRESS))
                .map(|address| CheckKind::Tcp { address }),
            "process" => self.process(fields),
            "script" => self.script(fields),
            "file" => self
                .required(fields, &keys::CHECK_PATH, "path = \"/run/ready\"")
                .and_then(|()| self.path(fields, &keys::CHECK_PATH))
                .map(|path| CheckKind::File { path }),
            "interface" => self
                .required(fields, &keys::CHECK_NAME, "name = \"eth0\"")
                .and_then(|()| self.text(fields, &keys::CHECK_NAME))
                .and_then(|(text, span)| self.interface_name(&text, span, "name"))
                .map(|name| CheckKind::Interface { name }),
            "route" => self.route(fields),
            "ping" => self
                .required(fields, &keys::CHECK_TO, "to = \"192.168.1.1\"")
                .and_then(|()| self.text(fields, &keys::CHECK_TO))
                .and_then(|(text, span)| self.ip(&text, span, "to"))
                .map(|to| CheckKind::Ping { to }),
            // The word was none of these, which is reported.
            _ => return None,
        };
        self.keys_of_other_types(fields);
        Some(Check { name: named.name.clone(), kind: kind?, cadence, span: named.key_span.clone() })
    }

    /// `None` when the key is absent, which is reported.
    fn required(&mut self, fields: &Fields<'_, '_>, key: &Key, example: &str) -> Option<()> {
        if fields.get(key).is_none() {
            self.missing(fields, key, example);
            return None;
        }
        Some(())
    }

    fn keys_of_other_types(&mut self, fields: &Fields<'_, '_>) {
        let Some(mine) = fields.get(&keys::CHECK_TYPE).and_then(|value| value.get_ref().as_str())
        else {
            return;
        };
        let Some((_, own)) = BY_TYPE.iter().find(|(word, _)| *word == mine) else { return };
        for (name, _) in fields.table {
            let Some(key) = keys::of(keys::Section::Check).find(|key| key.name == name.get_ref())
            else {
                continue;
            };
            if own.contains(key) || FOR_ALL.contains(key) {
                continue;
            }
            let others: Vec<&str> = BY_TYPE
                .iter()
                .filter(|(_, keys)| keys.contains(key))
                .map(|(word, _)| *word)
                .collect();
            let has: Vec<String> = own.iter().map(|key| format!("`{}`", key.name)).collect();
            self.error(
                codes::WRONG_PLACE,
                format!("a check of type \"{mine}\" has no `{}`", key.name),
                name.span(),
                format!("this belongs to type \"{}\"", others.join("\" or \"")),
                format!(
                    "type \"{mine}\" has {}; remove the line, or change the type",
                    has.join(", ")
                ),
            );
        }
    }

    fn http(&mut self, fields: &Fields<'_, '_>) -> Option<CheckKind> {
        let status = self.status(fields);
        let host = self.text(fields, &keys::CHECK_HOST).and_then(|(text, span)| {
            if text.chars().all(|c| c.is_ascii_graphic()) && !text.contains('/') {
                return Some(text);
            }
            let message = format!("host is no host name: \"{}\"", shown(&text));
            self.error(codes::NAME, message, span, "", "write the name alone, \"www.example.org\"");
            None
        });
        let body = self.text(fields, &keys::CHECK_BODY).map(|(text, _)| text);
        self.required(fields, &keys::CHECK_URL, "url = \"http://127.0.0.1/healthz\"")?;
        let url = self.url(fields, &keys::CHECK_URL)?;
        Some(CheckKind::Http { url, host, status, body })
    }

    /// One status or a list of them.
    fn status(&mut self, fields: &Fields<'_, '_>) -> Vec<u16> {
        let Some(value) = fields.get(&keys::CHECK_STATUS) else { return Vec::new() };
        let entries: Vec<_> = match value.get_ref() {
            DeValue::Array(list) => list.iter().take(super::MAX_LIST).collect(),
            _ => vec![value],
        };
        let mut found = Vec::new();
        for entry in entries {
            let Some(number) = self.any_integer(entry, "status", "status = 200") else { continue };
            match u16::try_from(number).ok().filter(|status| (100..=599).contains(status)) {
                Some(status) => found.push(status),
                None => self.error(
                    codes::RANGE,
                    "status must be 100 to 599",
                    entry.span(),
                    "",
                    "write status = 200, or status = [200, 204]",
                ),
            }
        }
        found
    }

    fn process(&mut self, fields: &Fields<'_, '_>) -> Option<CheckKind> {
        let pidfile = self.path(fields, &keys::CHECK_PIDFILE);
        let name = self.text(fields, &keys::CHECK_NAME);
        match (fields.key_span(&keys::CHECK_PIDFILE), fields.key_span(&keys::CHECK_NAME)) {
            (Some(_), Some(second)) => {
                self.error(
                    codes::WRONG_PLACE,
                    "a process is found by pidfile or by name, not by both",
                    second,
                    "",
                    "remove one of the lines",
                );
                None
            }
            (None, None) => {
                let message = format!("{} has neither `pidfile` nor `name`", fields.title);
                let help = "add pidfile = \"/run/app.pid\", or name = \"app\"";
                self.error(codes::MISSING_KEY, message, fields.span.clone(), "", help);
                None
            }
            (Some(_), None) => Some(CheckKind::Process(ProcessBy::Pidfile(pidfile?))),
            (None, Some(_)) => {
                let (name, span) = name?;
                if name.len() > MAX_COMM || name.contains('/') {
                    let message = format!("name is no command's name: \"{}\"", shown(&name));
                    self.error(
                        codes::NAME,
                        message,
                        span,
                        "",
                        format!(
                            "as `ps -o comm` shows it: at most {MAX_COMM} bytes, without a path"
                        ),
                    );
                    return None;
                }
                Some(CheckKind::Process(ProcessBy::Name(name)))
            }
        }
    }

    fn script(&mut self, fields: &Fields<'_, '_>) -> Option<CheckKind> {
        let user = self.user(fields, &keys::CHECK_USER);
        self.required(fields, &keys::CHECK_COMMAND, "command = [\"/usr/local/bin/check.sh\"]")?;
        let words = self.spanned_texts(fields, &keys::CHECK_COMMAND);
        let Some((program, span)) = words.first() else {
            if let Some(value) = fields
                .get(&keys::CHECK_COMMAND)
                .filter(|value| value.get_ref().as_array().is_some())
            {
                self.error(
                    codes::EMPTY,
                    "command must not be empty",
                    value.span(),
                    "",
                    "command = [\"/usr/local/bin/check.sh\", \"argument\"]",
                );
            }
            return None;
        };
        if program.starts_with('/') && program.contains(' ') {
            self.error(
                codes::PATH,
                "command is a list of arguments, no shell takes it apart",
                span.clone(),
                "this looks like a program with its arguments",
                "write each argument on its own: command = [\"/bin/sh\", \"-c\", \"...\"]",
            );
            return None;
        }
        self.absolute(program, span.clone(), "command's program")?;
        Some(CheckKind::Script { command: words.into_iter().map(|(word, _)| word).collect(), user })
    }

    fn route(&mut self, fields: &Fields<'_, '_>) -> Option<CheckKind> {
        let via = self
            .text(fields, &keys::CHECK_VIA)
            .and_then(|(text, span)| self.ip(&text, span, "via"));
        self.required(fields, &keys::CHECK_TO, "to = \"default\"")?;
        let (text, span) = self.text(fields, &keys::CHECK_TO)?;
        let network = match (text.as_str(), via) {
            ("default", Some(std::net::IpAddr::V6(_))) => "::/0",
            ("default", _) => "0.0.0.0/0",
            (network, _) => network,
        };
        let Ok(to) = network.parse::<Prefix>() else {
            let message = format!("to is no network: \"{}\"", shown(&text));
            self.error(
                codes::ADDRESS,
                message,
                span,
                "",
                "write \"default\", or a network such as \"10.0.0.0/8\"",
            );
            return None;
        };
        if via.is_some_and(|via| standin_core::types::Family::of(via) != to.family()) {
            self.error(
                codes::ADDRESS,
                "to and via must be of one family",
                span,
                "",
                "write both as IPv4 or both as IPv6",
            );
            return None;
        }
        Some(CheckKind::Route { to, via })
    }
}
