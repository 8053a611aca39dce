//! Failures as `application/problem+json`.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::command::CommandError;
use super::views::Problem;
use crate::store::StoreError;
use crate::watch::Refusal;

/// Media type of failures.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// A failure of a request: what went wrong, and what to do.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    detail: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// The daemon's loop does not answer any more.
    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "kvmpilotd is stopping; try again when it runs")
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Failure").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        (self.status, [(CONTENT_TYPE, PROBLEM_JSON)], Json(problem)).into_response()
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        let status = match error {
            CommandError::NoSuchOrder(_) | CommandError::NoSuchDomain(_) => StatusCode::NOT_FOUND,
            CommandError::Bad(_) => StatusCode::BAD_REQUEST,
            // The domain or libvirt is not as it would have to be; the daemon itself is well.
            CommandError::WrongState { .. } | CommandError::Failed(_) => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Length => StatusCode::BAD_REQUEST,
            Refusal::Busy(_) | Refusal::NotRunning(_) => StatusCode::CONFLICT,
            Refusal::Full | Refusal::Overhead(_) | Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refusal.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}
