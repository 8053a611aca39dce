//! What is left of a poll where the agent may not run programs, as on RHEL and its kin: load, CPU time and vcpus from the
//! agent's own commands. Without processes, and it says so.

use kvmpilot_core::sample::GuestSample;
use serde::Deserialize;
use tokio::time::Instant;

use super::few::Few;
use super::{Agent, AgentError, Kind, Transport};

const LOAD: &str = "guest-get-load";
const CPU_STATS: &str = "guest-get-cpustats";
const VCPUS: &str = "guest-get-vcpus";

/// vcpus that are read at most; KVM has no more.
const MOST_VCPUS: usize = 4096;
/// `guest-get-cpustats` counts in milliseconds.
const STATS_HZ: u64 = 1000;

/// Reply to `guest-get-load`.
#[derive(Debug, Deserialize)]
pub(super) struct Load {
    load1m: f64,
}

/// Reply to `guest-get-cpustats`.
pub(super) type CpuStats = Few<CpuStat, MOST_VCPUS>;

/// Times of one vcpu since boot, in ms.
#[derive(Debug, Deserialize)]
pub(super) struct CpuStat {
    user: u64,
    nice: u64,
    system: u64,
    idle: u64,
    #[serde(default)]
    iowait: u64,
    #[serde(default)]
    irq: u64,
    #[serde(default)]
    softirq: u64,
    #[serde(default)]
    steal: u64,
}

/// Reply to `guest-get-vcpus`.
pub(super) type Vcpus = Few<Vcpu, MOST_VCPUS>;

/// One vcpu.
#[derive(Debug, Deserialize)]
pub(super) struct Vcpu {
    online: bool,
}

impl<T: Transport> Agent<T> {
    /// Reads the guest's processes, sockets and load.
    ///
    /// # Errors
    /// When the agent cannot be used, or what it says cannot be understood. What is only too much is cut and named in
    /// [`GuestSample::truncated`].
    pub async fn inventory(&mut self) -> Result<GuestSample, AgentError> {
        match self.kind().await? {
            Kind::Unix => self.linux_inventory().await,
            Kind::Windows => self.windows_inventory().await,
        }
    }

    /// As [`Self::inventory`]; where programs cannot be run, what the agent tells without them, with the reason in
    /// [`GuestSample::unread`].
    ///
    /// # Errors
    /// As those of [`Self::inventory`], where there is nothing else either.
    pub async fn poll(&mut self) -> Result<GuestSample, AgentError> {
        match self.inventory().await {
            Err(
                error @ (AgentError::Forbidden(_)
                | AgentError::ExitStatus { .. }
                | AgentError::Refused { command: "guest-exec", .. }),
            ) => self.without_processes(error).await,
            result => result,
        }
    }

    async fn without_processes(&self, error: AgentError) -> Result<GuestSample, AgentError> {
        let deadline = Instant::now() + self.limits.total;
        let mut missing = Vec::new();
        let load: Option<Load> = self.ask(LOAD, deadline, &mut missing).await?;
        let stats: Option<CpuStats> = self.ask(CPU_STATS, deadline, &mut missing).await?;
        let vcpus: Option<Vcpus> = self.ask(VCPUS, deadline, &mut missing).await?;
        if load.is_none() && stats.is_none() && vcpus.is_none() {
            return Err(error);
        }
        Ok(GuestSample { unread: Some(error.to_string()), ..sample(load, stats, vcpus) })
    }
}

/// Puts the replies together.
pub(super) fn sample(load: Option<Load>, stats: Option<CpuStats>, vcpus: Option<Vcpus>) -> GuestSample {
    let mut sample = GuestSample {
        ticks_per_second: STATS_HZ,
        load1: load.map(|load| load.load1m).filter(|load| load.is_finite() && *load >= 0.0),
        ..GuestSample::default()
    };
    let count = |items: usize| u32::try_from(items).ok();
    if let Some(stats) = stats {
        let busy = |stat: &CpuStat| {
            [stat.user, stat.nice, stat.system, stat.irq, stat.softirq, stat.steal]
                .iter()
                .fold(0, |sum: u64, part| sum.saturating_add(*part))
        };
        let sum = |of: &dyn Fn(&CpuStat) -> u64| {
            stats.items.iter().fold(0, |sum: u64, stat| sum.saturating_add(of(stat)))
        };
        sample.busy_ticks = Some(sum(&busy));
        sample.steal_ticks = Some(sum(&|stat| stat.steal));
        // No command tells the time since boot, but the first vcpu has been there all of it.
        let all = |stat: &CpuStat| busy(stat).saturating_add(stat.idle).saturating_add(stat.iowait);
        sample.uptime_cs = stats.items.iter().map(all).max().unwrap_or(0) / 10;
        sample.vcpus_online = count(stats.items.len());
    }
    if let Some(vcpus) = vcpus {
        sample.vcpus_online = count(vcpus.items.iter().filter(|vcpu| vcpu.online).count());
    }
    sample
}
