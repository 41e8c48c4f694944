//! Host settings that holding a VIP needs, put back when nothing is held any more.

use std::collections::BTreeSet;
use std::io;

use standin_linux::sysctl::Settings;

#[derive(Default)]
pub(super) struct HostSettings {
    settings: Settings,
    prepared: BTreeSet<String>,
}

impl HostSettings {
    /// The end of a primary address must not delete the secondaries and routes behind it.
    pub(super) fn prepare(&mut self, interface: &str) {
        if self.prepared.insert(interface.to_owned()) {
            let path = format!("net/ipv4/conf/{interface}/promote_secondaries");
            // Without it the addresses still work; the node's own are put back by nobody, though,
            // so `standin check` looks whether it can be set.
            let _ = self.settings.set(&path, "1");
        }
    }

    /// Goes on from what an earlier program had changed.
    pub(super) fn resume(&mut self, changes: Vec<standin_linux::sysctl::Change>) {
        self.settings = Settings::resume(changes);
    }

    /// What was changed and not put back yet.
    pub(super) fn changes(&self) -> &[standin_linux::sysctl::Change] {
        self.settings.changes()
    }

    /// Puts the interfaces' settings back.
    pub(super) fn undo_interfaces(&mut self) {
        self.prepared.clear();
        // An interface that has gone took its settings along.
        let _ = self.settings.undo();
    }

    /// Puts everything back; returns what couldn't be.
    pub(super) fn undo(&mut self) -> Vec<(String, io::Error)> {
        self.prepared.clear();
        self.settings.undo()
    }
}
