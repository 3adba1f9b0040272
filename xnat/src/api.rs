//! The API: HTTP and JSON on a unix socket, usable with curl.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/forwards` | every [`Shown`] |
//! | `POST /v1/forwards` with a [`ForwardSpec`] | 201, or 200 if it was there; with it, every forward |
//! | `DELETE /v1/forwards/{protocol}/{ports}` | what was removed; with `?to=ADDRESS[:PORTS]` only if it leads there |
//!
//! Errors are objects with the member `error`: 400 for what cannot be, 404 for what is not there, 409 for what something
//! else is in the way of.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::{fs, io};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{self, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::daemon::Refusal;
use crate::forward::ForwardError;
use crate::forward::spec::{ForwardSpec, RemoveSpec};
use crate::forward::table::Shown;
use crate::status::Status;

/// Where the status is to be had.
pub(crate) const STATUS: &str = "/v1/status";
/// Where the forwards are.
pub(crate) const FORWARDS: &str = "/v1/forwards";

/// What a client wants of the daemon.
#[derive(Debug)]
pub(crate) enum Request {
    /// Its status.
    Status(oneshot::Sender<Result<Status, String>>),
    /// The forwards.
    Forwards(oneshot::Sender<Vec<Shown>>),
    /// Another forward. The answer tells whether any of it was missing.
    AddForward(ForwardSpec, oneshot::Sender<Result<bool, Refusal>>),
    /// Forwards less. The answer tells which.
    RemoveForward(RemoveSpec, oneshot::Sender<Result<Vec<Shown>, Refusal>>),
}

/// An error as clients get it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ApiError {
    pub(crate) error: String,
}

type Requests = mpsc::Sender<Request>;

/// The path of a forward's ports.
pub(crate) fn forward_path(what: &RemoveSpec) -> String {
    let ports = what.ports();
    let to = match what {
        RemoveSpec::Ports(_) => String::new(),
        RemoveSpec::Forward(forward) => format!("?to={}:{}", forward.address, forward.target_ports),
    };
    format!("{FORWARDS}/{}/{}{to}", ports.protocols, ports.ports)
}

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
    let router = Router::new()
        .route(STATUS, get(status))
        .route(FORWARDS, get(forwards).post(add_forward))
        .route(&format!("{FORWARDS}/{{protocol}}/{{ports}}"), delete(remove_forward))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "there is no such path; try /v1/status or /v1/forwards") })
        .method_not_allowed_fallback(|| async {
            failure(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
        })
        .with_state(requests);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(wanted)
}

async fn status(State(requests): State<Requests>) -> Response {
    match ask(&requests, Request::Status).await {
        Some(Ok(status)) => Json(status).into_response(),
        Some(Err(error)) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
        None => ending(),
    }
}

async fn forwards(State(requests): State<Requests>) -> Response {
    match ask(&requests, Request::Forwards).await {
        Some(forwards) => Json(forwards).into_response(),
        None => ending(),
    }
}

/// Whatever type curl says that the body has.
async fn add_forward(State(requests): State<Requests>, body: Bytes) -> Response {
    let spec = match serde_json::from_slice(&body) {
        Ok(spec) => spec,
        Err(error) => return failure(StatusCode::BAD_REQUEST, format!("the body is no forward: {error}")),
    };
    let added = match ask(&requests, |answer| Request::AddForward(spec, answer)).await {
        Some(Ok(added)) => added,
        Some(Err(refusal)) => return refused(&refusal),
        None => return ending(),
    };
    let status = if added { StatusCode::CREATED } else { StatusCode::OK };
    match ask(&requests, Request::Forwards).await {
        Some(forwards) => (status, Json(forwards)).into_response(),
        None => ending(),
    }
}

async fn remove_forward(
    State(requests): State<Requests>,
    extract::Path((protocol, ports)): extract::Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let to = match query.as_deref().map(|query| query.strip_prefix("to=")) {
        None => String::new(),
        Some(Some(to)) => format!("={to}"),
        Some(None) => return failure(StatusCode::BAD_REQUEST, "the only parameter is to=ADDRESS[:PORTS]"),
    };
    let what = match format!("{protocol}:{ports}{to}").parse() {
        Ok(what) => what,
        Err(error) => return failure(StatusCode::BAD_REQUEST, error),
    };
    match ask(&requests, |answer| Request::RemoveForward(what, answer)).await {
        Some(Ok(removed)) => Json(removed).into_response(),
        Some(Err(refusal)) => refused(&refusal),
        None => ending(),
    }
}

/// Asks the daemon; none when it is ending.
async fn ask<T>(requests: &Requests, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    requests.send(request(answer)).await.ok()?;
    answered.await.ok()
}

fn ending() -> Response {
    failure(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending")
}

fn refused(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::Forward(error) => failure(code(error), error),
        Refusal::Failed(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, format_args!("{error:#}")),
    }
}

const fn code(error: &ForwardError) -> StatusCode {
    match error {
        ForwardError::Missing(_) => StatusCode::NOT_FOUND,
        ForwardError::Taken { .. } | ForwardError::Elsewhere { .. } | ForwardError::Listening { .. } => {
            StatusCode::CONFLICT
        }
        ForwardError::Outside { .. }
        | ForwardError::NoContainer { .. }
        | ForwardError::OwnAddress { .. }
        | ForwardError::LinkPort { .. }
        | ForwardError::Overlap(..) => StatusCode::BAD_REQUEST,
    }
}

fn failure(status: StatusCode, error: impl std::fmt::Display) -> Response {
    (status, Json(json!(ApiError { error: error.to_string() }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_forward_says_what_is_meant() {
        for (what, path) in [
            ("tcp:8080", "/v1/forwards/tcp/8080"),
            ("both:5-6", "/v1/forwards/both/5-6"),
            ("udp:53=10.0.0.1", "/v1/forwards/udp/53?to=10.0.0.1:53"),
        ] {
            assert_eq!(forward_path(&what.parse().unwrap()), path);
        }
    }
}
