//! The cluster file as it was meant: validated, with every default filled in.
//!
//! A [`Cluster`] exists only when the file has no error, so its readers need no checks of their own.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::fingerprint::Fingerprint;
use standin_core::types::{Family, IntervalCs, Prefix, Priority, Vrid};

pub use standin_core::plan::{AllIneligible, Announce, ChecksumStyle, Failback, Mode, Version};

/// Bytes of the cluster file, for messages that come later than its reading.
pub type Span = Range<usize>;

/// The name of a node, as in `[node.NAME]`.
pub type NodeName = String;

/// The name under which VIPs refer to the `[nginx]` section as a check.
pub const NGINX_CHECK: &str = "nginx";

/// The whole file.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// The file's name, for messages.
    pub file: Arc<str>,
    pub name: String,
    /// 1 to `plan::MAX_NODES`, in the order of the file.
    pub nodes: Vec<Node>,
    /// At most `plan::MAX_VIPS`, in the order of the file.
    pub vips: Vec<Vip>,
    /// Present where the section stands, even if it is empty.
    pub nginx: Option<Nginx>,
    /// `[check.NAME]`, in the order of the file; never one called [`NGINX_CHECK`].
    pub checks: Vec<Check>,
    pub link: Link,
    /// Present where the section stands, even if it is empty.
    pub sync: Option<Sync>,
    pub notify: Notify,
    pub log: Log,
    pub api: Api,
}

impl Cluster {
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    #[must_use]
    pub fn vip(&self, name: &str) -> Option<&Vip> {
        self.vips.iter().find(|vip| vip.name == name)
    }

    /// A `[check.NAME]`; the nginx check is [`Cluster::nginx`].
    #[must_use]
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }
}

/// `[node.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub name: NodeName,
    /// At most one of each family, the first one written first; never empty.
    pub addresses: Vec<IpAddr>,
    /// Where each of `addresses` stands in the file.
    pub address_spans: Vec<Span>,
    /// 2..=254, or 255 for the owner.
    pub priority: Priority,
    /// A keepalived, say: it speaks VRRP and no peer link is awaited.
    pub vrrp_only: bool,
    /// Of its key; without one there is no peer link with it.
    pub fingerprint: Option<Fingerprint>,
    /// What `{{node.KEY}}` means on it in shared files, by key.
    pub values: BTreeMap<String, String>,
    /// The name in the section's header.
    pub span: Span,
}

impl Node {
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// `[vip.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Vip {
    pub name: String,
    /// `None`: the one that carries this node's address.
    pub interface: Option<String>,
    pub vrid: Vrid,
    /// Never empty; at most `plan::MAX_ADDRESSES_PER_FAMILY` of each family.
    pub addresses: Vec<Prefix>,
    /// Where each of `addresses` stands in the file.
    pub address_spans: Vec<Span>,
    /// Version 2: whole seconds.
    pub advert_interval: IntervalCs,
    pub version: Version,
    pub checksum: ChecksumStyle,
    pub mode: Mode,
    /// Version 2 only.
    pub password: Option<Password>,
    /// The nodes that may hold it, in the order of the file's nodes; never empty.
    pub members: Vec<VipMember>,
    pub failback: Failback,
    pub hold_down: Duration,
    /// [`NGINX_CHECK`] or names of `[check.NAME]`, each once; the default is filled in.
    pub checks: Vec<String>,
    pub all_ineligible: AllIneligible,
    pub accept_unknown: bool,
    /// As `checks`; empty: no witness.
    pub witness: Vec<String>,
    /// The value of `witness`, where it is given.
    pub witness_span: Option<Span>,
    /// Interfaces.
    pub heartbeat: Vec<String>,
    /// The value of `heartbeat`, where it is given.
    pub heartbeat_span: Option<Span>,
    pub announce: Announce,
    pub virtual_mac: bool,
    pub drain_timeout: Duration,
    /// The name in the section's header.
    pub span: Span,
    /// The value of `virtual_router_id`.
    pub vrid_span: Span,
    /// The value of `interface`, where it is given.
    pub interface_span: Option<Span>,
}

impl Vip {
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        self.addresses.iter().any(|prefix| prefix.family() == family)
    }
}

/// A node of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipMember {
    pub node: NodeName,
    /// The VIP's own `priority` for this node, else the node's.
    pub priority: Priority,
}

/// VRRP version 2's simple text password: 1 to 8 bytes, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password([u8; 8]);

impl Password {
    /// `None` when `text` is empty or longer than 8 bytes (RFC 2338 §5.3.10: padded with zeros).
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut padded = [0; 8];
        if text.is_empty() {
            return None;
        }
        padded.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self(padded))
    }

    /// Padded with zeros, as it is sent.
    #[must_use]
    pub const fn padded(&self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(********)")
    }
}

/// How often a check runs and how many answers in a row it takes to believe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// Probes start this often, on schedule.
    pub interval: Duration,
    /// An answer later than this is a failure; at most twice `interval`, as two may be under way.
    pub timeout: Duration,
    /// Failures in a row before it counts as failed, 1..=100.
    pub fall: u8,
    /// Passes in a row before it counts as passing, 1..=100.
    pub rise: u8,
}

/// `[nginx]`: what isn't given is discovered.
#[derive(Clone, Debug, PartialEq)]
pub struct Nginx {
    pub binary: Option<PathBuf>,
    /// nginx's main configuration file.
    pub conf: Option<PathBuf>,
    pub probe: Option<HttpUrl>,
    pub cadence: Cadence,
    /// Try one local restart before the VIP is given away.
    pub restart: bool,
    pub span: Span,
}

/// `[check.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub name: String,
    pub kind: CheckKind,
    pub cadence: Cadence,
    pub span: Span,
}

/// What a check looks at.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    Http {
        url: HttpUrl,
        /// The Host header; `None`: the host of the URL.
        host: Option<String>,
        /// Empty: any from 200 to 399.
        status: Vec<u16>,
        /// What the body must contain.
        body: Option<String>,
    },
    Tcp {
        address: SocketAddr,
    },
    Process(ProcessBy),
    Script {
        /// Argument list, never empty, the first one an absolute path; no shell is involved.
        command: Vec<String>,
        /// `None`: the daemon's own.
        user: Option<String>,
    },
    /// Passes while the file exists.
    File {
        path: PathBuf,
    },
    /// Passes while the interface is up and has a carrier.
    Interface {
        name: String,
    },
    /// Passes while the main table has the route.
    Route {
        /// A network; `0.0.0.0/0` and `::/0` are the default routes.
        to: Prefix,
        /// `None`: by any gateway.
        via: Option<IpAddr>,
    },
    Ping {
        to: IpAddr,
    },
}

impl CheckKind {
    /// The word that the file uses for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::Process(_) => "process",
            Self::Script { .. } => "script",
            Self::File { .. } => "file",
            Self::Interface { .. } => "interface",
            Self::Route { .. } => "route",
            Self::Ping { .. } => "ping",
        }
    }
}

/// How a process check finds its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessBy {
    Pidfile(PathBuf),
    /// The command's name as the kernel has it, at most 15 bytes.
    Name(String),
}

/// A plain-HTTP address to probe; the host is always a literal, so that no probe waits for DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    pub address: SocketAddr,
    /// As written in the URL, for the Host header: `localhost`, `127.0.0.1:8080`, `[::1]`.
    pub host: String,
    /// Path and query, beginning with `/`.
    pub path: String,
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host, self.path)
    }
}

/// `[link]`: the peers' own connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub port: u16,
}

/// `[sync]`: which files the nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Empty: the directory of nginx's main configuration file.
    pub paths: Vec<PathBuf>,
    pub also: Vec<PathBuf>,
    /// Globs.
    pub exclude: Vec<String>,
    pub trigger: Trigger,
    pub source: SyncSource,
    pub settle: Duration,
    pub full_scan: Duration,
    /// `USER@HOST::MODULE`, hosts with only an rsync daemon.
    pub rsync: Vec<String>,
    pub rsync_password_file: Option<PathBuf>,
    pub span: Span,
}

/// When the active node ships a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// As soon as the tree is quiet.
    Save,
    /// When the active's nginx has loaded it.
    Reload,
}

/// Who may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncSource {
    /// The holder of the VIP.
    Active,
    Node(NodeName),
}

/// `[notify]`: scripts, run in order, one at a time; each is called with `INSTANCE name STATE priority`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    pub active: Vec<PathBuf>,
    pub backup: Vec<PathBuf>,
    pub fault: Vec<PathBuf>,
    pub stop: Vec<PathBuf>,
    /// Run after the state's own.
    pub any: Vec<PathBuf>,
    pub timeout: Duration,
    /// `None`: the daemon's own.
    pub user: Option<String>,
}

impl Notify {
    /// All that are named, for whatever state; one that is named twice comes twice.
    pub fn scripts(&self) -> impl Iterator<Item = &Path> {
        let lists = [&self.active, &self.backup, &self.fault, &self.stop, &self.any];
        lists.into_iter().flatten().map(PathBuf::as_path)
    }
}

/// `[log]`: where the events go; `None` leaves it to the daemon (journald under systemd, else stderr).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    pub syslog: Option<Facility>,
    pub journald: Option<bool>,
    pub file: Option<PathBuf>,
    pub stderr: Option<bool>,
}

/// A syslog facility (RFC 5424 §6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

impl Facility {
    /// What the file may say, and the number on the wire.
    pub const NAMES: &[(&str, u8)] = &[
        ("user", 1),
        ("daemon", 3),
        ("auth", 4),
        ("syslog", 5),
        ("authpriv", 10),
        ("local0", 16),
        ("local1", 17),
        ("local2", 18),
        ("local3", 19),
        ("local4", 20),
        ("local5", 21),
        ("local6", 22),
        ("local7", 23),
    ];

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| Self(*number))
    }

    /// 0..=23; a message's PRI is eight times this plus its severity.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// `[api]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Api {
    /// `None`: the Unix socket only.
    pub listen: Option<SocketAddr>,
}
