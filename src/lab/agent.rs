//! What runs inside a lab host: pid 1, which sets the host up, carries out orders and reaps.
//!
//! Two hidden subcommands. `host` gives itself namespaces and starts `init` in them; `init` is
//! pid 1 there and takes orders, one JSON line each, on the socket that is its standard input.
//! When that socket closes or pid 1 dies, the kernel ends everything in the host.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use standin_linux::spawn::{self, Birth};

/// An order is a line; the longest carries a configuration file.
pub(super) const LONGEST_LINE: u64 = 4 << 20;

/// Exit statuses kept for processes that nobody waits for; a lab host starts a few dozen.
const STATUSES_KEPT: usize = 4096;

/// Where the host keeps what is the lab's own: the overlays' upper layers, the binary, outputs.
pub(super) const LAB_DIRECTORY: &str = "/run/lab";

/// This binary, as the host sees it.
pub(super) const BINARY: &str = "/run/lab/bin/standin";

/// Directories whose changes stay in the host: what lies below shows through.
const OVERLAID: [&str; 4] = ["/etc", "/var/lib", "/var/log", "/usr/local"];

/// Directories that begin empty in each host.
const EMPTY: [&str; 7] = [
    "/etc/nginx",
    "/etc/standin",
    "/etc/keepalived",
    "/var/lib/nginx",
    "/var/lib/standin",
    "/var/log/nginx",
    "/var/log/standin",
];

const PATH: &str = "/run/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a host is told to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Run to its end and hand back what it wrote.
    Run {
        argv: Vec<String>,
        timeout_ms: u64,
    },
    /// Leave it running; its output goes to the file `log`.
    Start {
        argv: Vec<String>,
        log: String,
    },
    Signal {
        pids: Vec<u32>,
        signal: i32,
    },
    Write {
        path: String,
        text: String,
    },
}

/// What a host says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// From the outer process: pid 1's process id as the outside sees it.
    Born {
        pid: u32,
    },
    /// Mounts are made; orders are taken.
    Ready,
    Ran {
        code: Option<i32>,
        stdout: String,
        stderr: String,
    },
    Started {
        pid: u32,
    },
    Done,
    Refused {
        why: String,
    },
}

/// The outer process of a host: makes the namespaces and waits for pid 1.
pub(super) fn host(name: &str) -> Result<()> {
    let mut socket = control_socket()?;
    if let Err(error) = spawn::isolate_host() {
        say(&mut socket, &Answer::Refused { why: format!("no namespaces of its own: {error}") })?;
        bail!("host {name}: {error}");
    }
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["lab", "init", name])
        .stdin(Stdio::from(socket.try_clone()?.as_fd().try_clone_to_owned()?));
    spawn::born(&mut command, Birth { dies_with_parent: true, ..Birth::default() });
    let mut child = command.spawn().context("cannot start the host's pid 1")?;
    say(&mut socket, &Answer::Born { pid: child.id() })?;
    drop(socket);
    child.wait()?;
    Ok(())
}

/// Pid 1 of a host.
pub(super) fn init(name: &str) -> Result<()> {
    let mut socket = control_socket()?;
    if let Err(error) = furnish(name) {
        say(&mut socket, &Answer::Refused { why: format!("{error:#}") })?;
        return Err(error);
    }
    let children = Arc::new(Children::default());
    let reaper = Arc::clone(&children);
    std::thread::spawn(move || reaper.reap());
    say(&mut socket, &Answer::Ready)?;
    let mut lines = BufReader::new(socket.try_clone()?);
    let mut line = String::new();
    loop {
        line.clear();
        let length = std::io::Read::take(&mut lines, LONGEST_LINE).read_line(&mut line)?;
        if length == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_str(&line) {
            Ok(order) => carry_out(order, &children)
                .unwrap_or_else(|error| Answer::Refused { why: format!("{error:#}") }),
            Err(error) => Answer::Refused { why: error.to_string() },
        };
        say(&mut socket, &answer)?;
    }
}

fn control_socket() -> Result<UnixStream> {
    Ok(UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?))
}

fn say(socket: &mut UnixStream, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(socket.write_all(&line)?)
}

/// Mounts the host's own `/proc`, `/sys`, `/run` and private directories; brings `lo` up.
fn furnish(name: &str) -> Result<()> {
    let binary = std::env::current_exe().context("cannot find this binary")?;
    spawn::set_host_name(name).context("cannot set the host name")?;
    spawn::mount_proc().context(
        "cannot mount /proc for the host (a container that hides parts of /proc forbids it: \
         run the lab outside, or the container with --privileged)",
    )?;
    // Some containers refuse it. Then /sys shows the outside's interfaces, which nothing here needs.
    let _shows_outside = spawn::mount_sys();
    spawn::mount_memory(Path::new("/run")).context("cannot mount a private /run")?;
    let lab = Path::new(LAB_DIRECTORY);
    fs::create_dir_all(lab.join("bin"))?;
    File::create(BINARY)?;
    spawn::mount_bind(&binary, Path::new(BINARY))
        .with_context(|| format!("cannot show {} inside the host", binary.display()))?;
    for (index, directory) in OVERLAID.iter().enumerate() {
        if !Path::new(directory).is_dir() {
            continue;
        }
        let (upper, work) = (lab.join(format!("upper{index}")), lab.join(format!("work{index}")));
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        spawn::mount_overlay(Path::new(directory), &upper, &work).with_context(|| {
            format!("cannot lay an overlay over {directory}, so the host could change the machine")
        })?;
    }
    for directory in EMPTY {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {directory}"))?;
        spawn::mount_memory(Path::new(directory))
            .with_context(|| format!("cannot mount a private {directory}"))?;
    }
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).env("PATH", PATH).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("`ip link set lo up` ended with {status}"),
        Err(error) => bail!("cannot run `ip` (package iproute2): {error}"),
    }
}

/// The processes that pid 1 started or inherited, and how they ended.
#[derive(Default)]
struct Children {
    ended: Mutex<HashMap<u32, ExitStatus>>,
    changed: Condvar,
}

impl Children {
    fn reap(&self) {
        loop {
            match spawn::wait_any() {
                Ok((pid, status)) => {
                    let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
                    if ended.len() >= STATUSES_KEPT {
                        ended.clear();
                    }
                    ended.insert(pid, status);
                    self.changed.notify_all();
                }
                // No child now. One that is started meanwhile is seen this much later at most.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// `None` when the process still runs at `deadline`.
    fn wait(&self, pid: u32, deadline: Instant) -> Option<ExitStatus> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(status) = ended.remove(&pid) {
                return Some(status);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            ended =
                self.changed.wait_timeout(ended, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn carry_out(order: Order, children: &Children) -> Result<Answer> {
    match order {
        Order::Run { argv, timeout_ms } => run(&argv, Duration::from_millis(timeout_ms), children),
        Order::Start { argv, log } => {
            let log = File::options().create(true).append(true).open(&log).context(log)?;
            let child = command(&argv)?
                .stdout(log.try_clone()?)
                .stderr(log)
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot start {argv:?}"))?;
            Ok(Answer::Started { pid: child.id() })
        }
        Order::Signal { pids, signal } => {
            let mut refused = Ok(());
            for pid in pids {
                // The others are signalled all the same: a fault is either injected or reported.
                if let Err(error) = spawn::kill(pid, signal) {
                    refused = Err(anyhow!("cannot send signal {signal} to {pid}: {error}"));
                }
            }
            refused.map(|()| Answer::Done)
        }
        Order::Write { path, text } => {
            if let Some(directory) = Path::new(&path).parent().filter(|it| !it.starts_with("/proc"))
            {
                fs::create_dir_all(directory)?;
            }
            fs::write(&path, text).context(path)?;
            Ok(Answer::Done)
        }
    }
}

/// Output goes through files: a daemon that keeps its output open can't hold the order up.
fn run(argv: &[String], timeout: Duration, children: &Children) -> Result<Answer> {
    let lab = Path::new(LAB_DIRECTORY);
    let (out, err) = (lab.join("stdout"), lab.join("stderr"));
    let child = command(argv)?
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?)
        .spawn()
        .with_context(|| format!("cannot run {argv:?}"))?;
    let deadline = Instant::now() + timeout;
    let Some(status) = children.wait(child.id(), deadline) else {
        spawn::kill(child.id(), 9)?;
        bail!("{argv:?} did not end within {} ms and was killed", timeout.as_millis());
    };
    let read = |path: &Path| fs::read(path).map(|it| String::from_utf8_lossy(&it).into_owned());
    Ok(Answer::Ran { code: status.code(), stdout: read(&out)?, stderr: read(&err)? })
}

fn command(argv: &[String]) -> Result<Command> {
    let [program, arguments @ ..] = argv else { bail!("an order without a command") };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).env("PATH", PATH).current_dir("/");
    Ok(command)
}

/// What a shell in a host gets as its environment beyond its caller's.
pub(super) fn host_environment() -> [(&'static str, &'static str); 1] {
    [("PATH", PATH)]
}
