//! Whole hosts for whole-program tests: namespaces on one bridge, and the daemons in them.
//!
//! A host is a holder process (`unshare … sleep`) with its own network, mounts, process ids and
//! name. The kernel ends it, and everything in it, with the test's thread: nothing has a name
//! outside, so nothing is left behind.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod holders;
pub(crate) mod wire;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use standin_linux::spawn::{self, Birth};

/// The binary under test, as every host sees it.
pub(crate) const STANDIN: &str = "/run/bin/standin";

/// The build that belongs to these tests, or the one that `STANDIN_BINARY` names.
fn program() -> String {
    std::env::var("STANDIN_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_standin").to_owned())
}

/// Where a host's daemons write their output.
const LOGS: &str = "/run/logs";

/// Directories that begin empty in each host; the machine's own are never written to.
const EMPTY: &str = "/etc/standin /etc/keepalived /etc/nginx /var/lib/standin /var/lib/nginx \
                     /var/log/nginx /var/log/standin";

/// Private mounts, then a line that says so, then a process that only has to be there.
const FURNISH: &str = r#"set -e
exec 2>&1
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/bin /run/logs /run/over
for dir in /etc /var/lib /var/log /usr/local; do
  over=/run/over$dir; mkdir -p $over/up $over/work
  mount -t overlay -o lowerdir=$dir,upperdir=$over/up,workdir=$over/work overlay $dir
done
for dir in $EMPTY; do mkdir -p $dir; mount -t tmpfs -o mode=0755 tmpfs $dir; done
touch /run/bin/standin
mount --bind "$PROGRAM" /run/bin/standin
mount -t sysfs sysfs /sys || true
hostname "$NAME"
ip link set lo up
echo ready
exec sleep infinity"#;

/// Says loudly that a test did nothing.
pub(crate) fn skipped() -> bool {
    let skipped = !spawn::is_root();
    if skipped {
        eprintln!("SKIPPED: needs root");
    }
    skipped
}

/// Looks every few milliseconds until `look` finds something; panics with `what` after `within`.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, within: Duration, look: impl FnMut() -> Option<T>) -> T {
    wait_or_tell(|| what.to_owned(), within, look)
}

/// As [`wait_for`]; `tell` says what is known by then.
#[track_caller]
pub(crate) fn wait_or_tell<T>(
    tell: impl Fn() -> String,
    within: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < within, "not within {within:?}: {}", tell());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As [`wait_for`]; hands back how long it took.
#[track_caller]
pub(crate) fn wait_until(what: &str, within: Duration, mut look: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    wait_for(what, within, || look().then_some(()));
    began.elapsed()
}

pub(crate) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A test among others that run at the same time.
pub(crate) type Story = Box<dyn FnOnce() + Send>;

/// Runs scenarios at the same time, since they mostly wait; all are finished before one's failure
/// is passed on. Each must build a [`Lan`] of its own.
pub(crate) fn together(scenarios: Vec<(String, Story)>) {
    let started: Vec<_> = scenarios
        .into_iter()
        .map(|(name, run)| (std::thread::Builder::new().name(name.clone()).spawn(run), name))
        .collect();
    let failed: Vec<String> = started
        .into_iter()
        .filter_map(|(thread, name)| thread.unwrap().join().is_err().then_some(name))
        .collect();
    assert!(failed.is_empty(), "failed: {}", failed.join("; "));
}

/// One Ethernet segment: a bridge in a namespace of its own.
pub(crate) struct Lan {
    switch: OwnedFd,
    hosts: Cell<u8>,
}

impl Lan {
    pub(crate) fn new() -> Self {
        let lan = Self { switch: spawn::new_network().unwrap(), hosts: Cell::new(0) };
        // Snooping would hold VRRP's multicast back until somebody asks for it.
        lan.ip("link add br0 type bridge mcast_snooping 0");
        lan.ip("link set br0 up");
        lan
    }

    /// A host whose `eth0` is plugged in, is up, and has `addresses`.
    pub(crate) fn host(&self, name: &str, addresses: &[&str]) -> Host {
        let host = self.bare_host(name);
        self.plug(&host, "eth0");
        // It costs a link-local address a second or two.
        host.sysctl("net/ipv6/conf/eth0/accept_dad", "0");
        host.ip("link set eth0 up");
        for address in addresses {
            let now = if address.contains(':') { " nodad" } else { "" };
            host.ip(&format!("addr add {address} dev eth0{now}"));
        }
        host
    }

    /// A host with no interface but `lo`.
    pub(crate) fn bare_host(&self, name: &str) -> Host {
        let port = self.hosts.get() + 1;
        self.hosts.set(port);
        Host::start(name, port)
    }

    /// Gives a host the interface `name`, down, with the MAC `02:00:00:00:00:<port>`.
    pub(crate) fn plug(&self, host: &Host, name: &str) {
        let (port, pid) = (host.port_name(), host.pid);
        let mac = host.mac();
        self.ip(&format!(
            "link add {port} type veth peer name {name} address {mac} netns /proc/{pid}/ns/net"
        ));
        self.ip(&format!("link set {port} master br0 up"));
    }

    /// Pulls a host's cable: it sees its carrier go.
    pub(crate) fn cut(&self, host: &Host) {
        self.ip(&format!("link set {} down", host.port_name()));
    }

    pub(crate) fn heal(&self, host: &Host) {
        self.ip(&format!("link set {} up", host.port_name()));
    }

    /// Takes a host off the bridge: it is alone and its carrier stays.
    pub(crate) fn isolate(&self, host: &Host) {
        self.ip(&format!("link set {} nomaster", host.port_name()));
    }

    pub(crate) fn rejoin(&self, host: &Host) {
        self.ip(&format!("link set {} master br0", host.port_name()));
    }

    /// Runs `ip` in the switch.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let mut command = Command::new("ip");
        command.args(arguments.split_whitespace());
        spawn::in_network(&mut command, self.switch.as_fd());
        stdout(&format!("switch: ip {arguments}"), &command.output().unwrap())
    }

    pub(crate) fn switch(&self) -> &OwnedFd {
        &self.switch
    }
}

/// A host; it ends when this is dropped.
pub(crate) struct Host {
    pub(crate) name: String,
    /// Its pid 1, as this process numbers it.
    pub(crate) pid: u32,
    port: u8,
    holder: Child,
}

impl Host {
    fn start(name: &str, port: u8) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh", "-c", FURNISH])
            .envs([("NAME", name), ("PROGRAM", &program()), ("EMPTY", EMPTY)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // unshare grumbles when its child is killed, which is how every host ends.
            .stderr(Stdio::null());
        spawn::born(&mut command, Birth { dies_with_parent: true, new_session: true });
        let mut holder = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready", "host {name} was not set up");
        let pid = child_of(holder.id()).unwrap();
        Self { name: name.to_owned(), pid, port, holder }
    }

    fn port_name(&self) -> String {
        format!("p{}", self.port)
    }

    /// Of `eth0`.
    pub(crate) fn mac(&self) -> String {
        format!("02:00:00:00:00:{:02x}", self.port)
    }

    /// A command that runs inside; it ends with the calling thread.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.pid))
            .args(["--net", "--mount", "--pid", "--uts", "--ipc", "--", program])
            .env("PATH", "/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        spawn::born(&mut command, Birth { dies_with_parent: true, new_session: true });
        command
    }

    /// Runs blank-separated words that must succeed; hands back the standard output.
    #[track_caller]
    pub(crate) fn run(&self, words: &str) -> String {
        stdout(&format!("{}: {words}", self.name), &self.try_run(words))
    }

    pub(crate) fn try_run(&self, words: &str) -> Output {
        let mut words = words.split_whitespace();
        self.command(words.next().unwrap()).args(words).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run(&format!("ip {arguments}"))
    }

    /// Feeds a ruleset to `nft -f -`; `nft("flush ruleset")` undoes everything.
    #[track_caller]
    pub(crate) fn nft(&self, rules: &str) {
        let mut nft = self.command("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = nft.spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{rules}\n").as_bytes()).unwrap();
        stdout(&format!("{}: nft: {rules}", self.name), &child.wait_with_output().unwrap());
    }

    /// Drops incoming packets that match, `ip6 nexthdr 112` say.
    pub(crate) fn drop_incoming(&self, matching: &str) {
        self.nft(&format!(
            "table inet loss {{\n chain in {{\n type filter hook input priority -300\n \
             {matching} drop\n }}\n}}"
        ));
    }

    pub(crate) fn drop_nothing(&self) {
        self.nft("flush ruleset");
    }

    /// Writes a file as the host sees it.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.outside(path);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.outside(path)).unwrap_or_default()
    }

    /// `net/ipv4/conf/all/promote_secondaries`, say.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        // /proc/sys/net is that of the reader's network, not that of the mount.
        let setting = format!("{}={value}", name.replace('/', "."));
        let output = self.command("sysctl").args(["-q", "-w", &setting]).output().unwrap();
        stdout(&format!("{}: {setting}", self.name), &output);
    }

    /// Where a path of the host is for this process.
    pub(crate) fn outside(&self, path: &str) -> String {
        format!("/proc/{}/root{path}", self.pid)
    }

    /// Starts a program and leaves it running; its output goes to `/run/logs/<label>`.
    pub(crate) fn launch(&self, label: &str, words: &str) -> Daemon {
        let log = self.outside(&format!("{LOGS}/{label}"));
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let mut words = words.split_whitespace();
        let mut command = self.command(words.next().unwrap());
        command.args(words).stdout(out.try_clone().unwrap()).stderr(out);
        let child = command.spawn().unwrap();
        let outer = child.id();
        let pid = wait_for(&format!("{label} to start"), ms(5000), || child_of(outer));
        Daemon { label: format!("{} on {}", label, self.name), pid, child, log }
    }

    /// Starts `standin run` with the text of a cluster file; the host's name is the node's.
    pub(crate) fn standin(&self, toml: &str) -> Daemon {
        self.write("/etc/standin/standin.toml", toml);
        self.launch("standin", &format!("{STANDIN} run --node {}", self.name))
    }

    /// Starts keepalived with the text of a configuration file.
    pub(crate) fn keepalived(&self, conf: &str) -> Daemon {
        self.write("/etc/keepalived/keepalived.conf", conf);
        for pid_file in ["keepalived.pid", "keepalived_vrrp.pid"] {
            // A stale one makes keepalived end at once; there may be none.
            let _gone = fs::remove_file(self.outside(&format!("/run/{pid_file}")));
        }
        self.launch("keepalived", "keepalived --dont-fork --log-console --log-detail --vrrp")
    }

    /// `standin status --json`; `None` while no daemon answers.
    pub(crate) fn try_status(&self) -> Option<Value> {
        let output = self.try_run(&format!("{STANDIN} status --json"));
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// The daemon's first VIP, as `standin status --json` shows it.
    pub(crate) fn vip(&self) -> Option<Value> {
        self.try_status()?.get("vips")?.get(0).cloned()
    }

    /// `idle`, `backup`, `active`; empty while no daemon answers.
    pub(crate) fn role(&self) -> String {
        self.vip().and_then(|vip| Some(vip.get("role")?.as_str()?.to_owned())).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn wait_role(&self, role: &str, within: Duration) {
        let tell = || {
            let log = self.read("/run/logs/standin");
            format!("{} to be {role}, it is {:?} and logged\n{log}", self.name, self.role())
        };
        wait_or_tell(tell, within, || (self.role() == role).then_some(()));
    }

    /// What the daemon recorded, oldest first, also of earlier daemons.
    pub(crate) fn events(&self) -> Vec<Value> {
        let lines = self.read("/var/lib/standin/events.jsonl");
        lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Whether an event of this kind has a text that contains `text`.
    pub(crate) fn said(&self, kind: &str, text: &str) -> bool {
        let string = |event: &Value, key: &str| event.get(key)?.as_str().map(str::to_owned);
        self.events().iter().any(|event| {
            string(event, "kind").as_deref() == Some(kind)
                && string(event, "text").is_some_and(|it| it.contains(text))
        })
    }

    #[track_caller]
    pub(crate) fn wait_said(&self, kind: &str, text: &str, within: Duration) {
        let tell = || {
            let log = self.read("/run/logs/standin");
            format!("{}: an event {kind:?} with {text:?}; it logged\n{log}", self.name)
        };
        wait_or_tell(tell, within, || self.said(kind, text).then_some(()));
    }

    /// How many changes of role the daemon has recorded.
    pub(crate) fn transitions(&self) -> usize {
        let is = |event: &&Value| event.get("kind").is_some_and(|kind| kind == "transition");
        self.events().iter().filter(is).count()
    }

    /// Whether the kernel has the address as one of the host's own.
    pub(crate) fn has(&self, address: &str) -> bool {
        holders::local_addresses(self.pid).contains(&address.parse().unwrap())
    }

    #[track_caller]
    pub(crate) fn wait_has(&self, address: &str, has: bool, within: Duration) -> Duration {
        let began = Instant::now();
        let tell = || {
            let log = self.read("/run/logs/standin");
            let verb = if has { "have" } else { "have lost" };
            format!(
                "{} to {verb} {address}; {}its daemon logged\n{log}",
                self.name,
                self.ip("addr")
            )
        };
        wait_or_tell(tell, within, || (self.has(address) == has).then_some(()));
        began.elapsed()
    }

    /// Ends the host as a power cut would, and everything in it.
    pub(crate) fn kill(&mut self) {
        let _gone = spawn::kill(self.pid, 9);
        let _ended = self.holder.wait();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program that runs in a host.
pub(crate) struct Daemon {
    label: String,
    /// As this process numbers it.
    pub(crate) pid: u32,
    child: Child,
    log: String,
}

impl Daemon {
    pub(crate) fn signal(&self, signal: i32) {
        spawn::kill(self.pid, signal).unwrap();
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal(15);
        let what = format!("{} to stop", self.label);
        let child = &mut self.child;
        wait_for(&what, Duration::from_secs(10), || child.try_wait().unwrap()).code()
    }

    /// SIGKILL to it and to all that it has started, at once: none sees another one end.
    pub(crate) fn crash(mut self) {
        let mut all = Vec::new();
        loop {
            let now = descendants(self.pid);
            if now.len() == all.len() {
                break;
            }
            // Stopped, it can't start another one while these are killed.
            now.iter().for_each(|pid| drop(spawn::kill(*pid, 19)));
            all = now;
        }
        // nsenter stops with its child.
        all.push(self.child.id());
        all.iter().for_each(|pid| drop(spawn::kill(*pid, 9)));
        let _ended = self.child.wait();
        // Who waits for the disk dies when it has answered.
        let dead = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
        };
        wait_until("the killed processes to be gone", Duration::from_secs(10), || {
            all.iter().all(dead)
        });
    }

    /// It and all that it has started, as this process numbers them.
    pub(crate) fn family(&self) -> Vec<u32> {
        descendants(self.pid)
    }

    /// SIGSTOP, or SIGCONT, to it and to all that it has started.
    pub(crate) fn freeze(&self, frozen: bool) {
        for pid in descendants(self.pid) {
            spawn::kill(pid, if frozen { 19 } else { 18 }).unwrap();
        }
        if !frozen {
            // nsenter stops with its child.
            spawn::kill(self.child.id(), 18).unwrap();
        }
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// The process and, below it, its children; the process first.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        let mut listed = String::new();
        let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let file = File::open(task.path().join("children"));
            let _read = file.and_then(|mut file| file.read_to_string(&mut listed));
            listed.push(' ');
        }
        found.extend(listed.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        next += 1;
    }
    found
}

pub(crate) fn child_of(pid: u32) -> Option<u32> {
    descendants(pid).get(1).copied()
}

#[track_caller]
fn stdout(what: &str, output: &Output) -> String {
    assert!(
        output.status.success(),
        "{what}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
