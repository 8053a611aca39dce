//! The text that Prometheus reads, in either of its two formats. Prometheus asks for OpenMetrics; `promtool check metrics` and
//! older programs know the other one only.

use std::fmt::{self, Write};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelEncoder, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::task::spawn_blocking;

use super::{BOUNDS, Counts, Family, HOST, Kind, PREFIX, Value, families};
use crate::api::problem::Failure;
use crate::api::routes::Api;
use crate::api::views::Views;

/// Longest value of a label; what is beyond is cut off. Names of domains are shorter, unless somebody means harm.
const LONGEST: usize = 256;

/// How the text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' own, 0.0.4.
    Plain,
}

impl Format {
    /// The format that a client asks for.
    fn of(headers: &HeaderMap) -> Self {
        let accepts = |value: &str| value.contains("application/openmetrics-text");
        let asked = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(accepts);
        if asked { Self::OpenMetrics } else { Self::Plain }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

pub(in crate::api) async fn metrics(State(api): Api, headers: HeaderMap) -> Result<Response, Failure> {
    let format = Format::of(&headers);
    let views = api.views();
    // Thousands of series take milliseconds, which the other clients must not wait for.
    let text = spawn_blocking(move || render(views, format)).await.map_err(|_| Failure::stopping())?;
    let failed = |_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written down");
    Ok(([(CONTENT_TYPE, format.content_type())], text.map_err(failed)?).into_response())
}

/// All metrics as text.
///
/// # Errors
/// Never in practice: a `String` takes everything.
pub fn render(views: Arc<Views>, format: Format) -> Result<String, fmt::Error> {
    let mut host = String::new();
    escape(&mut host, &views.status.host.name)?;
    let labels = [(HOST.into(), host.into())];
    let mut registry = Registry::with_prefix_and_labels(PREFIX, labels.into_iter());
    let mut text = String::with_capacity(64 << 10);
    registry.register_collector(Box::new(Scrape { views, format }));
    encode_registry(&mut text, &registry)?;
    if format == Format::OpenMetrics {
        encode_eof(&mut text)?;
    }
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    views: Arc<Views>,
    format: Format,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        families().try_for_each(|family| self.family(family, &mut encoder))
    }
}

impl Scrape {
    fn family(&self, family: &Family, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        // In OpenMetrics a counter's family goes without the ending that its series have.
        let name = match (family.kind, self.format) {
            (Kind::Counter, Format::OpenMetrics) => family.name.trim_end_matches("_total"),
            _ => family.name,
        };
        let mut closed = Some(encoder);
        let mut open: Option<MetricEncoder<'_>> = None;
        let mut result = Ok(());
        family.read(&self.views, &mut |values, value| {
            let mut write = || {
                // A family without series has no head either.
                if let Some(encoder) = closed.take() {
                    open = Some(encoder.encode_descriptor(name, family.help, None, family.kind.into())?);
                }
                let Some(open) = &mut open else { return Ok(()) };
                let labels = Labels { names: family.labels, values };
                self.series(open.encode_family(&labels)?, family.kind, value)
            };
            if result.is_ok() {
                result = write();
            }
        });
        result
    }

    fn series(&self, mut encoder: MetricEncoder<'_>, kind: Kind, value: Value) -> fmt::Result {
        match value {
            Value::Number(number) if kind == Kind::Counter && self.format == Format::OpenMetrics => {
                encoder.encode_counter::<NoLabelSet, _, f64>(&number, None)
            }
            Value::Number(number) => encoder.encode_gauge(&number),
            Value::Counts(Counts { sum, count, buckets }) => {
                let bounds = BOUNDS.into_iter().chain([f64::MAX]);
                let buckets: Vec<(f64, u64)> = bounds.zip(buckets).collect();
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
            }
        }
    }
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Gauge => Self::Gauge,
            Kind::Counter => Self::Counter,
            Kind::Histogram => Self::Histogram,
        }
    }
}

struct Labels<'a> {
    names: &'static [&'static str],
    values: &'a [&'a str],
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut labels = self.names.iter().zip(self.values);
        labels.try_for_each(|(name, value)| Label { name, value }.encode(encoder.encode_label()))
    }
}

struct Label<'a> {
    name: &'a str,
    value: &'a str,
}

impl EncodeLabel for Label<'_> {
    fn encode(&self, mut encoder: LabelEncoder<'_>) -> fmt::Result {
        let mut key = encoder.encode_label_key()?;
        key.write_str(self.name)?;
        let mut value = key.encode_label_value()?;
        escape(&mut value, self.value)?;
        value.finish()
    }
}

/// Writes a label's value: the encoder writes it as it stands, and a quote in a domain's name would begin another label.
fn escape(out: &mut impl Write, value: &str) -> fmt::Result {
    let plain = |c: char| !matches!(c, '\\' | '"') && !c.is_control();
    if value.len() <= LONGEST && value.chars().all(plain) {
        return out.write_str(value);
    }
    for c in value.chars().take(LONGEST) {
        match c {
            '\\' => out.write_str("\\\\")?,
            '"' => out.write_str("\\\"")?,
            c if c.is_control() => out.write_char('\u{fffd}')?,
            c => out.write_char(c)?,
        }
    }
    Ok(())
}
