//! The calls that the binding lacks, wrapped safely: states of all domains, pins, job state, number of pcpus, size of disks.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::raw::c_int;

use kvmpilot_core::CpuSet;
use kvmpilot_core::sample::Job;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::error::ErrorKind;

/// pcpus of the host, the offline ones too.
pub(super) fn host_pcpus(connection: &Connect) -> Result<u32, ErrorKind> {
    // SAFETY: the connection is open; both outputs may be null, then only the count is returned.
    let count =
        unsafe { sys::virNodeGetCPUMap(connection.as_ptr(), std::ptr::null_mut(), std::ptr::null_mut(), 0) };
    u32::try_from(count).map_err(|_| Error::last_error().into())
}

/// One active domain of [`states`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) uuid: Uuid,
    pub(super) name: String,
    pub(super) id: Option<u32>,
    /// `virDomainState`.
    pub(super) state: Option<c_int>,
}

/// The active domains with their states, in one call. (The binding's own call hands out pointers that nobody frees.)
pub(super) fn states(connection: &Connect) -> Result<Vec<Listed>, ErrorKind> {
    let mut records: *mut sys::virDomainStatsRecordPtr = std::ptr::null_mut();
    let (what, which) = (sys::VIR_DOMAIN_STATS_STATE, sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE);
    // SAFETY: the connection is open; libvirt puts an array into `records` that is ours to free.
    let count =
        unsafe { sys::virConnectGetAllDomainStats(connection.as_ptr(), what, &raw mut records, which) };
    let count = usize::try_from(count).map_err(|_| ErrorKind::from(Error::last_error()))?;
    let mut listed = Vec::with_capacity(count);
    for at in 0..count {
        // SAFETY: libvirt has filled `count` pointers, each to a valid record with a domain of its own.
        let record = unsafe { **records.add(at) };
        let (mut uuid, mut state) = ([0_u8; 16], 0);
        // SAFETY: local accessors of a domain that lives as long as the record; `uuid` holds VIR_UUID_BUFLEN (16) bytes,
        // the name is the domain's and ends with a zero, and `params` holds `nparams` parameters.
        let told = unsafe {
            let known = sys::virDomainGetUUID(record.dom, uuid.as_mut_ptr());
            let name = sys::virDomainGetName(record.dom);
            if known != 0 || name.is_null() {
                continue;
            }
            let field = sys::VIR_DOMAIN_STATS_STATE_STATE.as_ptr();
            let told = sys::virTypedParamsGetInt(record.params, record.nparams, field, &raw mut state);
            (CStr::from_ptr(name).to_string_lossy().into_owned(), sys::virDomainGetID(record.dom), told)
        };
        let (name, id, told) = told;
        listed.push(Listed {
            uuid: Uuid::from_bytes(uuid),
            name,
            // -1: not running.
            id: (id != u32::MAX).then_some(id),
            state: (told == 1).then_some(state),
        });
    }
    // SAFETY: nothing refers to the records any more; this also gives back their domains.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(listed)
}

/// The pins of the vcpus 0 up to the highest that the domain can have, offline ones too.
pub(super) fn vcpu_pins(
    domain: &Domain,
    vcpus: u32,
    pcpus: u32,
    flags: u32,
) -> Result<Vec<CpuSet>, ErrorKind> {
    let (count, length) = (to_int(vcpus)?, to_int(pcpus.div_ceil(8))?);
    let bytes = usize::try_from(pcpus.div_ceil(8)).unwrap_or(0);
    let mut maps = vec![0_u8; bytes * usize::try_from(vcpus).unwrap_or(0)];
    // SAFETY: `maps` holds `count` maps of `length` bytes.
    let filled =
        unsafe { sys::virDomainGetVcpuPinInfo(domain.as_ptr(), count, maps.as_mut_ptr(), length, flags) };
    let filled = usize::try_from(filled).map_err(|_| ErrorKind::from(Error::last_error()))?;
    Ok(maps.chunks_exact(bytes.max(1)).take(filled).map(|map| CpuSet::from_cpumap(map, pcpus)).collect())
}

/// The pin of the emulator threads.
pub(super) fn emulator_pin(domain: &Domain, pcpus: u32, flags: u32) -> Result<CpuSet, ErrorKind> {
    let length = to_int(pcpus.div_ceil(8))?;
    let mut map = vec![0_u8; usize::try_from(pcpus.div_ceil(8)).unwrap_or(0)];
    // SAFETY: `map` holds `length` bytes.
    let result =
        unsafe { sys::virDomainGetEmulatorPinInfo(domain.as_ptr(), map.as_mut_ptr(), length, flags) };
    match result {
        1 => Ok(CpuSet::from_cpumap(&map, pcpus)),
        // Documented as "no info available".
        0 => Err(ErrorKind::Unsupported("libvirt does not tell the emulator's pin".to_owned())),
        _ => Err(Error::last_error().into()),
    }
}

/// Numbers and pins of the iothreads.
pub(super) fn iothread_pins(
    domain: &Domain,
    pcpus: u32,
    flags: u32,
) -> Result<Vec<(u32, CpuSet)>, ErrorKind> {
    let mut list: *mut sys::virDomainIOThreadInfoPtr = std::ptr::null_mut();
    // SAFETY: `list` is writable; libvirt puts an array into it that is ours to free.
    let count = unsafe { sys::virDomainGetIOThreadInfo(domain.as_ptr(), &raw mut list, flags) };
    let count = usize::try_from(count).map_err(|_| ErrorKind::from(Error::last_error()))?;
    let mut pins = Vec::with_capacity(count);
    for at in 0..count {
        // SAFETY: libvirt has filled `count` pointers, each to a valid struct that nobody else has.
        let info = unsafe { *list.add(at) };
        // SAFETY: as above; `cpumap` holds `cpumaplen` bytes, or is null with length 0.
        let (number, map) = unsafe {
            let length = usize::try_from((*info).cpumaplen).unwrap_or(0);
            let map = (*info).cpumap;
            let map =
                if map.is_null() { Vec::new() } else { std::slice::from_raw_parts(map, length).to_vec() };
            ((*info).iothread_id, map)
        };
        pins.push((number, CpuSet::from_cpumap(&map, pcpus)));
        // SAFETY: nothing refers to it any more.
        unsafe { sys::virDomainIOThreadInfoFree(info) };
    }
    // SAFETY: libvirt has it from malloc (docs of virDomainGetIOThreadInfo: "must be freed by caller"), and its entries
    // are gone.
    unsafe { libc::free(list.cast()) };
    Ok(pins)
}

/// Pins an iothread.
pub(super) fn pin_iothread(
    domain: &Domain,
    iothread: u32,
    mut map: Vec<u8>,
    flags: u32,
) -> Result<(), ErrorKind> {
    let length = c_int::try_from(map.len()).map_err(|_| ErrorKind::Invalid("too many pcpus".to_owned()))?;
    // SAFETY: `map` holds `length` bytes.
    let result =
        unsafe { sys::virDomainPinIOThread(domain.as_ptr(), iothread, map.as_mut_ptr(), length, flags) };
    if result < 0 { Err(Error::last_error().into()) } else { Ok(()) }
}

/// Whether libvirt says that the domain was booted. One that was paused meanwhile is not said to be.
pub(super) fn is_booted(domain: &Domain) -> Result<bool, ErrorKind> {
    let (mut state, mut reason) = (0, 0);
    // SAFETY: both outputs are writable.
    if unsafe { sys::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) } < 0 {
        return Err(Error::last_error().into());
    }
    let is = |value: c_int, wanted: u32| u32::try_from(value) == Ok(wanted);
    Ok(is(state, sys::VIR_DOMAIN_RUNNING) && is(reason, sys::VIR_DOMAIN_RUNNING_BOOTED))
}

/// The migration, backup or snapshot that is under way.
pub(super) fn job(domain: &Domain) -> Result<Option<Job>, ErrorKind> {
    let mut info = MaybeUninit::<sys::virDomainJobInfo>::zeroed();
    // SAFETY: `info` is a writable virDomainJobInfo.
    if unsafe { sys::virDomainGetJobInfo(domain.as_ptr(), info.as_mut_ptr()) } < 0 {
        return Err(Error::last_error().into());
    }
    // SAFETY: zeroed is valid for this struct of integers, and libvirt has filled it.
    let kind = unsafe { info.assume_init() }.type_;
    let active =
        matches!(u32::try_from(kind), Ok(sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED));
    Ok(active.then(|| job_operation(domain)))
}

/// What the job under way is about. The binding's own call frees libvirt's memory as if it were Rust's.
fn job_operation(domain: &Domain) -> Job {
    let (mut kind, mut params, mut count, mut operation) = (0, std::ptr::null_mut(), 0, 0);
    // SAFETY: all outputs are writable; libvirt puts an array into `params` that is ours to free.
    let told = unsafe {
        sys::virDomainGetJobStats(domain.as_ptr(), &raw mut kind, &raw mut params, &raw mut count, 0)
    };
    if told < 0 || params.is_null() {
        return Job::Other;
    }
    // SAFETY: `params` holds `count` parameters, and is not used after it was freed.
    let found = unsafe {
        let name = sys::VIR_DOMAIN_JOB_OPERATION.as_ptr();
        let found = sys::virTypedParamsGetInt(params, count, name, &raw mut operation);
        sys::virTypedParamsFree(params, count);
        found
    };
    match u32::try_from(operation) {
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN | sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT) => {
            Job::Migration
        }
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_SAVE | sys::VIR_DOMAIN_JOB_OPERATION_RESTORE) => Job::Save,
        Ok(
            sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT
            | sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT
            | sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE,
        ) => Job::Snapshot,
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_DUMP) => Job::Dump,
        Ok(sys::VIR_DOMAIN_JOB_OPERATION_BACKUP) if found == 1 => Job::Backup,
        _ => Job::Other,
    }
}

/// Bytes that a guest sees of a disk, and that it takes on the host.
pub(super) fn disk_size(domain: &Domain, target: &str) -> Result<(u64, u64), ErrorKind> {
    let target =
        CString::new(target).map_err(|_| ErrorKind::Invalid("a disk with a zero in it".to_owned()))?;
    let mut info = MaybeUninit::<sys::virDomainBlockInfo>::zeroed();
    // SAFETY: `target` ends with a zero, and `info` is a writable virDomainBlockInfo.
    if unsafe { sys::virDomainGetBlockInfo(domain.as_ptr(), target.as_ptr(), info.as_mut_ptr(), 0) } < 0 {
        return Err(Error::last_error().into());
    }
    // SAFETY: zeroed is valid for this struct of integers, and libvirt has filled it.
    let info = unsafe { info.assume_init() };
    Ok((info.capacity, info.allocation))
}

fn to_int(number: u32) -> Result<c_int, ErrorKind> {
    c_int::try_from(number).map_err(|_| ErrorKind::Invalid(format!("{number} is out of range")))
}
