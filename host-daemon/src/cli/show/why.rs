//! `kvmpilot why`: a work order told as a colleague would.

use kvmpilot_core::order::{Action, OrderState, WorkOrder};

use super::super::page::{Page, Screen};
use super::super::words::time;

pub(in super::super) fn why(order: &WorkOrder, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let proposal = &order.proposal;
    let reason = &proposal.reason;
    page.line(&format!("Work order {} for {}: {}", order.id, proposal.domain_name, proposal.action));

    page.heading("What was seen");
    if reason.inputs.is_empty() {
        page.line("  Nothing was measured for this one.");
    } else {
        let names: Vec<String> = reason.inputs.iter().map(|(name, _)| format!("  {name}")).collect();
        let values = reason.inputs.iter().map(|(_, value)| value.clone());
        page.facts(names.iter().map(String::as_str).zip(values));
    }

    page.heading("What followed from it");
    page.line(&format!("  Rule {}: {}", or(&reason.rule, "unnamed"), sentence(&reason.summary)));
    if let Action::SetLevel { application, communicating, .. } = &proposal.action {
        let found =
            if *communicating { "was found talking to another node" } else { "talks to no other node" };
        page.line(&format!("  {application} {found}."));
    }
    if proposal.release {
        page.line(
            "  It goes back towards a safer or the original value, so no budget and no pause holds it up.",
        );
    }

    page.heading("What was expected");
    page.line(&format!("  {}", or(&sentence(&reason.expected), "Nothing was predicted.")));

    page.heading("What was done");
    page.line(&format!("  Proposed at {}.", time(order.created_unix_ms)));
    page.line(&format!("  {}", fate(order)));
    super::order::steps(&mut page, &proposal.action);

    page.heading("What came of it");
    let nothing_yet =
        if order.state.is_final() { "Nothing more is known." } else { "It is too early to say." };
    page.line(&format!("  {}", or(&sentence(&order.outcome), nothing_yet)));
    page.finish()
}

fn fate(order: &WorkOrder) -> String {
    let id = order.id;
    let at = time(order.changed_unix_ms);
    match order.state {
        OrderState::Proposed => {
            format!(
                "It waits for a decision: `kvmpilot orders approve {id}` or `kvmpilot orders reject {id}`."
            )
        }
        OrderState::Approved => format!("It was approved at {at} and is being carried out."),
        OrderState::Applied => {
            format!("It was carried out at {at}; the new value has not been read back yet.")
        }
        OrderState::Verified => {
            format!(
                "It was carried out, and the new value was read back, at {at}. `kvmpilot orders rollback {id}` undoes it."
            )
        }
        OrderState::Kept => {
            format!("It was carried out, and stays. `kvmpilot orders rollback {id}` undoes it.")
        }
        OrderState::Rejected => format!("A person said no at {at}; nothing was changed."),
        OrderState::Expired => {
            format!("It was closed at {at} without being carried out; nothing was changed.")
        }
        OrderState::Failed => format!("It was tried and did not work out, at {at}."),
        OrderState::RolledBack => format!("It was carried out and later undone, at {at}."),
    }
}

/// Text that ends like a sentence; empty stays empty.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}
