//! Takeover between standin and keepalived in every dialect: by priority, by priority 0, by silence.

use std::time::Duration;

use crate::hosts::{self, Story, ms, together};
use crate::pair::{Dialect, Scene};

/// What a busy machine may add to any wait.
const SLACK: Duration = ms(700);

/// Two kernels hold the VIP while one advert crosses the wire and the loser's netlink is done.
const HANDOVER: Duration = ms(400);

/// How long a VIP outlives a daemon that was killed with all that belongs to it.
const OUTLIVES: Duration = ms(3000);

/// standin is preferred: takes it, leaves it, takes it again, dies.
fn standin_preferred(scene: &mut Scene) {
    let dialect = scene.dialect;
    let (interval, failback) = (dialect.interval(), "failback = \"0s\"");
    let down = |priority| interval * 3 + dialect.skew(priority);

    let _keepalived = scene.keepalived("");
    scene.moves_to(2, down(100) + ms(2000) + SLACK);
    scene.stays_on(2);

    scene.begin();
    let standin = scene.standin(150, failback);
    scene.moves_to(1, interval * 2 + ms(2000) + SLACK);
    scene.stays_on(1);
    scene.overlapped_at_most(HANDOVER);
    assert!(scene.n1.said("transition", "failback"), "by priority: {:#?}", scene.n1.events());

    scene.begin();
    assert_eq!(standin.stop(), Some(0));
    scene.moves_to(2, dialect.skew(100) + SLACK);
    scene.said_goodbye(1);
    scene.vacant_at_most(dialect.skew(100) + SLACK);
    scene.stays_on(2);
    scene.overlapped_at_most(HANDOVER);

    let standin = scene.standin(150, failback);
    scene.moves_to(1, interval * 2 + ms(2000) + SLACK);
    scene.stays_on(1);
    scene.begin();
    standin.crash();
    scene.moves_to(2, down(100).max(OUTLIVES) + SLACK);
    scene.stays_on(2);
    let silence = scene.silence(1, 2);
    assert!(silence >= interval * 2, "keepalived claimed after {silence:?} ({dialect:?})");
    assert!(silence <= down(100) + SLACK, "keepalived claimed after {silence:?} ({dialect:?})");
    scene.overlapped_at_most(OUTLIVES);
}

/// keepalived is preferred: standin waits, gets it, and gives it back.
fn keepalived_preferred(scene: &mut Scene) {
    let dialect = scene.dialect;
    let interval = dialect.interval();
    let down = |priority| interval * 3 + dialect.skew(priority);

    let keepalived = scene.keepalived("");
    scene.moves_to(2, down(100) + ms(2000) + SLACK);
    let _standin = scene.standin(50, "failback = \"0s\"");
    scene.n1.wait_role("backup", ms(3000));
    scene.begin();
    std::thread::sleep(interval * 2);
    scene.stays_on(2);
    assert!(scene.heard_from(1).is_empty(), "the backup is silent");

    scene.begin();
    keepalived.stop();
    scene.moves_to(1, dialect.skew(50) + SLACK);
    scene.said_goodbye(2);
    scene.stays_on(1);
    scene.overlapped_at_most(HANDOVER);
    assert!(scene.n1.said("transition", "gave it up"), "{:#?}", scene.n1.events());

    scene.begin();
    let _keepalived = scene.keepalived("");
    scene.moves_to(2, down(100) + ms(2000) + SLACK);
    scene.stays_on(2);
    scene.overlapped_at_most(HANDOVER);
}

/// keepalived is preferred: it is cut off and comes back, its link goes down and comes back.
fn keepalived_cut_off(scene: &mut Scene) {
    let dialect = scene.dialect;
    let interval = dialect.interval();
    let down = |priority| interval * 3 + dialect.skew(priority);

    let _standin = scene.standin(50, "failback = \"0s\"");
    let _keepalived = scene.keepalived("");
    scene.moves_to(2, down(100) + ms(2000) + SLACK);
    scene.stays_on(2);

    // Alone on the wire both have it, which nobody can know; together again, one yields at once.
    scene.begin();
    scene.lan.isolate(&scene.n2);
    scene.claims(1, down(50) + SLACK);
    let silence = scene.silence(2, 1);
    assert!(silence >= interval * 2, "standin claimed after {silence:?} ({dialect:?})");
    assert!(silence <= down(50) + SLACK, "standin claimed after {silence:?} ({dialect:?})");
    scene.lan.rejoin(&scene.n2);
    scene.moves_to(2, interval * 2 + HANDOVER + SLACK);
    scene.stays_on(2);

    scene.begin();
    scene.lan.cut(&scene.n2);
    scene.moves_to(1, down(50) + SLACK);
    scene.stays_on(1);
    scene.overlapped_at_most(HANDOVER);
    scene.lan.heal(&scene.n2);
    scene.moves_to(2, down(100) + ms(2000) + SLACK);
    scene.stays_on(2);
}

fn both_ways(dialects: &[Dialect]) {
    if hosts::skipped() {
        return;
    }
    let story = |dialect: Dialect, who: &str, story: fn(&mut Scene)| {
        let run: Story = Box::new(move || story(&mut Scene::new(dialect)));
        (format!("{who}: {dialect:?}"), run)
    };
    let all = dialects.iter().flat_map(|dialect| {
        [
            story(*dialect, "standin preferred", standin_preferred),
            story(*dialect, "keepalived preferred", keepalived_preferred),
            story(*dialect, "keepalived cut off", keepalived_cut_off),
        ]
    });
    together(all.collect());
}

#[test]
fn takes_over_from_keepalived_and_back_over_ipv4() {
    let unicast = Dialect { unicast: true, ..Dialect::V3 };
    let slow = |dialect| Dialect { interval_ms: 1000, ..dialect };
    both_ways(&[Dialect::V3, unicast, slow(Dialect::V3), slow(unicast)]);
}

#[test]
fn takes_over_from_keepalived_and_back_over_ipv6() {
    let multicast = Dialect { ipv6: true, ..Dialect::V3 };
    let unicast = Dialect { unicast: true, ..multicast };
    let slow = |dialect| Dialect { interval_ms: 1000, ..dialect };
    both_ways(&[multicast, unicast, slow(multicast), slow(unicast)]);
}

#[test]
fn takes_over_from_keepalived_and_back_in_version_2() {
    let password = Dialect { password: Some("s3cret-8"), ..Dialect::V2 };
    both_ways(&[Dialect::V2, password, Dialect { unicast: true, ..password }]);
}
