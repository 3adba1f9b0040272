//! The API: HTTP and JSON on a unix socket, usable with curl.
//!
//! `GET /v1/status` answers with [`Status`].

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::{fs, io};

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::status::Status;

/// Where the status is to be had.
pub(crate) const STATUS: &str = "/v1/status";

/// What a client wants of the daemon.
#[derive(Debug)]
pub(crate) enum Request {
    /// Its status.
    Status(oneshot::Sender<Result<Status, String>>),
}

type Requests = mpsc::Sender<Request>;

/// Serves the API at `socket`, and passes on what clients want.
pub(crate) fn serve(socket: &Path) -> io::Result<mpsc::Receiver<Request>> {
    // A socket of a run that was killed; the lock tells that it is nobody's.
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    let (requests, wanted) = mpsc::channel(16);
    let router = Router::new().route(STATUS, get(status)).with_state(requests);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(wanted)
}

async fn status(State(requests): State<Requests>) -> Response {
    let (answer, answered) = oneshot::channel();
    if requests.send(Request::Status(answer)).await.is_err() {
        return failure("the daemon is ending");
    }
    match answered.await {
        Ok(Ok(status)) => Json(status).into_response(),
        Ok(Err(error)) => failure(&error),
        Err(_) => failure("the daemon is ending"),
    }
}

fn failure(error: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": error }))).into_response()
}
