//! Talks to the daemon of this node over its Unix socket.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// No answer of the daemon is longer, apart from a stream of events.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// No daemon answers at the socket.
#[derive(Debug)]
pub(crate) struct NoDaemon(pub(crate) String);

impl std::fmt::Display for NoDaemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoDaemon {}

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
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        NoDaemon(format!(
            "no standin answers at {} ({error}); is it running? systemctl status standin",
            socket.display()
        ))
    })?;
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

/// Sends one request and reads the whole answer; what the daemon calls an error is one.
pub(crate) async fn call(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<Bytes> {
    let response = send(socket, method, path, body).await?;
    let status = response.status();
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES);
    let bytes = limited.collect().await.map_err(|error| anyhow!(error))?.to_bytes();
    if status.is_success() {
        return Ok(bytes);
    }
    let said = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
    let words = said.as_ref().and_then(|said| said.get("error")?.as_str());
    Err(anyhow!("{}", words.unwrap_or_else(|| status.as_str())))
}
