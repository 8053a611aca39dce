//! What happens to guests: their power, their devices, their work. What happens to agents and daemons is in `faults.rs`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::{api, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::deck::Event;
use super::pool::{FILL_MIB, Guest, Power};
use super::world::Soak;
use super::{Broken, PATIENCE};

/// A guest that has changed its state is left out of what asks all guests for so long.
const SETTLE: Duration = Duration::from_secs(20);
/// How long a guest may take to power off, or to let an interface go.
const GUEST: Duration = Duration::from_secs(60);
/// Health may be red so long after a QEMU hung: its domain is asked again after pauses that grow.
const AFTER_HANG: Duration = Duration::from_secs(75);

impl Soak<'_> {
    /// Lets something happen, and tells what. None if there is nobody to whom it could happen.
    pub(super) fn happen(&mut self, event: Event) -> Result<Option<String>> {
        match event {
            Event::Start => self.start(),
            Event::PowerOff => self.power_off(),
            Event::Destroy => self.destroy(),
            Event::Restart => self.restart(),
            Event::Suspend => self.suspend(),
            Event::Resume => self.resume(),
            Event::Save => self.save(),
            Event::PlugVcpu => self.plug_vcpu(),
            Event::AttachInterface => self.attach_interface(),
            Event::DetachInterface => self.detach_interface(),
            Event::QemuHangs => self.qemu_hangs(),
            Event::MoveLoad => Ok(self.move_load().map(|server| format!("to {server}"))),
            Event::Hogs => self.hogs(),
            Event::Memory => self.memory(),
            Event::AgentEnds | Event::AgentIsMute | Event::AgentStops | Event::AgentForbids => {
                self.agent_fails(event)
            }
            Event::LibvirtdKilled => self.libvirtd_ends(Signal::SIGKILL).map(Some),
            Event::LibvirtdRestarted => self.libvirtd_ends(Signal::SIGTERM).map(Some),
            Event::DaemonKilled => self.daemon_is_killed().map(Some),
            Event::DaemonRestarted => self.daemon_is_restarted().map(Some),
            Event::DaemonReloaded => self.daemon_is_reloaded().map(Some),
            Event::Restore => self.restore().map(Some),
            Event::Audit => self.audit().map(Some),
        }
    }

    fn start(&mut self) -> Result<Option<String>> {
        let Some(at) = self.pick(|guest| guest.power == Power::Off) else { return Ok(None) };
        self.lab.virsh(&["start", self.guests[at].name()])?;
        Ok(Some(self.new_life(at)))
    }

    fn new_life(&mut self, at: usize) -> String {
        let newest = self.newest_order();
        self.guests[at].begin_life(newest);
        self.guests[at].name().to_owned()
    }

    fn power_off(&mut self) -> Result<Option<String>> {
        let Some(at) = self.pick_well(|guest| guest.spec.agent) else { return Ok(None) };
        let name = self.guests[at].name().to_owned();
        self.lab.guest_start(&name, "sleep 1; poweroff -f")?;
        wait_for(&format!("{name} to power off"), GUEST, || {
            let state = self.lab.virsh(&["domstate", &name])?;
            ensure!(state.trim() == "shut off", "it is {state}");
            Ok(())
        })?;
        self.guests[at].power = Power::Off;
        Ok(Some(name))
    }

    fn destroy(&mut self) -> Result<Option<String>> {
        let Some(at) = self.pick(|guest| guest.power != Power::Off && !guest.is_sick()) else {
            return Ok(None);
        };
        self.lab.virsh(&["destroy", self.guests[at].name()])?;
        self.guests[at].power = Power::Off;
        Ok(Some(self.guests[at].name().to_owned()))
    }

    fn restart(&mut self) -> Result<Option<String>> {
        let Some(at) = self.pick(|guest| guest.power == Power::On) else { return Ok(None) };
        self.lab.virsh(&["destroy", self.guests[at].name()])?;
        self.guests[at].power = Power::Off;
        self.lab.virsh(&["start", self.guests[at].name()])?;
        Ok(Some(self.new_life(at)))
    }

    fn suspend(&mut self) -> Result<Option<String>> {
        let Some(at) = self.pick(|guest| guest.power == Power::On && !guest.is_sick()) else {
            return Ok(None);
        };
        self.lab.virsh(&["suspend", self.guests[at].name()])?;
        self.guests[at].power = Power::Paused;
        Ok(Some(self.guests[at].name().to_owned()))
    }

    fn resume(&mut self) -> Result<Option<String>> {
        let Some(at) = self.pick(|guest| guest.power == Power::Paused) else { return Ok(None) };
        self.lab.virsh(&["resume", self.guests[at].name()])?;
        self.guests[at].power = Power::On;
        self.guests[at].sick_for(SETTLE);
        Ok(Some(self.guests[at].name().to_owned()))
    }

    /// Its image has our values in it, and they have to go back.
    fn save(&mut self) -> Result<Option<String>> {
        let Some(at) = self.pick_well(|_| true) else { return Ok(None) };
        let name = self.guests[at].name().to_owned();
        self.lab.virsh(&["managedsave", &name])?;
        let newest = self.newest_order();
        self.lab.virsh(&["start", &name])?;
        self.guests[at].since = newest;
        self.guests[at].sick_for(SETTLE);
        Ok(Some(name))
    }

    fn plug_vcpu(&mut self) -> Result<Option<String>> {
        let room = |guest: &Guest| guest.spec.most_vcpus > Some(guest.spec.vcpus + guest.plugged);
        let Some(at) = self.pick_well(room) else { return Ok(None) };
        let (name, vcpus) = (self.guests[at].name().to_owned(), self.guests[at].spec.vcpus + 1);
        self.lab.virsh(&["setvcpus", &name, &vcpus.to_string(), "--live"])?;
        self.guests[at].plugged += 1;
        self.is_shown(&name, "vcpus", vcpus)?;
        Ok(Some(format!("{name} has {vcpus}")))
    }

    fn attach_interface(&mut self) -> Result<Option<String>> {
        let Some(at) = self.pick_well(|guest| !guest.second_interface) else { return Ok(None) };
        let (name, mac) = (self.guests[at].name().to_owned(), self.guests[at].second_mac());
        let words =
            ["attach-interface", &name, "bridge", "br0", "--mac", &mac, "--model", "virtio", "--live"];
        self.lab.virsh(&words)?;
        self.guests[at].second_interface = true;
        self.is_shown(&name, "interfaces", 2)?;
        Ok(Some(name))
    }

    fn detach_interface(&mut self) -> Result<Option<String>> {
        let Some(at) = self.pick_well(|guest| guest.second_interface) else { return Ok(None) };
        let (name, mac) = (self.guests[at].name().to_owned(), self.guests[at].second_mac());
        self.lab.virsh(&["detach-interface", &name, "bridge", "--mac", &mac, "--live"])?;
        // The guest has a say in it.
        wait_for(&format!("{name} to let its interface go"), GUEST, || {
            ensure!(!self.lab.virsh(&["domiflist", &name])?.contains(&mac), "it still has it");
            Ok(())
        })?;
        self.guests[at].second_interface = false;
        self.is_shown(&name, "interfaces", 1)?;
        Ok(Some(name))
    }

    /// The daemon has to see it soon.
    fn is_shown(&self, name: &str, what: &str, wanted: u32) -> Result<()> {
        let socket = self.life()?.daemon.socket();
        wait_for(&format!("the daemon to show {wanted} {what} of {name}"), PATIENCE, || {
            let view = api::get(&socket, &format!("/api/v1/domains/{name}"))?;
            let count = view[what].as_array().context("no list")?.len();
            ensure!(count == wanted as usize, "it shows {count}");
            Ok(())
        })
        .context(Broken)
    }

    fn qemu_hangs(&mut self) -> Result<Option<String>> {
        let Some(at) = self.pick_well(|_| true) else { return Ok(None) };
        let name = self.guests[at].name().to_owned();
        let qemu = Pid::from_raw(i32::try_from(self.lab.qemu_pid(&name)?)?);
        let time = Duration::from_secs(self.rng.u64(4..=10));
        self.health.excuse(time + AFTER_HANG);
        self.guests[at].sick_for(time + AFTER_HANG);
        kill(qemu, Signal::SIGSTOP)?;
        // Nobody is asked meanwhile who may need it: only the daemon is looked at.
        let rested = self.rest_without_guests(time);
        kill(qemu, Signal::SIGCONT)?;
        rested?;
        Ok(Some(format!("{name}, for {time:?}")))
    }

    fn hogs(&mut self) -> Result<Option<String>> {
        let Some(at) = self.pick_well(|guest| guest.spec.agent && !guest.hogs().is_empty()) else {
            return Ok(None);
        };
        let guest = &self.guests[at];
        let (signal, what) = if guest.calm { ("CONT", "go on") } else { ("STOP", "stop") };
        self.inside(at, &format!("kill -{signal} $(pidof {})", guest.hogs().join(" ")))?;
        let guest = &mut self.guests[at];
        guest.calm = !guest.calm;
        Ok(Some(format!("those of {} {what}", guest.name())))
    }

    /// Files in its root directory are in memory.
    fn memory(&mut self) -> Result<Option<String>> {
        let spare = |guest: &Guest| guest.spec.agent && guest.spec.memory_mib > 7 * FILL_MIB;
        let Some(at) = self.pick_well(spare) else { return Ok(None) };
        let (script, what) = if self.guests[at].filled {
            ("rm -f /filled".to_owned(), "gives back")
        } else {
            (format!("dd if=/dev/zero of=/filled bs=1M count={FILL_MIB} 2>/dev/null"), "takes")
        };
        self.inside(at, &script)?;
        let guest = &mut self.guests[at];
        guest.filled = !guest.filled;
        Ok(Some(format!("{} {what} {FILL_MIB} MiB", guest.name())))
    }

    /// As [`Soak::pick`], of those that can be asked now.
    pub(super) fn pick_well(&mut self, wanted: impl Fn(&Guest) -> bool) -> Option<usize> {
        let well = self.well();
        self.pick(|guest| well.iter().any(|name| name == guest.name()) && wanted(guest))
    }
}
