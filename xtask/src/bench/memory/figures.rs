//! From what guests said to figures: one guest's in one turn.

use serde::Serialize;

use super::account::Account;
use super::schedule::{Growth, MEMORY_MIB, Plan};

/// A guest that has grown needs so much usable to call it well served: a twentieth of its memory.
const WELL_MIB: f64 = MEMORY_MIB as f64 / 20.0;
/// Points of the series are so far apart.
const SERIES_S: f64 = 10.0;
const PAGES_PER_MIB: f64 = 256.0;

/// One guest in one turn. Averages are over time, memory in MiB.
#[derive(Clone, Debug, Serialize)]
pub(super) struct GuestFigures {
    pub(super) name: &'static str,
    /// What its balloon held.
    pub(super) balloon_mib: f64,
    /// By how much its QEMU's resident memory was less than at the start.
    pub(super) rss_less_mib: f64,
    /// What its kernel called used, without the balloon: everything that was not available.
    pub(super) used_mib: f64,
    pub(super) least_available_mib: f64,
    pub(super) swapped_mib: f64,
    /// Units of work done, out of ten a second.
    pub(super) units: u64,
    /// Time that a unit took, growing and the time after a kill included.
    pub(super) unit_ms: f64,
    /// `unit_ms` times `units`.
    pub(super) work_s: f64,
    pub(super) longest_unit_ms: f64,
    pub(super) major_faults: u64,
    pub(super) swap_in_mib: f64,
    pub(super) swap_out_mib: f64,
    /// By the guest's kernel.
    pub(super) oom_kills: u64,
    /// Of those, how often it was the work.
    pub(super) work_killed: u64,
    pub(super) growths: Vec<GrowthFigures>,
    pub(super) series: Vec<Point>,
}

/// How a guest got the memory for a growth.
#[derive(Clone, Debug, Serialize)]
pub(super) struct GrowthFigures {
    pub(super) at_s: u32,
    pub(super) mib: u64,
    /// What its balloon held when it began.
    pub(super) balloon_before_mib: f64,
    /// Seconds from its start until the set had grown and a twentieth of the guest's memory was usable besides. Growing takes
    /// its time by itself: compare with `none`. `null`: not before the next phase.
    pub(super) give_back_s: Option<f64>,
}

/// A guest at one moment, for charts.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Point {
    pub(super) t_s: f64,
    pub(super) target_mib: u64,
    pub(super) set_mib: u64,
    pub(super) balloon_mib: f64,
    pub(super) available_mib: f64,
    pub(super) swapped_mib: f64,
    pub(super) rss_mib: f64,
}

/// What a guest's QEMU had resident, and when since the start: seconds, KiB.
pub(super) type Resident = (f64, u64);

impl GuestFigures {
    /// `None` without at least two accounts within the run.
    pub(super) fn new(
        plan: &Plan,
        seconds: u32,
        accounts: &[Account],
        resident: &[Resident],
    ) -> Option<Self> {
        let end = f64::from(seconds);
        let within: Vec<&Account> = accounts.iter().filter(|account| account.at_s() <= end).collect();
        let (first, last) = (*within.first()?, *within.last().filter(|_| within.len() > 1)?);
        let over_time = |value: &dyn Fn(&Account) -> f64| {
            average(within.iter().map(|account| (account.at_s(), value(account))), end)
        };
        let balloon = |account: &Account| mib(first.total_kib.saturating_sub(account.total_kib));
        let rss_first = resident.first()?.1;
        let units = last.units - first.units;
        let work_s = (last.busy_us + last.down_us - first.busy_us - first.down_us) as f64 / 1e6;
        Some(Self {
            name: plan.name,
            balloon_mib: over_time(&balloon)?,
            rss_less_mib: average(resident.iter().map(|(at, kib)| (*at, mib(rss_first) - mib(*kib))), end)?,
            used_mib: over_time(&|account| mib(account.total_kib.saturating_sub(account.available_kib)))?,
            least_available_mib: mib(within.iter().map(|account| account.available_kib).min()?),
            swapped_mib: over_time(&|account| mib(account.swapped_kib))?,
            units,
            unit_ms: work_s * 1000.0 / units as f64,
            work_s,
            longest_unit_ms: last.longest_us as f64 / 1000.0,
            major_faults: last.major_faults - first.major_faults,
            swap_in_mib: (last.swap_in_pages - first.swap_in_pages) as f64 / PAGES_PER_MIB,
            swap_out_mib: (last.swap_out_pages - first.swap_out_pages) as f64 / PAGES_PER_MIB,
            oom_kills: last.oom_kills - first.oom_kills,
            work_killed: last.deaths - first.deaths,
            growths: plan.growths(seconds).iter().map(|growth| served(*growth, &within, &balloon)).collect(),
            series: series(&within, resident, &balloon),
        })
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn served(growth: Growth, accounts: &[&Account], balloon: &dyn Fn(&Account) -> f64) -> GrowthFigures {
    let (begins, ends) = (f64::from(growth.at_s), f64::from(growth.until_s));
    let before = accounts.iter().rfind(|account| account.at_s() < begins);
    let well = accounts.iter().find(|account| {
        // The target is the guest's own: a line of the second in which it changes may still have the old one.
        (begins + 0.5..ends).contains(&account.at_s())
            && account.set_mib == account.target_mib
            && mib(account.available_kib) >= WELL_MIB
    });
    GrowthFigures {
        at_s: growth.at_s,
        mib: growth.mib,
        balloon_before_mib: before.map_or(0.0, |account| balloon(account)),
        give_back_s: well.map(|account| account.at_s() - begins),
    }
}

fn series(accounts: &[&Account], resident: &[Resident], balloon: &dyn Fn(&Account) -> f64) -> Vec<Point> {
    let mut series: Vec<Point> = Vec::new();
    for account in accounts {
        let t_s = account.at_s();
        if series.last().is_some_and(|last| t_s < last.t_s + SERIES_S - 0.5) {
            continue;
        }
        let rss = resident.iter().rfind(|(at, _)| *at <= t_s).or_else(|| resident.first());
        series.push(Point {
            t_s,
            target_mib: account.target_mib,
            set_mib: account.set_mib,
            balloon_mib: balloon(account),
            available_mib: mib(account.available_kib),
            swapped_mib: mib(account.swapped_kib),
            rss_mib: rss.map_or(f64::NAN, |(_, kib)| mib(*kib)),
        });
    }
    series
}

/// Average over time of values that each hold until the next one, the last until the end.
pub(super) fn average(values: impl IntoIterator<Item = (f64, f64)>, end: f64) -> Option<f64> {
    let values: Vec<(f64, f64)> = values.into_iter().filter(|(at, _)| *at <= end).collect();
    let begin = values.first()?.0;
    let until = values.iter().skip(1).map(|(at, _)| *at).chain([end]);
    let sum: f64 = values.iter().zip(until).map(|((at, value), until)| value * (until - at)).sum();
    (end > begin).then(|| sum / (end - begin))
}

#[cfg(test)]
mod tests {
    use super::super::schedule::plans;
    use super::*;

    const TOTAL: u64 = 2_000_000;

    fn account(second: u64, set_mib: u64, target_mib: u64, balloon_mib: u64) -> Account {
        Account {
            t_ms: second * 1000,
            set_mib,
            target_mib,
            units: second * 10,
            busy_us: second * 100_000,
            total_kib: TOTAL - balloon_mib * 1024,
            available_kib: TOTAL - (balloon_mib + set_mib + 100) * 1024,
            ..Account::default()
        }
    }

    #[test]
    fn what_holds_longer_counts_more() {
        assert!(average([(0.0, 1.0), (3.0, 5.0), (9.0, 7.0)], 4.0).unwrap().total_cmp(&2.0).is_eq());
        assert_eq!(average([], 4.0), None);
    }

    #[test]
    fn a_guest_that_gets_its_memory_late_is_served_late() {
        let plan = &plans(100)[3];
        // 600 MiB from 20 s on, 1000 from 60 s on; it gets what is missing at 70 s.
        let accounts: Vec<Account> = (0..=110)
            .map(|second| match second {
                0..20 => account(second, 1300, 1300, 0),
                20..60 => account(second, 600, 600, 1000),
                60..70 => account(second, 800, 1000, 1000),
                _ => account(second, 1000, 1000, 500),
            })
            .collect();
        let resident = [(0.0, 2_100_000), (50.0, 2_100_000 - 102_400)];
        let figures = GuestFigures::new(plan, 100, &accounts, &resident).unwrap();
        assert!((figures.balloon_mib - 650.0).abs() < 1e-6, "{figures:?}");
        assert!((figures.rss_less_mib - 50.0).abs() < 1e-6);
        assert_eq!((figures.units, figures.series.len()), (1000, 11));
        assert!((figures.unit_ms - 10.0).abs() < 1e-6);
        let [growth] = &figures.growths[..] else { panic!("{figures:?}") };
        assert_eq!((growth.at_s, growth.mib, growth.give_back_s), (60, 400, Some(10.0)));
        assert!((growth.balloon_before_mib - 1000.0).abs() < 1e-6);
    }

    #[test]
    fn a_guest_that_never_gets_it_was_not_served() {
        let plan = &plans(100)[3];
        let accounts: Vec<Account> = (0..=100).map(|second| account(second, 900, 1000, 800)).collect();
        let figures = GuestFigures::new(plan, 100, &accounts, &[(0.0, 1)]).unwrap();
        assert_eq!(figures.growths[0].give_back_s, None);
        assert!(GuestFigures::new(plan, 100, &accounts[..1], &[(0.0, 1)]).is_none());
    }
}
