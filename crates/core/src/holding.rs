//! What a node holds on its host, and in which steps the host is changed for it.
//!
//! ```text
//!   orders ─▶ [look, record, set]  for each setting    the guard knows before the host does
//!             [record, keep]       a VIP that stays    on the loopback link before off the interface
//!             [record, change]     all at once
//!             [settled …]          to the engine
//!             [put back …]         when nothing is held any more
//!             [record]
//! ```
//! The shell takes one [`Step`] after the other, does it, and gives its [`Answer`]. Whoever dies between two
//! of them leaves a [`State`] with which the guard can undo all that was done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use crate::Outcome;
use crate::guard::{Goodbye, Key, Setting, State};
use crate::types::{Prefix, VipId};

/// In every network namespace.
pub const LOOPBACK: u32 = 1;

/// Its interface isn't there: `ENODEV`.
const ENODEV: i32 = 19;

/// Asked of whoever keeps the addresses. The number of an order comes back with what became of it: whoever
/// has ordered something else since waits for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// `index`: of the interface, if it is there; `goodbyes`: what the guard says if the daemon dies.
    Hold {
        vip: VipId,
        number: u64,
        interface: String,
        index: Option<u32>,
        prefixes: Vec<Prefix>,
        goodbyes: Vec<Goodbye>,
    },
    Release {
        vip: VipId,
        number: u64,
    },
    /// As a release; this host's sockets go on using the addresses. `interfaces`: those that mustn't
    /// answer for them.
    Stay {
        vip: VipId,
        number: u64,
        interfaces: Vec<String>,
    },
    /// What has stayed goes.
    Leave {
        vip: VipId,
    },
}

/// What is to become of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It comes, or is renewed, with a lifetime.
    Hold {
        key: Key,
    },
    /// The same on the loopback link, for this host alone.
    Keep {
        address: IpAddr,
    },
    Drop {
        key: Key,
    },
}

/// How long the shell waits until a new address can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    No,
    /// What is announced too early costs its clients their first packets.
    Usable,
    /// What leaves the interface before it works on the loopback link loses packets.
    Routed,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write this where the guard and the next daemon find it. Answered with [`Answer::Done`].
    Record(State),
    /// Read a setting: [`Answer::Value`] or [`Answer::Failed`].
    Look { path: String },
    /// Change one, and read it again: the same.
    Set { path: String, value: String },
    /// Put one back if it [stands](Setting::stands): `Done`, also where it isn't there any more, or `Failed`.
    PutBack(Setting),
    /// Answered with [`Answer::Results`]; what is as it should be already is no error.
    Change { batch: Vec<Change>, wait: Wait },
    /// Tell the engine what became of the order with this number, and of those before.
    Settled { vip: VipId, number: u64, outcome: Outcome },
    /// Tell the operator.
    Complain(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Value(String),
    Failed(String),
    /// By the changes of the batch; `Err` has the errno.
    Results(Vec<Result<(), i32>>),
}

/// A number that a setting needs at least; the kernel goes by the greater of this and `all`.
#[derive(Clone, Debug)]
struct Wish {
    path: String,
    least: u8,
}

/// What comes next, once the steps before are through.
#[derive(Clone, Debug)]
enum Task {
    /// Before a hold.
    Prepare(Wish),
    /// The settings of a VIP that stays are seen to one by one; then it is put on the loopback link.
    Stay(Staying),
    Keep(VipId),
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
    Looked(Wish),
    Recorded(Wish),
    Set {
        path: String,
    },
    Made(Vec<(Change, Option<VipId>)>),
    Kept,
    PutBack(Setting),
}

#[derive(Clone, Debug)]
struct Held {
    interface: String,
    index: u32,
    prefixes: Vec<Prefix>,
    goodbyes: Vec<Goodbye>,
}

impl Held {
    fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.prefixes.iter().map(|prefix| (self.index, *prefix))
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
    /// In the order in which they were changed: for what is held, and for what stays.
    settings: Vec<Setting>,
    settings_of_stays: Vec<Setting>,
    prepared: BTreeSet<String>,
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
    /// A daemon begins on a host where an earlier one has left `leftovers` and `settings`.
    #[must_use]
    pub fn begun(leftovers: impl IntoIterator<Item = Key>, settings: Vec<Setting>) -> Self {
        let mut this = Self { going: leftovers.into_iter().collect(), settings, ..Self::default() };
        if !this.going.is_empty() || !this.settings.is_empty() {
            this.tasks.extend([Task::Make, Task::UndoAll, Task::Record]);
        }
        this
    }

    /// A program goes on in place of another one. `state` is what that one has recorded, with those of its
    /// addresses that are about to be held again; `found` is what is on the host.
    #[must_use]
    pub fn resumed(state: State, found: impl IntoIterator<Item = Key>) -> Self {
        let mut this = Self {
            inherited: state.addresses.into_iter().collect(),
            going: found.into_iter().collect(),
            settings: state.settings,
            ..Self::default()
        };
        this.going.retain(|key| !this.inherited.contains(key));
        if !this.going.is_empty() || !this.settings.is_empty() {
            this.tasks.extend([Task::Make, Task::Undo]);
        }
        this
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
        self.held.is_empty() && self.stays.is_empty() && self.inherited.is_empty()
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
        let held = |held: &Held| held.index == key.0 && held.prefixes.contains(&key.1);
        self.held.iter().find(|(_, one)| held(one)).map(|(vip, _)| Owner::Held(*vip))
    }

    /// The changes by which everything is renewed.
    #[must_use]
    pub fn renewals(&self) -> Vec<Change> {
        let held = self.held.values().flat_map(Held::keys).map(|key| Change::Hold { key });
        let stays = self.stays.values().flatten().map(|address| Change::Keep { address: *address });
        held.chain(stays).collect()
    }

    /// The program before this one held things that nobody has asked for since: they go.
    pub fn disinherit(&mut self) {
        let inherited = std::mem::take(&mut self.inherited);
        if inherited.is_empty() {
            return;
        }
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
            Order::Hold { vip, number, interface, index, prefixes, goodbyes } => {
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
                self.held.insert(vip, Held { interface, index, prefixes, goodbyes });
            }
            Order::Release { vip, number } => {
                self.ordered(vip, number);
                self.let_go(vip);
            }
            Order::Stay { vip, number, interfaces } => {
                self.ordered(vip, number);
                let Some(held) = self.let_go(vip) else { return };
                // Asked for an address of another interface it says nothing, and asks in its own name.
                // (For IPv6 no interface answers for the address of another one.)
                let wishes = interfaces.iter().flat_map(|interface| {
                    [("arp_ignore", 1), ("arp_announce", 2)].map(|(name, least)| Wish {
                        path: format!("net/ipv4/conf/{interface}/{name}"),
                        least,
                    })
                });
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

    /// The end of a primary address must not delete the secondaries and routes behind it.
    fn prepare(&mut self, interface: &str) {
        if self.prepared.insert(interface.to_owned()) {
            let path = format!("net/ipv4/conf/{interface}/promote_secondaries");
            self.tasks.push_back(Task::Prepare(Wish { path, least: 1 }));
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

    /// A conversation with the kernel broke off; nobody knows what became of it.
    pub fn broken_off(&mut self) {
        self.steps.clear();
        self.tasks.clear();
        self.staying = None;
        self.awaited = None;
        self.prepared.clear();
    }

    /// After that: what is held is held anew, of what is `present` all else goes, and all is settled.
    pub fn again(&mut self, present: impl IntoIterator<Item = Key>) {
        self.unsettled.extend(self.held.keys());
        self.going.extend(present);
        self.going.retain(|key| !self.inherited.contains(key));
        let interfaces: Vec<_> = self.held.values().map(|held| held.interface.clone()).collect();
        interfaces.iter().for_each(|interface| self.prepare(interface));
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
        let keys: Vec<_> = self.held.values().flat_map(Held::keys).collect();
        let stay = std::mem::take(&mut self.stays).into_values().flatten().map(on_loopback);
        self.going.extend(keys.into_iter().chain(stay).chain(std::mem::take(&mut self.inherited)));
        self.held.clear();
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
            Task::Prepare(wish) => self.look(wish),
            Task::Stay(staying) => self.staying = Some(staying),
            Task::Keep(vip) => {
                let addresses = self.stays.get(&vip).into_iter().flatten();
                let batch = addresses.map(|address| Change::Keep { address: *address }).collect();
                self.then(Step::Change { batch, wait: Wait::Routed }, Meaning::Kept);
            }
            Task::Make => self.make(),
            Task::ComeBack(vips) => vips.into_iter().for_each(|vip| self.leave(vip)),
            Task::Settle => {
                self.clear_refused();
                self.tasks.push_front(Task::Tell);
            }
            Task::Tell => self.tell(),
            Task::Undo => self.undo(),
            Task::UndoAll => {
                self.prepared.clear();
                self.put_back(true, true);
            }
            Task::Record => self.record(Meaning::None),
        }
    }

    fn look(&mut self, wish: Wish) {
        self.then(Step::Look { path: wish.path.clone() }, Meaning::Looked(wish));
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
        for vip in &self.unsettled {
            let held = self.held.get(vip).into_iter().flat_map(Held::keys);
            made.extend(held.map(|key| (Change::Hold { key }, Some(*vip))));
        }
        // The guard must know before the kernel does.
        self.record(Meaning::None);
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
        self.change(made, Wait::No);
    }

    fn change(&mut self, made: Vec<(Change, Option<VipId>)>, wait: Wait) {
        if !made.is_empty() {
            let batch = made.iter().map(|(change, _)| *change).collect();
            self.then(Step::Change { batch, wait }, Meaning::Made(made));
        }
    }

    fn tell(&mut self) {
        for vip in std::mem::take(&mut self.unsettled) {
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

    /// Puts back what nothing needs any more.
    fn undo(&mut self) {
        let here = self.held.is_empty() && self.inherited.is_empty();
        if here {
            self.prepared.clear();
        }
        self.put_back(here, self.stays.is_empty());
        self.tasks.push_front(Task::Record);
    }

    /// The last one first.
    fn put_back(&mut self, held: bool, stays: bool) {
        let of_stays = self.settings_of_stays.iter().rev().filter(|_| stays);
        let settings = of_stays.chain(self.settings.iter().rev().filter(|_| held));
        let step = |one: &Setting| (Step::PutBack(one.clone()), Meaning::PutBack(one.clone()));
        self.steps.extend(settings.map(step));
    }

    /// What became of the last step.
    pub fn answer(&mut self, answer: Answer) {
        match (self.awaited.take(), answer) {
            (Some(Meaning::Looked(wish)), Answer::Value(old)) => self.looked(wish, old),
            (Some(Meaning::Recorded(wish)), _) => {
                let Wish { path, least } = wish;
                let set = Step::Set { path: path.clone(), value: least.to_string() };
                self.then(set, Meaning::Set { path });
            }
            (Some(Meaning::Set { path }), Answer::Value(new)) => {
                // The kernel rounds and reformats some values; what it made of this one is what an undo
                // must find.
                if let Some(known) = self.remembered(&path) {
                    known.new = new;
                }
            }
            (Some(Meaning::Looked(Wish { path, .. })), Answer::Failed(why)) => {
                self.not_set(&path, &why);
            }
            (Some(Meaning::Set { path }), Answer::Failed(why)) => {
                self.forget(&path);
                self.not_set(&path, &why);
            }
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

    fn looked(&mut self, wish: Wish, old: String) {
        if old.trim().parse::<u8>().unwrap_or(0) >= wish.least {
            return;
        }
        let new = wish.least.to_string();
        if let Some(known) = self.remembered(&wish.path) {
            known.new = new;
        } else {
            let setting = Setting { path: wish.path.clone(), old, new };
            if self.staying.is_some() {
                self.settings_of_stays.push(setting);
            } else {
                self.settings.push(setting);
            }
        }
        self.record(Meaning::Recorded(wish));
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

    fn made(&mut self, made: &[(Change, Option<VipId>)], results: &[Result<(), i32>]) {
        for ((change, owner), result) in made.iter().zip(results) {
            match (change, result, owner) {
                (Change::Hold { .. }, Err(errno), Some(vip)) => {
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

    fn remembered(&mut self, path: &str) -> Option<&mut Setting> {
        let all = self.settings.iter_mut().chain(&mut self.settings_of_stays);
        all.into_iter().find(|setting| setting.path == path)
    }

    fn forget(&mut self, path: &str) {
        let other = |one: &Setting| one.path != path;
        self.settings.retain(other);
        self.settings_of_stays.retain(other);
    }

    /// What is on the host, or about to be, or still to go from there.
    #[must_use]
    pub fn state(&self) -> State {
        let settings = self.settings.iter().chain(&self.settings_of_stays);
        let mut state = State { settings: settings.cloned().collect(), ..State::default() };
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
