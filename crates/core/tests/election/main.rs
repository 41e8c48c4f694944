//! The election as one node lives it: RFC 9568 §6.4, and where standin goes beyond it.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod handover;
mod heartbeat;
mod lookout;
mod rig;
mod rivals;
mod told;
mod vacancy;
mod witness;

use std::net::IpAddr;
use std::time::Duration;

use standin_core::event::{Kind, Reason, Role};
use standin_core::node::Node;
use standin_core::plan::{AllIneligible, CheckPlan, Failback, NodePlan};
use standin_core::resume::Resume;
use standin_core::types::{CheckId, Family, Instant, NodeId, Priority, Vrid};
use standin_core::{Command, Effect, Effects, Input, InterfaceState, Outcome, Verdict};

use rig::{ETH0, FOREIGN_MAC, OWN_MAC, Rig, VIP, ms, plan};

/// 3 × 100 ms and a skew of (256 - 100) / 256 × 100 ms.
const ACTIVE_DOWN: Duration = Duration::from_nanos(360_937_500);
const SKEW: Duration = Duration::from_nanos(60_937_500);

#[test]
fn backup_takes_over_after_three_adverts_and_skew() {
    let mut rig = Rig::new(plan());
    rig.hear("10.0.0.1", 150);
    rig.run(ACTIVE_DOWN - Duration::from_nanos(1));
    assert_eq!(rig.role(), Role::Backup);
    rig.news();
    rig.run(Duration::from_nanos(1));
    let advert = Effect::Advert { vip: VIP, family: Family::V4, priority: Priority(100) };
    let news = rig.news();
    assert!(news.contains(&advert) && news.contains(&Effect::Hold { vip: VIP }), "{news:?}");
    assert!(matches!(rig.last_reason(), Reason::Silence { lasted, .. } if lasted == ACTIVE_DOWN));
}

#[test]
fn priority_zero_leaves_only_the_skew() {
    let mut rig = Rig::following();
    rig.hear("10.0.0.1", 0);
    rig.run(SKEW - Duration::from_nanos(1));
    assert_eq!(rig.role(), Role::Backup);
    rig.run(Duration::from_nanos(1));
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::Released { .. }));
}

#[test]
fn backup_learns_the_actives_interval() {
    let mut rig = Rig::new(plan());
    rig.hear_every("10.0.0.1", 150, 100);
    rig.run(ms(3000));
    assert_eq!(rig.role(), Role::Backup, "3 s and 0.6 s of skew, not 0.36 s");
    rig.run(ms(700));
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn backup_ignores_lower_priority_when_not_preempting() {
    let mut rig = Rig::new(plan());
    rig.hear_for("10.0.0.3", 50, ms(5000));
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn failback_takes_it_back_once_eligible_long_enough() {
    let mut plan = plan();
    plan.vips[0].failback = Failback::After(Duration::from_secs(2));
    let mut rig = Rig::new(plan);
    rig.hear_for("10.0.0.3", 50, ms(1900));
    assert_eq!(rig.role(), Role::Backup);
    rig.hear_for("10.0.0.3", 50, ms(300));
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::Failback { .. }));
}

#[test]
fn the_owner_always_preempts() {
    let mut plan = plan();
    plan.vips[0].members[1].priority = Priority::OWNER;
    let mut rig = Rig::new(plan);
    rig.hear("10.0.0.1", 150);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn active_yields_to_a_higher_priority_and_releases() {
    let mut rig = Rig::holding();
    rig.hear("10.0.0.1", 150);
    assert_eq!(rig.role(), Role::Backup);
    assert!(rig.news().contains(&Effect::Release { vip: VIP }));
    assert!(matches!(rig.last_reason(), Reason::Outranked { priority: Priority(150), .. }));
}

#[test]
fn equal_priority_is_decided_by_address() {
    let mut rig = Rig::holding();
    rig.hear("10.0.0.3", 100);
    assert_eq!(rig.role(), Role::Backup, "10.0.0.3 is higher than 10.0.0.2");
    let mut equal = plan();
    equal.vips[0].members[0].priority = Priority(100);
    let mut rig = Rig::new(equal);
    rig.run(ms(1000));
    assert_eq!(rig.role(), Role::Active);
    rig.hear("10.0.0.1", 100);
    assert_eq!(rig.role(), Role::Active, "10.0.0.1 is lower");
}

#[test]
fn a_weaker_rival_is_answered_and_the_address_announced_again() {
    let mut rig = Rig::holding();
    rig.run(ms(5000));
    rig.news();
    rig.hear("10.0.0.3", 50);
    let news = rig.news();
    assert!(news.contains(&Effect::Announce { vip: VIP }), "{news:?}");
    let answers = |effect: &Effect| matches!(effect, Effect::Advert { .. });
    assert!(news.iter().any(answers), "{news:?}");
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_stranger_with_priority_255_moves_nothing_and_is_named() {
    let mut rig = Rig::holding();
    rig.hear("10.0.0.66", 255);
    rig.hear("10.0.0.66", 0);
    assert_eq!(rig.role(), Role::Active);
    let named = |effect: &Effect| {
        matches!(effect, Effect::Event(event)
            if matches!(event.kind, Kind::Stranger { source, .. } if source.to_string() == "10.0.0.66"))
    };
    assert_eq!(rig.news().iter().filter(|effect| named(effect)).count(), 1);
}

#[test]
fn a_stranger_is_obeyed_where_the_file_says_so() {
    let mut plan = plan();
    plan.vips[0].accept_unknown = true;
    let mut rig = Rig::new(plan);
    rig.run(ms(1000));
    assert_eq!(rig.role(), Role::Active);
    rig.hear("10.0.0.66", 255);
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn first_claim_comes_after_three_probes() {
    let mut rig = Rig::new(plan());
    let probes = |rig: &Rig| {
        rig.log.iter().filter(|(_, effect)| matches!(effect, Effect::Probe { .. })).count()
    };
    rig.run(ACTIVE_DOWN);
    assert_eq!(probes(&rig), 3, "within the wait that VRRP has anyway");
    assert_eq!(rig.role(), Role::Active);
    assert_eq!(rig.last_reason(), Reason::NobodyThere);
}

#[test]
fn who_answers_is_no_foreign_owner_before_an_active_peer_would_have_been_heard() {
    let mut rig = Rig::new(plan());
    let address: IpAddr = "10.0.0.41".parse().unwrap();
    let shown = |rig: &Rig| rig.node.view(rig.now).vips[0].foreign_owner;
    rig.step(Input::Sighting { interface: ETH0, address, mac: FOREIGN_MAC });
    rig.run(ACTIVE_DOWN - ms(1));
    rig.step(Input::Sighting { interface: ETH0, address, mac: FOREIGN_MAC });
    assert_eq!(shown(&rig), None);
    rig.run(ms(1));
    rig.step(Input::Sighting { interface: ETH0, address, mac: FOREIGN_MAC });
    assert_eq!(shown(&rig), Some(FOREIGN_MAC));
}

#[test]
fn a_live_foreign_owner_is_never_robbed() {
    let mut rig = Rig::new(plan());
    let address: IpAddr = "10.0.0.41".parse().unwrap();
    let answer_for = |rig: &mut Rig, time: Duration| {
        let end = rig.now + time;
        while rig.now < end {
            rig.run(ms(1));
            if rig.news().iter().any(|effect| matches!(effect, Effect::Probe { .. })) {
                rig.step(Input::Sighting { interface: ETH0, address, mac: FOREIGN_MAC });
            }
            assert_eq!(rig.role(), Role::Backup);
        }
    };
    rig.seen = 0;
    answer_for(&mut rig, Duration::from_secs(30));
    let said = |rig: &Rig, wanted: fn(&Kind) -> bool| {
        let is = |(_, effect): &&(Instant, Effect)| matches!(effect, Effect::Event(event) if wanted(&event.kind));
        rig.log.iter().filter(is).count()
    };
    assert_eq!(said(&rig, |kind| matches!(kind, Kind::ForeignOwner { mac: FOREIGN_MAC, .. })), 1);
    rig.run(Duration::from_secs(6));
    assert_eq!(rig.role(), Role::Active, "it has gone");
    assert_eq!(said(&rig, |kind| matches!(kind, Kind::ForeignOwnerGone)), 1);
}

#[test]
fn a_node_that_slept_asks_anew_before_its_first_claim() {
    let mut rig = Rig::new(plan());
    rig.run(ACTIVE_DOWN - ms(10));
    rig.news();
    // What was asked until now may not have been answered for the reason for which it slept.
    rig.now = rig.now + ms(500);
    rig.step(Input::Tick);
    rig.run(ACTIVE_DOWN - ms(1));
    assert_eq!(rig.role(), Role::Backup);
    let probes = |effect: &&Effect| matches!(effect, Effect::Probe { .. });
    assert_eq!(rig.news().iter().filter(probes).count(), 3);
    rig.run(ms(1));
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn an_active_that_dies_before_it_is_heard_is_waited_for_no_longer_than_any_other() {
    let mut rig = Rig::unchecked(plan());
    rig.check(Verdict::Pass);
    // It answers the first probe and is dead before its next advert.
    let address: IpAddr = "10.0.0.41".parse().unwrap();
    rig.run(ms(1));
    rig.step(Input::Sighting { interface: ETH0, address, mac: FOREIGN_MAC });
    rig.run(ACTIVE_DOWN + ms(200));
    assert_eq!(rig.role(), Role::Active);
    let named = rig.log.iter().any(|(_, effect)| {
        matches!(effect, Effect::Event(event) if matches!(event.kind, Kind::ForeignOwner { .. }))
    });
    assert!(!named, "it never kept this node from a claim");
}

#[test]
fn a_failed_check_gives_it_away_at_once() {
    let mut rig = Rig::holding();
    rig.check(Verdict::Dead);
    assert_eq!(rig.role(), Role::Backup);
    let news = rig.news();
    let goodbye = Effect::Advert { vip: VIP, family: Family::V4, priority: Priority(0) };
    let said = news.iter().position(|effect| *effect == goodbye).unwrap();
    let released = news.iter().position(|effect| *effect == Effect::Release { vip: VIP }).unwrap();
    assert!(said < released);
}

#[test]
fn when_nobody_is_healthy_it_is_kept_at_priority_one_after_a_silence() {
    let mut rig = Rig::holding();
    rig.check(Verdict::Dead);
    assert_eq!(rig.said(), [0]);
    rig.run(ms(399));
    assert_eq!(rig.said(), [0; 0], "silent for one master-down interval");
    rig.run(ms(200));
    assert_eq!(rig.role(), Role::Active);
    assert_eq!(rig.last_reason(), Reason::NobodyEligible);
    assert!(rig.said().iter().all(|priority| *priority == 1));
}

#[test]
fn with_drop_nobody_has_it() {
    let mut plan = plan();
    plan.vips[0].all_ineligible = AllIneligible::Drop;
    let mut rig = Rig::new(plan);
    rig.run(ms(1000));
    rig.check(Verdict::Dead);
    rig.run(Duration::from_secs(60));
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn the_healthy_takes_over_from_priority_one_whatever_failback_says() {
    let mut rig = Rig::new(plan());
    rig.hear_for("10.0.0.1", 1, ms(100));
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::LastResortOver { .. }));
}

#[test]
fn who_becomes_eligible_takes_over_from_priority_one() {
    let mut rig = Rig::unchecked(plan());
    rig.check(Verdict::Fail);
    rig.hear_for("10.0.0.1", 1, ms(2000));
    assert_eq!(rig.role(), Role::Backup);
    rig.check(Verdict::Pass);
    rig.check(Verdict::Pass);
    rig.hear_for("10.0.0.1", 1, ms(100));
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn hold_down_keeps_a_flapping_node_out_but_not_from_the_only_healthy_one() {
    let mut rig = Rig::holding();
    rig.check(Verdict::Dead);
    rig.hear("10.0.0.3", 100);
    rig.check(Verdict::Pass);
    rig.check(Verdict::Pass);
    rig.hear_for("10.0.0.3", 100, ms(1000));
    assert_eq!(rig.role(), Role::Backup);
    assert_ne!(rig.node.router(VIP).unwrap().effective_priority(), Priority(100));
    // n3 is not healthy any more either.
    rig.hear_for("10.0.0.3", 1, ms(200));
    assert_eq!(rig.role(), Role::Active);
    assert_eq!(rig.node.router(VIP).unwrap().effective_priority(), Priority(100));
}

#[test]
fn a_change_of_priority_is_advertised_at_once() {
    let mut rig = Rig::holding();
    let mut changed = plan();
    changed.vips[0].members[1].priority = Priority(180);
    rig.step(Input::Plan(Box::new(changed)));
    assert_eq!(rig.said(), [180]);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_vip_that_leaves_the_file_is_released_with_a_goodbye() {
    let mut rig = Rig::holding();
    let mut without = plan();
    without.vips.clear();
    rig.step(Input::Plan(Box::new(without)));
    let news = rig.news();
    assert!(news.contains(&Effect::Release { vip: VIP }), "{news:?}");
    assert!(rig.node.router(VIP).is_none());
}

#[test]
fn a_vip_with_another_router_id_is_shown_once() {
    let mut rig = Rig::following();
    let mut other = plan();
    other.vips[0].vrid = Vrid::new(51).unwrap();
    rig.step(Input::Plan(Box::new(other)));
    let shown = rig.node.view(rig.now).vips;
    let ids: Vec<_> = shown.iter().map(|vip| vip.vrid.get()).collect();
    assert_eq!(ids, [51], "{shown:?}");
}

#[test]
fn after_a_stall_it_listens_before_it_asserts() {
    let mut rig = Rig::holding();
    rig.now = rig.now + Duration::from_secs(5);
    rig.step(Input::Tick);
    assert_eq!(rig.said(), [0; 0]);
    // n3 took it meanwhile; it has the lower address here and the same priority.
    rig.hear("10.0.0.3", 50);
    assert_eq!(rig.role(), Role::Backup, "it went on elsewhere: failback is never");
    assert!(matches!(rig.last_reason(), Reason::TakenWhileStalled { .. }));
}

#[test]
fn after_a_stall_with_nobody_there_it_goes_on() {
    let mut rig = Rig::holding();
    rig.now = rig.now + Duration::from_secs(5);
    rig.step(Input::Tick);
    rig.run(ms(200));
    assert_eq!(rig.role(), Role::Active);
    assert!(!rig.said().is_empty());
}

#[test]
fn a_backup_that_stood_still_does_not_take_silence_for_death() {
    let mut rig = Rig::following();
    rig.node.next_deadline();
    rig.now = rig.now + Duration::from_secs(5);
    rig.step(Input::Tick);
    assert_eq!(rig.role(), Role::Backup);
    rig.hear_for("10.0.0.1", 150, ms(1000));
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn who_cannot_hear_adverts_does_not_take_silence_for_death() {
    let mut rig = Rig::following();
    let deaf = InterfaceState {
        up: true,
        mac: Some(OWN_MAC),
        deaf: [true, false],
        ..InterfaceState::default()
    };
    rig.step(Input::Interface { interface: ETH0, state: deaf });
    rig.run(ms(5000));
    assert_eq!(rig.role(), Role::Idle);
}

#[test]
fn an_address_that_is_gone_ends_it_and_one_that_comes_back_begins_it() {
    let mut rig = Rig::holding();
    rig.own(&[]);
    assert_eq!(rig.role(), Role::Idle);
    assert_eq!(rig.last_reason(), Reason::SourceAddressGone);
    rig.own(&["10.0.0.2"]);
    assert_eq!(rig.role(), Role::Backup);
    rig.interface(false);
    assert_eq!(rig.last_reason(), Reason::InterfaceDown);
}

#[test]
fn a_refused_address_is_given_up_and_tried_again_later() {
    let mut rig = Rig::holding();
    rig.step(Input::Settled { vip: VIP, outcome: Outcome::Refused { errno: 13 } });
    assert_eq!(rig.role(), Role::Backup);
    assert_eq!(rig.said(), [0]);
    rig.run(Duration::from_secs(6));
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn maintenance_ends_by_itself() {
    let mut rig = Rig::holding();
    rig.step(Input::Command(Command::MaintenanceOn { lasting: Some(Duration::from_secs(60)) }));
    assert_eq!(rig.role(), Role::Backup);
    rig.hear_for("10.0.0.1", 150, Duration::from_secs(59));
    assert!(rig.node.view(rig.now).maintenance.is_some());
    rig.hear_for("10.0.0.1", 150, Duration::from_secs(2));
    assert!(rig.node.view(rig.now).maintenance.is_none());
}

#[test]
fn stop_says_goodbye_and_reports_when_nothing_is_held() {
    let mut rig = Rig::holding();
    rig.step(Input::Command(Command::Stop));
    let news = rig.news();
    let at = |wanted: &Effect| news.iter().position(|effect| effect == wanted);
    let goodbye = Effect::Advert { vip: VIP, family: Family::V4, priority: Priority(0) };
    assert!(at(&goodbye) < at(&Effect::Release { vip: VIP }));
    assert!(at(&Effect::Release { vip: VIP }) < at(&Effect::Stopped));
}

#[test]
fn a_program_that_replaces_another_goes_on_holding() {
    let rig = Rig::holding();
    let resume = Resume::of(&rig.node, rig.now);
    assert_eq!(resume.active, ["web"]);
    let mut next = Rig { node: Node::resumed(rig.now, plan(), &resume), ..rig };
    next.seen = next.log.len();
    next.own(&["10.0.0.2"]);
    next.interface(true);
    assert_eq!(next.role(), Role::Active);
    assert_eq!(next.last_reason(), Reason::Resumed);
    assert_eq!(next.said(), [100], "at once, and as healthy as before");
    // What it held and the new file doesn't name is let go.
    let mut without = plan();
    without.vips[0].name = "other".into();
    let mut other = Rig { node: Node::resumed(next.now, without, &resume), ..next };
    other.own(&["10.0.0.2"]);
    other.interface(true);
    assert_eq!(other.role(), Role::Backup);
}

#[test]
fn a_stall_is_noticed_although_something_else_came_in_before_the_tick() {
    let mut rig = Rig::following();
    rig.node.next_deadline();
    rig.now = rig.now + Duration::from_secs(2);
    // The shell empties its sockets first, and then asks what is due.
    let address = "10.0.0.77".parse().unwrap();
    rig.step(Input::Sighting { interface: ETH0, address, mac: FOREIGN_MAC });
    rig.node.next_deadline();
    rig.step(Input::Tick);
    assert_eq!(rig.role(), Role::Backup, "silence while nobody listened proves nothing");
    rig.run(ACTIVE_DOWN);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn an_advert_that_comes_with_its_deadline_makes_nobody_late() {
    let mut rig = Rig::following();
    let deadline = rig.node.next_deadline().unwrap();
    rig.now = deadline;
    rig.hear("10.0.0.1", 150);
    rig.run(ACTIVE_DOWN);
    assert_eq!(rig.role(), Role::Active, "the earlier deadline was never missed");
}

#[test]
fn a_check_that_is_new_in_the_file_moves_nothing_before_it_has_spoken() {
    let mut rig = Rig::holding();
    let mut more = plan();
    more.checks.push(CheckPlan { name: "gw".into(), rise: 1, fall: 1 });
    more.vips[0].checks.push(CheckId(1));
    rig.step(Input::Plan(Box::new(more)));
    rig.run(ms(500));
    assert_eq!(rig.role(), Role::Active);
    let said = rig.said();
    assert!(said.iter().all(|priority| *priority == 100), "{said:?}");
    rig.step(Input::Check { check: CheckId(1), verdict: Verdict::Fail, detail: "" });
    assert_eq!(rig.role(), Role::Backup, "once it has spoken it counts");
}

#[test]
fn a_node_that_is_new_in_the_file_does_not_make_its_active_another() {
    let mut rig = Rig::following();
    let mut more = plan();
    let first = NodePlan {
        name: "n0".into(),
        addresses: vec!["10.0.0.9".parse().unwrap()],
        vrrp_only: false,
    };
    more.nodes.insert(0, first);
    more.me = NodeId(2);
    for member in &mut more.vips[0].members {
        member.node = NodeId(member.node.0 + 1);
    }
    rig.step(Input::Plan(Box::new(more)));
    // Adverts are never exactly on time.
    for _ in 0..20 {
        rig.run(ms(99));
        assert_eq!(rig.role(), Role::Backup);
        rig.hear("10.0.0.1", 150);
    }
}

#[test]
fn a_stop_right_after_a_replacement_lets_go_what_it_held() {
    let rig = Rig::holding();
    let resume = Resume::of(&rig.node, rig.now);
    let mut next = Rig { node: Node::resumed(rig.now, plan(), &resume), ..rig };
    next.news();
    // The state of the interface isn't known yet.
    next.step(Input::Command(Command::Stop));
    let news = next.news();
    assert!(news.contains(&Effect::Release { vip: VIP }), "{news:?}");
    assert!(news.contains(&Effect::Stopped), "{news:?}");
    next.own(&["10.0.0.2"]);
    next.interface(true);
    assert_eq!(next.role(), Role::Idle);
}

#[test]
fn a_program_that_could_not_go_on_at_once_listens_first() {
    let rig = Rig::holding();
    let resume = Resume::of(&rig.node, rig.now);
    let mut next = Rig { node: Node::resumed(rig.now, plan(), &resume), ..rig };
    next.own(&["10.0.0.2"]);
    next.interface(false);
    next.run(Duration::from_secs(60));
    next.interface(true);
    assert_eq!(next.role(), Role::Backup, "others have taken over long since");
}

#[test]
fn who_may_not_hold_it_any_more_does_not_go_on_where_its_predecessor_was() {
    for (rule, role) in [(AllIneligible::Drop, Role::Backup), (AllIneligible::Keep, Role::Active)] {
        let rig = Rig::holding();
        let resume = Resume::of(&rig.node, rig.now);
        let mut plan = plan();
        plan.vips[0].all_ineligible = rule;
        let mut next = Rig { node: Node::resumed(rig.now, plan, &resume), ..rig };
        next.news();
        next.own(&["10.0.0.2"]);
        // The interface is up again a moment later, and nginx isn't.
        next.check(Verdict::Dead);
        next.run(ms(50));
        next.interface(true);
        assert_eq!(next.role(), role, "{rule:?}");
        let released = next.news().contains(&Effect::Release { vip: VIP });
        assert_eq!(released, role == Role::Backup, "{rule:?}");
    }
}

#[test]
fn announcements_come_in_a_burst_and_then_rarely() {
    let mut rig = Rig::holding();
    let announced = |rig: &Rig| {
        rig.log.iter().filter(|(_, effect)| matches!(effect, Effect::Announce { .. })).count()
    };
    rig.run(Duration::from_secs(5));
    assert_eq!(announced(&rig), 5);
    rig.run(Duration::from_secs(120));
    assert_eq!(announced(&rig), 7);
}

#[test]
fn a_rival_that_is_heard_before_the_addresses_are_here_has_not_the_last_word() {
    let mut plan = plan();
    plan.vips[0].announce.repeat = 1;
    let mut rig = Rig::new(plan);
    let announced = |rig: &Rig| {
        rig.log.iter().filter(|(_, effect)| matches!(effect, Effect::Announce { .. })).count()
    };
    rig.run(ACTIVE_DOWN - ms(1));
    // The kernel takes its time.
    rig.now = rig.now + ms(1);
    let mut effects = Effects::new();
    rig.node.step(rig.now, Input::Tick, &mut effects);
    assert!(effects.contains(&Effect::Hold { vip: VIP }), "{effects:?}");
    rig.hear("10.0.0.3", 50);
    assert_eq!(announced(&rig), 0);
    rig.step(Input::Settled { vip: VIP, outcome: Outcome::Held });
    assert_eq!(announced(&rig), 1);
    rig.run(ms(300));
    assert_eq!(announced(&rig), 2, "what the rival announced may have come after the first");
    rig.run(ms(5_000));
    assert_eq!(announced(&rig), 2);
}

#[test]
fn another_router_id_leaves_nothing_of_the_old_one_to_see() {
    let mut rig = Rig::holding();
    let mut changed = plan();
    changed.vips[0].vrid = Vrid::new(42).unwrap();
    rig.step(Input::Plan(Box::new(changed)));
    rig.run(ms(10));
    rig.check(Verdict::Pass);
    let view = rig.node.view(rig.now);
    let ids: Vec<u8> = view.vips.iter().map(|vip| vip.vrid.get()).collect();
    assert_eq!(ids, [42]);
}
