//! One cluster file for all nodes: looked at everywhere before it is taken anywhere.

use std::time::Duration;

use crate::hosts::{Daemon, Host, Lan, STANDIN, wait_or_tell, wait_until};
use crate::{FILE, N1, N2, SOON, connected, daemon, good, link};

const N3: &str = "192.168.1.191";

/// A look at a host takes a second and more on a loaded machine, and three share one here.
const TAKES: Duration = Duration::from_secs(40);

pub(crate) struct Three {
    pub(crate) lan: Lan,
    pub(crate) hosts: [Host; 3],
}

impl Three {
    /// The first has made the cluster and runs; the others have joined it there, and run.
    pub(crate) fn running() -> (Self, [Daemon; 3]) {
        let lan = Lan::new();
        let hosts = [("n1", N1), ("n2", N2), ("n3", N3)]
            .map(|(name, address)| lan.host(name, &[&format!("{address}/24")]));
        let three = Self { lan, hosts };
        let [n1, n2, n3] = &three.hosts;
        n1.run(&format!("{STANDIN} init --cluster edge --node n1={N1} --vip web=192.168.1.41/24"));
        let first = daemon(n1);
        wait_until("n1 alone", SOON, || n1.try_status().is_some());
        join(n2, N2, n1);
        let second = daemon(n2);
        three.wait_linked(&[0, 1]);
        join(n3, N3, n1);
        let third = daemon(n3);
        three.wait_linked(&[0, 1, 2]);
        (three, [first, second, third])
    }

    pub(crate) fn wait_linked(&self, which: &[usize]) {
        let tell = || {
            let each = which.iter().map(|it| {
                let host = &self.hosts[*it];
                let link = host.try_status().map(|it| (it["link"].clone(), it["peers"].clone()));
                format!("{}: {link:?}\n{}", host.name, host.read("/run/logs/standin"))
            });
            format!("all links\n{}", each.collect::<Vec<_>>().join("\n"))
        };
        wait_or_tell(tell, SOON, || {
            let pairs = which.iter().flat_map(|a| which.iter().map(move |b| (a, b)));
            pairs
                .filter(|(a, b)| a != b)
                .all(|(a, b)| {
                    let version = self.version(*b);
                    connected(&self.hosts[*a], &self.hosts[*b].name)
                        && link(&self.hosts[*a], &self.hosts[*b].name)
                            .is_some_and(|it| it["file_version"].as_u64() == Some(version))
                })
                .then_some(())
        });
    }

    pub(crate) fn version(&self, which: usize) -> u64 {
        let status = self.hosts[which].try_status();
        status.and_then(|it| it["link"]["file_version"].as_u64()).unwrap_or_default()
    }

    pub(crate) fn files(&self) -> [String; 3] {
        [0, 1, 2].map(|it| self.hosts[it].read(FILE))
    }
}

/// Lets `host` in at `at`.
pub(crate) fn join(host: &Host, address: &str, at: &Host) {
    let token = at.run(&format!("{STANDIN} token"));
    let to = if at.name == "n1" { N1 } else { N2 };
    let line = format!("{STANDIN} join {to} {} --node {}={address}", token.trim(), host.name);
    good(&host.try_run(&line));
}

#[test]
fn apply_without_a_word_is_content_where_no_files_are_shared() {
    if crate::skipped() {
        return;
    }
    let lan = Lan::new();
    let n1 = lan.host("n1", &[&format!("{N1}/24")]);
    let first = format!("--cluster edge --node n1={N1} --vip web=192.168.1.41/24");
    n1.run(&format!("{STANDIN} init --no-sync {first}"));
    let _daemon = daemon(&n1);
    wait_until("n1 to run", SOON, || n1.try_status().is_some());
    let said = good(&n1.try_run(&format!("{STANDIN} apply")));
    assert!(said.contains("no files are shared"), "{said}");
    let said = good(&n1.try_run(&format!("{STANDIN} apply --json")));
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn an_edit_on_any_node_reaches_all_or_none() {
    if crate::skipped() {
        return;
    }
    let (three, _daemons) = Three::running();
    let [n1, n2, n3] = &three.hosts;
    let [a, b, c] = three.files();
    assert!(a == b && b == c, "a join reaches all, whichever node was asked:\n{a}\n{b}\n{c}");
    assert_eq!([0, 1, 2].map(|it| three.version(it)), [2; 3]);
    // An edit on the last one; modes stay.
    n2.run(&format!("chmod 640 {FILE}"));
    let edited = a.replace("virtual_router_id = 41", "virtual_router_id = 42");
    n3.write("/run/new.toml", &edited);
    let said = good(&n3.try_run(&format!("{STANDIN} apply cluster /run/new.toml")));
    assert!(said.contains("version 3") && said.contains("n1  has it"), "{said}");
    assert_eq!(three.files(), [edited.clone(), edited.clone(), edited.clone()]);
    assert_eq!(n2.run(&format!("stat -c %a {FILE}")).trim(), "640");
    assert_eq!(n2.run("cat /var/lib/standin/cluster/2.toml"), a, "what was replaced is kept");
    for host in &three.hosts {
        wait_until("it to be in force", SOON, || {
            let status = host.try_status().unwrap_or_default();
            // The router with the old id may be shown while it says goodbye.
            let vips = status["vips"].as_array().cloned().unwrap_or_default();
            vips.iter().any(|vip| vip["virtual_router_id"] == 42)
        });
    }
    n3.wait_said("file_applied", "version 3", SOON);
    n1.wait_said("file_taken", "version 3", SOON);
    // The same once more, as soon as everybody is seen to have it, is no change.
    wait_until("n2 to see it on all", SOON, || {
        let peers = n2.try_status().unwrap_or_default()["peers"].as_array().cloned();
        let has_it = |peer: &serde_json::Value| peer["link"]["file_version"] == 3;
        peers.is_some_and(|peers| peers.len() == 2 && peers.iter().all(has_it))
    });
    let said = good(&n2.try_run(&format!("{STANDIN} apply cluster")));
    assert!(said.contains("nothing has changed") && said.contains("version 3"), "{said}");
    assert_eq!([0, 1, 2].map(|it| three.version(it)), [3; 3]);
    let page = n1.run(&format!("{STANDIN} status"));
    assert!(page.contains("version 3 of the cluster file"), "{page}");
    // A bad file: each node says all that is wrong, and nobody takes it.
    let bad = edited.replace("virtual_router_id = 42", "virtual_router_id = 420\npasswort = 1");
    n1.write("/run/bad.toml", &bad);
    let output = n1.try_run(&format!("{STANDIN} apply cluster /run/bad.toml"));
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    for host in ["n1", "n2", "n3"] {
        assert!(said.contains(&format!("{host}  can't take it")), "{said}");
    }
    assert!(said.contains("/run/bad.toml:") && said.contains("passwort"), "{said}");
    // One that only n2 can't take: its log has no place there.
    for host in [n1, n3] {
        host.run("mkdir -p /run/only");
    }
    let secret = "[vip.old]\nvirtual_router_id = 77\nversion = 2\nadvert_interval = \"1s\"\n\
                  password = \"s3cr3t\"\naddresses = [\"192.168.1.77/24\"]\nchecks = []\n";
    let partly = format!("{edited}\n{secret}\n[log]\nfile = \"/run/only/standin.log\"\n");
    n1.write("/run/partly.toml", &partly);
    let output = n1.try_run(&format!("{STANDIN} apply cluster --json /run/partly.toml"));
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let steps = String::from_utf8(output.stdout).unwrap();
    assert!(steps.contains(r#""node":"n2","state":"unfit""#), "{steps}");
    assert!(steps.contains(r#""node":"n1","state":"fit""#), "{steps}");
    assert_eq!(three.files(), [edited.clone(), edited.clone(), edited.clone()]);
    assert_eq!([0, 1, 2].map(|it| three.version(it)), [3; 3]);
    // With its place it is still a path that n2 and n3 have to agree to.
    n2.run("mkdir -p /run/only");
    let output = n1.try_run(&format!("{STANDIN} apply cluster /run/partly.toml"));
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    for host in [n2, n3] {
        let waits = host.run(&format!("{STANDIN} approve --list"));
        assert!(waits.contains("write the log to \"/run/only/standin.log\""), "{waits}");
        let digits = waits.split(' ').next().unwrap();
        host.run(&format!("{STANDIN} approve {digits}"));
    }
    // Then it is taken, and the secret is nowhere but in the files.
    good(&n1.try_run(&format!("{STANDIN} apply cluster /run/partly.toml")));
    assert_eq!(three.version(1), 4);
    for host in &three.hosts {
        let told =
            format!("{}{}", host.read("/run/logs/standin"), host.read("/run/only/standin.log"));
        let events = serde_json::to_string(&host.events()).unwrap();
        assert!(!told.contains("s3cr3t") && !events.contains("s3cr3t"));
    }
}

#[test]
fn who_was_away_takes_the_higher_version_when_it_is_back() {
    if crate::skipped() {
        return;
    }
    let (three, [first, _second, third]) = Three::running();
    let [n1, n2, n3] = &three.hosts;
    third.crash();
    wait_until("n1 to miss n3", SOON, || !connected(n1, "n3"));
    let before = n1.read(FILE);
    let edited = before.replace("virtual_router_id = 41", "virtual_router_id = 43");
    n1.write("/run/new.toml", &edited);
    let output = n1.try_run(&format!("{STANDIN} apply cluster /run/new.toml"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.contains("n3") && why.contains("nothing was changed"), "{why}");
    assert_eq!((n1.read(FILE), n2.read(FILE)), (before.clone(), before));
    good(&n1.try_run(&format!("{STANDIN} apply cluster /run/new.toml --without n3")));
    assert_eq!(n2.read(FILE), edited);
    assert_ne!(n3.read(FILE), edited);
    let _third = daemon(n3);
    wait_until("n3 to take what it missed", TAKES, || n3.read(FILE) == edited);
    n3.wait_said("file_taken", "version 3", SOON);
    three.wait_linked(&[0, 1, 2]);
    // The first node is gone for good: another one lets a machine in, and that reaches the third.
    first.crash();
    wait_until("n2 and n3 to miss n1", SOON, || !connected(n2, "n1") && !connected(n3, "n1"));
    let n4 = three.lan.host("n4", &["192.168.1.192/24"]);
    join(&n4, "192.168.1.192", n2);
    assert_eq!(n4.read(FILE), n2.read(FILE));
    assert_eq!(n3.read(FILE), n2.read(FILE));
    let _fourth = daemon(&n4);
    wait_until("n4 to be a node", SOON, || connected(&n4, "n2") && connected(&n4, "n3"));
}

#[test]
fn an_expelled_node_learns_and_changes_nothing_and_the_authority_is_another() {
    if crate::skipped() {
        return;
    }
    let (three, [first, second, _third]) = Three::running();
    let [n1, n2, n3] = &three.hosts;
    let keys = "/var/lib/standin/keys";
    let authority = |host: &Host| host.read(&format!("{keys}/authority.pem"));
    let old = authority(n1);
    // A token of the old authority ends with it.
    let token = n1.run(&format!("{STANDIN} token"));
    let output = n1.try_run(&format!("{STANDIN} expel n1"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = good(&n1.try_run(&format!("{STANDIN} expel n3")));
    assert!(said.contains("n2  has it") && said.contains("no member any more"), "{said}");
    assert!(!n1.read(FILE).contains(&fingerprint(&three, 2)), "{}", n1.read(FILE));
    assert_eq!(n1.read(FILE), n2.read(FILE));
    assert!(authority(n1) != old && authority(n1) == authority(n2) && authority(n3) == old);
    assert_eq!(n2.run(&format!("stat -c %a {keys}/authority.key")).trim(), "600");
    wait_until("n1 and n2 to be linked by the new authority", SOON, || {
        connected(n1, "n2") && connected(n2, "n1")
    });
    wait_until("n3 to be put out", SOON, || !connected(n3, "n1") && !connected(n3, "n2"));
    // It can change nothing: neither with its file, nor by a higher version, nor with its authority.
    let mine = n3.read(FILE).replace("virtual_router_id = 41", "virtual_router_id = 66");
    n3.write("/run/mine.toml", &mine);
    let output = n3.try_run(&format!("{STANDIN} apply cluster /run/mine.toml"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    good(&n3.try_run(&format!("{STANDIN} apply cluster /run/mine.toml --without n1 --without n2")));
    assert_eq!(three.version(2), 3);
    std::thread::sleep(Duration::from_secs(3));
    assert!(!n1.read(FILE).contains("= 66") && !n2.read(FILE).contains("= 66"));
    assert!(link(n1, "n3").unwrap()["vips"].as_array().unwrap().is_empty());
    let n4 = three.lan.host("n4", &["192.168.1.192/24"]);
    let line = format!("{STANDIN} join {N1} {} --node n4=192.168.1.192", token.trim());
    assert_eq!(n4.try_run(&line).status.code(), Some(1), "a token of the old authority");
    // The rest goes on: the first node goes for good, and another machine is let in.
    first.crash();
    join(&n4, "192.168.1.192", n2);
    let _fourth = daemon(&n4);
    wait_until("n4 to be a node", SOON, || connected(&n4, "n2"));
    assert_eq!(authority(&n4), authority(n2));
    second.stop();
}

#[test]
fn a_file_that_forgets_a_members_fingerprint_says_whom_it_puts_out() {
    if crate::skipped() {
        return;
    }
    let (three, _daemons) = Three::running();
    let n1 = &three.hosts[0];
    let line = format!("fingerprint = \"{}\"\n", fingerprint(&three, 2));
    n1.write("/run/new.toml", &n1.read(FILE).replace(&line, ""));
    let said = good(&n1.try_run(&format!("{STANDIN} apply cluster /run/new.toml")));
    assert!(said.contains("n3  is no member any more") && said.contains("n2  has it"), "{said}");
}

#[test]
fn a_node_that_missed_a_change_of_the_authority_gets_it() {
    if crate::skipped() {
        return;
    }
    let (three, [_first, second, third]) = Three::running();
    let [n1, n2, n3] = &three.hosts;
    let authority = |host: &Host| host.read("/var/lib/standin/keys/authority.pem");
    third.crash();
    second.crash();
    wait_until("n1 to be alone", SOON, || !connected(n1, "n2") && !connected(n1, "n3"));
    let output = n1.try_run(&format!("{STANDIN} expel n3"));
    assert_eq!(output.status.code(), Some(1), "n2 must agree: {output:?}");
    good(&n1.try_run(&format!("{STANDIN} expel n3 --without n2")));
    assert_ne!(authority(n1), authority(n2));
    let _second = daemon(n2);
    wait_until("n2 to have it", TAKES, || {
        authority(n1) == authority(n2) && n1.read(FILE) == n2.read(FILE)
    });
    wait_until("the link by it", SOON, || connected(n1, "n2") && connected(n2, "n1"));
    let _third = daemon(n3);
    std::thread::sleep(Duration::from_secs(2));
    assert!(!connected(n3, "n1") && !connected(n3, "n2"));
    assert_ne!(authority(n3), authority(n1));
}

/// As the cluster file of the node itself has it.
fn fingerprint(three: &Three, which: usize) -> String {
    let host = &three.hosts[which];
    let file = host.read(FILE);
    let section = &file[file.find(&format!("[node.{}]", host.name)).unwrap()..];
    let line = section.lines().find(|line| line.starts_with("fingerprint")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}
