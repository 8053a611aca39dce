//! Reading: one domain, and single values for read-back.

use kvmpilot_core::CpuSet;
use kvmpilot_core::sample::{DomainSample, DomainState, InterfaceSample, IothreadSample, Job, VcpuSample};
use uuid::Uuid;
use virt::domain::{Domain, DomainInfo, DomainState as State};

use super::error::{Error, ErrorKind};
use super::session::Session;
use super::{Libvirt, ffi};

/// A domain and what could not be read of it.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainReading {
    /// The reading. Empty here, the kernel gateway's to fill: `qemu_pid`, `threads`, the counters of `interfaces`; and
    /// `balloon` and `disks`, which [`Libvirt::read_balloon`] and [`Libvirt::read_disks`] read.
    pub sample: DomainSample,
    /// libvirt's number of this run of the domain.
    pub run: Option<u32>,
    /// What failed; the fields concerned are empty.
    pub missing: Vec<Error>,
}

impl Libvirt {
    /// pcpus of the host, the offline ones too.
    ///
    /// # Errors
    /// When libvirt cannot be asked.
    pub async fn host_pcpus(&self) -> Result<u32, Error> {
        self.read("number of pcpus", None, |session| Ok(session.pcpus)).await
    }

    /// Everything about a domain that needs no answer of its QEMU: six calls of 0.1 ms, one more where its XML is not known,
    /// and one that QEMU answers where it has iothreads.
    ///
    /// # Errors
    /// When the domain is gone or libvirt cannot be asked. What a living domain does not tell is in
    /// [`DomainReading::missing`] instead.
    pub async fn read_domain(&self, uuid: Uuid) -> Result<DomainReading, Error> {
        let (sample, run, missing) =
            self.read("reading", Some(uuid), move |session| read_domain(session, uuid)).await?;
        let missing = missing
            .into_iter()
            .map(|(call, kind)| Error { call, domain: Some(sample.name.clone()), kind })
            .collect();
        Ok(DomainReading { sample, run, missing })
    }

    /// The live CPU weight.
    ///
    /// # Errors
    /// When the domain is gone, has no weight, or libvirt cannot be asked.
    pub async fn cpu_shares(&self, uuid: Uuid) -> Result<u64, Error> {
        self.read("cpu_shares", Some(uuid), move |session| cpu_shares(&session.domain(uuid)?, session.live))
            .await
    }

    /// The live pins of the online vcpus.
    ///
    /// # Errors
    /// When the domain is gone or libvirt cannot be asked.
    pub async fn vcpu_pins(&self, uuid: Uuid) -> Result<Vec<VcpuSample>, Error> {
        self.read("vcpu pins", Some(uuid), move |session| {
            let domain = session.domain(uuid)?;
            let online = online_vcpus(session, &domain, uuid, &domain.info()?)?;
            vcpus(session, &domain, &online)
        })
        .await
    }

    /// The live pin of the emulator threads.
    ///
    /// # Errors
    /// When the domain is gone or libvirt cannot be asked.
    pub async fn emulator_pin(&self, uuid: Uuid) -> Result<CpuSet, Error> {
        self.read("emulator pin", Some(uuid), move |session| {
            ffi::emulator_pin(&session.domain(uuid)?, session.pcpus, session.live)
        })
        .await
    }

    /// The live pins of the iothreads.
    ///
    /// # Errors
    /// When the domain is gone or libvirt cannot be asked.
    pub async fn iothread_pins(&self, uuid: Uuid) -> Result<Vec<IothreadSample>, Error> {
        self.read("iothread pins", Some(uuid), move |session| iothreads(session, &session.domain(uuid)?))
            .await
    }

    /// Whether this life of the domain began with its stored configuration, and not with what it had in an earlier life:
    /// one that comes from a file, a snapshot or another host brings its weight, pins and memory with it.
    ///
    /// # Errors
    /// When the domain is gone or libvirt cannot be asked.
    pub async fn is_booted(&self, uuid: Uuid) -> Result<bool, Error> {
        self.read("state", Some(uuid), move |session| ffi::is_booted(&session.domain(uuid)?)).await
    }

    /// Whether the domain runs, or is paused.
    ///
    /// # Errors
    /// When libvirt cannot be asked.
    pub async fn is_active(&self, uuid: Uuid) -> Result<bool, Error> {
        self.read("state", Some(uuid), move |session| {
            match session.domain(uuid).and_then(|domain| Ok(domain.is_active()?)) {
                Err(ErrorKind::DomainGone) => Ok(false),
                result => result,
            }
        })
        .await
    }

    /// Whether the domain is saved to disk, in libvirt's own place, and will go on from there.
    ///
    /// # Errors
    /// When libvirt cannot be asked.
    pub async fn is_saved(&self, uuid: Uuid) -> Result<bool, Error> {
        self.read("saved image", Some(uuid), move |session| {
            match session.domain(uuid).and_then(|domain| Ok(domain.has_managed_save(0)?)) {
                Err(ErrorKind::DomainGone) => Ok(false),
                result => result,
            }
        })
        .await
    }

    /// The migration, backup or snapshot that is under way.
    ///
    /// # Errors
    /// When the domain is gone or libvirt cannot be asked.
    pub async fn job(&self, uuid: Uuid) -> Result<Option<Job>, Error> {
        self.read("job", Some(uuid), move |session| ffi::job(&session.domain(uuid)?)).await
    }
}

type Reading = (DomainSample, Option<u32>, Vec<(&'static str, ErrorKind)>);

fn read_domain(session: &Session, uuid: Uuid) -> Result<Reading, ErrorKind> {
    let domain = session.look_up(uuid)?;
    let info = domain.info()?;
    let facts = session.link.cache.facts(uuid, || domain.xml_desc(0).map_err(ErrorKind::from))?;
    let online = online_vcpus(session, &domain, uuid, &info)?;
    let mut missing = Vec::new();
    let mut sample = DomainSample {
        uuid,
        name: domain.name()?,
        state: state(&info),
        accel: facts.accel.clone(),
        qemu_pid: None,
        vcpus: online.iter().map(|number| VcpuSample { number: *number, pin: None }).collect(),
        emulator_pin: None,
        iothreads: Vec::new(),
        placement_refusal: facts.tuning.placement_refusal.clone(),
        weight_refusal: facts.tuning.weight_refusal.clone(),
        memory_nodes: facts.tuning.memory_nodes.clone(),
        memory_by_node: Vec::new(),
        cpu_shares: None,
        memory_maximum_kib: info.max_mem,
        balloon: None,
        balloon_refusal: facts.balloon_refusal.clone(),
        os: facts.os.clone(),
        agent_connected: facts.agent_connected,
        job_active: false,
        job: None,
        quarantine: None,
        interfaces: facts
            .taps
            .iter()
            .map(|tap| InterfaceSample { device: tap.clone(), ..InterfaceSample::default() })
            .collect(),
        user_networking: facts.user_networking,
        disks: Vec::new(),
        policy: facts.policy.clone(),
        threads: Vec::new(),
        detail: None,
    };
    let mut note = |call, kind| match kind {
        // It went away between two calls: half a sample helps nobody.
        ErrorKind::DomainGone | ErrorKind::NotConnected(_) => Err(kind),
        kind => {
            missing.push((call, kind));
            Ok(())
        }
    };
    match vcpus(session, &domain, &online) {
        Ok(vcpus) => sample.vcpus = vcpus,
        Err(kind) => note("vcpu pins", kind)?,
    }
    match ffi::emulator_pin(&domain, session.pcpus, session.live) {
        Ok(pin) => sample.emulator_pin = Some(pin),
        Err(kind) => note("emulator pin", kind)?,
    }
    // Asks QEMU, so only where there are any.
    if facts.iothreads > 0 {
        match iothreads(session, &domain) {
            Ok(iothreads) => sample.iothreads = iothreads,
            Err(kind) => note("iothread pins", kind)?,
        }
    }
    match cpu_shares(&domain, session.live) {
        Ok(shares) => sample.cpu_shares = Some(shares),
        Err(kind) => note("cpu_shares", kind)?,
    }
    match ffi::job(&domain) {
        Ok(job) => (sample.job_active, sample.job) = (job.is_some(), job),
        Err(kind) => note("job", kind)?,
    }
    Ok((sample, domain.id(), missing))
}

fn cpu_shares(domain: &Domain, live: u32) -> Result<u64, ErrorKind> {
    domain
        .scheduler_parameters_flags(live)?
        .cpu_shares
        .ok_or_else(|| ErrorKind::Unsupported("no cpu_shares: is the cpu controller missing?".to_owned()))
}

/// The online vcpus, from the cached XML while its number of them is right.
fn online_vcpus(
    session: &Session,
    domain: &Domain,
    uuid: Uuid,
    info: &DomainInfo,
) -> Result<Vec<u32>, ErrorKind> {
    let xml = || domain.xml_desc(0).map_err(ErrorKind::from);
    let facts = session.link.cache.facts(uuid, xml)?;
    if u32::try_from(facts.vcpus.len()) == Ok(info.nr_virt_cpu) {
        return Ok(facts.vcpus.clone());
    }
    // Plugging a vcpu has no event of its own.
    session.link.cache.forget(uuid);
    Ok(session.link.cache.facts(uuid, xml)?.vcpus.clone())
}

fn vcpus(session: &Session, domain: &Domain, online: &[u32]) -> Result<Vec<VcpuSample>, ErrorKind> {
    let highest = online.iter().max().map_or(0, |number| number + 1);
    let pins = ffi::vcpu_pins(domain, highest, session.pcpus, session.live)?;
    let pin = |number: u32| usize::try_from(number).ok().and_then(|at| pins.get(at).cloned());
    Ok(online.iter().map(|number| VcpuSample { number: *number, pin: pin(*number) }).collect())
}

fn iothreads(session: &Session, domain: &Domain) -> Result<Vec<IothreadSample>, ErrorKind> {
    let pins = ffi::iothread_pins(domain, session.pcpus, session.live)?;
    Ok(pins.into_iter().map(|(number, pin)| IothreadSample { number, pin: Some(pin) }).collect())
}

fn state(info: &DomainInfo) -> DomainState {
    match info.state.unwrap_or(State::NoState) {
        State::Running | State::Blocked => DomainState::Running,
        State::Paused => DomainState::Paused,
        State::Shutdown => DomainState::ShuttingDown,
        State::Shutoff => DomainState::ShutOff,
        State::Crashed => DomainState::Crashed,
        State::PMSuspended => DomainState::Suspended,
        State::NoState => DomainState::Unknown,
    }
}
