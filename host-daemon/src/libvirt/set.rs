//! Changing the live domain, never its stored configuration. Callers read back: libvirt's "ok" is not proof.

use kvmpilot_core::CpuSet;
use uuid::Uuid;
use virt::domain::SchedulerInfo;
use virt::sys;

use super::error::{Error, ErrorKind};
use super::session::Session;
use super::{Libvirt, ffi};

impl Libvirt {
    /// Sets the CPU weight: 2 to 262144 on cgroup v1, 1 to 10000 on v2.
    ///
    /// # Errors
    /// When libvirt refuses or cannot be asked. After [`ErrorKind::Deadline`] with `started` the value may still change.
    pub async fn set_cpu_shares(&self, uuid: Uuid, shares: u64) -> Result<(), Error> {
        self.set("setting cpu_shares", uuid, move |session| {
            let only_shares = SchedulerInfo { cpu_shares: Some(shares), ..SchedulerInfo::default() };
            Ok(session.domain(uuid)?.set_scheduler_parameters_flags(&only_shares, session.live)?)
        })
        .await
    }

    /// Sets the pcpus that a vcpu may run on.
    ///
    /// # Errors
    /// As [`Self::set_cpu_shares`]; also for an empty set and for pcpus that the host does not have.
    pub async fn pin_vcpu(&self, uuid: Uuid, vcpu: u32, pcpus: &CpuSet) -> Result<(), Error> {
        let pcpus = pcpus.clone();
        self.set("pinning a vcpu", uuid, move |session| {
            let map = cpumap(session, &pcpus)?;
            Ok(session.domain(uuid)?.pin_vcpu_flags(vcpu, &map, session.live)?)
        })
        .await
    }

    /// Sets the pcpus that the emulator threads may run on.
    ///
    /// # Errors
    /// As [`Self::pin_vcpu`].
    pub async fn pin_emulator(&self, uuid: Uuid, pcpus: &CpuSet) -> Result<(), Error> {
        let pcpus = pcpus.clone();
        self.set("pinning the emulator", uuid, move |session| {
            let map = cpumap(session, &pcpus)?;
            Ok(session.domain(uuid)?.pin_emulator(&map, session.live)?)
        })
        .await
    }

    /// Sets the pcpus that an iothread may run on.
    ///
    /// # Errors
    /// As [`Self::pin_vcpu`].
    pub async fn pin_iothread(&self, uuid: Uuid, iothread: u32, pcpus: &CpuSet) -> Result<(), Error> {
        let pcpus = pcpus.clone();
        self.set("pinning an iothread", uuid, move |session| {
            let map = cpumap(session, &pcpus)?;
            ffi::pin_iothread(&session.domain(uuid)?, iothread, map, session.live)
        })
        .await
    }

    /// Sets the balloon's target. The guest follows in its own time, or not at all.
    ///
    /// # Errors
    /// As [`Self::set_cpu_shares`]; also for more than the domain's maximum.
    pub async fn set_balloon(&self, uuid: Uuid, kib: u64) -> Result<(), Error> {
        self.set("setting the balloon", uuid, move |session| {
            Ok(session.domain(uuid)?.set_memory_flags(kib, sys::VIR_DOMAIN_AFFECT_LIVE)?)
        })
        .await
    }

    async fn set<F>(&self, call: &'static str, domain: Uuid, work: F) -> Result<(), Error>
    where
        F: FnOnce(&Session) -> Result<(), ErrorKind> + Send + 'static,
    {
        self.run(&self.0.calls, call, Some(domain), self.0.options.set_deadline, work).await
    }
}

/// libvirt would silently drop pcpus beyond the host's and fail obscurely on an empty map.
fn cpumap(session: &Session, pcpus: &CpuSet) -> Result<Vec<u8>, ErrorKind> {
    if pcpus.is_empty() || !pcpus.is_subset(&CpuSet::first(session.pcpus)) {
        let host = session.pcpus;
        return Err(ErrorKind::Invalid(format!("pcpus \"{pcpus}\" on a host that has {host}")));
    }
    Ok(pcpus.to_cpumap(session.pcpus))
}
