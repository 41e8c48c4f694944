//! A real nginx on a host of its own: killed, hung, upgraded, hidden, and bound to a VIP elsewhere.

use std::time::{Duration, Instant};

use standin_core::Verdict;

use super::NginxView;
use crate::checks::space::{Watching, checks, checks_after, on_a_host, sh, write};

const SECTION: &str = "[nginx]";

/// A configuration with these `listen`s.
fn conf(pid: &str, listens: &[&str]) -> String {
    let listens: String = listens.iter().map(|listen| format!("listen {listen}; ")).collect();
    format!(
        "user root; worker_processes 2; pid {pid}; error_log /var/log/nginx/error.log;\n\
         events {{ }}\nhttp {{ access_log off; server {{ {listens} return 444; }} }}\n"
    )
}

fn debian(listens: &[&str]) {
    write("/etc/nginx/nginx.conf", &conf("/run/nginx.pid", listens));
    sh("/usr/sbin/nginx");
}

fn master() -> u32 {
    sh("cat /run/nginx.pid").parse().unwrap()
}

async fn wait_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn view(watching: &Watching) -> NginxView {
    watching.running.nginx().unwrap()
}

#[test]
fn an_nginx_that_no_vip_depends_on_is_known_all_the_same() {
    on_a_host("nginx::tests::an_nginx_that_no_vip_depends_on_is_known_all_the_same", || async {
        debian(&["80"]);
        let watching = checks("[nginx] # of no VIP");
        for _ in 0..10_000 {
            if view(&watching).master.is_some() {
                break;
            }
            wait_ms(1).await;
        }
        assert_eq!(view(&watching).master, Some(master()));
        assert_eq!(view(&watching).conf.as_deref(), Some("/etc/nginx/nginx.conf".as_ref()));
        wait_ms(600).await;
        assert_eq!(watching.count(), 0, "it is nobody's check");
        assert!(watching.running.live().is_empty());
    });
}

#[test]
fn a_reload_of_the_cluster_file_forgets_no_nginx() {
    on_a_host("nginx::tests::a_reload_of_the_cluster_file_forgets_no_nginx", || async {
        debian(&["80"]);
        let watching = checks(SECTION);
        watching.next(Verdict::Pass).await;
        let reloaded = checks_after(Some(&watching), SECTION);
        assert_eq!(view(&reloaded).master, Some(master()), "before it has been looked for again");
        // What has ended meanwhile is found out as at a start.
        standin_linux::spawn::kill(master(), 9).unwrap();
        let again = checks_after(Some(&reloaded), SECTION);
        again.next(Verdict::Fail).await;
        assert_eq!(view(&again).master, None);
    });
}

#[test]
fn a_killed_master_is_reported_dead_at_once_with_its_orphans() {
    on_a_host(
        "nginx::tests::a_killed_master_is_reported_dead_at_once_with_its_orphans",
        || async {
            debian(&["80"]);
            let watching = checks(SECTION);
            watching.next(Verdict::Pass).await;
            let mut delays = Vec::new();
            for _ in 0..20 {
                watching.next(Verdict::Pass).await;
                while view(&watching).workers.len() != 2 {
                    wait_ms(5).await;
                }
                let before = view(&watching);
                assert_eq!(before.master, Some(master()));
                let seen = watching.count();
                let killed = Instant::now();
                standin_linux::spawn::kill(master(), 9).unwrap();
                let (at, report) =
                    watching.until(seen, |report| report.verdict == Verdict::Dead).await;
                delays.push(at.duration_since(killed));
                assert!(
                    report.detail.contains("its workers still answer (orphans, pid"),
                    "{report:?}"
                );
                assert_eq!(view(&watching).orphans, before.workers);
                let (_, next) = watching.next(Verdict::Fail).await;
                assert!(
                    next.detail
                        .contains("mend: end the orphans, then systemctl enable --now nginx"),
                    "{next:?}"
                );
                for orphan in before.workers {
                    standin_linux::spawn::kill(orphan, 9).unwrap();
                }
                sh("rm -f /run/nginx.pid; until /usr/sbin/nginx 2>/dev/null; do sleep 0.01; done");
            }
            delays.sort_unstable();
            println!("SIGKILL to report: median {:?}, worst {:?}", delays[10], delays[19]);
            // 2 ms on a machine at rest, most of it the kernel's; this one may be building something.
            assert!(delays[10] < Duration::from_millis(25), "{delays:?}");
            assert!(delays[19] < Duration::from_millis(100), "{delays:?}");
        },
    );
}

#[test]
fn a_stopped_nginx_fails_twice_within_a_second() {
    on_a_host("nginx::tests::a_stopped_nginx_fails_twice_within_a_second", || async {
        debian(&["80"]);
        let watching = checks(SECTION);
        watching.next(Verdict::Pass).await;
        let seen = watching.count();
        let stopped = Instant::now();
        sh("kill -STOP $(ps -o pid= -C nginx)");
        let mut failures = 0;
        let second = loop {
            let failed: Vec<_> = watching
                .since(seen)
                .into_iter()
                .filter(|it| it.1.verdict == Verdict::Fail)
                .collect();
            if failed.len() >= 2 {
                break failed[1].0;
            }
            failures = failures.max(failed.len());
            wait_ms(1).await;
            assert!(stopped.elapsed() < Duration::from_secs(3), "{failures} failures");
        };
        let delay = second.duration_since(stopped);
        println!("SIGSTOP to the second failure: {delay:?}");
        assert!(delay < Duration::from_secs(1), "{delay:?}");
        sh("kill -CONT $(ps -o pid= -C nginx)");
        watching.next(Verdict::Pass).await;
    });
}

#[test]
fn a_binary_upgrade_is_no_death() {
    on_a_host("nginx::tests::a_binary_upgrade_is_no_death", || async {
        debian(&["80"]);
        let watching = checks(SECTION);
        watching.next(Verdict::Pass).await;
        let old = master();
        sh("kill -USR2 $(cat /run/nginx.pid)");
        wait_ms(600).await;
        let new = master();
        assert_ne!(old, new);
        assert_eq!(view(&watching).master, Some(new));
        sh("kill -QUIT $(cat /run/nginx.pid.oldbin)");
        wait_ms(800).await;
        assert_eq!(view(&watching).master, Some(new));
        // Once more without a probe between the two signals, and the old one killed hard.
        sh(
            "kill -USR2 $(cat /run/nginx.pid); until [ -s /run/nginx.pid.oldbin ] && [ -s /run/nginx.pid ]; do sleep 0.01; done; \
            kill -KILL $(cat /run/nginx.pid.oldbin)",
        );
        wait_ms(800).await;
        assert_eq!(view(&watching).master, Some(master()));
        let bad: Vec<_> =
            watching.since(0).into_iter().filter(|it| it.1.verdict != Verdict::Pass).collect();
        assert!(bad.is_empty(), "{bad:#?}");
    });
}

#[test]
fn an_upgrade_that_is_taken_back_is_no_death() {
    on_a_host("nginx::tests::an_upgrade_that_is_taken_back_is_no_death", || async {
        debian(&["80"]);
        let watching = checks(SECTION);
        watching.next(Verdict::Pass).await;
        let old = master();
        sh("kill -USR2 $(cat /run/nginx.pid)");
        wait_ms(600).await;
        assert_eq!(view(&watching).master, Some(master()));
        sh("kill -KILL $(cat /run/nginx.pid)");
        wait_ms(600).await;
        assert_eq!(view(&watching).master, Some(old));
        let dead: Vec<_> =
            watching.since(0).into_iter().filter(|it| it.1.verdict == Verdict::Dead).collect();
        assert!(dead.is_empty(), "{dead:#?}");
    });
}

#[test]
fn a_listen_on_a_vip_that_is_elsewhere_works_and_is_asked_when_the_vip_comes() {
    on_a_host(
        "nginx::tests::a_listen_on_a_vip_that_is_elsewhere_works_and_is_asked_when_the_vip_comes",
        || async {
            write(
                "/etc/nginx/nginx.conf",
                &conf("/run/nginx.pid", &["192.0.2.41:80", "[fd00::41]:80"]),
            );
            sh("! /usr/sbin/nginx 2>/dev/null");
            let watching = checks(SECTION);
            let (_, report) = watching.next(Verdict::Fail).await;
            assert!(report.detail.contains("mend: systemctl enable --now nginx"), "{report:?}");
            for family in ["ipv4", "ipv6"] {
                assert_eq!(sh(&format!("cat /proc/sys/net/{family}/ip_nonlocal_bind")), "1");
                let line = format!("net.{family}.ip_nonlocal_bind = 1");
                assert!(sh("cat /etc/sysctl.d/90-standin.conf").contains(&line));
            }
            assert!(view(&watching).nonlocal.unwrap().contains("192.0.2.41 and fd00::41"));
            sh("/usr/sbin/nginx");
            let (_, report) = watching.next(Verdict::Pass).await;
            assert!(report.detail.contains("not asked over HTTP"), "{report:?}");
            assert!(view(&watching).no_probe.is_some(), "{:?}", view(&watching));

            sh("ip address add 192.0.2.41/24 dev eth0");
            watching
                .until(watching.count(), |report| {
                    report.detail.contains("http://192.0.2.41:80/ answers")
                })
                .await;
            assert_eq!(view(&watching).probe.as_deref(), Some("http://192.0.2.41:80/"));
            sh("ip address del 192.0.2.41/24 dev eth0; ip address add fd00::41/64 dev eth0 nodad");
            watching
                .until(watching.count(), |report| {
                    report.detail.contains("http://[fd00::41]:80/ answers")
                })
                .await;
            sh("ip address del fd00::41/64 dev eth0");
            watching
                .until(watching.count(), |report| report.detail.contains("not asked over HTTP"))
                .await;
            let seen = watching.count();
            wait_ms(600).await;
            let failed: Vec<_> = watching
                .since(seen)
                .into_iter()
                .filter(|it| it.1.verdict != Verdict::Pass)
                .collect();
            assert!(failed.is_empty(), "{failed:#?}");

            // Without HTTP, stopped workers are seen all the same.
            sh("kill -STOP $(ps -o pid= -C nginx)");
            let (_, report) = watching.next(Verdict::Fail).await;
            assert!(report.detail.contains("is stopped"), "{report:?}");
        },
    );
}

#[test]
fn an_nginx_in_usr_local_is_found_without_being_told() {
    on_a_host("nginx::tests::an_nginx_in_usr_local_is_found_without_being_told", || async {
        sh("mkdir -p /usr/local/nginx/sbin /usr/local/nginx/conf /usr/local/nginx/logs; \
            cp /usr/sbin/nginx /usr/local/nginx/sbin/nginx");
        write(
            "/usr/local/nginx/conf/nginx.conf",
            "user root; pid logs/nginx.pid; error_log logs/error.log;\n\
            events { }\nhttp { access_log off; include vhosts/*.conf; }\n",
        );
        write("/usr/local/nginx/conf/vhosts/a.conf", "server { listen 8080; }\n");
        sh("/usr/local/nginx/sbin/nginx -p /usr/local/nginx -c conf/nginx.conf");
        let watching = checks(SECTION);
        let (_, report) = watching.next(Verdict::Pass).await;
        assert!(report.detail.contains("http://127.0.0.1:8080/ answers"), "{report:?}");
        let seen = view(&watching);
        assert_eq!(seen.binary.as_deref(), Some("/usr/local/nginx/sbin/nginx".as_ref()));
        assert_eq!(seen.conf.as_deref(), Some("/usr/local/nginx/conf/nginx.conf".as_ref()));
        assert_eq!(seen.pid_file.as_deref(), Some("/usr/local/nginx/logs/nginx.pid".as_ref()));
        assert_eq!(seen.version.as_deref(), Some("1.22.1"));
        let pid: u32 = sh("cat /usr/local/nginx/logs/nginx.pid").parse().unwrap();
        standin_linux::spawn::kill(pid, 9).unwrap();
        watching.next(Verdict::Dead).await;
        sh(
            "kill -KILL $(ps -o pid= -C nginx); /usr/local/nginx/sbin/nginx -p /usr/local/nginx -c conf/nginx.conf",
        );
        watching.next(Verdict::Pass).await;
    });
}

#[test]
fn what_one_listen_says_of_a_port_counts_for_every_server_there() {
    on_a_host(
        "nginx::tests::what_one_listen_says_of_a_port_counts_for_every_server_there",
        || async {
            write(
                "/etc/nginx/nginx.conf",
                "user root; worker_processes 2; pid /run/nginx.pid; error_log /var/log/nginx/e.log;\n\
                 events { }\nhttp { access_log off;\n\
                 server { listen 80 default_server proxy_protocol; return 444; }\n\
                 server { listen 80; server_name b.example; return 204; } }\n",
            );
            sh("/usr/sbin/nginx");
            let watching = checks(SECTION);
            let (_, report) = watching.until(0, |_| true).await;
            assert_eq!(report.verdict, Verdict::Pass, "{report:?}");
            assert!(report.detail.contains("not asked over HTTP"), "{report:?}");
        },
    );
}

#[test]
fn an_nginx_without_tcp_is_judged_by_its_workers() {
    on_a_host("nginx::tests::an_nginx_without_tcp_is_judged_by_its_workers", || async {
        debian(&["unix:/run/site.sock"]);
        let watching = checks(SECTION);
        let (_, report) = watching.until(0, |_| true).await;
        assert_eq!(report.verdict, Verdict::Pass, "{report:?}");
        sh("kill -STOP $(ps -o pid= -C nginx)");
        watching.next(Verdict::Fail).await;
    });
}

#[test]
fn what_is_written_but_not_loaded_moves_nothing_and_a_reload_is_followed() {
    on_a_host(
        "nginx::tests::what_is_written_but_not_loaded_moves_nothing_and_a_reload_is_followed",
        || async {
            debian(&["80"]);
            let watching = checks(SECTION);
            watching.next(Verdict::Pass).await;
            write("/etc/nginx/nginx.conf", &conf("/run/nginx.pid", &["8081", "80"]));
            wait_ms(1200).await;
            assert_eq!(view(&watching).probe.as_deref(), Some("http://127.0.0.1:80/"));
            write("/etc/nginx/nginx.conf", &conf("/run/nginx.pid", &["8081"]));
            sh("kill -HUP $(cat /run/nginx.pid)");
            wait_ms(1500).await;
            assert_eq!(view(&watching).probe.as_deref(), Some("http://127.0.0.1:8081/"));
            let reports = watching.since(0);
            let failed = |pair: &[(Instant, crate::checks::Report)]| {
                pair.iter().all(|it| it.1.verdict != Verdict::Pass)
            };
            assert!(!reports.windows(2).any(failed), "two failures in a row: {reports:#?}");
        },
    );
}

#[test]
fn of_two_masters_the_one_that_the_section_names_is_watched() {
    on_a_host("nginx::tests::of_two_masters_the_one_that_the_section_names_is_watched", || async {
        debian(&["80"]);
        write("/run/two/nginx.conf", &conf("/run/two.pid", &["82"]));
        sh("/usr/sbin/nginx -c /run/two/nginx.conf");
        let second: u32 = sh("cat /run/two.pid").parse().unwrap();
        let watching = checks("[nginx]\nconf = \"/run/two/nginx.conf\"");
        watching.next(Verdict::Pass).await;
        assert_eq!(view(&watching).master, Some(second));
        assert!(
            view(&watching).notes.join(" ").contains("other nginx masters"),
            "{:?}",
            view(&watching)
        );
        let plain = checks(SECTION);
        plain.next(Verdict::Pass).await;
        assert_eq!(view(&plain).master, Some(master()));
    });
}

#[test]
fn a_given_probe_must_be_answered_from_200_to_399() {
    on_a_host("nginx::tests::a_given_probe_must_be_answered_from_200_to_399", || async {
        write(
            "/etc/nginx/nginx.conf",
            "user root; pid /run/nginx.pid; error_log /var/log/nginx/e.log; events { }\n\
             http { access_log off; server { listen 80; \
             location = /ok { return 204; } location = /bad { return 503; } } }\n",
        );
        sh("/usr/sbin/nginx");
        let good = checks("[nginx]\nprobe = \"http://127.0.0.1/ok\"");
        let (_, report) = good.next(Verdict::Pass).await;
        assert!(report.detail.contains("http://127.0.0.1/ok: status 204"), "{report:?}");
        let bad = checks("[nginx]\nprobe = \"http://127.0.0.1/bad\"");
        let (_, report) = bad.next(Verdict::Fail).await;
        assert!(report.detail.contains("status 503, wanted 200 to 399"), "{report:?}");
    });
}

#[test]
fn with_restart_a_dead_nginx_is_started_again_once_before_anything_is_reported() {
    on_a_host(
        "nginx::tests::with_restart_a_dead_nginx_is_started_again_once_before_anything_is_reported",
        || async {
            debian(&["80"]);
            let watching = checks("[nginx]\nrestart = true");
            watching.next(Verdict::Pass).await;
            watching.next(Verdict::Pass).await;
            let (old, workers) = (master(), view(&watching).workers);
            let seen = watching.count();
            standin_linux::spawn::kill(old, 9).unwrap();
            wait_ms(1000).await;
            assert_ne!(master(), old);
            assert_eq!(view(&watching).master, Some(master()));
            assert!(view(&watching).notes.join(" ").contains("started it again"));
            assert!(workers.iter().all(|pid| !view(&watching).workers.contains(pid)));
            let bad: Vec<_> = watching
                .since(seen)
                .into_iter()
                .filter(|it| it.1.verdict != Verdict::Pass)
                .collect();
            assert!(bad.is_empty(), "{bad:#?}");
            assert!(watching.count() > seen);
            standin_linux::spawn::kill(master(), 9).unwrap();
            watching.next(Verdict::Dead).await;
        },
    );
}

#[test]
fn a_restart_that_fails_is_a_death_that_says_why() {
    on_a_host("nginx::tests::a_restart_that_fails_is_a_death_that_says_why", || async {
        debian(&["80"]);
        let watching = checks("[nginx]\nrestart = true");
        watching.next(Verdict::Pass).await;
        watching.next(Verdict::Pass).await;
        write("/etc/nginx/nginx.conf", "nonsense;");
        let seen = watching.count();
        standin_linux::spawn::kill(master(), 9).unwrap();
        let (_, report) = watching.until(seen, |report| report.verdict == Verdict::Dead).await;
        assert!(report.detail.contains("starting it again failed"), "{report:?}");
        assert!(report.detail.contains("unknown directive \"nonsense\""), "{report:?}");
    });
}

#[test]
fn orphans_of_before_the_daemon_started_are_named_with_the_mend() {
    on_a_host(
        "nginx::tests::orphans_of_before_the_daemon_started_are_named_with_the_mend",
        || async {
            debian(&["80"]);
            wait_ms(200).await;
            standin_linux::spawn::kill(master(), 9).unwrap();
            wait_ms(100).await;
            let watching = checks(SECTION);
            let (_, report) = watching.next(Verdict::Fail).await;
            assert!(report.detail.contains("/run/nginx.pid names"), "{report:?}");
            assert!(report.detail.contains("its workers still answer (orphans, pid"), "{report:?}");
            assert_eq!(view(&watching).orphans.len(), 2);
            // A start that fails because of them, then one that works.
            sh(
                "! /usr/sbin/nginx 2>/dev/null; kill -KILL $(ps -o pid= -C nginx); sleep 0.1; /usr/sbin/nginx",
            );
            watching.next(Verdict::Pass).await;
            assert!(view(&watching).orphans.is_empty());
        },
    );
}

#[test]
fn a_running_binary_of_another_name_is_found() {
    on_a_host("nginx::tests::a_running_binary_of_another_name_is_found", || async {
        sh("mkdir -p /usr/local/web/sbin; cp /usr/sbin/nginx /usr/local/web/sbin/web-server");
        write("/usr/local/web/web.conf", &conf("/run/web.pid", &["127.0.0.1:8070"]));
        sh("/usr/local/web/sbin/web-server -c /usr/local/web/web.conf");
        let watching = checks(SECTION);
        let (_, report) = watching.next(Verdict::Pass).await;
        assert_eq!(report.detail, "http://127.0.0.1:8070/ answers (405)");
        assert_eq!(
            view(&watching).binary.as_deref(),
            Some("/usr/local/web/sbin/web-server".as_ref())
        );
        assert_eq!(view(&watching).conf.as_deref(), Some("/usr/local/web/web.conf".as_ref()));
    });
}
