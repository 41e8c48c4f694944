//! What the peer link adds to the election, and what it must not be able to do to it.

use std::time::Duration;

use standin_core::election::handover::{Handover, VOID_AFTER};
use standin_core::election::told::Says;
use standin_core::event::{Reason, Role, Standing};
use standin_core::plan::Failback;
use standin_core::types::{Instant, NodeId, Priority};
use standin_core::{Command, Effect, Input, Verdict};

use super::rig::{Rig, VIP, ms, plan};

const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);
const N3: NodeId = NodeId(2);

fn says(rig: &mut Rig, node: NodeId, standing: Standing) {
    rig.step(Input::Peer { vip: VIP, node, says: Some(Says::standing(standing)) });
}

fn told(rig: &mut Rig, from: NodeId, released: Instant) {
    let handover = Handover { from, epoch: released.as_nanos(), released };
    rig.step(Input::TakeOver { vip: VIP, handover });
}

fn given_to(rig: &mut Rig) -> Option<NodeId> {
    rig.news().into_iter().find_map(|effect| match effect {
        Effect::Handover { to, .. } => Some(to),
        _ => None,
    })
}

#[test]
fn who_is_told_takes_over_without_the_skew() {
    let mut rig = Rig::following();
    rig.hear("10.0.0.1", 0);
    let now = rig.now;
    told(&mut rig, N1, now);
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::HandedOver { .. }));
}

#[test]
fn it_is_enough_when_the_last_advert_was_lost() {
    let mut rig = Rig::following();
    rig.run(ms(150));
    let released = rig.now - ms(1);
    told(&mut rig, N1, released);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_late_message_is_void() {
    let mut rig = Rig::following();
    rig.hear("10.0.0.1", 150);
    rig.run(ms(250));
    let released = rig.now - VOID_AFTER - Duration::from_nanos(1);
    told(&mut rig, N1, released);
    assert_eq!(rig.role(), Role::Backup);
    let released = rig.now - VOID_AFTER;
    told(&mut rig, N1, released);
    assert_eq!(rig.role(), Role::Active, "just in time");
}

#[test]
fn an_advert_since_the_release_voids_it() {
    let mut rig = Rig::following();
    let released = rig.now;
    rig.run(ms(10));
    rig.hear("10.0.0.1", 0);
    rig.run(ms(10));
    rig.hear("10.0.0.1", 150);
    told(&mut rig, N1, released);
    assert_eq!(rig.role(), Role::Backup, "it is active again");
}

#[test]
fn only_the_active_that_is_followed_is_obeyed() {
    let mut rig = Rig::following();
    rig.run(ms(50));
    let now = rig.now;
    told(&mut rig, N3, now);
    assert_eq!(rig.role(), Role::Backup, "n3 holds nothing that it could give");
    rig.hear("10.0.0.1", 0);
    rig.run(ms(1));
    rig.hear("10.0.0.3", 100);
    told(&mut rig, N1, now);
    assert_eq!(rig.role(), Role::Backup, "n3 was quicker");
}

#[test]
fn who_is_not_eligible_does_not_obey() {
    let mut rig = Rig::following();
    rig.check(Verdict::Dead);
    rig.hear("10.0.0.1", 0);
    let now = rig.now;
    told(&mut rig, N1, now);
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn one_release_moves_the_vip_once() {
    let mut rig = Rig::following();
    rig.hear("10.0.0.1", 0);
    let released = rig.now;
    told(&mut rig, N1, released);
    rig.hear("10.0.0.3", 100);
    assert_eq!(rig.role(), Role::Backup, "n3 wins the tie");
    rig.run(ms(1));
    rig.hear("10.0.0.1", 150);
    rig.hear("10.0.0.1", 0);
    told(&mut rig, N1, released);
    assert_eq!(rig.role(), Role::Backup, "said twice");
}

#[test]
fn the_best_eligible_peer_is_told_after_the_release() {
    let mut rig = Rig::holding();
    says(&mut rig, N1, Standing::HeldDown);
    says(&mut rig, N3, Standing::Eligible);
    rig.check(Verdict::Dead);
    let news = rig.news();
    let place = |wanted: &dyn Fn(&Effect) -> bool| news.iter().position(wanted).unwrap();
    let said = place(&|it| matches!(it, Effect::Advert { priority: Priority::RELEASE, .. }));
    let released = place(&|it| *it == Effect::Release { vip: VIP });
    let handed = place(&|it| matches!(it, Effect::Handover { to: N3, .. }));
    assert!(said < released && released < handed, "{news:?}");

    let mut rig = Rig::holding();
    says(&mut rig, N1, Standing::Eligible);
    says(&mut rig, N3, Standing::Eligible);
    rig.step(Input::Command(Command::Stop));
    assert_eq!(given_to(&mut rig), Some(N1), "150 is more than 100");

    let mut equal = plan();
    equal.vips[0].members[0].priority = Priority(100);
    let mut rig = Rig::new(equal);
    rig.run(ms(1000));
    says(&mut rig, N1, Standing::Eligible);
    says(&mut rig, N3, Standing::Eligible);
    rig.step(Input::Command(Command::Stop));
    assert_eq!(given_to(&mut rig), Some(N3), "10.0.0.3 is higher than 10.0.0.1");
}

#[test]
fn nobody_is_told_without_a_link_or_when_outranked() {
    let mut rig = Rig::holding();
    rig.check(Verdict::Dead);
    assert_eq!(given_to(&mut rig), None);

    let mut rig = Rig::holding();
    says(&mut rig, N3, Standing::Eligible);
    rig.step(Input::Peer { vip: VIP, node: N3, says: None });
    rig.check(Verdict::Dead);
    assert_eq!(given_to(&mut rig), None, "the link has ended");

    let mut rig = Rig::holding();
    says(&mut rig, N1, Standing::Eligible);
    rig.hear("10.0.0.1", 150);
    assert_eq!(rig.role(), Role::Backup);
    assert_eq!(given_to(&mut rig), None, "n1 has it already");
}

#[test]
fn who_knows_that_nobody_can_have_it_keeps_it_without_a_gap() {
    let mut rig = Rig::holding();
    says(&mut rig, N1, Standing::Ineligible);
    says(&mut rig, N3, Standing::Ineligible);
    rig.check(Verdict::Dead);
    assert_eq!(rig.role(), Role::Active);
    assert_eq!(rig.said(), [1], "the last resort");
}

#[test]
fn one_peer_of_whom_nothing_is_known_is_asked_by_silence() {
    let mut rig = Rig::holding();
    says(&mut rig, N1, Standing::Ineligible);
    says(&mut rig, N2, Standing::Ineligible);
    rig.check(Verdict::Dead);
    assert_eq!(rig.role(), Role::Backup, "nobody else speaks for this node");
    assert_eq!(rig.said(), [0]);
}

#[test]
fn a_switchover_stays_for_the_sockets_and_tells_the_chosen_one() {
    let mut rig = Rig::holding();
    says(&mut rig, N1, Standing::Eligible);
    rig.step(Input::Command(Command::SwitchTo { vip: VIP, to: N3 }));
    assert_eq!(rig.role(), Role::Backup);
    assert!(matches!(rig.last_reason(), Reason::SwitchedTo { .. }));
    let news = rig.news();
    assert!(news.iter().any(|it| matches!(it, Effect::Handover { to: N3, .. })), "{news:?}");
    assert!(news.contains(&Effect::Stay { vip: VIP }), "{news:?}");
    assert!(!news.contains(&Effect::Release { vip: VIP }), "{news:?}");
}

#[test]
fn after_a_switchover_failback_waits_its_time() {
    let mut plan = plan();
    plan.vips[0].failback = Failback::After(Duration::from_secs(2));
    let mut rig = Rig::new(plan);
    rig.hear_for("10.0.0.1", 150, ms(5000));
    rig.run(ms(500));
    assert_eq!(rig.role(), Role::Active);
    rig.step(Input::Command(Command::SwitchTo { vip: VIP, to: N3 }));
    rig.hear_for("10.0.0.3", 50, ms(1900));
    assert_eq!(rig.role(), Role::Backup, "an operator moved it a moment ago");
    rig.hear_for("10.0.0.3", 50, ms(300));
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn only_a_holder_switches_over_and_only_to_a_member() {
    let mut rig = Rig::following();
    rig.news();
    rig.step(Input::Command(Command::SwitchTo { vip: VIP, to: N3 }));
    assert_eq!(rig.news(), []);
    let mut rig = Rig::holding();
    rig.step(Input::Command(Command::SwitchTo { vip: VIP, to: N2 }));
    rig.step(Input::Command(Command::SwitchTo { vip: VIP, to: NodeId(9) }));
    assert_eq!(rig.role(), Role::Active);
}
