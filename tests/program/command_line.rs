//! Exit codes, help, the API, and what a person reads.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::host::{Host, field, pair, rack, until};

const SOCKET: &str = "/run/standin/standin.sock";

#[test]
fn each_way_to_fail_has_its_exit_code() {
    rack("command_line::each_way_to_fail_has_its_exit_code", || {
        let host = Host::new("n1", 11);
        host.cluster(&pair("checks = []", ""));
        for words in ["status", "events", "maintenance on", "reload"] {
            let said = host.standin(words);
            assert_eq!(said.code, 5, "{words}: {said:?}");
            assert!(said.err.contains("systemctl status standin"), "{words}: {said:?}");
        }
        for words in [
            "nonsense",
            "maintenance",
            "maintenance on --for 5",
            "maintenance on --for 0s",
            "maintenance on --for 99999h",
            "maintenance off --for 5m",
            "maintenance off --now",
            "status --nonsense",
            "drill --only nonsense",
            "adopt 192.168.1.41 --await-vacant --every 1ms",
            "adopt 192.168.1.41 --await-vacant --every 11s",
            "init -f /etc/standin/other.toml",
            "drill live web --port 0",
        ] {
            assert_eq!(host.standin(words).code, 2, "{words}");
        }
        for words in ["apply cluster /none.toml", "lab /none.toml", "check /none.toml"] {
            let missing = host.standin(words);
            assert_eq!(missing.code, 3, "{words}: {missing:?}");
        }
        host.sh("printf '\\377' > /etc/standin/bytes.toml");
        for words in ["apply cluster /etc/standin/bytes.toml", "check --file-only --node n7"] {
            let said = host.standin(words);
            assert_eq!(said.code, 3, "{words}: {said:?}");
        }
        // What has no end is no cluster file.
        for words in [
            "lab /dev/zero",
            "run -f /dev/zero",
            "check --file-only /dev/zero",
            "apply cluster /dev/zero",
        ] {
            let said = host.standin(words);
            assert_eq!(said.code, 3, "{words}: {said:?}");
            assert!(format!("{said:?}").contains("more than 1048576 bytes"), "{words}: {said:?}");
        }
        let missing = host.standin("run -f /etc/standin/none.toml");
        assert_eq!(missing.code, 3, "{missing:?}");
        host.write("/etc/standin/bad.toml", "cluster = \"edge\"\nnodes = 3\n");
        let bad = host.standin("run -f /etc/standin/bad.toml");
        assert_eq!(bad.code, 3, "{bad:?}");
        assert!(bad.err.contains("/etc/standin/bad.toml:2:1"), "{bad:?}");

        let mut daemon = host.daemon("");
        assert_eq!(host.standin("status").code, 0);
        let second = host.standin("run");
        assert_eq!(second.code, 6, "{second:?}");
        assert!(second.err.contains("/run/standin/lock"), "{second:?}");
        host.write("/etc/standin/standin.toml", "cluster = \"edge\"\nnodes = 3\n");
        let refused = host.standin("reload");
        assert_eq!(refused.code, 3, "{refused:?}");
        assert!(daemon.lives());
        assert_eq!(daemon.stop(), 0, "{}", host.log());

        let bare = host.sh(&format!(
            "setpriv --bounding-set=-net_admin --inh-caps=-net_admin {} run || echo code $?",
            crate::host::STANDIN
        ));
        assert!(bare.contains("code 4"), "{bare}");
    });
}

#[test]
fn a_daemon_that_is_stuck_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let _silent = UnixListener::bind(dir.path().join("standin.sock")).unwrap();
    let began = Instant::now();
    let ask = |words: &[&str]| {
        let mut command = std::process::Command::new(crate::host::STANDIN);
        command.args(words).arg("--run-dir").arg(dir.path()).output().unwrap()
    };
    let of = format!("the daemon (pid {}) has answered nothing for 4 s", std::process::id());
    for words in [&["status"][..], &["switchover", "web"], &["maintenance", "on"]] {
        let said = ask(words);
        assert_eq!(said.status.code(), Some(5), "{words:?}: {said:?}");
        let said = String::from_utf8(said.stderr).unwrap();
        assert!(said.contains(&of), "{words:?}: {said}");
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

/// At night nobody wants to add eight hours.
#[test]
fn times_for_people_are_in_the_zone_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let drill = r#"{"at":"2026-11-22T16:48:01.687Z","cluster":"edge","vip":"web",
        "measured_from":"n3","every_ms":10.0,"good":true,"moves":[]}"#;
    fs::write(dir.path().join("drills.jsonl"), drill.replace('\n', "")).unwrap();
    let shown = |zone: &str| {
        let mut command = std::process::Command::new(crate::host::STANDIN);
        command.args(["drill", "history", "--state-dir"]).arg(dir.path()).env("TZ", zone);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(shown("UTC").starts_with("2026-11-22 16:48:01.687  web"), "{}", shown("UTC"));
    let mut zones = vec!["CST-8"];
    if fs::exists("/usr/share/zoneinfo/Asia/Shanghai").unwrap() {
        zones.push("Asia/Shanghai");
    }
    for zone in zones {
        assert!(shown(zone).starts_with("2026-11-23 00:48:01.687  web"), "{}", shown(zone));
    }
}

/// What `standin WORDS --help` prints.
fn help(words: &str) -> String {
    let mut command = std::process::Command::new(crate::host::STANDIN);
    let output = command.args(words.split_whitespace()).arg("--help").output().unwrap();
    assert!(output.status.success(), "{words}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that a help page lists.
fn commands(page: &str) -> Vec<String> {
    let list = page.split("Commands:\n").nth(1).unwrap_or_default();
    let list = list.split("\n\n").next().unwrap_or_default();
    // What goes on below a command is further in.
    let named = |line: &str| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned);
    list.lines().filter_map(named).filter(|name| !name.is_empty()).collect()
}

#[test]
fn the_help_of_every_command_has_an_example() {
    let top = help("");
    assert!(top.contains("Exit codes: 0 done"), "{top}");
    let commands = commands(&top);
    assert!(commands.len() >= 6, "{commands:?}");
    for command in commands {
        let page = help(&command);
        let example = format!("standin {command}");
        let after = page.split("Example").nth(1).unwrap_or_default();
        assert!(after.contains(&example), "{command} has no example:\n{page}");
    }
}

/// Whoever reads for a program finds `--json` on every command that says anything.
#[test]
fn every_command_speaks_to_programs_too() {
    // They end when somebody stops them, are somebody else's words, or say nothing but whether it went well.
    const DUMB: [&str; 8] = [
        "run",
        "lab shell",
        "lab kill",
        "lab hang",
        "lab cut",
        "lab heal",
        "lab start",
        "lab down",
    ];
    let mut open = commands(&help(""));
    let mut seen = 0;
    while let Some(words) = open.pop() {
        let page = help(&words);
        let inner = commands(&page);
        // `sync` alone does nothing.
        let speaks = page.contains("--json") || (words == "sync" && !inner.is_empty());
        assert_eq!(speaks, !DUMB.contains(&words.as_str()), "{words}:\n{page}");
        open.extend(inner.iter().filter(|it| *it != "help").map(|it| format!("{words} {it}")));
        seen += 1;
    }
    assert!(seen > 30, "{seen} commands only");
}

#[test]
fn status_and_events_tell_people_and_programs_the_same() {
    rack("command_line::status_and_events_tell_people_and_programs_the_same", || {
        let host = Host::new("n1", 11);
        host.cluster(&pair(
            "checks = [\"gw\"]",
            "[check.gw]\ntype = \"file\"\npath = \"/run/up\"\n",
        ));
        host.write("/run/up", "");
        let mut daemon = host.daemon("");
        host.until_role("web", "active");
        let page = host.standin("status").out;
        for words in ["edge · node n1", "192.0.2.41/24", "held by    this node", "gw", "passing"] {
            assert!(page.contains(words), "{words}:\n{page}");
        }
        let status = host.status();
        for (name, wanted) in [("role", "active"), ("holder", "n1"), ("standing", "eligible")] {
            assert_eq!(field(&status, "web", name), wanted, "{status:#}");
        }
        assert_eq!(field(&status, "web", "effective_priority"), 150);
        assert_eq!(status["checks"][0]["state"], "passing");
        assert_eq!(status["peers"][0]["name"], "n2");
        assert!(status["engine_beat_ms"].as_u64().unwrap() < 2000);

        let events = host.events();
        let last = events.last().unwrap();
        assert_eq!(last["kind"], "transition");
        assert_eq!((&last["from"], &last["to"]), (&"backup".into(), &"active".into()));
        assert!(last["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
        let lines = host.standin("events").out;
        assert_eq!(lines.lines().count(), events.len());
        assert!(lines.contains("backup -> active: "), "{lines}");
        assert_eq!(host.standin("events -n 1").out.lines().count(), 1);

        let mut follow =
            host.start(&format!("{} events --follow", crate::host::STANDIN), "/run/follow");
        until("the past is printed", || host.read("/run/follow").contains("backup -> active"));
        host.sh("rm /run/up");
        until("the live event is printed", || host.read("/run/follow").contains("/run/up"));
        daemon.stop();
        assert_eq!(follow.ended(), 5);
        assert!(host.read("/run/follow").ends_with("error: the daemon has gone\n"));

        // The history outlives the daemon, and the numbers go on.
        let kept = host.standin("events");
        assert_eq!(kept.code, 0, "{kept:?}");
        assert!(kept.out.contains("/run/up"), "{kept:?}");
        assert!(kept.err.contains("/var/lib/standin/events.jsonl: no standin answers"), "{kept:?}");
        assert_eq!(host.standin("events -n 1 --json").out.lines().count(), 1);
        let follow = host.standin("events --follow");
        assert!(follow.code == 5 && follow.out == kept.out, "{follow:?}");
        let _again = host.daemon("");
        let numbers: Vec<_> =
            host.events().iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        assert!(numbers.len() > events.len());
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    });
}

#[test]
fn maintenance_gives_the_vip_away_and_ends_by_itself() {
    rack("command_line::maintenance_gives_the_vip_away_and_ends_by_itself", || {
        let (one, two) = (Host::new("n1", 11), Host::new("n2", 12));
        let text = pair("checks = []", "");
        one.cluster(&text);
        two.cluster(&text);
        let _first = one.daemon("");
        one.until_role("web", "active");
        let _second = two.daemon("");
        until("n2 knows that n1 holds it", || field(&two.status(), "web", "holder") == "n1");
        let began = Instant::now();
        let said = one.standin("maintenance on --for 2s");
        assert_eq!(said.code, 0, "{said:?}");
        two.until_role("web", "active");
        until("the address has moved", || two.has("192.0.2.41/24") && !one.has("192.0.2.41/24"));
        let page = one.standin("status").out;
        assert!(page.contains("maintenance"), "{page}");
        assert!(page.contains("held by    n2"), "{page}");
        until("maintenance is over", || one.status()["maintenance"].is_null());
        let lasted = began.elapsed();
        assert!(lasted >= Duration::from_millis(1900), "{lasted:?}");
        assert!(lasted < Duration::from_secs(6), "{lasted:?}");
        assert_eq!(one.role("web"), "backup", "failback is \"never\"");
        let log = one.log();
        assert!(log.contains("maintenance on for 2 s, asked by uid 0"), "{log}");
        let told = |kind: &str, words: &str| {
            let has = |event: &serde_json::Value| {
                event["kind"] == kind && event["text"].as_str().is_some_and(|it| it.contains(words))
            };
            assert!(one.events().iter().any(has), "{kind}: {:?}", one.events());
        };
        told("maintenance_order", "maintenance on for 2 s, asked by uid 0");
        assert_eq!(one.standin("reload").code, 0);
        told("reload_order", "was read again and taken (asked by uid 0");
        assert_eq!(one.standin("approve --list --json").out.trim(), "[]");

        // Less than a second is no longer than was asked, and not for ever.
        assert_eq!(two.standin("maintenance on --for 700ms").code, 0);
        until("maintenance is over", || two.status()["maintenance"].is_null());
        assert_eq!(two.standin("maintenance on").code, 0);
        one.until_role("web", "active");
        assert_eq!(two.standin("maintenance off").code, 0);
        until("maintenance is off", || two.status()["maintenance"].is_null());
    });
}

#[test]
fn the_api_answers_curl_and_gives_orders_only_over_the_socket() {
    rack("command_line::the_api_answers_curl_and_gives_orders_only_over_the_socket", || {
        let host = Host::new("n1", 11);
        host.cluster(&pair("checks = []", "[api]\nlisten = \"127.0.0.1:8413\""));
        let _daemon = host.daemon("");
        let mode = fs::metadata(host.path(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let curl = |more: &str| host.sh(&format!("curl -sS -m 5 -w ' %{{http_code}}' {more}"));
        let local = format!("--unix-socket {SOCKET}");
        for place in [format!("{local} http://standin"), "http://127.0.0.1:8413".to_owned()] {
            let answer = curl(&format!("{place}/v1/status"));
            assert!(
                answer.contains("\"cluster\":\"edge\"") && answer.ends_with(" 200"),
                "{answer}"
            );
            let answer = curl(
                &format!("'{place}/v1/events?after=0'")
                    .replace("'--", "--")
                    .replace(" http", " 'http"),
            );
            assert!(answer.ends_with(" 200"), "{answer}");
        }
        let order = "-H 'Content-Type: application/json' -d '{\"on\": true}'";
        for path in ["maintenance", "reload"] {
            let answer = curl(&format!("{order} http://127.0.0.1:8413/v1/{path}"));
            assert!(answer.ends_with(" 404") || answer.ends_with(" 405"), "{path}: {answer}");
        }
        assert!(host.status()["maintenance"].is_null());
        // A reload moves it.
        host.cluster(&pair("checks = []", "[api]\nlisten = \"127.0.0.1:8414\""));
        assert_eq!(host.standin("reload").code, 0);
        assert!(curl("http://127.0.0.1:8414/v1/status").ends_with(" 200"));
        let refused = host.sh("curl -sS http://127.0.0.1:8413/v1/status 2>&1 || true");
        assert!(refused.contains("refused") || refused.contains("connect"), "{refused}");
        let answer = curl(&format!("{local} {order} http://standin/v1/maintenance"));
        assert!(answer.ends_with(" 200"), "{answer}");
        assert!(!host.status()["maintenance"].is_null());
        let answer = curl(&format!("{local} http://standin/nonsense"));
        assert!(answer.contains("error") && answer.ends_with(" 404"), "{answer}");
        for body in [
            "{",
            "{\"on\": 7}",
            "{\"on\": true, \"for_s\": -1}",
            "{\"on\": true, \"for_s\": 1e300}",
        ] {
            let answer = curl(&format!(
                "{local} -H 'Content-Type: application/json' -d '{body}' http://standin/v1/maintenance"
            ));
            let code: u32 = answer.rsplit(' ').next().unwrap().parse().unwrap();
            assert!((400..500).contains(&code), "{body}: {answer}");
            assert!(answer.starts_with("{\"error\":\""), "{body}: {answer}");
        }
        let answer = curl(&format!("-i {local} http://standin/v1/reload"));
        assert!(answer.contains("allow: POST") && answer.contains("{\"error\":\"405"), "{answer}");
    });
}

#[test]
fn garbage_and_a_follower_that_stalls_harm_nobody() {
    rack("command_line::garbage_and_a_follower_that_stalls_harm_nobody", || {
        let host = Host::new("n1", 11);
        host.cluster(&pair("checks = []", ""));
        let mut daemon = host.daemon("");
        host.until_role("web", "active");
        let path = host.path(SOCKET);
        let mut stalled: Vec<_> = (0..20).map(|_| UnixStream::connect(&path).unwrap()).collect();
        for one in &mut stalled {
            one.write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        }
        let mut garbage = UnixStream::connect(&path).unwrap();
        garbage.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut word = 0x9e37_79b9_u32;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            word.to_be_bytes()[0]
        })
        .take(1 << 20)
        .collect();
        // It may hang up in the middle.
        let _ = garbage.write_all(&bytes);
        let mut long = UnixStream::connect(&path).unwrap();
        long.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = long.write_all(
            b"POST /v1/maintenance HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
            content-length: 1000000000\r\n\r\n",
        );
        let _ = long.write_all(&vec![b'['; 1 << 22]);

        // 200 commands make 400 events behind the stalled followers' backs.
        let resident = || memory_kb(daemon.pid);
        let before = resident();
        for _ in 0..100 {
            host.standin("maintenance on");
            host.standin("maintenance off");
        }
        let after = resident();
        assert!(after < before + 8 * 1024, "{before} kB, then {after} kB");
        host.until_role("web", "active");
        let mut answer = String::new();
        let mut fresh = UnixStream::connect(&path).unwrap();
        fresh
            .write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        fresh.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let began = Instant::now();
        assert_eq!(daemon.stop(), 0);
        assert!(began.elapsed() < Duration::from_secs(3), "followers held up the stop");
        drop(stalled);
    });
}

pub(crate) fn memory_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn somebody_outside_the_group_is_told_so() {
    rack("command_line::somebody_outside_the_group_is_told_so", || {
        let host = Host::new("n1", 11);
        host.cluster(&pair("checks = []", ""));
        let _daemon = host.daemon("");
        host.sh(&format!(
            "cp {} /run/standin-copy; chmod 755 /run/standin-copy",
            crate::host::STANDIN
        ));
        let said = host.sh("setpriv --reuid 65534 --regid 65534 --clear-groups /run/standin-copy status 2>&1 || echo code $?");
        assert!(said.contains("group standin"), "{said}");
    });
}
