//! The address thread: keeps on the host what the engine wants there, and watches interfaces.
//!
//! VIPs are added with a short lifetime that is renewed only while the engine's heart beats: if this
//! process dies, is stopped, or loses its engine, the kernel ends them. What somebody else takes
//! away is put back at once. The kernel's rtnl lock may be held by others for hundreds of
//! milliseconds, which is why this isn't done by the engine.

mod held;
mod host;
mod listening;
mod own_link;
mod stay;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use standin_core::types::{Instant, Prefix, VipId};
use standin_core::{InterfaceState, Outcome};
use standin_linux::clock::{Timer, now};
use standin_linux::epoll::Poll;
use standin_linux::netlink::{Address, Change, Link, Monitor, Notice, PROTOCOL, Rtnl};
use standin_linux::queue::Taken;
use standin_linux::{output, sched};

use crate::engine::REALTIME_PRIORITY;
use crate::engine::messages::{Beat, FromEngine, Hold, Inbox, Listen, Post, ToAddresses, ToEngine};
use crate::guard::ledger::{Ledger, State};
use held::Held;
use host::{HostSettings, Wanted};
use own_link::Going;
use stay::Stays;

/// An address that isn't renewed is gone after this (tried: 2.0 s for IPv4, 2.2 s for IPv6).
const LIFETIME_S: u32 = 2;

/// Between a failure of netlink and the next try.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Netlink that fails for this long won't mend by itself; the guard starts everything anew.
const GIVE_UP: Duration = Duration::from_secs(5);

/// The kernel makes an IPv6 address usable right after it has taken it.
const USABLE_WITHIN: Duration = Duration::from_millis(20);

const RENEW_EVERY: Duration = Duration::from_millis(500);

/// An engine that hasn't gone round for this long is taken for dead; it does at least every 250 ms.
const ENGINE_DEAD_AFTER: Duration = Duration::from_secs(1);

/// `EEXIST`: a change that was made already is made.
const EEXIST: i32 = 17;
/// `EADDRNOTAVAIL`: an address that should go isn't there.
const EADDRNOTAVAIL: i32 = 99;
/// `ENODEV`: its interface isn't there either.
const ENODEV: i32 = 19;

const TOKEN_TIMER: u64 = 0;
const TOKEN_ORDERS: u64 = 1;
const TOKEN_MONITOR: u64 = 2;

pub(crate) struct Addresses {
    rtnl: Rtnl,
    monitor: Monitor,
    timer: Timer,
    inbox: Inbox<ToAddresses>,
    engine: Post<ToEngine>,
    control: Post<FromEngine>,
    beat: Arc<Beat>,
    ledger: Option<Ledger>,
    settings: HostSettings,
    held: BTreeMap<VipId, Held>,
    stays: Stays,
    /// Links of our own that are to be removed.
    going: Vec<Going>,
    watched: Vec<Watched>,
    own: Vec<IpAddr>,
    /// What the host has, as the kernel last said.
    present: BTreeMap<(u32, Prefix), Address>,
    /// Removals of our own whose notices are still to come.
    expected_gone: BTreeMap<(u32, Prefix), u32>,
    own_reported: Option<Vec<IpAddr>>,
    next_renewal: Instant,
    /// VIPs whose last order hasn't been answered.
    unsettled: BTreeSet<VipId>,
    /// Those among them that the kernel refused, and why.
    refused: BTreeMap<VipId, i32>,
    /// Since when netlink fails.
    failing_since: Option<Instant>,
    /// When everything is looked at anew, after a failure.
    again_at: Instant,
    /// Sockets that couldn't be opened yet.
    deaf: Vec<(Instant, Listen)>,
}

struct Watched {
    name: String,
    reported: Option<(Option<u32>, InterfaceState)>,
    link: Option<Link>,
}

/// Starts the address thread.
///
/// # Errors
/// When netlink can't be opened.
pub(crate) fn start(
    inbox: Inbox<ToAddresses>,
    engine: Post<ToEngine>,
    control: Post<FromEngine>,
    beat: Arc<Beat>,
    ledger: Option<Ledger>,
) -> io::Result<thread::JoinHandle<()>> {
    let mut addresses = Addresses {
        // The monitor first: what changes after the first dump must not be missed.
        monitor: Monitor::open()?,
        rtnl: Rtnl::open()?,
        timer: Timer::new()?,
        inbox,
        engine,
        control,
        beat,
        ledger,
        settings: HostSettings::default(),
        held: BTreeMap::new(),
        stays: Stays::default(),
        going: Vec::new(),
        watched: Vec::new(),
        own: Vec::new(),
        present: BTreeMap::new(),
        expected_gone: BTreeMap::new(),
        own_reported: None,
        next_renewal: Instant::FAR,
        unsettled: BTreeSet::new(),
        refused: BTreeMap::new(),
        failing_since: None,
        again_at: Instant::FAR,
        deaf: Vec::new(),
    };
    // Without it every renewal wakes this thread once more.
    let _ = addresses.monitor.spare_renewals_of(&addresses.rtnl);
    addresses.adopt();
    addresses.remove_leftovers()?;
    thread::Builder::new().name("standin-address".into()).spawn(move || {
        // The engine has complained about the same already.
        let _ = sched::realtime(REALTIME_PRIORITY);
        let run = std::panic::AssertUnwindSafe(|| addresses.run());
        match std::panic::catch_unwind(run) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                output::say(&format!("the address thread can't go on: {error}"));
                std::process::abort();
            }
            Err(_) => std::process::abort(),
        }
    })
}

impl Addresses {
    fn run(&mut self) -> io::Result<()> {
        let poll = Poll::new()?;
        poll.add(self.timer.as_fd(), TOKEN_TIMER)?;
        poll.add(self.inbox.wake.as_fd(), TOKEN_ORDERS)?;
        poll.add(self.monitor.as_fd(), TOKEN_MONITOR)?;
        let mut ready = Vec::new();
        loop {
            poll.wait(&mut ready)?;
            for token in &ready {
                let done = match *token {
                    TOKEN_TIMER => {
                        self.timer.clear();
                        Ok(true)
                    }
                    TOKEN_ORDERS => self.orders(),
                    _ => self.notices().map(|()| true),
                };
                if !self.survive(done)?.unwrap_or(true) {
                    self.undo();
                    return Ok(());
                }
            }
            let renewed = self.renew();
            self.survive(renewed)?;
        }
    }

    /// A conversation with the kernel may fail for a moment: everything is looked at anew then.
    fn survive<T>(&mut self, result: io::Result<T>) -> io::Result<Option<T>> {
        match result {
            Ok(done) => {
                if self.again_at == Instant::FAR {
                    self.failing_since = None;
                }
                Ok(Some(done))
            }
            Err(error) => {
                let time = now();
                let since = *self.failing_since.get_or_insert(time);
                if time.since(since) > GIVE_UP {
                    return Err(error);
                }
                if since == time {
                    self.complain(format!("the kernel's netlink failed ({error}); trying again"));
                }
                self.again_at = time + TRY_AGAIN;
                self.timer.arm(Some(self.again_at))?;
                Ok(None)
            }
        }
    }

    /// Takes all orders and makes one change of them; false once there is nobody left to give any.
    fn orders(&mut self) -> io::Result<bool> {
        self.inbox.wake.clear();
        let mut drops = Vec::new();
        let mut comes_back = Vec::new();
        let mut watch = None;
        let alive = loop {
            match self.inbox.receiver.take() {
                Taken::Message(ToAddresses::Hold(order)) => {
                    let vip = order.vip;
                    comes_back.extend(Some(vip).filter(|vip| self.stays.holds(*vip)));
                    self.hold(order, &mut drops);
                }
                Taken::Message(ToAddresses::Release { vip }) => {
                    self.unsettled.insert(vip);
                    if let Some(held) = self.held.remove(&vip) {
                        self.silence(&held.links);
                        drops.extend(held.keys());
                        self.end_links(held.links);
                    }
                }
                Taken::Message(ToAddresses::Stay { vip }) => {
                    self.unsettled.insert(vip);
                    if let Some(held) = self.held.remove(&vip) {
                        drops.extend(held.keys());
                        self.stay(vip, &held)?;
                    }
                }
                Taken::Message(ToAddresses::Leave { vip }) => drops.extend(self.stays.end(vip)),
                Taken::Message(ToAddresses::Watch { interfaces, own }) => {
                    watch = Some((interfaces, own))
                }
                Taken::Message(ToAddresses::Listen { listen }) => self.listen(listen),
                Taken::Nothing => break true,
                Taken::Message(ToAddresses::End) | Taken::Over => break false,
            }
        };
        self.agree(None);
        self.make(drops)?;
        // On the interface first, then off the loopback link: the sockets notice nothing.
        let back: Vec<_> = comes_back.into_iter().flat_map(|vip| self.stays.end(vip)).collect();
        if !back.is_empty() {
            self.make(back)?;
        }
        if let Some((interfaces, own)) = watch {
            self.watch(interfaces, own)?;
        }
        Ok(alive)
    }

    /// Notes where a VIP's addresses are to be, and which ones have to go for that.
    fn hold(&mut self, order: Hold, drops: &mut Vec<(u32, Prefix)>) {
        let Hold { vip, interface, prefixes, goodbyes, virtual_mac } = order;
        self.unsettled.insert(vip);
        let before = self.held.remove(&vip);
        drops.extend(before.iter().flat_map(Held::keys));
        let Some(index) = self.index_of(&interface) else {
            self.refused.insert(vip, ENODEV);
            return self.end_links(before.map_or_else(Vec::new, |before| before.links));
        };
        let (links, places) = (Vec::new(), Vec::new());
        let mut held = Held { interface, index, virtual_mac, links, places, goodbyes };
        if let Err(errno) = self.settle_places(&mut held, &prefixes) {
            self.refused.insert(vip, errno);
        }
        let left = before.map_or_else(Vec::new, |before| before.links).into_iter();
        let left = left.filter(|old| held.links.iter().all(|link| link.index != old.index));
        self.end_links(left.collect());
        if virtual_mac.is_some() {
            // The interface itself may have had it, from before the VIP had a MAC of its own.
            let there = |prefix: &Prefix| self.present.contains_key(&(index, *prefix));
            drops.extend(prefixes.iter().filter(|prefix| there(prefix)).map(|one| (index, *one)));
        }
        self.held.insert(vip, held);
    }

    /// Sees to the settings that what is held and stays needs, and what is `going` did; says which of those
    /// that keep the host silent couldn't be set.
    fn agree(&mut self, going: Option<&Held>) -> Vec<(String, io::Error)> {
        let mut wanted = Wanted::new();
        for held in self.held.values().chain(going) {
            host::want_secondaries(&mut wanted, &held.interface);
            if held.virtual_mac.is_some() {
                host::want_no_answer_for_ours(&mut wanted, &held.interface);
            }
        }
        self.stays.want(&mut wanted);
        let failed = self.settings.agree(wanted);
        for (path, error) in failed.to_put_back {
            self.complain(format!("couldn't put {path} back: {error}"));
        }
        // Without promote_secondaries the addresses still work; the node's own are put back by nobody,
        // though, so `standin check` looks whether it can be set.
        let silences = |(path, _): &(String, io::Error)| !path.ends_with("promote_secondaries");
        failed.to_set.into_iter().filter(silences).collect()
    }

    fn index_of(&self, interface: &str) -> Option<u32> {
        let watched = self.watched.iter().find(|watched| watched.name == interface)?;
        Some(watched.link.as_ref()?.index)
    }

    /// Makes the host have what is wanted of VIPs that aren't settled, and lose `drops`.
    fn make(&mut self, mut drops: Vec<(u32, Prefix)>) -> io::Result<()> {
        // What one VIP lets go, another one may hold by now.
        drops.retain(|key| !self.is_held(*key));
        let drop =
            |(index, prefix): &(u32, Prefix)| Change::Drop { index: *index, prefix: *prefix };
        let mut batch: Vec<_> = drops.iter().map(drop).collect();
        let mut owners = vec![None; batch.len()];
        for vip in &self.unsettled {
            let Some(held) = self.held.get(vip) else { continue };
            batch.extend(held.changes());
            owners.resize(batch.len(), Some(*vip));
        }
        // The guard must know before the kernel does.
        self.record(&drops);
        for key in drops {
            if self.present.contains_key(&key) {
                *self.expected_gone.entry(key).or_default() += 1;
            }
        }
        let mut results = Vec::with_capacity(batch.len());
        if !batch.is_empty() {
            // What is announced too early costs its clients their first packets.
            self.rtnl.change_and_wait(&batch, &mut results, USABLE_WITHIN)?;
        }
        for ((change, result), owner) in batch.iter().zip(&results).zip(owners) {
            match (change, result, owner) {
                (Change::Hold { .. }, Err(errno), Some(vip)) if *errno != EEXIST => {
                    self.refused.insert(vip, *errno);
                }
                (Change::Drop { prefix, .. }, Err(errno), _)
                    if !matches!(*errno, EADDRNOTAVAIL | ENODEV) =>
                {
                    self.complain(format!("couldn't remove {prefix}: errno {errno}"));
                }
                _ => {}
            }
        }
        self.settle()
    }

    /// Tells the engine what became of its orders.
    fn settle(&mut self) -> io::Result<()> {
        let refused: Vec<_> = self.refused.keys().copied().collect();
        for vip in refused {
            // A VIP of which one address was refused isn't held at all.
            let Some(held) = self.held.remove(&vip) else { continue };
            let keys: Vec<_> = held.keys().filter(|key| !self.is_held(*key)).collect();
            self.end_links(held.links);
            let drop =
                |(index, prefix): &(u32, Prefix)| Change::Drop { index: *index, prefix: *prefix };
            let batch: Vec<_> = keys.iter().map(drop).collect();
            // Those that were refused aren't there.
            self.rtnl.change(&batch, &mut Vec::new())?;
        }
        for vip in std::mem::take(&mut self.unsettled) {
            self.let_speak(vip);
            let outcome = match (self.refused.remove(&vip), self.held.contains_key(&vip)) {
                (Some(errno), _) => Outcome::Refused { errno },
                (None, true) => Outcome::Held,
                (None, false) => Outcome::Released,
            };
            self.tell(ToEngine::Settled { vip, outcome });
        }
        self.agree(None);
        let nothing = self.held.is_empty() && self.stays.is_empty();
        if !nothing && self.next_renewal == Instant::FAR {
            self.next_renewal = now() + RENEW_EVERY;
        }
        self.record(&[]);
        Ok(())
    }

    /// After a failure: what is held is held anew, what isn't is taken away, and all is settled.
    fn again(&mut self) -> io::Result<()> {
        self.dump()?;
        let ours = |address: &&Address| address.protocol == PROTOCOL;
        let keys = self.present.values().filter(ours).map(|one| (one.index, one.prefix)).collect();
        self.unsettled.extend(self.held.keys());
        self.make(keys)?;
        self.report();
        self.again_at = Instant::FAR;
        Ok(())
    }

    /// Writes down what is on the host or about to be, and what is `going` from there.
    fn record(&self, going: &[(u32, Prefix)]) {
        let Some(ledger) = &self.ledger else { return };
        let settings = self.settings.changes().to_vec();
        let mut state = State { settings, ..State::default() };
        state.links.extend(self.going.iter().map(|going| going.index));
        state.addresses.extend(self.stays.keys());
        for held in self.held.values() {
            state.addresses.extend(held.keys());
            state.links.extend(held.links.iter().map(|link| link.index));
            state.goodbyes.extend(held.goodbyes.iter().cloned());
        }
        state.addresses.extend(going);
        if !ledger.write(&state) {
            self.complain("too much is held for the guard's ledger; it guards less".into());
        }
    }

    /// Renews every lifetime while the engine lives.
    fn renew(&mut self) -> io::Result<()> {
        let time = now();
        if self.held.is_empty() && self.stays.is_empty() {
            self.next_renewal = Instant::FAR;
        } else if self.next_renewal <= time {
            self.next_renewal = time + RENEW_EVERY;
            if self.beat.age(time) < ENGINE_DEAD_AFTER {
                let held = self.held.values().flat_map(Held::changes);
                let batch: Vec<_> = held.chain(self.stays.changes()).collect();
                self.rtnl.renew(&batch)?;
            }
        }
        if self.again_at <= time {
            self.again()?;
        }
        self.listen_again(time);
        self.remove_links(time);
        let going = self.going.iter().map(|going| going.at).min().unwrap_or(Instant::FAR);
        let deaf = self.deaf.iter().map(|(at, _)| *at).min().unwrap_or(Instant::FAR);
        let deadline = self.next_renewal.min(self.again_at).min(deaf).min(going);
        self.timer.arm(Some(deadline).filter(|at| *at != Instant::FAR))
    }

    fn notices(&mut self) -> io::Result<()> {
        let mut notices = Vec::new();
        self.monitor.read(&mut notices)?;
        let mut own_primary = false;
        for notice in notices {
            match notice {
                Notice::Link(link) => {
                    self.own_link_changed(&link);
                    self.link(link);
                }
                Notice::LinkGone { index } => {
                    for watched in &mut self.watched {
                        if watched.link.as_ref().is_some_and(|link| link.index == index) {
                            watched.link = None;
                        }
                    }
                    self.present.retain(|(of, _), _| *of != index);
                    self.own_link_gone(index)?;
                }
                Notice::Address(address) => {
                    let key = (address.index, address.prefix);
                    own_primary |= !self.is_held(key) && !self.present.contains_key(&key);
                    self.present.insert(key, address);
                }
                Notice::AddressGone(address) => self.gone((address.index, address.prefix))?,
                Notice::Route => {}
                Notice::Overflow => self.dump()?,
            }
        }
        if own_primary {
            self.yield_primary()?;
        }
        self.report();
        Ok(())
    }

    fn link(&mut self, link: Link) {
        for watched in &mut self.watched {
            let renamed = watched.link.as_ref().is_some_and(|known| known.index == link.index);
            if watched.name == link.name {
                watched.link = Some(link.clone());
            } else if renamed {
                watched.link = None;
            }
        }
    }

    /// An address is gone; if it is one that should be here, puts it back.
    fn gone(&mut self, key: (u32, Prefix)) -> io::Result<()> {
        self.present.remove(&key);
        if let Some(count) = self.expected_gone.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.expected_gone.remove(&key);
            }
            return Ok(());
        }
        if self.stays.has(key) {
            return self.rtnl.change(&[stay::change(key.1.address())], &mut Vec::new());
        }
        let owner = self.held.iter().find_map(|(vip, held)| Some((*vip, held.place(key)?)));
        let Some((vip, place)) = owner else { return Ok(()) };
        if self.beat.age(now()) >= ENGINE_DEAD_AFTER {
            return Ok(());
        }
        let mut results = Vec::new();
        self.rtnl.change(&[place.change()], &mut results)?;
        match results.first() {
            // Its interface went, and took it along: the engine hears of that, and nobody refused.
            Some(Err(ENODEV)) => {}
            Some(Err(errno)) if *errno != EEXIST => {
                self.refused.insert(vip, *errno);
                self.unsettled.insert(vip);
                self.settle()?;
            }
            _ => self.tell(ToEngine::Restored { vip, address: key.1.address() }),
        }
        Ok(())
    }

    /// A VIP must not be the primary of a subnet that holds another address of this host: the end
    /// of a primary takes its secondaries along, and the host's own connections come from it.
    fn yield_primary(&mut self) -> io::Result<()> {
        let mut batch = Vec::new();
        for address in self.rtnl.addresses()? {
            let key = (address.index, address.prefix);
            let shares = |other: &Address| {
                other.secondary
                    && other.index == address.index
                    && other.prefix.prefix_len() == address.prefix.prefix_len()
                    && address.prefix.contains(other.prefix.address())
                    && !self.is_held((other.index, other.prefix))
            };
            let v4 = matches!(address.prefix.address(), IpAddr::V4(_));
            if v4 && !address.secondary && self.is_held(key) && self.present.values().any(shares) {
                *self.expected_gone.entry(key).or_default() += 1;
                let (index, prefix) = key;
                batch.push(Change::Drop { index, prefix });
                batch.push(Change::Hold { index, prefix, valid_s: LIFETIME_S });
            }
        }
        if batch.is_empty() { Ok(()) } else { self.rtnl.change(&batch, &mut Vec::new()) }
    }

    fn is_held(&self, key: (u32, Prefix)) -> bool {
        self.stays.has(key) || self.held.values().any(|held| held.has(key))
    }

    fn watch(&mut self, interfaces: Vec<String>, own: Vec<IpAddr>) -> io::Result<()> {
        let fresh = |name| Watched { name, reported: None, link: None };
        self.watched = interfaces.into_iter().map(fresh).collect();
        self.own = own;
        self.own_reported = None;
        self.dump()?;
        self.report();
        Ok(())
    }

    /// Reads everything anew: at the start, and when notices were lost.
    fn dump(&mut self) -> io::Result<()> {
        let links = self.rtnl.links()?;
        for watched in &mut self.watched {
            watched.link = links.iter().find(|link| link.name == watched.name).cloned();
        }
        self.expected_gone.clear();
        let before = std::mem::take(&mut self.present);
        for address in self.rtnl.addresses()? {
            self.present.insert((address.index, address.prefix), address);
        }
        let lost: Vec<_> =
            before.into_keys().filter(|key| !self.present.contains_key(key)).collect();
        lost.into_iter().try_for_each(|key| self.gone(key))?;
        let own = self.held.values().flat_map(|held| &held.links).map(|link| link.index);
        let is_there = |index: &u32| links.iter().any(|link| link.index == *index);
        let gone: Vec<u32> = own.filter(|index| !is_there(index)).collect();
        gone.into_iter().try_for_each(|index| self.own_link_gone(index))
    }

    /// Tells the engine what has changed since it was last told.
    fn report(&mut self) {
        let mut news = Vec::new();
        for watched in &mut self.watched {
            let link = watched.link.as_ref();
            let index = link.map(|link| link.index);
            let mine = |address: &&Address| Some(address.index) == index && usable(address);
            let link_local = self.present.values().filter(mine).find_map(|address| {
                match address.prefix.address() {
                    IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
                    _ => None,
                }
            });
            let state = InterfaceState {
                up: link.is_some_and(|link| link.up),
                mac: link.and_then(|link| link.mac),
                link_local,
                ..InterfaceState::default()
            };
            if watched.reported != Some((index, state)) {
                watched.reported = Some((index, state));
                news.push(ToEngine::Interface { name: watched.name.clone(), index, state });
            }
        }
        let here = |own: &&IpAddr| {
            self.present.values().any(|one| one.prefix.address() == **own && usable(one))
        };
        let own: Vec<_> = self.own.iter().filter(here).copied().collect();
        if self.own_reported.as_ref() != Some(&own) {
            self.own_reported = Some(own.clone());
            news.push(ToEngine::OwnAddresses(own));
        }
        news.into_iter().for_each(|one| self.tell(one));
    }

    /// Takes over the settings that the program before this one had changed.
    fn adopt(&mut self) {
        if let Some(ledger) = &self.ledger {
            let state = ledger.read();
            self.settings.resume(state.settings);
            self.inherit(state.links);
        }
    }

    /// Addresses that an earlier standin left behind when it was killed.
    fn remove_leftovers(&mut self) -> io::Result<()> {
        // What a program held that was replaced in place is about to be held again.
        let kept = self.ledger.as_ref().map(Ledger::read).unwrap_or_default();
        let links = self.rtnl.links()?.into_iter().filter(Link::is_of_vip).map(|link| link.index);
        let links: Vec<u32> = links.filter(|index| !kept.links.contains(index)).collect();
        let leftovers: Vec<_> = self
            .rtnl
            .addresses()?
            .into_iter()
            .filter(|address| {
                address.protocol == PROTOCOL
                    && !kept.addresses.contains(&(address.index, address.prefix))
            })
            .map(|address| Change::Drop { index: address.index, prefix: address.prefix })
            .collect();
        if leftovers.is_empty() && links.is_empty() {
            return Ok(());
        }
        self.complain(format!(
            "removed {} addresses and {} links that an earlier standin had left on this host",
            leftovers.len(),
            links.len()
        ));
        self.rtnl.change(&leftovers, &mut Vec::new())?;
        // Who doesn't let go of them has been told of by name.
        if links.is_empty() { Ok(()) } else { self.rtnl.remove_links(&links) }
    }

    /// The engine has gone for good: leaves the host as it was found.
    fn undo(&mut self) {
        let keys = self.held.values().flat_map(Held::keys).chain(self.stays.keys());
        let batch: Vec<_> = keys.map(|(index, prefix)| Change::Drop { index, prefix }).collect();
        let links: Vec<_> = self.held.values().flat_map(|held| held.links.clone()).collect();
        self.silence(&links);
        if !batch.is_empty() {
            // What can't be removed runs out.
            let _ = self.rtnl.change(&batch, &mut Vec::new());
        }
        self.held.clear();
        self.stays.forget();
        self.end_links(links);
        self.remove_links(Instant::FAR);
        let failed = self.settings.undo();
        self.record(&[]);
        for (path, error) in failed {
            self.complain(format!("couldn't put {path} back: {error}"));
        }
    }

    /// Waits if the engine is busy: an engine that is stuck must not have its addresses renewed.
    fn tell(&self, message: ToEngine) {
        // An engine that has gone needs to know nothing.
        let _ = self.engine.send(message);
    }

    fn complain(&self, complaint: String) {
        // A full queue has worse news in it already.
        let _ = self.control.offer(FromEngine::Complaint(complaint));
    }
}

/// Whether packets can be sent from the address.
const fn usable(address: &Address) -> bool {
    !address.tentative && !address.dad_failed
}
