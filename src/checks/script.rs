//! Runs a check script: no shell, its own process group, a clean environment, a hard end.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use standin_linux::child::{self, User};
use standin_linux::spawn;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::{Instant, sleep_until};

use super::{Outcome, trust};

/// The end of what a script said is what explains it.
const OUTPUT_BYTES: usize = 4096;

/// A script that left a talkative child behind doesn't hold us.
const LAST_WORDS_BYTES: usize = 64 * 1024;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A check script and how it is run.
#[derive(Debug)]
pub(crate) struct Script {
    /// Program and arguments, not empty.
    pub(crate) command: Vec<String>,
    /// `None`: the daemon's own.
    pub(crate) user: Option<String>,
    pub(crate) timeout: Duration,
}

/// Kills the script's process group when it timed out or is no longer wanted.
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

impl Script {
    /// Passes when the script exits with 0 within its timeout.
    pub(super) async fn run(&self) -> Outcome {
        self.run_with(&[]).await
    }

    /// As [`Script::run`], with more in its environment.
    pub(crate) async fn run_with(&self, environment: &[(&str, String)]) -> Outcome {
        let user = match self.who().await {
            Ok(user) => user,
            Err(error) => {
                let name = self.user.as_deref().unwrap_or_default();
                return Outcome::fail(format!(
                    "not run: user {name}: {error}; mend: create the user"
                ));
            }
        };
        let as_root = user.as_ref().map_or_else(spawn::is_root, |user| user.uid() == 0);
        if as_root && let Some(why) = trust::objection(&self.command) {
            return Outcome::fail(why);
        }
        let deadline = Instant::now() + self.timeout;
        let mut tail = Tail::default();
        let ended = match self.exchange(user.as_ref(), environment, deadline, &mut tail).await {
            Ok(ended) => ended,
            Err(error) => {
                return Outcome::fail(self.not_started(&error));
            }
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

    /// The kernel's words for a script that doesn't start mislead.
    fn not_started(&self, error: &io::Error) -> String {
        let program = self.command.first().map(String::as_str).unwrap_or_default();
        let found = std::path::Path::new(program).exists();
        match error.kind() {
            io::ErrorKind::NotFound if found => {
                format!("not run: the interpreter in the first line of {program} isn't there")
            }
            io::ErrorKind::NotFound => format!("not run: there is no {program}"),
            io::ErrorKind::PermissionDenied => {
                let who = self.user.as_deref().unwrap_or("this user");
                format!("not run: {program} isn't executable for {who}; mend: chmod a+rx {program}")
            }
            _ => format!("not run: {program}: {error}"),
        }
    }

    /// Looks the user up on another thread: a directory service may be slow.
    async fn who(&self) -> io::Result<Option<User>> {
        let Some(name) = self.user.clone() else { return Ok(None) };
        let found = tokio::task::spawn_blocking(move || User::named(&name)).await;
        found.map_err(io::Error::other)?.map(Some)
    }

    /// `None`: it was killed at its deadline.
    async fn exchange(
        &self,
        user: Option<&User>,
        environment: &[(&str, String)],
        deadline: Instant,
        tail: &mut Tail,
    ) -> io::Result<Option<ExitStatus>> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // One pipe for both, so that the order of what was said is kept.
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(writer.try_clone()?)
            .stdout(writer)
            .process_group(0)
            .kill_on_drop(true);
        if let Some(user) = user {
            user.applies_to(command.as_std_mut());
        }
        let mut running = command.spawn()?;
        // The command keeps our ends of the pipe open; without it the pipe ends with the script.
        drop(command);
        let group = Group(running.id().unwrap_or_default());
        let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
        let mut open = true;
        loop {
            tokio::select! {
                status = running.wait() => {
                    tail.drain(&reader);
                    group.disband();
                    return status.map(Some);
                }
                more = tail.read(&mut reader), if open => open = more,
                () = sleep_until(deadline) => {
                    tail.drain(&reader);
                    return Ok(None);
                }
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

    /// Takes what is there already.
    fn drain(&mut self, reader: &pipe::Receiver) {
        let mut chunk = [0; 1024];
        let mut taken = 0;
        while taken < LAST_WORDS_BYTES
            && let Ok(read @ 1..) = reader.try_read(&mut chunk)
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
