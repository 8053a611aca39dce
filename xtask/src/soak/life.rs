//! One life of the daemon, from its start to its end by whatever hand, and what has to be true when it is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{Held, api, wait_for};
use serde_json::Value;

use super::cadence::Cadence;
use super::reading::{Reading, check_growth};
use super::summary::LifeSummary;
use super::world::Soak;
use super::{Broken, PATIENCE};

/// Health may be red so long after a start: libvirt has to be reached and what was left to be put back.
const SETTLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Life<'a> {
    pub(super) daemon: Daemon<'a>,
    pub(super) began: Instant,
    pub(super) cadence: Cadence,
    pub(super) readings: Vec<Reading>,
    /// Processes that have ended and of which it held something, since when.
    pub(super) dead: BTreeMap<u32, Instant>,
    pub(super) status: Value,
}

impl Soak<'_> {
    /// Starts the daemon with this configuration.
    pub(super) fn begin_life(&mut self, config: &str) -> Result<()> {
        // In a session, and so in a scheduler's group, of its own, as a service has its cgroup: what the soak does besides, and
        // whoever shares its session, is not to take the daemon's part of the pcpus.
        let daemon = self.lab.start_wrapped_daemon("d", config, &["setsid"]).context(Broken)?;
        let cadence = Cadence::follow(&daemon.socket(), daemon.process_id())?;
        let status = api::get(&daemon.socket(), "/api/v1/status")?;
        self.life = Some(Life {
            daemon,
            began: Instant::now(),
            cadence,
            readings: Vec::new(),
            dead: BTreeMap::new(),
            status,
        });
        self.health.excuse(SETTLE);
        self.void = self.newest_order();
        Ok(())
    }

    /// Stops the daemon as systemd would. Everything has to go back, unless some guest is out of reach.
    pub(super) fn end_life(&mut self) -> Result<String> {
        let out_of_reach = self.out_of_reach();
        let (held, began) = (self.last_look("stopped")?, Instant::now());
        let Some(life) = self.life.take() else { return Ok("the daemon was down".to_owned()) };
        let log = life.daemon.log();
        let status = life.daemon.stop().context(Broken)?;
        let took = began.elapsed();
        if !status.success() && out_of_reach.is_empty() {
            return Err(anyhow::anyhow!("kvmpilotd ended with {status}; it had said:\n{}", tail(&log)))
                .context(Broken);
        }
        self.objects_are_gone(&held)?;
        let but = if out_of_reach.is_empty() {
            String::new()
        } else {
            format!(", with {} out of reach", out_of_reach.join(", "))
        };
        Ok(format!("stopped in {:.1} s ({status}){but}", took.as_secs_f64()))
    }

    /// Kills the daemon.
    pub(super) fn kill_life(&mut self) -> Result<()> {
        let held = self.last_look("killed")?;
        let Some(life) = self.life.take() else { return Ok(()) };
        life.daemon.kill().context(Broken)?;
        self.objects_are_gone(&held)
    }

    /// Looks at it for the last time and closes its books.
    fn last_look(&mut self, ended: &str) -> Result<Held> {
        self.check(true)?;
        let life = self.life()?;
        let held = Held::by(life.daemon.process_id())?;
        check_growth(&life.readings).context(Broken)?;
        let summary = LifeSummary::new(life, ended);
        let moves = life.status["orders"]["since_start"].clone();
        self.books.lives.push(summary);
        self.books.add_orders(&moves);
        Ok(held)
    }

    /// With the process go all of its eBPF objects.
    fn objects_are_gone(&self, held: &Held) -> Result<()> {
        wait_for("the eBPF objects to go", PATIENCE, || {
            for object in &held.objects {
                ensure!(!object.exists()?, "left behind: {object:?} of a daemon that has ended");
            }
            Ok(())
        })
        .context(Broken)
    }
}

/// The end of a log.
pub(super) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
