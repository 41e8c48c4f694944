//! One run of the real rsync towards a daemon: no shell, no right but to read, a hard end.
//!
//! The password goes through a pipe: it is in no argument, no variable and no log.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use standin_linux::child::{self, User};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// Not the user's: a daemon that is started by hand must not find another rsync.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Silence for longer than this ends a transfer; an answer to the first word comes sooner.
const SILENCE_S: &str = "--timeout=60";
const CONNECT_S: &str = "--contimeout=10";

/// Only a daemon is spoken to: no target may make rsync start ssh. As `--rsh` it would be used for
/// daemons too (rsync(1), "via a remote-shell connection").
const NO_SHELL: (&str, &str) = ("RSYNC_RSH", "/bin/false");

/// The whole of a run: 8 GiB, the most that is shared, need 13 MB/s.
const DEADLINE: Duration = Duration::from_secs(600);

/// What rsync says of a failure; the first lines tell why.
const WORDS: u64 = 4096;

/// A line of the list of changes: a path, escaped four times as long, and its mark.
const LINE: usize = 20_000;

/// Deletions whose paths are remembered, to be looked up in the history. More are all unknown.
const REMEMBERED: usize = 65_536;

/// Where to, and with what.
pub(super) struct Push<'a> {
    /// A directory whose content is sent.
    pub(super) tree: &'a Path,
    /// `USER@HOST::MODULE`.
    pub(super) to: &'a str,
    pub(super) password: Option<&'a [u8]>,
    /// In rsync's words.
    pub(super) exclude: &'a [String],
}

/// What a transfer would do, or did.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Files, links and directories that are made, changed or deleted.
    pub(super) all: usize,
    /// Files and links that aren't there yet.
    pub(super) made: usize,
    /// Everything that is deleted, directories too.
    pub(super) deleted: usize,
    /// Files and links that are deleted.
    pub(super) files_deleted: usize,
    /// Their paths from the module; only the first [`REMEMBERED`].
    pub(super) gone: Vec<Vec<u8>>,
}

impl Changes {
    /// One line of `--itemize-changes`: eleven letters of what is done, a blank, the path.
    fn line(&mut self, line: &[u8]) {
        let Some((what, path)) = line.split_at_checked(12) else { return };
        let directory = path.ends_with(b"/");
        if what.starts_with(b"*deleting") {
            self.deleted += 1;
            if !directory {
                self.files_deleted += 1;
                if self.gone.len() < REMEMBERED {
                    self.gone.push(path.to_vec());
                }
            }
        } else if !matches!(what.first(), Some(b'<' | b'c' | b'h' | b'.')) {
            // Something else that it has to say.
            return;
        } else if !directory && what.get(2) == Some(&b'+') {
            self.made += 1;
        }
        self.all += 1;
    }
}

/// Kills rsync, and what it has started, when it is late or no longer wanted.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        // Nobody left in it is as good.
        let _nobody_left = child::kill_group(self.0);
    }
}

impl Push<'_> {
    /// What would be done; nothing is.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn look(&self) -> Result<Changes, String> {
        self.run(&["--dry-run".to_owned()]).await
    }

    /// Sends it. No more than `deletions` are made.
    ///
    /// # Errors
    /// In words. The files there are the old ones, or for the moment of the last renames some of both.
    pub(super) async fn send(&self, deletions: usize) -> Result<Changes, String> {
        self.run(&[format!("--max-delete={deletions}")]).await
    }

    fn command(&self, more: &[String]) -> Command {
        let mut command = Command::new("rsync");
        command
            .args(["--recursive", "--links", "--hard-links", "--perms", "--times"])
            .args(["--owner", "--group", "--checksum", "--itemize-changes"])
            // New files get their names at the end, all at once; only then the old ones go.
            .args(["--delay-updates", "--delete-delay"])
            .args([SILENCE_S, CONNECT_S])
            .args(more)
            .args(self.exclude.iter().map(|pattern| format!("--exclude={pattern}")));
        if self.password.is_some() {
            command.arg("--password-file=-");
        }
        let mut from = self.tree.as_os_str().to_owned();
        from.push("/");
        command.arg("--").arg(from).arg(format!("{}/", self.to.trim_end_matches('/')));
        let stdin = if self.password.is_some() { Stdio::piped() } else { Stdio::null() };
        command
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .env(NO_SHELL.0, NO_SHELL.1)
            .current_dir("/")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        User::nobody().reads_all_in(command.as_std_mut());
        command
    }

    async fn run(&self, more: &[String]) -> Result<Changes, String> {
        let mut child = self.command(more).spawn().map_err(|error| not_started(&error))?;
        let _group = Group(child.id().unwrap_or_default());
        let ended = tokio::time::timeout(DEADLINE, self.exchange(&mut child)).await;
        let Ok(ended) = ended else {
            return Err(format!("it took longer than {} s and was ended", DEADLINE.as_secs()));
        };
        let (changes, said, code) = ended.map_err(|error| format!("rsync: {error}"))?;
        match code {
            Some(0) => Ok(changes),
            _ => Err(why(&said, code)),
        }
    }

    async fn exchange(&self, child: &mut Child) -> io::Result<(Changes, Vec<u8>, Option<i32>)> {
        let (input, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let password = self.password.unwrap_or_default();
        let tell = async {
            if let Some(mut input) = input {
                // An rsync that has ended says why itself.
                let _ended = input.write_all(password).await;
            }
        };
        let list = async {
            let mut changes = Changes::default();
            if let Some(out) = out {
                lines(BufReader::new(out), |line| changes.line(line)).await?;
            }
            Ok::<_, io::Error>(changes)
        };
        let words = async {
            let mut said = Vec::new();
            if let Some(err) = err {
                let mut err = err.take(WORDS);
                err.read_to_end(&mut said).await?;
                tokio::io::copy(&mut err.into_inner(), &mut tokio::io::sink()).await?;
            }
            Ok::<_, io::Error>(said)
        };
        let ((), changes, said) = tokio::join!(tell, list, words);
        let status = child.wait().await?;
        Ok((changes?, said?, status.code()))
    }
}

/// Hands on each line; what is longer than [`LINE`] comes in pieces, of which the later ones are no
/// changes.
async fn lines(
    mut reader: impl AsyncBufReadExt + Unpin,
    mut line: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut whole = Vec::new();
    loop {
        whole.clear();
        let limit = u64::try_from(LINE).unwrap_or(u64::MAX);
        if (&mut reader).take(limit).read_until(b'\n', &mut whole).await? == 0 {
            return Ok(());
        }
        line(whole.strip_suffix(b"\n").unwrap_or(&whole));
    }
}

fn not_started(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("there is no rsync in {PATH}; mend: install the package rsync on every node")
        }
        io::ErrorKind::PermissionDenied => format!(
            "rsync can't be started as nobody with the right to read: {error}; mend: give standin \
             CAP_DAC_READ_SEARCH, CAP_SETUID and CAP_SETGID"
        ),
        _ => format!("rsync can't be started: {error}"),
    }
}

/// What rsync or the daemon says, on one line, and the mend where it is known.
fn why(said: &[u8], code: Option<i32>) -> String {
    const SHOWN: usize = 400;
    let said = String::from_utf8_lossy(said);
    let mut lines: Vec<&str> =
        said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.len() > 1 {
        // The last line repeats it with a place in rsync's own source.
        lines.retain(|line| !line.starts_with("rsync error:"));
    }
    let text: String = lines.join("; ").chars().filter(|it| !it.is_control()).take(SHOWN).collect();
    let text = match (text.is_empty(), code) {
        (false, _) => text,
        (true, Some(code)) => format!("rsync ended with exit status {code}"),
        (true, None) => "rsync was killed".to_owned(),
    };
    let mend = match code {
        Some(5) if text.contains("auth failed") => {
            "; mend: its user and rsync_password_file must agree with the daemon's secrets file"
        }
        Some(5) if text.contains("read only") => "; mend: read only = no for its module",
        Some(25) => "; more was there to be deleted than a moment before, so it was stopped",
        _ => "",
    };
    format!("{text}{mend}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_counted_as_rsync_lists_them() {
        let mut changes = Changes::default();
        for line in [
            "<f+++++++++ conf.d/new.conf",
            "<f.st...... nginx.conf",
            ".f...p..... mode.conf",
            "cd+++++++++ new/",
            "cL+++++++++ link -> target",
            "*deleting   old/a.conf",
            "*deleting   old/",
            "skipping non-regular file \"x\"",
            "",
        ] {
            changes.line(line.as_bytes());
        }
        assert_eq!((changes.all, changes.made), (7, 2));
        assert_eq!((changes.deleted, changes.files_deleted), (2, 1));
        assert_eq!(changes.gone, [b"old/a.conf".to_vec()]);
    }

    #[test]
    fn a_failure_is_one_line_without_control_characters_and_with_its_mend() {
        let said = b"@ERROR: auth failed on module m\x1b[31m\nrsync error: error starting (code 5) at main.c(1)\n";
        let text = why(said, Some(5));
        assert!(text.starts_with("@ERROR: auth failed on module m[31m; mend:"), "{text}");
        assert!(!text.contains("main.c"));
        assert_eq!(why(b"", Some(12)), "rsync ended with exit status 12");
        assert_eq!(why(b"", None), "rsync was killed");
    }
}
