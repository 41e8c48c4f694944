//! Further paths: who still has the VIP there isn't robbed of it, and who doesn't is replaced as ever.

use standin_core::event::{Kind, Reason, Role};
use standin_core::types::{InterfaceId, Mac};
use standin_core::{Effect, Input};

use super::rig::{FOREIGN_MAC, Rig, ms, plan};

const ETH1: InterfaceId = InterfaceId(1);
const N1: Mac = Mac([2, 0, 0, 0, 1, 11]);
const N3: Mac = Mac([2, 0, 0, 0, 1, 13]);
const VIP: &str = "10.0.0.41";

/// A backup of n1, with a second cable.
fn following() -> Rig {
    let mut plan = plan();
    plan.interfaces.push("eth1".to_owned());
    plan.vips[0].heartbeat = vec![ETH1];
    let mut rig = Rig::new(plan);
    rig.hear_for("10.0.0.1", 150, ms(500));
    rig
}

impl Rig {
    /// Lets time pass in which the owners of these addresses answer each question on the path.
    fn run_and_answer(&mut self, there: &[(&str, Mac)], milliseconds: u64) -> usize {
        let mut questions = 0;
        for _ in 0..milliseconds / 2 {
            self.run(ms(2));
            let asked: Vec<_> = self
                .news()
                .iter()
                .filter_map(|effect| match effect {
                    Effect::Identify { interface: ETH1, address } => Some(address.to_string()),
                    _ => None,
                })
                .collect();
            questions += asked.iter().filter(|it| *it == VIP).count();
            for (address, mac) in there {
                if asked.iter().any(|it| it == address) {
                    let address = address.parse().unwrap();
                    self.step(Input::Sighting { interface: ETH1, address, mac: *mac });
                }
            }
        }
        questions
    }

    fn seen_by_heartbeat(&self) -> usize {
        let is = |effect: &Effect| {
            matches!(effect, Effect::Event(event)
                if matches!(event.kind, Kind::SeenByHeartbeat { .. }))
        };
        self.log.iter().filter(|(_, effect)| is(effect)).count()
    }
}

#[test]
fn while_adverts_come_nobody_asks() {
    let mut rig = following();
    for _ in 0..50 {
        rig.hear("10.0.0.1", 150);
        assert_eq!(rig.run_and_answer(&[], 100), 0);
    }
}

#[test]
fn an_active_that_is_seen_on_the_path_keeps_the_vip_and_is_followed_there() {
    let mut rig = following();
    let there = [(VIP, N1), ("10.0.0.1", N1)];
    rig.run_and_answer(&there, 10_000);
    assert_eq!(rig.role(), Role::Backup);
    assert_eq!(rig.seen_by_heartbeat(), 1, "said once");
    assert_eq!(rig.node.view(rig.now).vips[0].holder.as_deref(), Some("n1"));
    // It answers no more.
    rig.run_and_answer(&[], 700);
    assert_eq!(rig.role(), Role::Backup);
    rig.run_and_answer(&[], 700);
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::Silence { .. }));
}

#[test]
fn a_dead_active_is_replaced_no_later_than_without_a_path() {
    let mut rig = following();
    // The last advert was 100 ms ago.
    rig.run_and_answer(&[], 240);
    assert_eq!(rig.role(), Role::Backup);
    rig.run_and_answer(&[], 30);
    assert_eq!(rig.role(), Role::Active, "three intervals and the skew, from the last advert on");
}

#[test]
fn who_is_no_node_there_keeps_nobody_from_the_vip() {
    let mut rig = following();
    rig.run_and_answer(&[(VIP, FOREIGN_MAC), ("10.0.0.1", N1)], 400);
    assert_eq!(rig.role(), Role::Active, "another network may use the same addresses");
}

#[test]
fn a_node_that_starts_during_the_cut_asks_first() {
    let mut plan = plan();
    plan.interfaces.push("eth1".to_owned());
    plan.vips[0].heartbeat = vec![ETH1];
    let mut rig = Rig::new(plan);
    rig.run_and_answer(&[(VIP, N1), ("10.0.0.1", N1)], 5_000);
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn adverts_that_come_again_end_it() {
    let mut rig = following();
    rig.run_and_answer(&[(VIP, N1), ("10.0.0.1", N1)], 3_000);
    for _ in 0..20 {
        rig.hear("10.0.0.1", 150);
        rig.run_and_answer(&[], 100);
    }
    rig.run_and_answer(&[], 280);
    assert_eq!(rig.role(), Role::Active, "its silence counts as before");
}

#[test]
fn of_two_actives_the_worse_one_yields_when_the_path_shows_the_other() {
    let mut rig = following();
    rig.run_and_answer(&[], 500);
    assert_eq!(rig.role(), Role::Active);
    let there = [(VIP, N1), ("10.0.0.1", N1)];
    rig.run_and_answer(&there, 8_000);
    assert_eq!(rig.role(), Role::Backup);
    assert!(matches!(rig.last_reason(), Reason::RivalUnheard { .. }));
    rig.run_and_answer(&there, 5_000);
    assert_eq!(rig.role(), Role::Backup);
    rig.run_and_answer(&[], 1_500);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn the_better_one_stays() {
    let mut plan = plan();
    plan.interfaces.push("eth1".to_owned());
    plan.vips[0].heartbeat = vec![ETH1];
    plan.vips[0].members[2].priority = standin_core::types::Priority(50);
    let mut rig = Rig::new(plan);
    rig.run_and_answer(&[], 1_000);
    assert_eq!(rig.role(), Role::Active);
    rig.run_and_answer(&[(VIP, N3), ("10.0.0.3", N3)], 10_000);
    assert_eq!(rig.role(), Role::Active);
}
