//! nginx where people have it, with the smallest cluster file: found, checked, taken over.

use crate::host::{Host, Program, field, rack, until};

/// The smallest useful file.
const SMALLEST: &str = r#"cluster = "edge"

[node.n1]
address = "192.0.2.11"
priority = 150

[node.n2]
address = "192.0.2.12"
priority = 100

[vip.web]
virtual_router_id = 41
addresses = ["192.0.2.41/24"]

[nginx]
"#;

/// The plan's layout: one prefix with everything in it.
const PLAN: &str = "worker_processes 1;\npid logs/nginx.pid;\nerror_log logs/error.log;\n\
    events {}\nhttp {\n  access_log off;\n  include conf.d/*.conf;\n}\n";

const PLAN_BINARY: &str = "/usr/local/nginx/sbin/nginx -p /usr/local/nginx/ -c conf/nginx.conf";

/// Copies Debian's nginx to where the plan has it; the packaged one is out of the way.
fn plan_layout(host: &Host, name: &str, listen: &str) {
    host.sh(
        "cd /usr/local/nginx; mkdir sbin conf conf/conf.d logs html; cp /usr/sbin/nginx sbin/; \
         mount --bind /dev/null /usr/sbin/nginx",
    );
    host.write("/usr/local/nginx/conf/nginx.conf", PLAN);
    let server = format!("server {{ listen {listen}; location / {{ return 200 {name}; }} }}\n");
    host.write("/usr/local/nginx/conf/conf.d/web.conf", &server);
}

/// Starts nginx, which would otherwise keep our pipes open.
fn begin(host: &Host, nginx: &str) {
    host.sh(&format!("{nginx} > /run/nginx.out 2>&1 || {{ cat /run/nginx.out; false; }}"));
}

/// A pair and a client; `start` starts nginx on a node.
struct Stage {
    one: Host,
    two: Host,
    client: Host,
    _daemons: [Program; 2],
}

impl Stage {
    fn new(prepare: impl Fn(&Host, &str), start: &str) -> Self {
        let (one, two, client) = (Host::new("n1", 11), Host::new("n2", 12), Host::new("c", 99));
        for (host, name) in [(&one, "n1"), (&two, "n2")] {
            host.sh("mkdir -p /var/lib/nginx/body");
            prepare(host, name);
            host.cluster(SMALLEST);
        }
        begin(&one, start);
        let first = one.daemon("");
        one.until_role("web", "active");
        let second = two.daemon("");
        Self { one, two, client, _daemons: [first, second] }
    }

    fn answer(&self) -> String {
        self.client.sh("curl -sS -m 1 http://192.0.2.41/ || true")
    }

    /// The holder's nginx dies with all of its workers: the other one answers.
    fn take_over(&self, pid_file: &str) {
        until("n2 is eligible", || field(&self.two.status(), "web", "eligible") == true);
        assert!(self.answer().contains("n1"), "{}", self.answer());
        let status = self.one.status();
        assert_eq!(status["checks"][0]["state"], "passing", "{status:#}");
        self.one.sh(&format!("kill -9 $(ps -o pid= --ppid $(cat {pid_file})) $(cat {pid_file})"));
        self.two.until_role("web", "active");
        until("n2 answers", || self.answer().contains("n2"));
        until("only n2 has the address", || !self.one.has("192.0.2.41/24"));
        let status = self.one.status();
        assert!(status["checks"][0]["detail"].as_str().unwrap().contains("gone"), "{status:#}");
    }
}

#[test]
fn the_plan_s_layout_works() {
    rack("layouts::the_plan_s_layout_works", || {
        let stage = Stage::new(|host, name| plan_layout(host, name, "80"), PLAN_BINARY);
        begin(&stage.two, PLAN_BINARY);
        let nginx = stage.one.status()["nginx"].clone();
        assert_eq!(nginx["binary"], "/usr/local/nginx/sbin/nginx", "{nginx:#}");
        assert_eq!(nginx["conf"], "/usr/local/nginx/conf/nginx.conf", "{nginx:#}");
        stage.take_over("/usr/local/nginx/logs/nginx.pid");
        assert_eq!(
            stage.one.read("/etc/sysctl.d/90-standin.conf"),
            "",
            "nothing listens on the VIP alone"
        );
    });
}

#[test]
fn the_plan_s_layout_that_listens_on_the_vip_only_works() {
    rack("layouts::the_plan_s_layout_that_listens_on_the_vip_only_works", || {
        let prepare = |host: &Host, name: &str| {
            plan_layout(host, name, "192.0.2.41:80");
            if name == "n1" {
                // The address is n1's today, as on the day of installation.
                host.sh("sysctl -qw net.ipv4.ip_nonlocal_bind=1");
            }
        };
        let stage = Stage::new(prepare, PLAN_BINARY);
        // n2's nginx has never run, and can't: it was copied there, and the address is elsewhere.
        until("the setting is made", || {
            stage.two.sh("sysctl -n net.ipv4.ip_nonlocal_bind").trim() == "1"
        });
        begin(&stage.two, PLAN_BINARY);
        stage.take_over("/usr/local/nginx/logs/nginx.pid");
        until("it is set for the next boot", || {
            stage
                .two
                .read("/etc/sysctl.d/90-standin.conf")
                .contains("net.ipv4.ip_nonlocal_bind = 1")
        });
    });
}

#[test]
fn debian_s_layout_works() {
    rack("layouts::debian_s_layout_works", || {
        let prepare = |host: &Host, name: &str| {
            host.sh("mkdir -p /run/html; mount --bind /run/html /var/www/html");
            host.write("/var/www/html/index.html", name);
        };
        let stage = Stage::new(prepare, "nginx");
        begin(&stage.two, "nginx");
        let nginx = stage.one.status()["nginx"].clone();
        assert_eq!(nginx["conf"], "/etc/nginx/nginx.conf", "{nginx:#}");
        assert!(nginx["probe"].as_str().unwrap().starts_with("http://127.0.0.1"), "{nginx:#}");
        stage.take_over("/run/nginx.pid");
    });
}

#[test]
fn a_standby_whose_nginx_listens_on_the_vip_only_can_start_it() {
    rack("layouts::a_standby_whose_nginx_listens_on_the_vip_only_can_start_it", || {
        let prepare = |host: &Host, name: &str| {
            host.sh("mount -t tmpfs -o mode=755 tmpfs /etc/nginx");
            let server =
                format!("server {{ listen 192.0.2.41:80; location / {{ return 200 {name}; }} }}");
            host.write("/etc/nginx/nginx.conf", &format!("events {{}}\nhttp {{ {server} }}\n"));
            if name == "n1" {
                host.sh("sysctl -qw net.ipv4.ip_nonlocal_bind=1");
            } else {
                let refused = host.sh("nginx > /run/nginx.out 2>&1 || cat /run/nginx.out");
                assert!(refused.contains("Cannot assign requested address"), "{refused}");
            }
        };
        let stage = Stage::new(prepare, "nginx");
        until("the setting is made", || {
            stage.two.sh("sysctl -n net.ipv4.ip_nonlocal_bind").trim() == "1"
        });
        let page = stage.two.standin("status").out;
        assert!(page.contains("ip_nonlocal_bind") && page.contains("192.0.2.41"), "{page}");
        begin(&stage.two, "nginx");
        stage.take_over("/run/nginx.pid");
        // On the new active the listener is local, so it is probed; on the other it isn't.
        until("n2's nginx is probed", || {
            stage.two.status()["nginx"]["probe"]
                .as_str()
                .is_some_and(|at| at.contains("192.0.2.41"))
        });
        let drop_in = stage.two.read("/etc/sysctl.d/90-standin.conf");
        assert!(drop_in.contains("net.ipv4.ip_nonlocal_bind = 1"), "{drop_in}");
    });
}
