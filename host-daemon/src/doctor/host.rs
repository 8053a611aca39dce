//! The kernel and who else works on this host.

use kvmpilot_core::competitor::{COMPETITORS, Competitor};

use super::check;
use crate::api::views::{CheckView, TierView, Verdict};
use crate::kernel::{Cgroups, Features, Kernel};

/// What libvirt needs for weights, pins and balloons, and what goes without.
const CONTROLLERS: [(&str, &str); 2] =
    [("cpu", "CPU weights"), ("cpuset", "the pins of vcpus and emulators")];

/// All of it.
pub(super) fn checks(kernel: &Kernel) -> Vec<CheckView> {
    let features = kernel.features();
    let mut checks = vec![release(kernel)];
    checks.extend(bpf(&features));
    checks.extend(tracing(&features));
    checks.push(sockets(&features));
    checks.push(waits(&features));
    checks.push(pressure(kernel));
    checks.push(cgroups(&features.cgroups));
    checks.extend(scheduler(&features));
    checks.extend(others(kernel));
    checks
}

fn ok(name: &str, message: String) -> CheckView {
    check(name, Verdict::Ok, message, None)
}

fn warning(name: &str, message: String, advice: &str) -> CheckView {
    check(name, Verdict::Warning, message, Some(advice))
}

fn release(kernel: &Kernel) -> CheckView {
    let release = kernel.release().unwrap_or_else(|| "unknown".to_owned());
    if kernel.has_btf() {
        return ok("kernel", format!("Linux {release} with type information (BTF)"));
    }
    warning(
        "kernel",
        format!("Linux {release} has no type information at /sys/kernel/btf/vmlinux"),
        "use a kernel with CONFIG_DEBUG_INFO_BTF; without, kvmpilot reads /proc and knows no wait times by length",
    )
}

/// One tier of the telemetry.
pub(super) fn tier(tier: &TierView) -> CheckView {
    let name = format!("tier {}", tier.tier);
    if tier.on {
        return ok(&name, format!("{}: {}", tier.name, tier.reason));
    }
    let advice = match tier.tier {
        1 => "kvmpilot works without it, but sees totals only, and not who took the CPU",
        2 => "kvmpilot works without it; wake latencies and exits cannot be watched on demand",
        3 => "kvmpilot works without it; bytes are known for each tap, not for each process",
        _ => "kvmpilot works without it",
    };
    warning(&name, format!("{} is off: {}", tier.name, tier.reason), advice)
}

fn bpf(features: &Features) -> Vec<CheckView> {
    let mut checks = vec![match features.lockdown.as_deref() {
        Some("confidentiality") => warning(
            "lockdown",
            "the kernel is locked down to confidentiality: tracepoints that are not typed are refused"
                .to_owned(),
            "boot with lockdown=integrity if wake latencies and exits are to be watched",
        ),
        Some(mode) => ok("lockdown", format!("{mode}: does not keep the probes from reading")),
        None => ok(
            "lockdown",
            "not known, because securityfs is not mounted; the tiers above say whether BPF is permitted"
                .to_owned(),
        ),
    }];
    if features.may_trace == Some(false) {
        checks.push(warning(
            "capabilities",
            "this process has neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON, so it loads no probes"
                .to_owned(),
            "run kvmpilotd as root, or give it AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_NET_ADMIN",
        ));
    }
    if features.jit == Some(false) {
        checks.push(warning(
            "bpf jit",
            "eBPF programs are interpreted: each task switch costs several times more".to_owned(),
            "sysctl net.core.bpf_jit_enable=1",
        ));
    }
    checks
}

fn tracing(features: &Features) -> Vec<CheckView> {
    if !features.tracefs {
        return vec![warning(
            "tracepoints",
            "the tracing file system is not mounted: the events of KVM cannot be watched".to_owned(),
            "mount -t tracefs tracefs /sys/kernel/tracing",
        )];
    }
    let switch = if features.sched_switch {
        ok("tracepoints", "sched:sched_switch is there, which tier 1 counts with".to_owned())
    } else {
        warning(
            "tracepoints",
            "the kernel has no sched:sched_switch".to_owned(),
            "use a kernel with CONFIG_TRACEPOINTS and CONFIG_EVENT_TRACING",
        )
    };
    let exit = match (features.kvm_exit, features.kvm) {
        (true, _) if features.may_open_events == Some(false) => warning(
            "kvm events",
            "kvm:kvm_exit is there, but kernel.perf_event_paranoid keeps kvmpilotd from it: exits cannot be watched by reason"
                .to_owned(),
            "sysctl kernel.perf_event_paranoid=2, the kernel's own default; or give kvmpilotd CAP_SYS_ADMIN in a drop-in, \
             which is as good as all of root's powers",
        ),
        (true, _) => ok("kvm events", "kvm:kvm_exit is there: exits can be watched by reason".to_owned()),
        (false, true) => warning(
            "kvm events",
            "KVM is there without its event kvm_exit: exits cannot be watched by reason".to_owned(),
            "use a kernel with CONFIG_EVENT_TRACING",
        ),
        (false, false) => warning(
            "kvm events",
            "the module kvm is not loaded: guests are emulated, and there are no exits to watch".to_owned(),
            "modprobe kvm_intel or kvm_amd; virtualisation may be switched off in the firmware",
        ),
    };
    vec![switch, exit]
}

fn sockets(features: &Features) -> CheckView {
    match features.tcx {
        Some(true) => ok("sockets", "flows are counted with tcx".to_owned()),
        Some(false) => ok(
            "sockets",
            "the kernel is older than tcx (6.6): flows are counted with clsact, which needs the modules sch_ingress \
             and cls_bpf"
                .to_owned(),
        ),
        None => ok("sockets", "not known how flows could be counted, for want of type information".to_owned()),
    }
}

fn waits(features: &Features) -> CheckView {
    if features.sched_info == Some(true) {
        return ok("schedstat", "the kernel counts how long each thread waits for a pcpu".to_owned());
    }
    check(
        "schedstat",
        Verdict::Problem,
        "the kernel does not count how long threads wait for a pcpu: contention cannot be seen".to_owned(),
        Some("use a kernel with CONFIG_SCHED_INFO, which CONFIG_TASK_DELAY_ACCT or CONFIG_SCHEDSTATS brings"),
    )
}

fn pressure(kernel: &Kernel) -> CheckView {
    let (sample, _) = kernel.host();
    if sample.cpu_pressure.is_some() {
        return ok("pressure", "the kernel tells pressure (PSI)".to_owned());
    }
    warning(
        "pressure",
        "the kernel does not tell pressure (PSI)".to_owned(),
        "boot with psi=1, on a kernel with CONFIG_PSI",
    )
}

fn cgroups(cgroups: &Cgroups) -> CheckView {
    let version = match cgroups {
        Cgroups::V2(_) => "version 2",
        Cgroups::V1 { hybrid: true, .. } => "version 1, with version 2 beside it",
        Cgroups::V1 { .. } => "version 1",
        Cgroups::None => {
            return check(
                "cgroups",
                Verdict::Problem,
                "no cgroups are mounted at /sys/fs/cgroup: neither weights nor quotas exist".to_owned(),
                Some("mount -t cgroup2 cgroup2 /sys/fs/cgroup, then restart libvirtd"),
            );
        }
    };
    let missing: Vec<_> = CONTROLLERS.iter().filter(|(name, _)| !cgroups.has(name)).collect();
    let controllers = cgroups.controllers().join(" ");
    if missing.is_empty() {
        return ok("cgroups", format!("{version}, with {controllers}"));
    }
    let names = missing.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" and ");
    let without = missing.iter().map(|(_, what)| *what).collect::<Vec<_>>().join(" and ");
    warning(
        "cgroups",
        format!("{version}, with {controllers}, without {names}: {without} cannot be changed"),
        "see cgroup_disable= on the kernel's command line and, with version 2, cgroup.subtree_control",
    )
}

fn scheduler(features: &Features) -> Option<CheckView> {
    let name = features.sched_ext.as_ref()?;
    Some(warning(
        "competitor",
        format!(
            "a BPF scheduler ({name}) has taken over from the kernel's own: what CPU weights and waits mean is up to it"
        ),
        "stop it; until then kvmpilot leaves CPU weights alone",
    ))
}

fn others(kernel: &Kernel) -> Vec<CheckView> {
    let running = kernel.running(&COMPETITORS.map(|competitor| competitor.name));
    let found = COMPETITORS.iter().filter(|competitor| running.iter().any(|name| name == competitor.name));
    found
        .map(|Competitor { name, does, fights }| {
            let message = format!("{name} runs, which {does}");
            if fights.is_empty() {
                return ok("neighbour", message);
            }
            let fights = fights.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            let advice =
                "stop it; until then kvmpilot only recommends, unless guard.yield_to_competitors is false";
            warning("competitor", format!("{message}: kvmpilot's {fights} would work against it"), advice)
        })
        .collect()
}
