//! What the API does about the shared files.

use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;

use super::{Caller, Desk, ask, stuck};
use crate::control::Request;
use crate::sync::{Ask, Order};

pub(super) fn reading() -> Router<Desk> {
    Router::new()
        .route("/v1/sync", get(status))
        .route("/v1/sync/history", get(history))
        .route("/v1/sync/diff", get(diff))
}

pub(super) fn writing() -> Router<Desk> {
    Router::new()
        .route("/v1/sync/hold", post(hold))
        .route("/v1/sync/resume", post(resume))
        .route("/v1/sync/rollback", post(rollback))
        .route("/v1/sync/apply", post(apply))
        .route("/v1/sync/approve", post(approve))
        .route("/v1/sync/rotate", post(rotate))
}

/// Asks the synchronisation; where there is none, or it can't, says so.
async fn answer<T: Serialize>(
    desk: &Desk,
    question: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Ask,
) -> Response {
    match ask(desk, |reply| Request::Sync(question(reply))).await {
        Some(Ok(found)) => Json(found).into_response(),
        Some(Err(why)) => (StatusCode::CONFLICT, Json(json!({ "error": why }))).into_response(),
        None => stuck(),
    }
}

async fn status(State(desk): State<Desk>) -> Response {
    answer(&desk, Ask::Status).await
}

async fn history(State(desk): State<Desk>) -> Response {
    answer(&desk, Ask::History).await
}

#[derive(Deserialize)]
struct Whose {
    node: Option<String>,
}

async fn diff(State(desk): State<Desk>, Query(whose): Query<Whose>) -> Response {
    answer(&desk, |reply| Ask::Diff { node: whose.node, reply }).await
}

async fn order(desk: &Desk, by: String, order: Order) -> Response {
    answer(desk, |reply| Ask::Order { order, by, reply }).await
}

async fn hold(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, .. }): ConnectInfo<Caller>,
) -> Response {
    order(&desk, by, Order::Hold).await
}

async fn apply(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, .. }): ConnectInfo<Caller>,
) -> Response {
    order(&desk, by, Order::Apply).await
}

#[derive(Deserialize)]
struct RotateOrder {
    #[serde(default)]
    all: bool,
}

async fn rotate(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, .. }): ConnectInfo<Caller>,
    Json(RotateOrder { all }): Json<RotateOrder>,
) -> Response {
    order(&desk, by, Order::Rotate { all }).await
}

async fn approve(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, root }): ConnectInfo<Caller>,
) -> Response {
    if !root {
        let why = "only root may approve: what is let in runs as root";
        return (StatusCode::FORBIDDEN, Json(json!({ "error": why }))).into_response();
    }
    order(&desk, by, Order::Approve).await
}

#[derive(Deserialize)]
struct ResumeOrder {
    #[serde(default)]
    accept_deletion: bool,
}

async fn resume(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, .. }): ConnectInfo<Caller>,
    Json(ResumeOrder { accept_deletion }): Json<ResumeOrder>,
) -> Response {
    order(&desk, by, Order::Resume { accept_deletion }).await
}

#[derive(Deserialize)]
struct RollbackOrder {
    generation: Option<String>,
}

async fn rollback(
    State(desk): State<Desk>,
    ConnectInfo(Caller { words: by, .. }): ConnectInfo<Caller>,
    Json(RollbackOrder { generation }): Json<RollbackOrder>,
) -> Response {
    order(&desk, by, Order::Rollback { generation }).await
}
