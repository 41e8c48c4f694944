//! After a takeover: a backup sees which MAC answers, and tells the active when it is the wrong one.

use standin_core::types::{Mac, NodeId};
use standin_core::{Effect, Input};

use super::rig::{ETH0, FOREIGN_MAC, Rig, ms, plan};

const N1: Mac = Mac([2, 0, 0, 0, 0, 11]);

/// Follows n1 for `rounds` of 100 ms; each question is answered by these.
fn followed(there: &[(&str, Mac)], rounds: u32) -> Vec<Effect> {
    let mut rig = Rig::new(plan());
    for _ in 0..rounds {
        rig.hear("10.0.0.1", 150);
        rig.run(ms(100));
        let asked: Vec<String> = rig.log[rig.seen..]
            .iter()
            .filter_map(|(_, effect)| match effect {
                Effect::Identify { address, .. } => Some(address.to_string()),
                _ => None,
            })
            .collect();
        rig.seen = rig.log.len();
        for (address, mac) in there.iter().filter(|(it, _)| asked.iter().any(|one| one == it)) {
            let address = address.parse().unwrap();
            rig.step(Input::Sighting { interface: ETH0, address, mac: *mac });
        }
    }
    rig.log.into_iter().map(|(_, effect)| effect).collect()
}

fn told(effects: &[Effect]) -> usize {
    effects.iter().filter(|it| matches!(it, Effect::StillSeen { .. })).count()
}

#[test]
fn the_right_mac_is_looked_at_and_nothing_is_said() {
    let effects = followed(&[("10.0.0.41", N1), ("10.0.0.1", N1)], 100);
    assert_eq!(told(&effects), 0);
    let to_vip = |effect: &&Effect| matches!(effect, Effect::Identify { address, .. } if address.to_string() == "10.0.0.41");
    assert!((1..=3).contains(&effects.iter().filter(to_vip).count()), "a few times, and no more");
}

#[test]
fn a_wrong_mac_is_told_to_the_active_until_it_is_right() {
    let wrong = [("10.0.0.41", FOREIGN_MAC), ("10.0.0.1", N1)];
    let effects = followed(&wrong, 200);
    assert!((2..=10).contains(&told(&effects)), "{}", told(&effects));
    let first = effects.iter().find(|it| matches!(it, Effect::StillSeen { .. }));
    let Some(Effect::StillSeen { to, mac, .. }) = first else { panic!("{first:?}") };
    assert_eq!((*to, *mac), (NodeId(0), FOREIGN_MAC));
}

#[test]
fn an_active_that_nobody_can_locate_is_not_accused() {
    assert_eq!(told(&followed(&[("10.0.0.41", FOREIGN_MAC)], 200)), 0);
}

#[test]
fn the_router_ids_own_mac_is_right() {
    let own = Mac([0, 0, 0x5e, 0, 1, 41]);
    assert_eq!(told(&followed(&[("10.0.0.41", own), ("10.0.0.1", N1)], 200)), 0);
}
