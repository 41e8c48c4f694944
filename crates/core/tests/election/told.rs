//! What peers say of themselves over the link, where adverts say something else.

use std::time::Duration;

use standin_core::election::handover::Handover;
use standin_core::election::told::Says;
use standin_core::event::{Kind, Reason, Role, Standing};
use standin_core::types::NodeId;
use standin_core::{Effect, Input};

use super::rig::{Rig, VIP, ms};

const N1: NodeId = NodeId(0);
const N3: NodeId = NodeId(2);

const WELL: Says = Says { standing: Standing::Eligible, active: true, hears_me: Some(true) };
const DEAF: Says = Says { hears_me: Some(false), ..WELL };

impl Rig {
    fn says(&mut self, node: NodeId, says: Says) {
        self.step(Input::Peer { vip: VIP, node, says: Some(says) });
    }

    /// Lets time pass in which a peer says the same each second.
    fn says_for(&mut self, node: NodeId, says: Says, seconds: u64) {
        for _ in 0..seconds {
            self.says(node, says);
            self.run(ms(1000));
        }
        self.says(node, says);
    }

    fn losses(&self) -> Vec<(bool, bool)> {
        let loss = |effect: &Effect| match effect {
            Effect::Event(event) => match event.kind {
                Kind::AdvertsLost { incoming, lost, .. } => Some((incoming, lost)),
                _ => None,
            },
            _ => None,
        };
        self.log.iter().filter_map(|(_, effect)| loss(effect)).collect()
    }
}

#[test]
fn of_two_actives_that_only_the_link_shows_the_worse_one_yields_and_follows_by_the_link() {
    let mut rig = Rig::holding();
    rig.says_for(N1, WELL, 2);
    assert_eq!(rig.role(), Role::Active, "what changes hands takes a moment");
    rig.says_for(N1, WELL, 2);
    assert_eq!(rig.role(), Role::Backup);
    assert!(matches!(rig.last_reason(), Reason::RivalByLink { .. }), "{:?}", rig.last_reason());
    rig.says_for(N1, WELL, 20);
    assert_eq!(rig.role(), Role::Backup, "it says so still");
    rig.run(ms(2000));
    assert_eq!(rig.role(), Role::Backup, "a word may be late");
    rig.run(ms(2000));
    assert_eq!(rig.role(), Role::Active, "it says nothing any more");
}

#[test]
fn the_better_one_of_two_actives_stays_and_says_which_way_adverts_are_lost() {
    let mut rig = Rig::holding();
    // Equal priority; n3 has the higher address and isn't healthy.
    let sick = Says { standing: Standing::Ineligible, ..DEAF };
    rig.says_for(N3, sick, 10);
    assert_eq!(rig.role(), Role::Active);
    assert_eq!(rig.losses(), [(true, true), (false, true)], "both ways, each said once");
    let lost: Vec<_> = rig.node.view(rig.now).vips[0].lost.iter().map(|it| it.incoming).collect();
    assert_eq!(lost, [true, false]);
    rig.says(N3, Says { active: false, hears_me: Some(true), ..sick });
    assert_eq!(rig.losses()[2..], [(true, false), (false, false)]);
    assert!(rig.node.view(rig.now).vips[0].lost.is_empty());
}

#[test]
fn the_better_one_of_two_actives_announces_again_when_the_other_has_gone() {
    for gone in [None, Some(Says { active: false, ..DEAF })] {
        let mut rig = Rig::holding();
        let sick = Says { standing: Standing::Ineligible, ..DEAF };
        rig.says_for(N3, sick, 4);
        let before = rig.announcements();
        rig.step(Input::Peer { vip: VIP, node: N3, says: gone });
        assert_eq!(rig.announcements(), before + 1, "{gone:?}: clients sent there until now");
        rig.says_for(N3, Says { active: false, ..DEAF }, 10);
        let burst = rig.announcements();
        rig.says_for(N3, Says { active: false, ..DEAF }, 10);
        assert_eq!(rig.announcements(), burst, "{gone:?}: it says nothing new");
    }
}

#[test]
fn adverts_that_come_settle_it_without_the_link() {
    let mut rig = Rig::following();
    for _ in 0..10 {
        rig.says(N1, WELL);
        rig.hear_for("10.0.0.1", 150, ms(1000));
    }
    assert_eq!(rig.losses(), []);
    assert_eq!(rig.role(), Role::Backup);
    // The host dies: the link's last word delays nothing.
    rig.run(ms(400));
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_priority_0_is_not_believed_while_the_link_says_healthy() {
    let mut rig = Rig::following();
    rig.says(N1, WELL);
    rig.hear("10.0.0.1", 0);
    rig.run(ms(90));
    assert_eq!(rig.role(), Role::Backup, "somebody forged it");
    rig.hear_for("10.0.0.1", 150, ms(1000));
    assert_eq!(rig.role(), Role::Backup);
}

#[test]
fn a_priority_0_is_believed_as_soon_as_the_link_agrees() {
    for says in [None, Some(Says { active: false, ..WELL })] {
        let mut rig = Rig::following();
        rig.says(N1, WELL);
        rig.hear("10.0.0.1", 0);
        rig.run(ms(5));
        rig.step(Input::Peer { vip: VIP, node: N1, says });
        rig.run(ms(75));
        assert_eq!(rig.role(), Role::Active, "{says:?}: the skew counts from the advert");
        assert!(matches!(rig.last_reason(), Reason::Released { .. }));
    }
}

#[test]
fn who_leaves_tells_by_the_link_and_is_believed_at_once() {
    let mut rig = Rig::following();
    rig.says(N1, WELL);
    rig.hear("10.0.0.1", 0);
    rig.run(ms(2));
    let released = rig.now;
    let handover = Handover { from: N1, epoch: 1, released };
    rig.run(ms(1));
    rig.step(Input::TakeOver { vip: VIP, handover });
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::HandedOver { .. }));
}

#[test]
fn what_an_older_version_says_names_no_loss() {
    let mut rig = Rig::holding();
    let old = Says { active: false, hears_me: None, ..WELL };
    rig.says_for(N3, old, 10);
    assert_eq!(rig.losses(), []);
    assert_eq!(rig.role(), Role::Active);
    rig.run(Duration::from_secs(5));
}

#[test]
fn a_first_word_that_is_a_goodbye_is_believed() {
    let mut rig = Rig::new(super::rig::plan());
    rig.says(N1, WELL);
    rig.hear("10.0.0.1", 0);
    rig.run(ms(100));
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::Released { .. }), "{:?}", rig.last_reason());
}

#[test]
fn whoever_takes_over_from_a_doubted_goodbye_is_followed() {
    let mut rig = Rig::following();
    rig.says(N1, WELL);
    rig.hear("10.0.0.1", 0);
    rig.hear("10.0.0.3", 120);
    rig.says(N1, Says { active: false, ..WELL });
    rig.run(ms(90));
    assert_eq!(rig.role(), Role::Backup, "n3 has it by now");
}

#[test]
fn a_handover_counts_although_its_time_is_only_guessed() {
    let mut rig = Rig::following();
    rig.says(N1, WELL);
    rig.run(ms(20));
    let released = rig.now;
    rig.run(ms(1));
    rig.hear("10.0.0.1", 150);
    rig.hear("10.0.0.1", 0);
    let handover = Handover { from: N1, epoch: 1, released };
    rig.step(Input::TakeOver { vip: VIP, handover });
    assert_eq!(rig.role(), Role::Active);
}

#[test]
fn a_last_resort_that_leaves_is_believed_although_the_link_still_says_healthy() {
    let mut rig = Rig::following();
    rig.says(N1, WELL);
    rig.hear("10.0.0.1", 1);
    rig.hear("10.0.0.1", 0);
    rig.run(ms(100));
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::Released { .. }), "{:?}", rig.last_reason());
}

#[test]
fn a_priority_0_that_an_advert_has_refuted_is_not_believed_later() {
    let mut rig = Rig::following();
    rig.says(N1, WELL);
    rig.hear("10.0.0.1", 0);
    rig.hear("10.0.0.1", 150);
    rig.says(N1, Says { active: false, ..WELL });
    rig.run(ms(250));
    assert_eq!(rig.role(), Role::Backup);
    rig.run(ms(250));
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::Silence { .. }), "{:?}", rig.last_reason());
}

#[test]
fn a_priority_0_is_not_doubted_for_what_was_said_long_ago() {
    let mut rig = Rig::following();
    rig.says(N1, WELL);
    rig.hear_for("10.0.0.1", 150, ms(3000));
    rig.hear("10.0.0.1", 0);
    rig.run(ms(90));
    assert_eq!(rig.role(), Role::Active);
    assert!(matches!(rig.last_reason(), Reason::Released { .. }), "{:?}", rig.last_reason());
}

#[test]
fn two_words_with_nothing_between_them_do_not_end_a_role() {
    let mut rig = Rig::holding();
    rig.says(N1, WELL);
    rig.run(ms(4000));
    rig.says(N1, WELL);
    assert_eq!(rig.role(), Role::Active, "it stands still, and its last words were late");
    rig.says_for(N1, WELL, 4);
    assert_eq!(rig.role(), Role::Backup, "it goes on saying so");
}
