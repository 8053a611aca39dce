//! `bench memory`: guests whose working sets change, on a host that has just as much memory as they take: with nobody who
//! manages it, with MOM, and with kvmpilot. Rounds interleave them; each turn has a lab and guests of its own, freshly booted,
//! with all of their memory touched once, so that nothing is left of the turn before. What is reported are medians, and of the
//! slow-down medians of the rounds' pairs.
//!
//! Nothing is asked of a guest during a turn: what it does and how it fares its own program writes to its console.

mod account;
mod budget;
mod contestant;
mod cpu;
mod figures;
mod mom;
mod schedule;
mod summary;
mod turn;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use self::contestant::{Peer, config};
use self::mom::Checkout;
use self::schedule::{MEMORY_MIB, Plan, plans};
use self::summary::Summary;
use self::turn::Turn;
use super::common::{Machine, build_daemon, write};
use crate::command::say;
use crate::setup;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds of all contestants; medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each contestant's turn; a minute more goes into booting. kvmpilot takes memory in small steps: less than five
    /// minutes show little of it
    #[arg(long, default_value_t = 420, value_parser = clap::value_parser!(u32).range(30..=3600))]
    seconds: u32,
    /// Whom to measure; default: all. Without `none` there is no slow-down
    #[arg(long = "peer", value_enum, value_name = "WHO", num_args = 1..)]
    peers: Vec<Peer>,
    /// A checkout of MOM's source (oVirt/mom on GitHub); without, `mom` does not run
    #[arg(long, value_name = "DIRECTORY")]
    mom: Option<PathBuf>,
    /// Part of the host's memory in percent that is free while nobody manages it
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=60))]
    free: u32,
    /// Seconds of kvmpilot's priority cycle. It takes memory that lay idle for three; by default a cycle is 300, longer than a turn
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(5..=3600))]
    cycle: u32,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The shape of `--json`. kvmpilot's figures are at the top, those of the others under their names.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    machine: Machine,
    seconds: u32,
    /// Part of the host's memory in percent that is free while nobody manages it.
    free_percent: u32,
    kvmpilot_config: String,
    /// Commit of MOM's source.
    mom_version: Option<String>,
    guest_memory_mib: u64,
    guests: Vec<Plan>,
    #[serde(flatten)]
    kvmpilot: Option<Summary>,
    none: Option<Summary>,
    mom: Option<Summary>,
    /// Why it did not, if it was asked for.
    mom_not_run: Option<&'static str>,
    rounds: Vec<Vec<Turn>>,
}

pub(super) fn run(options: &Options) -> Result<()> {
    let (peers, mom, mom_not_run) = who(options)?;
    if mom.is_some() {
        setup::setup(setup::Needs::Mom)?;
    }
    if peers.contains(&Peer::Kvmpilot) {
        build_daemon()?;
    }
    let mut machine = Machine::look(command(options))?;
    let plans = plans(options.seconds);
    let mut rounds = Vec::new();
    for round in 1..=options.rounds {
        let mut turns = Vec::new();
        // Each is first, second and last in turn: what a machine does over time meets all alike.
        let mut order = peers.clone();
        order.rotate_left((round - 1) as usize % peers.len());
        for peer in order {
            say(&format!("round {round}: {}, {} s", name(peer), options.seconds));
            let (turn, accel) = turn::turn(peer, &plans, options, mom.as_ref())?;
            println!("    {turn}");
            machine.accel = accel.to_string();
            turns.push(turn);
        }
        rounds.push(turns);
    }
    let summary = |peer| Summary::new(peer, &rounds);
    let report = Report {
        machine,
        seconds: options.seconds,
        free_percent: options.free,
        kvmpilot_config: config(options.cycle),
        mom_version: mom.map(|mom| mom.version),
        guest_memory_mib: MEMORY_MIB,
        guests: plans,
        kvmpilot: summary(Peer::Kvmpilot),
        none: summary(Peer::None),
        mom: summary(Peer::Mom),
        mom_not_run,
        rounds,
    };
    say("medians");
    for (peer, summary) in
        [(Peer::None, &report.none), (Peer::Mom, &report.mom), (Peer::Kvmpilot, &report.kvmpilot)]
    {
        if let Some(summary) = summary {
            println!("    {:<8} {summary}", name(peer));
        }
    }
    if let Some(why) = mom_not_run {
        println!("    {:<8} was not run: {why}", name(Peer::Mom));
    }
    write(&report, options.json.as_deref())
}

/// Who runs, MOM's source, and why MOM does not run if it should.
fn who(options: &Options) -> Result<(Vec<Peer>, Option<Checkout>, Option<&'static str>)> {
    let mut peers = match &options.peers[..] {
        [] => vec![Peer::None, Peer::Mom, Peer::Kvmpilot],
        peers => peers.to_vec(),
    };
    peers.sort_unstable();
    peers.dedup();
    if !peers.contains(&Peer::Mom) {
        return Ok((peers, None, None));
    }
    match options.mom.as_deref().map(Checkout::find).transpose()? {
        Some(mom) => Ok((peers, Some(mom), None)),
        None => {
            peers.retain(|peer| *peer != Peer::Mom);
            anyhow::ensure!(!peers.is_empty(), "{}", mom::HOW);
            Ok((peers, None, Some(mom::HOW)))
        }
    }
}

fn command(options: &Options) -> String {
    let Options { rounds, seconds, free, cycle, .. } = options;
    let mut command = format!(
        "cargo xtask bench memory --rounds {rounds} --seconds {seconds} --free {free} --cycle {cycle}"
    );
    for peer in &options.peers {
        command += &format!(" --peer {}", name(*peer));
    }
    if options.mom.as_deref().is_some_and(Path::is_dir) {
        command += " --mom DIRECTORY";
    }
    command
}

fn name(peer: Peer) -> &'static str {
    match peer {
        Peer::None => "none",
        Peer::Mom => "mom",
        Peer::Kvmpilot => "kvmpilot",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(peers: &[Peer]) -> Options {
        let (rounds, seconds, free, cycle) = (1, 60, 6, 20);
        Options { rounds, seconds, peers: peers.to_vec(), mom: None, free, cycle, json: None }
    }

    #[test]
    fn without_its_source_mom_does_not_run_and_that_is_said() {
        let (peers, mom, why) = who(&options(&[])).unwrap();
        assert_eq!(peers, [Peer::None, Peer::Kvmpilot]);
        assert!(mom.is_none() && why.is_some_and(|why| why.contains("--mom DIRECTORY")));
        assert!(who(&options(&[Peer::Mom])).unwrap_err().to_string().contains("--mom DIRECTORY"));
        assert!(who(&options(&[Peer::Kvmpilot])).unwrap().2.is_none());
    }
}
