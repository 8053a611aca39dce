//! The client of the API: one request, one bounded answer, errors that say what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::progress;
use crate::api::views::Problem;

/// Most bytes of an answer: the processes of a guest that has many, with room to spare.
const MAX_ANSWER: usize = 64 << 20;

/// Where the daemon listens, and how long to wait for it.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) socket: PathBuf,
    /// For questions.
    pub(super) patience: Duration,
    /// For commands; longer than the server's own limit, whose message says more.
    pub(super) command_patience: Duration,
    /// Whether a terminal is told that an answer takes its time.
    pub(super) shows_progress: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(
        "kvmpilotd does not run: nobody listens on {} ({source}); start it with `systemctl start kvmpilotd`, or name \
         its socket with --socket", socket.display()
    )]
    NotRunning { socket: PathBuf, source: io::Error },
    #[error(
        "no permission to use {}; run this as root, or join the socket's group (`ls -l` shows it) with \
         `usermod -aG GROUP USER` and log in again", .0.display()
    )]
    Permission(PathBuf),
    #[error("{}: {source}", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error(
        "kvmpilotd did not answer on {} within {} s; `journalctl -u kvmpilotd` may say why",
        socket.display(), patience.as_secs()
    )]
    Slow { socket: PathBuf, patience: Duration },
    #[error("what listens on {} does not talk like kvmpilotd ({detail}); is this its socket?", socket.display())]
    Garbage { socket: PathBuf, detail: String },
    #[error("{0}")]
    Refused(String),
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            patience: Duration::from_secs(10),
            command_patience: Duration::from_secs(70),
            shows_progress: true,
        }
    }

    /// Asks for something. `path` starts behind `/api/v1`.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, None, self.patience).await
    }

    /// Has something done.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::POST, path, None, self.command_patience).await
    }

    /// Has something taken away.
    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::DELETE, path, None, self.patience).await
    }

    /// Has something done that takes `patience` at most and wants to be told more than a path can say.
    pub(super) async fn post_json<A: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        ask: &A,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(ask).map_err(|error| self.garbage(&error))?;
        self.request(Method::POST, path, Some(body), patience).await
    }

    /// Asks for something that comes bit by bit, for as long as it takes. The task drives the connection: abort it at the
    /// end.
    pub(super) async fn stream(&self, path: &str) -> Result<(Incoming, JoinHandle<()>), ClientError> {
        let slow = |_| ClientError::Slow { socket: self.socket.clone(), patience: self.patience };
        let (response, driver) =
            timeout(self.patience, self.send(Method::GET, path, None)).await.map_err(slow)??;
        if !response.status().is_success() {
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let problem: Problem = self.parse(&body.map_err(|error| self.garbage(&error))?.to_bytes())?;
            return Err(ClientError::Refused(problem.detail));
        }
        Ok((response.into_body(), driver))
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        json: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let slow = |_| ClientError::Slow { socket: self.socket.clone(), patience };
        let exchange = timeout(patience, self.exchange(method, path, json));
        let exchanged = if self.shows_progress {
            progress::waiting("waiting for kvmpilotd", exchange).await
        } else {
            exchange.await
        };
        let (status, body) = exchanged.map_err(slow)??;
        if !status.is_success() {
            let problem: Problem = self.parse(&body)?;
            return Err(ClientError::Refused(problem.detail));
        }
        self.parse(&body)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        json: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let (response, driver) = self.send(method, path, json).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        driver.abort();
        Ok((status, body.map_err(|error| self.garbage(&error))?.to_bytes()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        json: Option<Vec<u8>>,
    ) -> Result<(Response<Incoming>, JoinHandle<()>), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            let socket = self.socket.clone();
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NotRunning { socket, source }
                }
                io::ErrorKind::PermissionDenied => ClientError::Permission(socket),
                _ => ClientError::Connect { socket, source },
            }
        })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.garbage(&error))?;
        let driver = tokio::spawn(async move {
            // Its end shows as the end of the answer.
            let _ = connection.await;
        });
        let mut request =
            Request::builder().method(method).uri(format!("/api/v1{path}")).header(HOST, "kvmpilot");
        if json.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(json.unwrap_or_default())))
            .map_err(|error| self.garbage(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.garbage(&error))?;
        Ok((response, driver))
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.garbage(&error))
    }

    fn garbage(&self, error: &dyn ToString) -> ClientError {
        ClientError::Garbage { socket: self.socket.clone(), detail: error.to_string() }
    }
}

/// One segment of a path or value of a query, percent-encoded.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
