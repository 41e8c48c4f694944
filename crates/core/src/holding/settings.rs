//! Settings of the host's interfaces that a VIP needs: looked at, recorded, set, and put back.

use std::collections::BTreeSet;

use super::{Answer, Holding, Meaning, Setting, Step, Task};

/// Why a setting was changed. It is put back when nothing needs it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    Held,
    /// VIPs with a MAC of their own.
    Links,
    Stays,
}

/// A number that a setting needs at least; the kernel goes by the greater of this and `all`.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    path: String,
    least: u8,
    /// What is set where less is found.
    value: u8,
    need: Need,
}

/// A setting that was changed, and for what.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub(super) setting: Setting,
    needs: BTreeSet<Need>,
}

/// Those of a program before this one: nobody remembers for what.
pub(super) fn found(settings: Vec<Setting>) -> Vec<Changed> {
    let changed = |setting| Changed { setting, needs: BTreeSet::from([Need::Held]) };
    settings.into_iter().map(changed).collect()
}

const ARP_IGNORE: &str = "arp_ignore";
const ARP_ANNOUNCE: &str = "arp_announce";

fn path(interface: &str, name: &str) -> String {
    format!("net/ipv4/conf/{interface}/{name}")
}

impl Wish {
    /// Asked for an address of another interface it says nothing, and asks in its own name.
    /// (For IPv6 no interface answers for the address of another one.)
    pub(super) fn of_stay(interface: &str) -> [Self; 2] {
        [(ARP_IGNORE, 1), (ARP_ANNOUNCE, 2)].map(|(name, least)| Self {
            path: path(interface, name),
            least,
            value: least,
            need: Need::Stays,
        })
    }

    /// It doesn't answer for addresses whose scope is the host, wherever they are, and asks in its own
    /// name. For all others it answers as before; where it is as silent as for a stay, that is enough.
    fn of_base(interface: &str) -> [Self; 2] {
        [(ARP_IGNORE, 1, 3), (ARP_ANNOUNCE, 2, 2)].map(|(name, least, value)| Self {
            path: path(interface, name),
            least,
            value,
            need: Need::Links,
        })
    }

    /// The same setting for all interfaces.
    fn beyond(&self) -> Option<String> {
        let (_, name) = self.path.rsplit_once('/').filter(|_| self.need == Need::Links)?;
        Some(path("all", name))
    }

    fn is_met(&self, value: &str) -> bool {
        value.trim().parse::<u8>().unwrap_or(0) >= self.least
    }
}

impl Holding {
    /// The end of a primary address must not delete the secondaries and routes behind it.
    pub(super) fn prepare(&mut self, interface: &str) {
        let path = path(interface, "promote_secondaries");
        self.prepare_once(Wish { path, least: 1, value: 1, need: Need::Held });
    }

    /// An interface that a link with a MAC of its own stands on.
    pub(super) fn prepare_base(&mut self, interface: &str) {
        Wish::of_base(interface).into_iter().for_each(|wish| self.prepare_once(wish));
    }

    fn prepare_once(&mut self, wish: Wish) {
        if self.prepared.insert((wish.need, wish.path.clone())) {
            self.tasks.push_back(Task::Prepare(wish));
        }
    }

    /// Looks first whether all interfaces are as it should be.
    pub(super) fn look_beyond(&mut self, wish: Wish) {
        match wish.beyond() {
            Some(path) => self.then(Step::Look { path }, Meaning::LookedBeyond(wish)),
            None => self.look(wish),
        }
    }

    pub(super) fn look(&mut self, wish: Wish) {
        self.then(Step::Look { path: wish.path.clone() }, Meaning::Looked(wish));
    }

    pub(super) fn looked_beyond(&mut self, wish: Wish, answer: &Answer) {
        let met = matches!(answer, Answer::Value(value) if wish.is_met(value));
        if !met {
            self.look(wish);
        }
    }

    pub(super) fn looked(&mut self, wish: Wish, answer: Answer) {
        let old = match answer {
            Answer::Value(old) => old,
            Answer::Failed(why) => return self.not_set(&wish.path, &why),
            _ => return,
        };
        let met = wish.is_met(&old);
        let new = wish.value.to_string();
        match self.settings.iter_mut().find(|known| known.setting.path == wish.path) {
            Some(known) => {
                known.needs.insert(wish.need);
                if !met {
                    known.setting.new = new;
                }
            }
            None if met => {}
            None => {
                let setting = Setting { path: wish.path.clone(), old, new };
                self.settings.push(Changed { setting, needs: BTreeSet::from([wish.need]) });
            }
        }
        if !met {
            self.record(Meaning::Recorded(wish));
        }
    }

    pub(super) fn set(&mut self, wish: &Wish) {
        let path = wish.path.clone();
        let set = Step::Set { path: path.clone(), value: wish.value.to_string() };
        self.then(set, Meaning::Set { path });
    }

    pub(super) fn was_set(&mut self, path: &str, answer: Answer) {
        match answer {
            // The kernel rounds and reformats some values; what it made of this one is what an undo
            // must find.
            Answer::Value(new) => {
                let known = self.settings.iter_mut().find(|known| known.setting.path == path);
                if let Some(known) = known {
                    known.setting.new = new;
                }
            }
            Answer::Failed(why) => {
                self.forget(path);
                self.not_set(path, &why);
            }
            _ => {}
        }
    }

    /// A setting can't be had.
    fn not_set(&mut self, path: &str, why: &str) {
        // Without promote_secondaries the addresses still work; the node's own are put back by nobody,
        // though, so `standin check` looks whether it can be set. A VIP that stays would answer in the
        // other node's place.
        if self.staying.take().is_some() {
            self.complain(format!("connections to the VIP are cut: {path}: {why}"));
        }
    }

    pub(super) fn needs_no_more(&mut self, need: Need) {
        self.settings.iter_mut().for_each(|changed| _ = changed.needs.remove(&need));
        self.prepared.retain(|(of, _)| *of != need);
    }

    /// Everything is put back.
    pub(super) fn undo_all(&mut self) {
        self.prepared.clear();
        self.settings.iter_mut().for_each(|changed| changed.needs.clear());
        self.put_back();
    }

    /// The last one first.
    pub(super) fn put_back(&mut self) {
        let unneeded = self.settings.iter().rev().filter(|changed| changed.needs.is_empty());
        let step = |changed: &Changed| {
            let setting = changed.setting.clone();
            (Step::PutBack(setting.clone()), Meaning::PutBack(setting))
        };
        self.steps.extend(unneeded.map(step));
    }

    pub(super) fn forget(&mut self, path: &str) {
        self.settings.retain(|changed| changed.setting.path != path);
    }
}
