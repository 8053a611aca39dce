//! [`Story`]: a work order told as a colleague would, for `kvmpilot why` and the web console alike.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, OrderEvent, OrderState, Prediction, Trial, WorkOrder};
use crate::policy::Actuator;

/// What was seen, which rule spoke, what was expected, what was done and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Story {
    /// The order's number.
    pub id: u64,
    /// What it changes, of which domain.
    pub title: String,
    /// In the order in which they are read.
    pub sections: Vec<Section>,
}

/// One part of a story.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Section {
    /// Its heading.
    pub heading: String,
    /// Its sentences.
    pub lines: Vec<StoryLine>,
    /// What was measured, name and value with unit; read behind the first line.
    pub facts: Vec<(String, String)>,
}

/// One sentence, or a few that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoryLine {
    /// When it happened, milliseconds since 1970; null where it is not about a moment.
    pub unix_ms: Option<u64>,
    /// The words.
    pub text: String,
}

impl Section {
    fn new(heading: &str, lines: impl IntoIterator<Item = String>) -> Self {
        let lines = lines.into_iter().map(|text| StoryLine { unix_ms: None, text }).collect();
        Self { heading: heading.to_owned(), lines, facts: Vec::new() }
    }
}

impl Story {
    /// Heading of the section behind which the single steps are shown.
    pub const DONE: &str = "What was done";

    /// Tells an order; `name_of` says who has a user id.
    #[must_use]
    pub fn new(order: &WorkOrder, name_of: impl Fn(u32) -> String) -> Self {
        let WorkOrder { id, proposal, .. } = order;
        let reason = &proposal.reason;
        let mut seen = vec![or(&sentence(&reason.summary), "Nothing was written down.")];
        if let Action::SetLevel { application, communicating, .. } = &proposal.action {
            let found =
                if *communicating { "was found talking to another node" } else { "talks to no other node" };
            seen.push(format!("{application} {found}."));
        }
        let mut expected = vec![or(&sentence(&reason.expected), "Nothing was predicted.")];
        expected.extend(reason.prediction.as_ref().map(promise));
        let alternatives = reason.alternatives.iter().map(|alternative| sentence(alternative));
        let sections = [
            Section { facts: reason.inputs.clone(), ..Section::new("What was seen", seen) },
            Section::new("Which rule", rule(order)),
            Section::new("What was expected", expected),
            Section::new("What else was possible", alternatives),
            Section { lines: events(order, name_of), ..Section::new(Self::DONE, []) },
            Section::new("What came of it", result(order)),
        ];
        Self {
            id: *id,
            title: format!("Work order {id} for {}: {}", proposal.domain_name, proposal.action),
            sections: sections.into_iter().filter(|section| !section.lines.is_empty()).collect(),
        }
    }
}

fn rule(order: &WorkOrder) -> Vec<String> {
    let (proposal, reason) = (&order.proposal, &order.proposal.reason);
    let rule = or(&reason.rule, "unnamed");
    let mut lines = vec![if reason.threshold.is_empty() {
        format!("{rule}.")
    } else {
        format!("{rule}, whose condition is: {}", sentence(&reason.threshold))
    }];
    if proposal.release {
        lines.push(
            "It goes back towards a safer or the original value, so no approval, budget or pause holds it up."
                .to_owned(),
        );
    }
    if !proposal.undoes.is_empty() {
        let undone: Vec<String> = proposal.undoes.iter().map(u64::to_string).collect();
        lines.push(format!("It takes back order {}.", undone.join(", ")));
    }
    lines
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

/// Each state that the order was in, with its time.
fn events(order: &WorkOrder, name_of: impl Fn(u32) -> String) -> Vec<StoryLine> {
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
        lines.push(StoryLine { unix_ms: Some(event.unix_ms), text: said(order, event, before, &name_of) });
        before = Some(event);
    }
    lines
}

fn said(
    order: &WorkOrder,
    event: &OrderEvent,
    before: Option<&OrderEvent>,
    name_of: impl Fn(u32) -> String,
) -> String {
    let advice = order.proposal.action.actuator() == Actuator::Resize;
    let judged = before.is_some_and(|before| before.state == OrderState::Verified);
    let decider = match (order.decided_by_uid, &order.decided_by_token) {
        (Some(uid), _) => Some(name_of(uid)),
        (None, token) => token.as_ref().map(|token| format!("The holder of the token {token}")),
    };
    let is_decided = decider.is_some();
    let person = || decider.unwrap_or_else(|| "A person".to_owned());
    let outcome = sentence(&event.outcome);
    match event.state {
        OrderState::Proposed => "It was proposed.".to_owned(),
        OrderState::Approved if before.is_some() || is_decided => {
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

fn or(text: &str, otherwise: &str) -> String {
    (if text.is_empty() { otherwise } else { text }).to_owned()
}
