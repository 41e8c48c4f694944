//! Bad hosts, each with what is said of it.
//!
//! `UPDATE=1 cargo test -p standin preflight` writes the expectations anew; read every one of them.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use standin_apply::Refusal;
use standin_core::plan::Version;
use standin_core::types::{Family, IntervalCs, Mac, Prefix};
use standin_linux::netlink::{Address, PROTOCOL};

use super::facts::{
    Facts, Heard, Inotify, Instance, Keepalived, Mention, Nginx, Nonlocal, Own, OwnFile, Owner,
    Port, Promote, Wire,
};
use super::firewall::{Ruleset, iptables, nft};
use super::{Subject, codes, forecast, judge};

const FILE: &str = r#"cluster = "edge"

[node.n1]
address = ["192.168.1.189", "fd00::189"]
priority = 150

[node.n2]
address = ["192.168.1.190", "fd00::190"]
priority = 100

[vip.web]
virtual_router_id = 41
addresses = ["192.168.1.41/24"]

[nginx]
"#;

const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
const FOREIGN_MAC: Mac = Mac([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(index: u32, prefix: &str) -> Address {
    Address {
        index,
        prefix: prefix.parse::<Prefix>().unwrap(),
        tentative: false,
        dad_failed: false,
        secondary: false,
        protocol: 0,
        valid_lft: None,
    }
}

fn port(index: u32, name: &str, mac: Option<Mac>) -> Port {
    let name = name.to_owned();
    Port { name, index, mac, works: true, enabled: Some(true), ..Port::default() }
}

/// n1 as it should be.
fn healthy() -> Facts {
    Facts {
        kernel: "6.1.0-18-amd64".to_owned(),
        ports: vec![port(1, "lo", Some(Mac::ZERO)), port(2, "eth0", Some(OWN_MAC))],
        addresses: vec![
            address(1, "127.0.0.1/8"),
            address(2, "192.168.1.189/24"),
            address(2, "fd00::189/64"),
        ],
        wire: Wire {
            listened: Some(std::time::Duration::from_millis(1200)),
            heard: vec![heard("192.168.1.190")],
            owners: vec![
                Owner { address: ip("192.168.1.190"), mac: PEER_MAC },
                Owner { address: ip("192.168.1.41"), mac: PEER_MAC },
            ],
        },
        nginx: Some(Nginx {
            binary: Some("/usr/sbin/nginx".into()),
            conf: Some("/etc/nginx/nginx.conf".into()),
            master: Some(812),
            plain: vec!["0.0.0.0:80".parse().unwrap()],
            ..Nginx::default()
        }),
        ..Facts::default()
    }
}

fn heard(source: &str) -> Heard {
    Heard {
        interface: "eth0".to_owned(),
        source: ip(source),
        vrid: 41,
        version: Version::V3,
        priority: 100,
        interval: IntervalCs::new(10).unwrap(),
        addresses: vec![ip("192.168.1.41")],
        password: None,
    }
}

/// An IPv6 advert, and who answers for its sender.
fn hear_link_local(facts: &mut Facts, mac: Mac) {
    let heard = Heard { addresses: vec![ip("fd00::41")], ..heard("fe80::2") };
    facts.wire.heard.push(heard);
    facts.wire.owners.push(Owner { address: ip("fe80::2"), mac });
}

fn nginx(facts: &mut Facts) -> &mut Nginx {
    facts.nginx.as_mut().unwrap()
}

/// What is said of a host, and what would happen on it.
fn said(file: &str, facts: &Facts) -> String {
    let loaded = standin_config::load("standin.toml", file);
    let cluster = loaded.model.clone().unwrap_or_else(|| panic!("{}", loaded.render(false)));
    let me = cluster.node("n1").unwrap();
    let subject = Subject { cluster: &cluster, me, text: file };
    let found = judge(Some(&subject), facts);
    for finding in &found {
        assert!(finding.help.is_some(), "{finding:?}");
        assert!(codes::ALL.iter().any(|(code, _)| *code == finding.code), "{}", finding.code);
    }
    let mut text = standin_config::render(&found, std::slice::from_ref(&loaded.source), false);
    for line in forecast(&subject, facts) {
        text.push_str(&format!("\n{line}"));
    }
    text + "\n"
}

/// A bad host: its name, the file, and what is wrong with it.
type Bad = (&'static str, String, fn(&mut Facts));

fn with(more: &str) -> String {
    format!("{FILE}\n{more}\n")
}

fn vip(more: &str) -> String {
    FILE.replace("\n[nginx]", &format!("{more}\n\n[nginx]"))
}

fn dual() -> String {
    FILE.replace("[\"192.168.1.41/24\"]", "[\"192.168.1.41/24\", \"fd00::41/64\"]")
}

fn of_privileges() -> Vec<Bad> {
    vec![
        ("privileges_missing", FILE.into(), |facts| {
            facts.missing_capabilities =
                vec!["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_NICE", "CAP_IPC_LOCK"];
            facts.wire = Wire::default();
        }),
        ("realtime_refused", FILE.into(), |facts| {
            facts.realtime_refused = Some("operation not permitted".into());
        }),
        ("kernel_too_old", FILE.into(), |facts| {
            facts.kernel = "4.18.0-553.el8.x86_64".into();
        }),
        ("switchover_beyond_the_kernel", dual(), |facts| {
            let why = "packets for the old node: No such file or directory (os error 2)";
            facts.no_second_chance = vec![
                (Family::V4, format!("the kernel refused the IPv4 nftables table: {why}")),
                (Family::V6, format!("the kernel refused the IPv6 nftables table: {why}")),
            ];
        }),
    ]
}

fn of_the_network() -> Vec<Bad> {
    vec![
        ("address_not_here", FILE.into(), |facts| {
            facts.addresses.retain(|here| here.prefix.address() != ip("192.168.1.189"));
        }),
        ("address_on_two_hosts", FILE.into(), |facts| {
            facts.wire.owners.push(Owner { address: ip("192.168.1.189"), mac: FOREIGN_MAC });
            facts.addresses.iter_mut().for_each(|here| {
                here.dad_failed = here.prefix.address() == ip("fd00::189");
            });
        }),
        ("interface_missing", vip("interface = \"eth1\""), |_| {}),
        ("interface_down", FILE.into(), |facts| {
            facts.ports[1].works = false;
            facts.ports[1].enabled = Some(false);
        }),
        ("interface_without_carrier", FILE.into(), |facts| facts.ports[1].works = false),
        ("ipv6_disabled", dual(), |facts| facts.ports[1].ipv6_disabled = true),
        ("rp_filter_strict", vip("interface = \"eth1\""), |facts| {
            let eth1 = port(3, "eth1", Some(Mac([2, 0, 0, 0, 0, 7])));
            facts.ports.push(Port { rp_filter: 1, ..eth1 });
        }),
        ("virtual_mac_without_macvlan", vip("virtual_mac = true"), |facts| {
            facts.no_macvlan = true;
        }),
        ("virtual_mac_unanswered", vip("virtual_mac = true"), |facts| {
            facts.unanswered = Some("net.ipv4.conf.all.arp_filter");
        }),
        ("promote_secondaries_fixed", FILE.into(), |facts| {
            facts.ports[1].promote_secondaries = Promote::Fixed;
        }),
        ("vip_configured_by_hand", FILE.into(), |facts| {
            facts.addresses[1].secondary = true;
            facts.addresses.insert(1, address(2, "192.168.1.41/24"));
            facts.mentions.push(Mention {
                address: ip("192.168.1.41"),
                file: "/etc/network/interfaces".into(),
                line: 12,
            });
        }),
        ("vip_in_the_network_configuration", FILE.into(), |facts| {
            facts.mentions.push(Mention {
                address: ip("192.168.1.41"),
                file: "/etc/netplan/50-cloud-init.yaml".into(),
                line: 7,
            });
        }),
        ("bridge_without_querier", dual(), |facts| {
            facts.ports[1].snoops_without_querier = true;
        }),
    ]
}

fn of_the_wire() -> Vec<Bad> {
    vec![
        ("router_id_of_a_stranger", FILE.into(), |facts| {
            facts.wire.heard.push(Heard {
                version: Version::V2,
                interval: IntervalCs::new(100).unwrap(),
                addresses: vec![ip("192.168.1.7"), ip("192.168.1.8")],
                ..heard("192.168.1.77")
            });
            facts.wire.heard.push(Heard { vrid: 42, ..heard("192.168.1.77") });
        }),
        ("router_id_of_a_stranger_over_ipv6", dual(), |facts| {
            hear_link_local(facts, FOREIGN_MAC);
        }),
        ("sender_that_may_be_a_node", dual(), |facts| {
            hear_link_local(facts, FOREIGN_MAC);
            facts.wire.owners.retain(|owner| owner.mac != PEER_MAC);
        }),
        ("peer_of_another_version", FILE.into(), |facts| {
            facts.wire.heard[0].version = Version::V2;
            facts.wire.heard[0].interval = IntervalCs::new(100).unwrap();
        }),
        ("peer_with_another_interval", FILE.into(), |facts| {
            facts.wire.heard[0].interval = IntervalCs::new(100).unwrap();
        }),
        ("peer_with_other_addresses", FILE.into(), |facts| {
            facts.wire.heard[0].addresses.push(ip("192.168.1.42"));
        }),
        (
            "peer_with_another_password",
            vip("version = 2\nadvert_interval = \"1s\"\npassword = \"geheim\""),
            |facts| {
                facts.wire.heard[0] = Heard {
                    version: Version::V2,
                    interval: IntervalCs::new(100).unwrap(),
                    password: Some(*b"topf\0\0\0\0"),
                    ..heard("192.168.1.190")
                };
            },
        ),
        ("address_of_a_foreign_machine", FILE.into(), |facts| {
            facts.wire.heard.clear();
            facts.wire.owners[1].mac = FOREIGN_MAC;
        }),
        ("holder_is_not_heard", FILE.into(), |facts| facts.wire.heard.clear()),
    ]
}

fn keepalived(vrid: u8) -> Keepalived {
    Keepalived {
        pid: 655,
        file: "/etc/keepalived/keepalived.conf".into(),
        instances: vec![Instance {
            name: "VI_1".into(),
            interface: Some("eth0".into()),
            vrid: Some(vrid),
            file: "/etc/keepalived/keepalived.conf".into(),
            line: 14,
        }],
        unread: None,
    }
}

fn rules(chains: &str, rules: &str) -> Ruleset {
    nft::parse(&format!(r#"{{"nftables":[{chains}{rules}]}}"#)).unwrap()
}

fn of_others() -> Vec<Bad> {
    vec![
        ("keepalived_with_the_same_id", FILE.into(), |facts| {
            facts.keepaliveds.push(keepalived(41));
            facts.addresses.push(address(2, "192.168.1.41/32"));
        }),
        ("keepalived_with_another_id", FILE.into(), |facts| {
            facts.keepaliveds.push(keepalived(51));
            facts.keepaliveds.push(Keepalived {
                pid: 656,
                instances: Vec::new(),
                unread: Some("permission denied".into()),
                ..keepalived(51)
            });
        }),
        ("firewall_nftables", FILE.into(), |facts| {
            facts.firewall = rules(
                r#"{"chain":{"family":"inet","table":"filter","name":"input","handle":1,"type":"filter","hook":"input","prio":0,"policy":"drop"}}"#,
                r#",{"rule":{"family":"inet","table":"filter","chain":"input","handle":5,"expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"lo"}},{"accept":null}]}}"#,
            );
        }),
        ("firewall_firewalld", dual(), |facts| {
            facts.firewall = rules(
                r#"{"chain":{"family":"inet","table":"firewalld","name":"filter_INPUT","handle":1,"type":"filter","hook":"input","prio":10,"policy":"accept"}}"#,
                r#",{"rule":{"family":"inet","table":"firewalld","chain":"filter_INPUT","handle":193,"expr":[{"reject":{"type":"icmpx","expr":"admin-prohibited"}}]}}"#,
            );
        }),
        ("firewall_ufw", dual(), |facts| {
            facts.firewall = rules(
                r#"{"chain":{"family":"ip","table":"filter","name":"INPUT","handle":1,"type":"filter","hook":"input","prio":0,"policy":"drop"}},{"chain":{"family":"ip6","table":"filter","name":"INPUT","handle":1,"type":"filter","hook":"input","prio":0,"policy":"drop"}},{"chain":{"family":"ip","table":"filter","name":"ufw-before-input","handle":2}}"#,
                r#",{"rule":{"family":"ip","table":"filter","chain":"INPUT","handle":9,"expr":[{"jump":{"target":"ufw-before-input"}}]}}"#,
            );
        }),
        ("firewall_iptables_both_ways", FILE.into(), |facts| {
            let text = "-P INPUT ACCEPT\n-P OUTPUT DROP\n-A INPUT -i lo -j ACCEPT\n\
                        -A INPUT -p tcp -j ACCEPT\n-A INPUT -j DROP\n-A OUTPUT -p tcp -j ACCEPT\n";
            facts.firewall = Ruleset { chains: iptables::parse(text, "ip") };
        }),
        ("firewall_drops_what_is_handed_over", dual(), |facts| {
            facts.firewall = rules(
                r#"{"chain":{"family":"inet","table":"filter","name":"output","handle":1,"type":"filter","hook":"output","prio":0,"policy":"drop"}}"#,
                concat!(
                    r#",{"rule":{"family":"inet","table":"filter","chain":"output","handle":5,"expr":[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}]}}"#,
                    r#",{"rule":{"family":"inet","table":"filter","chain":"output","handle":6,"expr":[{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":"vrrp"}},{"accept":null}]}}"#
                ),
            );
        }),
        ("firewall_drops_the_peer_link", FILE.into(), |facts| {
            facts.own.keys = true;
            facts.firewall = rules(
                r#"{"chain":{"family":"inet","table":"filter","name":"input","handle":1,"type":"filter","hook":"input","prio":0,"policy":"drop"}}"#,
                concat!(
                    r#",{"rule":{"family":"inet","table":"filter","chain":"input","handle":5,"expr":[{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":"vrrp"}},{"accept":null}]}}"#,
                    r#",{"rule":{"family":"inet","table":"filter","chain":"input","handle":6,"expr":[{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":{"set":[22,80,443]}}},{"accept":null}]}}"#
                ),
            );
        }),
        ("iptables_rejects_the_peer_link", with("[sync]"), |facts| {
            facts.own.keys = true;
            let text = "-P INPUT ACCEPT\n-P OUTPUT ACCEPT\n-A INPUT -p vrrp -j ACCEPT\n\
                        -A INPUT -p tcp -m tcp --dport 8412 -j REJECT --reject-with tcp-reset\n";
            facts.firewall = Ruleset { chains: iptables::parse(text, "ip") };
        }),
        ("firewall_not_seen", FILE.into(), |facts| {
            let why = "the firewall couldn't be looked at: nft: operation not permitted (you must be root)";
            facts.unseen.push(why.into());
        }),
    ]
}

fn of_nginx() -> Vec<Bad> {
    vec![
        ("nginx_not_found", FILE.into(), |facts| {
            *nginx(facts) = Nginx { notes: vec!["unused".into()], ..Nginx::default() };
        }),
        ("nginx_named_and_not_found", with("binary = \"/opt/nginx/sbin/nginx\""), |facts| {
            *nginx(facts) = Nginx::default();
        }),
        ("nginx_not_running", FILE.into(), |facts| nginx(facts).master = None),
        ("nginx_not_running_and_not_needed", vip("checks = []"), |facts| {
            nginx(facts).master = None;
        }),
        ("nginx_refuses_its_configuration", FILE.into(), |facts| {
            nginx(facts).refusal = Some(Refusal::BadFile {
                said: "nginx: [warn] the \"user\" directive makes sense only if run as root\n\
                       2026/11/30 01:02:15 [emerg] 48#48: unknown directive \"nonsense\" in /etc/nginx/nginx.conf:9\n\
                       nginx: [emerg] unknown directive \"nonsense\" in /etc/nginx/nginx.conf:9\n\
                       nginx: configuration file /etc/nginx/nginx.conf test failed\n"
                    .into(),
            });
        }),
        ("nginx_that_waits_for_dns", FILE.into(), |facts| {
            nginx(facts).master = None;
            let after = std::time::Duration::from_secs(15);
            nginx(facts).refusal = Some(Refusal::Late { after, said: String::new() });
        }),
        ("nginx_twice", FILE.into(), |facts| {
            nginx(facts).notes.push(
                "other nginx masters run here: 951 (/opt/shop/nginx.conf); to watch one of them, set \
                 conf or binary in [nginx]"
                    .into(),
            );
        }),
        ("nginx_on_the_vip_only", FILE.into(), |facts| {
            nginx(facts).plain = vec!["192.168.1.41:80".parse().unwrap()];
            nginx(facts).elsewhere = vec![ip("192.168.1.41")];
            nginx(facts).nonlocal = vec![Nonlocal {
                name: "net.ipv4.ip_nonlocal_bind".into(),
                set: false,
                writable: true,
                kept: false,
            }];
        }),
        ("nonlocal_bind_until_the_next_boot", FILE.into(), |facts| {
            nginx(facts).elsewhere = vec![ip("192.168.1.41")];
            nginx(facts).nonlocal = vec![Nonlocal {
                name: "net.ipv4.ip_nonlocal_bind".into(),
                set: true,
                writable: true,
                kept: false,
            }];
        }),
        ("nonlocal_bind_refused", FILE.into(), |facts| {
            nginx(facts).elsewhere = vec![ip("192.168.1.41")];
            nginx(facts).nonlocal = vec![Nonlocal {
                name: "net.ipv4.ip_nonlocal_bind".into(),
                set: false,
                writable: false,
                kept: false,
            }];
        }),
        ("nginx_has_https_only", FILE.into(), |facts| nginx(facts).plain.clear()),
        ("probe_on_the_vip", with("probe = \"http://192.168.1.41/healthz\""), |_| {}),
        ("probe_on_another_machine", with("probe = \"http://192.168.1.190/healthz\""), |_| {}),
    ]
}

fn of_shared_files() -> Vec<Bad> {
    vec![(
        "scripts_in_nginxs_directory",
        with(
            "[sync]\n[notify]\nactive = [\"/etc/nginx/up.sh\"]\nany = [\"/etc/standin/any.sh\", \
                 \"/etc/nginx/up.sh\"]",
        ),
        |facts| {
            facts.nginx.as_mut().unwrap().conf = Some("/etc/nginx/nginx.conf".into());
        },
    )]
}

fn own_file(path: &str, secret: bool, mode: u32) -> OwnFile {
    let directory = !path.contains('.');
    OwnFile { path: path.into(), secret, directory, mode, uid: 0, gid: 0 }
}

fn of_its_own() -> Vec<Bad> {
    vec![
        ("keys_that_others_can_read", FILE.into(), |facts| {
            facts.own.files = vec![
                own_file("/var/lib/standin/keys", true, 0o755),
                own_file("/var/lib/standin/keys/authority.key", true, 0o644),
                OwnFile { uid: 33, ..own_file("/var/lib/standin/keys/node.key", true, 0o600) },
            ];
        }),
        ("cluster_file_that_others_can_change", FILE.into(), |facts| {
            facts.own.files = vec![
                own_file("/etc/standin", false, 0o777),
                OwnFile { uid: 1000, ..own_file("/etc/standin/standin.toml", false, 0o644) },
                OwnFile { gid: 4, ..own_file("/etc/standin/other.toml", false, 0o664) },
            ];
        }),
        ("nothing_can_be_kept", with("[sync]"), |facts| {
            let why = "read-only file system".to_owned();
            facts.own.state_dir = "/var/lib/standin".into();
            facts.own.unwritable = Some(("/var/lib/standin".into(), why));
        }),
        (
            "no_witness_is_seen",
            vip("witness = [\"gw\"]") + "\n[check.gw]\ntype = \"ping\"\nto = \"192.168.1.254\"\n",
            |facts| {
                let why = "no answer from 192.168.1.254 within 1s".to_owned();
                facts.unwitnessed = [("gw".to_owned(), why)].into();
            },
        ),
        ("link_port_taken", FILE.into(), |facts| {
            facts.own = Own {
                keys: true,
                link_refused: vec![(ip("192.168.1.189"), "grafana (pid 77) listens there".into())],
                ..Own::default()
            };
        }),
    ]
}

fn of_files() -> Vec<Bad> {
    vec![
        (
            "notify_scripts_that_cannot_run",
            with(
                "[notify]\nactive = [\"/etc/standin/up.sh\"]\nbackup = [\"/etc/standin/down.sh\"]\n\
                 any = [\"/tmp/any.sh\"]",
            ),
            |facts| {
                let scripts = [
                    (
                        "/etc/standin/up.sh",
                        "there is no /etc/standin/up.sh: put it there, or correct the path",
                    ),
                    ("/etc/standin/down.sh", "it isn't executable: chmod +x /etc/standin/down.sh"),
                    (
                        "/tmp/any.sh",
                        "not run as root: /tmp (mode 1777, owner uid 0, gid 0) can be changed by everybody; \
                         mend: keep it in a directory that only root can change, or set `user`",
                    ),
                ];
                facts.scripts =
                    scripts.iter().map(|(path, why)| ((*path).into(), (*why).into())).collect();
            },
        ),
        (
            "user_missing",
            with("[notify]\nany = [\"/etc/standin/any.sh\"]\nuser = \"standin\""),
            |facts| {
                facts.no_users.push("standin".into());
            },
        ),
        (
            "log_without_a_place",
            with(
                "[log]\nfile = \"/var/log/standin/standin.log\"\nsyslog = \"local0\"\njournald = true",
            ),
            |facts| {
                facts.absent = vec![
                    "/var/log/standin".into(),
                    "/dev/log".into(),
                    "/run/systemd/journal/socket".into(),
                ];
            },
        ),
        ("api_port_taken", with("[api]\nlisten = \"127.0.0.1:8413\""), |facts| {
            facts.api_refused = Some("grafana (pid 77) listens there".into());
        }),
        (
            "checks_that_never_pass",
            vip("checks = [\"nginx\", \"disk\", \"uplink\", \"php\", \"flag\"]")
                + "\n[check.disk]\ntype = \"script\"\ncommand = [\"/usr/local/bin/disk\"]\n\
                   [check.uplink]\ntype = \"interface\"\nname = \"eth7\"\n\
                   [check.php]\ntype = \"process\"\npidfile = \"/run/php/php-fpm.pid\"\n\
                   [check.flag]\ntype = \"file\"\npath = \"/srv/flags/ready\"\n",
            |facts| {
                facts.scripts = [(
                    "/usr/local/bin/disk".into(),
                    "it isn't executable: chmod +x /usr/local/bin/disk".into(),
                )]
                .into();
                facts.absent = vec!["/run/php".into(), "/srv/flags".into()];
            },
        ),
        ("files_that_are_not_shared", with("[sync]"), |facts| {
            let named = (1..=7).map(|n| {
                format!("/etc/nginx/sites-enabled/shop:{n}: ssl_certificate /etc/ssl/shop/{n}.pem")
            });
            nginx(facts).unshared =
                Some((named.collect(), "also = [\"/etc/ssl/shop\"]".to_owned()));
        }),
        ("inotify_too_low", with("[sync]"), |facts| {
            facts.inotify = Some(Inotify {
                directories: 20_000,
                max_user_watches: 8192,
                max_user_instances: 8,
            });
        }),
    ]
}

#[test]
fn a_healthy_host_is_praised_with_no_word() {
    assert_eq!(
        said(FILE, &healthy()),
        "\nweb: 192.168.1.41/24 on eth0, router id 41, priority 150; adverts from 192.168.1.189 every \
         100ms, version 3, multicast\n"
    );
}

#[test]
fn files_as_standin_makes_them_are_fine() {
    let mut facts = healthy();
    facts.own.keys = true;
    facts.own.files = vec![
        own_file("/var/lib/standin/keys", true, 0o700),
        own_file("/var/lib/standin/keys/authority.key", true, 0o600),
        own_file("/etc/standin", false, 0o755),
        own_file("/etc/standin/standin.toml", false, 0o664),
    ];
    assert!(said(FILE, &facts).starts_with("\nweb:"), "{}", said(FILE, &facts));
}

#[test]
fn a_node_that_sends_from_its_link_local_address_is_no_stranger() {
    let mut facts = healthy();
    hear_link_local(&mut facts, PEER_MAC);
    facts.wire.owners.push(Owner { address: ip("fd00::41"), mac: PEER_MAC });
    assert!(said(&dual(), &facts).starts_with("\nweb:"), "{}", said(&dual(), &facts));
    // Its own, where a daemon runs here.
    facts.wire.heard.push(heard("fe80::1"));
    facts.addresses.push(address(2, "fe80::1/64"));
    assert!(said(&dual(), &facts).starts_with("\nweb:"), "{}", said(&dual(), &facts));
}

#[test]
fn a_node_that_holds_the_vip_already_is_as_healthy() {
    let mut facts = healthy();
    facts.wire = Wire::default();
    let by_standin = Address { protocol: PROTOCOL, ..address(2, "192.168.1.41/24") };
    facts.addresses.push(by_standin);
    assert!(said(FILE, &facts).starts_with("\nweb:"));
    let on_an_old_kernel = Address { valid_lft: Some(2), ..address(2, "192.168.1.41/24") };
    *facts.addresses.last_mut().unwrap() = on_an_old_kernel;
    assert!(said(FILE, &facts).starts_with("\nweb:"));
}

#[test]
fn whoever_names_one_of_several_nginxes_is_not_told_of_the_others() {
    let mut facts = healthy();
    nginx(&mut facts).notes.push("other nginx masters run here: 951 (/opt/shop.conf)".into());
    assert!(said(FILE, &facts).contains(codes::NGINX_NOTE));
    let named = with("conf = \"/etc/nginx/nginx.conf\"");
    assert!(said(&named, &facts).starts_with("\nweb:"));
}

#[test]
fn without_a_cluster_file_the_host_is_judged_all_the_same() {
    let mut facts = healthy();
    facts.missing_capabilities = vec!["CAP_NET_RAW"];
    facts.keepaliveds.push(keepalived(41));
    let found: Vec<_> = judge(None, &facts).iter().map(|finding| finding.code).collect();
    assert_eq!(found, [codes::NO_RAW_SOCKETS, codes::KEEPALIVED_RUNS]);
}

#[test]
fn bad_hosts_are_told_what_is_wrong_and_how_to_mend_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preflight");
    let all = [
        of_privileges(),
        of_the_network(),
        of_the_wire(),
        of_others(),
        of_nginx(),
        of_its_own(),
        of_files(),
        of_shared_files(),
    ];
    let all: Vec<Bad> = all.into_iter().flatten().collect();
    assert!(all.len() >= 20, "{} bad hosts", all.len());
    let mut wrong = Vec::new();
    let mut codes_seen = std::collections::BTreeSet::new();
    for (name, file, spoil) in &all {
        let mut facts = healthy();
        spoil(&mut facts);
        let found = said(file, &facts);
        codes_seen
            .extend(codes::ALL.iter().map(|(code, _)| *code).filter(|code| found.contains(*code)));
        let expected = folder.join(format!("{name}.txt"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        if wanted != found {
            wrong.push(format!("{name}:\n--- wanted\n{wanted}\n--- found\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let unseen: Vec<_> = codes::ALL
        .iter()
        .map(|(code, _)| *code)
        .filter(|code| *code != codes::UNREAD_FILE && !codes_seen.contains(code))
        .collect();
    assert!(unseen.is_empty(), "no bad host shows {unseen:?}");
    let texts = fs::read_dir(folder).unwrap().count();
    assert_eq!(texts, all.len(), "an expectation of no host is left over");
}
