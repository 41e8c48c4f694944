//! The host's own network configuration: where it names an address, and the text with another one.
//!
//! Five systems, one way: find the address by what it is, not by how it is written; replace exactly its
//! characters, so that comments, order and indentation stay; refuse what can't be judged, with file,
//! line, and what to do by hand. A file that names the address for another purpose is left alone there
//! and it is said.

mod diff;
mod edit;
mod ifcfg;
mod ifupdown;
mod ini;
mod keyfile;
mod netplan;
mod networkd;

use std::net::IpAddr;

use crate::Diagnostic;

pub use diff::diff;

/// Nobody's network configuration is longer.
pub const MAX_BYTES: usize = 1024 * 1024;

/// What keeps a host's network configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// Debian: `/etc/network/interfaces` and what it sources.
    Ifupdown,
    /// Ubuntu: `/etc/netplan/*.yaml`.
    Netplan,
    /// `/etc/systemd/network/*.network` and their drop-ins.
    Networkd,
    /// NetworkManager: `/etc/NetworkManager/system-connections/*.nmconnection`.
    Keyfile,
    /// Red Hat and SUSE: `ifcfg-*`, `route-*` and `rule-*`.
    Ifcfg,
}

impl System {
    pub const ALL: [Self; 5] =
        [Self::Ifupdown, Self::Netplan, Self::Networkd, Self::Keyfile, Self::Ifcfg];

    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ifupdown => "ifupdown",
            Self::Netplan => "netplan",
            Self::Networkd => "systemd-networkd",
            Self::Keyfile => "NetworkManager",
            Self::Ifcfg => "ifcfg",
        }
    }
}

/// `new` is to stand where `old` stands, both in one subnet, on `interface`.
#[derive(Clone, Copy, Debug)]
pub struct Swap<'a> {
    pub interface: &'a str,
    pub old: IpAddr,
    pub new: IpAddr,
}

/// What became of one file.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The same as before where there was nothing to do.
    pub text: String,
    /// Whether the file gives the interface the old address at boot.
    pub declares: bool,
    /// Errors: the text must not be used. Warnings: what was left alone.
    pub found: Vec<Diagnostic>,
    /// Where the interface gets addresses that no file names; to be said if no file declares it.
    pub dynamic: Vec<Diagnostic>,
    /// Where the interface is given the new address already; to be said if a file declares the old one.
    pub twice: Option<Diagnostic>,
}

/// Edits one file; `name` is its path, as messages call it.
#[must_use]
pub fn edit(system: System, name: &str, text: &str, swap: Swap<'_>) -> Edited {
    let mut edit = edit::Edit::new(name, text, swap);
    read(system, &mut edit);
    let mut there = edit::Edit::new(name, text, Swap { old: swap.new, new: swap.old, ..swap });
    read(system, &mut there);
    let twice = there.declared().map(|place| edit.twice(place));
    Edited { twice, ..edit.finish() }
}

fn read(system: System, edit: &mut edit::Edit<'_>) {
    match system {
        System::Ifupdown => ifupdown::read(edit),
        System::Netplan => netplan::read(edit),
        System::Networkd => networkd::read(edit),
        System::Keyfile => keyfile::read(edit),
        System::Ifcfg => ifcfg::read(edit),
    }
}
