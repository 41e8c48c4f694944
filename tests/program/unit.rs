//! The systemd unit, without systemd: its privileges, its protocol, its file.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::host::{Host, Program, STANDIN, field, pair, rack, until};

const UNIT: &str = include_str!("../../dist/systemd/standin.service");
const SOCKET: &str = include_str!("../../dist/systemd/standin-tester.socket");
const TESTER: &str = include_str!("../../dist/systemd/standin-tester@.service");
const RECOVER: &str = include_str!("../../dist/systemd/standin-recover.service");

/// The values of a directive of the unit.
fn directive(name: &str) -> Vec<&'static str> {
    let values = UNIT.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.flat_map(str::split_ascii_whitespace).collect()
}

/// `setpriv` with what the unit leaves a process, and no more.
fn confined() -> String {
    let list: Vec<_> = directive("CapabilityBoundingSet")
        .iter()
        .map(|name| format!("+{}", name.strip_prefix("CAP_").unwrap().to_ascii_lowercase()))
        .collect();
    assert!(list.len() > 4, "{list:?}");
    format!(
        "setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,{} {STANDIN}",
        list.join(",")
    )
}

/// Makes the host's files as the unit shows them: read-only, but for what it lists.
fn protect(host: &Host) {
    assert_eq!(directive("ProtectSystem"), ["strict"]);
    host.sh("mkdir -p /run/standin; mount -t tmpfs -o mode=755 tmpfs /run/standin");
    host.sh("mount -o remount,ro /etc/standin; mount -o remount,bind,ro /");
    let refused = host.sh("touch /usr/x 2>&1 || true");
    assert!(refused.contains("Read-only"), "{refused}");
}

fn run_confined(host: &Host, more: &str) -> Program {
    let daemon = host.start(&format!("{} run {more}", confined()), "/run/standin.log");
    until("the daemon answers", || host.standin("status").code == 0);
    daemon
}

#[test]
fn the_unit_s_privileges_are_enough_for_a_takeover_with_an_nginx_of_another_user() {
    rack(
        "unit::the_unit_s_privileges_are_enough_for_a_takeover_with_an_nginx_of_another_user",
        || {
            let (one, two, client) = (Host::new("n1", 11), Host::new("n2", 12), Host::new("c", 99));
            let sections = "[nginx]\n[check.me]\ntype = \"script\"\ncommand = [\"/usr/bin/id\", \"-un\"]\nuser = \"nobody\"\n\
                        [notify]\nactive = [\"/run/s/told\", \"/run/s/hangs\"]\nuser = \"nobody\"\ntimeout = \"500ms\"\n";
            let mut daemons = Vec::new();
            for (host, name) in [(&one, "n1"), (&two, "n2")] {
                host.sh(
                    "mkdir -p /var/lib/nginx/body; mount -t tmpfs -o mode=755 tmpfs /etc/nginx",
                );
                let server = format!(
                    "server {{ listen 192.0.2.41:80; location / {{ return 200 {name}; }} }}"
                );
                host.write(
                "/etc/nginx/nginx.conf",
                &format!("user www-data;\nerror_log /run/e;\nevents {{}}\nhttp {{ access_log off; {server} }}\n"),
            );
                // Another user's, so that being root isn't enough to read it.
                host.sh("chown -R www-data /etc/nginx; chmod -R go= /etc/nginx");
                host.sh("cp /etc/group /run/group; echo standin:x:977: >> /run/group");
                host.sh("mount --bind /run/group /etc/group");
                host.script("/run/s/told", "echo \"$3 by $(id -un)\" >> /run/s/log");
                host.script("/run/s/hangs", "sleep 55 & sleep 56");
                host.sh("touch /run/s/log; chmod 666 /run/s/log");
                host.cluster(&pair("checks = [\"nginx\", \"me\"]", sections));
                protect(host);
                daemons.push(run_confined(host, ""));
                until("nginx can start", || {
                    host.sh("sysctl -n net.ipv4.ip_nonlocal_bind").trim() == "1"
                });
                host.sh("nginx > /run/nginx.out 2>&1");
                until("it is eligible", || field(&host.status(), "web", "eligible") == true);
                if name == "n1" {
                    host.until_role("web", "active");
                }
            }
            let answer = || client.sh("curl -sS -m 1 http://192.0.2.41/ || true");
            until("n1 answers", || answer() == "n1");
            let socket = std::fs::metadata(one.path("/run/standin/standin.sock")).unwrap();
            assert_eq!(socket.gid(), 977, "the group standin may talk to the daemon");
            let status = one.status();
            assert_eq!(status["checks"][0]["state"], "passing", "{status:#}");
            assert_eq!(status["nginx"]["notes"].as_array().unwrap().len(), 1, "{status:#}");
            one.sh("kill -9 $(pidof nginx)");
            until("n2 answers", || answer() == "n2");
            until("the script was told", || two.read("/run/s/log").contains("MASTER by nobody"));
            let log = two.log();
            for bad in
                ["can't be locked", "couldn't", "denied", "not permitted", "without realtime"]
            {
                assert!(!log.contains(bad), "{bad}:\n{log}");
            }
            until("a script of another user is ended", || {
                two.log().contains("hangs MASTER failed: killed")
            });
            until("with its group", || !two.sh("ps -eo args").contains("sleep 5"));
            let drop_in = two.read("/etc/sysctl.d/90-standin.conf");
            assert!(drop_in.contains("ip_nonlocal_bind"), "{drop_in}");
            // n1 isn't healthy either, and preferred.
            let said = two.standin("maintenance on");
            assert_eq!(said.code, 0, "{}", said.err);
            assert!(said.out.contains("web → n1 by the election"), "{}", said.out);
            assert_eq!(daemons.pop().unwrap().stop(), 0);
            assert!(!two.has("192.0.2.41/24"));
        },
    );
}

/// The socket of a service manager: what it is told, one after the other.
fn manager(host: &Host) -> impl Fn() -> String + use<> {
    let socket = UnixDatagram::bind(host.path("/run/notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    move || {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

#[test]
fn systemd_is_told_ready_alive_and_stopping() {
    rack("unit::systemd_is_told_ready_alive_and_stopping", || {
        let host = Host::new("n1", 11);
        host.cluster(&pair("checks = []", ""));
        let hear = manager(&host);
        // Without WATCHDOG_PID, as for any process of the unit with NotifyAccess=all.
        let line = format!("env NOTIFY_SOCKET=/run/notify WATCHDOG_USEC=400000 {STANDIN} run");
        let mut daemon = host.start(&line, "/run/standin.log");
        let mut said = vec![hear()];
        while !said.iter().any(|one| one.contains("READY=1")) {
            said.push(hear());
        }
        assert_eq!(host.standin("status").code, 0, "ready means that it answers");
        let began = std::time::Instant::now();
        let beats =
            std::iter::repeat_with(&hear).filter(|one| one.contains("WATCHDOG=1")).take(5).count();
        assert_eq!(beats, 5);
        assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
        daemon.signal("TERM");
        while !hear().contains("STOPPING=1") {}
        assert_eq!(daemon.ended(), 0);
    });
}

#[test]
fn systemd_is_told_of_the_guard_that_replaces_a_killed_one() {
    rack("unit::systemd_is_told_of_the_guard_that_replaces_a_killed_one", || {
        let host = Host::new("n1", 11);
        host.cluster(&pair("checks = []", ""));
        let hear = manager(&host);
        let line = format!("env NOTIFY_SOCKET=/run/notify {STANDIN} run");
        let guard = host.start(&line, "/run/standin.log");
        while !hear().contains("READY=1") {}
        guard.signal("KILL");
        let main = std::iter::repeat_with(&hear).find_map(|said| {
            said.lines().find_map(|line| line.strip_prefix("MAINPID=")?.parse::<u32>().ok())
        });
        let main = main.unwrap();
        assert_ne!(main, guard.pid);
        // systemd waits at a stop only for its own child.
        assert_eq!(host.sh(&format!("ps -o ppid= -p {main}")).trim(), "1");
        // Whom systemd would signal now ends the daemon in order, once it listens.
        until("it guards", || host.sh(&format!("cat /proc/{main}/comm")).trim() == "standin-guard");
        host.sh(&format!("kill -TERM {main}"));
        while !hear().contains("STOPPING=1") {}
    });
}

#[test]
fn what_is_said_before_the_log_is_open_has_its_severity_in_the_journal() {
    rack("unit::what_is_said_before_the_log_is_open_has_its_severity_in_the_journal", || {
        let host = Host::new("n1", 11);
        let run = || {
            let code = host.sh(&format!(
                "exec 2> /run/standin.log; code=0; JOURNAL_STREAM=$(stat -L -c %d:%i /dev/stderr) \
                 {STANDIN} run || code=$?; echo $code"
            ));
            assert_eq!(code.trim(), "3");
            host.log()
        };
        let log = run();
        assert!(log.starts_with("<3>error: can't read the cluster file"), "{log}");
        host.cluster("cluster = \"edge\"\n[node.n1]\naddres = \"192.0.2.11\"\n");
        let log = run();
        assert!(log.lines().count() > 3 && log.lines().all(|it| it.starts_with("<3>")), "{log}");
    });
}

#[test]
fn the_unit_s_file_is_as_it_should_be() {
    assert_eq!(directive("Type"), ["notify"]);
    assert!(directive("After").contains(&"nginx.service"));
    assert!(directive("After").contains(&"network-online.target"));
    assert_eq!(directive("Wants"), ["network-online.target", "standin-tester.socket"]);
    assert!(directive("ReadWritePaths").contains(&"-/etc"), "nginx's files are exchanged there");
    assert_eq!(directive("LimitMEMLOCK"), ["infinity"]);
    assert_eq!(directive("ProtectKernelTunables"), ["no"], "standin sets sysctls");
    assert_eq!(directive("RestrictSUIDSGID"), ["no"], "systemd would refuse openat2(2)");
    assert_eq!(directive("ExitType"), ["cgroup"], "a killed guard is replaced by its daemon");
    assert_eq!(directive("TimeoutAbortSec"), ["2s"], "a daemon that hangs isn't waited for");
    assert_eq!(directive("ExecStopPost"), ["-/usr/bin/standin", "release", "--quiet"]);
    let stop: u32 = directive("TimeoutStopSec")[0].strip_suffix('s').unwrap().parse().unwrap();
    assert!(stop > 90, "above drain_timeout, and the stop scripts' minute");

    verified("standin.service", UNIT);
}

/// The binary isn't installed here, and systemd looks for it.
fn verified(name: &str, unit: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, unit.replace("/usr/bin/standin", "/bin/true")).unwrap();
    // A socket is looked at together with its service.
    let tester = TESTER.replace("/usr/bin/standin", "/bin/true");
    std::fs::write(folder.path().join("standin-tester@.service"), tester).unwrap();
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output();
    let Ok(output) = verify else {
        eprintln!("SKIPPED: systemd-analyze isn't installed, {name} was not verified");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_tester_hears_root_only_and_the_recovery_comes_before_nginx() {
    let lines = |unit: &'static str| unit.lines().collect::<Vec<_>>();
    assert!(lines(SOCKET).contains(&"SocketMode=0600"));
    assert!(lines(SOCKET).contains(&"Accept=yes"));
    assert!(lines(TESTER).contains(&"ExecStart=/usr/bin/standin tester"));
    assert!(lines(TESTER).contains(&"StandardOutput=socket"));
    let before = lines(RECOVER).into_iter().find(|line| line.starts_with("Before=")).unwrap();
    assert!(before.contains("nginx.service") && before.contains("standin.service"), "{before}");
    // nginx starts and reloads without standin, too.
    for unit in [RECOVER, UNIT] {
        let directories = lines(unit).into_iter().find(|it| it.starts_with("RuntimeDirectory="));
        assert!(directories.unwrap().contains("standin-tickets"));
        assert!(lines(unit).contains(&"RuntimeDirectoryPreserve=yes"));
    }
    verified("standin-tester.socket", SOCKET);
    verified("standin-recover.service", RECOVER);
}

#[test]
fn an_interrupted_change_is_taken_back_by_recover_and_not_under_a_daemon() {
    rack("unit::an_interrupted_change_is_taken_back_by_recover_and_not_under_a_daemon", || {
        let host = Host::new("n1", 11);
        assert!(host.standin("recover").out.contains("nothing to recover"));
        host.sh("mkdir -p /run/web/conf /run/web/.standin-1; echo old > /run/web/conf/nginx.conf");
        host.sh("echo new > /run/web/.standin-1/nginx.conf");
        // As a swap leaves it that is killed: the journal is written by the crate itself.
        let inodes = ["/run/web/conf", "/run/web/.standin-1"]
            .map(|inside| std::fs::metadata(host.path(inside)).unwrap().ino().to_string());
        let field = |text: &str| format!("{}:{text}", text.len());
        let head = ["standin apply 1", "17", "swapping"].map(field).concat();
        let root =
            ["root", "/run/web/conf", "/run/web/.standin-1", "whole", &inodes[0], &inodes[1]];
        host.sh("mkdir -p /var/lib/standin/apply; mv /run/web/conf /run/web/x");
        host.sh("mv /run/web/.standin-1 /run/web/conf; mv /run/web/x /run/web/.standin-1");
        let journal = format!("3:{head}6:{}", root.map(field).concat());
        host.write("/var/lib/standin/apply/journal", &journal);
        let said = host.standin("recover");
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.out.contains("/run/web/conf has its old files again"), "{said:?}");
        assert!(said.out.contains("17"), "{said:?}");
        assert_eq!(host.read("/run/web/conf/nginx.conf"), "old\n");
        assert_eq!(host.standin("recover --json").out, "{\"interrupted\":false}\n");
        host.cluster(&pair("checks = []", ""));
        let _daemon = host.start(&format!("{STANDIN} run"), "/run/standin.log");
        until("the daemon answers", || host.standin("status").code == 0);
        assert_eq!(host.standin("recover").code, 6);
    });
}
