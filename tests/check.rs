//! `standin check` on real hosts with real faults.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

#[path = "hosts/mod.rs"]
mod hosts;

use std::process::Output;

use hosts::{Daemon, Host, Lan, STANDIN, ms, skipped, together, wait_for, wait_until};
use serde_json::Value;

const FILE: &str = "/etc/standin/standin.toml";

const PAIR: &str = r#"cluster = "edge"
[node.n1]
address = "192.168.1.189"
priority = 150
[node.n2]
address = "192.168.1.190"
[vip.web]
virtual_router_id = 41
addresses = ["192.168.1.41/24"]
"#;

const DUAL: &str = r#"cluster = "edge"
[node.n1]
address = ["192.168.1.189", "fd00::189"]
[node.n2]
address = ["192.168.1.190", "fd00::190"]
[vip.web]
virtual_router_id = 41
addresses = ["192.168.1.41/24", "fd00::41/64"]
checks = []
"#;

const NGINX: &str = "daemon off;\nerror_log /run/nginx-error.log;\npid /run/nginx.pid;\nevents {}\n\
                     http { access_log off; server { listen 80; return 204; } }\n";

/// n1 with a cluster file.
fn n1(lan: &Lan, file: &str) -> Host {
    let host = lan.host("n1", &["192.168.1.189/24"]);
    host.write(FILE, file);
    host
}

fn n2(lan: &Lan) -> Host {
    lan.host("n2", &["192.168.1.190/24"])
}

fn run_nginx(host: &Host) -> Daemon {
    host.write("/etc/nginx/nginx.conf", NGINX);
    let nginx = host.launch("nginx", "nginx");
    wait_until("nginx to run", ms(5000), || !host.read("/run/nginx.pid").trim().is_empty());
    nginx
}

/// What a person sees, and the exit code.
struct Said {
    text: String,
    exit: i32,
}

fn said(output: &Output) -> Said {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error, "", "{text}");
    Said { text, exit: output.status.code().unwrap() }
}

fn check(host: &Host, words: &str) -> Said {
    let said = said(&host.try_run(&format!("{STANDIN} check {words}")));
    println!("--- {}: check {words}\n{}exit {}", host.name, said.text, said.exit);
    said
}

impl Said {
    #[track_caller]
    fn has(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.text.contains(text), "no {text:?} in\n{}", self.text);
        }
    }

    #[track_caller]
    fn is_fine(&self) {
        assert_eq!(self.exit, 0, "{}", self.text);
        self.has(&["web can be held here: no faults found"]);
    }

    #[track_caller]
    fn is_one_error(&self, texts: &[&str]) {
        self.has(texts);
        assert!(self.text.ends_with("\n1 error\n"), "{}", self.text);
        assert_eq!(self.exit, 4, "{}", self.text);
    }
}

fn a_good_host_and_one_without_nginx() {
    let lan = Lan::new();
    let host = n1(&lan, &format!("{PAIR}[nginx]\n"));
    host.write("/etc/nginx/nginx.conf", NGINX);
    check(&host, "").is_one_error(&["H0602", "/usr/sbin/nginx doesn't run", "[nginx]"]);
    let _nginx = run_nginx(&host);
    let good = check(&host, "");
    good.is_fine();
    good.has(&[
        "web: 192.168.1.41/24 on eth0, router id 41, priority 150; adverts from 192.168.1.189",
    ]);
    host.write("/etc/nginx/nginx.conf", &format!("{NGINX}nonsense;\n"));
    let line = NGINX.lines().count() + 1;
    check(&host, "").is_one_error(&[
        "H0607",
        &format!("unknown directive \"nonsense\" in /etc/nginx/nginx.conf:{line}"),
        "it goes on with what it has loaded",
        "then: /usr/sbin/nginx -t -c /etc/nginx/nginx.conf",
    ]);
    // Nothing of this host's is changed by a test.
    host.write("/etc/nginx/nginx.conf", &NGINX.replace("/run/nginx-error.log", "/run/new.log"));
    check(&host, "").is_fine();
    assert_eq!(host.read("/run/new.log"), "");
    host.run("test ! -e /run/new.log");
    let other = Lan::new();
    let bare = n1(&other, &format!("{PAIR}[nginx]\n"));
    bare.run("mount --bind /dev/null /usr/sbin/nginx");
    check(&bare, "").is_one_error(&["H0601", "nginx isn't found on this host"]);
}

fn a_stranger_with_the_same_router_id() {
    let lan = Lan::new();
    let host = n1(&lan, PAIR);
    let stranger = lan.host("x", &["192.168.1.77/24"]);
    let _keepalived = stranger.keepalived(
        "vrrp_instance VI_1 {\n interface eth0\n virtual_router_id 41\n priority 255\n \
         advert_int 1\n virtual_ipaddress {\n 192.168.1.7/24\n }\n}\n",
    );
    wait_until("keepalived to be master", ms(8000), || stranger.has("192.168.1.7"));
    let said = check(&host, "");
    assert_eq!(said.exit, 4);
    said.has(&[
        "error[H0301]: 192.168.1.77, which is no node of the file, sends adverts with the \
         virtual_router_id 41 of [vip.web] on eth0",
        "heard: version 2, priority 255, addresses 192.168.1.7",
        "42 wasn't heard here",
    ]);
    // Nobody listened, nobody was heard.
    check(&host, "--listen 0 --deny-warnings").has(&["W0505"]);
}

fn a_node_and_a_stranger_that_send_over_ipv6() {
    let lan = Lan::new();
    let (host, peer) = (n1(&lan, DUAL), n2(&lan));
    for (host, own) in [(&host, "fd00::189/64"), (&peer, "fd00::190/64")] {
        host.ip(&format!("addr add {own} dev eth0 nodad"));
    }
    let daemon = peer.standin(DUAL);
    peer.wait_role("active", ms(10_000));
    check(&host, "--listen 3s").is_fine();
    check(&peer, "--listen 3s").is_fine();
    // IPv6 alone, and nodes that the file names by IPv4 only.
    daemon.stop();
    let six = DUAL
        .replace("[\"192.168.1.41/24\", \"fd00::41/64\"]", "[\"fd00::41/64\"]")
        .replace(", \"fd00::189\"", "")
        .replace(", \"fd00::190\"", "");
    host.write(FILE, &six);
    let daemon = peer.standin(&six);
    peer.wait_role("active", ms(10_000));
    check(&host, "--listen 3s").is_fine();
    daemon.stop();
    let stranger = lan.host("x", &["192.168.1.77/24"]);
    let _keepalived = stranger.keepalived(
        "vrrp_instance VI_1 {\n version 3\n interface eth0\n virtual_router_id 41\n priority 255\n \
         advert_int 0.1\n virtual_ipaddress {\n fd00::7/64\n }\n}\n",
    );
    wait_until("keepalived to be master", ms(8000), || stranger.has("fd00::7"));
    let said = check(&host, "--listen 3s");
    assert_eq!(said.exit, 4);
    said.has(&["error[H0301]: fe80::", "which is no node of the file", "addresses fd00::7"]);
    peer.ip("addr del 192.168.1.190/24 dev eth0");
    let said = check(&host, "--listen 3s");
    assert_eq!(said.exit, 0, "{}", said.text);
    said.has(&["warning[H0308]", "n2 doesn't answer for its own address"]);
}

fn a_firewall_and_the_rule_that_mends_it() {
    let lan = Lan::new();
    let host = n1(&lan, &format!("{PAIR}checks = []\n"));
    check(&host, "--listen 0").is_fine();
    host.nft(
        "table inet filter {\n chain input {\n type filter hook input priority 0\n policy drop\n \
         ct state established,related accept\n iif lo accept\n tcp dport { 22, 80 } accept\n }\n}",
    );
    let said = check(&host, "--listen 0");
    said.is_one_error(&["H0501", "protocol 112", "table inet filter: chain input has policy drop"]);
    let mend = said.text.lines().find_map(|line| line.split_once("= help: ")).unwrap().1;
    let (mend, _) = mend.split_once(", and the same in").unwrap();
    host.nft(mend.strip_prefix("nft ").unwrap());
    check(&host, "--listen 0").is_fine();
    host.nft("flush ruleset");
    host.nft(
        "table inet f {\n chain out {\n type filter hook output priority 0\n policy accept\n \
         meta l4proto 112 reject\n }\n}",
    );
    check(&host, "--listen 0").is_one_error(&["to the peers on eth0", "in chain out"]);
}

fn a_foreign_machine_that_has_the_address() {
    let lan = Lan::new();
    let host = n1(&lan, &format!("{PAIR}checks = []\n"));
    let old = lan.host("o1", &["192.168.1.41/24"]);
    let foreign = format!("192.168.1.41 of [vip.web] is used by {}, which is no node", old.mac());
    check(&host, "").is_one_error(&["H0306", &foreign]);
    drop(old);
    host.write(FILE, DUAL);
    host.ip("addr add fd00::189/64 dev eth0 nodad");
    let old = lan.host("o6", &["fd00::41/64"]);
    let foreign = format!("fd00::41 of [vip.web] is used by {}, which is no node", old.mac());
    check(&host, "").is_one_error(&["H0306", &foreign]);
    drop(old);
    host.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
    check(&host, "").has(&["H0205", "H0201", "2 errors"]);
    host.write(FILE, &format!("{PAIR}checks = []\n"));
    let peer = n2(&lan);
    peer.ip("addr add 192.168.1.41/24 dev eth0");
    check(&host, "")
        .is_one_error(&["H0307", "node n2 has 192.168.1.41 of [vip.web], and no advert"]);
}

fn a_node_that_holds_the_vip_is_no_fault() {
    let lan = Lan::new();
    let file = format!("{PAIR}checks = []\n");
    let (host, peer) = (n1(&lan, &file), n2(&lan));
    let _daemon = peer.standin(&file);
    peer.wait_role("active", ms(10_000));
    check(&host, "").is_fine();
    check(&peer, "").is_fine();
    let other = file.replace(
        "[\"192.168.1.41/24\"]",
        "[\"192.168.1.41/24\", \"192.168.1.42/24\"]\nadvert_interval = \"200ms\"",
    );
    host.write(FILE, &other);
    let said = check(&host, "");
    assert_eq!(said.exit, 0, "{}", said.text);
    said.has(&["H0303", "n2 (192.168.1.190) sends adverts every 100ms", "H0304", "2 warnings"]);
}

fn a_keepalived_with_the_same_id_here() {
    let lan = Lan::new();
    let host = n1(&lan, &format!("{PAIR}checks = []\n"));
    let conf = "vrrp_instance VI_1 {\n interface eth0\n virtual_router_id 41\n priority 100\n \
                virtual_ipaddress {\n 192.168.1.41/24\n }\n}\n";
    let keepalived = host.keepalived(conf);
    let said = wait_for("keepalived to be seen", ms(5000), || {
        let said = check(&host, "--listen 0");
        (said.exit == 4).then_some(said)
    });
    said.is_one_error(&[
        "H0401",
        "vrrp_instance VI_1 in /etc/keepalived/keepalived.conf:3 has it too",
        "virtual_router_id = 41",
    ]);
    drop(keepalived);
    let _other = host.keepalived(&conf.replace("41\n", "51\n"));
    let said = wait_for("keepalived to be seen", ms(5000), || {
        let said = check(&host, "--listen 0");
        said.text.contains("H0402").then_some(said)
    });
    assert_eq!(said.exit, 0, "{}", said.text);
}

fn interfaces_and_addresses_that_are_wrong() {
    let lan = Lan::new();
    let host = n1(&lan, &format!("{PAIR}checks = []\ninterface = \"eth7\"\n"));
    check(&host, "").is_one_error(&["H0202", "eth7, which this host doesn't have", "lo and eth0"]);
    host.write(FILE, &format!("{PAIR}checks = []\n"));
    check(&host, "--node n2").is_one_error(&["H0201", "192.168.1.190, the address of node n2"]);
    lan.cut(&host);
    check(&host, "").is_one_error(&["H0203", "eth0 of [vip.web] has no carrier"]);
    host.ip("link set eth0 down");
    check(&host, "").is_one_error(&["H0203", "eth0 of [vip.web] is switched off"]);
    lan.heal(&host);
    host.ip("link set eth0 up");
    host.ip("addr add 192.168.1.41/24 dev eth0");
    host.run("mkdir -p /etc/network");
    host.write("/etc/network/interfaces", "iface eth0 inet static\n  address 192.168.1.41/24\n");
    check(&host, "").is_one_error(&["H0208", "take it out of /etc/network/interfaces:2"]);
    let twin = lan.host("twin", &["192.168.1.189/24"]);
    host.ip("addr del 192.168.1.41/24 dev eth0");
    let mac = twin.mac();
    check(&host, "").has(&["H0204", &format!("is also answered by {mac}"), "1 error, 1 warning"]);
}

fn scripts_users_and_ports_that_cannot_serve() {
    let lan = Lan::new();
    let host = n1(
        &lan,
        &format!(
            "{PAIR}checks = [\"nginx\", \"disk\", \"own\"]\n[nginx]\n\
             [check.disk]\ntype = \"script\"\ncommand = [\"/etc/standin/disk\"]\nuser = \"nosuch\"\n\
             [check.own]\ntype = \"script\"\ncommand = [\"/etc/standin/fine\"]\n\
             [notify]\nactive = [\"/etc/standin/gone\"]\nbackup = [\"/etc/standin/open\"]\n\
             any = [\"/etc/standin/fine\"]\n\
             [log]\nfile = \"/nowhere/standin.log\"\n[api]\nlisten = \"127.0.0.1:80\"\n"
        ),
    );
    for (name, mode) in [("disk", "644"), ("open", "757"), ("fine", "755")] {
        host.write(&format!("/etc/standin/{name}"), "#!/bin/sh\n");
        host.run(&format!("chmod {mode} /etc/standin/{name}"));
    }
    let _nginx = run_nginx(&host);
    let said = check(&host, "--listen 0");
    assert_eq!(said.exit, 4);
    said.has(&[
        "[check.disk] can't pass on this host: /etc/standin/disk can't be run",
        "it isn't executable: chmod +x /etc/standin/disk",
        "this host has no user nosuch",
        "there is no /etc/standin/gone",
        "/etc/standin/open (mode 0757, owner uid 0, gid 0) can be changed by everybody",
        "chmod o-w /etc/standin/open, or set `user`",
        "the log's directory /nowhere doesn't exist",
        "the API can't listen on 127.0.0.1:80: nginx (pid ",
        "\n6 errors\n",
    ]);
}

fn files_and_a_port_that_are_not_standins_alone() {
    let lan = Lan::new();
    let host = n1(&lan, &format!("{PAIR}checks = []\n"));
    let keys = "/var/lib/standin/keys";
    host.run(&format!("mkdir -p {keys}"));
    for name in ["authority.key", "node.key", "node.pem"] {
        host.write(&format!("{keys}/{name}"), "");
        host.run(&format!("chmod 600 {keys}/{name}"));
    }
    for (mode, path) in [("700", keys), ("755", "/etc/standin"), ("644", FILE)] {
        host.run(&format!("chmod {mode} {path}"));
    }
    check(&host, "--listen 0").is_fine();
    let bad = [
        (format!("chmod 644 {keys}/authority.key"), "authority.key (mode 0644, owner uid 0)"),
        (format!("chown 33 {keys}/node.key"), "node.key (mode 0600, owner uid 33)"),
        (format!("chmod 755 {keys}"), "keys (mode 0755, owner uid 0), the directory"),
        ("chmod 777 /etc/standin".to_owned(), "/etc/standin (mode 0777, owner uid 0) can be"),
        (format!("chmod 666 {FILE}"), "standin.toml (mode 0666, owner uid 0) can be changed"),
    ];
    for (spoil, words) in &bad {
        host.run(spoil);
        let said = check(&host, "--listen 0");
        said.is_one_error(&[words]);
        // The mend is a command.
        let mend = said.text.lines().find_map(|line| line.split_once("= help: ")).unwrap().1;
        for command in mend.split(';').next().unwrap().split(" && ") {
            host.run(command);
        }
        check(&host, "--listen 0").is_fine();
    }
    host.run("mount --bind /var/lib/standin /var/lib/standin");
    host.run("mount -o remount,bind,ro /var/lib/standin");
    check(&host, "--listen 0").is_one_error(&["H0708", "read-only file system"]);
    host.run("umount /var/lib/standin");
    host.nft(
        "table inet filter {\n chain input {\n type filter hook input priority 0\n policy drop\n \
         meta l4proto vrrp accept\n tcp dport { 22, 80 } accept\n }\n}",
    );
    let said = check(&host, "--listen 0");
    assert_eq!(said.exit, 0, "{}", said.text);
    said.has(&["H0502", "(TCP port 8412) from n2 (192.168.1.190)", "1 warning"]);
    let mend = said.text.lines().find_map(|line| line.split_once("= help: ")).unwrap().1;
    let (mend, _) = mend.split_once(", and the same in").unwrap();
    host.nft(mend.strip_prefix("nft ").unwrap());
    check(&host, "--listen 0").is_fine();
    host.write("/etc/nginx/nginx.conf", &NGINX.replace("listen 80", "listen 8412"));
    let _nginx = host.launch("nginx", "nginx");
    let said = wait_for("the port to be taken", ms(5000), || {
        let said = check(&host, "--listen 0");
        said.text.contains("H0709").then_some(said)
    });
    said.has(&["the peer link can't listen on 192.168.1.189:8412: nginx (pid "]);
}

fn a_user_without_privileges_is_told_so() {
    let lan = Lan::new();
    let host = n1(&lan, &format!("{PAIR}checks = []\n"));
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let said = said(&host.try_run(&format!("{nobody} {STANDIN} check")));
    assert_eq!(said.exit, 4, "{}", said.text);
    said.has(&["H0101", "CAP_NET_ADMIN and CAP_NET_RAW", "CAP_IPC_LOCK", "H0002", "firewall"]);
}

fn a_witness_that_never_answers() {
    let lan = Lan::new();
    let gateway =
        "witness = [\"gw\"]\nchecks = []\n[check.gw]\ntype = \"ping\"\nto = \"192.168.1.1\"\n";
    let host = n1(&lan, &format!("{PAIR}{gateway}"));
    let said = check(&host, "");
    assert_eq!(said.exit, 0, "{}", said.text);
    said.has(&["H0710", "no witness of [vip.web] is seen now (gw: ", "1 warning"]);
    let _gateway = lan.host("gw", &["192.168.1.1/24"]);
    check(&host, "").is_fine();
}

fn files_are_judged_without_a_host() {
    let lan = Lan::new();
    let host = lan.bare_host("ci");
    host.write(FILE, PAIR);
    host.write("/etc/keepalived/keepalived.conf", "vrrp_instance VI_1 {\n priority 100\n}\n");
    let said = check(&host, "");
    assert_eq!(said.exit, 3, "this machine is no node");
    said.has(&["E0402", "standin check --file-only"]);
    let said = check(&host, "--file-only");
    assert_eq!(said.exit, 0);
    said.has(&["W0505", "the file is good; this host wasn't looked at: 1 warning"]);
    assert_eq!(check(&host, "--file-only --deny-warnings").exit, 3);
    let both =
        check(&host, &format!("--file-only {FILE} /etc/keepalived/keepalived.conf /nowhere"));
    assert_eq!(both.exit, 3);
    both.has(&["this is a keepalived.conf, not a cluster file", "H0001", "2 errors, 1 warning"]);
    let json = check(&host, "--json --file-only /etc/keepalived/keepalived.conf");
    let findings: Value = serde_json::from_str(&json.text).unwrap();
    let first = findings.get(0).unwrap();
    assert_eq!(first.get("severity").unwrap(), "error");
    assert_eq!(first.get("line").unwrap(), 1);
    assert_eq!(first.get("file").unwrap(), "/etc/keepalived/keepalived.conf");
}

/// Each on machines of its own, all at once: they mostly listen.
#[test]
fn check_names_the_fault_of_every_bad_host() {
    if skipped() {
        return;
    }
    let all: [(&str, fn()); 13] = [
        ("a good host and one without nginx", a_good_host_and_one_without_nginx),
        ("a stranger with the same router id", a_stranger_with_the_same_router_id),
        ("a node and a stranger over IPv6", a_node_and_a_stranger_that_send_over_ipv6),
        ("a firewall and the rule that mends it", a_firewall_and_the_rule_that_mends_it),
        ("a foreign machine that has the address", a_foreign_machine_that_has_the_address),
        ("a node that holds the VIP is no fault", a_node_that_holds_the_vip_is_no_fault),
        ("a keepalived with the same id here", a_keepalived_with_the_same_id_here),
        ("interfaces and addresses that are wrong", interfaces_and_addresses_that_are_wrong),
        ("scripts, users and ports", scripts_users_and_ports_that_cannot_serve),
        ("a witness that never answers", a_witness_that_never_answers),
        ("files and a port of others", files_and_a_port_that_are_not_standins_alone),
        ("a user without privileges is told so", a_user_without_privileges_is_told_so),
        ("files are judged without a host", files_are_judged_without_a_host),
    ];
    together(all.into_iter().map(|(name, run)| (name.to_owned(), Box::new(run) as _)).collect());
}
