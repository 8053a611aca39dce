//! From a recording to the plan: every turn is made again.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kvmpilot_core::decide::{Decision, RuleCount};
use kvmpilot_core::finding::Finding;
use kvmpilot_core::policy::Policy;
use serde::Deserialize;

use super::{Event, FORMAT, Header, LONGEST_LINE, Line, Recorded};
use crate::api::views::{AppliedView, FoundView, Pace, PlannedView, ReplayView};
use kvmpilot_core::windows::Decided;

/// What is wrong with a recording, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {what}", path.display())]
pub struct ReplayError {
    path: PathBuf,
    line: u64,
    what: String,
}

/// As much of a header as tells whether the rest can be understood.
#[derive(Deserialize)]
struct Kind {
    kind: String,
    format: Option<u32>,
}

/// Decides on a recording again, with `policy` or the recorded one. `path` is only named in errors.
///
/// # Errors
/// When a line cannot be read or makes no sense; lines that a crash cut off at the end are told in the result instead.
pub fn replay(input: impl BufRead, path: &Path, policy: Option<Policy>) -> Result<ReplayView, ReplayError> {
    replay_by(input, path, |_| policy).map(|replayed| replayed.view)
}

/// A recording that was decided on again.
#[derive(Debug)]
pub struct Replayed {
    /// What was decided.
    pub view: ReplayView,
    /// What came of asking each rule.
    pub rules: BTreeMap<Arc<str>, RuleCount>,
}

/// Like [`replay`], with the policy that `choose` makes of the recorded one.
///
/// # Errors
/// As [`replay`].
pub fn replay_by(
    input: impl BufRead,
    path: &Path,
    choose: impl FnOnce(&Policy) -> Option<Policy>,
) -> Result<Replayed, ReplayError> {
    let Replay { view, mut state, .. } = run(input, path, choose)?;
    Ok(Replayed { view, rules: std::mem::take(&mut state.history.rules) })
}

fn run(
    mut input: impl BufRead,
    path: &Path,
    choose: impl FnOnce(&Policy) -> Option<Policy>,
) -> Result<Replay, ReplayError> {
    let mut number = 0;
    let fail = |line: u64, what: String| ReplayError { path: path.to_owned(), line, what };
    let mut next = || -> Result<Option<(u64, String)>, ReplayError> {
        number += 1;
        let mut line = String::new();
        let limit = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX);
        let read = input.by_ref().take(limit).read_line(&mut line);
        read.map_err(|error| fail(number, format!("cannot be read: {error}")))?;
        if line.len() >= LONGEST_LINE {
            return Err(fail(number, "is too long for a recording".to_owned()));
        }
        Ok((!line.is_empty()).then_some((number, line)))
    };
    let Some((at, first)) = next()? else { return Err(fail(1, "the file is empty".to_owned())) };
    let mut header = header(&first).map_err(|what| fail(at, what))?;
    // Counted is what is asked in the replay.
    header.state.history.rules.clear();
    let policy = choose(&header.policy);
    let mut replay = Replay::new(header, policy);
    while let Some((at, line)) = next()? {
        let cut = !line.ends_with('\n');
        match serde_json::from_str(&line) {
            Err(_) if cut => {
                replay.view.notes.push(format!("line {at} is cut off; the plan ends before it"));
                return Ok(replay);
            }
            Err(error) => return Err(fail(at, format!("not a line of a recording: {error}"))),
            Ok(Line::Header(_)) => return Err(fail(at, "a second header".to_owned())),
            Ok(Line::Turn(turn)) => replay.turn(&turn).map_err(|what| fail(at, what))?,
            Ok(Line::End { reason }) => {
                if let Some((at, _)) = next()? {
                    return Err(fail(at, "follows the end of the recording".to_owned()));
                }
                replay.view.complete = true;
                replay.view.notes.push(format!("the recording ends because {reason}"));
                return Ok(replay);
            }
        }
    }
    replay.view.notes.push("the recording has no end: whoever wrote it was killed".to_owned());
    Ok(replay)
}

fn header(line: &str) -> Result<Header, String> {
    let no_recording =
        |error: &dyn ToString| format!("not a recording, which begins with a header: {}", error.to_string());
    let kind: Kind = serde_json::from_str(line).map_err(|error| no_recording(&error))?;
    match kind {
        Kind { kind, .. } if kind != "header" => Err(no_recording(&format!("this is a line of kind {kind}"))),
        Kind { format: Some(FORMAT), .. } => match serde_json::from_str(line) {
            Ok(Line::Header(header)) => Ok(*header),
            Ok(_) => Err(no_recording(&"this is none")),
            Err(error) => Err(format!("the header is damaged: {error}")),
        },
        Kind { format, .. } => {
            let format = format.map_or_else(|| "unknown".to_owned(), |format| format.to_string());
            Err(format!("the recording's format is {format}, this kvmpilot reads format {FORMAT}"))
        }
    }
}

/// A replay under way.
struct Replay {
    state: super::State,
    policy: Policy,
    /// The policy is not the recorded one, so the recorded turns of its periods do not hold.
    fixed: bool,
    began: Duration,
    last: Duration,
    view: ReplayView,
}

impl Replay {
    fn new(header: Header, policy: Option<Policy>) -> Self {
        let fixed = policy.is_some();
        let view = ReplayView {
            host: header.host,
            kernel: header.kernel,
            version: header.version,
            started_unix_ms: header.started_unix_ms,
            other_configuration: fixed,
            ..ReplayView::default()
        };
        Self {
            state: header.state,
            policy: policy.unwrap_or(header.policy),
            fixed,
            began: header.at,
            last: header.at,
            view,
        }
    }

    fn turn(&mut self, turn: &Recorded) -> Result<(), String> {
        if turn.at < self.last {
            return Err("is older than the line before it".to_owned());
        }
        self.last = turn.at;
        let since = |at: Duration| at.saturating_sub(self.began).as_secs_f64();
        let at_s = since(turn.at);
        self.view.turns += 1;
        self.view.length_s = at_s;
        let applied = turn.events.iter().filter_map(|event| match event {
            Event::Applied { proposal, at, .. } => {
                Some(AppliedView { at_s: since(*at), proposal: (**proposal).clone() })
            }
            _ => None,
        });
        self.view.applied.extend(applied);
        let Decided { release, arrival, tick, cycle } = self.state.turn(turn, &mut self.policy, self.fixed);
        self.view.ticks += u64::from(tick.is_some());
        self.view.cycles += u64::from(cycle.is_some());
        if let Some((_, decision)) = release {
            self.take(at_s, Pace::Release, decision);
        }
        if let Some((_, decision)) = arrival {
            self.take(at_s, Pace::Arrival, decision);
        }
        if let Some((_, decision)) = tick {
            self.take(at_s, Pace::Tick, decision);
        }
        if let Some((_, decision)) = cycle {
            self.take(at_s, Pace::Cycle, decision);
        }
        Ok(())
    }

    fn take(&mut self, at_s: f64, pace: Pace, decision: Decision) {
        let Decision { findings, proposals, held, .. } = decision;
        let wanted = proposals.into_iter().map(|proposal| (proposal, None));
        let held = held.into_iter().map(|(proposal, why)| (proposal, Some(why)));
        let planned = wanted.chain(held);
        self.view.plan.extend(planned.map(|(proposal, held)| PlannedView { at_s, pace, proposal, held }));
        for finding in findings {
            let same = |other: &&mut FoundView| {
                let Finding { domain, name, .. } = &other.finding;
                (domain, name) == (&finding.domain, &finding.name)
            };
            match self.view.findings.iter_mut().find(same) {
                Some(found) => found.last_s = at_s,
                None => self.view.findings.push(FoundView { first_s: at_s, last_s: at_s, finding }),
            }
        }
    }
}
