//! `bench contention`: a web server beside CPU-bound guests on the same pcpus, under nobody, under a static configuration, and
//! under kvmpilot, which is told nothing of them. Each contestant goes through the same phases; rounds interleave them.

mod peers;
mod report;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::told::Wakes;
use kvmpilot_tests::{GuestSpec, HttpLoad, Lab, LabOptions, Told, Work, wait_for};

use self::peers::Contestant;
pub(crate) use self::peers::Peer;
use self::report::{Measured, Round};
use super::common::{Machine, build_daemon, cpu_s, median, write};
use crate::command::say;

const BOOT: Duration = Duration::from_secs(120);
const CONNECTIONS: u32 = 4;
/// The first seconds of a phase are for the reaction, and are reported apart.
const REACTION: u32 = 10;
const WEB: &str = "web";

/// What happens for a while.
#[derive(Clone, Copy, Debug)]
struct Phase {
    name: &'static str,
    /// CPU-bound guests that run.
    neighbours: usize,
    /// Whether clients ask the server.
    load: bool,
}

/// The second one is that of the by-hand figures in lab.md 8. In those without load or without neighbours nothing is to be
/// done. What a phase has brought the next one finds.
const PHASES: [Phase; 6] = [
    Phase { name: "alone", neighbours: 0, load: true },
    Phase { name: "two", neighbours: 2, load: true },
    Phase { name: "idle", neighbours: 2, load: false },
    Phase { name: "one", neighbours: 1, load: true },
    Phase { name: "four", neighbours: 4, load: true },
    Phase { name: "six", neighbours: 6, load: true },
];
const ALONE: &str = "alone";
const TWO: &str = "two";
const IDLE: &str = "idle";
const NEIGHBOURS: u8 = 6;

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings<'a> {
    pub(super) peers: &'a [Peer],
    pub(super) rounds: u32,
    /// Of a phase.
    pub(super) seconds: u32,
    /// Whether the guests have agents, that kvmpilot then polls.
    pub(super) agents: bool,
}

pub(super) fn run(settings: Settings<'_>, json: Option<&Path>) -> Result<()> {
    let Settings { peers, rounds, seconds, agents } = settings;
    ensure!(seconds > REACTION, "a phase lasts more than {REACTION} s: give --seconds {}", REACTION + 10);
    build_daemon()?;
    let agents = if agents { " --agents" } else { "" };
    let mut machine =
        Machine::look(format!("cargo xtask bench contention --rounds {rounds} --seconds {seconds}{agents}"))?;
    say(&format!("a server and {NEIGHBOURS} neighbours"));
    let bench = Bench::start(settings)?;
    machine.accel = bench.lab.accel().to_string();
    let mut absent = Vec::new();
    let mut present = Vec::new();
    for peer in peers {
        match peer.refusal()? {
            Some(why) => absent.push((peer.name(), why)),
            None => present.push(*peer),
        }
    }
    let mut measured = Vec::new();
    for round in 1..=rounds {
        let mut contestants = Vec::new();
        // Who comes last finds another machine than who came first; with an even number of rounds all find the same.
        let order: Vec<Peer> =
            if round % 2 == 1 { present.clone() } else { present.iter().rev().copied().collect() };
        for peer in order {
            contestants.push((peer.name(), bench.through_all(peer, round)?));
        }
        measured.push(Round { contestants });
    }
    bench.lab.stop()?;
    let report = report::report(machine, measured, absent);
    report.print();
    write(&report, json)
}

struct Bench {
    lab: Lab,
    seconds: u32,
}

fn neighbours() -> impl Iterator<Item = String> {
    (1..=NEIGHBOURS).map(|number| format!("batch{number}"))
}

impl Bench {
    fn start(settings: Settings<'_>) -> Result<Self> {
        let agent = |guest: GuestSpec| if settings.agents { guest } else { guest.without_agent() };
        let web = GuestSpec::new(WEB, 11).vcpus(2).memory_mib(256).runs(Work::Http);
        let mut guests = vec![agent(web.runs(Work::Metronome("metronome".to_owned())))];
        for (name, octet) in neighbours().zip(21..) {
            let cruncher = |number| Work::Cruncher(format!("cruncher{number}"));
            let batch = GuestSpec::new(&name, octet).vcpus(2).memory_mib(256);
            guests.push(agent(batch.runs(cruncher(1)).runs(cruncher(2))));
        }
        let lab = Lab::start(&LabOptions { guests: Vec::new() })?;
        let mut bench = Self { lab, seconds: settings.seconds };
        // One after the other: each burns CPU as soon as it runs.
        for guest in &guests {
            bench.lab.boot(guest)?;
            bench.lab.wait_booted(BOOT)?;
            if guest.name != WEB {
                bench.lab.virsh(&["suspend", &guest.name])?;
            }
        }
        bench.lab.outweigh_the_machine(2)?;
        wait_for("the server", BOOT, || bench.load(1).map(drop))?;
        Ok(bench)
    }

    fn load(&self, seconds: u32) -> Result<kvmpilot_tests::HttpReport> {
        self.lab.http_load(&HttpLoad { guest: WEB.to_owned(), connections: CONNECTIONS, seconds })
    }

    fn through_all(&self, peer: Peer, round: u32) -> Result<Vec<Measured>> {
        let mut contestant = Contestant::start(peer, &self.lab, round)?;
        let phases = PHASES.iter().map(|phase| {
            let measured = self.through(*phase, &contestant).with_context(|| contestant.log())?;
            println!("    round {round}, {:<8} {}", peer.name(), measured.line());
            Ok(measured)
        });
        let phases = phases.collect::<Result<Vec<_>>>();
        contestant.stop()?;
        self.run_neighbours(0)?;
        phases
    }

    /// Has so many neighbours run, and no more.
    fn run_neighbours(&self, count: usize) -> Result<()> {
        for (at, name) in neighbours().enumerate() {
            let runs = self.lab.virsh(&["domstate", &name])?.trim() == "running";
            match (runs, at < count) {
                (true, false) => drop(self.lab.virsh(&["suspend", &name])?),
                (false, true) => drop(self.lab.virsh(&["resume", &name])?),
                _ => {}
            }
        }
        Ok(())
    }

    fn through(&self, phase: Phase, contestant: &Contestant<'_>) -> Result<Measured> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH);
        let began = now()?;
        self.run_neighbours(phase.neighbours)?;
        let changed = now()?;
        let mut measured = Measured { phase: phase.name.to_owned(), ..Measured::default() };
        let work = |seconds: u32| -> Result<_> {
            if phase.load {
                return self.load(seconds).map(Some);
            }
            std::thread::sleep(Duration::from_secs(seconds.into()));
            Ok(None)
        };
        measured.first = work(REACTION)?;
        let before = self.look(phase)?;
        measured.http = work(self.seconds - REACTION)?;
        let after = self.look(phase)?;
        measured.seconds = (after.at - before.at).as_secs_f64();
        measured.server_cpu_s = after.server_cpu_s - before.server_cpu_s;
        measured.neighbours_cpu_s = after.neighbours_cpu_s - before.neighbours_cpu_s;
        let rates = after.neighbours.iter().zip(&before.neighbours);
        measured.units_per_second =
            rates.map(|(after, before)| after.work_since(before)).collect::<Result<_>>()?;
        let wakes = &after.web.wakes[before.web.wakes.len()..];
        let wake = |value: fn(&Wakes) -> f64| median(wakes.iter().map(value));
        measured.wake_p50_us = wake(|wakes| wakes.p50_us);
        measured.wake_p99_us = wake(|wakes| wakes.p99_us);
        measured.wake_max_us = wakes.iter().map(|wakes| wakes.max_us).fold(0.0, f64::max);
        contestant.account(began, changed, &mut measured)?;
        Ok(measured)
    }

    fn look(&self, phase: Phase) -> Result<Look> {
        let running: Vec<String> = neighbours().take(phase.neighbours).collect();
        Ok(Look {
            at: Instant::now(),
            web: self.lab.told(WEB)?,
            neighbours: running.iter().map(|name| self.lab.told(name)).collect::<Result<_>>()?,
            server_cpu_s: self.cpu_s(WEB)?,
            neighbours_cpu_s: running.iter().map(|name| self.cpu_s(name)).sum::<Result<f64>>()?,
        })
    }

    /// CPU time of a guest's QEMU until now.
    fn cpu_s(&self, guest: &str) -> Result<f64> {
        cpu_s(self.lab.qemu_pid(guest)?)
    }
}

/// What can be read at one moment.
struct Look {
    at: Instant,
    web: Told,
    neighbours: Vec<Told>,
    server_cpu_s: f64,
    neighbours_cpu_s: f64,
}
