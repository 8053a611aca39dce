//! Guests of the host: those of the lab, under KVM.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{HostVm, PAYLOAD, images};
use crate::Accel;
use crate::GuestSpec;
use crate::agent::exec;
use crate::domain_xml::{Site, domain_xml};
use crate::image::Image;
use crate::run::wait_for;

/// Where libvirt puts guests on a host with systemd: `machine.slice`.
const PARTITION: &str = "machine";
const CONSOLES: &str = "/var/log/libvirt/qemu";

impl HostVm {
    /// Defines a guest, without starting it.
    ///
    /// # Errors
    /// When libvirt refuses, or the guest has disks: only the lab makes those.
    pub fn define(&self, guest: &GuestSpec) -> Result<()> {
        ensure!(guest.disks_mib.is_empty(), "{}: guests of the host VM have no disks", guest.name);
        let directory = Path::new(PAYLOAD).join("guests");
        let image = Image {
            kernel: directory.join(images::KERNEL),
            initramfs: directory.join(images::initramfs(guest.system)),
        };
        let consoles = Path::new(CONSOLES);
        let site =
            Site { image: &image, accel: Accel::Kvm, partition: PARTITION, logs: consoles, disks: consoles };
        let file = format!("/root/{}.xml", guest.name);
        self.write(&file, &domain_xml(guest, &site))?;
        self.virsh(&format!("define {file}")).map(drop)
    }

    /// Defines and starts a guest, and does not wait for it.
    ///
    /// # Errors
    /// When libvirt refuses.
    pub fn boot(&self, guest: &GuestSpec) -> Result<()> {
        self.define(guest)?;
        self.virsh(&format!("start {}", guest.name)).map(drop)
    }

    /// Waits until a guest's agent answers.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_agent(&self, guest: &str, timeout: Duration) -> Result<()> {
        wait_for(&format!("the agent of {guest}"), timeout, || {
            self.guest_agent(guest, "guest-ping", &json!({}))
        })
        .map(drop)
    }

    /// Runs a shell script in a guest and returns its standard output.
    ///
    /// # Errors
    /// When the agent does not answer, or the script fails or does not end in time.
    pub fn guest_exec(&self, guest: &str, script: &str, timeout: Duration) -> Result<String> {
        exec(guest, script, timeout, |command, arguments| self.guest_agent(guest, command, arguments))
    }

    /// Runs virsh with these words.
    ///
    /// # Errors
    /// When it fails.
    pub fn virsh(&self, words: &str) -> Result<String> {
        self.run(&format!("virsh -q -c qemu:///system {words}"))
    }

    fn guest_agent(&self, guest: &str, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments}).to_string();
        let request = request.replace('\'', r"'\''");
        let answer = self.virsh(&format!("qemu-agent-command {guest} '{request}' --timeout 10"))?;
        let mut answer: Value = serde_json::from_str(&answer)?;
        Ok(answer["return"].take())
    }
}
