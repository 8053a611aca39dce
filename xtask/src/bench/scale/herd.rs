//! As many domains as there is memory for, the smallest that this machine runs.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvmpilot_tests::{Accel, Firmware, GuestSpec, Lab, LabOptions, Work, firmware};

use crate::command::say;

const FIRMWARE: &str = "firmware";
/// Memory that is left to the machine.
const FLOOR_MIB: u64 = 3 * 1024;
const BOOT: Duration = Duration::from_secs(300);
/// Addresses end before 255.
const MOST_GUESTS: u32 = 253;

/// The domains, and what they are.
pub(super) struct Herd {
    pub(super) lab: Lab,
    pub(super) domains: u32,
    pub(super) kind: &'static str,
    /// Memory of the machine that each of them costs.
    pub(super) mib_each: f64,
    /// Why there are no more of them.
    pub(super) limit: Option<String>,
}

impl Herd {
    /// Starts domains until there are so many or memory is short.
    pub(super) fn start(wanted: u32) -> Result<Self> {
        let refusal = firmware::refusal();
        let kind = if refusal.is_some() { "linux" } else { FIRMWARE };
        match &refusal {
            None => say(&format!("{wanted} KVM guests of a boot sector that sleeps, 1 vcpu and 32 MiB each")),
            Some(why) => say(&format!("{wanted} Linux guests that sleep, 1 vcpu and 128 MiB each ({why})")),
        }
        let lab = Lab::start(&LabOptions::default())?;
        let before = available_mib()?;
        let mut herd = Self { lab, domains: 0, kind, mib_each: 0.0, limit: None };
        let began = Instant::now();
        while herd.domains < wanted {
            let left = available_mib()?;
            if left < FLOOR_MIB {
                herd.limit = Some(format!("{left} MiB of memory are left"));
                break;
            }
            if refusal.is_some() && herd.domains == MOST_GUESTS {
                herd.limit = Some("the lab's network has no more addresses".to_owned());
                break;
            }
            herd.add(refusal.is_none())
                .with_context(|| format!("domain {} of {wanted}", herd.domains + 1))?;
            if herd.domains.is_multiple_of(50) {
                println!("    {} domains after {:.0} s", herd.domains, began.elapsed().as_secs_f64());
            }
        }
        herd.lab.wait_booted(BOOT)?;
        if let Some(limit) = &herd.limit {
            println!("    it stays at {} domains: {limit}", herd.domains);
        }
        let taken = Duration::from_secs(before.saturating_sub(available_mib()?)).as_secs_f64();
        herd.mib_each = taken / f64::from(herd.domains);
        Ok(herd)
    }

    fn add(&mut self, firmware: bool) -> Result<()> {
        let name = format!("d{:03}", self.domains);
        if firmware {
            self.lab.boot_firmware(&Firmware { name, vcpus: 1, most_vcpus: 1, sleeps: true })?;
        } else {
            let octet = u8::try_from(self.domains + 2)?;
            let sleeper = Work::Sleeper("sleeper".to_owned());
            self.lab.boot(&GuestSpec::new(&name, octet).memory_mib(128).without_agent().runs(sleeper))?;
        }
        self.domains += 1;
        Ok(())
    }

    /// What runs them: boot sectors also run where no Linux does.
    pub(super) fn accel(&self) -> Accel {
        if self.kind == FIRMWARE { Accel::Kvm } else { self.lab.accel() }
    }

    /// CPU time of all QEMUs so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let partition = format!("{}.partition", self.lab.name());
        let v1 = format!("/sys/fs/cgroup/cpuacct/{partition}/cpuacct.usage");
        if let Ok(ns) = fs::read_to_string(&v1) {
            return Ok(Duration::from_nanos(ns.trim().parse()?));
        }
        let v2 = format!("/sys/fs/cgroup/{partition}/cpu.stat");
        let text = fs::read_to_string(&v2).with_context(|| format!("neither {v1} nor {v2} can be read"))?;
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(Duration::from_micros(usage.context("no usage_usec")?.parse()?))
    }
}

fn available_mib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no MemAvailable")?;
    Ok(kib.parse::<u64>()? / 1024)
}
