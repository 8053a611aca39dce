//! Processes: which one is the QEMU of a domain, and what our own costs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use uuid::Uuid;

use super::host::kib_after;
use super::thread::{numbered, vanished};
use super::{Kernel, LIMIT, Unread, Unreads};

/// What the daemon itself uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnUse {
    /// CPU time of all its threads since it started.
    pub cpu: Duration,
    /// Resident memory.
    pub rss_kib: u64,
}

impl Kernel {
    /// The QEMU processes of this host by the uuid that libvirt started them with. Looks at every process
    /// once (some 10 us each): for start-up and for domains that start, not for every cycle.
    ///
    /// Anybody can run a program with such an argument: where two processes claim a uuid, it goes to the one
    /// that is called qemu, and to nobody if that is not one.
    #[must_use]
    pub fn qemu_processes(&self) -> (BTreeMap<Uuid, u32>, Vec<Unread>) {
        let mut unread = Unreads::default();
        let mut found: BTreeMap<Uuid, Vec<u32>> = BTreeMap::new();
        for pid in numbered(&self.proc, &mut unread) {
            match self.command_line(pid) {
                Ok(line) => {
                    if let Some(uuid) = uuid_argument(&line) {
                        found.entry(uuid).or_default().push(pid);
                    }
                }
                Err(err) if vanished(&err) => {}
                Err(err) => unread.add(&self.process_file(pid, "cmdline"), err),
            }
        }
        let mut processes = BTreeMap::new();
        for (uuid, mut pids) in found {
            if pids.len() > 1 {
                pids.retain(|&pid| self.named_qemu(pid));
            }
            match pids.as_slice() {
                [pid] => {
                    processes.insert(uuid, *pid);
                }
                _ => unread.add(&self.proc, format!("more than one process claims to be domain {uuid}")),
            }
        }
        (processes, unread.0)
    }

    /// CPU time and memory of this very process.
    ///
    /// # Errors
    /// Where `/proc/self/status` cannot be read.
    pub fn own_use(&self) -> io::Result<OwnUse> {
        let status = super::text(&self.proc.join("self/status"))?;
        let rss_kib = kib_after(&status, "VmRSS:").ok_or(io::ErrorKind::InvalidData)?;
        Ok(OwnUse { cpu: clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into(), rss_kib })
    }

    fn process_file(&self, pid: u32, name: &str) -> PathBuf {
        self.proc.join(format!("{pid}/{name}"))
    }

    fn command_line(&self, pid: u32) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        File::open(self.process_file(pid, "cmdline"))?.take(LIMIT).read_to_end(&mut line)?;
        Ok(line)
    }

    fn named_qemu(&self, pid: u32) -> bool {
        super::text(&self.process_file(pid, "comm")).is_ok_and(|comm| comm.starts_with("qemu"))
    }
}

/// The argument after `-uuid`.
fn uuid_argument(line: &[u8]) -> Option<Uuid> {
    let mut arguments = line.split(|&byte| byte == 0);
    arguments.find(|argument| *argument == b"-uuid")?;
    Uuid::try_parse_ascii(arguments.next()?).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Instant;

    use super::*;

    const WEB: &str = "4dea22b3-1d52-48f3-a516-782e98ab3fa0";
    const BATCH: &str = "4dea22b3-1d52-48f3-a516-782e98ab3fa1";

    fn process(root: &Path, pid: u32, comm: &str, line: &[&str]) {
        let dir = root.join(pid.to_string());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
        fs::write(dir.join("cmdline"), line.join("\0") + "\0").unwrap();
    }

    #[test]
    fn each_domain_has_the_process_with_its_uuid() {
        let root = tempfile::tempdir().unwrap();
        process(root.path(), 1, "init", &["/sbin/init"]);
        process(root.path(), 2, "kthreadd", &[]);
        process(
            root.path(),
            40,
            "qemu-system-x86",
            &["/usr/bin/qemu-system-x86_64", "-uuid", WEB, "-m", "512"],
        );
        process(root.path(), 41, "wrapped", &["/opt/emulator", "-name", "guest=batch", "-uuid", BATCH]);
        process(root.path(), 42, "grep", &["grep", "-uuid", "nonsense"]);
        process(root.path(), 43, "qemu-cut", &["qemu-cut", "-uuid"]);
        let (found, unread) = Kernel::at(root.path(), root.path()).qemu_processes();
        assert_eq!(unread, []);
        let expected = [(Uuid::parse_str(WEB).unwrap(), 40), (Uuid::parse_str(BATCH).unwrap(), 41)];
        assert_eq!(found, BTreeMap::from(expected));
    }

    #[test]
    fn a_second_claim_loses_to_qemu_and_two_qemus_to_nobody() {
        let root = tempfile::tempdir().unwrap();
        process(root.path(), 50, "thief", &["thief", "-uuid", WEB]);
        process(root.path(), 51, "qemu-kvm", &["qemu-kvm", "-uuid", WEB]);
        let kernel = Kernel::at(root.path(), root.path());
        assert_eq!(kernel.qemu_processes().0.values().collect::<Vec<_>>(), [&51]);
        process(root.path(), 52, "qemu-kvm", &["qemu-kvm", "-uuid", WEB]);
        let (found, unread) = kernel.qemu_processes();
        assert!(found.is_empty());
        assert!(unread[0].reason.contains(WEB), "{}", unread[0]);
    }

    #[test]
    fn our_own_use_grows() {
        let kernel = Kernel::default();
        let before = kernel.own_use().unwrap();
        assert!(before.rss_kib > 0);
        let deadline = Instant::now() + Duration::from_secs(5);
        while kernel.own_use().unwrap().cpu == before.cpu {
            assert!(Instant::now() < deadline);
        }
    }
}
