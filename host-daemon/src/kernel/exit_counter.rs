//! How often the vcpus of one QEMU have left their guests, by KVM's own statistics: what the exits that a watch counts are
//! checked against.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use super::kvm_stats::KvmStats;
use super::{Kernel, Process};

/// The open statistics of a QEMU's vcpus. They keep its VM in the kernel: drop this when QEMU has ended.
#[derive(Debug)]
pub struct ExitCounter(Vec<KvmStats>);

impl ExitCounter {
    /// Exits of all vcpus since the VM was made.
    ///
    /// # Errors
    /// Where the statistics cannot be read, or this kernel does not count exits.
    pub fn read(&self) -> io::Result<u64> {
        let none = || io::Error::other("this kernel does not count exits");
        self.0.iter().map(|vcpu| vcpu.vcpu()?.exits.ok_or_else(none)).sum()
    }
}

impl Kernel {
    /// Opens the exit counters of a QEMU.
    ///
    /// # Errors
    /// Where there are none: see [`Kernel::vcpu_stats`].
    pub fn exit_counter(&self, pid: u32) -> io::Result<ExitCounter> {
        let process = self.hold(pid)?;
        let mut stats: Vec<KvmStats> = Vec::new();
        for fd in self.vcpu_stats(&process)?.into_values() {
            stats.push(KvmStats::new(fd, stats.first().map(KvmStats::layout))?);
        }
        Ok(ExitCounter(stats))
    }

    /// Duplicates of the statistics that a QEMU holds open, by KVM's number of the vcpu.
    ///
    /// # Errors
    /// Where they may not be had, or QEMU holds none: this needs Linux 5.14 and QEMU 7.1.
    pub(super) fn vcpu_stats(&self, process: &Process) -> io::Result<BTreeMap<u32, OwnedFd>> {
        let number = |link: &str| link.strip_prefix("anon_inode:kvm-vcpu-stats:")?.parse::<u32>().ok();
        let found = self.duplicates(process, |link| number(link).is_some())?;
        let found: BTreeMap<u32, _> =
            found.into_iter().filter_map(|(link, fd)| Some((number(&link)?, fd))).collect();
        if found.is_empty() {
            return Err(io::Error::other("QEMU holds none open; this needs Linux 5.14 and QEMU 7.1"));
        }
        Ok(found)
    }
}
