//! Files that each node makes for itself from a shared pattern.

use std::time::Duration;

use crate::cluster::{Cluster, Node, SOON};
use crate::hosts::{skipped, wait_until};

const VALUES: &str = "[node.n1.values]\nzone = \"a\"\n[node.n2.values]\nzone = \"b\"\n";

const FILE: &str = "/etc/standin/standin.toml";

const PATTERN: &str = "per-node/conf.d/site.conf";
const SITE: &str = "conf.d/site.conf";

fn pattern(text: &str) -> String {
    format!(
        "server {{\n listen {{{{node.address}}}}:8081;\n location / {{ return 200 \
         \"{{{{node.name}}}} {{{{ node.zone }}}} {text}\\n\"; }}\n}}\n"
    )
}

fn site(node: &Node) -> String {
    let output = node.host.try_run(&format!("curl -s -m 2 http://{}:8081/", node.address));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[track_caller]
fn wait_site(node: &Node, answer: &str) {
    let began = std::time::Instant::now();
    while site(node) != answer {
        let log = || node.host.read("/run/logs/standin");
        let has = node.read(SITE);
        assert!(began.elapsed() < SOON, "not {answer:?}\n{has}\n{}\n{}", node.page(), log());
        std::thread::sleep(crate::hosts::ms(20));
    }
}

fn load(node: &Node) {
    node.order("apply nginx");
}

/// The made file of the active is there.
fn wait_made(node: &Node, text: &str) {
    wait_until("the file to be made", SOON, || node.read(SITE).contains(text));
}

fn cluster(extra: &str) -> Cluster {
    let cluster = Cluster::new(2, "/etc/nginx/conf", extra);
    cluster.wait_answer("v1");
    let n1 = &cluster.nodes[0];
    n1.host.write(FILE, &format!("{}\n{VALUES}", n1.host.read(FILE)));
    n1.order("apply cluster");
    n1.host.run("mkdir -p /etc/nginx/conf/per-node/conf.d");
    n1.save(PATTERN, &pattern("one"));
    wait_site(&cluster.nodes[1], "n2 b one");
    wait_made(n1, "one");
    load(n1);
    wait_site(n1, "n1 a one");
    n1.wait_own("current", |own| own["current"] == true);
    cluster
}

#[test]
fn each_node_serves_its_own_values_and_none_of_it_is_drift() {
    if skipped() {
        return;
    }
    let mut cluster = cluster("");
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    assert_eq!(n1.read(PATTERN), n2.read(PATTERN));
    let first = n2.read(SITE).lines().next().unwrap().to_owned();
    assert!(
        first.starts_with("# Made by standin from per-node/conf.d/site.conf with the values of n2")
    );
    for node in [n1, n2] {
        node.wait_own("at rest", |own| own["current"] == true && own["drift"].is_null());
        assert!(node.order("sync diff").ends_with("  nothing\n"), "{}", node.order("sync diff"));
        assert!(!node.host.said("drift", ""), "{}", node.host.read("/run/logs/standin"));
    }
    assert!(n1.order("sync diff n2").ends_with("  nothing\n"));
    // An edit of the pattern arrives resolved on each.
    n1.save(PATTERN, &pattern("two"));
    wait_site(n2, "n2 b two");
    n1.order("apply nginx");
    assert_eq!(site(n1), "n1 a two");
    // What was made is made anew, and what somebody wrote there is kept.
    for node in [n2, n1] {
        node.save(SITE, "# by hand\n");
        if node.host.name == "n1" {
            // It doesn't look like one of standin's any more, but is remembered.
            n1.host.wait_said("drift", "somebody has changed it", SOON);
        }
        wait_made(node, "two");
        wait_until("it to be kept", SOON, || {
            node.order("sync history").contains("hand")
                || node.order("sync history").contains("drift")
        });
    }
    load(n1);
    cluster.wait_current();
    // Another value in the cluster file.
    let text = n1.host.read(FILE).replace("zone = \"b\"", "zone = \"c\"");
    n1.host.write(FILE, &text);
    n1.order("apply cluster");
    wait_site(n2, "n2 c two");
    // Of the active: its nginx doesn't run with it until it has loaded it.
    let text = n1.host.read(FILE).replace("zone = \"a\"", "zone = \"d\"");
    n1.host.write(FILE, &text);
    n1.order("apply cluster");
    wait_made(n1, " d two");
    n1.wait_own("not current", |own| own["current"] == false);
    n1.reload_nginx();
    wait_site(n1, "n1 d two");
    n1.wait_own("current", |own| own["current"] == true);
    // The new active ships the pattern, not what it made of it.
    cluster.nodes[0].daemon.take().unwrap().crash();
    let n2 = &cluster.nodes[1];
    n2.host.wait_role("active", SOON);
    n2.save(PATTERN, &pattern("three"));
    wait_made(n2, "three");
    load(n2);
    wait_site(n2, "n2 c three");
    cluster.nodes[0].start();
    wait_site(&cluster.nodes[0], "n1 d three");
    assert_eq!(cluster.nodes[0].read(PATTERN), pattern("three"));
}

#[test]
fn what_cant_be_filled_in_goes_nowhere_and_its_line_is_named() {
    if skipped() {
        return;
    }
    let cluster = cluster("");
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    let (made, theirs) = (n1.read(SITE), n2.read(SITE));
    let note = |text: &str| {
        wait_until(text, SOON, || n1.page().contains(text));
    };
    n1.save(PATTERN, &format!("# new\n{}", pattern("{{node.nope}}")));
    note("/etc/nginx/conf/per-node/conf.d/site.conf:4: {{node.nope}} has no value for n1, n2; add");
    n1.host.wait_said("sync_values", "Nothing is shipped", SOON);
    let refused = n1.host.try_run("/run/bin/standin apply nginx");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("site.conf:4"));
    // Neither is a file overwritten that standin didn't make, nor one left that it made.
    n1.save("conf.d/own.conf", "# mine\n");
    n1.save("per-node/conf.d/own.conf", "# pattern\n");
    n1.save(PATTERN, &pattern("one"));
    note(
        "/etc/nginx/conf/conf.d/own.conf lies there, and /etc/nginx/conf/per-node/conf.d/own.conf",
    );
    assert_eq!(n1.read("conf.d/own.conf"), "# mine\n");
    n1.host.run(
        "mv /etc/nginx/conf/per-node/conf.d/own.conf /etc/nginx/conf/per-node/conf.d/next.conf",
    );
    wait_until("the next to be there", SOON, || n2.read("conf.d/next.conf").contains("# pattern"));
    n1.host.run("rm /etc/nginx/conf/per-node/conf.d/next.conf");
    note("/etc/nginx/conf/conf.d/next.conf was made from");
    n1.host.run("rm /etc/nginx/conf/conf.d/next.conf");
    wait_until("the next to be gone", SOON, || n2.read("conf.d/next.conf").is_empty());
    assert_eq!((n1.read(SITE), n2.read(SITE)), (made, theirs));
    // A node whose own cluster file lacks the value refuses before the test, and says why.
    let text = n2.host.read(FILE).replace("[node.n2.values]\nzone = \"b\"\n", "");
    n2.host.write(FILE, &text);
    n2.order("reload");
    n1.save(PATTERN, &pattern("two"));
    let own = n2.wait_own("refusing", |own| own["problem"]["kind"] == "refused");
    let why = own["problem"]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("site.conf:3: {{node.zone}} has no value for n2; add values"), "{why}");
    wait_until("n1 to show it", SOON, || n1.page().contains("has no value for n2"));
    assert_eq!(site(n2), "n2 b one");
}

#[test]
fn killed_at_any_time_no_unresolved_file_is_live() {
    if skipped() {
        return;
    }
    let mut cluster = cluster("settle = \"20ms\"");
    for round in 0..6_u64 {
        let text = format!("r{round}");
        // The one that makes its file in place, alone so that it stays the writer, and the one that
        // swaps trees.
        let at = usize::from(round % 3 != 0);
        if at == 0 {
            cluster.nodes[1].daemon.take().unwrap().stop();
        }
        cluster.nodes[0].save(PATTERN, &pattern(&text));
        std::thread::sleep(Duration::from_millis(20 + 25 * round));
        cluster.nodes[at].daemon.take().unwrap().crash();
        let has = cluster.nodes[at].read(SITE);
        assert!(has.starts_with("# Made by standin") && !has.contains("{{"), "{has}");
        assert!(has.ends_with("\n}\n"), "whole: {has}");
        cluster.nodes[at].start();
        cluster.nodes[0].host.wait_role("active", SOON);
        if at == 0 {
            cluster.nodes[1].start();
        }
        wait_made(&cluster.nodes[0], &text);
        wait_site(&cluster.nodes[1], &format!("n2 b {text}"));
    }
}
