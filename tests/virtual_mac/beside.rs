//! Beside a keepalived that has a virtual MAC, too.

use std::time::Duration;

use crate::hosts::{ms, skipped, wait_until};
use crate::pair::{MAC_V4, Pair, VIP, neighbour};

const STANDIN: &str = r#"cluster = "edge"
[node.n1]
address = "192.168.1.189"
priority = 150
[node.n2]
address = "192.168.1.190"
vrrp_only = true
[vip.web]
virtual_router_id = 41
virtual_mac = true
addresses = ["192.168.1.41/24"]
failback = "0s"
checks = []
"#;

const KEEPALIVED: &str = "global_defs {
 router_id n2
 script_user root
}
vrrp_instance web {
 state BACKUP
 interface eth0
 use_vmac
 virtual_router_id 41
 priority 100
 version 3
 advert_int 0.1
 virtual_ipaddress {
  192.168.1.41/24
 }
}
";

/// Skew, addresses, a new process on a busy machine.
const SOON: Duration = ms(5000);

#[test]
fn the_mac_moves_between_standin_and_keepalived() {
    if skipped() {
        return;
    }
    let mut pair = Pair::without_daemons();
    let answers = |pair: &Pair, who: &str| {
        wait_until(&format!("{who} to answer"), SOON, || pair.ask(VIP).as_deref() == Some(who));
        assert_eq!(neighbour(&pair.client, VIP).as_deref(), Some(MAC_V4));
    };
    let keepalived = pair.n2.keepalived(KEEPALIVED);
    answers(&pair, "n2");
    // It hears adverts from the MAC that it has itself, and yields.
    let standin = pair.n1.standin(STANDIN);
    pair.n1.wait_role("active", SOON);
    answers(&pair, "n1");
    wait_until("keepalived to yield", SOON, || !pair.n2.has(VIP));
    assert_eq!(standin.stop(), Some(0));
    answers(&pair, "n2");
    let standin = pair.n1.standin(STANDIN);
    pair.n1.wait_role("active", SOON);
    answers(&pair, "n1");
    standin.crash();
    answers(&pair, "n2");
    // As the better one, standin hears it while both have the MAC.
    pair.first = Some(pair.n1.standin(&STANDIN.replace("150", "90")));
    pair.n1.wait_role("backup", SOON);
    keepalived.stop();
    pair.n1.wait_role("active", SOON);
    answers(&pair, "n1");
    let _keepalived = pair.n2.keepalived(KEEPALIVED);
    pair.n1.wait_role("backup", SOON);
    answers(&pair, "n2");
}
