//! Handlers of what concerns the whole host: itself, all vcpus, findings, and how figures went.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::present;
use super::problem::Failure;
use super::routes::{Answer, Api, find};
use super::trend::{self, OF_DOMAIN, OF_HOST};
use super::views::{FindingsView, HistoryView, HostDetailView, VcpusView};
use crate::store::HistoryRange;

/// Points in one answer.
const MOST_POINTS: u64 = 2000;
/// Rows that are read of the store for one answer: a week at a cycle of 5 min has 2016.
const MOST_ROWS: u32 = 10_000;
/// Step where the client names none: the daemon's tick.
const STEP_S: u64 = 5;

pub(super) async fn host(State(api): Api) -> Json<HostDetailView> {
    Json(api.views().host.clone())
}

pub(super) async fn vcpus(State(api): Api) -> Json<VcpusView> {
    Json(present::vcpus(&api.views()))
}

pub(super) async fn findings(State(api): Api) -> Json<FindingsView> {
    Json(FindingsView { findings: api.views().status.findings.clone() })
}

/// Which figures, of when.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// Name or UUID; the host without.
    domain: Option<String>,
    /// Names of figures with commas between; all without.
    series: Option<String>,
    /// From this time on, milliseconds since 1970. Without, the last half hour.
    from_unix_ms: Option<u64>,
    /// Up to and including this time.
    to_unix_ms: Option<u64>,
    /// Seconds between two points, 1 to 86400; as fine as measured without.
    step_s: Option<u64>,
}

pub(super) async fn history(
    State(api): Api,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Answer<HistoryView> {
    let bad = |detail: String| Failure::new(StatusCode::BAD_REQUEST, detail);
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let names: &[&'static str] = if query.domain.is_some() { &OF_DOMAIN } else { &OF_HOST };
    let places = match query.series.as_deref() {
        None | Some("") => (0..names.len()).collect(),
        Some(wanted) => wanted
            .split(',')
            .map(|wanted| names.iter().position(|name| *name == wanted.trim()))
            .collect::<Option<Vec<usize>>>()
            .ok_or_else(|| bad(format!("the series are {}", names.join(", "))))?,
    };
    let row = match query.domain {
        Some(name) => Some(find(&api.views(), &name)?.row.clone()),
        None => None,
    };
    let (from, to) = (query.from_unix_ms.unwrap_or(0), query.to_unix_ms.unwrap_or(u64::MAX));
    if from > to {
        return Err(bad("from_unix_ms is later than to_unix_ms".to_owned()));
    }
    let uuid = row.as_ref().map(|row| row.uuid);
    let recent = api.telling.trends(|trends| trends.points(uuid, &places));
    let begin = recent.first().map_or(u64::MAX, |(at, _)| *at);
    let mut points = match uuid {
        Some(uuid) if from < begin && query.from_unix_ms.is_some() => {
            let range = HistoryRange { from_unix_ms: from, to_unix_ms: to.min(begin - 1), limit: MOST_ROWS };
            let mut rows = api.store(move |store| store.domain_history(uuid, range)).await?;
            rows.reverse();
            trend::stored(&rows, &places)
        }
        _ => Vec::new(),
    };
    points.extend(recent);
    points.retain(|(at, _)| (from..=to).contains(at));
    let length_ms = points.last().map_or(0, |(at, _)| *at) - points.first().map_or(0, |(at, _)| *at);
    // As fine as asked for, as long as it does not get too much.
    let step_s = query.step_s.unwrap_or(STEP_S).clamp(1, 86_400).max(length_ms.div_ceil(1000 * MOST_POINTS));
    let points = trend::in_steps(&points, from, to, step_s * 1000);
    let column = |at: usize| points.iter().map(|(_, values)| values.get(at).copied().flatten()).collect();
    let name = |place: usize| names.get(place).copied().unwrap_or_default().to_owned();
    let series = places.iter().enumerate().map(|(at, place)| (name(*place), column(at))).collect();
    Ok(Json(HistoryView {
        domain: row.map(|row| row.name),
        step_s: step_s as f64,
        unix_ms: points.iter().map(|(at, _)| *at).collect(),
        series,
    }))
}
