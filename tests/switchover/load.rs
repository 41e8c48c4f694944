//! Clients of a VIP that notice every failure.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use standin_linux::spawn;

use super::hosts::Host;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two requests of a client.
const THINK: Duration = Duration::from_millis(10);

/// How a client uses connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// One for all requests.
    KeepAlive,
    /// One for each request.
    Short,
    /// One for each request, of which the answer takes a second.
    Download,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: usize,
    pub(crate) failures: Vec<String>,
    /// The longest time between two answers of one client.
    pub(crate) gap: Duration,
    /// Who answered, in the order in which they were first seen.
    pub(crate) answered: Vec<String>,
}

/// Clients that ask until they are told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    pub(crate) fn begin(host: &Host, vip: IpAddr, habit: Habit, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let pid = host.pid;
        let begin = |_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                spawn::enter_network(spawn::network_of(pid).unwrap().as_fd()).unwrap();
                let to = SocketAddr::new(vip, 80);
                match habit {
                    Habit::KeepAlive => keep_alive(to, &stop),
                    Habit::Short => anew(to, "/", &stop),
                    Habit::Download => anew(to, "/large", &stop),
                }
            })
        };
        let clients = (0..clients).map(begin).collect();
        Self { stop, clients }
    }

    pub(crate) fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().unwrap();
            all.requests += seen.requests;
            all.failures.extend(seen.failures);
            all.gap = all.gap.max(seen.gap);
            for name in seen.answered {
                if !all.answered.contains(&name) {
                    all.answered.push(name);
                }
            }
        }
        all
    }
}

impl Seen {
    fn note(&mut self, last: &mut Instant, answer: std::io::Result<String>) -> bool {
        self.requests += 1;
        match answer {
            Ok(name) => {
                self.gap = self.gap.max(last.elapsed());
                *last = Instant::now();
                if !self.answered.contains(&name) {
                    self.answered.push(name);
                }
                true
            }
            Err(error) => {
                self.failures.push(format!("request {}: {error}", self.requests));
                false
            }
        }
    }
}

pub(crate) fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks for a page; the name of the host that gave it.
pub(crate) fn ask(stream: &TcpStream, page: &str) -> std::io::Result<String> {
    let request = format!("GET {page} HTTP/1.1\r\nHost: web\r\n\r\n");
    (&*stream).write_all(request.as_bytes())?;
    let mut lines = BufReader::new(stream);
    let (mut length, mut name) = (None, String::new());
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let Some((key, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match key {
            "Content-Length" => length = value.parse::<u64>().ok(),
            "X-Node" => name = value.to_owned(),
            _ => {}
        }
    }
    let length = length.ok_or(ErrorKind::InvalidData)?;
    let read = std::io::copy(&mut lines.take(length), &mut std::io::sink())?;
    if read == length { Ok(name) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

fn keep_alive(to: SocketAddr, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let stream = match connect(to) {
        Ok(stream) => stream,
        Err(error) => {
            seen.failures.push(format!("connect: {error}"));
            return seen;
        }
    };
    let mut last = Instant::now();
    let next = || {
        if is_closed(&stream)? { Err(ErrorKind::UnexpectedEof.into()) } else { ask(&stream, "/") }
    };
    while !stop.load(Ordering::Relaxed) && seen.note(&mut last, next()) {
        sleep(THINK);
    }
    seen
}

fn anew(to: SocketAddr, page: &str, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        seen.note(&mut last, connect(to).and_then(|stream| ask(&stream, page)));
        sleep(THINK);
    }
    seen
}

/// Whether the other end has closed it: a connection that is used again is looked at before.
fn is_closed(stream: &TcpStream) -> std::io::Result<bool> {
    stream.set_nonblocking(true)?;
    let closed = matches!(stream.peek(&mut [0]), Ok(0));
    stream.set_nonblocking(false)?;
    Ok(closed)
}
