//! What the daemon would read of the toy host now: the same sample that its gateways make of a real one.

use std::sync::Arc;

use super::balance::Machine;
use super::host::{Domain, Host, NS};
use super::memory::{count, kib};
use super::queue::Vcpu;
use crate::Uuid;
use crate::sample::{
    DomainSample, DomainState, HostSample, InterfaceSample, MemorySample, PcpuSample, Runner, Sample,
    StolenSample, ThreadRole, ThreadSample, ThreadSource, VcpuSample,
};

impl Host {
    /// `detail` as in the daemon: with histograms and rows of the steal matrix.
    pub(super) fn sample(&self, detail: bool) -> Sample {
        let there: Vec<(usize, &Domain)> =
            self.domains.iter().enumerate().filter(|(_, domain)| domain.was_there).collect();
        let used: f64 = there.iter().map(|(_, domain)| domain.memory.current).sum();
        #[expect(clippy::cast_precision_loss, reason = "2^53 is more than any time or memory here")]
        let (second, total) = (self.second as f64, self.memory_mib as f64);
        let memory = MemorySample { total_kib: kib(total), available_kib: kib((total - used).max(0.0)) };
        let uuids: Vec<Uuid> = self.domains.iter().map(|domain| domain.uuid).collect();
        let pcpus = self.topology.pcpus.iter().zip(&self.machine.pcpus).map(|(facts, pcpu)| PcpuSample {
            id: facts.id,
            busy_ns: count(pcpu.busy),
            idle_ns: count((second * NS - pcpu.busy).max(0.0)),
        });
        Sample {
            host: HostSample { memory: Some(memory), pcpus: pcpus.collect(), ..HostSample::default() },
            topology: self.topology.clone(),
            domains: there
                .into_iter()
                .map(|(_, domain)| domain.sample(&self.machine, &uuids, detail))
                .collect(),
            ..Sample::default()
        }
    }
}

impl Domain {
    fn sample(&self, machine: &Machine, uuids: &[Uuid], detail: bool) -> DomainSample {
        // Ids that nobody else has.
        let pid = u32::try_from(self.uuid.as_u128() % (1 << 20)).unwrap_or(0) << 10;
        let thread = |tid, role| ThreadSample {
            tid,
            tgid: pid,
            start_ticks: 1,
            role,
            comm: Arc::clone(&self.name),
            source: ThreadSource::Probe,
            on_cpu_ns: 0,
            runq_wait_ns: 0,
            runq_wait_max_ns: None,
            runq_wait_histogram: None,
            switches_preempted: None,
            switches_blocked: None,
            migrations: None,
            migrations_llc: None,
            migrations_node: None,
            stolen: None,
            pcpu: None,
        };
        let row = |vcpu: &Vcpu| -> Arc<[StolenSample]> {
            let cell =
                |(by, ns): &(usize, f64)| StolenSample { by: Runner::Domain(uuids[*by]), ns: count(*ns) };
            vcpu.stolen.iter().map(cell).collect()
        };
        let [moves, out_of_cache, out_of_node] = [0, 1, 2];
        let of_vcpu = |(number, vcpu): (u32, &Vcpu)| ThreadSample {
            on_cpu_ns: count(vcpu.ran),
            runq_wait_ns: count(vcpu.waited),
            runq_wait_histogram: detail.then(|| Arc::from(vcpu.histogram.as_slice())),
            switches_preempted: Some(vcpu.preempted),
            switches_blocked: Some(vcpu.blocked),
            migrations: Some(vcpu.migrations[moves]),
            migrations_llc: Some(vcpu.migrations[out_of_cache]),
            migrations_node: Some(vcpu.migrations[out_of_node]),
            stolen: detail.then(|| row(vcpu)),
            pcpu: u32::try_from(vcpu.pcpu).ok(),
            ..thread(pid + 1 + number, ThreadRole::Vcpu(number))
        };
        let vcpus = (0..).zip(&machine.vcpus[self.first..self.first + self.pins.len()]);
        let packets = Some(count(self.packets));
        DomainSample {
            uuid: self.uuid,
            name: self.name.to_string(),
            state: DomainState::Running,
            accel: "kvm".to_owned(),
            qemu_pid: Some(pid),
            vcpus: (0..)
                .zip(&self.pins)
                .map(|(number, pin)| VcpuSample { number, pin: Some(pin.clone()) })
                .collect(),
            emulator_pin: Some(self.emulator_pin.clone()),
            iothreads: Vec::new(),
            policy: None,
            placement_refusal: None,
            weight_refusal: None,
            memory_nodes: None,
            memory_by_node: Vec::new(),
            cpu_shares: Some(self.shares),
            memory_maximum_kib: kib(self.memory.maximum),
            balloon: Some(self.memory.sample()),
            balloon_refusal: None,
            os: None,
            agent_connected: None,
            job_active: false,
            job: None,
            quarantine: None,
            interfaces: vec![InterfaceSample {
                device: format!("vnet{}", self.uuid.as_u128()),
                received_bytes: packets.map(|packets| packets * 500),
                sent_bytes: packets.map(|packets| packets * 500),
                received_packets: packets,
                sent_packets: packets,
            }],
            user_networking: false,
            disks: Vec::new(),
            threads: std::iter::once(thread(pid, ThreadRole::Emulator)).chain(vcpus.map(of_vcpu)).collect(),
            detail: None,
        }
    }
}
