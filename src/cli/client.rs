//! Talks to the daemon of this node over its Unix socket.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use standin_linux::process;
use tokio::net::UnixStream;

use crate::exit::Exit;

/// No answer of the daemon is longer, apart from a stream of events.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// A daemon that lives answers a small question within this, whatever else it does; asked twice.
const ALIVE_WITHIN: Duration = Duration::from_secs(2);

/// Why a request came to nothing, and what the command exits with.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) exit: Exit,
    pub(crate) words: String,
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Unanswered {}

/// The daemon ended in the middle.
pub(crate) fn gone() -> Unanswered {
    Unanswered { exit: Exit::NoDaemon, words: "the daemon has gone".to_owned() }
}

/// The socket couldn't be connected to.
fn unreachable(socket: &Path, error: &std::io::Error) -> Unanswered {
    let socket = socket.display();
    match error.kind() {
        ErrorKind::PermissionDenied => Unanswered {
            exit: Exit::BadHost,
            words: format!(
                "{socket} is for root and the group standin; use sudo, or: usermod -aG standin $USER"
            ),
        },
        kind => {
            let why = match kind {
                ErrorKind::NotFound => "there is no such socket".to_owned(),
                ErrorKind::ConnectionRefused => "nobody listens there any more".to_owned(),
                _ => error.to_string(),
            };
            Unanswered {
                exit: Exit::NoDaemon,
                words: format!(
                    "no standin answers at {socket}: {why}. Is it running? systemctl status standin"
                ),
            }
        }
    }
}

/// It is there, and says nothing.
async fn stuck(socket: &Path) -> Unanswered {
    let connected = tokio::time::timeout(ALIVE_WITHIN, UnixStream::connect(socket)).await;
    let credentials = connected.ok().and_then(Result::ok).and_then(|it| it.peer_cred().ok());
    // 0 is what a process of another namespace is called.
    let pid = credentials.and_then(|it| u32::try_from(it.pid()?).ok()).filter(|pid| *pid > 0);
    let words = match pid {
        Some(pid) if process::is_stopped(pid) => format!(
            "the daemon (pid {pid}) is stopped, by SIGSTOP or a debugger; to let it go on: kill -CONT {pid}"
        ),
        _ => {
            let name = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            let s = 2 * ALIVE_WITHIN.as_secs();
            format!(
                "the daemon{name} has answered nothing for {s} s: it hangs, or this machine does. \
                 `standin events` and `journalctl -u standin` have what it said; if it goes on: \
                 systemctl restart standin"
            )
        }
    };
    Unanswered { exit: Exit::NoDaemon, words }
}

/// Waits for an answer, which may take its time, for as long as the daemon answers at all.
async fn attended<T>(socket: &Path, answer: impl Future<Output = Result<T>>) -> Result<T> {
    let mut answer = std::pin::pin!(answer);
    loop {
        if let Ok(answer) = tokio::time::timeout(ALIVE_WITHIN, &mut answer).await {
            return answer;
        }
        let asked = exchange(socket, Method::GET, "/v1/status", None);
        if tokio::time::timeout(ALIVE_WITHIN, asked).await.is_err() {
            return Err(stuck(socket).await.into());
        }
    }
}

/// Runs a future of a command to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// Sends one request; the answer's body is still to be read.
pub(crate) async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<Response<Incoming>> {
    attended(socket, exchange(socket, method, path, body)).await
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<Response<Incoming>> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body = body.map_or_else(String::new, ToString::to_string);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "standin")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    sender.send_request(request).await.context("the daemon went away")
}

/// Sends one request and hands back the answer while it still comes; what the daemon calls an error is
/// one.
pub(crate) async fn stream(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<Response<Incoming>> {
    let response = send(socket, method, path, body).await?;
    if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
}

/// Hands each line of an answer that still comes to `take`, until it says that it has had enough.
///
/// # Errors
/// What `take` says; or the answer ended before.
pub(crate) async fn lines(
    response: Response<Incoming>,
    mut take: impl FnMut(&[u8]) -> Result<bool>,
) -> Result<()> {
    let mut body = response.into_body();
    let mut pending = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = pending.drain(..=end).collect();
            if take(&line)? {
                return Ok(());
            }
        }
    }
    Err(gone().into())
}

/// Sends one request and reads the whole answer; what the daemon calls an error is one.
pub(crate) async fn call(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<Bytes> {
    let response = send(socket, method, path, body).await?;
    if response.status().is_success() {
        attended(socket, whole(response)).await
    } else {
        Err(refusal(response).await)
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes> {
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES);
    Ok(limited.collect().await.map_err(|error| anyhow!(error))?.to_bytes())
}

async fn refusal(response: Response<Incoming>) -> anyhow::Error {
    let status = response.status();
    let bytes = match whole(response).await {
        Ok(bytes) => bytes,
        Err(error) => return error,
    };
    let said = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
    let words = said.as_ref().and_then(|said| said.get("error")?.as_str());
    let words = words.map_or_else(|| format!("the daemon says {status}"), str::to_owned);
    let exit = match status {
        StatusCode::UNPROCESSABLE_ENTITY => Exit::BadFile,
        _ => Exit::Failed,
    };
    Unanswered { exit, words }.into()
}
