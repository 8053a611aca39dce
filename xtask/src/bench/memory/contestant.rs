//! Who manages the guests' memory in a turn: nobody, MOM or kvmpilot. Started, watched and ended alike.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use kvmpilot_tests::Lab;
use kvmpilot_tests::daemon::Daemon;
use serde::Serialize;

use super::mom::{Checkout, Mom};
use crate::bench::common::cpu_s;

/// Whom to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Peer {
    /// Nobody: what the others are compared with
    None,
    /// oVirt's Memory Overcommitment Manager, with the policy that it ships
    Mom,
    /// kvmpilot, with its own
    Kvmpilot,
}

/// What it took.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Effort {
    /// Balloons that were set, by reason.
    pub(super) actions: BTreeMap<String, u64>,
    /// CPU time since it was started, without libvirtd's.
    pub(super) cpu_s: f64,
    pub(super) rss_mib: u64,
}

/// One that runs.
#[derive(Debug)]
pub(super) enum Running<'a> {
    None,
    Mom(Mom),
    Kvmpilot(Daemon<'a>),
}

/// kvmpilot's configuration: what it ships, and leave to move balloons. Only its priority cycle is shorter. Memory that lay idle
/// for three cycles is taken, which is a quarter of an hour where a cycle is five minutes: a run of some minutes would end before
/// it began.
pub(super) fn config(cycle_s: u32) -> String {
    format!("[modes]\nballoon = \"auto\"\n[loops]\ncycle = \"{cycle_s}s\"\n[overhead]\n")
}

impl<'a> Running<'a> {
    pub(super) fn start(peer: Peer, lab: &'a Lab, mom: Option<&Checkout>, cycle_s: u32) -> Result<Self> {
        Ok(match peer {
            Peer::None => Self::None,
            Peer::Mom => Self::Mom(mom.context("MOM has no source")?.start(lab)?),
            Peer::Kvmpilot => Self::Kvmpilot(lab.start_daemon("bench", &config(cycle_s))?),
        })
    }

    /// Fails when it has ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Mom(mom) => mom.check(),
            Self::Kvmpilot(daemon) => {
                let lives = fs::exists(format!("/proc/{}/exe", daemon.process_id()))?;
                ensure!(lives, "kvmpilotd has ended; it said:\n{}", daemon.log());
                Ok(())
            }
        }
    }

    /// What it has done so far.
    pub(super) fn effort(&self) -> Result<Effort> {
        match self {
            Self::None => Ok(Effort::default()),
            Self::Mom(mom) => {
                let actions = BTreeMap::from([("balloon.rules".to_owned(), mom.actions()?)]);
                used(mom.process_id(), actions)
            }
            Self::Kvmpilot(daemon) => used(daemon.process_id(), balloons_set(daemon)?),
        }
    }

    /// Ends it as an administrator would.
    pub(super) fn stop(self) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Mom(mom) => mom.stop(),
            Self::Kvmpilot(daemon) => {
                ensure!(daemon.stop()?.success(), "kvmpilotd did not end well");
                Ok(())
            }
        }
    }
}

/// Orders about balloons that were carried out, by rule.
fn balloons_set(daemon: &Daemon<'_>) -> Result<BTreeMap<String, u64>> {
    let mut actions = BTreeMap::new();
    for order in daemon.orders()? {
        let state = order["state"].as_str().context("an order has no state")?;
        let done = ["applied", "verified", "kept", "rolled_back"].contains(&state);
        if done && order["action"]["kind"] == "set_balloon" {
            let rule = order["reason"]["rule"].as_str().context("an order has no rule")?;
            *actions.entry(rule.to_owned()).or_default() += 1;
        }
    }
    Ok(actions)
}

fn used(pid: u32, actions: BTreeMap<String, u64>) -> Result<Effort> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let rss =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    let rss: u64 = rss.with_context(|| format!("process {pid} has no VmRSS"))?;
    Ok(Effort { actions, cpu_s: cpu_s(pid)?, rss_mib: rss / 1024 })
}
