//! The libvirt XML of a guest.

use std::path::Path;

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
}

/// Kernel command line that every boot of the image has in common. The guest is a throw-away, so no mitigations. On a
/// busy host TCG is too late for the timer check, and the kernel panics with "IO-APIC + timer doesn't work!".
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check";

pub(crate) fn domain_xml(guest: &GuestSpec, site: &Site<'_>) -> String {
    let GuestSpec { name, vcpus, iothreads, memory_mib, octet, .. } = guest;
    let Site { image, accel, partition, logs } = site;
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
    <serial type='file'><source path='{logs}/console-{name}.log'/></serial>
    {channel}
    <memballoon model='virtio'><stats period='1'/></memballoon>
  </devices>
</domain>
"
    )
}
