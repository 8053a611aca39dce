//! What became of work orders, as an `ExportLogsServiceRequest`.

use kvmpilot_core::order::OrderState;
use serde::Serialize;

use super::json::{AnyValue, Attribute, Resource, SCOPE, Scope, nanos, text};
use crate::api::views::Views;
use crate::store::StoredOrderEvent;

/// Longest text of an order that is pushed: names of processes in it come from guests.
const MAX_TEXT: usize = 1000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    resource_logs: [ResourceLogs; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceLogs {
    resource: Resource,
    scope_logs: [ScopeLogs; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScopeLogs {
    scope: Scope,
    log_records: Vec<LogRecord>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogRecord {
    time_unix_nano: String,
    observed_time_unix_nano: String,
    severity_number: u8,
    severity_text: &'static str,
    event_name: &'static str,
    body: AnyValue,
    attributes: Vec<Attribute>,
}

/// These changes of orders' states.
pub(super) fn encode(views: &Views, events: &[StoredOrderEvent]) -> Vec<u8> {
    let scope_logs = [ScopeLogs { scope: SCOPE, log_records: events.iter().map(record).collect() }];
    text(&Request { resource_logs: [ResourceLogs { resource: Resource::of(views), scope_logs }] })
}

fn record(event: &StoredOrderEvent) -> LogRecord {
    let proposal = &event.proposal;
    let change = printable(&proposal.action.to_string());
    let outcome = printable(&event.outcome);
    let (severity_number, severity_text) = match event.state {
        OrderState::Failed | OrderState::RolledBack => (13, "WARN"),
        _ => (9, "INFO"),
    };
    let mut body = format!("order {} for {}, {change}: {}", event.order, proposal.domain_name, event.state);
    if !outcome.is_empty() {
        body = format!("{body}: {outcome}");
    }
    LogRecord {
        time_unix_nano: nanos(event.unix_ms),
        observed_time_unix_nano: nanos(event.unix_ms),
        severity_number,
        severity_text,
        event_name: "kvmpilot.order",
        body: AnyValue::new(printable(&body)),
        attributes: vec![
            Attribute::new("kvmpilot.order.id", event.order.to_string()),
            Attribute::new("kvmpilot.order.state", event.state.as_str()),
            Attribute::new("kvmpilot.order.actuator", proposal.action.actuator().as_str()),
            Attribute::new("kvmpilot.order.change", change),
            Attribute::new("kvmpilot.order.rule", printable(&proposal.reason.rule)),
            Attribute::new("kvmpilot.order.reason", printable(&proposal.reason.summary)),
            Attribute::new("kvmpilot.order.outcome", outcome),
            Attribute::new("domain", printable(&proposal.domain_name)),
            Attribute::new("uuid", proposal.domain.to_string()),
        ],
    }
}

fn printable(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
