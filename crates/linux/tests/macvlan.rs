//! Links with a MAC of their own, as the kernel makes them, in namespaces of their own.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod space;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use space::{alone, alone_and_timed, find, index_of, ip, prefix, wire};
use standin_core::types::{Family, Mac, Vrid};
use standin_core::wire::multicast;
use standin_core::wire::vrrp::MULTICAST_V4;
use standin_linux::advert::AdvertReceiver;
use standin_linux::neighbour::NeighbourSocket;
use standin_linux::netlink::{Change, Rtnl, name_of};

fn id() -> Vrid {
    Vrid::new(41).unwrap()
}

fn mac(family: Family) -> Mac {
    Mac::of_virtual_router(family, id())
}

#[test]
fn a_link_is_made_found_silenced_and_removed() {
    alone_and_timed(|| {
        wire();
        let base = index_of("va");
        let mut rtnl = Rtnl::open().unwrap();
        assert!(rtnl.has_macvlan().unwrap());
        assert_eq!(rtnl.links().unwrap().len(), 3, "the question makes nothing");
        let name = name_of(Family::V4, id(), 0);
        assert_eq!(rtnl.link_named(&name).unwrap(), None);
        let began = Instant::now();
        rtnl.add_macvlan(&name, base, mac(Family::V4)).unwrap();
        let link = rtnl.link_named(&name).unwrap().unwrap();
        rtnl.switch_on(link.index).unwrap();
        println!("made, found and switched on in {:?}", began.elapsed());
        assert!(link.is_of_vip() && !link.on);
        assert_eq!((link.base, link.mac), (Some(base), Some(mac(Family::V4))));
        let again = rtnl.add_macvlan(&name, base, mac(Family::V4)).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(17), "EEXIST");
        rtnl.silence(link.index).unwrap();
        rtnl.silence(link.index).unwrap();
        assert!(ip("-o link show standin.41").contains("blackhole"));
        rtnl.let_speak(link.index).unwrap();
        assert!(rtnl.let_speak(link.index).is_err(), "it speaks already");
        assert!(!ip("-o link show standin.41").contains("blackhole"));
        let others: Vec<u32> = ["standin.42", "standin.43"]
            .map(|name| {
                let last = name.bytes().last().unwrap();
                rtnl.add_macvlan(name, base, Mac([0, 0, 0x5e, 0, 1, last])).unwrap();
                index_of(name)
            })
            .to_vec();
        let began = Instant::now();
        rtnl.remove_links(&[link.index]).unwrap();
        println!("one removed in {:?}", began.elapsed());
        let began = Instant::now();
        rtnl.remove_links(&[others[0], link.index, others[1]]).unwrap();
        println!("two removed in {:?}", began.elapsed());
        assert_eq!(rtnl.links().unwrap().len(), 3);
        let gone = rtnl.remove_links(&[link.index, others[0]]).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(19), "ENODEV");
    });
}

/// What a rival with the same MAC says, sent from `vb`; whether a socket on `va` hears it.
fn hears_its_own_mac() -> bool {
    let mut receiver = AdvertReceiver::open(Family::V4, index_of("va"), "va", 1).unwrap();
    let sender = NeighbourSocket::open(index_of("vb")).unwrap();
    let mut frame = Vec::new();
    let source = Ipv4Addr::new(10, 0, 0, 2).into();
    let payload = [0x31, 41, 100, 1, 0, 10, 0, 0];
    multicast::frame(&mut frame, mac(Family::V4), source, MULTICAST_V4.into(), &payload);
    sender.send(&frame).unwrap();
    let until = Instant::now() + Duration::from_millis(300);
    let mut heard = Vec::new();
    while heard.is_empty() && Instant::now() < until {
        let mut each = |it: standin_linux::advert::Received<'_>| {
            heard.push((it.source, it.destination, it.hop_limit, it.payload.to_vec()));
        };
        receiver.receive(&mut each).unwrap();
        std::thread::yield_now();
    }
    let group = IpAddr::from(MULTICAST_V4);
    assert!(heard.iter().all(|it| *it == (source, group, 255, payload.to_vec())), "{heard:?}");
    !heard.is_empty()
}

#[test]
fn the_base_hears_what_comes_from_the_links_own_mac() {
    alone(|| {
        wire();
        ip("addr add 10.0.0.1/24 dev va");
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.add_macvlan("standin.41", index_of("va"), mac(Family::V4)).unwrap();
        rtnl.switch_on(index_of("standin.41")).unwrap();
        assert!(hears_its_own_mac());
        // The canary: why it doesn't have the private mode.
        ip("link set standin.41 type macvlan mode private");
        assert!(!hears_its_own_mac());
    });
}

#[test]
fn the_route_to_the_subnet_stays_the_bases_unless_it_has_none() {
    alone(|| {
        wire();
        ip("addr add 10.0.0.1/24 dev va");
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.add_macvlan("standin.41", index_of("va"), mac(Family::V4)).unwrap();
        let index = index_of("standin.41");
        rtnl.switch_on(index).unwrap();
        let serve = |address: &str| Change::Serve {
            index,
            base: index_of("va"),
            prefix: prefix(address),
            valid_s: 60,
        };
        let mut results = Vec::new();
        rtnl.change(&[serve("10.0.0.41/24"), serve("10.9.0.41/24")], &mut results).unwrap();
        assert_eq!(results, [Ok(()), Ok(())]);
        let routes = ip("route show");
        assert!(!routes.contains("10.0.0.0/24 dev standin.41"), "{routes}");
        assert!(routes.contains("10.9.0.0/24 dev standin.41"), "{routes}");
        assert_eq!(find("10.0.0.41").unwrap().valid_lft, Some(60));
        assert!(ip("addr show dev standin.41").contains("scope host"));
    });
}
