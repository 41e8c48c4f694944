//! Runs a check script: no shell, its own process group, a clean environment, a hard end.

use std::fs;
use std::io::{self, Read};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use standin_linux::child::{self, User};
use standin_linux::spawn;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Outcome, trust};

/// The end of what a script said is what explains it.
const OUTPUT_BYTES: usize = 4096;

/// A script that left a talkative child behind doesn't hold us.
const LAST_WORDS_BYTES: usize = 64 * 1024;

/// Threads that one script may leave hanging in a dead file system.
const STARTS: usize = 2;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A check script and how it is run.
#[derive(Debug)]
pub(crate) struct Script {
    /// Program and arguments, not empty.
    pub(crate) command: Vec<String>,
    /// `None`: the daemon's own.
    pub(crate) user: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) starts: Starts,
}

/// Starts scripts from threads, since a dead file system or directory service holds whoever does it.
#[derive(Clone, Debug)]
pub(crate) struct Starts(Arc<Semaphore>);

impl Default for Starts {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STARTS)))
    }
}

/// Kills the script's process group when it timed out or is no longer wanted.
#[derive(Debug)]
struct Group(u32);

impl Group {
    /// The script came to its end; what it left running was meant to stay.
    fn disband(self) {
        std::mem::forget(self);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Nobody left in it is as good.
        let _nobody_left = child::kill_group(self.0);
    }
}

/// A script that runs; its group goes before itself.
#[derive(Debug)]
struct Started {
    group: Group,
    running: Child,
}

impl Script {
    /// Passes when the script exits with 0 within its timeout.
    pub(super) async fn run(&self) -> Outcome {
        self.run_with(&[]).await
    }

    /// As [`Script::run`], with more in its environment.
    pub(crate) async fn run_with(&self, environment: &[(&str, String)]) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let mut tail = Tail::default();
        let (reader, started) = match self.start(environment, deadline).await {
            Ok(started) => started,
            Err(why) => return Outcome::fail(why),
        };
        let ended = match heard(started, reader, deadline, &mut tail).await {
            Ok(ended) => ended,
            Err(error) => return Outcome::fail(format!("not run: {}: {error}", self.program())),
        };
        let said = tail.text();
        let (good, how) = match ended {
            Some(status) => (status.success(), describe(status)),
            None => (false, format!("killed after {} ms", self.timeout.as_millis())),
        };
        let last = last_lines(&said);
        let detail = if last.is_empty() { how } else { format!("{how}: {last}") };
        let outcome = if good { Outcome::pass(detail) } else { Outcome::fail(detail) };
        outcome.with_output(said)
    }

    fn program(&self) -> &str {
        self.command.first().map(String::as_str).unwrap_or_default()
    }

    /// Starts it on another thread, and gives it up at its deadline: should it start later, it is killed.
    async fn start(
        &self,
        environment: &[(&str, String)],
        deadline: Instant,
    ) -> Result<(pipe::Receiver, Started), String> {
        let program = self.program();
        let hangs = |what: &str| {
            let service = if self.user.is_some() { ", or the look-up of its user," } else { "" };
            format!("not run: {program}: {what}; does its file system{service} hang?")
        };
        let Ok(permit) = Arc::clone(&self.starts.0).try_acquire_owned() else {
            return Err(hangs("earlier starts have not come back"));
        };
        let words = |error: io::Error| format!("not run: {program}: {error}");
        // One pipe for both, so that the order of what was said is kept.
        let (reader, writer) = io::pipe().map_err(words)?;
        let mut command = Command::new(program);
        command
            .args(self.command.iter().skip(1))
            .env_clear()
            .env("PATH", PATH)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(writer.try_clone().map_err(words)?)
            .stdout(writer)
            .process_group(0)
            .kill_on_drop(true);
        let (line, user) = (self.command.clone(), self.user.clone());
        // The command keeps our ends of the pipe open; it goes with the closure.
        let starting = tokio::task::spawn_blocking(move || {
            let started = start(command, &line, user.as_deref());
            drop(permit);
            started
        });
        let Ok(started) = timeout_at(deadline, starting).await else {
            return Err(hangs(&format!("not started within {} ms", self.timeout.as_millis())));
        };
        let started = started.map_err(|error| words(error.into()))??;
        Ok((pipe::Receiver::from_owned_fd(reader.into()).map_err(words)?, started))
    }
}

/// Starts a command whose words are `line`; it may wait for a disk or a directory service.
fn start(mut command: Command, line: &[String], user: Option<&str>) -> Result<Started, String> {
    let named = |name: &str| {
        User::named(name)
            .map_err(|error| format!("not run: user {name}: {error}; mend: create the user"))
    };
    let runs_as = user.map(named).transpose()?;
    let as_root = runs_as.as_ref().map_or_else(spawn::is_root, |user| user.uid() == 0);
    if as_root && let Some(why) = trust::objection(line) {
        return Err(why);
    }
    if let Some(user) = runs_as {
        user.applies_to(command.as_std_mut());
    }
    let running = command.spawn().map_err(|error| not_started(line, user, &error))?;
    Ok(Started { group: Group(running.id().unwrap_or_default()), running })
}

/// The kernel's words for a script that doesn't start mislead.
fn not_started(line: &[String], user: Option<&str>, error: &io::Error) -> String {
    let program = line.first().map(String::as_str).unwrap_or_default();
    let found = std::path::Path::new(program).exists();
    match error.kind() {
        io::ErrorKind::NotFound if found => {
            format!("not run: the interpreter in the first line of {program} isn't there")
        }
        io::ErrorKind::NotFound => format!("not run: there is no {program}"),
        io::ErrorKind::PermissionDenied => {
            let who = user.unwrap_or("this user");
            format!("not run: {program} isn't executable for {who}; mend: chmod a+rx {program}")
        }
        _ => format!("not run: {program}: {error}"),
    }
}

/// Hears a script out. `None`: it was killed at its deadline.
async fn heard(
    mut started: Started,
    mut reader: pipe::Receiver,
    deadline: Instant,
    tail: &mut Tail,
) -> io::Result<Option<ExitStatus>> {
    let mut open = true;
    loop {
        tokio::select! {
            status = started.running.wait() => {
                tail.drain(reader);
                started.group.disband();
                return status.map(Some);
            }
            more = tail.read(&mut reader), if open => open = more,
            () = sleep_until(deadline) => {
                tail.drain(reader);
                return Ok(None);
            }
        }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// What fits a detail, the end of it: that is where scripts say why.
fn last_lines(said: &str) -> &str {
    const SHOWN: usize = 240;
    let said = said.trim();
    let start = said.len().saturating_sub(SHOWN);
    let start = (start..said.len()).find(|start| said.is_char_boundary(*start));
    start.and_then(|start| said.get(start..)).unwrap_or_default()
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    /// Waits for bytes; `false` when the stream has ended.
    async fn read(&mut self, reader: &mut pipe::Receiver) -> bool {
        if reader.readable().await.is_err() {
            return false;
        }
        let mut chunk = [0; 1024];
        match reader.try_read(&mut chunk) {
            Ok(0) => false,
            Ok(read) => {
                self.push(chunk.get(..read).unwrap_or_default());
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Takes what is there already: from the kernel, of whose events the runtime may not have heard yet.
    fn drain(&mut self, reader: pipe::Receiver) {
        let Ok(reader) = reader.into_nonblocking_fd() else { return };
        let mut reader = fs::File::from(reader);
        let mut chunk = [0; 1024];
        let mut taken = 0;
        while taken < LAST_WORDS_BYTES
            && let Ok(read @ 1..) = reader.read(&mut chunk)
        {
            self.push(chunk.get(..read).unwrap_or_default());
            taken += read;
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        if self.0.len() > OUTPUT_BYTES {
            self.0.drain(..self.0.len() - OUTPUT_BYTES);
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}
