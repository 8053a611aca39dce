//! Small files of one QEMU that are kept open and looked at now and then, because nobody tells of a change: the state of its
//! main thread and the CPU weight of its cgroups.

use std::io;

use super::hold::StatFile;
use super::kept::Kept;
use super::{Hierarchies, Kernel};

/// The open files.
#[derive(Debug)]
pub struct Vitals {
    main: StatFile,
    /// `cpu.shares` or `cpu.weight`, from the domain's own cgroup outwards. Empty where libvirt has given it none.
    weights: Vec<Kept>,
}

/// The main thread of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainThread {
    /// The kernel's letter: `R`, `S`, `D`, `T`, ...
    pub state: char,
    /// CPU time that it has used, in clock ticks.
    pub ticks: u64,
}

impl Kernel {
    /// Opens them for the process `pid`.
    ///
    /// # Errors
    /// Where there is no such process, or no descriptor is left.
    pub fn vitals(&self, pid: u32, hierarchies: &Hierarchies) -> io::Result<Vitals> {
        let main = self.hold_stat(pid, pid)?;
        let weighted = self.membership(pid, pid).and_then(|of| hierarchies.weighted(&of));
        let weights = weighted.map_or_else(
            |_| Vec::new(),
            |(groups, v2)| {
                let name = if v2 { "cpu.weight" } else { "cpu.shares" };
                groups.iter().filter_map(|group| Kept::open(&group.join(name)).ok()).collect()
            },
        );
        Ok(Vitals { main, weights })
    }
}

impl Vitals {
    /// How its main thread is.
    ///
    /// # Errors
    /// `ESRCH` once it has ended.
    pub fn main_thread(&self) -> io::Result<MainThread> {
        let stat = self.main.read()?;
        Ok(MainThread { state: stat.state, ticks: stat.user_ticks + stat.system_ticks })
    }

    /// Whether the domain has a cgroup with a weight at all.
    #[must_use]
    pub const fn has_weights(&self) -> bool {
        !self.weights.is_empty()
    }

    /// The weights as the files say them, from the domain's own cgroup outwards.
    ///
    /// # Errors
    /// `ENODEV` once a cgroup is gone.
    pub fn weights(&self) -> io::Result<Vec<u64>> {
        self.weights.iter().map(|file| file.read(|text| text.trim().parse().ok())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A host with a process 77 in these cgroups.
    fn host(mount: &str, membership: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Kernel) {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().join("cgroup");
        for (name, text) in files {
            let path = at.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let task = root.path().join("proc/77/task/77");
        fs::create_dir_all(&task).unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let line = format!("48 47 0:29 / {} rw - {mount}\n", at.display());
        fs::write(root.path().join("proc/self/mountinfo"), line).unwrap();
        fs::write(task.join("cgroup"), membership).unwrap();
        let stat = "77 (qemu) T 1 2 3 4 5 6 7 8 9 10 110 120 13 14 15 16 17 18 220 19 20 21 22 23 24 25 26 27 28 29 30 31 \
                    32 33 34 35 36 37 38 330 39 40\n";
        fs::write(task.join("stat"), stat).unwrap();
        let kernel = Kernel::at(root.path().join("proc"), root.path());
        (root, kernel)
    }

    fn vitals(kernel: &Kernel) -> Vitals {
        kernel.vitals(77, &kernel.hierarchies().unwrap()).unwrap()
    }

    #[test]
    fn the_weight_is_read_again_where_libvirt_and_systemd_keep_it() {
        let v1 = "cgroup none rw,cpu,cpuacct";
        let own = "machine/qemu-1-web.libvirt-qemu/cpu.shares";
        let (root, kernel) =
            host(v1, "4:cpu:/machine/qemu-1-web.libvirt-qemu/emulator\n", &[(own, "1024\n")]);
        let open = vitals(&kernel);
        assert_eq!(open.main_thread().unwrap(), MainThread { state: 'T', ticks: 230 });
        assert_eq!(open.weights().unwrap(), [1024]);
        fs::write(root.path().join("cgroup").join(own), "2048\n").unwrap();
        assert_eq!(open.weights().unwrap(), [2048]);

        let scope = "machine.slice/machine-qemu.scope";
        let [inner, outer] = [format!("{scope}/libvirt/cpu.weight"), format!("{scope}/cpu.weight")];
        let (_root, kernel) = host(
            "cgroup2 none rw",
            &format!("0::/{scope}/libvirt/emulator\n"),
            &[(inner.as_str(), "100\n"), (outer.as_str(), "300\n")],
        );
        assert_eq!(vitals(&kernel).weights().unwrap(), [100, 300]);
    }

    #[test]
    fn a_domain_without_a_cgroup_of_its_own_has_no_weight() {
        let (_root, kernel) =
            host("cgroup2 none rw", "0::/user.slice\n", &[("user.slice/cpu.weight", "100\n")]);
        let open = vitals(&kernel);
        assert!(!open.has_weights() && open.weights().unwrap().is_empty());
        assert!(kernel.vitals(78, &kernel.hierarchies().unwrap()).is_err());
    }
}
