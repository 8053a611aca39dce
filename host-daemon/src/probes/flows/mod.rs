//! Tier 3: who talks to whom, and how much. Loads the flow probes once for each domain, keeps them on exactly its taps,
//! and reads what they counted. Whose process a flow is, is the model's business.

mod batch;
mod books;
mod clsact;
mod instance;
mod socket_offsets;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::time::Duration;

use aya::programs::{ProgramError, SchedClassifier, loaded_programs};
use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{FlowsSample, ProgramSample, Traffic};
use kvmpilot_ebpf_common::flow::{Flow, FlowKey};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::time::{ClockId, clock_gettime};

use super::error::ProbeError;
use batch::Entries;
use instance::{Instance, PROGRAMS};
use sockets::Sockets;

/// How the programs are attached to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hook {
    /// Not known yet: the first device shows it.
    #[default]
    Unknown,
    /// By tcx links (Linux 6.6), which go with the daemon whatever ends it.
    Tcx,
    /// By filters of a clsact qdisc.
    Clsact,
}

/// How to watch.
#[derive(Clone, Copy, Debug)]
pub struct FlowOptions {
    /// Flows that are remembered for each domain.
    pub max_per_domain: u32,
    /// The kernel is locked down to `confidentiality`.
    pub confidential: bool,
    /// How to attach; [`Hook::Unknown`] finds out.
    pub hook: Hook,
    /// Count sockets at functions of the kernel, as kernels before 6.3 want it.
    pub without_tracepoints: bool,
    /// Read tables entry by entry, as kernels before 5.6 want it.
    pub without_batches: bool,
}

/// What to watch of one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainNetwork {
    /// Host names of its taps.
    pub taps: BTreeSet<String>,
    /// Processes whose sockets stand for the guest: QEMU, if it has user-mode networking.
    pub processes: BTreeSet<u32>,
}

/// Why a domain's flows are not all seen.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// The programs could not be attached to a device.
    #[error("the flows of {device} are not seen: the probes cannot be attached")]
    Attach {
        /// The device.
        device: String,
        /// Why.
        #[source]
        source: ProgramError,
    },
    /// The programs could not be loaded once more.
    #[error("the flows of domain {domain} are not seen")]
    Load {
        /// The domain.
        domain: Uuid,
        /// Why.
        #[source]
        source: ProbeError,
    },
    /// The socket probes could not be loaded, or not told about a process.
    #[error("the sockets of guests with user-mode networking are not seen")]
    Sockets(#[source] Box<dyn Error + Send + Sync>),
    /// A table could not be read.
    #[error("the flows of domain {domain} cannot be read")]
    Read {
        /// The domain.
        domain: Uuid,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl FlowError {
    /// The error and its sources on one line.
    #[must_use]
    pub fn words(&self) -> String {
        std::iter::successors(self.source(), |error| (**error).source())
            .fold(self.to_string(), |text, source| format!("{text}: {source}"))
    }
}

/// The flow probes of all domains. Dropping them detaches everything.
pub struct FlowProbes {
    options: FlowOptions,
    hook: Hook,
    enabled: bool,
    domains: BTreeMap<Uuid, Instance>,
    /// Domains whose probes could not be loaded, and why: tried once each.
    refused: BTreeMap<Uuid, String>,
    /// Loaded when the first domain with user-mode networking comes.
    sockets: Option<Sockets>,
    /// Why they are not loaded: tried once.
    sockets_refused: Option<String>,
    /// Processes by domain.
    processes: BTreeMap<Uuid, BTreeSet<u32>>,
    entries: Entries<FlowKey, Flow>,
    /// What domains moved that are gone.
    past: Traffic,
}

impl fmt::Debug for FlowProbes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowProbes")
            .field("hook", &self.hook)
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}

impl FlowProbes {
    /// Finds out whether the kernel takes the programs, by loading them for nobody.
    ///
    /// # Errors
    /// The reason why the daemon has to work without them.
    pub fn new(options: FlowOptions) -> Result<Self, ProbeError> {
        // Before 5.11 the kernel charged maps to this limit; failing here means failing there, with an error.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        drop(Instance::load(options.max_per_domain, options.confidential, Duration::ZERO)?);
        let capacity = usize::try_from(options.max_per_domain).unwrap_or(usize::MAX);
        Ok(Self {
            options,
            hook: options.hook,
            enabled: true,
            domains: BTreeMap::new(),
            refused: BTreeMap::new(),
            sockets: None,
            sockets_refused: None,
            processes: BTreeMap::new(),
            // An LRU map may hold a few more for a moment: each pcpu keeps some free ones to itself.
            entries: Entries::new(capacity.saturating_mul(2), options.without_batches),
            past: Traffic::default(),
        })
    }

    /// Detaches and forgets everything, or begins anew at the next [`Self::follow`].
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
        if !enabled {
            std::mem::take(&mut self.domains).into_values().for_each(|domain| self.bury(&domain));
            self.refused.clear();
            self.follow_sockets(BTreeMap::new(), Duration::ZERO);
            self.sockets_refused = None;
        }
    }

    /// Watches exactly these domains from now on, `now` being a point on any clock that only goes forward. Devices that
    /// do not exist are passed over: they may come.
    pub fn follow(&mut self, wanted: &BTreeMap<Uuid, DomainNetwork>, now: Duration) -> Vec<FlowError> {
        if !self.enabled {
            return Vec::new();
        }
        let watched = |uuid: &Uuid| wanted.get(uuid).is_some_and(|network| !network.taps.is_empty());
        let gone: Vec<Uuid> = self.domains.keys().filter(|uuid| !watched(uuid)).copied().collect();
        for uuid in gone {
            if let Some(domain) = self.domains.remove(&uuid) {
                self.bury(&domain);
            }
        }
        self.refused.retain(|uuid, _| watched(uuid));
        let mut errors = Vec::new();
        for (uuid, network) in wanted.iter().filter(|(uuid, _)| watched(uuid)) {
            if self.refused.contains_key(uuid) {
                continue;
            }
            if !self.domains.contains_key(uuid) {
                match Instance::load(self.options.max_per_domain, self.options.confidential, now) {
                    Ok(instance) => {
                        self.domains.insert(*uuid, instance);
                    }
                    Err(source) => {
                        let error = FlowError::Load { domain: *uuid, source };
                        self.refused.insert(*uuid, error.words());
                        errors.push(error);
                    }
                }
            }
            if let Some(instance) = self.domains.get_mut(uuid) {
                errors.extend(instance.follow(&network.taps, &mut self.hook));
            }
        }
        let with_sockets = wanted.iter().filter(|(_, network)| !network.processes.is_empty());
        let processes = with_sockets.map(|(uuid, network)| (*uuid, network.processes.clone())).collect();
        errors.extend(self.follow_sockets(processes, now));
        errors
    }

    /// Counts at the sockets of exactly these processes; without any, the programs are detached.
    fn follow_sockets(
        &mut self,
        processes: BTreeMap<Uuid, BTreeSet<u32>>,
        now: Duration,
    ) -> Option<FlowError> {
        self.processes = processes;
        if self.processes.is_empty() {
            self.sockets = None;
            return None;
        }
        if self.sockets.is_none() && self.sockets_refused.is_none() {
            let FlowOptions { max_per_domain, confidential, without_tracepoints, .. } = self.options;
            match Sockets::load(max_per_domain, confidential, without_tracepoints) {
                Ok(sockets) => self.sockets = Some(sockets),
                Err(error) => {
                    let error = FlowError::Sockets(error.into());
                    self.sockets_refused = Some(error.words());
                    return Some(error);
                }
            }
        }
        let all = self.processes.values().flatten().copied().collect();
        self.sockets.as_mut()?.follow(&all, now).err().map(|error| FlowError::Sockets(error.into()))
    }

    fn bury(&mut self, domain: &Instance) {
        self.past = self.past.plus(domain.moved());
    }

    /// Domains that are watched, with the flows that are in their tables, as far as it can be told without reading them:
    /// those of the last reading and those made since.
    pub fn domains(&self) -> impl Iterator<Item = (Uuid, usize)> + '_ {
        let without_taps = self.processes.keys().filter(|uuid| !self.domains.contains_key(uuid));
        let taps = self.domains.iter().map(|(uuid, instance)| (*uuid, instance.len()));
        taps.chain(without_taps.filter(|_| self.sockets.is_some()).map(|uuid| (*uuid, 0)))
    }

    /// Reads the sockets of all domains.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn read_sockets(&mut self, now: Duration) -> Result<(), FlowError> {
        let Some(sockets) = &mut self.sockets else { return Ok(()) };
        sockets.read(&mut self.entries, now).map_err(|error| FlowError::Sockets(error.into()))
    }

    /// Reads the table of one domain and deletes from it what has ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn read(&mut self, domain: Uuid, now: Duration) -> Result<(), FlowError> {
        let Some(instance) = self.domains.get_mut(&domain) else { return Ok(()) };
        instance.read(&mut self.entries, now).map_err(|source| FlowError::Read { domain, source })
    }

    /// What the last [`Self::read`] of a domain found.
    #[must_use]
    pub fn sample(&self, domain: Uuid, now: Duration) -> Option<FlowsSample> {
        let clock_ns = clock_ns();
        let taps = self.domains.get(&domain).map(|instance| instance.sample(now, clock_ns));
        let Some(sockets) = &self.sockets else { return taps };
        let Some(processes) = self.processes.get(&domain) else { return taps };
        let mut sample = taps.unwrap_or_default();
        processes.iter().for_each(|pid| sockets.add(*pid, &mut sample, now, clock_ns));
        Some(sample)
    }

    /// Why some domains or devices are not watched, in words.
    #[must_use]
    pub fn trouble(&self) -> Vec<String> {
        let devices = self.domains.values().flat_map(Instance::trouble);
        self.refused.values().chain(devices).chain(&self.sockets_refused).cloned().collect()
    }

    /// How the programs are attached.
    #[must_use]
    pub const fn hook(&self) -> Hook {
        self.hook
    }

    /// The programs; each packet is a run. What a run takes is not known here: see [`run_times`](super::run_times).
    #[must_use]
    pub fn programs(&self) -> Vec<ProgramSample> {
        let attached = self.domains.values().map(Instance::attached).sum::<usize>();
        let moved = self.domains.values().map(Instance::moved).fold(self.past, Traffic::plus);
        let runs = [moved.sent_packets, moved.received_packets];
        let of_taps = PROGRAMS.iter().zip(runs).map(|((name, _), runs)| (*name, attached, Some(runs)));
        // They run at every call of every process, and do not count those.
        let of_sockets = self.sockets.iter().flat_map(Sockets::programs).map(|name| (*name, 1, None));
        of_taps
            .chain(of_sockets)
            .map(|(name, attached, runs)| ProgramSample {
                name: name.to_owned(),
                tier: 3,
                attached: u32::try_from(attached).unwrap_or(u32::MAX),
                runs,
                ns_per_run: None,
            })
            .collect()
    }
}

/// The clock of `bpf_ktime_get_ns`.
fn clock_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
}

/// Names of our programs on a device (by tcx), and how many of them the kernel holds at all: what is left behind shows
/// here.
///
/// # Errors
/// When the kernel does not tell.
pub fn remains(device: &str) -> Result<(Vec<String>, usize), ProgramError> {
    let ours = |name: &str| PROGRAMS.iter().any(|(program, _)| *program == name);
    let mut attached = Vec::new();
    for (_, kind) in PROGRAMS {
        let (_, programs) = SchedClassifier::query_tcx(device, kind)?;
        attached.extend(programs.iter().filter_map(|program| program.name_as_str().map(str::to_owned)));
    }
    attached.retain(|name| ours(name));
    // A program may go while we look.
    let loaded = loaded_programs().flatten().filter(|program| program.name_as_str().is_some_and(ours));
    Ok((attached, loaded.count()))
}
