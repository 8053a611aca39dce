//! Reads a scenario of the simulator.

use std::path::Path;

use kvmpilot_core::simulate::Scenario;

use super::diagnostic::{Diagnostic, Source};

/// Largest host, longest time.
const MOST_PCPUS: u32 = 1024;
const MOST_VCPUS: u32 = 10_000;
const MOST_HOURS: f64 = 24.0 * 31.0;

/// Why there is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file could not be read.
    #[error("{0}: {1}")]
    Unreadable(std::path::PathBuf, std::io::Error),
    /// Something in it is wrong.
    #[error("{0}")]
    Wrong(Box<Diagnostic>),
}

/// Reads and checks a file.
///
/// # Errors
/// What is wrong, with line and caret.
pub fn load_scenario(path: &Path) -> Result<Scenario, ScenarioError> {
    let source = Source::read(path).map_err(|error| ScenarioError::Unreadable(path.to_owned(), error))?;
    let wrong = |span, message: String, help: String| {
        ScenarioError::Wrong(Box::new(Diagnostic::new(&source, span, message, help)))
    };
    let scenario: Scenario = toml::from_str(&source.text).map_err(|error| {
        let help = "scenarios/*.toml are examples of each shape".to_owned();
        wrong(error.span().unwrap_or_default(), error.message().to_owned(), help)
    })?;
    let host = &scenario.host;
    let pcpus =
        [host.sockets, host.llcs, host.cores, host.threads].into_iter().fold(1_u32, u32::saturating_mul);
    let vcpus = scenario
        .domain
        .iter()
        .fold(0_u32, |sum, spec| sum.saturating_add(spec.vcpus.saturating_mul(spec.count)));
    let place = |key: &str| {
        let at = source.text.find(key).unwrap_or(0);
        at..at + key.len()
    };
    if !(1..=MOST_PCPUS).contains(&pcpus) {
        let help = format!("sockets * llcs * cores * threads, 1 to {MOST_PCPUS}");
        return Err(wrong(place("[host]"), format!("the host has {pcpus} pcpus"), help));
    }
    if !(1..=MOST_VCPUS).contains(&vcpus) || scenario.domain.iter().any(|spec| spec.vcpus == 0) {
        let help = format!("each domain has one at least, all together {MOST_VCPUS} at most");
        return Err(wrong(place("[[domain]]"), format!("the domains have {vcpus} vcpus"), help));
    }
    if !(scenario.hours > 0.0 && scenario.hours <= MOST_HOURS) {
        let help = format!("more than 0, at most {MOST_HOURS}");
        return Err(wrong(place("hours"), format!("hours is {}", scenario.hours), help));
    }
    if scenario.cycle_s < 5 {
        return Err(wrong(place("cycle_s"), "the priority cycle is at least 5 s".to_owned(), String::new()));
    }
    Ok(scenario)
}
