//! `bench guest-priority`: a web server beside CPU hogs inside one guest: alone, with kvmpilot off, and with kvmpilot on; in
//! both kinds of guests. Rounds interleave the three, and what is reported are medians of the rounds' ratios.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{GuestSpec, HttpLoad, HttpReport, Lab, LabOptions, System, Work, wait_for};
use serde::Serialize;

use super::common::{Machine, build_daemon, median, write};
use crate::command::say;

const BOOT: Duration = Duration::from_secs(120);
const EXEC: Duration = Duration::from_secs(60);
/// Beside 16 units that burn CPU an emulated guest takes half a minute for a poll.
const CLIMB: Duration = Duration::from_secs(300);
const CONNECTIONS: u32 = 4;
/// Hogs at first; more are started until they at least double the server's p99.
const HOGS: u32 = 8;
const MOST_HOGS: u32 = 64;

/// Levels climb in short cycles; they are measured with polls as rare as they are by default.
fn config(seconds: u32) -> String {
    format!(
        "[modes]\ndefault = \"observe\"\nladder = \"auto\"\n[loops]\ncycle = \"{seconds}s\"\nguest = \"{seconds}s\"\n\
         [agent]\ntimeout = \"60s\"\n"
    )
}

/// The shape of `--json`. Ratios are those of the worse kind of guest.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    machine: Machine,
    p99_vs_alone_off: f64,
    p99_vs_alone_on: f64,
    rps_vs_alone_on: f64,
    hogs_share_on: f64,
    guests: Vec<Guest>,
}

/// Medians of one kind of guest.
#[derive(Debug, Serialize)]
struct Guest {
    kind: String,
    hogs: u32,
    p99_vs_alone_off: f64,
    p99_vs_alone_on: f64,
    rps_vs_alone_off: f64,
    rps_vs_alone_on: f64,
    /// CPU of the hogs with kvmpilot on as a part of what they had with it off.
    hogs_share_on: f64,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct Round {
    alone: HttpReport,
    off: HttpReport,
    on: HttpReport,
    hogs_vcpus_off: f64,
    hogs_vcpus_on: f64,
}

pub(super) fn run(rounds: u32, seconds: u32, json: Option<&Path>) -> Result<()> {
    build_daemon()?;
    let mut machine =
        Machine::look(format!("cargo xtask bench guest-priority --rounds {rounds} --seconds {seconds}"))?;
    let mut guests = Vec::new();
    for system in [System::Busybox, System::Debian] {
        let bench = Bench::start(system, seconds)?;
        machine.accel = bench.lab.accel().to_string();
        guests.push(bench.measure(rounds)?);
    }
    let worst = |value: fn(&Guest) -> f64, of: fn(f64, f64) -> f64| {
        guests.iter().map(value).reduce(of).unwrap_or(f64::NAN)
    };
    let report = Report {
        machine,
        p99_vs_alone_off: worst(|guest| guest.p99_vs_alone_off, f64::min),
        p99_vs_alone_on: worst(|guest| guest.p99_vs_alone_on, f64::max),
        rps_vs_alone_on: worst(|guest| guest.rps_vs_alone_on, f64::min),
        hogs_share_on: worst(|guest| guest.hogs_share_on, f64::min),
        guests,
    };
    for guest in &report.guests {
        println!(
            "    {:<8} {} hogs: p99 {:.2} of alone off, {:.2} on; requests/s {:.2} off, {:.2} on; the hogs keep {:.0} %",
            guest.kind,
            guest.hogs,
            guest.p99_vs_alone_off,
            guest.p99_vs_alone_on,
            guest.rps_vs_alone_off,
            guest.rps_vs_alone_on,
            guest.hogs_share_on * 100.0
        );
    }
    write(&report, json)
}

struct Bench {
    lab: Lab,
    system: System,
    seconds: u32,
    hogs: u32,
}

impl Bench {
    fn start(system: System, seconds: u32) -> Result<Self> {
        say(&format!("a {} guest with {HOGS} hogs", name(system)));
        let mut web = GuestSpec::new("web", 11).vcpus(2).runs(Work::Http);
        for hog in 1..=HOGS {
            web = web.runs(Work::Hog(format!("hog{hog}")));
        }
        if system == System::Debian {
            web = web.memory_mib(768).debian();
        }
        let lab = Lab::start(&LabOptions { guests: vec![web] })?;
        lab.wait_agents(BOOT)?;
        lab.outweigh_the_machine(2)?;
        let bench = Self { lab, system, seconds, hogs: HOGS };
        wait_for("the server", BOOT, || bench.load(1).map(drop))?;
        Ok(bench)
    }

    fn load(&self, seconds: u32) -> Result<HttpReport> {
        self.lab.http_load(&HttpLoad { guest: "web".to_owned(), connections: CONNECTIONS, seconds })
    }

    fn inside(&self, script: &str) -> Result<String> {
        self.lab.guest_exec("web", script, EXEC)
    }

    fn signal_hogs(&self, signal: &str) -> Result<()> {
        let names = self.hog_names().join(" ");
        self.inside(&format!("kill -{signal} $(PATH=$PATH:/lab/bin pidof {names})")).map(drop)
    }

    fn hog_names(&self) -> Vec<String> {
        (1..=self.hogs).map(|hog| format!("hog{hog}")).collect()
    }

    /// A load, and the vcpus that the hogs used meanwhile.
    fn loaded(&self) -> Result<(HttpReport, f64)> {
        let names = self.hog_names();
        let hogs: Vec<&str> = names.iter().map(String::as_str).collect();
        let before = self.lab.guest_cpu("web", &hogs)?;
        let began = std::time::Instant::now();
        let report = self.load(self.seconds)?;
        let used = self.lab.guest_cpu("web", &hogs)? - before;
        Ok((report, used.as_secs_f64() / began.elapsed().as_secs_f64()))
    }

    fn alone(&self) -> Result<HttpReport> {
        self.signal_hogs("STOP")?;
        let report = self.load(self.seconds);
        self.signal_hogs("CONT")?;
        report
    }

    fn measure(mut self, rounds: u32) -> Result<Guest> {
        while self.hogs < MOST_HOGS {
            let (alone, (off, _)) = (self.alone()?, self.loaded()?);
            if off.p99_ms >= 2.0 * alone.p99_ms {
                break;
            }
            self.more_hogs()?;
        }
        let rounds = (1..=rounds).map(|round| self.round(round)).collect::<Result<Vec<_>>>()?;
        let median = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
        let guest = Guest {
            kind: name(self.system).to_owned(),
            hogs: self.hogs,
            p99_vs_alone_off: median(|round| round.off.p99_ms / round.alone.p99_ms),
            p99_vs_alone_on: median(|round| round.on.p99_ms / round.alone.p99_ms),
            rps_vs_alone_off: median(|round| round.off.requests_per_second / round.alone.requests_per_second),
            rps_vs_alone_on: median(|round| round.on.requests_per_second / round.alone.requests_per_second),
            hogs_share_on: median(|round| round.hogs_vcpus_on / round.hogs_vcpus_off),
            rounds,
        };
        self.lab.stop()?;
        Ok(guest)
    }

    fn more_hogs(&mut self) -> Result<()> {
        let (from, to) = (self.hogs + 1, self.hogs * 2);
        say(&format!("{} hogs do not double the p99: {to}", self.hogs));
        let bin = match self.system {
            System::Busybox => "/bin",
            System::Debian => "/lab/bin",
        };
        let start = match self.system {
            System::Busybox => format!("{bin}/$hog </dev/null >/dev/null 2>&1 &"),
            System::Debian => format!("systemd-run --quiet --unit=$hog {bin}/$hog"),
        };
        self.inside(&format!(
            "n={from}; while [ $n -le {to} ]; do hog=hog$n; cp /lab/hog {bin}/$hog; {start}\nn=$((n + 1)); done"
        ))?;
        self.hogs = to;
        Ok(())
    }

    fn round(&self, round: u32) -> Result<Round> {
        let alone = self.alone()?;
        let (off, hogs_vcpus_off) = self.loaded()?;
        let daemon = self.lab.start_daemon(&format!("bench{round}"), &config(5))?;
        self.lab.under_load("web", CONNECTIONS, || self.climbed(&daemon)).with_context(|| daemon.log())?;
        daemon.reload(&config(60))?;
        let (on, hogs_vcpus_on) = self.loaded()?;
        ensure!(daemon.stop()?.success(), "kvmpilotd did not end well");
        println!(
            "    round {round}: p99 {:.0} ms alone, {:.0} off, {:.0} on; requests/s {:.0}, {:.0}, {:.0}; hogs {hogs_vcpus_off:.2} and {hogs_vcpus_on:.2} vcpus",
            alone.p99_ms,
            off.p99_ms,
            on.p99_ms,
            alone.requests_per_second,
            off.requests_per_second,
            on.requests_per_second
        );
        Ok(Round { alone, off, on, hogs_vcpus_off, hogs_vcpus_on })
    }

    /// Waits until the server is at the top and every hog at the bottom.
    fn climbed(&self, daemon: &Daemon<'_>) -> Result<()> {
        wait_for("the levels", CLIMB, || {
            let view = daemon.json(&["processes", "web"])?;
            let at = |name: &str, level: &str| {
                let applications = view["applications"].as_array().into_iter().flatten();
                applications
                    .filter(|application| {
                        application["name"].as_str().is_some_and(|other| other.starts_with(name))
                    })
                    .filter(|application| application["level"] == level)
                    .count()
            };
            let (servers, hogs) = (at("httpd", "high"), at("hog", "low"));
            ensure!(servers == 1 && hogs == self.hogs as usize, "{servers} servers high, {hogs} hogs low");
            Ok(())
        })
    }
}

const fn name(system: System) -> &'static str {
    match system {
        System::Busybox => "busybox",
        System::Debian => "Debian",
    }
}
