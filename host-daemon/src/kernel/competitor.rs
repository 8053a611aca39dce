//! Who else changes what kvmpilot changes: daemons, by the names of their processes.

use super::thread::numbered;
use super::{Kernel, Unreads, text};

/// Processes that one look goes through; more are passed over.
const MOST: usize = 65_536;

impl Kernel {
    /// Which of these names processes have. Looks at every process (some 10 us each): now and then, not in every cycle.
    #[must_use]
    pub fn running(&self, names: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for pid in numbered(&self.proc, &mut Unreads::default()).into_iter().take(MOST) {
            let Ok(comm) = text(&self.proc.join(format!("{pid}/comm"))) else { continue };
            let name = comm.trim_end();
            if names.contains(&name) && !found.iter().any(|other| other == name) {
                found.push(name.to_owned());
            }
        }
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_name_is_told_once_and_threads_of_other_names_are_not() {
        let root = tempfile::tempdir().unwrap();
        for (pid, comm) in [(1, "init"), (30, "numad"), (31, "numad"), (32, "numademo"), (40, "irqbalance")] {
            fs::create_dir(root.path().join(pid.to_string())).unwrap();
            fs::write(root.path().join(format!("{pid}/comm")), format!("{comm}\n")).unwrap();
        }
        let kernel = Kernel::at(root.path(), root.path());
        assert_eq!(kernel.running(&["numad", "irqbalance", "momd"]), ["irqbalance", "numad"]);
        assert!(kernel.running(&[]).is_empty());
    }
}
