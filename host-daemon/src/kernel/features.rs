//! What the running kernel can do for kvmpilot, for `doctor`. Slow readers are fine here: it is asked once.

use std::path::PathBuf;

use super::{Kernel, text};

/// Where the tracing file system may be mounted, below `/sys`.
const TRACING: [&str; 2] = ["kernel/tracing", "kernel/debug/tracing"];
/// The structure that kernels with tcx (6.6) have in their type information.
const TCX: &[u8] = b"\0tcx_entry\0";
/// Bits of `CapEff` in `/proc/self/status`.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Facts about the kernel. What cannot be found out is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Lockdown mode: `none`, `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
    /// This process may load eBPF programs that trace.
    pub may_trace: Option<bool>,
    /// `net.core.bpf_jit_enable` is not 0.
    pub jit: Option<bool>,
    /// The kernel counts waits on the run queue (`SCHED_INFO`).
    pub sched_info: Option<bool>,
    /// The tracing file system is mounted.
    pub tracefs: bool,
    /// Its event `sched:sched_switch` is there.
    pub sched_switch: bool,
    /// Its event `kvm:kvm_exit` is there.
    pub kvm_exit: bool,
    /// This process may attach programs to events of tracefs, which takes `perf_event_open`.
    pub may_open_events: Option<bool>,
    /// KVM is loaded or built in.
    pub kvm: bool,
    /// tcx programs are possible; else it is clsact.
    pub tcx: Option<bool>,
    /// Name of the BPF scheduler (sched_ext) that replaces the kernel's own now.
    pub sched_ext: Option<String>,
    /// How cgroups are mounted.
    pub cgroups: Cgroups,
}

/// How cgroups are mounted, with the controllers that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cgroups {
    /// Version 2 only.
    V2(Vec<String>),
    /// Version 1.
    V1 {
        /// Controllers with a hierarchy.
        controllers: Vec<String>,
        /// Version 2 is mounted beside it.
        hybrid: bool,
    },
    /// Not mounted.
    #[default]
    None,
}

impl Cgroups {
    /// Whether a controller is there.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers().iter().any(|name| name == controller)
    }

    /// Names of the controllers.
    #[must_use]
    pub fn controllers(&self) -> &[String] {
        match self {
            Self::V2(controllers) | Self::V1 { controllers, .. } => controllers,
            Self::None => &[],
        }
    }
}

impl Kernel {
    /// Looks at all of it.
    #[must_use]
    pub fn features(&self) -> Features {
        let tracing: Vec<PathBuf> = TRACING.iter().map(|path| self.sys.join(path)).collect();
        let event = |name: &str| tracing.iter().any(|path| path.join("events").join(name).exists());
        Features {
            lockdown: self.lockdown(),
            may_trace: self.may_trace(),
            jit: self.number("sys/net/core/bpf_jit_enable").map(|enabled| enabled != 0),
            // Whoever reads this has arrived on a pcpu at least once.
            sched_info: text(&self.proc.join("self/schedstat"))
                .ok()
                .and_then(|text| Some(text.split_whitespace().nth(2)?.parse::<u64>().ok()? > 0)),
            tracefs: tracing.iter().any(|path| path.join("events").exists()),
            sched_switch: event("sched/sched_switch"),
            kvm_exit: event("kvm/kvm_exit"),
            may_open_events: self.may_open_events(),
            kvm: self.sys.join("module/kvm").exists(),
            tcx: std::fs::read(self.sys.join("kernel/btf/vmlinux"))
                .ok()
                .map(|types| types.windows(TCX.len()).any(|window| window == TCX)),
            sched_ext: self.sched_ext(),
            cgroups: self.cgroups(),
        }
    }

    fn number(&self, file: &str) -> Option<u64> {
        text(&self.proc.join(file)).ok()?.trim().parse().ok()
    }

    fn may_trace(&self) -> Option<bool> {
        Some(self.has(CAP_SYS_ADMIN)? || (self.has(CAP_BPF)? && self.has(CAP_PERFMON)?))
    }

    /// Whether this process may open a tracepoint by `perf_event_open`. Debian and Ubuntu patch their kernels: from
    /// `kernel.perf_event_paranoid = 3` on, Debian's default, `CAP_PERFMON` does not suffice.
    #[must_use]
    pub fn may_open_events(&self) -> Option<bool> {
        let paranoid = text(&self.proc.join("sys/kernel/perf_event_paranoid")).ok()?;
        let paranoid: i64 = paranoid.trim().parse().ok()?;
        Some(self.has(CAP_SYS_ADMIN)? || (self.has(CAP_PERFMON)? && paranoid < 3))
    }

    /// Whether this process has a capability.
    fn has(&self, capability: u32) -> Option<bool> {
        let status = text(&self.proc.join("self/status")).ok()?;
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
        Some(effective & (1 << capability) != 0)
    }

    /// Name of the BPF scheduler that replaces the kernel's own now, if one does.
    #[must_use]
    pub fn sched_ext(&self) -> Option<String> {
        let directory = self.sys.join("kernel/sched_ext");
        let state = text(&directory.join("state")).ok()?;
        if state.trim() != "enabled" {
            return None;
        }
        let name = text(&directory.join("root/ops")).unwrap_or_default();
        Some(if name.trim().is_empty() { "of unknown name".to_owned() } else { name.trim().to_owned() })
    }

    fn cgroups(&self) -> Cgroups {
        let root = self.sys.join("fs/cgroup");
        if let Ok(controllers) = text(&root.join("cgroup.controllers")) {
            return Cgroups::V2(controllers.split_whitespace().map(str::to_owned).collect());
        }
        let mut controllers = Vec::new();
        let mut hybrid = false;
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.join("cgroup.controllers").exists() {
                hybrid = true;
            } else if path.join("cgroup.procs").exists() {
                // `cpu,cpuacct` is one hierarchy of two; `cpu` beside it a link to it.
                let name = entry.file_name().to_string_lossy().into_owned();
                controllers.extend(name.split(',').map(str::to_owned));
            }
        }
        controllers.sort();
        controllers.dedup();
        if controllers.is_empty() { Cgroups::None } else { Cgroups::V1 { controllers, hybrid } }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn an_empty_tree_tells_nothing_and_has_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Kernel::at(root.path(), root.path()).features(), Features::default());
    }

    #[test]
    fn each_feature_is_found_where_it_is() {
        let (proc, sys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(proc.path(), "self/status", "Name:\tx\nCapEff:\t000000c000000000\n");
        write(proc.path(), "self/schedstat", "1 2 3\n");
        write(proc.path(), "sys/net/core/bpf_jit_enable", "0\n");
        write(proc.path(), "sys/kernel/perf_event_paranoid", "2\n");
        write(sys.path(), "kernel/security/lockdown", "none integrity [confidentiality]\n");
        write(sys.path(), "kernel/debug/tracing/events/sched/sched_switch/id", "1\n");
        write(sys.path(), "kernel/debug/tracing/events/kvm/kvm_exit/id", "1\n");
        write(sys.path(), "module/kvm/refcnt", "0\n");
        write(sys.path(), "kernel/btf/vmlinux", "x\0tcx_entry\0y");
        write(sys.path(), "kernel/sched_ext/state", "enabled\n");
        write(sys.path(), "kernel/sched_ext/root/ops", "rusty_1.0\n");
        write(sys.path(), "fs/cgroup/cgroup.controllers", "cpuset cpu io memory\n");
        let features = Kernel::at(proc.path(), sys.path()).features();
        assert_eq!(
            features,
            Features {
                lockdown: Some("confidentiality".to_owned()),
                may_trace: Some(true),
                jit: Some(false),
                sched_info: Some(true),
                tracefs: true,
                sched_switch: true,
                kvm_exit: true,
                may_open_events: Some(true),
                kvm: true,
                tcx: Some(true),
                sched_ext: Some("rusty_1.0".to_owned()),
                cgroups: Cgroups::V2(["cpuset", "cpu", "io", "memory"].map(str::to_owned).to_vec()),
            }
        );
        write(sys.path(), "kernel/sched_ext/state", "disabled\n");
        write(sys.path(), "kernel/btf/vmlinux", "tcx_entry_more\0");
        write(proc.path(), "sys/kernel/perf_event_paranoid", "3\n");
        assert_eq!(Kernel::at(proc.path(), sys.path()).may_open_events(), Some(false));
        write(proc.path(), "self/status", "CapEff:\t0000000000200000\n");
        assert_eq!(Kernel::at(proc.path(), sys.path()).may_open_events(), Some(true));
        write(proc.path(), "self/status", "CapEff:\t0000008000000000\n");
        write(proc.path(), "self/schedstat", "0 0 0\n");
        let features = Kernel::at(proc.path(), sys.path()).features();
        assert_eq!((features.sched_ext, features.tcx), (None, Some(false)));
        assert_eq!((features.may_trace, features.sched_info), (Some(false), Some(false)));
    }

    #[test]
    fn version_1_is_told_by_its_hierarchies() {
        let sys = tempfile::tempdir().unwrap();
        for controller in ["cpu,cpuacct", "cpu", "cpuset", "unified"] {
            write(sys.path(), &format!("fs/cgroup/{controller}/cgroup.procs"), "");
        }
        let cgroups = || Kernel::at(sys.path(), sys.path()).features().cgroups;
        let named: Vec<String> = ["cpu", "cpuacct", "cpuset", "unified"].map(str::to_owned).to_vec();
        assert_eq!(cgroups(), Cgroups::V1 { controllers: named, hybrid: false });
        write(sys.path(), "fs/cgroup/unified/cgroup.controllers", "");
        let named: Vec<String> = ["cpu", "cpuacct", "cpuset"].map(str::to_owned).to_vec();
        assert_eq!(cgroups(), Cgroups::V1 { controllers: named, hybrid: true });
        assert!(cgroups().has("cpu") && !cgroups().has("memory"));
    }

    #[test]
    fn this_kernel_has_what_the_tests_need() {
        let features = Kernel::default().features();
        assert_eq!(features.sched_info, Some(true));
        assert_ne!(features.cgroups, Cgroups::None);
    }
}
