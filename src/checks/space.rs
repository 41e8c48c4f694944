//! For tests: a host of its own for a test, with its own network, processes and mounts.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use standin_core::Verdict;

use super::{Report, Running, locked, start};

const MARK: &str = "STANDIN_TEST_HOST";

/// A test that takes longer hangs.
const LONGEST_S: &str = "60";

/// Folders that a test may fill: empty in the test's own host.
const EMPTY: &[&str] =
    &["/run", "/var/log", "/etc/nginx", "/etc/sysctl.d", "/usr/local", "/var/tmp"];

/// Runs `body` on a host of its own: this test binary again, in new namespaces.
///
/// `test` is the test's full name. The host has `lo` and `eth0` with 192.0.2.11/24 and fd00::11/64.
pub(crate) fn on_a_host<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F) {
    if std::env::var(MARK).as_deref() == Ok(test) {
        set_up();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
        return;
    }
    // Teardown of one test's network delays another's timed one.
    let lock = std::env::temp_dir().join("standin-timed-tests.lock");
    let output = Command::new("flock")
        .arg(lock)
        .args([
            "timeout",
            "--signal=KILL",
            LONGEST_S,
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
    assert!(output.status.success(), "on the host of {test}: {}", output.status);
    assert!(said.contains("1 passed"), "there is no test {test}");
}

fn set_up() {
    for folder in EMPTY {
        sh(&format!("mount -t tmpfs -o mode=755 tmpfs {folder}"));
    }
    sh("mount -t sysfs sysfs /sys; mkdir -p /var/log/nginx; ip link set lo up");
    sh("ip link add eth0 type veth peer name other; ip link set other up");
    sh("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 up");
    sh("ip address add 192.0.2.11/24 dev eth0; ip address add fd00::11/64 dev eth0 nodad");
}

/// Runs a command line that must succeed.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("/bin/sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Writes a file and the folders above it.
pub(crate) fn write(path: &str, text: &str) {
    std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Checks under way, with everything that they reported and when.
pub(crate) struct Watching {
    pub(crate) running: Running,
    reports: Arc<Mutex<Vec<(Instant, Report)>>>,
}

/// Starts the checks of a cluster file that ends with `sections`, on node n1, 192.0.2.11.
pub(crate) fn checks(sections: &str) -> Watching {
    checks_after(None, sections)
}

/// The same, as a reload does it while the checks of the file before are under way.
pub(crate) fn checks_after(earlier: Option<&Watching>, sections: &str) -> Watching {
    let names = sections.lines().filter_map(|line| line.strip_prefix("[check.")?.strip_suffix(']'));
    let mut names: Vec<&str> = names.collect();
    if sections.contains("[nginx]") && !sections.contains("[nginx] # of no VIP") {
        names.push("nginx");
    }
    let text = format!(
        "cluster = \"test\"\n\
         [node.n1]\naddress = [\"192.0.2.11\", \"fd00::11\"]\n\
         [node.n2]\naddress = [\"192.0.2.12\", \"fd00::12\"]\n\
         [vip.web]\nvirtual_router_id = 41\naddresses = [\"192.0.2.41/24\", \"fd00::41/64\"]\n\
         checks = {names:?}\n{sections}\n"
    );
    let loaded = standin_config::load("test.toml", &text);
    let cluster = loaded.model.clone().unwrap_or_else(|| panic!("{}", loaded.render(false)));
    let plan = cluster.plan("n1", "eth0").unwrap();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&reports);
    let sink = move |report: Report| locked(&kept).push((Instant::now(), report));
    let earlier = earlier.map(|watching| &watching.running);
    Watching { running: start(Arc::new(cluster), &plan, earlier, sink), reports }
}

impl Watching {
    /// How many reports there are.
    pub(crate) fn count(&self) -> usize {
        locked(&self.reports).len()
    }

    /// The reports after the first `seen` ones.
    pub(crate) fn since(&self, seen: usize) -> Vec<(Instant, Report)> {
        locked(&self.reports).get(seen..).unwrap_or_default().to_vec()
    }

    /// Waits for a report after the first `seen` ones that `wanted` accepts.
    pub(crate) async fn until(
        &self,
        seen: usize,
        wanted: impl Fn(&Report) -> bool,
    ) -> (Instant, Report) {
        for _ in 0..10_000 {
            let found = self.since(seen).into_iter().find(|(_, report)| wanted(report));
            if let Some(found) = found {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("not reported in 10 s; reported was {:#?}", self.since(seen));
    }

    /// Waits for the next report with this verdict.
    pub(crate) async fn next(&self, verdict: Verdict) -> (Instant, Report) {
        self.until(self.count(), |report| report.verdict == verdict).await
    }
}
