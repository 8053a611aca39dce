//! One request to the collector, within a time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request as HttpRequest, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::queue::Request;
use crate::config::{Endpoint, OtlpConfig};

/// Most of an answer that is read.
const MAX_ANSWER: usize = 64 << 10;
/// Longest text of a collector's that is shown.
const MAX_TEXT: usize = 200;

/// The collector and how it is talked to.
#[derive(Debug)]
pub(super) struct Target {
    endpoint: Endpoint,
    timeout: Duration,
    headers: Headers,
}

/// Their values may be secret.
struct Headers(BTreeMap<String, String>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

/// Why a request did not arrive.
#[derive(Debug)]
pub(super) enum Failed {
    /// It may the next time.
    Later(String),
    /// It never will.
    Refused(String),
}

/// What OTLP has for an answer.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    partial_success: PartialSuccess,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialSuccess {
    error_message: String,
}

impl Target {
    pub(super) fn new(endpoint: Endpoint, config: &OtlpConfig) -> Self {
        Self { endpoint, timeout: config.timeout, headers: Headers(config.headers.clone()) }
    }

    /// Sends it and waits for the answer.
    pub(super) async fn send(&self, request: &Request) -> Result<(), Failed> {
        let late = |_| Failed::Later(format!("no answer within {} ms", self.timeout.as_millis()));
        let (status, body) = timeout(self.timeout, self.exchange(request)).await.map_err(late)??;
        // What the specification names as worth another try.
        let again = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        if status.is_success() {
            let answer: Answer = serde_json::from_slice(&body).unwrap_or_default();
            let said = printable(&answer.partial_success.error_message);
            if !said.is_empty() {
                tracing::warn!(collector = %self, said, "the collector did not take all of it");
            }
            Ok(())
        } else if again.contains(&status) {
            Err(Failed::Later(format!("the answer is {status}")))
        } else {
            Err(Failed::Refused(format!(
                "the answer is {status}: {}",
                printable(&String::from_utf8_lossy(&body))
            )))
        }
    }

    async fn exchange(&self, request: &Request) -> Result<(StatusCode, Bytes), Failed> {
        let Endpoint { host, port, path } = &self.endpoint;
        // A literal IPv6 address stands in brackets in a URL only.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let later = |error: &dyn fmt::Display| Failed::Later(error.to_string());
        let stream = TcpStream::connect((name, *port)).await.map_err(|error| later(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| later(&error))?;
        let mut built = HttpRequest::post(format!("{path}/v1/{}", request.signal.as_str()))
            .header(HOST, format!("{host}:{port}"))
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("kvmpilotd/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &self.headers.0 {
            built = built.header(name, value);
        }
        let built = built.body(Full::new(request.body.clone()));
        let built = built.map_err(|error| Failed::Refused(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(built).await.map_err(|error| later(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            // The status says it all; the body is for people.
            Ok((status, body.map(|body| body.to_bytes()).unwrap_or_default()))
        };
        tokio::pin!(connection);
        tokio::select! {
            outcome = exchange => outcome,
            end = &mut connection => Err(match end {
                Err(error) => later(&error),
                Ok(()) => Failed::Later("the connection was closed".to_owned()),
            }),
        }
    }
}

/// A stranger's words, on one line and short.
fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}
