//! The shared files on whole hosts with a real nginx: what is saved on the active is served by the
//! backups, and what is wrong goes nowhere.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod cluster;
#[path = "../hosts/mod.rs"]
mod hosts;

use std::time::Duration;

use cluster::{Cluster, SOON, conf};
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
    n2.order("sync hold");
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
