//! Walks the spanned TOML tree into the model: every fault is reported, none ends the walk.
//!
//! A value that can't be used is reported and replaced by its default, so that the rest is still
//! looked at; the model is given away only when nothing was reported as an error.

mod check;
mod member;
mod places;
mod section;
mod value;
mod values;
mod vip;

pub(crate) use section::not_shared;

use std::ops::Range;
use std::sync::Arc;

use standin_core::plan::{MAX_NODES, MAX_VIPS};
use standin_core::types::Priority;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::fingerprint::Fingerprint;
use crate::keys::{self, Key, Section};
use crate::model::{Cluster, Node};
use crate::nearest::nearest;
use crate::secrets::hidden;

/// Longest name of a cluster, node, VIP or check: a host name's label (RFC 1035 §2.3.4).
const MAX_NAME: usize = 63;

/// What is missing has no place: the message names the file only.
const WHOLE_FILE: Range<usize> = 0..0;

/// Longest list of paths, globs, arguments: far beyond need, so that a file can't make a plan of any size.
const MAX_LIST: usize = 1024;

pub(crate) type Value<'i> = Spanned<DeValue<'i>>;

/// One table of the file.
#[derive(Clone)]
pub(crate) struct Fields<'a, 'i> {
    section: Section,
    /// `[vip.web]`, for messages.
    title: String,
    table: &'a DeTable<'i>,
    /// Its header, or the whole of an inline table.
    span: Range<usize>,
}

impl<'a, 'i> Fields<'a, 'i> {
    fn get(&self, key: &Key) -> Option<&'a Value<'i>> {
        debug_assert_eq!(self.section, key.section);
        self.table.get(key.name)
    }

    /// Where the key itself stands.
    fn key_span(&self, key: &Key) -> Option<Range<usize>> {
        self.table.get_key_value(key.name).map(|(key, _)| key.span())
    }
}

/// The walk: what was found so far.
pub(crate) struct Walk {
    pub(crate) file: Arc<str>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Values that must not be shown.
    pub(crate) secrets: Vec<Range<usize>>,
    /// Names by section, also of those that are faulty: a reference to them is no second fault.
    node_names: Vec<String>,
    check_names: Vec<String>,
    fingerprints: Vec<Fingerprint>,
}

impl Walk {
    pub(crate) fn new(file: Arc<str>) -> Self {
        Self {
            file,
            diagnostics: Vec::new(),
            secrets: Vec::new(),
            node_names: Vec::new(),
            check_names: Vec::new(),
            fingerprints: Vec::new(),
        }
    }

    fn error(
        &mut self,
        code: &'static str,
        message: impl Into<String>,
        span: Range<usize>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        let file = Arc::clone(&self.file);
        self.diagnostics.push(Diagnostic::error(code, message).at(&file, span, label).help(help));
    }

    /// The whole file; `None` where a part of the model could not be made, always with an error reported.
    pub(crate) fn cluster(&mut self, root: &Spanned<DeTable<'_>>) -> Option<Cluster> {
        let top = Fields {
            section: Section::Top,
            title: "the file".to_owned(),
            table: root.get_ref(),
            span: WHOLE_FILE,
        };
        self.unknown_keys(&top);
        if top.get(&keys::CLUSTER).is_none() {
            self.missing(&top, &keys::CLUSTER, "its name as the first line: cluster = \"edge\"");
        }
        let name = self.text(&top, &keys::CLUSTER);
        if let Some((name, span)) = &name {
            self.name(name, span.clone(), "cluster");
        }
        let node_tables = self.named_tables(&top, &keys::NODE, Section::Node);
        let vip_tables = self.named_tables(&top, &keys::VIP, Section::Vip);
        let check_tables = self.named_tables(&top, &keys::CHECK, Section::Check);
        let names = |tables: &[Named<'_, '_>]| tables.iter().map(|t| t.name.clone()).collect();
        self.node_names.extend::<Vec<String>>(names(&node_tables));
        self.check_names.extend::<Vec<String>>(names(&check_tables));

        let nodes: Vec<Node> = node_tables.iter().filter_map(|table| self.node(table)).collect();
        self.count_nodes(&top, &node_tables);
        let nginx = self.sub_table(&top, &keys::NGINX, Section::Nginx).map(|f| self.nginx(&f));
        let checks = check_tables.iter().filter_map(|table| self.check(table)).collect();
        let has_nginx = top.get(&keys::NGINX).is_some();
        let vips = vip_tables
            .iter()
            .take(MAX_VIPS)
            .filter_map(|table| self.vip(table, &nodes, has_nginx))
            .collect();
        self.count_vips(&top, &vip_tables);
        let link = self.link(&top);
        let sync = self
            .sub_table(&top, &keys::SYNC, Section::Sync)
            .map(|fields| self.sync(&fields, &nodes, has_nginx));
        let notify = self.notify(&top);
        let log = self.log(&top);
        let api = self.api(&top);
        Some(Cluster {
            file: Arc::clone(&self.file),
            name: name?.0,
            nodes,
            vips,
            nginx,
            checks,
            link,
            sync,
            notify,
            log,
            api,
        })
    }

    fn count_nodes(&mut self, top: &Fields<'_, '_>, tables: &[Named<'_, '_>]) {
        if tables.is_empty() && !self.is_given(top, &keys::NODE) {
            self.error(
                codes::MISSING_KEY,
                "the file has no node",
                top.span.clone(),
                "",
                "write one section for each machine:\n[node.n1]\naddress = \"192.168.1.189\"",
            );
        }
        if let Some(extra) = tables.get(MAX_NODES) {
            let (count, span) = (tables.len(), extra.key_span.clone());
            self.error(
                codes::TOO_MANY_NODES,
                format!("{count} nodes are more than the {MAX_NODES} that one cluster may have"),
                span,
                "this one is too many",
                "make two clusters of them, each with VIPs of its own",
            );
        }
    }

    fn count_vips(&mut self, top: &Fields<'_, '_>, tables: &[Named<'_, '_>]) {
        if let Some(extra) = tables.get(MAX_VIPS) {
            let (count, span) = (tables.len(), extra.key_span.clone());
            self.error(
                codes::TOO_MANY_VIPS,
                format!("{count} VIPs are more than the {MAX_VIPS} that one cluster may have"),
                span,
                "this one is too many",
                "one VIP may have many addresses: put addresses that move together into one",
            );
        }
        if tables.is_empty() && !self.is_given(top, &keys::VIP) {
            let warning = Diagnostic::warning(codes::NO_VIP, "the file has no VIP, so nothing is kept reachable")
                .at(&self.file, top.span.clone(), "")
                .help("write a section:\n[vip.web]\nvirtual_router_id = 41\naddresses = [\"192.168.1.41/24\"]");
            self.diagnostics.push(warning);
        }
    }

    /// Whether something stands under the key, be it as faulty as it may: that was reported.
    fn is_given(&self, fields: &Fields<'_, '_>, key: &Key) -> bool {
        fields
            .get(key)
            .is_some_and(|value| value.get_ref().as_table().is_none_or(|t| !t.is_empty()))
    }

    fn node(&mut self, named: &Named<'_, '_>) -> Option<Node> {
        let fields = &named.fields;
        self.unknown_keys(fields);
        let (addresses, address_spans) = self.node_addresses(fields);
        let priority = match fields.get(&keys::NODE_PRIORITY) {
            Some(value) => self.priority(value, "priority").unwrap_or(Priority::DEFAULT),
            None => Priority::DEFAULT,
        };
        let vrrp_only = self.boolean(fields, &keys::NODE_VRRP_ONLY);
        let fingerprint = self.fingerprint(fields);
        let values = self.node_values(fields);
        Some(Node {
            name: named.name.clone(),
            addresses,
            address_spans,
            priority,
            vrrp_only,
            fingerprint,
            values,
            span: named.key_span.clone(),
        })
    }

    fn fingerprint(&mut self, fields: &Fields<'_, '_>) -> Option<Fingerprint> {
        let (text, span) = self.text(fields, &keys::NODE_FINGERPRINT)?;
        let Some(fingerprint) = Fingerprint::parse(&text) else {
            self.error(
                codes::FINGERPRINT,
                "fingerprint must be \"sha256:\" and 64 hexadecimal digits",
                span,
                "",
                "copy the line from the file of a node that has a peer link, or remove it",
            );
            return None;
        };
        if self.fingerprints.contains(&fingerprint) {
            self.error(
                codes::FINGERPRINT,
                "two nodes have the same fingerprint",
                span,
                "this key is another node's",
                "each node has a key of its own: remove this line, and let the node join again",
            );
        }
        self.fingerprints.push(fingerprint);
        Some(fingerprint)
    }

    /// 2..=254 or 255; 0 and 1 have meanings of their own.
    pub(crate) fn priority(&mut self, value: &Value<'_>, name: &str) -> Option<Priority> {
        let number = self.any_integer(value, name, "priority = 100")?;
        let fault = match u8::try_from(number) {
            Ok(0) => "0 is what a node says when it gives a VIP up",
            Ok(1) => "1 is reserved for a node that holds a VIP although it isn't healthy",
            Ok(priority) => return Some(Priority(priority)),
            Err(_) => "an advert has one byte for it",
        };
        self.error(
            codes::PRIORITY,
            format!("{name} must be 2 to 254, or 255 for the owner of the addresses"),
            value.span(),
            fault,
            "higher is preferred; 150 and 100 are usual for a pair",
        );
        None
    }
}

/// `[section.NAME]`.
pub(crate) struct Named<'a, 'i> {
    name: String,
    key_span: Range<usize>,
    fields: Fields<'a, 'i>,
}

/// Tables and names.
impl Walk {
    /// `None` when it is absent, or no table (which is reported).
    fn sub_table<'a, 'i>(
        &mut self,
        fields: &Fields<'a, 'i>,
        key: &Key,
        section: Section,
    ) -> Option<Fields<'a, 'i>> {
        let value = fields.get(key)?;
        let title = match section {
            Section::VipAnnounce => format!("announce of {}", fields.title),
            _ => section.header().to_owned(),
        };
        let Some(table) = value.get_ref().as_table() else {
            let mend = match section {
                Section::VipAnnounce => {
                    "write announce = { repeat = 5, refresh = \"60s\" }".to_owned()
                }
                _ => format!("write a line [{}] and the keys below it", key.name),
            };
            self.wrong_type(key.name, "a table", value, &mend);
            return None;
        };
        let span = fields.key_span(key).unwrap_or_else(|| value.span());
        Some(Fields { section, title, table, span })
    }

    /// The tables below `key`, in the order of the file.
    fn named_tables<'a, 'i>(
        &mut self,
        top: &Fields<'a, 'i>,
        key: &Key,
        section: Section,
    ) -> Vec<Named<'a, 'i>> {
        let Some(value) = top.get(key) else { return Vec::new() };
        let word = key.name;
        let mend = format!("give each one a section with its name: [{word}.NAME]");
        let Some(tables) = value.get_ref().as_table() else {
            self.wrong_type(word, &format!("a table of [{word}.NAME] sections"), value, &mend);
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in tables {
            self.name(name.get_ref(), name.span(), word);
            let Some(table) = value.get_ref().as_table() else {
                let what = format!("{word}.{}", shown(name.get_ref()));
                self.wrong_type(&what, &format!("a section [{word}.NAME]"), value, &mend);
                continue;
            };
            let title = format!("[{word}.{}]", shown(name.get_ref()));
            let name_text = name.get_ref().to_string();
            let fields = Fields { section, title, table, span: name.span() };
            found.push(Named { name: name_text, key_span: name.span(), fields });
        }
        found.sort_by_key(|named| named.key_span.start);
        found
    }

    /// Names go into file names, environment variables and log lines.
    fn name(&mut self, name: &str, span: Range<usize>, what: &str) {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let first = name.chars().next();
        if name.len() <= MAX_NAME
            && name.chars().all(fine)
            && first.is_some_and(|c| c.is_ascii_alphanumeric())
        {
            return;
        }
        self.error(
            codes::NAME,
            format!(
                "the name of a {what} must have 1 to {MAX_NAME} letters, digits, '-', '_' or '.'"
            ),
            span,
            "",
            "begin with a letter or a digit; names stand in file names and log lines",
        );
    }

    /// Reports each key that the section doesn't have, with what was probably meant.
    fn unknown_keys(&mut self, fields: &Fields<'_, '_>) {
        let mut unknown: Vec<_> = fields
            .table
            .iter()
            .filter(|(name, _)| !keys::of(fields.section).any(|key| key.name == name.get_ref()))
            .collect();
        unknown.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in unknown {
            let word: &str = name.get_ref();
            let known = keys::of(fields.section).map(|key| key.name);
            let near = nearest(word, known);
            if near == Some(keys::VIP_PASSWORD.name) {
                self.secrets.push(value.span());
            }
            // References into a mistyped section are no second fault.
            if let (Section::Top, Some(near), Some(table)) =
                (fields.section, near, value.get_ref().as_table())
            {
                let names = table.keys().map(|name| name.get_ref().to_string());
                match near {
                    "node" => self.node_names.extend(names),
                    "check" => self.check_names.extend(names),
                    _ => {}
                }
            }
            let elsewhere = keys::ALL.iter().find(|key| key.name == word).map(|key| key.section);
            let foreign = keys::FROM_KEEPALIVED.iter().find(|(theirs, _)| *theirs == word);
            let (label, help) = if let Some((_, ours)) = foreign {
                ("this is keepalived's word".to_owned(), format!("write {ours}"))
            } else if let Some(near) = near {
                (format!("did you mean `{near}`?"), format!("write `{near}`, or remove it"))
            } else if let Some(section) = elsewhere {
                let place = section.header();
                (format!("this belongs to {place}"), format!("move the line to {place}"))
            } else {
                let known: Vec<_> = keys::of(fields.section).map(|key| key.name).collect();
                let known = known.join(", ");
                (String::new(), format!("{} may have: {known}", fields.title))
            };
            let message = format!("unknown key `{}` in {}", shown(word), fields.title);
            self.error(codes::UNKNOWN_KEY, message, name.span(), label, help);
        }
    }

    /// A reference to something that isn't in the file.
    fn unknown_name(
        &mut self,
        key: &str,
        what: &str,
        name: &str,
        span: Range<usize>,
        known: &[String],
    ) {
        let near = nearest(name, known.iter().map(String::as_str));
        let label = near.map(|near| format!("did you mean \"{near}\"?")).unwrap_or_default();
        let help = if known.is_empty() {
            format!("the file has none: add a section [{what}.{}]", shown(name))
        } else {
            format!("the file has: {}", known.join(", "))
        };
        let message = format!("{key} names the {what} \"{}\", which does not exist", shown(name));
        self.error(codes::UNKNOWN_NAME, message, span, label, help);
    }
}

/// A text of the file in a message: bounded, without line breaks or passwords.
pub(crate) fn shown(text: &str) -> String {
    /// Long enough to recognise it.
    const MAX_SHOWN: usize = 60;
    let mut out: String =
        hidden(text).chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        out.push('…');
    }
    out
}
