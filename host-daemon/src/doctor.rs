//! What could be better about the installation: checks of the host, of libvirt and of each guest, each with what it
//! means and what to do.

use std::collections::BTreeMap;

use kvmpilot_core::Uuid;
use kvmpilot_core::model::Model;
use kvmpilot_core::sample::DomainState;

use crate::api::views::{CheckView, TierView, Verdict};
use crate::kernel::Kernel;
use crate::libvirt::Status;
use crate::sense::GuestState;

/// Daemons that change the same values as kvmpilot does.
const COMPETITORS: [(&str, &str); 4] = [
    ("numad", "moves QEMU's threads and memory between NUMA nodes"),
    ("ksmtuned", "changes KSM with the memory pressure that balloons change too"),
    ("momd", "changes balloons and CPU quotas"),
    ("pvestatd", "changes balloons"),
];

fn check(name: &str, verdict: Verdict, message: String, advice: Option<&str>) -> CheckView {
    CheckView { name: name.to_owned(), verdict, message, advice: advice.map(str::to_owned) }
}

/// Checks that need no libvirt.
#[must_use]
pub fn host(kernel: &Kernel, tiers: &[TierView]) -> Vec<CheckView> {
    let mut checks = Vec::new();
    let release = kernel.release().unwrap_or_else(|| "unknown".to_owned());
    checks.push(match kernel.has_btf() {
        true => check("kernel", Verdict::Ok, format!("Linux {release} with type information (BTF)"), None),
        false => check(
            "kernel",
            Verdict::Warning,
            format!("Linux {release} has no type information at /sys/kernel/btf/vmlinux"),
            Some("use a kernel with CONFIG_DEBUG_INFO_BTF; without, kvmpilot reads /proc and knows no wait times by length"),
        ),
    });
    for tier in tiers {
        let name = format!("tier {}", tier.tier);
        checks.push(match tier.on {
            true => check(&name, Verdict::Ok, format!("{}: {}", tier.name, tier.reason), None),
            false => check(
                &name,
                Verdict::Warning,
                format!("{} is off: {}", tier.name, tier.reason),
                Some("kvmpilot works without it, but sees totals only"),
            ),
        });
    }
    let (sample, _) = kernel.host();
    checks.push(match sample.cpu_pressure {
        Some(_) => check("pressure", Verdict::Ok, "the kernel tells pressure (PSI)".to_owned(), None),
        None => check(
            "pressure",
            Verdict::Warning,
            "the kernel does not tell pressure (PSI)".to_owned(),
            Some("boot with psi=1, on a kernel with CONFIG_PSI"),
        ),
    });
    for (name, what) in COMPETITORS {
        if kernel.runs(name) {
            checks.push(check(
                "competitor",
                Verdict::Warning,
                format!("{name} runs, which {what}"),
                Some("stop it, or set the actuators that it shares with kvmpilot to observe"),
            ));
        }
    }
    checks
}

/// The connection to libvirt.
#[must_use]
pub fn libvirt(status: &Status) -> CheckView {
    match status {
        Status::Up { .. } => check("libvirt", Verdict::Ok, status.to_string(), None),
        Status::Down { advice, .. } => check("libvirt", Verdict::Problem, status.to_string(), Some(advice)),
    }
}

/// Agents and balloons, domain by domain.
#[must_use]
pub fn guests(model: &Model, guests: &BTreeMap<Uuid, GuestState>) -> Vec<CheckView> {
    let mut checks = Vec::new();
    for domain in model.domains.iter().filter(|domain| domain.state == DomainState::Running) {
        let state = guests.get(&domain.uuid);
        let name = format!("agent of {}", domain.name);
        checks.push(match (domain.agent_connected, state.and_then(|state| state.trouble.as_deref())) {
            (_, Some(trouble)) => check(
                &name,
                Verdict::Warning,
                trouble.to_owned(),
                Some("its processes are neither seen nor re-levelled; the host side works on"),
            ),
            (None, None) => check(
                &name,
                Verdict::Warning,
                "the domain has no agent channel".to_owned(),
                Some(
                    "add a <channel> named org.qemu.guest_agent.0 and install qemu-guest-agent in the guest",
                ),
            ),
            (Some(false), None) => check(
                &name,
                Verdict::Warning,
                "no agent is connected".to_owned(),
                Some("install and start qemu-guest-agent in the guest"),
            ),
            (Some(true), None) => check(&name, Verdict::Ok, "answers".to_owned(), None),
        });
        let name = format!("balloon of {}", domain.name);
        match (&domain.balloon_refusal, domain.balloon.and_then(|balloon| balloon.age)) {
            (Some(why), _) => checks.push(check(&name, Verdict::Ok, format!("left alone: {why}"), None)),
            (None, None) if domain.balloon.is_some() => checks.push(check(
                &name,
                Verdict::Warning,
                "the guest reports no memory statistics".to_owned(),
                Some("set <stats period='5'/> in the domain's <memballoon>, and load virtio_balloon in the guest"),
            )),
            (None, _) => {}
        }
    }
    checks
}
