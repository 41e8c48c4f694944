//! Where log lines arrive: a file, a real rsyslogd, a journal.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::host::{Host, pair, rack, until};

/// Text that a script chooses, with which it would like to write a line of its own.
const FORGER: &str = "printf 'x\\n<13>Jan  1 00:00:00 sshd[1]: forged\\nMESSAGE=forged\\n'; exit 1";

fn forging(log: &str) -> String {
    let script = "[check.up]\ntype = \"script\"\ncommand = [\"/run/s/forger\"]\nfall = 1\n\
                  interval = \"100ms\"\ntimeout = \"100ms\"\n";
    pair("checks = [\"up\"]", &format!("{script}[log]\n{log}\n"))
}

#[test]
fn the_plan_s_local0_reaches_a_real_rsyslogd() {
    rack("logs::the_plan_s_local0_reaches_a_real_rsyslogd", || {
        let host = Host::new("n1", 11);
        host.script("/run/s/forger", FORGER);
        // A private /dev with a socket: the machine's own /dev/log is left alone.
        host.sh(
            "mkdir /run/dev; cp -a /dev/null /dev/urandom /run/dev; mount --bind /run/dev /dev; \
             mkdir -p /var/log/keepalived /run/rsyslog",
        );
        host.write(
            "/run/rsyslog.conf",
            "module(load=\"imuxsock\" SysSock.Use=\"on\" SysSock.Name=\"/dev/log\" SysSock.RateLimit.Interval=\"0\")\n\
             template(name=\"all\" type=\"string\" string=\"%syslogfacility-text%.%syslogseverity-text% %programname% %msg%\\n\")\n\
             local0.* /var/log/keepalived/keepalived.log\n\
             *.* /var/log/all;all\n",
        );
        let _rsyslogd =
            host.start("rsyslogd -n -f /run/rsyslog.conf -i /run/rsyslog/pid", "/run/rsyslogd.out");
        until("rsyslogd listens", || host.path("/dev/log").exists());
        host.cluster(&forging("syslog = \"local0\""));
        let mut daemon = host.daemon("");
        let plan = || host.read("/var/log/keepalived/keepalived.log");
        until("the check's failure is logged", || plan().contains("forged"));
        assert_eq!(daemon.stop(), 0);
        until("the stop is logged", || plan().contains("standin has stopped"));
        let text = plan();
        assert!(text.contains("runs as node n1 of edge"), "{text}");
        assert!(text.contains("[web] idle -> backup"), "{text}");
        for line in text.lines() {
            assert!(line.contains(" standin["), "a forged line: {line}");
        }
        let all = host.read("/var/log/all");
        assert!(all.contains("local0.notice standin"), "{all}");
        assert!(all.contains("local0.warning standin"), "{all}");
        assert!(!all.contains("sshd "), "{all}");
        assert_eq!(host.log(), "", "nothing else was asked for");
    });
}

#[test]
fn the_journal_gets_fields_and_a_file_gets_lines() {
    rack("logs::the_journal_gets_fields_and_a_file_gets_lines", || {
        let host = Host::new("n1", 11);
        host.script("/run/s/forger", FORGER);
        host.sh("mkdir -p /run/systemd/journal");
        let journal = UnixDatagram::bind(host.path("/run/systemd/journal/socket")).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        host.cluster(&forging("journald = true\nfile = \"/var/log/standin.log\""));
        let mut daemon = host.daemon("");
        let mut entries = Vec::new();
        let mut buffer = [0; 4096];
        while !entries.iter().any(|entry: &String| entry.contains("forged")) {
            let length = journal.recv(&mut buffer).unwrap();
            entries.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        for entry in &entries {
            let names: Vec<_> = entry.lines().map(|line| line.split('=').next().unwrap()).collect();
            assert_eq!(names.iter().filter(|name| **name == "MESSAGE").count(), 1, "{entry}");
            assert!(
                entry.contains("\nPRIORITY=") && entry.contains("\nSYSLOG_IDENTIFIER=standin\n"),
                "{entry}"
            );
        }
        let moved = entries.iter().find(|entry| entry.contains("idle -> backup")).unwrap();
        assert!(
            moved.contains("\nPRIORITY=5\n") && moved.ends_with("\nSTANDIN_VIP=web\n"),
            "{moved}"
        );
        let failed = entries.iter().find(|entry| entry.contains("forged")).unwrap();
        assert!(failed.contains("\nPRIORITY=4\n"), "{failed}");

        // logrotate moves the file away and says SIGHUP.
        host.sh("mv /var/log/standin.log /var/log/standin.log.1");
        daemon.signal("HUP");
        until("the new file is written", || host.read("/var/log/standin.log").contains("taken"));
        let text = host.read("/var/log/standin.log.1");
        assert!(text.contains(" notice: [web] idle -> backup"), "{text}");
        assert!(text.lines().all(|line| line.starts_with("20")), "{text}");
        // A journal that has gone or is full stops nobody.
        drop(journal);
        host.script("/run/s/forger", "exit 0");
        until("it goes on", || host.read("/var/log/standin.log").contains("is eligible"));
        assert_eq!(daemon.stop(), 0);
        assert_eq!(host.log(), "", "nothing else was asked for");
    });
}

#[test]
fn without_a_word_of_it_the_log_goes_to_stderr_and_under_systemd_to_the_journal() {
    rack(
        "logs::without_a_word_of_it_the_log_goes_to_stderr_and_under_systemd_to_the_journal",
        || {
            let host = Host::new("n1", 11);
            host.cluster(&pair("checks = []", ""));
            let mut daemon = host.daemon("");
            assert!(host.log().contains("runs as node n1"));
            daemon.stop();
            host.sh("mkdir -p /run/systemd/journal");
            let journal = UnixDatagram::bind(host.path("/run/systemd/journal/socket")).unwrap();
            let line = format!("env JOURNAL_STREAM=1:2 {} run", crate::host::STANDIN);
            let mut daemon = host.start(&line, "/run/standin.log");
            let mut buffer = [0; 4096];
            let length = journal.recv(&mut buffer).unwrap();
            assert!(String::from_utf8_lossy(&buffer[..length]).contains("MESSAGE="));
            until("it answers", || host.standin("status").code == 0);
            assert_eq!(daemon.stop(), 0);
            assert_eq!(host.log(), "");
        },
    );
}

/// A pipe with a name that is full, and whose only reader reads nothing.
fn full_pipe(host: &Host, path: &str) -> crate::host::Program {
    host.sh(&format!("mkfifo {path}"));
    let fill = "dd if=/dev/zero of=/dev/stdout bs=65536 count=1 status=none >&3; exec sleep 1000";
    let keeper = host.start(&format!("sh -c 'exec 3<>{path}; {fill}'"), "/run/keeper.out");
    until("the pipe is full", || {
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", keeper.pid));
        comm.is_ok_and(|name| name.trim() == "sleep")
    });
    keeper
}

const FLIPPING: &str = "[check.up]\ntype = \"script\"\ncommand = [\"/run/s/up\"]\nfall = 1\n\
                        rise = 1\ninterval = \"100ms\"\ntimeout = \"100ms\"\n";

#[test]
fn logs_that_nobody_takes_keep_neither_checks_nor_answers_and_say_what_they_lost() {
    rack(
        "logs::logs_that_nobody_takes_keep_neither_checks_nor_answers_and_say_what_they_lost",
        || {
            let host = Host::new("n1", 11);
            host.script("/run/s/up", "exit 0");
            let _log = full_pipe(&host, "/run/log");
            let _stderr = full_pipe(&host, "/run/stderr");
            host.cluster(&pair(
                "checks = [\"up\"]\nhold_down = \"0s\"",
                &format!("{FLIPPING}[log]\nfile = \"/run/log\"\nstderr = true\n"),
            ));
            let line = format!("sh -c 'exec {} run 2>/run/stderr'", crate::host::STANDIN);
            let mut daemon = host.start(&line, "/run/standin.log");
            until("the daemon answers", || host.standin("status --json").code == 0);
            host.until_role("web", "active");
            // It is checked, and the address is given up and taken again.
            host.script("/run/s/up", "exit 1");
            let standing = || crate::host::field(&host.status(), "web", "standing");
            until("the check's failure counts", || standing() == "ineligible");
            host.script("/run/s/up", "exit 0");
            until("its success does", || standing() == "eligible");
            host.until_role("web", "active");
            assert!(host.has("192.0.2.41/24"));
            let kinds: Vec<_> = host.events().iter().map(|it| it["kind"].clone()).collect();
            assert!(kinds.iter().any(|kind| kind == "transition"), "{kinds:?}");
            until("status says so", || {
                let said = host.standin("status").out;
                said.contains("the log file /run/log has taken nothing for")
                    && said.contains("stderr has taken nothing for")
            });
            assert_eq!(host.standin("reload").code, 0);
            // Somebody reads again.
            let _reader = host.start("cat /run/log", "/run/read");
            host.script("/run/s/up", "exit 1");
            let read = || host.read("/run/read");
            until("the loss is said", || read().contains("lines were lost here"));
            until("lines come again", || read().contains("[web] this node is ineligible"));
            assert_eq!(read().matches("were lost here").count(), 1, "{}", read());
            until("the status is well", || !host.standin("status").out.contains("log file"));
            assert_eq!(daemon.stop(), 0);
            assert!(!host.has("192.0.2.41/24"));
        },
    );
}

/// A file system in a file of the host, which can hang.
struct HungDisk<'a>(&'a Host);

impl HungDisk<'_> {
    fn hang(&self) {
        self.0.sh("fsfreeze -f /var/lib/standin");
    }
}

impl Drop for HungDisk<'_> {
    fn drop(&mut self) {
        // It may not hang any more.
        self.0.sh("fsfreeze -u /var/lib/standin || true");
    }
}

#[test]
fn a_disk_that_hangs_keeps_neither_checks_nor_answers_nor_the_end() {
    rack("logs::a_disk_that_hangs_keeps_neither_checks_nor_answers_nor_the_end", || {
        let host = Host::new("n1", 11);
        let made = "truncate -s 16M /run/disk && mkfs.ext4 -q /run/disk && mkdir -p /var/lib/standin \
                    && mount -o loop /run/disk /var/lib/standin 2>/dev/null || echo no";
        if host.sh(made).contains("no") {
            eprintln!("SKIPPED: no file system can be mounted from a file here");
            return;
        }
        let disk = HungDisk(&host);
        host.script("/run/s/up", "exit 0");
        let log = "[log]\nfile = \"/var/lib/standin/log\"\nstderr = true\n";
        host.cluster(&pair("checks = [\"up\"]\nhold_down = \"0s\"", &format!("{FLIPPING}{log}")));
        let mut daemon = host.daemon("");
        host.until_role("web", "active");
        disk.hang();
        let standing = || crate::host::field(&host.status(), "web", "standing");
        host.script("/run/s/up", "exit 1");
        until("the check's failure counts", || standing() == "ineligible");
        host.script("/run/s/up", "exit 0");
        until("its success does", || standing() == "eligible");
        host.until_role("web", "active");
        until("status says so", || {
            let said = host.standin("status").out;
            said.contains("the record of events in /var/lib/standin has taken nothing for")
                && said.contains("the log file /var/lib/standin/log has taken nothing for")
        });
        // What can be written is: stderr has it all.
        assert!(host.log().contains("[web] this node is ineligible"), "{}", host.log());
        daemon.signal("TERM");
        until("the address is gone", || !host.has("192.0.2.41/24"));
        drop(disk);
        assert_eq!(daemon.ended(), 0);
    });
}
