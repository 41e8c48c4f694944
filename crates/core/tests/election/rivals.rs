//! Somebody else has the address, by ARP: strangers are named, nodes settle it.

use standin_core::event::{Kind, Reason, Role};
use standin_core::plan::Plan;
use standin_core::types::Mac;
use standin_core::{Effect, Input};

use super::rig::{ETH0, FOREIGN_MAC, Rig, ms, plan};

const N1: Mac = Mac([2, 0, 0, 0, 0, 11]);
const N3: Mac = Mac([2, 0, 0, 0, 0, 13]);
const VIP: &str = "10.0.0.41";

impl Rig {
    fn see(&mut self, address: &str, mac: Mac) {
        let address = address.parse().unwrap();
        self.step(Input::Sighting { interface: ETH0, address, mac });
    }

    /// Lets time pass in which the owners of these addresses answer each question.
    fn run_among(&mut self, there: &[(&str, Mac)], milliseconds: u64) {
        for _ in 0..milliseconds / 10 {
            self.run(ms(10));
            let asked: Vec<_> = self.log[self.seen..]
                .iter()
                .filter_map(|(_, effect)| match effect {
                    Effect::Identify { address, .. } => Some(address.to_string()),
                    _ => None,
                })
                .collect();
            self.seen = self.log.len();
            for (address, mac) in there {
                if asked.iter().any(|it| it == address) {
                    self.see(address, *mac);
                }
            }
        }
    }

    fn told(&self, wanted: impl Fn(&Kind) -> bool) -> usize {
        let is = |effect: &Effect| matches!(effect, Effect::Event(event) if wanted(&event.kind));
        self.log.iter().filter(|(_, effect)| is(effect)).count()
    }

    pub(super) fn announcements(&self) -> usize {
        self.log.iter().filter(|(_, effect)| matches!(effect, Effect::Announce { .. })).count()
    }
}

#[test]
fn a_rival_is_shown_while_it_is_there() {
    let shown = |rig: &Rig| rig.node.view(rig.now).vips[0].rival.clone();
    let mut rig = Rig::holding();
    rig.run(ms(5_000));
    assert_eq!(shown(&rig), None);
    rig.see(VIP, FOREIGN_MAC);
    rig.run_among(&[(VIP, FOREIGN_MAC)], 10_000);
    assert_eq!(shown(&rig), Some(FOREIGN_MAC.to_string()));
    rig.run(ms(5_000));
    assert_eq!(shown(&rig), None);
}

#[test]
fn a_stranger_with_our_address_is_named_and_answered_with_announcements_within_bounds() {
    let mut rig = Rig::holding();
    rig.run(ms(5_000));
    let before = rig.announcements();
    for _ in 0..1_000 {
        rig.see(VIP, FOREIGN_MAC);
        rig.run(ms(5));
    }
    assert_eq!(rig.role(), Role::Active);
    let conflicts =
        |kind: &Kind| matches!(kind, Kind::AddressConflict { mac, .. } if *mac == FOREIGN_MAC);
    assert_eq!(rig.told(conflicts), 1, "one line in ten seconds");
    let announced = rig.announcements() - before;
    assert!((10..=100).contains(&announced), "{announced} in five seconds");
}

#[test]
fn of_two_actives_that_hear_no_adverts_the_worse_one_yields_and_shadows_the_other() {
    let mut rig = Rig::holding();
    let there = [(VIP, N1), ("10.0.0.1", N1)];
    rig.see(VIP, N1);
    rig.run_among(&there, 2_500);
    assert_eq!(rig.role(), Role::Active, "what stands still has lost the address by then");
    rig.run_among(&there, 1_000);
    assert_eq!(rig.role(), Role::Backup);
    assert!(matches!(rig.last_reason(), Reason::RivalUnheard { .. }));
    rig.run_among(&there, 60_000);
    assert_eq!(rig.role(), Role::Backup, "n1 still answers");
    rig.run_among(&[], 1_500);
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::Silence { .. }));
}

#[test]
fn of_two_actives_that_hear_no_adverts_the_better_one_stays() {
    // n3 has the same priority and the higher address, so that it is n1's rival that is worse.
    let mut plan = plan();
    plan.vips[0].members[2].priority = standin_core::types::Priority(50);
    let mut rig = Rig::new(plan);
    rig.run(ms(1_000));
    let there = [(VIP, N3), ("10.0.0.3", N3)];
    rig.see(VIP, N3);
    rig.run_among(&there, 30_000);
    assert_eq!(rig.role(), Role::Active);
    let named =
        |kind: &Kind| matches!(kind, Kind::RivalUnheard { yields: false, mac, .. } if *mac == N3);
    assert!((1..=4).contains(&rig.told(named)), "{}", rig.told(named));
}

#[test]
fn a_rival_that_goes_is_forgotten_and_nobody_is_asked_any_more() {
    let mut rig = Rig::holding();
    rig.see(VIP, N1);
    rig.run_among(&[("10.0.0.1", N1)], 5_000);
    assert_eq!(rig.role(), Role::Active);
    rig.news();
    rig.run(ms(10_000));
    let asked = |effect: &Effect| matches!(effect, Effect::Identify { .. });
    assert!(!rig.news().iter().any(asked));
}

#[test]
fn who_goes_on_with_the_worse_claim_does_not_hear_this_node_and_is_named() {
    let mut rig = Rig::holding();
    rig.hear_for("10.0.0.3", 50, ms(500));
    let one_way = |kind: &Kind| matches!(kind, Kind::OneWay { .. });
    assert_eq!(rig.told(one_way), 0, "it may be on its way out");
    rig.hear_for("10.0.0.3", 50, ms(3_000));
    assert_eq!(rig.told(one_way), 1);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_rival_that_was_gone_meanwhile_is_a_new_one() {
    let mut rig = Rig::holding();
    let there = [(VIP, N1), ("10.0.0.1", N1)];
    rig.see(VIP, N1);
    rig.see("10.0.0.1", N1);
    rig.run_among(&there, 1_500);
    rig.run_among(&[], 1_600);
    rig.see(VIP, N1);
    rig.run_among(&there, 1_500);
    assert_eq!(rig.role(), Role::Active, "its kernel may still end the address");
    rig.run_among(&there, 2_500);
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn nobody_yields_to_a_rival_that_has_left_by_then() {
    let mut rig = Rig::holding();
    let there = [(VIP, N1), ("10.0.0.1", N1)];
    rig.see(VIP, N1);
    rig.run_among(&there, 2_150);
    // It wasn't well, gave the address up, and its goodbye didn't come either.
    rig.run_among(&[], 4_000);
    assert_eq!(rig.role(), Role::Active);
}

/// Adverts and answers of all nodes come from the router id's own MAC.
fn virtual_plan(members: usize) -> Plan {
    let mut plan = plan();
    plan.vips[0].virtual_mac = true;
    plan.vips[0].members.truncate(members);
    plan
}

const SHARED: Mac = Mac([0, 0, 0x5e, 0, 1, 41]);

#[test]
fn of_two_nodes_with_one_mac_the_other_one_is_the_rival() {
    let mut rig = Rig::new(virtual_plan(2));
    rig.run(ms(3_000));
    assert_eq!(rig.role(), Role::Active);
    rig.see(VIP, SHARED);
    rig.run_among(&[(VIP, SHARED), ("10.0.0.1", N1)], 3_500);
    assert_eq!(rig.role(), Role::Backup);
    assert!(matches!(rig.last_reason(), Reason::RivalUnheard { .. }));
    rig.run_among(&[(VIP, SHARED), ("10.0.0.1", N1)], 10_000);
    assert_eq!(rig.role(), Role::Backup, "it still answers");
    rig.run_among(&[], 1_500);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn of_three_nodes_with_one_mac_nobody_knows_which_one_it_is() {
    let mut rig = Rig::new(virtual_plan(3));
    rig.run(ms(3_000));
    rig.see(VIP, SHARED);
    rig.run_among(&[(VIP, SHARED), ("10.0.0.1", N1), ("10.0.0.3", N3)], 10_000);
    assert_eq!(rig.role(), Role::Active);
    assert!(rig.told(|kind| matches!(kind, Kind::AddressConflict { mac: SHARED, .. })) > 0);
}
