//! A server on each host, and clients that notice everything.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::lan::Host;

pub(crate) const PORT: u16 = 80;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(3);

/// A long answer, in bytes.
const MUCH: usize = 1_000_000;

/// Between two requests of a client.
const THINK: Duration = Duration::from_millis(5);

/// Answers each line with the host's name.
pub(crate) fn serve(host: &Host) {
    let name = host.name;
    // One socket for both families, as nginx has it with `ipv6only=off`, and one of its own for IPv4.
    let listeners = host.run(|| {
        let v6 = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        v6.set_only_v6(true).unwrap();
        let v4 = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        for (socket, address) in [(&v6, "[::]:80"), (&v4, "0.0.0.0:80")] {
            socket.set_reuse_address(true).unwrap();
            let address: SocketAddr = address.parse().unwrap();
            socket.bind(&address.into()).unwrap();
            socket.listen(1024).unwrap();
        }
        [TcpListener::from(v6), TcpListener::from(v4)]
    });
    for listener in listeners {
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(&stream, name));
            }
        });
    }
}

fn answer(stream: &TcpStream, name: &str) {
    stream.set_nodelay(true).unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
        let answer = if line.starts_with("much") { "x".repeat(MUCH) } else { String::new() };
        if writeln!(&*stream, "{name}{answer}").is_err() {
            return;
        }
        line.clear();
    }
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

/// How a client uses connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// One for all requests.
    KeepAlive,
    /// One for each request.
    Short,
    /// One for long answers.
    Download,
}

/// Clients that ask until they are told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    pub(crate) fn begin(client: &Host, vip: IpAddr, habit: Habit, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients)
            .map(|_| {
                let stop = Arc::clone(&stop);
                client.spawn(move || match habit {
                    Habit::KeepAlive => keep_alive(SocketAddr::new(vip, PORT), &stop),
                    Habit::Short => short(SocketAddr::new(vip, PORT), &stop),
                    Habit::Download => downloads(SocketAddr::new(vip, PORT), &stop),
                })
            })
            .collect();
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
                let name = name.trim().to_owned();
                if !self.answered.contains(&name) {
                    self.answered.push(name);
                }
                true
            }
            Err(error) => {
                self.failures.push(error.to_string());
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

pub(crate) fn ask(stream: &TcpStream) -> std::io::Result<String> {
    (&*stream).write_all(b"who\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}

fn keep_alive(to: SocketAddr, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let stream = connect(to).unwrap();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) && seen.note(&mut last, ask(&stream)) {
        sleep(THINK);
    }
    seen
}

fn short(to: SocketAddr, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        seen.note(&mut last, connect(to).and_then(|stream| ask(&stream)));
        sleep(THINK);
    }
    seen
}

fn downloads(to: SocketAddr, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let stream = connect(to).unwrap();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) && seen.note(&mut last, download(&stream)) {
        sleep(THINK);
    }
    seen
}

/// Asks for much, and reads it; the name at its beginning.
fn download(stream: &TcpStream) -> std::io::Result<String> {
    (&*stream).write_all(b"much\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.len() < MUCH {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(answer.chars().take(2).collect())
}
