//! The calls that the binding lacks, wrapped safely: pins, job state, number of pcpus.

use std::mem::MaybeUninit;
use std::os::raw::c_int;

use kvmpilot_core::CpuSet;
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

/// Whether a migration, backup or snapshot is under way.
pub(super) fn job_active(domain: &Domain) -> Result<bool, ErrorKind> {
    let mut info = MaybeUninit::<sys::virDomainJobInfo>::zeroed();
    // SAFETY: `info` is a writable virDomainJobInfo.
    if unsafe { sys::virDomainGetJobInfo(domain.as_ptr(), info.as_mut_ptr()) } < 0 {
        return Err(Error::last_error().into());
    }
    // SAFETY: zeroed is valid for this struct of integers, and libvirt has filled it.
    let kind = unsafe { info.assume_init() }.type_;
    Ok(matches!(u32::try_from(kind), Ok(sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED)))
}

fn to_int(number: u32) -> Result<c_int, ErrorKind> {
    c_int::try_from(number).map_err(|_| ErrorKind::Invalid(format!("{number} is out of range")))
}
