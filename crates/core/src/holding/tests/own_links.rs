//! VIPs with a MAC of their own.

use super::*;
use crate::types::Vrid;

const IGNORE: &str = "net/ipv4/conf/eth0/arp_ignore";
const ANNOUNCE: &str = "net/ipv4/conf/eth0/arp_announce";

/// Of both families.
fn serve(vip: VipId, number: u64) -> Order {
    Order::Hold {
        vip,
        number,
        interface: "eth0".into(),
        index: Some(2),
        prefixes: vec!["10.0.0.41/24".parse().unwrap(), "fd00::41/64".parse().unwrap()],
        goodbyes: Vec::new(),
        virtual_mac: Vrid::new(41),
    }
}

fn served() -> (Holding, Host) {
    let (mut holding, mut host) = (Holding::default(), Host::default());
    holding.orders([serve(WEB, 1)]);
    host.run(&mut holding);
    host.told.retain(|told| told != "record");
    (holding, host)
}

fn found(host: &Host) -> Vec<(OwnLink, u32)> {
    host.links.iter().map(|(index, link)| (*link, *index)).collect()
}

fn is_clean(host: &Host) {
    assert!(host.addresses.is_empty() && host.links.is_empty(), "{:?}", host.told);
    assert!(host.settings.is_empty() && host.recorded == State::default(), "{:?}", host.told);
}

#[test]
fn a_link_speaks_while_its_addresses_are_there_and_is_removed_when_all_is_told() {
    let (mut holding, mut host) = served();
    let settings = ["promote_secondaries", "arp_ignore", "arp_announce"];
    let set = settings.map(|name| format!("set net/ipv4/conf/eth0/{name}"));
    assert_eq!(host.told[..3], set);
    // Two of the changes: the interface itself may have had the addresses.
    assert_eq!(host.told[3..], ["make", "make", "change 4", "speak 2", "0 Held"]);
    assert_eq!(host.settings[IGNORE], "3");
    assert_eq!(host.settings[ANNOUNCE], "2");
    assert_eq!((host.addresses.len(), host.speaks.len(), host.links.len()), (2, 2, 2));
    for key in &host.addresses {
        assert_eq!(holding.owner(*key), Some(Owner::Held(WEB)));
    }
    host.told.clear();
    holding.orders([Order::Release { vip: WEB, number: 2 }]);
    host.run(&mut holding);
    host.told.retain(|told| !told.starts_with("put back"));
    let order = ["silence 2", "record", "change 2", "0 Released", "remove 2", "record"];
    assert_eq!(host.told, order);
    is_clean(&host);
}

#[test]
fn a_link_of_a_vip_that_stays_is_silent_at_once_and_hears_for_a_moment_more() {
    let (mut holding, mut host) = served();
    host.told.clear();
    holding.orders([Order::Stay { vip: WEB, number: 2, interfaces: vec!["eth0".into()] }]);
    host.run(&mut holding);
    let expected = ["silence 2", "record", "change 2", "record", "change 2", "0 Released"];
    assert_eq!(host.told[..6], expected);
    assert_eq!(host.links.len(), 2);
    assert_eq!(host.settings.len(), 2, "what the stay needs: {:?}", host.settings);
    assert!(holding.lingers());
    holding.lingered();
    host.run(&mut holding);
    assert!(host.links.is_empty() && !holding.lingers());
    holding.orders([Order::Leave { vip: WEB }]);
    host.run(&mut holding);
    is_clean(&host);
}

#[test]
fn what_comes_back_while_its_link_lingers_gets_that_one() {
    let (mut holding, mut host) = served();
    holding.orders([Order::Stay { vip: WEB, number: 2, interfaces: vec!["eth0".into()] }]);
    host.run(&mut holding);
    holding.orders([serve(WEB, 3)]);
    host.run(&mut holding);
    holding.lingered();
    host.run(&mut holding);
    assert_eq!((host.made, host.links.len(), host.speaks.len()), (2, 2, 2));
    assert_eq!(host.addresses.len(), 2);
    assert_eq!(host.settings.len(), 3);
    holding.end();
    host.run(&mut holding);
    is_clean(&host);
}

#[test]
fn what_needs_a_setting_still_keeps_it() {
    let (mut holding, mut host) = served();
    holding.orders([hold(API, "10.0.0.42/24"), Order::Release { vip: WEB, number: 2 }]);
    host.run(&mut holding);
    assert_eq!(host.settings.len(), 1, "only promote_secondaries: {:?}", host.settings);
    holding.orders([serve(WEB, 3)]);
    host.run(&mut holding);
    assert_eq!(host.settings[IGNORE], "3", "it is seen to anew");
}

#[test]
fn where_all_interfaces_are_as_silent_nothing_is_set() {
    let (mut holding, mut host) = (Holding::default(), Host::default());
    let all = |name: &str| format!("net/ipv4/conf/all/{name}");
    holding.orders([serve(WEB, 1)]);
    while let Some(step) = holding.next_step() {
        let answer = match step {
            Step::Look { path } if path == all("arp_ignore") => Answer::Value("1".into()),
            Step::Look { path } if path == all("arp_announce") => Answer::Value("2".into()),
            step => host.done(step),
        };
        holding.answer(answer);
    }
    assert_eq!(host.settings.len(), 1, "{:?}", host.settings);
}

#[test]
fn a_vip_whose_link_cannot_be_made_is_not_held_at_all() {
    let (mut holding, mut host) = (Holding::default(), Host::default());
    holding.orders([serve(WEB, 1)]);
    let mut made = 0;
    while let Some(step) = holding.next_step() {
        made += usize::from(matches!(step, Step::MakeLink(_)));
        let answer = match step {
            Step::MakeLink(_) if made == 2 => Answer::Refused { errno: 16, why: "busy".into() },
            step => host.done(step),
        };
        holding.answer(answer);
        host.nothing_is_unknown();
    }
    assert!(host.told.contains(&"0 Refused { errno: 16 }".to_owned()), "{:?}", host.told);
    assert!(host.told.iter().any(|told| told.contains("IPv6 virtual MAC on eth0 (busy)")));
    assert!(host.speaks.is_empty());
    is_clean(&host);
}

#[test]
fn a_link_that_somebody_removes_comes_back_unless_its_interface_went() {
    let (mut holding, mut host) = served();
    for base_went in [false, true] {
        let index = *host.links.keys().next().unwrap();
        host.links.remove(&index);
        host.speaks.remove(&index);
        host.addresses.retain(|key| key.0 != index);
        host.told.clear();
        let lost = holding.link_gone(index);
        assert_eq!(lost.len(), 1);
        while let Some(step) = holding.next_step() {
            let answer = match step {
                Step::MakeLink(_) if base_went => {
                    Answer::Refused { errno: ENODEV, why: "gone".into() }
                }
                step => host.done(step),
            };
            holding.answer(answer);
            host.nothing_is_unknown();
        }
        assert_eq!(holding.is_served(lost[0].0, lost[0].1.1), !base_went);
        assert_eq!(host.told.contains(&"0 Held".to_owned()), !base_went, "{:?}", host.told);
        assert!(!host.told.iter().any(|told| told.contains("Refused")));
    }
}

#[test]
fn an_interface_that_goes_takes_a_vip_without_a_link_of_its_own_along_and_nothing_comes_back() {
    let (mut holding, mut host) = (Holding::default(), Host::default());
    holding.orders([hold(WEB, "10.0.0.41/24")]);
    host.run(&mut holding);
    let (index, _) = *host.addresses.iter().next().unwrap();
    assert_eq!(holding.link_gone(index), []);
}

#[test]
fn a_successor_keeps_what_it_holds_again_and_the_rest_goes() {
    let (_, mut host) = served();
    let mut after = Holding::resumed(host.recorded.clone(), host.addresses.clone(), found(&host));
    after.orders([serve(WEB, 1)]);
    host.run(&mut after);
    after.disinherit();
    host.run(&mut after);
    assert_eq!((host.made, host.links.len(), host.speaks.len()), (2, 2, 2));
    let mut after = Holding::resumed(host.recorded.clone(), host.addresses.clone(), found(&host));
    host.run(&mut after);
    assert_eq!(host.links.len(), 2, "somebody may hold it again soon");
    after.disinherit();
    host.run(&mut after);
    is_clean(&host);
}

#[test]
fn whoever_comes_after_a_death_at_any_step_leaves_nothing() {
    // No more steps than this in the life below.
    for lives in 0..60 {
        let (mut holding, mut host) = (Holding::default(), Host::default());
        let stay = Order::Stay { vip: WEB, number: 2, interfaces: vec!["eth0".into()] };
        let mut orders = vec![serve(WEB, 3), stay, serve(WEB, 1)];
        let mut over = false;
        for _ in 0..lives {
            let Some(step) = holding.next_step() else {
                let Some(order) = orders.pop() else {
                    over = true;
                    break;
                };
                holding.orders([order]);
                continue;
            };
            let answer = host.done(step);
            holding.answer(answer);
            host.nothing_is_unknown();
        }
        let mut next =
            Holding::begun(host.addresses.clone(), found(&host), host.recorded.settings.clone());
        host.run(&mut next);
        is_clean(&host);
        assert!(lives < 59 || over, "more steps are needed");
    }
}
