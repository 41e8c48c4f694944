//! Clients of a VIP that notice every failure.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use standin_linux::spawn;

use super::hosts::Host;
use super::http2;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two requests of a client that keeps its connection, whose gaps are measured; on the average.
pub(crate) const THINK: Duration = Duration::from_millis(20);

/// Between two requests of any other: all of them together leave the two cores of a small machine
/// some air, else a gap tells how long its queue is, and nothing of the move.
pub(crate) const LONG_THINK: Duration = Duration::from_millis(50);

/// Pauses differ by one in so many: clients that were held up together would go on asking together.
const SPREAD: u32 = 5;

/// Between two looks of the server behind nginx for a connection.
const LISTENS_EVERY: Duration = Duration::from_millis(10);

/// How a client uses connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// One for all requests.
    KeepAlive,
    /// One for each request.
    Short,
    /// One for each request, of which the answer takes a second.
    Download,
    /// One, through nginx to another server, on which both talk whenever they want.
    WebSocket,
    /// One for all requests, with TLS, by HTTP/2.
    Http2,
}

impl Habit {
    /// How long such a client pauses between two requests.
    pub(crate) const fn pause(self) -> Duration {
        match self {
            Self::KeepAlive => THINK,
            Self::Short | Self::Download | Self::WebSocket | Self::Http2 => LONG_THINK,
        }
    }
}

/// So many of each kind and family; both families together are what issue 4 asks for.
pub(crate) const CROWD: [(Habit, usize); 5] = [
    (Habit::KeepAlive, 32),
    (Habit::Short, 32),
    (Habit::Download, 4),
    (Habit::WebSocket, 4),
    (Habit::Http2, 4),
];

/// What the clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: usize,
    /// Requests without an answer, also after one more try where the connection had been used before.
    pub(crate) failures: Vec<String>,
    /// Connections that had been used before and were closed or reset when they were used again.
    pub(crate) closed: usize,
    /// Those of them that were reset.
    pub(crate) resets: usize,
    /// The longest time between two answers of one client, without its pause.
    pub(crate) gap: Duration,
    /// Who answered, in the order in which they were first seen.
    pub(crate) answered: Vec<String>,
}

/// Clients that ask until they are told to stop.
pub(crate) struct Load {
    course: Arc<Course>,
    clients: Vec<JoinHandle<Vec<Seen>>>,
}

/// What clients are told.
#[derive(Default)]
struct Course {
    over: AtomicBool,
    /// What is seen from now on is noted under this number.
    phase: AtomicUsize,
}

impl Load {
    pub(crate) fn begin(host: &Host, vip: IpAddr, habit: Habit, clients: usize) -> Self {
        let course = Arc::new(Course::default());
        let pid = host.pid;
        let begin = |number| {
            let course = Arc::clone(&course);
            let client = move || {
                spawn::enter_network(spawn::network_of(pid).unwrap().as_fd()).unwrap();
                let to = SocketAddr::new(vip, 80);
                let pauses = pauses(habit.pause(), number);
                let mut notes =
                    Notes { course, pauses, seen: Vec::new(), pause: habit.pause(), due: None };
                match habit {
                    Habit::KeepAlive => again_and_again(&mut notes, || Plain::connect(to)),
                    Habit::WebSocket => again_and_again(&mut notes, || Socket::connect(to)),
                    Habit::Http2 => again_and_again(&mut notes, || Tls::connect(vip)),
                    Habit::Short => anew(&mut notes, to, "/"),
                    Habit::Download => anew(&mut notes, to, "/large"),
                }
                notes.seen
            };
            thread::Builder::new().stack_size(256 * 1024).spawn(client).unwrap()
        };
        let clients = (0..clients).map(begin).collect();
        Self { course, clients }
    }

    /// What is seen from now on is counted by itself.
    #[allow(dead_code, reason = "the bench needs it")]
    pub(crate) fn next_phase(&self) {
        self.course.phase.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(self) -> Seen {
        let mut all = Seen::default();
        self.end_by_phase().into_iter().for_each(|seen| all.add(seen));
        all
    }

    pub(crate) fn end_by_phase(self) -> Vec<Seen> {
        self.course.over.store(true, Ordering::Relaxed);
        let mut all: Vec<Seen> = Vec::new();
        for client in self.clients {
            for (phase, seen) in client.join().unwrap().into_iter().enumerate() {
                all.resize_with(all.len().max(phase + 1), Seen::default);
                all[phase].add(seen);
            }
        }
        all
    }
}

impl Seen {
    pub(crate) fn add(&mut self, seen: Self) {
        self.requests += seen.requests;
        self.failures.extend(seen.failures);
        self.closed += seen.closed;
        self.resets += seen.resets;
        self.gap = self.gap.max(seen.gap);
        for name in seen.answered {
            self.answered_by(name);
        }
    }

    fn answered_by(&mut self, name: String) {
        if !self.answered.contains(&name) {
            self.answered.push(name);
        }
    }
}

/// The pauses of the client `number`.
fn pauses(average: Duration, number: usize) -> Box<dyn Iterator<Item = Duration>> {
    let (least, steps) = (average - average / SPREAD, 16);
    let step = 2 * (average / SPREAD) / steps;
    // Odd, so that all steps are taken; another order for each client.
    let stride = 2 * u32::try_from(number % 8).unwrap_or(0) + 3;
    Box::new((0..).map(move |turn: u32| least + step * (turn.wrapping_mul(stride) % steps)))
}

/// What one client sees.
struct Notes {
    course: Arc<Course>,
    pauses: Box<dyn Iterator<Item = Duration>>,
    seen: Vec<Seen>,
    pause: Duration,
    /// When the next request after the last answer is due.
    due: Option<Instant>,
}

impl Notes {
    fn go_on(&self) -> bool {
        !self.course.over.load(Ordering::Relaxed)
    }

    fn pause(&self) {
        sleep(self.pause);
    }

    fn now(&mut self) -> &mut Seen {
        let phase = self.course.phase.load(Ordering::Relaxed);
        self.seen.resize_with(self.seen.len().max(phase + 1), Seen::default);
        &mut self.seen[phase]
    }

    fn note(&mut self, answer: std::io::Result<String>) {
        let since = self.due.map_or(Duration::ZERO, |due| due.elapsed());
        let answered = answer.is_ok();
        let seen = self.now();
        seen.requests += 1;
        match answer {
            Ok(name) => {
                seen.gap = seen.gap.max(since);
                seen.answered_by(name);
            }
            Err(error) => {
                seen.resets += usize::from(error.kind() == ErrorKind::ConnectionReset);
                seen.failures.push(format!("request {}: {error}", seen.requests));
            }
        }
        if answered {
            self.pause = self.pauses.next().unwrap_or_default();
            self.due = Some(Instant::now() + self.pause);
        }
    }

    fn closed(&mut self, error: &std::io::Error) {
        let seen = self.now();
        seen.closed += 1;
        seen.resets += usize::from(error.kind() == ErrorKind::ConnectionReset);
    }
}

/// A connection that is used again and again.
trait Connection {
    /// Who answered.
    fn ask(&mut self) -> std::io::Result<String>;
}

/// As browsers do: what fails on a connection that was used before is asked once more on a new one.
fn again_and_again<C: Connection>(notes: &mut Notes, connect: impl Fn() -> std::io::Result<C>) {
    let mut connection: Option<C> = None;
    while notes.go_on() {
        let mut answer = None;
        if let Some(used) = &mut connection {
            match used.ask() {
                Ok(name) => answer = Some(Ok(name)),
                Err(error) => {
                    notes.closed(&error);
                    connection = None;
                }
            }
        }
        let answer = answer.unwrap_or_else(|| {
            let mut new = connect()?;
            let answer = new.ask()?;
            connection = Some(new);
            Ok(answer)
        });
        notes.note(answer);
        notes.pause();
    }
}

struct Plain(TcpStream);

impl Plain {
    fn connect(to: SocketAddr) -> std::io::Result<Self> {
        connect(to).map(Self)
    }
}

impl Connection for Plain {
    fn ask(&mut self) -> std::io::Result<String> {
        if is_closed(&self.0)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        ask(&self.0, "/")
    }
}

/// The server behind nginx says which host it is on, once; then what comes goes back.
struct Socket {
    stream: TcpStream,
    host: String,
    sent: u8,
}

impl Socket {
    fn connect(to: SocketAddr) -> std::io::Result<Self> {
        let stream = connect(to)?;
        let request = "GET /socket HTTP/1.1\r\nHost: web\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        (&stream).write_all(request.as_bytes())?;
        let head = head(&stream)?;
        let value = |name: &str| {
            head.lines().find_map(|line| Some(line.split_once(": ").filter(|it| it.0 == name)?.1))
        };
        if !head.starts_with("HTTP/1.1 101") {
            return Err(std::io::Error::other(head));
        }
        let host = value("X-Host").unwrap_or_default().to_owned();
        Ok(Self { stream, host, sent: 0 })
    }
}

impl Connection for Socket {
    fn ask(&mut self) -> std::io::Result<String> {
        self.sent = self.sent.wrapping_add(1);
        // A text frame of one byte, with a mask of zeros (RFC 6455, 5.2).
        let frame = [0x81, 0x81, 0, 0, 0, 0, b'a' + self.sent % 26];
        self.stream.write_all(&frame)?;
        let mut back = [0; 7];
        self.stream.read_exact(&mut back)?;
        if back == frame { Ok(self.host.clone()) } else { Err(ErrorKind::InvalidData.into()) }
    }
}

/// The lines up to the first empty one; nothing is read beyond it.
fn head(mut stream: &TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(|_| ErrorKind::InvalidData.into())
}

struct Tls(http2::Client<TcpStream>);

impl Tls {
    fn connect(vip: IpAddr) -> std::io::Result<Self> {
        http2::Client::begin(connect(SocketAddr::new(vip, 443))?).map(Self)
    }
}

impl Connection for Tls {
    fn ask(&mut self) -> std::io::Result<String> {
        self.0.ask().map(|body| body.trim().to_owned())
    }
}

/// The server behind nginx: it upgrades, and what comes goes back.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Echo {
    /// On the host's loopback link.
    pub(crate) const PORT: u16 = 8081;

    pub(crate) fn begin(host: &Host) -> Self {
        let (pid, name) = (host.pid, host.name.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&stop);
        let (ready, listens) = std::sync::mpsc::channel();
        let listener = thread::spawn(move || {
            spawn::enter_network(spawn::network_of(pid).unwrap().as_fd()).unwrap();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, Self::PORT)).unwrap();
            listener.set_nonblocking(true).unwrap();
            ready.send(()).unwrap();
            while !ends.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    sleep(LISTENS_EVERY);
                    continue;
                };
                let name = name.clone();
                // It ends with the connection, and that with nginx.
                thread::spawn(move || drop(Self::serve(&stream, &name)));
            }
        });
        listens.recv().unwrap();
        Self { stop, listener: Some(listener) }
    }

    fn serve(mut stream: &TcpStream, name: &str) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        head(stream)?;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             X-Host: {name}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes())?;
        let mut bytes = [0; 512];
        loop {
            let read = stream.read(&mut bytes)?;
            if read == 0 {
                return Ok(());
            }
            stream.write_all(&bytes[..read])?;
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            // If it panicked its clients have failed.
            let _ended = listener.join();
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

fn anew(notes: &mut Notes, to: SocketAddr, page: &str) {
    while notes.go_on() {
        notes.note(connect(to).and_then(|stream| ask(&stream, page)));
        notes.pause();
    }
}

/// Whether the other end has closed it: a connection that is used again is looked at before.
fn is_closed(stream: &TcpStream) -> std::io::Result<bool> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match rustix::net::recv(stream, &mut [0; 1], flags) {
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
        Ok((_, bytes)) => Ok(bytes == 0),
    }
}
