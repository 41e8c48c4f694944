//! What is left on a host when daemons stop, are killed, and when somebody interferes.

use std::time::{Duration, Instant};

use crate::hosts::holders::Watch;
use crate::hosts::wire::who_has;
use crate::hosts::{child_of, ms, skipped, wait_until};
use crate::pair::{MAC_V4, Pair, SOON, VIP, VIP_V6, own_links, release, state, wait_state};
use standin_linux::spawn;

#[test]
fn a_stop_leaves_the_host_as_it_was() {
    if skipped() {
        return;
    }
    let mut pair = Pair::without_daemons();
    let before = [state(&pair.n1), state(&pair.n2)];
    pair.start(&crate::pair::file(""));
    assert_eq!(own_links(&pair.n1), ["standin.41", "standin6.41"]);
    assert_eq!(own_links(&pair.n2), [""; 0], "a backup has no such link");
    assert_eq!(pair.first.take().unwrap().stop(), Some(0));
    wait_state(&pair.n1, &before[0]);
    pair.n2.wait_role("active", SOON);
    assert_eq!(pair.second.take().unwrap().stop(), Some(0));
    wait_state(&pair.n2, &before[1]);
}

#[test]
fn a_killed_daemon_leaves_nothing() {
    if skipped() {
        return;
    }
    let mut pair = Pair::without_daemons();
    let before = state(&pair.n1);
    pair.start(&crate::pair::file("advert_interval = \"1s\""));
    let watches = [VIP, VIP_V6].map(|vip| Watch::new(vip, &[&pair.n1]));
    let guard = pair.first.as_ref().unwrap().pid;
    let daemon = child_of(guard).unwrap();
    let began = Instant::now();
    spawn::kill(daemon, 9).unwrap();
    wait_until("the VIP to be gone", ms(1000), || {
        watches.iter().all(|watch| watch.now().is_empty())
    });
    wait_until("the links to be gone", ms(1000), || own_links(&pair.n1).is_empty());
    let links = began.elapsed();
    for watch in &watches {
        let left = watch.changes().last().unwrap().at.saturating_duration_since(began);
        println!("killed: address gone after {left:?}, links seen gone after {links:?}");
        assert!(left < ms(100), "{left:?}");
    }
    pair.n2.wait_role("active", SOON);
    wait_until("another daemon", SOON, || pair.n1.role() == "backup");
    // The next daemon hears adverts, too.
    assert_eq!(pair.first.take().unwrap().stop(), Some(0));
    wait_state(&pair.n1, &before);
}

#[test]
fn when_all_processes_are_killed_the_kernel_ends_it() {
    if skipped() {
        return;
    }
    let mut pair = Pair::without_daemons();
    let before = state(&pair.n1);
    pair.start(&crate::pair::file(""));
    let watches = [VIP, VIP_V6].map(|vip| Watch::new(vip, &[&pair.n1]));
    let began = Instant::now();
    pair.first.take().unwrap().crash();
    for (vip, watch) in [VIP, VIP_V6].iter().zip(&watches) {
        wait_until("the kernel to end it", ms(4000), || watch.now().is_empty());
        let left = watch.changes().last().unwrap().at.saturating_duration_since(began);
        println!("everything killed: {vip} gone after {left:?}");
        assert!(left < Duration::from_secs(3), "{left:?}");
        assert_eq!(pair.ask(vip).as_deref(), Some("n2"));
    }
    // Only empty links are left, and settings; a hand takes the links away and puts those back.
    assert_eq!(own_links(&pair.n1).len(), 2);
    let said = release(&pair.n1);
    assert!(said.contains("standin.41") && said.contains("standin6.41"), "{said}");
    wait_state(&pair.n1, &before);
    assert_eq!(who_has(&pair.client, VIP, ms(300)).into_iter().collect::<Vec<_>>(), [MAC_V4]);
}

#[test]
fn what_is_taken_away_by_hand_comes_back() {
    if skipped() {
        return;
    }
    let pair = Pair::new("");
    for vip in [VIP, VIP_V6] {
        let watch = Watch::new(vip, &[&pair.n1]);
        let (link, prefix) = match vip {
            VIP => ("standin.41", "192.168.1.41/24"),
            _ => ("standin6.41", "fd00:41::41/64"),
        };
        let began = Instant::now();
        for order in [
            format!("addr del {prefix} dev {link}"),
            format!("link del {link}"),
            format!("link set {link} down"),
            format!("link set {link} address 02:00:00:00:00:99"),
        ] {
            pair.n1.ip(&order);
            wait_until("the VIP to be back", ms(1000), || {
                pair.n1.ip("-o link show type macvlan up").contains(link)
                    && pair.n1.has(vip)
                    && pair.ask(vip).as_deref() == Some("n1")
            });
        }
        println!("{vip} was away for {:?} at most", watch.vacancy(began));
        assert!(watch.vacancy(began) < ms(50), "{:?}", watch.vacancy(began));
    }
    assert_eq!(pair.n1.transitions(), 2, "nothing but the start: {:#?}", pair.n1.events());
    assert_eq!(own_links(&pair.n1).len(), 2);
}
