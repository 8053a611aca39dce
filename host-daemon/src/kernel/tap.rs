//! Counters of network devices, seen from the guest behind them.

use std::collections::BTreeMap;

use kvmpilot_core::sample::InterfaceSample;

use super::{Kernel, Unread, Unreads};

impl Kernel {
    /// All network devices of our network namespace by name. Not from sysfs: that shows the namespace it was
    /// mounted in.
    ///
    /// What a tap receives its guest has sent, and the other way round.
    #[must_use]
    pub fn interfaces(&self) -> (BTreeMap<String, InterfaceSample>, Vec<Unread>) {
        let mut unread = Unreads::default();
        let parse = |text: &str| text.lines().skip(2).map(device).collect::<Option<_>>();
        let interfaces = unread.parse(&self.proc.join("self/net/dev"), parse);
        (interfaces.unwrap_or_default(), unread.0)
    }
}

/// `vnet0: bytes packets errs drop fifo frame compressed multicast`, and eight more numbers for what was sent.
fn device(line: &str) -> Option<(String, InterfaceSample)> {
    // A name may hold a colon (an alias), but no space.
    let (name, numbers) = line.trim_start().split_once(' ')?;
    let name = name.strip_suffix(':')?;
    let mut numbers = numbers.split_ascii_whitespace().map(|number| number.parse().ok());
    let [received_bytes, received_packets] = [numbers.next()??, numbers.next()??];
    let [sent_bytes, sent_packets] = [numbers.nth(6)??, numbers.next()??];
    let sample = InterfaceSample {
        device: name.to_owned(),
        received_bytes: Some(sent_bytes),
        sent_bytes: Some(received_bytes),
        received_packets: Some(sent_packets),
        sent_packets: Some(received_packets),
    };
    Some((name.to_owned(), sample))
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
