//! What a node holds on its host, and in which steps the host is changed for it.
//!
//! ```text
//!   orders ─▶ [silence]            links that are given up, before their addresses go
//!             [look, record, set]  for each setting    the guard knows before the host does
//!             [record, make]       links with a MAC of their own, silent
//!             [record, keep]       a VIP that stays    on the loopback link before off the interface
//!             [record, change]     all at once
//!             [speak]              links whose addresses are there
//!             [settled …]          to the engine
//!             [put back …]         when nothing is held any more
//!             [remove]             links: that takes the kernel some 20 ms
//!             [record]
//! ```
//! The shell takes one [`Step`] after the other, does it, and gives its [`Answer`]. Whoever dies between two
//! of them leaves a [`State`] with which the guard can undo all that was done.

mod links;
mod settings;
mod steps;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use crate::Outcome;
use crate::guard::{Goodbye, Key, OwnLink, Setting, State};
use crate::types::{Prefix, VipId};
use links::{Gone, HeldLink};
use settings::{Changed, Need, Wish};
pub use steps::{Answer, Change, Order, Step, Wait};

/// In every network namespace.
pub const LOOPBACK: u32 = 1;

/// Its interface isn't there: `ENODEV`.
const ENODEV: i32 = 19;

/// What comes next, once the steps before are through.
#[derive(Clone, Debug)]
enum Task {
    /// Before a hold.
    Prepare(Wish),
    /// The settings of a VIP that stays are seen to one by one; then it is put on the loopback link.
    Stay(Staying),
    Keep(VipId),
    Silence,
    /// Those of a VIP; `again`: somebody has removed one.
    Links {
        vip: VipId,
        again: bool,
    },
    Make,
    /// Those that were held again while they stayed.
    ComeBack(Vec<VipId>),
    Settle,
    Tell,
    Undo,
    /// The settings of a daemon that ends, or of one before this.
    UndoAll,
    Record,
}

/// What a step's answer is good for.
#[derive(Clone, Debug)]
enum Meaning {
    /// Nothing depends on it.
    None,
    /// At what counts for all interfaces.
    LookedBeyond(Wish),
    Looked(Wish),
    Recorded(Wish),
    Set {
        path: String,
    },
    Made(Vec<(Change, Option<VipId>)>),
    Kept,
    PutBack(Setting),
    Link {
        vip: VipId,
        link: OwnLink,
        again: bool,
    },
    Removed(Vec<OwnLink>),
}

#[derive(Clone, Debug)]
struct Held {
    interface: String,
    index: u32,
    prefixes: Vec<Prefix>,
    goodbyes: Vec<Goodbye>,
    /// Those that carry the addresses, if the interface doesn't itself: one for each family.
    links: Vec<HeldLink>,
}

impl Held {
    /// The addresses, where they can be by now.
    fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.prefixes.iter().filter_map(|prefix| {
            let Some(link) = self.links.iter().find(|one| one.carries(*prefix)) else {
                return Some(Change::Hold { key: (self.index, *prefix) });
            };
            Some(Change::Serve { key: (link.index?, *prefix), base: self.index })
        })
    }

    fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.changes().map(Change::key)
    }
}

/// Who has an address on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Held(VipId),
    /// A VIP that has stayed for this host's sockets.
    Stays,
}

/// The addresses and settings of a host that are this daemon's.
#[derive(Debug, Default)]
pub struct Holding {
    held: BTreeMap<VipId, Held>,
    stays: BTreeMap<VipId, Vec<IpAddr>>,
    /// What has to go and may still be there.
    going: BTreeSet<Key>,
    /// What the program before this one held, until this one has had time to hold it again.
    inherited: BTreeSet<Key>,
    /// Links that have to go.
    links_going: BTreeMap<OwnLink, Gone>,
    /// Those of the program before this one, as its addresses.
    links_inherited: BTreeMap<OwnLink, Gone>,
    /// In the order in which they were changed.
    settings: Vec<Changed>,
    prepared: BTreeSet<(Need, String)>,
    /// VIPs whose last order hasn't been answered.
    unsettled: BTreeSet<VipId>,
    /// Each VIP's last order.
    numbers: BTreeMap<VipId, u64>,
    /// Those among them that the kernel refused, and why.
    refused: BTreeMap<VipId, i32>,
    tasks: VecDeque<Task>,
    steps: VecDeque<(Step, Meaning)>,
    /// Of the step that is being done.
    awaited: Option<Meaning>,
    /// The VIP that is being put on the loopback link.
    staying: Option<Staying>,
}

/// A VIP that is to stay, and the settings that are still to be seen to.
#[derive(Clone, Debug)]
struct Staying {
    vip: VipId,
    addresses: Vec<IpAddr>,
    wishes: VecDeque<Wish>,
}

impl Holding {
    /// A daemon begins on a host where an earlier one has left `leftovers`, `links` and `settings`.
    #[must_use]
    pub fn begun(
        leftovers: impl IntoIterator<Item = Key>,
        links: impl IntoIterator<Item = (OwnLink, u32)>,
        settings: Vec<Setting>,
    ) -> Self {
        let mut this = Self {
            going: leftovers.into_iter().collect(),
            links_going: links::found(links),
            settings: settings::found(settings),
            ..Self::default()
        };
        if this.has_to_clear_up() {
            this.tasks.extend([Task::Make, Task::UndoAll, Task::Record]);
        }
        this
    }

    /// A program goes on in place of another one. `state` is what that one has recorded, with those of its
    /// addresses that are about to be held again; `found` and `links` are what is on the host.
    #[must_use]
    pub fn resumed(
        state: State,
        found: impl IntoIterator<Item = Key>,
        links: impl IntoIterator<Item = (OwnLink, u32)>,
    ) -> Self {
        let mut this = Self {
            inherited: state.addresses.into_iter().collect(),
            going: found.into_iter().collect(),
            settings: settings::found(state.settings),
            ..Self::default()
        };
        this.going.retain(|key| !this.inherited.contains(key));
        let recorded = |link: &OwnLink| state.links.contains(link);
        (this.links_inherited, this.links_going) =
            links::found(links).into_iter().partition(|(link, _)| recorded(link));
        if this.has_to_clear_up() {
            this.tasks.extend([Task::Make, Task::Undo]);
        }
        this
    }

    fn has_to_clear_up(&self) -> bool {
        !self.going.is_empty() || !self.links_going.is_empty() || !self.settings.is_empty()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.tasks.is_empty()
            && self.steps.is_empty()
            && self.awaited.is_none()
            && self.staying.is_none()
    }

    /// Whether there is nothing to renew.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
            && self.stays.is_empty()
            && self.inherited.is_empty()
            && self.links_inherited.is_empty()
    }

    /// Whether a VIP has stayed, or is about to.
    #[must_use]
    pub fn stays(&self) -> bool {
        let stay = |task: &Task| matches!(task, Task::Stay(_));
        !self.stays.is_empty() || self.staying.is_some() || self.tasks.iter().any(stay)
    }

    /// Whose an address is.
    #[must_use]
    pub fn owner(&self, key: Key) -> Option<Owner> {
        let on_lo = |(index, prefix): Key| {
            index == LOOPBACK
                && prefix == Prefix::host(prefix.address())
                && self.stays.values().flatten().any(|address| *address == prefix.address())
        };
        if on_lo(key) {
            return Some(Owner::Stays);
        }
        let has = |held: &Held| held.keys().any(|one| one == key);
        self.held.iter().find(|(_, held)| has(held)).map(|(vip, _)| Owner::Held(*vip))
    }

    /// The changes by which everything is renewed.
    #[must_use]
    pub fn renewals(&self) -> Vec<Change> {
        let held = self.held.values().flat_map(Held::changes);
        let stays = self.stays.values().flatten().map(|address| Change::Keep { address: *address });
        held.chain(stays).collect()
    }

    /// The change by which an address that is held is put back.
    #[must_use]
    pub fn renewal_of(&self, key: Key) -> Option<Change> {
        self.held.values().flat_map(Held::changes).find(|change| change.key() == key)
    }

    /// The program before this one held things that nobody has asked for since: they go.
    pub fn disinherit(&mut self) {
        let inherited = std::mem::take(&mut self.inherited);
        let links = std::mem::take(&mut self.links_inherited);
        if inherited.is_empty() && links.is_empty() {
            return;
        }
        self.links_going.extend(links);
        let mine = |key: &Key| self.owner(*key).is_some();
        let lost: Vec<_> = inherited.into_iter().filter(|key| !mine(key)).collect();
        self.going.extend(lost);
        self.tasks.extend([Task::Make, Task::Settle]);
    }

    /// Everything that is asked for at once; the steps begin when those before are through.
    pub fn orders(&mut self, orders: impl IntoIterator<Item = Order>) {
        let mut comes_back = Vec::new();
        for order in orders {
            self.order(order, &mut comes_back);
        }
        self.then_all(comes_back);
    }

    fn order(&mut self, order: Order, comes_back: &mut Vec<VipId>) {
        match order {
            Order::Hold { vip, number, interface, index, prefixes, goodbyes, virtual_mac } => {
                self.ordered(vip, number);
                self.let_go(vip);
                self.stays_not(vip);
                if self.stays.contains_key(&vip) {
                    comes_back.push(vip);
                }
                let Some(index) = index else {
                    self.refused.insert(vip, ENODEV);
                    return;
                };
                self.prepare(&interface);
                let links = self.claim_links(index, virtual_mac, &prefixes);
                if !links.is_empty() {
                    self.prepare_base(&interface);
                    self.tasks.push_back(Task::Links { vip, again: false });
                }
                self.held.insert(vip, Held { interface, index, prefixes, goodbyes, links });
            }
            Order::Release { vip, number } => {
                self.ordered(vip, number);
                self.let_go(vip);
                self.silence_soon();
            }
            Order::Stay { vip, number, interfaces } => {
                self.ordered(vip, number);
                let Some(held) = self.let_go(vip) else { return };
                self.linger(&held.links);
                self.silence_soon();
                let wishes = interfaces.iter().flat_map(|one| Wish::of_stay(one));
                let addresses = held.prefixes.iter().map(|prefix| prefix.address()).collect();
                let staying = Staying { vip, addresses, wishes: wishes.collect() };
                self.tasks.push_back(Task::Stay(staying));
            }
            Order::Leave { vip } => {
                self.stays_not(vip);
                self.leave(vip);
            }
        }
    }

    /// An order of the same moment says otherwise.
    fn stays_not(&mut self, vip: VipId) {
        self.tasks.retain(|task| !matches!(task, Task::Stay(staying) if staying.vip == vip));
    }

    fn ordered(&mut self, vip: VipId, number: u64) {
        self.unsettled.insert(vip);
        self.numbers.insert(vip, number);
    }

    fn let_go(&mut self, vip: VipId) -> Option<Held> {
        let held = self.held.remove(&vip)?;
        self.going.extend(held.keys());
        self.let_links_go(&held.links);
        Some(held)
    }

    fn leave(&mut self, vip: VipId) {
        let addresses = self.stays.remove(&vip).unwrap_or_default();
        self.going.extend(addresses.into_iter().map(on_loopback));
    }

    /// The kernel doesn't take an address back that somebody took away.
    pub fn refuse(&mut self, vip: VipId, errno: i32) {
        self.refused.insert(vip, errno);
        self.unsettled.insert(vip);
        self.tasks.push_back(Task::Settle);
    }

    /// A conversation with the kernel broke off; nobody knows what became of it. What is held and what has to
    /// go is known all the same; so is from now on what was to stay behind what broke off.
    pub fn broken_off(&mut self) {
        self.steps.clear();
        self.awaited = None;
        self.prepared.clear();
        self.tasks.retain(|task| matches!(task, Task::Stay(_)));
        if let Some(staying) = self.staying.take() {
            self.tasks.push_front(Task::Stay(staying));
        }
    }

    /// After that: what is held is held anew, of what is `present` all else goes, and all is settled.
    pub fn again(&mut self, present: impl IntoIterator<Item = Key>) {
        self.unsettled.extend(self.held.keys());
        self.going.extend(present);
        self.going.retain(|key| !self.inherited.contains(key));
        // Before anything leaves an interface: their sockets live on these addresses.
        self.tasks.extend(self.stays.keys().copied().map(Task::Keep));
        let held =
            self.held.iter().map(|(vip, held)| (*vip, held.interface.clone(), held.links.len()));
        for (vip, interface, links) in held.collect::<Vec<_>>() {
            self.prepare(&interface);
            if links > 0 {
                self.prepare_base(&interface);
                self.tasks.push_back(Task::Links { vip, again: false });
            }
        }
        let back = self.stays.keys().filter(|vip| self.held.contains_key(vip));
        self.then_all(back.copied().collect());
    }

    /// What was asked for is made; then those that were held again while they stayed come back.
    fn then_all(&mut self, comes_back: Vec<VipId>) {
        self.tasks.extend([Task::Make, Task::Settle]);
        if !comes_back.is_empty() {
            // On the interface first, then off the loopback link: the sockets notice nothing.
            self.tasks.extend([Task::ComeBack(comes_back), Task::Make, Task::Settle]);
        }
    }

    /// The daemon ends: the host is left as it was found.
    pub fn end(&mut self) {
        self.broken_off();
        self.tasks.clear();
        let keys: Vec<_> = self.held.values().flat_map(Held::keys).collect();
        let stay = std::mem::take(&mut self.stays).into_values().flatten().map(on_loopback);
        self.going.extend(keys.into_iter().chain(stay).chain(std::mem::take(&mut self.inherited)));
        self.end_links();
        self.unsettled.clear();
        self.refused.clear();
        self.tasks.extend([Task::Make, Task::UndoAll, Task::Record]);
    }

    /// At the end the kernel can't be talked to: the rest is the guard's, by what is recorded.
    pub fn lose(&mut self) {
        self.tasks.push_back(Task::Record);
    }

    /// The next step; `None` when all is done, or the last one hasn't been answered.
    pub fn next_step(&mut self) -> Option<Step> {
        if self.awaited.is_some() {
            return None;
        }
        loop {
            if let Some((step, meaning)) = self.steps.pop_front() {
                self.awaited = Some(meaning);
                return Some(step);
            }
            if let Some(staying) = self.staying.take() {
                self.stay(staying);
                continue;
            }
            let task = self.tasks.pop_front()?;
            self.begin(task);
        }
    }

    fn then(&mut self, step: Step, meaning: Meaning) {
        self.steps.push_back((step, meaning));
    }

    fn record(&mut self, meaning: Meaning) {
        let state = self.state();
        self.then(Step::Record(state), meaning);
    }

    fn begin(&mut self, task: Task) {
        match task {
            Task::Prepare(wish) => self.look_beyond(wish),
            Task::Stay(staying) => self.staying = Some(staying),
            Task::Keep(vip) => {
                let addresses = self.stays.get(&vip).into_iter().flatten();
                let batch = addresses.map(|address| Change::Keep { address: *address }).collect();
                self.then(Step::Change { batch, wait: Wait::Routed }, Meaning::Kept);
            }
            Task::Silence => self.silence(),
            Task::Links { vip, again } => self.make_links(vip, again),
            Task::Make => self.make(),
            Task::ComeBack(vips) => vips.into_iter().for_each(|vip| self.leave(vip)),
            Task::Settle => {
                self.clear_refused();
                self.tasks.push_front(Task::Tell);
            }
            Task::Tell => self.tell(),
            Task::Undo => self.undo(),
            Task::UndoAll => {
                self.undo_all();
                self.remove_links();
            }
            Task::Record => self.record(Meaning::None),
        }
    }

    /// Sees to the next setting of a VIP that is to stay; after the last one it stays.
    fn stay(&mut self, mut staying: Staying) {
        if let Some(wish) = staying.wishes.pop_front() {
            self.staying = Some(staying);
            return self.look(wish);
        }
        self.stays.insert(staying.vip, staying.addresses);
        self.tasks.push_front(Task::Keep(staying.vip));
        self.tasks.push_front(Task::Record);
    }

    /// Makes the host have what is wanted of VIPs that aren't settled, and lose what has to go.
    fn make(&mut self) {
        // What one VIP lets go, another one may hold by now.
        let going = std::mem::take(&mut self.going);
        self.going = going.into_iter().filter(|key| self.owner(*key).is_none()).collect();
        let drops = self.going.iter().map(|key| (Change::Drop { key: *key }, None));
        let mut made: Vec<_> = drops.collect();
        for vip in self.unsettled.iter().filter(|vip| !self.refused.contains_key(vip)) {
            let held = self.held.get(vip).into_iter().flat_map(Held::changes);
            made.extend(held.map(|change| (change, Some(*vip))));
        }
        // The guard must know before the kernel does.
        self.record(Meaning::None);
        self.silence();
        self.change(made, Wait::Usable);
    }

    /// A VIP of which one address was refused isn't held at all.
    fn clear_refused(&mut self) {
        let refused: Vec<_> = self.refused.keys().copied().collect();
        let mut made = Vec::new();
        for vip in refused {
            let Some(held) = self.let_go(vip) else { continue };
            let keys = held.keys().filter(|key| self.owner(*key).is_none());
            made.extend(keys.map(|key| (Change::Drop { key }, None)));
        }
        self.silence();
        self.change(made, Wait::No);
    }

    fn change(&mut self, made: Vec<(Change, Option<VipId>)>, wait: Wait) {
        if !made.is_empty() {
            let batch = made.iter().map(|(change, _)| *change).collect();
            self.then(Step::Change { batch, wait }, Meaning::Made(made));
        }
    }

    fn tell(&mut self) {
        self.let_speak();
        for vip in std::mem::take(&mut self.unsettled) {
            if !self.refused.contains_key(&vip) && self.waits_for_links(vip) {
                self.unsettled.insert(vip);
                continue;
            }
            let outcome = match (self.refused.remove(&vip), self.held.contains_key(&vip)) {
                (Some(errno), _) => Outcome::Refused { errno },
                (None, true) => Outcome::Held,
                (None, false) => Outcome::Released,
            };
            let number = self.numbers.get(&vip).copied().unwrap_or(0);
            self.then(Step::Settled { vip, number, outcome }, Meaning::None);
        }
        self.tasks.push_front(Task::Undo);
    }

    /// Puts back and removes what nothing needs any more.
    fn undo(&mut self) {
        if self.held.is_empty() && self.inherited.is_empty() {
            self.needs_no_more(Need::Held);
        }
        if self.held.values().all(|held| held.links.is_empty()) && self.links_inherited.is_empty() {
            self.needs_no_more(Need::Links);
        }
        if self.stays.is_empty() {
            self.needs_no_more(Need::Stays);
        }
        self.put_back();
        self.remove_links();
        self.tasks.push_front(Task::Record);
    }

    /// What became of the last step.
    pub fn answer(&mut self, answer: Answer) {
        match (self.awaited.take(), answer) {
            (Some(Meaning::LookedBeyond(wish)), answer) => self.looked_beyond(wish, &answer),
            (Some(Meaning::Looked(wish)), answer) => self.looked(wish, answer),
            (Some(Meaning::Recorded(wish)), _) => self.set(&wish),
            (Some(Meaning::Set { path }), answer) => self.was_set(&path, answer),
            (Some(Meaning::Link { vip, link, again }), answer) => {
                self.link_made(vip, (link, again), answer);
            }
            (Some(Meaning::Removed(links)), answer) => self.removed(&links, answer),
            (Some(Meaning::Made(made)), Answer::Results(results)) => self.made(&made, &results),
            (Some(Meaning::Kept), Answer::Results(results)) => {
                if let Some(errno) = results.iter().filter_map(|result| result.err()).next() {
                    self.complain(format!("connections to the VIP are cut: errno {errno} on lo"));
                }
            }
            (Some(Meaning::PutBack(setting)), Answer::Failed(why)) => {
                self.complain(format!("couldn't put {} back: {why}", setting.path));
            }
            (Some(Meaning::PutBack(setting)), _) => self.forget(&setting.path),
            _ => {}
        }
    }

    fn complain(&mut self, text: String) {
        self.steps.push_front((Step::Complain(text), Meaning::None));
    }

    fn made(&mut self, made: &[(Change, Option<VipId>)], results: &[Result<(), i32>]) {
        for ((change, owner), result) in made.iter().zip(results) {
            match (change, result, owner) {
                (Change::Hold { .. } | Change::Serve { .. }, Err(errno), Some(vip)) => {
                    self.refused.insert(*vip, *errno);
                }
                (Change::Drop { key }, Err(errno), _) => {
                    self.going.remove(key);
                    self.complain(format!("couldn't remove {}: errno {errno}", key.1));
                }
                (Change::Drop { key }, Ok(()), _) => {
                    self.going.remove(key);
                }
                _ => {}
            }
        }
    }

    /// What is on the host, or about to be, or still to go from there.
    #[must_use]
    pub fn state(&self) -> State {
        let settings = self.settings.iter().map(|changed| changed.setting.clone());
        let settings = settings.collect();
        let links = self.all_links();
        let mut state = State { settings, links, ..State::default() };
        let mut addresses = BTreeSet::new();
        addresses.extend(self.stays.values().flatten().copied().map(on_loopback));
        for held in self.held.values() {
            addresses.extend(held.keys());
            state.goodbyes.extend(held.goodbyes.iter().cloned());
        }
        addresses.extend(self.going.iter().chain(&self.inherited));
        state.addresses.extend(addresses);
        state
    }
}

const fn on_loopback(address: IpAddr) -> Key {
    (LOOPBACK, Prefix::host(address))
}

#[cfg(test)]
mod tests;
