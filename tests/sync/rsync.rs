//! A host with only an rsync daemon: it gets what is proven, from whoever writes, and tells of failures.

use crate::cluster::{Cluster, Node, SOON, conf};
use crate::hosts::{Daemon, Host, skipped, wait_until};

const TARGET: &str = "bak@192.168.1.200::conf";
const SECRET: &str = "correct-horse-battery";

/// In front of the real one: writes down what it was called with and what it may do.
const WITNESS: &str = "#!/bin/sh\necho \"$0 $*\" >>/run/seen/calls\n\
                       env >>/run/seen/calls\n\
                       grep -E '^(Uid|Groups|CapEff|CapPrm|NoNewPrivs):' /proc/self/status >>/run/seen/calls\n\
                       exec /usr/bin/rsync \"$@\"\n";

fn bak(cluster: &Cluster) -> (Host, Daemon) {
    let host = cluster.lan.host("bak", &["192.168.1.200/24"]);
    host.run("mkdir -p /run/conf");
    host.write("/etc/rsyncd.secrets", &format!("bak:{SECRET}\n"));
    host.run("chmod 600 /etc/rsyncd.secrets");
    host.write(
        "/etc/rsyncd.conf",
        "uid = root\ngid = root\nuse chroot = no\npid file = /run/rsyncd.pid\n[conf]\n\
         path = /run/conf\nread only = no\nauth users = bak\nsecrets file = /etc/rsyncd.secrets\n",
    );
    let daemon = listen(&host);
    (host, daemon)
}

fn listen(host: &Host) -> Daemon {
    host.run("rm -f /run/rsyncd.pid");
    host.launch("rsyncd", "rsync --daemon --no-detach --config=/etc/rsyncd.conf")
}

/// The first target, as this node sees it.
fn target(node: &Node) -> serde_json::Value {
    node.sync().map_or(serde_json::Value::Null, |sync| sync["targets"][0].clone())
}

#[track_caller]
fn wait_target(node: &Node, state: &str) -> String {
    let began = std::time::Instant::now();
    loop {
        let now = target(node);
        if now["state"] == state {
            return now["why"].as_str().unwrap_or_default().to_owned();
        }
        let log = || node.host.read("/run/logs/standin");
        assert!(began.elapsed() < SOON, "not {state:?} but {now}\n{}\n{}", node.page(), log());
        std::thread::sleep(crate::hosts::ms(20));
    }
}

/// Has nginx load what was saved, which proves it.
fn load(node: &Node) {
    node.order("apply nginx");
}

fn list(host: &Host, dir: &str) -> Vec<String> {
    let list =
        host.run(&format!("find {dir} -printf %P\u{1}%y\u{1}%m\u{1}%U\u{1}%G\u{1}%s\u{1}%l\n"));
    // The size of a directory is its file system's.
    let mut lines: Vec<_> =
        list.lines().filter(|it| !it.contains("\u{1}d\u{1}")).map(str::to_owned).collect();
    lines.sort();
    lines
}

fn watch(cluster: &Cluster) {
    for node in &cluster.nodes {
        node.host.run("mkdir -m 777 /run/seen");
        node.host.write("/usr/local/bin/rsync", WITNESS);
        node.host.run("chmod 755 /usr/local/bin/rsync");
    }
}

fn password(n1: &Node, n2: &Node) {
    // There is no password file yet; then it can be read by others.
    assert!(wait_target(n1, "failed").contains("rsync.pass: No such file"), "{}", n1.page());
    n1.host.wait_said("rsync_failed", "mend: write the password", SOON);
    n1.host.write("/etc/standin/rsync.pass", &format!("{SECRET}\n"));
    n1.host.run("chmod 644 /etc/standin/rsync.pass");
    wait_until("the mode to be refused", SOON, || n1.page().contains("chmod 600"));
    n1.host.run("chmod 600 /etc/standin/rsync.pass");
    n2.host.write("/etc/standin/rsync.pass", &format!("{SECRET}\n"));
    n2.host.run("chmod 600 /etc/standin/rsync.pass");
}

#[test]
fn a_host_with_only_an_rsync_daemon_gets_what_is_proven() {
    if skipped() {
        return;
    }
    let extra =
        format!("rsync = [\"{TARGET}\"]\nrsync_password_file = \"/etc/standin/rsync.pass\"\n");
    let mut cluster = Cluster::new(2, "/etc/nginx/conf", &extra);
    cluster.wait_answer("v1");
    let (host, daemon) = bak(&cluster);
    watch(&cluster);
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    // Somebody else's files.
    for number in 0..10 {
        host.write(&format!("/run/conf/photo{number}"), "of the children\n");
    }
    n1.save("conf.d/key.conf", "# a secret\n");
    n1.host.run("chown 33:0 /etc/nginx/conf/conf.d/key.conf");
    n1.host.run("chmod 600 /etc/nginx/conf/conf.d/key.conf");
    load(n1);
    password(n1, n2);
    // What never came from here isn't deleted without a yes, which counts for what is served although
    // something else is saved.
    n1.save("conf.d/more.conf", "# more\n");
    load(n1);
    n1.save("conf.d/later.conf", "# later\n");
    n1.wait_own("saved, not loaded", |own| own["current"] == false);
    let why = wait_target(n1, "held");
    assert!(why.contains("10 of 10 files there never came from this cluster"), "{why}");
    assert_eq!(host.read("/run/conf/photo3"), "of the children\n");
    n1.order("sync resume --accept-deletion");
    wait_target(n1, "current");
    n1.host.wait_said("rsync_well", TARGET, SOON);
    assert!(host.read("/run/conf/conf.d/later.conf").is_empty(), "it isn't served yet");
    load(n1);
    wait_until("the trees to be equal", SOON, || {
        list(&host, "/run/conf") == list(&n1.host, "/etc/nginx/conf")
    });
    assert_eq!(host.run("stat -c %a:%u /run/conf/conf.d/key.conf").trim(), "600:33");
    wait_target(n1, "current");
    assert!(n1.order("status").contains(&format!("rsync {TARGET}  has")), "{}", n1.order("status"));
    // Saved is not proven; deleted is deleted; what is excluded is left alone.
    host.write("/run/conf/conf.d/notes.swp", "mine\n");
    n1.save("nginx.conf", &conf("v2"));
    n1.host.run("rm /etc/nginx/conf/conf.d/more.conf");
    n2.wait_answer("v2");
    assert_eq!(host.read("/run/conf/nginx.conf"), conf("v1"));
    load(n1);
    wait_until("v2 to be there", SOON, || host.read("/run/conf/nginx.conf") == conf("v2"));
    wait_until("the deletion to be there", SOON, || {
        host.read("/run/conf/conf.d/more.conf").is_empty()
    });
    assert_eq!(host.read("/run/conf/conf.d/notes.swp"), "mine\n");
    wait_target(n1, "current");
    // A failure is told, and its end.
    daemon.stop();
    n1.save("nginx.conf", &conf("v3"));
    load(n1);
    let why = wait_target(n1, "failed");
    assert!(why.contains("Connection refused"), "{why}");
    let _daemon = listen(&host);
    wait_until("v3 to be there", SOON, || host.read("/run/conf/nginx.conf") == conf("v3"));
    wait_target(n1, "current");
    // Nobody's right but to read, and no secret where others could see it.
    let calls = n1.host.read("/run/seen/calls");
    assert!(calls.contains("Uid:\t65534\t65534\t65534\t65534"), "{calls}");
    assert!(calls.contains("CapEff:\t0000000000000004"), "{calls}");
    assert!(calls.contains("CapPrm:\t0000000000000004"), "{calls}");
    assert!(calls.contains("NoNewPrivs:\t1"), "{calls}");
    // The new writer sends, and the backup never did.
    assert!(n2.sync().is_some_and(|sync| sync["targets"] == serde_json::json!([])));
    assert_eq!(n2.host.read("/run/seen/calls"), "");
    cluster.wait_answer("v3");
    cluster.nodes[0].daemon.take().unwrap().crash();
    let n2 = &cluster.nodes[1];
    n2.host.wait_role("active", SOON);
    wait_target(n2, "current");
    n2.save("nginx.conf", &conf("v4"));
    load(n2);
    wait_until("v4 to be there", SOON, || host.read("/run/conf/nginx.conf") == conf("v4"));
    for node in &cluster.nodes {
        let said = node.host.read("/run/logs/standin")
            + &node.host.read("/var/lib/standin/events.jsonl")
            + &node.host.read("/run/seen/calls");
        assert!(!said.contains(SECRET), "{said}");
    }
    // Nothing of what was sent stays behind.
    let left = || n2.host.run("find /var/lib/standin/sync/rsync -mindepth 1");
    wait_until("what was sent to be removed", SOON, || left().is_empty());
}
