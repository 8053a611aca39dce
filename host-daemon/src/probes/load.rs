//! Loading and attaching.

use std::fs;

use aya::maps::{Array, Map, MapData};
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use kvmpilot_ebpf_common::pcpu::{FIRST_DOMAIN, MAX_GROUPS};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::cost::PROGRAMS;
use super::cpus::Cpus;
use super::groups::Groups;
use super::offsets::{self, Offsets};
use super::rows::Rows;
use super::slots::Slots;
use super::table::Table;
use super::{Capacity, Ground, ProbeError, Probes, log, selftest};

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kvmpilot-probes"));
pub(super) const BTF: &str = "/sys/kernel/btf/vmlinux";

impl Probes {
    /// Loads the probes, attaches them, and tests them against the kernel's figures of a thread of ours. Takes some
    /// 200 ms.
    ///
    /// # Errors
    /// The reason why the daemon has to work without them, see [`ProbeError`].
    pub fn load(ground: &Ground<'_>, capacity: Capacity) -> Result<Self, ProbeError> {
        let btf = fs::read(BTF).map_err(ProbeError::NoBtf)?;
        Self::load_with(ground, capacity, &btf, &offsets::resolve(&btf)?)
    }

    /// As [`Probes::load`], with given offsets instead of resolved ones. It exists to show that wrong ones
    /// are refused.
    ///
    /// # Errors
    /// As [`Probes::load`].
    pub fn load_with(
        ground: &Ground<'_>,
        capacity: Capacity,
        btf: &[u8],
        offsets: &Offsets,
    ) -> Result<Self, ProbeError> {
        let other = |err: &str| ProbeError::Load(err.into());
        // One more for the self-test.
        let domains = capacity.domains.saturating_add(1);
        let groups = domains.saturating_add(FIRST_DOMAIN);
        let cells = capacity.threads.checked_mul(groups).filter(|_| groups <= MAX_GROUPS);
        let cells = cells.ok_or_else(|| other("max_threads times max_domains is too much"))?;
        let pcpus = aya::util::nr_cpus().map_err(|(path, err)| other(&format!("{path}: {err}")))?;
        let max_pcpus = u32::try_from(pcpus).map_err(|err| ProbeError::Load(err.into()))?;
        // Before 5.11 the kernel charged maps to this limit; failing here means failing there, with an error.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let btf = Btf::parse(btf, Endianness::default()).map_err(|err| ProbeError::Load(err.into()))?;
        let log_level = log::level();
        let has_state = u32::from(offsets.switch_has_state);
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("AYA_LOG_LEVEL", &log_level, true)
            .override_global("TASK_PID", &offsets.pid, true)
            .override_global("TASK_STATE", &offsets.state, true)
            .override_global("TASK_START", &offsets.start, true)
            .override_global("TASK_EXEC_RUNTIME", &offsets.exec_runtime, true)
            .override_global("TASK_MIGRATIONS", &offsets.migrations, true)
            .override_global("TASK_RUN_DELAY", &offsets.run_delay, true)
            .override_global("TASK_PCOUNT", &offsets.pcount, true)
            .override_global("TASK_LAST_ARRIVAL", &offsets.last_arrival, true)
            .override_global("SWITCH_HAS_STATE", &has_state, true)
            .map_max_entries("IDX", ground.pid_max)
            .map_max_entries("SLOTS", capacity.threads)
            .map_max_entries("STOLEN", cells)
            .map_max_entries("CPUS", max_pcpus)
            .load(OBJECT)
            .map_err(|err| ProbeError::sort("object", ground.confidential, err))?;
        // Before any map is taken: a program refers to maps by their open files.
        for name in PROGRAMS {
            attach(&mut ebpf, name, &btf).map_err(|err| ProbeError::sort(name, ground.confidential, err))?;
        }
        let index = take_map(&mut ebpf, "IDX")?;
        let errno = |err: nix::Error| ProbeError::Load(err.into());
        let threads = usize::try_from(capacity.threads).unwrap_or(usize::MAX);
        let slots = Slots::map(take_array(&mut ebpf, "SLOTS")?.fd(), threads).map_err(errno)?;
        let rows = take_array(&mut ebpf, "STOLEN")?;
        let rows = Rows::new(rows, capacity.threads, groups).map_err(errno)?;
        let cpus = Cpus::map(take_array(&mut ebpf, "CPUS")?.fd(), pcpus).map_err(errno)?;
        let mut probes = Self {
            index: Array::try_from(index).map_err(|err| ProbeError::Load(err.into()))?,
            slots,
            rows,
            cpus,
            table: Table::new(capacity.threads),
            groups: Groups::new(domains),
            log: Some(log::task(&mut ebpf)?),
            ns_per_run: Default::default(),
            has_topology: false,
            columns_given_away: 0,
            ebpf,
        };
        selftest::run(&mut probes, ground)?;
        Ok(probes)
    }
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<Map, ProbeError> {
    ebpf.take_map(name).ok_or_else(|| ProbeError::Load(format!("the object has no map {name}").into()))
}

fn take_array(ebpf: &mut Ebpf, name: &str) -> Result<MapData, ProbeError> {
    match take_map(ebpf, name)? {
        Map::Array(data) => Ok(data),
        _ => Err(ProbeError::Load(format!("the map {name} is not an array").into())),
    }
}

fn attach(ebpf: &mut Ebpf, name: &str, btf: &Btf) -> Result<(), ProgramError> {
    let program =
        ebpf.program_mut(name).ok_or_else(|| ProgramError::InvalidName { name: name.to_owned() })?;
    let program: &mut BtfTracePoint = program.try_into()?;
    program.load(name, btf)?;
    program.attach()?;
    Ok(())
}
