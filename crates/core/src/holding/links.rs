//! Links of our own, for VIPs with a virtual MAC (RFC 9568 §7.3): one for each family, which is there only
//! while this node has the VIP.
//!
//! ```text
//!   hold ──▶ made, silent ──▶ addresses on it ──▶ speaks ──▶ settled
//!   release ──▶ silenced, addresses off ──▶ settled ──▶ removed (the kernel takes some 20 ms for that)
//!   stay ──▶ silenced, addresses to lo ──▶ settled ──▶ hears for a moment more ──▶ removed
//! ```
//! What it sends teaches switches where the MAC is: a node that gives the VIP up is silent first.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, ENODEV, Held, Holding, Key, Meaning, OwnLink, Step, Task};
use crate::types::{Family, Mac, Prefix, VipId, Vrid};

/// A link of a VIP that is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldLink {
    link: OwnLink,
    /// Once it is there.
    pub(super) index: Option<u32>,
}

impl HeldLink {
    pub(super) fn carries(&self, prefix: Prefix) -> bool {
        self.link.family == prefix.family()
    }
}

/// A link that has to go.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gone {
    /// If it was ever there.
    index: Option<u32>,
    silent: bool,
    /// It hears a little longer.
    lingers: bool,
}

pub(super) fn found(links: impl IntoIterator<Item = (OwnLink, u32)>) -> BTreeMap<OwnLink, Gone> {
    let gone = |index| Gone { index: Some(index), ..Gone::default() };
    links.into_iter().map(|(link, index)| (link, gone(index))).collect()
}

impl Holding {
    /// The MAC that the link with this index must have, if it is one of a VIP that is held.
    #[must_use]
    pub fn mac_of(&self, index: u32) -> Option<Mac> {
        let mut links = self.held.values().flat_map(|held| &held.links);
        links.find(|one| one.index == Some(index)).map(|one| one.link.mac())
    }

    /// The links of VIPs that are held.
    #[must_use]
    pub fn links(&self) -> Vec<u32> {
        self.held.values().flat_map(|held| &held.links).filter_map(|one| one.index).collect()
    }

    /// A link isn't there any more. If a VIP that is held needs it, it is made again with what was on it.
    ///
    /// Returns the addresses that come back by that; those on any other link went with it.
    pub fn link_gone(&mut self, index: u32) -> Vec<(VipId, Key)> {
        self.links_going.retain(|_, gone| gone.index != Some(index));
        let mut lost = Vec::new();
        let own = |held: &Held| held.links.iter().any(|one| one.index == Some(index));
        for (vip, held) in self.held.iter().filter(|(_, held)| own(held)) {
            let keys = held.keys().filter(|key| key.0 == index);
            lost.extend(keys.map(|key| (*vip, key)));
        }
        let mut owner = None;
        for (vip, held) in &mut self.held {
            for link in held.links.iter_mut().filter(|one| one.index == Some(index)) {
                link.index = None;
                owner = Some(*vip);
            }
        }
        if let Some(vip) = owner {
            self.unsettled.insert(vip);
            self.tasks.extend([Task::Links { vip, again: true }, Task::Make, Task::Settle]);
        }
        lost
    }

    /// Whether the address is held, wherever it is.
    #[must_use]
    pub fn is_served(&self, vip: VipId, prefix: Prefix) -> bool {
        self.held.get(&vip).is_some_and(|held| held.keys().any(|key| key.1 == prefix))
    }

    /// Whether links are there only to hear for a moment more.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.links_going.values().any(|gone| gone.lingers)
    }

    /// That moment is over.
    pub fn lingered(&mut self) {
        self.links_going.values_mut().for_each(|gone| gone.lingers = false);
        self.tasks.push_back(Task::Undo);
    }

    /// The links that a VIP needs. What has been on its interface until now goes from there.
    pub(super) fn claim_links(
        &mut self,
        base: u32,
        id: Option<Vrid>,
        prefixes: &[Prefix],
    ) -> Vec<HeldLink> {
        let Some(id) = id else { return Vec::new() };
        let has = |family: &Family| prefixes.iter().any(|prefix| prefix.family() == *family);
        let families = Family::BOTH.into_iter().filter(has);
        let links: Vec<_> = families.map(|family| OwnLink { base, family, id }).collect();
        for link in &links {
            self.links_going.remove(link);
            self.links_inherited.remove(link);
        }
        self.going.extend(prefixes.iter().map(|prefix| (base, *prefix)));
        links.into_iter().map(|link| HeldLink { link, index: None }).collect()
    }

    pub(super) fn let_links_go(&mut self, links: &[HeldLink]) {
        let gone = |index| Gone { index, ..Gone::default() };
        // Another VIP may have taken the id over by now.
        let all = self.held.values().flat_map(|held| &held.links);
        let others: BTreeSet<_> = all.map(|one| one.link).collect();
        let links = links.iter().filter(|one| !others.contains(&one.link));
        self.links_going.extend(links.map(|one| (one.link, gone(one.index))));
    }

    /// Frames that were on their way here when the VIP moved as planned still reach its sockets.
    pub(super) fn linger(&mut self, links: &[HeldLink]) {
        for one in links {
            self.links_going.entry(one.link).and_modify(|gone| gone.lingers = true);
        }
    }

    /// Before anything that takes its time.
    pub(super) fn silence_soon(&mut self) {
        if !self.links_going.is_empty() {
            self.tasks.push_back(Task::Silence);
        }
    }

    pub(super) fn silence(&mut self) {
        let mut silenced = Vec::new();
        for gone in self.links_going.values_mut().filter(|gone| !gone.silent) {
            gone.silent = true;
            silenced.extend(gone.index);
        }
        if !silenced.is_empty() {
            self.then(Step::Silence(silenced), Meaning::None);
        }
    }

    /// The guard must know of a link before the kernel does.
    pub(super) fn make_links(&mut self, vip: VipId, again: bool) {
        let Some(held) = self.held.get(&vip) else { return };
        let links: Vec<_> = held.links.iter().map(|one| one.link).collect();
        self.record(Meaning::None);
        for link in links {
            self.then(Step::MakeLink(link), Meaning::Link { vip, link, again });
        }
    }

    pub(super) fn link_made(&mut self, vip: VipId, (link, again): (OwnLink, bool), answer: Answer) {
        let Some(held) = self.held.get_mut(&vip) else { return };
        let (errno, why) = match answer {
            Answer::Index(index) => {
                let mine = held.links.iter_mut().filter(|one| one.link == link);
                mine.for_each(|one| one.index = Some(index));
                return;
            }
            Answer::Refused { errno, why } => (errno, why),
            _ => return,
        };
        // One is enough.
        self.steps.retain(|(_, meaning)| !matches!(meaning, Meaning::Link { .. }));
        if again && errno == ENODEV {
            // The interface went, and took it along: the engine hears of that, and nobody refused.
            self.unsettled.remove(&vip);
            return;
        }
        self.refused.insert(vip, errno);
        let (family, interface) = (link.family, &held.interface);
        let text = format!(
            "can't make a link with the {family} virtual MAC on {interface} ({why}); the VIP isn't held \
             here. Mend: a kernel with macvlan, no other program with that MAC, no bridge or bond above \
             {interface}; or virtual_mac = false on all nodes"
        );
        self.complain(text);
    }

    /// Whether the VIP is held and a link that it needs isn't there yet.
    pub(super) fn waits_for_links(&self, vip: VipId) -> bool {
        let held = self.held.get(&vip);
        held.is_some_and(|held| held.links.iter().any(|one| one.index.is_none()))
    }

    /// The addresses are there: their links answer for them.
    pub(super) fn let_speak(&mut self) {
        let whole = self.unsettled.iter().filter(|vip| !self.waits_for_links(**vip));
        let held = whole.filter_map(|vip| self.held.get(vip));
        let links: Vec<_> = held.flat_map(|held| &held.links).filter_map(|one| one.index).collect();
        if !links.is_empty() {
            self.then(Step::LetSpeak(links), Meaning::None);
        }
    }

    /// All of them go.
    pub(super) fn end_links(&mut self) {
        let held = std::mem::take(&mut self.held);
        held.into_values().for_each(|held| self.let_links_go(&held.links));
        let inherited = std::mem::take(&mut self.links_inherited);
        self.links_going.extend(inherited);
        self.links_going.values_mut().for_each(|gone| gone.lingers = false);
    }

    pub(super) fn remove_links(&mut self) {
        let due = self.links_going.iter().filter(|(_, gone)| !gone.lingers);
        let due: Vec<_> = due.map(|(link, _)| *link).collect();
        if !due.is_empty() {
            self.then(Step::RemoveLinks(due.clone()), Meaning::Removed(due));
        }
    }

    pub(super) fn removed(&mut self, links: &[OwnLink], answer: Answer) {
        for link in links {
            self.links_going.remove(link);
        }
        if let Answer::Failed(why) = answer {
            self.complain(format!("couldn't remove a VIP's own link: {why}"));
        }
    }

    pub(super) fn all_links(&self) -> Vec<OwnLink> {
        let held = self.held.values().flat_map(|held| &held.links).map(|one| one.link);
        let going = self.links_going.keys().chain(self.links_inherited.keys());
        held.chain(going.copied()).collect()
    }
}
