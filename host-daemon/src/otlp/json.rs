//! The parts of OTLP's JSON that metrics and logs share. 64-bit integers are text there, as in all protobuf JSON.

use serde::Serialize;

use crate::api::views::Views;

#[derive(Serialize)]
pub(super) struct Attribute {
    key: &'static str,
    value: AnyValue,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnyValue {
    string_value: String,
}

impl Attribute {
    pub(super) fn new(key: &'static str, value: impl Into<String>) -> Self {
        Self { key, value: AnyValue::new(value) }
    }
}

impl AnyValue {
    pub(super) fn new(value: impl Into<String>) -> Self {
        Self { string_value: value.into() }
    }
}

#[derive(Serialize)]
pub(super) struct Resource {
    attributes: Vec<Attribute>,
}

impl Resource {
    /// Who speaks.
    pub(super) fn of(views: &Views) -> Self {
        let status = &views.status;
        Self {
            attributes: vec![
                Attribute::new("service.name", "kvmpilotd"),
                Attribute::new("service.version", status.version.as_str()),
                Attribute::new("host.name", status.host.name.as_str()),
            ],
        }
    }
}

#[derive(Serialize)]
pub(super) struct Scope {
    name: &'static str,
    version: &'static str,
}

/// What made it.
pub(super) const SCOPE: Scope = Scope { name: "kvmpilot", version: env!("CARGO_PKG_VERSION") };

/// A time as OTLP has it.
pub(super) fn nanos(unix_ms: u64) -> String {
    (u128::from(unix_ms) * 1_000_000).to_string()
}

/// The request's text. Nothing in it can fail to be written.
pub(super) fn text(request: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(request).unwrap_or_default()
}
