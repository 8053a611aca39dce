//! The libvirt XML of a guest.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::image::Image;
use crate::{Accel, GuestSpec, System};

/// Where a guest is made.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) image: &'a Image,
    pub(crate) accel: Accel,
    /// `<resource><partition>` without the leading slash: the lab's name.
    pub(crate) partition: &'a str,
    /// Directory of the console logs.
    pub(crate) logs: &'a Path,
    /// Directory of the disks.
    pub(crate) disks: &'a Path,
}

/// The file of a guest's disk, the first being 0.
pub(crate) fn disk_file(directory: &Path, guest: &str, disk: usize) -> PathBuf {
    directory.join(format!("{guest}-disk{disk}.img"))
}

/// Disks that are no quicker than a cheap SSD, whatever the host's page cache can do: what a guest reads again for want of
/// memory must cost something.
fn disks(guest: &GuestSpec, directory: &Path) -> String {
    let mut xml = String::new();
    for (disk, letter) in (0..guest.disks_mib.len()).zip('a'..='z') {
        let file = disk_file(directory, &guest.name, disk);
        // Writing to a String cannot fail.
        let _ = write!(
            xml,
            "<disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{}'/><target dev='vd{letter}' bus='virtio'/>
      <iotune><total_bytes_sec>209715200</total_bytes_sec><total_iops_sec>5000</total_iops_sec></iotune>
    </disk>
    ",
            file.display()
        );
    }
    xml
}

/// Kernel command line that every boot of the image has in common. The guest is a throw-away, so no mitigations. On a
/// busy host TCG is too late for the timer check, and the kernel panics with "IO-APIC + timer doesn't work!".
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check";

pub(crate) fn domain_xml(guest: &GuestSpec, site: &Site<'_>) -> String {
    let GuestSpec { name, vcpus, iothreads, memory_mib, octet, .. } = guest;
    let Site { image, accel, partition, logs, disks: directory } = site;
    let disks = disks(guest, directory);
    let work: Vec<_> = guest.work.iter().map(ToString::to_string).collect();
    let (work, ip, spin) = (work.join(","), guest.ip(), accel.spin());
    let agent = u8::from(guest.agent);
    let channel = if guest.agent {
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    } else {
        ""
    };
    let (kind, cpu) = match accel {
        Accel::Kvm => ("kvm", "host-passthrough"),
        Accel::Tcg => ("qemu", "maximum"),
    };
    let agent_arg = if agent == 1 { " kp.agent=1" } else { "" };
    let system = match guest.system {
        System::Busybox => "",
        System::Debian => " kp.systemd",
    };
    let most_vcpus = guest.most_vcpus.unwrap_or(*vcpus);
    let cpuset = guest.pcpus.as_ref().map(|pcpus| format!(" cpuset='{pcpus}'")).unwrap_or_default();
    let block_arg = match &guest.blocked[..] {
        [] => String::new(),
        blocked => format!(" kp.block={}", blocked.join(",")),
    };
    let (kernel, initramfs, logs) = (image.kernel.display(), image.initramfs.display(), logs.display());
    format!(
        "<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu{cpuset} current='{vcpus}'>{most_vcpus}</vcpu>
  <iothreads>{iothreads}</iothreads>
  <resource><partition>/{partition}</partition></resource>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initramfs}</initrd>
    <cmdline>{CMDLINE} kp.ip={ip}/24 kp.run={work} kp.spin={spin}{agent_arg}{block_arg}{system}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='{cpu}'/>
  <on_reboot>destroy</on_reboot>
  <devices>
    <controller type='usb' model='none'/>
    <controller type='pci' model='pcie-root'/>
    <controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/>
    <interface type='bridge'>
      <source bridge='br0'/>
      <mac address='52:54:00:77:00:{octet:02x}'/>
      <model type='virtio'/>
    </interface>
    {disks}<serial type='file'><source path='{logs}/console-{name}.log'/></serial>
    {channel}
    <memballoon model='virtio'><stats period='1'/></memballoon>
  </devices>
</domain>
"
    )
}
