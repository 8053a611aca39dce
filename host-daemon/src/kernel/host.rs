//! The host as a whole: pressure, memory, load, time of each pcpu.

use std::path::Path;

use kvmpilot_core::sample::{HostSample, MemorySample, PcpuSample, PressureSample};

use super::{Kernel, NS_PER_TICK, Unread, Unreads};

impl Kernel {
    /// One reading of the host.
    #[must_use]
    pub fn host(&self) -> (HostSample, Vec<Unread>) {
        let mut unread = Unreads::default();
        let sample = HostSample {
            cpu_pressure: unread.parse(&self.proc.join("pressure/cpu"), pressure),
            memory_pressure: unread.parse(&self.proc.join("pressure/memory"), pressure),
            io_pressure: unread.parse(&self.proc.join("pressure/io"), pressure),
            memory: unread.parse(&self.proc.join("meminfo"), memory),
            pcpus: unread.parse(&self.proc.join("stat"), pcpus).unwrap_or_default(),
            load1: unread.parse(&self.proc.join("loadavg"), |text| text.split(' ').next()?.parse().ok()),
            // Looked for by those who look at all processes anyway.
            competitors: Vec::new(),
            sched_ext: None,
        };
        (sample, unread.0)
    }

    /// The pressure file of a cgroup (`cpu.pressure`, `memory.pressure`, ...) or of `/proc/pressure`.
    ///
    /// # Errors
    /// Why it could not be read: absent before Linux 4.20 and on cgroup v1, `EOPNOTSUPP` where it is switched
    /// off.
    pub fn pressure(&self, path: &Path) -> Result<PressureSample, Unread> {
        let mut unread = Unreads::default();
        let sample = unread.parse(path, pressure);
        sample.ok_or_else(|| unread.0.remove(0))
    }
}

/// `some avg10=0.12 avg60=0.00 avg300=0.00 total=123` and the same for `full`.
pub(super) fn pressure(text: &str) -> Option<PressureSample> {
    let value = |line: &str, key: &str| -> Option<String> {
        let word = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
        Some(word.to_owned())
    };
    let line = |name: &str| text.lines().find(|line| line.split(' ').next() == Some(name));
    let some = line("some")?;
    Some(PressureSample {
        some_total_usec: value(some, "total")?.parse().ok()?,
        full_total_usec: line("full").and_then(|full| value(full, "total")?.parse().ok()),
        some_avg10_percent: value(some, "avg10")?.parse().ok()?,
    })
}

fn memory(text: &str) -> Option<MemorySample> {
    let kib = |name| kib_after(text, name);
    Some(MemorySample { total_kib: kib("MemTotal:")?, available_kib: kib("MemAvailable:")? })
}

/// The amount on the line that begins with `name`, as `meminfo` and `status` write it: `Name:   123 kB`.
pub(super) fn kib_after(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// `cpu3 user nice system idle iowait irq softirq steal guest guest_nice`, ticks; guest time is part of user
/// time.
fn pcpus(text: &str) -> Option<Vec<PcpuSample>> {
    let mut pcpus = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(id) = words.next().and_then(|name| name.strip_prefix("cpu")?.parse().ok()) else { continue };
        let ticks: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
        let [user, nice, system, idle, iowait, rest @ ..] = ticks.as_slice() else { return None };
        pcpus.push(PcpuSample {
            id,
            busy_ns: (user + nice + system + rest.iter().sum::<u64>()).saturating_mul(NS_PER_TICK),
            idle_ns: (idle + iowait).saturating_mul(NS_PER_TICK),
        });
    }
    (!pcpus.is_empty()).then_some(pcpus)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn pressure_with_and_without_full() {
        let both = "some avg10=1.50 avg60=0.70 avg300=0.10 total=4242\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let sample =
            PressureSample { some_total_usec: 4242, full_total_usec: Some(7), some_avg10_percent: 1.5 };
        assert_eq!(pressure(both), Some(sample));
        let old = both.lines().next().unwrap();
        assert_eq!(pressure(old), Some(PressureSample { full_total_usec: None, ..sample }));
        assert_eq!(pressure("some total=x avg10=1"), None);
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn pcpu_time_splits_into_busy_and_idle() {
        let text =
            "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 10 1 5 100 20 2 3 4 6 0\ncpu7 1 0 0 9 0 0 0 0 0 0\nintr 77 0\n";
        let tick = NS_PER_TICK;
        let expected = [
            PcpuSample { id: 0, busy_ns: 25 * tick, idle_ns: 120 * tick },
            PcpuSample { id: 7, busy_ns: tick, idle_ns: 9 * tick },
        ];
        assert_eq!(pcpus(text).unwrap(), expected);
        assert_eq!(pcpus("cpu0 1 2"), None);
    }

    #[test]
    fn a_host_without_psi_still_has_the_rest() {
        let root = tempfile::tempdir().unwrap();
        fs::write(
            root.path().join("meminfo"),
            "MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n",
        )
        .unwrap();
        fs::write(root.path().join("loadavg"), "0.52 0.58 0.59 2/345 6789\n").unwrap();
        fs::write(root.path().join("stat"), "cpu0 1 0 0 0 0 0 0 0 0 0\n").unwrap();
        let kernel = Kernel::at(root.path(), root.path());
        let (host, unread) = kernel.host();
        assert_eq!(host.memory, Some(MemorySample { total_kib: 2048, available_kib: 1024 }));
        assert_eq!(host.load1, Some(0.52));
        assert_eq!(host.pcpus.len(), 1);
        assert_eq!((host.cpu_pressure, host.memory_pressure, host.io_pressure), (None, None, None));
        assert_eq!(unread.len(), 3);
        assert!(kernel.pressure(&root.path().join("none")).is_err());
    }

    #[test]
    fn this_host_can_be_read() {
        let (host, _) = Kernel::default().host();
        let memory = host.memory.unwrap();
        assert!(memory.available_kib <= memory.total_kib);
        assert!(!host.pcpus.is_empty());
    }
}
