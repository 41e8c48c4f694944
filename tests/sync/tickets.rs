//! TLS session tickets that one node gave are good on another: after a takeover, and after their keys
//! have changed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, Node, SOON, conf};
use crate::hosts::{Host, STANDIN, skipped, wait_or_tell, wait_until};

const VIP: &str = "192.168.1.41";

const TLS: &str = "ssl_session_timeout 1d;\nserver {\n listen 443 ssl;\n ssl_protocols TLSv1.2 TLSv1.3;\n \
                   ssl_certificate server.pem;\n ssl_certificate_key server.key;\n \
                   location / { return 200 \"tls\\n\"; }\n}\n";

const KEYS: &str = "/run/standin-tickets";

/// With TLS on both nodes; the keys of tickets are each nginx's own yet.
fn with_tls() -> (Cluster, Host) {
    let cluster = Cluster::new(2, "/etc/nginx/conf", "");
    let client = cluster.client("client", "192.168.1.66/24");
    let n1 = &cluster.nodes[0];
    n1.host.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
         -subj /CN=web -keyout /etc/nginx/conf/server.key -out /etc/nginx/conf/server.pem",
    );
    n1.save("conf.d/tls.conf", TLS);
    n1.save("nginx.conf", &conf("v2"));
    cluster.wait_answer("v2");
    n1.reload_nginx();
    n1.wait_own("current", |own| own["current"] == true);
    (cluster, client)
}

fn tickets(node: &Node) -> Value {
    node.sync().map_or(Value::Null, |sync| sync["tickets"].clone())
}

/// Until nginx of the node runs with the keys of this number.
#[track_caller]
fn wait_loaded(node: &Node, number: u64) {
    let tell = || {
        let log = node.host.read("/run/logs/standin");
        format!("{} to have loaded keys {number}: {}\n{log}", node.host.name, tickets(node))
    };
    wait_or_tell(tell, SOON, || {
        let now = tickets(node);
        (now["loaded"] == true && now["used"] == true && now["number"] == number).then_some(())
    });
}

/// One request, with the session in the file if there is one; `New` or `Reused`.
#[track_caller]
fn ask(client: &Host, address: &str, version: &str, session: &str) -> String {
    let script = format!(
        "test -e {session} && in='-sess_in {session}'; printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout \
         10 openssl s_client -connect {address}:443 -{version} -ign_eof $in -sess_out {session}.new \
         2>&1; test -e {session} || mv {session}.new {session}"
    );
    let mut command = client.command("sh");
    let output = command.args(["-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("tls"), "no answer from {address}: {said}");
    let how = said.lines().find_map(|line| line.split_once(", TLSv1.").map(|it| it.0.to_owned()));
    how.unwrap_or_else(|| panic!("{said}"))
}

const VERSIONS: [&str; 2] = ["tls1_2", "tls1_3"];

fn session(name: &str, version: &str) -> String {
    format!("/run/{name}-{version}")
}

#[test]
fn a_session_of_the_old_active_is_resumed_on_the_new_one_also_after_a_change_of_keys() {
    if skipped() {
        return;
    }
    let (mut cluster, client) = with_tls();
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    // The canary: each nginx has keys of its own, and nothing is resumed elsewhere.
    for version in VERSIONS {
        let own = session("own", version);
        assert_eq!(ask(&client, &n1.address, version, &own), "New");
        assert_eq!(ask(&client, &n1.address, version, &own), "Reused", "on the node itself");
        assert_eq!(ask(&client, &n2.address, version, &own), "New", "{version} elsewhere");
    }
    n1.save("conf.d/tickets.conf", &format!("include {KEYS}/tickets.conf;\n"));
    n2.wait_own("current", |own| own["current"] == true && own["applied"]["number"] == 3);
    n1.reload_nginx();
    for node in [n1, n2] {
        wait_loaded(node, 1);
    }
    let digest = |node: &Node| node.host.run(&format!("sha256sum {KEYS}/ring {KEYS}/current.key"));
    assert_eq!(digest(n1), digest(n2));
    let modes = n2.host.run(&format!("stat -c %a:%u:%n {KEYS}/ring {KEYS}/current.key"));
    assert!(modes.lines().all(|line| line.starts_with("600:0:")), "{modes}");
    for version in VERSIONS {
        let before = session("before", version);
        assert_eq!(ask(&client, VIP, version, &before), "New");
        assert_eq!(ask(&client, &n2.address, version, &before), "Reused", "{version}");
    }
    let masters = (n1.master(), n2.master());
    let refused = n2.host.try_run(&format!("{STANDIN} sync rotate"));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the keys come from n1"));
    n1.order("sync rotate");
    for node in [n1, n2] {
        wait_loaded(node, 2);
    }
    assert_eq!((n1.master(), n2.master()), masters, "reloaded, not restarted");
    assert_eq!(digest(n1), digest(n2));
    assert!(n2.page().contains("tickets  keys 2"), "{}", n2.page());
    for version in VERSIONS {
        assert_eq!(ask(&client, VIP, version, &session("after", version)), "New");
    }
    // The power goes on n1.
    cluster.nodes[0].host.kill();
    let n2 = &cluster.nodes[1];
    n2.host.wait_role("active", SOON);
    for version in VERSIONS {
        for name in ["before", "after"] {
            let how = ask(&client, VIP, version, &session(name, version));
            assert_eq!(how, "Reused", "{version}, a session from {name} the change");
        }
    }
}

#[test]
fn new_keys_load_no_half_made_edit_and_lost_ones_come_back() {
    if skipped() {
        return;
    }
    let (mut cluster, client) = with_tls();
    let n1 = &cluster.nodes[0];
    n1.save("conf.d/tickets.conf", &format!("include {KEYS}/tickets.conf;\n"));
    let n2 = &cluster.nodes[1];
    n2.wait_own("current", |own| own["current"] == true && own["applied"]["number"] == 3);
    n1.reload_nginx();
    for node in [n1, n2] {
        wait_loaded(node, 1);
    }
    // Saved on the active, and not meant for its nginx yet.
    n1.save("nginx.conf", &conf("v3"));
    n2.wait_answer("v3");
    n1.order("sync rotate");
    wait_loaded(n2, 2);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(n1.answer(), "v2", "a change of keys isn't a yes to an edit");
    assert_eq!(tickets(n1)["loaded"], false);
    for version in VERSIONS {
        let behind = session("behind", version);
        assert_eq!(ask(&client, &n1.address, version, &behind), "New");
        assert_eq!(ask(&client, &n2.address, version, &behind), "Reused", "one step behind");
    }
    n1.reload_nginx();
    wait_loaded(n1, 2);
    // What somebody removes is there again, and it is the same.
    let digest = |node: &Node| node.host.try_run(&format!("sha256sum {KEYS}/current.key")).stdout;
    let before = digest(n2);
    n2.host.run(&format!("rm {KEYS}/current.key"));
    wait_or_tell(
        || "the key to come back".to_owned(),
        SOON,
        || (digest(n2) == before).then_some(()),
    );
    // After a boot nginx can start before standin does; then it gets the cluster's.
    cluster.nodes[1].daemon.take().unwrap().stop();
    let n2 = &cluster.nodes[1];
    n2.host.run(&format!("rm -r {KEYS}"));
    let test = "nginx -t -c /etc/nginx/conf/nginx.conf";
    assert!(!n2.host.try_run(test).status.success(), "nginx needs them");
    n2.host.run(&format!("{STANDIN} recover"));
    n2.host.run(test);
    assert_ne!(digest(n2), before);
    cluster.nodes[1].start();
    wait_loaded(&cluster.nodes[1], 2);
    assert_eq!(digest(&cluster.nodes[1]), before);
}

/// The keys of a node: the one that encrypts, the next, the previous.
fn keys(node: &Node) -> Vec<Vec<u8>> {
    ["current", "next", "previous"]
        .iter()
        .filter_map(|name| fs::read(node.host.outside(&format!("{KEYS}/{name}.key"))).ok())
        .collect()
}

/// Files below a directory of the host that have a part of any key, as bytes or in hexadecimal.
fn files_with(node: &Node, folder: &str, keys: &[Vec<u8>]) -> Vec<String> {
    let hex = |key: &Vec<u8>| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let marks: Vec<Vec<u8>> = keys
        .iter()
        .flat_map(|key| [key[..16].to_vec(), hex(key).as_bytes()[..32].to_vec()])
        .collect();
    let mut found = Vec::new();
    let mut folders = vec![node.host.outside(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() && !path.ends_with("over") && !path.ends_with("bin") {
                folders.push(path.display().to_string());
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap_or_default();
                let has = |mark: &Vec<u8>| bytes.windows(mark.len()).any(|part| part == mark);
                if marks.iter().any(has) {
                    found.push(Path::file_name(&path).unwrap().to_string_lossy().into_owned());
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn keys_are_in_memory_only_and_an_expelled_node_knows_none_of_the_new_ones() {
    if skipped() {
        return;
    }
    let mut cluster = Cluster::new(3, "/etc/nginx/conf", "");
    let [n1, n2, n3] = &cluster.nodes[..] else { unreachable!() };
    let same = || keys(n1).len() == 3 && keys(n1) == keys(n2) && keys(n2) == keys(n3);
    wait_until("all to have the active's keys", SOON, same);
    assert!(n1.order("sync rotate").ends_with("on all nodes with a link\n"));
    wait_until("them to change", SOON, || tickets(n3)["number"] == 2 && same());
    let old = keys(n1);
    for node in [n1, n2] {
        let found = files_with(node, "/run", &old);
        assert_eq!(found, ["current.key", "next.key", "previous.key", "ring"]);
        for folder in ["/var/lib/standin", "/var/log", "/etc/standin", "/etc/nginx"] {
            let found = files_with(node, folder, &old);
            assert!(found.is_empty(), "{folder} of {}: {found:?}", node.host.name);
        }
    }
    n1.order("expel n3");
    wait_until("n1 and n2 to have new keys", SOON, || {
        let new = keys(n1);
        new.len() == 3 && !new.iter().any(|key| old.contains(key)) && new == keys(n2)
    });
    n1.host.wait_said("tickets_renewed", "isn't a member any more", SOON);
    // Nothing of it reaches n3, also not a moment later.
    std::thread::sleep(Duration::from_secs(3));
    let new = keys(n1);
    assert!(!keys(n3).iter().any(|key| new.contains(key)));
    // Nor is anything of it lost by an order: the next step keeps what is current.
    assert!(n1.order("sync rotate").ends_with("on all nodes with a link\n"));
    wait_until("one step more", SOON, || keys(n2).get(2) == new.first());
    // Who isn't there is named.
    cluster.nodes[1].daemon.take().unwrap().stop();
    let n1 = &cluster.nodes[0];
    wait_until("n2 to be missed", SOON, || {
        n1.sync().is_some_and(|it| it["nodes"][1]["connected"] == false)
    });
    let said = n1.order("sync rotate --all");
    assert!(said.contains("until they have one the old keys stay on n2"), "{said}");
}
