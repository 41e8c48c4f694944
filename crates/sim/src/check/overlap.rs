//! Promise 1: between nodes that hear each other, one at a time holds a VIP.
//!
//! Two machines may both have the addresses for at most the bound below, counted from the last
//! thing that kept an advert from either: the longer of their intervals (the next advert comes by
//! then), and twice the longest delay of the network (that advert, and the answer to it). The clock
//! may be 2 % slow. A machine that was just held up listens for half an interval more. While the
//! kernel still works on a request of either, while one of them stands still, or while a cut keeps
//! one from hearing the other, nothing is judged.

use standin_core::plan::{Mode, Version};
use standin_core::types::Family;

use crate::clock::{MILLISECOND, Nanos};
use crate::cluster::spoken;
use crate::scene::Scene;

/// The core asks the network who an unknown sender is once in this time.
const ASK_AGAIN: Nanos = 1_020 * MILLISECOND;

/// Two machines that both have a VIP's addresses.
#[derive(Clone, Copy, Debug)]
struct Pair {
    vip: u8,
    a: u8,
    b: u8,
    began: Nanos,
    /// From when the bound counts; `None`: there is an excuse until something happens.
    since: Option<Nanos>,
    clean: bool,
}

#[derive(Debug, Default)]
pub struct Overlap {
    pairs: Vec<Pair>,
    /// Overlaps that nothing disturbed from beginning to end: how many, and the longest.
    pub clean: u64,
    pub longest_clean: Nanos,
}

impl Overlap {
    pub fn presence(&mut self, scene: &Scene, machine: u8, vip: u8) {
        let now = scene.now;
        let has = |one: u8| scene.machines[usize::from(one)].kernel[usize::from(vip)].present;
        let (clean, longest) = (&mut self.clean, &mut self.longest_clean);
        self.pairs.retain_mut(|pair| {
            if pair.vip != vip || (pair.a != machine && pair.b != machine) {
                return true;
            }
            if has(pair.a) && has(pair.b) {
                pair.since = Some(now);
                return true;
            }
            if pair.clean {
                *clean += 1;
                *longest = (*longest).max(now - pair.began);
            }
            false
        });
        if !has(machine) {
            return;
        }
        for other in scene.places().filter(|other| *other != machine && has(*other)) {
            let (a, b) = (machine.min(other), machine.max(other));
            if !self.pairs.iter().any(|pair| (pair.vip, pair.a, pair.b) == (vip, a, b)) {
                let (began, since) = (now, Some(now));
                let quick = |one: u8| {
                    let host = &scene.machines[usize::from(one)];
                    host.kernel_slow == 0 && host.kernel_busy_until <= now + scene.kernel_takes.1
                };
                let clean = quick(a)
                    && quick(b)
                    && scene.hears(a, b, vip)
                    && scene.hears(b, a, vip)
                    && scene.network.spike == 0;
                self.pairs.push(Pair { vip, a, b, began, since, clean });
            }
        }
    }

    pub fn disturbed(&mut self, now: Nanos) {
        for pair in &mut self.pairs {
            (pair.since, pair.clean) = (Some(now), false);
        }
    }

    pub fn dropped(&mut self, scene: &Scene, from: u8, to: u8) {
        for pair in &mut self.pairs {
            if (pair.a, pair.b) == (from.min(to), from.max(to)) {
                (pair.since, pair.clean) = (Some(scene.now), false);
            }
        }
    }

    #[must_use]
    pub fn due(&self, scene: &Scene) -> Nanos {
        let due = |pair: &Pair| pair.since.map(|since| since + bound(scene, pair));
        self.pairs.iter().filter_map(due).min().unwrap_or(Nanos::MAX)
    }

    pub fn look(&mut self, scene: &Scene) -> Option<String> {
        for pair in &mut self.pairs {
            let bound = bound(scene, pair);
            if pair.since.is_none_or(|since| since + bound > scene.now) {
                continue;
            }
            if !excused(scene, pair) {
                return Some(format!(
                    "P1: {} and {} both hold {} for {} us and hear each other, {} us is the bound",
                    scene.machines[usize::from(pair.a)].name,
                    scene.machines[usize::from(pair.b)].name,
                    scene.name(pair.vip),
                    (scene.now - pair.began) / 1_000,
                    bound / 1_000,
                ));
            }
            (pair.since, pair.clean) = (None, false);
        }
        None
    }
}

fn excused(scene: &Scene, pair: &Pair) -> bool {
    let slot = |one: u8| scene.machines[usize::from(one)].kernel[usize::from(pair.vip)];
    let works = |one: u8| slot(one).pending > 0 || scene.is_dropping(one, pair.vip);
    let busy = works(pair.a) || works(pair.b);
    let (a, b) = (scene.router(pair.a, pair.vip), scene.router(pair.b, pair.vip));
    // Version 2 tells its receivers to discard adverts of another interval (RFC 3768 §7.1).
    let deaf = a.zip(b).is_none_or(|(a, b)| {
        a.plan().version != b.plan().version
            || (a.plan().version == Version::V2 && spoken(a.plan()) != spoken(b.plan()))
    });
    busy || deaf || !scene.hears(pair.a, pair.b, pair.vip) || !scene.hears(pair.b, pair.a, pair.vip)
}

/// Whether `one` may not know yet that `other` is a node: IPv6 adverts come from link-local
/// addresses, and the question to whom those belong may just have been lost.
fn unknown(scene: &Scene, vip: u8, one: u8, other: u8, interval: Nanos) -> bool {
    let known = scene.machines[usize::from(one)].identified_at(other);
    let by_v4 = scene.network.passes(usize::from(other), usize::from(one), Family::V4)
        && scene.sends(other, vip, Family::V4);
    let needed = scene
        .router(one, vip)
        .is_some_and(|router| router.plan().mode == Mode::Multicast && !by_v4);
    needed && known.saturating_add(2 * (interval + ASK_AGAIN)) >= scene.now
}

fn bound(scene: &Scene, pair: &Pair) -> Nanos {
    let interval = |one: u8| {
        scene.router(one, pair.vip).map_or(0, |router| super::nanos(spoken(router.plan())))
    };
    let longest = interval(pair.a).max(interval(pair.b));
    let thawed = |one: u8| scene.machines[usize::from(one)].thawed_at + 4 * longest >= scene.now;
    let listening = if thawed(pair.a) || thawed(pair.b) { longest / 2 } else { 0 };
    let slow_clock = longest / 40;
    let asking = if unknown(scene, pair.vip, pair.a, pair.b, longest)
        || unknown(scene, pair.vip, pair.b, pair.a, longest)
    {
        longest + ASK_AGAIN
    } else {
        0
    };
    longest + listening + asking + slow_clock + 2 * scene.network.longest() + MILLISECOND / 10
}
