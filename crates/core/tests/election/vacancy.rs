//! Waiting for an address to fall vacant: what is taken, and what is given back.

use standin_core::event::{Kind, Reason, Role};
use standin_core::node::Node;
use standin_core::plan::{AllIneligible, Plan};
use standin_core::resume::Resume;
use standin_core::{Command, Effect, Input, Verdict};

use crate::rig::{ETH0, FOREIGN_MAC, Rig, VIP, ms, plan};

const ADDRESS: &str = "10.0.0.41";

/// A node that waits, and an old host that answers each probe while it is `there`.
struct Old {
    rig: Rig,
    there: bool,
}

impl Old {
    fn new(plan: Plan) -> Self {
        let mut rig = Rig::new(plan);
        rig.step(Input::Command(Command::AwaitVacancy { vip: VIP, gap: Some(ms(100)) }));
        Self { rig, there: true }
    }

    fn show(&mut self) {
        let address = ADDRESS.parse().unwrap();
        self.rig.step(Input::Sighting { interface: ETH0, address, mac: FOREIGN_MAC });
    }

    /// Lets time pass; the answer to a probe comes half a millisecond after it.
    fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds * 2 {
            let before = self.rig.log.len();
            self.rig.run(ms(1) / 2);
            let probed =
                self.rig.log[before..].iter().any(|(_, it)| matches!(it, Effect::Probe { .. }));
            if probed && self.there {
                self.show();
            }
        }
    }

    /// Runs until the node has the role; how long that took.
    fn until(&mut self, role: Role) -> u64 {
        for passed in 0..10_000 {
            if self.rig.role() == role {
                return passed;
            }
            self.run(1);
        }
        panic!("never {role}");
    }

    fn probes(&mut self) -> usize {
        self.rig.news().iter().filter(|it| matches!(it, Effect::Probe { .. })).count()
    }
}

#[test]
fn an_address_that_is_answered_for_is_waited_for_and_never_taken() {
    let mut old = Old::new(plan());
    old.run(60_000);
    assert_eq!(old.rig.role(), Role::Backup);
    assert!((590..=610).contains(&old.probes()), "one each 100 ms");
    let said = |effect: &&Effect| matches!(effect, Effect::Event(event) if matches!(event.kind, Kind::ForeignOwner { .. }));
    assert_eq!(old.rig.log.iter().map(|(_, it)| it).filter(said).count(), 1, "said once");
}

#[test]
fn three_unanswered_probes_in_a_row_and_it_is_taken_within_fifty_milliseconds_of_the_third() {
    let mut old = Old::new(plan());
    old.run(5_000);
    old.there = false;
    old.rig.news();
    let took = old.until(Role::Active);
    let at = |wanted: fn(&Effect) -> bool| {
        old.rig.log.iter().rev().find(|(_, it)| wanted(it)).map(|(at, _)| *at).unwrap()
    };
    let third = at(|it| matches!(it, Effect::Probe { .. }));
    let hold = at(|it| matches!(it, Effect::Hold { .. }));
    assert!(hold.since(third) <= ms(50), "{:?}", hold.since(third));
    assert!((200..=400).contains(&took), "{took}");
    assert!(matches!(old.rig.last_reason(), Reason::Vacant { last: Some(FOREIGN_MAC) }));
    assert_eq!(old.probes(), 3);
}

#[test]
fn one_or_two_lost_answers_change_nothing() {
    for lost in [1, 2] {
        let mut old = Old::new(plan());
        for _ in 0..20 {
            old.run(1_000);
            old.there = false;
            old.rig.news();
            let mut asked = 0;
            while asked < lost {
                old.run(1);
                asked += old.probes();
            }
            // The next one is answered.
            old.there = true;
            assert_eq!(old.rig.role(), Role::Backup);
        }
    }
}

#[test]
fn it_is_given_back_when_the_old_host_shows_and_taken_when_it_goes_again() {
    let mut old = Old::new(plan());
    old.there = false;
    old.until(Role::Active);
    old.run(10_000);
    assert_eq!(old.rig.role(), Role::Active);
    old.rig.news();
    old.there = true;
    let took = old.until(Role::Backup);
    assert!(took <= 101, "within one probe: {took}");
    assert!(matches!(old.rig.last_reason(), Reason::OwnerBack { mac: FOREIGN_MAC }));
    assert!(old.rig.news().contains(&Effect::Release { vip: VIP }));
    // It doesn't come back as a last resort, or because nobody advertises.
    old.run(30_000);
    assert_eq!(old.rig.role(), Role::Backup);
    old.there = false;
    old.until(Role::Active);
}

#[test]
fn it_is_given_back_when_this_node_is_not_healthy_and_nobody_else_is_asked_to_take_it() {
    for alone in [false, true] {
        let mut plan = plan();
        plan.vips[0].all_ineligible = AllIneligible::Keep;
        if alone {
            plan.vips[0].members.truncate(2);
            plan.vips[0].members.remove(0);
        }
        let mut old = Old::new(plan);
        old.there = false;
        old.until(Role::Active);
        old.rig.check(Verdict::Dead);
        assert_eq!(old.rig.role(), Role::Backup, "alone: {alone}");
        old.run(5_000);
        assert_eq!(old.rig.role(), Role::Backup, "not even as a last resort");
        assert!(!old.rig.log.iter().any(|(_, it)| matches!(it, Effect::Handover { .. })));
        old.rig.check(Verdict::Pass);
        old.rig.check(Verdict::Pass);
        // hold_down
        old.run(6_000);
        assert_eq!(old.rig.role(), Role::Active);
    }
}

#[test]
fn a_peer_that_advertises_is_a_rival_and_not_the_old_host() {
    let mut old = Old::new(plan());
    old.there = false;
    old.until(Role::Active);
    // n3 has the same priority and the higher address: it wins, as ever.
    old.rig.hear("10.0.0.3", 90);
    old.show();
    assert_eq!(old.rig.role(), Role::Active, "adverts decide");
    old.rig.hear("10.0.0.1", 150);
    assert_eq!(old.rig.role(), Role::Backup);
    assert!(matches!(old.rig.last_reason(), Reason::Outranked { .. }));
    // The kernel of the active answers.
    old.there = true;
    old.run(2_000);
    assert_eq!(old.rig.role(), Role::Backup);
}

#[test]
fn a_node_that_stood_still_counts_anew() {
    let mut old = Old::new(plan());
    old.run(1_000);
    old.there = false;
    old.run(150);
    old.rig.now = old.rig.now + ms(400);
    old.rig.step(Input::Tick);
    old.there = true;
    old.run(1_000);
    assert_eq!(old.rig.role(), Role::Backup);
}

#[test]
fn what_is_held_when_the_waiting_ends_is_kept_and_what_is_not_is_probed_as_ever() {
    let end = || Input::Command(Command::AwaitVacancy { vip: VIP, gap: None });
    let mut old = Old::new(plan());
    old.there = false;
    old.until(Role::Active);
    old.rig.step(end());
    old.show();
    old.run(1_000);
    assert_eq!(old.rig.role(), Role::Active);
    let mut old = Old::new(plan());
    old.run(1_000);
    old.rig.step(end());
    old.run(20_000);
    assert_eq!(old.rig.role(), Role::Backup, "a foreign owner is not robbed");
}

#[test]
fn a_program_that_replaces_another_waits_on_and_gives_back_as_that_one_would_have() {
    for holds in [true, false] {
        let mut old = Old::new(plan());
        old.there = !holds;
        old.run(2_000);
        assert_eq!(old.rig.role() == Role::Active, holds);
        let resume = Resume::from_text(&Resume::of(&old.rig.node, old.rig.now).to_text());
        let node = Node::resumed(old.rig.now, plan(), &resume);
        let mut next = Old { rig: Rig { node, ..old.rig }, there: old.there };
        next.rig.seen = next.rig.log.len();
        next.rig.own(&["10.0.0.2"]);
        next.rig.interface(true);
        next.run(10_000);
        assert_eq!(next.rig.role() == Role::Active, holds, "no more and no less than before");
        assert!((90..=110).contains(&next.probes()), "it asks as often");
        next.there = !next.there;
        next.until(if holds { Role::Backup } else { Role::Active });
    }
}
