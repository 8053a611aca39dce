//! vhost workers of a QEMU before Linux 6.4: kernel threads, processes of their own called `vhost-` and QEMU's pid. Later
//! they are threads of QEMU and need nothing of this.

use std::path::PathBuf;

use kvmpilot_core::sample::ThreadRole;

use super::thread::{ThreadInfo, numbered};
use super::{Kernel, Unreads, text};

/// `PF_KTHREAD` of `include/linux/sched.h`, in the flags that `stat` shows.
const PF_KTHREAD: u32 = 0x0020_0000;
/// What a QEMU with vhost-net holds open.
const VHOST_NET: &str = "/dev/vhost-net";

/// First Linux whose vhost workers are threads of QEMU.
const THREADED: (u32, u32) = (6, 4);

impl Kernel {
    /// Whether vhost workers are processes of their own, because this kernel is older than 6.4.
    #[must_use]
    pub fn vhost_is_apart(&self) -> bool {
        let release = self.release().unwrap_or_default();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|word| word.parse().ok());
        numbers.next().zip(numbers.next()).is_some_and(|version| version < THREADED)
    }

    /// The vhost workers of QEMU process `pid` that are no threads of its own. Looks at every process of the host, but only
    /// where QEMU uses vhost-net and no thread in `own` is a worker of it: for when its threads are listed anew.
    ///
    /// Anybody can give a process such a name; only kernel threads count.
    #[must_use]
    pub fn vhost_kthreads(&self, pid: u32, own: &[ThreadInfo]) -> Vec<ThreadInfo> {
        let is_worker = |thread: &ThreadInfo| thread.role == ThreadRole::Vhost;
        if own.iter().any(is_worker) || !self.holds(pid, VHOST_NET) {
            return Vec::new();
        }
        self.kthreads(&format!("vhost-{pid}"))
    }

    fn kthreads(&self, name: &str) -> Vec<ThreadInfo> {
        let mut found = Vec::new();
        for tid in numbered(&self.proc, &mut Unreads::default()) {
            let file = |name: &str| -> PathBuf { self.proc.join(tid.to_string()).join(name) };
            if text(&file("comm")).is_ok_and(|comm| comm.trim_end() == name)
                && let Ok(stat) = self.task_stat(tid, tid)
                && stat.flags & PF_KTHREAD != 0
            {
                found.push(ThreadInfo {
                    tid,
                    tgid: tid,
                    start_ticks: stat.start_ticks,
                    comm: stat.comm.into(),
                    role: ThreadRole::Vhost,
                    runnable: stat.state == 'R',
                });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn process(root: &Path, pid: u32, comm: &str, flags: u32) {
        let task = root.join(format!("{pid}/task/{pid}"));
        fs::create_dir_all(&task).unwrap();
        fs::write(root.join(format!("{pid}/comm")), format!("{comm}\n")).unwrap();
        let rest = "0 0 0 0 5 6 0 0 20 0 1 0 4711 0 0 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0";
        fs::write(task.join("stat"), format!("{pid} ({comm}) S 2 0 0 0 -1 {flags} {rest}\n")).unwrap();
    }

    #[test]
    fn workers_are_apart_before_6_4() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("sys/kernel")).unwrap();
        let kernel = Kernel::at(root.path(), root.path());
        assert!(!kernel.vhost_is_apart());
        for (release, apart) in
            [("5.10.0-28-amd64", true), ("6.3.13", true), ("6.4.0-rc1", false), ("7.0", false)]
        {
            fs::write(root.path().join("sys/kernel/osrelease"), release).unwrap();
            assert_eq!(kernel.vhost_is_apart(), apart, "{release}");
        }
    }

    #[test]
    fn only_kernel_threads_of_this_qemu_with_vhost_count() {
        let root = tempfile::tempdir().unwrap();
        process(root.path(), 40, "qemu-system-x86", 0x40);
        process(root.path(), 51, "vhost-40", PF_KTHREAD | 0x40);
        process(root.path(), 52, "vhost-41", PF_KTHREAD);
        process(root.path(), 53, "vhost-40", 0x40);
        let kernel = Kernel::at(root.path(), root.path());
        assert_eq!(kernel.vhost_kthreads(40, &[]), [], "QEMU has no vhost-net open");
        fs::create_dir(root.path().join("40/fd")).unwrap();
        symlink(VHOST_NET, root.path().join("40/fd/7")).unwrap();
        let found = kernel.vhost_kthreads(40, &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].tid, found[0].role, found[0].start_ticks), (51, ThreadRole::Vhost, 4711));
        // From 6.4 on the worker is among QEMU's threads.
        assert_eq!(kernel.vhost_kthreads(40, &found), []);
    }
}
