//! Stops, kills, full and read-only disks: the VIP is on one node, and nothing is left behind.

use std::time::{Duration, Instant};

use crate::host::{Host, Program, field, pair, rack, until};

const VIP: &str = "192.0.2.41/24";

fn two() -> (Host, Host, Program, Program) {
    let (one, two) = (Host::new("n1", 11), Host::new("n2", 12));
    let text = pair("checks = []", "");
    one.cluster(&text);
    two.cluster(&text);
    let first = one.daemon("");
    one.until_role("web", "active");
    let second = two.daemon("");
    until("n2 knows the holder", || field(&two.status(), "web", "holder") == "n1");
    (one, two, first, second)
}

#[test]
fn an_active_that_was_stopped_for_five_seconds_is_no_lasting_double() {
    rack("hardship::an_active_that_was_stopped_for_five_seconds_is_no_lasting_double", || {
        let (one, two, _first, _second) = two();
        one.signal_all("STOP");
        two.until_role("web", "active");
        std::thread::sleep(Duration::from_secs(5));
        assert!(!one.has(VIP), "its addresses ran out");
        one.signal_all("CONT");
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            assert!(!(one.has(VIP) && two.has(VIP)), "both have it after the pause");
        }
        assert_eq!(one.role("web"), "backup");
        assert_eq!(two.role("web"), "active");
        until("the pause is in the events", || {
            one.events().iter().any(|event| event["kind"] == "stalled" || event["to"] == "backup")
        });
    });
}

#[test]
fn no_vip_outlives_the_processes_by_more_than_three_seconds() {
    rack("hardship::no_vip_outlives_the_processes_by_more_than_three_seconds", || {
        let (one, two, mut first, _second) = two();
        let killed = Instant::now();
        one.signal_all("KILL");
        first.ended();
        two.until_role("web", "active");
        until("the kernel ends the address", || !one.has(VIP));
        let lasted = killed.elapsed();
        assert!(lasted < Duration::from_secs(3), "{lasted:?}");
        assert!(one.has("192.0.2.11/24") && two.has(VIP));
    });
}

#[test]
fn what_a_killed_daemon_left_behind_is_removed_at_the_next_start() {
    rack("hardship::what_a_killed_daemon_left_behind_is_removed_at_the_next_start", || {
        let host = Host::new("n1", 11);
        host.cluster(&pair("checks = []", ""));
        // Whichever process dies last may clean up behind the others.
        let left = (0..10).any(|_| {
            let mut daemon = host.daemon("");
            host.until_role("web", "active");
            // One that isn't dead yet replaces the other.
            host.sh(
                "while pidof standin > /dev/null; do kill -KILL $(pidof standin) || true; done",
            );
            daemon.ended();
            host.has(VIP)
        });
        assert!(left, "it lives on for a moment");
        host.cluster(&pair("checks = []", "").replace("0.2.41/24", "0.2.43/24"));
        let mut again = host.daemon("");
        assert!(!host.has(VIP), "{}", host.sh("ip address"));
        assert!(
            host.log().contains("what an earlier standin had left on this host"),
            "{}",
            host.log()
        );
        host.until_role("web", "active");
        assert!(host.has("192.0.2.43/24"));
        assert_eq!(again.stop(), 0);
    });
}

#[test]
fn a_full_disk_loses_events_on_disk_and_nothing_else() {
    rack("hardship::a_full_disk_loses_events_on_disk_and_nothing_else", || {
        let host = Host::new("n1", 11);
        host.sh("mount -t tmpfs -o size=16k tmpfs /var/lib/standin; \
             dd if=/dev/zero of=/var/lib/standin/fill bs=1k count=64 2>/dev/null || true");
        host.cluster(&pair("checks = []", ""));
        let mut daemon = host.daemon("");
        host.until_role("web", "active");
        assert!(host.events().iter().any(|event| event["to"] == "active"));
        let log = host.log();
        assert_eq!(log.matches("events can't be kept on disk").count(), 1, "{log}");
        // Room again: the file is written again, whole lines only.
        host.sh("rm /var/lib/standin/fill");
        host.standin("maintenance on");
        until("it is on disk", || {
            host.read("/var/lib/standin/events.jsonl").contains("maintenance")
        });
        assert_eq!(daemon.stop(), 0);
        let _again = host.daemon("");
        assert!(host.events().iter().any(|event| event["kind"] == "maintenance"));
    });
}

#[test]
fn a_state_directory_that_cannot_be_written_costs_the_history_only() {
    rack("hardship::a_state_directory_that_cannot_be_written_costs_the_history_only", || {
        let host = Host::new("n1", 11);
        host.sh("mount -o remount,ro /var/lib/standin");
        host.cluster(&pair("checks = []", ""));
        let mut daemon = host.daemon("");
        host.until_role("web", "active");
        let log = host.log();
        assert!(log.contains("/var/lib/standin") && log.contains("only in memory"), "{log}");
        let events = host.events();
        assert_eq!(events.last().unwrap()["to"], "active");
        assert_eq!(daemon.stop(), 0);

        let said = host.standin("run --run-dir /var/lib/standin/run");
        assert_eq!(said.code, 1, "{said:?}");
        assert!(
            said.err.contains("/var/lib/standin/run") && said.err.contains("Read-only"),
            "{said:?}"
        );
    });
}

#[test]
fn a_node_without_its_address_waits_for_it() {
    rack("hardship::a_node_without_its_address_waits_for_it", || {
        let host = Host::new("n1", 11);
        host.cluster(&pair("checks = []", ""));
        host.sh("ip address del 192.0.2.11/24 dev eth0");
        let mut daemon =
            host.start(&format!("{} run --node n1", crate::host::STANDIN), "/run/standin.log");
        until("it says so", || {
            host.log().contains("no interface of this host has node n1's address 192.0.2.11")
        });
        assert!(daemon.lives());
        // A stop while it waits is a stop.
        assert_eq!(daemon.stop(), 0, "{}", host.log());
        assert!(!host.log().contains("died"), "{}", host.log());
        let line = format!("{} run --node n1", crate::host::STANDIN);
        let mut daemon = host.start(&line, "/run/standin.log");
        until("it waits", || {
            host.log().contains("no interface of this host has node n1's address 192.0.2.11")
        });
        host.sh("ip address add 192.0.2.11/24 dev eth0");
        until("it runs", || host.standin("status").code == 0);
        host.until_role("web", "active");
        // The address goes and comes while it runs.
        host.sh("ip address del 192.0.2.11/24 dev eth0");
        until("it can't hold the VIP without its address", || host.role("web") == "idle");
        until("the address is gone", || !host.has(VIP));
        host.sh("ip address add 192.0.2.11/24 dev eth0");
        host.until_role("web", "active");
        assert_eq!(daemon.stop(), 0);
    });
}

#[test]
fn a_node_that_is_found_by_its_host_name_or_address_waits_for_its_address_too() {
    rack(
        "hardship::a_node_that_is_found_by_its_host_name_or_address_waits_for_its_address_too",
        || {
            for (name, sign) in [("n1", "is called n1"), ("web7", "no node of")] {
                let host = Host::new(name, 11);
                host.cluster(&pair("checks = []", ""));
                host.sh("ip address del 192.0.2.11/24 dev eth0");
                let line = format!("{} run", crate::host::STANDIN);
                let mut daemon = host.start(&line, "/run/standin.log");
                until("it waits", || {
                    assert!(daemon.lives(), "systemd starts it no more: {}", host.log());
                    host.log().contains("waiting: ") && host.log().contains(sign)
                });
                host.sh("ip address add 192.0.2.11/24 dev eth0");
                until("it runs", || host.standin("status").code == 0);
                assert_eq!(host.status()["node"], "n1");
                assert_eq!(daemon.stop(), 0);
            }
        },
    );
}

#[test]
fn a_clone_of_a_node_does_not_start() {
    rack("hardship::a_clone_of_a_node_does_not_start", || {
        let host = Host::new("n1", 12);
        host.cluster(&pair("checks = []", ""));
        let said = host.standin("run");
        assert_eq!(said.code, 3, "{said:?}");
        assert!(said.err.contains("--node n2"), "{said:?}");
    });
}

#[test]
fn an_address_that_a_network_daemon_takes_away_for_a_moment_moves_nothing() {
    rack(
        "hardship::an_address_that_a_network_daemon_takes_away_for_a_moment_moves_nothing",
        || {
            let host = Host::new("n1", 11);
            host.cluster(&pair("checks = []", ""));
            let mut daemon = host.daemon("");
            host.until_role("web", "active");
            let (before, began) = (host.events().len(), Instant::now());
            // As networkd does when its configuration is read again.
            host.sh(&format!(
                "ip address del {VIP} dev eth0; ip address del 192.0.2.11/24 dev eth0; sleep 0.02; \
             ip address add 192.0.2.11/24 dev eth0"
            ));
            if began.elapsed() > Duration::from_millis(90) {
                eprintln!("SKIPPED: this machine is too slow to tell");
                return;
            }
            until("the VIP is put back", || host.has(VIP));
            until("behind the node's own address", || {
                host.sh("ip -4 -o address show dev eth0").lines().any(|it| it.contains("secondary"))
            });
            host.sh("sleep 0.3");
            let events = host.events();
            let roles: Vec<_> = events[before..].iter().filter(|it| !it["to"].is_null()).collect();
            assert!(roles.is_empty(), "{roles:#?}");
            assert_eq!(daemon.stop(), 0);
        },
    );
}
