//! The witness: who gives up in a cut, who may claim, and who is left in peace.

use standin_core::event::{Obstacle, Reason, Role, Standing};
use standin_core::plan::{CheckPlan, Plan};
use standin_core::types::{CheckId, Mac, NodeId};
use standin_core::{Command, Effect, Input, Verdict};

use super::rig::{ETH0, Rig, VIP, ms, plan};

const GW: CheckId = CheckId(1);
const N1: (&str, Mac) = ("10.0.0.1", Mac([2, 0, 0, 0, 0, 11]));
const N3: (&str, Mac) = ("10.0.0.3", Mac([2, 0, 0, 0, 0, 13]));

/// n1, n2 (this one) and n3, with a gateway as witness that decides at the first failure.
fn with_witness() -> Plan {
    let mut plan = plan();
    plan.checks.push(CheckPlan { name: "gw".into(), rise: 1, fall: 1 });
    plan.vips[0].witness = vec![GW];
    plan
}

impl Rig {
    fn witness(&mut self, verdict: Verdict) {
        self.step(Input::Check { check: GW, verdict, detail: "" });
    }

    /// Lets time pass in which these peers answer whoever asks for them.
    fn run_beside(&mut self, peers: &[(&str, Mac)], milliseconds: u64) {
        for _ in 0..milliseconds / 10 {
            let seen = self.seen;
            self.run(ms(10));
            let asked: Vec<_> = self.log[seen..]
                .iter()
                .filter_map(|(_, effect)| match effect {
                    Effect::Identify { address, .. } => Some(address.to_string()),
                    _ => None,
                })
                .collect();
            self.seen = self.log.len();
            for (address, mac) in peers.iter().filter(|(it, _)| asked.iter().any(|one| one == it)) {
                let address = address.parse().unwrap();
                self.step(Input::Sighting { interface: ETH0, address, mac: *mac });
            }
        }
    }

    fn witnessed() -> Self {
        let mut rig = Self::new(with_witness());
        rig.witness(Verdict::Pass);
        rig
    }

    /// Active, with a witness in sight.
    fn witnessed_holder() -> Self {
        let mut rig = Self::witnessed();
        rig.run(ms(1_000));
        assert_eq!(rig.role(), Role::Active);
        rig.news();
        rig
    }

    fn obstacle(&self) -> Option<Obstacle> {
        self.node.router(VIP).unwrap().obstacle().cloned()
    }
}

#[test]
fn who_sees_no_witness_shows_it_before_a_peer_is_missed() {
    let shown = |rig: &Rig| rig.node.view(rig.now).vips[0].unwitnessed;
    let mut rig = Rig::witnessed_holder();
    assert!(!shown(&rig));
    rig.witness(Verdict::Fail);
    rig.run_beside(&[N1, N3], 5_000);
    assert_eq!(rig.role(), Role::Active);
    assert!(shown(&rig));
    rig.run_beside(&[N1], 5_000);
    assert!(rig.obstacle().is_some() && !shown(&rig), "the obstacle says it now");
    rig.witness(Verdict::Pass);
    assert!(!shown(&rig));
}

#[test]
fn an_active_that_sees_neither_witness_nor_peers_gives_up_within_a_second() {
    let mut rig = Rig::witnessed_holder();
    rig.witness(Verdict::Fail);
    rig.run(ms(500));
    assert_eq!(rig.role(), Role::Active, "the peers have time to answer");
    rig.run(ms(400));
    assert_eq!(rig.role(), Role::Backup);
    let missing = NodeId(0);
    assert_eq!(rig.last_reason(), Reason::Obstacle(Obstacle::NoWitness { missing }));
    assert!(rig.said().contains(&0));
    rig.run(ms(600_000));
    assert_eq!(rig.role(), Role::Backup, "not even as a last resort");
    rig.witness(Verdict::Pass);
    rig.run(ms(500));
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn an_active_whose_witness_is_gone_keeps_the_vip_while_every_peer_answers() {
    let mut rig = Rig::witnessed_holder();
    rig.witness(Verdict::Fail);
    rig.run_beside(&[N1, N3], 10_000);
    assert_eq!(rig.role(), Role::Active);
    // One of them is enough to be missed: it may be beyond a cut, with the witness.
    rig.run_beside(&[N1], 1_000);
    assert_eq!(rig.role(), Role::Backup);
    let missing = NodeId(2);
    assert_eq!(rig.obstacle(), Some(Obstacle::NoWitness { missing }));
    rig.run_beside(&[N1, N3], 1_000);
    assert_eq!(rig.role(), Role::Active, "the cut is healed, and nobody claimed it");
}

#[test]
fn nobody_is_asked_for_while_a_witness_is_seen() {
    let mut rig = Rig::witnessed_holder();
    rig.run(ms(10_000));
    let asked = |rig: &mut Rig| {
        rig.news().iter().filter(|it| matches!(it, Effect::Identify { .. })).count()
    };
    assert_eq!(asked(&mut rig), 0);
    rig.witness(Verdict::Fail);
    rig.run(ms(390));
    assert_eq!(asked(&mut rig), 4, "two peers, at once and after 200 ms");
    rig.witness(Verdict::Pass);
    rig.run(ms(10_000));
    assert_eq!(asked(&mut rig), 0);
}

#[test]
fn a_backup_without_witness_does_not_claim_on_silence() {
    let mut rig = Rig::witnessed();
    rig.hear_for("10.0.0.1", 150, ms(500));
    rig.witness(Verdict::Fail);
    for _ in 0..20 {
        rig.hear("10.0.0.1", 150);
        rig.run_beside(&[N1, N3], 100);
    }
    assert_eq!(rig.node.router(VIP).unwrap().standing(), Standing::Eligible);
    rig.run_beside(&[N3], 60_000);
    assert_eq!(rig.role(), Role::Backup);
    assert_eq!(rig.node.router(VIP).unwrap().counters().takeovers, 0, "not for a moment");
    rig.witness(Verdict::Pass);
    rig.run(ms(400));
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_dead_daemon_on_a_live_machine_is_no_cut() {
    let mut rig = Rig::witnessed();
    rig.hear_for("10.0.0.1", 150, ms(500));
    rig.witness(Verdict::Fail);
    for _ in 0..20 {
        rig.hear("10.0.0.1", 150);
        rig.run_beside(&[N1, N3], 100);
    }
    // n1's daemon is gone without a word; its kernel answers for its own address.
    rig.run_beside(&[N1, N3], 900);
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::Silence { .. }));
}

#[test]
fn a_backup_without_witness_claims_when_the_active_says_that_it_leaves() {
    let mut rig = Rig::witnessed();
    rig.hear_for("10.0.0.1", 150, ms(500));
    rig.witness(Verdict::Fail);
    for _ in 0..20 {
        rig.hear("10.0.0.1", 150);
        rig.run_beside(&[N1, N3], 100);
    }
    rig.hear("10.0.0.1", 0);
    rig.run_beside(&[N1, N3], 100);
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::Released { .. }));
}

#[test]
fn a_node_that_starts_without_witness_waits_for_it() {
    let mut rig = Rig::new(with_witness());
    rig.run(ms(10_000));
    assert_eq!(rig.role(), Role::Backup);
    assert_eq!(rig.obstacle(), Some(Obstacle::CheckPending(GW)));
    rig.witness(Verdict::Fail);
    rig.run(ms(10_000));
    assert_eq!(rig.role(), Role::Backup);
    rig.witness(Verdict::Pass);
    rig.run(ms(1_000));
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_witness_that_a_reload_brings_moves_nothing_before_it_has_looked() {
    let mut rig = Rig::new(plan());
    rig.run(ms(1_000));
    assert_eq!(rig.role(), Role::Active);
    rig.step(Input::Plan(Box::new(with_witness())));
    rig.run(ms(5_000));
    assert_eq!(rig.role(), Role::Active);
    rig.witness(Verdict::Fail);
    rig.run_beside(&[N1, N3], 5_000);
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_vip_of_one_node_needs_no_witness() {
    let mut plan = with_witness();
    plan.vips[0].members.retain(|member| member.node == NodeId(1));
    let mut rig = Rig::new(plan);
    rig.witness(Verdict::Fail);
    rig.run(ms(5_000));
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_last_resort_gives_up_too() {
    let mut rig = Rig::witnessed();
    rig.check(Verdict::Dead);
    rig.run(ms(2_000));
    assert_eq!(rig.role(), Role::Active, "all_ineligible = \"keep\"");
    rig.witness(Verdict::Fail);
    rig.run(ms(1_000));
    assert_eq!(rig.role(), Role::Backup);
    rig.run(ms(60_000));
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn one_of_several_witnesses_is_enough() {
    let mut plan = with_witness();
    plan.checks.push(CheckPlan { name: "switch".into(), rise: 1, fall: 1 });
    plan.vips[0].witness.push(CheckId(2));
    let mut rig = Rig::new(plan);
    rig.witness(Verdict::Fail);
    rig.step(Input::Check { check: CheckId(2), verdict: Verdict::Pass, detail: "" });
    rig.run(ms(5_000));
    assert_eq!(rig.role(), Role::Active);
    rig.step(Input::Check { check: CheckId(2), verdict: Verdict::Fail, detail: "" });
    rig.run(ms(1_000));
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn a_last_resort_in_maintenance_gives_up_too() {
    let mut rig = Rig::witnessed();
    rig.step(Input::Command(Command::MaintenanceOn { lasting: None }));
    rig.run(ms(2_000));
    assert_eq!(rig.role(), Role::Active);
    rig.witness(Verdict::Fail);
    rig.run(ms(1_000));
    assert_eq!(rig.role(), Role::Backup);
}
