//! A host of the lab as seen from outside: started, told what to do, killed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use standin_linux::spawn::{self, Birth};

use super::agent::{Answer, LONGEST_LINE, Order};

/// A host that is not set up by then never will be; mounts take milliseconds.
const SET_UP_WITHIN: Duration = Duration::from_secs(10);

/// How long one command inside a host may take: a switchover drains for 3 s, and where a connection is left
/// whose client is gone (after an earlier fault, say) nginx gets 10 s more.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// How a command inside a host ended.
#[derive(Debug)]
pub(super) struct Ran {
    /// `None` when a signal ended it.
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// A process inside a host.
#[derive(Debug)]
pub(super) struct Process {
    /// As the host's own `/proc` numbers it.
    pub(super) pid: u32,
    /// The kernel's name for it, at most 15 bytes.
    pub(super) command: String,
    /// What follows the program's name on its command line.
    pub(super) arguments: Vec<String>,
    /// `T` is stopped.
    pub(super) state: char,
}

/// A running host.
pub(super) struct Host {
    pub(super) name: String,
    /// Pid 1 as the outside numbers it.
    pid: u32,
    outer: Child,
    orders: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Host {
    /// Makes the namespaces and waits until pid 1 takes orders.
    ///
    /// The calling thread must outlive the host: the kernel ends the host with it.
    pub(super) fn start(name: &str) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(SET_UP_WITHIN))?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["lab", "host", name]).stdin(Stdio::from(OwnedFd::from(theirs)));
        // What it has to say comes as an answer; a lab that is left running keeps nobody's pipes.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        spawn::born(&mut command, Birth { dies_with_parent: true, ..Birth::default() });
        let outer = command.spawn().context("cannot start this binary again")?;
        drop(command);
        let answers = BufReader::new(ours.try_clone()?);
        let mut host = Self { name: name.to_owned(), pid: 0, outer, orders: ours, answers };
        let mut ready = false;
        while !ready || host.pid == 0 {
            match host.hear().with_context(|| format!("host {name} was not set up"))? {
                Answer::Born { pid } => host.pid = pid,
                Answer::Ready => ready = true,
                Answer::Refused { why } => bail!("host {name} was not set up: {why}"),
                other => bail!("host {name} said {other:?} before it was set up"),
            }
        }
        host.orders.set_read_timeout(Some(COMMAND_TIMEOUT + SET_UP_WITHIN))?;
        Ok(host)
    }

    /// Pid 1 as the outside numbers it.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn network(&self) -> Result<OwnedFd> {
        spawn::network_of(self.pid).with_context(|| format!("host {} is gone", self.name))
    }

    /// Runs a command to its end, whatever its exit status is.
    pub(super) fn try_run(&mut self, argv: &[&str]) -> Result<Ran> {
        let order = Order::Run {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            timeout_ms: u64::try_from(COMMAND_TIMEOUT.as_millis()).unwrap_or(u64::MAX),
        };
        match self.order(&order)? {
            Answer::Ran { code, stdout, stderr } => Ok(Ran { code, stdout, stderr }),
            other => bail!("{}: {argv:?} was answered by {other:?}", self.name),
        }
    }

    /// Runs a command that must succeed; hands back its standard output.
    pub(super) fn run(&mut self, argv: &[&str]) -> Result<String> {
        let ran = self.try_run(argv)?;
        if ran.code == Some(0) {
            return Ok(ran.stdout);
        }
        let said = if ran.stderr.trim().is_empty() { &ran.stdout } else { &ran.stderr };
        bail!("{}: `{}` failed: {}", self.name, argv.join(" "), said.trim())
    }

    /// Starts a command and leaves it running; its output is appended to `log`.
    pub(super) fn launch(&mut self, argv: &[&str], log: &str) -> Result<u32> {
        let order = Order::Start {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            log: log.to_owned(),
        };
        match self.order(&order)? {
            Answer::Started { pid } => Ok(pid),
            other => bail!("{}: {argv:?} was answered by {other:?}", self.name),
        }
    }

    pub(super) fn signal(&mut self, pids: &[u32], signal: i32) -> Result<()> {
        self.order(&Order::Signal { pids: pids.to_vec(), signal }).map(|_| ())
    }

    /// Writes a file of the host, and the directories above it; also sysctls under `/proc/sys`.
    pub(super) fn write(&mut self, path: &str, text: &str) -> Result<()> {
        let order = Order::Write { path: path.to_owned(), text: text.to_owned() };
        self.order(&order).map(|_| ())
    }

    /// Reads a file of the host.
    pub(super) fn read(&self, path: &str) -> Result<String> {
        let outside = format!("/proc/{}/root{path}", self.pid);
        fs::read_to_string(&outside).with_context(|| format!("{}: {path}", self.name))
    }

    /// The host's living processes other than pid 1, in order of their ids.
    pub(super) fn processes(&self) -> Result<Vec<Process>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/root/proc", self.pid))? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A process may end while its directory is read.
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
            let command = head.split_once('(').map(|(_, name)| name.to_owned()).unwrap_or_default();
            let state = tail.chars().next().unwrap_or('?');
            if pid != 1 && state != 'Z' {
                let words = line.split(|byte| *byte == 0).skip(1);
                let arguments =
                    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
                found.push(Process { pid, command, arguments, state });
            }
        }
        found.sort_by_key(|process| process.pid);
        Ok(found)
    }

    /// Ends the host with everything in it, as a power cut would.
    pub(super) fn kill(&mut self) -> Result<()> {
        // The outer process is the parent of pid 1, which the kernel kills with it.
        self.outer.kill()?;
        self.outer.wait()?;
        // Its namespaces are gone when the last process is; that is when pid 1's entry vanishes.
        let entry = format!("/proc/{}/ns/net", self.pid);
        for _ in 0..500 {
            if fs::read_link(&entry).is_err() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("host {} did not end", self.name)
    }

    fn order(&mut self, order: &Order) -> Result<Answer> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.orders
            .write_all(&line)
            .with_context(|| format!("host {} takes no orders: it is down", self.name))?;
        match self.hear()? {
            Answer::Refused { why } => bail!("{}: {why}", self.name),
            answer => Ok(answer),
        }
    }

    fn hear(&mut self) -> Result<Answer> {
        let mut line = String::new();
        std::io::Read::take(&mut self.answers, LONGEST_LINE)
            .read_line(&mut line)
            .with_context(|| format!("host {} gives no answer", self.name))?;
        if line.is_empty() {
            bail!("host {} has ended", self.name);
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Already dead is as good.
        let _already_dead = self.kill();
    }
}
