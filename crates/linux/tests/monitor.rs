//! What the kernel's notices say, in namespaces of their own.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod space;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use space::{alone, alone_and_timed, index_of, ip, prefix, wire};
use standin_linux::netlink::{Change, Monitor, Notice, PROTOCOL, Rtnl};

/// Reads until `wanted` is among the notices, and returns all of them.
fn wait_for(monitor: &mut Monitor, wanted: impl Fn(&Notice) -> bool) -> Vec<Notice> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut seen = Vec::new();
    loop {
        let before = seen.len();
        monitor.read(&mut seen).unwrap();
        if seen[before..].iter().any(&wanted) {
            return seen;
        }
        assert!(Instant::now() < deadline, "not said: {seen:#?}");
        let mut readable = [PollFd::new(monitor, PollFlags::IN)];
        let wait = Timespec { tv_sec: 1, tv_nsec: 0 };
        rustix::event::poll(&mut readable, Some(&wait)).unwrap();
    }
}

/// What is said up to now.
fn drain(monitor: &mut Monitor) -> Vec<Notice> {
    let mut seen = Vec::new();
    monitor.read(&mut seen).unwrap();
    seen
}

fn change(rtnl: &mut Rtnl, change: Change) {
    let mut results = Vec::new();
    rtnl.change(&[change], &mut results).unwrap();
    assert_eq!(results, [Ok(())]);
}

fn is_here(notice: &Notice, vip: &str) -> bool {
    let vip: IpAddr = vip.parse().unwrap();
    matches!(notice, Notice::Address(one) if one.prefix.address() == vip)
}

fn is_gone(notice: &Notice, vip: &str) -> bool {
    let vip: IpAddr = vip.parse().unwrap();
    matches!(notice, Notice::AddressGone(one) if one.prefix.address() == vip)
}

#[test]
fn addresses_are_announced_when_held_and_when_dropped_and_never_gone_when_renewed() {
    alone(|| {
        wire();
        let index = index_of("va");
        let mut rtnl = Rtnl::open().unwrap();
        let mut monitor = Monitor::open().unwrap();
        for (vip, with_len) in [("10.1.0.40", "10.1.0.40/24"), ("fd00::40", "fd00::40/64")] {
            let prefix = prefix(with_len);
            change(&mut rtnl, Change::Hold { index, prefix, valid_s: 60 });
            wait_for(&mut monitor, |notice| is_here(notice, vip));
            change(&mut rtnl, Change::Hold { index, prefix, valid_s: 60 });
            let seen = wait_for(&mut monitor, |notice| is_here(notice, vip));
            assert!(!seen.iter().any(|notice| is_gone(notice, vip)), "{seen:?}");
            change(&mut rtnl, Change::Drop { index, prefix });
            wait_for(&mut monitor, |notice| is_gone(notice, vip));
        }
    });
}

#[test]
fn renewals_are_silent_once_spared_and_all_else_is_still_said() {
    alone(|| {
        wire();
        let index = index_of("va");
        let mut rtnl = Rtnl::open().unwrap();
        let hold =
            |address: &str, valid_s| Change::Hold { index, prefix: prefix(address), valid_s };
        let (first, second) = ("10.1.0.40", "10.1.0.41");
        change(&mut rtnl, hold("10.1.0.40/24", 60));
        let lifetime = || space::find(first).unwrap().valid_lft.unwrap();

        let mut monitor = Monitor::open().unwrap();
        rtnl.renew(&[hold("10.1.0.40/24", 100)]).unwrap();
        wait_for(&mut monitor, |notice| is_here(notice, first));
        assert!(lifetime() > 60, "a renewal renews");

        monitor.spare_renewals_of(&rtnl).unwrap();
        rtnl.renew(&[hold("10.1.0.40/24", 200)]).unwrap();
        assert!(lifetime() > 100, "a silent renewal renews too");
        change(&mut rtnl, hold("10.1.0.41/24", 60));
        let seen = wait_for(&mut monitor, |notice| is_here(notice, second));
        assert!(!seen.iter().any(|notice| is_here(notice, first)), "{seen:#?}");
        change(&mut rtnl, Change::Drop { index, prefix: prefix("10.1.0.40/24") });
        wait_for(&mut monitor, |notice| is_gone(notice, first));

        // What is refused says nothing, and leaves the next conversation in order.
        rtnl.renew(&[Change::Hold { index: 9999, prefix: prefix("10.1.0.42/24"), valid_s: 2 }])
            .unwrap();
        change(&mut rtnl, hold("10.1.0.43/24", 60));
        rtnl.renew(&[hold("10.1.0.43/24", 100)]).unwrap();
        assert!(space::find("10.1.0.43").unwrap().valid_lft.unwrap() > 60);
    });
}

#[test]
fn routes_that_change_together_are_one_notice() {
    alone(|| {
        wire();
        let mut monitor = Monitor::open().unwrap();
        ip("route add 10.7.0.0/24 dev va");
        assert_eq!(routes(&drain(&mut monitor)), 1);
        for n in 0..5 {
            ip(&format!("route add 10.8.{n}.0/24 dev va"));
        }
        ip("-6 route add fd00:8::/64 dev va");
        assert_eq!(routes(&drain(&mut monitor)), 1);
        ip("route del 10.7.0.0/24 dev va");
        assert_eq!(routes(&drain(&mut monitor)), 1);
    });
}

fn routes(notices: &[Notice]) -> usize {
    notices.iter().filter(|notice| **notice == Notice::Route).count()
}

#[test]
fn the_expiry_of_an_address_is_announced() {
    alone_and_timed(|| {
        wire();
        let index = index_of("va");
        let mut monitor = Monitor::open().unwrap();
        let mut rtnl = Rtnl::open().unwrap();
        for (vip, with_len) in [("10.1.0.40", "10.1.0.40/24"), ("fd00::40", "fd00::40/64")] {
            let begun = Instant::now();
            change(&mut rtnl, Change::Hold { index, prefix: prefix(with_len), valid_s: 1 });
            wait_for(&mut monitor, |notice| is_gone(notice, vip));
            println!("{vip}: told {:?} after it was held for 1 s", begun.elapsed());
        }
    });
}

#[test]
fn links_are_announced_up_down_and_gone() {
    alone(|| {
        wire();
        let index = index_of("va");
        let mut monitor = Monitor::open().unwrap();
        ip("link set va down");
        wait_for(
            &mut monitor,
            |notice| matches!(notice, Notice::Link(link) if link.index == index && !link.up),
        );
        ip("link set va up");
        wait_for(
            &mut monitor,
            |notice| matches!(notice, Notice::Link(link) if link.index == index && link.up),
        );
        // The cable is pulled at the other end.
        ip("link set vb down");
        wait_for(
            &mut monitor,
            |notice| matches!(notice, Notice::Link(link) if link.index == index && !link.up),
        );
        ip("link del va");
        wait_for(&mut monitor, |notice| *notice == Notice::LinkGone { index });
    });
}

#[test]
fn a_port_that_leaves_its_bridge_is_not_a_link_that_is_gone() {
    alone(|| {
        wire();
        let index = index_of("va");
        ip("link add name br0 type bridge");
        ip("link set va master br0");
        let mut monitor = Monitor::open().unwrap();
        ip("link set va nomaster");
        ip("link set vb down");
        let seen = wait_for(
            &mut monitor,
            |notice| matches!(notice, Notice::Link(link) if link.index == index && !link.up),
        );
        assert!(!seen.contains(&Notice::LinkGone { index }), "{seen:?}");
    });
}

#[test]
fn notices_that_were_lost_are_an_overflow_and_later_ones_are_heard() {
    alone(|| {
        wire();
        let index = index_of("va");
        let mut monitor = Monitor::open().unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(monitor.as_fd(), 1).unwrap();
        let holds: Vec<Change> = (1..=250)
            .map(|n| prefix(&format!("10.64.0.{n}/32")))
            .map(|prefix| Change::Hold { index, prefix, valid_s: 60 })
            .collect();
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.change(&holds, &mut Vec::new()).unwrap();
        let seen = drain(&mut monitor);
        assert!(seen.contains(&Notice::Overflow), "{seen:?}");
        assert!(!drain(&mut monitor).contains(&Notice::Overflow));
        change(&mut rtnl, Change::Hold { index, prefix: prefix("10.65.0.1/32"), valid_s: 60 });
        wait_for(&mut monitor, |notice| is_here(notice, "10.65.0.1"));
    });
}

#[test]
fn a_thousand_addresses_at_once_are_no_overflow() {
    alone(|| {
        wire();
        let index = index_of("va");
        let mut monitor = Monitor::open().unwrap();
        let holds: Vec<Change> = (0..1000)
            .map(|n| prefix(&format!("10.64.{}.{}/32", n / 250, n % 250 + 1)))
            .map(|prefix| Change::Hold { index, prefix, valid_s: 60 })
            .collect();
        Rtnl::open().unwrap().change(&holds, &mut Vec::new()).unwrap();
        let seen = wait_for(&mut monitor, |notice| is_here(notice, "10.64.3.250"));
        assert!(!seen.contains(&Notice::Overflow));
        let ours = seen
            .iter()
            .filter(|one| matches!(one, Notice::Address(one) if one.protocol == PROTOCOL));
        assert_eq!(ours.count(), 1000);
    });
}
