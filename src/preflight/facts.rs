//! What was seen on this host, as plain data: judged by [`super::judge`], gathered by [`super::look`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use standin_apply::Refusal;
use standin_core::plan::Version;
use standin_core::types::{Family, IntervalCs, Mac};
use standin_linux::netlink::Address;

use super::firewall::Ruleset;

/// Everything that the rules ask about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// `6.1.0-18-amd64`
    pub(crate) kernel: String,
    pub(crate) missing_capabilities: Vec<&'static str>,
    /// The kernel's words when a thread asked for SCHED_FIFO and didn't get it.
    pub(crate) realtime_refused: Option<String>,
    pub(crate) ports: Vec<Port>,
    pub(crate) addresses: Vec<Address>,
    /// Where the host's network configuration names an address of a VIP.
    pub(crate) mentions: Vec<Mention>,
    pub(crate) keepaliveds: Vec<Keepalived>,
    pub(crate) wire: Wire,
    pub(crate) firewall: Ruleset,
    /// `None` where the file has no `[nginx]`.
    pub(crate) nginx: Option<Nginx>,
    /// For each script of the file why it can't be run; only those that can't.
    pub(crate) scripts: BTreeMap<PathBuf, String>,
    /// Users of the file that don't exist.
    pub(crate) no_users: Vec<String>,
    /// Files, directories and sockets of the file that aren't there.
    pub(crate) absent: Vec<PathBuf>,
    /// Why the API can't listen.
    pub(crate) api_refused: Option<String>,
    pub(crate) own: Own,
    /// Witnesses that aren't seen now, and what was seen.
    pub(crate) unwitnessed: BTreeMap<String, String>,
    pub(crate) inotify: Option<Inotify>,
    /// Families whose connections the kernel can't hand to another node, and what it says.
    pub(crate) no_second_chance: Vec<(Family, String)>,
    /// The kernel can make no link with a MAC of its own.
    pub(crate) no_macvlan: bool,
    /// The setting of all interfaces that would keep such a link from answering for an address.
    pub(crate) unanswered: Option<&'static str>,
    /// What couldn't be looked at, and why.
    pub(crate) unseen: Vec<String>,
}

impl Facts {
    pub(crate) fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }

    pub(crate) fn address(&self, address: IpAddr) -> Option<&Address> {
        self.addresses.iter().find(|here| here.prefix.address() == address)
    }

    /// The interface that carries the address.
    pub(crate) fn carrier(&self, address: IpAddr) -> Option<&Port> {
        let index = self.address(address)?.index;
        self.ports.iter().find(|port| port.index == index)
    }
}

/// A network interface.
#[derive(Clone, Debug, Default)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) mac: Option<Mac>,
    /// Up, with a carrier.
    pub(crate) works: bool,
    /// Switched on by the administrator; `None` when that can't be seen.
    pub(crate) enabled: Option<bool>,
    pub(crate) ipv6_disabled: bool,
    /// The stricter of the interface's and the host's setting, as the kernel takes it.
    pub(crate) rp_filter: u8,
    /// 1, or the daemon can set it.
    pub(crate) promote_secondaries: Promote,
    /// It is a bridge that looks into multicast, and asks nobody who wants it.
    pub(crate) snoops_without_querier: bool,
}

/// The setting `promote_secondaries` of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Promote {
    #[default]
    Set,
    Settable,
    /// It is 0 and can't be written.
    Fixed,
}

/// A line of the network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mention {
    pub(crate) address: IpAddr,
    pub(crate) file: PathBuf,
    /// From 1.
    pub(crate) line: usize,
}

/// A keepalived that runs on this host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keepalived {
    pub(crate) pid: u32,
    pub(crate) file: PathBuf,
    pub(crate) instances: Vec<Instance>,
    /// Its configuration couldn't be read.
    pub(crate) unread: Option<String>,
}

/// A `vrrp_instance` of a keepalived.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) interface: Option<String>,
    pub(crate) vrid: Option<u8>,
    pub(crate) file: PathBuf,
    /// Of the router id, from 1.
    pub(crate) line: usize,
}

/// What the network said while it was listened to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wire {
    /// `None`: nobody listened.
    pub(crate) listened: Option<Duration>,
    /// One for each interface, sender, router id and version.
    pub(crate) heard: Vec<Heard>,
    pub(crate) owners: Vec<Owner>,
}

/// An advert.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) interface: String,
    pub(crate) source: IpAddr,
    pub(crate) vrid: u8,
    pub(crate) version: Version,
    pub(crate) priority: u8,
    pub(crate) interval: IntervalCs,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) password: Option<[u8; 8]>,
}

/// Who answered for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) address: IpAddr,
    pub(crate) mac: Mac,
}

/// nginx on this host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nginx {
    pub(crate) binary: Option<PathBuf>,
    pub(crate) conf: Option<PathBuf>,
    pub(crate) master: Option<u32>,
    pub(crate) notes: Vec<String>,
    /// Where plain HTTP is listened to; 0.0.0.0 and :: for every address.
    pub(crate) plain: Vec<SocketAddr>,
    /// Addresses that it listens on and that aren't always on this host.
    pub(crate) elsewhere: Vec<IpAddr>,
    /// Settings that must be 1 for that: what is known of each.
    pub(crate) nonlocal: Vec<Nonlocal>,
    /// Files that the configuration names and that `[sync]` doesn't share: places, and the line that
    /// would share them.
    pub(crate) unshared: Option<(Vec<String>, String)>,
    /// Those of them that aren't the same on all nodes, in the words of the daemon that runs here.
    pub(crate) unequal: Vec<String>,
    /// What nginx has against its configuration.
    pub(crate) refusal: Option<Refusal>,
}

/// A setting `ip_nonlocal_bind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nonlocal {
    /// `net.ipv4.ip_nonlocal_bind`
    pub(crate) name: String,
    pub(crate) set: bool,
    pub(crate) writable: bool,
    /// A file says so for the next boot.
    pub(crate) kept: bool,
}

/// What is standin's own on this host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    /// The directory of what outlives the daemon.
    pub(crate) state_dir: PathBuf,
    /// It has the keys of a node.
    pub(crate) keys: bool,
    /// Who owns its files and may do what with them.
    pub(crate) files: Vec<OwnFile>,
    /// The directory of what outlives the daemon can't be written, and why.
    pub(crate) unwritable: Option<(PathBuf, String)>,
    /// The addresses at which the peer link can't listen, and why.
    pub(crate) link_refused: Vec<(IpAddr, String)>,
}

/// A file or directory of standin's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnFile {
    pub(crate) path: PathBuf,
    /// Nobody else may read it.
    pub(crate) secret: bool,
    pub(crate) directory: bool,
    /// The permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// inotify against the directories of `[sync]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inotify {
    /// Watched, with all below them.
    pub(crate) directories: usize,
    pub(crate) max_user_watches: usize,
    pub(crate) max_user_instances: usize,
}
