//! Host settings that VIPs need on the host's interfaces, put back when nobody needs them any more.

use std::collections::BTreeMap;
use std::io;

use standin_linux::sysctl::{self, Settings};

/// Paths and values.
pub(super) type Wanted = BTreeMap<String, &'static str>;

#[derive(Default)]
pub(super) struct HostSettings {
    settings: Settings,
    /// What was seen to before.
    agreed: Wanted,
}

/// What couldn't be done, by path.
#[derive(Default)]
pub(super) struct Failed {
    pub(super) to_set: Vec<(String, io::Error)>,
    pub(super) to_put_back: Vec<(String, io::Error)>,
}

/// The end of a primary address must not delete the secondaries and routes behind it.
pub(super) fn want_secondaries(wanted: &mut Wanted, interface: &str) {
    wanted.insert(path(interface, "promote_secondaries"), "1");
}

/// The interface doesn't answer for addresses whose scope is the host, wherever they are, and asks in
/// its own name. For all others it answers as before.
pub(super) fn want_no_answer_for_ours(wanted: &mut Wanted, interface: &str) {
    wanted.insert(path(interface, ARP_IGNORE), "3");
    wanted.insert(path(interface, ARP_ANNOUNCE), "2");
}

/// The interface answers for its own addresses alone, and asks in its own name.
pub(super) fn want_no_answer_for_others(wanted: &mut Wanted, interface: &str) {
    wanted.insert(path(interface, ARP_IGNORE), "1");
    wanted.insert(path(interface, ARP_ANNOUNCE), "2");
}

const ARP_IGNORE: &str = "arp_ignore";
const ARP_ANNOUNCE: &str = "arp_announce";

fn path(interface: &str, name: &str) -> String {
    format!("net/ipv4/conf/{interface}/{name}")
}

impl HostSettings {
    /// Sets what is wanted and wasn't yet, and puts back what isn't wanted any more.
    pub(super) fn agree(&mut self, wanted: Wanted) -> Failed {
        let mut failed = Failed::default();
        if wanted == self.agreed {
            return failed;
        }
        for (path, value) in &wanted {
            if self.agreed.get(path) == Some(value) {
                continue;
            }
            if let Err(error) = self.set(path, value) {
                failed.to_set.push((path.clone(), error));
            }
        }
        // An interface that has gone took its settings along.
        failed.to_put_back = self.settings.undo_unless(|path| wanted.contains_key(path));
        self.agreed = wanted;
        failed
    }

    fn set(&mut self, path: &str, value: &str) -> io::Result<()> {
        if self.settings.has_changed(path) || !is_enough(path)? {
            self.settings.set(path, value)?;
        }
        Ok(())
    }

    /// Goes on from what an earlier program had changed.
    pub(super) fn resume(&mut self, changes: Vec<sysctl::Change>) {
        self.settings = Settings::resume(changes);
    }

    /// What was changed and not put back yet.
    pub(super) fn changes(&self) -> &[sysctl::Change] {
        self.settings.changes()
    }

    /// Puts everything back; returns what couldn't be.
    pub(super) fn undo(&mut self) -> Vec<(String, io::Error)> {
        self.agreed.clear();
        self.settings.undo()
    }
}

/// Whether the host is as strict already as is wanted: the kernel goes by the greater one of the
/// interface's value and that of `all`.
fn is_enough(path: &str) -> io::Result<bool> {
    let Some((interface, name)) = path.rsplit_once('/') else { return Ok(false) };
    let least = match name {
        ARP_IGNORE => 1,
        ARP_ANNOUNCE => 2,
        _ => return Ok(false),
    };
    let number = |path: &str| Ok::<u8, io::Error>(sysctl::read(path)?.parse().unwrap_or(0));
    let parent = interface.rsplit_once('/').map_or(interface, |(parent, _)| parent);
    Ok(number(path)?.max(number(&format!("{parent}/all/{name}"))?) >= least)
}
