//! [`HostDetailView`]: the host and its pcpus.

use kvmpilot_core::units::KiB;

use super::{Scene, status};
use crate::api::views::{HostDetailView, PcpuView, PlacedVcpuView, VcpusView, Views};

pub(super) fn host(scene: &Scene<'_>) -> HostDetailView {
    let (host, topology) = (&scene.model.host, &scene.model.topology);
    let set_aside = topology.set_aside();
    let pcpus = topology.pcpus.iter().map(|pcpu| PcpuView {
        number: pcpu.id,
        core: pcpu.core,
        package: pcpu.socket,
        llc: pcpu.llc,
        node: pcpu.node,
        busy_ratio: host.pcpus.iter().find(|other| other.id == pcpu.id).and_then(|found| Some(found.busy?.0)),
        set_aside: set_aside.contains(pcpu.id),
    });
    HostDetailView {
        name: scene.host_name.to_owned(),
        kernel: scene.kernel_release.to_owned(),
        addresses: scene.addresses.to_vec(),
        pcpus: pcpus.collect(),
        memory_total_kib: host.memory_total.map(|KiB(kib)| kib),
        memory_available_kib: host.memory_available.map(|KiB(kib)| kib),
        pressure: status::pressure(host),
    }
}

/// The vcpus of all domains.
#[must_use]
pub fn vcpus(views: &Views) -> VcpusView {
    let placed = views.domains.iter().flat_map(|domain| {
        domain.vcpus.iter().map(|vcpu| PlacedVcpuView {
            domain: domain.row.name.clone(),
            uuid: domain.row.uuid,
            number: vcpu.number,
            pcpu: vcpu.pcpu,
            pin: vcpu.pin.clone(),
            run_ratio: vcpu.run_ratio,
            wait_ratio: vcpu.wait_ratio,
        })
    });
    VcpusView { vcpus: placed.collect() }
}
