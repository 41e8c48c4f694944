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
use crate::link::file::apply::{Order, Without, steps};

#[derive(Deserialize)]
pub(super) struct ApplyOrder {
    text: Box<str>,
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
    let (steps, mut past) = steps();
    let order = Order { text, name, by, without: Without::Nodes(without) };
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
