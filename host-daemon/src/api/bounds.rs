//! What every request passes: bounds of its size, of how many there are in a second, and answers that are known already.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Body as _;
use tokio::time::timeout;

use super::problem::Failure;
use super::serve::Limits;

/// Bytes of a request's path and query.
const URI_BYTES: usize = 4096;
/// Answers up to this size get a tag; larger ones are sent without being looked through.
const TAGGED_BYTES: u64 = 8 << 20;

/// Requests that one way in may still make now: a bucket that fills evenly.
#[derive(Clone, Debug)]
pub(super) struct Rate(Arc<Mutex<(f64, Instant)>>, u32);

impl Rate {
    pub(super) fn new(per_second: u32) -> Self {
        Self(Arc::new(Mutex::new((f64::from(per_second), Instant::now()))), per_second)
    }

    fn take(&self, now: Instant) -> bool {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (level, since) = *bucket;
        let filled = level + now.saturating_duration_since(since).as_secs_f64() * f64::from(self.1);
        let level = filled.min(f64::from(self.1));
        *bucket = (if level >= 1.0 { level - 1.0 } else { level }, now);
        level >= 1.0
    }
}

/// Refuses what is too much, and reads the body before the handler runs, so that no handler has to think of clients who
/// send too much or too slowly.
pub(super) async fn bounded(
    State((limits, rate)): State<(Limits, Rate)>,
    request: Request,
    next: Next,
) -> Response {
    if !rate.take(Instant::now()) {
        let detail = format!("there are more than {} requests a second; try again in a second", rate.1);
        let mut response = Failure::new(StatusCode::TOO_MANY_REQUESTS, detail).into_response();
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        return response;
    }
    if request.uri().path_and_query().is_some_and(|uri| uri.as_str().len() > URI_BYTES) {
        let detail = format!("path and query are longer than {URI_BYTES} bytes");
        return Failure::new(StatusCode::URI_TOO_LONG, detail).into_response();
    }
    let (head, body) = request.into_parts();
    match timeout(limits.read, to_bytes(body, limits.body_bytes)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, body.into())).await,
        Ok(Err(_)) => {
            let detail = format!("the request's body is broken or larger than {} bytes", limits.body_bytes);
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into_response()
        }
        Err(_) => {
            let detail = format!("the request's body did not come within {} s", limits.read.as_secs());
            Failure::new(StatusCode::REQUEST_TIMEOUT, detail).into_response()
        }
    }
}

/// Gives JSON answers a tag, and does not send again what the client has.
pub(super) async fn tagged(request: Request, next: Next) -> Response {
    let looks = request.method() == Method::GET;
    let has = request.headers().get(IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let is_small = response.body().size_hint().upper().is_some_and(|bytes| bytes <= TAGGED_BYTES);
    if !looks || response.status() != StatusCode::OK || !is_json || !is_small {
        return response;
    }
    let (mut head, body) = response.into_parts();
    // It is in memory already, and as large as it said.
    let Ok(body) = to_bytes(body, usize::MAX).await else { return Failure::stopping().into_response() };
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let Ok(tag) = HeaderValue::from_str(&format!("W/\"{:016x}\"", hasher.finish())) else {
        return Response::from_parts(head, body.into());
    };
    let is_known = has.is_some_and(|has| has == tag);
    head.headers.insert(ETAG, tag);
    head.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if is_known {
        head.status = StatusCode::NOT_MODIFIED;
        head.headers.remove(CONTENT_LENGTH);
        return Response::from_parts(head, Body::empty());
    }
    Response::from_parts(head, body.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_fills_evenly() {
        let rate = Rate::new(10);
        let begin = Instant::now();
        assert_eq!((0..20).filter(|_| rate.take(begin)).count(), 10);
        let later = begin + Duration::from_millis(250);
        assert_eq!((0..20).filter(|_| rate.take(later)).count(), 2);
        let much_later = begin + Duration::from_secs(60);
        assert_eq!((0..20).filter(|_| rate.take(much_later)).count(), 10);
    }
}
