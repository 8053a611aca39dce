//! Which accelerator runs Linux guests on this machine. `/dev/kvm` alone says little: under the `kvm_pvm` back end it
//! runs firmware but no stock kernel. So one is booted for real, once per boot of the host, and the verdict is kept.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::domain_xml::CMDLINE;
use crate::image::Image;
use crate::paths::lab_cache;

/// A Linux guest that has not said hello by then never will: it takes 2 s under TCG and less under KVM.
const PATIENCE: Duration = Duration::from_secs(6);

/// How guests are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Hardware virtualisation, libvirt's `type='kvm'`.
    Kvm,
    /// QEMU's emulator, libvirt's `type='qemu'`.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

impl Accel {
    /// Turns of the CGI script's loop that make a request cost some 15 ms of vcpu time in all. Under TCG its two forks
    /// alone cost 10; measured on 2 pcpus: 120 requests/s, p50 32 ms, p99 55 ms for the web guest alone.
    pub(crate) fn spin(self) -> u32 {
        match self {
            Self::Kvm => 20_000,
            Self::Tcg => 300,
        }
    }
}

/// A verdict and its reason, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What to use.
    pub accel: Accel,
    /// Why.
    pub reason: String,
    /// Boot of the host and image that it was found with.
    key: String,
}

/// Finds the accelerator, from the cache when this boot of the host has been tried before.
pub(crate) fn verdict(image: &Image) -> Result<Verdict> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    let key = format!("{} {} {}", boot.trim(), image.kernel.display(), image.initramfs.display());
    let cache = lab_cache().join("accel.json");
    let known = fs::read(&cache).ok().and_then(|text| serde_json::from_slice::<Verdict>(&text).ok());
    if let Some(known) = known.filter(|known| known.key == key) {
        return Ok(known);
    }
    let (accel, reason) = if fs::metadata("/dev/kvm").is_err() {
        (Accel::Tcg, "there is no /dev/kvm".to_owned())
    } else {
        match boots_under_kvm(image)? {
            Ok(()) => (Accel::Kvm, "a Linux guest reaches user space under /dev/kvm".to_owned()),
            Err(reason) => (Accel::Tcg, reason),
        }
    };
    let verdict = Verdict { accel, reason, key };
    fs::write(&cache, serde_json::to_vec_pretty(&verdict)?)?;
    Ok(verdict)
}

/// Boots the lab's own image; the inner error says why it did not work.
fn boots_under_kvm(image: &Image) -> Result<Result<(), String>> {
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "256", "-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio", "-append", &format!("{CMDLINE} kp.probe")])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let console = qemu.stdout.take().context("QEMU has no console")?;
    let (said, heard) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(console).split(b'\n').map_while(Result::ok);
        let greeted =
            lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains("kvmpilot lab: user space"));
        // The receiver is gone when the patience ran out: then nobody cares.
        let _ = said.send(greeted);
    });
    let answer = heard.recv_timeout(PATIENCE);
    qemu.kill()?;
    qemu.wait()?;
    let _ = reader.join();
    Ok(match answer {
        Ok(true) => Ok(()),
        Ok(false) => Err("QEMU gives up on a Linux guest under /dev/kvm".to_owned()),
        Err(_) => {
            Err(format!("/dev/kvm is there, but a Linux guest does not reach user space in {PATIENCE:?}"))
        }
    })
}
