//! A new cluster file: all of it is taken, or nothing changes.

use std::thread::sleep;
use std::time::Duration;

use crate::command_line::memory_kb;
use crate::host::{Host, field, pair, rack, until};

const SECOND: &str =
    "[vip.mail]\nvirtual_router_id = 42\naddresses = [\"192.0.2.42/24\"]\nchecks = []\n";

#[test]
fn a_good_file_is_taken_and_a_vip_that_it_does_not_touch_stays() {
    rack("reload::a_good_file_is_taken_and_a_vip_that_it_does_not_touch_stays", || {
        let (host, witness) = (Host::new("n1", 11), Host::new("w", 13));
        let check = "[check.up]\ntype = \"file\"\npath = \"/run/up\"\ninterval = \"50ms\"\ntimeout = \"50ms\"\n";
        host.write("/run/up", "");
        let text =
            pair("checks = [\"up\"]\nadvert_interval = \"50ms\"", &format!("{check}\n{SECOND}"));
        host.cluster(&text);
        let mut daemon = host.daemon("");
        host.until_role("web", "active");
        host.until_role("mail", "active");
        let dump = witness.start("tcpdump -nlvi eth0 vrrp or arp", "/run/dump");
        let adverts = |needle: &str| witness.read("/run/dump").matches(needle).count();
        until("the witness hears adverts", || adverts("vrid 41, prio 150") > 3);
        // The announcements of the start are over.
        sleep(Duration::from_millis(300));
        let since = |name: &str| {
            host.events().iter().filter(|e| e["kind"] == "transition" && e["vip"] == name).count()
        };
        let before = since("web");
        let announced = adverts("192.0.2.41 tell 192.0.2.41") + adverts("192.0.2.41 is-at");

        // Another priority is advertised at once; SIGHUP does the same as the command.
        host.cluster(&text.replace("priority = 150", "priority = 133"));
        let said = host.standin("reload");
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.out.contains("taken"), "{said:?}");
        until("the new priority is advertised", || adverts("vrid 41, prio 133") > 0);
        host.cluster(&text.replace("priority = 150", "priority = 134"));
        daemon.signal("HUP");
        until("the new priority is advertised", || adverts("vrid 41, prio 134") > 0);

        // A VIP comes, one goes with a goodbye, one gets another interval.
        let third = SECOND.replace("mail", "ftp").replace("42", "43");
        let text =
            pair("checks = [\"up\"]\nadvert_interval = \"200ms\"", &format!("{check}\n{third}"));
        host.cluster(&text);
        assert_eq!(host.standin("reload").code, 0);
        host.until_role("ftp", "active");
        until("mail's address is gone", || !host.has("192.0.2.42/24"));
        until("mail says goodbye", || adverts("vrid 42, prio 0") > 0);
        assert!(host.has("192.0.2.43/24") && host.has("192.0.2.41/24"));
        until("the new interval is advertised", || adverts("intvl 20cs") > 2);

        let dump_text = witness.read("/run/dump");
        assert_eq!(since("web"), before, "the VIP that stayed made no transition");
        assert_eq!(adverts("vrid 41, prio 0"), 0, "{dump_text}");
        let again = adverts("192.0.2.41 tell 192.0.2.41") + adverts("192.0.2.41 is-at");
        assert_eq!(again, announced, "{dump_text}");
        drop(dump);

        // It may come later; a name that was mistyped takes the VIP away all the same.
        let typo = text.replace("router_id = 43", "router_id = 43\ninterface = \"eth9\"");
        host.cluster(&typo);
        let said = host.standin("reload");
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.out.contains("[vip.ftp] is on interface eth9"), "{said:?}");
        host.until_role("ftp", "idle");
        let status = host.standin("status");
        assert!(status.out.contains("waits until eth9 is there"), "{status:?}");
        assert!(daemon.lives());
    });
}

#[test]
fn a_bad_file_changes_nothing_and_is_explained() {
    rack("reload::a_bad_file_changes_nothing_and_is_explained", || {
        let host = Host::new("n1", 11);
        let good = pair("checks = []", "");
        host.cluster(&good);
        let mut daemon = host.daemon("");
        host.until_role("web", "active");
        let refused = |text: Option<&str>, words: &str| {
            host.sh("rm -rf /etc/standin/standin.toml");
            match text {
                Some(text) => host.cluster(text),
                None => _ = host.sh("mkdir /etc/standin/standin.toml"),
            }
            let said = host.standin("reload");
            assert_eq!(said.code, 3, "{words}: {said:?}");
            assert!(said.err.contains(words), "{words}: {said:?}");
            let status = host.status();
            assert!(
                status["file_error"].as_str().is_some_and(|error| error.contains(words)),
                "{status:#}"
            );
            assert_eq!(field(&status, "web", "role"), "active");
            assert_eq!(field(&status, "web", "priority"), 150);
            let page = host.standin("status").out;
            assert!(page.contains("an older one is in force") && page.contains(words), "{page}");
            assert!(host.log().contains(words), "{words}");
            let last = host.events().pop().unwrap();
            assert_eq!(last["kind"], "reload_refused", "{last}");
        };
        refused(
            Some(&good.replace("priority = 150", "prioritty = 150")),
            "unknown key `prioritty`",
        );
        refused(Some(&good.replace("n1]", "n9]")), "has no node n1");
        refused(Some("\0\0\u{fffd}"), "standin.toml:1:");
        refused(None, "Is a directory");
        let many = format!("{good}{}", "[vip.x]\nnonsense = 1\n".repeat(300));
        refused(Some(&many), "nonsense");
        host.sh("rmdir /etc/standin/standin.toml 2>/dev/null || rm /etc/standin/standin.toml");
        daemon.signal("HUP");
        until("a file that has gone is noticed", || {
            host.status()["file_error"].as_str().is_some_and(|error| error.contains("No such file"))
        });
        assert!(daemon.lives());
        host.cluster(&good);
        assert_eq!(host.standin("reload").code, 0);
        assert!(host.status()["file_error"].is_null());
    });
}

#[test]
fn two_hundred_reloads_keep_the_vip_and_the_memory() {
    rack("reload::two_hundred_reloads_keep_the_vip_and_the_memory", || {
        let host = Host::new("n1", 11);
        let check = "[check.up]\ntype = \"script\"\ncommand = [\"/bin/true\"]\n[notify]\nany = [\"/bin/true\"]\n";
        let text = pair("checks = [\"up\"]", check);
        host.cluster(&text);
        let daemon = host.daemon("");
        host.until_role("web", "active");
        let round = |count: u32| {
            for number in 0..count {
                host.cluster(
                    &text.replace("priority = 150", &format!("priority = {}", 101 + number % 100)),
                );
                assert_eq!(host.standin("reload").code, 0);
            }
        };
        round(40);
        let (before, files) = (memory_kb(daemon.pid), descriptors(daemon.pid) + 2);
        let transitions =
            host.events().iter().filter(|event| event["kind"] == "transition").count();
        round(160);
        let after = memory_kb(daemon.pid);
        assert!(after < before + 1024, "{before} kB after 40 reloads, {after} kB after 200");
        // A script that is running has some.
        until("no more descriptors than before", || descriptors(daemon.pid) <= files);
        let again = host.events().iter().filter(|event| event["kind"] == "transition").count();
        assert_eq!(transitions, again);
        assert_eq!(host.role("web"), "active");
    });
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
