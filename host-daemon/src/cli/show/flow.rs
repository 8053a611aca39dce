//! `kvmpilot flows`.

use kvmpilot_core::sample::{FlowState, Traffic};

use super::super::page::{Page, Screen, doubtful, good};
use super::super::words::{bytes, count, rate, seconds};
use crate::api::views::{Direction, EndedView, FlowView, FlowsView, OwnerView};

/// Flows and ports in one table; `--json` has all of them.
const SHOWN: usize = 50;

pub(in super::super) fn flows(view: &FlowsView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let age = view.age_s.map_or_else(|| "no data".to_owned(), |age| format!("{} ago", seconds(Some(age))));
    page.line(&format!("{}: {}, {age}", view.domain, count(view.flows.len(), "flow")));
    if let Some(message) = &view.message {
        page.line(&doubtful(message));
    }
    if view.age_s.is_none() {
        return page.finish();
    }
    let both =
        |traffic: Traffic| format!("in {}, out {}", bytes(traffic.received_bytes), bytes(traffic.sent_bytes));
    let mut facts = vec![
        ("watched for", seconds(view.watched_s)),
        ("moved", both(view.total)),
        (
            "now",
            format!("in {}, out {}", rate(view.rate.received_bytes_per_s), rate(view.rate.sent_bytes_per_s)),
        ),
        ("flows so far", view.flows_made.to_string()),
    ];
    if view.flows_evicted > 0 {
        let text = format!(
            "{} were pushed out of the table; {} of their bytes are in no line below",
            view.flows_evicted,
            both(view.unseen)
        );
        facts.push(("evicted", doubtful(&text)));
    }
    page.facts(facts);
    page.heading("DEVICES");
    let rows = view.devices.iter().map(|device| {
        vec![
            device.device.clone(),
            rate(device.rate.received_bytes_per_s),
            rate(device.rate.sent_bytes_per_s),
            bytes(device.total.received_bytes),
            bytes(device.total.sent_bytes),
        ]
    });
    page.table(&["DEVICE", ">IN", ">OUT", ">IN SO FAR", ">OUT SO FAR"], rows.collect());
    if !view.flows.is_empty() {
        page.heading("FLOWS");
        let titles = ["PROTO", "~GUEST", "WAY", "~PEER", "STATE", ">IN", ">OUT", ">SO FAR", "~OWNER"];
        page.dense_table(&titles, view.flows.iter().take(SHOWN).map(flow).collect());
        more(&mut page, view.flows.len());
    }
    if !view.ended.is_empty() {
        page.heading("ENDED");
        let titles = ["PROTO", "WAY", ">PORT", ">FLOWS", ">IN SO FAR", ">OUT SO FAR", ">LAST", "~OWNER"];
        page.dense_table(&titles, view.ended.iter().take(SHOWN).map(ended).collect());
        more(&mut page, view.ended.len());
    }
    page.finish()
}

fn more(page: &mut Page, all: usize) {
    if all > SHOWN {
        page.line(&format!("and {} more, which --json shows", all - SHOWN));
    }
}

fn flow(flow: &FlowView) -> Vec<String> {
    let state = match flow.state {
        FlowState::Opening => doubtful("opening"),
        FlowState::Established if flow.protocol == "tcp" => good("established"),
        FlowState::Established => String::new(),
        FlowState::Closing => "closing".to_owned(),
        FlowState::Closed => "closed".to_owned(),
    };
    vec![
        flow.protocol.clone(),
        flow.guest.clone(),
        flow.direction.map(way).unwrap_or_default(),
        flow.peer.clone(),
        state,
        rate(flow.rate.received_bytes_per_s),
        rate(flow.rate.sent_bytes_per_s),
        bytes(flow.total.bytes()),
        owner(&flow.owner),
    ]
}

fn ended(ended: &EndedView) -> Vec<String> {
    vec![
        ended.protocol.clone(),
        way(ended.direction),
        if ended.port == 0 { "several".to_owned() } else { ended.port.to_string() },
        ended.flows.to_string(),
        bytes(ended.total.received_bytes),
        bytes(ended.total.sent_bytes),
        format!("{} ago", seconds(Some(ended.idle_s))),
        owner(&ended.owner),
    ]
}

fn way(direction: Direction) -> String {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
    .to_owned()
}

fn owner(owner: &OwnerView) -> String {
    let pids = owner.pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (&owner.process, &owner.application, &owner.reason) {
        (Some(process), _, _) => format!("{process} {pids}"),
        (None, Some(application), _) => format!("shared inside {application}: {pids}"),
        (None, None, Some(reason)) => doubtful(reason),
        (None, None, None) => format!("shared by {pids}"),
    }
}
