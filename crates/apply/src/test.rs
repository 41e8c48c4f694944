//! Has a staged generation tested in its real place, by a tester process, before anything changes.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Staged;
use crate::classes::name_not_found;
use crate::nginx::Nginx;
use crate::tester::{Answer, Request, Verdict};

/// What a tester says at most: nginx's words and the names of the files.
const ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// How much longer than nginx its tester gets.
const GRACE: Duration = Duration::from_millis(500);

/// How a tester process is had. It needs all of root's privileges (`CAP_SYS_ADMIN`).
#[derive(Clone, Debug)]
pub enum Tester {
    /// A program that calls [`crate::serve_tester`] with its standard input and output.
    Child { program: PathBuf, arguments: Vec<String> },
    /// A socket at which each connection gets one (systemd's `Accept=yes`).
    Socket(PathBuf),
}

/// Where systemd listens for the tester's unit, if that is installed. Not in the daemon's own
/// directory, which systemd removes with the daemon.
const SOCKET: &str = "/run/standin-tester.sock";

impl Tester {
    /// The unit's where there is its socket; else a child that is this same program, started with
    /// `argument`.
    #[must_use]
    pub fn of_this_host(argument: &str) -> Self {
        let socket = PathBuf::from(SOCKET);
        if socket.exists() {
            return Self::Socket(socket);
        }
        Self::Child { program: "/proc/self/exe".into(), arguments: vec![argument.to_owned()] }
    }
}

/// A staged generation that nginx has found good.
#[derive(Clone, Debug)]
pub struct Tested {
    /// nginx's warnings and its "test is successful".
    pub said: String,
    pub took: Duration,
    /// As the master sees them: where it will log errors.
    pub(crate) logs: Vec<PathBuf>,
    /// The configuration's files, as the master sees them, each with its mark.
    pub(crate) files: Vec<(PathBuf, String)>,
}

/// Why a staged generation isn't taken; nothing has been changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// nginx finds a fault in the files; its own words.
    BadFile { said: String },
    /// A name can't be looked up here and now; the files may be good.
    NameNotFound { name: String, said: String },
    /// An address to listen at is taken by somebody else, or isn't this host's.
    Address { said: String },
    /// nginx didn't end in time.
    Late { after: Duration, said: String },
    /// The test couldn't be made.
    Unable { why: String },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadFile { said } => write!(f, "nginx refuses it: {}", said.trim()),
            Self::NameNotFound { name, said } => write!(
                f,
                "the name {name} can't be looked up on this host ({}); mend: the host's DNS or \
                 /etc/hosts, or write the address; it is tried again when something changes",
                said.trim()
            ),
            Self::Address { said } => write!(
                f,
                "nginx couldn't listen: {}; mend: free the port, or take the listen out",
                said.trim()
            ),
            Self::Late { after, said } => {
                let after = after.as_millis();
                write!(
                    f,
                    "`nginx -t` was killed after {after} ms; a name that DNS doesn't answer "
                )?;
                write!(f, "keeps it waiting 10 s or more{}", spoken(said))
            }
            Self::Unable { why } => write!(f, "it couldn't be tested: {why}"),
        }
    }
}

impl Refusal {
    /// Whether it says something of the files: the same files would be refused any other way, too.
    #[must_use]
    pub const fn is_of_the_files(&self) -> bool {
        !matches!(self, Self::Unable { .. })
    }
}

fn spoken(said: &str) -> String {
    let said = said.trim();
    if said.is_empty() { String::new() } else { format!("; it had said: {said}") }
}

/// Tests the staged trees as if they stood in their real place, within `patience`.
///
/// # Errors
/// Why they aren't to be taken.
pub fn test(
    staged: &Staged,
    nginx: &Nginx,
    tester: &Tester,
    patience: Duration,
) -> Result<Tested, Refusal> {
    let began = Instant::now();
    let master = match nginx.master {
        Some(_) => Some(nginx.hold().map_err(|why| Refusal::Unable { why })?),
        None => None,
    };
    let whole = staged.roots.iter().filter(|root| root.parts.is_none());
    let parts = staged
        .roots
        .iter()
        .filter_map(|root| Some((root.path.clone(), root.staged.clone(), root.parts.clone()?)));
    let request = Request {
        master: master.as_ref().map(|master| master.pid),
        started: master.as_ref().map_or(0, |master| master.started),
        binary: nginx.binary.clone(),
        conf: nginx.conf.clone(),
        prefix: nginx.prefix.clone(),
        patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        trees: whole.map(|it| (it.path.clone(), it.staged.clone())).collect(),
        parts: parts.collect(),
    };
    let answer = ask(tester, &request, patience.saturating_add(GRACE));
    let answer = answer.map_err(|error| Refusal::Unable { why: format!("the tester: {error}") })?;
    let Answer { verdict, said, logs, files } = answer;
    match verdict {
        Verdict::Good => Ok(Tested { said, took: began.elapsed(), logs, files }),
        Verdict::Bad => Err(match name_not_found(&said) {
            Some(name) => Refusal::NameNotFound { name, said },
            None => Refusal::BadFile { said },
        }),
        Verdict::Late => Err(Refusal::Late { after: patience, said }),
        Verdict::Address => Err(Refusal::Address { said }),
        Verdict::Unable => Err(Refusal::Unable { why: said }),
    }
}

fn ask(tester: &Tester, request: &Request, patience: Duration) -> io::Result<Answer> {
    let bytes = match tester {
        Tester::Child { program, arguments } => {
            let mut child = Command::new(program)
                .args(arguments)
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?;
            let result = converse(&mut child, request, patience);
            // It has ended, or it ends now; either way it is waited for.
            let _gone = child.kill();
            let _waited = child.wait();
            result?
        }
        Tester::Socket(path) => {
            let mut stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            stream.write_all(&request.write())?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut bytes = Vec::new();
            stream.take(ANSWER_BYTES).read_to_end(&mut bytes)?;
            bytes
        }
    };
    let words = "it ended without a word; does this service have CAP_SYS_ADMIN?";
    Answer::read(&bytes).ok_or_else(|| io::Error::other(words))
}

/// Writes the request, and reads until the tester has closed its end.
fn converse(
    child: &mut std::process::Child,
    request: &Request,
    patience: Duration,
) -> io::Result<Vec<u8>> {
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&request.write())?;
    }
    let Some(stdout) = child.stdout.take() else { return Ok(Vec::new()) };
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.take(ANSWER_BYTES).read_to_end(&mut bytes);
        // Nobody waits any more when it took too long.
        let _late = done.send(read.map(|_| bytes));
    });
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it doesn't answer");
    result.recv_timeout(patience).map_err(|_| late())?
}
