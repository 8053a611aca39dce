//! What conditions are asked about: a domain in its host, maybe with one of its guest's applications, and how each field is
//! read from that. Read only when asked for.

use super::condition::Subject;
use super::fields::{Datum, Field, Kind};
use crate::decide::history::DomainHistory;
use crate::decide::{self, History, class_of, target_wait};
use crate::model::{Application, DomainModel, GuestModel, Model};
use crate::policy::{Level, Policy, ServicePolicy, service_of};
use crate::service::ServiceState;
use crate::units::KiB;

/// One domain, and one application where the rule is about these.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) model: &'a Model,
    pub(crate) domain: &'a DomainModel,
    pub(crate) application: Option<&'a Application>,
    pub(crate) policy: &'a Policy,
    pub(crate) history: &'a History,
    pub(crate) scarce: bool,
}

impl Subject for Scene<'_> {
    fn read(&self, field: &'static Field) -> Datum<'_> {
        (field.read)(self)
    }
}

impl<'a> Scene<'a> {
    fn past(&self) -> Option<&'a DomainHistory> {
        self.history.domains.get(&self.domain.uuid)
    }

    fn guest(&self) -> Option<&'a GuestModel> {
        self.domain.guest.as_ref()
    }

    /// The service of the application, or of the domain where it is about no application.
    fn service(&self) -> Option<&'a ServicePolicy> {
        let services = &self.policy.services;
        match self.application {
            Some(application) => service_of(services, self.domain, application),
            None => {
                services.iter().find(|service| service.components.iter().any(|part| part.is_in(self.domain)))
            }
        }
    }

    fn level(&self, of: fn(&decide::history::ApplicationHistory) -> Level) -> Option<Level> {
        let application = self.application?;
        let known = self.past()?.applications.get(&application.name);
        let nice = application.processes.first()?.sample.nice;
        Some(known.map_or_else(|| Level::of_nice(nice), of))
    }

    fn vcpu_parts(&self, of: fn(&crate::model::ThreadModel) -> Option<f64>) -> Option<f64> {
        self.domain.vcpus.iter().filter_map(|vcpu| of(vcpu.thread.as_ref()?)).reduce(f64::max)
    }
}

fn mib(kib: KiB) -> f64 {
    kib.as_f64() / 1024.0
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

const fn field(
    path: &'static str,
    kind: Kind,
    meaning: &'static str,
    read: for<'a> fn(&Scene<'a>) -> Datum<'a>,
) -> Field {
    Field { path, kind, meaning, read }
}

const VCPU: &[(&str, &str)] = &[
    ("number", "number of the vcpu"),
    ("run", "part of the window that it ran, 0 to 1"),
    ("wait", "part of the window that it could have run and did not, 0 to 1"),
    ("migrations_per_s", "moves between pcpus a second"),
];

use Kind::{Number, Text, Truth};

/// Every variable. Ratios are 0 to 1, memory is in MiB, times are in seconds.
#[rustfmt::skip]
pub(super) const FIELDS: &[Field] = &[
    field("host.pcpus", Number, "pcpus of the host", |s| count(s.model.host.pcpus.len()).into()),
    field("host.busy", Number, "mean use of the pcpus", |s| {
        let busy: Vec<f64> = s.model.host.pcpus.iter().filter_map(|pcpu| Some(pcpu.busy?.0)).collect();
        (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / count(busy.len())).into()
    }),
    field("host.domains", Number, "domains", |s| count(s.model.domains.len()).into()),
    field("host.vcpus", Number, "vcpus of all domains", |s| s.model.domains.iter().map(DomainModel::vcpu_count).sum::<f64>().into()),
    field("host.cpu_pressure", Number, "part of the window in which some task waited for CPU (PSI some)", |s| s.model.host.cpu_pressure.map(|part| part.0).into()),
    field("host.memory_pressure", Number, "the same for memory", |s| s.model.host.memory_pressure.map(|part| part.0).into()),
    field("host.io_pressure", Number, "the same for I/O", |s| s.model.host.io_pressure.map(|part| part.0).into()),
    field("host.memory_total", Number, "memory of the host", |s| s.model.host.memory_total.map(mib).into()),
    field("host.memory_available", Number, "memory that can be had without swapping", |s| s.model.host.memory_available.map(mib).into()),

    field("domain.name", Text, "libvirt's name", |s| s.domain.name.as_str().into()),
    field("domain.uuid", Text, "libvirt's UUID", |s| s.domain.uuid.to_string().into()),
    field("domain.accel", Text, "virtualisation: kvm, qemu", |s| s.domain.accel.as_str().into()),
    field("domain.class", Text, "the class that counts: latency, standard, batch", |s| class_of(s.domain, s.policy, s.history).as_str().into()),
    field("domain.job_active", Truth, "a migration, backup or snapshot runs", |s| s.domain.job_active.into()),
    field("domain.agent", Truth, "libvirt sees a guest agent", |s| s.domain.agent_connected.into()),
    field("domain.weight", Number, "CPU weight (cpu_shares)", |s| {
        #[expect(clippy::cast_precision_loss, reason = "weights are below 2^18")]
        s.domain.cpu_shares.map(|shares| shares as f64).into()
    }),
    field("domain.cpu.use", Number, "CPU time of the vcpus as a part of what they could have run", |s| s.domain.cpu_use().map(|part| part.0).into()),
    field("domain.cpu.demand", Number, "pcpus that the vcpus wanted: run + wait", |s| s.domain.cpu_demand().into()),
    field("domain.cpu.wait_ratio", Number, "wait / (wait + run) over all vcpus", |s| s.domain.wait_ratio().map(|part| part.0).into()),
    field("domain.cpu.target", Number, "wait ratio that its class allows; null for batch", |s| target_wait(class_of(s.domain, s.policy, s.history), s.policy).into()),
    field("domain.cpu.waits", Truth, "it wants CPU and waits beyond its target and the dead band", |s| decide::waits_too_long(s.domain, s.policy, s.history).into()),
    field("domain.cpu.scarce", Truth, "a rule with scarce = \"cpu\" held; for process rules, false in others", |s| s.scarce.into()),
    field("domain.memory.maximum", Number, "largest memory without a restart", |s| mib(s.domain.memory_maximum).into()),
    field("domain.memory.current", Number, "memory that it has", |s| s.domain.balloon.map(|balloon| mib(balloon.current)).into()),
    field("domain.memory.usable", Number, "what the guest can still use without swapping", |s| s.domain.balloon.and_then(|balloon| balloon.usable).map(mib).into()),
    field("domain.memory.demand", Number, "what the guest needs", |s| s.domain.balloon.and_then(|balloon| s.past().map_or(balloon.demand, |past| past.memory_demand(&balloon))).map(mib).into()),
    field("domain.memory.swapped_in", Number, "swapped in during the window", |s| s.domain.balloon.and_then(|balloon| balloon.swapped_in).map(mib).into()),
    field("domain.memory.major_faults_per_s", Number, "major faults a second", |s| s.domain.balloon.and_then(|balloon| balloon.major_faults_per_s).into()),
    field("domain.memory.age", Number, "age of the guest's memory statistics", |s| s.domain.balloon.and_then(|balloon| balloon.age).map(|age| age.as_secs_f64()).into()),
    field("domain.memory.excluded", Truth, "its balloon must not be touched (VFIO, locked or huge pages, SEV/TDX)", |s| s.domain.balloon_refusal.is_some().into()),
    field("domain.network.answered_packets_per_s", Number, "packets a second in the weaker direction", |s| s.domain.conversation_packets_per_s().into()),
    field("domain.network.received_bytes_per_s", Number, "bytes a second to the guest", |s| {
        s.domain.interfaces.iter().try_fold(0.0, |sum, tap| Some(sum + tap.received_bytes_per_s?)).into()
    }),
    field("domain.network.sent_bytes_per_s", Number, "bytes a second from the guest", |s| {
        s.domain.interfaces.iter().try_fold(0.0, |sum, tap| Some(sum + tap.sent_bytes_per_s?)).into()
    }),
    field("domain.guest.vcpus", Number, "vcpus online in the guest", |s| s.guest().and_then(|guest| guest.vcpus_online).filter(|vcpus| *vcpus > 0).map(f64::from).into()),
    field("domain.guest.runnable", Number, "threads of the guest that wanted to run", |s| s.guest().and_then(|guest| guest.runnable).map(f64::from).into()),
    field("domain.guest.load1", Number, "one-minute load average of the guest", |s| s.guest().and_then(|guest| guest.load1).into()),
    field("domain.guest.busy", Number, "part of the vcpus' time that the guest was not idle", |s| s.guest().and_then(|guest| guest.busy).map(|part| part.0).into()),
    field("domain.guest.loss", Number, "what virtualisation costs, as a part of the vcpus' time", |s| s.guest().and_then(|guest| guest.virtualisation_loss).map(|part| part.0).into()),
    field("domain.guest.applications", Number, "applications in the guest", |s| s.guest().filter(|guest| guest.unread.is_none()).map(|guest| count(guest.applications.len())).into()),
    field("domain.vcpus", Kind::Records(VCPU), "the vcpus one by one, for exists() and all()", |s| {
        let record = |vcpu: &crate::model::VcpuModel| {
            let thread = vcpu.thread.as_ref();
            vec![
                ("number", Some(f64::from(vcpu.number))),
                ("run", thread.and_then(|thread| thread.run)),
                ("wait", thread.and_then(|thread| thread.wait)),
                ("migrations_per_s", thread.and_then(|thread| thread.migrations_per_s)),
            ]
        };
        Datum::Records(s.domain.vcpus.iter().map(record).collect())
    }),

    field("vcpu.count", Number, "vcpus of the domain", |s| s.domain.vcpu_count().into()),
    field("vcpu.max_run", Number, "part of the window that the busiest vcpu ran", |s| s.vcpu_parts(|thread| thread.run).into()),
    field("vcpu.max_wait", Number, "part of the window that the vcpu waited which waited most", |s| s.vcpu_parts(|thread| thread.wait).into()),
    field("vcpu.max_runq_wait_ms", Number, "longest 99th percentile of the waits before running, in ms", |s| s.vcpu_parts(|thread| Some(thread.runq_wait_p99?.as_secs_f64() * 1000.0)).into()),

    field("process.name", Text, "name of the application's first process (comm)", |s| s.application.and_then(|app| app.processes.first()).map(|process| process.sample.name.as_str()).into()),
    field("process.application", Text, "the systemd unit, or name and executable", |s| s.application.map(|app| app.name.as_str()).into()),
    field("process.unit", Text, "systemd unit", |s| s.application.and_then(|app| app.processes.first()?.sample.unit.as_deref()).into()),
    field("process.command", Text, "command line of its first process", |s| s.application.and_then(|app| app.processes.first()).map(|process| process.sample.command.as_str()).into()),
    field("process.pid", Number, "pid of its first process in the guest", |s| s.application.and_then(|app| app.processes.first()).map(|process| f64::from(process.sample.key.pid)).into()),
    field("process.uid", Number, "user id of its first process", |s| s.application.and_then(|app| app.processes.first()?.sample.uid).map(f64::from).into()),
    field("process.nice", Number, "nice value of its first process", |s| s.application.and_then(|app| app.processes.first()).map(|process| f64::from(process.sample.nice)).into()),
    field("process.count", Number, "processes that the application has", |s| s.application.map(|app| count(app.processes.len())).into()),
    field("process.cpu", Number, "vcpus that it used", |s| {
        s.application.map(|app| app.processes.iter().filter_map(|process| process.cpu).sum::<f64>()).into()
    }),
    field("process.memory", Number, "resident memory", |s| {
        #[expect(clippy::cast_precision_loss, reason = "memory in KiB is below 2^53")]
        s.application.map(|app| app.processes.iter().map(|process| process.sample.rss_kib as f64 / 1024.0).sum::<f64>()).into()
    }),
    field("process.communicates", Truth, "it was found talking to another node", |s| s.application.map(Application::communicating).into()),
    field("process.level", Text, "level: low, below_normal, normal, above_normal, high", |s| s.level(|known| known.level).map(Level::as_str).into()),
    field("process.level_original", Text, "level before kvmpilot touched it", |s| s.level(|known| known.original).map(Level::as_str).into()),

    field("service.name", Text, "service that the domain or application belongs to; null where it is in none", |s| s.service().map(|service| service.name.as_str()).into()),
    field("service.state", Text, "healthy, degraded, failed; null outside services", |s| {
        let status = s.service().and_then(|service| s.history.services.get(&service.name));
        status.map(|known| known.status.state).filter(|state| *state != ServiceState::Unknown).map(ServiceState::as_str).into()
    }),

    field("history.waiting", Number, "cycles in a row that it waited beyond its target, or was held up by a raised weight only", |s| s.past().map(|past| f64::from(past.states.waiting)).into()),
    field("history.idle_memory", Number, "cycles in a row that memory lay idle", |s| s.past().map(|past| f64::from(past.states.idle_memory)).into()),
    field("history.off_optimum", Number, "cycles in a row off the optimum, for whatever reason", |s| s.past().map(|past| f64::from(past.states.off_optimum)).into()),
    field("history.cpu_over", Number, "cycles in a row that its CPU was over and it did not wait for pcpus", |s| s.past().map(|past| f64::from(past.states.cpu_over)).into()),
    field("history.memory_over", Number, "cycles in a row that its memory was over", |s| s.past().map(|past| f64::from(past.states.memory_over)).into()),
    field("history.starved", Number, "cycles in a row that it waited beyond its target", |s| s.past().map(|past| f64::from(past.states.starved)).into()),
    field("history.cpu", Text, "state of its CPU: ok, over, under, unknown", |s| s.past().map(|past| past.states.cpu.as_str()).into()),
    field("history.memory", Text, "state of its memory: ok, over, under, unknown", |s| s.past().map(|past| past.states.memory.as_str()).into()),
    field("history.calm", Number, "seconds since it last waited near its target; 0 if it does now", |s| {
        s.past().map(|past| past.calm_since.map_or(0.0, |since| s.model.at.saturating_sub(since).as_secs_f64())).into()
    }),
    field("history.calm_wanted", Number, "seconds of calm after which weights go back: weight.relax_after, doubled each time that was too early", |s| {
        s.history.relaxing.calm(s.policy).as_secs_f64().into()
    }),
    field("history.inferred_class", Text, "class inferred from what it does", |s| s.past().map(|past| past.inferred_class().as_str()).into()),
    field("history.weight_changed", Truth, "its weight is one of kvmpilot's", |s| s.past().is_some_and(|past| past.shares.ours.is_some()).into()),
    field("history.pins_changed", Truth, "a pin of it is one of kvmpilot's", |s| s.past().is_some_and(DomainHistory::is_pinned).into()),
    field("history.pins_unneeded", Number, "cycles in a row in which pins of kvmpilot's helped nobody, if they help nobody now", |s| s.past().map(|past| f64::from(past.pin_unneeded.saturating_add(1))).into()),
    field("history.memory_changed", Truth, "its memory is as kvmpilot set it", |s| s.past().is_some_and(|past| past.balloon.ours.is_some()).into()),

    field("policy.high", Number, "state.high: above it a resource is over", |s| s.policy.state.high.into()),
    field("policy.low", Number, "state.low", |s| s.policy.state.low.into()),
    field("policy.cycles", Number, "state.cycles", |s| f64::from(s.policy.state.cycles).into()),
    field("policy.latency_target", Number, "weight.latency_target", |s| s.policy.weight.latency_target.into()),
    field("policy.standard_target", Number, "weight.standard_target", |s| s.policy.weight.standard_target.into()),
    field("policy.dead_band", Number, "weight.dead_band", |s| s.policy.weight.dead_band.into()),
    field("policy.relax_after", Number, "weight.relax_after", |s| s.policy.weight.relax_after.as_secs_f64().into()),
];
