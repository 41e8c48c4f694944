//! The guard's decisions: when a daemon is stuck, what its death means, what is to be done behind it and
//! in which order, and when it is started again.
//!
//! The guard looks at what the daemon wrote into their shared [`State`] before it changed the host.

use std::net::IpAddr;
use std::time::Duration;

use crate::types::{Family, Instant, Mac, Prefix, Vrid};

/// Between two looks at a beat that is late. A guard that comes so late to a look was held up itself.
pub const LOOK: Duration = Duration::from_millis(20);

/// A daemon that a signal has stopped gets no more time than this.
pub const STOPPED_AFTER: Duration = Duration::from_millis(100);

/// Between two looks of a guard that isn't told of stops: with the time above that is less than 150 ms.
const UNTOLD_LOOK: Duration = Duration::from_millis(30);

/// The shortest time between two looks while there is nothing to lose.
const IDLE_LOOK: Duration = Duration::from_millis(100);

/// The longest time between two looks: a daemon may have become quicker meanwhile.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// The longest time between two beats. Each beat is a wake-up, which costs more than what is done in it.
const LONGEST_BEAT: Duration = Duration::from_millis(250);

/// So many beats would have to be missing.
const BEATS: u32 = 3;

/// The guard is patient for as long as the peers are, and at least for this long: a scheduler
/// under load may take its time.
pub const LEAST_PATIENCE: Duration = Duration::from_millis(100);
const SILENT_ADVERTS: u32 = 3;

/// A daemon that dies again and again is started less and less often.
const BACK_OFF: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
];

/// Who lived this long didn't die of its start.
const LIVED: Duration = Duration::from_secs(60);

/// What a daemon changes of an interface: for the end of a primary address, and for a VIP that stays
/// on the loopback link after a switchover, or has a MAC of its own.
const INTERFACE_SETTINGS: [&str; 3] = ["promote_secondaries", "arp_ignore", "arp_announce"];

/// An address on the interface with this index.
pub type Key = (u32, Prefix);

/// What a daemon has done to the host, or is about to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub addresses: Vec<Key>,
    pub goodbyes: Vec<Goodbye>,
    pub settings: Vec<Setting>,
    /// Links of its own.
    pub links: Vec<OwnLink>,
}

/// A link that stands on an interface and carries a VIP's addresses of one family under a MAC of its own.
/// By this it is known before it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnLink {
    /// The interface's index.
    pub base: u32,
    pub family: Family,
    pub id: Vrid,
}

impl OwnLink {
    /// The one that has `mac`, if that is a virtual router's.
    #[must_use]
    pub fn with_mac(base: u32, mac: Mac) -> Option<Self> {
        let [.., kind, id] = mac.0;
        let family = if kind == 1 { Family::V4 } else { Family::V6 };
        let id = Vrid::new(id).filter(|_| mac.is_of_virtual_router())?;
        Some(Self { base, family, id })
    }

    #[must_use]
    pub const fn mac(self) -> Mac {
        Mac::of_virtual_router(self.family, self.id)
    }
}

/// A finished advert of priority 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye {
    pub index: u32,
    pub interface: String,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub payload: Vec<u8>,
}

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Below `/proc/sys`, with slashes.
    pub path: String,
    /// As it was found.
    pub old: String,
    /// As the kernel showed it after the write.
    pub new: String,
}

impl Setting {
    /// Whether it is to be put back where the kernel shows `now`: what somebody else has changed since
    /// is left alone.
    #[must_use]
    pub fn stands(&self, now: &str) -> bool {
        same(now, &self.new)
    }

    /// Whether it is one of those that a daemon changes; what stands in shared memory or in a file is
    /// believed no further than it has to be.
    #[must_use]
    pub fn is_of_an_interface(&self) -> bool {
        let last = self.path.rsplit('/').next();
        self.path.starts_with("net/ipv4/conf/")
            && last.is_some_and(|last| INTERFACE_SETTINGS.contains(&last))
    }
}

/// Values of several numbers are shown with tabs and written with blanks.
#[must_use]
pub fn same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

/// How long a daemon whose fastest VIP advertises this often may be still while it holds something.
#[must_use]
pub fn patience(fastest_advert: Duration, least: Duration) -> Duration {
    fastest_advert.saturating_mul(SILENT_ADVERTS).max(least)
}

/// How often a daemon with this patience beats; zero is for one that isn't watched, or may be still for ever.
#[must_use]
pub fn beat_every(patience: Duration) -> Duration {
    if patience.is_zero() { LONGEST_BEAT } else { LONGEST_BEAT.min(patience / BEATS) }
}

/// What the guard knows of the daemon's standing still, stopped by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The kernel tells of it: the daemon is the guard's child.
    pub told: bool,
    since: Option<Instant>,
}

impl Stop {
    #[must_use]
    pub const fn new(told: bool) -> Self {
        Self { told, since: None }
    }

    /// Whether a look has to see for itself.
    #[must_use]
    pub const fn is_to_be_seen(self) -> bool {
        !self.told || self.since.is_some()
    }

    /// It was looked at.
    pub fn seen(&mut self, now: Instant, is_stopped: bool) {
        self.since = is_stopped.then(|| self.since.unwrap_or(now));
    }
}

/// What a daemon that lives shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    /// It has something to lose.
    pub holds: bool,
    /// Zero: it may be still for ever.
    pub patience: Duration,
    pub last_beat: Instant,
}

impl Signs {
    /// Nothing to lose.
    pub const NONE: Self =
        Self { holds: false, patience: Duration::ZERO, last_beat: Instant::from_nanos(0) };

    const fn matters(self) -> bool {
        self.holds && !self.patience.is_zero()
    }

    /// When to look next, at the latest: the kernel may tell of a stop before.
    #[must_use]
    pub fn next_look(self, now: Instant, stop: Stop) -> Instant {
        let look = self.next_look_at_beats(now);
        let look = if stop.told { look } else { look.min(now + UNTOLD_LOOK) };
        match stop.since.filter(|_| self.matters()) {
            Some(since) => look.min(a_little_after(since + STOPPED_AFTER)).max(now),
            None => look,
        }
    }

    fn next_look_at_beats(self, now: Instant) -> Instant {
        if !self.matters() {
            // What is taken after this look is beaten for, and no such beat is late at the next one.
            return now + self.patience.clamp(IDLE_LOOK, LONGEST_LOOK);
        }
        let late = self.last_beat + self.patience;
        // Whether the guard itself is on time shows in a look shortly before it would end the daemon.
        let first = late - LOOK;
        let look = if first > now { first } else { a_little_after(late).max(now + LOOK) };
        look.min(now + LONGEST_LOOK)
    }

    /// Whether the daemon has to be ended, by a look that was meant for `due`.
    #[must_use]
    pub fn stuck(self, now: Instant, due: Instant, stop: Stop) -> bool {
        // A guard that was late itself says nothing about the daemon: everybody may have been.
        if !self.matters() || now.since(due) >= LOOK {
            return false;
        }
        let stands = stop.since.is_some_and(|since| now.since(since) > STOPPED_AFTER);
        stands || now.since(self.last_beat) > self.patience
    }
}

/// So that one look is enough.
fn a_little_after(at: Instant) -> Instant {
    at + Duration::from_millis(1)
}

/// How a daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<E> {
    /// It was meant to.
    Over(E),
    Died,
}

/// What is known of a daemon that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Remains<E> {
    /// The end that it announced.
    pub meant: Option<E>,
    /// The end that its exit code says.
    pub code: Option<E>,
    /// What it held or had changed: nothing.
    pub clean: bool,
    /// Somebody told it to stop.
    pub stopping: bool,
}

impl<E: Copy> Remains<E> {
    /// Whether the host has to be cleared up: what ended as it was meant to has left nothing, unless it
    /// couldn't give something up.
    #[must_use]
    pub const fn left(&self) -> bool {
        self.meant.is_none() || !self.clean
    }

    /// What its end means; `done` is the end of one that was told to stop.
    #[must_use]
    pub const fn end(&self, done: E) -> End<E> {
        match (self.meant, self.code) {
            (Some(end), _) => End::Over(end),
            // Told to stop before it had anything to give up: while it waited for its address, say.
            (None, _) if self.stopping && self.clean => End::Over(done),
            // It refused to start, and said why.
            (None, Some(end)) if self.clean => End::Over(end),
            _ => End::Died,
        }
    }
}

/// The daemons of one guard, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lives {
    began: Instant,
    deaths: usize,
}

impl Lives {
    pub const NONE: Self = Self { began: Instant::from_nanos(0), deaths: 0 };

    pub const fn begins(&mut self, now: Instant) {
        self.began = now;
    }

    /// It has died: how long to wait before the next one is started.
    #[must_use]
    pub fn died(&mut self, now: Instant) -> Duration {
        let young = now.since(self.began) < LIVED;
        self.deaths = if young { self.deaths.saturating_add(1) } else { 0 };
        let place = self.deaths.saturating_sub(1).min(BACK_OFF.len() - 1);
        BACK_OFF.get(place).copied().unwrap_or_default()
    }
}

/// One thing to do behind a daemon that has died; each is tried, whatever became of those before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Makes links say nothing any more.
    Silence(Vec<OwnLink>),
    /// Takes the addresses away.
    Drop(Vec<Key>),
    /// Says priority 0 in the daemon's name: all that goes out of one interface from one address.
    SayGoodbye(Vec<Goodbye>),
    /// Puts a setting back, unless somebody else has changed it since.
    PutBack(Setting),
    /// Removes links.
    Remove(Vec<OwnLink>),
}

/// What is to be done behind a daemon that left this, in this order: every millisecond an address answers
/// for nobody, peers must not claim it before it has gone, and the kernel needs the settings for its going.
/// A link is silent before its addresses go, which the kernel would tell the network from the VIP's MAC; its end
/// takes the longest, and nobody waits for it.
#[must_use]
pub fn duties(state: &State) -> Vec<Duty> {
    let mut duties = Vec::new();
    if !state.links.is_empty() {
        duties.push(Duty::Silence(state.links.clone()));
    }
    if !state.addresses.is_empty() {
        duties.push(Duty::Drop(state.addresses.clone()));
    }
    let mut goodbyes = state.goodbyes.clone();
    goodbyes.sort_by_key(|goodbye| (goodbye.index, goodbye.source));
    let groups = goodbyes.chunk_by(|a, b| (a.index, a.source) == (b.index, b.source));
    duties.extend(groups.map(|group| Duty::SayGoodbye(group.to_vec())));
    // The last one first.
    let known = state.settings.iter().rev().filter(|setting| setting.is_of_an_interface());
    duties.extend(known.cloned().map(Duty::PutBack));
    if !state.links.is_empty() {
        duties.push(Duty::Remove(state.links.clone()));
    }
    duties
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn signs(patience_ms: u64) -> Signs {
        let patience = Duration::from_millis(patience_ms);
        Signs { holds: true, patience, last_beat: at(1_000) }
    }

    const GOES: Stop = Stop::new(true);

    fn stopped(told: bool, since_ms: u64) -> Stop {
        let mut stop = Stop::new(told);
        stop.seen(at(since_ms), true);
        stop.seen(at(since_ms + 1), true);
        stop
    }

    #[test]
    fn a_stopped_daemon_gets_no_more_time_than_it_takes_to_see_it() {
        let stop = stopped(true, 1_200);
        let due = signs(3_000).next_look(at(1_200), stop);
        assert_eq!(due, at(1_301));
        assert!(!signs(3_000).stuck(at(1_300), at(1_300), stop));
        assert!(signs(3_000).stuck(due, due, stop));
        let mut goes = stop;
        assert!(goes.is_to_be_seen());
        goes.seen(due, false);
        assert_eq!(goes, GOES);
        assert!(!signs(3_000).stuck(due, due, goes), "it was stopped for a moment");
        assert!(signs(3_000).stuck(at(4_001), at(4_001), goes), "it hangs");
    }

    #[test]
    fn a_guard_that_is_not_told_looks_often_enough() {
        let untold = Stop::new(false);
        assert!(untold.is_to_be_seen());
        for signs in [signs(3_000), Signs { holds: false, ..signs(3_000) }] {
            assert_eq!(signs.next_look(at(1_010), untold), at(1_040));
        }
        let stop = stopped(false, 1_040);
        assert_eq!(signs(3_000).next_look(at(1_130), stop), at(1_141));
        assert!(signs(3_000).stuck(at(1_141), at(1_141), stop));
    }

    #[test]
    fn who_is_told_of_stops_sleeps_until_a_beat_is_nearly_late() {
        assert_eq!(signs(300).next_look(at(1_010), GOES), at(1_280));
        assert_eq!(signs(300).next_look(at(1_280), GOES), at(1_301));
        assert!(!signs(300).stuck(at(1_300), at(1_300), GOES));
        assert!(signs(300).stuck(at(1_301), at(1_301), GOES));
        assert_eq!(signs(3_000).next_look(at(1_010), GOES), at(2_010), "it may get quicker");
    }

    /// Whether a guard ends a daemon beside which the machine stands still for so long, in milliseconds.
    fn ends_over_a_pause(patience: u64, pause: std::ops::Range<u64>) -> bool {
        // The guard comes first where both have waited for the machine.
        const ENGINE_LATER: u64 = 5;
        let every = beat_every(Duration::from_millis(patience));
        let every = u64::try_from(every.as_millis()).unwrap();
        let (mut beat, mut due) = (0, 1);
        for now in (1..pause.end + 2 * patience).filter(|now| !pause.contains(now)) {
            let signs = Signs { last_beat: at(beat), ..signs(patience) };
            if now >= due {
                if signs.stuck(at(now), at(due), GOES) {
                    return true;
                }
                due = signs.next_look(at(now), GOES).as_nanos() / 1_000_000;
            }
            let waits = (pause.end..pause.end + ENGINE_LATER).contains(&now);
            beat = if now >= beat + every && !waits { now } else { beat };
        }
        false
    }

    #[test]
    fn a_machine_that_stood_still_ends_no_daemon() {
        for patience in [100, 300] {
            for begins in (500..500 + patience).step_by(3) {
                for lasts in 0..patience + 100 {
                    let ends = ends_over_a_pause(patience, begins..begins + lasts);
                    assert!(!ends, "patience {patience}, from {begins} for {lasts}");
                }
            }
        }
    }

    #[test]
    fn a_daemon_that_takes_something_after_a_look_is_looked_at_in_time() {
        for patience in [100, 300, 900] {
            let idle = Signs { holds: false, ..signs(patience) };
            assert_eq!(idle.next_look(at(1_000), GOES), at(1_000 + patience));
        }
        assert_eq!(signs(0).next_look(at(1_000), GOES), at(1_100), "a program is being replaced");
    }

    #[test]
    fn beats_are_rare_and_often_enough() {
        let every = |patience| beat_every(Duration::from_millis(patience)).as_millis();
        assert_eq!([every(0), every(100), every(300), every(3_000)], [250, 33, 100, 250]);
    }

    #[test]
    fn who_was_late_itself_or_has_nothing_to_lose_ends_nobody() {
        let stop = stopped(true, 1_000);
        assert!(!signs(100).stuck(at(9_000), at(8_980), stop), "20 ms late");
        let idle = Signs { holds: false, ..signs(100) };
        assert!(!idle.stuck(at(9_000), at(9_000), stop));
        assert!(!signs(0).stuck(at(9_000), at(9_000), stop), "a program is being replaced");
    }

    #[test]
    fn addresses_go_before_the_goodbye_and_settings_last_in_reverse() {
        let goodbye = |source: &str| Goodbye {
            index: 2,
            interface: "eth0".into(),
            source: source.parse().unwrap(),
            destination: "224.0.0.18".parse().unwrap(),
            payload: vec![],
        };
        let setting = |path: &str| Setting { path: path.into(), old: "0".into(), new: "1".into() };
        let state = State {
            addresses: vec![(2, "10.0.0.1/24".parse().unwrap())],
            goodbyes: vec![goodbye("10.0.0.2"), goodbye("fe80::1"), goodbye("10.0.0.2")],
            settings: vec![
                setting("net/ipv4/conf/eth0/promote_secondaries"),
                setting("kernel/core_pattern"),
                setting("net/ipv4/conf/eth0/arp_ignore"),
            ],
            links: vec![OwnLink { base: 2, family: Family::V4, id: Vrid::new(41).unwrap() }],
        };
        let told: Vec<_> = duties(&state)
            .into_iter()
            .map(|duty| match duty {
                Duty::Drop(keys) => format!("drop {}", keys.len()),
                Duty::SayGoodbye(group) => format!("goodbye {}", group.len()),
                Duty::PutBack(setting) => setting.path,
                Duty::Silence(links) => format!("silence {}", links.len()),
                Duty::Remove(links) => format!("remove {}", links.len()),
            })
            .collect();
        let settings = ["net/ipv4/conf/eth0/arp_ignore", "net/ipv4/conf/eth0/promote_secondaries"];
        assert_eq!(told[..4], ["silence 1", "drop 1", "goodbye 2", "goodbye 1"]);
        assert_eq!(told[4..6], settings);
        assert_eq!(told[6..], ["remove 1"]);
        assert!(duties(&State::default()).is_empty());
    }

    #[test]
    fn a_link_is_known_by_its_mac() {
        for family in Family::BOTH {
            let link = OwnLink { base: 2, family, id: Vrid::new(41).unwrap() };
            assert_eq!(OwnLink::with_mac(2, link.mac()), Some(link));
        }
        assert_eq!(OwnLink::with_mac(2, Mac([2, 0, 0, 0, 1, 41])), None);
    }

    #[test]
    fn who_dies_young_waits_longer_and_longer_and_who_lived_begins_anew() {
        let mut lives = Lives::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            lives.begins(at(0));
            waits.push(lives.died(at(10)).as_secs());
        }
        assert_eq!(waits, [0, 1, 2, 5, 15, 60, 60, 60]);
        assert_eq!(lives.died(at(60_000)), Duration::ZERO);
    }

    #[test]
    fn an_end_that_was_asked_for_is_no_death() {
        let remains = Remains { meant: None, code: None, clean: true, stopping: false };
        assert_eq!(remains.end(0), End::Died);
        assert_eq!(Remains { meant: Some(3), clean: false, ..remains }.end(0), End::Over(3));
        assert_eq!(Remains { stopping: true, ..remains }.end(0), End::Over(0));
        assert_eq!(Remains { code: Some(3), ..remains }.end(0), End::Over(3));
        let left = Remains { code: Some(3), clean: false, stopping: true, ..remains };
        assert_eq!(left.end(0), End::Died);
    }
}
