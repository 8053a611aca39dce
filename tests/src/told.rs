//! What the guests' own programs tell on their consoles: work done, wake-ups that were late. It costs the guest a line a
//! second and needs no agent.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::Lab;

/// What the programs of one guest have told so far.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Units of work by program, and when by the guest's clock, in ms since its boot.
    work: BTreeMap<String, (u64, u64)>,
    /// Wake-ups, oldest first.
    pub wakes: Vec<Wakes>,
}

/// How late some wake-ups in a row were.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wakes {
    /// Median in us.
    pub p50_us: f64,
    /// 99th percentile in us.
    pub p99_us: f64,
    /// The latest in us.
    pub max_us: f64,
}

impl Told {
    /// Units of work a second since an earlier look, over all programs, by the guest's clock. One that has told nothing in
    /// between has done next to nothing.
    ///
    /// # Errors
    /// When there are no such programs.
    pub fn work_since(&self, earlier: &Self) -> Result<f64> {
        ensure!(!self.work.is_empty(), "nobody has told of work");
        let rates = self.work.iter().map(|(name, (units, at))| {
            let (before, since) = earlier.work.get(name).copied().unwrap_or_default();
            #[expect(clippy::cast_precision_loss, reason = "units and milliseconds are below 2^52")]
            let rate = (units - before) as f64 * 1e3 / (at - since).max(1) as f64;
            rate
        });
        Ok(rates.sum())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut told = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["work", name, units, at] => {
                    told.work.insert(name.to_owned(), (units.parse()?, at.parse()?));
                }
                ["wake", _, _, p50, p99, max, _] => {
                    told.wakes.push(Wakes {
                        p50_us: p50.parse()?,
                        p99_us: p99.parse()?,
                        max_us: max.parse()?,
                    });
                }
                _ => {}
            }
        }
        Ok(told)
    }
}

impl Lab {
    /// What the programs of a guest have told on its console until now.
    ///
    /// # Errors
    /// When the console cannot be read, or says something else.
    pub fn told(&self, guest: &str) -> Result<Told> {
        let path = self.logs_dir().join(format!("console-{guest}.log"));
        let said = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // The last line may be half written.
        let whole = said.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let text = String::from_utf8_lossy(&said[..whole]);
        Told::parse(&text).with_context(|| format!("in {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_by_the_guest_s_clock() {
        let before = Told::parse("kvmpilot lab: ready\r\nwork a 100 1000\nwork b 10 1000\n").unwrap();
        let text =
            "work a 100 1000\nwake m 500 90 900 4000 1500\nwork a 300 3000\nwork b 10 1000\nwork b 30 2000\n";
        let after = Told::parse(text).unwrap();
        assert!((after.work_since(&before).unwrap() - 120.0).abs() < 1e-9);
        assert_eq!(after.wakes, [Wakes { p50_us: 90.0, p99_us: 900.0, max_us: 4000.0 }]);
        assert!(after.work_since(&after).unwrap().abs() < 1e-9);
        assert!(Told::default().work_since(&after).is_err(), "nobody works there");
        assert!(Told::parse("work a many 3").is_err());
    }
}
