//! Asking a running daemon.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::ApiError;
use crate::commands::Failure;
use crate::instance::Instance;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the daemon answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    body: Bytes,
}

impl Answer {
    /// The document in it. What the daemon refuses is refused here, and what fails there fails here.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if self.status.is_success() {
            let read = serde_json::from_slice(&self.body);
            return Ok(read.context("the daemon's answer is not understood; is it of another version?")?);
        }
        let told = serde_json::from_slice(&self.body).map(|ApiError { error }| anyhow!(error));
        let error = told.unwrap_or_else(|_| anyhow!("{}", String::from_utf8_lossy(&self.body)));
        if self.status.is_client_error() {
            Err(Failure::Refused(error))
        } else {
            Err(Failure::Failed(error.context(format!("the daemon answers {}", self.status))))
        }
    }
}

/// Gets `path` from the daemon of `instance`; none when no daemon runs.
pub(crate) async fn get<T: DeserializeOwned>(instance: &Instance, path: &str) -> Result<Option<T>, Failure> {
    let answer = ask(instance, Method::GET, path, Vec::new()).await?;
    answer.map(|answer| answer.read()).transpose()
}

/// Asks the daemon of `instance`; none when no daemon runs.
pub(crate) async fn ask(
    instance: &Instance,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> anyhow::Result<Option<Answer>> {
    let answer = timeout(PATIENCE, exchange(instance, method, path, body)).await;
    answer.context("the daemon does not answer; was it stopped?")?
}

async fn exchange(instance: &Instance, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Option<Answer>> {
    let socket = instance.socket();
    let stream = match UnixStream::connect(&socket).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        stream => stream.with_context(|| format!("asking the daemon at {}", socket.display()))?,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request =
        Request::builder().method(method).uri(path).header(header::HOST, "xnat").body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await.context("asking the daemon")?;
    let status = response.status();
    let body = response.into_body().collect().await.context("reading the daemon's answer")?.to_bytes();
    Ok(Some(Answer { status, body }))
}
