//! The host's memory as the contestants see it.
//!
//! Both decide by how much of the host's memory is free: MOM's policy is under pressure below 20 %, critical below 5 %, and
//! does nothing but deflate above; kvmpilot hurries below 20 %, or below its reserve, and takes idle memory slowly above. On a
//! machine that has plenty left neither would see a shortage, and filling it for good measure would kill whoever else works on
//! it. So each gets the same smaller host: inside the lab `/proc/meminfo` is a file of ours, bound over the kernel's, in which
//! everything is computed from what was measured. Its total is what the guests' QEMUs had resident when all of the guests'
//! memory had been touched, and the part that shall be free then; free is, at any time, that total less what they have resident
//! now. Nobody enforces it: guests are not slower because the host's memory is overdrawn, in none of the turns.
//!
//! Memory pressure (PSI), which kvmpilot reads besides, is the real machine's, which has none.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::{Lab, run};

/// The host of one turn.
#[derive(Debug)]
pub(super) struct Budget {
    file: File,
    qemus: Vec<(String, u32)>,
    pub(super) total_kib: u64,
}

/// One look at it.
#[derive(Clone, Debug)]
pub(super) struct Residents {
    /// What each guest's QEMU has resident, in the order of the lab's guests.
    pub(super) kib: Vec<u64>,
}

impl Residents {
    pub(super) fn sum_kib(&self) -> u64 {
        self.kib.iter().sum()
    }
}

impl Budget {
    /// Makes `free_percent` of a smaller host free, with the guests as they are now. From now on the lab's programs see it.
    pub(super) fn impose(lab: &Lab, free_percent: u32) -> Result<Self> {
        let qemus: Vec<(String, u32)> = lab
            .guests()
            .iter()
            .map(|guest| Ok((guest.name.clone(), lab.qemu_pid(&guest.name)?)))
            .collect::<Result<_>>()?;
        let path = lab.state_dir().join("meminfo");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut budget = Self { file, qemus, total_kib: 0 };
        budget.total_kib = budget.residents()?.sum_kib() * 100 / u64::from(100 - free_percent);
        budget.look()?;
        run(lab.command("mount").arg("--bind").arg(&path).arg("/proc/meminfo"))?;
        Ok(budget)
    }

    /// The guests' QEMUs.
    pub(super) fn qemus(&self) -> impl Iterator<Item = u32> {
        self.qemus.iter().map(|(_, pid)| *pid)
    }

    /// Looks what is resident, and tells the contestants.
    pub(super) fn look(&self) -> Result<Residents> {
        let residents = self.residents()?;
        // In place and of one length: MOM keeps the file open.
        let text = meminfo(self.total_kib, self.total_kib.saturating_sub(residents.sum_kib()));
        self.file.write_all_at(text.as_bytes(), 0)?;
        Ok(residents)
    }

    fn residents(&self) -> Result<Residents> {
        let kib = self.qemus.iter().map(|(guest, pid)| {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))
                .with_context(|| format!("the QEMU of {guest} has gone"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
            kib.with_context(|| format!("the QEMU of {guest} has no VmRSS"))
        });
        let kib: Vec<u64> = kib.collect::<Result<_>>()?;
        ensure!(kib.iter().all(|kib| *kib > 0), "a QEMU has nothing resident: it ends");
        Ok(Residents { kib })
    }
}

/// Lines as the kernel writes them: those that the contestants and libvirt read, and no cache that could be had for less.
fn meminfo(total_kib: u64, free_kib: u64) -> String {
    let used = total_kib - free_kib;
    let mut text = String::new();
    for (name, kib) in [
        ("MemTotal", total_kib),
        ("MemFree", free_kib),
        ("MemAvailable", free_kib),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("AnonPages", used),
        ("Shmem", 0),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<16}{kib:>8} kB", format!("{name}:"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_like_the_kernels_and_keeps_its_length() {
        let full = meminfo(9_000_000, 0);
        assert!(full.starts_with("MemTotal:        9000000 kB\nMemFree:               0 kB\n"), "{full}");
        assert!(full.contains("\nAnonPages:       9000000 kB\n"));
        assert_eq!(meminfo(9_000_000, 8_999_999).len(), full.len());
    }
}
