//! `bench scale`: kvmpilotd beside as many real domains as there is memory for, and beside the same an exporter that asks
//! libvirt for everything; and the fast cycle on its own over more processes that only look like domains.

mod herd;
mod round;
mod sweeper;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use kvmpilot_tests::target_dir;
use serde::Serialize;
use serde_json::Value;

use super::common::{Machine, build_daemon, median, write};
use crate::command::say;
use herd::Herd;
use round::{Phase, Round, SWEEP};

#[derive(Debug, Args)]
pub(crate) struct ScaleOptions {
    /// Domains that are wanted; there are fewer when only 3 GiB of memory are left
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    domains: u32,
    /// Rounds of nobody, kvmpilotd and a full sweep each 15 s; medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each measurement: a multiple of 15
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Processes like domains for the fast cycle on its own, as `bench cycle` measures it; 0 leaves that out
    #[arg(long, default_value_t = 500)]
    recorded: u32,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The shape of `--json`. Medians of the rounds, but for `cycle_p99_ms`: that is of the seconds of all rounds.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    machine: Machine,
    /// Real domains.
    domains: u32,
    mib_per_domain: f64,
    limited_by: Option<String>,
    mode: &'static str,
    sweep_period_s: u64,
    /// CPU of the thread of the fast cycle a second, that is a cycle.
    cpu_ms_per_cycle: f64,
    cycle_p99_ms: f64,
    /// CPU of all threads a second.
    cpu_ms_per_s: f64,
    rss_mib: f64,
    /// Its own part of that; the rest is of files, like its program.
    anonymous_mib: f64,
    startup_s: f64,
    listed_s: f64,
    /// CPU of libvirtd because of kvmpilotd, and because of the sweeps.
    libvirtd_added_ms_per_s: f64,
    libvirtd_added_by_domstats_ms_per_s: f64,
    /// The second of these over the first; null where kvmpilotd adds nothing that can be seen.
    libvirtd_cpu_ratio_vs_domstats: Option<f64>,
    /// The same of the QEMUs.
    qemus_added_ms_per_s: f64,
    qemus_added_by_domstats_ms_per_s: f64,
    rounds: Vec<Round>,
    /// What `bench cycle` reports.
    recorded: Option<Value>,
}

pub(super) fn run(options: &ScaleOptions) -> Result<()> {
    let ScaleOptions { domains, rounds, seconds, recorded, json } = options;
    let sweep = u32::try_from(SWEEP.as_secs())?;
    ensure!(
        *seconds > 0 && seconds.is_multiple_of(sweep),
        "--seconds {seconds}: give a multiple of {sweep}, so that each measurement has as many sweeps as it lasts"
    );
    build_daemon()?;
    let command = format!(
        "cargo xtask bench scale --domains {domains} --rounds {rounds} --seconds {seconds} --recorded {recorded}"
    );
    let mut machine = Machine::look(command)?;
    let recorded = if *recorded > 0 { Some(recorded_cycles(*recorded)?) } else { None };
    let herd = Herd::start(*domains)?;
    machine.accel = herd.accel.to_string();
    let length = Duration::from_secs((*seconds).into());
    let rounds = (0..*rounds).map(|number| round(&herd, number, length)).collect::<Result<Vec<_>>>()?;
    let report = Report::new(machine, &herd, rounds, recorded);
    herd.lab.stop()?;
    report.print();
    write(&report, json.as_deref())
}

/// The fast cycle over processes laid out like QEMU's, without libvirt.
fn recorded_cycles(domains: u32) -> Result<Value> {
    say(&format!("the fast cycle over {domains} processes like domains"));
    let file = target_dir().join("scale-cycle.json");
    super::run("cycle", &[], vec!["--domains".to_owned(), domains.to_string()], Some(&file))?;
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

fn round(herd: &Herd, number: u32, length: Duration) -> Result<Round> {
    let round = Round::run(herd, number, length)?;
    println!(
        "    round {}: libvirtd {:.1} ms/s with nobody, {:.1} with kvmpilotd, {:.1} with sweeps; a cycle {:.2} ms, RSS {:.1} MiB",
        number + 1,
        round.nobody.libvirtd_ms_per_s,
        round.kvmpilotd.libvirtd_ms_per_s,
        round.domstats.libvirtd_ms_per_s,
        round.own.cycle_mean_ms,
        round.own.rss_mib
    );
    Ok(round)
}

impl Report {
    fn new(machine: Machine, herd: &Herd, rounds: Vec<Round>, recorded: Option<Value>) -> Self {
        let of = |value: &dyn Fn(&Round) -> f64| median(rounds.iter().map(value));
        let qemus = |phase: fn(&Round) -> &Phase| {
            of(&|round| phase(round).qemus_ms_per_s - round.nobody.qemus_ms_per_s)
        };
        let ratios: Vec<f64> = rounds.iter().filter_map(Round::ratio).collect();
        let seconds = rounds.iter().flat_map(|round| round.own.cycle_ms.iter().copied());
        Self {
            machine,
            domains: herd.domains,
            mib_per_domain: herd.mib_each,
            limited_by: herd.limit.clone(),
            mode: "recommend",
            sweep_period_s: SWEEP.as_secs(),
            cpu_ms_per_cycle: of(&|round| round.own.cycle_mean_ms),
            cycle_p99_ms: super::common::quantile(seconds, 0.99),
            cpu_ms_per_s: of(&|round| round.own.cpu_ms_per_s),
            rss_mib: of(&|round| round.own.rss_mib),
            anonymous_mib: of(&|round| round.own.anonymous_mib),
            startup_s: of(&|round| round.own.startup_s),
            listed_s: of(&|round| round.own.listed_s),
            libvirtd_added_ms_per_s: of(&|round| round.added().0),
            libvirtd_added_by_domstats_ms_per_s: of(&|round| round.added().1),
            libvirtd_cpu_ratio_vs_domstats: (ratios.len() == rounds.len()).then(|| median(ratios)),
            qemus_added_ms_per_s: qemus(|round| &round.kvmpilotd),
            qemus_added_by_domstats_ms_per_s: qemus(|round| &round.domstats),
            rounds,
            recorded,
        }
    }

    fn print(&self) {
        let of = |value: &dyn Fn(&Round) -> f64| median(self.rounds.iter().map(value));
        println!(
            "\n{} domains under {}, {:.0} MiB each",
            self.domains, self.machine.accel, self.mib_per_domain
        );
        println!("CPU, ms a second            libvirtd      all QEMUs     kvmpilotd");
        let row = |name: &str, phase: fn(&Round) -> &Phase, own: Option<f64>| {
            println!(
                "  {name:<22} {:12.2} {:14.2} {:>13}",
                of(&|round| phase(round).libvirtd_ms_per_s),
                of(&|round| phase(round).qemus_ms_per_s),
                own.map(|own| format!("{own:.2}")).unwrap_or_default()
            );
        };
        row("nobody", |round| &round.nobody, None);
        row("kvmpilotd, recommend", |round| &round.kvmpilotd, Some(self.cpu_ms_per_s));
        row("full sweep each 15 s", |round| &round.domstats, None);
        let ratio = self.libvirtd_cpu_ratio_vs_domstats;
        println!(
            "  the sweeps add {} times what kvmpilotd adds to libvirtd",
            ratio.map_or_else(|| "uncountably many".to_owned(), |ratio| format!("{ratio:.1}"))
        );
        println!(
            "fast cycle: {:.2} ms of CPU, p99 {:.2} ms; RSS {:.1} MiB ({:.1} without files); the first answer after {:.2} s, all domains after {:.2} s",
            self.cpu_ms_per_cycle,
            self.cycle_p99_ms,
            self.rss_mib,
            self.anonymous_mib,
            self.startup_s,
            self.listed_s
        );
        if let Some(recorded) = &self.recorded {
            let figure = |name: &str| recorded[name].as_f64().unwrap_or(f64::NAN);
            println!(
                "{} processes like domains, without libvirt: {:.2} ms a cycle, p99 {:.2} ms, RSS {:.1} MiB",
                recorded["domains"],
                figure("cpu_ms_per_cycle"),
                figure("p99_ms"),
                figure("rss_mib")
            );
        }
    }
}
