//! Machines to measure on: a network, mount and process namespace each, gone with this process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A program that was asked to end has this long before it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(2);

/// One machine. Its first process reads a pipe of ours: when this process ends, however it ends,
/// that one ends too, and the kernel ends everything in the namespace.
pub(crate) struct Host {
    outer: Child,
    pid: u32,
    /// Files of this host, seen under the same name inside and outside.
    pub(crate) dir: PathBuf,
}

impl Host {
    pub(crate) fn new(dir: &Path, name: &str) -> Result<Self> {
        let dir = dir.join(name);
        fs::create_dir_all(&dir)?;
        let outer = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "cat"])
            .stdin(Stdio::piped())
            .spawn()
            .context("unshare(1) is needed, and root")?;
        let child = || child_of(outer.id());
        let pid = wait_for(ENDS_WITHIN, child).context("no namespace was made")?;
        let host = Self { outer, pid, dir };
        host.run("mount -t tmpfs run /run")?;
        host.run("ip link set lo up")?;
        Ok(host)
    }

    /// Lays a cable between this host's `here` and the other's `there`, each with its address.
    pub(crate) fn cable(
        &self,
        here: &str,
        own: &str,
        to: &Self,
        there: &str,
        its: &str,
    ) -> Result<()> {
        // From our own mounts, whose /proc knows the other host's process id.
        let done = Command::new("nsenter")
            .args(["--target", &self.pid.to_string(), "--net", "ip", "link", "add", here])
            .args(["type", "veth", "peer", "name", there, "netns", &to.pid.to_string()])
            .status()?;
        if !done.success() {
            bail!("can't make the cable {here}: {done}");
        }
        for (host, link, address) in [(self, here, own), (to, there, its)] {
            host.run(&format!("ip address add {address} dev {link}"))?;
            host.run(&format!("ip link set {link} up"))?;
        }
        Ok(())
    }

    /// A command line, without quoting, in this host.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--pid", "--"]);
        command.args(line.split_whitespace()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end; its standard output.
    pub(crate) fn run(&self, line: &str) -> Result<String> {
        let output = self.command(line).output().with_context(|| line.to_owned())?;
        if !output.status.success() {
            bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a program; both of its outputs go to `LOG` in the host's directory.
    pub(crate) fn start(&self, line: &str, log: &str) -> Result<Program> {
        let log = self.dir.join(log);
        let file = File::create(&log)?;
        let started = Instant::now();
        let entrance = self.command(line).stdout(file.try_clone()?).stderr(file).spawn()?;
        let Some(pid) = wait_for(ENDS_WITHIN, || child_of(entrance.id())) else {
            bail!("{line} didn't start: {}", fs::read_to_string(&log).unwrap_or_default());
        };
        Ok(Program { entrance, pid, log, started })
    }

    /// How many of the benches' VIPs are on this host.
    pub(crate) fn vips(&self) -> Result<usize> {
        let list = self.run("ip -oneline -4 address show")?;
        Ok(list.lines().filter(|line| line.contains(".100.")).count())
    }

    /// Waits until the host has exactly so many VIPs; how long that took.
    pub(crate) fn wait_for_vips(&self, count: usize, longest: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let here = self.vips()?;
            let took = began.elapsed();
            if here == count {
                return Ok(took);
            }
            if took > longest {
                bail!(
                    "{here} instead of {count} VIPs after {longest:?}, see {}",
                    self.dir.display()
                );
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Closing the pipe ends the first process, and that the rest.
        drop(self.outer.stdin.take());
        let _ = self.outer.wait();
    }
}

/// A program in a host; killed when it is dropped.
pub(crate) struct Program {
    entrance: Child,
    /// As seen from here.
    pub(crate) pid: u32,
    pub(crate) log: PathBuf,
    pub(crate) started: Instant,
}

impl Program {
    /// The program and all of its descendants.
    pub(crate) fn processes(&self) -> Vec<u32> {
        family_of(self.pid)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.entrance.try_wait(), Ok(None))
    }

    pub(crate) fn words(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks the program to end; how long it took.
    pub(crate) fn stop(mut self) -> Result<Duration> {
        let began = Instant::now();
        signal(self.pid, Signal::TERM);
        let ended = || self.entrance.try_wait().ok().flatten();
        wait_for(ENDS_WITHIN, ended).context("it didn't end when asked to")?;
        Ok(began.elapsed())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.is_running() {
            for pid in self.processes() {
                signal(pid, Signal::KILL);
            }
            let _ = self.entrance.wait();
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// Waits for a value.
pub(crate) fn wait_for<T>(longest: Duration, mut what: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = what() {
            return Some(value);
        }
        if began.elapsed() > longest {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// A process and all of its descendants.
pub(crate) fn family_of(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        all.extend(children_of(pid));
        next += 1;
    }
    all
}

fn child_of(pid: u32) -> Option<u32> {
    children_of(pid).into_iter().next()
}

fn children_of(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    children
}
