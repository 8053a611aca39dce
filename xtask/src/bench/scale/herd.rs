//! As many domains as there is memory for, the smallest that this machine runs.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::{Accel, Lab, LabOptions, firmware, wait_for};

use crate::command::say;

/// Memory that is left to the machine.
const FLOOR_MIB: u64 = 3 * 1024;
/// Firmware that is emulated instruction by instruction takes seconds of CPU, and all of them run at once.
const REST: Duration = Duration::from_secs(1800);
/// A domain at rest takes less of a pcpu than this, in ms a second. Emulation has timers of its own.
const CALM_MS_PER_S: f64 = 3.0;
const LOOK: Duration = Duration::from_secs(5);

/// The domains, and what they are.
pub(super) struct Herd {
    pub(super) lab: Lab,
    pub(super) domains: u32,
    /// What runs them.
    pub(super) accel: Accel,
    /// Memory of the machine that each of them costs.
    pub(super) mib_each: f64,
    /// Why there are no more of them.
    pub(super) limit: Option<String>,
}

impl Herd {
    /// Starts domains until there are so many or memory is short, and waits until all of them rest.
    pub(super) fn start(wanted: u32) -> Result<Self> {
        let refusal = firmware::refusal();
        let accel = if refusal.is_some() { Accel::Tcg } else { Accel::Kvm };
        let why = refusal.map(|why| format!(" ({why})")).unwrap_or_default();
        say(&format!("{wanted} domains that rest, 1 vcpu, 32 MiB and an interface each, under {accel}{why}"));
        let lab = Lab::start(&LabOptions::default())?;
        let before = available_mib()?;
        let mut herd = Self { lab, domains: 0, accel, mib_each: 0.0, limit: None };
        let began = Instant::now();
        while herd.domains < wanted {
            let left = available_mib()?;
            if left < FLOOR_MIB {
                herd.limit = Some(format!("{left} MiB of memory are left"));
                println!("    it stays at {} domains: {left} MiB of memory are left", herd.domains);
                break;
            }
            let name = format!("d{:03}", herd.domains);
            herd.lab.boot_still(&name).with_context(|| format!("domain {} of {wanted}", herd.domains + 1))?;
            herd.domains += 1;
            if herd.domains.is_multiple_of(50) {
                println!("    {} domains after {:.0} s", herd.domains, began.elapsed().as_secs_f64());
            }
        }
        ensure!(herd.domains > 0, "there is not enough memory for a single domain");
        wait_for("the domains to rest", REST, || herd.rests())?;
        println!("    {} domains rest after {:.0} s", herd.domains, began.elapsed().as_secs_f64());
        let taken = Duration::from_secs(before.saturating_sub(available_mib()?)).as_secs_f64();
        herd.mib_each = taken / f64::from(herd.domains);
        Ok(herd)
    }

    fn rests(&self) -> Result<()> {
        let before = self.cpu()?;
        sleep(LOOK);
        let used = (self.cpu()? - before).as_secs_f64() * 1000.0 / LOOK.as_secs_f64();
        let most = CALM_MS_PER_S * f64::from(self.domains);
        ensure!(used < most, "they take {used:.0} ms a second of CPU, {most:.0} when they rest");
        Ok(())
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
