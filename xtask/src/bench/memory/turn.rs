//! One contestant's turn: a lab, guests that have touched all of their memory, the contestant, the schedule.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::{Accel, Lab, LabOptions, wait_for};
use serde::Serialize;

use super::Options;
use super::account::{accounts, console};
use super::budget::{Budget, Residents};
use super::contestant::{Effort, Peer, Running};
use super::cpu::CpuTime;
use super::figures::{GuestFigures, Resident, average};
use super::mom::Checkout;
use super::schedule::{MEMORY_MIB, Plan};

const BOOT: Duration = Duration::from_secs(180);
/// To touch all memory, which emulated guests do at some hundred MiB a second.
const WARM: Duration = Duration::from_secs(300);
const SETTLE: Duration = Duration::from_secs(10);
const EXEC: Duration = Duration::from_secs(60);
/// Between two looks at what is resident. MOM looks every 5 s, kvmpilot every second.
const LOOK: Duration = Duration::from_millis(500);
/// The balloon that a guest's accounts tell of must be that of libvirt, but for what is on its way.
const ALIKE_KIB: u64 = 16 * 1024;
const SETTLED: Duration = Duration::from_secs(60);

/// What came of it. Parts are of the guests' memory together.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Turn {
    pub(super) peer: Peer,
    /// What balloons held, on average over time.
    pub(super) reclaimed_ratio: f64,
    /// The same over the second half, when everybody has found their pace.
    pub(super) reclaimed_later_ratio: f64,
    /// By how much less the guests' QEMUs had resident than at the start, on average over time.
    pub(super) rss_less_ratio: f64,
    /// What the guests had in use, on average over time.
    pub(super) used_ratio: f64,
    /// Part of the host's memory that was free, on average over time.
    pub(super) host_free_ratio: f64,
    pub(super) host_memory_mib: u64,
    /// Time that a unit of work took, over all guests.
    pub(super) unit_ms: f64,
    pub(super) units: u64,
    /// What the guests' QEMUs used of the machine's pcpus, and everybody else: the contestant, libvirtd, and whoever disturbs.
    pub(super) guests_pcpus: f64,
    pub(super) others_pcpus: f64,
    pub(super) oom_kills: u64,
    pub(super) effort: Effort,
    pub(super) guests: Vec<GuestFigures>,
}

pub(super) fn turn(
    peer: Peer,
    plans: &[Plan],
    options: &Options,
    mom: Option<&Checkout>,
) -> Result<(Turn, Accel)> {
    let lab = Lab::start(&LabOptions { guests: plans.iter().map(Plan::guest).collect() })?;
    lab.wait_agents(BOOT)?;
    lab.outweigh_the_machine(2)?;
    for plan in plans {
        wait_for(&format!("{} to touch its memory", plan.name), WARM, || {
            let said = console(&lab, plan.name)?;
            ensure!(said.contains("workset: warm"), "its console says:\n{said}");
            Ok(())
        })?;
    }
    // Pages of the file that are in the cache already are only mapped as they are met.
    sleep(SETTLE);
    let budget = Budget::impose(&lab, options.free)?;
    let mut running = Running::start(peer, &lab, mom, options.cycle)?;
    for plan in plans {
        lab.guest_exec(plan.name, "echo >/run/go", EXEC)?;
    }
    let watched = watch(&budget, &mut running, Duration::from_secs(options.seconds.into()))?;
    let effort = running.effort()?;
    running.stop()?;
    let guests: Vec<GuestFigures> = plans
        .iter()
        .enumerate()
        .map(|(guest, plan)| {
            check_balloon(&lab, plan.name)?;
            let said = accounts(&lab, plan.name)?;
            ensure!(said[0].swap_kib > 0, "{} has no swap; its console says so", plan.name);
            let resident: Vec<Resident> =
                watched.looks.iter().map(|(at, residents)| (*at, residents.kib[guest])).collect();
            GuestFigures::new(plan, options.seconds, &said, &resident)
                .with_context(|| format!("{} has said too little", plan.name))
        })
        .collect::<Result<_>>()?;
    let turn = Turn::new(peer, options.seconds, &watched, effort, guests).context("nothing was measured")?;
    let accel = lab.accel();
    lab.stop()?;
    Ok((turn, accel))
}

/// The host during a turn.
#[derive(Debug)]
struct Watched {
    host_kib: u64,
    /// What was resident when, in seconds since the start.
    looks: Vec<(f64, Residents)>,
    seconds: f64,
    guests_cpu_s: f64,
    others_cpu_s: f64,
}

/// Keeps the host's figures true until the turn is over, and a moment longer: guests began a little later.
fn watch(budget: &Budget, running: &mut Running<'_>, turn: Duration) -> Result<Watched> {
    let (began, before) = (Instant::now(), CpuTime::now(budget.qemus())?);
    let mut looks = Vec::new();
    while began.elapsed() < turn + Duration::from_secs(2) {
        looks.push((began.elapsed().as_secs_f64(), budget.look()?));
        running.check()?;
        sleep(LOOK);
    }
    let used = CpuTime::now(budget.qemus())?.since(&before);
    Ok(Watched {
        host_kib: budget.total_kib,
        looks,
        seconds: began.elapsed().as_secs_f64(),
        guests_cpu_s: used.guests_s,
        others_cpu_s: used.machine_s - used.guests_s,
    })
}

/// Everything hangs on `MemTotal` telling where the balloon is: so libvirt is asked, once, at the end.
fn check_balloon(lab: &Lab, guest: &str) -> Result<()> {
    wait_for(&format!("the balloon of {guest} to be where its accounts say"), SETTLED, || {
        let said = accounts(lab, guest)?;
        let (first, last) = (&said[0], &said[said.len() - 1]);
        let told = (MEMORY_MIB * 1024 + last.total_kib).saturating_sub(first.total_kib);
        let stats = lab.virsh(&["dommemstat", guest])?;
        let actual = stats.lines().find_map(|line| line.strip_prefix("actual ")).context("no balloon")?;
        let actual: u64 = actual.trim().parse()?;
        ensure!(
            told.abs_diff(actual) <= ALIKE_KIB,
            "libvirt says {actual} KiB, the guest's MemTotal makes it {told} KiB"
        );
        Ok(())
    })
}

impl Turn {
    fn new(
        peer: Peer,
        seconds: u32,
        watched: &Watched,
        effort: Effort,
        guests: Vec<GuestFigures>,
    ) -> Option<Self> {
        let end = f64::from(seconds);
        let memory_mib = MEMORY_MIB as f64 * guests.len() as f64;
        let sum = |value: fn(&GuestFigures) -> f64| guests.iter().map(value).sum::<f64>();
        let later: Option<f64> = guests
            .iter()
            .map(|guest| {
                let points = guest.series.iter().filter(|point| point.t_s >= end / 2.0);
                average(points.map(|point| (point.t_s, point.balloon_mib)), end)
            })
            .sum();
        let host = watched.host_kib;
        let free = |residents: &Residents| host.saturating_sub(residents.sum_kib()) as f64 / host as f64;
        let units: u64 = guests.iter().map(|guest| guest.units).sum();
        Some(Self {
            peer,
            reclaimed_ratio: sum(|guest| guest.balloon_mib) / memory_mib,
            reclaimed_later_ratio: later? / memory_mib,
            rss_less_ratio: sum(|guest| guest.rss_less_mib) / memory_mib,
            used_ratio: sum(|guest| guest.used_mib) / memory_mib,
            host_free_ratio: average(
                watched.looks.iter().map(|(at, residents)| (*at, free(residents))),
                end,
            )?,
            host_memory_mib: host / 1024,
            unit_ms: sum(|guest| guest.work_s) * 1000.0 / units as f64,
            units,
            guests_pcpus: watched.guests_cpu_s / watched.seconds,
            others_pcpus: watched.others_cpu_s / watched.seconds,
            oom_kills: guests.iter().map(|guest| guest.oom_kills).sum(),
            effort,
            guests,
        })
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |value: fn(&GuestFigures) -> f64| self.guests.iter().map(value).sum::<f64>();
        write!(
            f,
            "{:.1} % reclaimed ({:.1} % in the second half), {:.2} ms a unit, {} units, {} OOM kills, {:.0} MiB swapped in, \
             the host {:.0} % free, {} actions, others used {:.2} pcpus",
            self.reclaimed_ratio * 100.0,
            self.reclaimed_later_ratio * 100.0,
            self.unit_ms,
            self.units,
            self.oom_kills,
            sum(|guest| guest.swap_in_mib),
            self.host_free_ratio * 100.0,
            self.effort.actions.values().sum::<u64>(),
            self.others_pcpus
        )
    }
}
