//! Counters of network devices, seen from the guest behind them.

use std::collections::BTreeMap;

use kvmpilot_core::sample::InterfaceSample;
use procfs::net::InterfaceDeviceStatus;
use procfs::prelude::FromRead;

use super::{Kernel, Unread, Unreads};

impl Kernel {
    /// All network devices of our network namespace by name. Not from sysfs: that shows the namespace it was
    /// mounted in.
    ///
    /// What a tap receives its guest has sent, and the other way round.
    #[must_use]
    pub fn interfaces(&self) -> (BTreeMap<String, InterfaceSample>, Vec<Unread>) {
        let path = self.proc.join("self/net/dev");
        let mut unread = Unreads::default();
        let devices = InterfaceDeviceStatus::from_file(&path).unwrap_or_else(|err| {
            unread.add(&path, err);
            InterfaceDeviceStatus(Default::default())
        });
        let interfaces = devices.0.into_values().map(|device| {
            let sample = InterfaceSample {
                device: device.name.clone(),
                received_bytes: Some(device.sent_bytes),
                sent_bytes: Some(device.recv_bytes),
                received_packets: Some(device.sent_packets),
                sent_packets: Some(device.recv_packets),
            };
            (device.name, sample)
        });
        (interfaces.collect(), unread.0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_taps_counters_are_turned_round() {
        let root = tempfile::tempdir().unwrap();
        let kernel = Kernel::at(root.path(), root.path());
        assert_eq!(kernel.interfaces().1.len(), 1, "missing file");
        fs::create_dir_all(root.path().join("self/net")).unwrap();
        let text = "\
Inter-|   Receive                                       |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo: 1000 10 0 0 0 0 0 0 1000 10 0 0 0 0 0 0
 vnet0: 4294967296 20 0 0 0 0 0 0 300 3 0 0 0 0 0 0
";
        fs::write(root.path().join("self/net/dev"), text).unwrap();
        let (found, unread) = kernel.interfaces();
        assert_eq!(unread, []);
        assert_eq!(
            found["vnet0"],
            InterfaceSample {
                device: "vnet0".to_owned(),
                received_bytes: Some(300),
                sent_bytes: Some(4_294_967_296),
                received_packets: Some(3),
                sent_packets: Some(20),
            }
        );
        assert!(found.contains_key("lo"));
    }
}
