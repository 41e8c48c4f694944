//! Two holders that see each other: one of them yields, also when adverts are dropped.
//!
//! Where adverts pass, promise 1 has its own, shorter bound. Here the bound is that of ARP: the
//! other's announcement is seen, it is asked for 3 s, and the worse one yields; when neither is
//! healthy both do, and one of them claims anew. Lost questions and slow clocks add some.

use crate::clock::{Nanos, SECOND};
use crate::scene::Scene;

const BOUND: Nanos = 8 * SECOND;

/// Since when both have had it, undisturbed: VIP, and two machines.
type Since = ((u8, u8, u8), Nanos);

#[derive(Debug, Default)]
pub struct Rivals {
    pairs: Vec<Since>,
}

impl Rivals {
    pub fn disturbed(&mut self) {
        self.pairs.clear();
    }

    #[must_use]
    pub fn due(&self) -> Nanos {
        self.pairs.iter().map(|(_, since)| since + BOUND).min().unwrap_or(Nanos::MAX)
    }

    pub fn look(&mut self, scene: &Scene) -> Option<String> {
        let before = std::mem::take(&mut self.pairs);
        for vip in scene.vips() {
            for a in scene.places() {
                for b in scene.places().filter(|b| a < *b && both(scene, vip, a, *b)) {
                    let pair = (vip, a, b);
                    let known = before.iter().find(|(known, _)| *known == pair);
                    let since = known.map_or(scene.now, |(_, since)| *since);
                    self.pairs.push((pair, since));
                    if since + BOUND <= scene.now {
                        return Some(format!(
                            "P1: {} and {} both hold {} and see each other's address",
                            scene.machines[usize::from(a)].name,
                            scene.machines[usize::from(b)].name,
                            scene.name(vip),
                        ));
                    }
                }
            }
        }
        None
    }
}

fn both(scene: &Scene, vip: u8, a: u8, b: u8) -> bool {
    let family = scene.vip_family(vip);
    let has = |one: u8| {
        let host = &scene.machines[usize::from(one)];
        host.kernel[usize::from(vip)].present && host.at_work() && scene.works(one, vip)
    };
    let passes = |from: u8, to: u8| scene.network.passes(from.into(), to.into(), family);
    has(a) && has(b) && passes(a, b) && passes(b, a)
}
