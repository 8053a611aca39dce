//! Values of groups of processes in a guest: `CPUWeight` of systemd units and nice values of autogroups. Each is checked,
//! set and read back in the guest.

use std::collections::HashMap;

use kvmpilot_core::cpuset::CpuSet;
use kvmpilot_core::sample::{ProcessKey, UnitWeight};

use super::linux::{PATH, program};
use super::{Agent, AgentError, Transport};

const UNIT: &str = include_str!("unit.sh");
const AUTOGROUP: &str = include_str!("autogroup.sh");
const AFFINITY: &str = include_str!("affinity.sh");
/// Units in one call: systemctl takes a tenth of a second of a slow vcpu, several times for each.
const UNITS: usize = 8;
/// A unit's name is a file's name.
const NAME_BYTES: usize = 255;

/// A group whose value is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupChange<G, V> {
    /// The group: a unit's name, or an autogroup's number.
    pub group: G,
    /// Its value as the decision saw it.
    pub expect: V,
    /// The value wanted.
    pub to: V,
}

/// What became of one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupResult<V> {
    /// Set, and read back in the guest.
    Applied,
    /// There is no such group any more.
    Gone,
    /// Somebody else changed the value; nothing was done.
    Drift {
        /// The value found.
        now: V,
    },
    /// It did not take effect.
    Failed(String),
}

impl<V> GroupResult<V> {
    /// The same about another type of value.
    pub fn map<W>(self, value: impl FnOnce(V) -> W) -> GroupResult<W> {
        match self {
            Self::Applied => GroupResult::Applied,
            Self::Gone => GroupResult::Gone,
            Self::Drift { now } => GroupResult::Drift { now: value(now) },
            Self::Failed(why) => GroupResult::Failed(why),
        }
    }
}

impl<T: Transport> Agent<T> {
    /// `CPUWeight` of units; `None` for one that is not loaded, or whose weight is a word.
    ///
    /// # Errors
    /// When the agent cannot be used, or a name is no unit's.
    pub async fn unit_weights(&mut self, units: &[String]) -> Result<Vec<Option<UnitWeight>>, AgentError> {
        let look = |unit: &String| [unit.clone(), "?".into(), "0".into(), "-".into(), "0".into()];
        let mut weights = Vec::new();
        for units in units.chunks(UNITS) {
            let (reports, _) = self.run_units(units.iter().map(look).collect()).await?;
            weights.extend((0..units.len()).map(|at| match reports.get(&at) {
                Some(Report::Is(weight)) => Some(*weight),
                _ => None,
            }));
        }
        Ok(weights)
    }

    /// Sets `CPUWeight` of units at run time. The results are in the order of the changes.
    ///
    /// # Errors
    /// When the agent cannot be used. After [`AgentError::TimedOut`] the values may still change.
    pub async fn set_unit_weights(
        &mut self,
        changes: &[GroupChange<String, UnitWeight>],
    ) -> Result<Vec<GroupResult<UnitWeight>>, AgentError> {
        let mut results = Vec::new();
        for changes in changes.chunks(UNITS) {
            let words = |change: &GroupChange<String, UnitWeight>| {
                let ([expect, expect_set], [to, to_set]) = (words(change.expect), words(change.to));
                [change.group.clone(), expect, expect_set, to, to_set]
            };
            let (reports, stderr) = self.run_units(changes.iter().map(words).collect()).await?;
            let result = |(at, change): (usize, &GroupChange<String, UnitWeight>)| {
                result(reports.get(&at).copied(), &change.to, &stderr)
            };
            results.extend(changes.iter().enumerate().map(result));
        }
        Ok(results)
    }

    async fn run_units(
        &mut self,
        units: Vec<[String; 5]>,
    ) -> Result<(HashMap<usize, Report<UnitWeight>>, String), AgentError> {
        if let Some([name, ..]) = units.iter().find(|[name, ..]| !is_unit(name)) {
            return Err(super::exec::malformed(format!("{name:?} is no unit's name")));
        }
        let output = self.exec(&program(UNIT), &units.concat(), &[PATH.to_owned()]).await?;
        Ok((reports(&output.stdout, weight), output.stderr))
    }

    /// Sets nice values of autogroups. The results are in the order of the changes.
    ///
    /// # Errors
    /// When the agent cannot be used. After [`AgentError::TimedOut`] the values may still change.
    pub async fn set_autogroups(
        &mut self,
        changes: &[GroupChange<u64, i8>],
    ) -> Result<Vec<GroupResult<i8>>, AgentError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let arguments: Vec<String> = changes
            .iter()
            .flat_map(|change| [change.group.to_string(), change.expect.to_string(), change.to.to_string()])
            .collect();
        let output = self.exec(&program(AUTOGROUP), &arguments, &[PATH.to_owned()]).await?;
        let reports: HashMap<u64, _> = reports(&output.stdout, first);
        let result = |change: &GroupChange<u64, i8>| {
            result(reports.get(&change.group).copied(), &change.to, &output.stderr)
        };
        Ok(changes.iter().map(result).collect())
    }

    /// Sets the vcpus that all threads of processes may run on. The results are in the order of the changes.
    ///
    /// # Errors
    /// When the agent cannot be used. After [`AgentError::TimedOut`] the values may still change.
    pub async fn set_affinities(
        &mut self,
        changes: &[GroupChange<ProcessKey, CpuSet>],
    ) -> Result<Vec<GroupResult<CpuSet>>, AgentError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let words = |change: &GroupChange<ProcessKey, CpuSet>| {
            let ProcessKey { pid, start_ticks } = change.group;
            [
                pid.to_string(),
                start_ticks.to_string(),
                change.expect.to_string(),
                change.to.to_string(),
                mask(&change.to),
            ]
        };
        let arguments: Vec<String> = changes.iter().flat_map(words).collect();
        let output = self.exec(&program(AFFINITY), &arguments, &[PATH.to_owned()]).await?;
        let reports: HashMap<u32, Report<CpuSet>> = reports(&output.stdout, first);
        let result = |change: &GroupChange<ProcessKey, CpuSet>| {
            result(reports.get(&change.group.pid).cloned(), &change.to, &output.stderr)
        };
        Ok(changes.iter().map(result).collect())
    }
}

/// As taskset takes it everywhere: hexadecimal, without a prefix.
fn mask(vcpus: &CpuSet) -> String {
    let last = vcpus.iter().next_back().unwrap_or(0);
    let digit = |at: u32| {
        let bits = (0..4).filter(|bit| vcpus.contains(at * 4 + bit)).map(|bit| 1_u32 << bit);
        char::from_digit(bits.sum(), 16).unwrap_or('0')
    };
    (0..=last / 4).rev().map(digit).collect()
}

/// What a script said about one group.
#[derive(Clone, Copy, Debug)]
pub(super) enum Report<V> {
    Gone,
    Is(V),
    Now(V),
}

/// Reads `WEIGHT SET`; a weight of `-` is none of the unit's own.
pub(super) fn weight(words: &[&str]) -> Option<UnitWeight> {
    let [weight, set] = words else { return None };
    let weight = match *weight {
        "-" => None,
        weight => Some(weight.parse().ok().filter(|weight| (1..=10_000).contains(weight))?),
    };
    Some(UnitWeight { weight, at_run_time: *set == "1" })
}

/// Reads a value that is one word.
pub(super) fn first<V: std::str::FromStr>(words: &[&str]) -> Option<V> {
    words.first()?.parse().ok()
}

/// Reads lines like `7 now -5`, `0 is 100 1` and `3 gone`.
pub(super) fn reports<K: std::str::FromStr + Eq + std::hash::Hash, V>(
    stdout: &[u8],
    value: impl Fn(&[&str]) -> Option<V>,
) -> HashMap<K, Report<V>> {
    let text = String::from_utf8_lossy(stdout);
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let (key, words) = words.split_first()?;
        let report = match words.split_first()? {
            (&"gone", []) => Report::Gone,
            (&"is", words) => Report::Is(value(words)?),
            (&"now", words) => Report::Now(value(words)?),
            _ => return None,
        };
        Some((key.parse().ok()?, report))
    };
    text.lines().filter_map(line).collect()
}

fn result<V: PartialEq + std::fmt::Display>(
    report: Option<Report<V>>,
    to: &V,
    stderr: &str,
) -> GroupResult<V> {
    match report {
        Some(Report::Gone) => GroupResult::Gone,
        Some(Report::Is(now)) => GroupResult::Drift { now },
        Some(Report::Now(now)) if now == *to => GroupResult::Applied,
        Some(Report::Now(now)) => {
            GroupResult::Failed(format!("it is {now} instead of {to}; the guest said: {stderr}"))
        }
        None => GroupResult::Failed(format!("no report from the guest: {stderr}")),
    }
}

fn words(weight: UnitWeight) -> [String; 2] {
    let word = weight.weight.map_or_else(|| "-".to_owned(), |weight| weight.to_string());
    [word, u8::from(weight.at_run_time).to_string()]
}

/// Whether a text can be the name of a unit with a weight (systemd.unit(5)): no word of the shell, no option, no path.
fn is_unit(name: &str) -> bool {
    let kind = name.ends_with(".service") || name.ends_with(".scope");
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    kind && name.len() <= NAME_BYTES && !name.starts_with('-') && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_units_are_taken() {
        for good in ["httpd.service", "session-1.scope", "a@b\\x2dc.service"] {
            assert!(is_unit(good), "{good}");
        }
        let long = format!("{}.service", "a".repeat(300));
        for bad in ["-x.service", "a b.service", "../a.service", "a;b.service", "a.slice", "", &long] {
            assert!(!is_unit(bad), "{bad}");
        }
    }

    #[test]
    fn masks_are_hexadecimal() {
        for (list, expected) in [("0", "1"), ("1", "2"), ("4-7", "f0"), ("0,65", "20000000000000001")] {
            assert_eq!(mask(&list.parse().unwrap()), expected);
        }
    }

    #[test]
    fn reports_are_read_and_nonsense_is_none() {
        let text = b"0 now 200 1\n1 is - 0\n2 gone\n3 now idle 0\nx now 1 1\n4 now 1 1 1\n\xff\n";
        let read: HashMap<usize, Report<String>> = reports(text, |words| match words {
            [a, b] => Some(format!("{a}/{b}")),
            _ => None,
        });
        assert_eq!(result(read.get(&0).cloned(), &"200/1".into(), ""), GroupResult::Applied);
        assert_eq!(
            result(read.get(&1).cloned(), &"5/1".into(), ""),
            GroupResult::Drift { now: "-/0".into() }
        );
        assert_eq!(result(read.get(&2).cloned(), &"5/1".into(), ""), GroupResult::Gone);
        assert!(matches!(result(read.get(&4).cloned(), &"1/1".into(), ""), GroupResult::Failed(_)));
        assert_eq!(read.len(), 4);
    }
}
