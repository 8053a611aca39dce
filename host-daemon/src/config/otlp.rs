//! `[otlp]`: whether metrics and order events are pushed to an OpenTelemetry collector, and to which.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use super::value::{Read, Value};

/// How metrics and order events are pushed.
#[derive(Clone, PartialEq, Eq)]
pub struct OtlpConfig {
    /// Where to; `None` for not at all.
    pub endpoint: Option<Endpoint>,
    /// Time between two pushes.
    pub period: Duration,
    /// Longest wait for the collector's answer.
    pub timeout: Duration,
    /// Most memory of what waits to be sent; the oldest is dropped.
    pub queue_bytes: usize,
    /// Headers of each request. Their values may be secret.
    pub headers: BTreeMap<String, String>,
}

/// A collector that speaks OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What its paths begin with, without a slash at the end.
    pub path: String,
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            period: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
            queue_bytes: 16 << 20,
            headers: BTreeMap::new(),
        }
    }
}

/// Without the headers' values.
impl fmt::Debug for OtlpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, period, timeout, queue_bytes, headers } = self;
        f.debug_struct("OtlpConfig")
            .field("endpoint", endpoint)
            .field("period", period)
            .field("timeout", timeout)
            .field("queue_bytes", queue_bytes)
            .field("headers", &headers.keys())
            .finish()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.path)
    }
}

const HELP: &str = "write the collector's address, like \"http://127.0.0.1:4318\", or \"\" to push nothing";

/// Reads where to push; empty text is nowhere.
pub(super) fn endpoint(value: Value<'_>) -> Read<Option<Endpoint>> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |message: &str| value.fault(message, HELP);
    let uri: Uri = text.parse().map_err(|_| wrong("is no address of a collector"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(value.fault(
                "kvmpilotd does not speak https to collectors",
                "push to a collector on this host (\"http://127.0.0.1:4318\") and have that one speak TLS to others",
            ));
        }
        _ => return Err(wrong("is no address of a collector")),
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("names no host"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) || uri.query().is_some() {
        return Err(
            value.fault("wants an address without a password and a query", "use otlp.headers instead")
        );
    }
    let path = uri.path().trim_end_matches('/');
    if path.ends_with("/v1/metrics") || path.ends_with("/v1/logs") {
        return Err(value.fault("is the address of one signal", "leave out /v1/...; kvmpilotd adds it"));
    }
    Ok(Some(Endpoint { host: host.to_owned(), port: uri.port_u16().unwrap_or(4318), path: path.to_owned() }))
}

/// Reads a table of headers.
pub(super) fn headers(value: Value<'_>) -> Read<BTreeMap<String, String>> {
    let known = value.texts("{ \"x-tenant\" = \"kvm\" }")?;
    for (name, text) in &known {
        if HeaderName::try_from(name).is_err() || HeaderValue::try_from(text).is_err() {
            // The value stays out of the message: it may be a password.
            return Err(value.fault(
                format!("\"{name}\" or its value cannot be a header"),
                "names and values are plain text",
            ));
        }
    }
    Ok(known)
}
