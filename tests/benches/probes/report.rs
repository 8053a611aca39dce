//! The figures as JSON and as a verdict.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use kvmpilot::kernel::Kernel;
use kvmpilot_tests::output_of;
use serde::Serialize;

use crate::packets::Packets;
use crate::rounds::{Figure, Quartiles};
use crate::{UNWATCHED_GOAL_NS, WATCHED_GOAL_NS};

/// Times in ns. A switch is one context switch; an exit is an exit with its entry.
#[derive(Serialize)]
pub(crate) struct Report {
    date: String,
    machine: String,
    kernel: String,
    rounds: usize,
    switch_alone_ns: f64,
    floor_ns: f64,
    watched_ns: f64,
    unwatched_ns: f64,
    watched_over_floor_ns: f64,
    /// The same in floors, for comparing machines.
    watched_over_floor_ratio: f64,
    watched_over_floor_goal_ns: f64,
    unwatched_over_floor_ns: f64,
    unwatched_over_floor_ratio: f64,
    unwatched_over_floor_goal_ns: f64,
    hash_ktime_design_ns: f64,
    wake_latency_ns: f64,
    wake_latency_of_others_ns: f64,
    exit_floor_ns: f64,
    kvm_exit_ns: f64,
    kvm_exit_of_others_ns: f64,
    /// What stood in for KVM's events.
    kvm_exit_on: &'static str,
    packet_floor_ns: f64,
    flow_ns_per_packet: f64,
    quartiles: Vec<Spread>,
}

/// Quartiles of one figure over the bare workload, and over the floor.
#[derive(Serialize)]
struct Spread {
    name: &'static str,
    rounds: usize,
    unsteady_rounds: usize,
    over_bare_ns: [f64; 3],
    over_floor_ns: [f64; 3],
}

impl Report {
    /// The figures are those of the subjects, in their order in `main`.
    pub(crate) fn new(
        rounds: usize,
        switches: &[Figure],
        exits: &[Figure],
        kvm_exit_on: &'static str,
        packets: Packets,
    ) -> Self {
        let median = |figure: &Figure| round(Quartiles::of(&figure.over_bare).median);
        let over_floor = |figure: &Figure| round(Quartiles::of(&figure.over_floor).median);
        let floor = Quartiles::of(&switches[0].over_bare).median;
        let in_floors =
            |figure: &Figure| (Quartiles::of(&figure.over_floor).median / floor * 100.0).round() / 100.0;
        Self {
            date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            machine: machine(),
            kernel: Kernel::default().release().unwrap_or_default(),
            rounds,
            switch_alone_ns: round(Quartiles::of(&switches[0].bare).median),
            floor_ns: median(&switches[0]),
            watched_ns: median(&switches[1]),
            unwatched_ns: median(&switches[2]),
            watched_over_floor_ns: over_floor(&switches[1]),
            watched_over_floor_ratio: in_floors(&switches[1]),
            watched_over_floor_goal_ns: WATCHED_GOAL_NS,
            unwatched_over_floor_ns: over_floor(&switches[2]),
            unwatched_over_floor_ratio: in_floors(&switches[2]),
            unwatched_over_floor_goal_ns: UNWATCHED_GOAL_NS,
            hash_ktime_design_ns: median(&switches[3]),
            wake_latency_ns: median(&switches[4]),
            wake_latency_of_others_ns: median(&switches[5]),
            exit_floor_ns: median(&exits[0]),
            kvm_exit_ns: median(&exits[1]),
            kvm_exit_of_others_ns: median(&exits[2]),
            kvm_exit_on,
            packet_floor_ns: round(packets.floor.median),
            flow_ns_per_packet: round(packets.flow.median),
            quartiles: switches.iter().chain(exits).map(spread).collect(),
        }
    }

    pub(crate) fn print(&self) {
        let verdict = |value: f64, goal: f64| if value <= goal { "reached" } else { "missed" };
        println!(
            "watched over the floor: {} ns ({} floors), goal {WATCHED_GOAL_NS}: {}",
            self.watched_over_floor_ns,
            self.watched_over_floor_ratio,
            verdict(self.watched_over_floor_ns, WATCHED_GOAL_NS)
        );
        println!(
            "unwatched over the floor: {} ns ({} floors), goal {UNWATCHED_GOAL_NS}: {}",
            self.unwatched_over_floor_ns,
            self.unwatched_over_floor_ratio,
            verdict(self.unwatched_over_floor_ns, UNWATCHED_GOAL_NS)
        );
        println!(
            "the usual design: {} ns where ours takes {} ns",
            self.hash_ktime_design_ns, self.watched_ns
        );
        println!(
            "an exit with its entry: {} ns, {} ns over empty programs",
            self.kvm_exit_ns,
            round(self.kvm_exit_ns - self.exit_floor_ns)
        );
        println!("a packet through the flow program: {} ns", self.flow_ns_per_packet);
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

fn spread(figure: &Figure) -> Spread {
    let quartiles = |values: &[f64]| {
        let Quartiles { q1, median, q3 } = Quartiles::of(values);
        [q1, median, q3].map(round)
    };
    Spread {
        name: figure.name,
        rounds: figure.over_bare.len(),
        unsteady_rounds: figure.unsteady,
        over_bare_ns: quartiles(&figure.over_bare),
        over_floor_ns: quartiles(&figure.over_floor),
    }
}

/// Tenths are as fine as this gets.
fn round(ns: f64) -> f64 {
    (ns * 10.0).round() / 10.0
}

fn machine() -> String {
    let model = said("sh", &["-c", "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1"]);
    format!("{} x {model}", said("nproc", &[]))
}

fn said(program: &str, arguments: &[&str]) -> String {
    output_of(Command::new(program).args(arguments))
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
