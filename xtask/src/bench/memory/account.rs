//! What the guests' program (`tests/guest/workset.c`) says on their consoles, once a second.

use std::fs;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::Lab;

/// One line. Counters count since the program began, those of the guest's kernel since it booted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Since the schedule began, by the guest's clock.
    pub(super) t_ms: u64,
    pub(super) target_mib: u64,
    pub(super) set_mib: u64,
    pub(super) units: u64,
    pub(super) busy_us: u64,
    /// Time after the work was killed until it began anew.
    pub(super) down_us: u64,
    pub(super) longest_us: u64,
    pub(super) deaths: u64,
    /// `MemTotal`: a Linux guest leaves its balloon out of it.
    pub(super) total_kib: u64,
    pub(super) available_kib: u64,
    pub(super) swap_kib: u64,
    pub(super) swapped_kib: u64,
    pub(super) major_faults: u64,
    pub(super) swap_in_pages: u64,
    pub(super) swap_out_pages: u64,
    pub(super) oom_kills: u64,
}

impl Account {
    /// `None` for what others say there, and for lines that they cut in two.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> =
            line.trim().strip_prefix("workset ")?.strip_suffix(" end")?.split(' ').collect();
        let field = |key: &str| -> Option<u64> {
            words
                .iter()
                .find_map(|word| word.split_once('=').filter(|(name, _)| *name == key))?
                .1
                .parse()
                .ok()
        };
        Some(Self {
            t_ms: field("t_ms")?,
            target_mib: field("target_mib")?,
            set_mib: field("set_mib")?,
            units: field("units")?,
            busy_us: field("busy_us")?,
            down_us: field("down_us")?,
            longest_us: field("longest_us")?,
            deaths: field("deaths")?,
            total_kib: field("total_kib")?,
            available_kib: field("available_kib")?,
            swap_kib: field("swap_kib")?,
            swapped_kib: field("swapped_kib")?,
            major_faults: field("major_faults")?,
            swap_in_pages: field("swap_in_pages")?,
            swap_out_pages: field("swap_out_pages")?,
            oom_kills: field("oom_kills")?,
        })
    }

    pub(super) fn at_s(&self) -> f64 {
        self.t_ms as f64 / 1000.0
    }
}

/// Everything that a guest's console says.
pub(super) fn console(lab: &Lab, guest: &str) -> Result<String> {
    let path = lab.logs_dir().join(format!("console-{guest}.log"));
    let said = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// A guest's accounts so far, oldest first.
pub(super) fn accounts(lab: &Lab, guest: &str) -> Result<Vec<Account>> {
    let said = console(lab, guest)?;
    let accounts: Vec<Account> = said.lines().filter_map(Account::parse).collect();
    ensure!(!accounts.is_empty(), "{guest} gives no account of its work; its console says:\n{said}");
    Ok(accounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "workset t_ms=2000 target_mib=400 set_mib=132 units=20 busy_us=180000 down_us=0 longest_us=31000 \
                        deaths=0 total_kib=2000000 free_kib=9 available_kib=700000 swap_kib=1048572 swapped_kib=4 \
                        major_faults=7 swap_in_pages=1 swap_out_pages=2 oom_kills=0 end";

    #[test]
    fn a_line_is_read_whole_or_not_at_all() {
        let account = Account::parse(LINE).unwrap();
        assert_eq!((account.t_ms, account.units, account.swap_out_pages), (2000, 20, 2));
        assert_eq!(Account::parse(&LINE.replace(" end", "")), None);
        assert_eq!(Account::parse(&LINE.replace("units=20", "units=2[  12.3] Out of memory")), None);
        assert_eq!(Account::parse("workset: warm"), None);
    }
}
