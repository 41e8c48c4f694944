//! Where log lines go: stderr, a file, syslog, journald.
//!
//! Each of them has a thread of its own: one that is stuck must delay neither an advert nor a check,
//! nor what the others write. Lines that it doesn't take are counted, and said once it does.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use standin_config::model::{Facility, Log as LogSection};
use standin_linux::output;

use super::time;
use super::writer::{Losses, Writer, Writing};

const SYSLOG_SOCKET: &str = "/dev/log";
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// A reader that takes nothing for so long has stopped; from then on it is only looked whether it
/// reads again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two tries while a syslogd or a journal is full.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// RFC 5424 §6.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
}

impl Severity {
    const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
        }
    }
}

/// One line, as it was said.
#[derive(Clone, Debug)]
struct Line {
    at: SystemTime,
    severity: Severity,
    vip: Option<String>,
    text: String,
}

#[derive(Debug)]
pub(crate) struct Log {
    sinks: Vec<Sink>,
}

#[derive(Debug)]
struct Sink {
    /// As status names it.
    name: String,
    writer: Writer<Arc<Line>>,
}

#[derive(Debug)]
enum Target {
    File(File),
    Syslog(UnixDatagram, Facility),
    Journal(UnixDatagram),
}

impl Log {
    /// Opens what the section asks for; without a word of it journald under systemd, else stderr.
    /// `before` is what an earlier log has lost there and not said.
    ///
    /// # Errors
    /// The file can't be opened; nothing has changed then.
    pub(crate) fn open(section: &LogSection, before: &[(String, Losses)]) -> io::Result<Self> {
        let mut sinks = Vec::new();
        for (name, target) in Target::all(section)? {
            let mut taker = Taker { target, refused: false };
            let known = before.iter().find(|(known, _)| *known == name);
            let lost = known.map_or_else(Losses::default, |(_, lost)| Arc::clone(lost));
            let writer = Writer::start("standin-log", lost, move |what| taker.write(what))?;
            sinks.push(Sink { name, writer });
        }
        Ok(Self { sinks })
    }

    /// What a log that takes this one's place is to say.
    pub(super) fn losses(&self) -> Vec<(String, Losses)> {
        self.sinks.iter().map(|sink| (sink.name.clone(), sink.writer.losses())).collect()
    }

    /// Whether [`Log::open`] would succeed.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn try_open(section: &LogSection) -> io::Result<()> {
        Target::all(section).map(drop)
    }

    /// To stderr, before the file is read: by who says it, and not if that would have to wait.
    pub(crate) const fn to_stderr() -> Self {
        Self { sinks: Vec::new() }
    }

    /// Has one line written everywhere; never waits for it.
    pub(crate) fn line(&self, severity: Severity, vip: Option<&str>, text: &str) {
        let (vip, text) = (vip.map(str::to_owned), one_line(text));
        let line = Arc::new(Line { at: SystemTime::now(), severity, vip, text });
        for sink in &self.sinks {
            sink.writer.put(Arc::clone(&line));
        }
        if self.sinks.is_empty() {
            line.to_stderr();
        }
    }

    /// Waits until everything is written, but not beyond `deadline`.
    pub(super) fn finish(&self, deadline: standin_core::types::Instant) {
        for sink in &self.sinks {
            // What isn't taken is lost, and there is nobody left to tell.
            let _ = sink.writer.finish(deadline);
        }
    }

    /// What doesn't take lines, for status.
    pub(super) fn stuck(&self) -> impl Iterator<Item = String> {
        self.sinks.iter().filter_map(|sink| Some(sink.writer.stuck()?.words(&sink.name)))
    }
}

impl Line {
    fn subject(&self) -> String {
        self.vip.as_ref().map(|vip| format!("[{vip}] ")).unwrap_or_default()
    }

    /// As files and terminals show it.
    fn plain(&self) -> String {
        let at = time::rfc3339(self.at);
        format!("{at} {}: {}{}\n", self.severity.word(), self.subject(), self.text)
    }

    fn to_stderr(&self) {
        if output::stderr_is_journal() {
            output::journal(self.severity as u8, &format!("{}{}", self.subject(), self.text));
        } else {
            // There is nowhere else to say it.
            let _ = output::write_within(io::stderr(), self.plain().as_bytes(), Duration::ZERO);
        }
    }

    /// RFC 3164, as every local syslogd reads it.
    fn syslog(&self, facility: Facility) -> String {
        let pri = u32::from(facility.number()) * 8 + self.severity as u32;
        let (pid, at) = (std::process::id(), time::syslog(self.at));
        format!("<{pri}>{at} standin[{pid}]: {}{}", self.subject(), self.text)
    }

    fn journal(&self) -> String {
        let mut entry = format!(
            "MESSAGE={}{}\nPRIORITY={}\nSYSLOG_IDENTIFIER=standin\n",
            self.subject(),
            self.text,
            self.severity as u8
        );
        if let Some(vip) = &self.vip {
            entry.push_str("STANDIN_VIP=");
            entry.push_str(vip);
            entry.push('\n');
        }
        entry
    }
}

impl Target {
    fn all(section: &LogSection) -> io::Result<Vec<(String, Self)>> {
        let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
        let nothing_said = section.syslog.is_none()
            && section.journald.is_none()
            && section.file.is_none()
            && section.stderr.is_none();
        let journal = section.journald.unwrap_or(nothing_said && under_systemd);
        let mut all = Vec::new();
        if section.stderr.unwrap_or(nothing_said && !journal) {
            let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
            all.push(("stderr".to_owned(), Self::File(stderr)));
        }
        if let Some(path) = &section.file {
            all.push((format!("the log file {}", path.display()), Self::File(open_file(path)?)));
        }
        if let Some(facility) = section.syslog {
            let socket = socket()
                .map_err(|error| io::Error::new(error.kind(), format!("syslog: {error}")))?;
            all.push(("syslog".to_owned(), Self::Syslog(socket, facility)));
        }
        if journal {
            all.push(("the journal".to_owned(), Self::Journal(socket()?)));
        }
        Ok(all)
    }

    fn write(&self, line: &Line, patience: Duration) -> io::Result<()> {
        match self {
            Self::File(file) => output::write_within(file, line.plain().as_bytes(), patience),
            Self::Syslog(socket, facility) => {
                send(socket, &line.syslog(*facility), SYSLOG_SOCKET, patience)
            }
            Self::Journal(socket) => send(socket, &line.journal(), JOURNAL_SOCKET, patience),
        }
    }
}

/// One target, on its thread.
struct Taker {
    target: Target,
    /// The last line wasn't taken.
    refused: bool,
}

impl Taker {
    fn write(&mut self, what: Writing<Arc<Line>>) -> bool {
        let line = match what {
            Writing::This(line) => line,
            Writing::Lost(lost) => Arc::new(Line {
                at: SystemTime::now(),
                severity: Severity::Warning,
                vip: None,
                text: format!(
                    "{lost} lines were lost here: nobody took them; standin events has what happened"
                ),
            }),
        };
        let patience = if self.refused { Duration::ZERO } else { PATIENCE };
        self.refused = self.target.write(&line, patience).is_err();
        !self.refused
    }
}

/// A full queue is waited for, a daemon that isn't there isn't.
fn send(socket: &UnixDatagram, text: &str, to: &str, patience: Duration) -> io::Result<()> {
    let began = std::time::Instant::now();
    loop {
        match socket.send_to(text.as_bytes(), to) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && began.elapsed() < patience =>
            {
                std::thread::sleep(TRY_AGAIN);
            }
            sent => return sent.map(drop),
        }
    }
}

/// Nobody who can choose a text, a script or a peer, may forge a second line with it.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn socket() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn open_file(path: &Path) -> io::Result<File> {
    output::open_to_append(path, 0o640).map_err(|error| {
        io::Error::new(error.kind(), format!("log file {}: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_forge_a_second_line() {
        assert_eq!(one_line("a\nb\r\x1b[31mc"), "a b  [31mc");
    }

    #[test]
    fn a_log_file_gets_severity_vip_and_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("standin.log");
        let section = LogSection { file: Some(path.clone()), ..LogSection::default() };
        let log = Log::open(&section, &[]).unwrap();
        log.line(Severity::Notice, Some("web"), "backup -> active");
        log.finish(standin_linux::clock::now() + Duration::from_secs(10));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.ends_with(" notice: [web] backup -> active\n"), "{text}");
    }
}
