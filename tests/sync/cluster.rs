//! A cluster with a real nginx on each node, whose configuration is shared.

use std::time::Duration;

use serde_json::Value;

use crate::hosts::{Daemon, Host, Lan, STANDIN, skipped, wait_or_tell};

const FILE: &str = "/etc/standin/standin.toml";

/// Generous: two loaded cores, and a link that may be dialled anew.
pub(crate) const SOON: Duration = Duration::from_secs(90);

pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) address: String,
    /// The directory of `nginx.conf`.
    pub(crate) conf: String,
    pub(crate) daemon: Option<Daemon>,
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// It ends with this.
    pub(crate) lan: Lan,
}

/// The kernel tells since when a process runs in hundredths of a second: of one that began in the same one as
/// its file was written it isn't known which came first, and so what it has loaded.
const TICK: Duration = Duration::from_millis(20);

/// The main file, which answers with the text; its address is the node's own.
pub(crate) fn conf(answer: &str) -> String {
    format!(
        "worker_processes 1;\npid /run/nginx.pid;\nerror_log /var/log/nginx/error.log;\n\
         events {{ worker_connections 64; }}\nhttp {{\n access_log off;\n include conf.d/*.conf;\n \
         server {{ listen 80; location / {{ return 200 \"{answer}\\n\"; }} }}\n}}\n"
    )
}

/// Two nodes that serve the same; `None` where no such test can run.
pub(crate) fn agreed() -> Option<Cluster> {
    if skipped() {
        return None;
    }
    let cluster = Cluster::new(2, "/etc/nginx/conf", "");
    cluster.wait_answer("v1");
    cluster.wait_current();
    Some(cluster)
}

impl Cluster {
    /// Nodes n1, n2, … that are joined; n1 is active. `extra` goes into `[sync]`.
    pub(crate) fn new(count: usize, conf: &str, extra: &str) -> Self {
        Self::on(count, conf, extra, |_| ())
    }

    /// As [`Cluster::new`]; each host is furnished before anything is put there.
    pub(crate) fn on(count: usize, conf: &str, extra: &str, furnish: impl Fn(&Host)) -> Self {
        let lan = Lan::new();
        let mut nodes: Vec<Node> = (1..=count)
            .map(|number| {
                let address = format!("192.168.1.{}", 188 + number);
                let host = lan.host(&format!("n{number}"), &[&format!("{address}/24")]);
                furnish(&host);
                let conf = conf.to_owned();
                Node { host, address, conf, daemon: None }
            })
            .collect();
        for (at, node) in nodes.iter_mut().enumerate() {
            node.host.run(&format!("mkdir -p {}/conf.d", node.conf));
            node.save("nginx.conf", &self::conf(if at == 0 { "v1" } else { "stock" }));
            node.start_nginx();
        }
        let first = &nodes[0];
        let line = first.host.run(&format!(
            "{STANDIN} init --cluster edge --node n1={} --vip web=192.168.1.41/24",
            first.address
        ));
        let mut token = line.split_whitespace().nth(3).unwrap().to_owned();
        let text = first.host.read(FILE);
        let text = text.replace(
            "[nginx]\n",
            &format!("[nginx]\nconf = \"{conf}/nginx.conf\"\nprobe = \"http://127.0.0.1/\"\n"),
        );
        let text = text.replace("\n[sync]\n", "\n");
        first.host.write(FILE, &format!("{text}\n[sync]\n{extra}\n"));
        for (number, node) in nodes.iter().enumerate().skip(1) {
            node.host.run(&format!(
                "{STANDIN} join {} {token} --node n{}={} --priority {}",
                first.address,
                number + 1,
                node.address,
                120 - number
            ));
            if number + 1 < count {
                token = first.host.run(&format!("{STANDIN} token")).trim().to_owned();
            }
        }
        let text = first.host.read(FILE);
        for node in &mut nodes {
            node.host.write(FILE, &text);
        }
        let mut cluster = Self { nodes, lan };
        cluster.nodes[0].start();
        cluster.nodes[0].host.wait_role("active", SOON);
        for node in cluster.nodes.iter_mut().skip(1) {
            node.start();
        }
        cluster
    }

    /// A machine on the same segment that is no node.
    pub(crate) fn client(&self, name: &str, address: &str) -> Host {
        self.lan.host(name, &[address])
    }

    /// All backups serve this.
    #[track_caller]
    pub(crate) fn wait_answer(&self, answer: &str) {
        let tell = || {
            let of = |node: &Node| {
                let log = node.host.read("/run/logs/standin");
                format!("{}\n{}\n{log}\n", node.host.name, node.page())
            };
            let all: String = self.nodes.iter().map(of).collect();
            format!("all backups to answer {answer:?}\n{all}")
        };
        wait_or_tell(tell, SOON, || {
            self.nodes.iter().skip(1).all(|node| node.answer() == answer).then_some(())
        });
    }

    /// Until the backups are where the active is.
    #[track_caller]
    pub(crate) fn wait_current(&self) {
        for node in self.nodes.iter().skip(1) {
            node.wait_own("current", |own| own["current"] == true);
        }
    }
}

impl Node {
    pub(crate) fn start(&mut self) {
        let words = format!("{STANDIN} run --node {}", self.host.name);
        self.daemon = Some(self.host.launch("standin", &words));
    }

    pub(crate) fn start_nginx(&self) {
        std::thread::sleep(TICK);
        let mut command = self.host.command("nginx");
        command.args(["-c", &format!("{}/nginx.conf", self.conf)]);
        assert!(command.status().unwrap().success(), "nginx on {}", self.host.name);
    }

    /// As the operator does after an edit.
    pub(crate) fn reload_nginx(&self) {
        self.host.run(&format!("nginx -c {}/nginx.conf -s reload", self.conf));
    }

    /// Replaces a file of the configuration as an editor does.
    pub(crate) fn save(&self, name: &str, text: &str) {
        let path = format!("{}/{name}", self.conf);
        self.host.write(&format!("{path}.new~"), text);
        self.host.run(&format!("mv {path}.new~ {path}"));
    }

    pub(crate) fn read(&self, name: &str) -> String {
        self.host.read(&format!("{}/{name}", self.conf))
    }

    pub(crate) fn master(&self) -> String {
        self.host.read("/run/nginx.pid").trim().to_owned()
    }

    /// The pids of the workers that aren't leaving.
    pub(crate) fn workers(&self) -> Vec<String> {
        let list = self.host.run("ps -eo pid,args");
        let serving =
            list.lines().filter(|line| line.trim_end().ends_with("nginx: worker process"));
        serving.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
    }

    pub(crate) fn answer(&self) -> String {
        let output = self.host.try_run(&format!("curl -s -m 2 http://{}/", self.address));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[track_caller]
    pub(crate) fn wait_answer(&self, answer: &str) {
        let tell = || {
            format!(
                "{} to answer {answer:?}, not {:?}\n{}\n{}",
                self.host.name,
                self.answer(),
                self.page(),
                self.host.read("/run/logs/standin")
            )
        };
        wait_or_tell(tell, SOON, || (self.answer() == answer).then_some(()));
    }

    pub(crate) fn page(&self) -> String {
        let output = self.host.try_run(&format!("{STANDIN} sync status"));
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    }

    pub(crate) fn sync(&self) -> Option<Value> {
        let output = self.host.try_run(&format!("{STANDIN} sync status --json"));
        serde_json::from_slice(&output.stdout).ok()
    }

    /// What this node says of itself.
    pub(crate) fn own(&self) -> Value {
        self.sync().map_or(Value::Null, |sync| sync["nodes"][0].clone())
    }

    #[track_caller]
    pub(crate) fn wait_own(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let tell = || {
            let log = self.host.read("/run/logs/standin");
            let runs = self.host.run("ps -eo pid,ppid,stat,args");
            format!("{} to be {what}:\n{}\n{log}\n{runs}", self.host.name, self.page())
        };
        wait_or_tell(tell, SOON, || Some(self.own()).filter(|own| is(own)))
    }

    /// `standin sync …` that must succeed.
    #[track_caller]
    pub(crate) fn order(&self, words: &str) -> String {
        self.host.run(&format!("{STANDIN} {words}"))
    }
}
