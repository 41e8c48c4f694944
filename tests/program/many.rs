//! A thousand VIPs: start, stop, reload, and a host that is left as it was found.

use std::time::{Duration, Instant};

use crate::host::{Host, eventually, rack, rack_in_time, until};

const LIMIT: Duration = Duration::from_secs(2);

fn thousand(without: Option<&str>) -> String {
    let mut text = "cluster = \"edge\"\n[node.n1]\naddress = \"192.0.2.11\"\npriority = 150\n\
                    [node.n2]\naddress = \"192.0.2.12\"\npriority = 100\n"
        .to_owned();
    for interface in 0..4 {
        for router in 1..=250 {
            let address = format!("10.7.{interface}.{router}");
            if without != Some(&address) {
                text += &format!(
                    "[vip.v{interface}-{router}]\ninterface = \"eth{interface}\"\nchecks = []\n\
                     virtual_router_id = {router}\naddresses = [\"{address}/16\"]\n"
                );
            }
        }
    }
    text
}

/// Everything of the host that must be as it was found.
fn state(host: &Host) -> String {
    host.sh(
        "ip -d address; ip route show table all | sort; ip -6 route show table all | sort; ip rule; \
         sysctl -a 2>/dev/null | grep '^net.ipv[46].conf'",
    )
}

/// The addresses of the VIPs, in the kernel's order: the first of each interface is its primary.
fn held(host: &Host) -> Vec<String> {
    let list = host.sh("ip -4 -o address");
    let words = list.lines().filter_map(|line| line.split_ascii_whitespace().nth(3));
    words.filter_map(|word| word.strip_suffix("/16")).map(str::to_owned).collect()
}

#[test]
fn a_thousand_vips_start_lose_one_and_stop_and_the_host_is_as_before() {
    rack_in_time("many::a_thousand_vips_start_lose_one_and_stop_and_the_host_is_as_before", || {
        let host = Host::new("n1", 11);
        for interface in ["eth1", "eth2", "eth3"] {
            host.wire(interface);
        }
        host.cluster(&thousand(None));
        std::thread::sleep(Duration::from_millis(100));
        let before = state(&host);
        let began = Instant::now();
        let mut daemon = host.start(&format!("{} run", crate::host::STANDIN), "/run/standin.log");
        until("all are held", || held(&host).len() == 1000);
        let started = began.elapsed();
        assert!(started <= LIMIT, "all held after {started:?}");
        until("the daemon knows it", || {
            let vips = host.status()["vips"].as_array().unwrap().clone();
            vips.len() == 1000 && vips.iter().all(|vip| vip["role"] == "active")
        });

        // The end of a primary address must not take its subnet along.
        let primary = held(&host).remove(0);
        let secondary = held(&host).remove(5);
        for gone in [&secondary, &primary] {
            host.cluster(&thousand(Some(gone)));
            assert_eq!(host.standin("reload").code, 0);
            let left = eventually("one is gone", || {
                let left = held(&host);
                (!left.contains(gone)).then_some(left)
            });
            assert!(left.len() >= 998, "{} are left", left.len());
            until("the others are held", || held(&host).len() == 999);
        }
        let transitions = host.events().iter().filter(|event| event["to"] == "idle").count();
        assert_eq!(transitions, 2, "only the removed ones were given up");

        let began = Instant::now();
        assert_eq!(daemon.stop(), 0);
        let stopped = began.elapsed();
        assert_eq!(held(&host).len(), 0);
        assert!(stopped <= LIMIT, "stopped after {stopped:?}");
        assert_eq!(state(&host), before);
        eprintln!("all held after {started:?}, stopped after {stopped:?}");
    });
}

#[test]
fn a_node_whose_vip_was_in_use_is_left_as_it_was_found() {
    rack("many::a_node_whose_vip_was_in_use_is_left_as_it_was_found", || {
        for promote in ["0", "1"] {
            let host = Host::new("n1", 11);
            host.sh(&format!("echo {promote} > /proc/sys/net/ipv4/conf/eth0/promote_secondaries"));
            host.sh("ip route add default via 192.0.2.1 src 192.0.2.11");
            let text = crate::host::pair("checks = []", "");
            let text = text.replace("\"192.0.2.41/24\"", "\"192.0.2.41/24\", \"fd00::41/64\"");
            host.cluster(
                &text
                    .replace("\"192.0.2.11\"", "[\"192.0.2.11\", \"fd00::11\"]")
                    .replace("\"192.0.2.12\"", "[\"192.0.2.12\", \"fd00::12\"]"),
            );
            let before = state(&host);
            let mut daemon = host.daemon("");
            host.until_role("web", "active");
            until("both families are held", || {
                host.has("192.0.2.41/24") && host.has("fd00::41/64")
            });
            let route = host.sh("ip route get 192.0.2.99; ip -6 route get fd00::99");
            assert!(route.contains("src 192.0.2.11") && route.contains("src fd00::11"), "{route}");
            assert_eq!(daemon.stop(), 0);
            assert_eq!(state(&host), before);
        }
    });
}
