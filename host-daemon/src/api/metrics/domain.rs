//! Of each domain. Gauges are of the last tick's window.

use kvmpilot_core::policy::Mode;
use kvmpilot_core::sample::DomainState;
use uuid::fmt::Hyphenated;

use super::{Family, Sink, bytes, gauge, number, some, truth};
use crate::api::views::{ClassSource, DomainDetailView, DomainStealView, RunnerKind, StealPartView, Views};

const LABELS: &[&str] = &["domain", "uuid"];

#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    gauge("domain_info", "Constant 1: what the domain is for, who says so, what runs it, and how far each actuator may go.",
        &["domain", "uuid", "class", "class_source", "accel", "ladder", "weight", "placement", "balloon"], info),
    gauge("domain_state", "Constant 1: the domain's state.", &["domain", "uuid", "state"], |views, sink| {
        each(views, |[name, uuid], domain| some(sink, &[name, uuid, state(domain.row.state)], 1.0));
    }),
    gauge("domain_resource_state", "Constant 1: how much of the resource the domain wants, by the thresholds of [state] (ok, over, under or unknown).",
        &["domain", "uuid", "resource", "state"], |views, sink| {
            each(views, |[name, uuid], domain| {
                some(sink, &[name, uuid, "cpu", domain.row.states.cpu.as_str()], 1.0);
                some(sink, &[name, uuid, "memory", domain.row.states.memory.as_str()], 1.0);
            });
        }),
    gauge("domain_vcpus", "Number of vcpus.", LABELS, |views, sink| {
        all(views, sink, |domain| Some(f64::from(domain.row.vcpu_count)));
    }),
    gauge("domain_cpu_use_ratio", "Time on a pcpu, as a share of the time of all vcpus.", LABELS, |views, sink| {
        all(views, sink, |domain| domain.row.cpu_use_ratio);
    }),
    gauge("domain_cpu_wait_ratio", "Of the time that the vcpus wanted to run, the share in which they had to wait for a pcpu.",
        LABELS, |views, sink| all(views, sink, |domain| domain.row.wait_ratio)),
    gauge("domain_need", "How urgently the domain needs something; the larger the earlier it is served.", LABELS,
        |views, sink| all(views, sink, |domain| domain.row.need)),
    gauge("domain_memory_current_bytes", "Memory that the domain has now.", LABELS, |views, sink| {
        all(views, sink, |domain| bytes(domain.row.memory_current_kib));
    }),
    gauge("domain_memory_maximum_bytes", "Most memory that the domain can have without a restart.", LABELS,
        |views, sink| all(views, sink, |domain| bytes(Some(domain.row.memory_maximum_kib)))),
    gauge("domain_memory_usable_bytes", "Memory that the guest can still use without swapping, as its balloon driver reports.",
        LABELS, |views, sink| all(views, sink, |domain| bytes(domain.balloon.as_ref()?.usable_kib))),
    gauge("domain_cpu_shares", "CPU weight now.", LABELS, |views, sink| {
        all(views, sink, |domain| domain.row.cpu_shares.current.map(number));
    }),
    gauge("domain_cpu_shares_original", "CPU weight before kvmpilot first changed it.", LABELS, |views, sink| {
        all(views, sink, |domain| domain.row.cpu_shares.original.map(number));
    }),
    gauge("domain_network_received_bytes_per_second", "Bytes that the guest receives, over the last window.", LABELS,
        |views, sink| all(views, sink, |domain| domain.row.network.received_bytes_per_s)),
    gauge("domain_network_sent_bytes_per_second", "Bytes that the guest sends, over the last window.", LABELS,
        |views, sink| all(views, sink, |domain| domain.row.network.sent_bytes_per_s)),
    gauge("domain_agent_usable", "Whether the guest's agent does what kvmpilot needs.", LABELS, |views, sink| {
        all(views, sink, |domain| Some(truth(domain.row.agent.usable)));
    }),
    gauge("domain_cycles_off_optimum", "Cycles in a row in which the domain was off its optimum.", LABELS,
        |views, sink| all(views, sink, |domain| Some(f64::from(domain.row.cycles_off_optimum)))),
    gauge("domain_quarantined", "Whether nothing is asked of the domain and nothing is changed on it.", LABELS,
        |views, sink| all(views, sink, |domain| Some(truth(domain.row.quarantine.is_some())))),
    gauge("domain_steal_ratio",
        "Time that vcpus of the domain waited for a pcpu while the runner had it, as a share of the window for each vcpu: the \
         host, another domain, the domain itself (own), or unknown.",
        &["domain", "uuid", "runner"], steal),
];

/// Calls `then` for each domain with its name and UUID.
pub(super) fn each(views: &Views, mut then: impl FnMut([&str; 2], &DomainDetailView)) {
    for domain in &views.domains {
        let mut buffer = [0; Hyphenated::LENGTH];
        let uuid = domain.row.uuid.hyphenated().encode_lower(&mut buffer);
        then([&domain.row.name, uuid], domain);
    }
}

/// A series for each domain whose value is known.
fn all(views: &Views, sink: &mut Sink<'_>, value: fn(&DomainDetailView) -> Option<f64>) {
    each(views, |labels, domain| some(sink, &labels, value(domain)));
}

fn info(views: &Views, sink: &mut Sink<'_>) {
    each(views, |[name, uuid], DomainDetailView { row, .. }| {
        let modes = row.modes;
        let source = match row.class_source {
            ClassSource::Configured => "configured",
            ClassSource::Rule => "rule",
            ClassSource::Inferred => "inferred",
        };
        let may = [modes.ladder, modes.weight, modes.placement, modes.balloon].map(Mode::as_str);
        let [ladder, weight, placement, balloon] = may;
        let class = row.class.as_str();
        some(sink, &[name, uuid, class, source, &row.accel, ladder, weight, placement, balloon], 1.0);
    });
}

const fn state(state: DomainState) -> &'static str {
    match state {
        DomainState::Running => "running",
        DomainState::Paused => "paused",
        DomainState::ShuttingDown => "shutting_down",
        DomainState::ShutOff => "shut_off",
        DomainState::Crashed => "crashed",
        DomainState::Suspended => "suspended",
        DomainState::Unknown => "unknown",
    }
}

/// All four runners of each row, so that a rate does not begin in the middle.
fn steal(views: &Views, sink: &mut Sink<'_>) {
    for row in &views.steal.domains {
        let mut buffer = [0; Hyphenated::LENGTH];
        let uuid = row.uuid.hyphenated().encode_lower(&mut buffer);
        for (runner, ratio) in shares(row) {
            some(sink, &[&row.domain, uuid, runner], ratio);
        }
    }
}

fn shares(row: &DomainStealView) -> [(&'static str, f64); 4] {
    let sum = |is: &dyn Fn(&StealPartView) -> bool| {
        row.by.iter().filter(|part| is(part)).map(|part| part.window_ratio).sum::<f64>()
    };
    let domain = |part: &StealPartView| part.runner == RunnerKind::Domain;
    let own = |part: &StealPartView| domain(part) && part.uuid == Some(row.uuid);
    [
        ("host", sum(&|part| part.runner == RunnerKind::Host)),
        ("domain", sum(&|part| domain(part) && !own(part))),
        ("own", sum(&own)),
        ("unknown", sum(&|part| part.runner == RunnerKind::Unknown)),
    ]
}
