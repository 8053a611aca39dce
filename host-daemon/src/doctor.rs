//! What could be better about the installation: checks of the host, of libvirt and of each guest, each with what it
//! means and what to do.

mod guests;
mod hook;
mod host;

use std::collections::BTreeMap;

use kvmpilot_core::Uuid;
use kvmpilot_core::model::Model;
use kvmpilot_core::sample::DomainState;

use crate::api::views::{CheckView, TierView, Verdict};
use crate::hook::{HookReport, INSTALLED};
use crate::kernel::Kernel;
use crate::libvirt::Status;
use crate::sense::GuestState;

fn check(name: &str, verdict: Verdict, message: String, advice: Option<&str>) -> CheckView {
    CheckView { name: name.to_owned(), verdict, message, advice: advice.map(str::to_owned) }
}

/// Checks that need no libvirt: the kernel's features, cgroups, competing daemons.
#[must_use]
pub fn host(kernel: &Kernel) -> Vec<CheckView> {
    host::checks(kernel)
}

/// The tiers of the telemetry, as they are now.
#[must_use]
pub fn tiers(tiers: &[TierView]) -> Vec<CheckView> {
    tiers.iter().map(host::tier).collect()
}

/// The connection to libvirt.
#[must_use]
pub fn libvirt(status: &Status) -> CheckView {
    match status {
        Status::Up { .. } => check("libvirt", Verdict::Ok, status.to_string(), None),
        Status::Down { advice, .. } => check("libvirt", Verdict::Problem, status.to_string(), Some(advice)),
    }
}

/// libvirt's hook for guests: whether it is installed, and whether the daemon, if there is one, has heard of it. None where
/// libvirt is not the one of this host.
#[must_use]
pub fn hook(libvirt_uri: &str, report: Option<&HookReport>) -> Option<CheckView> {
    let is_local = libvirt_uri.starts_with("qemu:///");
    is_local.then(|| hook::check_hook(std::path::Path::new(INSTALLED), report))
}

/// What libvirt does not tell about a domain, if there is something.
#[must_use]
pub fn domain(name: &str, untold: &[String]) -> Option<CheckView> {
    let advice = "what is not told is not changed; see the log of libvirtd, and its version above";
    let message = || format!("not all of it is told: {}", untold.join("; "));
    (!untold.is_empty()).then(|| check(&format!("domain {name}"), Verdict::Warning, message(), Some(advice)))
}

/// Agents and balloons, domain by domain.
#[must_use]
pub fn guests(model: &Model, guests: &BTreeMap<Uuid, GuestState>) -> Vec<CheckView> {
    let running = model.domains.iter().filter(|domain| domain.state == DomainState::Running);
    let checks = running.flat_map(|domain| {
        let agent = guests::agent(domain, guests.get(&domain.uuid));
        [Some(agent), guests::balloon(domain)].into_iter().flatten()
    });
    checks.collect()
}

#[cfg(test)]
mod tests;
