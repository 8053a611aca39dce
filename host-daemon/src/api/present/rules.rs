//! [`RulesView`].

use std::collections::BTreeMap;
use std::sync::Arc;

use kvmpilot_core::decide::RuleCount;
use kvmpilot_core::rules::RuleSet;

use crate::api::views::{RuleResultView, RuleView, RulesView};

/// The rules, with what came of asking them.
#[must_use]
pub fn rules(rules: &RuleSet, counts: &BTreeMap<Arc<str>, RuleCount>) -> RulesView {
    let result = |count: &RuleCount| RuleResultView {
        asked: count.asked,
        held: count.held,
        unknown: count.unknown,
        failed: count.failed,
        held_total: count.held_total,
        failed_total: count.failed_total,
        last_error: count.last_error.clone(),
    };
    let view = |rule: &kvmpilot_core::rules::Rule| RuleView {
        name: rule.name.to_string(),
        source: rule.source.to_string(),
        on: rule.on.as_str().to_owned(),
        priority: rule.priority,
        when: rule.when.text().trim().to_owned(),
        then: rule.then.to_string(),
        result: counts.get(&rule.name).map(result),
    };
    RulesView { rules: rules.iter().map(view).collect() }
}
