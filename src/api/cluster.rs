//! What the API does about the cluster file.

use std::convert::Infallible;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::connect_info::ConnectInfo;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::{Caller, Desk, Lines, stuck};
use crate::control::Request;
use crate::link::file::apply::{Change, Order, Without, steps};

#[derive(Deserialize)]
pub(super) struct ApplyOrder {
    text: String,
    /// As the caller names the file.
    #[serde(default)]
    name: String,
    #[serde(default)]
    without: Vec<String>,
}

/// A cluster file names commands that run as root, here and on all other nodes.
pub(super) async fn apply(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, root }): ConnectInfo<Caller>,
    Json(order): Json<ApplyOrder>,
) -> Response {
    if !root {
        let body = json!({ "error": "only root may change the cluster file" });
        return (StatusCode::FORBIDDEN, Json(body)).into_response();
    }
    let ApplyOrder { text, name, without } = order;
    let order = Order { change: Change::File(text), name, by, without: Without::Nodes(without) };
    follow(desk, order).await
}

#[derive(Deserialize)]
pub(super) struct ExpelOrder {
    node: String,
    #[serde(default)]
    without: Vec<String>,
}

pub(super) async fn expel(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, root }): ConnectInfo<Caller>,
    Json(order): Json<ExpelOrder>,
) -> Response {
    if !root {
        let body = json!({ "error": "only root may expel a node" });
        return (StatusCode::FORBIDDEN, Json(body)).into_response();
    }
    let (name, change) = ("the cluster file".to_owned(), Change::Expel(order.node));
    follow(desk, Order { change, name, by, without: Without::Nodes(order.without) }).await
}

/// Orders it, and passes on each step.
async fn follow(desk: Desk, order: Order) -> Response {
    let (steps, mut past) = steps();
    if desk.send(Request::Apply { order, steps }).await.is_err() {
        return stuck();
    }
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(16);
    tokio::spawn(async move {
        while let Some(step) = past.recv().await {
            // Steps are plain strings and numbers; they can always be written.
            let mut line = serde_json::to_string(&step).unwrap_or_default();
            line.push('\n');
            // What was begun is finished also when nobody looks on.
            let _ = sender.send(Ok(Bytes::from(line))).await;
        }
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(Lines(receiver))).into_response()
}
