//! `kvmpilot orders`: lists work orders, shows one, decides on some, exports all.

use std::io::{self, Write};
use std::process::ExitCode;

use jiff::Timestamp;
use kvmpilot_core::order::WorkOrder;

use super::arguments::{OrderCommand, OrderFilter};
use super::client::Client;
use super::page::Screen;
use super::{Failure, answer, show, succeeded};
use crate::api::views::{CommandReply, OrdersView};
use crate::config::parse_duration;

/// Orders in one page of an export.
const PAGE: u32 = 500;

pub(super) async fn orders(
    client: &Client,
    command: Option<OrderCommand>,
    filter: &OrderFilter,
    json: bool,
    screen: Screen,
) -> Result<ExitCode, Failure> {
    let (ids, verb) = match command {
        None | Some(OrderCommand::List) => {
            let view: OrdersView = client.get(&format!("/orders?{}", filter.query())).await?;
            return answer(json, &view, || show::orders(&view, screen));
        }
        Some(OrderCommand::Show { ids }) => {
            for id in ids {
                let order: WorkOrder = client.get(&format!("/orders/{id}")).await?;
                answer(json, &order, || show::order(&order, screen))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Some(OrderCommand::Export { since }) => return export(client, filter, since).await,
        Some(OrderCommand::Approve { ids }) => (ids, "approve"),
        Some(OrderCommand::Reject { ids }) => (ids, "reject"),
        Some(OrderCommand::Rollback { ids }) => (ids, "rollback"),
    };
    decide(client, &ids, verb, json, screen).await
}

/// One after the other; what is refused does not keep the rest from being done.
async fn decide(
    client: &Client,
    ids: &[u64],
    verb: &str,
    json: bool,
    screen: Screen,
) -> Result<ExitCode, Failure> {
    let mut all_well = true;
    for id in ids {
        match client.post::<CommandReply>(&format!("/orders/{id}/{verb}")).await {
            Ok(reply) => {
                answer(json, &reply, || show::reply(&reply, screen))?;
            }
            Err(error) if ids.len() == 1 => return Err(error.into()),
            Err(error) => {
                all_well = false;
                writeln!(io::stderr(), "kvmpilot: {error}")?;
            }
        }
    }
    Ok(succeeded(all_well))
}

/// One line of JSON for each order, newest first, with every state that it was in.
async fn export(client: &Client, filter: &OrderFilter, since_unix_ms: u64) -> Result<ExitCode, Failure> {
    let mut filter = filter.clone();
    let mut left = filter.limit.unwrap_or(u32::MAX);
    let mut output = io::BufWriter::new(io::stdout().lock());
    while left > 0 {
        filter.limit = Some(left.min(PAGE));
        let query = format!("{}&history=true&since_unix_ms={since_unix_ms}", filter.query());
        let view: OrdersView = client.get(&format!("/orders?{query}")).await?;
        for order in &view.orders {
            serde_json::to_writer(&mut output, order)?;
            output.write_all(b"\n")?;
        }
        left = left.saturating_sub(u32::try_from(view.orders.len()).unwrap_or(u32::MAX));
        let Some(before) = view.next_before else { break };
        filter.before = Some(before);
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// A point in time as milliseconds since 1970: `24h` ago, or `2026-11-25T12:00:00Z`.
pub(super) fn since(text: &str) -> Result<u64, String> {
    let unix_ms = if let Ok(at) = text.parse::<Timestamp>() {
        at.as_millisecond()
    } else {
        let ago = parse_duration(text)
            .map_err(|error| format!("{error}; or a point in time like 2026-11-25T12:00:00Z"))?;
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        Timestamp::now().as_millisecond().saturating_sub(ago)
    };
    Ok(u64::try_from(unix_ms).unwrap_or(0))
}
