//! [`RulesView`].

use std::collections::BTreeMap;
use std::sync::Arc;

use kvmpilot_core::decide::RuleCount;
use kvmpilot_core::rules::RuleSet;

use crate::api::views::{RuleView, RulesView};

/// The rules, with what came of asking them.
#[must_use]
pub fn rules(rules: &RuleSet, counts: &BTreeMap<Arc<str>, RuleCount>) -> RulesView {
    let view = |rule: &kvmpilot_core::rules::Rule| RuleView {
        name: rule.name.to_string(),
        source: rule.source.to_string(),
        on: rule.on.as_str().to_owned(),
        priority: rule.priority,
        when: rule.when.text().trim().to_owned(),
        then: rule.then.to_string(),
        result: counts.get(&rule.name).cloned(),
    };
    RulesView { rules: rules.iter().map(view).collect() }
}
