//! One round: the same stretch of time with nobody, with kvmpilotd, and with an exporter beside the domains.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{api, wait_for};
use serde::Serialize;

use super::herd::Herd;
use super::sweeper::Sweeper;
use crate::bench::common::{median, quantile};
use crate::process;

/// Between two sweeps: how often exporters are usually asked.
pub(super) const SWEEP: Duration = Duration::from_secs(15);
/// The daemon's fast cycle, as it is by default.
const CYCLE: Duration = Duration::from_secs(1);
/// Nothing is configured, and the budget is in force: the lab would switch it off.
const CONFIG: &str = "[overhead]\nenabled = true\n";
/// From the daemon's list of all domains to what counts: it looks for the cgroups of a new QEMU at its first four ticks.
const SETTLE: Duration = Duration::from_secs(25);
const START: Duration = Duration::from_secs(120);

/// What took how much CPU, in ms a second.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Phase {
    pub(super) seconds: f64,
    pub(super) libvirtd_ms_per_s: f64,
    /// All QEMUs together: what they have to answer counts here.
    pub(super) qemus_ms_per_s: f64,
}

/// What kvmpilotd itself took.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Own {
    /// From its start to the first answer.
    pub(super) startup_s: f64,
    /// From its start to an answer with all domains.
    pub(super) listed_s: f64,
    /// CPU of libvirtd from its start until it was settled.
    pub(super) startup_libvirtd_ms: f64,
    pub(super) startup_cpu_ms: f64,
    /// All threads.
    pub(super) cpu_ms_per_s: f64,
    /// The thread of the fast cycle, by the second; kvmpilotd exports no distribution of its own.
    pub(super) cycle_ms: Vec<f64>,
    pub(super) cycle_mean_ms: f64,
    pub(super) cycle_p99_ms: f64,
    pub(super) rss_mib: f64,
    /// Its own part of that; the rest is of files, like its program.
    pub(super) anonymous_mib: f64,
    pub(super) peak_rss_mib: f64,
    pub(super) threads: u64,
    /// What it had given up to keep to its budget.
    pub(super) shed: Vec<String>,
}

/// What the exporter took.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sweeps {
    pub(super) sweeps: usize,
    pub(super) values: usize,
    pub(super) median_ms: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Round {
    pub(super) nobody: Phase,
    pub(super) kvmpilotd: Phase,
    pub(super) domstats: Phase,
    pub(super) own: Own,
    pub(super) sweeps: Sweeps,
}

impl Round {
    /// Round `number`, counted from 0; each begins with another one of the three.
    pub(super) fn run(herd: &Herd, number: u32, length: Duration) -> Result<Self> {
        let (mut nobody, mut pilot, mut exporter) = (None, None, None);
        for turn in 0..3 {
            match (number + turn) % 3 {
                0 => nobody = Some(with_nobody(herd, length)?),
                1 => pilot = Some(with_pilot(herd, number, length)?),
                _ => exporter = Some(with_exporter(herd, length)?),
            }
        }
        let (kvmpilotd, own) = pilot.context("kvmpilotd was left out")?;
        let (domstats, sweeps) = exporter.context("the exporter was left out")?;
        Ok(Self { nobody: nobody.context("nobody was left out")?, kvmpilotd, domstats, own, sweeps })
    }

    /// CPU that libvirtd spends because of kvmpilotd, and because of the exporter, in ms a second.
    pub(super) fn added(&self) -> (f64, f64) {
        let over = |phase: &Phase| phase.libvirtd_ms_per_s - self.nobody.libvirtd_ms_per_s;
        (over(&self.kvmpilotd), over(&self.domstats))
    }

    /// Added CPU of the exporter in libvirtd over that of kvmpilotd. None where kvmpilotd adds nothing that can be seen.
    pub(super) fn ratio(&self) -> Option<f64> {
        let (pilot, exporter) = self.added();
        (pilot > 0.0).then(|| exporter / pilot)
    }
}

fn with_nobody(herd: &Herd, length: Duration) -> Result<Phase> {
    let (phase, ()) = phase(herd, length, |end| {
        sleep_until(end);
        Ok(())
    })?;
    Ok(phase)
}

fn with_exporter(herd: &Herd, length: Duration) -> Result<(Phase, Sweeps)> {
    let mut sweeper = Sweeper::start(&herd.lab)?;
    let (phase, sweeps) = phase(herd, length, |end| {
        let mut sweeps = Vec::new();
        let mut next = Instant::now();
        while next < end {
            sleep_until(next);
            sweeps.push(sweeper.sweep()?);
            next += SWEEP;
        }
        sleep_until(end);
        Ok(sweeps)
    })?;
    for sweep in &sweeps {
        ensure!(sweep.domains == herd.domains as usize, "a sweep told of {} domains", sweep.domains);
    }
    let took = sweeps.iter().map(|sweep| ms(sweep.took));
    Ok((
        phase,
        Sweeps {
            sweeps: sweeps.len(),
            values: sweeps.iter().map(|sweep| sweep.values).max().unwrap_or(0),
            median_ms: median(took),
        },
    ))
}

fn with_pilot(herd: &Herd, number: u32, length: Duration) -> Result<(Phase, Own)> {
    let libvirtd = herd.lab.libvirtd_pid()?;
    let libvirtd_before = process::cpu(libvirtd)?;
    let began = Instant::now();
    let daemon = herd.lab.spawn_daemon(&format!("scale{number}"), CONFIG)?;
    let pid = daemon.process_id();
    let since = |path: &str, enough: &dyn Fn(&serde_json::Value) -> bool| {
        wait_for(&format!("kvmpilotd to answer {path}"), START, || {
            let answer = api::get(&daemon.socket(), path)?;
            ensure!(enough(&answer), "not yet: {answer}");
            Ok(began.elapsed().as_secs_f64())
        })
        .with_context(|| daemon.log())
    };
    let startup_s = since("/api/v1/status", &|_| true)?;
    let all = |answer: &serde_json::Value| {
        answer["domains"].as_array().is_some_and(|domains| domains.len() == herd.domains as usize)
    };
    let listed_s = since("/api/v1/domains", &all)?;
    sleep(SETTLE);
    let startup_libvirtd_ms = ms(process::cpu(libvirtd)? - libvirtd_before);
    let startup = process::cpu(pid)?;
    let (phase, cycle_ms) = phase(herd, length, |end| cycles(pid, end))?;
    let cpu = process::cpu(pid)? - startup;
    let own = Own {
        startup_s,
        listed_s,
        startup_libvirtd_ms,
        startup_cpu_ms: ms(startup),
        cpu_ms_per_s: ms(cpu) / phase.seconds,
        cycle_mean_ms: cycle_ms.iter().sum::<f64>() * CYCLE.as_secs_f64() / phase.seconds,
        cycle_p99_ms: quantile(cycle_ms.iter().copied(), 0.99),
        cycle_ms,
        rss_mib: mib(process::status(pid, "VmRSS")?),
        anonymous_mib: mib(process::status(pid, "RssAnon")?),
        peak_rss_mib: mib(process::status(pid, "VmHWM")?),
        threads: process::status(pid, "Threads")?,
        shed: shed(&daemon)?,
    };
    ensure!(daemon.stop()?.success(), "kvmpilotd did not end well");
    Ok((phase, own))
}

fn shed(daemon: &Daemon<'_>) -> Result<Vec<String>> {
    let status = api::get(&daemon.socket(), "/api/v1/status")?;
    ensure!(status["libvirt"]["connected"] == true, "kvmpilotd lost libvirt: {status}");
    let list = status["own_cost"]["shed"].as_array().context("no list of what is shed")?.clone();
    Ok(list.iter().filter_map(|what| what.as_str().map(str::to_owned)).collect())
}

/// CPU time of the fast cycle's thread in each second.
fn cycles(pid: u32, end: Instant) -> Result<Vec<f64>> {
    let (mut seconds, mut before) = (Vec::new(), process::main_thread_cpu(pid)?);
    let mut next = Instant::now() + CYCLE;
    while next <= end {
        sleep_until(next);
        let now = process::main_thread_cpu(pid)?;
        seconds.push(ms(now - before));
        (before, next) = (now, next + CYCLE);
    }
    sleep_until(end);
    Ok(seconds)
}

/// Measures what goes on while `work` lasts; it has to last until the moment that it is given.
fn phase<T>(herd: &Herd, length: Duration, work: impl FnOnce(Instant) -> Result<T>) -> Result<(Phase, T)> {
    let libvirtd = herd.lab.libvirtd_pid()?;
    let read = || anyhow::Ok((process::cpu(libvirtd)?, herd.cpu()?));
    let (began, before) = (Instant::now(), read()?);
    let result = work(began + length)?;
    let (after, seconds) = (read()?, began.elapsed().as_secs_f64());
    let phase = Phase {
        seconds,
        libvirtd_ms_per_s: ms(after.0 - before.0) / seconds,
        qemus_ms_per_s: ms(after.1 - before.1) / seconds,
    };
    Ok((phase, result))
}

fn sleep_until(moment: Instant) {
    sleep(moment.saturating_duration_since(Instant::now()));
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn mib(kib: u64) -> f64 {
    Duration::from_secs(kib).as_secs_f64() / 1024.0
}
