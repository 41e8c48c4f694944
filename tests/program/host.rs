//! Hosts for a test: namespaces with a network, processes and files of their own, on one bridge.
//!
//! A test is this program again, as the first process of a process namespace: whatever it starts ends
//! with it, however it ends.

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

const MARK: &str = "STANDIN_TEST_RACK";

pub(crate) const STANDIN: &str = env!("CARGO_BIN_EXE_standin");

/// Folders that are empty and private on each host.
const EMPTY: &[&str] = &[
    "/run",
    "/etc/standin",
    "/etc/sysctl.d",
    "/var/lib/standin",
    "/var/lib/nginx",
    "/var/log",
    "/usr/local/nginx",
];

/// What takes longer than this has failed; a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(15);

/// Seconds after which a test hangs.
const TOO_LONG: &str = "120";

/// Runs `body` with a bridge of its own; `test` is the test's full name.
pub(crate) fn rack(test: &str, body: impl FnOnce()) {
    if !is_root() {
        eprintln!("SKIPPED: {test} needs root");
        return;
    }
    if std::env::var(MARK).as_deref() == Ok(test) {
        run("mount -t sysfs sysfs /sys; ip link set lo up");
        run("ip link add br0 type bridge mcast_snooping 0; ip link set br0 up");
        body();
        return;
    }
    // A test that hangs ends, and everything that it started.
    let output = Command::new("timeout")
        .args([
            "-k",
            "5",
            TOO_LONG,
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(MARK, test)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "in the rack of {test}: {}", output.status);
    assert!(said.contains("1 passed"), "there is no test {test}");
}

/// As [`rack`], and not at the same time as any other test that measures time.
pub(crate) fn rack_in_time(test: &str, body: impl FnOnce()) {
    let inside = std::env::var(MARK).is_ok();
    let lock = fs::File::create(std::env::temp_dir().join("standin-timed-tests.lock")).unwrap();
    if !inside {
        lock.lock().unwrap();
    }
    rack(test, body);
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Runs a shell line in the rack that must succeed.
pub(crate) fn run(line: &str) -> String {
    done(line, Command::new("/bin/sh").args(["-ec", line]).output().unwrap())
}

fn done(line: &str, output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {}\n{said}{error}", output.status);
    said
}

/// Waits until `look` gives something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Waits until `look` says yes.
pub(crate) fn until(what: &str, mut look: impl FnMut() -> bool) {
    eventually(what, || look().then_some(()));
}

/// Sends a signal to one process.
pub(crate) fn signal(name: &str, pid: u32) {
    run(&format!("kill -{name} {pid}"));
}

/// The only child of a process.
fn child_of(pid: u32) -> u32 {
    eventually("a child process", || {
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        list.split_ascii_whitespace().next()?.parse().ok()
    })
}

/// A machine on the bridge, with `eth0`.
pub(crate) struct Host {
    /// Its first process, as the rack sees it.
    init: u32,
    keeper: Child,
}

/// A program that runs on a host.
pub(crate) struct Program {
    pub(crate) pid: u32,
    child: Child,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Host {
    /// Starts a host that has 192.0.2.`last`/24 and fd00::`last`/64.
    pub(crate) fn new(name: &str, last: u8) -> Self {
        let empty: Vec<_> = EMPTY
            .iter()
            .map(|dir| format!("mkdir -p {dir}; mount -t tmpfs -o mode=755 tmpfs {dir}"))
            .collect();
        let line = format!(
            "hostname {name}; {}; mkdir -p /var/log/nginx; mount -t sysfs sysfs /sys; ip link set lo up; \
             exec sleep infinity",
            empty.join("; ")
        );
        let keeper = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"])
            .args(["--propagation", "private", "--", "/bin/sh", "-ec", &line])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let init = child_of(keeper.id());
        let host = Self { init, keeper };
        until("the host is up", || {
            fs::read_to_string(format!("/proc/{init}/comm"))
                .is_ok_and(|name| name.trim() == "sleep")
        });
        host.wire("eth0");
        host.sh(&format!(
            "ip address add 192.0.2.{last}/24 dev eth0; ip address add fd00::{last}/64 dev eth0 nodad"
        ));
        host
    }

    /// Adds a link to the bridge.
    pub(crate) fn wire(&self, name: &str) {
        let (init, outside) = (self.init, format!("{}{name}", self.init));
        run(&format!(
            "ip link add {outside} type veth peer name {name} netns {init}; \
             ip link set {outside} master br0 up"
        ));
        self.sh(&format!(
            "echo 0 > /proc/sys/net/ipv6/conf/{name}/accept_dad; ip link set {name} up"
        ));
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-n", "-m", "-p", "-u", "--"]);
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Runs a shell line that must succeed.
    pub(crate) fn sh(&self, line: &str) -> String {
        done(line, self.enter().args(["/bin/sh", "-ec", line]).output().unwrap())
    }

    /// Runs `standin` with these words.
    pub(crate) fn standin(&self, words: &str) -> Said {
        let output = self.enter().arg(STANDIN).args(words.split(' ')).output().unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Sends a signal to every standin process of the host, the guard first.
    pub(crate) fn signal_all(&self, name: &str) {
        self.sh(&format!("kill -{name} $(pidof standin | tr ' ' '\\n' | sort -n)"));
    }

    /// Starts a shell line whose output goes to a file of the host.
    pub(crate) fn start(&self, line: &str, output: &str) -> Program {
        let file = fs::File::create(self.path(output)).unwrap();
        let mut command = self.enter();
        command.args(["/bin/sh", "-ec", &format!("exec {line}")]);
        let child = command.stderr(file.try_clone().unwrap()).stdout(file).spawn().unwrap();
        Program { pid: child_of(child.id()), child }
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn daemon(&self, more: &str) -> Program {
        let line = format!("{STANDIN} run {more}");
        let mut daemon = self.start(line.trim(), "/run/standin.log");
        until("the daemon answers", || {
            assert!(daemon.lives(), "the daemon ended:\n{}", self.log());
            self.standin("status --json").code == 0
        });
        daemon
    }

    /// What the daemon said.
    pub(crate) fn log(&self) -> String {
        self.read("/run/standin.log")
    }

    /// Where a file of the host is for the rack.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// A file of the host; empty if there is none.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read(self.path(path))
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes an executable script.
    pub(crate) fn script(&self, path: &str, body: &str) {
        self.write(path, &format!("#!/bin/sh\n{body}\n"));
        self.sh(&format!("chmod 755 {path}"));
    }

    pub(crate) fn cluster(&self, text: &str) {
        self.write("/etc/standin/standin.toml", text);
    }

    /// `standin status --json`.
    pub(crate) fn status(&self) -> Value {
        let said = self.standin("status --json");
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.out).unwrap()
    }

    /// The role of a VIP.
    pub(crate) fn role(&self, vip: &str) -> String {
        field(&self.status(), vip, "role").as_str().unwrap_or("none").to_owned()
    }

    /// Waits until a VIP has a role.
    pub(crate) fn until_role(&self, vip: &str, role: &str) {
        until(&format!("{vip} is {role}"), || self.role(vip) == role);
    }

    pub(crate) fn has(&self, address: &str) -> bool {
        self.sh("ip -o address").contains(&format!(" {address} "))
    }

    /// All events, as JSON.
    pub(crate) fn events(&self) -> Vec<Value> {
        let said = self.standin("events --json");
        assert_eq!(said.code, 0, "{said:?}");
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of a host\n{}", self.log());
        }
        // `--kill-child` ends everything on the host with it.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A field of a VIP in a status.
pub(crate) fn field(status: &Value, vip: &str, name: &str) -> Value {
    let vips = status["vips"].as_array().unwrap();
    vips.iter().find(|one| one["name"] == vip).map_or(Value::Null, |one| one[name].clone())
}

impl Program {
    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.pid);
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end; its exit code, -1 for a signal.
    pub(crate) fn ended(&mut self) -> i32 {
        eventually("the program ends", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }

    /// Ends it with SIGTERM.
    pub(crate) fn stop(&mut self) -> i32 {
        self.signal("TERM");
        self.ended()
    }
}

/// A pair of nodes, 192.0.2.11 and .12, with the VIP 192.0.2.41; `vip` and `sections` follow.
pub(crate) fn pair(vip: &str, sections: &str) -> String {
    format!(
        "cluster = \"edge\"\n\n[node.n1]\naddress = \"192.0.2.11\"\npriority = 150\n\n\
         [node.n2]\naddress = \"192.0.2.12\"\npriority = 100\n\n\
         [vip.web]\nvirtual_router_id = 41\naddresses = [\"192.0.2.41/24\"]\n{vip}\n\n{sections}\n"
    )
}
