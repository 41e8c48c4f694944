//! Where log lines go: stderr, a file, syslog, journald.
//!
//! Only the control plane writes here; a log that is stuck must not delay an advert.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::SystemTime;

use standin_config::model::{Facility, Log as LogSection};

use super::time;

const SYSLOG_SOCKET: &str = "/dev/log";
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

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

#[derive(Debug)]
pub(crate) struct Log {
    stderr: bool,
    file: Option<File>,
    syslog: Option<(UnixDatagram, Facility)>,
    journal: Option<UnixDatagram>,
}

impl Log {
    /// Opens what the section asks for; without a word of it journald under systemd, else stderr.
    ///
    /// # Errors
    /// The file can't be opened; nothing has changed then.
    pub(crate) fn open(section: &LogSection) -> io::Result<Self> {
        let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
        let nothing_said = section.syslog.is_none()
            && section.journald.is_none()
            && section.file.is_none()
            && section.stderr.is_none();
        let journal = section.journald.unwrap_or(nothing_said && under_systemd);
        let file = section.file.as_deref().map(open_file).transpose()?;
        Ok(Self {
            stderr: section.stderr.unwrap_or(nothing_said && !journal),
            file,
            syslog: section.syslog.map(|facility| Ok((socket()?, facility))).transpose().map_err(
                |error: io::Error| io::Error::new(error.kind(), format!("syslog: {error}")),
            )?,
            journal: journal.then(socket).transpose()?,
        })
    }

    /// Everything to stderr: before the file is read, and for tests.
    pub(crate) const fn to_stderr() -> Self {
        Self { stderr: true, file: None, syslog: None, journal: None }
    }

    /// Writes one line everywhere. A sink that doesn't take it is passed over: there is nowhere to
    /// say so, and the events keep everything that matters.
    pub(crate) fn line(&mut self, severity: Severity, vip: Option<&str>, text: &str) {
        let text = one_line(text);
        let subject = vip.map(|vip| format!("[{vip}] ")).unwrap_or_default();
        if self.stderr || self.file.is_some() {
            let at = time::rfc3339(SystemTime::now());
            let line = format!("{at} {}: {subject}{text}\n", severity.word());
            if self.stderr {
                let _ = io::stderr().write_all(line.as_bytes());
            }
            if let Some(file) = &mut self.file {
                let _ = file.write_all(line.as_bytes());
            }
        }
        if let Some((socket, facility)) = &self.syslog {
            // RFC 3164, as every local syslogd reads it.
            let pri = u32::from(facility.number()) * 8 + severity as u32;
            let pid = std::process::id();
            let at = time::syslog(SystemTime::now());
            let line = format!("<{pri}>{at} standin[{pid}]: {subject}{text}");
            let _ = socket.send_to(line.as_bytes(), SYSLOG_SOCKET);
        }
        if let Some(socket) = &self.journal {
            let mut entry = format!(
                "MESSAGE={subject}{text}\nPRIORITY={}\nSYSLOG_IDENTIFIER=standin\n",
                severity as u8
            );
            if let Some(vip) = vip {
                entry.push_str("STANDIN_VIP=");
                entry.push_str(vip);
                entry.push('\n');
            }
            let _ = socket.send_to(entry.as_bytes(), JOURNAL_SOCKET);
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
    OpenOptions::new().create(true).append(true).mode(0o640).open(path).map_err(|error| {
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
        let mut log = Log::open(&section).unwrap();
        log.line(Severity::Notice, Some("web"), "backup -> active");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.ends_with(" notice: [web] backup -> active\n"), "{text}");
    }
}
