//! Who may begin a move and end it: any node, and at any step.

use std::thread::sleep;
use std::time::Instant;

use super::cluster::{Cluster, SOON, UnderWay, VIP, steps};
use super::hosts::{STANDIN, ms, wait_until};
use super::load::{Habit, Load};
use super::unharmed;

/// Ctrl-C, `--abort` on the old node and on the new one: the VIP comes back, and no client notices.
pub(crate) fn called_off_all_is_as_before() {
    let cluster = Cluster::new(2, 1, "60s");
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    let _daemons = cluster.start();
    let before = cluster.states();
    let keeps = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::KeepAlive, 4);
    let short = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::Short, 4);
    sleep(ms(300));
    type Way<'a> = &'a dyn Fn(&UnderWay);
    let ways: [(&str, Way<'_>); 3] = [
        ("Ctrl-C", &|moving| moving.interrupt()),
        ("--abort on n1", &|_| drop(n1.run(&format!("{STANDIN} switchover web --abort")))),
        ("--abort on n2", &|_| {
            let said = n2.run(&format!("{STANDIN} switchover web --abort --json"));
            assert!(said.starts_with('{') && said.contains("\"vip\":\"web\""), "{said}");
        }),
    ];
    for (how, call_off) in ways {
        let moving = UnderWay::begin(n1, "web n2");
        n2.wait_role("active", SOON);
        wait_until("the drain to begin", SOON, || n1.said("switchover", "n2 has web"));
        sleep(ms(200));
        call_off(&moving);
        // Said twice it is undone once.
        wait_until("n1 to have it again", SOON, || n1.role() == "active");
        let _ = n1.try_run(&format!("{STANDIN} switchover web --abort"));
        let (code, story, error) = moving.end();
        assert_eq!(code, Some(1), "{how}: {story:?}{error}");
        assert_eq!(steps(&story).last(), Some(&"called_off"), "{how}: {story:?}{error}");
        assert!(steps(&story).contains(&"returning"), "{how}: {story:?}");
        assert!(error.contains("web is on n1 again"), "{how}: {error}");
        assert_eq!(n1.role(), "active", "{how}");
        cluster.wait_states(&before);
        cluster.wait_ready();
    }
    // Before anything has moved: n2 doesn't hear what it is asked.
    n2.drop_incoming("tcp dport 8412");
    let moving = UnderWay::begin(n1, "web n2");
    sleep(ms(500));
    moving.interrupt();
    let began = Instant::now();
    let (code, story, error) = moving.end();
    assert!(began.elapsed() < ms(3000), "n2's answer was waited for");
    assert_eq!(
        (code, steps(&story)),
        (Some(1), vec!["preparing", "called_off"]),
        "{story:?}{error}"
    );
    assert!(error.contains("web stays on n1: called off by"), "{error}");
    n2.drop_nothing();
    unharmed("keep-alive", &keeps.end());
    unharmed("short", &short.end());
    cluster.wait_states(&before);
    // Whose cable is out doesn't know where the VIP is.
    cluster.wait_ready();
    n2.drop_incoming("tcp dport 8412");
    let moving = UnderWay::begin(n1, "web n2");
    sleep(ms(300));
    n1.ip("link set eth0 down");
    n2.wait_role("active", SOON);
    let (code, story, error) = moving.end();
    assert_eq!((code, steps(&story).last()), (Some(1), Some(&"failed")), "{story:?}{error}");
    let why = "n1 doesn't have web any more, so it moves nothing: n2 didn't answer within 5 s";
    assert!(error.contains(why), "{error}");
}

/// A node that can't have it back says so, and nothing else changes.
pub(crate) fn what_cannot_come_back_stays_there() {
    let cluster = Cluster::new(2, 1, "60s");
    let [n1, n2] = &cluster.nodes[..] else { unreachable!() };
    let mut daemons = cluster.start().into_iter();
    let (mut first, _second) = (daemons.next().unwrap(), daemons.next().unwrap());
    let keeps = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::KeepAlive, 2);
    sleep(ms(300));
    n1.run(&format!("{STANDIN} maintenance on"));
    n2.wait_role("active", SOON);
    n1.run(&format!("{STANDIN} switchover web --abort"));
    n1.wait_said("switchover", "n2 can't give web back, so the drain goes on: ", SOON);
    assert!(n1.ip("-o address show dev lo").contains(VIP), "n1 still serves its clients");
    n1.run(&format!("{STANDIN} maintenance off"));
    cluster.wait_ready();
    let back = UnderWay::begin(n2, "web");
    n1.wait_role("active", SOON);
    sleep(ms(300));
    cluster.wait_ready();
    first.signal(15);
    n2.wait_role("active", SOON);
    // Who stops takes nothing.
    for words in ["web --abort", "web n1"] {
        let output = n2.try_run(&format!("{STANDIN} switchover {words}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words == "web --abort" || said.contains("it is stopping"), "{words}: {said}");
    }
    sleep(ms(500));
    assert_eq!((n1.role(), n2.role()), ("backup".to_owned(), "active".to_owned()));
    unharmed("keep-alive", &keeps.end());
    back.ends_moved_back("n1");
    wait_until("n1's daemon to end", SOON, || !first.runs());
}

/// Typed on the node that is to have it, and on one that has no part in it: the story is told there.
pub(crate) fn ordered_from_any_node() {
    let cluster = Cluster::new(3, 1, "60s");
    let [n1, n2, n3] = &cluster.nodes[..] else { unreachable!() };
    let _daemons = cluster.start();
    let before = cluster.states();
    let download = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::Download, 2);
    let short = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::Short, 4);
    sleep(ms(300));
    for (on, from, to) in [(n2, n1, n2), (n3, n2, n1)] {
        let (code, story, error) = UnderWay::begin(on, &format!("web {}", to.name)).end();
        assert_eq!(code, Some(0), "{story:?}{error}");
        let steps = steps(&story);
        assert_eq!(steps[..3], ["preparing", "moved", "draining"], "{story:?}");
        assert_eq!(steps.last(), Some(&"done"), "{story:?}");
        // "Here" would be another node than where it is read.
        let mut texts = story.iter().filter_map(|line| line["text"].as_str());
        assert!(texts.all(|text| !text.contains("here")), "{story:?}");
        assert_eq!((from.role(), to.role()), ("backup".to_owned(), "active".to_owned()));
        assert!(from.said("switchover", &format!("on {}", on.name)), "who asked is known");
        cluster.wait_ready();
    }
    // Called off by the third one, and left alone by it before anything happens.
    let keeps = Load::begin(&cluster.client, VIP.parse().unwrap(), Habit::KeepAlive, 2);
    sleep(ms(200));
    let moving = UnderWay::begin(n3, "web n2");
    n2.wait_role("active", SOON);
    sleep(ms(300));
    moving.interrupt();
    let (code, story, error) = moving.end();
    assert_eq!(code, Some(1), "{story:?}{error}");
    assert_eq!(steps(&story).last(), Some(&"called_off"), "{story:?}{error}");
    assert_eq!(n1.role(), "active");
    unharmed("keep-alive", &keeps.end());
    unharmed("download", &download.end());
    unharmed("short", &short.end());
    cluster.wait_states(&before);
    // A node that doesn't hear isn't waited for without end.
    n1.drop_incoming("tcp sport 8412");
    let (code, story, error) = UnderWay::begin(n3, "web n2").end();
    assert_eq!(code, Some(1), "{story:?}");
    assert!(error.contains("nothing was heard of n1") || error.contains("no peer link"), "{error}");
    assert_eq!(n1.role(), "active");
}
