//! The host's side of ballooning: whether it is short of memory, what it must keep so that memory can be given back, and
//! who gives first.

use std::time::Duration;

use super::history::HostMemoryHistory;
use crate::decide::class::class_of;
use crate::decide::history::History;
use crate::decide::{input, running};
use crate::finding::{Finding, Severity};
use crate::model::{DomainModel, HostModel, Model};
use crate::policy::{Class, Policy};
use crate::units::{KiB, Ratio};

/// Part of the host's memory that must be available, else the host is short of it (MOM has the same line).
const SHORT: f64 = 0.20;
/// Memory pressure (PSI, some, ten seconds) above which the host is short of memory whatever is available.
const PRESSURE: f64 = 0.05;
/// Part of the host's memory that is kept for giving back and for guests that start.
const RESERVE: f64 = 0.05;
/// Part of the host's memory by which more is available than should be, and yet may be gone in the time of a few readings.
const NEAR: f64 = 0.05;
/// Time for which the largest fall of the available memory is remembered.
const FALLS: Duration = Duration::from_secs(600);
/// VMware's idle memory tax of 75 %: an idle page costs as much as four that are used.
const IDLE_PAGE_COST: f64 = 4.0;

/// The host's memory as ballooning sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostMemory {
    pub(super) available: Option<KiB>,
    pub(super) reserve: KiB,
    /// What should be available, else it is short.
    pub(super) enough: KiB,
    /// Why it is short, if it is.
    pub(super) short: Option<&'static str>,
}

impl HostMemory {
    pub(super) fn new(host: &HostModel, history: &HostMemoryHistory) -> Self {
        let Some((available, total)) = host.memory_available.zip(host.memory_total) else {
            return Self::default();
        };
        let burst = history.falls.front().map_or(KiB(0), |(_, fall)| *fall);
        let reserve = total.part(RESERVE).max(burst.min(total.part(SHORT)));
        let part = Ratio::of(available.as_f64(), total.as_f64()).unwrap_or_default();
        let pressed = host.memory_pressure_avg10.is_some_and(|pressure| pressure.0 >= PRESSURE);
        let short = if available < reserve {
            Some("less is available than its reserve")
        } else if part.0 < SHORT {
            Some("less than 20 % of its memory is available")
        } else {
            pressed.then_some("its tasks wait for memory")
        };
        let enough = total.part(SHORT).max(reserve + reserve);
        Self { available: Some(available), reserve, enough, short }
    }

    /// Whether it is short, or may be in the time of a few readings.
    pub(super) fn is_nearly_short(&self, host: &HostModel) -> bool {
        let Some((available, total)) = self.available.zip(host.memory_total) else { return true };
        let pressed = host.memory_pressure_avg10.is_some_and(|pressure| pressure.0 >= PRESSURE / 5.0);
        self.short.is_some() || pressed || available < self.enough + total.part(NEAR)
    }

    /// What can be given without touching the reserve; everything where the host does not tell.
    pub(super) fn spare(&self) -> KiB {
        self.available.map_or(KiB(u64::MAX), |available| available - self.reserve)
    }
}

/// Takes note of how fast the host's memory goes.
pub(super) fn note(model: &Model, history: &mut HostMemoryHistory) {
    let Some(available) = model.host.memory_available else { return };
    if let Some((then, before)) = history.last
        && model.at > then
    {
        let fall = before - available;
        while history.falls.back().is_some_and(|(_, smaller)| *smaller <= fall) {
            history.falls.pop_back();
        }
        history.falls.push_back((model.at, fall));
    }
    history.last = Some((model.at, available));
    while history.falls.front().is_some_and(|(then, _)| model.at.saturating_sub(*then) > FALLS) {
        history.falls.pop_front();
    }
}

/// Memory that we hold back from its guests.
pub(super) fn owed(model: &Model, history: &History) -> KiB {
    let of = |domain: &DomainModel| {
        let original = &history.domains.get(&domain.uuid)?.balloon;
        original.ours?;
        Some(original.original? - domain.balloon?.current)
    };
    running(model).filter_map(of).fold(KiB(0), |sum, owed| sum + owed)
}

/// Whether everything that was promised to guests could be given.
pub(super) fn judge(model: &Model, history: &History) -> Vec<Finding> {
    let host = HostMemory::new(&model.host, &history.host_memory);
    let (Some(total), Some(available)) = (model.host.memory_total, host.available) else { return Vec::new() };
    let mut findings = Vec::new();
    let mut add = |name: &str, severity, summary: String, evidence| {
        let (domain, domain_name) = (None, None);
        findings.push(Finding { domain, domain_name, name: name.to_owned(), severity, summary, evidence });
    };
    let owed = owed(model, history);
    if owed > host.spare() {
        add(
            "balloon_give_back_at_risk",
            Severity::Warning,
            "the host could not give back all the memory that was taken from its guests: free memory on the host, or \
             move a guest away"
                .to_owned(),
            vec![
                input("taken from guests", owed),
                input("available on the host", available),
                input("reserve", host.reserve),
            ],
        );
    }
    let promised = running(model).fold(KiB(0), |sum, domain| sum + domain.memory_maximum);
    if promised + host.reserve > total {
        add(
            "memory_overcommitted",
            Severity::Info,
            "the guests may want more memory together than the host has".to_owned(),
            vec![
                input("maxima of all guests", promised),
                input("reserve", host.reserve),
                input("memory of the host", total),
            ],
        );
    }
    findings
}

/// Value of a domain's memory to it, by VMware's idle memory tax: shares / (pages * (active + 4 idle)). The smallest
/// gives first. Shares are the domain's maximum times what its class counts.
pub(super) fn tax_rank(domain: &DomainModel, needs: KiB, policy: &Policy, history: &History) -> Option<f64> {
    let worth = match class_of(domain, policy, history) {
        Class::Latency => 4.0,
        Class::Standard => 2.0,
        Class::Batch => 1.0,
    };
    let current = domain.balloon?.current.as_f64();
    let active = Ratio::of(needs.as_f64().min(current), current)?.0;
    let price = active + IDLE_PAGE_COST * (1.0 - active);
    Some(Ratio::of(worth * domain.memory_maximum.as_f64(), current * price)?.0)
}
