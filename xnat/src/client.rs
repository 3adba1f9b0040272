//! Asking a running daemon.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::instance::Instance;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Gets `path` from the daemon of `instance`; none when no daemon runs.
pub(crate) async fn get<T: DeserializeOwned>(instance: &Instance, path: &str) -> anyhow::Result<Option<T>> {
    timeout(PATIENCE, ask(instance, path)).await.context("the daemon does not answer; was it stopped?")?
}

async fn ask<T: DeserializeOwned>(instance: &Instance, path: &str) -> anyhow::Result<Option<T>> {
    let socket = instance.socket();
    let stream = match UnixStream::connect(&socket).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        stream => stream.with_context(|| format!("asking the daemon at {}", socket.display()))?,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, "xnat").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("asking the daemon")?;
    let status = response.status();
    let body = response.into_body().collect().await.context("reading the daemon's answer")?.to_bytes();
    if !status.is_success() {
        bail!("the daemon answers {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).context("the daemon's answer is not understood; is it of another version?").map(Some)
}
