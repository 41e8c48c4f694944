//! The shared files on whole hosts with a real nginx: what is saved on the active is served by the
//! backups, and what is wrong goes nowhere.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod cluster;
#[path = "../hosts/mod.rs"]
mod hosts;
mod killed;
mod left;
mod many;
mod outside;
mod refused;
mod rsync;
mod storm;
mod tickets;
#[path = "../../crates/tree/tests/common/mod.rs"]
mod tree;
mod trust;
mod values;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use standin_linux::spawn;

use cluster::{Cluster, SOON, agreed, conf};
use hosts::{skipped, wait_until};

#[test]
fn what_is_saved_on_the_active_is_served_by_the_backups() {
    if skipped() {
        return;
    }
    let mut cluster = Cluster::new(3, "/etc/nginx/conf", "");
    cluster.wait_answer("v1");
    let masters: Vec<String> = cluster.nodes.iter().map(cluster::Node::master).collect();
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    n1.save("conf.d/key.conf", "# a secret\n");
    n1.host.run("chown 33:0 /etc/nginx/conf/conf.d/key.conf");
    n1.host.run("chmod 600 /etc/nginx/conf/conf.d/key.conf");
    n1.host.run("mkdir /etc/nginx/conf/empty");
    n1.host.run("ln -s ../nginx.conf /etc/nginx/conf/empty/link");
    n1.save("nginx.conf", &conf("v2"));
    cluster.wait_answer("v2");
    cluster.wait_current();
    let list = |node: &cluster::Node| {
        node.host
            .run("find /etc/nginx/conf -printf %P\u{1}%y\u{1}%m\u{1}%U\u{1}%G\u{1}%T@\u{1}%l\n")
    };
    let sorted = |text: String| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        // A directory's time is that of whatever was done in it.
        lines.retain(|line| !line.contains("\u{1}d\u{1}"));
        lines.sort();
        lines
    };
    assert_eq!(sorted(list(n1)), sorted(list(n2)));
    assert_eq!(n2.host.run("stat -c %a:%u /etc/nginx/conf/conf.d/key.conf").trim(), "600:33");
    assert!(n2.host.try_run("test -d /etc/nginx/conf/empty").status.success());
    // What lay on the backup before is kept.
    let history = n2.order("sync history");
    assert!(history.contains("before the first generation"), "{history}");
    // The active is proven when its own nginx has loaded it.
    n1.host.run("nginx -c /etc/nginx/conf/nginx.conf -s reload");
    n1.wait_own("current", |own| own["current"] == true);
    for (node, master) in cluster.nodes.iter().zip(masters) {
        assert_eq!(node.master(), master, "reloaded, not restarted");
    }
    // One that was away catches up by itself.
    cluster.nodes[2].daemon.take().unwrap().stop();
    for version in ["v3", "v4"] {
        cluster.nodes[0].save("nginx.conf", &conf(version));
        cluster.nodes[1].wait_answer(version);
    }
    assert_eq!(cluster.nodes[2].answer(), "v2");
    cluster.nodes[2].start();
    cluster.nodes[2].wait_answer("v4");
}

#[test]
fn what_nginx_refuses_goes_nowhere_and_the_next_good_change_goes_through() {
    if skipped() {
        return;
    }
    // The directory is a mount point: it can't be exchanged as a whole.
    let cluster = Cluster::new(2, "/etc/nginx", "");
    cluster.wait_answer("v1");
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    cluster.wait_current();
    let (before, workers) = (n2.read("nginx.conf"), n2.workers());
    n1.save("conf.d/bad.conf", "server { listen 81; nonsense on; }\n");
    let own = n2.wait_own("refusing", |own| own["problem"].is_object());
    let why = own["problem"]["why"].as_str().unwrap();
    assert!(why.contains("unknown directive \"nonsense\"") && why.contains("bad.conf:1"), "{why}");
    let log = n2.host.read("/run/logs/standin");
    assert_eq!((n2.read("nginx.conf"), n2.workers()), (before, workers), "{log}");
    assert!(!n2.host.try_run("test -e /etc/nginx/conf.d/bad.conf").status.success());
    // The active shows it, too.
    wait_until("n1 to show it", SOON, || n1.page().contains("nonsense"));
    n2.host.wait_said("generation_refused", "nonsense", SOON);
    n1.save("conf.d/bad.conf", "# good\n");
    n1.save("nginx.conf", &conf("v2"));
    n2.wait_answer("v2");
    n2.wait_own("well again", |own| own["problem"].is_null() && own["current"] == true);
}

#[test]
fn drift_is_kept_hold_holds_and_a_mass_deletion_is_asked_about() {
    if skipped() {
        return;
    }
    let cluster = Cluster::new(2, "/etc/nginx/conf", "");
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    for number in 0..10 {
        n1.save(&format!("conf.d/{number}.conf"), &format!("# {number}\n"));
    }
    cluster.wait_answer("v1");
    cluster.wait_current();
    n2.save("conf.d/3.conf", "# by hand\n");
    n2.host.wait_said("drift", "changed by somebody else", SOON);
    wait_until("it to be put right", SOON, || n2.read("conf.d/3.conf") == "# 3\n");
    assert!(n2.order("sync history").contains("drift"));
    cluster.wait_current();
    n2.wait_own("at rest", |own| own["drift"].is_null());
    // Held, it stays as it is.
    assert!(n2.order("sync hold --json").starts_with("{\"text\":\"held on this node"));
    n2.save("conf.d/3.conf", "# by hand again\n");
    n1.save("nginx.conf", &conf("v2"));
    n1.wait_own("taken", |own| own["applied"] == own["desired"] && own["drift"].is_null());
    std::thread::sleep(Duration::from_millis(600));
    let log = n2.host.read("/run/logs/standin");
    let has = (n2.answer(), n2.read("conf.d/3.conf"));
    assert_eq!(has, ("v1".to_owned(), "# by hand again\n".to_owned()), "{log}");
    assert!(n2.page().contains("held"), "{}", n2.page());
    n2.order("sync resume");
    n2.wait_answer("v2");
    assert_eq!(n2.read("conf.d/3.conf"), "# 3\n");
    cluster.wait_current();
    // Half of the files gone: nothing happens until somebody says that it is meant.
    n1.host.run("rm -r /etc/nginx/conf/conf.d");
    n1.host.run("mkdir /etc/nginx/conf/conf.d");
    n1.wait_own("held", |own| own["held"].as_str().is_some_and(|it| it.contains("10 of 11")));
    assert_eq!(n2.read("conf.d/3.conf"), "# 3\n");
    let refused = n1.host.try_run("/run/bin/standin sync resume");
    assert_eq!(refused.status.code(), Some(1));
    n1.order("sync resume --accept-deletion");
    wait_until("they to be gone there", SOON, || n2.read("conf.d/3.conf").is_empty());
}

#[test]
fn apply_loads_it_on_the_backups_first_and_rollback_brings_an_old_one_back() {
    if skipped() {
        return;
    }
    let cluster = Cluster::new(2, "/etc/nginx/conf", "trigger = \"reload\"");
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    cluster.wait_current();
    assert_eq!(n2.answer(), "v1");
    n1.save("nginx.conf", &conf("v2"));
    n2.wait_own("staged", |own| own["staged"]["number"] == 2);
    assert_eq!((n1.answer(), n2.answer()), ("v1".to_owned(), "v1".to_owned()));
    let said = n1.order("apply nginx");
    assert!(said.contains("generation 2 is served by every node"), "{said}");
    assert_eq!((n1.answer(), n2.answer()), ("v2".to_owned(), "v2".to_owned()));
    // A bad one is stopped before anything has changed anywhere.
    n1.save("conf.d/bad.conf", "nonsense on;\n");
    let failed = n1.host.try_run("/run/bin/standin apply nginx");
    let text = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{text}");
    assert!(text.contains("nonsense"), "{text}");
    assert_eq!((n1.answer(), n2.answer()), ("v2".to_owned(), "v2".to_owned()));
    n1.order("sync rollback 1");
    n1.wait_answer("v1");
    n2.wait_answer("v1");
    assert!(n1.read("conf.d/bad.conf").is_empty());
    let backup = n2.host.try_run("/run/bin/standin sync rollback");
    assert!(String::from_utf8_lossy(&backup.stderr).contains("files come from n1"));
}

#[test]
fn killed_at_any_time_of_an_apply_the_tree_is_whole_and_the_next_start_proves_it() {
    if skipped() {
        return;
    }
    let mut cluster = Cluster::new(2, "/etc/nginx/conf", "settle = \"20ms\"");
    cluster.wait_answer("v1");
    cluster.wait_current();
    for round in 0..5_u64 {
        let version = format!("r{round}");
        // Two files that belong together.
        cluster.nodes[0].save("conf.d/a.conf", &format!("# {version}\n"));
        cluster.nodes[0].save("nginx.conf", &conf(&version));
        std::thread::sleep(Duration::from_millis(20 + 40 * round));
        cluster.nodes[1].daemon.take().unwrap().crash();
        let node = &mut cluster.nodes[1];
        let has = (node.read("conf.d/a.conf"), node.read("nginx.conf"));
        let old =
            round.checked_sub(1).map_or_else(|| "v1".to_owned(), |before| format!("r{before}"));
        let whole = |version: &str| has.1 == conf(version);
        assert!(whole(&version) || whole(&old) || round == 0, "neither old nor new: {has:?}");
        assert!(!node.answer().is_empty(), "nginx serves all the while");
        node.start();
        cluster.wait_answer(&version);
        cluster.nodes[1].wait_own("current", |own| own["current"] == true);
        assert_eq!(cluster.nodes[1].read("conf.d/a.conf"), format!("# {version}\n"));
    }
}

#[test]
fn a_module_from_elsewhere_needs_a_yes_on_each_node() {
    if skipped() {
        return;
    }
    let cluster = Cluster::new(2, "/etc/nginx/conf", "");
    cluster.wait_answer("v1");
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    n1.save("nginx.conf", &format!("load_module /etc/nginx/conf/evil.so;\n{}", conf("v2")));
    let own = n2.wait_own("asking", |own| own["problem"]["kind"] == "needs approval");
    let why = own["problem"]["why"].as_str().unwrap();
    assert!(why.contains("load_module /etc/nginx/conf/evil.so"), "{why}");
    assert_eq!(n2.answer(), "v1");
    let said = n2.order("approve");
    assert!(said.contains("evil.so"), "{said}");
    // It is let in, and nginx finds that there is no such file.
    let own = n2.wait_own("refusing", |own| own["problem"]["kind"] == "refused");
    assert!(own["problem"]["why"].as_str().unwrap().contains("evil.so"), "{own}");
    n1.save("nginx.conf", &conf("v3"));
    n2.wait_answer("v3");
}

#[test]
fn init_and_join_bring_the_first_nodes_files_to_the_second() {
    if skipped() {
        return;
    }
    let lan = hosts::Lan::new();
    let node = |name: &str, address: &str, answer: &str| {
        let host = lan.host(name, &[&format!("{address}/24")]);
        let conf_dir = "/etc/nginx".to_owned();
        let address = address.to_owned();
        let node = cluster::Node { host, address, conf: conf_dir, daemon: None };
        node.host.run("mkdir /etc/nginx/conf.d");
        node.save("nginx.conf", &conf(answer));
        node.start_nginx();
        node
    };
    let (mut n1, mut n2) =
        (node("n1", "192.168.1.189", "mine"), node("n2", "192.168.1.190", "stock"));
    let line = n1.order("init --cluster edge --node n1=192.168.1.189 --vip web=192.168.1.41/24");
    n1.start();
    n1.host.wait_role("active", SOON);
    let token = line.split_whitespace().nth(3).unwrap();
    let said = n2.order(&format!("join 192.168.1.189 {token} --node n2=192.168.1.190"));
    assert!(said.contains("what is here is kept"), "{said}");
    n2.start();
    n2.wait_answer("mine");
    n2.wait_own("current", |own| own["current"] == true);
    let page = n1.order("status");
    assert!(page.contains("shared files, from n1") && page.contains("n2  serves 1 of 1"), "{page}");
}

#[test]
fn a_backup_that_is_behind_gets_no_planned_switchover() {
    if skipped() {
        return;
    }
    let cluster = Cluster::new(2, "/etc/nginx/conf", "");
    cluster.wait_answer("v1");
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    n1.save("conf.d/bad.conf", "nonsense on;\n");
    n2.wait_own("refusing", |own| own["problem"].is_object());
    wait_until("n1 to know it", SOON, || n1.page().contains("nonsense"));
    let refused = n1.host.try_run("/run/bin/standin switchover web n2");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("generation of the shared files") && said.contains("--stale-ok"),
        "{said}"
    );
    assert_eq!(n1.host.role(), "active");
}

/// A connection of a client that has asked once and says nothing more; it may ask again.
fn idle_client(client: &hosts::Host, to: &'static str) -> TcpStream {
    let network = spawn::network_of(client.pid).unwrap();
    let connect = move || {
        spawn::enter_network(network.as_fd()).unwrap();
        let mut stream = TcpStream::connect((to, 80)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        stream
    };
    // The thread ends with its place in the client's network; the socket stays there.
    std::thread::spawn(connect).join().unwrap()
}

#[test]
fn the_end_of_a_drain_loads_no_edit_that_nobody_has_tested() {
    let Some(cluster) = agreed() else { return };
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    n1.wait_own("proven", |own| own["proven"] == own["applied"] && own["drift"].is_null());
    let client = cluster.client("c1", "192.168.1.50/24");
    let begin = || idle_client(&client, "192.168.1.41");
    // While all is well nginx closes what is idle.
    let mut idle = begin();
    let said = n1.order("switchover web n2 --drain 1s");
    assert!(said.contains("nginx closed 1 connection that didn't end by itself"), "{said}");
    assert_eq!(idle.read(&mut [0; 64]).unwrap(), 0, "with a FIN");
    wait_until("n1 to be ready", SOON, || {
        let known = n2.host.try_status();
        known.is_some_and(|it| it["peers"][0]["link"]["vips"][0]["standing"] == "eligible")
    });
    let current = |own: &serde_json::Value| own["current"] == true;
    cluster.nodes.iter().for_each(|node| drop(node.wait_own("current", current)));
    // A move that was ordered is nobody's rival, and no time without a holder.
    for node in &cluster.nodes {
        let log = node.host.read("/run/logs/standin");
        let frightens = ["nobody is known", "is active too"];
        let frightens = frightens.iter().find(|words| log.contains(**words));
        assert!(frightens.is_none(), "{frightens:?} on {}:\n{log}", node.host.name);
    }
    // Somebody is at work on n2's files.
    n2.order("sync hold");
    n2.save("nginx.conf", &conf("half done"));
    let (workers, idle) = (n2.workers(), begin());
    let said = n2.order("switchover web n1 --drain 1s --stale-ok");
    assert!(said.contains("nginx isn't told to end them: the files on its node's disk"), "{said}");
    assert!(said.contains("none of those that were left ended by itself; 1 was cut"), "{said}");
    assert!(n2.host.said("switchover", "nginx isn't told to end them"));
    assert_eq!((n2.answer().as_str(), n2.workers()), ("v1", workers), "nothing was loaded");
    drop(idle);
}

/// As scripts do it, in less than the hundredth of a second in which the kernel counts when a process began.
#[test]
fn a_reload_right_after_the_save_is_known_to_have_loaded_it() {
    if skipped() {
        return;
    }
    let cluster = Cluster::new(2, "/etc/nginx/conf", "trigger = \"reload\"");
    cluster.wait_answer("v1");
    let n1 = &cluster.nodes[0];
    n1.wait_own("proven", |own| own["proven"] == own["applied"] && own["drift"].is_null());
    let script = "cp /run/next.conf /etc/nginx/conf/nginx.conf\nnginx -c /etc/nginx/conf/nginx.conf -s reload\n";
    n1.host.write("/run/save-and-reload", script);
    for number in 2..10 {
        n1.host.write("/run/next.conf", &conf(&format!("v{number}")));
        n1.host.run("sh /run/save-and-reload");
        let (began, wanted) = (Instant::now(), format!("v{number}"));
        wait_until("the other to have it", SOON, || cluster.nodes[1].answer() == wanted);
        eprintln!("v{number} is served after {:?}", began.elapsed());
    }
}
