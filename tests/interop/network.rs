//! Interfaces and addresses that come late, go, and come back: nobody has to be called.

use crate::hosts::wire::who_has;
use crate::hosts::{self, Host, Lan, Story, ms, together};

const VIP: &str = "192.168.1.41";

const TOML: &str = "cluster = \"late\"\n\
    [node.n1]\naddress = \"192.168.1.189\"\npriority = 150\n\
    [node.n2]\naddress = \"192.168.1.190\"\npriority = 100\n\
    [vip.web]\nvirtual_router_id = 41\naddresses = [\"192.168.1.41/24\"]\n\
    failback = \"0s\"\nchecks = []\n";

fn answers(client: &Host, node: &Host) {
    std::thread::sleep(ms(100));
    let answers = who_has(client, VIP, ms(100));
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), [node.mac()]);
}

/// The interface is made, plugged in and configured only after the daemon was started, taken away
/// and made anew.
fn interface_comes_late(named: bool) {
    let lan = Lan::new();
    let client = lan.host("client", &["192.168.1.7/24"]);
    let n1 = lan.bare_host("n1");
    let file = if named {
        // It is named, and the node's address is elsewhere: only the VIP's interface is missing.
        n1.ip("link add own type veth peer name other");
        n1.ip("link set own up");
        n1.ip("addr add 192.168.1.189/24 dev own");
        TOML.replace("failback", "interface = \"eth0\"\nfailback")
    } else {
        TOML.to_owned()
    };
    let mut daemon = n1.standin(&file);
    std::thread::sleep(ms(700));
    assert!(daemon.runs(), "{}", daemon.log());
    assert!(!n1.has(VIP));

    for _ in 0..2 {
        lan.plug(&n1, "eth0");
        n1.ip("link set eth0 up");
        if named {
            n1.ip("addr flush dev own");
        }
        n1.ip("addr add 192.168.1.189/24 dev eth0");
        n1.wait_has(VIP, true, ms(4000));
        answers(&client, &n1);
        n1.ip("link del eth0");
        n1.wait_role("idle", ms(1000));
        assert!(!n1.has(VIP));
    }
    assert!(daemon.runs(), "{}", daemon.log());
    daemon.stop();
}

/// A link that flaps, and an address that goes and comes back, on the active of two.
fn link_and_address_flap() {
    let lan = Lan::new();
    let client = lan.host("client", &["192.168.1.7/24"]);
    let n1 = lan.host("n1", &["192.168.1.189/24"]);
    let n2 = lan.host("n2", &["192.168.1.190/24"]);
    let mut first = n1.standin(TOML);
    n1.wait_has(VIP, true, ms(3000));
    let mut second = n2.standin(TOML);
    n2.wait_role("backup", ms(3000));

    let moved = |there: bool| {
        let (to, from) = if there { (&n2, &n1) } else { (&n1, &n2) };
        to.wait_has(VIP, true, ms(2000));
        from.wait_has(VIP, false, ms(1000));
        answers(&client, to);
    };
    for _ in 0..3 {
        lan.cut(&n1);
        moved(true);
        lan.heal(&n1);
        moved(false);
    }
    n1.ip("link set eth0 down");
    moved(true);
    n1.ip("link set eth0 up");
    moved(false);

    n1.ip("addr del 192.168.1.189/24 dev eth0");
    n2.wait_has(VIP, true, ms(2000));
    n1.wait_has(VIP, false, ms(1000));
    assert_eq!(n1.role(), "idle");
    n1.ip("addr add 192.168.1.189/24 dev eth0");
    moved(false);
    assert!(first.runs() && second.runs());
}

#[test]
fn interfaces_links_and_addresses_may_come_and_go() {
    if hosts::skipped() {
        return;
    }
    let stories: Vec<(&str, Story)> = vec![
        ("interface comes late", Box::new(|| interface_comes_late(false))),
        ("named interface comes late", Box::new(|| interface_comes_late(true))),
        ("link and address flap", Box::new(link_and_address_flap)),
    ];
    together(stories.into_iter().map(|(name, run)| (name.to_owned(), run)).collect());
}
