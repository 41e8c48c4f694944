//! The one table of the cluster file's keys: the reader takes names, ranges and defaults from it, and
//! the reference in `docs/reference.md` is printed from it, so they can't disagree.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::{codes, duration};

/// A table of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Top,
    Node,
    Vip,
    VipAnnounce,
    Nginx,
    Check,
    Link,
    Sync,
    Notify,
    Log,
    Api,
}

impl Section {
    pub const ALL: &[Self] = &[
        Self::Top,
        Self::Node,
        Self::Vip,
        Self::VipAnnounce,
        Self::Nginx,
        Self::Check,
        Self::Link,
        Self::Sync,
        Self::Notify,
        Self::Log,
        Self::Api,
    ];

    /// The header as it is written.
    #[must_use]
    pub const fn header(self) -> &'static str {
        match self {
            Self::Top => "top of the file",
            Self::Node => "[node.NAME]",
            Self::Vip => "[vip.NAME]",
            Self::VipAnnounce => "[vip.NAME.announce]",
            Self::Nginx => "[nginx]",
            Self::Check => "[check.NAME]",
            Self::Link => "[link]",
            Self::Sync => "[sync]",
            Self::Notify => "[notify]",
            Self::Log => "[log]",
            Self::Api => "[api]",
        }
    }

    const fn about(self) -> &'static str {
        match self {
            Self::Top => "",
            Self::Node => "One machine of the cluster; 1 to 16 of them.",
            Self::Vip => {
                "One failover unit: a virtual router id with its addresses, decided as one."
            }
            Self::VipAnnounce => "How often the network is told where the VIP is.",
            Self::Nginx => {
                "The nginx of every node, discovered, watched and probed; it is the check named `nginx`."
            }
            Self::Check => "Something else that must be well before a node may hold a VIP.",
            Self::Link => "The mutually authenticated connection between every two nodes.",
            Self::Sync => "Which files the nodes share.",
            Self::Notify => {
                "Scripts that are told of each change, in order, one at a time; \
                 their arguments are `INSTANCE name STATE priority`."
            }
            Self::Log => "Where the events go.",
            Self::Api => "The HTTP interface for `standin status` and the others.",
        }
    }
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Described by its words.
    Text(&'static str),
    Word(&'static [&'static str]),
    Bool,
    Integer(i64, i64),
    /// From, to, in milliseconds.
    Duration(u64, u64),
    Path,
    /// A list of texts, described by its words.
    List(&'static str),
    Table(&'static str),
}

/// Range and type for the reference and for messages.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(what) => f.write_str(what),
            Self::List(what) => write!(f, "list of {what}"),
            Self::Table(what) => write!(f, "table of {what}"),
            Self::Word(words) => {
                for (i, word) in words.iter().enumerate() {
                    write!(f, "{}\"{word}\"", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Bool => f.write_str("true, false"),
            Self::Integer(min, max) if max - min == 1 => write!(f, "{min} or {max}"),
            Self::Integer(min, max) => write!(f, "{min} to {max}"),
            Self::Duration(min, max) => write!(
                f,
                "\"{}\" to \"{}\"",
                duration::format(Duration::from_millis(*min)),
                duration::format(Duration::from_millis(*max))
            ),
            Self::Path => f.write_str("absolute path"),
        }
    }
}

/// What holds when the key isn't given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    Required,
    /// The value without quotes; the reader parses it.
    Is(&'static str),
    /// In words; the reader knows.
    Means(&'static str),
}

/// One key of one section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub section: Section,
    pub name: &'static str,
    pub kind: Kind,
    pub default: Absent,
    /// One line.
    pub doc: &'static str,
}

macro_rules! keys {
    ($($id:ident: $section:ident, $name:literal, $kind:expr, $default:expr, $doc:literal;)*) => {
        $(pub(crate) const $id: Key = Key {
            section: Section::$section, name: $name, kind: $kind, default: $default, doc: $doc,
        };)*

        /// Every key, section by section.
        pub const ALL: &[Key] = &[$($id),*];
    };
}

use Absent::{Is, Means, Required};
use Kind::{Bool, Integer, List, Path, Table, Text, Word};

const MS: u64 = 1;
const S: u64 = 1000;
const M: u64 = 60 * S;
const H: u64 = 60 * M;

keys! {
    CLUSTER: Top, "cluster", Text("name"), Required, "The cluster's name.";
    NODE: Top, "node", Table("[node.NAME] sections"), Required, "The machines.";
    VIP: Top, "vip", Table("[vip.NAME] sections"), Means("none"), "What is kept reachable.";
    NGINX: Top, "nginx", Table("keys"), Means("no nginx is watched"), "See below.";
    CHECK: Top, "check", Table("[check.NAME] sections"), Means("none"), "Further checks.";
    LINK: Top, "link", Table("keys"), Means("its defaults"), "See below.";
    SYNC: Top, "sync", Table("keys"), Means("nothing is synchronised"), "See below.";
    NOTIFY: Top, "notify", Table("keys"), Means("no scripts"), "See below.";
    LOG: Top, "log", Table("keys"), Means("its defaults"), "See below.";
    API: Top, "api", Table("keys"), Means("its defaults"), "See below.";

    NODE_ADDRESS: Node, "address", Text("IP address, or list of one IPv4 and one IPv6"), Required,
        "The node's own address; adverts come from it, so it must never be a VIP.";
    NODE_PRIORITY: Node, "priority", Integer(2, 255), Is("100"),
        "Higher is preferred. 2 to 254; 255 says that the node owns the addresses; 1 is reserved.";
    NODE_VRRP_ONLY: Node, "vrrp_only", Bool, Is("false"),
        "A peer that is a keepalived: no peer link is awaited.";
    NODE_FINGERPRINT: Node, "fingerprint", Text("\"sha256:\" and 64 hexadecimal digits"), Means("no peer link with it"),
        "Of the node's key; `standin init` and `standin join` write it.";
    NODE_VALUES: Node, "values", Table("texts"), Means("none"),
        "What `{{node.KEY}}` means on this node in shared files below `per-node/`.";

    VIP_VRID: Vip, "virtual_router_id", Integer(1, 255), Required,
        "The same on all nodes, unique among everything that speaks VRRP on the network.";
    VIP_ADDRESSES: Vip, "addresses", List("addresses with prefix length"), Required,
        "IPv4 and IPv6 together, at most 80 of each; without `/LENGTH` it is a host's, /32 or /128.";
    VIP_INTERFACE: Vip, "interface", Text("interface name"), Means("the one that carries this node's address"),
        "Where the addresses live.";
    VIP_ADVERT_INTERVAL: Vip, "advert_interval", Kind::Duration(10 * MS, 40_950 * MS), Means("\"100ms\"; \"1s\" with version 2"),
        "Silence of three of these is a dead node. Steps of 10ms; version 2: whole seconds.";
    VIP_VERSION: Vip, "version", Integer(2, 3), Is("3"),
        "The VRRP version that is spoken. Version 2 has IPv4 only.";
    VIP_CHECKSUM: Vip, "checksum", Word(&["keepalived", "rfc9568"]), Is("keepalived"),
        "How version 3 over IPv4 is sent: with the pseudo-header as keepalived does, or without; both are accepted.";
    VIP_MODE: Vip, "mode", Word(&["multicast", "unicast"]), Is("multicast"),
        "Unicast sends one advert to each member's address.";
    VIP_PASSWORD: Vip, "password", Text("1 to 8 bytes"), Means("none"),
        "Version 2 only, for old peers; it travels in clear text and keeps nobody out.";
    VIP_NODES: Vip, "nodes", List("node names"), Means("all nodes"), "The nodes that may hold it.";
    VIP_PRIORITY: Vip, "priority", Table("node names, each with 2 to 255"), Means("the nodes' own"),
        "Other priorities for this VIP: `{ n1 = 100, n2 = 150 }`.";
    VIP_FAILBACK: Vip, "failback", Text("\"never\", or a duration up to \"24h\""), Is("never"),
        "When a preferred node gets the VIP back: never, or once it has been eligible for that long.";
    VIP_HOLD_DOWN: Vip, "hold_down", Kind::Duration(0, H), Is("10s"),
        "Flap damping: after a health failure a node is not eligible again before this.";
    VIP_CHECKS: Vip, "checks", List("check names"), Means("[\"nginx\"] where [nginx] stands"),
        "All of them must pass; `[]` checks nothing.";
    VIP_ALL_INELIGIBLE: Vip, "all_ineligible", Word(&["keep", "drop"]), Is("keep"),
        "When nobody is healthy: the VIP stays with someone, or nobody has it.";
    VIP_ACCEPT_UNKNOWN: Vip, "accept_unknown", Bool, Is("false"),
        "Obey adverts from senders that are no node of this file? They are always reported.";
    VIP_WITNESS: Vip, "witness", List("check names"), Means("none"),
        "In a cut, the side that sees none of these gives up: a node that sees no witness and misses a peer doesn't hold the VIP. \
         Whom all nodes reach, and who is no node: `ping` to the gateway. One that passes is enough.";
    VIP_HEARTBEAT: Vip, "heartbeat", List("interface names"), Means("none"),
        "Further paths for the peers' sight of each other: a node whose adverts don't come isn't robbed of the VIP while it answers for it \
         there (ARP, so IPv4 only; the interface needs no address). With a `witness`, else a node that is cut off from its clients keeps the VIP.";
    VIP_ANNOUNCE: Vip, "announce", Table("keys"), Means("its defaults"), "`{ repeat = 5, refresh = \"60s\" }`.";
    VIP_VIRTUAL_MAC: Vip, "virtual_mac", Bool, Is("false"),
        "Serve the addresses from the router id's own MACs (RFC 9568 §7.3): 00:00:5e:00:01:ID for IPv4, 00:00:5e:00:02:ID for IPv6. \
         Packets to them come in by links of standin's, `standin.ID` and `standin6.ID`, which firewall rules that name an interface \
         have to name as well; answers leave by the VIP's interface. The same on all nodes.";
    VIP_DRAIN_TIMEOUT: Vip, "drain_timeout", Kind::Duration(0, H), Is("30s"),
        "Planned switchover: how long the old active keeps serving what it has.";

    ANNOUNCE_REPEAT: VipAnnounce, "repeat", Integer(1, 100), Is("5"),
        "Gratuitous ARPs or unsolicited NAs for each address after a takeover.";
    ANNOUNCE_REFRESH: VipAnnounce, "refresh", Kind::Duration(0, H), Is("60s"),
        "One more this often while active; \"0s\" switches it off.";

    NGINX_BINARY: Nginx, "binary", Path, Means("the running master's"), "nginx's program file.";
    NGINX_CONF: Nginx, "conf", Path, Means("the running master's"), "nginx's main configuration file.";
    NGINX_PROBE: Nginx, "probe", Text("http://ADDRESS[:PORT]/PATH"),
        Means("the first plain-HTTP listener in the configuration that is local"), "What is asked.";
    NGINX_INTERVAL: Nginx, "interval", Kind::Duration(10 * MS, H), Is("250ms"),
        "Probes start on schedule; two may be under way.";
    NGINX_TIMEOUT: Nginx, "timeout", Kind::Duration(MS, 10 * M), Means("\"400ms\", at most twice the interval"),
        "A later answer is a failure; at most twice the interval.";
    NGINX_FALL: Nginx, "fall", Integer(1, 100), Is("2"), "Failures in a row before it counts as failed.";
    NGINX_RISE: Nginx, "rise", Integer(1, 100), Is("2"), "Passes in a row before it counts as well.";
    NGINX_RESTART: Nginx, "restart", Bool, Is("false"),
        "Try one local restart before giving the VIP away. Where standin is a systemd service, nginx must have a unit of its own.";

    CHECK_TYPE: Check, "type", Word(&["http", "tcp", "process", "script", "file", "interface", "route", "ping"]),
        Required, "What is looked at.";
    CHECK_URL: Check, "url", Text("http://ADDRESS[:PORT]/PATH"), Means("required for http"), "http: what is asked.";
    CHECK_HOST: Check, "host", Text("host name"), Means("the URL's"), "http: the Host header.";
    CHECK_STATUS: Check, "status", Text("100 to 599, or list of them"), Means("200 to 399"), "http: the answers that pass.";
    CHECK_BODY: Check, "body", Text("text"), Means("anything"), "http: what the body must contain.";
    CHECK_ADDRESS: Check, "address", Text("ADDRESS:PORT"), Means("required for tcp"), "tcp: where a connection must succeed.";
    CHECK_PIDFILE: Check, "pidfile", Path, Means("`name` instead"), "process: the file that names the process.";
    CHECK_NAME: Check, "name", Text("name"), Means("required for interface; process: `pidfile` instead"),
        "process: the command's name, at most 15 bytes; interface: which must be up.";
    CHECK_COMMAND: Check, "command", List("arguments, the first an absolute path"), Means("required for script"),
        "script: what is run, without a shell; exit status 0 passes.";
    CHECK_USER: Check, "user", Text("user name"), Means("the daemon's own"), "script: who runs it.";
    CHECK_PATH: Check, "path", Path, Means("required for file"), "file: passes while it exists.";
    CHECK_TO: Check, "to", Text("IP address; route: network or \"default\""), Means("required for route and ping"),
        "ping: whom; route: where to.";
    CHECK_VIA: Check, "via", Text("IP address"), Means("any gateway"), "route: by which gateway.";
    CHECK_INTERVAL: Check, "interval", Kind::Duration(10 * MS, H), Is("1s"), "Probes start on schedule; two may be under way.";
    CHECK_TIMEOUT: Check, "timeout", Kind::Duration(MS, 10 * M), Means("\"500ms\", at most twice the interval"),
        "A later answer is a failure; at most twice the interval.";
    CHECK_FALL: Check, "fall", Integer(1, 100), Is("2"), "Failures in a row before it counts as failed.";
    CHECK_RISE: Check, "rise", Integer(1, 100), Is("2"), "Passes in a row before it counts as well.";

    LINK_PORT: Link, "port", Integer(1, 65_535), Is("8412"), "TCP port on each node's own address.";

    SYNC_PATHS: Sync, "paths", List("absolute paths"), Means("the directory of nginx's main configuration file"),
        "The trees that are kept equal.";
    SYNC_ALSO: Sync, "also", List("absolute paths"), Means("none"),
        "What the configuration names outside is compared and reported; it is written only if listed here.";
    SYNC_EXCLUDE: Sync, "exclude", List("globs"), Means("[\"*.swp\", \"*~\"]"), "Names that are left alone.";
    SYNC_TRIGGER: Sync, "trigger", Word(&["save", "reload"]), Is("save"),
        "Ship when a file is saved, or when the active's nginx has loaded it.";
    SYNC_SOURCE: Sync, "source", Text("\"active\" or a node's name"), Is("active"),
        "The writer: it follows the VIP, or is always that node.";
    SYNC_SETTLE: Sync, "settle", Kind::Duration(10 * MS, M), Is("200ms"), "Quiet time before a change is taken.";
    SYNC_FULL_SCAN: Sync, "full_scan", Kind::Duration(S, 24 * H), Is("60s"),
        "Everything is compared this often, in case a hint was lost.";
    SYNC_RSYNC: Sync, "rsync", List("USER@HOST::MODULE"), Means("none"), "Hosts with only an rsync daemon; they get what is proven.";
    SYNC_RSYNC_PASSWORD_FILE: Sync, "rsync_password_file", Path, Means("none"), "Its first line, for the daemons' `auth users`; mode 0600.";

    NOTIFY_ACTIVE: Notify, "active", List("absolute paths"), Means("none"), "This node became active.";
    NOTIFY_BACKUP: Notify, "backup", List("absolute paths"), Means("none"), "This node became backup.";
    NOTIFY_FAULT: Notify, "fault", List("absolute paths"), Means("none"), "This node is not eligible any more.";
    NOTIFY_STOP: Notify, "stop", List("absolute paths"), Means("none"), "standin stops.";
    NOTIFY_ANY: Notify, "any", List("absolute paths"), Means("none"), "All of these, after the state's own.";
    NOTIFY_TIMEOUT: Notify, "timeout", Kind::Duration(100 * MS, 10 * M), Is("10s"), "Then the script is killed, with its children.";
    NOTIFY_USER: Notify, "user", Text("user name"), Means("the daemon's own"), "Who runs them.";

    LOG_SYSLOG: Log, "syslog", Word(&["user", "daemon", "auth", "syslog", "authpriv", "local0", "local1",
        "local2", "local3", "local4", "local5", "local6", "local7"]), Means("no"), "The facility, by /dev/log.";
    LOG_JOURNALD: Log, "journald", Bool, Means("true under systemd when nothing else is used"), "With fields, to systemd's journal.";
    LOG_FILE: Log, "file", Path, Means("no"), "One line per event.";
    LOG_STDERR: Log, "stderr", Bool, Means("true when nothing else is used"), "One line per event.";

    API_LISTEN: Api, "listen", Text("ADDRESS:PORT"), Means("the Unix socket only"), "A TCP address besides.";
}

/// keepalived's words that newcomers write, with what to write here.
pub(crate) const FROM_KEEPALIVED: &[(&str, &str)] = &[
    ("virtual_ipaddress", "addresses = [\"192.168.1.41/24\"]"),
    ("virtual_ipaddress_excluded", "addresses = [\"192.168.1.41/24\"]: all of them, IPv6 too"),
    ("advert_int", "advert_interval = \"1s\""),
    ("auth_pass", "password = \"...\", with version = 2"),
    ("auth_type", "password = \"...\", with version = 2; there is no other kind"),
    ("authentication", "password = \"...\", with version = 2"),
    ("nopreempt", "failback = \"never\", which is the default"),
    ("preempt", "failback = \"0s\""),
    ("preempt_delay", "failback = \"60s\""),
    ("track_script", "checks = [\"NAME\"], with a [check.NAME] section"),
    ("track_interface", "checks = [\"NAME\"], with [check.NAME] type = \"interface\""),
    ("track_process", "checks = [\"NAME\"], with [check.NAME] type = \"process\""),
    ("track_file", "checks = [\"NAME\"], with [check.NAME] type = \"file\""),
    ("unicast_peer", "mode = \"unicast\"; the peers are the nodes of the file"),
    ("unicast_src_ip", "mode = \"unicast\"; the source is the node's own address"),
    ("state", "nothing: the first state is found out by listening"),
    ("weight", "nothing: a check that fails makes the node ineligible, priorities stay"),
    ("use_vmac", "virtual_mac = true"),
    ("master", "active = [\"/path\"] in [notify]"),
    ("notify_master", "active = [\"/path\"] in [notify]"),
    ("notify_backup", "backup = [\"/path\"] in [notify]"),
    ("notify_fault", "fault = [\"/path\"] in [notify]"),
    ("notify_stop", "stop = [\"/path\"] in [notify]"),
    ("garp_master_repeat", "announce = { repeat = 5 }"),
    ("garp_master_refresh", "announce = { refresh = \"60s\" }"),
    ("vrrp_version", "version = 2 in [vip.NAME]"),
    ("router_id", "nothing: the node's name in [node.NAME] says it"),
];

/// The keys of one section.
pub fn of(section: Section) -> impl Iterator<Item = &'static Key> {
    ALL.iter().filter(move |key| key.section == section)
}

/// `docs/reference.md`.
#[must_use]
pub fn reference_markdown() -> String {
    let mut out = String::from(
        "# The cluster file\n\n\
         `/etc/standin/standin.toml`, the same on every node. This page is printed from the reader's own \
         table; `UPDATE=1 cargo test -p standin-config` writes it anew.\n\n\
         Durations are texts with a unit: `\"100ms\"`, `\"40.95s\"`, `\"30m\"`, `\"24h\"`. Paths are absolute. \
         Names have 1 to 63 letters, digits, `-`, `_` or `.`.\n",
    );
    for &section in Section::ALL {
        let title = if section == Section::Top { "Sections" } else { section.header() };
        let code = if section == Section::Top { "" } else { "`" };
        // Writing to a String never fails.
        let _ = write!(out, "\n## {code}{title}{code}\n\n");
        if !section.about().is_empty() {
            let _ = write!(out, "{}\n\n", section.about());
        }
        out.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
        for key in of(section) {
            let default = match key.default {
                Required => "**required**".to_owned(),
                Is(value) => match key.kind {
                    Bool | Integer(..) => format!("`{value}`"),
                    _ => format!("`\"{value}\"`"),
                },
                Means(words) => words.to_owned(),
            };
            let kind = key.kind.to_string().replace('|', "\\|");
            let _ = writeln!(out, "| `{}` | {kind} | {default} | {} |", key.name, key.doc);
        }
    }
    out.push_str("\n## Codes\n\nEvery message has one; a code never changes its meaning.\n\n");
    out.push_str("| code | meaning |\n| --- | --- |\n");
    for (code, meaning) in codes::ALL {
        let _ = writeln!(out, "| {code} | {meaning} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_within_its_own_range() {
        for key in ALL {
            let Is(value) = key.default else { continue };
            let fine = match key.kind {
                Bool => value.parse::<bool>().is_ok(),
                Integer(min, max) => (min..=max).contains(&value.parse().unwrap()),
                Kind::Duration(min, max) => {
                    let millis =
                        u64::try_from(duration::parse(value).unwrap().as_millis()).unwrap();
                    (min..=max).contains(&millis)
                }
                Word(words) => words.contains(&value),
                Text(_) => true,
                Path | List(_) | Table(_) => false,
            };
            assert!(fine, "{key:?}");
        }
    }

    #[test]
    fn no_key_and_no_code_stands_twice() {
        for (i, key) in ALL.iter().enumerate() {
            assert!(!ALL[..i].iter().any(|k| k.section == key.section && k.name == key.name));
        }
        for (i, (code, _)) in codes::ALL.iter().enumerate() {
            assert!(!codes::ALL[..i].iter().any(|(other, _)| other == code), "{code}");
        }
    }
}
