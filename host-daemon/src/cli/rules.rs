//! `kvmpilot rules`: what is in force, and what a rule file says and would change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kvmpilot_core::Uuid;
use kvmpilot_core::finding::Finding;
use kvmpilot_core::rules::{RuleSet, SHIPPED, SHIPPED_NAME};

use super::arguments::RulesCommand;
use super::client::{Client, ClientError};
use super::page::Screen;
use super::{Failure, answer, progress, show};
use crate::api::present;
use crate::api::views::{PlannedView, RulesTestView, RulesView, TestedRuleView};
use crate::config::{self, Config};
use crate::record::{Replayed, replay_by};

/// Carries out a subcommand of `rules`.
pub(super) async fn run(
    command: Option<RulesCommand>,
    client: impl Fn(Option<&Config>) -> Client,
    screen: Screen,
) -> Result<ExitCode, Failure> {
    match command.unwrap_or(RulesCommand::List { config: None, json: false }) {
        RulesCommand::Check { files } => check(&files),
        RulesCommand::List { config: path, json } => {
            let (config, _) = config::salvage(path.as_deref())?;
            let view: RulesView = match client(Some(&config)).get("/rules").await {
                Err(ClientError::NotRunning { .. }) => {
                    let rules = config::load_rules(&config.rules_directory(path.as_deref()))?;
                    present::rules(&rules, &BTreeMap::new())
                }
                answered => answered?,
            };
            answer(json, &view, || show::rules(&view, screen))
        }
        RulesCommand::Show => {
            io::stdout().write_all(SHIPPED.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        RulesCommand::Test { file, against, json } => {
            let view = progress::computing("replaying twice", move || test(&file, &against)).await?;
            answer(json, &view, || show::rules_test(&view, screen))
        }
    }
}

/// Reads the files like the daemon would, over the shipped rules.
fn check(files: &[PathBuf]) -> Result<ExitCode, Failure> {
    let rules = config::read_rules(files)?;
    let of = |path: &Path| {
        let name = path.display().to_string();
        rules.iter().filter(|rule| *rule.source == *name).count()
    };
    let mut out = io::stdout();
    for file in files {
        writeln!(out, "{}: no mistakes, {} in force", file.display(), super::words::count(of(file), "rule"))?;
    }
    let shipped = rules.iter().filter(|rule| &*rule.source == SHIPPED_NAME).count();
    writeln!(out, "with them, {shipped} of the shipped rules stay in force")?;
    Ok(ExitCode::SUCCESS)
}

/// Replays a recording with the rules that were recorded, and with the file over them.
fn test(file: &Path, recording: &Path) -> Result<RulesTestView, Failure> {
    let entries = config::read_entries(file)?;
    let run = |change: bool| -> Result<(Replayed, RuleSet), Failure> {
        let named = |error| Failure::Offline(format!("{}: {error}", recording.display()));
        let input = BufReader::new(File::open(recording).map_err(named)?);
        let mut rules = RuleSet::default();
        let replayed = replay_by(input, recording, |recorded| {
            let mut policy = recorded.clone();
            if change {
                policy.rules = policy.rules.with_entries(entries.clone());
            }
            rules = policy.rules.clone();
            Some(policy)
        });
        Ok((replayed.map_err(|error| Failure::Offline(error.to_string()))?, rules))
    };
    let (before, old) = run(false)?;
    let (after, new) = run(true)?;
    Ok(compare(&before, &old, &after, &new))
}

fn compare(before: &Replayed, old: &RuleSet, after: &Replayed, new: &RuleSet) -> RulesTestView {
    let names: BTreeSet<&str> = old.iter().chain(new).map(|rule| &*rule.name).collect();
    let held = |replayed: &Replayed, name: &str| replayed.rules.get(name).map_or(0, |count| count.held_total);
    let rules = names.into_iter().filter_map(|name| {
        let change = match (old.get(name), new.get(name)) {
            (None, _) => "added",
            (_, None) => "removed",
            (Some(old), Some(new)) if old != new => "changed",
            _ => return None,
        };
        let count = after.rules.get(name);
        Some(TestedRuleView {
            name: name.to_owned(),
            change: change.to_owned(),
            held_before: old.get(name).map(|_| held(before, name)),
            held_after: new.get(name).map(|_| held(after, name)),
            failed: count.map_or(0, |count| count.failed_total),
            last_error: count.map(|count| count.last_error.clone()).unwrap_or_default(),
        })
    });
    RulesTestView {
        host: after.view.host.clone(),
        length_s: after.view.length_s,
        ticks: after.view.ticks,
        cycles: after.view.cycles,
        rules: rules.collect(),
        added: only_in(&after.view.plan, &before.view.plan),
        removed: only_in(&before.view.plan, &after.view.plan),
        findings_added: found_only(after, before),
        findings_removed: found_only(before, after),
    }
}

/// What one plan has and the other has not, each change once.
fn only_in(plan: &[PlannedView], other: &[PlannedView]) -> Vec<PlannedView> {
    let key = |planned: &PlannedView| {
        (planned.proposal.domain, planned.proposal.action.to_string(), planned.held.is_some())
    };
    let mut seen: BTreeSet<(Uuid, String, bool)> = other.iter().map(key).collect();
    plan.iter().filter(|planned| seen.insert(key(planned))).cloned().collect()
}

fn found_only(replayed: &Replayed, other: &Replayed) -> Vec<Finding> {
    let same = |a: &Finding, b: &Finding| (a.domain, &a.name) == (b.domain, &b.name);
    let known = |finding: &Finding| other.view.findings.iter().any(|found| same(&found.finding, finding));
    replayed
        .view
        .findings
        .iter()
        .map(|found| found.finding.clone())
        .filter(|finding| !known(finding))
        .collect()
}
