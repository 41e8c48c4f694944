//! Who is let in over TCP: a bounded number, and nobody keeps others out by saying nothing.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, Sleep};

/// Connections at once: nobody outside may use up the daemon's descriptors.
const PLACES: usize = 32;

/// A request is a packet or two, and is answered in milliseconds; one that is lost is sent again after
/// 1, 3 and 7 s.
const ASKS_WITHIN: Duration = Duration::from_secs(10);

/// Where all places are taken, who hasn't got an answer for so long makes room for somebody new: a
/// request that wasn't lost is here by then, from anywhere.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(1);

/// The same for who was answered: a follower of events is written to every 30 s at least.
const RESTS_AFTER: Duration = Duration::from_secs(35);

/// How soon it is looked again whether somebody can make room.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A listener that lets in no more than there are places.
pub(super) struct Places {
    inner: TcpListener,
    free: Arc<Semaphore>,
    guests: Vec<Guest>,
}

/// A connection, as the listener knows it.
struct Guest {
    mood: Arc<Mutex<Mood>>,
    /// Closed once the connection has ended.
    leave: oneshot::Sender<()>,
}

#[derive(Clone, Copy, Debug)]
enum Mood {
    /// It hasn't been answered since it came, or since it said something.
    Asks(Instant),
    /// It was written to last then.
    Answered(Instant),
}

impl Mood {
    /// For how long it could have made room for others.
    fn idle(self) -> Option<Duration> {
        let (since, after) = match self {
            Self::Asks(since) => (since, GIVES_WAY_AFTER),
            Self::Answered(last) => (last, RESTS_AFTER),
        };
        since.elapsed().checked_sub(after)
    }
}

fn mood(of: &Mutex<Mood>) -> Mood {
    // Nothing that can panic is done under it; the same below.
    *of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    pub(super) fn of(inner: TcpListener) -> Self {
        Self { inner, free: Arc::new(Semaphore::new(PLACES)), guests: Vec::new() }
    }

    /// Has the one leave that has been idle for longest; nobody, if all are being served.
    fn show_out(&mut self) {
        let idle = self.guests.iter().enumerate();
        let idle = idle.filter_map(|(at, guest)| Some((mood(&guest.mood).idle()?, at)));
        if let Some((_, at)) = idle.max() {
            // It may have ended just now.
            let _ = self.guests.swap_remove(at).leave.send(());
        }
    }

    async fn place(&mut self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
                return place;
            }
            self.guests.retain(|guest| !guest.leave.is_closed());
            self.show_out();
            let freed = Arc::clone(&self.free).acquire_owned();
            // The semaphore is never closed.
            if let Ok(Ok(place)) = tokio::time::timeout(LOOK_AGAIN, freed).await {
                return place;
            }
        }
    }
}

impl axum::serve::Listener for Places {
    type Io = Placed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Placed, SocketAddr) {
        let (stream, from) = axum::serve::Listener::accept(&mut self.inner).await;
        let place = self.place().await;
        let (leave, leaves) = oneshot::channel();
        let mood = Arc::new(Mutex::new(Mood::Asks(Instant::now())));
        self.guests.retain(|guest| !guest.leave.is_closed());
        self.guests.push(Guest { mood: Arc::clone(&mood), leave });
        let deadline = Box::pin(tokio::time::sleep(ASKS_WITHIN));
        (Placed { stream, mood, leaves: Some(leaves), deadline, _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that keeps its place until it ends.
pub(super) struct Placed {
    stream: TcpStream,
    mood: Arc<Mutex<Mood>>,
    leaves: Option<oneshot::Receiver<()>>,
    /// While it asks: until when.
    deadline: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Placed {
    fn remember(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// Whether its time is over, or its place is given to somebody else.
    fn leaves(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        match self.leaves.as_mut().map(|leaves| Pin::new(leaves).poll(cx)) {
            Some(Poll::Ready(Ok(()))) => return Some(io::ErrorKind::ConnectionAborted.into()),
            // The listener has gone; who is here stays.
            Some(Poll::Ready(Err(_))) => self.leaves = None,
            Some(Poll::Pending) | None => {}
        }
        let asks = matches!(mood(&self.mood), Mood::Asks(_));
        (asks && self.deadline.as_mut().poll(cx).is_ready()).then(|| io::ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.leaves(cx) {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before && matches!(mood(&self.mood), Mood::Answered(_)) {
            // The next request; byte by byte it isn't given more time.
            let now = Instant::now();
            self.remember(Mood::Asks(now));
            self.deadline.as_mut().reset(now + ASKS_WITHIN);
        }
        read
    }
}

impl AsyncWrite for Placed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if matches!(written, Poll::Ready(Ok(_))) {
            self.remember(Mood::Answered(Instant::now()));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::Router;
    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;

    use super::*;
    use crate::api::Lines;
    use crate::checks::space::on_a_host;

    /// More than a loaded machine takes for an answer.
    const SOON: Duration = Duration::from_secs(5);

    async fn ask(at: SocketAddr, path: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: standin\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let read = tokio::time::timeout(SOON, stream.read(&mut answer)).await;
        answer.truncate(read.expect("an answer in time").unwrap_or(0));
        (stream, String::from_utf8(answer).unwrap())
    }

    #[test]
    fn who_says_nothing_keeps_nobody_out() {
        on_a_host("api::places::tests::who_says_nothing_keeps_nobody_out", || async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = listener.local_addr().unwrap();
            let (line, lines) = mpsc::channel::<Result<Bytes, Infallible>>(1);
            line.send(Ok(Bytes::from_static(b"first\n"))).await.unwrap();
            let story = Arc::new(Mutex::new(Some(lines)));
            let follow = move || async move {
                let lines = story.lock().unwrap().take();
                Body::from_stream(Lines(lines.unwrap()))
            };
            let app = Router::new()
                .route("/here", get(|| async { "here" }))
                .route("/follow", get(follow));
            tokio::spawn(async move { axum::serve(Places::of(listener), app).await });
            let (mut follower, said) = ask(at, "/follow").await;
            assert!(said.starts_with("HTTP/1.1 200"), "{said}");
            let began = Instant::now();
            let mut silent = Vec::new();
            for _ in 1..PLACES {
                let mut one = TcpStream::connect(at).await.unwrap();
                one.write_all(b"GET /here HTT").await.unwrap();
                silent.push(one);
            }
            // All places are taken, and half a request is none.
            let mut answered = Vec::new();
            for _ in 0..3 {
                let (stream, said) = ask(at, "/here").await;
                assert!(said.ends_with("here"), "{said}");
                answered.push(stream);
            }
            // The others have their time, and no more, also if they go on a little.
            for mut one in silent {
                let _ = one.write_all(b"P").await;
                let end = began + ASKS_WITHIN + SOON;
                let read = tokio::time::timeout_at(end, one.read(&mut [0; 64])).await;
                assert!(matches!(read.expect("an end in time"), Ok(0) | Err(_)));
            }
            line.send(Ok(Bytes::from_static(b"second\n"))).await.unwrap();
            let mut more = vec![0; 1024];
            let mut said = said;
            while !said.contains("second") {
                let read = tokio::time::timeout(SOON, follower.read(&mut more)).await;
                let read = read.expect("who is served stays").unwrap();
                assert!(read > 0, "who is served stays: {said}");
                said.push_str(&String::from_utf8_lossy(&more[..read]));
            }
        });
    }
}
