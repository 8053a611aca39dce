//! Windows guests: PowerShell programs instead of shell ones, and priority classes instead of nice values, in the ladder's
//! steps so that it needs no second way. Not proven on a real Windows guest yet: only recorded formats and scripted agents.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kvmpilot_core::sample::{GuestSample, GuestSystem, ProcessKey, SchedPolicy};
use serde_json::json;

use super::exec::malformed;
use super::parse::Bounds;
pub(super) use super::windows_json::{parse_json, parse_services_json};
use super::{Agent, AgentError, NiceChange, NiceOutcome, NiceResult, Transport};

const INVENTORY: &str = include_str!("windows.ps1");
const SERVICES: &str = include_str!("windows_services.ps1");
const PRIORITY: &str = include_str!("windows_priority.ps1");

/// Changes of one program: a command line has 32 KiB in Windows.
const MOST: usize = 64;

/// Priority classes with the ladder's nice values. Never `RealTime`: what has it is never touched.
const CLASSES: [(&str, i8); 5] =
    [("Idle", 10), ("BelowNormal", 5), ("Normal", 0), ("AboveNormal", -5), ("High", -10)];

impl<T: Transport> Agent<T> {
    /// The inventory of a Windows guest.
    pub(super) async fn windows_inventory(&mut self) -> Result<GuestSample, AgentError> {
        let limits = self.limits;
        let bounds =
            Bounds { processes: limits.processes, sockets: limits.sockets, bytes: limits.output_bytes };
        let script = INVENTORY
            .replace("__PROCESSES__", &limits.processes.to_string())
            .replace("__SOCKETS__", &limits.sockets.to_string());
        let output = self.run(&powershell(&script)).await?;
        parse(&output.stdout, bounds)
    }

    pub(super) async fn windows_services(&mut self, system: &mut GuestSystem) -> Result<(), AgentError> {
        let output = self.run(&powershell(SERVICES)).await?;
        parse_services(&output.stdout, system)
    }

    /// Sets priority classes, given as nice values of the ladder's steps.
    pub(super) async fn set_priority_classes(
        &mut self,
        changes: &[NiceChange],
    ) -> Result<Vec<NiceOutcome>, AgentError> {
        let mut reports = HashMap::new();
        let wanted: Vec<String> = changes.iter().filter_map(row).collect();
        for batch in wanted.chunks(MOST) {
            let script = PRIORITY.replace("__CHANGES__", &batch.join(", "));
            let output = self.run(&powershell(&script)).await?;
            reports.extend(read_reports(&output.stdout));
        }
        let result = |change: &NiceChange| match reports.get(&change.key) {
            _ if row(change).is_none() => {
                NiceResult::Failed(format!("nice {} is no priority class of the ladder", change.to))
            }
            Some(Report::Gone) => NiceResult::Gone,
            Some(Report::Drift(now)) => NiceResult::Drift { now: *now },
            Some(Report::Now(now)) if *now == change.to => NiceResult::Applied,
            Some(Report::Now(now)) => NiceResult::Failed(format!("its class is that of nice {now} instead")),
            Some(Report::Denied) => NiceResult::Failed("Windows refuses to change this process".to_owned()),
            None => NiceResult::Failed("no report from the guest".to_owned()),
        };
        Ok(changes.iter().map(|change| NiceOutcome { key: change.key, result: result(change) }).collect())
    }
}

/// A change as the program reads it: numbers and fixed words, so that nothing can be taken for code.
fn row(change: &NiceChange) -> Option<String> {
    let NiceChange { key: ProcessKey { pid, start_ticks }, expect, to } = change;
    Some(format!("'{pid} {start_ticks} {} {}'", class(*expect)?, class(*to)?))
}

/// The priority class that stands for exactly this nice value.
fn class(nice: i8) -> Option<&'static str> {
    CLASSES.iter().find(|(_, of)| *of == nice).map(|(class, _)| *class)
}

/// Nice value and policy of a base priority (`Win32_Process.Priority`).
pub(super) fn level(base_priority: u64) -> (i8, SchedPolicy) {
    match base_priority {
        0..=4 => (10, SchedPolicy::Other),
        5..=6 => (5, SchedPolicy::Other),
        7..=9 => (0, SchedPolicy::Other),
        10..=12 => (-5, SchedPolicy::Other),
        13..=15 => (-10, SchedPolicy::Other),
        _ => (-10, SchedPolicy::RealTime),
    }
}

/// The arguments of `guest-exec` for a PowerShell program.
fn powershell(script: &str) -> serde_json::Value {
    let code: String =
        script.lines().filter(|line| !line.starts_with('#')).map(|line| line.to_owned() + "\n").collect();
    let utf16: Vec<u8> = code.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let arg = ["-NoProfile", "-NonInteractive", "-EncodedCommand", &STANDARD.encode(utf16)];
    json!({"path": "powershell.exe", "arg": arg, "capture-output": true})
}

fn decode(output: &[u8]) -> Result<Vec<u8>, AgentError> {
    STANDARD.decode(output.trim_ascii()).map_err(|error| malformed(format!("PowerShell's output: {error}")))
}

/// Reads the output of `windows.ps1`.
pub(super) fn parse(output: &[u8], bounds: Bounds) -> Result<GuestSample, AgentError> {
    parse_json(&decode(output)?, bounds)
}

/// Reads the output of `windows_services.ps1`.
pub(super) fn parse_services(output: &[u8], system: &mut GuestSystem) -> Result<(), AgentError> {
    parse_services_json(&decode(output)?, system)
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    Gone,
    Drift(i8),
    Now(i8),
    Denied,
}

/// Reads the output of `windows_priority.ps1`.
pub(super) fn read_reports(output: &[u8]) -> HashMap<ProcessKey, Report> {
    let nice = |class: &str| match class {
        // As far from what the ladder sets as can be.
        "RealTime" => Some(-20),
        class => CLASSES.iter().find(|(name, _)| *name == class).map(|(_, nice)| *nice),
    };
    let read = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let key = ProcessKey { pid: words.next()?.parse().ok()?, start_ticks: words.next()?.parse().ok()? };
        let report = match (words.next()?, words.next()) {
            ("gone", None) => Report::Gone,
            ("denied", None) => Report::Denied,
            ("drift", Some(class)) => Report::Drift(nice(class)?),
            ("now", Some(class)) => Report::Now(nice(class)?),
            _ => return None,
        };
        Some((key, report))
    };
    String::from_utf8_lossy(output).lines().take(2 * MOST).filter_map(read).collect()
}
