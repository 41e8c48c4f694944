//! The address thread: keeps on the host what the engine wants there, and watches interfaces.
//!
//! VIPs are added with a short lifetime that is renewed only while the engine's heart beats: if this
//! process dies, is stopped, or loses its engine, the kernel ends them. What somebody else takes
//! away is put back at once. The kernel's rtnl lock may be held by others for hundreds of
//! milliseconds, which is why this isn't done by the engine.

mod host;

use std::collections::BTreeMap;
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
use standin_linux::netlink::{Address, Change, Monitor, Notice, PROTOCOL, Rtnl};
use standin_linux::sched;

use crate::engine::REALTIME_PRIORITY;
use crate::engine::messages::{Beat, FromEngine, Inbox, Post, ToAddresses, ToEngine};
use crate::guard::ledger::{Goodbye, Ledger, State};
use host::HostSettings;

/// An address that isn't renewed is gone after this (tried: 2.0 s for IPv4, 2.2 s for IPv6).
const LIFETIME_S: u32 = 2;

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
    watched: Vec<Watched>,
    own: Vec<IpAddr>,
    /// What the host has, as the kernel last said.
    present: BTreeMap<(u32, Prefix), Address>,
    /// Removals of our own whose notices are still to come.
    expected_gone: BTreeMap<(u32, Prefix), u32>,
    own_reported: Option<Vec<IpAddr>>,
    next_renewal: Instant,
}

struct Held {
    index: u32,
    prefixes: Vec<Prefix>,
    goodbyes: Vec<Goodbye>,
}

/// What an order asks to be held.
struct Wanted {
    interface: String,
    prefixes: Vec<Prefix>,
    goodbyes: Vec<Goodbye>,
}

struct Watched {
    name: String,
    reported: Option<(Option<u32>, InterfaceState)>,
    link: Option<standin_linux::netlink::Link>,
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
        watched: Vec::new(),
        own: Vec::new(),
        present: BTreeMap::new(),
        expected_gone: BTreeMap::new(),
        own_reported: None,
        next_renewal: Instant::FAR,
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
                eprintln!("standin: the address thread can't go on: {error}");
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
                match *token {
                    TOKEN_TIMER => self.timer.clear(),
                    TOKEN_ORDERS => {
                        if !self.orders()? {
                            self.undo();
                            return Ok(());
                        }
                    }
                    _ => self.notices()?,
                }
            }
            self.renew()?;
        }
    }

    /// Takes all orders and makes one batch of them; false once there is nobody left to give any.
    fn orders(&mut self) -> io::Result<bool> {
        use std::sync::mpsc::TryRecvError;
        self.inbox.wake.clear();
        let (mut batch, mut vips) = (Vec::new(), Vec::new());
        let alive = loop {
            match self.inbox.receiver.try_recv() {
                Ok(ToAddresses::Hold { vip, interface, prefixes, goodbyes }) => {
                    let wanted = Wanted { interface, prefixes, goodbyes };
                    self.hold(vip, wanted, &mut batch, &mut vips);
                }
                Ok(ToAddresses::Release { vip }) => {
                    if let Some(held) = self.held.remove(&vip) {
                        for prefix in held.prefixes {
                            batch.push(Change::Drop { index: held.index, prefix });
                            vips.push((vip, Outcome::Released));
                        }
                    } else {
                        self.tell(ToEngine::Settled { vip, outcome: Outcome::Released });
                    }
                }
                Ok(ToAddresses::Watch { interfaces, own }) => {
                    self.watch(interfaces, own)?;
                }
                Err(TryRecvError::Empty) => break true,
                Ok(ToAddresses::End) | Err(TryRecvError::Disconnected) => break false,
            }
        };
        if !batch.is_empty() {
            // The guard must know before the kernel does.
            self.record(&batch);
            self.apply(&batch, &vips)?;
            self.record(&[]);
        }
        if self.held.is_empty() {
            self.settings.undo_interfaces();
        }
        if !self.held.is_empty() && self.next_renewal == Instant::FAR {
            self.next_renewal = now() + RENEW_EVERY;
        }
        Ok(alive)
    }

    fn hold(
        &mut self,
        vip: VipId,
        wanted: Wanted,
        batch: &mut Vec<Change>,
        vips: &mut Vec<(VipId, Outcome)>,
    ) {
        let Wanted { interface, prefixes, goodbyes } = wanted;
        let link = self.watched.iter().find(|watched| watched.name == interface);
        let Some(index) = link.and_then(|watched| Some(watched.link.as_ref()?.index)) else {
            self.tell(ToEngine::Settled { vip, outcome: Outcome::Refused { errno: ENODEV } });
            return;
        };
        if let Some(before) = self.held.get(&vip) {
            for prefix in before.prefixes.iter().filter(|prefix| !prefixes.contains(prefix)) {
                batch.push(Change::Drop { index: before.index, prefix: *prefix });
                vips.push((vip, Outcome::Held));
            }
        }
        self.settings.prepare(&interface);
        for prefix in &prefixes {
            batch.push(Change::Hold { index, prefix: *prefix, valid_s: LIFETIME_S });
            vips.push((vip, Outcome::Held));
        }
        self.held.insert(vip, Held { index, prefixes, goodbyes });
    }

    /// Writes down what is on the host, and what `coming` is about to put there or take away.
    fn record(&self, coming: &[Change]) {
        let Some(ledger) = &self.ledger else { return };
        let mut state = State { settings: self.settings.changes().to_vec(), ..State::default() };
        for held in self.held.values() {
            state.addresses.extend(held.prefixes.iter().map(|prefix| (held.index, *prefix)));
            state.goodbyes.extend(held.goodbyes.iter().cloned());
        }
        for change in coming {
            if let Change::Drop { index, prefix } = change {
                state.addresses.push((*index, *prefix));
            }
        }
        if !ledger.write(&state) {
            self.complain("too much is held for the guard's ledger; it guards less".into());
        }
    }

    /// Makes the changes; `vips` says for each whose it is and what success means.
    fn apply(&mut self, batch: &[Change], vips: &[(VipId, Outcome)]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        for change in batch {
            if let Change::Drop { index, prefix } = change
                && self.present.contains_key(&(*index, *prefix))
            {
                *self.expected_gone.entry((*index, *prefix)).or_default() += 1;
            }
        }
        let mut results = Vec::with_capacity(batch.len());
        self.rtnl.change(batch, &mut results)?;
        let mut outcomes: BTreeMap<VipId, Outcome> = BTreeMap::new();
        for ((change, result), (vip, good)) in batch.iter().zip(&results).zip(vips) {
            let outcome = match (change, result) {
                (Change::Drop { .. }, _) | (Change::Hold { .. }, Ok(()) | Err(EEXIST)) => *good,
                (Change::Hold { .. }, Err(errno)) => Outcome::Refused { errno: *errno },
            };
            if let (Change::Drop { prefix, .. }, Err(errno)) = (change, result)
                && !matches!(*errno, EADDRNOTAVAIL | ENODEV)
            {
                self.complain(format!("couldn't remove {prefix}: errno {errno}"));
            }
            let worst = outcomes.entry(*vip).or_insert(outcome);
            if matches!(outcome, Outcome::Refused { .. }) {
                *worst = outcome;
            }
        }
        for (vip, outcome) in outcomes {
            if matches!(outcome, Outcome::Refused { .. }) {
                self.drop_refused(vip)?;
            }
            self.tell(ToEngine::Settled { vip, outcome });
        }
        Ok(())
    }

    /// A VIP of which one address was refused isn't held at all.
    fn drop_refused(&mut self, vip: VipId) -> io::Result<()> {
        let Some(held) = self.held.remove(&vip) else { return Ok(()) };
        let drop = |prefix: &Prefix| Change::Drop { index: held.index, prefix: *prefix };
        let batch: Vec<_> = held.prefixes.iter().map(drop).collect();
        // Those that were refused aren't there.
        self.rtnl.change(&batch, &mut Vec::new())
    }

    /// Renews every lifetime while the engine lives.
    fn renew(&mut self) -> io::Result<()> {
        let time = now();
        if self.held.is_empty() {
            self.next_renewal = Instant::FAR;
        } else if self.next_renewal <= time {
            self.next_renewal = time + RENEW_EVERY;
            if self.beat.age(time) < ENGINE_DEAD_AFTER {
                let batch: Vec<_> = self.held.values().flat_map(Held::changes).collect();
                self.rtnl.renew(&batch)?;
            }
        }
        let deadline = Some(self.next_renewal).filter(|at| *at != Instant::FAR);
        self.timer.arm(deadline)
    }

    fn notices(&mut self) -> io::Result<()> {
        let mut notices = Vec::new();
        self.monitor.read(&mut notices)?;
        let mut own_primary = false;
        for notice in notices {
            match notice {
                Notice::Link(link) => self.link(link),
                Notice::LinkGone { index } => {
                    for watched in &mut self.watched {
                        if watched.link.as_ref().is_some_and(|link| link.index == index) {
                            watched.link = None;
                        }
                    }
                    self.present.retain(|(of, _), _| *of != index);
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

    fn link(&mut self, link: standin_linux::netlink::Link) {
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
        let owner = self
            .held
            .iter()
            .find(|(_, held)| held.index == key.0 && held.prefixes.contains(&key.1))
            .map(|(vip, _)| *vip);
        let Some(vip) = owner else { return Ok(()) };
        if self.beat.age(now()) >= ENGINE_DEAD_AFTER {
            return Ok(());
        }
        let change = Change::Hold { index: key.0, prefix: key.1, valid_s: LIFETIME_S };
        let mut results = Vec::new();
        self.rtnl.change(&[change], &mut results)?;
        match results.first() {
            // Its interface went, and took it along: the engine hears of that, and nobody refused.
            Some(Err(ENODEV)) => {}
            Some(Err(errno)) if *errno != EEXIST => {
                let errno = *errno;
                self.drop_refused(vip)?;
                self.tell(ToEngine::Settled { vip, outcome: Outcome::Refused { errno } });
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
        self.held.values().any(|held| held.index == key.0 && held.prefixes.contains(&key.1))
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
        lost.into_iter().try_for_each(|key| self.gone(key))
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
            self.settings.resume(ledger.read().settings);
        }
    }

    /// Addresses that an earlier standin left behind when it was killed.
    fn remove_leftovers(&mut self) -> io::Result<()> {
        // What a program held that was replaced in place is about to be held again.
        let kept = self.ledger.as_ref().map(Ledger::read).unwrap_or_default().addresses;
        let leftovers: Vec<_> = self
            .rtnl
            .addresses()?
            .into_iter()
            .filter(|address| {
                address.protocol == PROTOCOL && !kept.contains(&(address.index, address.prefix))
            })
            .map(|address| Change::Drop { index: address.index, prefix: address.prefix })
            .collect();
        if leftovers.is_empty() {
            return Ok(());
        }
        self.complain(format!(
            "removed {} addresses that an earlier standin had left on this host",
            leftovers.len()
        ));
        self.rtnl.change(&leftovers, &mut Vec::new())
    }

    /// The engine has gone for good: leaves the host as it was found.
    fn undo(&mut self) {
        let drops = |held: &Held| -> Vec<_> {
            let drop = |prefix: &Prefix| Change::Drop { index: held.index, prefix: *prefix };
            held.prefixes.iter().map(drop).collect()
        };
        let batch: Vec<_> = self.held.values().flat_map(drops).collect();
        if !batch.is_empty() {
            // What can't be removed runs out.
            let _ = self.rtnl.change(&batch, &mut Vec::new());
        }
        self.held.clear();
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

impl Held {
    fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.prefixes.iter().map(|prefix| Change::Hold {
            index: self.index,
            prefix: *prefix,
            valid_s: LIFETIME_S,
        })
    }
}

/// Whether packets can be sent from the address.
const fn usable(address: &Address) -> bool {
    !address.tentative && !address.dad_failed
}
