//! A real nginx, alone in namespaces: what it refuses changes nothing, what it takes is proven.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const TRIAL: &str = env!("CARGO_BIN_EXE_standin-apply-trial");
const MARK: &str = "STANDIN_APPLY_TEST";

/// Seconds after which a test hangs.
const TOO_LONG: &str = "100";

/// Runs `body` as the first process of new namespaces; `test` is the test's name.
fn alone(test: &str, body: impl FnOnce()) {
    if fs::metadata("/proc/self").unwrap().uid() != 0 || !Path::new("/usr/sbin/nginx").exists() {
        eprintln!("SKIPPED: {test} needs root and nginx");
        return;
    }
    if std::env::var(MARK).as_deref() == Ok(test) {
        for folder in ["/run", "/etc/nginx", "/var/log/nginx", "/var/lib/nginx", "/srv"] {
            sh(&format!("mkdir -p {folder}; mount -t tmpfs -o mode=755 tmpfs {folder}"));
        }
        sh("ip link set lo up; mkdir /run/state /var/log/nginx/deep");
        body();
        return;
    }
    let output = Command::new("timeout")
        .args(["-k", "5", TOO_LONG, "unshare", "--net", "--mount", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(MARK, test)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "alone in {test}: {}", output.status);
    assert!(said.contains("1 passed"), "there is no test {test}");
}

fn sh(line: &str) -> String {
    let output = Command::new("/bin/sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a test may change nothing of: bytes, sizes, owners, times.
fn everything(below: &[&Path]) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut ahead: Vec<PathBuf> = below.iter().map(|path| path.to_path_buf()).collect();
    while let Some(path) = ahead.pop() {
        let seen = fs::symlink_metadata(&path).unwrap();
        let bytes = if seen.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else {
            fs::read_to_string(&path).unwrap_or_default()
        };
        let line =
            format!("{} {:o} {}:{} {bytes}", seen.ino(), seen.mode(), seen.uid(), seen.gid());
        found.insert(path, line);
    }
    found
}

/// An nginx whose configuration is in a folder, and the folder as the host sees it.
struct Nginx {
    master: u32,
    /// The real path of the configuration.
    root: PathBuf,
    /// As nginx sees it.
    seen: PathBuf,
    generation: u32,
}

const PID_FILE: &str = "/run/nginx.pid";

impl Nginx {
    /// Writes a configuration at `root`, which nginx sees at `seen`.
    fn configure(root: &Path, seen: &Path) {
        fs::create_dir_all(root.join("sites")).unwrap();
        let seen = seen.display();
        let conf = format!(
            "user www-data;\nworker_processes 2;\nerror_log /var/log/nginx/error.log;\n\
             pid {PID_FILE};\nevents {{}}\nhttp {{\n access_log /var/log/nginx/access.log;\n\
             server {{ listen 127.0.0.1:80; location / {{ return 200 one; }} }}\n\
             include {seen}/sites/*.conf;\n}}\n"
        );
        fs::write(root.join("nginx.conf"), conf).unwrap();
    }

    fn start(root: &Path, seen: &Path) -> Self {
        Self::configure(root, seen);
        sh(&format!("/usr/sbin/nginx -c {}/nginx.conf", seen.display()));
        Self::found(root, seen)
    }

    fn found(root: &Path, seen: &Path) -> Self {
        let master = until("nginx runs", || fs::read_to_string(PID_FILE).ok()?.trim().parse().ok());
        let (root, seen) = (root.to_owned(), seen.to_owned());
        let it = Self { master, root, seen, generation: 0 };
        until("both workers run", || (it.workers().len() == 2).then_some(()));
        it
    }

    fn workers(&self) -> Vec<String> {
        let pids = Command::new("pgrep").args(["-P", &self.master.to_string()]).output().unwrap();
        String::from_utf8(pids.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
    }

    fn answer(&self) -> String {
        let output = Command::new("curl").args(["-sS", "-m", "5", "http://127.0.0.1/"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// A copy of the tree, changed by a shell line that runs in it.
    fn stage(&mut self, edit: &str) -> PathBuf {
        self.generation += 1;
        let name = format!(".standin-{}", self.generation);
        let staged = self.root.with_file_name(name);
        sh(&format!("cp -a {} {1}; cd {1}; {edit}", self.root.display(), staged.display()));
        staged
    }

    fn apply(&mut self, edit: &str, may_restart: &str) -> Output {
        let staged = self.stage(edit);
        let master = self.master.to_string();
        Command::new(TRIAL)
            .args(["apply", "/run/state", &master, PID_FILE, may_restart, "0"])
            .args([&self.root, &staged])
            .output()
            .unwrap()
    }

    fn test(&mut self, edit: &str, patience_ms: &str) -> Output {
        let staged = self.stage(edit);
        let test = ["test", &self.master.to_string(), patience_ms];
        Command::new(TRIAL).args(test).args([&self.root, &staged]).output().unwrap()
    }

    /// Applies a change that must be taken, and sees it served by new workers.
    fn proven(&mut self, text: &str) {
        let before = self.workers();
        let edit = format!("sed -i 's/return 200 [a-z-]*;/return 200 {text};/' nginx.conf");
        let said = self.apply(&edit, "no");
        assert!(said.status.success(), "{said:?}");
        assert!(self.workers().iter().any(|worker| !before.contains(worker)));
        assert_eq!(self.answer(), text);
        let conf = fs::read_to_string(self.root.join("nginx.conf")).unwrap();
        assert!(conf.contains(&format!("return 200 {text}")), "{conf}");
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn listener(port: u16) -> Child {
    let line = format!(
        "import socket,time; s=socket.create_server((\"127.0.0.1\",{port})); time.sleep(90)"
    );
    let child = Command::new("python3").args(["-c", &line]).stdin(Stdio::null()).spawn().unwrap();
    until("the port is taken", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    child
}

/// Somebody tests other files meanwhile, and says so in the same log.
fn noise() -> Child {
    let each = "import time\nlog = open('/var/log/nginx/error.log', 'a', 1)\nwhile True:\n \
                log.write('2026/01/01 00:00:00 [emerg] 4194305#0: unknown directive \"x\"\\n')\n \
                time.sleep(0.001)\n";
    let log = || fs::metadata("/var/log/nginx/error.log").unwrap().len();
    let before = log();
    let child = Command::new("python3").args(["-c", each]).spawn().unwrap();
    until("it says so", || (log() > before).then_some(()));
    child
}

#[test]
fn what_nginx_refuses_leaves_tree_and_workers_as_they_are() {
    alone("what_nginx_refuses_leaves_tree_and_workers_as_they_are", || {
        let mut nginx = Nginx::start(Path::new("/etc/nginx/conf"), Path::new("/etc/nginx/conf"));
        nginx.proven("two");
        let mut squatter = listener(8081);
        let key = "limit_req_zone \\$uri zone=z:1m rate=9r/s;";
        assert!(nginx.apply(&format!("echo \"{key}\" > sites/z.conf"), "no").status.success());
        let bad = [
            (
                "syntax",
                "echo 'sevrer {}' > sites/a.conf",
                "unknown directive \"sevrer\" in /etc/nginx/conf/sites/a.conf:1",
            ),
            (
                "certificate",
                "echo 'server { listen 127.0.0.1:443 ssl; ssl_certificate /no.pem; ssl_certificate_key /no.key; }' > sites/a.conf",
                "cannot load certificate \"/no.pem\"",
            ),
            (
                "absolute include",
                "echo 'include /etc/nginx/conf/sites/b.inc;' > sites/a.conf; echo 'sevrer {}' > sites/b.inc",
                "unknown directive \"sevrer\" in /etc/nginx/conf/sites/b.inc:1",
            ),
            (
                "upstream",
                "echo 'upstream a { server no.such.name.invalid; }' > sites/a.conf",
                "the name no.such.name.invalid can't be looked up",
            ),
            (
                "port",
                "echo 'server { listen 8081; }' > sites/a.conf",
                "bind() to 0.0.0.0:8081 failed (98: Address already in use); process ",
            ),
            (
                "address",
                "echo 'server { listen 192.0.2.77:80; }\nserver { listen 192.0.2.77:81; }' > sites/a.conf",
                "bind() to 192.0.2.77:81 failed (99: Cannot assign requested address)",
            ),
            (
                "zone",
                "echo 'limit_req_zone $remote_addr zone=z:1m rate=9r/s;' > sites/z.conf",
                "limit_req \"z\" uses the \"$remote_addr\" key while previously it used the \"$uri\" key",
            ),
        ];
        for (name, edit, words) in bad {
            until("old workers are gone", || (nginx.workers().len() == 2).then_some(()));
            let (before, workers) = (everything(&[&nginx.root]), nginx.workers());
            let output = nginx.apply(edit, "no");
            assert!(
                !output.status.success() && said(&output).contains(words),
                "{name}: {output:?}"
            );
            assert_eq!(everything(&[&nginx.root]), before, "{name}");
            assert_eq!(nginx.workers(), workers, "{name}");
            assert_eq!(nginx.answer(), "two", "{name}");
        }
        squatter.kill().unwrap();
        squatter.wait().unwrap();
        let mut noise = noise();
        nginx.proven("three");
        noise.kill().unwrap();
        noise.wait().unwrap();
        assert_eq!(sh("cat /run/nginx.pid"), nginx.master.to_string());
    });
}

#[test]
fn a_test_touches_nothing_and_still_sees_everything() {
    alone("a_test_touches_nothing_and_still_sees_everything", || {
        let mut nginx = Nginx::start(Path::new("/etc/nginx/conf"), Path::new("/etc/nginx/conf"));
        nginx.answer();
        // A log that is copied into memory as a whole would not fit there.
        sh("truncate -s 100G /var/log/nginx/access.log || true");
        sh("chown root /var/lib/nginx/body; rm /run/nginx.pid");
        let places = ["/etc/nginx/conf", "/run", "/var/log/nginx", "/var/lib/nginx"].map(Path::new);
        let sizes = || sh("ls -l --time-style=full-iso /var/log/nginx /var/lib/nginx /run");
        let (before, listed) = (everything(&places[..]), sizes());
        let edit = "cat > sites/a.conf <<E\n\
            proxy_temp_path /var/lib/nginx/other;\nproxy_cache_path /var/lib/nginx/cache keys_zone=c:1m;\n\
            server { listen 127.0.0.1:8088; listen unix:/run/nginx.sock; server_name x; \
            access_log /var/log/nginx/deep/x.log; error_log /var/log/nginx/deep/y.log; }\n\
            upstream known { server localhost:1; }\nE";
        let output = nginx.test(edit, "10000");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(everything(&places[..]), before);
        assert_eq!(sizes(), listed);
    });
}

/// As systemd with `Accept=yes` and `StandardInput=socket`.
fn tester_unit() {
    let socket = UnixListener::bind("/run/standin-tester.sock").unwrap();
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let stream = OwnedFd::from(stream.unwrap());
            let (input, output) = (stream.try_clone().unwrap().into(), stream.into());
            let mut tester = Command::new(TRIAL);
            tester.arg("tester").stdin::<Stdio>(input).stdout::<Stdio>(output);
            tester.status().unwrap();
        }
    });
}

#[test]
fn the_privileges_of_the_daemon_s_unit_are_enough_with_files_of_another_user() {
    let test = "the_privileges_of_the_daemon_s_unit_are_enough_with_files_of_another_user";
    alone(test, || {
        let unit = include_str!("../../../dist/systemd/standin.service");
        let set = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let list: Vec<String> = set
            .unwrap()
            .split(' ')
            .map(|name| format!("+{}", name.strip_prefix("CAP_").unwrap().to_ascii_lowercase()))
            .collect();
        tester_unit();
        for (place, mount) in [("/srv/plain", false), ("/srv/mounted", true)] {
            fs::create_dir(place).unwrap();
            let root = Path::new(place).join("conf");
            fs::create_dir(&root).unwrap();
            if mount {
                sh(&format!("mount --bind {0} {0}", root.display()));
            }
            let mut nginx = Nginx::start(&root, &root);
            sh(&format!("chown -R www-data {place}; chmod -R go= {place}"));
            let staged = nginx.stage("sed -i 's/return 200 one/return 200 two/' nginx.conf");
            let output = Command::new("setpriv")
                .args(["--no-new-privs", "--inh-caps=-all"])
                .arg(format!("--bounding-set=-all,{}", list.join(",")))
                .args([TRIAL, "apply", "/run/state", &nginx.master.to_string(), PID_FILE])
                .args(["no", "0"])
                .args([&root, &staged])
                .output()
                .unwrap();
            assert!(output.status.success(), "{place}: {output:?}");
            assert_eq!(nginx.answer(), "two", "{place}");
            let owner = fs::metadata(root.join("nginx.conf")).unwrap().uid();
            assert_eq!(owner, fs::metadata(&root).unwrap().uid(), "{place}");
            sh(&format!("kill {}; while test -e {PID_FILE}; do sleep 0.05; done", nginx.master));
        }
    });
}

#[test]
fn the_tester_s_socket_does_what_its_child_does() {
    alone("the_tester_s_socket_does_what_its_child_does", || {
        let mut nginx = Nginx::start(Path::new("/etc/nginx/conf"), Path::new("/etc/nginx/conf"));
        tester_unit();
        nginx.proven("by-socket");
        let output = nginx.apply("echo 'sevrer {}' > sites/a.conf", "no");
        assert!(said(&output).contains("unknown directive \"sevrer\""), "{output:?}");
        assert!(!sh("ps -eo args").contains("trial tester"), "none is left");
    });
}

#[test]
fn an_nginx_of_another_user_is_tested_as_that_user() {
    alone("an_nginx_of_another_user_is_tested_as_that_user", || {
        let root = Path::new("/srv/conf");
        Nginx::configure(root, root);
        sh(
            "sed -i '/^user/d; s/listen 127.0.0.1:80;/listen 127.0.0.1:8080;/' /srv/conf/nginx.conf",
        );
        sh("mkdir /srv/conf/run; sed -i 's,pid .*,pid /srv/conf/run/pid;,' /srv/conf/nginx.conf");
        sh("chown -R www-data /srv /var/log/nginx /var/lib/nginx");
        sh("setpriv --reuid www-data --regid www-data --clear-groups --inh-caps=-all \
            --bounding-set=-all /usr/sbin/nginx -c /srv/conf/nginx.conf");
        sh("ln -s /srv/conf/run/pid /run/nginx.pid");
        let mut nginx = Nginx::found(root, root);
        let good = nginx.test("echo '# a comment' >> nginx.conf", "5000");
        assert!(good.status.success(), "{good:?}");
        // As root it would be readable.
        let secret = "echo '# x' > sites/a.conf; chmod 600 sites/a.conf; chown root sites/a.conf";
        let output = nginx.test(secret, "5000");
        assert!(said(&output).contains("Permission denied"), "{output:?}");
    });
}

#[test]
fn a_name_that_nobody_answers_for_costs_the_patience_and_no_more() {
    alone("a_name_that_nobody_answers_for_costs_the_patience_and_no_more", || {
        let mut nginx = Nginx::start(Path::new("/etc/nginx/conf"), Path::new("/etc/nginx/conf"));
        sh("echo nameserver 127.0.0.1 > /run/resolv; mount --bind /run/resolv /etc/resolv.conf");
        let _deaf = std::net::UdpSocket::bind("127.0.0.1:53").unwrap();
        let began = Instant::now();
        let output = nginx.test("echo 'upstream a { server a.example; }' > sites/a.conf", "700");
        assert!(said(&output).contains("`nginx -t` was killed after 700 ms"), "{output:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(!sh("ps -eo args").contains("nginx -t"), "nothing is left of it");
    });
}

#[test]
fn a_changed_zone_is_taken_with_a_new_master_where_that_is_allowed() {
    alone("a_changed_zone_is_taken_with_a_new_master_where_that_is_allowed", || {
        let mut nginx = Nginx::start(Path::new("/etc/nginx/conf"), Path::new("/etc/nginx/conf"));
        let zone =
            |key: &str| format!("echo 'limit_req_zone {key} zone=z:1m rate=9r/s;' > sites/z.conf");
        assert!(nginx.apply(&zone("$uri"), "yes").status.success());
        let output = nginx.apply(&zone("$remote_addr"), "yes");
        assert!(output.status.success() && said(&output).contains("ZoneChanged"), "{output:?}");
        let now = sh("cat /run/nginx.pid");
        assert_ne!(now, nginx.master.to_string(), "a new master has it");
        until("the old one is gone", || {
            (!Path::new(&format!("/proc/{}/exe", nginx.master)).exists()).then_some(())
        });
        nginx.master = now.parse().unwrap();
        assert_eq!(nginx.answer(), "one");
        nginx.proven("after");
        // What others log meanwhile is no failure of the new master, for which nginx would be restarted:
        // a request that has begun is answered.
        let mut client = std::net::TcpStream::connect("127.0.0.1:80").unwrap();
        client.write_all(b"GET / HTTP/1.0\r\n").unwrap();
        let read = "ss -Htn state established sport = :80";
        until("nginx has read that", || sh(read).starts_with('0').then_some(()));
        let mut noise = noise();
        let slow = "(echo 'map_hash_max_size 65536; map $uri $slow { default 0;'; seq 60000 | \
                    sed 's/.*/\\/& &;/'; echo '}') > sites/slow.conf";
        let output = nginx.apply(&format!("{}; {slow}", zone("$host")), "yes");
        noise.kill().unwrap();
        noise.wait().unwrap();
        assert!(output.status.success() && said(&output).contains("ZoneChanged"), "{output:?}");
        client.write_all(b"\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("after"), "{answer}: {output:?}");
    });
}

#[test]
fn a_mount_point_a_link_and_a_bind_mount_elsewhere_are_proven_as_well() {
    alone("a_mount_point_a_link_and_a_bind_mount_elsewhere_are_proven_as_well", || {
        sh("mkdir /srv/mount; mount -t tmpfs -o mode=755 tmpfs /srv/mount");
        let mut nginx = Nginx::start(Path::new("/srv/mount"), Path::new("/srv/mount"));
        nginx.proven("mounted");
        let output = nginx.apply("echo 'sevrer {}' > sites/a.conf", "no");
        assert!(said(&output).contains("unknown directive"), "{output:?}");
        nginx.proven("again");
        sh(&format!("kill -QUIT {}; while test -e {PID_FILE}; do sleep 0.05; done", nginx.master));

        sh("mkdir /srv/link; ln -s /srv/link/real /srv/link/conf");
        let (real, link) = (Path::new("/srv/link/real"), Path::new("/srv/link/conf"));
        let mut nginx = Nginx::start(real, link);
        nginx.proven("linked");
        nginx.proven("linked-again");
        sh(&format!("kill -QUIT {}; while test -e {PID_FILE}; do sleep 0.05; done", nginx.master));

        // As in a container: its own mounts, in which the host's folder lies elsewhere.
        let (host, inside) = (Path::new("/srv/host/conf"), Path::new("/srv/in"));
        fs::create_dir_all(inside).unwrap();
        Nginx::configure(host, inside);
        sh(
            "unshare -m sh -ec 'mount --bind /srv/host/conf /srv/in; mount -t tmpfs tmpfs /srv/link; \
            exec /usr/sbin/nginx -c /srv/in/nginx.conf'",
        );
        let mut nginx = Nginx::found(host, inside);
        assert_eq!(nginx.seen, inside);
        nginx.proven("bound");
        let output = nginx.apply("echo 'sevrer {}' > sites/a.conf", "no");
        let words = "unknown directive \"sevrer\" in /srv/in/sites/a.conf:1";
        assert!(said(&output).contains(words), "{output:?}");
        nginx.proven("bound-again");
    });
}

/// What a shell line in a copy of the tree makes different, staged alone: `parts` are lines of `.parts`.
fn stage_parts(nginx: &mut Nginx, edit: &str, parts: &[&str]) -> PathBuf {
    let whole = nginx.stage(edit);
    nginx.generation += 1;
    let staged = nginx.root.with_file_name(format!(".standin-{}", nginx.generation));
    fs::create_dir(&staged).unwrap();
    for (number, part) in parts.iter().enumerate() {
        let (word, path) = part.split_once(' ').unwrap();
        let (from, to) = (whole.join(path), staged.join(number.to_string()));
        match word {
            "put" => sh(&format!("cp -a {} {}", from.display(), to.display())),
            "dress" => sh(&format!(
                "mkdir {1}; chmod --reference {0} {1}; touch -r {0} {1}",
                from.display(),
                to.display()
            )),
            _ => String::new(),
        };
    }
    fs::write(staged.join(".parts"), parts.join("\n")).unwrap();
    fs::remove_dir_all(whole).unwrap();
    staged
}

fn apply_parts(nginx: &mut Nginx, edit: &str, parts: &[&str], kill_at: u32) -> Output {
    let staged = stage_parts(nginx, edit, parts);
    let master = nginx.master.to_string();
    Command::new(TRIAL)
        .args(["apply", "/run/state", &master, PID_FILE, "no", &kill_at.to_string()])
        .args([&nginx.root, &staged])
        .output()
        .unwrap()
}

#[test]
fn of_a_large_tree_only_what_differs_is_tested_in_place_swapped_and_proven() {
    let test = "of_a_large_tree_only_what_differs_is_tested_in_place_swapped_and_proven";
    alone(test, || {
        // Where a log is, and where memory is laid over what surrounds the tree.
        let root = Path::new("/var/log/nginx/conf");
        let mut nginx = Nginx::start(root, root);
        sh(&format!(
            "cd {0}; for i in $(seq 300); do echo '# x' > sites/$i.conf; done",
            root.display()
        ));
        let mut squatter = listener(8081);
        let one =
            |text: &str| format!("sed -i 's/return 200 [a-z-]*;/return 200 {text};/' nginx.conf");
        let inode = |file: &str| fs::metadata(root.join(file)).unwrap().ino();

        let (same, main) = (inode("sites/7.conf"), inode("nginx.conf"));
        let taken = apply_parts(&mut nginx, &one("two"), &["put nginx.conf", "dress "], 0);
        assert!(taken.status.success(), "{taken:?}");
        assert_eq!(nginx.answer(), "two");
        assert!(inode("sites/7.conf") == same && inode("nginx.conf") != main);

        // It is looked for where nginx looks, and by nothing else: a new file, one that went, and a mode.
        let bad: [(&str, &[&str], &str); 5] = [
            ("echo 'sevrer {}' > sites/a.conf", &["put sites/a.conf"], "unknown directive"),
            (
                "mkdir sites/d; echo 'sevrer {}' > sites/d/b.inc; echo 'include d/b.inc;' > sites/a.conf; \
                 echo 'include /var/log/nginx/conf/sites/d/b.inc;' > sites/a.conf",
                &["put sites/d", "put sites/a.conf"],
                "unknown directive \"sevrer\" in /var/log/nginx/conf/sites/d/b.inc:1",
            ),
            (
                "echo 'include /var/log/nginx/conf/sites/7.conf;' >> nginx.conf; rm sites/7.conf",
                &["put nginx.conf", "remove sites/7.conf"],
                "sites/7.conf\" failed",
            ),
            (
                "rm -r sites; echo a > sites; sed -i 's,include.*,include /var/log/nginx/conf/sites/1.conf;,' nginx.conf",
                &["put sites", "put nginx.conf"],
                "Not a directory",
            ),
            (
                "echo 'server { listen 8081; }' > sites/a.conf",
                &["put sites/a.conf"],
                "Address already in use",
            ),
        ];
        for (edit, parts, words) in bad {
            until("old workers are gone", || (nginx.workers().len() == 2).then_some(()));
            let (before, workers) = (everything(&[root]), nginx.workers());
            let output = apply_parts(&mut nginx, edit, parts, 0);
            assert!(
                !output.status.success() && said(&output).contains(words),
                "{edit}: {output:?}"
            );
            assert_eq!(everything(&[root]), before, "{edit}");
            assert_eq!((nginx.workers(), nginx.answer()), (workers, "two".to_owned()), "{edit}");
        }
        squatter.kill().unwrap();
        squatter.wait().unwrap();

        let edit = "rm sites/7.conf; mkdir sites/new; echo '# n' > sites/new/n.conf; chmod 700 sites; \
                    echo '# a' > sites/a.conf; ln -s a.conf sites/l.conf";
        let parts = [
            "put sites/new",
            "put sites/a.conf",
            "put sites/l.conf",
            "remove sites/7.conf",
            "dress sites",
        ];
        let taken = apply_parts(&mut nginx, edit, &parts, 0);
        assert!(taken.status.success(), "{taken:?}");
        let listed = sh(
            "cd /var/log/nginx/conf/sites; ls -d 7.conf new/n.conf a.conf l.conf 2>&1 || stat -c %a .",
        );
        assert!(listed.contains("cannot access '7.conf'") && listed.ends_with("700"), "{listed}");
    });
}

#[test]
fn of_a_large_tree_what_isn_t_proven_is_put_back_and_so_is_what_was_killed_at_any_step() {
    let test =
        "of_a_large_tree_what_isn_t_proven_is_put_back_and_so_is_what_was_killed_at_any_step";
    alone(test, || {
        let root = Path::new("/etc/nginx/conf");
        let mut nginx = Nginx::start(root, root);
        let zone =
            |key: &str| format!("echo 'limit_req_zone {key} zone=z:1m rate=9r/s;' > sites/z.conf");
        let parts = ["put sites/z.conf", "put sites/other.conf", "dress sites"];
        let edit = |key: &str| format!("{}; echo '# {key}' > sites/other.conf", zone(key));
        let taken = apply_parts(&mut nginx, &edit("$uri"), &parts, 0);
        assert!(taken.status.success(), "{taken:?}");
        // Its test is good, and its reload isn't.
        until("old workers are gone", || (nginx.workers().len() == 2).then_some(()));
        let (before, times) = (everything(&[root]), sh("stat -c %y /etc/nginx/conf/sites"));
        let output = apply_parts(&mut nginx, &edit("$remote_addr"), &parts, 0);
        assert!(said(&output).contains("put back"), "{output:?}");
        assert_eq!(everything(&[root]), before);
        assert_eq!(sh("stat -c %y /etc/nginx/conf/sites"), times);

        for step in 1..100 {
            let output = apply_parts(
                &mut nginx,
                "echo '# killed' > sites/z.conf",
                &["put sites/z.conf", "dress sites"],
                step,
            );
            let over = output.status.success();
            let recovered =
                Command::new(TRIAL).args(["recover", "/run/state", "0"]).output().unwrap();
            assert!(recovered.status.success(), "{step}: {recovered:?}");
            let z = fs::read_to_string(root.join("sites/z.conf")).unwrap();
            let proven = z == "# killed\n";
            if !proven {
                assert_eq!(everything(&[root]), before, "{step}");
            }
            if proven {
                assert!(step > 5, "{step} steps were hit");
                return;
            }
            assert!(!over, "{step}");
        }
        panic!("more than 100 steps");
    });
}

#[test]
fn a_test_of_what_differs_writes_nothing_behind_a_link() {
    alone("a_test_of_what_differs_writes_nothing_behind_a_link", || {
        let root = Path::new("/etc/nginx/conf");
        let mut nginx = Nginx::start(root, root);
        sh("cd /etc/nginx/conf; mkdir sites/d; echo '# old' | tee sites/d/a.inc sites/d/gone.inc");
        let edit = "echo '# new' | tee sites/d/a.inc sites/d/b.inc; rm sites/d/gone.inc; \
                    chmod 700 sites/d";
        let mut staged = Vec::new();
        for part in
            ["put sites/d/a.inc", "put sites/d/b.inc", "remove sites/d/gone.inc", "dress sites/d"]
        {
            staged.push((part, stage_parts(&mut nginx, edit, &[part])));
        }
        // An operator moves it after the reading; for the one who owns it the link may lead anywhere.
        sh("cd /etc/nginx/conf; mv sites/d /srv/d; ln -s /srv/d sites/d");
        let places = [root, Path::new("/srv/d")];
        let before = everything(&places);
        for (part, staged) in staged {
            let test = ["test", &nginx.master.to_string(), "10000"];
            let output = Command::new(TRIAL).args(test).args([root, &staged]).output().unwrap();
            assert_eq!(everything(&places), before, "{part}: {output:?}");
            let words = said(&output);
            assert!(
                words.contains("couldn't be tested") && words.contains("sites/d"),
                "{output:?}"
            );
        }
    });
}
