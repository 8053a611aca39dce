//! The smallest guests: boot sectors that run wherever `/dev/kvm` runs anything at all, also where no Linux boots. One tells of
//! its steal time (`tests/guest/steal.S`), the other does nothing.

use std::fs::{self, File};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::Lab;
use crate::run::run;

const SOURCE: &str = include_str!("../guest/steal.S");
/// Where the sector keeps whether the vcpus sleep.
const SLEEPS: usize = 0x1fd;
/// Where the guest keeps the steal time of vcpu N: at `STEAL + 64 * N`.
const STEAL: u64 = 0xa000;

/// One such guest.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// Name of the domain.
    pub name: String,
    /// vcpus at start.
    pub vcpus: u32,
    /// vcpus that it can have.
    pub most_vcpus: u32,
    /// Sleep between timer interrupts instead of burning CPU.
    pub sleeps: bool,
}

/// Why this machine cannot run such guests, if so.
#[must_use]
pub fn refusal() -> Option<String> {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => None,
        Err(error) => Some(format!("/dev/kvm: {error}")),
    }
}

impl Lab {
    /// Starts the guest and waits until all of its vcpus report their steal time.
    ///
    /// # Errors
    /// When it cannot be made, or its vcpus do not start.
    pub fn boot_firmware(&self, guest: &Firmware) -> Result<()> {
        let disk = self.state_dir().join(format!("{}.img", guest.name));
        fs::write(&disk, self.boot_sector(guest.sleeps)?)?;
        let Firmware { name, vcpus, most_vcpus, .. } = guest;
        let xml = format!(
            "<domain type='kvm'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <vcpu current='{vcpus}'>{most_vcpus}</vcpu>
  <resource><partition>/{}</partition></resource>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'>
    <model fallback='allow'>qemu64</model><feature policy='require' name='x2apic'/>
  </cpu>
  <devices>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{}'/><target dev='sda' bus='sata'/>
    </disk>
    <memballoon model='none'/>
  </devices>
</domain>
",
            self.name(),
            disk.display()
        );
        self.define_and_start(name, &xml)?;
        crate::wait_for(&format!("the vcpus of {name} to start"), std::time::Duration::from_secs(60), || {
            for vcpu in 0..*vcpus {
                ensure!(self.updates(name, vcpu)? > 0, "vcpu {vcpu} has not registered");
            }
            Ok(())
        })
    }

    /// Starts a guest that comes to rest for good as soon as its firmware is through: no interrupt wakes its vcpu. It has 32 MiB,
    /// an interface and a balloon that nobody drives, and does without `/dev/kvm` where that is refused.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn boot_still(&self, name: &str) -> Result<()> {
        let disk = self.state_dir().join(format!("{name}.img"));
        // cli; hlt; and once more after an interrupt that cannot be masked.
        let mut sector = [0_u8; 512];
        sector[..4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&disk, sector)?;
        File::options().write(true).open(&disk)?.set_len(1 << 20)?;
        let kind = if refusal().is_none() { "kvm" } else { "qemu" };
        let xml = format!(
            "<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <resource><partition>/{}</partition></resource>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{}'/><target dev='sda' bus='sata'/>
    </disk>
    <interface type='bridge'>
      <source bridge='br0'/><model type='virtio'/><rom enabled='no'/>
    </interface>
    <memballoon model='virtio'/>
  </devices>
</domain>
",
            self.name(),
            disk.display()
        );
        self.define_and_start(name, &xml)
    }

    /// Steal time as the guest sees it, in ns since the vcpu registered.
    ///
    /// # Errors
    /// When QEMU does not tell.
    pub fn steal_ns(&self, guest: &str, vcpu: u32) -> Result<u64> {
        self.guest_word(guest, STEAL + 64 * u64::from(vcpu))
    }

    /// How often the host has written the steal time.
    fn updates(&self, guest: &str, vcpu: u32) -> Result<u64> {
        self.guest_word(guest, STEAL + 64 * u64::from(vcpu) + 8)
    }

    /// Eight bytes of the guest's memory.
    fn guest_word(&self, guest: &str, address: u64) -> Result<u64> {
        let answer =
            self.virsh(&["qemu-monitor-command", guest, "--hmp", &format!("xp /1gx {address:#x}")])?;
        let word = answer.trim().rsplit(' ').next().and_then(|word| word.strip_prefix("0x"));
        let word = word.with_context(|| format!("xp answered {answer:?}"))?;
        Ok(u64::from_str_radix(word, 16)?)
    }

    /// The first sector of a disk of 1 MiB.
    fn boot_sector(&self, sleeps: bool) -> Result<Vec<u8>> {
        let file = |name: &str| self.state_dir().join(name);
        fs::write(file("steal.S"), SOURCE)?;
        run(Command::new("as").args(["--32", "-o"]).arg(file("steal.o")).arg(file("steal.S")))?;
        run(Command::new("ld")
            .args(["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o"])
            .arg(file("steal.bin"))
            .arg(file("steal.o")))?;
        let mut disk = fs::read(file("steal.bin"))?;
        ensure!(disk.len() == 512, "the boot sector has {} bytes", disk.len());
        disk[SLEEPS] = u8::from(sleeps);
        disk.resize(1 << 20, 0);
        Ok(disk)
    }
}
