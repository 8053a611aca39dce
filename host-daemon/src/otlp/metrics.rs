//! The same metrics as `/metrics`, as an `ExportMetricsServiceRequest`.

use serde::Serialize;

use super::json::{Attribute, Resource, SCOPE, Scope, nanos, text};
use crate::api::metrics::{BOUNDS, Counts, Family, Kind, PREFIX, Value, families};
use crate::api::views::Views;

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u8 = 2;
/// Points in one request, unless a single metric has more: some 1 MiB of text, where collectors take 4 MiB or more.
const MOST_POINTS: usize = 4000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    resource_metrics: [ResourceMetrics; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceMetrics {
    resource: Resource,
    scope_metrics: [ScopeMetrics; 1],
}

#[derive(Serialize)]
struct ScopeMetrics {
    scope: Scope,
    metrics: Vec<Metric>,
}

#[derive(Serialize)]
struct Metric {
    name: String,
    description: &'static str,
    unit: &'static str,
    #[serde(flatten)]
    data: Data,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Data {
    Gauge { data_points: Vec<Point> },
    Sum { data_points: Vec<Point>, aggregation_temporality: u8, is_monotonic: bool },
    Histogram { data_points: Vec<Point>, aggregation_temporality: u8 },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Point {
    attributes: Vec<Attribute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time_unix_nano: Option<String>,
    time_unix_nano: String,
    #[serde(flatten)]
    value: PointValue,
}

#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum PointValue {
    Number { as_double: f64 },
    Counts { count: String, sum: f64, bucket_counts: Vec<String>, explicit_bounds: Vec<f64> },
}

/// All metrics as of now, in as many requests as it takes: collectors bound what they read.
pub(super) fn encode(views: &Views, unix_ms: u64) -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    let (mut metrics, mut points) = (Vec::new(), 0);
    for metric in families().filter_map(|family| metric(family, views, unix_ms)) {
        let more = metric.data.points();
        if points + more > MOST_POINTS && points > 0 {
            requests.push(request(views, std::mem::take(&mut metrics)));
            points = 0;
        }
        metrics.push(metric);
        points += more;
    }
    requests.push(request(views, metrics));
    requests
}

fn request(views: &Views, metrics: Vec<Metric>) -> Vec<u8> {
    let scope_metrics = [ScopeMetrics { scope: SCOPE, metrics }];
    text(&Request { resource_metrics: [ResourceMetrics { resource: Resource::of(views), scope_metrics }] })
}

impl Data {
    fn points(&self) -> usize {
        match self {
            Self::Gauge { data_points }
            | Self::Sum { data_points, .. }
            | Self::Histogram { data_points, .. } => data_points.len(),
        }
    }
}

fn metric(family: &Family, views: &Views, unix_ms: u64) -> Option<Metric> {
    // Counters begin with the daemon, but for those that begin with a vcpu's thread, of which nobody knows when it was born.
    let began = (family.kind == Kind::Counter && !family.labels.contains(&"vcpu"))
        .then(|| nanos(unix_ms.saturating_sub(views.status.uptime_s.saturating_mul(1000))));
    let mut data_points = Vec::new();
    family.read(views, &mut |labels, value| {
        let attributes = family.labels.iter().zip(labels).map(|(key, value)| Attribute::new(key, *value));
        data_points.push(Point {
            attributes: attributes.collect(),
            start_time_unix_nano: began.clone(),
            time_unix_nano: nanos(unix_ms),
            value: value.into(),
        });
    });
    if data_points.is_empty() {
        return None;
    }
    let data = match family.kind {
        Kind::Gauge => Data::Gauge { data_points },
        Kind::Counter => Data::Sum { data_points, aggregation_temporality: CUMULATIVE, is_monotonic: true },
        Kind::Histogram => Data::Histogram { data_points, aggregation_temporality: CUMULATIVE },
    };
    Some(Metric {
        name: format!("{PREFIX}_{}", family.name),
        description: family.help,
        unit: unit(family.name),
        data,
    })
}

impl From<Value> for PointValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Number(as_double) => Self::Number { as_double },
            Value::Counts(Counts { sum, count, buckets }) => Self::Counts {
                count: count.to_string(),
                sum,
                bucket_counts: buckets.iter().map(u64::to_string).collect(),
                explicit_bounds: BOUNDS.to_vec(),
            },
        }
    }
}

/// The unit that the name says, as UCUM writes it.
fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    let units = [("_bytes_per_second", "By/s"), ("_seconds", "s"), ("_bytes", "By"), ("_ratio", "1")];
    units.iter().find(|(ending, _)| name.ends_with(ending)).map_or("", |(_, unit)| unit)
}
