//! Words for a file, a pipe or a terminal whose other end may have stopped reading.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What a pipe that is writable takes without waiting (PIPE_BUF, pipe(7)).
const AT_ONCE: usize = 4096;

/// Writes all of it, unless who reads doesn't take it within `patience`.
///
/// Only a disk that hangs can keep it longer: poll(2) says that files are always ready.
///
/// # Errors
/// `WouldBlock` for a reader that doesn't read; else as write(2). A part may be written.
pub fn write_within(mut out: impl AsFd + Write, text: &[u8], patience: Duration) -> io::Result<()> {
    let until = Instant::now() + patience;
    let mut rest = text;
    while !rest.is_empty() {
        let (part, _) = rest.split_at(rest.len().min(AT_ONCE));
        await_room(&out, until)?;
        match out.write(part) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            // The room was somebody else's, or a signal came.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn await_room(out: &impl AsFd, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut room = [PollFd::new(out, PollFlags::OUT)];
        match rustix::event::poll(&mut room, Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
            // A pipe without a reader is ready, too: to say so.
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// sd-daemon(3): what begins a line to say that it is an error, and a warning.
pub const ERROR: u8 = 3;
pub const WARNING: u8 = 4;

/// One line to stderr, for a process that must go on: if nobody takes it, it isn't said.
pub fn say(text: &str) {
    if stderr_is_journal() {
        journal(WARNING, text);
    } else {
        put(&format!("standin: {text}\n"));
    }
}

/// Whether systemd's journal reads stderr (`JOURNAL_STREAM`, systemd.exec(5)): it has the time and
/// the program's name by itself.
#[must_use]
pub fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    // A stream that somebody has put elsewhere isn't the journal's any more.
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|about| named == format!("{}:{}", about.st_dev, about.st_ino))
}

/// Lines for the journal that reads stderr: each has its severity in front, which the journal takes
/// off again.
pub fn journal(severity: u8, text: &str) {
    let lines = text.lines().map(|line| format!("<{severity}>{line}\n"));
    put(&lines.collect::<String>());
}

fn put(text: &str) {
    // There is nowhere else to say it.
    let _ = write_within(io::stderr(), text.as_bytes(), Duration::ZERO);
}

/// Opens a file to be appended to, and makes it where there is none. A pipe with a name is opened
/// without waiting for who is to read it, and keeps what it has room for until then.
///
/// # Errors
/// As open(2).
pub fn open_to_append(path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
    let flags = flags | OFlags::NONBLOCK;
    let opened = match rustix::fs::open(path, flags | OFlags::WRONLY, Mode::from(mode)) {
        // fifo(7): nobody reads yet.
        Err(Errno::NXIO) => rustix::fs::open(path, flags | OFlags::RDWR, Mode::from(mode)),
        opened => opened,
    };
    Ok(File::from(opened?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_keeps_nobody() {
        let (reader, writer) = io::pipe().unwrap();
        let line = [b'x'; 1000];
        let began = Instant::now();
        let refused = (0..1000).find_map(|_| write_within(&writer, &line, Duration::ZERO).err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::WouldBlock);
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(reader);
        let refused = write_within(&writer, &line, Duration::from_secs(60)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_pipe_with_a_name_is_opened_before_its_reader_comes() {
        let dir = std::env::temp_dir().join(format!("standin-output-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let fifo = dir.join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let file = open_to_append(&fifo, 0o600).unwrap();
        write_within(&file, b"early\n", Duration::ZERO).unwrap();
        let mut reader = io::BufReader::new(File::open(&fifo).unwrap());
        let mut line = String::new();
        io::BufRead::read_line(&mut reader, &mut line).unwrap();
        assert_eq!(line, "early\n");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
