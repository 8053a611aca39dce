//! Each answer as a page for people.

mod baseline;
mod detail;
mod domain;
mod explain;
mod flow;
mod guest;
mod order;
mod process;
mod replay;
mod rules;
mod service;
mod simulate;
mod status;
mod steal;
mod watch;
mod why;

pub(super) use domain::{domain, domains};
pub(super) use explain::{explain, policy};
pub(super) use flow::flows;
pub(super) use order::{order, orders, reply};
pub(super) use process::processes;
pub(super) use replay::replay;
pub(super) use rules::{rules, rules_test};
pub(super) use service::{service, services};
pub(super) use simulate::simulate;
pub(super) use status::{doctor, status};
pub(super) use steal::steal;
pub(super) use watch::watch;
pub(super) use why::why;

use kvmpilot_core::finding::{Finding, Severity};

use super::page::{Page, bad, doubtful};

/// Findings below each other, if there are any.
fn findings(page: &mut Page, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    page.heading("FINDINGS");
    for finding in findings {
        let severity = match finding.severity {
            Severity::Info => "info".to_owned(),
            Severity::Warning => doubtful("warning"),
            Severity::Error => bad("error"),
        };
        let domain = finding.domain_name.as_ref().map_or_else(String::new, |name| format!("{name}: "));
        page.line(&format!("{severity}: {domain}{} ({})", finding.summary, finding.name));
        if !finding.evidence.is_empty() {
            let evidence: Vec<_> =
                finding.evidence.iter().map(|(name, value)| format!("{name} {value}")).collect();
            page.line(&format!("    {}", evidence.join(", ")));
        }
    }
}
