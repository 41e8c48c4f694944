//! The address thread: keeps on the host what the engine wants there, and watches interfaces.
//!
//! VIPs are added with a short lifetime that is renewed only while the engine's heart beats: if this
//! process dies, is stopped, or loses its engine, the kernel ends them. What somebody else takes
//! away is put back at once. The kernel's rtnl lock may be held by others for hundreds of
//! milliseconds, which is why this isn't done by the engine.

mod listening;
mod own;
mod own_link;
mod steps;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use standin_core::InterfaceState;
use standin_core::guard::{Key, OwnLink, State};
use standin_core::holding::{Holding, Order, Owner};
use standin_core::types::{Instant, Prefix};
use standin_linux::clock::{Timer, now};
use standin_linux::epoll::Poll;
use standin_linux::netlink::{Address, Change, Link, Monitor, Notice, PROTOCOL, Rtnl};
use standin_linux::queue::Taken;
use standin_linux::{output, sched};

use crate::engine::REALTIME_PRIORITY;
use crate::engine::messages::{Beat, FromEngine, Hold, Inbox, Listen, Post, ToAddresses, ToEngine};
use crate::guard::ledger::Ledger;
use crate::left::Left;
use own::Own;

/// An address that isn't renewed is gone after this (tried: 2.0 s for IPv4, 2.2 s for IPv6).
const LIFETIME_S: u32 = 2;

/// Between a failure of netlink and the next try.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Netlink that fails for this long won't mend by itself; the guard starts everything anew.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Frames that were on their way to a link of our own when its VIP moved as planned: the other node
/// announces it within milliseconds, and four times more in the first 620.
const LINGERS: Duration = Duration::from_secs(1);

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
    left: Left,
    holding: Holding,
    watched: Vec<Watched>,
    own: Own,
    /// What the host has, as the kernel last said.
    present: BTreeMap<(u32, Prefix), Address>,
    /// Removals of our own whose notices are still to come.
    expected_gone: BTreeMap<(u32, Prefix), u32>,
    next_renewal: Instant,
    /// Until when links hear that were given up.
    lingers_until: Instant,
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

/// Starts the address thread; `kept` are the addresses that a program before this one held, and that this one
/// is about to hold.
///
/// # Errors
/// When netlink can't be opened, or leftovers can't be removed.
pub(crate) fn start(
    inbox: Inbox<ToAddresses>,
    engine: Post<ToEngine>,
    control: Post<FromEngine>,
    beat: Arc<Beat>,
    ledger: Option<Ledger>,
    run_dir: &Path,
    kept: &[Prefix],
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
        left: Left::at(run_dir),
        holding: Holding::default(),
        watched: Vec::new(),
        own: Own::default(),
        present: BTreeMap::new(),
        expected_gone: BTreeMap::new(),
        next_renewal: Instant::FAR,
        lingers_until: Instant::FAR,
        failing_since: None,
        again_at: Instant::FAR,
        deaf: Vec::new(),
    };
    // Without it every renewal wakes this thread once more.
    let _ = addresses.monitor.spare_renewals_of(&addresses.rtnl);
    addresses.begin(kept)?;
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
    ///
    /// Each of them is taken down before the kernel is asked for anything: where that fails, the rest
    /// follows with [`Addresses::again`], and an end with [`Addresses::undo`].
    fn orders(&mut self) -> io::Result<bool> {
        self.inbox.wake.clear();
        let mut orders = Vec::new();
        let mut watch = None;
        let alive = loop {
            match self.inbox.receiver.take() {
                Taken::Message(ToAddresses::Hold(hold)) => {
                    let index = self.index_of(&hold.interface);
                    let Hold { vip, number, interface, prefixes, goodbyes, virtual_mac } = hold;
                    orders.push(Order::Hold {
                        vip,
                        number,
                        interface,
                        index,
                        prefixes,
                        goodbyes,
                        virtual_mac,
                    });
                }
                Taken::Message(ToAddresses::Release { vip, number }) => {
                    orders.push(Order::Release { vip, number });
                }
                Taken::Message(ToAddresses::Stay { vip, number }) => {
                    // That of the VIP, and those over which peers ask who has it.
                    let there = |watched: &&Watched| watched.link.is_some();
                    let interfaces = self.watched.iter().filter(there);
                    let interfaces = interfaces.map(|watched| watched.name.clone()).collect();
                    self.lingers_until = now() + LINGERS;
                    orders.push(Order::Stay { vip, number, interfaces });
                }
                Taken::Message(ToAddresses::Leave { vip }) => orders.push(Order::Leave { vip }),
                Taken::Message(ToAddresses::Watch { interfaces, own }) => {
                    watch = Some((interfaces, own))
                }
                Taken::Message(ToAddresses::Listen { listen }) => self.listen(listen),
                Taken::Nothing => break true,
                Taken::Message(ToAddresses::End) | Taken::Over => break false,
            }
        };
        if !orders.is_empty() {
            self.holding.orders(orders);
        }
        let looks = watch.is_some();
        if let Some((interfaces, own)) = watch {
            self.watch(interfaces, own);
        }
        let worked = self.work();
        if !alive {
            return Ok(false);
        }
        worked?;
        if looks {
            self.dump()?;
            self.report();
        }
        Ok(true)
    }

    fn index_of(&self, interface: &str) -> Option<u32> {
        let watched = self.watched.iter().find(|watched| watched.name == interface)?;
        Some(watched.link.as_ref()?.index)
    }

    /// After a failure: what is held is held anew, what isn't is taken away, and all is settled.
    fn again(&mut self) -> io::Result<()> {
        self.dump()?;
        let ours = |address: &&Address| address.protocol == PROTOCOL;
        let keys: Vec<_> =
            self.present.values().filter(ours).map(|one| (one.index, one.prefix)).collect();
        self.holding.again(keys);
        self.work()?;
        self.report();
        self.again_at = Instant::FAR;
        Ok(())
    }

    /// Renews every lifetime while the engine lives.
    fn renew(&mut self) -> io::Result<()> {
        let time = now();
        if self.holding.is_empty() {
            self.next_renewal = Instant::FAR;
        } else if self.next_renewal == Instant::FAR {
            self.next_renewal = time + RENEW_EVERY;
        } else if self.next_renewal <= time {
            self.next_renewal = time + RENEW_EVERY;
            self.holding.disinherit();
            self.work()?;
            if self.beat.age(time) < ENGINE_DEAD_AFTER {
                let batch: Vec<_> =
                    self.holding.renewals().into_iter().map(steps::change).collect();
                self.rtnl.renew(&batch)?;
            }
        }
        if self.lingers_until <= time {
            self.lingers_until = Instant::FAR;
            self.holding.lingered();
            self.work()?;
        }
        if self.again_at <= time {
            self.again()?;
        }
        self.listen_again(time);
        if self.own.due() <= time {
            self.report();
        }
        let deaf = self.deaf.iter().map(|(at, _)| *at).min().unwrap_or(Instant::FAR);
        let deadline = self.next_renewal.min(self.again_at).min(deaf).min(self.own.due());
        let deadline = deadline.min(self.lingers_until);
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
        let vip = match self.holding.owner(key) {
            None => return Ok(()),
            Some(Owner::Stays) => {
                let back = steps::keep(key.1.address());
                return self.rtnl.change(&[back], &mut Vec::new());
            }
            Some(Owner::Held(vip)) => vip,
        };
        if self.beat.age(now()) >= ENGINE_DEAD_AFTER {
            return Ok(());
        }
        let Some(change) = self.holding.renewal_of(key).map(steps::change) else { return Ok(()) };
        let mut results = Vec::new();
        self.rtnl.change(&[change], &mut results)?;
        match results.first() {
            // Its interface went, and took it along: the engine hears of that, and nobody refused.
            Some(Err(ENODEV)) => {}
            Some(Err(errno)) if *errno != EEXIST => {
                self.holding.refuse(vip, *errno);
                self.work()?;
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

    fn is_held(&self, key: Key) -> bool {
        self.holding.owner(key).is_some()
    }

    /// These are looked at from the next dump on.
    fn watch(&mut self, interfaces: Vec<String>, own: Vec<IpAddr>) {
        let fresh = |name| Watched { name, reported: None, link: None };
        self.watched = interfaces.into_iter().map(fresh).collect();
        self.own.watch(own);
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
        self.miss_links(&links)
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
        let here = |own: &IpAddr| {
            self.present.values().any(|one| one.prefix.address() == *own && usable(one))
        };
        news.extend(self.own.news(now(), here).map(ToEngine::OwnAddresses));
        news.into_iter().for_each(|one| self.tell(one));
    }

    /// Removes what an earlier standin left behind when it was killed, unless this program goes on in
    /// its place: what it held is about to be held again.
    fn begin(&mut self, kept: &[Prefix]) -> io::Result<()> {
        let ours = |address: &Address| address.protocol == PROTOCOL;
        let found = self.rtnl.addresses()?.into_iter().filter(ours);
        let found: Vec<Key> = found.map(|address| (address.index, address.prefix)).collect();
        let mut recorded = self.ledger.as_ref().map(Ledger::read).unwrap_or_default();
        // What the program before this one was about to take away isn't held again.
        recorded.addresses.retain(|(_, prefix)| kept.contains(prefix));
        let links = self.rtnl.links()?.into_iter();
        let links = links.filter_map(|link| Some((link.of_vip()?, link.index)));
        let links: Vec<(OwnLink, u32)> = links.collect();
        let leftovers = found.iter().filter(|key| !recorded.addresses.contains(key)).count();
        let left_links = links.iter().filter(|(link, _)| !recorded.links.contains(link)).count();
        if leftovers > 0 || left_links > 0 {
            self.complain(format!(
                "removed what an earlier standin had left on this host, addresses: {leftovers}, links: \
                 {left_links}"
            ));
        }
        let settings = self.left.read(recorded.settings.clone());
        self.holding = if recorded.addresses.is_empty() {
            Holding::begun(found, links, settings)
        } else {
            Holding::resumed(State { settings, ..recorded }, found, links)
        };
        self.work()
    }

    /// The engine has gone for good: leaves the host as it was found.
    fn undo(&mut self) {
        self.holding.end();
        while let Err(error) = self.work() {
            // The guard takes the rest away, or it runs out.
            self.complain(format!("the kernel's netlink failed at the end: {error}"));
            self.holding.lose();
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
