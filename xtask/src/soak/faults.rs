//! What happens to agents, to libvirtd and to the daemon itself.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvmpilot_tests::{api, wait_for};
use nix::sys::signal::Signal;

use super::deck::Event;
use super::world::Soak;
use super::{AUTO, Broken, OBSERVE, PATIENCE};

/// How long an agent is out of order.
const OUT: Duration = Duration::from_secs(25);
/// From then on until it is expected to answer: it is started by a shell, on a guest that may be busy.
const RECOVERY: Duration = Duration::from_secs(35);
/// Health may be red so long after libvirtd has come back.
const RECONNECT: Duration = Duration::from_secs(60);

impl Soak<'_> {
    /// An agent fails, and after a while is as before: the guest sees to that itself, because nobody could tell it.
    pub(super) fn agent_fails(&mut self, event: Event) -> Result<Option<String>> {
        let Some(at) = self.pick_well(|guest| guest.spec.agent) else { return Ok(None) };
        let out = OUT.as_secs();
        let fails = match event {
            Event::AgentEnds => format!("kill $(pidof qemu-ga); sleep {out}; $ga"),
            // Somebody else holds the port, and says nothing.
            Event::AgentIsMute => format!(
                "kill $(pidof qemu-ga); sleep 1; exec 3<>/dev/virtio-ports/org.qemu.guest_agent.0; sleep {out}; exec 3>&-; $ga"
            ),
            Event::AgentStops => {
                format!("kill -STOP $(pidof qemu-ga); sleep {out}; kill -CONT $(pidof qemu-ga)")
            }
            Event::AgentForbids => format!(
                "kill $(pidof qemu-ga); sleep 1; $ga -b guest-exec; sleep {out}; kill $(pidof qemu-ga); sleep 1; $ga"
            ),
            other => bail!("{other:?} is nothing that happens to an agent"),
        };
        let script = format!(
            "ga=$(tr '\\000' ' ' </proc/$(pidof qemu-ga)/cmdline); (sleep 1; {fails}) </dev/null >/dev/null 2>&1 &"
        );
        // First: an order that is given up after 5 s may be carried out after 6.
        self.guests[at].sick_for(OUT + RECOVERY);
        self.inside(at, &script)?;
        Ok(Some(self.guests[at].name().to_owned()))
    }

    /// libvirtd ends and comes back after a moment; the guests go on.
    pub(super) fn libvirtd_ends(&mut self, signal: Signal) -> Result<String> {
        let pause = Duration::from_millis(self.rng.u64(500..=5_000));
        self.health.excuse(pause + RECONNECT);
        self.lab.end_libvirtd(signal)?;
        if let Some(mut ended) = self.libvirtd.take() {
            ended.wait()?;
        }
        let rested = self.rest_without_guests(pause);
        // In any case: nothing works without it.
        self.libvirtd = Some(self.lab.start_libvirtd()?);
        rested?;
        let socket = self.life()?.daemon.socket();
        wait_for("the daemon to be connected again", PATIENCE, || {
            let libvirt = api::get(&socket, "/api/v1/status")?["libvirt"].clone();
            ensure!(libvirt["connected"] == true, "{libvirt}");
            Ok(())
        })
        .context(Broken)?;
        Ok(format!("{signal}, and back after {pause:?}"))
    }

    /// SIGKILL. The next one puts everything back before it does anything else.
    pub(super) fn daemon_is_killed(&mut self) -> Result<String> {
        self.kill_life()?;
        // What happens meanwhile nobody sees.
        std::thread::sleep(Duration::from_millis(self.rng.u64(0..=3_000)));
        self.begin_life(OBSERVE)?;
        let whom = self.well();
        self.values_are_back(&whom)?;
        self.void = self.newest_order();
        self.life()?.daemon.reload(AUTO)?;
        Ok(format!("the next one put back what {} guests had", whom.len()))
    }

    /// Stopped and started; while it is down every value is what it was.
    pub(super) fn daemon_is_restarted(&mut self) -> Result<String> {
        let whom = self.well();
        let what = self.end_life()?;
        self.values_are_back(&whom)?;
        self.begin_life(AUTO)?;
        Ok(format!("{what}; the values of {} guests were what they were", whom.len()))
    }

    /// A configuration that does not change anything.
    pub(super) fn daemon_is_reloaded(&mut self) -> Result<String> {
        self.life()?.daemon.reload(AUTO)?;
        Ok("with the same configuration".to_owned())
    }
}
