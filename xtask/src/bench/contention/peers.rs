//! Who is to keep the server quick.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{Lab, Witness, wait_for};
use serde_json::Value;

use super::report::Measured;
use super::{WEB, neighbours};

const PATIENCE: Duration = Duration::from_secs(60);
/// No class, no weight, no pin, and the periods that it has by default.
const CONFIG: &str = "[modes]\ndefault = \"auto\"\nballoon = \"observe\"\n";
/// Weights that somebody gives who knows who is who (lab.md 8), once and for all.
const STATIC_WEIGHTS: [&str; 2] = ["8192", "128"];

/// A contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Equal weights, as libvirt makes them
    None,
    /// `cpu_shares` 8192 for the server and 128 for its neighbours, set by hand for good
    Static,
    /// numad, which moves guests between NUMA nodes
    Numad,
    /// oVirt's MOM
    Mom,
    /// kvmpilotd in mode auto, told nothing about the guests
    Kvmpilot,
}

impl Peer {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Static => "static",
            Self::Numad => "numad",
            Self::Mom => "mom",
            Self::Kvmpilot => "kvmpilot",
        }
    }

    /// Why it cannot take part here, if so.
    pub(super) fn refusal(self) -> Result<Option<String>> {
        Ok(match self {
            Self::Mom => {
                Some("its policy is about memory; it has nothing for CPU weights or pins".to_owned())
            }
            Self::Numad => {
                let nodes =
                    std::fs::read_dir("/sys/devices/system/node").context("cannot list NUMA nodes")?;
                let is_node =
                    |name: &str| name.strip_prefix("node").is_some_and(|rest| rest.parse::<u32>().is_ok());
                let nodes =
                    nodes.flatten().filter(|entry| is_node(&entry.file_name().to_string_lossy())).count();
                Some(match nodes {
                    0 | 1 => "it moves guests between NUMA nodes, and there is one".to_owned(),
                    _ => "it works on the whole machine, not on a lab of it: run it there by hand".to_owned(),
                })
            }
            Self::None | Self::Static | Self::Kvmpilot => None,
        })
    }
}

/// One at work. It takes back what it did with [`Contestant::stop`].
pub(super) struct Contestant<'a> {
    lab: &'a Lab,
    peer: Peer,
    before: Witness,
    daemon: Option<Daemon<'a>>,
}

impl<'a> Contestant<'a> {
    pub(super) fn start(peer: Peer, lab: &'a Lab, round: u32) -> Result<Self> {
        let names = all_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let before = Witness::look_outside(lab, &names)?;
        let daemon = match peer {
            Peer::Kvmpilot => Some(lab.start_daemon(&format!("contention{round}"), CONFIG)?),
            _ => None,
        };
        let this = Self { lab, peer, before, daemon };
        if peer == Peer::Static {
            for name in names {
                this.weigh(name, STATIC_WEIGHTS[usize::from(name != WEB)])?;
            }
        }
        Ok(this)
    }

    fn weigh(&self, name: &str, weight: &str) -> Result<()> {
        let set = format!("cpu_shares={weight}");
        self.lab.virsh(&["schedinfo", name, "--live", "--set", &set]).map(drop)
    }

    /// What its daemon said, for an error.
    pub(super) fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// What it did since a phase began, and how long after all its neighbours ran and the load came back (times since 1970).
    pub(super) fn account(&self, began: Duration, changed: Duration, measured: &mut Measured) -> Result<()> {
        let Some(daemon) = &self.daemon else { return Ok(()) };
        let orders = daemon.orders()?;
        let at = |order: &Value| order["created_unix_ms"].as_u64().map(u128::from).unwrap_or_default();
        let fresh: Vec<&Value> = orders.iter().filter(|order| at(order) >= began.as_millis()).collect();
        measured.actions = fresh.len();
        // Newest first. When it was in force is in its own history only.
        if let Some(first) = fresh.last() {
            let order = daemon.json(&["orders", "show", &first["id"].to_string()])?;
            let history = order["history"].as_array().into_iter().flatten();
            let done = history.filter(|event| event["state"] == "verified");
            let done = done.filter_map(|event| event["unix_ms"].as_u64()).next();
            measured.reaction_s =
                done.map(|done| Duration::from_millis(done).saturating_sub(changed).as_secs_f64());
        }
        Ok(())
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            ensure!(daemon.stop()?.success(), "kvmpilotd did not end well");
        }
        let names = all_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if self.peer == Peer::Static {
            for name in &names {
                self.weigh(name, &self.before.shares[*name].to_string())?;
            }
        }
        wait_for("everything to be back", PATIENCE, || {
            Witness::look_outside(self.lab, &names)?.is_as(&self.before)
        })
    }
}

fn all_names() -> Vec<String> {
    std::iter::once(WEB.to_owned()).chain(neighbours()).collect()
}
