//! The HTTP API of a running node: the same on the Unix socket and, where asked for, on TCP.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/status` | [`types::Status`] |
//! | `GET /v1/events?after=SEQ&follow=true` | one event a line, as JSON |
//! | `POST /v1/maintenance` `{"on": true, "for_s": 1800, "now": false}` | `{"vips": […]}`: where each is then |
//! | `GET /v1/sync` | [`types::sync::Sync`] |
//! | `GET /v1/sync/history` | a list of [`types::sync::Kept`] |
//! | `GET /v1/sync/diff?node=NAME` | [`types::sync::Diff`] |
//! | `POST /v1/sync/hold`, `/v1/sync/apply`, `/v1/sync/approve` | what was begun, or 409 with why not |
//! | `POST /v1/sync/resume` `{"accept_deletion": false}` | the same |
//! | `POST /v1/sync/rollback` `{"generation": "7"}` | the same |
//! | `POST /v1/sync/rotate` `{"all": false}` | the same |
//! | `POST /v1/await-vacant` `{"vip": "web", "every_ms": 100}`, `null`: no longer | `{}` |
//! | `POST /v1/switchover` `{"vip": "web", "to": "n2", "drain_s": 30}` | its story, one step a line, as JSON; 409 with what is in the way |
//! | `POST /v1/switchover/abort` `{"vip": "web"}` | `{"text": …}`: who was told; 409 with why nobody was |
//! | `POST /v1/apply/cluster` `{"text": …, "without": […]}` | one step a line, as JSON; root only |
//! | `POST /v1/expel` `{"node": "n3", "without": […]}` | the same |
//! | `POST /v1/reload` | `{"text": …}`, or 422 with what is wrong |
//!
//! Over TCP only the `GET`s are answered: nobody is known there.

mod cluster;
mod places;
mod sync;
pub(crate) mod types;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::control::history::Record;
use crate::control::{Asked, Request, Wish};
use places::Places;

/// Longer than this nobody means; it also keeps the engine's clock from running over.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Probes for a vacant address closer than this wouldn't wait for answers; later ones find it too late.
pub(crate) const PROBE_GAPS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(10);

/// As the file's `drain_timeout`.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

type Desk = mpsc::Sender<Request>;

/// Who is on the other end of the Unix socket.
#[derive(Clone, Debug)]
struct Caller {
    words: String,
    root: bool,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let words = |who: tokio::net::unix::UCred| match who.pid() {
            Some(pid) => format!("uid {} (pid {pid})", who.uid()),
            None => format!("uid {}", who.uid()),
        };
        let who = stream.io().peer_cred();
        Self {
            root: who.as_ref().is_ok_and(|who| who.uid() == 0),
            words: who.map_or_else(|_| "somebody".to_owned(), words),
        }
    }
}

/// Answers on the Unix socket for as long as the runtime lives.
pub(crate) fn serve(socket: StdUnixListener, desk: Desk) {
    let reading = reading();
    let writing = Router::new()
        .route("/v1/maintenance", post(maintenance))
        .route("/v1/await-vacant", post(await_vacant))
        .route("/v1/switchover", post(switchover))
        .route("/v1/switchover/abort", post(call_off))
        .route("/v1/reload", post(reload))
        .route("/v1/apply/cluster", post(cluster::apply))
        .route("/v1/expel", post(cluster::expel));
    let app = reading.merge(writing).merge(sync::writing());
    let app = app.layer(map_response(in_json)).with_state(desk);
    tokio::spawn(async move {
        match UnixListener::from_std(socket) {
            Ok(listener) => {
                let service = app.into_make_service_with_connect_info::<Caller>();
                // It ends only with the runtime.
                let _ = axum::serve(listener, service).await;
            }
            Err(error) => eprintln!("standin: the API can't listen: {error}"),
        }
    });
}

/// Answers what may be read on TCP.
///
/// # Errors
/// The address can't be bound.
pub(crate) async fn serve_tcp(listen: SocketAddr, desk: Desk) -> std::io::Result<JoinHandle<()>> {
    let listener = Places::of(TcpListener::bind(listen).await?);
    let app = reading().layer(map_response(in_json)).with_state(desk);
    Ok(tokio::spawn(async move {
        // It ends only when it is aborted.
        let _ = axum::serve(listener, app).await;
    }))
}

fn reading() -> Router<Desk> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .merge(sync::reading())
        .fallback(nothing_here)
}

/// Puts a question to the control plane and waits for the answer.
async fn ask<T>(desk: &Desk, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    desk.send(request(sender)).await.ok()?;
    receiver.await.ok()
}

async fn nothing_here() -> Response {
    let body = json!({ "error": "there is /v1/status, /v1/events, /v1/sync; over the Unix socket also \
                                 POST /v1/maintenance, /v1/await-vacant, /v1/switchover[/abort], \
                                 /v1/reload, /v1/apply/cluster, /v1/expel, /v1/sync/…" });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// What axum itself refuses (a body that is no JSON, a key of the wrong type, a method) is told as all
/// other errors are: programs read one form.
async fn in_json(response: Response) -> Response {
    /// What it says is one line.
    const LINE: usize = 4096;
    let status = response.status();
    let is_json = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/");
    if !status.is_client_error()
        || response.headers().get(header::CONTENT_TYPE).is_some_and(is_json)
    {
        return response;
    }
    let allowed = response.headers().get(header::ALLOW).cloned();
    let bytes = axum::body::to_bytes(response.into_body(), LINE).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&bytes);
    let said = if said.is_empty() { status.to_string() } else { said.into_owned() };
    let mut response = (status, Json(json!({ "error": said }))).into_response();
    if let Some(allowed) = allowed {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

fn stuck() -> Response {
    let body = json!({ "error": "the engine doesn't answer; see the log" });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

async fn status(State(desk): State<Desk>) -> Response {
    match ask(&desk, Request::Status).await.flatten() {
        Some(status) => Json(types::Status::from(status)).into_response(),
        None => stuck(),
    }
}

#[derive(Deserialize)]
struct Which {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    follow: bool,
}

async fn events(State(desk): State<Desk>, Query(which): Query<Which>) -> Response {
    let after = which.after;
    let Some((past, mut future)) = ask(&desk, |reply| Request::Events { after, reply }).await
    else {
        return stuck();
    };
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    let text: String = past.iter().map(line).collect();
    if !which.follow {
        return (kind, text).into_response();
    }
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(16);
    tokio::spawn(async move {
        let mut next = Bytes::from(text);
        // A follower that has gone is noticed at the next send.
        while sender.send(Ok(next)).await.is_ok() {
            next = match tokio::time::timeout(Duration::from_secs(30), future.recv()).await {
                Ok(Ok(record)) => Bytes::from(line(&record)),
                Ok(Err(RecvError::Lagged(missed))) => {
                    Bytes::from(format!("{{\"missed\":{missed}}}\n"))
                }
                Ok(Err(RecvError::Closed)) => return,
                // An empty line finds out whether anybody is still there.
                Err(_) => Bytes::from_static(b"\n"),
            };
        }
    });
    (kind, Body::from_stream(Lines(receiver))).into_response()
}

fn line(record: &Record) -> String {
    // A record is plain strings and numbers; it can always be written.
    let mut text = serde_json::to_string(record).unwrap_or_default();
    text.push('\n');
    text
}

/// A channel as a stream.
struct Lines(mpsc::Receiver<Result<Bytes, Infallible>>);

impl futures_core::Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

#[derive(Deserialize)]
struct MaintenanceOrder {
    on: bool,
    /// Fractions count.
    for_s: Option<f64>,
    /// Without a planned move first.
    #[serde(default)]
    now: bool,
}

async fn maintenance(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, .. }): ConnectInfo<Caller>,
    Json(order): Json<MaintenanceOrder>,
) -> Response {
    if !order.on {
        return match ask(&desk, |reply| Request::MaintenanceOff { by, reply }).await {
            Some(true) => Json(json!({})).into_response(),
            Some(false) | None => stuck(),
        };
    }
    let lasting = order.for_s.map(Duration::try_from_secs_f64).transpose();
    let Some(lasting) = lasting.ok().filter(|time| time.is_none_or(|time| time <= LONGEST)) else {
        let body = json!({ "error": "for_s is a number of seconds, at most a year's" });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    };
    let at_once = order.now;
    let vips = ask(&desk, |reply| Request::Maintenance { lasting, at_once, by, reply }).await;
    vips.flatten().map_or_else(stuck, |vips| Json(json!({ "vips": vips })).into_response())
}

#[derive(Deserialize)]
struct VacancyOrder {
    vip: String,
    every_ms: Option<u64>,
}

async fn await_vacant(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, .. }): ConnectInfo<Caller>,
    Json(VacancyOrder { vip, every_ms }): Json<VacancyOrder>,
) -> Response {
    let gap = every_ms.map(Duration::from_millis);
    if gap.is_some_and(|gap| !PROBE_GAPS.contains(&gap)) {
        let body = json!({ "error": "every_ms is 50 to 10000" });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    }
    let name = vip.clone();
    match ask(&desk, |reply| Request::AwaitVacancy { vip, gap, by, reply }).await {
        Some(true) => Json(json!({})).into_response(),
        Some(false) => {
            let error = format!("this node has no VIP {name}");
            (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
        }
        None => stuck(),
    }
}

#[derive(Deserialize)]
struct SwitchoverOrder {
    vip: String,
    to: Option<String>,
    /// Fractions count.
    drain_s: Option<f64>,
    #[serde(default)]
    stale_ok: bool,
}

async fn switchover(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, .. }): ConnectInfo<Caller>,
    Json(order): Json<SwitchoverOrder>,
) -> Response {
    let drain = order.drain_s.map(Duration::try_from_secs_f64).transpose();
    let Some(drain) = drain.ok().filter(|time| time.is_none_or(|time| time <= LONGEST_DRAIN))
    else {
        let body = json!({ "error": "a drain takes an hour at most" });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    };
    let SwitchoverOrder { vip, to, stale_ok, .. } = order;
    let (deaf_ok, asked) = (false, Asked::Here);
    let wish = Wish { vip, to, drain, stale_ok, deaf_ok, by, asked };
    match ask(&desk, |reply| Request::Switchover { wish, reply }).await {
        Some(Ok(mut story)) => {
            let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(16);
            tokio::spawn(async move {
                // When whoever watches has gone, the story ends here as well.
                while let Some(progress) = tokio::select! {
                    progress = story.recv() => progress,
                    () = sender.closed() => None,
                } {
                    // Plain strings and numbers can always be written.
                    let mut line = serde_json::to_string(&progress).unwrap_or_default();
                    line.push('\n');
                    if sender.send(Ok(Bytes::from(line))).await.is_err() {
                        return;
                    }
                }
            });
            let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
            (kind, Body::from_stream(Lines(receiver))).into_response()
        }
        Some(Err(why)) => (StatusCode::CONFLICT, Json(json!({ "error": why }))).into_response(),
        None => stuck(),
    }
}

#[derive(Deserialize)]
struct CallOffOrder {
    vip: String,
}

async fn call_off(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, .. }): ConnectInfo<Caller>,
    Json(CallOffOrder { vip }): Json<CallOffOrder>,
) -> Response {
    match ask(&desk, |reply| Request::CallOff { vip, by, reply }).await {
        Some(Ok(text)) => Json(json!({ "text": text })).into_response(),
        Some(Err(why)) => (StatusCode::CONFLICT, Json(json!({ "error": why }))).into_response(),
        None => stuck(),
    }
}

async fn reload(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, .. }): ConnectInfo<Caller>,
) -> Response {
    match ask(&desk, |reply| Request::Reload { by, program: true, reply }).await {
        Some(Ok(text)) => Json(json!({ "text": text })).into_response(),
        Some(Err(text)) => {
            (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": text }))).into_response()
        }
        None => stuck(),
    }
}
