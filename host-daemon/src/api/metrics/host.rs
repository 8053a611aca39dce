//! Of the host and of libvirt.

use super::{Family, bytes, gauge, number, one, ratio, some, truth};

pub(super) const FAMILIES: &[Family] = &[
    gauge("host_info", "Constant 1: the kernel's release.", &["kernel"], |views, sink| {
        some(sink, &[&views.status.host.kernel], 1.0);
    }),
    gauge("host_pcpus", "Online pcpus.", &[], |views, sink| {
        one(sink, f64::from(views.status.host.pcpus));
    }),
    gauge("host_memory_size_bytes", "Memory of the host.", &[], |views, sink| {
        one(sink, bytes(views.status.host.memory_total_kib));
    }),
    gauge(
        "host_memory_available_bytes",
        "Memory that new work could have without swapping.",
        &[],
        |views, sink| {
            one(sink, bytes(views.status.host.memory_available_kib));
        },
    ),
    gauge(
        "host_pressure_ratio",
        "Share of the last ten seconds in which some task waited for the resource (PSI, some avg10).",
        &["resource"],
        |views, sink| {
            let pressure = &views.status.host.pressure;
            some(sink, &["cpu"], ratio(pressure.cpu_some_avg10_percent));
            some(sink, &["memory"], ratio(pressure.memory_some_avg10_percent));
            some(sink, &["io"], ratio(pressure.io_some_avg10_percent));
        },
    ),
    gauge("libvirt_connected", "Whether there is a connection to libvirt.", &[], |views, sink| {
        one(sink, truth(views.status.libvirt.connected));
    }),
    gauge("domains_running", "Running domains.", &[], |views, sink| {
        one(sink, f64::from(views.status.domains.running));
    }),
    gauge(
        "domains_managed",
        "Running domains for which at least one actuator may do more than observe.",
        &[],
        |views, sink| one(sink, f64::from(views.status.domains.managed)),
    ),
    gauge("domains_quarantined", "Domains in quarantine.", &[], |views, sink| {
        let quarantined = views.domains.iter().filter(|domain| domain.row.quarantine.is_some()).count();
        one(sink, number(u64::try_from(quarantined).unwrap_or(u64::MAX)));
    }),
];
