//! Checks against the real thing: processes, servers, interfaces of a host of the test's own.

use std::time::{Duration, Instant};

use standin_core::Verdict;

use super::space::{checks, on_a_host, sh, write};

async fn wait_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// A script that root may run: not in a folder of /tmp.
fn script(name: &str, text: &str) -> String {
    let path = format!("/usr/local/{name}");
    write(&path, text);
    sh(&format!("chmod 755 {path}"));
    path
}

#[test]
fn a_script_that_hangs_is_killed_with_its_children() {
    on_a_host("checks::tests::a_script_that_hangs_is_killed_with_its_children", || async {
        let path =
            script("hang", "#!/bin/sh\necho before\nsleep 1234 &\nsh -c 'sleep 1234; true'\n");
        let watching = checks(&format!(
            "[check.s]\ntype = \"script\"\ncommand = [\"{path}\"]\ninterval = \"300ms\"\ntimeout = \"250ms\""
        ));
        let start = Instant::now();
        let (at, report) = watching.next(Verdict::Fail).await;
        assert_eq!(report.detail, "killed after 250 ms: before");
        assert!(at.duration_since(start) < Duration::from_millis(600));
        assert_eq!(watching.running.live()[0].output, "before\n");
        drop(watching);
        wait_ms(100).await;
        let left = sh("ps -o pid=,stat=,args= -C sleep | grep -v Z || true");
        assert_eq!(left, "", "left running");
    });
}

#[test]
fn a_script_on_a_disk_that_hangs_fails_and_keeps_no_other_check() {
    let name = "checks::tests::a_script_on_a_disk_that_hangs_fails_and_keeps_no_other_check";
    on_a_host(name, || async {
        let path = script("hung", "#!/bin/sh\ntouch /run/ran\n");
        // Whoever opens it waits for a word of this one, which never comes (fanotify(7)).
        let holds = "import ctypes,os,sys,time; c=ctypes.CDLL(None); f=c.fanotify_init(4,os.O_RDONLY); \
                     c.fanotify_mark(f,1,ctypes.c_uint64(0x50000),-100,sys.argv[1].encode()); \
                     open('/run/held','w').close(); time.sleep(5)";
        let mut holder = std::process::Command::new("python3");
        let mut holder = holder.args(["-c", holds, &path]).spawn().unwrap();
        while !std::path::Path::new("/run/held").exists() {
            wait_ms(5).await;
        }
        let watching = checks(&format!(
            "[check.s]\ntype = \"script\"\ncommand = [\"{path}\"]\ninterval = \"200ms\"\ntimeout = \"150ms\"\n\
             [check.f]\ntype = \"file\"\npath = \"/run/held\"\ninterval = \"50ms\"\ntimeout = \"50ms\""
        ));
        let start = Instant::now();
        let (_, report) = watching.next(Verdict::Fail).await;
        let words = "/usr/local/hung: not started within 150 ms; does its file system hang?";
        assert_eq!(report.detail, format!("not run: {words}"));
        wait_ms(1_500).await;
        let says = &watching.running.live()[0].detail;
        assert!(says.contains("earlier starts have not come back"), "{says}");
        let looked = watching.since(0).into_iter().filter(|(_, it)| it.check.0 == 1).count();
        assert!(start.elapsed() < Duration::from_secs(4) && looked > 15, "{looked} looks");
        holder.kill().unwrap();
        holder.wait().unwrap();
        // What comes back late was given up, and another one runs.
        watching.until(watching.count(), |it| it.check.0 == 0 && it.verdict == Verdict::Pass).await;
    });
}

#[test]
fn a_script_tells_by_its_exit_status_and_what_it_said_is_kept() {
    on_a_host(
        "checks::tests::a_script_tells_by_its_exit_status_and_what_it_said_is_kept",
        || async {
            let path = script(
                "tell",
                "#!/bin/sh\necho \"$1 $HOME\"\nexec sh -c 'echo of $0 >&2; exit '$2 \"$(id -un)\"\n",
            );
            let watching = checks(&format!(
                "[check.good]\ntype = \"script\"\ncommand = [\"{path}\", \"$(x) ;\", \"0\"]\nuser = \"nobody\"\n\
             [check.bad]\ntype = \"script\"\ncommand = [\"{path}\", \"y\", \"3\"]"
            ));
            let (_, report) = watching.next(Verdict::Pass).await;
            assert_eq!(report.detail, "exit status 0: $(x) ;  of nobody");
            let (_, report) = watching.next(Verdict::Fail).await;
            assert_eq!(report.detail, "exit status 3: y  of root");
        },
    );
}

#[test]
fn a_script_that_says_much_is_no_burden() {
    on_a_host("checks::tests::a_script_that_says_much_is_no_burden", || async {
        let path = script("loud", "#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x\necho end\n");
        let watching = checks(&format!(
            "[check.s]\ntype = \"script\"\ncommand = [\"{path}\"]\ninterval = \"1s\"\ntimeout = \"1s\""
        ));
        let (_, report) = watching.next(Verdict::Pass).await;
        assert!(report.detail.len() <= 300 && report.detail.ends_with("xend"), "{report:?}");
        assert!(watching.running.live()[0].output.len() <= 4096);
    });
}

#[test]
fn root_runs_no_script_from_a_folder_that_everybody_can_write() {
    on_a_host(
        "checks::tests::root_runs_no_script_from_a_folder_that_everybody_can_write",
        || async {
            sh("mkdir -m 777 /usr/local/open");
            let path = script("open/check", "#!/bin/sh\ntouch /run/it-ran\n");
            let section =
                |user| format!("[check.s]\ntype = \"script\"\ncommand = [\"{path}\"]\n{user}");
            let watching = checks(&section(""));
            let (_, report) = watching.next(Verdict::Fail).await;
            assert!(
                report.detail.contains("/usr/local/open (mode 0777, owner uid 0"),
                "{report:?}"
            );
            assert!(!std::path::Path::new("/run/it-ran").exists());
            sh("chmod 777 /run");
            let watching = checks(&section("user = \"nobody\""));
            watching.next(Verdict::Pass).await;
            assert_eq!(sh("stat -c %U /run/it-ran"), "nobody");
        },
    );
}

#[test]
fn a_process_is_followed_by_its_pid_file_and_its_death_said_at_once() {
    on_a_host(
        "checks::tests::a_process_is_followed_by_its_pid_file_and_its_death_said_at_once",
        || async {
            let watching = checks(
                "[check.p]\ntype = \"process\"\npidfile = \"/run/x.pid\"\n\
            [check.n]\ntype = \"process\"\nname = \"sleep\"",
            );
            let (_, report) = watching.next(Verdict::Fail).await;
            assert!(
                report.detail.contains("there is no pid file /run/x.pid")
                    || report.detail.contains("no process is called"),
                "{report:?}"
            );
            sh("sleep 1000 >/dev/null 2>&1 & echo $! > /run/x.pid");
            let by_file = |verdict| {
                move |report: &super::Report| report.check.0 == 0 && report.verdict == verdict
            };
            let by_name = |verdict| {
                move |report: &super::Report| report.check.0 == 1 && report.verdict == verdict
            };
            watching.until(watching.count(), by_file(Verdict::Pass)).await;
            watching.until(watching.count(), by_name(Verdict::Pass)).await;
            let seen = watching.count();
            let killed = Instant::now();
            standin_linux::spawn::kill(sh("cat /run/x.pid").parse().unwrap(), 9).unwrap();
            for wanted in [0, 1] {
                let dead = |report: &super::Report| {
                    report.check.0 == wanted && report.verdict == Verdict::Dead
                };
                let (at, _) = watching.until(seen, dead).await;
                assert!(
                    at.duration_since(killed) < Duration::from_millis(50),
                    "{:?}",
                    at.duration_since(killed)
                );
            }
        },
    );
}

#[test]
fn probes_start_on_schedule_however_slow_the_answers_are() {
    on_a_host("checks::tests::probes_start_on_schedule_however_slow_the_answers_are", || async {
        // Takes connections and never answers.
        let deaf = std::net::TcpListener::bind("127.0.0.1:8090").unwrap();
        let watching = checks(
            "[check.h]\ntype = \"http\"\nurl = \"http://127.0.0.1:8090/\"\n\
            interval = \"100ms\"\ntimeout = \"190ms\"\n\
            [check.t]\ntype = \"tcp\"\naddress = \"127.0.0.1:8090\"\n\
            [check.u]\ntype = \"tcp\"\naddress = \"127.0.0.1:8091\"",
        );
        let start = Instant::now();
        let is = |check, verdict| {
            move |report: &super::Report| report.check.0 == check && report.verdict == verdict
        };
        watching.until(0, is(1, Verdict::Pass)).await;
        let (_, refused) = watching.until(0, is(2, Verdict::Fail)).await;
        assert!(refused.detail.contains("refused"), "{refused:?}");
        wait_ms(2000).await;
        let slow: Vec<_> = watching.since(0).into_iter().filter(|it| it.1.check.0 == 0).collect();
        let expected = start.elapsed().as_millis() / 100;
        assert!(
            slow.len() as u128 + 4 >= expected,
            "{} of {expected} in {:?}",
            slow.len(),
            start.elapsed()
        );
        for (_, report) in slow {
            assert_eq!(report.verdict, Verdict::Fail);
            assert_eq!(
                report.detail,
                "http://127.0.0.1:8090/: connected, but no answer within 190 ms"
            );
        }
        let took = watching.running.live()[0].took;
        assert!(took < Duration::from_millis(250), "{took:?}");
        drop(deaf);
    });
}

#[test]
fn an_http_check_wants_its_status_its_host_and_its_text() {
    on_a_host("checks::tests::an_http_check_wants_its_status_its_host_and_its_text", || async {
        write(
            "/etc/nginx/nginx.conf",
            "user root; pid /run/nginx.pid; error_log /var/log/nginx/e.log; events { }\nhttp { access_log off; \
             server { listen 192.0.2.11:80; server_name a.test; location / { return 200 \"all is well\"; } }\n\
             server { listen 192.0.2.11:80; server_name b.test; return 302 http://nowhere.invalid/; } }\n",
        );
        sh("/usr/sbin/nginx");
        let url = "type = \"http\"\nurl = \"http://192.0.2.11/\"\n";
        let watching = checks(&format!(
            "[check.a]\n{url}body = \"is well\"\n\
             [check.b]\n{url}host = \"b.test\"\n\
             [check.c]\n{url}host = \"b.test\"\nstatus = [200, 204]\n\
             [check.d]\n{url}body = \"not there\""
        ));
        wait_ms(900).await;
        let says = |check: usize| watching.running.live()[check].detail.clone();
        assert_eq!(says(0), "http://192.0.2.11/: status 200, body has \"is well\"");
        assert_eq!(
            says(1),
            "http://192.0.2.11/: status 302",
            "a redirect is an answer, not an order"
        );
        assert_eq!(says(2), "http://192.0.2.11/: status 302, wanted 200 or 204");
        assert!(says(3).contains("\"not there\" is not in the first 65536 bytes"), "{}", says(3));
        let live = watching.running.live();
        assert!(live[3].runs >= 1 && live[3].runs == live[3].failures, "{live:#?}");
        assert!(live[0].runs >= 1 && live[0].failures == 0);
    });
}

#[test]
fn the_host_and_its_neighbours_are_looked_at() {
    on_a_host("checks::tests::the_host_and_its_neighbours_are_looked_at", || async {
        sh("ip route add default via 192.0.2.1; ip -6 route add default via fd00::1");
        let watching = checks(
            "[check.p4]\ntype = \"ping\"\nto = \"192.0.2.11\"\n[check.p6]\ntype = \"ping\"\nto = \"fd00::11\"\n\
             [check.far]\ntype = \"ping\"\nto = \"192.0.2.1\"\ntimeout = \"200ms\"\n\
             [check.if]\ntype = \"interface\"\nname = \"eth0\"\n\
             [check.r4]\ntype = \"route\"\nto = \"default\"\nvia = \"192.0.2.1\"\n\
             [check.r6]\ntype = \"route\"\nto = \"default\"\nvia = \"fd00::1\"\n\
             [check.net]\ntype = \"route\"\nto = \"192.0.2.0/24\"\n\
             [check.wrong]\ntype = \"route\"\nto = \"default\"\nvia = \"192.0.2.9\"\n\
             [check.file]\ntype = \"file\"\npath = \"/run/ready\"",
        );
        wait_ms(1200).await;
        let says = |name: &str| {
            let live = watching.running.live();
            let check = live.into_iter().find(|check| check.name == name).unwrap();
            (check.verdict == Some(Verdict::Pass), check.detail)
        };
        for good in ["p4", "p6", "if", "r4", "r6", "net"] {
            assert!(says(good).0, "{good}: {:?}", says(good));
        }
        assert_eq!(says("far"), (false, "no answer within 200 ms".to_owned()));
        assert_eq!(
            says("wrong").1,
            "route 0.0.0.0/0 goes via 192.0.2.1 dev eth0, not via 192.0.2.9"
        );
        assert_eq!(says("file").1, "/run/ready doesn't exist");
        sh("touch /run/ready; ip link set other down");
        wait_ms(1200).await;
        assert!(says("file").0);
        assert_eq!(says("if").1, "interface eth0 has no carrier");
        sh("ip link set eth0 down");
        wait_ms(700).await;
        assert_eq!(says("if").1, "interface eth0 is down");
    });
}
