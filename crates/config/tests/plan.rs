//! From a file to a node's plan, and which node a machine is.

#![allow(clippy::unwrap_used, reason = "a helper that fails ends its test")]

use std::net::IpAddr;
use std::time::Duration;

use standin_config::{Cluster, codes, load};
use standin_core::plan::{Failback, Mode, Version};
use standin_core::types::{CheckId, InterfaceId, NodeId, Priority};

fn cluster(text: &str) -> Cluster {
    let loaded = load("standin.toml", text);
    loaded.model.clone().unwrap_or_else(|| panic!("{}", loaded.render(false)))
}

fn smallest() -> Cluster {
    cluster(include_str!("good/smallest.toml"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_smallest_file_has_every_default_of_the_design() {
    let cluster = smallest();
    let vip = cluster.vip("web").unwrap();
    assert_eq!(vip.advert_interval.as_duration(), Duration::from_millis(100));
    assert_eq!(vip.version, Version::V3);
    assert_eq!(vip.failback, Failback::Never);
    assert_eq!(vip.hold_down, Duration::from_secs(10));
    assert_eq!(vip.drain_timeout, Duration::from_secs(30));
    assert_eq!((vip.announce.repeat, vip.announce.refresh), (5, Duration::from_secs(60)));
    assert_eq!(vip.checks, ["nginx"]);
    let nginx = cluster.nginx.as_ref().unwrap().cadence;
    assert_eq!(
        (nginx.interval, nginx.timeout),
        (Duration::from_millis(250), Duration::from_millis(400))
    );
    assert_eq!((nginx.fall, nginx.rise), (2, 2));
    assert_eq!(cluster.link.port, 8412);
    assert_eq!(cluster.notify.timeout, Duration::from_secs(10));
    assert!(cluster.sync.is_none() && cluster.api.listen.is_none());
}

#[test]
fn a_plan_has_the_members_with_their_priorities() {
    let plan = smallest().plan("n2", "eth7").unwrap();
    assert_eq!(plan.me, NodeId(1));
    assert_eq!(plan.interfaces, ["eth7"]);
    assert_eq!(plan.checks.len(), 1);
    let vip = &plan.vips[0];
    assert_eq!(vip.interface, InterfaceId(0));
    assert_eq!(vip.checks, [CheckId(0)]);
    assert_eq!(vip.priority_of(NodeId(0)), Some(Priority(150)));
    assert_eq!(vip.priority_of(NodeId(1)), Some(Priority(100)));
}

#[test]
fn a_plan_leaves_out_vips_of_other_nodes_and_their_checks() {
    let cluster = cluster(include_str!("good/large.toml"));
    let plan = cluster.plan("n3", "eth0").unwrap();
    assert_eq!(plan.vips.iter().map(|vip| vip.name.as_str()).collect::<Vec<_>>(), ["old"]);
    assert_eq!(plan.checks.iter().map(|check| check.name.as_str()).collect::<Vec<_>>(), ["nginx"]);
    assert_eq!(plan.vips[0].password, Some(*b"geheim12"));
    let plan = cluster.plan("n1", "eth0").unwrap();
    assert_eq!(plan.vips.len(), 2);
    assert_eq!(plan.interfaces, ["eth0", "eth1"]);
    assert_eq!(plan.vips[0].priority_of(NodeId(0)), Some(Priority(100)));
    assert_eq!(plan.vips[0].priority_of(NodeId(2)), None);
    assert_eq!(plan.vips[0].mode, Mode::Multicast);
}

#[test]
fn a_collision_that_only_the_default_interface_shows_is_an_error() {
    let cluster = cluster(
        "cluster = \"c\"\nnode.a.address = \"10.0.0.1\"\nnode.b.address = \"10.0.0.2\"\n\
         [vip.x]\nvirtual_router_id = 1\naddresses = [\"10.0.0.3/24\"]\nchecks = []\n\
         [vip.y]\nvirtual_router_id = 1\naddresses = [\"10.0.0.4/24\"]\nchecks = []\ninterface = \"eth0\"\n",
    );
    assert!(cluster.plan("a", "eth1").is_ok());
    assert_eq!(cluster.plan("a", "eth0").unwrap_err()[0].code, codes::VRID_COLLIDES);
    assert_eq!(cluster.plan("c", "eth0").unwrap_err()[0].code, codes::SELF_UNKNOWN);
}

#[test]
fn a_node_is_found_by_name_then_host_name_then_address() {
    let cluster = smallest();
    let here = [ip("127.0.0.1"), ip("192.168.1.190")];
    assert_eq!(cluster.find_self(Some("n1"), "n2", &here).unwrap(), "n1");
    assert_eq!(cluster.find_self(None, "n2", &here).unwrap(), "n2");
    assert_eq!(cluster.find_self(None, "N2.example.org", &here).unwrap(), "n2");
    assert_eq!(cluster.find_self(None, "web7", &here).unwrap(), "n2");
    assert_eq!(cluster.find_self(None, "", &here).unwrap(), "n2");
}

#[test]
fn a_machine_that_is_no_node_is_told_which_nodes_exist() {
    let cluster = smallest();
    let error = cluster.find_self(None, "web7", &[ip("10.0.0.9")]).unwrap_err();
    assert_eq!(error.code, codes::SELF_UNKNOWN);
    let help = error.help.unwrap();
    assert!(
        help.contains("n1 (192.168.1.189), n2 (192.168.1.190)") && help.contains("10.0.0.9"),
        "{help}"
    );
    let error = cluster.find_self(Some("n3"), "", &[]).unwrap_err();
    assert!(error.message.contains("did you mean n1?"), "{}", error.message);
}

#[test]
fn a_cloned_machine_is_an_error() {
    let error = smallest().find_self(None, "n1", &[ip("192.168.1.190")]).unwrap_err();
    assert_eq!(error.code, codes::SELF_CLONED);
    assert!(error.help.unwrap().contains("--node n2"));
}

#[test]
fn a_machine_with_two_nodes_addresses_is_an_error() {
    let here = [ip("192.168.1.189"), ip("192.168.1.190")];
    let error = smallest().find_self(None, "lab", &here).unwrap_err();
    assert_eq!(error.code, codes::SELF_AMBIGUOUS);
}

#[test]
fn standin_does_not_run_as_a_node_that_is_a_keepalived() {
    let cluster = cluster(include_str!("good/large.toml"));
    let error = cluster.find_self(None, "", &[ip("192.168.1.191")]).unwrap_err();
    assert_eq!(error.code, codes::SELF_VRRP_ONLY);
}

#[test]
fn a_password_never_shows() {
    let text = include_str!("good/large.toml").replace("version = 2\n", "version = 3\n");
    let loaded = load("standin.toml", &text);
    assert!(loaded.model.is_none());
    for color in [false, true] {
        let shown = loaded.render(color);
        assert!(shown.contains("password") && !shown.contains("geheim"), "{shown}");
    }
    assert!(!format!("{:?}", loaded.source).contains("geheim"));
    let fine = load("standin.toml", include_str!("good/large.toml"));
    assert!(!format!("{fine:?}").contains("geheim"), "{fine:?}");
}

#[test]
fn witnesses_are_checks_that_are_run_but_not_needed() {
    let cluster = cluster(include_str!("good/large.toml"));
    let plan = cluster.plan("n1", "eth0").unwrap();
    let vip = plan.vips.iter().find(|vip| !vip.witness.is_empty()).unwrap();
    let name = |id: &CheckId| plan.checks[id.index()].name.as_str();
    assert_eq!(vip.witness.iter().map(name).collect::<Vec<_>>(), ["gw"]);
}
