//! Who gets the VIP when health and stickiness disagree.

use std::time::Duration;

use crate::hosts::{self, Host, ms, together};
use crate::pair::{Dialect, Scene};

const SLACK: Duration = ms(700);

/// keepalived runs its script this often.
const SCRIPT_EVERY: Duration = ms(1000);

/// Healthy is who has the file `/run/well`.
const CHECK: &str = "checks = [\"well\"]\nhold_down = \"0s\"\n\
                     [check.well]\ntype = \"file\"\npath = \"/run/well\"\ninterval = \"100ms\"\n\
                     timeout = \"50ms\"\nrise = 1\nfall = 1";
const SCRIPT: &str = "vrrp_script well {\n script \"/usr/bin/test -e /run/well\"\n interval 1\n \
                      fall 1\n rise 1\n}";
const TRACK: &str = "track_script {\n well\n }";

fn well(host: &Host, well: bool) {
    if well {
        host.write("/run/well", "");
    } else {
        host.run("rm -f /run/well");
    }
}

/// Slow enough that a keepalived on a busy machine, which has no realtime, isn't taken for dead.
const DIALECT: Dialect = Dialect { interval_ms: 300, ..Dialect::V3 };

/// Longer than any wait before a claim.
fn a_while() {
    std::thread::sleep(ms(1600));
}

/// A standin that never fails back leaves the VIP to a keepalived of lower priority.
fn standin_does_not_preempt() {
    let mut scene = Scene::new(DIALECT);
    let _keepalived = scene.keepalived("");
    scene.moves_to(2, ms(3000));
    scene.begin();
    let _standin = scene.standin(150, "failback = \"never\"");
    scene.n1.wait_role("backup", ms(3000));
    a_while();
    assert!(scene.heard_from(1).is_empty(), "{:#?}", scene.heard_from(1));
    scene.stays_on(2);
}

/// And the other way round.
fn keepalived_does_not_preempt() {
    let mut scene = Scene::new(DIALECT);
    let _standin = scene.standin(50, "");
    scene.moves_to(1, ms(3000));
    scene.begin();
    let _keepalived = scene.keepalived("nopreempt");
    std::thread::sleep(ms(1000));
    a_while();
    assert!(scene.heard_from(2).is_empty(), "{:#?}", scene.heard_from(2));
    scene.stays_on(1);
}

/// A nopreempt keepalived gets the VIP of an ill standin, keeps it when that is well again, and
/// gives it back when it is ill itself.
fn health_beats_stickiness() {
    let mut scene = Scene::new(DIALECT);
    well(&scene.n1, true);
    well(&scene.n2, true);
    let _standin = scene.n1.standin(&scene.dialect.toml(150, CHECK));
    scene.moves_to(1, ms(3000));
    let conf = scene.dialect.conf(SCRIPT, &format!("nopreempt\n {TRACK}"));
    let _keepalived = scene.n2.keepalived(&conf);
    std::thread::sleep(SCRIPT_EVERY);
    a_while();
    scene.stays_on(1);

    scene.begin();
    well(&scene.n1, false);
    scene.moves_to(2, ms(150) + scene.dialect.skew(100) + SLACK);
    scene.said_goodbye(1);
    scene.overlapped_at_most(ms(400));
    scene.stays_on(2);

    scene.begin();
    well(&scene.n1, true);
    scene.n1.wait_said("standing", "eligible", ms(2000));
    a_while();
    assert!(scene.heard_from(1).is_empty(), "failback = \"never\"; {}", scene.known());
    scene.stays_on(2);

    scene.begin();
    well(&scene.n2, false);
    scene.moves_to(1, SCRIPT_EVERY * 2 + scene.dialect.skew(150) + SLACK);
    scene.stays_on(1);
}

/// Nobody is well: it ends on one node, at priority 1; a keepalived that recovers takes it over.
fn nobody_is_well() {
    let mut scene = Scene::new(DIALECT);
    well(&scene.n1, true);
    well(&scene.n2, false);
    let _standin = scene.n1.standin(&scene.dialect.toml(150, CHECK));
    let _keepalived = scene.n2.keepalived(&scene.dialect.conf(SCRIPT, TRACK));
    scene.moves_to(1, ms(3000));
    std::thread::sleep(SCRIPT_EVERY);

    scene.begin();
    well(&scene.n1, false);
    scene.n1.wait_has(scene.dialect.vip(), false, ms(1000));
    scene.said_goodbye(1);
    // It waits for anyone who is well, and then has it all the same.
    scene.moves_to(1, scene.dialect.interval() * 6 + SLACK);
    scene.stays_on(1);
    let last = scene.heard_from(1).pop().unwrap();
    assert_eq!(last.priority(), Some(1), "{}", last.line);

    scene.begin();
    well(&scene.n2, true);
    // keepalived hears a lower priority and waits as if nobody were there.
    scene.moves_to(2, SCRIPT_EVERY * 2 + scene.dialect.interval() * 4 + SLACK);
    scene.stays_on(2);
    scene.overlapped_at_most(ms(400));
}

/// The holder of last resort is well again before anybody else: it says so and nothing moves.
fn the_last_resort_recovers() {
    let mut scene = Scene::new(DIALECT);
    well(&scene.n1, false);
    well(&scene.n2, false);
    let _standin = scene.n1.standin(&scene.dialect.toml(150, CHECK));
    let _keepalived =
        scene.n2.keepalived(&scene.dialect.conf(SCRIPT, &format!("nopreempt\n {TRACK}")));
    scene.moves_to(1, ms(6000));
    scene.n1.wait_said("transition", "no node is eligible", ms(1000));
    let transitions = scene.n1.transitions();
    scene.begin();
    well(&scene.n1, true);
    scene.n1.wait_said("standing", "eligible", ms(2000));
    std::thread::sleep(ms(300));
    let last = scene.heard_from(1).pop().unwrap();
    assert_eq!(last.priority(), Some(150), "{}", last.line);
    well(&scene.n2, true);
    std::thread::sleep(SCRIPT_EVERY);
    a_while();
    scene.stays_on(1);
    assert_eq!(scene.n1.transitions(), transitions, "{:#?}", scene.n1.events());
}

/// Two standins, both ill: whoever recovers takes over from priority 1 at once, though it would
/// never fail back.
fn two_standins() {
    let mut scene = Scene::new(DIALECT);
    let toml = scene.dialect.toml(150, CHECK).replace("vrrp_only = true\n", "");
    for host in [&scene.n1, &scene.n2] {
        well(host, true);
    }
    let _n1 = scene.n1.standin(&toml);
    scene.moves_to(1, ms(3000));
    let _n2 = scene.n2.standin(&toml);
    scene.n2.wait_role("backup", ms(3000));
    well(&scene.n2, false);
    scene.n2.wait_said("standing", "ineligible", ms(2000));
    well(&scene.n1, false);
    scene.n1.wait_said("standing", "ineligible", ms(2000));
    std::thread::sleep(scene.dialect.interval() * 8);
    let last = scene.adverts.since(std::time::Instant::now() - ms(700));
    assert_eq!(last.last().and_then(|packet| packet.priority()), Some(1), "{last:#?}");
    scene.begin();
    well(&scene.n2, true);
    scene.moves_to(2, ms(150) + scene.dialect.interval() + SLACK);
    scene.stays_on(2);
    scene.overlapped_at_most(ms(400));
}

#[test]
fn health_beats_stickiness_and_stickiness_beats_priority() {
    if hosts::skipped() {
        return;
    }
    let stories: [(&str, fn()); 6] = [
        ("standin does not preempt", standin_does_not_preempt),
        ("keepalived does not preempt", keepalived_does_not_preempt),
        ("health beats stickiness", health_beats_stickiness),
        ("nobody is well", nobody_is_well),
        ("the last resort recovers", the_last_resort_recovers),
        ("two standins", two_standins),
    ];
    together(stories.map(|(name, run)| (name.to_owned(), Box::new(run) as _)).into());
}
