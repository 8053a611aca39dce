//! `GET /record`: the samples of the daemon as they come, one line of JSON each, for as long as the client wanted. A
//! client that does not keep up is dropped: the daemon waits for nobody.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep};

use super::caller::Caller;
use super::problem::Failure;
use super::routes::Api;
use crate::record::{EndReason, Line};

/// Media type of lines of JSON.
pub(super) const NDJSON: &str = "application/x-ndjson";
/// Lines that may wait for a client. Each may be some MiB on a large host.
const WAITING: usize = 4;
/// Longest recording.
const LONGEST: Duration = Duration::from_secs(86_400);
/// A client that was dropped has so long to read why.
const FAREWELL: Duration = Duration::from_secs(5);

/// When a connection is to be ended. The handler of a long answer may put it off.
#[derive(Clone, Debug)]
pub(super) struct HangUp(pub(super) Arc<watch::Sender<Instant>>);

/// A client that wants to be sent lines.
#[derive(Debug)]
pub struct RecordingRequest {
    lines: mpsc::Sender<Arc<Line>>,
    too_slow: Arc<AtomicBool>,
    hang_up: HangUp,
}

impl RecordingRequest {
    /// Sends a line, or returns false: the client is gone, or too slow and therefore dropped.
    #[must_use]
    pub fn send(&self, line: Arc<Line>) -> bool {
        let sent = self.lines.try_send(line);
        if matches!(sent, Err(mpsc::error::TrySendError::Full(_))) {
            self.too_slow.store(true, Relaxed);
            self.hang_up.0.send_replace(Instant::now() + FAREWELL);
        }
        sent.is_ok()
    }
}

/// For how long.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordQuery {
    /// Length, 1 to 86400; a minute without.
    seconds: Option<u64>,
}

/// A minute unless the client says otherwise.
const USUAL: u64 = 60;

pub(super) async fn record(
    State(api): Api,
    Extension(caller): Extension<Caller>,
    Extension(hang_up): Extension<HangUp>,
    query: Result<Query<RecordQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let length = Duration::from_secs(query.seconds.unwrap_or(USUAL));
    if length.is_zero() || length > LONGEST {
        let detail = format!("a recording lasts 1 to {} s", LONGEST.as_secs());
        return Err(Failure::new(StatusCode::BAD_REQUEST, detail));
    }
    // There is room for two only, and each costs the loop something.
    api.entitled(&caller, "record").await?;
    let (sender, lines) = mpsc::channel(WAITING);
    let too_slow = Arc::new(AtomicBool::new(false));
    hang_up.0.send_modify(|at| *at += length);
    let request = RecordingRequest { lines: sender, too_slow: Arc::clone(&too_slow), hang_up };
    api.recorders().try_send(request).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => {
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "kvmpilotd is busy; try again in a few seconds")
        }
        mpsc::error::TrySendError::Closed(_) => Failure::stopping(),
    })?;
    let stream = Stream { lines: Some(lines), end: Box::pin(sleep(length)), too_slow };
    Ok(([(CONTENT_TYPE, NDJSON)], Body::new(stream)).into_response())
}

/// The body: lines until one side has enough, then one that says why.
struct Stream {
    lines: Option<mpsc::Receiver<Arc<Line>>>,
    end: Pin<Box<Sleep>>,
    too_slow: Arc<AtomicBool>,
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = serde_json::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(lines) = &mut this.lines else { return Poll::Ready(None) };
        let reason = if this.end.as_mut().poll(context).is_ready() {
            EndReason::Time
        } else {
            match lines.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(line)) => return Poll::Ready(Some(frame(&line))),
                Poll::Ready(None) if this.too_slow.load(Relaxed) => EndReason::TooSlow,
                Poll::Ready(None) => EndReason::Daemon,
            }
        };
        this.lines = None;
        Poll::Ready(Some(frame(&Line::End { reason })))
    }
}

fn frame(line: &Line) -> Result<Frame<Bytes>, serde_json::Error> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(Frame::data(text.into()))
}
