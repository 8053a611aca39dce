//! `kvmpilot why`: a work order told as a colleague would.

use kvmpilot_core::order::{Action, OrderEvent, OrderState, Prediction, Trial, WorkOrder};
use kvmpilot_core::policy::Actuator;
use nix::unistd::{Uid, User};

use super::super::page::{Page, Screen};
use super::super::words::time;

pub(in super::super) fn why(order: &WorkOrder, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let proposal = &order.proposal;
    let reason = &proposal.reason;
    page.line(&format!("Work order {} for {}: {}", order.id, proposal.domain_name, proposal.action));

    page.heading("What was seen");
    page.line(&format!("  {}", or(&sentence(&reason.summary), "Nothing was written down.")));
    if !reason.inputs.is_empty() {
        let names: Vec<String> = reason.inputs.iter().map(|(name, _)| format!("    {name}")).collect();
        let values = reason.inputs.iter().map(|(_, value)| value.clone());
        page.facts(names.iter().map(String::as_str).zip(values));
    }
    if let Action::SetLevel { application, communicating, .. } = &proposal.action {
        let found =
            if *communicating { "was found talking to another node" } else { "talks to no other node" };
        page.line(&format!("  {application} {found}."));
    }

    page.heading("Which rule");
    let rule = or(&reason.rule, "unnamed");
    if reason.threshold.is_empty() {
        page.line(&format!("  {rule}."));
    } else {
        page.line(&format!("  {rule}, whose condition is: {}", sentence(&reason.threshold)));
    }
    if proposal.release {
        page.line(
            "  It goes back towards a safer or the original value, so no approval, budget or pause holds it up.",
        );
    }
    if !proposal.undoes.is_empty() {
        let undone: Vec<String> = proposal.undoes.iter().map(u64::to_string).collect();
        page.line(&format!("  It takes back order {}.", undone.join(", ")));
    }

    page.heading("What was expected");
    page.line(&format!("  {}", or(&sentence(&reason.expected), "Nothing was predicted.")));
    if let Some(prediction) = &reason.prediction {
        page.line(&format!("  {}", promise(prediction)));
    }

    if !reason.alternatives.is_empty() {
        page.heading("What else was possible");
        for alternative in &reason.alternatives {
            page.line(&format!("  {}", sentence(alternative)));
        }
    }

    page.heading("What was done");
    for line in events(order) {
        page.line(&format!("  {line}"));
    }
    super::order::steps(&mut page, &proposal.action);

    page.heading("What came of it");
    for line in result(order) {
        page.line(&format!("  {line}"));
    }
    page.finish()
}

fn promise(prediction: &Prediction) -> String {
    let Prediction { metric, of_name, before, expected, .. } = prediction;
    if before == expected {
        format!(
            "To be judged by: {metric} of {of_name}, which was {}, stays above half of it.",
            metric.show(*before)
        )
    } else {
        format!(
            "To be judged by: {metric} of {of_name} goes from {} to {}, or a quarter of the way at least.",
            metric.show(*before),
            metric.show(*expected)
        )
    }
}

/// Each state that the order was in, as a line with its time.
fn events(order: &WorkOrder) -> Vec<String> {
    let first =
        OrderEvent { unix_ms: order.created_unix_ms, state: OrderState::Proposed, outcome: String::new() };
    let last =
        OrderEvent { unix_ms: order.changed_unix_ms, state: order.state, outcome: order.outcome.clone() };
    // In a list, and in stores of older versions, the states in between are not known.
    let known = if order.history.is_empty() { vec![first, last] } else { order.history.clone() };
    let mut lines = Vec::new();
    let mut before: Option<&OrderEvent> = None;
    for event in &known {
        if before.is_some_and(|before| before.state == event.state && before.outcome == event.outcome) {
            continue;
        }
        lines.push(format!("{}  {}", time(event.unix_ms), said(order, event, before)));
        before = Some(event);
    }
    lines
}

fn said(order: &WorkOrder, event: &OrderEvent, before: Option<&OrderEvent>) -> String {
    let advice = order.proposal.action.actuator() == Actuator::Resize;
    let judged = before.is_some_and(|before| before.state == OrderState::Verified);
    let person = || match (order.decided_by_uid, &order.decided_by_token) {
        (Some(uid), _) => name_of(uid),
        (None, Some(token)) => format!("the holder of the token {token}"),
        (None, None) => "a person".to_owned(),
    };
    let outcome = sentence(&event.outcome);
    match event.state {
        OrderState::Proposed => "It was proposed.".to_owned(),
        OrderState::Approved if before.is_some() || order.decided_by_uid.is_some() => {
            format!("{} approved it.", person())
        }
        OrderState::Approved if order.proposal.release => {
            "It was approved without asking, as all that leads back is.".to_owned()
        }
        OrderState::Approved => "It was approved by mode auto.".to_owned(),
        OrderState::Applied => "The original value is in the ledger; the change is begun.".to_owned(),
        OrderState::Verified if judged => format!("Its trial is over. {outcome}"),
        OrderState::Verified => format!("It is in force. {outcome}"),
        OrderState::Kept if advice => format!("It has come true. {outcome}"),
        OrderState::Kept if judged => format!("It stays. {outcome}"),
        OrderState::Kept => format!("It is in force, and stays. {outcome}"),
        OrderState::Rejected => format!("{} said no.", person()),
        OrderState::Expired => format!("It was closed without being carried out. {outcome}"),
        OrderState::Failed => format!("It did not work out. {outcome}"),
        OrderState::RolledBack => format!("It was taken back. {outcome}"),
    }
}

fn name_of(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| format!("{} (uid {uid})", user.name))
}

/// What is known of the effect, and what can be done now.
fn result(order: &WorkOrder) -> Vec<String> {
    let id = order.id;
    let advice = order.proposal.action.actuator() == Actuator::Resize;
    let mut lines = Vec::new();
    if let Some(trial) = &order.trial {
        lines.extend(measured(order, trial));
    }
    lines.push(match order.state {
        OrderState::Proposed if advice => format!(
            "It waits for a person or an orchestrator: kvmpilot cannot do it. `kvmpilot orders approve {id}` says that \
             somebody will, `kvmpilot orders reject {id}` that nobody shall."
        ),
        OrderState::Proposed => format!(
            "It waits for a decision: `kvmpilot orders approve {id}` or `kvmpilot orders reject {id}`."
        ),
        OrderState::Approved if advice => {
            "Somebody has said that it will be done; kvmpilot looks each cycle whether it was.".to_owned()
        }
        OrderState::Approved | OrderState::Applied => "It is being carried out right now.".to_owned(),
        OrderState::Verified if order.trial.is_some() => "It is being undone.".to_owned(),
        OrderState::Verified => format!(
            "It is on trial: three windows are measured, and then it stays or goes back. `kvmpilot orders rollback {id}` \
             undoes it now."
        ),
        OrderState::Kept if advice => "Nothing is left to do.".to_owned(),
        OrderState::Kept => format!("It stays. `kvmpilot orders rollback {id}` undoes it."),
        OrderState::Rejected => "Nothing was changed. It will not be proposed again for a while.".to_owned(),
        OrderState::Expired => "Nothing was changed.".to_owned(),
        OrderState::Failed if order.outcome.is_empty() => "Nothing more is known.".to_owned(),
        OrderState::Failed => sentence(&order.outcome),
        OrderState::RolledBack => format!("It is not in force any more: {}", sentence(&order.outcome)),
    });
    lines
}

fn measured(order: &WorkOrder, trial: &Trial) -> Vec<String> {
    let Trial { windows, before, expected, measured, kept, verdict } = trial;
    let metric = order.proposal.reason.prediction.as_ref().map(|prediction| prediction.metric);
    let (Some(metric), Some(measured)) = (metric, measured) else {
        return vec![sentence(verdict)];
    };
    let show = |value: f64| metric.show(value);
    let mut line = format!(
        "Over {windows} windows the {metric} was {}; it had been {}, and {} was expected",
        show(*measured),
        show(*before),
        show(*expected)
    );
    if before != expected {
        line.push_str(&format!(
            ": {:.0} % of what was predicted",
            100.0 * (before - measured) / (before - expected)
        ));
    }
    let judgement = if *kept { "That was worth it." } else { "That was not worth it." };
    vec![format!("{line}."), judgement.to_owned()]
}

/// Text that ends like a sentence; empty stays empty.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}
