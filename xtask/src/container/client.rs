//! A client that never rests: a new connection every few milliseconds, and one that is kept.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Between two new connections.
const EVERY: Duration = Duration::from_millis(5);

/// Long enough for one lost SYN (1 s) and one more (2 s).
const PATIENCE: Duration = Duration::from_secs(4);

/// Where it asks: the VIP of the README.
const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 41);

/// No page of nginx's default site is longer.
const LONGEST: usize = 64 * 1024;

/// What was seen, as one line of numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) asked: usize,
    pub(super) failed: usize,
    /// The longest time in which no answer came.
    pub(super) gap_ms: u128,
    /// Connections that ended in the middle of an answer, or while one was awaited.
    pub(super) broken: usize,
}

impl Seen {
    pub(super) fn line(&self) -> String {
        format!("{} {} {} {}", self.asked, self.failed, self.gap_ms, self.broken)
    }

    pub(super) fn of(line: &str) -> Result<Self> {
        let numbers: Vec<usize> = line.split_whitespace().flat_map(str::parse).collect();
        let [asked, failed, gap_ms, broken] = numbers[..] else { bail!("no result: {line}") };
        Ok(Self { asked, failed, gap_ms: gap_ms as u128, broken })
    }
}

/// Asks until stdin ends; prints what was seen.
pub(crate) fn run() -> Result<()> {
    let over = Arc::new(AtomicBool::new(false));
    let times = Arc::new(Mutex::new((Vec::new(), 0_usize)));
    let keeper = {
        let over = Arc::clone(&over);
        thread::spawn(move || keep(&over))
    };
    let end = Arc::clone(&over);
    thread::spawn(move || {
        // Whatever comes: it is over.
        let _ = std::io::stdin().read(&mut [0]);
        end.store(true, Ordering::Relaxed);
    });
    let began = Instant::now();
    let mut asking = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let times = Arc::clone(&times);
        asking.push(thread::spawn(move || {
            let answered = once();
            if let Ok(mut times) = times.lock() {
                match answered {
                    Ok(()) => times.0.push(Instant::now()),
                    Err(_) => times.1 += 1,
                }
            }
        }));
        thread::sleep(EVERY);
    }
    let asked = asking.len();
    for one in asking {
        // One that panicked has neither answered nor failed, and is missed below.
        let _ = one.join();
    }
    let broken = keeper.join().unwrap_or(usize::MAX);
    let times = times.lock().ok().context("the times")?;
    let (mut answered, failed) = (times.0.clone(), times.1);
    answered.sort_unstable();
    let all = std::iter::once(began).chain(answered.iter().copied());
    let gaps = all.zip(answered.iter()).map(|(before, after)| *after - before);
    let gap_ms = gaps.max().unwrap_or(Duration::MAX).as_millis();
    let failed = failed.max(asked - answered.len());
    println!("{}", Seen { asked, failed, gap_ms, broken }.line());
    Ok(())
}

fn connect() -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((VIP, 80)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn once() -> std::io::Result<()> {
    let mut stream = connect()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST as u64).read_to_end(&mut answer)?;
    whole(&answer).then_some(()).ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

fn whole(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 200") && answer.trim_ascii_end().ends_with(b"</html>")
}

/// One request after the other on one connection; says how many connections broke.
fn keep(over: &AtomicBool) -> usize {
    let mut broken = 0;
    let mut open = None;
    while !over.load(Ordering::Relaxed) {
        let Ok(mut stream) = open.take().map_or_else(connect, Ok) else {
            broken += 1;
            continue;
        };
        match ask(&mut stream) {
            Ok(true) => open = Some(stream),
            // nginx said that this was the last one.
            Ok(false) => {}
            Err(_) => broken += 1,
        }
        thread::sleep(EVERY / 2);
    }
    broken
}

/// One request; false when the connection ends with it.
fn ask(stream: &mut TcpStream) -> std::io::Result<bool> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while !whole(&answer) {
        let length = stream.read(&mut part)?;
        let part = part.get(..length).filter(|part| !part.is_empty());
        answer.extend_from_slice(part.ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))?);
        if answer.len() > LONGEST {
            return Err(ErrorKind::InvalidData.into());
        }
    }
    Ok(!String::from_utf8_lossy(&answer).contains("Connection: close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_survives_as_a_line() {
        let seen = Seen { asked: 7, failed: 1, gap_ms: 20, broken: 2 };
        assert_eq!(Seen::of(&seen.line()).unwrap(), seen);
        assert!(Seen::of("error: no").is_err());
    }

    #[test]
    fn half_an_answer_is_none() {
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\n<html></html>\n"));
        assert!(!whole(b"HTTP/1.1 200 OK\r\n\r\n<html>"));
        assert!(!whole(b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html></html>"));
    }
}
