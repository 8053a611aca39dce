//! `kvmpilot orders`, and what came of commands.

use kvmpilot_core::ledger::RestoreOutcome;
use kvmpilot_core::order::{Action, OrderState, WorkOrder};

use super::super::page::{Page, Screen, bad, doubtful, good};
use super::super::words::time;
use crate::api::views::{CommandReply, OrdersView};

pub(in super::super) fn orders(view: &OrdersView, screen: Screen) -> String {
    let mut page = Page::new(screen);
    if view.orders.is_empty() {
        page.line("there are no such work orders");
        return page.finish();
    }
    let rows = view.orders.iter().map(|order| {
        vec![
            order.id.to_string(),
            state(order.state),
            order.proposal.domain_name.clone(),
            order.proposal.action.to_string(),
            order.proposal.reason.summary.clone(),
            time(order.changed_unix_ms),
        ]
    });
    page.dense_table(&[">ID", "STATE", "~DOMAIN", "~CHANGE", "~WHY", "~WHEN"], rows.collect());
    if let Some(before) = view.next_before {
        page.line(&format!("older ones: --before {before}"));
    }
    page.finish()
}

pub(in super::super) fn order(order: &WorkOrder, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let proposal = &order.proposal;
    let reason = &proposal.reason;
    page.facts([
        ("order", order.id.to_string()),
        ("state", state(order.state)),
        ("domain", format!("{} ({})", proposal.domain_name, proposal.domain)),
        ("change", proposal.action.to_string()),
        ("rule", reason.rule.clone()),
        ("summary", reason.summary.clone()),
        (
            "inputs",
            reason
                .inputs
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect::<Vec<_>>()
                .join(", "),
        ),
        ("expected", reason.expected.clone()),
        ("proposed", time(order.created_unix_ms)),
        ("changed", time(order.changed_unix_ms)),
        ("outcome", order.outcome.clone()),
    ]);
    steps(&mut page, &proposal.action);
    page.finish()
}

/// The processes that an order is about, if it is about any.
pub(super) fn steps(page: &mut Page, action: &Action) {
    let Action::SetLevel { processes, groups, .. } = action else { return };
    if !groups.is_empty() {
        page.heading("GROUPS");
        let rows = groups.iter().map(|step| {
            let values = [&step.from, &step.to, &step.original].map(ToString::to_string);
            std::iter::once(step.group.to_string()).chain(values).collect()
        });
        page.table(&["~GROUP", ">BEFORE", ">AFTER", ">ORIGINALLY"], rows.collect());
    }
    if processes.is_empty() {
        return;
    }
    let rows = processes.iter().map(|step| {
        vec![
            step.key.pid.to_string(),
            step.name.clone(),
            step.nice_from.to_string(),
            step.nice_to.to_string(),
            step.nice_original.to_string(),
        ]
    });
    page.heading("PROCESSES");
    page.table(&[">PID", "~NAME", ">NICE BEFORE", ">NICE AFTER", ">ORIGINALLY"], rows.collect());
}

fn state(state: OrderState) -> String {
    let name = state.as_str();
    match state {
        OrderState::Proposed | OrderState::Approved | OrderState::Applied => doubtful(name),
        OrderState::Verified | OrderState::Kept => good(name),
        OrderState::Failed => bad(name),
        OrderState::Rejected | OrderState::Expired | OrderState::RolledBack => name.to_owned(),
    }
}

pub(in super::super) fn reply(reply: &CommandReply, screen: Screen) -> String {
    let mut page = Page::new(screen);
    page.line(&reply.message);
    if let Some(restore) = reply.restore.as_ref().filter(|restore| !restore.values.is_empty()) {
        let rows = restore.values.iter().map(|value| {
            let outcome = match value.outcome {
                RestoreOutcome::Restored => good("restored"),
                RestoreOutcome::AlreadyOriginal => "was original".to_owned(),
                RestoreOutcome::Drift => doubtful("left alone"),
                RestoreOutcome::Gone => "gone".to_owned(),
                RestoreOutcome::Saved => doubtful("saved with it"),
                RestoreOutcome::Failed => bad("failed"),
            };
            let message = value.message.clone().unwrap_or_default();
            vec![value.domain.clone(), value.target.clone(), value.original.clone(), outcome, message]
        });
        page.table(&["~DOMAIN", "~VALUE", "~ORIGINAL", "OUTCOME", "~DETAILS"], rows.collect());
    }
    page.finish()
}
