//! What nginx refuses changes no byte and no worker on a backup, and its own words are shown.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use standin_linux::spawn;

use crate::cluster::{Cluster, Node, SOON, agreed, conf};
use crate::hosts::{skipped, wait_until};
use crate::tree::picture;

const CONF: &str = "/etc/nginx/conf";

/// Bytes, modes, owners and times of the configuration, with the inode of its directory: what was
/// put back has changed places.
fn files(node: &Node) -> std::collections::BTreeMap<PathBuf, String> {
    picture(Path::new(&node.host.outside(CONF)))
}

/// A port of a node's that somebody else listens at, until this is dropped.
fn taken(node: &Node, port: u16) -> TcpListener {
    let network = spawn::network_of(node.host.pid).unwrap();
    let (sender, listener) = channel();
    // The thread ends with its place in the node's network; the socket stays there.
    std::thread::spawn(move || {
        spawn::enter_network(network.as_fd()).unwrap();
        sender.send(TcpListener::bind(("0.0.0.0", port)).unwrap()).unwrap();
    });
    listener.recv().unwrap()
}

/// A class of refusals: its name, the file's text, nginx's words.
const CLASSES: [(&str, &str, &str); 5] = [
    (
        "a syntax error",
        "sevrer { }\n",
        "unknown directive \"sevrer\" in /etc/nginx/conf/conf.d/bad.conf:1",
    ),
    (
        "a missing certificate",
        "server { listen 443 ssl; ssl_certificate /no.pem; ssl_certificate_key /no.key; }\n",
        "cannot load certificate \"/no.pem\"",
    ),
    (
        "a broken absolute include",
        "include /etc/nginx/conf/broken.inc;\n",
        "unknown directive \"sevrer\" in /etc/nginx/conf/broken.inc:1",
    ),
    (
        "an unresolvable upstream",
        "upstream a { server no.such.name.invalid; }\n",
        "host not found in upstream \"no.such.name.invalid\"",
    ),
    (
        "a taken port",
        "server { listen 8081; }\n",
        "bind() to 0.0.0.0:8081 failed (98: Address already in use)",
    ),
];

#[test]
fn each_class_of_refusal_leaves_bytes_and_workers_alone_and_a_good_change_follows() {
    let Some(cluster) = agreed() else { return };
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    // Beside them, two files that go are no mass deletion.
    for number in 0..10 {
        n1.save(&format!("conf.d/{number}.conf"), &format!("# {number}\n"));
    }
    n1.save("nginx.conf", &conf("many"));
    cluster.wait_answer("many");
    cluster.wait_current();
    let _taken = taken(n2, 8081);
    let master = n2.master();
    for (round, (name, text, words)) in CLASSES.into_iter().enumerate() {
        wait_until("old workers to be gone", SOON, || n2.workers().len() == 1);
        let (before, workers, answer) = (files(n2), n2.workers(), n2.answer());
        if name.contains("include") {
            n1.save("broken.inc", "sevrer { }\n");
        }
        n1.save("conf.d/bad.conf", text);
        let own = n2.wait_own(name, |own| {
            own["problem"]["why"].as_str().is_some_and(|why| why.contains(words))
        });
        assert_eq!(files(n2), before, "{name}: {own}");
        assert_eq!((n2.workers(), n2.master()), (workers, master.clone()), "{name}: {own}");
        assert_eq!(n2.answer(), answer, "{name}");
        wait_until("the active to show it", SOON, || n1.page().contains(words));
        // The next good change goes through, and nothing is left of the refused one.
        n1.host.run(&format!("rm -f {CONF}/conf.d/bad.conf {CONF}/broken.inc"));
        let good = format!("good {round}");
        n1.save("nginx.conf", &conf(&good));
        n2.wait_answer(&good);
        n2.wait_own("well again", |own| own["problem"].is_null() && own["current"] == true);
        assert_eq!(files(n2), files(n1), "{name}");
        assert_eq!(n2.master(), master, "{name}");
        let left = n2.host.run("find /etc/nginx -maxdepth 1 -name .standin*");
        assert!(left.lines().count() <= 1, "{name}: only the tree before is kept: {left}");
    }
}

/// A zone that is the same in name only.
fn zoned(answer: &str, key: &str) -> String {
    let zone = format!("limit_req_zone {key} zone=z:1m rate=100r/s;");
    conf(answer)
        .replace("access_log off;", &format!("access_log off; {zone} limit_req zone=z burst=99;"))
}

#[test]
fn a_changed_zone_gets_a_new_master_on_a_backup_and_a_refusal_on_the_active() {
    if skipped() {
        return;
    }
    let cluster = Cluster::new(2, CONF, "");
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    n1.save("nginx.conf", &zoned("v2", "$uri"));
    n2.wait_answer("v2");
    cluster.wait_current();
    let said = n1.order("apply nginx");
    assert!(said.contains("served by every node"), "{said}");
    assert_eq!(n1.answer(), "v2");
    wait_until("old workers to be gone", SOON, || n1.workers().len() == 1);
    let (masters, workers) = ((n1.master(), n2.master()), n1.workers());
    n1.save("nginx.conf", &zoned("v3", "$remote_addr"));
    // Nobody is served by the backup: there a new master takes it.
    n2.wait_answer("v3");
    n2.wait_own("current", |own| own["current"] == true);
    assert_ne!(n2.master(), masters.1, "only a new master can have taken it");
    wait_until("n2's standin to know its new master", SOON, || {
        let known = n2.host.try_status().map(|status| status["nginx"]["master"].to_string());
        known.is_some_and(|known| known == n2.master())
    });
    // The active is never restarted by itself.
    let failed = n1.host.try_run("/run/bin/standin apply nginx");
    let text = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{text}");
    assert!(text.contains("while previously it used the \"$uri\" key"), "{text}");
    assert_eq!((n1.master(), n1.workers()), (masters.0, workers), "{text}");
    assert_eq!(n1.answer(), "v2");
    n1.save("nginx.conf", &zoned("v4", "$uri"));
    n2.wait_answer("v4");
    let said = n1.order("apply nginx");
    assert!(said.contains("served by every node"), "{said}");
    assert_eq!((n1.answer(), n2.answer()), ("v4".to_owned(), "v4".to_owned()));
}

#[test]
fn a_listen_on_the_vip_in_a_file_that_comes_from_the_active_is_no_refusal() {
    let Some(cluster) = agreed() else { return };
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    n1.save("conf.d/vip.conf", "server { listen 192.168.1.41:8090; return 200 vip; }\n");
    wait_until("n2's nginx to listen for a VIP that it hasn't got", SOON, || {
        n2.host.run("ss -ltnH").contains("192.168.1.41:8090")
    });
    n2.wait_own("well", |own| own["problem"].is_null() && own["current"] == true);
    // Either of them starts after a reboot, also the one that hasn't loaded it yet.
    for node in [n1, n2] {
        let drop_in = node.host.read("/etc/sysctl.d/90-standin.conf");
        assert!(drop_in.contains("net.ipv4.ip_nonlocal_bind = 1"), "{drop_in}");
    }
}
