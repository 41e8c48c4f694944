//! The operator's scripts: when they are called, with what, and what becomes of bad ones.

use std::time::{Duration, Instant};

use crate::host::{Host, field, pair, rack, until};

const TOLD: &str = "/run/told";

/// Scripts that say that they were called, into [`TOLD`].
fn scripts(host: &Host, names: &[&str]) {
    for name in names {
        host.script(
            &format!("/run/s/{name}"),
            &format!(
                "echo \"{name} $* by $(id -un)\" >> {TOLD}; env | grep ^STANDIN_ >> {TOLD}.env"
            ),
        );
    }
}

fn calls(host: &Host) -> Vec<String> {
    host.read(TOLD).lines().map(str::to_owned).collect()
}

#[test]
fn scripts_run_in_order_with_keepalived_s_arguments_and_a_rich_environment() {
    rack("notify::scripts_run_in_order_with_keepalived_s_arguments_and_a_rich_environment", || {
        let host = Host::new("n1", 11);
        scripts(&host, &["a", "b", "any", "stop"]);
        // A slow one first: the others wait for it.
        host.script("/run/s/slow", &format!("sleep 0.3; echo \"slow $*\" >> {TOLD}"));
        host.cluster(&pair(
            "checks = []",
            "[notify]\nactive = [\"/run/s/slow\", \"/run/s/a\"]\nbackup = [\"/run/s/b\"]\n\
             stop = [\"/run/s/stop\"]\nany = [\"/run/s/any\"]\n",
        ));
        let mut daemon = host.daemon("");
        until("the active scripts ran", || calls(&host).len() == 5);
        assert_eq!(daemon.stop(), 0);
        assert_eq!(
            calls(&host),
            [
                "b INSTANCE web BACKUP 150 by root",
                "any INSTANCE web BACKUP 150 by root",
                "slow INSTANCE web MASTER 150",
                "a INSTANCE web MASTER 150 by root",
                "any INSTANCE web MASTER 150 by root",
                "stop INSTANCE web STOP 150 by root",
                "any INSTANCE web STOP 150 by root",
            ]
        );
        let environment = host.read(&format!("{TOLD}.env"));
        for line in [
            "STANDIN_VIP=web",
            "STANDIN_STATE=MASTER",
            "STANDIN_OLD_STATE=BACKUP",
            "STANDIN_REASON=backup -> active: no advert was heard and nobody answers for the address",
            "STANDIN_PRIORITY=150",
            "STANDIN_NODE=n1",
            "STANDIN_CLUSTER=edge",
            "STANDIN_ADDRESSES=192.0.2.41/24",
        ] {
            assert!(environment.lines().any(|one| one == line), "{line}:\n{environment}");
        }
    });
}

#[test]
fn a_script_that_cannot_be_run_is_named_in_log_and_events() {
    rack("notify::a_script_that_cannot_be_run_is_named_in_log_and_events", || {
        let host = Host::new("n1", 11);
        scripts(&host, &["good", "plain", "open"]);
        host.sh("chmod 644 /run/s/plain; chmod 777 /run/s/open");
        host.write("/run/s/foreign", "#!/nowhere/sh\n");
        host.sh("chmod 755 /run/s/foreign");
        host.script("/run/s/fails", "echo it is broken >&2; exit 3");
        host.script("/run/s/hangs", "sleep 77 & sleep 78");
        let list: Vec<_> = ["none", "plain", "open", "foreign", "fails", "hangs", "good"]
            .iter()
            .map(|name| format!("\"/run/s/{name}\""))
            .collect();
        host.cluster(&pair(
            "checks = []",
            &format!("[notify]\nactive = [{}]\ntimeout = \"300ms\"\n", list.join(", ")),
        ));
        let _daemon = host.daemon("");
        until("the last script ran", || calls(&host).len() == 1);
        until("its end is logged", || host.log().contains("/run/s/good MASTER ran"));
        let log = host.log();
        let events = host.standin("events").out;
        for words in [
            "/run/s/none MASTER failed: ",
            "/run/s/plain MASTER failed: not run: /run/s/plain isn't executable",
            "/run/s/open MASTER failed: not run as root: /run/s/open (mode 0777",
            "/run/s/foreign MASTER failed: ",
            "/run/s/fails MASTER failed: exit status 3: it is broken",
            "/run/s/hangs MASTER failed: killed after 300 ms",
        ] {
            assert!(log.contains(words), "{words}:\n{log}");
            assert!(events.contains(words), "{words}:\n{events}");
        }
        assert!(!events.contains("/run/s/good"), "{events}");
        until("the whole group of the one that hung is gone", || {
            !host.sh("ps -eo args").contains("sleep 7")
        });
        assert_eq!(host.role("web"), "active");
    });
}

#[test]
fn scripts_run_as_the_user_of_the_file() {
    rack("notify::scripts_run_as_the_user_of_the_file", || {
        let host = Host::new("n1", 11);
        scripts(&host, &["any"]);
        host.sh("touch /run/told /run/told.env; chmod 666 /run/told /run/told.env");
        host.cluster(&pair("checks = []", "[notify]\nany = [\"/run/s/any\"]\nuser = \"nobody\"\n"));
        let mut daemon = host.daemon("");
        until("it was called", || {
            calls(&host).iter().any(|call| call.contains("MASTER 150 by nobody"))
        });
        daemon.stop();
        host.cluster(&pair(
            "checks = []",
            "[notify]\nany = [\"/run/s/any\"]\nuser = \"nosuchuser\"\n",
        ));
        let _daemon = host.daemon("");
        until("it is said", || host.log().contains("user nosuchuser: there is no such user"));
        host.until_role("web", "active");
    });
}

#[test]
fn a_slow_script_delays_no_takeover_and_a_stop_waits_for_its_script() {
    rack("notify::a_slow_script_delays_no_takeover_and_a_stop_waits_for_its_script", || {
        let (one, two) = (Host::new("n1", 11), Host::new("n2", 12));
        let scripts =
            "[notify]\nbackup = [\"/run/s/slow\"]\nstop = [\"/run/s/stop\"]\ntimeout = \"20s\"\n";
        for host in [&one, &two] {
            host.script("/run/s/slow", "sleep 2");
            // Longer than the daemon takes for the rest of its stop.
            host.script("/run/s/stop", &format!("sleep 5.3; echo stopped >> {TOLD}"));
            host.cluster(&pair("checks = []", scripts));
        }
        let mut first = one.daemon("");
        one.until_role("web", "active");
        let mut second = two.daemon("");
        until("n2 knows the holder", || field(&two.status(), "web", "holder") == "n1");
        let began = Instant::now();
        first.signal("TERM");
        until("the address moved", || two.has("192.0.2.41/24"));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert!(!one.has("192.0.2.41/24"), "its stop script is still running");
        assert_eq!(calls(&one).len(), 0);
        second.signal("TERM");
        assert_eq!(first.ended(), 0);
        assert_eq!(calls(&one), ["stopped"]);
        assert_eq!(second.ended(), 0);
        assert_eq!(calls(&two), ["stopped"]);
    });
}

#[test]
fn a_node_that_held_nothing_runs_its_stop_scripts_once() {
    rack("notify::a_node_that_held_nothing_runs_its_stop_scripts_once", || {
        let host = Host::new("n1", 11);
        scripts(&host, &["stop", "fault"]);
        host.cluster(&pair(
            "checks = []",
            "[notify]\nstop = [\"/run/s/stop\"]\nfault = [\"/run/s/fault\"]\n",
        ));
        let mut daemon = host.daemon("");
        host.until_role("web", "active");
        host.sh("ip link set eth0 down");
        until("the fault is told", || calls(&host).len() == 1);
        assert_eq!(daemon.stop(), 0);
        assert_eq!(
            calls(&host),
            ["fault INSTANCE web FAULT 150 by root", "stop INSTANCE web STOP 150 by root"]
        );
    });
}
