//! One HTTP request on a fresh connection: no redirects, no proxy, no pool, no name resolution.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Response, header};
use hyper_util::rt::TokioIo;
use standin_config::model::HttpUrl;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::Outcome;

/// What must be found in the body has to stand in its first part: a check is no download.
const BODY_BYTES: usize = 64 * 1024;

/// hyper's smallest; a status line and a few headers.
const READ_BUFFER: usize = 8 * 1024;

/// What is asked, and which answers are good.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) url: HttpUrl,
    /// The source address; `None`: the kernel's choice.
    pub(crate) from: Option<IpAddr>,
    /// The Host header; `None`: as in the URL.
    pub(crate) host: Option<String>,
    /// Empty: 200 to 399.
    pub(crate) status: Vec<u16>,
    pub(crate) body: Option<String>,
    /// For connection, answer and body together.
    pub(crate) timeout: Duration,
}

/// Why there was no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    Connect(io::Error),
    /// Nobody took the connection in time.
    NoConnection,
    /// The kernel took the connection, the server didn't answer in time: it hangs.
    NoAnswer,
    /// What came back was no HTTP.
    Http(hyper::Error),
    /// The request can't be put into HTTP.
    Request(hyper::http::Error),
}

impl Trouble {
    pub(crate) fn say(&self, timeout: Duration) -> String {
        let ms = timeout.as_millis();
        match self {
            Self::Connect(error) => format!("no connection: {error}"),
            Self::NoConnection => format!("no connection within {ms} ms"),
            Self::NoAnswer => format!("connected, but no answer within {ms} ms"),
            Self::Http(error) if error.is_incomplete_message() => {
                "the connection was closed without an answer".to_owned()
            }
            Self::Http(error) => format!("no valid HTTP answer: {error}"),
            Self::Request(error) => format!("this can't be asked by HTTP: {error}"),
        }
    }
}

/// Asks, and judges the answer; never takes longer than the request's timeout.
pub(crate) async fn probe(request: &Request) -> Outcome {
    let url = &request.url;
    let deadline = Instant::now() + request.timeout;
    let host = request.host.as_deref().unwrap_or(&url.host);
    let question = Question {
        method: Method::GET,
        address: url.address,
        from: request.from,
        host,
        path: &url.path,
    };
    let response = match ask(&question, deadline).await {
        Ok(response) => response,
        Err(trouble) => return Outcome::fail(format!("{url}: {}", trouble.say(request.timeout))),
    };
    let status = response.status().as_u16();
    if !accepts(&request.status, status) {
        return Outcome::fail(format!(
            "{url}: status {status}, wanted {}",
            wanted(&request.status)
        ));
    }
    let Some(text) = &request.body else {
        return Outcome::pass(format!("{url}: status {status}"));
    };
    match timeout_at(deadline, contains(response, text.as_bytes())).await {
        Ok(Ok(true)) => Outcome::pass(format!("{url}: status {status}, body has \"{text}\"")),
        Ok(Ok(false)) => Outcome::fail(format!(
            "{url}: status {status}, but \"{text}\" is not in the first {BODY_BYTES} bytes of the body"
        )),
        Ok(Err(error)) => {
            Outcome::fail(format!("{url}: status {status}, but the body broke off: {error}"))
        }
        Err(_) => Outcome::fail(format!(
            "{url}: status {status}, but the body had not come within {} ms",
            request.timeout.as_millis()
        )),
    }
}

/// One request.
#[derive(Debug)]
pub(crate) struct Question<'q> {
    pub(crate) method: Method,
    pub(crate) address: SocketAddr,
    /// The source address. An address asked from itself can't be answered by another node, should
    /// it move there at this very moment.
    pub(crate) from: Option<IpAddr>,
    pub(crate) host: &'q str,
    pub(crate) path: &'q str,
}

impl Question<'_> {
    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(from) = self.from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        socket.connect(self.address).await
    }
}

/// Asks, and returns the head of the answer.
pub(crate) async fn ask(
    question: &Question<'_>,
    deadline: Instant,
) -> Result<Response<Answer>, Trouble> {
    let request = hyper::Request::builder()
        .method(&question.method)
        .uri(question.path)
        .header(header::HOST, question.host)
        .header(header::USER_AGENT, "standin")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(Trouble::Request)?;
    let stream = match timeout_at(deadline, question.connect()).await {
        Ok(connected) => connected.map_err(Trouble::Connect)?,
        Err(_) => return Err(Trouble::NoConnection),
    };
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = Driver(tokio::spawn(async move {
            let _said_by_the_request = connection.await;
        }));
        let (head, incoming) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, Answer { incoming, _driver: driver }))
    };
    match timeout_at(deadline, exchange).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(Trouble::Http(error)),
        Err(_) => Err(Trouble::NoAnswer),
    }
}

/// The body of an answer; dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Answer {
    incoming: Incoming,
    _driver: Driver,
}

/// The task that moves the bytes; it ends with whoever waits for them.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether the first part of the body has `text`.
async fn contains(mut response: Response<Answer>, text: &[u8]) -> Result<bool, hyper::Error> {
    let mut seen: Vec<u8> = Vec::new();
    while let Some(frame) = response.body_mut().incoming.frame().await {
        // Only what is new is searched, with what a text across the seam needs: a server that
        // sends byte by byte costs no more than another.
        let from = seen.len().saturating_sub(text.len());
        if let Some(data) = frame?.data_ref() {
            let room = BODY_BYTES - seen.len();
            seen.extend(data.iter().take(room));
        }
        let new = seen.get(from..).unwrap_or_default();
        if new.windows(text.len().max(1)).any(|window| window == text) {
            return Ok(true);
        }
        if seen.len() >= BODY_BYTES {
            break;
        }
    }
    Ok(text.is_empty())
}

fn accepts(listed: &[u16], status: u16) -> bool {
    if listed.is_empty() { (200..400).contains(&status) } else { listed.contains(&status) }
}

fn wanted(listed: &[u16]) -> String {
    if listed.is_empty() {
        return "200 to 399".to_owned();
    }
    let listed: Vec<String> = listed.iter().map(u16::to_string).collect();
    listed.join(" or ")
}
